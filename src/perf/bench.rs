//! One rank's bench: its communicator, two buffers, and the calls made on them.
//!
//! A buffer holds, between guard bytes, room for the largest size; every iteration moves on to the next piece of it, so
//! that small sizes do not find their data in the cache (nccl-tests does the same):
//!
//! ```text
//!   guard | iteration 0 | iteration 1 | ... | iteration k = iteration 0 again | guard
//! ```
//!
//! In place only the second buffer is used. Calls are made on spans, so that every element type and both ways of placing
//! buffers go through the same few lines. Every call ends before the function that makes it, which holds the bench
//! mutably, so that nothing else can touch the buffers meanwhile.
#![forbid(unsafe_code)]

use crate::error::{Error, Result};
use crate::memory::{Span, lend_mut};
use crate::perf::data::{Recipe, RedOp};
use crate::perf::geometry::{Geometry, Source, next, previous};
use crate::types::{Collective, Rank};
use crate::{Buffer, Call, Communicator, Counts, DeviceBuffer};
use std::ops::Range;

/// Bytes on either side of a buffer that nobody may touch.
const GUARD_BYTES: usize = 64;
/// What guards, and outputs before a checked call, are filled with.
const FILL: u8 = 0xa5;

/// What is called, apart from where.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// Pattern, type and sizes.
    pub geometry: Geometry,
    /// The reduction, if any.
    pub op: Option<RedOp>,
    /// The root; 0 where there is none.
    pub root: Rank,
    /// Input and output share memory.
    pub in_place: bool,
}

/// What a check found on one rank.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Findings {
    /// Output elements with another value than expected.
    pub wrong: u64,
    /// Bytes beside the output that were written.
    pub outside: u64,
    /// Input elements that an out-of-place call changed.
    pub input_changed: u64,
}

/// A rank ready to be measured.
pub struct Bench {
    /// The communicator.
    pub comm: Communicator,
    send: Region,
    recv: Region,
    unalign: usize,
    /// Calls in flight at once, each with its own piece of the buffers.
    calls: usize,
    reuse_buffers: bool,
}

/// How a bench lays out its buffers.
#[derive(Debug, Clone, Copy)]
pub struct Layout {
    /// The largest vector.
    pub max_bytes: usize,
    /// Calls in flight at once.
    pub calls: usize,
    /// Elements between an aligned address and the first buffer.
    pub unalign: usize,
    /// From [`Communicator::alloc`], unless the communicator has a device: buffers are there then.
    pub mapped: bool,
    /// The same memory in every iteration.
    pub reuse_buffers: bool,
}

impl Bench {
    /// Allocates and touches the buffers.
    pub fn new(comm: Communicator, layout: Layout) -> Result<Bench> {
        let too_big = || Error::invalid(format!("{} buffers of {} bytes", layout.calls, layout.max_bytes));
        let len_bytes = layout.max_bytes.checked_mul(layout.calls).ok_or_else(too_big)?;
        let slack_bytes = layout.unalign * size_of::<u64>();
        let total_bytes = len_bytes.checked_add(2 * GUARD_BYTES + slack_bytes).ok_or_else(too_big)?;
        Ok(Bench {
            send: Region::new(&comm, total_bytes, layout.mapped)?,
            recv: Region::new(&comm, total_bytes, layout.mapped)?,
            comm,
            unalign: layout.unalign,
            calls: layout.calls,
            reuse_buffers: layout.reuse_buffers,
        })
    }

    /// One iteration: as many calls as there are to be in flight. One is a plain blocking call, several are a group;
    /// `nonblocking` ones are started and waited for.
    pub fn iterate(&mut self, case: &Case, iteration: usize, nonblocking: bool) -> Result<()> {
        self.make(case, iteration, self.calls, nonblocking)
    }

