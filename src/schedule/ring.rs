//! Ring: n-1 steps carry each block's sum once around, n-1 more carry the result around again. Every rank talks to two
//! neighbours only and sends each byte of the optimum once: the one to take for large vectors.
//!
//! ```text
//!   n = 3, block 0:   1 --send--> 2 --reduce, send--> 0 --reduce = sum, send--> 1 --store, send--> 2 --store
//!   (block b starts at its owner's successor and ends its first trip at its owner, b; all blocks travel at once)
//! ```
//!
//! | | steps | bytes sent per rank |
//! |---|---|---|
//! | reduce-scatter, all-gather | n-1 | (n-1)/n S |
//! | all-reduce | 2(n-1) | 2(n-1)/n S |
//!
//! Several channels are several rings, each with its own share of the chunks; the odd ones run in the other direction,
//! so that both directions of a neighbour's link carry data. Source: Patarasuk and Yuan, "Bandwidth optimal all-reduce
//! algorithms for clusters of workstations" (2009); the channels are NCCL's.
#![forbid(unsafe_code)]

use super::draft::{Blocks, Draft, Group, settle};

/// Ends with the sum of block `at` at its `into`. A foreign block is in use only from the step that receives it to the
/// next one, so the foreign blocks may share two places in turn: see [`partial_slot`].
pub(super) fn reduce_scatter(draft: &mut Draft, group: &Group, blocks: &Blocks) {
    let (n, next, prev) = (group.len(), group.port(group.ahead(1)), group.port(group.behind(1)));
    for piece in &blocks[group.behind(1)] {
        draft.send(next, piece.have);
    }
    for step in 2..=n {
        for piece in &blocks[group.behind(step)] {
            draft.recv_reduce(prev, piece.have, piece.into, step == n);
            if step < n {
                draft.send(next, piece.into);
            }
        }
    }
}

/// Which of two places may hold the partial sum of the block of `position`: neighbours in time take turns.
pub(super) fn partial_slot(group: &Group, position: usize) -> u32 {
    ((group.at + group.len() - position) % group.len() % 2) as u32
}

/// Begins with my block complete at its `have`; ends with all blocks at their `into`.
pub(super) fn all_gather(draft: &mut Draft, group: &Group, blocks: &Blocks) {
    let (n, next, prev) = (group.len(), group.port(group.ahead(1)), group.port(group.behind(1)));
    for piece in &blocks[group.at] {
        draft.send(next, piece.have);
        draft.copy(piece.have, vec![piece.into]);
    }
    for step in 1..n {
        for piece in &blocks[group.behind(step)] {
            draft.recv(prev, piece.into);
            if step + 1 < n {
                draft.send(next, piece.into);
            }
        }
    }
}

/// Both: every block of everybody ends complete at its `into`.
pub(super) fn all_reduce(draft: &mut Draft, group: &Group, blocks: &Blocks) {
    reduce_scatter(draft, group, blocks);
    all_gather(draft, group, &settle(blocks));
}
