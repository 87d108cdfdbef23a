//! What a user may set, in code or through `ROUNDEL_*`.
#![forbid(unsafe_code)]

use super::tuning::Tune;
use crate::bootstrap::{Rhythm, StoreChoice};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::schedule::catalogue::Algorithm;
use crate::topology::TransportChoice;
use crate::transport::fabric::provider;
use crate::transport::shm::Arena;
use crate::transport::tcp::Guard;
use crate::transport::tcp::interface::PortRange;
use crate::tuner::table::{CHANNELS, SLICE_BYTES};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

/// Deadlines are sums of a clock and a timeout, and must not overflow.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(10 * 366 * 24 * 3600);

/// Settings of a communicator. All ranks must use the same, except `device`, `interface` and `port_range`; of `tune` and `tune_file`
/// only rank 0's count.
///
/// | field | variable | default |
/// |---|---|---|
/// | `timeout` | `ROUNDEL_TIMEOUT_MS` | 300 000 |
/// | `init_timeout` | `ROUNDEL_INIT_TIMEOUT_MS` | 120 000 |
/// | `heartbeat` | `ROUNDEL_HEARTBEAT_MS`, 0: off | 100 |
/// | `heartbeat_timeout` | `ROUNDEL_HEARTBEAT_TIMEOUT_MS` | 1 000 |
/// | `store` | `ROUNDEL_STORE` = `embedded`, `etcd://host:port,host:port` | `embedded` |
/// | `device` | `ROUNDEL_DEVICE` = `cpu`, `emulated`, `wgpu:ADAPTER` (see [`open`](crate::device::open)) | `cpu` |
/// | `transport` | `ROUNDEL_TRANSPORT` = `auto`, `memory`, `shm`, `tcp`, `fabric` | `auto` |
/// | `fabric_provider` | `ROUNDEL_FABRIC_PROVIDER` = `efa`, `verbs;ofi_rxm`, `net`, `tcp;ofi_rxm`, `shm`, ... | the first of these that is here, but `shm` |
/// | `algorithm` | `ROUNDEL_ALGO` = `ring`, `tree`, ... | by size and topology, or what `tune` found |
/// | `channels` | `ROUNDEL_CHANNELS` | 1, or what `tune` found |
/// | `slice_bytes` | `ROUNDEL_SLICE_BYTES` | what a slot holds, or what `tune` found |
/// | `tune` | `ROUNDEL_TUNE` = `auto`, `0`, `1`, `force` | `auto` |
/// | `tune_file` | `ROUNDEL_TUNE_FILE` | `$XDG_CACHE_HOME/roundel/tuning-...` |
/// | `sockets` | `ROUNDEL_SOCKETS` | 1 |
/// | `reproducible` | `ROUNDEL_REPRODUCIBLE` = `0`, `1` | 0 |
/// | `interface` | `ROUNDEL_IFACE` = name, address or subnet; several, with commas, are rails | the one that reaches rank 0 |
/// | `port_range` | `ROUNDEL_PORT_RANGE` = `first-last` | any free port |
/// | `encrypt` | `ROUNDEL_ENCRYPT` = `0`, `1` | 0 |
/// | `checksum` | `ROUNDEL_CHECKSUM` = `0`, `1` | 0 |
/// | `verify_results` | `ROUNDEL_VERIFY_RESULTS` = `0`, `1` | 0 |
/// | `stage_bytes` | `ROUNDEL_STAGE_BYTES` | 512 KiB |
/// | `ring_bytes` | `ROUNDEL_RING_BYTES`, a power of two | 256 KiB |
/// | `arena_bytes` | `ROUNDEL_ARENA_BYTES` | as much as the machine has memory, at most 64 GiB |
///
/// ```
/// use roundel::Options;
/// use std::time::Duration;
/// let options = Options { timeout: Duration::from_secs(5), reproducible: true, ..Options::default() };
/// assert!(options.check().is_ok());
/// ```
#[derive(Debug, Clone)]
pub struct Options {
    /// How long a call may take before it ends with [`Error::Timeout`] on every rank.
    pub timeout: Duration,
    /// How long to wait for all ranks to turn up.
    pub init_timeout: Duration,
    /// How often each rank says that it lives, from a thread that the application does not stop; zero: never, and then
    /// only ranks whose process ends are missed.
    pub heartbeat: Duration,
    /// A rank that is silent for so long is given up: it is frozen, cut off, or its machine has no time for it.
    pub heartbeat_timeout: Duration,
    /// Where the job keeps who has been given up and where its root is, so that it survives the loss of any host:
    /// "It survives" in the README, and [`StoreChoice`]. A job of one rank keeps nothing before it invites somebody.
    pub store: StoreChoice,
    /// The device on which buffers of calls may lie; `None`: all are in host memory. Each rank has its own: ranks with and
    /// without one, and with devices of different kinds, make calls together.
    pub device: Option<Arc<dyn Device>>,
    /// How ranks reach each other.
    pub transport: TransportChoice,
    /// Which of libfabric's providers to use. `auto` uses libfabric between hosts only for `efa` and `verbs;ofi_rxm`, where
    /// both ranks have it and nobody asked for encryption, and TCP otherwise.
    pub fabric_provider: Option<String>,
    /// The algorithm for every collective that it can do.
    pub algorithm: Option<Algorithm>,
    /// Parallel rings, trees and links.
    pub channels: Option<u8>,
    /// How much of a chunk goes through a slot of staging or private memory at once, at most. `None`: as much as fits, or what
    /// was measured to be better.
    pub slice_bytes: Option<usize>,
    /// Whether the choice of algorithm follows measurements; see [`Tune`].
    pub tune: Tune,
    /// Where measurements are kept: this file, which is used where it is about this topology. `None`: a file for each topology
    /// in `$XDG_CACHE_HOME/roundel` or `$HOME/.cache/roundel`.
    pub tune_file: Option<String>,
    /// TCP connections per link, and per rail where there are several; those have one more each.
    pub sockets: u8,
    /// Reduce in rank order, whatever the algorithm, size or transport: the same bits for the same number of ranks.
    pub reproducible: bool,
    /// Where this rank listens and dials: an interface, an address or a subnet. Several (at most 8) with commas between them,
    /// `eth0,eth1`, are *rails*: TCP links between hosts go over all of them, each carries what it can, and when one dies
    /// what it lost goes over the others, in the midst of calls; the log names it. The i-th of one rank reaches the i-th of
    /// another, over a network of its own; of two ranks that name different numbers as many count as both have. Shared
    /// memory needs none, and RDMA and the control plane use the first: a job does not survive the loss of the network
    /// that leads to rank 0's control connection.
    pub interface: Option<String>,
    /// Ports to listen on. A rank needs two of them, the root one more.
    pub port_range: Option<PortRange>,
    /// Encrypt what goes over TCP, data and control plane alike (AES-256-GCM, fresh keys for each connection). Shared memory
    /// needs none: only this user's processes reach it.
    pub encrypt: bool,
    /// A CRC-32C for every 64 KiB that go over TCP, against what its own checksum lets pass. Encryption does that too.
    pub checksum: bool,
    /// After every all_reduce, broadcast and all_gather compare a digest of the result across ranks; a difference is
    /// [`Error::Corrupted`] on all of them. Each such call reads its result once more and ends with a small all_gather,
    /// which is numbered like a call.
    pub verify_results: bool,
    /// Staging memory of each rank, two halves of this size, touched as far as it is used.
    pub stage_bytes: usize,
    /// What a shared-memory link holds.
    pub ring_bytes: usize,
    /// Address space for everything this rank shares: staging, links, [`Communicator::alloc`](crate::Communicator::alloc).
    /// Memory is taken only as it is used.
    pub arena_bytes: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            timeout: Duration::from_secs(300),
            init_timeout: Duration::from_secs(120),
            heartbeat: Rhythm::default().interval,
            heartbeat_timeout: Rhythm::default().timeout,
            store: StoreChoice::Embedded,
            device: None,
            transport: TransportChoice::Auto,
            fabric_provider: None,
            algorithm: None,
            channels: None,
            slice_bytes: None,
            tune: Tune::Auto,
            tune_file: None,
            sockets: 1,
            reproducible: false,
            interface: None,
            port_range: None,
            encrypt: false,
            checksum: false,
            verify_results: false,
            stage_bytes: 512 << 10,
            ring_bytes: 256 << 10,
            arena_bytes: Arena::default_len_bytes(),
        }
    }
}