    fn make(&mut self, case: &Case, iteration: usize, count: usize, nonblocking: bool) -> Result<()> {
        if count == 1 && !nonblocking && case.geometry.collective != Collective::SendRecv {
            let call = self.call(case, self.offset_bytes(case, iteration, 0));
            return self.comm.run(&call);
        }
        let mut calls = Vec::with_capacity(2 * count);
        for index in 0..count {
            let call = self.call(case, self.offset_bytes(case, iteration, index));
            calls.extend(self.halves(call));
        }
        if nonblocking {
            let works = calls.iter().map(|call| self.comm.start(call)).collect::<Result<Vec<_>>>()?;
            // An early return drops the rest, which waits for them as well: none outlives the borrow of the buffers.
            works.into_iter().try_for_each(|work| Ok(work.wait()?))
        } else if let ([call], 1) = (&calls[..], self.comm.world()) {
            self.comm.run(call)
        } else {
            self.comm.group(|group| calls.into_iter().try_for_each(|call| group.call(call)))
        }
    }

    /// Fills the buffers, makes one call, and compares everything that can be compared.
    pub fn check(&mut self, case: &Case, seed: u64) -> Result<Findings> {
        let recipe = Recipe { dtype: case.geometry.dtype, op: case.op, world: case.geometry.world, seed };
        self.prepare(case, &recipe);
        self.send.push()?;
        self.recv.push()?;
        self.make(case, 0, 1, false)?;
        self.send.pull()?;
        self.recv.pull()?;
        let findings = self.inspect(case, &recipe);
        // Timed loops run on zeros: in place, other numbers would grow until they overflow.
        let (input, _) = self.places(case, self.offset_bytes(case, 0, 0));
        self.input(case)[input].fill(0);
        let written = self.written(case);
        self.recv.bytes()[written].fill(0);
        self.send.push()?;
        self.recv.push()?;
        Ok(findings)
    }

    /// This rank's input where it belongs, and a filler that no output should still hold everywhere else.
    fn prepare(&mut self, case: &Case, recipe: &Recipe) {
        let (input, _) = self.places(case, self.offset_bytes(case, 0, 0));
        let written = self.written(case);
        self.recv.bytes()[written.start - GUARD_BYTES..written.end + GUARD_BYTES].fill(FILL);
        recipe.input(self.comm.rank()).fill(&mut self.input(case)[input], 0);
    }

    fn inspect(&mut self, case: &Case, recipe: &Recipe) -> Findings {
        let (me, elem_bytes) = (self.comm.rank(), case.geometry.dtype.size_bytes());
        let (input, output) = self.places(case, self.offset_bytes(case, 0, 0));
        let mut findings = Findings::default();
        for piece in case.geometry.expected(me, case.root) {
            let pattern = match piece.source {
                Source::Reduced => recipe.reduced(),
                Source::Rank(rank) => recipe.input(rank),
            };
            let bytes = output.start + piece.output.start * elem_bytes..output.start + piece.output.end * elem_bytes;
            findings.wrong += pattern.count_wrong(&self.recv.bytes()[bytes], piece.first);
        }
        let written = self.written(case);
        let recv = self.recv.bytes();
        let guards = [&recv[written.start - GUARD_BYTES..written.start], &recv[written.end..written.end + GUARD_BYTES]];
        findings.outside = guards.iter().flat_map(|guard| guard.iter()).filter(|&&byte| byte != FILL).count() as u64;
        if !case.in_place {
            findings.input_changed = recipe.input(me).count_wrong(&self.send.bytes()[input], 0);
        }
        findings
    }

    /// The bytes of the second buffer that the first call may write: in place the whole vector, else the output.
    fn written(&self, case: &Case) -> Range<usize> {
        let start = self.offset_bytes(case, 0, 0);
        if case.in_place { start..start + case.geometry.size_bytes() } else { self.places(case, start).1 }
    }

    fn input(&mut self, case: &Case) -> &mut [u8] {
        if case.in_place { self.recv.bytes() } else { self.send.bytes() }
    }

    /// Where the piece for this iteration begins, in either buffer.
    fn offset_bytes(&self, case: &Case, iteration: usize, index: usize) -> usize {
        let first = GUARD_BYTES + self.unalign * case.geometry.dtype.size_bytes();
        let size_bytes = case.geometry.size_bytes();
        let room_bytes = self.recv.len_bytes() - GUARD_BYTES - first;
        let turns = if self.reuse_buffers { 1 } else { (room_bytes / (size_bytes * self.calls).max(1)).max(1) };
        first + (iteration % turns * self.calls + index) * size_bytes
    }

