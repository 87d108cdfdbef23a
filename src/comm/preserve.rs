//! A reduction in place that is all or nothing: [`Communicator::all_reduce_preserving`].
#![forbid(unsafe_code)]

use super::Communicator;
use super::calls::call;
use crate::device::{Device, Memory, copy_now};
use crate::element::Element;
use crate::engine::{Call, Counts};
use crate::error::{Error, Result};
use crate::memory::{Span, lend_mut};
use crate::types::{Collective, ReduceOp};

impl Communicator {
    /// [`all_reduce_in_place`](Communicator::all_reduce_in_place) that either changes `data` on every rank that lives or on
    /// none: on an error, here or anywhere, the input is as it was, so that the call can be made again after a
    /// [`shrink`](Communicator::shrink).
    ///
    /// The result is made elsewhere and takes `data`'s place only when all ranks have [agreed](Communicator::agree) that
    /// they have theirs: the price is memory for a second vector, one copy of it, and a round through the control plane
    /// (some 100 us). A rank that dies after it has agreed is the next call's problem.
    ///
    /// ```
    /// # use roundel::{Communicator, Options, ReduceOp};
    /// let mut ranks = Communicator::threads(2, Options::default())?;
    /// let mut data = [1.0f32, 2.0];
    /// drop(ranks.remove(1));
    /// assert!(ranks[0].all_reduce_preserving(&mut data, ReduceOp::Sum).is_err());
    /// assert_eq!(data, [1.0, 2.0]);
    /// let alone = ranks[0].shrink()?;
    /// alone.all_reduce_preserving(&mut data, ReduceOp::Sum)?;
    /// # Ok::<(), roundel::Error>(())
    /// ```
    pub fn all_reduce_preserving<T: Element>(&self, data: &mut [T], op: ReduceOp) -> Result<()> {
        let shape = call::<T>(Collective::AllReduce, Some(op), Counts::Even(data.len()));
        let data = lend_mut(data);
        self.run_preserving(&Call { input: data, output: data, ..shape })
    }

    /// [`Communicator::all_reduce_preserving`] of any element type, for bindings: runs the call, an all_reduce, and its
    /// output, which may be its input, changes on every rank that lives or on none.
    ///
    /// The spans must be what [`Span::new`](crate::memory::Span::new) was promised until this returns.
    ///
    /// ```
    /// # use roundel::{Call, Collective, Communicator, Counts, DType, Options, ReduceOp, memory::Span};
    /// let comm = Communicator::threads(1, Options::default())?.remove(0);
    /// let mut data = [1i32, 2, 3];
    /// // SAFETY: the array outlives the call, and nothing else touches it meanwhile.
    /// let span = unsafe { Span::new(data.as_mut_ptr().cast(), 12) };
    /// comm.run_preserving(&Call {
    ///     collective: Collective::AllReduce,
    ///     dtype: DType::I32,
    ///     op: Some(ReduceOp::Sum),
    ///     root: 0,
    ///     peer: 0,
    ///     counts: Counts::Even(3),
    ///     input: span,
    ///     output: span,
    /// })?;
    /// assert_eq!(data, [1, 2, 3]);
    /// # Ok::<(), roundel::Error>(())
    /// ```
    pub fn run_preserving(&self, call: &Call) -> Result<()> {
        if call.collective != Collective::AllReduce {
            return Err(Error::unsupported(format!("a preserving {}; there is one of all_reduce", call.collective)));
        }
        self.check(call)?;
        // Of the kind that the call's own is.
        let device = self.options().device.clone().filter(|device| device.holds(call.output));
        let outcome = self.make_room(device.as_deref(), call.output.len()).and_then(|mut result| {
            let room = result.span(call.output.len());
            self.run(&Call { output: room, ..call.clone() }).map(|()| result)
        });
        if outcome.as_ref().is_err_and(Error::is_recoverable) {
            // Refused before anything was sent, here as everywhere.
            return outcome.map(drop);
        }
        if self.agree(outcome.is_ok())? {
            let mut result = outcome?;
            let room = result.span(call.output.len());
            return match device {
                Some(device) => copy_now(&*device, room, call.output),
                None => {
                    call.output.copy_from(room);
                    Ok(())
                }
            };
        }
        outcome?;
        // Another rank's call failed, and took the communicator with it; the news may still be on its way.
        self.status()?;
        Err(Error::Aborted { by: self.rank(), reason: "another rank's part of the call failed".into(), during: None })
    }

    /// Memory for the result. Where there is none the other ranks are told, who would wait for this one's part.
    fn make_room(&self, device: Option<&dyn Device>, len_bytes: usize) -> Result<Room> {
        let room = match device {
            Some(device) => device.alloc(len_bytes).map(Room::Device),
            None => Room::on_host(len_bytes),
        };
        room.inspect_err(|error| self.abort(&error.to_string()))
    }
}

/// Where a result waits until all agree to it.
enum Room {
    /// In words, which are aligned for every element.
    Host(Vec<u64>),
    Device(Memory),
}

impl Room {
    fn on_host(len_bytes: usize) -> Result<Room> {
        let mut words = Vec::new();
        let count = len_bytes.div_ceil(size_of::<u64>());
        words.try_reserve_exact(count).map_err(|_| {
            let what = format!("{len_bytes} bytes for the result of a preserving call");
            Error::system(what, std::io::Error::from(std::io::ErrorKind::OutOfMemory))
        })?;
        words.resize(count, 0);
        Ok(Room::Host(words))
    }

    /// The bytes, good for as long as the room is.
    fn span(&mut self, len_bytes: usize) -> Span {
        match self {
            Room::Host(words) => lend_mut(words).cut(0, len_bytes),
            Room::Device(memory) => memory.span(),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::comm::calls::call;
    use crate::memory::lend_mut;
    use crate::{Call, Collective, Communicator, Counts, Error, Options, ReduceOp};

    #[test]
    fn what_is_no_all_reduce_is_refused_and_does_no_harm() {
        let comm = Communicator::threads(1, Options::default()).unwrap().remove(0);
        let mut data = [7u8; 3];
        let span = lend_mut(&mut data);
        for collective in [Collective::Broadcast, Collective::AllGather] {
            let call = Call { input: span, output: span, ..call::<u8>(collective, None, Counts::Even(3)) };
            assert!(matches!(comm.run_preserving(&call), Err(Error::Unsupported { .. })));
        }
        let short = Call { output: span, ..call::<u8>(Collective::AllReduce, Some(ReduceOp::Sum), Counts::Even(3)) };
        assert!(matches!(comm.run_preserving(&short), Err(Error::Invalid { .. })));
        comm.all_reduce_preserving(&mut data, ReduceOp::Sum).unwrap();
        assert_eq!(data, [7; 3]);
    }
}