impl Options {
    /// The names that [`Options::set`] knows. `ROUNDEL_` and the name in capitals is the variable.
    pub const NAMES: [&str; 23] = [
        "timeout_ms",
        "init_timeout_ms",
        "heartbeat_ms",
        "heartbeat_timeout_ms",
        "store",
        "device",
        "transport",
        "fabric_provider",
        "algo",
        "channels",
        "slice_bytes",
        "tune",
        "tune_file",
        "sockets",
        "reproducible",
        "iface",
        "port_range",
        "encrypt",
        "checksum",
        "verify_results",
        "stage_bytes",
        "ring_bytes",
        "arena_bytes",
    ];

    /// The defaults, changed by the `ROUNDEL_*` variables that are set. A value that makes no sense is an error that
    /// names its variable.
    pub fn from_env() -> Result<Options> {
        Options::from_lookup(&|name| std::env::var(name).ok())
    }

    fn from_lookup(env: &dyn Fn(&str) -> Option<String>) -> Result<Options> {
        let mut options = Options::default();
        for name in Options::NAMES {
            if let Some(value) = env(&variable(name)).filter(|value| !value.is_empty()) {
                options.set(name, &value)?;
            }
        }
        options.check()?;
        Ok(options)
    }

    /// Changes one setting, named and written as its variable is but for `ROUNDEL_` and the capitals: for bindings and
    /// configuration files.
    ///
    /// ```
    /// let mut options = roundel::Options::default();
    /// options.set("timeout_ms", "5000")?;
    /// assert_eq!(options.timeout, std::time::Duration::from_secs(5));
    /// assert!(options.set("timeout", "5 s").unwrap_err().to_string().contains("timeout_ms"));
    /// # Ok::<(), roundel::Error>(())
    /// ```
    pub fn set(&mut self, name: &str, value: &str) -> Result<()> {
        let millis = || parse(name, value, "a number of milliseconds").map(Duration::from_millis);
        match name {
            "timeout_ms" => self.timeout = millis()?,
            "init_timeout_ms" => self.init_timeout = millis()?,
            "heartbeat_ms" => self.heartbeat = millis()?,
            "heartbeat_timeout_ms" => self.heartbeat_timeout = millis()?,
            "store" => self.store = parse(name, value, "embedded, or etcd://host:port,host:port")?,
            "device" => {
                let open = crate::device::open(value);
                self.device = open.map_err(|error| Error::invalid(format!("{}: {error}", variable(name))))?;
            }
            "transport" => self.transport = parse(name, value, "auto, memory, shm, tcp or fabric")?,
            "fabric_provider" => self.fabric_provider = Some(value.to_string()),
            "algo" => self.algorithm = Some(parse(name, value, &Algorithm::ALL.map(Algorithm::name).join(", "))?),
            "channels" => self.channels = Some(parse(name, value, "a number from 1 to 16")?),
            "slice_bytes" => self.slice_bytes = Some(parse(name, value, "a number of bytes")?),
            "tune" => self.tune = parse(name, value, "auto, 0, 1 or force")?,
            "tune_file" => self.tune_file = Some(value.to_string()),
            "sockets" => self.sockets = parse(name, value, "a number from 1 to 16")?,
            "reproducible" => self.reproducible = switch(name, value)?,
            "iface" => self.interface = Some(value.to_string()),
            "port_range" => self.port_range = Some(parse(name, value, "two ports, as in 20000-20100")?),
            "encrypt" => self.encrypt = switch(name, value)?,
            "checksum" => self.checksum = switch(name, value)?,
            "verify_results" => self.verify_results = switch(name, value)?,
            "stage_bytes" => self.stage_bytes = parse(name, value, "a number of bytes")?,
            "ring_bytes" => self.ring_bytes = parse(name, value, "a power of two")?,
            "arena_bytes" => self.arena_bytes = parse(name, value, "a number of bytes")?,
            _ => {
                let names = Options::NAMES.join(", ");
                return Err(Error::invalid(format!("there is no setting {name:?}; there are {names}")));
            }
        }
        Ok(())
    }

