//! A stream of its own for each queue. What the device reaches it works on where it is; the rest bounces.

use super::bounce::{Bounce, Pieces, Room};
use super::context::{Context, Entered};
use super::marks::Marks;
use super::modules::Modules;
use super::pointers::{Reach, reach};
use super::reduction::{BLOCK_THREADS, Kernel, MOST_OPERANDS, MOST_OUTPUTS, Op, Reduction};
use crate::device::contract::{Mark, Queue};
use crate::device::host::Fold;
use crate::error::{Error, Result};
use crate::memory::Span;
use crate::types::{DType, ReduceOp};
use cudarc::driver::sys::{CUdeviceptr, CUstream};
use std::sync::Arc;

/// Below this a launch costs more than copies one after the other.
const MANY_BYTES: usize = 4096;

pub(super) struct Stream {
    context: Arc<Context>,
    modules: Arc<Modules>,
    raw: CUstream,
    marks: Marks,
    bounce: Bounce,
    /// The first thing that went wrong, which is the answer to all that follows.
    failure: Option<Error>,
}

// SAFETY: a stream is a handle that every thread may use while its context is current.
unsafe impl Send for Stream {}

/// What a kernel does with operands that it finds.
#[derive(Clone, Copy)]
enum Work<'a> {
    Copy,
    Scale { dtype: DType, scalar_bits: u64 },
    Reduce { fold: &'a Fold, divides: bool },
}

impl Work<'_> {
    fn size_bytes(&self) -> usize {
        match self {
            Work::Copy => 1,
            Work::Scale { dtype, .. } => dtype.size_bytes(),
            Work::Reduce { fold, .. } => fold.dtype().size_bytes(),
        }
    }

    fn parameter(&self) -> u64 {
        match self {
            Work::Copy => 0,
            Work::Scale { scalar_bits, .. } => *scalar_bits,
            Work::Reduce { fold, .. } => u64::from(fold.world()),
        }
    }

    fn kernel(&self, call: &Reduction) -> Kernel {
        match self {
            Work::Copy => Kernel::Copy,
            Work::Scale { dtype, .. } => Kernel::scale(*dtype),
            Work::Reduce { fold, divides } => Kernel::reduce(call.shape(), fold.dtype(), Op::of(fold.op(), *divides)),
        }
    }

    /// Whether a kernel can work on an operand at this address.
    fn takes(&self, address: CUdeviceptr) -> bool {
        match self {
            Work::Copy | Work::Reduce { .. } => true,
            Work::Scale { dtype, .. } => address.is_multiple_of(dtype.size_bytes() as u64),
        }
    }
}

impl Stream {
    pub(super) fn new(context: Arc<Context>, modules: Arc<Modules>) -> Result<Stream> {
        let raw = context.enter()?.stream()?;
        let marks = Marks::new(context.clone());
        Ok(Stream { context, modules, raw, marks, bounce: Bounce::default(), failure: None })
    }

