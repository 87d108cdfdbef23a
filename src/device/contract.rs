//! What a device with memory of its own offers: [`Device`], and the [`Queue`]s through which work reaches it.
//!
//! # Spans name memory that the host may not touch
//!
//! A [`Span`] of device memory is an address range like any other: it can be cut, compared, sent to neighbours of the same
//! process. Only the host must not read or write there, and nothing in this crate does so without asking
//! [`Device::holds`] first. Where a driver's pointers live in one address space with the host's (CUDA) they are the
//! addresses; a device whose buffers are handles (wgpu) reserves a range of address space, without access, to name each.
//!
//! # Work is put in line
//!
//! ```text
//!   copy  copy  reduce  mark 7   copy  mark 8
//!   ───────────────────────────────────────────>  one queue, strictly in order
//!              passed(7)? yes        passed(8)? not yet
//! ```
//!
//! Everything that a queue was given happens in that order, as far as anyone can tell: what one piece writes the next one
//! reads. The host learns of it by *marks* only. Before a mark is passed, nobody may touch what the work behind it
//! reads or writes; afterwards host memory that was written holds the result.
#![forbid(unsafe_code)]

use super::host::Fold;
use crate::error::Result;
use crate::memory::Span;
use crate::types::DType;
use std::any::Any;
use std::fmt;

/// A device with memory of its own. Shared by all communicators and threads of a process that use it.
pub trait Device: fmt::Debug + Send + Sync {
    /// What people call it, as in `cuda:0 (NVIDIA H200)`: in logs and errors.
    fn name(&self) -> &str;

    /// Which devices of this process can work on each other's memory: those with equal numbers can. From 1 to 31; host
    /// memory is 0.
    fn domain(&self) -> u8;

    /// Takes zeroed memory on the device, aligned to 256 bytes. No bytes are a span that is empty.
    fn alloc(&self, len_bytes: usize) -> Result<Memory>;

    /// Takes zeroed host memory, aligned to 64 bytes, that the device's queues reach faster than any other: pinned, where
    /// there is such a thing.
    fn alloc_host(&self, len_bytes: usize) -> Result<Memory>;

    /// Makes host memory of others as good as that of [`Device::alloc_host`], as long as what is returned lives; it must stay
    /// mapped that long. `None` where that is not to be had, or would change nothing: the memory can be used all the same.
    fn adopt(&self, host: Span) -> Option<Box<dyn Any + Send + Sync>>;

    /// Whether these bytes are on this device, or on another one of its domain. An empty span is not.
    fn holds(&self, span: Span) -> bool;

    /// A new queue, in no order with any other.
    fn queue(&self) -> Result<Box<dyn Queue>>;
}

/// A place in a queue. Those of one queue ascend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark(pub u64);

/// A line of work on a device. Nothing here waits for the device, but [`Queue::drain`].
///
/// Spans are on a device of the domain or in host memory, wherever each of them likes; alignment is free, to single
/// elements and below. They stay valid, and nobody else touches what is written or writes what is read, until a mark behind
/// the work is passed. An error means that the queue is broken for good.
pub trait Queue: Send {
    /// Copies `from` to every span of `into`, as [`host::copy`](super::host::copy) does.
    fn copy(&mut self, from: Span, into: &[Span]) -> Result<()>;

    /// Combines `from` into every span of `into`, to the same bits as [`host::reduce`](super::host::reduce): with the same
    /// conditions, in the same order.
    fn reduce(&mut self, fold: &Fold, finish: bool, from: &[Span], into: &[Span]) -> Result<()>;

    /// Multiplies `from` by a factor into `into`, to the same bits as [`host::scale`](super::host::scale).
    fn scale(&mut self, dtype: DType, scalar_bits: u64, from: Span, into: Span) -> Result<()>;

    /// A mark behind all that was put in line so far, which now certainly gets going.
    fn mark(&mut self) -> Result<Mark>;

    /// Whether everything before the mark is done. Moves on what only the host can move on.
    fn passed(&mut self, mark: Mark) -> Result<bool>;

    /// Waits until all is done. A device that has failed is done as well: it touches nothing any more.
    fn drain(&mut self) -> Result<()>;
}

/// Bytes that are their holder's until it drops them: on a device, or in host memory that a device reaches easily. Work
/// on them must have ended by then.
pub struct Memory {
    span: Span,
    /// Gives them back.
    _keeper: Box<dyn Any + Send + Sync>,
}

impl Memory {
    /// The bytes that `keeper` gives back when it is dropped.
    pub fn new(span: Span, keeper: Box<dyn Any + Send + Sync>) -> Memory {
        Memory { span, _keeper: keeper }
    }

    /// Where they are. Not to be used after this memory is gone.
    pub fn span(&self) -> Span {
        self.span
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Memory({:?})", self.span)
    }
}

/// Copies now: for callers that fill and read device memory, off the path of calls.
pub fn copy_now(device: &dyn Device, from: Span, into: Span) -> Result<()> {
    let mut queue = device.queue()?;
    queue.copy(from, &[into])?;
    queue.drain()
}
