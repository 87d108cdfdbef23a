//! The choice where nothing was measured: by sizes that were fitted on two machines of two cores, over shared memory and over
//! TCP within a host (`benches/record/2026-11-21-cpu-peers.md`, `2026-11-21-tcp-steps.md`).
#![forbid(unsafe_code)]

use super::{SINGLE_ROUND_BYTES, Situation};
use crate::schedule::catalogue::{Algorithm, Shape};
use crate::types::Collective;

/// A vector up to this size goes through one staging slot at once instead of being shared out.
pub const ONE_SHOT_BYTES: usize = 4096;

/// Up to which size a single round beats several, where there is a vector to share out and where there is none: the round
/// needs no end.
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

/// Algorithms in the order in which to try them.
pub(super) fn preferred(shape: &Shape, situation: &Situation) -> Vec<Algorithm> {
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
    use crate::tuner::choose;

    fn chosen(shape: &Shape, situation: Situation) -> Algorithm {
        choose(shape, situation).unwrap().way.algorithm
    }

    #[test]
    fn between_hosts_steps_are_saved_for_short_vectors_and_bytes_for_long_ones() {
        use Algorithm::*;
        for (world, expected) in [
            (2, [RecursiveDoubling, RecursiveDoubling, RecursiveDoubling, Pat]),
            (4, [RecursiveDoubling, RecursiveDoubling, Pat, Direct]),
            (8, [RecursiveDoubling, RecursiveDoubling, Pat, Ring]),
            (100, [RecursiveDoubling, RecursiveDoubling, Pat, Pat]),
        ] {
            let shape = Shape::apart(Collective::AllReduce, world);
            let found = [8, 32 << 10, 1 << 20, 64 << 20].map(|bytes| chosen(&shape, Situation::sized(bytes)));
            assert_eq!(found, expected, "{world} ranks");
        }
    }

    #[test]
    fn what_must_fit_one_round_is_judged_by_its_longest_block() {
        let skewed = |padded_bytes| Situation {
            padded_bytes,
            wish: Some(Algorithm::OneShot),
            ..Situation::sized(SINGLE_ROUND_BYTES)
        };
        let shape = Shape::one_host(Collective::ReduceScatter, 8);
        assert_eq!(chosen(&shape, skewed(32 << 10)), Algorithm::OneShot);
        assert_ne!(chosen(&shape, skewed(8 * (32 << 10))), Algorithm::OneShot);
    }
}
