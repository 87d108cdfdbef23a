//! Where a suite runs: ranks as threads over memory, TCP or libfabric, as processes over shared memory, as processes that
//! believe to be on several hosts.
//!
//! For processes this test binary starts itself again: a child runs the one test [`child`], which finds in its environment
//! which suite it is to run as which rank.

use crate::players::Player;
use crate::suites::{SUITES, Suite};
use crate::support;
use roundel::{Communicator, Options, TransportChoice, UniqueId};
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// A bound for what takes a second or so unless it hangs.
const LONG: Duration = Duration::from_secs(120);

/// Which provider of libfabric, and which interface, the backend of processes takes: for a machine with one that is real.
const PROVIDER: &str = "CONFORMANCE_FABRIC_PROVIDER";
const INTERFACE: &str = "CONFORMANCE_INTERFACE";

/// Names the suite that a child is to run.
const SUITE: &str = "ROUNDEL_CONFORMANCE_SUITE";

/// Ranks and what lies between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// Threads of this process, that see each other's memory.
    Memory,
    /// Threads of this process, that speak TCP.
    Tcp,
    /// Processes that share memory.
    Shm,
    /// Processes on several hosts, as they believe.
    Hosts,
    /// Threads of this process, that write into each other's rings through libfabric: provider `tcp;ofi_rxm`.
    FabricTcp,
    /// Likewise, provider `net`.
    FabricNet,
    /// Processes of one host, provider `shm`, which cannot join threads of one process.
    FabricShm,
    /// Processes on several hosts, as they believe, that share no memory but through libfabric.
    FabricHosts,
}

impl Backend {
    /// Numbers of ranks to try.
    pub fn worlds(self) -> &'static [usize] {
        match self {
            Backend::Memory => &[1, 2, 3, 4, 5, 7, 8],
            Backend::Tcp => &[1, 2, 3, 5, 8],
            Backend::Shm => &[1, 2, 3, 8],
            Backend::Hosts => &[2, 3, 5],
            Backend::FabricTcp | Backend::FabricNet | Backend::FabricShm => &[2, 3],
            Backend::FabricHosts => &[3],
        }
    }

    /// Every call crosses a network, and on a few cores its latency is what a test costs.
    pub fn is_far(self) -> bool {
        !matches!(self, Backend::Memory | Backend::Shm)
    }

    /// True when the environment names a provider: then it must be there, at the interface that it names too.
    fn is_real(self) -> bool {
        self == Backend::FabricHosts && std::env::var_os(PROVIDER).is_some()
    }

    /// The provider of libfabric that it takes, if any.
    fn provider(self) -> Option<String> {
        let chosen =
            || std::env::var(PROVIDER).unwrap_or_else(|_| support::fabric_over_sockets().unwrap_or("net").into());
        match self {
            Backend::FabricTcp => Some("tcp;ofi_rxm".into()),
            Backend::FabricNet => Some("net".into()),
            Backend::FabricShm => Some("shm".into()),
            Backend::FabricHosts => Some(chosen()),
            _ => None,
        }
    }

    /// Which host each rank is on.
    fn hosts(self, world: usize) -> &'static str {
        match (self, world) {
            (Backend::Hosts | Backend::FabricHosts, 2) => "ab",
            (Backend::Hosts | Backend::FabricHosts, 3) => "aab",
            (Backend::Hosts, 4) => "abba",
            (Backend::Hosts, 5) => "aaabb",
            (Backend::Hosts, 7) => "abcbcbc",
            _ => "aaaaaaaa",
        }
    }

    /// Runs a suite on `world` ranks. Panics with what the ranks had to say.
    pub fn run(self, suite: Suite, world: usize, options: &Options, player: &Player) {
        let patient = Options { timeout: LONG / 2, init_timeout: LONG / 2, ..options.clone() };
        // An emulated machine has pauses in which a second of silence means nothing.
        let heartbeat_timeout = if self.is_real() { LONG / 2 } else { patient.heartbeat_timeout };
        let options = Options { heartbeat_timeout, ..patient };
        let options = match self.provider() {
            Some(provider) if !self.is_real() && !support::has_fabric(&provider) => {
                return support::skip("fabric", &format!("libfabric is not installed, or has no provider {provider}"));
            }
            // Encryption is TCP's alone, and refused here.
            fabric_provider @ Some(_) => {
                Options { transport: TransportChoice::Fabric, fabric_provider, encrypt: false, ..options }
            }
            None => options,
        };
        match self {
            _ if self.has_processes() => in_processes(self, suite, world, &options, player),
            Backend::Tcp => in_threads(suite, world, Options { transport: TransportChoice::Tcp, ..options }, player),
            _ => in_threads(suite, world, options, player),
        }
    }

    /// Each rank is a process.
    pub fn has_processes(self) -> bool {
        matches!(self, Backend::Shm | Backend::Hosts | Backend::FabricShm | Backend::FabricHosts)
    }
}

