//! The command line of `roundel-tune`, made into [`Settings`].
#![forbid(unsafe_code)]

use crate::perf::args::parse_size;
use crate::perf::settings::Sink;
use crate::tuner::decide::COLLECTIVES;
use crate::types::Collective;
use clap::{CommandFactory, FromArgMatches, Parser};
use std::path::PathBuf;
use std::time::Duration;

/// Flags as typed.
#[derive(Debug, Clone, Parser)]
#[command(
    name = "roundel-tune",
    bin_name = "roundel-tune",
    version,
    about = "Measures every way to do every collective, decides which to use for which size, and keeps that for jobs to come",
    args_override_self = true
)]
struct Args {
    /// Ranks as processes of this machine [default, without a launcher: one per core, at least 2, at most 8]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(2..=1024))]
    procs: Option<u16>,
    /// Ranks as threads of every process
    #[arg(short = 't', long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    nthreads: u16,
    /// Smallest size, in bytes (K, M, G are powers of 1024)
    #[arg(short = 'b', long, value_name = "SIZE", default_value = "8", value_parser = parse_size)]
    minbytes: usize,
    /// Largest size
    #[arg(short = 'e', long, value_name = "SIZE", default_value = "32M", value_parser = parse_size)]
    maxbytes: usize,
    /// Only these
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', value_parser = parse_collective)]
    collectives: Vec<Collective>,
    /// About how long to measure
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    seconds: u32,
    /// How often each way has its turn at each size
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = clap::value_parser!(u32).range(3..=1000))]
    rounds: u32,
    /// Decide nothing: measure the table that is in force beside the built-in choice
    #[arg(long, conflicts_with = "write")]
    compare: bool,
    /// Keep the outcome where jobs look for it (ROUNDEL_TUNE_FILE, or the user's cache), or in FILE
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true)]
    write: Option<Option<PathBuf>>,
    /// One JSON object per row, to standard output instead of the table, or to FILE
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true)]
    json: Option<Option<PathBuf>>,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Processes, when asked for by number.
    pub procs: Option<usize>,
    /// Ranks of each.
    pub threads: usize,
    /// The smallest and the largest size.
    pub sizes: std::ops::RangeInclusive<usize>,
    /// What is measured.
    pub collectives: Vec<Collective>,
    /// How long.
    pub time: Duration,
    /// Turns of each way.
    pub rounds: u32,
    /// Measure the table that is in force.
    pub compares: bool,
    /// Keep the outcome: where jobs look for it, or in a file.
    pub write: Option<Option<PathBuf>>,
    /// Where rows go as JSON.
    pub json: Option<Sink>,
}

/// Reads a command line, the program's name first. An error is clap's: a message, or the help that was asked for.
pub fn parse(line: impl IntoIterator<Item = impl Into<std::ffi::OsString> + Clone>) -> Result<Settings, clap::Error> {
    let mut command = Args::command();
    let args = Args::from_arg_matches(&command.try_get_matches_from_mut(line)?)?;
    if args.maxbytes < args.minbytes {
        let message = format!("-e {} is less than -b {}", args.maxbytes, args.minbytes);
        return Err(command.error(clap::error::ErrorKind::ValueValidation, message));
    }
    Ok(Settings {
        procs: args.procs.map(usize::from),
        threads: args.nthreads.into(),
        sizes: args.minbytes..=args.maxbytes,
        collectives: if args.collectives.is_empty() { COLLECTIVES.to_vec() } else { args.collectives },
        time: Duration::from_secs(args.seconds.into()),
        rounds: args.rounds,
        compares: args.compare,
        write: args.write,
        json: args.json.map(|to| to.map_or(Sink::Stdout, Sink::File)),
    })
}

fn parse_collective(text: &str) -> Result<Collective, String> {
    let found = COLLECTIVES.into_iter().find(|collective| collective.name() == text);
    let names = COLLECTIVES.map(Collective::name).join(", ");
    found.ok_or_else(|| format!("there is nothing to choose for it; there are {names}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(line: &str) -> Result<Settings, String> {
        parse(std::iter::once("tune").chain(line.split_whitespace())).map_err(|error| error.to_string())
    }

    #[test]
    fn flags_make_settings() {
        Args::command().debug_assert();
        let settings = settings("--procs 4 -e 1M --collectives all_reduce,broadcast --write --json=rows").unwrap();
        assert_eq!((settings.procs, &settings.sizes), (Some(4), &(8..=1 << 20)));
        assert_eq!(settings.collectives, [Collective::AllReduce, Collective::Broadcast]);
        assert_eq!((settings.write, settings.json), (Some(None), Some(Sink::File("rows".into()))));
    }

    #[test]
    fn nonsense_is_refused_in_words() {
        for (line, words) in [
            ("--procs 1", "2..=1024"),
            ("-b 8K -e 8", "less than -b"),
            ("--collectives barrier", "nothing to choose"),
            ("--compare --write", "cannot be used with"),
        ] {
            let message = settings(line).unwrap_err();
            assert!(message.contains(words), "{line}: {message}");
        }
    }
}
