//! PAT with full aggregation, which is Bruck's all-gather with its dimensions reversed, and its time reverse:
//! logarithmic steps *and* the fewest possible bytes, for any number of ranks, in place. Whatever Rabenseifner's
//! halving and doubling does at powers of two, this does everywhere, so there is no folding of the odd ranks.
//!
//! Rank r is at *distance* s from the block of rank r-s. The all-gather goes through the strides downwards, far and
//! thin first, near and thick last: at stride d whoever holds a block (at a distance that is a multiple of 2d) sends it
//! to the rank d further on. The reduce-scatter runs the film backwards.
//!
//! ```text
//!   n = 6, the block of rank 0        distance   0   1   2   3   4   5
//!   all-gather   d = 4                           o---------------> o
//!                d = 2                           o-----> o         (4+2 is past the end)
//!                d = 1                           o-> o   o-> o     o-> o
//!   reduce-scatter: the same arrows turned round, d = 1, 2, 4, each adding where it points
//! ```
//!
//! | | steps | longest chain of messages | bytes sent per rank |
//! |---|---|---|---|
//! | reduce-scatter, all-gather | ceil(log2 n) | floor(log2 n) | (n-1)/n S |
//! | all-reduce | 2 ceil(log2 n) | 2 floor(log2 n) | 2(n-1)/n S |
//!
//! (A block reaches distance s in as many hops as s has bits set, which for s < n are at most floor(log2 n).)
//! A message is up to n/2 pieces and a step sends to one neighbour while it receives from another: both must move
//! together, which the derived hazards allow. Source: Jeaugey, "PAT" (arXiv 2506.20252); Bruck et al. (1997).
#![forbid(unsafe_code)]

use super::draft::{Blocks, Draft, Group, settle};

/// The strides 1, 2, 4 .. below `n`.
fn strides(n: usize) -> impl DoubleEndedIterator<Item = usize> {
    (0..n.next_power_of_two().trailing_zeros()).map(|k| 1 << k)
}

/// The distances at which blocks are held that still have a rank `stride` further on.
fn holders(n: usize, stride: usize) -> impl Iterator<Item = usize> {
    (0..n - stride).step_by(2 * stride)
}

/// Ends with the sum of block `at` at its `into`. Partial sums of foreign blocks lie at theirs, all at the same time.
pub(super) fn reduce_scatter(draft: &mut Draft, group: &Group, blocks: &Blocks) {
    let n = group.len();
    let mut begun = vec![false; n];
    for stride in strides(n) {
        let (down, up) = (group.port(group.behind(stride)), group.port(group.ahead(stride)));
        for distance in holders(n, stride) {
            let block = group.behind(distance + stride);
            for piece in &blocks[block] {
                draft.send(down, if begun[block] { piece.into } else { piece.have });
            }
        }
        for distance in holders(n, stride) {
            let block = group.behind(distance);
            let last = distance == 0 && 2 * stride >= n;
            for piece in &blocks[block] {
                draft.recv_reduce(up, if begun[block] { piece.into } else { piece.have }, piece.into, last);
            }
            begun[block] = true;
        }
    }
}

/// How many private places hold partial sums of foreign blocks: only even distances ever receive.
pub(super) fn partial_slots(n: usize) -> u32 {
    (holders(n, 1).count() - 1) as u32
}

/// Which of them is for the block of `position`. Blocks at odd distances are sent on as they were given and need none.
pub(super) fn partial_slot(group: &Group, position: usize) -> u32 {
    let distance = (group.at + group.len() - position) % group.len();
    (distance / 2).saturating_sub(1) as u32
}

/// Begins with my block complete at its `have`; ends with all blocks at their `into`.
pub(super) fn all_gather(draft: &mut Draft, group: &Group, blocks: &Blocks) {
    let n = group.len();
    for piece in &blocks[group.at] {
        draft.copy(piece.have, vec![piece.into]);
    }
    for stride in strides(n).rev() {
        let (up, down) = (group.port(group.ahead(stride)), group.port(group.behind(stride)));
        for distance in holders(n, stride) {
            for piece in &blocks[group.behind(distance)] {
                draft.send(up, if distance == 0 { piece.have } else { piece.into });
            }
        }
        for distance in holders(n, stride) {
            for piece in &blocks[group.behind(distance + stride)] {
                draft.recv(down, piece.into);
            }
        }
    }
}

/// Both: every block of everybody ends complete at its `into`.
pub(super) fn all_reduce(draft: &mut Draft, group: &Group, blocks: &Blocks) {
    reduce_scatter(draft, group, blocks);
    all_gather(draft, group, &settle(blocks));
}
