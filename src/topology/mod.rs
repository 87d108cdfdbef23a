//! Who can share memory with whom: the ranks' places, and the groups that they form.
//!
//! ```text
//!   rank        0     1     2     3     4     5
//!   host        a     a     b     a     b     c
//!   auto        [0, 1, 3]   [2, 4]      [5]          same host: shared memory, else TCP
//!   tcp         [0] [1] [2] [3] [4] [5]              everybody alone: TCP even between neighbours
//!   fabric      [0] [1] [2] [3] [4] [5]              everybody alone, likewise
//!   shm         an error: rank 2 is on another host
//! ```
//!
//! Everything here is plain data: all ranks exchange their [`Place`]s, and the same places give the same groups
//! everywhere. Looking at the machine is [`detect`]'s part.
#![forbid(unsafe_code)]

pub mod detect;

use crate::error::{Error, Result};
use crate::types::Rank;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A set of processes that can pass memory to one another: one machine, one network namespace, one user.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HostId(pub String);

impl fmt::Display for HostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Where a rank runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The host, in the sense of [`HostId`].
    pub host: HostId,
    /// The process, for messages to people. Containers number their processes alike, so it identifies nothing.
    pub pid: u32,
    /// The process, for comparisons: a random number that it drew.
    pub process: u64,
    /// Logical CPUs that the process may use.
    pub cpu_count: usize,
}

impl Place {
    fn shares_process_with(&self, other: &Place) -> bool {
        self.host == other.host && self.process == other.process
    }
}

/// What `ROUNDEL_TRANSPORT` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TransportChoice {
    /// For each pair of ranks what is best there.
    #[default]
    Auto,
    /// Ranks are threads of one process.
    Memory,
    /// Shared memory between the processes of one host.
    Shm,
    /// TCP everywhere, also between neighbours.
    Tcp,
    /// RDMA through libfabric everywhere, also between neighbours.
    Fabric,
}

impl FromStr for TransportChoice {
    type Err = Error;

    fn from_str(text: &str) -> Result<TransportChoice> {
        match text.trim().to_ascii_lowercase().as_str() {
            "auto" | "" => Ok(TransportChoice::Auto),
            "memory" => Ok(TransportChoice::Memory),
            "shm" => Ok(TransportChoice::Shm),
            "tcp" => Ok(TransportChoice::Tcp),
            "fabric" => Ok(TransportChoice::Fabric),
            _ => Err(Error::invalid(format!("ROUNDEL_TRANSPORT={text}: it is one of auto, memory, shm, tcp, fabric"))),
        }
    }
}

impl fmt::Display for TransportChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            TransportChoice::Auto => "auto",
            TransportChoice::Memory => "memory",
            TransportChoice::Shm => "shm",
            TransportChoice::Tcp => "tcp",
            TransportChoice::Fabric => "fabric",
        })
    }
}

/// The ranks of a communicator, grouped by who shares memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topology {
    /// The groups, by their lowest rank; each is ascending, and every rank is in exactly one.
    pub hosts: Vec<Vec<Rank>>,
}

impl Topology {
    /// The groups that these places (one a rank, in order) form under `choice`.
    pub fn new(places: &[Place], choice: TransportChoice) -> Result<Topology> {
        Ok(Topology { hosts: grouping(places, choice)? })
    }

    /// The group that `rank` is in, as an index into `hosts`, and its place there.
    pub fn locate(&self, rank: Rank) -> Option<(usize, usize)> {
        self.hosts.iter().enumerate().find_map(|(host, ranks)| Some((host, ranks.binary_search(&rank).ok()?)))
    }
}

