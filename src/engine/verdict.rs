//! Who is to blame for an error. The end of a link says only that a neighbour is gone, perhaps because of somebody else's
//! death; a deadline only that a neighbour waits too. The control plane knows who was first, or who is missing, and gets a
//! moment to say so.
#![forbid(unsafe_code)]

use super::fate::Fate;
use crate::error::Error;
use std::time::{Duration, Instant};

/// A broken link is taken at its word only after the control plane had this long to say who really failed.
const VERDICT: Duration = Duration::from_millis(150);

/// What is said of a rank that went in good order while others needed it.
pub(super) const LEFT: &str = "left the communicator";

/// An error that may not be the last word.
pub(crate) struct Verdict {
    error: Error,
    deadline: Instant,
}

impl Verdict {
    pub(crate) fn on(error: Error, now: Instant) -> Verdict {
        let is_plain = matches!(
            error,
            Error::Mismatch { .. } | Error::Corrupted { .. } | Error::Invalid { .. } | Error::Unsupported { .. }
        );
        Verdict { error, deadline: if is_plain { now } else { now + VERDICT } }
    }

    /// What the others are told before there is a verdict: the answer to a timeout says who is missing.
    pub(crate) fn question(&self) -> Option<&Error> {
        matches!(self.error, Error::Timeout { .. }).then_some(&self.error)
    }

    /// The error that this rank ends the communicator with, once that is certain.
    pub(crate) fn reached(&self, fate: &Fate, now: Instant) -> Option<Error> {
        if now >= self.deadline {
            return Some(self.error.clone());
        }
        if let Err(known) = fate.check() {
            return Some(known);
        }
        match &self.error {
            Error::PeerLost { suspects, during, .. } if suspects.iter().all(|&rank| fate.has_left(rank)) => {
                tracing::debug!("{}: it has left in good order", self.error);
                Some(Error::PeerLost { suspects: suspects.clone(), what: LEFT.into(), during: *during })
            }
            _ => None,
        }
    }
}
