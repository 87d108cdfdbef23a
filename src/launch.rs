//! Ranks on this machine without a launcher: a program starts itself again, once per rank.
//!
//! ```no_run
//! use roundel::{Communicator, launch};
//! use std::process::ExitCode;
//!
//! fn main() -> Result<ExitCode, roundel::Error> {
//!     if let Some(code) = launch::local(4)? {
//!         return Ok(code); // the parent; its four children have ended
//!     }
//!     let comm = Communicator::from_env()?; // a child, or a rank that torchrun, mpirun or srun started
//!     println!("rank {} of {}", comm.rank(), comm.world());
//!     Ok(ExitCode::SUCCESS)
//! }
//! ```
//!
//! A child finds `ROUNDEL_RANK`, `ROUNDEL_WORLD_SIZE` and `ROUNDEL_UNIQUE_ID` in its environment, as from any launcher,
//! and dies with its parent. When one child fails the others get a moment to say so themselves and are then killed; the
//! parent says which was first.
#![forbid(unsafe_code)]

use crate::Communicator;
use crate::bootstrap::{Launch, UniqueId, launcher};
use crate::error::{Error, Result};
use crate::types::Rank;
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getppid};
use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitCode, ExitStatus};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Set in children: the parent's process id.
pub(crate) const PARENT: &str = "ROUNDEL_LAUNCHED_BY";

/// After the first failure: time for the others to find out and to print what they know.
const GRACE: Duration = Duration::from_secs(2);

/// A child that exits with this ended well but has bad news (a check failed): not a reason to kill the others.
pub const BAD_NEWS: u8 = 1;

/// What a launcher (ours or another) left in the environment of this process, if one started it.
pub fn found() -> Result<Option<Launch>> {
    launcher::of_this_process()
}

/// True in a process that [`local`] started.
pub fn is_child() -> bool {
    std::env::var_os(PARENT).is_some()
}

/// In the parent: starts this program again `procs` times with the same arguments, waits for all, and returns the exit
/// code to leave with. In a child, and in a process that another launcher started, returns `None` at once.
pub fn local(procs: usize) -> Result<Option<ExitCode>> {
    if is_child() {
        die_with_parent()?;
        return Ok(None);
    }
    if found()?.is_some() {
        return Ok(None);
    }
    start_and_wait(procs).map(Some)
}

/// As many ranks as the machine has cores, but at least 2, so that there is something to communicate, and at most 8.
pub fn default_procs() -> usize {
    std::thread::available_parallelism().map_or(2, |cores| cores.get().clamp(2, 8))
}

/// A new id that all ranks of `comm` know, for another communicator: with other options, or with more ranks than
/// processes. Collective. The id's root lives in rank 0's process.
pub fn new_id(comm: &Communicator) -> Result<UniqueId> {
    if comm.rank() == 0 {
        let id = UniqueId::new()?;
        comm.broadcast(&mut id.to_bytes(), 0)?;
        return Ok(id);
    }
    let mut bytes = [0; UniqueId::LEN_BYTES];
    comm.broadcast(&mut bytes, 0)?;
    UniqueId::from_bytes(&bytes)
}

/// From now on this process ends when the one that [`PARENT`] names does.
pub(crate) fn die_with_parent() -> Result<()> {
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(|errno| Error::system("asking to die with the parent", errno))?;
    let parent = std::env::var(PARENT).unwrap_or_default();
    // It may have died before the line above.
    if getppid().to_string() != parent {
        return Err(Error::invalid(format!("the process that started this rank ({PARENT}={parent}) is gone")));
    }
    Ok(())
}

fn start_and_wait(procs: usize) -> Result<ExitCode> {
    let program = std::env::current_exe().map_err(|error| Error::system("finding this program's file", error))?;
    // All ranks are on this machine, so they need no network but loopback, unless told otherwise.
    let interface = std::env::var("ROUNDEL_IFACE").unwrap_or_else(|_| "127.0.0.1".into());
    let id = UniqueId::with_interface(&interface)?;
    let mut children = Children::default();
    for rank in 0..procs {
        let child = Command::new(&program)
            .args(std::env::args_os().skip(1))
            .env(PARENT, std::process::id().to_string())
            .env("ROUNDEL_IFACE", &interface)
            .env("ROUNDEL_RANK", rank.to_string())
            .env("ROUNDEL_LOCAL_RANK", rank.to_string())
            .env("ROUNDEL_WORLD_SIZE", procs.to_string())
            .env("ROUNDEL_UNIQUE_ID", id.to_string())
            .spawn();
        match child {
            Ok(child) => children.watch(rank, child)?,
            // Dropping `children` ends those that are running.
            Err(error) => return Err(Error::system(format!("starting rank {rank} of {procs}"), error)),
        }
    }
    children.wait()
}

