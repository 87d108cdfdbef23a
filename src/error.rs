//! What can go wrong, told so that the reader knows what happened, to whom, during what, and what to do next.
#![forbid(unsafe_code)]

mod interrupted;

pub use interrupted::{BufferState, Interrupted, Progress};

use crate::types::{Collective, DType, Rank, ReduceOp};
use std::fmt;
use std::time::Duration;

/// The library's result.
pub type Result<T> = std::result::Result<T, Error>;

/// Which call of a communicator: the n-th collective, counted from 0, the same number on every rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct OpId {
    /// What was called.
    pub collective: Collective,
    /// The call's number on its communicator.
    pub sequence: u64,
}

impl fmt::Display for OpId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} #{}", self.collective, self.sequence)
    }
}

/// The facts of a call that must be the same on every rank. They travel with the call's first bytes; a difference ends
/// the call with [`Error::Mismatch`].
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, bytemuck::Pod, bytemuck::Zeroable, serde::Serialize, serde::Deserialize,
)]
#[repr(C)]
pub struct Signature {
    /// The call's number on its communicator.
    pub sequence: u64,
    /// Elements: of the vector, or of one block where the collective has blocks of equal size.
    pub count: u64,
    /// Digest of what else must agree: per-rank counts, algorithm, channels, reproducible mode.
    pub details: u64,
    /// Membership generation of the communicator; frames of another one are never mixed in.
    pub epoch: u32,
    /// The root, or `u32::MAX` where there is none.
    pub root: u32,
    /// [`Collective`] as a number.
    pub collective: u8,
    /// [`DType`] as a number.
    pub dtype: u8,
    /// [`ReduceOp::code`], or 255 where there is none.
    pub op: u8,
    /// Bit 0: in place.
    pub flags: u8,
    /// Always zero.
    pub reserved: u32,
}

/// What all ranks begin with a barrier that counts it, so that a rank that calls something else is found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Meeting {
    /// `Communicator::split`.
    Split = 1,
    /// `Communicator::grow`.
    Grow = 2,
}

impl Signature {
    /// `root` of a call that has none.
    pub const NO_ROOT: u32 = u32::MAX;
    /// `op` of a call that reduces nothing.
    pub const NO_OP: u8 = 255;

    /// What a barrier is the beginning of.
    fn meeting(&self) -> Option<Meeting> {
        let is_barrier = self.collective == Collective::Barrier as u8;
        [Meeting::Split, Meeting::Grow].into_iter().find(|meeting| is_barrier && self.count == *meeting as u64)
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match Collective::from_code(self.collective) {
            _ if self.meeting() == Some(Meeting::Split) => "split",
            _ if self.meeting() == Some(Meeting::Grow) => "grow",
            Some(collective) => collective.name(),
            None => "unknown call",
        };
        write!(f, "{name} #{}", self.sequence)?;
        write!(f, "(count {}", self.count)?;
        match DType::from_code(self.dtype) {
            Some(dtype) => write!(f, ", {dtype}")?,
            None => write!(f, ", dtype {}", self.dtype)?,
        }
        if self.op != Self::NO_OP {
            write!(f, ", {}", ReduceOp::NAMES.get(self.op as usize).unwrap_or(&"unknown op"))?;
        }
        if self.root != Self::NO_ROOT {
            write!(f, ", root {}", self.root)?;
        }
        if self.flags & 1 != 0 {
            write!(f, ", in place")?;
        }
        if self.epoch != 0 {
            write!(f, ", epoch {}", self.epoch)?;
        }
        write!(f, ", settings and per-rank counts {:08x})", self.details as u32 ^ (self.details >> 32) as u32)
    }
}

/// The place for the call that a fault has found, in errors that have one; shared or to be changed, as the error is.
macro_rules! during {
    ($error:expr) => {
        match $error {
            Error::Mismatch { during, .. }
            | Error::PeerLost { during, .. }
            | Error::Corrupted { during, .. }
            | Error::Timeout { during, .. }
            | Error::Aborted { during, .. }
            | Error::System { during, .. } => Some(during),
            Error::Invalid { .. } | Error::Unsupported { .. } | Error::Bootstrap { .. } => None,
        }
    };
}

