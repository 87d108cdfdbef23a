//! A device for tests, on any machine: memory of its own that the host cannot touch, and a queue that is as late as it can be.
//!
//! Its memory is ordinary memory under a name, so a host that takes the one for the other is stopped by the system. Its queue
//! does nothing until somebody asks for a mark, and then one piece of work for each question: whoever does not ask for the
//! mark that he depends on finds the old bytes.
#![forbid(unsafe_code)]

use super::contract::{Device, Mark, Memory, Queue};
use super::host::{self, Fold, Store};
use super::names::{Name, Names};
use crate::error::{Error, Result};
use crate::memory::{Block, Span};
use crate::types::DType;
use std::any::Any;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};

/// The memory behind each name.
static NAMES: LazyLock<Arc<Names<Span>>> = LazyLock::new(Arc::default);

/// The device. All of them share one domain.
///
/// ```
/// use roundel::device::emulated::Emulated;
/// use roundel::{Communicator, Options, ReduceOp};
///
/// let options = Options { device: Some(Emulated::open()), ..Options::default() };
/// let comm = Communicator::threads(1, options)?.remove(0);
/// let mut data = comm.alloc_device::<f32>(3)?;
/// data.write(&[1.0, 2.0, 3.0])?;
/// let sum = comm.start_all_reduce(data, ReduceOp::Sum)?.wait()?;
/// assert_eq!(sum.to_vec()?, [1.0, 2.0, 3.0]);
/// # Ok::<(), roundel::Error>(())
/// ```
#[derive(Debug)]
pub struct Emulated {
    /// Pieces of work that still succeed.
    healthy: Arc<AtomicUsize>,
}

impl Emulated {
    /// One that works.
    pub fn open() -> Arc<Emulated> {
        Emulated::failing_after(usize::MAX)
    }

    /// One whose driver reports an error for every piece of work after so many.
    pub fn failing_after(pieces: usize) -> Arc<Emulated> {
        Arc::new(Emulated { healthy: Arc::new(AtomicUsize::new(pieces)) })
    }
}

/// A name and the memory behind it; the name goes first.
struct Kept {
    _name: Name<Span>,
    _block: Block,
}

impl Device for Emulated {
    fn name(&self) -> &str {
        "emulated:0 (memory out of reach)"
    }

    fn domain(&self) -> u8 {
        31
    }

    fn alloc(&self, len_bytes: usize) -> Result<Memory> {
        let block = Block::new(len_bytes.next_multiple_of(8));
        let name = NAMES.give(len_bytes, block.span().cut(0, len_bytes))?;
        Ok(Memory::new(name.span(), Box::new(Kept { _name: name, _block: block })))
    }

    fn alloc_host(&self, len_bytes: usize) -> Result<Memory> {
        // Lines are 64 bytes, blocks aligned to 8.
        let block = Block::new(len_bytes.next_multiple_of(8) + 64);
        let skip = block.span().addr().next_multiple_of(64) - block.span().addr();
        Ok(Memory::new(block.span().cut(skip, len_bytes), Box::new(block)))
    }

    fn adopt(&self, _host: Span) -> Option<Box<dyn Any + Send + Sync>> {
        None
    }

    fn holds(&self, span: Span) -> bool {
        NAMES.find(span).is_some()
    }

    fn queue(&self) -> Result<Box<dyn Queue>> {
        Ok(Box::new(Late { jobs: VecDeque::new(), put: 0, healthy: self.healthy.clone() }))
    }
}

/// A queue that works only when asked.
struct Late {
    jobs: VecDeque<Job>,
    /// How many were ever put in line.
    put: u64,
    healthy: Arc<AtomicUsize>,
}

/// A piece of work, on memory that the host can reach.
enum Job {
    Copy { from: Span, into: Vec<Span> },
    Reduce { fold: Fold, finish: bool, from: Vec<Span>, into: Vec<Span> },
    Scale { dtype: DType, scalar_bits: u64, from: Span, into: Span },
}

impl Job {
    fn run(self) {
        match self {
            Job::Copy { from, into } => host::copy(from, &into, Store::Cached),
            Job::Reduce { fold, finish, from, into } => host::reduce(&fold, finish, &from, &into, Store::Cached),
            Job::Scale { dtype, scalar_bits, from, into } => host::scale(dtype, scalar_bits, from, into),
        }
    }
}

/// The memory behind a span.
fn reach(span: Span) -> Span {
    NAMES.find(span).map_or(span, |(memory, offset)| memory.cut(offset, span.len()))
}

fn reach_all(spans: &[Span]) -> Vec<Span> {
    spans.iter().copied().map(reach).collect()
}

impl Late {
    fn put(&mut self, job: Job) -> Result<()> {
        self.jobs.push_back(job);
        self.put += 1;
        Ok(())
    }

    fn run_one(&mut self) -> Result<()> {
        let Some(job) = self.jobs.pop_front() else { return Ok(()) };
        // Relaxed: a countdown that nothing else hangs on.
        let is_healthy = self.healthy.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        if is_healthy.is_err() {
            self.jobs.clear();
            return Err(Error::refused_by_system("emulated:0: working", "it was told to fail", 0));
        }
        job.run();
        Ok(())
    }
}

impl Queue for Late {
    fn copy(&mut self, from: Span, into: &[Span]) -> Result<()> {
        self.put(Job::Copy { from: reach(from), into: reach_all(into) })
    }

    fn reduce(&mut self, fold: &Fold, finish: bool, from: &[Span], into: &[Span]) -> Result<()> {
        self.put(Job::Reduce { fold: *fold, finish, from: reach_all(from), into: reach_all(into) })
    }

    fn scale(&mut self, dtype: DType, scalar_bits: u64, from: Span, into: Span) -> Result<()> {
        self.put(Job::Scale { dtype, scalar_bits, from: reach(from), into: reach(into) })
    }

    fn mark(&mut self) -> Result<Mark> {
        Ok(Mark(self.put))
    }

    fn passed(&mut self, mark: Mark) -> Result<bool> {
        let is_passed = |late: &Late| late.put - late.jobs.len() as u64 >= mark.0;
        if is_passed(self) {
            return Ok(true);
        }
        self.run_one()?;
        Ok(is_passed(self))
    }

    fn drain(&mut self) -> Result<()> {
        while !self.jobs.is_empty() {
            self.run_one()?;
        }
        Ok(())
    }
}

#[test]
fn it_keeps_the_contract() {
    super::conformance::conform(&*Emulated::open());
}
