//! The end of a call, as its caller waits for it.
#![forbid(unsafe_code)]

use crate::error::Result;
use std::sync::OnceLock;

/// Set once, by whoever drives the call to its end.
#[derive(Debug, Default)]
pub(crate) struct Completion {
    outcome: OnceLock<Result<()>>,
}

impl Completion {
    /// Ends the call; the first outcome stays.
    pub(crate) fn finish(&self, outcome: Result<()>) {
        let _ = self.outcome.set(outcome);
    }

    /// The outcome, once there is one.
    pub(crate) fn outcome(&self) -> Option<&Result<()>> {
        self.outcome.get()
    }
}
