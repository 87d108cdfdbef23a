//! Direct: every rank sends chunk c to its owner, rank c, who adds all n contributions at once, in rank order, and the
//! result goes where it is wanted. Two steps whatever n is, and the only algorithm over links whose result is the same
//! expression for every size and layout: one n-ary sum in rank order, rounded once. That makes it the one that
//! `reproducible` uses between hosts.
//!
//! ```text
//!   n = 3, chunk 1:    0 --send--\                       /--send--> 0
//!                      1 --------- reduce [0, 1, 2] ----- ........ 1
//!                      2 --send--/                       \--send--> 2
//! ```
//!
//! | | steps | bytes sent per rank |
//! |---|---|---|
//! | reduce-scatter, all-gather | 1 | (n-1)/n S |
//! | all-reduce, reduce | 2 | 2(n-1)/n S, S for reduce |
//!
//! Rank r sends to r+1, r+2, .. in that order, so nobody is everybody's first target. The price: n(n-1) links, and n-1
//! private slots for what arrives. Source: the two-shot all-reduce of NCCL, vLLM and MSCCL++ (`allreduce2`), over
//! links.
#![forbid(unsafe_code)]

use super::Loc;
use super::draft::{Blocks, Draft, Group, Piece};

/// Sends every block to its owner and reduces my own, operands in the group's order, into its `into`.
/// `arrival(position, piece)` is the private place where that position's contribution to that piece of mine arrives.
pub(super) fn reduce_scatter(
    draft: &mut Draft,
    group: &Group,
    blocks: &Blocks,
    arrival: impl Fn(usize, &Piece) -> Loc,
) {
    for distance in 1..group.len() {
        let (to, from) = (group.ahead(distance), group.behind(distance));
        blocks[to].iter().for_each(|piece| draft.send(group.port(to), piece.have));
        blocks[group.at].iter().for_each(|piece| draft.recv(group.port(from), arrival(from, piece)));
    }
    for piece in &blocks[group.at] {
        let operand = |position| if position == group.at { piece.have } else { arrival(position, piece) };
        draft.reduce((0..group.len()).map(operand).collect(), vec![piece.into], true);
    }
}

/// Sends my block, which lies at its `have`, to everybody.
pub(super) fn all_gather(draft: &mut Draft, group: &Group, blocks: &Blocks) {
    blocks[group.at].iter().for_each(|piece| draft.copy(piece.have, vec![piece.into]));
    for distance in 1..group.len() {
        let (to, from) = (group.ahead(distance), group.behind(distance));
        blocks[group.at].iter().for_each(|piece| draft.send(group.port(to), piece.have));
        blocks[from].iter().for_each(|piece| draft.recv(group.port(from), piece.into));
    }
}
