//! Which algorithm a call uses. A pure function of facts that are the same on every rank, so that all choose alike:
//! ranks that decided from their own measurements could disagree and wait for each other for ever.
#![forbid(unsafe_code)]

use crate::error::{Error, Result};
use crate::schedule::catalogue::{Algorithm, Shape, candidates, honours_rank_order};
use crate::types::Collective;

/// A vector up to this size goes through one staging slot at once instead of being shared out.
pub const ONE_SHOT_BYTES: usize = 4096;

/// Without a vector to share out, up to this size one round through the staging slots beats several: the round needs no
/// end. It fits the smallest staging memory there can be.
const SINGLE_ROUND_BYTES: usize = 32 << 10;

/// What goes through the slots of a single round at most.
const fn single_round_bytes(collective: Collective) -> usize {
    match collective {
        Collective::AllReduce | Collective::Reduce => ONE_SHOT_BYTES,
        _ => SINGLE_ROUND_BYTES,
    }
}

/// What one more step costs, in bytes that could have travelled meanwhile.
const STEP_BYTES: usize = 100 << 10;

/// From this size on per rank, contiguous traffic beats the fewer steps of the logarithmic algorithms.
const LARGE_BYTES_PER_RANK: usize = 2 << 20;

/// So many ranks at most exchange large vectors each with each: every pair then moves both ways at once, and what has
/// arrived is summed in one pass. With more, a rank's streams are too many for its cache and its network.
const FEW_RANKS: usize = 4;

/// What the choice depends on, besides the shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Situation {
    /// Bytes of the vector, or of all blocks together.
    pub bytes: usize,
    /// The same, were all blocks as long as the longest: the slots of a round are of one size.
    pub padded_bytes: usize,
    /// Peers can map the caller's buffers.
    pub mapped: bool,
    /// The counts differ from pair to pair, and only the pair knows them.
    pub uneven_exchange: bool,
    /// Only algorithms whose reductions keep the rank order.
    pub reproducible: bool,
    /// The user's wish; it holds for the collectives that the algorithm can do.
    pub wish: Option<Algorithm>,
}

/// Chooses. An error only where a wish and reproducibility contradict each other.
///
/// ```
/// use roundel::schedule::catalogue::{Algorithm, Shape};
/// use roundel::tuner::{Situation, choose};
/// use roundel::Collective;
/// let shape = Shape::one_host(Collective::AllReduce, 4);
/// let sized = |bytes| Situation {
///     bytes,
///     padded_bytes: bytes,
///     mapped: false,
///     uneven_exchange: false,
///     reproducible: false,
///     wish: None,
/// };
/// assert_eq!(choose(&shape, sized(8)).unwrap(), Algorithm::OneShot);
/// assert_eq!(choose(&shape, sized(1 << 20)).unwrap(), Algorithm::Staged);
/// ```
pub fn choose(shape: &Shape, situation: Situation) -> Result<Algorithm> {
    let possible = candidates(shape);
    let orderly = |algorithm: &Algorithm| !situation.reproducible || honours_rank_order(*algorithm, shape);
    let usable = |algorithm: &Algorithm| {
        possible.contains(algorithm)
            && match algorithm {
                _ if situation.uneven_exchange => *algorithm == Algorithm::Pairwise,
                _ if algorithm.needs_mapped_buffers() => situation.mapped || shape.collective == Collective::Barrier,
                _ => !algorithm.single_round() || situation.padded_bytes <= single_round_bytes(shape.collective),
            }
    };
    if let Some(wish) = situation.wish.filter(usable) {
        if orderly(&wish) {
            return Ok(wish);
        }
        let names: Vec<&str> = possible.iter().filter(|a| orderly(a)).map(|a| a.name()).collect();
        return Err(Error::unsupported(format!(
            "algorithm {} cannot keep the reproducible order of {}; use one of: {}",
            wish.name(),
            shape.collective,
            names.join(", ")
        )));
    }
    preferred(shape, situation)
        .into_iter()
        .chain(possible.iter().copied())
        .find(|algorithm| usable(algorithm) && orderly(algorithm))
        .ok_or_else(|| Error::unsupported(format!("{} for these hosts and this mode", shape.collective)))
}

