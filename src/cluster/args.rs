//! The command line of `roundel-cluster`, made into [`Settings`].
#![forbid(unsafe_code)]

use crate::cluster::incident::{Incident, is_rate};
use crate::cluster::network::MAX_CABLES;
use clap::Parser;
use std::ffi::OsString;

/// Hosts and ranks that a machine could possibly run.
const MAX_HOSTS: usize = 64;
const MAX_RANKS: usize = 1024;

#[derive(Debug, Clone, Parser)]
#[command(
    name = "roundel-cluster",
    bin_name = "roundel-cluster",
    version,
    about = "Starts a program as the ranks of a job on several hosts, all of them on this machine (network namespaces), with \
             cables between them that have a rate and that things happen to"
)]
struct Args {
    /// Ranks on each host, beginning with host 0: 2,2 or 3,1
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_value = "2,2")]
    ranks: Vec<usize>,
    /// Cables of each host, each in a network of its own; ROUNDEL_IFACE names them all
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=MAX_CABLES as i64))]
    cables: u8,
    /// What each host's cable carries each way, as tc writes rates (100mbit, 1gbit), or each of its cables: 100mbit,1gbit.
    /// Without, what the machine can
    #[arg(long, value_name = "RATE,...", value_delimiter = ',', value_parser = parse_rate)]
    rate: Vec<String>,
    /// Something that happens: SECONDS:HOST:WHAT (HOST.CABLE for another cable than the first, 1.1), where WHAT is cut, cut-out, cut-in, mend, mend-out, mend-in, rate=RATE,
    /// mtu=BYTES or readdress; may be given several times
    #[arg(long = "at", value_name = "SECONDS:HOST:WHAT")]
    incidents: Vec<Incident>,
    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

/// What to do.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Ranks on each host.
    pub ranks: Vec<usize>,
    /// Cables of each host.
    pub cables: usize,
    /// What each of them carries each way; nothing where it is what the machine can.
    pub rates: Vec<String>,
    /// What happens, the earliest first.
    pub incidents: Vec<Incident>,
    /// The program and its arguments.
    pub command: Vec<OsString>,
}

/// Reads a command line, the program's name first. An error is clap's: a message, or the help that was asked for.
pub fn parse(line: impl IntoIterator<Item = OsString>) -> Result<Settings, clap::Error> {
    let args = Args::try_parse_from(line)?;
    let complain = |message: String| {
        Err(<Args as clap::CommandFactory>::command().error(clap::error::ErrorKind::ValueValidation, message))
    };
    let world: usize = args.ranks.iter().sum();
    if args.ranks.len() > MAX_HOSTS || world > MAX_RANKS {
        return complain(format!("--ranks: at most {MAX_HOSTS} hosts and {MAX_RANKS} ranks"));
    }
    if args.ranks[0] == 0 {
        return complain("--ranks: rank 0 is on host 0".into());
    }
    if let Some(incident) = args.incidents.iter().find(|incident| incident.host >= args.ranks.len()) {
        return complain(format!("--at: there is no host {}, only {} of them", incident.host, args.ranks.len()));
    }
    let cables = usize::from(args.cables);
    if let Some(incident) = args.incidents.iter().find(|incident| incident.cable >= cables) {
        return complain(format!("--at: there is no cable {}, only {cables} of them", incident.cable));
    }
    let rates = match args.rate.len() {
        1 => vec![args.rate[0].clone(); cables],
        0 => Vec::new(),
        rates if rates == cables => args.rate,
        rates => return complain(format!("--rate: {rates} rates for {cables} cables")),
    };
    let mut incidents = args.incidents;
    incidents.sort_by_key(|incident| incident.after);
    Ok(Settings { ranks: args.ranks, cables, rates, incidents, command: args.command })
}

fn parse_rate(text: &str) -> Result<String, String> {
    if is_rate(text) { Ok(text.into()) } else { Err("write a rate like 100mbit or 1gbit".into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Settings, clap::Error> {
        parse(format!("roundel-cluster {line}").split_whitespace().map(OsString::from))
    }

    #[test]
    fn lines() {
        let settings =
            parsed("--ranks 3,1 --rate 1gbit --at 2:1:mend --at 1:1:cut -- all_reduce_perf -b 8 --at x").unwrap();
        assert_eq!((settings.ranks, settings.cables, settings.rates), (vec![3, 1], 1, vec!["1gbit".to_string()]));
        assert_eq!(settings.incidents[0].after.as_secs(), 1);
        assert_eq!(settings.command.len(), 5);
        assert_eq!(parsed("true").unwrap().ranks, [2, 2]);
        assert_eq!(parsed("--cables 2 --rate 1gbit,5mbit --at 1:0.1:cut true").unwrap().rates, ["1gbit", "5mbit"]);
        assert_eq!(parsed("--cables 2 --rate 1gbit true").unwrap().rates.len(), 2);
        for line in ["--cables 9 true", "--rate 1gbit,1gbit true", "--at 1:1.1:cut true"] {
            assert!(parsed(line).is_err(), "{line}");
        }
        for line in ["", "--ranks 0,2 true", "--rate fast true", "--at 1:2:cut true", "--ranks x true"] {
            assert!(parsed(line).is_err(), "{line}");
        }
    }
}
