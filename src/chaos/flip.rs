//! A bit of what travels becomes another: [`flip`].
//!
//! Nothing between two sockets of one machine can be made to do that without TCP's own checksum noticing, so it is done where the bytes
//! arrive: the receiver is watched, as by a debugger, until a receive has given it a good part of a record, and before it
//! looks at that a bit of it is turned over. So it would be if the network, a driver or memory had done it behind TCP's checksum.
#![forbid(unsafe_code)]

use crate::chaos::random::Random;
use crate::chaos::rank::clock;
use crate::chaos::sockets;
use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

/// A receive of so many bytes was of data: words of the control plane are shorter.
const LEAST_BYTES: usize = 2048;
/// No receive that is watched asks for more.
const MOST_BYTES: usize = 1 << 20;
/// Between two looks at threads that all run.
const PAUSE: Duration = Duration::from_micros(20);

/// A bit that was turned over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flip {
    /// When, on the clock that all processes share.
    pub at: Duration,
    /// Whose bytes these were: the other end of the connection, as [`sockets::Socket`] writes it.
    pub sender: String,
}

/// Turns over a bit of what `pid` is about to receive. Blocks until it has received something, at most until the deadline.
pub fn flip(pid: Pid, random: &mut Random, deadline: Instant) -> Result<Flip, String> {
    // The kernel lets the watched go when the thread that watches them ends.
    std::thread::scope(|scope| {
        let watching = scope.spawn(|| Watch::begin(pid)?.flip(random, deadline));
        watching.join().unwrap_or_else(|_| Err("a panic while a rank was watched".into()))
    })
}

/// All threads of a process, each stopped whenever it enters or leaves the kernel.
struct Watch {
    pid: Pid,
    memory: File,
    threads: Vec<Pid>,
    /// Of those that are in the kernel: what they receive there.
    inside: HashMap<Pid, Option<Receive>>,
}

/// A receive that goes on.
struct Receive {
    fd: i32,
    address: u64,
    /// What was in its buffer when it began.
    before: Vec<u8>,
}

impl Watch {
    fn begin(pid: Pid) -> Result<Watch, String> {
        let refused = |what: &'static str| move |error: Errno| format!("{what} process {pid}: {error}");
        let memory = OpenOptions::new().read(true).write(true).open(format!("/proc/{pid}/mem"));
        let memory = memory.map_err(|error| format!("opening the memory of process {pid}: {error}"))?;
        let tasks =
            std::fs::read_dir(format!("/proc/{pid}/task")).map_err(|error| format!("process {pid}: {error}"))?;
        let ids = tasks.flatten().filter_map(|task| task.file_name().to_str()?.parse().ok());
        let mut threads = Vec::new();
        for thread in ids.map(Pid::from_raw) {
            match ptrace::seize(thread, Options::PTRACE_O_TRACESYSGOOD) {
                // It has just ended.
                Err(Errno::ESRCH) => continue,
                outcome => outcome.map_err(refused("watching"))?,
            }
            ptrace::interrupt(thread).map_err(refused("stopping"))?;
            threads.push(thread);
        }
        Ok(Watch { pid, memory, threads, inside: HashMap::new() })
    }

    fn flip(mut self, random: &mut Random, deadline: Instant) -> Result<Flip, String> {
        while Instant::now() < deadline {
            let mut has_stopped = false;
            for thread in self.threads.clone() {
                let status = waitpid(thread, Some(WaitPidFlag::__WALL | WaitPidFlag::WNOHANG));
                let signal = match status {
                    Ok(WaitStatus::StillAlive) => continue,
                    Ok(WaitStatus::PtraceSyscall(_)) => {
                        if let Some(flip) = self.step(thread, random)? {
                            return Ok(flip);
                        }
                        None
                    }
                    Ok(WaitStatus::Stopped(_, signal)) => Some(signal),
                    Ok(WaitStatus::PtraceEvent(..)) => None,
                    // It has ended.
                    _ => {
                        self.threads.retain(|known| *known != thread);
                        continue;
                    }
                };
                has_stopped = true;
                // Gone meanwhile, if not.
                let _ = ptrace::syscall(thread, signal);
            }
            if !has_stopped {
                std::thread::sleep(PAUSE);
            }
        }
        Err(format!("process {} received nothing worth a bit in time", self.pid))
    }

    /// A thread enters the kernel or leaves it, by turns.
    fn step(&mut self, thread: Pid, random: &mut Random) -> Result<Option<Flip>, String> {
        let Some(receive) = self.inside.remove(&thread) else {
            let receive = self.receive(thread);
            self.inside.insert(thread, receive);
            return Ok(None);
        };
        let Some(Receive { fd, address, before }) = receive else { return Ok(None) };
        let mut after = vec![0; before.len()];
        let has_read = self.memory.read_exact_at(&mut after, address);
        // Up to the last byte that has changed all have come; behind it some may have that happen to be what was there.
        let received_bytes =
            before.iter().zip(&after).rposition(|(before, after)| before != after).map_or(0, |at| at + 1);
        if has_read.is_err() || received_bytes < LEAST_BYTES {
            return Ok(None);
        }
        let connection = sockets::of(self.pid).into_iter().find(|socket| socket.fd == fd);
        let Some(connection) = connection else { return Ok(None) };
        let at = random.within(0..=received_bytes - 1);
        let changed = after[at] ^ 1 << random.within(0..=7);
        let written = self.memory.write_all_at(&[changed], address + at as u64);
        written.map_err(|error| format!("writing to process {}: {error}", self.pid))?;
        Ok(Some(Flip { at: clock(), sender: connection.remote }))
    }

    /// What a thread that has just entered the kernel wants to receive there, if that is it.
    fn receive(&self, thread: Pid) -> Option<Receive> {
        let call = std::fs::read_to_string(format!("/proc/{}/task/{thread}/syscall", self.pid)).ok()?;
        // The call's number in decimal, then its arguments in hexadecimal: descriptor, address, length.
        let mut words = call.split_whitespace();
        if words.next()?.parse() != Ok(nix::libc::SYS_recvfrom) {
            return None;
        }
        let mut argument = || u64::from_str_radix(words.next()?.strip_prefix("0x")?, 16).ok();
        let (fd, address, len_bytes) = (argument()? as i32, argument()?, argument()? as usize);
        if !(LEAST_BYTES..=MOST_BYTES).contains(&len_bytes) {
            return None;
        }
        let mut before = vec![0; len_bytes];
        self.memory.read_exact_at(&mut before, address).ok()?;
        Some(Receive { fd, address, before })
    }
}
