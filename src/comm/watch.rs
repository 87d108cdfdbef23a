//! Between the control plane and one communicator's engine: news of the job become the communicator's fate, and the
//! engine's failures become news.
#![forbid(unsafe_code)]

use crate::bootstrap::{Control, Listener, Reached};
use crate::engine::{Fate, Pace, Reporter};
use crate::error::{Error, Signature};
use crate::types::Rank;
use std::sync::{Arc, Weak};

/// Translates the ranks of the job to those of the communicator, and wakes its driver.
pub(crate) struct Watch {
    pub(crate) fate: Arc<Fate>,
    pub(crate) pace: Arc<Pace>,
    /// Rank of the communicator -> rank of the job.
    pub(crate) members: Vec<Rank>,
    pub(crate) wake: Box<dyn Fn() + Send + Sync>,
}

impl Watch {
    fn local(&self, world_rank: Rank) -> Option<Rank> {
        self.members.iter().position(|&member| member == world_rank)
    }
}

impl Listener for Watch {
    fn peer_lost(&self, world_rank: Rank, what: &str) {
        if let Some(rank) = self.local(world_rank) {
            self.fate.fail(Error::PeerLost { suspects: vec![rank], what: what.to_string(), during: None });
            (self.wake)();
        }
    }

    fn peer_left(&self, world_rank: Rank) {
        if let Some(rank) = self.local(world_rank) {
            self.fate.leave(rank);
            (self.wake)();
        }
    }

    fn reached(&self) -> Reached {
        let (entered, moved_bytes) = self.pace.read();
        Reached { entered, moved_bytes }
    }

    fn revoked(&self, _comm: u64, error: &Error) {
        self.fate.fail(error.clone());
        (self.wake)();
    }
}

/// Tells the other ranks what this one's engine found out. Holds the control plane weakly: a communicator that is being
/// dropped has nobody to tell.
pub(super) struct Herald {
    pub(super) control: Weak<Control>,
    pub(super) comm: u64,
    pub(super) me: Rank,
}

impl Reporter for Herald {
    fn failed(&self, error: &Error) {
        if let Some(control) = self.control.upgrade() {
            control.revoke(self.comm, error);
        }
    }

    fn stalled(&self, signature: Signature, waiting_for: &[Rank]) {
        if let Some(control) = self.control.upgrade() {
            control.report_stalled(self.comm, self.me, signature, waiting_for);
        }
    }
}
