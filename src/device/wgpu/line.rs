//! A queue: work waits in line until nothing that only the host can do is in its way.
//!
//! Most work is recorded the moment it comes. Work that reads host memory which a result is still on its way to has to wait for
//! it, and so does everything behind: `passed` moves on. What cannot be computed on this adapter bit for bit becomes three
//! kinds of work in its place in the line: copies to the host, the host's own arithmetic, copies back.
#![forbid(unsafe_code)]

use super::batch::{Batch, Flight, Readbacks};
use super::dispatch::{self, Leaf, Rule};
use super::gpu::Gpu;
use super::host_block::HostBlock;
use super::kernels::{Element, Join};
use super::place::Place;
use super::proof::Way;
use crate::device::host::{self, Fold, Store};
use crate::device::{Mark, Queue};
use crate::error::{Error, Result};
use crate::memory::Span;
use crate::types::{DType, ReduceOp};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// Bytes that are computed on the host at a time when they come from the device.
const DETOUR_BYTES: usize = 1 << 20;
/// From here on, host bytes are written where they belong, at the price of submitting what was recorded.
const DIRECT_BYTES: usize = 64 << 10;

/// No more batches than these are on their way: each holds memory.
const FLIGHTS: usize = 32;

/// How often a queue that is drained looks after the device: often at first, as most work is short.
const SHORTEST_PAUSE: Duration = Duration::from_micros(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(1);

/// What is to be done.
#[derive(Debug, Clone, Copy)]
enum Task {
    Copy,
    Reduce { fold: Fold, finish: bool },
    Scale { dtype: DType, scalar_bits: u64 },
    Mark(u64),
}

impl Task {
    /// Element type, operation and divisor of what is computed.
    fn arithmetic(&self) -> Option<(DType, Join, Option<u32>)> {
        match *self {
            Task::Copy | Task::Mark(_) => None,
            Task::Scale { dtype, .. } => Some((dtype, Join::Prod, None)),
            Task::Reduce { fold, finish } => {
                let divisor = (finish && fold.op() == ReduceOp::Avg).then_some(fold.world());
                Some((fold.dtype(), Join::of(fold.op()), divisor))
            }
        }
    }

    /// By the host, on its own memory.
    fn on_host(&self, from: &[Span], into: &[Span]) {
        match *self {
            Task::Copy => host::copy(from[0], into, Store::Cached),
            Task::Reduce { fold, finish } => host::reduce(&fold, finish, from, into, Store::Cached),
            Task::Scale { dtype, scalar_bits } => host::scale(dtype, scalar_bits, from[0], into[0]),
            Task::Mark(_) => {}
        }
    }
}

/// Where an operand is.
#[derive(Clone)]
enum Side {
    Host(Span),
    Device(Place),
}

impl Side {
    fn cut(&self, at: usize, len_bytes: usize) -> Side {
        match self {
            Side::Host(span) => Side::Host(span.cut(at, len_bytes)),
            Side::Device(place) => Side::Device(place.from(at)),
        }
    }

    fn host(&self) -> Option<Span> {
        if let Side::Host(span) = self { Some(*span) } else { None }
    }

    fn device(&self) -> Option<&Place> {
        if let Side::Device(place) = self { Some(place) } else { None }
    }
}

/// Something in line.
struct Work {
    task: Task,
    from: Vec<Side>,
    into: Vec<Side>,
    len_bytes: usize,
    /// Bytes that are behind us.
    done: usize,
    /// Host memory that only this work and its neighbours in line know. What comes home into it does so before the last of them
    /// is done.
    keeps: Vec<Arc<HostBlock>>,
}

/// What came of an attempt.
#[derive(PartialEq)]
enum Step {
    Done,
    More,
    /// Something that is on its way must come to its end first.
    Blocked,
}

/// How it is decided what computes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Trust {
    /// What was found to be right.
    Proved,
    /// The device, even from host memory to host memory: to find out.
    Try { native: bool },
}

/// See [`Queue`].
pub(super) struct Line {
    gpu: Arc<Gpu>,
    trust: Trust,
    waiting: VecDeque<Work>,
    batch: Batch,
    flights: VecDeque<Flight>,
    readbacks: Readbacks,
    /// The last mark that was given out, and the last one that is passed.
    marked: u64,
    passed: u64,
    broken: Option<Error>,
}

impl Line {
    pub(super) fn new(gpu: Arc<Gpu>, trust: Trust) -> Line {
        Line {
            gpu,
            trust,
            waiting: VecDeque::new(),
            batch: Batch::default(),
            flights: VecDeque::new(),
            readbacks: Readbacks::default(),
            marked: 0,
            passed: 0,
            broken: None,
        }
    }

