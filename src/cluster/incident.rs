//! What happens to a host, and when: [`Incident`].
#![forbid(unsafe_code)]

use crate::cluster::network::{Cable, Cut, Host, Network};
use std::str::FromStr;
use std::time::Duration;

/// One line of the plan, written `SECONDS:HOST:WHAT`; `HOST.CABLE` where it is not the host's first cable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incident {
    /// After the start of the ranks.
    pub after: Duration,
    /// To whom.
    pub host: Host,
    /// On which of its cables.
    pub cable: Cable,
    /// What.
    pub what: What,
}

/// What can happen to a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// `cut`, `cut-out`, `cut-in`.
    Cut(Cut),
    /// `mend`, `mend-out`, `mend-in`: what was cut before.
    Mend(Cut),
    /// `rate=100mbit`, as `tc` writes rates.
    Rate(String),
    /// `mtu=9000`.
    Mtu(u16),
    /// `readdress`: it gets another address.
    Readdress,
}

impl FromStr for Incident {
    type Err = String;

    fn from_str(text: &str) -> Result<Incident, String> {
        let mut parts = text.splitn(3, ':');
        let (Some(seconds), Some(host), Some(what)) = (parts.next(), parts.next(), parts.next()) else {
            return Err("write SECONDS:HOST:WHAT, as in 2.5:1:cut".into());
        };
        let seconds = seconds.parse::<f64>().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        let after = seconds.ok_or("the time is in seconds, as in 2.5:1:cut")?;
        let (host, cable) = host.split_once('.').unwrap_or((host, "0"));
        let host = host.parse().map_err(|_| format!("host {host}: hosts are numbered from 0"))?;
        let cable = cable.parse().map_err(|_| format!("cable {cable}: cables are numbered from 0"))?;
        Ok(Incident { after, host, cable, what: what.parse()? })
    }
}

impl FromStr for What {
    type Err = String;

    fn from_str(text: &str) -> Result<What, String> {
        let which = |way: &str| match way {
            "" => Some(Cut::Both),
            "-out" => Some(Cut::Out),
            "-in" => Some(Cut::In),
            _ => None,
        };
        let what = match text.split_once('=') {
            Some(("rate", rate)) if is_rate(rate) => Some(What::Rate(rate.into())),
            Some(("mtu", bytes)) => bytes.parse().ok().filter(|&bytes| bytes >= LEAST_MTU).map(What::Mtu),
            Some(_) => None,
            None if text == "readdress" => Some(What::Readdress),
            None => match (text.strip_prefix("cut"), text.strip_prefix("mend")) {
                (Some(way), _) => which(way).map(What::Cut),
                (None, Some(way)) => which(way).map(What::Mend),
                (None, None) => None,
            },
        };
        what.ok_or_else(|| {
            format!("{text}: one of cut, cut-out, cut-in, mend, mend-out, mend-in, rate=100mbit, mtu=9000, readdress")
        })
    }
}

/// Smaller packets than these IPv4 need not carry.
const LEAST_MTU: u16 = 576;

/// As in `1.5gbit`: it goes on a command line, and what is wrong with it is better told here than by `tc`.
pub fn is_rate(text: &str) -> bool {
    let number = text.trim_end_matches(|letter: char| letter.is_ascii_lowercase());
    matches!(&text[number.len()..], "bit" | "kbit" | "mbit" | "gbit")
        && number.parse::<f64>().is_ok_and(|rate| rate > 0.0)
}

impl What {
    /// Does it.
    pub fn happen(&self, network: &Network, host: Host, cable: Cable) -> Result<(), String> {
        match self {
            What::Cut(how) => network.cut(host, cable, *how),
            What::Mend(how) => network.mend(host, cable, *how),
            What::Rate(rate) => network.shape(host, cable, rate),
            What::Mtu(bytes) => network.set_mtu(host, cable, *bytes),
            What::Readdress => network.readdress(host, cable),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_plan() {
        let incident = |after_ms, host, what| {
            Ok::<_, String>(Incident { after: Duration::from_millis(after_ms), host, cable: 0, what })
        };
        assert_eq!("2.5:1:cut".parse(), incident(2500, 1, What::Cut(Cut::Both)));
        assert_eq!("0:0:cut-out".parse(), incident(0, 0, What::Cut(Cut::Out)));
        assert_eq!("3:12:mend-in".parse(), incident(3000, 12, What::Mend(Cut::In)));
        assert_eq!("1:1:rate=1.5gbit".parse(), incident(1000, 1, What::Rate("1.5gbit".into())));
        assert_eq!("1:1:mtu=9000".parse(), incident(1000, 1, What::Mtu(9000)));
        assert_eq!("1:1:readdress".parse(), incident(1000, 1, What::Readdress));
        let on_the_third = incident(1000, 1, What::Cut(Cut::Both)).map(|one: Incident| Incident { cable: 2, ..one });
        assert_eq!("1:1.2:cut".parse::<Incident>(), on_the_third);
    }

    #[test]
    fn nonsense_is_told() {
        for text in [
            "",
            "1:cut",
            "-1:1:cut",
            "x:1:cut",
            "1:x:cut",
            "1:1.x:cut",
            "1:1:cutt",
            "1:1:rate=fast",
            "1:1:rate=-1gbit",
            "1:1:mtu=1",
        ] {
            assert!(text.parse::<Incident>().is_err(), "{text}");
        }
    }
}