    /// Does something unless something failed before, and remembers if it fails.
    fn try_to<T>(&mut self, body: impl FnOnce(&mut Stream, &Entered) -> Result<T>) -> Result<T> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        let context = self.context.clone();
        let outcome = context.enter().and_then(|entered| body(self, &entered));
        if let Err(error) = &outcome {
            self.failure = Some(error.clone());
        }
        outcome
    }

    fn copy_span(&self, entered: &Entered, from: Span, into: Span) -> Result<()> {
        if from == into {
            return Ok(());
        }
        // SAFETY: spans are good for what is done with them until a mark behind it is passed (`Span::new`, `Queue`).
        unsafe { entered.copy(into.addr() as CUdeviceptr, from.addr() as CUdeviceptr, from.len(), self.raw) }
    }

    /// One launch over operands that the device reaches, all of `len_bytes`. At most [`MOST_OUTPUTS`] outputs.
    fn launch(&mut self, entered: &Entered, work: Work, from: &[u64], into: &[u64], len_bytes: usize) -> Result<()> {
        let size_bytes = work.size_bytes();
        let table = if from.len() > MOST_OPERANDS { Some(self.table(entered, from)?) } else { None };
        let call = Reduction::new(size_bytes, len_bytes / size_bytes, from, into, table, work.parameter());
        let kernel = work.kernel(&call);
        let function = self.modules.function(entered, kernel)?;
        let blocks = call.blocks(kernel, size_bytes, entered.context.threads_at_once);
        // SAFETY: the modules, and so the function, live as long as `self`; its parameter begins as `Reduction` does
        // (`reduction::tests`). The addresses are those of spans, or of room that is kept; outputs overlap inputs only
        // where they are the same, which the kernels allow.
        unsafe { entered.launch(function, blocks, BLOCK_THREADS as u32, self.raw, &call) }
    }

    /// The addresses on the device, for a launch that they do not fit in.
    fn table(&mut self, entered: &Entered, addresses: &[u64]) -> Result<CUdeviceptr> {
        let addresses: Box<[u64]> = addresses.into();
        let room = Room::new(&self.context, size_of_val(&*addresses))?;
        let (table, start) = (room.address(), addresses.as_ptr() as CUdeviceptr);
        // SAFETY: both are kept until the mark behind is passed.
        let copied = unsafe { entered.copy(table, start, size_of_val(&*addresses), self.raw) };
        self.marks.keep(Box::new((room, addresses)));
        copied.map(|()| table)
    }

    /// Work over spans that may lie anywhere.
    fn work(&mut self, entered: &Entered, work: Work, from: &[Span], into: &[Span]) -> Result<()> {
        let Some((&first, len_bytes)) = into.first().map(|first| (first, first.len())) else { return Ok(()) };
        if len_bytes == 0 {
            return Ok(());
        }
        let (into, others) = into.split_at(into.len().min(MOST_OUTPUTS));
        let found = |span: &Span| -> Result<Option<u64>> {
            Ok(reach(entered, *span)?.address().filter(|&address| work.takes(address)))
        };
        let inputs = from.iter().map(found).collect::<Result<Vec<_>>>()?;
        let outputs = into.iter().map(found).collect::<Result<Vec<_>>>()?;
        let all = || inputs.iter().chain(&outputs);
        let bounced = all().filter(|address| address.is_none()).count();
        if bounced == 0 {
            let known = |addresses: &[Option<u64>]| addresses.iter().copied().flatten().collect::<Vec<_>>();
            self.launch(entered, work, &known(&inputs), &known(&outputs), len_bytes)?;
        } else {
            // They lie as those do that need not bounce, so that vectors may be used.
            let past_vector = all().copied().flatten().next().map_or(0, |address| address % 16);
            let pieces = Pieces::new(len_bytes, bounced);
            let (room, outgrown) = self.bounce.room(&self.context, pieces.room_bytes)?;
            if let Some(outgrown) = outgrown {
                self.marks.keep(Box::new(outgrown));
            }
            for start in (0..len_bytes).step_by(pieces.piece_bytes) {
                let piece = |span: &Span| span.cut(start, pieces.piece_bytes.min(len_bytes - start));
                let mut next = room + past_vector;
                let mut place = |address: &Option<u64>| match address {
                    Some(address) => address + start as u64,
                    None => {
                        next += pieces.stride_bytes as u64;
                        next - pieces.stride_bytes as u64
                    }
                };
                let placed_inputs: Vec<u64> = inputs.iter().map(&mut place).collect();
                let placed_outputs: Vec<u64> = outputs.iter().map(&mut place).collect();
                for (span, &address) in
                    from.iter().zip(&placed_inputs).zip(&inputs).filter(|(_, found)| found.is_none()).map(|(x, _)| x)
                {
                    let span = piece(span);
                    // SAFETY: as in `copy_span`; the room is of this stream alone, whose work is in order.
                    unsafe { entered.copy(address, span.addr() as CUdeviceptr, span.len(), self.raw)? };
                }
                self.launch(entered, work, &placed_inputs, &placed_outputs, piece(&first).len())?;
                for (span, &address) in
                    into.iter().zip(&placed_outputs).zip(&outputs).filter(|(_, found)| found.is_none()).map(|(x, _)| x)
                {
                    let span = piece(span);
                    // SAFETY: as above.
                    unsafe { entered.copy(span.addr() as CUdeviceptr, address, span.len(), self.raw)? };
                }
            }
        }
        others.iter().try_for_each(|&other| self.copy_span(entered, first, other))
    }

    /// One input into several outputs: read once by a kernel where all is the device's and lies alike, else copied.
    fn copy_spans(&mut self, entered: &Entered, from: Span, into: &[Span]) -> Result<()> {
        let into: Vec<Span> = into.iter().copied().filter(|&into| into != from).collect();
        let lies_alike = into.iter().all(|into| into.addr() % 16 == from.addr() % 16);
        if into.len() > 1 && lies_alike && from.len() >= MANY_BYTES {
            let is_own = |span: &Span| Ok(matches!(reach(entered, *span)?, Reach::Own(_)));
            let all = into.iter().chain([&from]).map(is_own).collect::<Result<Vec<bool>>>()?;
            if all.into_iter().all(|is_own| is_own) {
                return self.work(entered, Work::Copy, &[from], &into);
            }
        }
        into.iter().filter(|into| !into.is_empty()).try_for_each(|&into| self.copy_span(entered, from, into))
    }
}

