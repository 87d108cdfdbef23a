//! Ranks for the programs: processes that this one starts, or that a launcher started, with one rank or several threads each.
#![forbid(unsafe_code)]

use crate::bootstrap::{Root, UniqueId};
use crate::error::{Error, Result};
use crate::perf::sweep::Outcome;
use crate::types::Rank;
use crate::{Communicator, Options, launch};
use std::process::ExitCode;
use std::sync::mpsc;

/// An error, and the rank that met it if it was past the beginning.
pub(crate) struct Failure {
    pub(crate) rank: Option<Rank>,
    pub(crate) error: Error,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure { rank: None, error }
    }
}

/// How many ranks, and with which options.
#[derive(Debug, Clone)]
pub(crate) struct Crew {
    /// Processes, when asked for by number.
    pub(crate) procs: Option<usize>,
    /// Ranks of each.
    pub(crate) threads: usize,
    pub(crate) options: Options,
}

/// What each rank does.
pub(crate) trait Task: Fn(Communicator) -> Result<Outcome> + Clone + Send + 'static {}

impl<T: Fn(Communicator) -> Result<Outcome> + Clone + Send + 'static> Task for T {}

/// Becomes the parent of local ranks, or the ranks of this process, and does the task on each of them. `prepare` runs once in
/// a job, before anything else.
pub(crate) fn on_all_ranks(
    crew: &Crew,
    prepare: impl FnOnce() -> std::result::Result<(), String>,
    task: impl Task,
) -> std::result::Result<ExitCode, Failure> {
    let launched = launch::found()?;
    if let (Some(launched), Some(procs), false) = (&launched, crew.procs, launch::is_child()) {
        return Err(Error::invalid(format!(
            "--procs {procs}: {} has already started {} processes; leave it out",
            launched.name, launched.world
        ))
        .into());
    }
    if !launch::is_child() && launched.as_ref().is_none_or(|launched| launched.rank == 0) {
        prepare().map_err(Error::invalid)?;
    }
    let procs = crew.procs.or((crew.threads > 1).then_some(1));
    let is_alone = launched.is_none() && procs == Some(1);
    if !is_alone && let Some(code) = launch::local(procs.unwrap_or_else(launch::default_procs))? {
        return Ok(code);
    }
    let Some(launched) = launched else {
        return ranks(crew, task, &UniqueId::with_interface("127.0.0.1")?, 0, 1);
    };
    if crew.threads == 1 {
        return one_rank(Communicator::from_env_with(crew.options.clone())?, &task).map(exit_code);
    }
    // Several ranks a process. Under our own launcher they meet at the id they were given; other launchers' processes
    // meet first, to hand one around.
    if let Root::Id(id) = &launched.root {
        return ranks(crew, task, id, launched.rank, launched.world);
    }
    let process = Communicator::from_env_with(crew.options.clone())?;
    let id = launch::new_id(&process)?;
    let code = ranks(crew, task, &id, process.rank(), process.world())?;
    // The id's root lives in the first process: nobody may still need it when that ends.
    process.barrier()?;
    Ok(code)
}

/// The ranks of this process, one a thread.
fn ranks(
    crew: &Crew,
    task: impl Task,
    id: &UniqueId,
    process: usize,
    processes: usize,
) -> std::result::Result<ExitCode, Failure> {
    let world = processes * crew.threads;
    let (end, ended) = mpsc::channel();
    for thread in 0..crew.threads {
        let (options, task, id, end) = (crew.options.clone(), task.clone(), id.clone(), end.clone());
        let rank = process * crew.threads + thread;
        let body = move || {
            let result = Communicator::init_with(&id, rank, world, options)
                .map_err(|error| Failure { rank: Some(rank), error })
                .and_then(|comm| one_rank(comm, &task));
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
    for _ in 0..crew.threads {
        let lost = || Failure {
            rank: None,
            error: Error::Aborted { by: process, reason: "a rank's thread panicked".into(), during: None },
        };
        // The first failure ends the process, and with it the other threads.
        if ended.recv().map_err(|_| lost())?? == Outcome::Wrong {
            outcome = Outcome::Wrong;
        }
    }
    Ok(exit_code(outcome))
}

fn one_rank(comm: Communicator, task: &impl Task) -> std::result::Result<Outcome, Failure> {
    let rank = comm.rank();
    task(comm).map_err(|error| Failure { rank: Some(rank), error })
}

fn exit_code(outcome: Outcome) -> ExitCode {
    match outcome {
        Outcome::Right => ExitCode::SUCCESS,
        Outcome::Wrong => ExitCode::from(launch::BAD_NEWS),
    }
}
