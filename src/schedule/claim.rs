//! What the algorithms' docs claim, as numbers: [`claim`] is told from formulas alone, without looking at a program, so
//! that the checker's [`Facts`](super::check::Facts) can be held against it (rule V6).
//!
//! The unit is a chunk: of `chunks` chunks that make the vector, `sent_max` chunks are `sent_max / chunks` S. All
//! numbers are those of one round.
#![forbid(unsafe_code)]

use super::catalogue::{Algorithm, Shape, supports};
use super::{staged, tree};
use crate::types::Collective;

/// The price of a call. For worlds of two or more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// How many chunks make the vector.
    pub chunks: u32,
    /// The most chunks that a rank sends over links.
    pub sent_max: u64,
    /// Messages on the longest chain in which each needs the one before.
    pub steps: u32,
    /// Signals on the longest chain of signals and waits.
    pub meetings: u32,
    /// What copies and reductions of all ranks load and store, in chunks. Claimed where memory is all there is.
    pub touched: Option<Touched>,
}

/// Chunks that cross between cores and memory, summed over all ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Touched {
    /// Loaded.
    pub loads: u64,
    /// Stored.
    pub stores: u64,
}

/// What the algorithm claims to cost. `None` where it does not do the collective, where there is only one rank, and for
/// hosts of different sizes.
pub fn claim(algorithm: Algorithm, shape: &Shape) -> Option<Claim> {
    let world = shape.world();
    if !supports(algorithm, shape) || world < 2 {
        return None;
    }
    Some(match algorithm {
        Algorithm::OneShot | Algorithm::FlatPush | Algorithm::Staged => mapped(algorithm, shape),
        Algorithm::Hierarchical => return hierarchical(shape),
        _ => linked(algorithm, shape),
    })
}

/// ceil(log2 n).
fn log2_up(n: usize) -> u32 {
    n.next_power_of_two().ilog2()
}

/// The algorithms over links: k parts of the data for k channels, each of them moved in the same way.
fn linked(algorithm: Algorithm, shape: &Shape) -> Claim {
    use Collective as C;
    let (n, logarithm) = (shape.world(), log2_up(shape.world()));
    let others = n as u32 - 1;
    let two_phases = 1 + u32::from(shape.collective == C::AllReduce);
    // Per channel: chunks, chunks sent at most, steps.
    let (mut chunks, mut sent_max, steps) = match (algorithm, shape.collective) {
        (Algorithm::Ring, _) => (n as u32, two_phases * others, two_phases * others),
        (Algorithm::Pat, _) => (n as u32, two_phases * others, two_phases * n.ilog2()),
        (Algorithm::Direct, C::Reduce) => (n as u32, others + 1, 2),
        (Algorithm::Direct, _) => (n as u32, two_phases * others, two_phases),
        (Algorithm::RecursiveDoubling, _) if n.is_power_of_two() => (1, logarithm, logarithm),
        // Every step, and before and after it the fold: unless no folded rank's opposite is folded as well.
        (Algorithm::RecursiveDoubling, _) => {
            let (power, log) = (1 << n.ilog2(), n.ilog2());
            (1, log + 1, log + 1 + u32::from(2 * (n - power) > power))
        }
        (Algorithm::Chain, _) => (1, 1, others),
        (Algorithm::Binomial, C::Broadcast) => (1, logarithm, n.ilog2()),
        (Algorithm::Binomial, C::Reduce) => (1, 1, n.ilog2()),
        (Algorithm::Binomial, C::Scatter) => (n as u32, others, n.ilog2()),
        // The largest subtree is that of the highest bit, or the full one below it.
        (Algorithm::Binomial, _) => {
            let highest = 1 << (logarithm - 1);
            (n as u32, (n as u32 - highest).max(highest / 2), n.ilog2())
        }
        (Algorithm::Pairwise, C::SendRecv) => {
            let moves = u32::from(shape.root != shape.peer);
            (1, moves, moves)
        }
        (Algorithm::Pairwise, C::Gather) => (n as u32, 1, 1),
        (Algorithm::Pairwise, _) => (n as u32, others, 1),
        (Algorithm::DoubleTree, _) => (1, tree::sent_max(n), tree::steps(n)),
        _ => (1, logarithm, logarithm),
    };
    let copies = match algorithm {
        Algorithm::DoubleTree => tree::count(shape.channels) / 2,
        Algorithm::Binomial | Algorithm::Dissemination => 1,
        _ => shape.channels.into(),
    };
    if algorithm == Algorithm::DoubleTree {
        chunks = 2;
    }
    chunks *= copies;
    sent_max *= copies;
    Claim { chunks, sent_max: sent_max.into(), steps, meetings: 0, touched: None }
}

