//! Several calls at once: [`Communicator::group`], NCCL's `ncclGroupStart` and `ncclGroupEnd`.
#![forbid(unsafe_code)]

use super::Communicator;
use super::calls::{End, call};
use super::work::Work;
use crate::element::Element;
use crate::engine::{Call, Counts};
use crate::error::{Error, Result};
use crate::memory::{Span, lend, lend_mut};
use crate::types::{Collective, Rank, ReduceOp};
use std::marker::PhantomData;

/// Collects calls; they run together when the group's body has ended. Collectives keep their order, messages the order of
/// each pair, and nothing waits for anything else: a send and a receive in one group cannot block each other.
pub struct Group<'env> {
    calls: Vec<Call>,
    /// Sends and receives of this rank to itself, matched in order.
    to_self: Vec<Call>,
    from_self: Vec<Call>,
    comm: &'env Communicator,
    /// The buffers are borrowed until the group has run.
    buffers: PhantomData<&'env mut ()>,
}

impl Communicator {
    /// Runs the calls that `body` makes on the group, all at once, and returns when all have ended. When `body` fails,
    /// nothing runs. The first error of a call is returned.
    ///
    /// ```
    /// # use roundel::{Communicator, Options};
    /// let ranks = Communicator::threads(2, Options::default())?;
    /// std::thread::scope(|scope| {
    ///     for comm in &ranks {
    ///         scope.spawn(move || {
    ///             let (mine, mut theirs) = ([comm.rank() as u32; 3], [9; 3]);
    ///             let peer = 1 - comm.rank();
    ///             comm.group(|group| {
    ///                 group.send(&mine, peer)?;
    ///                 group.recv(&mut theirs, peer)
    ///             })
    ///             .unwrap();
    ///             assert_eq!(theirs, [peer as u32; 3]);
    ///         });
    ///     }
    /// });
    /// # Ok::<(), roundel::Error>(())
    /// ```
    pub fn group<'env>(&'env self, body: impl FnOnce(&mut Group<'env>) -> Result<()>) -> Result<()> {
        self.engine.run_all(self.collect(body)?)
    }

    /// [`Communicator::group`] without waiting: starts the calls and returns the work of each. The buffers of the calls
    /// must be what [`Span::new`] was promised until all of it has ended, so they are handed over as spans.
    ///
    /// Ranks of one process that a single thread drives meet this way: start the group on every communicator, then wait.
    pub fn start_group(&self, calls: Vec<Call>) -> Result<Vec<Work<()>>> {
        let calls = self.collect_all(calls)?;
        let start = |(call, in_place)| {
            let completion = self.engine.start(call, in_place)?;
            Ok(Work::new(self.engine.clone(), completion, ()))
        };
        calls.into_iter().map(start).collect()
    }

    /// Whether [`Communicator::start_group`] would take these calls.
    pub fn check_group(&self, calls: Vec<Call>) -> Result<()> {
        self.collect_all(calls).map(drop)
    }

    fn collect_all(&self, calls: Vec<Call>) -> Result<Vec<(Call, bool)>> {
        self.collect(|group| calls.into_iter().try_for_each(|call| group.call(call)))
    }

    /// The validated calls of a group, and which of them are in place.
    fn collect<'env>(&'env self, body: impl FnOnce(&mut Group<'env>) -> Result<()>) -> Result<Vec<(Call, bool)>> {
        let mut group =
            Group { calls: Vec::new(), to_self: Vec::new(), from_self: Vec::new(), comm: self, buffers: PhantomData };
        body(&mut group)?;
        let calls = group.matched()?;
        calls.into_iter().map(|call| self.validate(&call).map(|in_place| (call, in_place))).collect()
    }
}

impl<'env> Group<'env> {
    /// Adds any call; its spans must stay what [`Span::new`] was promised until the group has run. A message of this
    /// rank to itself comes as two calls: one with the input only, one with the output only.
    pub fn call(&mut self, call: Call) -> Result<()> {
        match self.comm.half_to_self(&call) {
            Some(End::Send) => self.to_self.push(call),
            Some(End::Recv) => self.from_self.push(call),
            None => {
                self.comm.validate(&call)?;
                self.calls.push(call);
            }
        }
        Ok(())
    }

    /// Adds [`Communicator::all_reduce_in_place`].
    pub fn all_reduce_in_place<T: Element>(&mut self, data: &'env mut [T], op: ReduceOp) -> Result<()> {
        let data = lend_mut(data);
        let shape = call::<T>(Collective::AllReduce, Some(op), Counts::Even(data.len() / size_of::<T>()));
        self.call(Call { input: data, output: data, ..shape })
    }

    /// Adds [`Communicator::all_reduce`].
    pub fn all_reduce<T: Element>(&mut self, input: &'env [T], output: &'env mut [T], op: ReduceOp) -> Result<()> {
        let shape = call::<T>(Collective::AllReduce, Some(op), Counts::Even(input.len()));
        self.call(Call { input: lend(input), output: lend_mut(output), ..shape })
    }

    /// Adds [`Communicator::broadcast`].
    pub fn broadcast<T: Element>(&mut self, data: &'env mut [T], root: Rank) -> Result<()> {
        let data = lend_mut(data);
        let input = if root == self.comm.rank() { data } else { Span::EMPTY };
        let shape = call::<T>(Collective::Broadcast, None, Counts::Even(data.len() / size_of::<T>()));
        self.call(Call { input, output: data, root, ..shape })
    }

    /// Adds [`Communicator::send`]; here also to this rank itself, with a receive in the same group.
    pub fn send<T: Element>(&mut self, data: &'env [T], to: Rank) -> Result<()> {
        self.call(self.comm.sending::<T>(lend(data), to))
    }

    /// Adds [`Communicator::recv`]; here also from this rank itself, with a send in the same group.
    pub fn recv<T: Element>(&mut self, data: &'env mut [T], from: Rank) -> Result<()> {
        self.call(self.comm.receiving::<T>(lend_mut(data), from))
    }

    /// All calls, a rank's messages to itself joined into one call each.
    fn matched(self) -> Result<Vec<Call>> {
        let Group { mut calls, to_self, from_self, .. } = self;
        if to_self.len() != from_self.len() {
            return Err(Error::invalid(format!(
                "a group with {} sends to this rank itself but {} receives from it",
                to_self.len(),
                from_self.len()
            )));
        }
        for (send, recv) in to_self.into_iter().zip(from_self) {
            if send.dtype != recv.dtype || send.counts != recv.counts {
                return Err(Error::invalid(format!(
                    "this rank sends itself {:?} of {} but receives {:?} of {}",
                    send.counts, send.dtype, recv.counts, recv.dtype
                )));
            }
            calls.push(Call { output: recv.output, ..send });
        }
        Ok(calls)
    }
}