/// The ranks that share memory with one another, given where each is. An error when the choice cannot be had here.
pub fn grouping(places: &[Place], choice: TransportChoice) -> Result<Vec<Vec<Rank>>> {
    match choice {
        TransportChoice::Auto => Ok(by_host(places)),
        TransportChoice::Tcp | TransportChoice::Fabric => Ok((0..places.len()).map(|rank| vec![rank]).collect()),
        TransportChoice::Shm => match places.iter().position(|place| place.host != places[0].host) {
            None => Ok(by_host(places)),
            Some(other) => Err(Error::unsupported(format!(
                "ROUNDEL_TRANSPORT=shm: rank {other} (host {}) shares no memory with rank 0 (host {}); unset it to use \
                 TCP between hosts",
                places[other].host, places[0].host
            ))),
        },
        TransportChoice::Memory => match places.iter().position(|place| !place.shares_process_with(&places[0])) {
            None => Ok(by_host(places)),
            Some(other) => Err(Error::unsupported(format!(
                "ROUNDEL_TRANSPORT=memory: rank {other} (pid {} on host {}) and rank 0 (pid {} on host {}) are not \
                 threads of one process; use shm or tcp",
                places[other].pid, places[other].host, places[0].pid, places[0].host
            ))),
        },
    }
}

fn by_host(places: &[Place]) -> Vec<Vec<Rank>> {
    let mut groups: Vec<Vec<Rank>> = Vec::new();
    let mut group_of = std::collections::HashMap::new();
    for (rank, place) in places.iter().enumerate() {
        let group = *group_of.entry(&place.host).or_insert_with(|| {
            groups.push(Vec::new());
            groups.len() - 1
        });
        groups[group].push(rank);
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(hosts_and_processes: &[(&str, u64)]) -> Vec<Place> {
        let place = |&(host, process): &(&str, u64)| Place { host: HostId(host.into()), pid: 1, process, cpu_count: 2 };
        hosts_and_processes.iter().map(place).collect()
    }

    #[test]
    fn auto_groups_by_host_in_order_of_the_lowest_rank() {
        let places = places(&[("a", 1), ("a", 2), ("b", 3), ("a", 4), ("b", 5), ("c", 6)]);
        let topology = Topology::new(&places, TransportChoice::Auto).unwrap();
        assert_eq!(topology.hosts, [vec![0, 1, 3], vec![2, 4], vec![5]]);
        assert_eq!(topology.locate(4), Some((1, 1)));
        assert_eq!(topology.locate(6), None);
    }

    #[test]
    fn networks_leave_everybody_alone() {
        let places = places(&[("a", 1), ("a", 1)]);
        assert_eq!(grouping(&places, TransportChoice::Tcp).unwrap(), [[0], [1]]);
        assert_eq!(grouping(&places, TransportChoice::Fabric).unwrap(), [[0], [1]]);
    }

    #[test]
    fn shm_needs_one_host_and_memory_one_process() {
        let threads = places(&[("a", 1), ("a", 1)]);
        assert_eq!(grouping(&threads, TransportChoice::Memory).unwrap(), [[0, 1]]);
        assert_eq!(grouping(&threads, TransportChoice::Shm).unwrap(), [[0, 1]]);

        // Both pid 1, as in two containers on one network: still not one process.
        let processes = places(&[("a", 1), ("a", 2)]);
        assert_eq!(grouping(&processes, TransportChoice::Shm).unwrap(), [[0, 1]]);
        let error = grouping(&processes, TransportChoice::Memory).unwrap_err().to_string();
        assert!(error.contains("rank 1") && error.contains("not threads of one process"), "{error}");

        let error = grouping(&places(&[("a", 1), ("b", 2)]), TransportChoice::Shm).unwrap_err().to_string();
        assert!(error.contains("rank 1 (host b)"), "{error}");
    }

    #[test]
    fn no_places_no_groups() {
        use TransportChoice::*;
        for choice in [Auto, Memory, Shm, Tcp, Fabric] {
            assert!(grouping(&[], choice).unwrap().is_empty());
            assert_eq!(choice.to_string().parse(), Ok(choice));
        }
        assert!("rdma".parse::<TransportChoice>().unwrap_err().to_string().contains("auto, memory, shm, tcp, fabric"));
    }
}