/// Running children. Those that still run when it is dropped are killed.
pub(crate) struct Children {
    running: BTreeMap<Rank, Pid>,
    ended: mpsc::Receiver<(Rank, std::io::Result<ExitStatus>)>,
    end: mpsc::Sender<(Rank, std::io::Result<ExitStatus>)>,
}

impl Default for Children {
    fn default() -> Children {
        let (end, ended) = mpsc::channel();
        Children { running: BTreeMap::new(), ended, end }
    }
}

impl Children {
    pub(crate) fn watch(&mut self, rank: Rank, mut child: Child) -> Result<()> {
        self.running.insert(rank, Pid::from_raw(child.id() as i32));
        let end = self.end.clone();
        std::thread::Builder::new()
            .name(format!("wait-{rank}"))
            // The receiver is gone only when nobody wants to know any more.
            .spawn(move || drop(end.send((rank, child.wait()))))
            .map_err(|error| Error::system(format!("watching rank {rank}"), error))?;
        Ok(())
    }

    pub(crate) fn wait(mut self) -> Result<ExitCode> {
        let mut code = 0;
        let mut failed_at: Option<Instant> = None;
        while !self.running.is_empty() {
            let report = match failed_at {
                None => self.ended.recv().ok(),
                Some(at) => self.ended.recv_timeout(GRACE.saturating_sub(at.elapsed())).ok(),
            };
            let Some((rank, status)) = report else {
                // Grace is over.
                return Ok(ExitCode::from(code));
            };
            let pid = self.running.remove(&rank);
            let status = status.map_err(|error| Error::system(format!("waiting for rank {rank}"), error))?;
            let failure = failure_code(status);
            if failure == 0 || code > BAD_NEWS {
                continue;
            }
            code = failure;
            if failure != BAD_NEWS {
                failed_at = Some(Instant::now());
                let pid = pid.map_or(String::new(), |pid| format!(" (process {pid})"));
                eprintln!("{}: rank {rank}{pid} {}; ending the others", program_name(), describe(status));
            }
        }
        Ok(ExitCode::from(code))
    }
}

impl Drop for Children {
    fn drop(&mut self) {
        for pid in self.running.values() {
            // It may have ended by itself meanwhile; then there is nobody to kill.
            let _ = kill(*pid, Signal::SIGKILL);
        }
    }
}

/// The exit code that stands for a child's end; the shell's convention where a signal was the cause.
fn failure_code(status: ExitStatus) -> u8 {
    match (status.code(), status.signal()) {
        (Some(code), _) => code as u8,
        (None, Some(signal)) => 128 + signal as u8,
        (None, None) => u8::MAX,
    }
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal().map(Signal::try_from)) {
        (Some(code), _) => format!("failed with exit code {code}"),
        (None, Some(Ok(signal))) => format!("was killed by {signal}"),
        _ => format!("ended: {status}"),
    }
}

/// The file name that this program was started by, for messages.
pub fn program_name() -> String {
    let path = std::env::args_os().next().unwrap_or_default();
    std::path::Path::new(&path).file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn children(scripts: &[&str]) -> Children {
        let mut children = Children::default();
        for (rank, script) in scripts.iter().enumerate() {
            let child = Command::new("sh").args(["-c", script]).spawn().unwrap();
            children.watch(rank, child).unwrap();
        }
        children
    }

    fn code(scripts: &[&str]) -> String {
        format!("{:?}", children(scripts).wait().unwrap())
    }

    #[test]
    fn all_well() {
        assert_eq!(code(&["true", "true"]), format!("{:?}", ExitCode::SUCCESS));
    }

    #[test]
    fn the_first_failure_counts_and_nobody_is_left_behind() {
        let begin = Instant::now();
        assert_eq!(code(&["exec sleep 600", "exit 3"]), format!("{:?}", ExitCode::from(3)));
        assert!(begin.elapsed() < Duration::from_secs(60));
        assert_eq!(code(&["kill -9 $$", "exec sleep 600"]), format!("{:?}", ExitCode::from(137)));
    }

    #[test]
    fn bad_news_lets_the_others_finish() {
        let note = std::env::temp_dir().join(format!("roundel-launch-{}", std::process::id()));
        let slow = format!("i=0; while [ $i -lt 50000 ]; do i=$((i+1)); done; echo done > {}", note.display());
        assert_eq!(code(&["exit 1", &slow]), format!("{:?}", ExitCode::from(BAD_NEWS)));
        assert_eq!(std::fs::read_to_string(&note).unwrap(), "done\n");
        std::fs::remove_file(&note).unwrap();
    }

    #[test]
    fn dropped_children_are_killed() {
        let children = children(&["exec sleep 600"]);
        let pid = children.running[&0];
        drop(children);
        let deadline = Instant::now() + Duration::from_secs(60);
        while kill(pid, None).is_ok() {
            assert!(Instant::now() < deadline, "process {pid} is still there");
            std::thread::yield_now();
        }
    }

    #[test]
    fn some_default_makes_sense_everywhere() {
        assert!((2..=8).contains(&default_procs()));
    }
}
