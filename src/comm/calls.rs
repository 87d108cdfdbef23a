//! The blocking calls. Each runs on the calling thread and returns when this rank's part is done: its input may be
//! reused and its output holds the result. Other ranks may still be at work, except after a barrier.
//!
//! Counts are NCCL's: where a collective has blocks, the buffer that holds one block has the block's length and the
//! other one `world` times as many. Every call fails with [`Error::Invalid`] when lengths do not fit together (nothing
//! was sent, the communicator lives on), with [`Error::Mismatch`] when other ranks made another call, with
//! [`Error::PeerLost`] when one died, with [`Error::Timeout`] after [`Options::timeout`](crate::Options::timeout).
#![forbid(unsafe_code)]

use super::Communicator;
use crate::element::Element;
use crate::engine::{Call, Counts};
use crate::error::{Error, Result};
use crate::memory::{Span, lend, lend_mut};
use crate::types::{Collective, DType, Rank, ReduceOp};

/// A call without count, buffers and root: what the typed functions fill in.
pub(super) fn call<T: Element>(collective: Collective, op: Option<ReduceOp>, counts: Counts) -> Call {
    Call { collective, dtype: T::DTYPE, op, root: 0, peer: 0, counts, input: Span::EMPTY, output: Span::EMPTY }
}

/// The two ends of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Send,
    Recv,
}

/// The part of an in-place buffer that is one rank's block.
fn block(whole: Span, world: usize, rank: Rank, elem_bytes: usize) -> Result<Span> {
    let count = whole.len() / elem_bytes;
    if !count.is_multiple_of(world) {
        return Err(Error::invalid(format!("{count} elements do not make {world} equal blocks")));
    }
    let block_bytes = whole.len() / world;
    Ok(whole.cut(rank * block_bytes, block_bytes))
}

impl Communicator {
    /// Runs any call to its end: what the typed functions below do, for bindings and tools.
    ///
    /// The spans must be what [`Span::new`] was promised until this returns.
    ///
    /// ```
    /// # use roundel::{Call, Collective, Communicator, Counts, DType, Options, ReduceOp, memory::Span};
    /// let comm = Communicator::threads(1, Options::default())?.remove(0);
    /// let (input, mut output) = ([1i32, 2, 3], [0i32; 3]);
    /// // SAFETY: both arrays outlive the call, and nothing else touches them meanwhile.
    /// let spans = unsafe {
    ///     (Span::new(input.as_ptr().cast_mut().cast(), 12), Span::new(output.as_mut_ptr().cast(), 12))
    /// };
    /// comm.run(&Call {
    ///     collective: Collective::AllReduce,
    ///     dtype: DType::I32,
    ///     op: Some(ReduceOp::Sum),
    ///     root: 0,
    ///     peer: 0,
    ///     counts: Counts::Even(3),
    ///     input: spans.0,
    ///     output: spans.1,
    /// })?;
    /// assert_eq!(output, input);
    /// # Ok::<(), roundel::Error>(())
    /// ```
    pub fn run(&self, call: &Call) -> Result<()> {
        let in_place = self.validate(call)?;
        self.engine.run(call, in_place)
    }

    /// Checks a call without running it; true when it is in place.
    pub(super) fn validate(&self, call: &Call) -> Result<bool> {
        if call.collective == Collective::SendRecv {
            let me = self.rank();
            if call.root != me && call.peer != me {
                return Err(Error::invalid(format!(
                    "rank {me} has no part in a message from rank {} to rank {}",
                    call.root, call.peer
                )));
            }
            if self.half_to_self(call).is_some() {
                self.not_to_self(me)?;
            }
        }
        call.validate(self.rank(), self.world())
    }

    /// For one end of a message of this rank to itself: which. Only a group brings it together with the other end.
    pub(super) fn half_to_self(&self, call: &Call) -> Option<End> {
        let to_self = call.collective == Collective::SendRecv && [call.root, call.peer] == [self.rank(); 2];
        match (call.input.is_empty(), call.output.is_empty()) {
            (false, true) if to_self => Some(End::Send),
            (true, false) if to_self => Some(End::Recv),
            _ => None,
        }
    }

