//! Ranks as threads and as processes, always with a bound on how long they may take.

use crate::support;
use nix::sys::signal::{Signal, kill};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use roundel::{Communicator, Options, Rank, TransportChoice, UniqueId};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Nothing here takes longer, even on a loaded machine; whatever does is taken for a hang.
pub const PATIENCE: Duration = Duration::from_secs(100);

const SCENARIO: &str = "FAILURES_SCENARIO";
const MAKES_ID: &str = "FAILURES_MAKES_ID";
const INVITATION: &str = "FAILURES_INVITATION";

/// A rank's part in a test with processes.
pub type Scenario = (&'static str, fn(Communicator));

/// One test at a time: most start several processes, and some measure.
pub fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What lies between the processes of a test: each in turn.
pub fn between_processes() -> Vec<&'static str> {
    let fabric = has_fabric().then_some("fabric");
    ["shm", "tcp"].into_iter().chain(fabric).collect()
}

/// The same between threads.
pub fn between_threads() -> Vec<TransportChoice> {
    let fabric = has_fabric().then_some(TransportChoice::Fabric);
    [TransportChoice::Memory, TransportChoice::Tcp].into_iter().chain(fabric).collect()
}

/// False, with a line that says so, where libfabric is missing.
pub fn has_fabric() -> bool {
    support::fabric_over_sockets().is_some()
}

/// The clock that all processes of a machine share.
pub fn clock() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).expect("Linux has this clock").into()
}

/// Default options over `transport`, which may not take long.
pub fn options(transport: TransportChoice) -> Options {
    Options { transport, timeout: PATIENCE / 2, init_timeout: PATIENCE / 2, ..Options::default() }
}

/// Runs one thread a rank; panics when one does, or does not end.
pub fn threads(world: usize, options: Options, rank: impl Fn(Communicator) + Clone + Send + 'static) {
    let comms = Communicator::threads(world, options).expect("the ranks of one process meet");
    each(comms, rank);
}

/// Runs one thread for each communicator, and waits for all.
pub fn each(comms: Vec<Communicator>, rank: impl Fn(Communicator) + Clone + Send + 'static) {
    let (ended, ends) = channel();
    let spawn = |comm: Communicator| {
        let (rank, ended) = (rank.clone(), ended.clone());
        let number = comm.rank();
        let thread = std::thread::spawn(move || {
            let _tells = Tells(number, ended);
            rank(comm);
        });
        (number, thread)
    };
    let mut running: Vec<(Rank, JoinHandle<()>)> = comms.into_iter().map(spawn).collect();
    while !running.is_empty() {
        let number = ends.recv_timeout(PATIENCE).unwrap_or_else(|_| {
            panic!("no end to ranks {:?}", running.iter().map(|(number, _)| *number).collect::<Vec<_>>())
        });
        let at = running.iter().position(|(running, _)| *running == number).expect("each ends once");
        if let Err(panic) = running.remove(at).1.join() {
            std::panic::resume_unwind(panic);
        }
    }
}

/// Says that a thread ends, however it does.
struct Tells(Rank, Sender<Rank>);

impl Drop for Tells {
    fn drop(&mut self) {
        let _ = self.1.send(self.0);
    }
}

/// Where the root service of a job of processes is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RootIn {
    /// In the test, which outlives all ranks.
    Parent,
    /// In rank 0's process.
    RankZero,
}

/// A job of processes. Dropped, it leaves none behind.
pub struct Job {
    children: Vec<Option<Child>>,
    lines: Receiver<(Rank, String)>,
    tell: Sender<(Rank, String)>,
    /// Lines that were read while another one was waited for.
    early: Vec<(Rank, String)>,
}

impl Job {
    /// Starts `world` processes that run `scenario`, with these settings beside the usual ones.
    pub fn start(scenario: &str, world: usize, root: RootIn, settings: &[(&str, &str)]) -> Job {
        Job::start_after(scenario, world, root, settings, |_| {})
    }

    /// The same; `meanwhile` sees the job's id when its root listens and not all ranks have come.
    pub fn start_after(
        scenario: &str,
        world: usize,
        root: RootIn,
        settings: &[(&str, &str)],
        meanwhile: impl FnOnce(&str),
    ) -> Job {
        let (tell, lines) = channel();
        let mut job = Job { children: Vec::new(), lines, tell: tell.clone(), early: Vec::new() };
        let id = match root {
            RootIn::Parent => UniqueId::with_interface("127.0.0.1").expect("loopback is there").to_string(),
            RootIn::RankZero => String::new(),
        };
        job.spawn(scenario, world, &id, settings, &tell);
        let id = if id.is_empty() { job.wait_for(0, "id") } else { id };
        meanwhile(&id);
        for _ in 1..world {
            job.spawn(scenario, world, &id, settings, &tell);
        }
        job
    }

    /// Starts a process that joins by this invitation. Its number among the job's processes, which is its rank if no other
    /// joins before it.
    pub fn invite(&mut self, scenario: &str, invitation: &str, settings: &[(&str, &str)]) -> Rank {
        let settings: Vec<_> = settings.iter().copied().chain([(INVITATION, invitation)]).collect();
        let tell = self.tell.clone();
        self.spawn(scenario, 0, "none", &settings, &tell);
        self.children.len() - 1
    }

