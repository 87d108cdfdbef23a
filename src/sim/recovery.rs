//! How a rank goes on after a failure: the census of those who live and the exchange among them that makes their new
//! communicator, as [`Communicator::shrink`](crate::Communicator::shrink) does it with threads that wait.
#![forbid(unsafe_code)]

use crate::bootstrap::simulated::{Failure, Outcome};
use crate::engine::mix;
use crate::types::Rank;

/// An exchange that a rank waits for.
pub(super) struct Census {
    /// The communicator that failed.
    pub(super) comm: u64,
    pub(super) epoch: u32,
    /// Its members, as the job counts them.
    members: Vec<Rank>,
    number: u64,
    step: Step,
}

/// An exchange to take part in.
pub(super) struct Request {
    pub(super) members: Vec<Rank>,
    pub(super) among_living: bool,
    pub(super) mine: Vec<u8>,
}

#[derive(Clone)]
enum Step {
    /// Who lives?
    Count,
    /// These do; all of them give what the new communicator needs.
    Assemble { comm: u64, members: Vec<Rank> },
}

/// What became of it.
pub(super) enum Progress {
    /// The next exchange.
    Asks,
    /// The new communicator stands.
    Together {
        comm: u64,
        members: Vec<Rank>,
    },
    Fails(&'static str),
}

impl Census {
    /// What follows after `comm` has failed.
    pub(super) fn begin(comm: u64, epoch: u32, members: Vec<Rank>) -> Census {
        Census { comm, epoch, members, number: 0, step: Step::Count }
    }

    /// Names the exchange that it has come to.
    pub(super) fn exchange(&self) -> [u8; 16] {
        let (tag, members) = match &self.step {
            Step::Count => (self.tag(), &self.members),
            Step::Assemble { comm, members } => (*comm, members),
        };
        let second = members.iter().fold(mix(tag, 1), |hash, &member| mix(hash, member as u64));
        let mut exchange = [0; 16];
        exchange[..8].copy_from_slice(&tag.to_le_bytes());
        exchange[8..].copy_from_slice(&second.to_le_bytes());
        exchange
    }

    fn tag(&self) -> u64 {
        mix(mix(self.comm, 0x6365_6e73_7573), self.number)
    }

    pub(super) fn request(&self) -> Request {
        let (members, among_living) = match &self.step {
            Step::Count => (self.members.clone(), true),
            Step::Assemble { members, .. } => (members.clone(), false),
        };
        Request { members, among_living, mine: self.number.to_le_bytes().to_vec() }
    }

    /// The exchange has ended.
    pub(super) fn conclude(&mut self, outcome: Outcome) -> Progress {
        match (self.step.clone(), outcome) {
            (Step::Count, Ok(parts)) => {
                let living = self.members.iter().zip(&parts).filter(|(_, part)| part.is_some());
                let members: Vec<Rank> = living.map(|(member, _)| *member).collect();
                self.step = Step::Assemble { comm: mix(self.tag(), 1), members };
                Progress::Asks
            }
            (Step::Assemble { comm, members }, Ok(_)) => Progress::Together { comm, members },
            // Somebody died after it was counted; so say all who live, and count again.
            (Step::Assemble { .. }, Err(Failure::Gone)) => {
                (self.number, self.step) = (self.number + 1, Step::Count);
                Progress::Asks
            }
            (_, Err(Failure::Late)) => Progress::Fails("somebody did not come in time"),
            (_, Err(Failure::Minority)) => Progress::Fails("too many cannot be reached"),
            (_, Err(Failure::Gone)) => Progress::Fails("counted out"),
        }
    }
}
