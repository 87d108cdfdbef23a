//! Links and shared memory that somebody else moves: a simulation. Nothing here has a clock, a thread or a socket. What an
//! end does is noted ([`Notice`]); when its bytes arrive, are acknowledged, or never come is for the owner of the
//! [`Network`] to say, in whatever order it likes, as long as each link stays a queue.
//!
//! ```text
//!   Tx::send            Tx::flush           Network::arrive       Rx::release         Network::acknowledge
//!     taken  ────────────▶ sent ───────────────▶ arrived ────────────▶ released ──────────▶ acknowledged
//!     |  gathered  ≤ gather_bytes |         on its way or not yet read  ≤ window_bytes            |
//! ```
#![forbid(unsafe_code)]

mod link;
mod memory;
mod pipe;

pub(crate) use link::{SimRx, SimTx};
pub(crate) use memory::{HostMemory, Signal};
pub(crate) use pipe::{Habit, PipeId};

use crate::error::Error;
use pipe::Pipe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What the two ends of links have done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Notice {
    /// More bytes are on their way, up to this position.
    Sent(PipeId, u64),
    /// Bytes up to this position have been read.
    Released(PipeId, u64),
    /// The sending end is gone.
    SenderGone(PipeId),
    /// The receiving end is gone.
    ReaderGone(PipeId),
}

/// Every link of a simulation, one way each.
#[derive(Clone, Default)]
pub(crate) struct Network(Arc<Mutex<Pipes>>);

#[derive(Default)]
struct Pipes {
    pipes: Vec<Pipe>,
    notices: Vec<Notice>,
}

impl Network {
    fn lock(&self) -> MutexGuard<'_, Pipes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new link, one way, and its two ends.
    pub(crate) fn pipe(&self, habit: Habit) -> (PipeId, SimTx, SimRx) {
        let mut pipes = self.lock();
        let id = pipes.pipes.len();
        pipes.pipes.push(Pipe::new(habit));
        drop(pipes);
        (id, SimTx::new(self.clone(), id), SimRx::new(self.clone(), id))
    }

    /// A planted bug: a new link begins with what nobody has read of an old one.
    pub(crate) fn inherit(&self, id: PipeId, from: PipeId) {
        let mut pipes = self.lock();
        let bytes = pipes.pipes[from].unread();
        pipes.pipes[id].begin_with(bytes);
    }

    /// What has been done since this was last asked.
    pub(crate) fn notices(&self, into: &mut Vec<Notice>) {
        into.append(&mut self.lock().notices);
    }

    /// Bytes up to this position can be read.
    pub(crate) fn arrive(&self, id: PipeId, position: u64) {
        self.lock().pipes[id].arrive(position);
    }

    /// The sender may use the room up to this position again.
    pub(crate) fn acknowledge(&self, id: PipeId, position: u64) {
        self.lock().pipes[id].acknowledge(position);
    }

    /// Nothing more comes: the reader is told so after the last byte.
    pub(crate) fn end(&self, id: PipeId, why: Error) {
        self.lock().pipes[id].ended.get_or_insert(why);
    }

    /// Nobody reads any more: the sender is told so.
    pub(crate) fn refuse(&self, id: PipeId, why: Error) {
        self.lock().pipes[id].refused.get_or_insert(why);
    }

    /// Whether the system would say that the sending end can be written to. (A reader is told of what arrives; what it
    /// leaves unread wakes it no more.)
    pub(crate) fn is_writable(&self, id: PipeId) -> bool {
        self.lock().pipes[id].is_writable()
    }

    /// Bytes that were taken and not read.
    pub(crate) fn unread_bytes(&self, id: PipeId) -> u64 {
        self.lock().pipes[id].unread_bytes()
    }

    /// Handles on this network besides this one: ends that somebody still holds.
    pub(crate) fn holders(&self) -> usize {
        Arc::strong_count(&self.0) - 1
    }
}
