//! What a user may set, in code or through `ROUNDEL_*`.
#![forbid(unsafe_code)]

use crate::error::{Error, Result};
use crate::schedule::catalogue::Algorithm;
use crate::topology::TransportChoice;
use crate::transport::shm::{ARENA_SIZE_VARIABLE, Arena};
use crate::transport::tcp::interface::PortRange;
use std::str::FromStr;
use std::time::Duration;

/// Deadlines are sums of a clock and a timeout, and must not overflow.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(10 * 366 * 24 * 3600);

/// Settings of a communicator. All ranks must use the same, except `interface` and `port_range`.
///
/// | field | variable | default |
/// |---|---|---|
/// | `timeout` | `ROUNDEL_TIMEOUT_MS` | 300 000 |
/// | `init_timeout` | `ROUNDEL_INIT_TIMEOUT_MS` | 120 000 |
/// | `transport` | `ROUNDEL_TRANSPORT` = `auto`, `memory`, `shm`, `tcp` | `auto` |
/// | `algorithm` | `ROUNDEL_ALGO` = `ring`, `tree`, ... | by size and topology |
/// | `channels` | `ROUNDEL_CHANNELS` | 1 |
/// | `sockets` | `ROUNDEL_SOCKETS` | 1 |
/// | `reproducible` | `ROUNDEL_REPRODUCIBLE` = `0`, `1` | 0 |
/// | `interface` | `ROUNDEL_IFACE` = name, address or subnet | the one that reaches rank 0 |
/// | `port_range` | `ROUNDEL_PORT_RANGE` = `first-last` | any free port |
/// | `stage_bytes` | `ROUNDEL_STAGE_BYTES` | 1 MiB |
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
    /// How ranks reach each other.
    pub transport: TransportChoice,
    /// The algorithm for every collective that it can do.
    pub algorithm: Option<Algorithm>,
    /// Parallel rings, trees and links.
    pub channels: u8,
    /// TCP connections per link.
    pub sockets: u8,
    /// Reduce in rank order, whatever the algorithm, size or transport: the same bits for the same number of ranks.
    pub reproducible: bool,
    /// Where this rank listens and dials.
    pub interface: Option<String>,
    /// Ports to listen on.
    pub port_range: Option<PortRange>,
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
            transport: TransportChoice::Auto,
            algorithm: None,
            channels: 1,
            sockets: 1,
            reproducible: false,
            interface: None,
            port_range: None,
            stage_bytes: 1 << 20,
            ring_bytes: 256 << 10,
            arena_bytes: Arena::default_len_bytes(),
        }
    }
}

impl Options {
    /// The defaults, changed by the `ROUNDEL_*` variables that are set. A value that makes no sense is an error that
    /// names its variable.
    pub fn from_env() -> Result<Options> {
        Options::from_lookup(&|name| std::env::var(name).ok())
    }

    fn from_lookup(env: &dyn Fn(&str) -> Option<String>) -> Result<Options> {
        let defaults = Options::default();
        let millis = |name, default: Duration| {
            Ok::<_, Error>(parse(env, name, "a number of milliseconds")?.map_or(default, Duration::from_millis))
        };
        let options = Options {
            timeout: millis("ROUNDEL_TIMEOUT_MS", defaults.timeout)?,
            init_timeout: millis("ROUNDEL_INIT_TIMEOUT_MS", defaults.init_timeout)?,
            transport: parse(env, "ROUNDEL_TRANSPORT", "auto, memory, shm or tcp")?.unwrap_or(defaults.transport),
            algorithm: parse(env, "ROUNDEL_ALGO", &Algorithm::ALL.map(Algorithm::name).join(", "))?,
            channels: parse(env, "ROUNDEL_CHANNELS", "a number from 1 to 16")?.unwrap_or(defaults.channels),
            sockets: parse(env, "ROUNDEL_SOCKETS", "a number from 1 to 16")?.unwrap_or(defaults.sockets),
            reproducible: parse::<Switch>(env, "ROUNDEL_REPRODUCIBLE", "0 or 1")?.is_some_and(|switch| switch.0),
            interface: env("ROUNDEL_IFACE").filter(|value| !value.is_empty()),
            port_range: parse(env, "ROUNDEL_PORT_RANGE", "two ports, as in 20000-20100")?,
            stage_bytes: parse(env, "ROUNDEL_STAGE_BYTES", "a number of bytes")?.unwrap_or(defaults.stage_bytes),
            ring_bytes: parse(env, "ROUNDEL_RING_BYTES", "a power of two")?.unwrap_or(defaults.ring_bytes),
            arena_bytes: parse(env, ARENA_SIZE_VARIABLE, "a number of bytes")?.unwrap_or(defaults.arena_bytes),
        };
        options.check()?;
        Ok(options)
    }

    /// Whether the values make sense together.
    pub fn check(&self) -> Result<()> {
        let rule = |good: bool, what: &str| if good { Ok(()) } else { Err(Error::invalid(what)) };
        rule((1..=16).contains(&self.channels), "channels must be 1 to 16 (ROUNDEL_CHANNELS)")?;
        rule((1..=16).contains(&self.sockets), "sockets per link must be 1 to 16 (ROUNDEL_SOCKETS)")?;
        rule(!self.timeout.is_zero(), "a timeout of zero lets no call succeed (ROUNDEL_TIMEOUT_MS)")?;
        rule(!self.init_timeout.is_zero(), "an initialisation timeout of zero (ROUNDEL_INIT_TIMEOUT_MS)")?;
        rule(
            self.timeout.max(self.init_timeout) <= LONGEST_TIMEOUT,
            "a timeout of more than ten years (ROUNDEL_TIMEOUT_MS, ROUNDEL_INIT_TIMEOUT_MS)",
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

fn parse<T: FromStr>(env: &dyn Fn(&str) -> Option<String>, name: &str, expected: &str) -> Result<Option<T>> {
    let Some(text) = env(name).filter(|text| !text.is_empty()) else { return Ok(None) };
    match text.parse() {
        Ok(value) => Ok(Some(value)),
        Err(_) => Err(Error::invalid(format!("{name}={text:?}; expected {expected}"))),
    }
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
        assert_eq!(with("ROUNDEL_CHANNELS", "").unwrap().channels, 1);
    }

    #[test]
    fn nonsense_names_its_variable() {
        for (name, value) in [
            ("ROUNDEL_TIMEOUT_MS", "soon"),
            ("ROUNDEL_TIMEOUT_MS", "0"),
            ("ROUNDEL_TIMEOUT_MS", "18446744073709551615"),
            ("ROUNDEL_ALGO", "fastest"),
            ("ROUNDEL_TRANSPORT", "pigeon"),
            ("ROUNDEL_REPRODUCIBLE", "7"),
            ("ROUNDEL_CHANNELS", "0"),
            ("ROUNDEL_RING_BYTES", "5000"),
            ("ROUNDEL_STAGE_BYTES", "1"),
        ] {
            let message = with(name, value).unwrap_err().to_string();
            assert!(message.contains(name), "{message}");
        }
    }
}
