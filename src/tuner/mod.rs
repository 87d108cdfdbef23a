//! Which algorithm a call uses. A pure function of facts that are the same on every rank, so that all choose alike:
//! ranks that decided from their own measurements could disagree and wait for each other for ever.
#![forbid(unsafe_code)]

use crate::error::{Error, Result};
use crate::schedule::catalogue::{Algorithm, Shape, candidates, honours_rank_order};
use crate::types::Collective;

/// A vector up to this size goes through one staging slot at once instead of being shared out.
pub const ONE_SHOT_BYTES: usize = 4096;

/// Up to this size a vector crosses the network in logarithmically many steps at full length.
const WHOLE_VECTOR_BYTES: usize = 4096;

/// From this size on per rank, a ring's contiguous traffic beats the fewer steps of the logarithmic algorithms.
const RING_BYTES_PER_RANK: usize = 1 << 20;

/// What the choice depends on, besides the shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Situation {
    /// Bytes of the vector, or of all blocks together.
    pub bytes: usize,
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
/// let small = Situation { bytes: 8, mapped: false, uneven_exchange: false, reproducible: false, wish: None };
/// assert_eq!(choose(&shape, small).unwrap(), Algorithm::OneShot);
/// assert_eq!(choose(&shape, Situation { bytes: 1 << 20, ..small }).unwrap(), Algorithm::Staged);
/// ```
pub fn choose(shape: &Shape, situation: Situation) -> Result<Algorithm> {
    let possible = candidates(shape);
    let orderly = |algorithm: &Algorithm| !situation.reproducible || honours_rank_order(*algorithm, shape);
    let usable = |algorithm: &Algorithm| {
        possible.contains(algorithm)
            && match algorithm {
                _ if situation.uneven_exchange => *algorithm == Algorithm::Pairwise,
                _ if algorithm.needs_mapped_buffers() => situation.mapped || shape.collective == Collective::Barrier,
                _ => !algorithm.single_round() || situation.bytes <= ONE_SHOT_BYTES,
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
            _ => vec![FlatPush, Staged],
        };
    }
    let alone = shape.hosts.iter().all(|host| host.len() == 1);
    let large = situation.bytes >= RING_BYTES_PER_RANK.saturating_mul(world);
    match shape.collective {
        Collective::AllReduce | Collective::ReduceScatter | Collective::AllGather if situation.reproducible => {
            vec![Direct, Pat]
        }
        Collective::AllReduce if !alone => vec![Hierarchical],
        Collective::AllReduce if world == 2 || situation.bytes <= WHOLE_VECTOR_BYTES => vec![RecursiveDoubling],
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
