//! Links between two ranks, and memory that the ranks of a host share.
//!
//! A *link* carries an ordered stream of bytes from one rank to one other and holds a bounded number of them. It has two
//! ends, [`Tx`] and [`Rx`]; neither ever blocks. What differs between shared memory and sockets is only how bytes get
//! across and what to sleep on when they do not.
#![deny(unsafe_code)]

pub mod shm;
pub mod tcp;

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

    /// What to sleep on until there is room, or until `flush` can go on.
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

    /// What to sleep on until something arrives.
    fn interest(&self) -> Option<Interest>;
}
