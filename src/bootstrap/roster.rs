//! Where each rank of the job can be found, should the root be gone.
#![forbid(unsafe_code)]

use crate::error::Result;
use crate::types::Rank;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;

/// A rank's address and identity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Seat {
    /// Where it listens for those who look for a root.
    pub door: SocketAddr,
    /// Its process ([`crate::topology::detect::process_id`]).
    pub process: u64,
    pub pid: u32,
    /// The process table that `pid` belongs to.
    pub process_table: String,
}

/// All of them.
pub(super) type Roster = BTreeMap<Rank, Seat>;

impl Seat {
    /// Of this process.
    pub(super) fn here(door: SocketAddr, process: u64) -> Result<Seat> {
        Ok(Seat { door, process, pid: std::process::id(), process_table: process_table() })
    }

    /// True when the process is known not to run now: it has ended, or it is stopped (`SIGSTOP`, a debugger). Only known of
    /// processes of this machine.
    pub(super) fn is_still(&self) -> bool {
        matches!(self.state(), Some('T' | 't')) || self.has_ended()
    }

    /// True when the process is known to have ended.
    pub(super) fn has_ended(&self) -> bool {
        matches!(self.state(), Some('Z' | 'X'))
    }

    /// As the kernel names it; dead where there is no such process, nothing where that cannot be known.
    fn state(&self) -> Option<char> {
        if self.process_table != process_table() || self.process_table.is_empty() {
            return None;
        }
        match std::fs::read_to_string(format!("/proc/{}/stat", self.pid)) {
            // "pid (name) state ..."; the name may hold anything.
            Ok(stat) => stat.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Some('X'),
            Err(_) => None,
        }
    }
}

/// Names the table of processes that this one sees: one kernel, one namespace. Empty where that cannot be known.
fn process_table() -> String {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    let namespace = std::fs::metadata("/proc/self/ns/pid");
    match (boot, namespace) {
        (Ok(boot), Ok(namespace)) => format!("{}/{}", boot.trim(), namespace.ino()),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;
    use std::process::Command;
    use std::time::{Duration, Instant};

    fn until(condition: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !condition() {
            assert!(Instant::now() < deadline);
            std::thread::yield_now();
        }
    }

    #[test]
    fn stopped_and_ended_processes_are_still() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let here = Seat::here("127.0.0.1:1".parse().unwrap(), 1).unwrap();
        assert!(!here.is_still());
        let seat = Seat { pid: child.id(), ..here.clone() };
        until(|| !seat.is_still());
        let pid = Pid::from_raw(child.id() as i32);
        kill(pid, Signal::SIGSTOP).unwrap();
        until(|| seat.is_still());
        assert!(!seat.has_ended());
        assert!(!Seat { process_table: "elsewhere".into(), ..seat.clone() }.is_still(), "another machine's number");
        kill(pid, Signal::SIGCONT).unwrap();
        until(|| !seat.is_still());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(seat.is_still() && seat.has_ended());
    }
}