fn in_threads(suite: Suite, world: usize, options: Options, player: &Player) {
    let transport = options.transport;
    let options = Options { device: roundel::device::open(player.device).unwrap(), ..options };
    let comms = Communicator::threads(world, options).unwrap();
    let wanted = if transport == TransportChoice::Auto || world == 1 { "memory".into() } else { transport.to_string() };
    assert_eq!(comms[0].transport(), wanted);
    std::thread::scope(|scope| {
        for comm in comms {
            scope.spawn(move || abort_on_panic(&comm, suite.body));
        }
    });
}

/// A rank that fails must not leave the others waiting for it until their deadline.
fn abort_on_panic(comm: &Communicator, body: fn(&Communicator)) {
    struct Guard<'a>(&'a Communicator);
    impl Drop for Guard<'_> {
        fn drop(&mut self) {
            if std::thread::panicking() {
                self.0.abort("a test failed on this rank");
            }
        }
    }
    let _guard = Guard(comm);
    body(comm);
}

/// Ends its process, however the test ends.
struct Rank(Child);

impl Drop for Rank {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn in_processes(backend: Backend, suite: Suite, world: usize, options: &Options, player: &Player) {
    let id = UniqueId::with_interface("lo").unwrap();
    let transport = match backend {
        Backend::Shm => "shm",
        Backend::FabricShm | Backend::FabricHosts => "fabric",
        _ => "auto",
    };
    let interface = std::env::var(INTERFACE).unwrap_or_else(|_| "lo".into());
    let (said, hear) = mpsc::channel();
    let start = |rank: usize| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "backend::child", "--nocapture", "--test-threads=1"]).env(SUITE, suite.name);
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ROUNDEL_")) {
            command.env_remove(name);
        }
        command
            .env(SUITE, suite.name)
            .env("ROUNDEL_UNIQUE_ID", id.to_string())
            .env("ROUNDEL_RANK", rank.to_string())
            .env("ROUNDEL_WORLD_SIZE", world.to_string())
            .env("ROUNDEL_HOST_ID", format!("{}-{}", std::process::id(), &backend.hosts(world)[rank..=rank]))
            .env("ROUNDEL_TRANSPORT", transport)
            .env("ROUNDEL_DEVICE", player.device)
            .env("ROUNDEL_IFACE", &interface)
            .env("ROUNDEL_FABRIC_PROVIDER", options.fabric_provider.as_deref().unwrap_or_default())
            .env("ROUNDEL_ALGO", options.algorithm.map_or("", |algorithm| algorithm.name()))
            .env("ROUNDEL_CHANNELS", options.channels.map_or(String::new(), |channels| channels.to_string()))
            .env("ROUNDEL_SOCKETS", options.sockets.to_string())
            .env("ROUNDEL_REPRODUCIBLE", u8::from(options.reproducible).to_string())
            .env("ROUNDEL_ENCRYPT", u8::from(options.encrypt).to_string())
            .env("ROUNDEL_CHECKSUM", u8::from(options.checksum).to_string())
            .env("ROUNDEL_VERIFY_RESULTS", u8::from(options.verify_results).to_string())
            .env("ROUNDEL_STAGE_BYTES", options.stage_bytes.to_string())
            .env("ROUNDEL_RING_BYTES", options.ring_bytes.to_string())
            .env("ROUNDEL_TIMEOUT_MS", options.timeout.as_millis().to_string())
            .env("ROUNDEL_HEARTBEAT_TIMEOUT_MS", options.heartbeat_timeout.as_millis().to_string())
            .env("ROUNDEL_INIT_TIMEOUT_MS", options.init_timeout.as_millis().to_string())
            .envs(player.libraries.as_ref().map(|folder| ("LD_LIBRARY_PATH", folder)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (mut out, mut err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let said = said.clone();
        std::thread::spawn(move || {
            let mut text = String::new();
            let _ = err.read_to_string(&mut text).and_then(|_| out.read_to_string(&mut text));
            let _ = said.send((rank, text));
        });
        Rank(child)
    };
    let mut ranks: Vec<Rank> = (0..world).map(start).collect();
    let deadline = Instant::now() + LONG;
    let mut complaints = Vec::new();
    for _ in 0..world {
        match hear.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok((rank, text)) if !ranks[rank].0.wait().unwrap().success() => complaints.push((rank, text)),
            Ok(_) => {}
            Err(_) => {
                complaints.push((world, format!("not all ranks ended within {LONG:?}")));
                break;
            }
        }
    }
    let told: Vec<String> = complaints.iter().map(|(rank, text)| format!("--- rank {rank}:\n{text}")).collect();
    assert!(
        told.is_empty(),
        "{} on {world} ranks over {backend:?}, {player:?}, {options:?}\n{}",
        suite.name,
        told.join("\n")
    );
}

/// Not a test of its own: what a rank that is a process does.
#[test]
fn child() {
    let Ok(name) = std::env::var(SUITE) else { return };
    let suite = SUITES.iter().find(|suite| suite.name == name).expect("parent and child are one binary");
    let comm = Communicator::from_env().unwrap();
    abort_on_panic(&comm, suite.body);
}