    /// Does it, and remembers if that failed.
    fn guarded<T>(&mut self, act: impl FnOnce(&mut Line) -> Result<T>) -> Result<T> {
        if let Some(error) = &self.broken {
            return Err(error.clone());
        }
        act(self).inspect_err(|error| self.broken = Some(error.clone()))
    }

    fn side(&self, span: Span) -> Side {
        self.gpu.find(span).map_or(Side::Host(span), Side::Device)
    }

    fn enqueue(&mut self, task: Task, from: &[Span], into: &[Span]) -> Result<()> {
        let len_bytes = from.first().map_or(0, |span| span.len());
        if from.is_empty() || from.iter().chain(into).any(|span| span.len() != len_bytes) {
            return Err(Error::invalid(format!("spans of one call differ in length: {from:?} into {into:?}")));
        }
        if let Some((dtype, ..)) = task.arithmetic()
            && !len_bytes.is_multiple_of(dtype.size_bytes())
        {
            return Err(Error::invalid(format!("{len_bytes} bytes are no whole number of {dtype}")));
        }
        if len_bytes == 0 || into.is_empty() {
            return Ok(());
        }
        self.guarded(|line| {
            let sides = |spans: &[Span]| spans.iter().map(|&span| line.side(span)).collect();
            let (from, into) = (sides(from), sides(into));
            line.waiting.push_back(Work { task, from, into, len_bytes, done: 0, keeps: Vec::new() });
            // Behind others that could not go on, it cannot either.
            if line.waiting.len() == 1 { line.advance() } else { Ok(()) }
        })
    }

    /// Does what can be done now.
    fn advance(&mut self) -> Result<()> {
        while let Some(mut work) = self.waiting.pop_front() {
            match self.step(&mut work)? {
                Step::Done => {}
                Step::More => self.waiting.push_front(work),
                Step::Blocked => {
                    self.waiting.push_front(work);
                    // What it waits for must get going.
                    return self.submit(None);
                }
            }
        }
        Ok(())
    }

    /// Has the device begin with what is recorded, and puts a mark behind it.
    fn submit(&mut self, mark: Option<u64>) -> Result<()> {
        if !self.batch.is_empty() {
            let flight = self.batch.submit(&self.gpu)?;
            self.flights.push_back(flight);
        }
        match (mark, self.flights.back_mut()) {
            (Some(_), Some(last)) => last.mark = mark,
            (Some(mark), None) => self.passed = mark,
            (None, _) => {}
        }
        Ok(())
    }

    /// Whether a result is still on its way there.
    fn is_awaited(&self, host: Span) -> bool {
        self.batch.writes(host) || self.flights.iter().any(|flight| flight.writes(host))
    }

    fn step(&mut self, work: &mut Work) -> Result<Step> {
        if let Task::Mark(mark) = work.task {
            self.submit(Some(mark))?;
            return Ok(Step::Done);
        }
        if self.batch.is_long(&self.gpu) {
            self.submit(None)?;
        }
        if self.flights.len() >= FLIGHTS {
            return Ok(Step::Blocked);
        }
        let hosts = |sides: &[Side]| sides.iter().map(Side::host).collect::<Option<Vec<Span>>>();
        if let (Some(from), Some(into), Trust::Proved) = (hosts(&work.from), hosts(&work.into), self.trust) {
            if from.iter().chain(&into).any(|&span| self.is_awaited(span)) {
                return Ok(Step::Blocked);
            }
            work.task.on_host(&from, &into);
            return Ok(Step::Done);
        }
        let Some((dtype, join, divisor)) = work.task.arithmetic() else { return self.copy(work) };
        let way = match self.trust {
            Trust::Proved => self.gpu.proofs.way(&self.gpu, dtype, join, divisor.is_some())?,
            Trust::Try { native } => Way::Device { native },
        };
        match way {
            Way::Device { native } => {
                let factor = if let Task::Scale { scalar_bits, .. } = work.task { scalar_bits } else { 0 };
                self.reduce(work, &Rule { element: Element { dtype, join, native }, divisor, factor })
            }
            Way::Host => Ok(self.detour(work)),
        }
    }

    /// Records a piece of a copy.
    fn copy(&mut self, work: &mut Work) -> Result<Step> {
        let gpu = Arc::clone(&self.gpu);
        let is_from_host = work.from[0].host().is_some();
        let most = if is_from_host || work.into.iter().any(|into| into.host().is_some()) {
            (gpu.limits.readback_bytes / 2).min(gpu.limits.arena_bytes / 2) as usize & !4095
        } else {
            gpu.limits.piece_bytes
        };
        let len_bytes = most.min(work.len_bytes - work.done);
        let from = work.from[0].cut(work.done, len_bytes);
        let into: Vec<Side> = work.into.iter().map(|into| into.cut(work.done, len_bytes)).collect();
        let hosts: Vec<Span> = into.iter().filter_map(Side::host).collect();
        let places: Vec<&Place> = into.iter().filter_map(Side::device).collect();
        match &from {
            Side::Host(from) => {
                if self.is_awaited(*from) || hosts.iter().any(|&into| self.is_awaited(into)) {
                    return Ok(Step::Blocked);
                }
                host::copy(*from, &hosts, Store::Cached);
                self.write(*from, &places)?;
            }
            Side::Device(from) => {
                if !self.make_room(0, if hosts.is_empty() { 0 } else { len_bytes })? {
                    return Ok(Step::Blocked);
                }
                for place in places {
                    dispatch::copy(&gpu, &mut self.batch, from, place, len_bytes)?;
                }
                self.batch.read_back(&gpu, &mut self.readbacks, from, hosts)?;
            }
        }
        Ok(work.goes_on(len_bytes))
    }

