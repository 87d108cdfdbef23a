//! What a run is to do, in words that make sense together: [`Settings`]. [`super::args`] makes them from flags.
#![forbid(unsafe_code)]

use crate::perf::data::RedOp;
use crate::types::{Collective, DType, Rank};
use clap::ValueEnum;
use std::path::PathBuf;
use std::time::Duration;

/// Which roots to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Root {
    /// This rank.
    Rank(Rank),
    /// Every rank, one after the other.
    All,
}

/// How much to explain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Explain {
    /// Algorithm, channels and chunks.
    Choice,
    /// And the program.
    Program,
}

/// How the calls of the timed loop follow each other (`-z`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// One blocking call after the other.
    BackToBack,
    /// With a barrier after every call.
    Barrier,
    /// Started, then waited for.
    Nonblocking,
}

/// Whose time is reported (`-a`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Average {
    /// Rank 0's.
    Rank0,
    /// The average over ranks.
    Mean,
    /// The fastest rank's.
    Min,
    /// The slowest rank's.
    Max,
}

/// Where rows go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sink {
    /// To standard output, instead of the table.
    Stdout,
    /// To a file, beside the table.
    File(PathBuf),
}

/// What to do, in words that make sense together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// What is measured.
    pub collective: Collective,
    /// The sizes in bytes, ascending.
    pub sizes: Vec<usize>,
    /// `4(factor)` or `1048576(bytes)`: how the sizes came about, for the table's header.
    pub step: String,
    /// Element types and reductions; no reduction where the collective has none.
    pub kinds: Vec<(DType, Option<RedOp>)>,
    /// Roots; rank 0 alone where the collective has none.
    pub root: Root,
    /// Processes, when asked for by number.
    pub procs: Option<usize>,
    /// Threads per process.
    pub threads: usize,
    /// Timed iterations, when asked for by number.
    pub iters: Option<u32>,
    /// Untimed iterations before.
    pub warmup: u32,
    /// Calls in flight at once.
    pub calls: u32,
    /// How often to do everything; `None`: until interrupted.
    pub cycles: Option<u32>,
    /// How calls follow each other.
    pub pace: Pace,
    /// Whose time is reported.
    pub average: Average,
    /// Report CPU time of the calling thread.
    pub cpu_time: bool,
    /// Buffers that peers can map.
    pub mapped: bool,
    /// The device that buffers are on, where that is said.
    pub device: Option<String>,
    /// Elements between an aligned address and the buffers.
    pub unalign: usize,
    /// Same memory in every iteration.
    pub reuse_buffers: bool,
    /// Ask for a fixed reduction order.
    pub reproducible: bool,
    /// Deadline of a call.
    pub timeout: Option<Duration>,
    /// Checked iterations.
    pub checks: u32,
    /// Where JSON goes.
    pub json: Option<Sink>,
    /// Where comma-separated rows go.
    pub csv: Option<Sink>,
    /// Where the picture goes.
    pub plot: Option<PathBuf>,
    /// Columns for single iterations.
    pub iteration_columns: bool,
    /// A column for the time of day.
    pub timestamps: bool,
    /// Explain instead of running.
    pub explain: Option<Explain>,
}

impl Settings {
    /// Creates the files that results are to go to, so that a path that cannot be written is found before anything runs.
    pub fn try_files(&self) -> Result<(), String> {
        let sinks = [&self.json, &self.csv].into_iter().filter_map(|sink| match sink {
            Some(Sink::File(path)) => Some(path),
            _ => None,
        });
        sinks.chain(&self.plot).try_for_each(|path| {
            std::fs::File::create(path).map(drop).map_err(|error| format!("{}: {error}", path.display()))
        })
    }
}
