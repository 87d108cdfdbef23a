//! The command line of `roundel-chaos`, made into [`Settings`].
#![forbid(unsafe_code)]

use crate::chaos::event::Kind;
use crate::perf::args::parse_size;
use crate::perf::settings::Sink;
use crate::topology::TransportChoice;
use clap::Parser;
use std::path::PathBuf;
use std::time::Duration;

/// Flags as typed.
#[derive(Debug, Clone, Parser)]
#[command(
    name = "roundel-chaos",
    bin_name = "roundel-chaos",
    version,
    about = "Starts ranks that make checked calls without end, strikes them one after the other, and checks what the \
             others make of it"
)]
struct Args {
    /// Ranks to begin with, and to come back to
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(2..=64))]
    ranks: u16,
    /// What carries the bytes: shm or tcp
    #[arg(long, value_name = "WHICH", default_value = "shm")]
    transport: TransportChoice,
    /// How many events
    #[arg(long, value_name = "N", default_value_t = 24)]
    events: u64,
    /// Which events, when, and which calls: the same seed, the same of all these
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,
    /// The number of the first event: to replay from where a job began
    #[arg(long, value_name = "N", default_value_t = 0)]
    from: u64,
    /// Only these kinds of events
    #[arg(long, value_name = "KIND,...", value_delimiter = ',')]
    kinds: Vec<Kind>,
    /// Each rank in a network namespace of its own; cables are cut too
    #[arg(long)]
    namespaces: bool,
    /// The largest vector (K, M are powers of 1024)
    #[arg(long, value_name = "SIZE", default_value = "2M", value_parser = parse_size)]
    largest: usize,
    /// What takes longer has failed
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u16).range(1..))]
    bound: u16,
    /// A rank that is silent for so long is given up
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(300..))]
    heartbeat_timeout: u32,
    /// A variable for the ranks, as in ROUNDEL_CHECKSUM=1; they get none of this program's own
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = parse_variable)]
    variables: Vec<(String, String)>,
    /// Stop at the first failure
    #[arg(long)]
    fail_fast: bool,
    /// A line for every event
    #[arg(short, long)]
    verbose: bool,
    /// One JSON object per kind of event, to standard output instead of the table, or to FILE
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true)]
    json: Option<Option<PathBuf>>,
}

/// What to do.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Ranks to begin with.
    pub ranks: usize,
    /// What carries the bytes.
    pub transport: TransportChoice,
    /// How many events.
    pub events: u64,
    /// Decides everything that is not decided by the machine.
    pub seed: u64,
    /// The first event's number.
    pub from: u64,
    /// What may happen.
    pub kinds: Vec<Kind>,
    /// A network for every rank.
    pub namespaces: bool,
    /// The largest vector.
    pub largest_bytes: usize,
    /// What takes longer has failed.
    pub bound: Duration,
    /// When a silent rank is given up.
    pub heartbeat_timeout: Duration,
    /// Variables for the ranks.
    pub variables: Vec<(String, String)>,
    /// Stop at the first failure.
    pub fail_fast: bool,
    /// A line for every event.
    pub verbose: bool,
    /// Where JSON goes.
    pub json: Option<Sink>,
    /// As it was typed: what decides, for the command that repeats it.
    kinds_as_typed: Vec<Kind>,
}