/// The algorithms inside one host.
fn mapped(algorithm: Algorithm, shape: &Shape) -> Claim {
    use Collective as C;
    let n = shape.world() as u64;
    let collective = shape.collective;
    // Copies of a rank's own data from its input to its output, which are none in place: per owner.
    let own = u64::from(!shape.in_place);
    let foreign = n * (n - 1);
    let pieces = u64::from(staged::BROADCAST_PIECES);
    let (chunks, loads, stores) = match (algorithm, collective) {
        (_, C::Barrier) => (1, 0, 0),
        (Algorithm::FlatPush, C::AllReduce) => (n, n * n, n * n),
        (Algorithm::FlatPush, C::Reduce | C::ReduceScatter) => (n, n * n, n),
        (Algorithm::FlatPush, C::Broadcast) => (n, n, n * n - 1 + own),
        (Algorithm::FlatPush, C::AllToAll) if shape.in_place => (n, 3 * foreign / 2, 3 * foreign / 2),
        (Algorithm::FlatPush, C::AllGather | C::AllToAll) => (n, foreign + own * n, foreign + own * n),
        (Algorithm::FlatPush, _) => (n, n - 1 + own, n - 1 + own),
        (Algorithm::OneShot, C::AllReduce) => (1, n + n * n, 2 * n),
        (Algorithm::OneShot, C::Reduce) => (1, 2 * n - 1, n),
        (_, C::AllReduce) => (n, 2 * foreign + n * n, 2 * foreign + 2 * n),
        (_, C::Reduce) => (n, foreign + n * n + n - 1, foreign + n + n - 1),
        (_, C::ReduceScatter) => (n, foreign + n * n, foreign + n),
        (Algorithm::OneShot, C::Broadcast) => (1, n, n + own),
        (_, C::Broadcast) => (pieces, pieces * n, pieces * (n + own)),
        (_, C::AllGather) => (n, n * n, n * n + own * n),
        (_, C::AllToAll) => (n, 2 * foreign + own * n, 2 * foreign + own * n),
        (_, _) => (n, 2 * (n - 1) + own, 2 * (n - 1) + own),
    };
    let meetings = match (algorithm, collective) {
        (Algorithm::OneShot, _) | (_, C::Barrier) => 1,
        (Algorithm::Staged, C::Broadcast) => staged::BROADCAST_PIECES + 1,
        _ => 2,
    };
    Claim { chunks: chunks as u32, sent_max: 0, steps: 0, meetings, touched: Some(Touched { loads, stores }) }
}

/// Hosts of equal size: what the algorithm between hosts costs for one flow.
fn hierarchical(shape: &Shape) -> Option<Claim> {
    use Collective as C;
    let (hosts, flows) = (shape.hosts.len(), shape.hosts[0].len());
    if shape.hosts.iter().any(|host| host.len() != flows) {
        return None;
    }
    let between = match (shape.collective, shape.channels) {
        (C::AllReduce, _) if hosts == 2 => Algorithm::RecursiveDoubling,
        (C::AllReduce | C::ReduceScatter | C::AllGather, 1) => Algorithm::Pat,
        (C::AllReduce | C::ReduceScatter | C::AllGather, _) => Algorithm::Ring,
        (C::Broadcast | C::Reduce, 1) => Algorithm::Binomial,
        (C::Broadcast | C::Reduce, _) => Algorithm::Chain,
        _ => Algorithm::Dissemination,
    };
    let apart = Shape { channels: shape.channels, ..Shape::apart(shape.collective, hosts) };
    let flow = linked(between, &apart);
    let flows = if shape.collective == C::Barrier { 1 } else { flows as u32 };
    Some(Claim { chunks: flow.chunks * flows, meetings: 2, ..flow })
}

#[cfg(test)]
mod tests {
    use super::super::Program;
    use super::super::catalogue::{candidates, program};
    use super::super::check::{Capacity, check};
    use super::*;

    /// Proves all algorithms for this shape, for as many rounds as they stand, and holds their cost against the claim.
    fn hold(shape: &Shape) {
        for algorithm in candidates(shape) {
            let programs: Vec<Program> =
                (0..shape.world()).map(|me| program(algorithm, shape, me).expect("a candidate")).collect();
            for rounds in if algorithm.single_round() { 1..=1 } else { 1..=2 } {
                let facts = check(&programs, shape, Capacity::LEAST, rounds)
                    .unwrap_or_else(|violation| panic!("{algorithm}, {rounds} rounds of {shape:?}: {violation}"));
                let Some(claim) = claim(algorithm, shape).filter(|_| rounds == 1) else { continue };
                let touched = Touched { loads: facts.loads, stores: facts.stores };
                let found = Claim {
                    chunks: facts.chunks,
                    sent_max: facts.sent_max(),
                    steps: facts.steps,
                    meetings: facts.meetings,
                    touched: claim.touched.and(Some(touched)),
                };
                assert_eq!(found, claim, "found and claimed for {algorithm}, {shape:?}");
                if !shape.collective.reduces() {
                    continue;
                }
                let canonical = super::super::honours_rank_order(algorithm, shape);
                let found = facts.rank_order && facts.rounds_once;
                assert!(found || !canonical, "{algorithm} does not sum in rank order: {shape:?}");
            }
        }
    }

    #[test]
    fn costs_are_as_claimed() {
        for collective in Collective::ALL {
            for world in (2..=20).chain([31, 32, 33, 47]) {
                for (channels, in_place) in [(1, false), (2, true), (3, false)] {
                    let root = world / 3;
                    let with = |shape| Shape { root, peer: world - 1, channels, in_place, ..shape };
                    hold(&with(Shape::one_host(collective, world)));
                }
            }
        }
    }

    #[test]
    fn costs_between_even_hosts_are_as_claimed() {
        for collective in Collective::ALL {
            for (hosts, ranks) in [(2, 2), (2, 3), (3, 2), (4, 4), (5, 2), (7, 3)] {
                for channels in [1, 2] {
                    let hosts = (0..hosts).map(|host| (host * ranks..(host + 1) * ranks).collect()).collect();
                    hold(&Shape { hosts, channels, ..Shape::apart(collective, 0) });
                }
            }
        }
    }
}
