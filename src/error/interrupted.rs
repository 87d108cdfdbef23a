//! What a fault made of the call that it ended, on this rank: how far it had come, and what is left of its buffers.
#![forbid(unsafe_code)]

use super::OpId;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The call that a fault ended, as an error tells of it. See [`Error::interrupted`](crate::Error::interrupted).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interrupted {
    /// The call in which the communicator failed on this rank. A call that was refused because of that, later, names
    /// that earlier one.
    pub op: OpId,
    /// How far the call that returns the error had come here; `None` where it never began.
    pub progress: Option<Progress>,
    /// What is left of the data that the call that returns the error was given.
    pub buffer: BufferState,
}

/// How far one rank had come in a call.
///
/// ```
/// let progress = roundel::error::Progress { done_bytes: 3, total_bytes: 8 };
/// assert_eq!(progress.to_string(), "37 % done here");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Bytes that this rank had sent, received, copied and reduced. A byte counts each time it is touched.
    pub done_bytes: u64,
    /// Bytes that it would have, in all; 0 for a barrier within a host, which moves none.
    pub total_bytes: u64,
}

/// Whether a call that failed has changed what it was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum BufferState {
    /// The input is as it was, and the call can be made again with it on a communicator that works. Always so where input
    /// and output are not the same memory; then the output's contents are undefined once the call has begun.
    Intact,
    /// The call was in place and had begun to write: the buffer holds parts of the input, of sums, and of the result.
    Undefined,
}

impl Interrupted {
    /// As others learn of it, and later calls that are refused because of it: nothing of theirs was touched.
    pub(super) fn elsewhere(op: OpId) -> Interrupted {
        Interrupted { op, progress: None, buffer: BufferState::Intact }
    }
}

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.op)?;
        match self.progress {
            Some(progress) if progress.total_bytes > 0 => write!(f, " ({progress}, {})", self.buffer),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = (u128::from(self.done_bytes) * 100).checked_div(self.total_bytes.into()).unwrap_or(100);
        write!(f, "{percent} % done here")
    }
}

impl fmt::Display for BufferState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BufferState::Intact => "input intact",
            BufferState::Undefined => "buffer undefined",
        })
    }
}
