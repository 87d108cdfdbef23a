//! The `*_perf` programs: measure a collective over a range of sizes and check every result, with the flags, the columns
//! and the bandwidth formulas of nccl-tests, so that numbers and habits carry over.
//!
//! ```text
//!   args       the command line, made into settings   geometry  what a size means for a collective
//!   sweep      row after row, on all ranks together   data      values whose reduction is exact in any order; pattern
//!     measure  warm up, time, check                   stats     median, percentiles
//!       bench  buffers and calls                      row       one line of results: text, JSON, CSV
//!     explain  what would run                         report    where lines go; plot: the picture
//!   start      ranks, as processes and threads        tune      roundel-tune: every way to do every call
//! ```
//!
//! Ranks are processes that [`crate::launch`] starts (`--procs`), or that torchrun, mpirun or srun started, each with
//! `-t` threads. Exit codes: 0 all right, 1 wrong results, 2 the command line makes no sense, 3 a call failed.

pub mod args;
pub mod bench;
pub mod data;
pub mod explain;
pub mod geometry;
pub mod measure;
pub mod pattern;
pub mod plot;
pub mod report;
pub mod row;
pub mod settings;
mod start;
pub mod stats;
pub mod sweep;
pub mod tune;

use crate::error::{Error, Result};
use crate::types::Collective;
use crate::{Communicator, Options};
use report::Report;
use settings::Settings;
use start::{Crew, Failure};
use std::io::Write;
use std::process::ExitCode;
use sweep::Outcome;

/// Exit code: the command line makes no sense.
pub(crate) const BAD_USAGE: u8 = 2;
/// Exit code: a call failed, a rank was lost.
const FAILED: u8 = 3;

/// The whole of a `*_perf` program.
pub fn main(collective: Collective) -> ExitCode {
    crate::log::to_stderr();
    let name = args::binary_name(collective);
    match args::parse(collective, std::env::args_os()) {
        Ok(settings) => finish(name, start(settings)),
        Err(error) => refuse(name, &error),
    }
}

/// The exit code; what failed is said.
fn finish(program: &str, outcome: std::result::Result<ExitCode, Failure>) -> ExitCode {
    outcome.unwrap_or_else(|Failure { rank, error }| {
        let rank = rank.map_or(String::new(), |rank| format!(" rank {rank}:"));
        // In one piece: the other ranks may be saying something too.
        let line = format!("{program}:{rank} {error}\n");
        _ = std::io::stderr().write_all(line.as_bytes());
        let usage = matches!(error, Error::Invalid { .. });
        ExitCode::from(if usage { BAD_USAGE } else { FAILED })
    })
}

/// What a command line that is not to be run ends with: one clear line, or the help that was asked for.
pub(crate) fn refuse(program: &str, error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        // Help or version; nothing is lost if nobody reads it.
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    let text = error.to_string();
    let first_part = text.split("\n\n").next().unwrap_or(&text);
    let line = first_part.split_whitespace().collect::<Vec<_>>().join(" ");
    eprintln!("{program}: {} (--help lists all flags)", line.trim_start_matches("error: "));
    ExitCode::from(BAD_USAGE)
}

fn start(settings: Settings) -> std::result::Result<ExitCode, Failure> {
    let crew = Crew { procs: settings.procs, threads: settings.threads, options: options(&settings)? };
    let files = settings.clone();
    start::on_all_ranks(&crew, move || files.try_files(), move |comm| one_rank(comm, &settings))
}

fn options(settings: &Settings) -> Result<Options> {
    let mut options = Options::from_env()?;
    options.reproducible |= settings.reproducible;
    if let Some(device) = &settings.device {
        options.set("device", device)?;
    }
    options.timeout = settings.timeout.unwrap_or(options.timeout);
    Ok(options)
}

fn one_rank(comm: Communicator, settings: &Settings) -> Result<Outcome> {
    let world = comm.world();
    if comm.rank() != 0 {
        return sweep::run(comm, settings, None);
    }
    let mut report = Report::new(settings, Box::new(std::io::stdout()))
        .map_err(|error| Error::system("opening a file for the results", error))?;
    let outcome = sweep::run(comm, settings, Some(&mut report))?;
    if let Some(path) = &settings.plot {
        let title = format!("{}, {world} ranks", settings.collective);
        let picture = plot::svg(&title, report.rows()).map_err(Error::invalid)?;
        std::fs::write(path, picture).map_err(|error| Error::system(format!("writing {}", path.display()), error))?;
    }
    Ok(outcome)
}
