//! Links over RDMA: one-sided writes into memory that the receiver has registered, through libfabric.
//!
//! ```text
//!   library     libfabric, opened at run time; without it there is no such link, and nothing else is missing
//!     abi       its layouts
//!   provider    which of its providers to use
//!   device      one endpoint with its completion queue: all calls into the library
//!   immediate   the 32 bits that a write carries
//!   flow        who owns which slot of a ring
//!   hub         a rank's endpoint and all its links, behind one lock
//!     control   the connection beside each link: both sides' rings to begin with, and its end
//!   watchman    the thread that makes progress while nobody else does
//!   greeting    makes a link out of an authenticated connection
//!   link        the two ends
//! ```
//!
//! # How a byte travels
//!
//! Each side of a link registers a ring of slots and tells the other where it is and by which key. The sender gathers bytes
//! in its own copy of the next slot and writes it over with `fi_writedata`; the number of the link and of the slot travel
//! with it, and come out of the receiver's completion queue once all its bytes are in place. (Looking at the last byte
//! instead would be wrong: not every provider writes it last.) Taken slots are told back, in the head of the next slot that
//! goes the other way or, when half of the ring is owed, in a write of their own. So nobody writes where nothing is free,
//! and every queue is bounded by the number of slots.
//!
//! Bytes are copied into the slot and out of it; [`Rx::arrived`](super::Rx::arrived) lends them where they lie, so that a
//! reduction needs no copy at the receiver. Writing straight out of the caller's memory would save the other copy.
//! [`Tx`](super::Tx) does not allow it: what [`send`](super::Tx::send) has taken the caller may change, and when a call
//! fails its buffers go back to their owner at once, while a write under way could still read them.
//!
//! # Who makes progress
//!
//! libfabric moves only while somebody calls it. Whoever drives a communicator does; when it sleeps, or computes, the
//! watchman does, asleep on the completion queue's descriptor where the provider has one, and else looking at intervals.
//!
//! # The end
//!
//! The connection over which a link was made stays: it closes when the peer does, however it does. A peer that closes in
//! good order says before how much it has written, so that what is still on its way is waited for.
#![deny(unsafe_code)]

mod abi;
mod control;
mod device;
mod flow;
mod greeting;
mod hub;
mod immediate;
mod library;
mod link;
pub mod provider;
#[cfg(test)]
mod tests;
mod watchman;

pub use greeting::Greeting;
pub use hub::{Hub, Wake};
pub use link::{FabricRx, FabricTx};