/// Reads a command line, the program's name first. An error is clap's: a message, or the help that was asked for.
pub fn parse(line: impl IntoIterator<Item = std::ffi::OsString>) -> Result<Settings, clap::Error> {
    let args = Args::try_parse_from(line)?;
    let complain = |message: String| {
        <Args as clap::CommandFactory>::command().error(clap::error::ErrorKind::ValueValidation, message)
    };
    if !matches!(args.transport, TransportChoice::Shm | TransportChoice::Tcp) {
        return Err(complain(format!("--transport {}: these ranks are processes; shm or tcp", args.transport)));
    }
    if args.namespaces && args.transport != TransportChoice::Tcp {
        return Err(complain(
            "--namespaces: ranks with a network each are on hosts of their own; --transport tcp".into(),
        ));
    }
    let is_set = |wanted| args.variables.iter().any(|(name, value)| name == wanted && value == "1");
    let has_checksums =
        args.transport == TransportChoice::Tcp && (is_set("ROUNDEL_CHECKSUM") || is_set("ROUNDEL_ENCRYPT"));
    if let Some(unnoticed) = args.kinds.iter().find(|kind| kind.needs_checksums() && !has_checksums) {
        let name = unnoticed.name();
        return Err(complain(format!("--kinds {name}: with --transport tcp --set ROUNDEL_CHECKSUM=1 only")));
    }
    let possible = |kind: &Kind| {
        let is_noticed = has_checksums || !kind.needs_checksums();
        is_noticed && if args.namespaces { !kind.needs_ports() } else { !kind.needs_networks() }
    };
    if let Some(impossible) = args.kinds.iter().find(|kind| !possible(kind)) {
        let with = if args.namespaces { "without" } else { "with" };
        return Err(complain(format!("--kinds {}: {with} --namespaces only", impossible.name())));
    }
    let kinds = if args.kinds.is_empty() { Kind::all().to_vec() } else { args.kinds.clone() };
    Ok(Settings {
        ranks: args.ranks.into(),
        transport: args.transport,
        events: args.events,
        seed: args.seed,
        from: args.from,
        kinds: kinds.into_iter().filter(possible).collect(),
        namespaces: args.namespaces,
        largest_bytes: args.largest,
        bound: Duration::from_secs(args.bound.into()),
        heartbeat_timeout: Duration::from_millis(args.heartbeat_timeout.into()),
        variables: args.variables,
        fail_fast: args.fail_fast,
        verbose: args.verbose,
        json: args.json.map(|to| to.map_or(Sink::Stdout, Sink::File)),
        kinds_as_typed: args.kinds,
    })
}

fn parse_variable(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    match name.starts_with("ROUNDEL_") && !value.contains(char::is_whitespace) {
        true => Ok((name.to_string(), value.to_string())),
        false => Err(format!("{name}: only variables of Roundel's, without spaces")),
    }
}

impl Settings {
    /// The command that makes the same events happen, from this one to that one.
    pub fn replay(&self, from: u64, to: u64) -> String {
        let mut words = format!(
            "roundel-chaos --seed {} --from {from} --events {} --ranks {} --transport {} --largest {} --heartbeat-timeout {}",
            self.seed,
            to + 1 - from,
            self.ranks,
            self.transport,
            self.largest_bytes,
            self.heartbeat_timeout.as_millis()
        );
        if self.namespaces {
            words += " --namespaces";
        }
        for (name, value) in &self.variables {
            words += &format!(" --set {name}={value}");
        }
        if !self.kinds_as_typed.is_empty() {
            let kinds: Vec<String> = self.kinds_as_typed.iter().map(|kind| kind.name()).collect();
            words += &format!(" --kinds {}", kinds.join(","));
        }
        words + " --fail-fast --verbose"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Settings, String> {
        let words = std::iter::once("roundel-chaos").chain(line.split_whitespace());
        parse(words.map(Into::into)).map_err(|error| error.to_string())
    }

    #[test]
    fn a_replay_is_the_same_settings() {
        let line = "--seed 77 --transport tcp --ranks 5 --largest 64K --kinds kill,join --heartbeat-timeout 700 --set ROUNDEL_ALGO=ring";
        let typed = parsed(line).unwrap();
        let replay = typed.replay(3, 9);
        let again = parsed(replay.strip_prefix("roundel-chaos ").unwrap()).unwrap();
        let decisive = |settings: &Settings| {
            let Settings { seed, ranks, transport, kinds, largest_bytes, heartbeat_timeout, variables, .. } =
                settings.clone();
            (seed, ranks, transport, kinds, largest_bytes, heartbeat_timeout, variables)
        };
        assert_eq!(decisive(&typed), decisive(&again));
        assert_eq!((again.from, again.events), (3, 7));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for (line, word) in [
            ("--set PATH=/", "only variables"),
            ("--ranks 1", "--ranks"),
            ("--transport memory", "shm or tcp"),
            ("--namespaces", "--transport tcp"),
            ("--kinds cut-in", "--namespaces"),
            ("--kinds lightning", "kill-root"),
            ("--kinds bit-flip --transport tcp", "ROUNDEL_CHECKSUM"),
            ("--kinds bit-flip --set ROUNDEL_CHECKSUM=1", "--transport tcp"),
        ] {
            let message = parsed(line).unwrap_err();
            assert!(message.contains(word), "{line}: {message}");
        }
        assert!(parsed("--namespaces --transport tcp").unwrap().kinds.contains(&Kind::CutIn));
        assert!(!parsed("").unwrap().kinds.contains(&Kind::CutIn));
        assert!(!parsed("--transport tcp").unwrap().kinds.contains(&Kind::BitFlip));
        let checked = parsed("--transport tcp --set ROUNDEL_CHECKSUM=1").unwrap();
        assert!(checked.kinds.contains(&Kind::BitFlip));
    }
}