    /// The bytes of input and output within their buffers.
    fn places(&self, case: &Case, start: usize) -> (Range<usize>, Range<usize>) {
        let (me, geometry) = (self.comm.rank(), case.geometry);
        let elem_bytes = geometry.dtype.size_bytes();
        let (input, output) = if case.in_place { geometry.in_place_offsets(me) } else { (0, 0) };
        let place = |first: usize, count: usize| start + first * elem_bytes..start + (first + count) * elem_bytes;
        (place(input, geometry.input_count(me, case.root)), place(output, geometry.output_count(me, case.root)))
    }

    /// The library's call on the piece that begins at `start`.
    fn call(&mut self, case: &Case, start: usize) -> Call {
        let (me, geometry) = (self.comm.rank(), case.geometry);
        let (input, output) = self.places(case, start);
        let output = self.recv.span(output);
        let input = if case.in_place { self.recv.span(input) } else { self.send.span(input) };
        Call {
            collective: geometry.collective,
            dtype: geometry.dtype,
            op: case.op.map(|op| op.for_rank(me, geometry.dtype)),
            root: case.root,
            peer: me,
            counts: Counts::Even(geometry.count),
            input,
            output,
        }
    }

    /// A send and receive as the two messages it is for a rank; any other call as it is.
    fn halves(&self, call: Call) -> Vec<Call> {
        let (me, world) = (self.comm.rank(), self.comm.world());
        if call.collective != Collective::SendRecv {
            return vec![call];
        }
        if world == 1 {
            return vec![Call { root: me, ..call }];
        }
        vec![
            Call { root: me, peer: next(me, world), output: Span::EMPTY, ..call.clone() },
            Call { root: previous(me, world), peer: me, input: Span::EMPTY, ..call },
        ]
    }
}

/// Memory for the buffers, aligned to a cache line.
struct Region {
    storage: Storage,
    /// Bytes of the storage before the first aligned one.
    skip_bytes: usize,
    len_bytes: usize,
}

enum Storage {
    Plain(Vec<u64>),
    Mapped(Buffer<u64>),
    /// The buffer on the device, and what the host last saw of it or is about to put there.
    Device(DeviceBuffer<u64>, Vec<u64>),
}

impl Region {
    fn new(comm: &Communicator, len_bytes: usize, mapped: bool) -> Result<Region> {
        let words = len_bytes.div_ceil(size_of::<u64>()) + GUARD_BYTES / size_of::<u64>();
        let storage = if comm.options().device.is_some() {
            Storage::Device(comm.alloc_device(words)?, vec![0; words])
        } else if mapped {
            Storage::Mapped(comm.alloc(words)?)
        } else {
            let mut plain = Vec::new();
            plain.try_reserve_exact(words).map_err(|error| {
                let source = std::io::Error::new(std::io::ErrorKind::OutOfMemory, error);
                Error::system(format!("allocating a buffer of {len_bytes} bytes"), source)
            })?;
            plain.resize(words, 0);
            Storage::Plain(plain)
        };
        let mut region = Region { storage, skip_bytes: 0, len_bytes };
        // Device memory is aligned as it comes.
        if !matches!(region.storage, Storage::Device(..)) {
            region.skip_bytes = region.words().as_ptr().cast::<u8>().align_offset(GUARD_BYTES);
        }
        // Touched here, so that no timed call meets a page for the first time.
        region.words().fill(0);
        Ok(region)
    }

    fn len_bytes(&self) -> usize {
        self.len_bytes
    }

    fn words(&mut self) -> &mut [u64] {
        match &mut self.storage {
            Storage::Plain(words) => words,
            Storage::Mapped(words) => words,
            Storage::Device(_, seen) => seen,
        }
    }

