//! The algorithms there are, by name, and which of them does what: [`program`] turns a name and the [`Shape`] of a call
//! into one rank's program.
//!
//! Everything here is a pure function of its arguments, and all ranks of a call must pass the same ones (but `me`, and
//! `in_place` where the collective allows it to differ): then their programs fit each other.
#![forbid(unsafe_code)]

use std::fmt;
use std::str::FromStr;

use super::draft::Draft;
use super::{Program, hierarchy, links, mapped, one_shot, staged};
use crate::types::{Collective, Rank};

/// A way to do a collective.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub enum Algorithm {
    /// One host, staging memory, one meeting, everybody reduces everything: small vectors.
    OneShot,
    /// One host, all buffers mapped by all: every rank does its slice of all buffers.
    FlatPush,
    /// One host, private buffers: through staging memory.
    Staged,
    /// n-1 steps around, to the neighbour only: large vectors.
    Ring,
    /// Two binary trees with half the vector each.
    DoubleTree,
    /// log2 n steps with the whole vector: small vectors, two ranks.
    RecursiveDoubling,
    /// Reversed Bruck with full aggregation: logarithmic steps, fewest bytes.
    Pat,
    /// Binomial tree: small vectors from or to a root.
    Binomial,
    /// Pipelined chain: large vectors from or to a root.
    Chain,
    /// Every two ranks exchange directly.
    Pairwise,
    /// The barrier over links.
    Dissemination,
    /// Everything to its owner at once, one sum in rank order there.
    Direct,
    /// Inside the hosts by staging memory, between them over links.
    Hierarchical,
}

impl Algorithm {
    /// All of them.
    pub const ALL: [Algorithm; 13] = [
        Algorithm::OneShot,
        Algorithm::FlatPush,
        Algorithm::Staged,
        Algorithm::Ring,
        Algorithm::DoubleTree,
        Algorithm::RecursiveDoubling,
        Algorithm::Pat,
        Algorithm::Binomial,
        Algorithm::Chain,
        Algorithm::Pairwise,
        Algorithm::Dissemination,
        Algorithm::Direct,
        Algorithm::Hierarchical,
    ];

    /// The name used in settings and tables; [`FromStr`] reads it.
    pub const fn name(self) -> &'static str {
        match self {
            Algorithm::OneShot => "oneshot",
            Algorithm::FlatPush => "flat",
            Algorithm::Staged => "staged",
            Algorithm::Ring => "ring",
            Algorithm::DoubleTree => "tree",
            Algorithm::RecursiveDoubling => "rd",
            Algorithm::Pat => "pat",
            Algorithm::Binomial => "binomial",
            Algorithm::Chain => "chain",
            Algorithm::Pairwise => "pairwise",
            Algorithm::Dissemination => "dissemination",
            Algorithm::Direct => "direct",
            Algorithm::Hierarchical => "hierarchical",
        }
    }

    /// True where a program is right only in a single round: every chunk must fit a slot.
    pub const fn single_round(self) -> bool {
        matches!(self, Algorithm::OneShot)
    }

    /// True where all ranks are on one host and begin with a meeting. Only there can they settle, in the call, on a program for
    /// buffers of which some cannot be mapped.
    pub const fn meets(self) -> bool {
        matches!(self, Algorithm::OneShot | Algorithm::FlatPush | Algorithm::Staged)
    }

    /// True where ranks of a host touch each other's buffers, not only staging memory: all must have them mapped.
    pub const fn needs_mapped_buffers(self) -> bool {
        matches!(self, Algorithm::FlatPush)
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// No algorithm has this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no algorithm {given:?}; there are {}", Algorithm::ALL.map(Algorithm::name).join(", "))]
pub struct UnknownAlgorithm {
    /// What was asked for.
    pub given: String,
}

impl FromStr for Algorithm {
    type Err = UnknownAlgorithm;

    fn from_str(name: &str) -> Result<Algorithm, UnknownAlgorithm> {
        let found = Algorithm::ALL.into_iter().find(|algorithm| algorithm.name() == name);
        found.ok_or_else(|| UnknownAlgorithm { given: name.to_owned() })
    }
}

/// All that an algorithm needs to know of a call.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Shape {
    /// The pattern.
    pub collective: Collective,
    /// The special rank where there is one; the sender of [`Collective::SendRecv`]; otherwise 0.
    pub root: Rank,
    /// The receiver of [`Collective::SendRecv`]; otherwise 0.
    pub peer: Rank,
    /// The ranks that share memory, host by host, each list sorted; every rank is in exactly one, so together they are
    /// 0..world.
    pub hosts: Vec<Vec<Rank>>,
    /// How many parallel links to use between two ranks, at least 1.
    pub channels: u8,
    /// Input and output are the same memory. Only all-to-all looks at it, and only there must all ranks agree on it;
    /// for the rest, link ops and signals are the same either way and ranks may differ.
    pub in_place: bool,
}

