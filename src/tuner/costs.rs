//! What was measured of a machine or cluster, and the cost model that follows from it.
#![forbid(unsafe_code)]

use crate::schedule::cost::{CostModel, LinkCost};
use serde::{Deserialize, Serialize};
use std::fmt;

/// What a link is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum LinkClass {
    /// Between threads of one process.
    Threads,
    /// Rings in memory that processes of one host share.
    SharedMemory,
    /// Sockets within a host.
    TcpWithinHost,
    /// Sockets between hosts.
    TcpBetweenHosts,
    /// RDMA.
    Fabric,
}

impl fmt::Display for LinkClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            LinkClass::Threads => "threads",
            LinkClass::SharedMemory => "shared memory",
            LinkClass::TcpWithinHost => "TCP within the host",
            LinkClass::TcpBetweenHosts => "TCP between hosts",
            LinkClass::Fabric => "fabric",
        })
    }
}

/// One class of links, as measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct MeasuredLink {
    /// Which.
    pub class: LinkClass,
    /// What they cost.
    pub cost: LinkCost,
    /// What handling one message keeps a rank busy for.
    pub step_ns: f64,
}

/// What things cost on all ranks at once, or between two of them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Costs {
    /// Links inside the hosts, where ranks share memory.
    pub local: Option<MeasuredLink>,
    /// Links between those that do not.
    pub remote: Option<MeasuredLink>,
    /// Copying, per byte.
    pub memory_ns_per_byte: f64,
    /// Combining two operands, per byte of result, beyond moving them.
    pub reduce_ns_per_byte: f64,
    /// From giving a signal until a waiting rank sees it.
    pub sync_ns: f64,
}

/// Longer than anything that is measured takes: a number beyond it was not measured.
const LONGEST_NS: f64 = 60e9;

/// A quick look and what was kept may differ by this factor before the one contradicts the other: the clock of a shared
/// machine with as many other ranks as cores is that uneven.
const TOLERANCE: f64 = 5.0;

/// How finely links cut and how much they hold, as far as the model is concerned: sockets have no such numbers.
const LINK_SLICE_BYTES: usize = 64 << 10;
const SOCKET_BYTES: usize = 1 << 20;

impl Costs {
    /// Whether the numbers can have been measured.
    pub fn check(&self) -> Result<(), String> {
        let links = self.local.into_iter().chain(self.remote);
        let times = links.flat_map(|link| [link.cost.latency_ns, link.cost.ns_per_byte, link.step_ns]);
        let times: Vec<f64> = times.chain([self.memory_ns_per_byte, self.reduce_ns_per_byte, self.sync_ns]).collect();
        match times.iter().find(|time| !time.is_finite() || **time < 0.0 || **time > LONGEST_NS) {
            Some(time) => Err(format!("a cost of {time} ns")),
            None => Ok(()),
        }
    }

    /// What of `self` cannot be true where `seen` was measured just now, in words; `None` where nothing speaks against it.
    pub fn contradiction(&self, seen: &Costs) -> Option<String> {
        let mut pairs = Vec::new();
        for (mine, theirs) in [(self.local, seen.local), (self.remote, seen.remote)] {
            match (mine, theirs) {
                (Some(mine), Some(theirs)) if mine.class == theirs.class => {
                    let one_way = |link: MeasuredLink| link.cost.latency_ns + 2.0 * link.step_ns;
                    pairs.push((format!("latency over {}", mine.class), one_way(mine), one_way(theirs)));
                    let per_byte = |link: MeasuredLink| link.cost.ns_per_byte;
                    pairs.push((format!("time a byte over {}", mine.class), per_byte(mine), per_byte(theirs)));
                }
                (None, None) => {}
                _ => return Some("other links".into()),
            }
        }
        let differs = |&(_, kept, seen): &(String, f64, f64)| {
            kept > TOLERANCE * seen.max(f64::MIN_POSITIVE) || seen > TOLERANCE * kept.max(f64::MIN_POSITIVE)
        };
        let found = pairs.iter().find(|pair| differs(pair));
        found.map(|(what, kept, seen)| format!("{what} was {kept:.1} ns and is {seen:.1} ns"))
    }

    /// The cost model, for programs whose slots hold `slot_bytes` and links `ring_bytes`.
    pub fn model(&self, slot_bytes: usize, ring_bytes: usize) -> CostModel {
        let none = LinkCost { latency_ns: 0.0, ns_per_byte: 0.0 };
        let cost = |link: Option<MeasuredLink>| link.map_or(none, |link| link.cost);
        let steps = [self.remote, self.local].into_iter().flatten().map(|link| link.step_ns);
        CostModel {
            local: cost(self.local),
            remote: cost(self.remote),
            memory_ns_per_byte: self.memory_ns_per_byte,
            reduce_ns_per_byte: self.reduce_ns_per_byte,
            sync_ns: self.sync_ns,
            step_ns: steps.fold(0.0, f64::max),
            slice_bytes: LINK_SLICE_BYTES.min(ring_bytes.max(1)),
            link_bytes: if self.remote.is_some() { SOCKET_BYTES } else { ring_bytes },
            slot_bytes,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn link(class: LinkClass, latency_ns: f64, ns_per_byte: f64) -> MeasuredLink {
        MeasuredLink { class, cost: LinkCost { latency_ns, ns_per_byte }, step_ns: 100.0 }
    }

    pub(crate) fn network(latency_ns: f64, ns_per_byte: f64) -> Costs {
        Costs {
            local: None,
            remote: Some(link(LinkClass::TcpBetweenHosts, latency_ns, ns_per_byte)),
            memory_ns_per_byte: 0.1,
            reduce_ns_per_byte: 0.05,
            sync_ns: 0.0,
        }
    }

    #[test]
    fn another_network_contradicts_and_a_slow_moment_does_not() {
        let kept = network(10_000.0, 1.0);
        assert_eq!(kept.contradiction(&network(30_000.0, 0.5)), None);
        assert!(kept.contradiction(&network(80_000.0, 1.0)).unwrap().contains("latency over TCP between hosts"));
        assert!(kept.contradiction(&network(10_000.0, 0.1)).unwrap().contains("time a byte"));
        let rdma = Costs { remote: Some(link(LinkClass::Fabric, 10_000.0, 1.0)), ..kept };
        assert!(kept.contradiction(&rdma).is_some());
        assert!(kept.contradiction(&Costs { remote: None, ..kept }).is_some());
    }

    #[test]
    fn what_no_clock_says_is_refused() {
        for bad in [f64::NAN, f64::INFINITY, -1.0, 1e12] {
            assert!(network(bad, 1.0).check().is_err(), "{bad}");
            assert!(Costs { sync_ns: bad, ..network(1.0, 1.0) }.check().is_err(), "{bad}");
        }
        assert_eq!(network(1.0, 0.0).check(), Ok(()));
    }
}