    pub(super) fn rhythm(&self) -> Rhythm {
        Rhythm { interval: self.heartbeat, timeout: self.heartbeat_timeout }
    }

    /// How connections are protected.
    pub(super) fn guard(&self) -> Guard {
        Guard::new(self.encrypt, self.checksum)
    }

    /// Whether the values make sense together.
    pub fn check(&self) -> Result<()> {
        let rule = |good: bool, what: &str| if good { Ok(()) } else { Err(Error::invalid(what)) };
        let channels = self.channels.is_none_or(|channels| CHANNELS.contains(&channels));
        rule(channels, "channels must be 1 to 16 (ROUNDEL_CHANNELS)")?;
        let slices = self.slice_bytes.is_none_or(|bytes| SLICE_BYTES.contains(&bytes));
        rule(slices, "slices must be 4 KiB to 16 MiB (ROUNDEL_SLICE_BYTES)")?;
        rule((1..=16).contains(&self.sockets), "sockets per link must be 1 to 16 (ROUNDEL_SOCKETS)")?;
        provider::preference(self.fabric_provider.as_deref())?;
        rule(
            !(self.encrypt && self.transport == TransportChoice::Fabric),
            "RDMA is in clear text: ROUNDEL_ENCRYPT goes with ROUNDEL_TRANSPORT=tcp, or auto, which then uses TCP",
        )?;
        rule(!self.timeout.is_zero(), "a timeout of zero lets no call succeed (ROUNDEL_TIMEOUT_MS)")?;
        rule(!self.init_timeout.is_zero(), "an initialisation timeout of zero (ROUNDEL_INIT_TIMEOUT_MS)")?;
        rule(
            self.timeout.max(self.init_timeout) <= LONGEST_TIMEOUT,
            "a timeout of more than ten years (ROUNDEL_TIMEOUT_MS, ROUNDEL_INIT_TIMEOUT_MS)",
        )?;
        rule(
            self.heartbeat_timeout >= 3 * self.heartbeat && !self.heartbeat_timeout.is_zero(),
            "a rank may be silent for at least three heartbeats (ROUNDEL_HEARTBEAT_MS, ROUNDEL_HEARTBEAT_TIMEOUT_MS)",
        )?;
        rule(
            (64 << 10..=1 << 30).contains(&self.stage_bytes),
            "staging memory must be 64 KiB to 1 GiB (ROUNDEL_STAGE_BYTES)",
        )?;
        rule(
            self.ring_bytes.is_power_of_two() && (4096..=1 << 30).contains(&self.ring_bytes),
            "a shared-memory link must hold a power of two from 4 KiB to 1 GiB (ROUNDEL_RING_BYTES)",
        )
    }
}