impl Shape {
    /// A call of all ranks of one host, root 0, one channel, out of place.
    pub fn one_host(collective: Collective, world: usize) -> Shape {
        Shape { hosts: vec![(0..world).collect()], ..Shape::apart(collective, 0) }
    }

    /// A call of ranks of which no two share memory, root 0, one channel, out of place.
    pub fn apart(collective: Collective, world: usize) -> Shape {
        let hosts = (0..world).map(|rank| vec![rank]).collect();
        Shape { collective, root: 0, peer: 0, hosts, channels: 1, in_place: false }
    }

    /// How many ranks there are.
    pub fn world(&self) -> usize {
        self.hosts.iter().map(Vec::len).sum()
    }

    /// True when all ranks share memory.
    pub fn is_one_host(&self) -> bool {
        self.hosts.len() == 1
    }
}

/// Whether the algorithm does this collective on these hosts.
pub fn supports(algorithm: Algorithm, shape: &Shape) -> bool {
    use Algorithm as A;
    use Collective as C;
    let collective = shape.collective;
    match algorithm {
        A::OneShot | A::FlatPush | A::Staged => shape.is_one_host() && collective != C::SendRecv,
        A::Ring | A::Pat => matches!(collective, C::AllReduce | C::ReduceScatter | C::AllGather),
        A::DoubleTree | A::RecursiveDoubling => collective == C::AllReduce,
        A::Binomial => matches!(collective, C::Broadcast | C::Reduce | C::Gather | C::Scatter),
        A::Chain => matches!(collective, C::Broadcast | C::Reduce),
        A::Pairwise => matches!(collective, C::AllToAll | C::Gather | C::Scatter | C::SendRecv),
        A::Dissemination => collective == C::Barrier,
        A::Direct => matches!(collective, C::AllReduce | C::ReduceScatter | C::AllGather | C::Reduce),
        A::Hierarchical => {
            let two_levels = shape.hosts.len() > 1 && shape.hosts.iter().any(|host| host.len() > 1);
            two_levels && !matches!(collective, C::AllToAll | C::Gather | C::Scatter | C::SendRecv)
        }
    }
}

/// The algorithms that can do this, in the order of [`Algorithm::ALL`].
pub fn candidates(shape: &Shape) -> Vec<Algorithm> {
    Algorithm::ALL.into_iter().filter(|&algorithm| supports(algorithm, shape)).collect()
}

/// Whether the result is the canonical one: every reduction is a single n-ary sum over all ranks in rank order, so that
/// its bits depend on the number of ranks only, not on size, transport or hosts. True where nothing is reduced.
pub fn honours_rank_order(algorithm: Algorithm, shape: &Shape) -> bool {
    let canonical =
        matches!(algorithm, Algorithm::OneShot | Algorithm::FlatPush | Algorithm::Staged | Algorithm::Direct);
    !shape.collective.reduces() || shape.world() == 1 || canonical
}

/// Writes the program of rank `me`. `None`: this algorithm does not do this (see [`supports`]).
pub fn program(algorithm: Algorithm, shape: &Shape, me: Rank) -> Option<Program> {
    if !supports(algorithm, shape) {
        return None;
    }
    let (collective, n) = (shape.collective, shape.world());
    debug_assert!(me < n && shape.root < n && shape.peer < n, "rank {me} of a shape of {n}: {shape:?}");
    if n == 1 {
        return Some(alone(collective));
    }
    match algorithm {
        Algorithm::OneShot => one_shot::program(collective, n, shape.root, me),
        Algorithm::FlatPush => mapped::program(collective, n, shape.root, shape.in_place, me),
        Algorithm::Staged => staged::program(collective, n, shape.root, staged::Rounds::Any, me),
        Algorithm::Hierarchical => hierarchy::program(shape, me),
        _ => links::program(algorithm, shape, me),
    }
}

/// A world of one has everything already, it only has to be where it is expected.
fn alone(collective: Collective) -> Program {
    let mut draft = Draft::new(0);
    if collective != Collective::Barrier {
        draft.copy(draft.input(0), vec![draft.output(0)]);
    }
    draft.finish(1, 0, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back() {
        for algorithm in Algorithm::ALL {
            assert_eq!(algorithm.name().parse(), Ok(algorithm));
        }
        let error = "rings".parse::<Algorithm>().unwrap_err().to_string();
        assert!(error.contains("\"rings\"") && error.contains("recursive") | error.contains("rd"), "{error}");
    }
}
