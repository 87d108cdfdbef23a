//! Binomial tree: in every step those who have it tell one more each, so n ranks know after ceil(log2 n) steps; the
//! reduction is the same tree backwards. For small vectors: the root sends the whole vector in every step.
//!
//! ```text
//!   n = 8, root 0:        step 1   0 ----------------> 4
//!                         step 2   0 ------> 2         4 ------> 6
//!                         step 3   0 -> 1    2 -> 3    4 -> 5    6 -> 7
//! ```
//!
//! | | bytes sent per rank, at most |
//! |---|---|
//! | broadcast | S ceil(log2 n), the root |
//! | reduce | S |
//! | gather | S/n times the largest subtree, at most S/2 |
//! | scatter | (n-1)/n S, the root |
//!
//! ceil(log2 n) steps; the longest chain of messages, which is the depth of the tree, is floor(log2 n).
//! Gather and scatter move whole subtrees: what a rank only passes on lies in its private slots. Any root: position 0
//! of the group. Source: MPICH's and Open MPI's trees of the same name.
#![forbid(unsafe_code)]

use super::Loc;
use super::draft::{Blocks, Draft, Group, Piece};

/// How many positions the subtree of `at` has, itself included: at+1 .. at+size-1 are below it.
fn subtree(n: usize, at: usize) -> usize {
    if at == 0 { n } else { (at & at.wrapping_neg()).min(n - at) }
}

/// The children of `at`, the nearest (with the smallest subtree) first.
fn children(n: usize, at: usize) -> impl DoubleEndedIterator<Item = usize> {
    let reach = subtree(n, at);
    (0..reach.next_power_of_two().trailing_zeros()).map(move |bit| at + (1 << bit))
}

/// Its lowest set bit away.
fn parent(at: usize) -> Option<usize> {
    (at > 0).then(|| at & (at - 1))
}

/// Every piece ends at everybody's `into`.
pub(super) fn broadcast(draft: &mut Draft, group: &Group, pieces: &[Piece]) {
    for piece in pieces {
        let mut held = piece.have;
        if let Some(parent) = parent(group.at) {
            draft.recv(group.port(parent), piece.into);
            held = piece.into;
        }
        for child in children(group.len(), group.at).rev() {
            draft.send(group.port(child), held);
        }
        draft.copy(held, vec![piece.into]);
    }
}

/// The root's `into` has the result; other ranks put what they pass on at theirs.
pub(super) fn reduce(draft: &mut Draft, group: &Group, pieces: &[Piece]) {
    for piece in pieces {
        let mut held = piece.have;
        let mut below = children(group.len(), group.at).peekable();
        while let Some(child) = below.next() {
            let last = group.at == 0 && below.peek().is_none();
            draft.recv_reduce(group.port(child), held, piece.into, last);
            held = piece.into;
        }
        if let Some(parent) = parent(group.at) {
            draft.send(group.port(parent), held);
        }
    }
}

/// My block is at its `have`; the root ends with all blocks at their `into`, others pass on through theirs.
pub(super) fn gather(draft: &mut Draft, group: &Group, blocks: &Blocks) {
    let (n, at) = (group.len(), group.at);
    for child in children(n, at) {
        for piece in blocks[child..child + subtree(n, child)].iter().flatten() {
            draft.recv(group.port(child), piece.into);
        }
    }
    let own = &blocks[at];
    match parent(at) {
        Some(parent) => {
            let passed_on = blocks[at + 1..at + subtree(n, at)].iter().flatten().map(|piece| piece.into);
            let sends: Vec<Loc> = own.iter().map(|piece| piece.have).chain(passed_on).collect();
            sends.into_iter().for_each(|loc| draft.send(group.port(parent), loc));
        }
        None => own.iter().for_each(|piece| draft.copy(piece.have, vec![piece.into])),
    }
}

/// The root has all blocks at their `have`; every rank ends with its own at `into`, and passes on others through
/// theirs.
pub(super) fn scatter(draft: &mut Draft, group: &Group, blocks: &Blocks) {
    let (n, at) = (group.len(), group.at);
    match parent(at) {
        Some(parent) => {
            for piece in blocks[at..at + subtree(n, at)].iter().flatten() {
                draft.recv(group.port(parent), piece.into);
            }
        }
        None => blocks[at].iter().for_each(|piece| draft.copy(piece.have, vec![piece.into])),
    }
    for child in children(n, at).rev() {
        for piece in blocks[child..child + subtree(n, child)].iter().flatten() {
            draft.send(group.port(child), if at == 0 { piece.have } else { piece.into });
        }
    }
}

/// How many blocks a rank other than the root passes on, at most.
pub(super) fn passed_on(n: usize) -> u32 {
    (1..n).map(|at| subtree(n, at) - 1).max().unwrap_or(0) as u32
}
