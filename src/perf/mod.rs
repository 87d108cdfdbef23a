//! The `*_perf` programs: measure a collective over a range of sizes and check every result, with the flags, the columns
//! and the bandwidth formulas of nccl-tests, so that numbers and habits carry over.
//!
//! ```text
//!   args       the command line, made into settings   geometry  what a size means for a collective
//!   sweep      row after row, on all ranks together   data      values whose reduction is exact in any order; pattern
//!     measure  warm up, time, check                   stats     median, percentiles
//!       bench  buffers and calls                      row       one line of results: text, JSON, CSV
//!     explain  what would run                         report    where lines go; plot: the picture
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
pub mod stats;
pub mod sweep;

use crate::bootstrap::{Root, UniqueId};
use crate::error::{Error, Result};
use crate::types::{Collective, Rank};
use crate::{Communicator, Options, launch};
use report::Report;
use settings::Settings;
use std::process::ExitCode;
use std::sync::mpsc;
use sweep::Outcome;

/// Exit code: the command line makes no sense.
pub(crate) const BAD_USAGE: u8 = 2;
/// Exit code: a call failed, a rank was lost.
const FAILED: u8 = 3;

/// The whole of a `*_perf` program.
pub fn main(collective: Collective) -> ExitCode {
    crate::log::to_stderr();
    let settings = match args::parse(collective, std::env::args_os()) {
        Ok(settings) => settings,
        Err(error) => return refuse(args::binary_name(collective), &error),
    };
    match start(&settings) {
        Ok(code) => code,
        Err(Failure { rank, error }) => {
            let rank = rank.map_or(String::new(), |rank| format!(" rank {rank}:"));
            eprintln!("{}:{rank} {error}", args::binary_name(collective));
            let usage = matches!(error, Error::Invalid { .. });
            ExitCode::from(if usage { BAD_USAGE } else { FAILED })
        }
    }
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

/// An error, and the rank that met it if it was past the beginning.
struct Failure {
    rank: Option<Rank>,
    error: Error,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure { rank: None, error }
    }
}

/// Becomes the parent of local ranks, or the ranks of this process.
fn start(settings: &Settings) -> std::result::Result<ExitCode, Failure> {
    let launched = launch::found()?;
    if let (Some(launched), Some(procs), false) = (&launched, settings.procs, launch::is_child()) {
        return Err(Error::invalid(format!(
            "--procs {procs}: {} has already started {} processes; leave it out",
            launched.name, launched.world
        ))
        .into());
    }
    if !launch::is_child() && launched.as_ref().is_none_or(|launched| launched.rank == 0) {
        settings.try_files().map_err(Error::invalid)?;
    }
    let options = options(settings)?;
    let procs = settings.procs.or((settings.threads > 1).then_some(1));
    let is_alone = launched.is_none() && procs == Some(1);
    if !is_alone && let Some(code) = launch::local(procs.unwrap_or_else(launch::default_procs))? {
        return Ok(code);
    }
    let Some(launched) = launched else {
        return ranks(settings, &options, &UniqueId::with_interface("127.0.0.1")?, 0, 1);
    };
    if settings.threads == 1 {
        let comm = Communicator::from_env_with(options)?;
        return one_rank(comm, settings).map(exit_code);
    }
    // Several ranks a process. Under our own launcher they meet at the id they were given; other launchers' processes
    // meet first, to hand one around.
    if let Root::Id(id) = &launched.root {
        return ranks(settings, &options, id, launched.rank, launched.world);
    }
    let process = Communicator::from_env_with(options.clone())?;
    let id = launch::new_id(&process)?;
    let code = ranks(settings, &options, &id, process.rank(), process.world())?;
    // The id's root lives in the first process: nobody may still need it when that ends.
    process.barrier()?;
    Ok(code)
}

fn options(settings: &Settings) -> Result<Options> {
    let mut options = Options::from_env()?;
    options.reproducible |= settings.reproducible;
    options.timeout = settings.timeout.unwrap_or(options.timeout);
    Ok(options)
}

/// The ranks of this process, one a thread.
fn ranks(
    settings: &Settings,
    options: &Options,
    id: &UniqueId,
    process: usize,
    processes: usize,
) -> std::result::Result<ExitCode, Failure> {
    let world = processes * settings.threads;
    let (end, ended) = mpsc::channel();
    for thread in 0..settings.threads {
        let (settings, options, id, end) = (settings.clone(), options.clone(), id.clone(), end.clone());
        let rank = process * settings.threads + thread;
        let body = move || {
            let result = Communicator::init_with(&id, rank, world, options)
                .map_err(|error| Failure { rank: Some(rank), error })
                .and_then(|comm| one_rank(comm, &settings));
            // The receiver is gone only when the process is ending anyway.
            drop(end.send(result));
        };
        std::thread::Builder::new()
            .name(format!("rank-{rank}"))
            .spawn(body)
            .map_err(|error| Error::system(format!("starting a thread for rank {rank}"), error))?;
    }
    drop(end);
    let mut outcome = Outcome::Right;
    for _ in 0..settings.threads {
        let lost =
            || Failure { rank: None, error: Error::Aborted { by: process, reason: "a rank's thread panicked".into() } };
        // The first failure ends the process, and with it the other threads.
        if ended.recv().map_err(|_| lost())?? == Outcome::Wrong {
            outcome = Outcome::Wrong;
        }
    }
    Ok(exit_code(outcome))
}

fn one_rank(comm: Communicator, settings: &Settings) -> std::result::Result<Outcome, Failure> {
    let rank = comm.rank();
    let world = comm.world();
    let run = || {
        if rank != 0 {
            return sweep::run(comm, settings, None);
        }
        let mut report = Report::new(settings, Box::new(std::io::stdout()))
            .map_err(|error| Error::system("opening a file for the results", error))?;
        let outcome = sweep::run(comm, settings, Some(&mut report))?;
        if let Some(path) = &settings.plot {
            let title = format!("{}, {world} ranks", settings.collective);
            let picture = plot::svg(&title, report.rows()).map_err(Error::invalid)?;
            std::fs::write(path, picture)
                .map_err(|error| Error::system(format!("writing {}", path.display()), error))?;
        }
        Ok(outcome)
    };
    run().map_err(|error| Failure { rank: Some(rank), error })
}

fn exit_code(outcome: Outcome) -> ExitCode {
    match outcome {
        Outcome::Right => ExitCode::SUCCESS,
        Outcome::Wrong => ExitCode::from(launch::BAD_NEWS),
    }
}