    /// Everyone's `output` becomes the reduction of everyone's `input`.
    ///
    /// ```
    /// # let comm = roundel::Communicator::threads(1, roundel::Options::default())?.remove(0);
    /// let mut sum = [0.0; 3];
    /// comm.all_reduce(&[1.0, 2.0, 3.0], &mut sum, roundel::ReduceOp::Sum)?;
    /// # Ok::<(), roundel::Error>(())
    /// ```
    pub fn all_reduce<T: Element>(&self, input: &[T], output: &mut [T], op: ReduceOp) -> Result<()> {
        let shape = call::<T>(Collective::AllReduce, Some(op), Counts::Even(input.len()));
        self.run(&Call { input: lend(input), output: lend_mut(output), ..shape })
    }

    /// [`Communicator::all_reduce`] with one buffer for both.
    pub fn all_reduce_in_place<T: Element>(&self, data: &mut [T], op: ReduceOp) -> Result<()> {
        let data = lend_mut(data);
        let shape = call::<T>(Collective::AllReduce, Some(op), Counts::Even(data.len() / size_of::<T>()));
        self.run(&Call { input: data, output: data, ..shape })
    }

    /// The root's `output` becomes the reduction of everyone's `input`; the other ranks' `output` is ignored and may be
    /// empty.
    pub fn reduce<T: Element>(&self, input: &[T], output: &mut [T], op: ReduceOp, root: Rank) -> Result<()> {
        let shape = call::<T>(Collective::Reduce, Some(op), Counts::Even(input.len()));
        let output = if root == self.rank() { lend_mut(output) } else { Span::EMPTY };
        self.run(&Call { input: lend(input), output, root, ..shape })
    }

    /// Everyone's `data` becomes the root's.
    pub fn broadcast<T: Element>(&self, data: &mut [T], root: Rank) -> Result<()> {
        let data = lend_mut(data);
        let shape = call::<T>(Collective::Broadcast, None, Counts::Even(data.len() / size_of::<T>()));
        let input = if root == self.rank() { data } else { Span::EMPTY };
        self.run(&Call { input, output: data, root, ..shape })
    }

    /// Rank r's `output` becomes block r of the reduction; `input` holds `world` blocks.
    pub fn reduce_scatter<T: Element>(&self, input: &[T], output: &mut [T], op: ReduceOp) -> Result<()> {
        let shape = call::<T>(Collective::ReduceScatter, Some(op), Counts::Even(output.len()));
        self.run(&Call { input: lend(input), output: lend_mut(output), ..shape })
    }

    /// [`Communicator::reduce_scatter`] whose result replaces this rank's block of `data`; the other blocks stay as they
    /// are.
    pub fn reduce_scatter_in_place<T: Element>(&self, data: &mut [T], op: ReduceOp) -> Result<()> {
        let input = lend_mut(data);
        let output = block(input, self.world(), self.rank(), size_of::<T>())?;
        let shape = call::<T>(Collective::ReduceScatter, Some(op), Counts::Even(output.len() / size_of::<T>()));
        self.run(&Call { input, output, ..shape })
    }

    /// [`Communicator::reduce_scatter`] with a length of its own for every block; the same `counts` on all ranks.
    pub fn reduce_scatter_v<T: Element>(
        &self,
        input: &[T],
        output: &mut [T],
        counts: &[usize],
        op: ReduceOp,
    ) -> Result<()> {
        let shape = call::<T>(Collective::ReduceScatter, Some(op), Counts::Blocks(counts.to_vec()));
        self.run(&Call { input: lend(input), output: lend_mut(output), ..shape })
    }

    /// Everyone's `output` becomes all ranks' `input`, in the order of ranks.
    pub fn all_gather<T: Element>(&self, input: &[T], output: &mut [T]) -> Result<()> {
        let shape = call::<T>(Collective::AllGather, None, Counts::Even(input.len()));
        self.run(&Call { input: lend(input), output: lend_mut(output), ..shape })
    }

    /// [`Communicator::all_gather`] where this rank's block of `data` is its contribution.
    pub fn all_gather_in_place<T: Element>(&self, data: &mut [T]) -> Result<()> {
        let output = lend_mut(data);
        let input = block(output, self.world(), self.rank(), size_of::<T>())?;
        let shape = call::<T>(Collective::AllGather, None, Counts::Even(input.len() / size_of::<T>()));
        self.run(&Call { input, output, ..shape })
    }

