//! What a rank and those who live agree on: whether all calls have ended well, and, after a failure, who goes on. Rank by rank
//! as [`Communicator::agree`](crate::Communicator::agree) and [`Communicator::shrink`](crate::Communicator::shrink) do it with
//! threads that wait; what follows from a count is theirs ([`Count`]).
#![forbid(unsafe_code)]

use crate::bootstrap::simulated::{Exchange, Failure, Outcome};
use crate::comm::Identity;
use crate::comm::census::{self, Answer, Count};
use crate::types::Rank;

/// What a rank wants of the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Aim {
    /// To know whether all say yes.
    Agree(bool),
    /// To go on with those who live; before that, to agree so many times, which then fails.
    Shrink { after: u32 },
}

/// An exchange that a rank waits for.
pub(super) struct Census {
    /// The communicator that it is about.
    comm: u64,
    epoch: u32,
    /// Its members, as the job counts them.
    members: Vec<Rank>,
    /// Censuses of the communicator before this one.
    pub(super) number: u64,
    aim: Aim,
    step: Step,
}

enum Step {
    /// Who lives, and what do they say?
    Count,
    /// These do; all of them give what the new communicator needs.
    Assemble(Identity, Vec<Rank>),
}

/// What became of it.
pub(super) enum Progress {
    /// The next exchange.
    Asks,
    /// Whether all say yes.
    Agreed(bool),
    /// The new communicator stands.
    Together(Identity, Vec<Rank>),
    Fails(&'static str),
    /// Somebody who lives did not come: it waits for something else.
    Late,
}

impl Census {
    /// The first of a rank that has taken part in `number` of this communicator.
    pub(super) fn begin(comm: u64, epoch: u32, members: Vec<Rank>, number: u64, aim: Aim) -> Census {
        Census { comm, epoch, members, number, aim, step: Step::Count }
    }

    /// The exchange that it has come to.
    pub(super) fn exchange(&self) -> Exchange {
        let tag = self.tag();
        match &self.step {
            Step::Count => Exchange { tag, members: self.members.clone(), among_living: true },
            Step::Assemble(Identity { comm, .. }, members) => {
                Exchange { tag: *comm, members: members.clone(), among_living: false }
            }
        }
    }

    fn tag(&self) -> u64 {
        census::tag(self.comm, self.number)
    }

    /// What the rank gives to it.
    pub(super) fn contribution(&self) -> Vec<u8> {
        match (&self.step, self.aim) {
            (Step::Assemble(..), _) => self.comm.to_le_bytes().to_vec(),
            (_, Aim::Agree(flag)) => Answer::Agrees(flag).encode(),
            (_, Aim::Shrink { after: 0 }) => Answer::Shrinks.encode(),
            (_, Aim::Shrink { .. }) => Answer::Agrees(false).encode(),
        }
    }

    /// Whether it counts, and what is to be the same for all who count.
    pub(super) fn counts(&self) -> Option<(u64, u64)> {
        matches!(self.step, Step::Count).then_some((self.comm, self.number))
    }

    /// The exchange has ended.
    pub(super) fn conclude(&mut self, outcome: Outcome) -> Progress {
        match (&self.step, outcome) {
            (Step::Count, Ok(parts)) => self.counted(&Count::new(self.tag(), &parts)),
            (Step::Assemble(identity, members), Ok(_)) => Progress::Together(*identity, members.clone()),
            // Somebody died after it was counted; so say all who live, and count again.
            (Step::Assemble(..), Err(Failure::Gone)) => {
                self.step = Step::Count;
                Progress::Asks
            }
            (_, Err(Failure::Late)) => Progress::Late,
            (_, Err(Failure::Minority)) => Progress::Fails("too many cannot be reached"),
            (_, Err(Failure::Gone)) => Progress::Fails("counted out"),
        }
    }

    fn counted(&mut self, count: &Count) -> Progress {
        self.number += 1;
        match self.aim {
            Aim::Agree(_) => Progress::Agreed(count.is_agreed()),
            Aim::Shrink { after: 0 } => {
                if let Some((identity, members)) = count.rest(&self.members, self.epoch) {
                    self.step = Step::Assemble(identity, members);
                }
                Progress::Asks
            }
            Aim::Shrink { after } => {
                assert!(!count.is_agreed(), "all agreed that all was well, against this rank's word");
                self.aim = Aim::Shrink { after: after - 1 };
                Progress::Asks
            }
        }
    }
}