/// Algorithms in the order in which to try them.
fn preferred(shape: &Shape, situation: Situation) -> Vec<Algorithm> {
    use Algorithm::*;
    let world = shape.world();
    if shape.hosts.len() == 1 && world > 1 {
        return match shape.collective {
            Collective::Barrier => vec![FlatPush],
            _ if situation.bytes <= ONE_SHOT_BYTES => vec![OneShot],
            collective if situation.padded_bytes <= single_round_bytes(collective) => vec![FlatPush, OneShot],
            _ => vec![FlatPush, Staged],
        };
    }
    let alone = shape.hosts.iter().all(|host| host.len() == 1);
    let large = situation.bytes >= LARGE_BYTES_PER_RANK.saturating_mul(world);
    match shape.collective {
        Collective::AllReduce | Collective::ReduceScatter | Collective::AllGather if situation.reproducible => {
            vec![Direct, Pat]
        }
        Collective::AllReduce if !alone => vec![Hierarchical],
        Collective::AllReduce if world == 2 && large => vec![Pat],
        Collective::AllReduce if goes_whole(world, situation.bytes) => vec![RecursiveDoubling],
        Collective::AllReduce | Collective::ReduceScatter | Collective::AllGather if large && world <= FEW_RANKS => {
            vec![Direct, Pat]
        }
        Collective::AllReduce | Collective::ReduceScatter | Collective::AllGather if large => vec![Ring, Pat],
        Collective::AllReduce | Collective::ReduceScatter | Collective::AllGather => vec![Pat, Ring],
        Collective::Reduce if situation.reproducible => vec![Direct],
        Collective::Broadcast | Collective::Reduce if large => vec![Chain, Binomial],
        Collective::Broadcast | Collective::Reduce => vec![Binomial, Chain],
        Collective::Gather | Collective::Scatter if large => vec![Pairwise, Binomial],
        Collective::Gather | Collective::Scatter => vec![Binomial, Pairwise],
        Collective::AllToAll | Collective::SendRecv => vec![Pairwise],
        Collective::Barrier => vec![Dissemination],
    }
}

/// Whether a vector crosses the network in log2(n) steps at full length rather than in twice as many with 2(n-1)/n of it
/// in all: where the bytes saved are worth less than the steps.
fn goes_whole(world: usize, bytes: usize) -> bool {
    let steps = world.next_power_of_two().ilog2() as usize;
    let saved_bytes = bytes.saturating_mul(steps * world - 2 * (world - 1)) / world;
    saved_bytes <= steps * STEP_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn between_hosts_steps_are_saved_for_short_vectors_and_bytes_for_long_ones() {
        use Algorithm::*;
        let chosen = |world, bytes| {
            let situation = Situation {
                bytes,
                padded_bytes: bytes,
                mapped: false,
                uneven_exchange: false,
                reproducible: false,
                wish: None,
            };
            choose(&Shape::apart(Collective::AllReduce, world), situation).unwrap()
        };
        for (world, expected) in [
            (2, [RecursiveDoubling, RecursiveDoubling, RecursiveDoubling, Pat]),
            (4, [RecursiveDoubling, RecursiveDoubling, Pat, Direct]),
            (8, [RecursiveDoubling, RecursiveDoubling, Pat, Ring]),
            (100, [RecursiveDoubling, RecursiveDoubling, Pat, Pat]),
        ] {
            assert_eq!([8, 32 << 10, 1 << 20, 64 << 20].map(|bytes| chosen(world, bytes)), expected, "{world} ranks");
        }
    }
    #[test]
    fn what_must_fit_one_round_is_judged_by_its_longest_block() {
        let skewed = |padded_bytes| Situation {
            bytes: 32 << 10,
            padded_bytes,
            mapped: false,
            uneven_exchange: false,
            reproducible: false,
            wish: Some(Algorithm::OneShot),
        };
        let shape = Shape::one_host(Collective::ReduceScatter, 8);
        assert_eq!(choose(&shape, skewed(32 << 10)), Ok(Algorithm::OneShot));
        assert_ne!(choose(&shape, skewed(8 * (32 << 10))), Ok(Algorithm::OneShot));
    }
}