    /// Host bytes to places on the device.
    fn write(&mut self, from: Span, into: &[&Place]) -> Result<()> {
        let gpu = Arc::clone(&self.gpu);
        if let [into] = into {
            let is_in_words = into.at.is_multiple_of(4) && from.len().is_multiple_of(4);
            if is_in_words && self.batch.has_commands() && from.len() >= DIRECT_BYTES {
                self.submit(None)?;
            }
            // What is written comes before what is recorded.
            if is_in_words && !self.batch.has_commands() {
                return self.batch.write(&gpu, from, into);
            }
        }
        if into.is_empty() {
            return Ok(());
        }
        self.make_room(Batch::slot_bytes(from.len()), 0)?;
        let slot = self.batch.upload(&gpu, from)?;
        into.iter().try_for_each(|into| dispatch::copy(&gpu, &mut self.batch, &slot, into, from.len()))
    }

    /// Records a piece of a reduction.
    fn reduce(&mut self, work: &mut Work, rule: &Rule) -> Result<Step> {
        let gpu = Arc::clone(&self.gpu);
        let partials = dispatch::partials(&gpu, work.from.len());
        let uploads = work.from.iter().filter(|from| from.host().is_some()).count();
        let reads_back = work.into.iter().any(|into| into.host().is_some());
        // Slots, in units of a piece; each may waste up to a slot's alignment and a quad for every slice.
        let units = uploads + partials * rule.element.partial_quads() + 1;
        let slots = (uploads + partials + 1) as u64;
        let mut most = gpu.limits.piece_bytes;
        if units > 1 || reads_back {
            let arena = gpu.limits.arena_bytes.saturating_sub(slots * 512) / units as u64;
            most = most.min(arena as usize).min(gpu.limits.readback_bytes as usize / 2);
        }
        let most = most & !255;
        if most == 0 {
            return Err(Error::unsupported(format!("{} operands at once on {}", work.from.len(), gpu.name)));
        }
        let len_bytes = most.min(work.len_bytes - work.done);
        let from: Vec<Side> = work.from.iter().map(|from| from.cut(work.done, len_bytes)).collect();
        let into: Vec<Side> = work.into.iter().map(|into| into.cut(work.done, len_bytes)).collect();
        if from.iter().filter_map(Side::host).any(|from| self.is_awaited(from)) {
            return Ok(Step::Blocked);
        }
        let partial_bytes = Batch::slot_bytes(dispatch::partial_bytes(rule.element, len_bytes));
        let room = (uploads + 1) as u64 * Batch::slot_bytes(len_bytes) + partials as u64 * partial_bytes;
        if !self.make_room(room, if reads_back { len_bytes } else { 0 })? {
            return Ok(Step::Blocked);
        }
        let mut leaves = Vec::with_capacity(from.len() + 1);
        for from in from {
            leaves.push(Leaf::elements(match from {
                Side::Host(span) => self.batch.upload(&gpu, span)?,
                Side::Device(place) => place,
            }));
        }
        if let Task::Scale { .. } = work.task {
            leaves.push(Leaf::factor());
        }
        let mut places: Vec<Place> = into.iter().filter_map(|into| into.device().cloned()).collect();
        let hosts: Vec<Span> = into.iter().filter_map(Side::host).collect();
        if places.is_empty() {
            places.push(self.batch.slot(&gpu, len_bytes)?);
        }
        dispatch::reduce(&gpu, &mut self.batch, rule, leaves, &places, len_bytes)?;
        self.batch.read_back(&gpu, &mut self.readbacks, &places[0], hosts)?;
        Ok(work.goes_on(len_bytes))
    }

    /// Sees to it that the batch has this much room. False where that takes results that are still on their way.
    fn make_room(&mut self, arena_bytes: u64, readback_bytes: usize) -> Result<bool> {
        if !self.batch.has_room(&self.gpu, arena_bytes) {
            self.submit(None)?;
        }
        if readback_bytes > 0 && self.batch.needs_readback(&self.gpu, readback_bytes) {
            if self.batch.has_readback() {
                self.submit(None)?;
            }
            return Ok(self.readbacks.are_left());
        }
        Ok(true)
    }

