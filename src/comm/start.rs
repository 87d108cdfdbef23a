//! The nonblocking calls. They own their buffers, so that nothing can touch them while peers may; [`Work::wait`] gives
//! them back. Calls that were started run in the order in which they were started, beside each other where they can.
#![forbid(unsafe_code)]

use super::Communicator;
use super::buffer::Owned;
use super::calls::call;
use super::work::Work;
use crate::element::Element;
use crate::engine::{Call, Counts};
use crate::error::Result;
use crate::memory::Span;
use crate::types::{Collective, Rank, ReduceOp};

impl Communicator {
    /// Starts any call. The spans must be what [`Span::new`] was promised until the work has ended.
    pub fn start(&self, call: &Call) -> Result<Work<()>> {
        self.start_owning(call.clone(), ())
    }

    fn start_owning<B>(&self, call: Call, buffers: B) -> Result<Work<B>> {
        let in_place = self.validate(&call)?;
        let completion = self.engine.start(call, in_place)?;
        Ok(Work::new(self.engine.clone(), completion, buffers))
    }

    /// Starts an all-reduce in place.
    pub fn start_all_reduce<T: Element, B: Owned<T>>(&self, mut data: B, op: ReduceOp) -> Result<Work<B>> {
        let span = data.lend();
        let shape = call::<T>(Collective::AllReduce, Some(op), Counts::Even(count::<T>(span)));
        self.start_owning(Call { input: span, output: span, ..shape }, data)
    }

    /// Starts a broadcast.
    pub fn start_broadcast<T: Element, B: Owned<T>>(&self, mut data: B, root: Rank) -> Result<Work<B>> {
        let span = data.lend();
        let input = if root == self.rank() { span } else { Span::EMPTY };
        let shape = call::<T>(Collective::Broadcast, None, Counts::Even(count::<T>(span)));
        self.start_owning(Call { input, output: span, root, ..shape }, data)
    }

    /// Starts a reduce-scatter; the work gives back (input, output).
    pub fn start_reduce_scatter<T: Element, A: Owned<T>, B: Owned<T>>(
        &self,
        mut input: A,
        mut output: B,
        op: ReduceOp,
    ) -> Result<Work<(A, B)>> {
        let (from, into) = (input.lend(), output.lend());
        let shape = call::<T>(Collective::ReduceScatter, Some(op), Counts::Even(count::<T>(into)));
        self.start_owning(Call { input: from, output: into, ..shape }, (input, output))
    }

    /// Starts an all-gather; the work gives back (input, output).
    pub fn start_all_gather<T: Element, A: Owned<T>, B: Owned<T>>(
        &self,
        mut input: A,
        mut output: B,
    ) -> Result<Work<(A, B)>> {
        let (from, into) = (input.lend(), output.lend());
        let shape = call::<T>(Collective::AllGather, None, Counts::Even(count::<T>(from)));
        self.start_owning(Call { input: from, output: into, ..shape }, (input, output))
    }

    /// Starts sending to one other rank.
    pub fn start_send<T: Element, B: Owned<T>>(&self, mut data: B, to: Rank) -> Result<Work<B>> {
        self.not_to_self(to)?;
        let call = self.sending::<T>(data.lend(), to);
        self.start_owning(call, data)
    }

    /// Starts receiving from one other rank.
    pub fn start_recv<T: Element, B: Owned<T>>(&self, mut data: B, from: Rank) -> Result<Work<B>> {
        self.not_to_self(from)?;
        let call = self.receiving::<T>(data.lend(), from);
        self.start_owning(call, data)
    }

    /// Starts a barrier: the work ends when all ranks have started or called it.
    pub fn start_barrier(&self) -> Result<Work<()>> {
        self.start(&call::<u8>(Collective::Barrier, None, Counts::Even(0)))
    }
}

fn count<T: Element>(span: Span) -> usize {
    span.len() / size_of::<T>()
}
