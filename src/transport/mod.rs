//! Links between two ranks, and memory that the ranks of a host share.
//!
//! A *link* carries an ordered stream of bytes from one rank to one other and holds a bounded number of them. It has two
//! ends, [`Tx`] and [`Rx`]; neither ever blocks. What differs between shared memory, sockets and RDMA is only how bytes get
//! across and what to sleep on when they do not.
#![deny(unsafe_code)]

mod address;
pub mod fabric;
pub mod shm;
#[cfg(any(test, feature = "sim"))]
pub(crate) mod sim;
pub mod tcp;

pub use address::Address;

use crate::error::Result;
use crate::memory::Span;
use std::os::fd::RawFd;

/// What to hand to `poll(2)` while a socket link cannot move. Memory links have none: their peer rings the doorbell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interest {
    /// The socket.
    pub fd: RawFd,
    /// Wake when it can be read.
    pub readable: bool,
    /// Wake when it can be written.
    pub writable: bool,
}

/// The sending end of a link. Bytes enter either by [`Tx::send`] or by filling what [`Tx::reserve`] gives.
pub trait Tx: Send {
    /// Takes as many leading bytes of `from` as there is room for now, possibly none, and says how many.
    /// An error means that the link is broken for good.
    fn send(&mut self, from: Span) -> Result<usize>;

    /// Free room inside the link, contiguous, at most `max_bytes` long; empty when there is none now. A device writes
    /// here, then calls [`Tx::commit`].
    fn reserve(&mut self, max_bytes: usize) -> Result<Span>;

    /// The first `len_bytes` of what `reserve` gave are filled and may travel.
    fn commit(&mut self, len_bytes: usize) -> Result<()>;

    /// Moves on what `send` and `commit` have only gathered. True when nothing is left on this side.
    fn flush(&mut self) -> Result<bool>;

    /// What to sleep on until there is room, or until `flush` can go on. Asked right before the driver looks for the last
    /// time and sleeps: a link whose progress somebody has to see to may take it as the announcement.
    fn interest(&self) -> Option<Interest>;
}

/// The receiving end of a link.
pub trait Rx: Send {
    /// Bytes that have arrived, where they lie: contiguous, at most `max_bytes`, a multiple of `unit_bytes` (the size of
    /// an element: 1, 2, 4 or 8; never split, even where a buffer wraps). Empty when nothing whole has arrived.
    /// They stay until [`Rx::release`]. Bytes that arrived before the peer went away are still delivered; after
    /// them comes the error.
    fn arrived(&mut self, unit_bytes: usize, max_bytes: usize) -> Result<Span>;

    /// Done with the first `len_bytes` of what `arrived` gave: the sender may use the room again.
    fn release(&mut self, len_bytes: usize) -> Result<()>;

    /// Moves as many bytes as have arrived, at most `into.len()`, to their final place. The count is the return value.
    fn recv(&mut self, into: Span) -> Result<usize>;

    /// What to sleep on until something arrives; asked as for [`Tx::interest`].
    fn interest(&self) -> Option<Interest>;
}

/// Memory and signals that the ranks of one host share, as one of them sees them for one communicator. Neighbours are
/// counted 0.. in the order of their ranks; a rank is its own neighbour too.
///
/// Every rank has one *signal word* that only it writes and that only grows, one *message* for each of two alternating
/// calls, and two *stage halves*. What is written before a signal is seen by whoever sees the signal.
pub trait Shared: Send {
    /// Adds one to this rank's signal word, on the line of calls of this parity (0 or 1), and wakes neighbours that sleep.
    /// They see the message there as this rank has written it before.
    fn signal(&mut self, parity: usize);

    /// A neighbour's signal word, as it stood when calls of this parity were last its own: no less than what it was at
    /// the end of the latest of them that this rank takes part in.
    fn signalled(&self, neighbour: usize, parity: usize) -> u64;

    /// A neighbour's message for calls of this parity, as it stands: [`MESSAGE_BYTES`], on the same line as its signal word,
    /// so that a few bytes of payload cost no more than the signal does. This rank writes its own, as it enters a call.
    fn message(&self, neighbour: usize, parity: usize) -> Span;

    /// One of the two staging areas of a neighbour.
    fn stage(&self, neighbour: usize, half: usize) -> Span;

    /// All neighbours are threads of this process.
    fn is_one_process(&self) -> bool;

    /// How neighbours can reach this memory, if all of them can.
    fn address_of(&self, span: Span) -> Option<Address>;

    /// A neighbour's memory, from the address that it published; `None` where this rank cannot reach it.
    fn resolve(&self, neighbour: usize, address: Address, len_bytes: usize) -> Option<Span>;

    /// Announces that this rank is about to touch its neighbours' own buffers. False: the communicator was aborted,
    /// keep off.
    fn enter(&mut self) -> bool;

    /// Done with its neighbours' buffers.
    fn leave(&mut self);

    /// True once any rank of the host has aborted the communicator.
    fn aborted(&self) -> bool;

    /// Aborts the communicator for every rank of the host, wakes all, and waits until no living thread of this process
    /// touches this rank's buffers any more.
    fn abort(&mut self);
}

/// Room for one message of [`Shared`].
pub const MESSAGE_BYTES: usize = 120;

/// Sleeps until a peer, another thread or a socket has news.
pub trait Sleeper: Send {
    /// Announces the sleep, asks `ready` once more (a peer that acted before the announcement rings no bell), and
    /// sleeps until the bell rings, a socket of `interests` is ready, or `timeout` is over.
    fn sleep(
        &mut self,
        interests: &[Interest],
        timeout: std::time::Duration,
        ready: &mut dyn FnMut() -> bool,
    ) -> Result<()>;
}
