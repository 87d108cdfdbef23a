//! Ranks in processes of their own: the test program starts itself again, and the new process plays one role of the test.
//!
//! ```text
//!   test                                     rank process
//!   Rank::start(command, "role", ..)  ───>   fn rank_process() { support::play(..) } : does the role's work
//!   rank.said("ready")                <───   say("ready 3")         lines with a mark, among whatever else is printed
//!   rank.tell("go")                   ───>   heard()
//! ```
#![allow(dead_code, reason = "each test program uses its part of it")]

pub mod netns;
pub mod standin;
pub mod suite;

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Long enough for a loaded machine, short enough that a hang is a failure.
pub const PATIENCE: Duration = Duration::from_secs(100);

/// Begins the lines that are meant for the test; libtest prints some of its own.
const MARK: &str = "@@";
/// Which role a rank process plays, and the role's argument.
const ROLE: &str = "ROUNDEL_TEST_ROLE";
const ARGUMENT: &str = "ROUNDEL_TEST_ARGUMENT";

/// In a rank process: its role and argument.
pub fn role() -> Option<(String, String)> {
    Some((std::env::var(ROLE).ok()?, std::env::var(ARGUMENT).unwrap_or_default()))
}

/// In a rank process: tells the test.
pub fn say(line: impl std::fmt::Display) {
    // On a line of its own, whatever libtest has begun.
    println!("\n{MARK}{line}");
    std::io::stdout().flush().unwrap();
}

/// In a rank process: the test's next word.
pub fn heard() -> String {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    line.trim().to_string()
}

/// True when the machine that runs the tests promises to have `what`, so that skipping would hide a failure.
pub fn is_required(what: &str) -> bool {
    let required = std::env::var("ROUNDEL_TEST_REQUIRE").unwrap_or_default();
    required.split([',', ' ']).any(|word| word == what)
}

/// Says that a test is not run, or fails where that may not be.
pub fn skip(what: &str, why: &str) {
    assert!(!is_required(what), "ROUNDEL_TEST_REQUIRE has {what}, but {why}");
    eprintln!("skipped: {why}");
}

pub fn has_ipv6() -> bool {
    std::net::TcpListener::bind("[::1]:0").is_ok()
}

/// True when libfabric is here and has this provider; `net` is one of versions before 2.
pub fn has_fabric(provider: &str) -> bool {
    let loopback = std::net::Ipv4Addr::LOCALHOST.into();
    roundel::transport::fabric::Hub::open(&[provider.to_string()], Some(loopback)).is_ok()
}

/// The provider of libfabric, over sockets, that works without special hardware; skipped, with a line that says so, where
/// there is none.
pub fn fabric_over_sockets() -> Option<&'static str> {
    let found = ["net", "tcp"].into_iter().find(|provider| has_fabric(provider));
    if found.is_none() {
        skip("fabric", "libfabric is not installed, or has neither provider net nor tcp");
    }
    found
}

/// True when `program` can be started.
pub fn has_program(program: &str) -> bool {
    Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

/// The command with nothing in its environment that a launcher, or the user of the tests, may have left there.
pub fn clean(mut command: Command) -> Command {
    for (name, _) in std::env::vars() {
        let prefixes = ["ROUNDEL_", "OMPI_", "PMI", "MPI_", "HYDRA", "SLURM_", "TORCHELASTIC_", "GROUP_", "LOCAL_"];
        let names = ["RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"];
        if prefixes.iter().any(|prefix| name.starts_with(prefix)) || names.contains(&name.as_str()) {
            command.env_remove(name);
        }
    }
    // What the user of the tests has measured is not to decide what they see.
    command.env("ROUNDEL_TUNE", "0");
    command
}

/// The words that make this program play a role.
pub fn rank_program() -> Vec<String> {
    let program = std::env::current_exe().unwrap().to_str().unwrap().to_string();
    [&program, "rank_process", "--exact", "--nocapture", "--test-threads=1"].map(String::from).to_vec()
}

/// A command, through `prefix` (as in `ip netns exec NAME`), that plays a role.
pub fn playing(prefix: &[&str], role: &str, argument: &str) -> Command {
    let words: Vec<String> = prefix.iter().map(|word| word.to_string()).chain(rank_program()).collect();
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]);
    let mut command = clean(command);
    command.env(ROLE, role).env(ARGUMENT, argument);
    command
}

/// A process that prints; killed when it is dropped.
pub struct Rank {
    /// How long its words and its end may take.
    pub patience: Duration,
    what: String,
    child: Child,
    lines: Receiver<String>,
    /// All that it printed, for when the test fails.
    log: Arc<Mutex<String>>,
    said: Vec<String>,
}

impl Rank {
    pub fn start(mut command: Command) -> Rank {
        let what = format!("{command:?}");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{what}: {error}"));
        let (sender, lines) = channel();
        let log = Arc::new(Mutex::new(String::new()));
        let (out, err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let out_log = log.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                out_log.lock().unwrap().push_str(&format!("{line}\n"));
                if let Some((_, line)) = line.split_once(MARK) {
                    let _ = sender.send(line.to_string());
                }
            }
        });
        let err_log = log.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(err).lines().map_while(Result::ok) {
                err_log.lock().unwrap().push_str(&format!("{line}\n"));
            }
        });
        Rank { patience: PATIENCE, what, child, lines, log, said: Vec::new() }
    }

    fn give_up(&self, why: &str) -> ! {
        panic!("{}\n{why}; it printed:\n{}", self.what, self.log.lock().unwrap())
    }

    /// Waits for a line that begins with `word` and returns the rest of it.
    pub fn said(&mut self, word: &str) -> String {
        let deadline = Instant::now() + self.patience;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    let rest = line.strip_prefix(word).map(|rest| rest.trim().to_string());
                    self.said.push(line);
                    if let Some(rest) = rest {
                        return rest;
                    }
                }
                Err(RecvTimeoutError::Timeout) => self.give_up(&format!("did not say {word:?} in time")),
                Err(RecvTimeoutError::Disconnected) => self.give_up(&format!("ended without saying {word:?}")),
            }
        }
    }

    /// All of its output so far.
    pub fn printed(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    pub fn pid(&self) -> nix::unistd::Pid {
        nix::unistd::Pid::from_raw(self.child.id() as i32)
    }

    /// Says something to it.
    pub fn tell(&mut self, line: &str) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    /// Ends it at once, as the kernel does when memory runs out.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for its end, which must come in time.
    pub fn ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + self.patience;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            if Instant::now() > deadline {
                self.give_up("did not end in time");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits for its good end; all that it said.
    pub fn finished(&mut self) -> Vec<String> {
        let status = self.ended();
        if !status.success() {
            self.give_up(&format!("ended with {status}"));
        }
        // Until its output is at its end, too.
        self.said.extend(self.lines.iter());
        self.said.clone()
    }
}

impl Drop for Rank {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