/// Spans of one call must be alike, and made of whole elements.
fn check(size_bytes: usize, from: &[Span], into: &[Span]) -> Result<()> {
    let Some(first) = from.first() else { return Err(Error::invalid("a reduction of no operands")) };
    match from.iter().chain(into).find(|span| span.len() != first.len()) {
        Some(other) => Err(Error::invalid(format!("spans of one call differ in length: {other:?}, {first:?}"))),
        None if first.len() % size_bytes != 0 => {
            Err(Error::invalid(format!("{first:?} in elements of {size_bytes} bytes")))
        }
        None if from.len() > u32::MAX as usize => Err(Error::invalid("a reduction of more than 2^32 operands")),
        None => Ok(()),
    }
}

impl Queue for Stream {
    fn copy(&mut self, from: Span, into: &[Span]) -> Result<()> {
        check(1, &[from], into)?;
        self.try_to(|stream, entered| stream.copy_spans(entered, from, into))
    }

    fn reduce(&mut self, fold: &Fold, finish: bool, from: &[Span], into: &[Span]) -> Result<()> {
        check(fold.dtype().size_bytes(), from, into)?;
        let divides = finish && fold.op() == ReduceOp::Avg;
        self.try_to(|stream, entered| match from {
            &[from] if !divides => stream.copy_spans(entered, from, into),
            _ => stream.work(entered, Work::Reduce { fold, divides }, from, into),
        })
    }

    fn scale(&mut self, dtype: DType, scalar_bits: u64, from: Span, into: Span) -> Result<()> {
        check(dtype.size_bytes(), &[from], &[into])?;
        self.try_to(|stream, entered| stream.work(entered, Work::Scale { dtype, scalar_bits }, &[from], &[into]))
    }

    fn mark(&mut self) -> Result<Mark> {
        // SAFETY: the stream is destroyed when `self` is dropped.
        self.try_to(|stream, entered| unsafe { stream.marks.record(entered, stream.raw) })
    }

    fn passed(&mut self, mark: Mark) -> Result<bool> {
        if self.marks.is_passed(mark) {
            return Ok(true);
        }
        self.try_to(|stream, entered| stream.marks.ask(entered))?;
        Ok(self.marks.is_passed(mark))
    }

    fn drain(&mut self) -> Result<()> {
        // Whatever failed: what was put in line before may still be going on.
        // SAFETY: the stream is destroyed when `self` is dropped.
        let waited = self.context.enter().and_then(|entered| unsafe { entered.synchronize(self.raw) });
        self.marks.pass_all();
        if let Err(error) = waited {
            self.failure.get_or_insert(error);
        }
        self.failure.clone().map_or(Ok(()), Err)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // Nothing that it uses may go before it is done; a failure was told before, or nobody waits for it any more.
        let _ = self.drain();
        // SAFETY: from `stream`, once.
        self.context.give_back(|entered| unsafe { entered.destroy_stream(self.raw) });
    }
}