    /// [`Communicator::all_gather`] with a length of its own for every block; the same `counts` on all ranks.
    pub fn all_gather_v<T: Element>(&self, input: &[T], output: &mut [T], counts: &[usize]) -> Result<()> {
        let shape = call::<T>(Collective::AllGather, None, Counts::Blocks(counts.to_vec()));
        self.run(&Call { input: lend(input), output: lend_mut(output), ..shape })
    }

    /// The root's `output` becomes all ranks' `input`, in the order of ranks; elsewhere `output` is ignored.
    pub fn gather<T: Element>(&self, input: &[T], output: &mut [T], root: Rank) -> Result<()> {
        let shape = call::<T>(Collective::Gather, None, Counts::Even(input.len()));
        let output = if root == self.rank() { lend_mut(output) } else { Span::EMPTY };
        self.run(&Call { input: lend(input), output, root, ..shape })
    }

    /// Rank r's `output` becomes block r of the root's `input`; elsewhere `input` is ignored.
    pub fn scatter<T: Element>(&self, input: &[T], output: &mut [T], root: Rank) -> Result<()> {
        let shape = call::<T>(Collective::Scatter, None, Counts::Even(output.len()));
        let input = if root == self.rank() { lend(input) } else { Span::EMPTY };
        self.run(&Call { input, output: lend_mut(output), root, ..shape })
    }

    /// Block j of rank i's `input` becomes block i of rank j's `output`.
    pub fn all_to_all<T: Element>(&self, input: &[T], output: &mut [T]) -> Result<()> {
        let (input, output) = (lend(input), lend_mut(output));
        let count = block(input, self.world(), 0, size_of::<T>())?.len() / size_of::<T>();
        self.run(&Call { input, output, ..call::<T>(Collective::AllToAll, None, Counts::Even(count)) })
    }

    /// [`Communicator::all_to_all`] with one buffer for both.
    pub fn all_to_all_in_place<T: Element>(&self, data: &mut [T]) -> Result<()> {
        let data = lend_mut(data);
        let count = block(data, self.world(), 0, size_of::<T>())?.len() / size_of::<T>();
        self.run(&Call { input: data, output: data, ..call::<T>(Collective::AllToAll, None, Counts::Even(count)) })
    }

    /// [`Communicator::all_to_all`] with a length of its own for every pair: `send_counts[j]` elements go to rank j, which
    /// must expect as many. Blocks lie end to end in both buffers.
    pub fn all_to_all_v<T: Element>(
        &self,
        input: &[T],
        send_counts: &[usize],
        output: &mut [T],
        recv_counts: &[usize],
    ) -> Result<()> {
        let counts = Counts::Exchange { send: send_counts.to_vec(), recv: recv_counts.to_vec() };
        let shape = call::<T>(Collective::AllToAll, None, counts);
        self.run(&Call { input: lend(input), output: lend_mut(output), ..shape })
    }

    /// Sends `data` to one other rank, which must receive as many elements of the same type. Messages of a pair keep
    /// their order; they are independent of collectives. May block until the receiver takes the data.
    pub fn send<T: Element>(&self, data: &[T], to: Rank) -> Result<()> {
        self.not_to_self(to)?;
        self.run(&self.sending::<T>(lend(data), to))
    }

    /// Receives from one other rank what it sends.
    pub fn recv<T: Element>(&self, data: &mut [T], from: Rank) -> Result<()> {
        self.not_to_self(from)?;
        self.run(&self.receiving::<T>(lend_mut(data), from))
    }

    pub(super) fn sending<T: Element>(&self, input: Span, to: Rank) -> Call {
        let shape = call::<T>(Collective::SendRecv, None, Counts::Even(input.len() / size_of::<T>()));
        Call { input, root: self.rank(), peer: to, ..shape }
    }

    pub(super) fn receiving<T: Element>(&self, output: Span, from: Rank) -> Call {
        let shape = call::<T>(Collective::SendRecv, None, Counts::Even(output.len() / size_of::<T>()));
        Call { output, root: from, peer: self.rank(), ..shape }
    }

    pub(super) fn not_to_self(&self, peer: Rank) -> Result<()> {
        if peer != self.rank() {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "rank {peer} would wait for a message of its own; put the send and the receive into one group"
        )))
    }

    /// Returns when all ranks have called it.
    pub fn barrier(&self) -> Result<()> {
        self.run(&Call { dtype: DType::U8, ..call::<u8>(Collective::Barrier, None, Counts::Even(0)) })
    }
}