    fn spawn(
        &mut self,
        scenario: &str,
        world: usize,
        id: &str,
        settings: &[(&str, &str)],
        tell: &Sender<(Rank, String)>,
    ) {
        let rank = self.children.len();
        let mut command = Command::new(std::env::current_exe().expect("a running program has a path"));
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("ROUNDEL_")) {
            command.env_remove(name);
        }
        command.args(["--exact", "harness::child", "--ignored", "--nocapture", "--test-threads=1"]);
        command.env(SCENARIO, scenario).env("ROUNDEL_RANK", rank.to_string());
        command.env("ROUNDEL_WORLD_SIZE", world.to_string()).env("ROUNDEL_TIMEOUT_MS", "60000");
        match id {
            "" => command.env(MAKES_ID, "1"),
            id => command.env("ROUNDEL_UNIQUE_ID", id),
        };
        command.envs(settings.iter().copied()).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("this program can be started again");
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        let tell = tell.clone();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                // The test runner's own words share the stream, and may share a line.
                if let Some((_, line)) = line.split_once('@') {
                    let _ = tell.send((rank, line.to_string()));
                }
            }
        });
        self.children.push(Some(child));
    }

    /// The rest of the next line of `rank` that begins with `word`.
    pub fn wait_for(&mut self, rank: Rank, word: &str) -> String {
        let wanted = |(from, line): &(Rank, String)| {
            let rest = line.strip_prefix(word)?;
            (*from == rank && (rest.is_empty() || rest.starts_with(' '))).then(|| rest.trim_start().to_string())
        };
        if let Some(at) = self.early.iter().position(|line| wanted(line).is_some()) {
            return wanted(&self.early.remove(at)).expect("it was just found");
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left);
            let line = line.unwrap_or_else(|_| panic!("rank {rank} never said {word}; heard: {:?}", self.early));
            match wanted(&line) {
                Some(rest) => return rest,
                None => self.early.push(line),
            }
        }
    }

    /// The same of several ranks.
    pub fn wait_for_all(&mut self, ranks: &[Rank], word: &str) -> Vec<String> {
        ranks.iter().map(|rank| self.wait_for(*rank, word)).collect()
    }

    /// The rest of all lines heard so far that begin with `word`.
    pub fn heard(&self, word: &str) -> Vec<String> {
        let lines = self.early.iter().filter_map(|(_, line)| line.strip_prefix(word));
        lines.map(|rest| rest.trim_start().to_string()).collect()
    }

    pub fn pid(&self, rank: Rank) -> Pid {
        Pid::from_raw(self.children[rank].as_ref().expect("it runs").id() as i32)
    }

    /// `kill -9`, and when.
    pub fn kill(&mut self, rank: Rank) -> Duration {
        self.signal(rank, Signal::SIGKILL)
    }

    /// Sends a signal, and says when.
    pub fn signal(&mut self, rank: Rank, signal: Signal) -> Duration {
        let at = clock();
        kill(self.pid(rank), signal).expect("our own child");
        at
    }

    /// Waits until the rank's process ends by itself.
    pub fn end_of(&mut self, rank: Rank) -> ExitStatus {
        let mut child = self.children[rank].take().expect("it was not waited for");
        let deadline = Instant::now() + PATIENCE;
        loop {
            match child.try_wait().expect("our own child") {
                Some(status) => return status,
                None if Instant::now() > deadline => {
                    self.children[rank] = Some(child);
                    panic!("rank {rank} does not end; heard: {:?}", self.early)
                }
                None => std::thread::sleep(Duration::from_millis(2)),
            }
        }
    }

    /// All these ranks end well.
    pub fn succeed(&mut self, ranks: &[Rank]) {
        for rank in ranks {
            let status = self.end_of(*rank);
            assert!(status.success(), "rank {rank}: {status}");
        }
    }

    /// Waits until every thread of the rank's process sleeps.
    pub fn wait_until_asleep(&self, rank: Rank) {
        let deadline = Instant::now() + PATIENCE;
        let mut seen_asleep = 0;
        while seen_asleep < 10 {
            assert!(Instant::now() < deadline, "rank {rank} does not fall asleep");
            seen_asleep = if self.is_asleep(rank) { seen_asleep + 1 } else { 0 };
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn is_asleep(&self, rank: Rank) -> bool {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid(rank))).expect("it runs");
        tasks.flatten().all(|task| {
            let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            stat.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with('S'))
        })
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        for child in self.children.iter_mut().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Says something to the test that started this rank.
pub fn say(line: impl std::fmt::Display) {
    println!("@{line}");
}

/// What a started process does: nothing, unless it is a rank.
#[test]
#[ignore = "a rank of another test's job"]
fn child() {
    let Ok(name) = std::env::var(SCENARIO) else { return };
    let all = [
        super::bad_input::SCENARIOS,
        super::death::SCENARIOS,
        super::elastic::SCENARIOS,
        super::idle::SCENARIOS,
        super::leaks::SCENARIOS,
        super::mismatch::SCENARIOS,
        super::remains::SCENARIOS,
        super::slow::SCENARIOS,
        super::survive::SCENARIOS,
        super::stranger::SCENARIOS,
        super::timeout::SCENARIOS,
    ];
    let scenario = all.into_iter().flatten().find(|(known, _)| *known == name);
    let (_, scenario) = scenario.unwrap_or_else(|| panic!("no scenario {name}"));
    super::stranger::count_lines();
    let comm = if let Ok(invitation) = std::env::var(INVITATION) {
        Communicator::enlist(&invitation.parse().expect("the test hands it on as it was said"))
    } else if std::env::var_os(MAKES_ID).is_some() {
        let id = UniqueId::with_interface("127.0.0.1").expect("loopback is there");
        say(format_args!("id {id}"));
        let world = std::env::var("ROUNDEL_WORLD_SIZE").unwrap().parse().unwrap();
        Communicator::init(&id, 0, world)
    } else {
        Communicator::from_env()
    };
    match comm {
        Ok(comm) => scenario(comm),
        Err(error) => {
            say(format_args!("refused {error}"));
            std::process::exit(1);
        }
    }
}
