//! Which store a job has.
#![forbid(unsafe_code)]

use super::Store;
use crate::error::{Error, Result};
use std::fmt;
use std::str::FromStr;
use std::time::Instant;

const SCHEME: &str = "etcd://";
/// Where etcd listens when nothing is said.
const ETCD_PORT: u16 = 2379;
/// It is part of a rank's first words.
const MAX_TEXT_BYTES: usize = 500;

/// Where a job keeps who has been given up and where its root is.
///
/// ```
/// use roundel::bootstrap::StoreChoice;
/// let choice: StoreChoice = "etcd://store1,store2:4001,[fd00::3]:2379".parse()?;
/// assert_eq!(choice.to_string(), "etcd://store1:2379,store2:4001,[fd00::3]:2379");
/// assert!("zookeeper://store1".parse::<StoreChoice>().is_err());
/// # Ok::<(), roundel::Error>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub enum StoreChoice {
    /// Nowhere: the ranks that live decide by their numbers.
    #[default]
    Embedded,
    /// In an etcd (3.4 or newer), under `/roundel/`, through the HTTP gateway at one of these addresses (`host:port`), which are
    /// tried in turn.
    Etcd(Vec<String>),
}

/// Which register of the store: a job may run again under its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Shelf {
    pub job: [u8; 16],
    /// The process of the job's rank 0.
    pub run: u64,
}

impl StoreChoice {
    /// The store, where there is one. Nothing is said to it yet.
    pub(in super::super) fn open(&self, shelf: Shelf) -> Result<Option<Box<dyn Store>>> {
        match self {
            StoreChoice::Embedded => Ok(None),
            #[cfg(feature = "etcd")]
            StoreChoice::Etcd(doors) => Ok(Some(Box::new(super::etcd::Etcd::new(doors, shelf)))),
            #[cfg(not(feature = "etcd"))]
            StoreChoice::Etcd(_) => {
                let _ = shelf;
                Err(Error::unsupported(
                    "ROUNDEL_STORE names an etcd; this library was built without its feature `etcd`",
                ))
            }
        }
    }

    /// An error where the store does not answer.
    pub(in super::super) fn reach(&self, job: [u8; 16], deadline: Instant) -> Result<()> {
        match self.open(Shelf { job, run: 0 })? {
            Some(store) => store.load(deadline).map(drop).map_err(|error| {
                Error::bootstrap(format!("the job's store cannot be used: {error}; check ROUNDEL_STORE"))
            }),
            None => Ok(()),
        }
    }
}

/// `embedded`, or `etcd://host:port,host:port`.
impl FromStr for StoreChoice {
    type Err = Error;

    fn from_str(text: &str) -> Result<StoreChoice> {
        let refused = |why: &str| {
            Error::invalid(format!("no store: {text:?} ({why}); expected embedded or etcd://host:port,host:port"))
        };
        let text = text.trim();
        if text == "embedded" {
            return Ok(StoreChoice::Embedded);
        }
        let doors = text.strip_prefix(SCHEME).ok_or_else(|| refused("of no kind that is known"))?;
        let doors = doors.trim_end_matches('/').split(',').map(|door| door_of(door.trim()).ok_or(door));
        let doors: std::result::Result<Vec<String>, &str> = doors.collect();
        let choice = StoreChoice::Etcd(doors.map_err(|door| refused(&format!("{door:?} is not host:port")))?);
        if choice.to_string().len() > MAX_TEXT_BYTES {
            return Err(refused("too long"));
        }
        Ok(choice)
    }
}

/// `host:port` of what may lack the port.
fn door_of(text: &str) -> Option<String> {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok().filter(|port| *port != 0)?),
        _ => (text, ETCD_PORT),
    };
    let is_ip6 = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).is_some_and(|host| {
        let address = host.split('%').next().unwrap_or_default();
        address.len() == host.len() && address.parse::<std::net::Ipv6Addr>().is_ok()
    });
    let is_name = !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte));
    (is_ip6 || is_name).then(|| format!("{host}:{port}"))
}

impl fmt::Display for StoreChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreChoice::Embedded => f.pad("embedded"),
            StoreChoice::Etcd(doors) => f.pad(&format!("{SCHEME}{}", doors.join(","))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn it_is_read_as_it_is_written() {
        for text in ["embedded", "etcd://a:1", "etcd://a:1,10.0.0.1:2379,[fd00::3]:99"] {
            assert_eq!(text.parse::<StoreChoice>().unwrap().to_string(), text);
        }
        let choice: StoreChoice = " etcd://[::1], host-2.lan/ ".parse().unwrap();
        assert_eq!(choice.to_string(), "etcd://[::1]:2379,host-2.lan:2379");
    }

    #[test]
    fn nonsense_is_refused() {
        let long = format!("etcd://{}", "a".repeat(600));
        for text in [
            "",
            "etcd",
            "etcd://",
            "etcd://,",
            "etcd://a:0",
            "etcd://a:70000",
            "etcd://a:",
            "etcd://:1",
            "http://a:1",
            "etcd://user:word@a:1",
            "etcd://a:1/path",
            "etcd://::1:5",
            "etcd://[zz]:1",
            "etcd://a b:1",
            "Embedded",
            &long,
        ] {
            let error = text.parse::<StoreChoice>().unwrap_err();
            assert!(matches!(error, Error::Invalid { .. }), "{text:?}: {error}");
        }
    }

    #[cfg(not(feature = "etcd"))]
    #[test]
    fn without_its_feature_an_etcd_is_refused() {
        let choice: StoreChoice = "etcd://a:1".parse().unwrap();
        let error = choice.reach([0; 16], Instant::now()).unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }), "{error}");
    }

    proptest! {
        #[test]
        fn any_text_is_judged_without_panic(text in "(etcd://)?[a-z:,/0-9\\[\\].@%]{0,30}") {
            if let Ok(choice) = text.parse::<StoreChoice>() {
                prop_assert_eq!(choice.to_string().parse::<StoreChoice>().unwrap(), choice);
            }
        }
    }
}