fn switch(name: &str, value: &str) -> Result<bool> {
    parse::<Switch>(name, value, "0 or 1").map(|switch| switch.0)
}

/// `0` or `1`.
struct Switch(bool);

impl FromStr for Switch {
    type Err = ();

    fn from_str(text: &str) -> std::result::Result<Switch, ()> {
        match text.trim() {
            "0" => Ok(Switch(false)),
            "1" => Ok(Switch(true)),
            _ => Err(()),
        }
    }
}

/// The variable of a setting.
fn variable(name: &str) -> String {
    format!("ROUNDEL_{}", name.to_ascii_uppercase())
}

fn parse<T: FromStr>(name: &str, value: &str, expected: &str) -> Result<T> {
    value.parse().map_err(|_| Error::invalid(format!("{}={value:?}; expected {expected}", variable(name))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: &'static str, value: &'static str) -> Result<Options> {
        Options::from_lookup(&|asked| (asked == name).then(|| value.to_string()))
    }

    #[test]
    fn variables_change_the_defaults() {
        assert_eq!(with("ROUNDEL_TIMEOUT_MS", "1500").unwrap().timeout, Duration::from_millis(1500));
        assert_eq!(with("ROUNDEL_ALGO", "ring").unwrap().algorithm, Some(Algorithm::Ring));
        assert!(with("ROUNDEL_REPRODUCIBLE", "1").unwrap().reproducible);
        assert_eq!(with("ROUNDEL_CHANNELS", "").unwrap().channels, None);
        assert_eq!(with("ROUNDEL_SLICE_BYTES", "65536").unwrap().slice_bytes, Some(65536));
        assert_eq!(with("ROUNDEL_TUNE", "force").unwrap().tune, Tune::Force);
    }

    #[test]
    fn rdma_and_encryption_exclude_each_other() {
        let both = Options { encrypt: true, transport: TransportChoice::Fabric, ..Options::default() };
        assert!(both.check().unwrap_err().to_string().contains("ROUNDEL_ENCRYPT"));
        assert!(Options { transport: TransportChoice::Auto, ..both }.check().is_ok());
    }

    #[test]
    fn every_setting_has_the_variable_of_the_table() {
        assert_eq!(variable("arena_bytes"), crate::transport::shm::ARENA_SIZE_VARIABLE);
        let table = include_str!("options.rs").split("#[derive").next().unwrap();
        for name in Options::NAMES {
            assert!(table.contains(&format!("| `{}`", variable(name))), "{name}");
            // What no setting takes, so that a name without an arm of its own is found.
            let error = Options::default().set(name, "\u{0}").err().map(|error| error.to_string());
            assert!(error.is_none_or(|error| error.contains(&variable(name))), "{name}");
        }
    }

    #[test]
    fn nonsense_names_its_variable() {
        for (name, value) in [
            ("ROUNDEL_TIMEOUT_MS", "soon"),
            ("ROUNDEL_TIMEOUT_MS", "0"),
            ("ROUNDEL_TIMEOUT_MS", "18446744073709551615"),
            ("ROUNDEL_ALGO", "fastest"),
            ("ROUNDEL_STORE", "etcd://host:many"),
            ("ROUNDEL_TRANSPORT", "pigeon"),
            ("ROUNDEL_FABRIC_PROVIDER", "no such name"),
            ("ROUNDEL_REPRODUCIBLE", "7"),
            ("ROUNDEL_ENCRYPT", "yes"),
            ("ROUNDEL_CHECKSUM", "2"),
            ("ROUNDEL_VERIFY_RESULTS", "on"),
            ("ROUNDEL_CHANNELS", "0"),
            ("ROUNDEL_SLICE_BYTES", "100"),
            ("ROUNDEL_TUNE", "yes"),
            ("ROUNDEL_RING_BYTES", "5000"),
            ("ROUNDEL_STAGE_BYTES", "1"),
        ] {
            let message = with(name, value).unwrap_err().to_string();
            assert!(message.contains(name), "{message}");
        }
    }
}
