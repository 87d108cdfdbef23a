//! What the referee and the ranks say to each other: one JSON object a line, over the ranks' standard input and output.
#![forbid(unsafe_code)]

use crate::chaos::holdings::Holdings;
use crate::error::Error;
use crate::types::Rank;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// From the referee to one rank.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Order {
    /// The first word: how to become a rank.
    Begin(Entrance),
    /// What all ranks do together at their next safe point. Numbers rise; each is done once.
    Together(u64, Joint),
    /// Sleep for so long before the next call.
    Nap(Duration),
    /// Do this to yourself.
    Arm(Blow),
}

/// How a process becomes a rank.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Entrance {
    /// Rank 0, which opens the job and says its [`Said::Id`].
    Open {
        /// Ranks of the job.
        world: usize,
    },
    /// Another rank from the beginning.
    Join {
        /// The job's id.
        id: String,
        /// Which rank.
        rank: Rank,
        /// Ranks of the job.
        world: usize,
        /// How long it may take.
        patience: Duration,
    },
    /// A newcomer to a job that runs, with this invitation.
    Enlist(String),
}

/// What all ranks do together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Joint {
    /// Make every kind of call once, then say [`Said::Report`].
    Report,
    /// Rank 0 of the communicator says [`Said::Invitation`].
    Invite,
    /// Admit who waits to join.
    Grow,
    /// Leave in good order.
    Finish,
}

impl Joint {
    const ALL: [Joint; 4] = [Joint::Report, Joint::Invite, Joint::Grow, Joint::Finish];

    /// As a word of a broadcast; 0 stands for none.
    pub fn code(self) -> u64 {
        self as u64 + 1
    }

    /// What [`Joint::code`] made.
    pub fn from_code(code: u64) -> Option<Joint> {
        Joint::ALL.into_iter().find(|joint| joint.code() == code)
    }
}

/// A rank strikes itself, in the middle of something that a referee could not hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blow {
    /// While it does this.
    pub during: Moment,
    /// What happens.
    pub how: How,
    /// So long after it began.
    pub after: Duration,
}

/// Where a blow falls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Moment {
    /// From the call of `shrink` on.
    Shrink,
    /// From the call of `grow` on.
    Grow,
}

/// What a blow does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum How {
    /// SIGKILL.
    Kill,
    /// SIGSTOP.
    Stop,
}

/// A rank's place in its communicator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Its number in the job.
    pub number: Rank,
    /// How often the membership had changed.
    pub epoch: u32,
    /// Everybody's number in the job.
    pub members: Vec<Rank>,
}

/// From a rank to the referee. Times are those of the monotonic clock, which all processes of a machine share.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Said {
    /// The id of the job that it opened.
    Id(String),
    /// It is a rank now, and the first calls were right.
    Ready(Standing),
    /// The order to strike itself has arrived.
    Armed,
    /// It has slept as ordered.
    Napped,
    /// It strikes itself now.
    Striking(Duration),
    /// A call ended with an error. Suspects are numbers of the job.
    Failed {
        /// The error.
        error: Error,
        /// Whom it accuses, by their numbers in the job.
        suspects: Vec<Rank>,
        /// In which epoch, and how many all-or-nothing calls had taken effect in it.
        preserved: (u32, u64),
        /// When the call returned.
        at: Duration,
    },
    /// It has gone on with those who live, and the first call after that was right.
    Recovered(Standing, Duration),
    /// It may not go on, or never became a rank.
    Expelled(Error),
    /// What a newcomer needs.
    Invitation(String),
    /// It is about to ask to be let in.
    Knocking,
    /// It has admitted newcomers, and the first call with them was right.
    Grown(Standing, Duration),
    /// It has tried to: nobody waits, or the error that came of it. The number is the order's.
    NotGrown(u64, Option<Error>),
    /// All kinds of calls were right, and this is what the process holds.
    Report(u64, Standing, Holdings),
    /// A result was wrong, an input was touched, or something happened that never may.
    Wrong(String),
}