    /// Puts a piece of the work back into the line as copies to the host, work there, and copies back.
    fn detour(&mut self, work: &mut Work) -> Step {
        let len_bytes = DETOUR_BYTES.min(work.len_bytes - work.done);
        let (from, into, done) = (work.from.clone(), work.into.clone(), work.done);
        let piece = |task, from, into| Work { task, from, into, len_bytes, done: 0, keeps: Vec::new() };
        let mut keeps = Vec::new();
        // Where the host works on this side, and where that is elsewhere.
        let mut on_host = |side: &Side| {
            let side = side.cut(done, len_bytes);
            let Side::Device(_) = side else { return (side, None) };
            let block = Arc::new(HostBlock::new(len_bytes));
            let here = Side::Host(block.span());
            keeps.push(block);
            (here, Some(side))
        };
        let inputs: Vec<_> = from.iter().map(&mut on_host).collect();
        let outputs: Vec<_> = into.iter().map(&mut on_host).collect();
        let mut pieces = Vec::new();
        for (here, there) in &inputs {
            pieces.extend(there.iter().map(|there| piece(Task::Copy, vec![there.clone()], vec![here.clone()])));
        }
        let here = |sides: &[(Side, Option<Side>)]| sides.iter().map(|(here, _)| here.clone()).collect();
        pieces.push(piece(work.task, here(&inputs), here(&outputs)));
        for (here, there) in &outputs {
            pieces.extend(there.iter().map(|there| piece(Task::Copy, vec![here.clone()], vec![there.clone()])));
        }
        for piece in &mut pieces {
            piece.keeps = keeps.clone();
        }
        if work.goes_on(len_bytes) == Step::More {
            pieces.push(Work {
                task: work.task,
                from,
                into,
                len_bytes: work.len_bytes,
                done: work.done,
                keeps: work.keeps.clone(),
            });
        }
        for piece in pieces.into_iter().rev() {
            self.waiting.push_front(piece);
        }
        Step::Done
    }

    /// Brings home what is over, and goes on with what waited for it.
    fn land(&mut self) -> Result<()> {
        self.gpu.poll()?;
        while self.flights.front().is_some_and(Flight::has_landed) {
            let flight = self.flights.pop_front().expect("looked at above");
            let mark = flight.mark;
            flight.unload(&self.gpu, &mut self.readbacks)?;
            self.passed = mark.unwrap_or(self.passed);
        }
        self.advance()
    }
}

impl Work {
    fn goes_on(&mut self, len_bytes: usize) -> Step {
        self.done += len_bytes;
        if self.done == self.len_bytes { Step::Done } else { Step::More }
    }
}

impl Queue for Line {
    fn copy(&mut self, from: Span, into: &[Span]) -> Result<()> {
        self.enqueue(Task::Copy, &[from], into)
    }

    fn reduce(&mut self, fold: &Fold, finish: bool, from: &[Span], into: &[Span]) -> Result<()> {
        let task = Task::Reduce { fold: *fold, finish };
        // A single operand that is not divided is copied, bit for bit.
        let is_copy = from.len() == 1 && task.arithmetic().is_some_and(|(.., divisor)| divisor.is_none());
        self.enqueue(if is_copy { Task::Copy } else { task }, from, into)
    }

    fn scale(&mut self, dtype: DType, scalar_bits: u64, from: Span, into: Span) -> Result<()> {
        self.enqueue(Task::Scale { dtype, scalar_bits }, &[from], &[into])
    }

    fn mark(&mut self) -> Result<Mark> {
        self.guarded(|line| {
            line.marked += 1;
            let mark = line.marked;
            if line.waiting.is_empty() {
                line.submit(Some(mark))?;
            } else {
                let work = Work {
                    task: Task::Mark(mark),
                    from: vec![],
                    into: vec![],
                    len_bytes: 0,
                    done: 0,
                    keeps: Vec::new(),
                };
                line.waiting.push_back(work);
            }
            Ok(Mark(mark))
        })
    }

    fn passed(&mut self, mark: Mark) -> Result<bool> {
        self.guarded(|line| {
            if mark.0 > line.passed {
                line.land()?;
            }
            Ok(mark.0 <= line.passed)
        })
    }

    fn drain(&mut self) -> Result<()> {
        let drained = self.guarded(|line| {
            let mut pause = SHORTEST_PAUSE;
            loop {
                line.land()?;
                line.submit(None)?;
                if line.flights.is_empty() && line.waiting.is_empty() {
                    return Ok(());
                }
                std::thread::sleep(pause);
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        });
        if drained.is_err() {
            // A device that has failed touches nothing any more, and nobody will bring its results home.
            self.waiting.clear();
            self.flights.clear();
            self.batch = Batch::default();
        }
        drained
    }
}