    /// What the host has written goes to the device.
    fn push(&mut self) -> Result<()> {
        match &mut self.storage {
            Storage::Device(buffer, seen) => buffer.write(seen),
            _ => Ok(()),
        }
    }

    /// What the device holds is shown to the host.
    fn pull(&mut self) -> Result<()> {
        match &mut self.storage {
            Storage::Device(buffer, seen) => buffer.read(seen),
            _ => Ok(()),
        }
    }

    fn bytes(&mut self) -> &mut [u8] {
        let (skip, len) = (self.skip_bytes, self.len_bytes);
        &mut bytemuck::cast_slice_mut(self.words())[skip..skip + len]
    }

    fn span(&mut self, range: Range<usize>) -> Span {
        if let Storage::Device(buffer, _) = &self.storage {
            return buffer.span().cut(range.start, range.len());
        }
        lend_mut(&mut self.bytes()[range])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DType, Options};

    const LAYOUT: Layout = Layout { max_bytes: 4096, calls: 1, unalign: 1, mapped: false, reuse_buffers: false };

    fn case(collective: Collective, world: usize, in_place: bool) -> Case {
        let geometry = Geometry::new(collective, DType::I32, world, 1024);
        Case { geometry, op: collective.reduces().then_some(RedOp::Sum), root: 0, in_place }
    }

    /// What two ranks find when each checks with its own seed.
    fn checked(case: Case, seeds: [u64; 2]) -> Vec<Findings> {
        let ranks = Communicator::threads(2, Options::default()).unwrap().into_iter().zip(seeds);
        let check =
            |(comm, seed)| std::thread::spawn(move || Bench::new(comm, LAYOUT).unwrap().check(&case, seed).unwrap());
        let threads: Vec<_> = ranks.map(check).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    }

    #[test]
    fn a_right_result_passes_and_a_wrong_one_does_not() {
        for in_place in [false, true] {
            for collective in [Collective::AllReduce, Collective::AllGather, Collective::AllToAll] {
                let case = case(collective, 2, in_place);
                assert_eq!(checked(case, [1, 1]), [Findings::default(); 2], "{collective}");
                // The other rank contributed something else than it should have.
                for findings in checked(case, [1, 2]) {
                    assert!(findings.wrong > 100, "{collective}: {findings:?}");
                    assert_eq!((findings.outside, findings.input_changed), (0, 0));
                }
            }
        }
    }

    #[test]
    fn damage_beside_the_output_and_to_the_input_is_found() {
        let comm = Communicator::threads(1, Options::default()).unwrap().remove(0);
        let mut bench = Bench::new(comm, LAYOUT).unwrap();
        let case = case(Collective::AllReduce, 1, false);
        let recipe = Recipe { dtype: DType::I32, op: case.op, world: 1, seed: 5 };
        bench.prepare(&case, &recipe);
        assert_eq!(bench.inspect(&case, &recipe).wrong, 256, "nothing has run yet");
        bench.make(&case, 0, 1, false).unwrap();
        assert_eq!(bench.inspect(&case, &recipe), Findings::default());
        let written = bench.written(&case);
        bench.recv.bytes()[written.end] ^= 1;
        bench.recv.bytes()[written.start - 1] ^= 1;
        bench.recv.bytes()[written.start] ^= 1;
        let (input, _) = bench.places(&case, bench.offset_bytes(&case, 0, 0));
        bench.send.bytes()[input.end - 1] ^= 1;
        assert_eq!(bench.inspect(&case, &recipe), Findings { wrong: 1, outside: 2, input_changed: 1 });
    }

    #[test]
    fn iterations_walk_through_the_buffer() {
        let comm = Communicator::threads(1, Options::default()).unwrap().remove(0);
        let bench = Bench::new(comm, LAYOUT).unwrap();
        let case = case(Collective::AllReduce, 1, false);
        let offsets: Vec<usize> = (0..5).map(|iteration| bench.offset_bytes(&case, iteration, 0)).collect();
        let first = GUARD_BYTES + 4;
        assert_eq!(offsets, [first, first + 1024, first + 2048, first + 3072, first]);
    }
}
