//! The processes of a job, from the outside: [`Crew`].
#![forbid(unsafe_code)]

use crate::chaos::rank::{SETTINGS, clock};
use crate::chaos::words::{Entrance, Order, Said};
use crate::cluster::network::Network;
use crate::launch;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// So many lines are kept of what a process logs and says.
const LOG_LINES: usize = 12;

/// A process, numbered in the order in which they were started.
pub type Hand = usize;

/// News of a process.
#[derive(Debug)]
pub enum Heard {
    /// It said something.
    Said(Said),
    /// It has ended.
    Gone,
}

struct Process {
    child: Child,
    stdin: ChildStdin,
    log: Log,
}

type Log = Arc<Mutex<VecDeque<String>>>;

/// The processes of a job. Dropped, it leaves none behind.
pub struct Crew {
    settings: Vec<(String, String)>,
    processes: BTreeMap<Hand, Process>,
    /// Of those that are gone.
    logs: BTreeMap<Hand, Log>,
    network: Option<Network>,
    started: usize,
    tell: Sender<(Hand, Heard)>,
    news: Receiver<(Hand, Heard)>,
}

impl Crew {
    /// Nobody yet. Every process gets these settings, and a network of its own where there is a `network`.
    pub fn new(settings: Vec<(String, String)>, network: Option<Network>) -> Crew {
        let (tell, news) = channel();
        Crew { settings, processes: BTreeMap::new(), logs: BTreeMap::new(), network, started: 0, tell, news }
    }

    /// Starts a process and tells it how to become a rank.
    pub fn start(&mut self, entrance: Entrance) -> Result<Hand, String> {
        let hand = self.started;
        self.started += 1;
        let program = std::env::current_exe().map_err(|error| format!("finding this program's file: {error}"))?;
        let mut words: Vec<OsString> = Vec::new();
        let mut iface = "127.0.0.1".to_string();
        if let Some(network) = &mut self.network {
            words.extend(network.plug(hand)?.into_iter().map(OsString::from));
            iface = network.address(hand, 0).to_string();
        }
        words.push(program.into());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        // What the user of this program, or a launcher, has set is not for these jobs; how much they log is.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("ROUNDEL_") && name != "ROUNDEL_LOG" {
                command.env_remove(name);
            }
        }
        command.env(launch::PARENT, std::process::id().to_string()).env("ROUNDEL_IFACE", iface);
        command.envs(self.settings.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| format!("starting a rank: {error}"))?;
        let (Some(stdin), Some(stdout), Some(stderr)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err("a child without pipes".into());
        };
        let log = Log::default();
        self.processes.insert(hand, Process { child, stdin, log: log.clone() });
        self.hear(hand, stdout)?;
        thread(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                note(&log, line);
            }
        })?;
        self.order(hand, &Order::Begin(entrance));
        Ok(hand)
    }

    fn hear(&self, hand: Hand, stdout: impl Read + Send + 'static) -> Result<(), String> {
        let tell = self.tell.clone();
        thread(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let said =
                    serde_json::from_str(&line).unwrap_or_else(|error| Said::Wrong(format!("{line:?}: {error}")));
                let _ = tell.send((hand, Heard::Said(said)));
            }
            let _ = tell.send((hand, Heard::Gone));
        })
    }

    /// Tells a process what to do. One that has just ended does not hear it.
    pub fn order(&mut self, hand: Hand, order: &Order) {
        if let (Some(process), Ok(line)) = (self.processes.get_mut(&hand), serde_json::to_string(order)) {
            let _ = writeln!(process.stdin, "{line}").and_then(|()| process.stdin.flush());
        }
    }

    /// Sends a signal, and says when.
    pub fn signal(&self, hand: Hand, signal: Signal) -> Duration {
        let at = clock();
        if let Some(pid) = self.pid(hand) {
            // It may have ended meanwhile; then there is nobody to strike.
            let _ = kill(pid, signal);
        }
        at
    }

    /// The process id.
    pub fn pid(&self, hand: Hand) -> Option<Pid> {
        self.processes.get(&hand).map(|process| Pid::from_raw(process.child.id() as i32))
    }

    /// The next news of a process that is not buried; `None` when the time is over.
    pub fn next(&mut self, deadline: Instant) -> Option<(Hand, Heard)> {
        loop {
            let news = self.news.recv_timeout(deadline.saturating_duration_since(Instant::now())).ok()?;
            if let Some(process) = self.processes.get(&news.0) {
                note(&process.log, format!("-> {:?}", news.1));
                return Some(news);
            }
        }
    }

    /// Makes sure that a process has ended. Nothing is heard of it any more.
    pub fn bury(&mut self, hand: Hand) {
        if let Some(mut process) = self.processes.remove(&hand) {
            let _ = process.child.kill();
            let _ = process.child.wait();
            self.logs.insert(hand, process.log);
            if let Some(network) = &mut self.network {
                network.unplug(hand);
            }
        }
    }

    /// Everybody who is not buried.
    pub fn hands(&self) -> Vec<Hand> {
        self.processes.keys().copied().collect()
    }

    /// The cables, where there are any.
    pub fn network(&mut self) -> Option<&mut Network> {
        self.network.as_mut()
    }

    /// The last lines that a process has logged, and what was heard of it.
    pub fn log(&self, hand: Hand) -> Vec<String> {
        let log = self.processes.get(&hand).map(|process| &process.log).or_else(|| self.logs.get(&hand));
        log.map_or(Vec::new(), |log| log.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect())
    }

    /// The setting that makes a process a rank.
    pub fn settings(seed: u64, largest_bytes: usize) -> (String, String) {
        (SETTINGS.to_string(), format!("{seed} {largest_bytes}"))
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        for hand in self.hands() {
            self.bury(hand);
        }
    }
}

fn note(log: &Log, line: String) {
    let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
    log.push_back(line);
    if log.len() > LOG_LINES {
        log.pop_front();
    }
}

fn thread(body: impl FnOnce() + Send + 'static) -> Result<(), String> {
    let started = std::thread::Builder::new().spawn(body);
    started.map(drop).map_err(|error| format!("starting a thread: {error}"))
}
