//! Flat push: the ranks of a host work directly in each other's buffers. Rank r takes slice r of everything: it reads
//! that slice of all inputs, adds in registers, and stores the sum into all outputs. Every rank loads S and stores S,
//! which is what n concurrent memcpys of S do and the least there is; two meetings of the host are the whole protocol.
//!
//! ```text
//!                 slice 0   slice 1   slice 2            meet: all inputs are ready
//!   input of 0   [   a   ] [   d   ] [   g   ]           rank 0: a+b+c -> slice 0 of every output
//!   input of 1   [   b   ] [   e   ] [   h   ]           rank 1: d+e+f -> slice 1 of every output
//!   input of 2   [   c   ] [   f   ] [   i   ]           rank 2: g+h+i -> slice 2 of every output
//!                                                        meet: all outputs are ready, all inputs free again
//! ```
//!
//! In place there is no hazard: rank r is the only one that reads or writes slice r of anything between the meetings.
//!
//! | | how | loads, stores of one rank | meetings |
//! |---|---|---|---|
//! | all-reduce | above | S, S | 2 |
//! | reduce | above, storing to the root's output only | S, S/n | 2 |
//! | reduce-scatter | above, storing to one's own output only | S, S/n | 2 |
//! | broadcast | rank r copies slice r of the root's input into all outputs | S/n, (n-1)/n S | 2 |
//! | all-gather | everybody pulls each block from its owner, nearest first, so that nobody is read by all at once and uneven blocks cost all ranks the same | S, S | 2 |
//! | all-to-all | everybody pulls the blocks meant for it; in place one rank of each pair swaps the two blocks through a private slot | S, S; in place 1.5 S, 1.5 S | 2 |
//! | gather, scatter | everybody writes its block into the root's output, or reads it from the root's input | S/n, S/n | 1, and the root waits for all |
//! | barrier | meet | | 1 |
//!
//! In a broadcast only the root knows whether it is in place, so others write its slices in any case: onto themselves if
//! it is. An engine that sees equal addresses may leave that out.
//!
//! Needs buffers that all ranks of the host have mapped. Source: the two-shot kernels of NCCL (symmetric memory) and
//! vLLM, on CPU memory; the count of loads and stores is derived in the project's design notes.
#![forbid(unsafe_code)]

use super::draft::{Draft, rotated};
use super::{Loc, Program};
use crate::types::{Collective, Rank};

/// The program of `me`, on one host whose `n` ranks are all there are. `None` where it does not do the collective.
pub(super) fn program(collective: Collective, n: usize, root: Rank, in_place: bool, me: Rank) -> Option<Program> {
    let host: Vec<Rank> = (0..n).collect();
    let mine = me as u32;
    let mut draft = Draft::new(me);
    let (mut chunks, mut scratch_slots) = (n as u32, 0);
    draft.meet(&host);
    match collective {
        Collective::AllReduce | Collective::Reduce | Collective::ReduceScatter => {
            let operands = host.iter().map(|&rank| Loc::input(rank, mine)).collect();
            let results = match collective {
                Collective::AllReduce => host.iter().map(|&rank| Loc::output(rank, mine)).collect(),
                Collective::Reduce => vec![Loc::output(root, mine)],
                _ => vec![Loc::output(me, mine)],
            };
            draft.reduce(operands, results, true);
            draft.meet(&host);
        }
        Collective::Broadcast => {
            draft.copy(Loc::input(root, mine), host.iter().map(|&rank| Loc::output(rank, mine)).collect());
            draft.meet(&host);
        }
        Collective::AllGather => {
            for owner in rotated(&host, me) {
                draft.copy(Loc::input(owner, owner as u32), vec![draft.output(owner as u32)]);
            }
            draft.meet(&host);
        }
        Collective::AllToAll => {
            for peer in rotated(&host, me) {
                if !in_place || peer == me {
                    draft.copy(Loc::input(peer, mine), vec![draft.output(peer as u32)]);
                } else if swaps(n, me, peer) {
                    let (spare, theirs) = (draft.scratch(0, peer as u32), peer as u32);
                    draft.copy(draft.input(theirs), vec![spare]);
                    draft.copy(Loc::input(peer, mine), vec![draft.output(theirs)]);
                    draft.copy(spare, vec![Loc::output(peer, mine)]);
                }
            }
            scratch_slots = u32::from(in_place);
            draft.meet(&host);
        }
        Collective::Gather | Collective::Scatter => {
            match collective {
                Collective::Gather => draft.copy(draft.input(mine), vec![Loc::output(root, mine)]),
                _ => draft.copy(Loc::input(root, mine), vec![draft.output(mine)]),
            }
            let done = draft.signal();
            if me == root {
                draft.wait_all(&host, done);
            }
        }
        Collective::Barrier => chunks = 1,
        _ => return None,
    }
    Some(draft.finish(chunks, 0, scratch_slots))
}

/// Whether `me` is the one of the two that swaps their blocks: the one that has the other within half a turn ahead, so
/// that everybody swaps equally often; of two that are opposite each other, the lower.
fn swaps(n: usize, me: Rank, peer: Rank) -> bool {
    let ahead = (peer + n - me) % n;
    2 * ahead < n || (2 * ahead == n && me < peer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_is_swapped_by_one_of_the_two() {
        for n in 2..=20 {
            for (a, b) in (0..n).flat_map(|a| (0..a).map(move |b| (a, b))) {
                assert!(swaps(n, a, b) != swaps(n, b, a), "n = {n}: {a} and {b}");
            }
        }
    }
}