/// Every way a call can fail. All are `Clone`: the first failure poisons a communicator, and later calls repeat it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub enum Error {
    /// The caller's arguments make no sense together. Nothing was sent; the communicator is still good.
    #[error("invalid argument: {what}")]
    Invalid {
        /// What is wrong, and what would be right.
        what: String,
    },

    /// Asked for something that this build, machine or combination does not offer.
    #[error("not supported: {what}")]
    Unsupported {
        /// What, and what to use instead.
        what: String,
    },

    /// Ranks made different calls. Every rank gets this; the communicator is unusable afterwards.
    #[error(
        "ranks disagree: rank {rank} called {mine}, but rank {other} called {theirs}{}; make the same calls in the same order on every rank",
        in_call(.during)
    )]
    Mismatch {
        /// The rank whose call is `mine`.
        rank: Rank,
        /// Its call.
        mine: Box<Signature>,
        /// The other rank.
        other: Rank,
        /// The other call.
        theirs: Box<Signature>,
        /// The call this rank was in, if any.
        during: Option<Interrupted>,
    },

    /// A peer exited, was killed, or its host went away. Every rank gets this and it names the same suspects.
    #[error("rank {} {what}{}; look at its log first", list(.suspects), in_call(.during))]
    PeerLost {
        /// Who is gone.
        suspects: Vec<Rank>,
        /// How it was noticed, as in "closed its connection".
        what: String,
        /// The call this rank was in, if any.
        during: Option<Interrupted>,
    },

    /// Bytes are not what they should be: a link delivered others than were sent, or ranks hold different results of a
    /// call that gives all the same. Every rank gets this.
    #[error("rank {} {what}{}; suspect memory, network or driver of that host", list(.suspects), in_call(.during))]
    Corrupted {
        /// Whose bytes.
        suspects: Vec<Rank>,
        /// What was noticed, and where.
        what: String,
        /// The call this rank was in, if any.
        during: Option<Interrupted>,
    },

    /// A deadline passed.
    #[error("timed out after {:.1} s waiting for rank {}{}; raise ROUNDEL_TIMEOUT_MS if that is expected", .after.as_secs_f64(), list(.waiting_for), in_call(.during))]
    Timeout {
        /// The ranks that had not done their part.
        waiting_for: Vec<Rank>,
        /// How long was waited.
        after: Duration,
        /// The call this rank was in, if any.
        during: Option<Interrupted>,
    },

    /// Not all ranks turned up when the communicator was made.
    #[error("initialisation: {what}{}", who_is_missing(.missing))]
    Bootstrap {
        /// What happened and what to set.
        what: String,
        /// The ranks that never arrived, where that is known.
        missing: Vec<Rank>,
    },

    /// Another rank ended the communicator, with its reason.
    #[error("rank {by} aborted the communicator: {reason}{}", in_call(.during))]
    Aborted {
        /// Who.
        by: Rank,
        /// Its words.
        reason: String,
        /// The call this rank was in, if any.
        during: Option<Interrupted>,
    },

    /// The operating system said no.
    #[error("{what}: {source_text}{}", in_call(.during))]
    System {
        /// What was being done.
        what: String,
        /// The system's answer.
        source_text: String,
        /// `errno`, or 0.
        errno: i32,
        /// The call this rank was in, if any.
        during: Option<Interrupted>,
    },
}

impl Error {
    /// An [`Error::Invalid`].
    pub fn invalid(what: impl Into<String>) -> Error {
        Error::Invalid { what: what.into() }
    }

    /// An [`Error::Unsupported`].
    pub fn unsupported(what: impl Into<String>) -> Error {
        Error::Unsupported { what: what.into() }
    }

    /// An [`Error::System`] from an I/O error.
    pub fn system(what: impl Into<String>, source: impl Into<std::io::Error>) -> Error {
        let source = source.into();
        Error::refused_by_system(what, source.to_string(), source.raw_os_error().unwrap_or(0))
    }

    /// An [`Error::System`] in the words of whoever said no.
    pub(crate) fn refused_by_system(what: impl Into<String>, source_text: impl Into<String>, errno: i32) -> Error {
        Error::System { what: what.into(), source_text: source_text.into(), errno, during: None }
    }

    /// An [`Error::Bootstrap`] with nobody in particular missing.
    pub fn bootstrap(what: impl Into<String>) -> Error {
        Error::Bootstrap { what: what.into(), missing: Vec::new() }
    }

    /// The same error with the call it interrupted, where the error has a place for it and none was known.
    pub fn during(mut self, op: OpId) -> Error {
        if let Some(during) = self.place_for_call() {
            during.get_or_insert(Interrupted::elsewhere(op));
        }
        self
    }

    /// The same error, as it is told to the caller of a call of this rank that it ended.
    pub(crate) fn ending(mut self, call: Interrupted) -> Error {
        if let Some(during) = self.place_for_call() {
            *during = Some(call);
        }
        self
    }

    /// The same error, as it is told to all who were not in the call: whatever they are about to begin is refused.
    pub(crate) fn elsewhere(mut self) -> Error {
        if let Some(Some(during)) = self.place_for_call() {
            *during = Interrupted::elsewhere(during.op);
        }
        self
    }

    /// What happened, without the call that it happened to: the same for all calls of a rank that one fault ended.
    ///
    /// ```
    /// use roundel::{Communicator, Options, ReduceOp};
    /// let mut ranks = Communicator::threads(2, Options::default())?;
    /// drop(ranks.remove(1));
    /// let error = ranks[0].all_reduce_in_place(&mut [1.0f32], ReduceOp::Sum).unwrap_err();
    /// assert_eq!(ranks[0].barrier().unwrap_err().fault(), error.fault());
    /// # Ok::<(), roundel::Error>(())
    /// ```
    pub fn fault(&self) -> Error {
        let mut fault = self.clone();
        if let Some(during) = fault.place_for_call() {
            *during = None;
        }
        fault
    }

    /// The call in which the fault found this rank, how far it had come, and what is left of its buffers; `None` where it was
    /// in none, or the error is no fault of a communicator.
    ///
    /// ```
    /// use roundel::{Communicator, Options, ReduceOp};
    /// let mut ranks = Communicator::threads(2, Options::default())?;
    /// drop(ranks.remove(1));
    /// let error = ranks[0].all_reduce_in_place(&mut [1.0f32], ReduceOp::Sum).unwrap_err();
    /// if let Some(call) = error.interrupted() {
    ///     println!("call {} had come to {:?}", call.op.sequence, call.progress);
    /// }
    /// # Ok::<(), roundel::Error>(())
    /// ```
    pub fn interrupted(&self) -> Option<&Interrupted> {
        during!(self)?.as_ref()
    }

    /// Whether the call that returns this error has left its input as it was. It always has, but for calls in place that were
    /// cut in the middle.
    ///
    /// ```
    /// use roundel::{BufferState, Communicator, Options, ReduceOp};
    /// let mut ranks = Communicator::threads(2, Options::default())?;
    /// drop(ranks.remove(1));
    /// let mut sum = [0.0f32; 2];
    /// let error = ranks[0].all_reduce(&[1.0, 2.0], &mut sum, ReduceOp::Sum).unwrap_err();
    /// assert_eq!(error.buffer(), BufferState::Intact);
    /// # Ok::<(), roundel::Error>(())
    /// ```
    pub fn buffer(&self) -> BufferState {
        self.interrupted().map_or(BufferState::Intact, |call| call.buffer)
    }

    fn place_for_call(&mut self) -> Option<&mut Option<Interrupted>> {
        during!(self)
    }

    /// True when the communicator can go on: the call was refused before anything was sent.
    pub fn is_recoverable(&self) -> bool {
        matches!(self, Error::Invalid { .. } | Error::Unsupported { .. })
    }
}

fn list(ranks: &[Rank]) -> String {
    let words: Vec<String> = ranks.iter().map(|rank| rank.to_string()).collect();
    words.join(", ")
}

fn in_call(call: &Option<Interrupted>) -> String {
    call.map(|call| format!(" during {call}")).unwrap_or_default()
}

fn who_is_missing(ranks: &[Rank]) -> String {
    if ranks.is_empty() { String::new() } else { format!("; missing: rank {}", list(ranks)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_name_rank_operation_and_next_step() {
        let op = OpId { collective: Collective::AllReduce, sequence: 41 };
        let lost = Error::PeerLost { suspects: vec![3], what: "closed its connection".into(), during: None }.during(op);
        assert_eq!(lost.to_string(), "rank 3 closed its connection during all_reduce #41; look at its log first");
        let progress = Some(Progress { done_bytes: 5, total_bytes: 9 });
        let here = lost.clone().ending(Interrupted { op, progress, buffer: BufferState::Undefined });
        assert_eq!(
            here.to_string(),
            "rank 3 closed its connection during all_reduce #41 (55 % done here, buffer undefined); look at its log first"
        );
        assert_eq!((here.buffer(), lost.buffer()), (BufferState::Undefined, BufferState::Intact));
        assert_eq!((here.clone().elsewhere(), here.fault()), (lost.clone(), lost.fault()));
        let missing = Error::Bootstrap { what: "2 of 4 ranks arrived within 5 s".into(), missing: vec![1, 3] };
        assert_eq!(missing.to_string(), "initialisation: 2 of 4 ranks arrived within 5 s; missing: rank 1, 3");
    }

    #[test]
    fn signatures_have_no_hidden_bytes() {
        assert_eq!(size_of::<Signature>(), 40);
    }
}
