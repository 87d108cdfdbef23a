//! Pairwise exchange: an all-to-all in which every rank meets every other exactly once. In step t rank r meets (t - r)
//! mod n, so the two of a pair meet in the same step, as in a chess tournament, and send and receive the same blocks:
//! that is why it works in place with nothing put aside, the received byte following the sent one.
//!
//! ```text
//!   n = 4    t = 0:  0-0  1-3  2-2      t = 1:  0-1  2-3      t = 2:  0-2  1-1  3-3      t = 3:  0-3  1-2
//! ```
//!
//! All-to-all: n steps, n-1 of which carry data, (n-1)/n S sent per rank; no message needs another, so all may overlap
//! and the order only says whose turn it is first. Gather and scatter between the root and each other rank directly:
//! (n-1)/n S through the root's links, one step for everybody else. Send/receive is the case of one pair. No slot holds
//! data, so block sizes need to be known only to the two of a pair. Source: Thakur et al. (2005).
#![forbid(unsafe_code)]

use super::draft::{Blocks, Draft, Group, Piece};

/// My block for each position is at `have`, the block from it goes to `into`.
pub(super) fn all_to_all(draft: &mut Draft, group: &Group, blocks: &Blocks) {
    for step in 0..group.len() {
        let partner = (step + group.len() - group.at) % group.len();
        for piece in &blocks[partner] {
            if partner == group.at {
                draft.copy(piece.have, vec![piece.into]);
            } else {
                draft.send(group.port(partner), piece.have);
                draft.recv(group.port(partner), piece.into);
            }
        }
    }
}

/// Everybody sends its block to position `root`, which stores it at its `into`.
pub(super) fn gather(draft: &mut Draft, group: &Group, root: usize, blocks: &Blocks) {
    if group.at != root {
        blocks[group.at].iter().for_each(|piece| draft.send(group.port(root), piece.have));
        return;
    }
    blocks[root].iter().for_each(|piece| draft.copy(piece.have, vec![piece.into]));
    for from in (1..group.len()).map(|distance| group.behind(distance)) {
        blocks[from].iter().for_each(|piece| draft.recv(group.port(from), piece.into));
    }
}

/// Position `root` sends everybody its block.
pub(super) fn scatter(draft: &mut Draft, group: &Group, root: usize, blocks: &Blocks) {
    if group.at != root {
        blocks[group.at].iter().for_each(|piece| draft.recv(group.port(root), piece.into));
        return;
    }
    for to in (1..group.len()).map(|distance| group.ahead(distance)) {
        blocks[to].iter().for_each(|piece| draft.send(group.port(to), piece.have));
    }
    blocks[root].iter().for_each(|piece| draft.copy(piece.have, vec![piece.into]));
}

/// One vector from position `from` to position `to`; nobody else does anything.
pub(super) fn send_recv(draft: &mut Draft, group: &Group, from: usize, to: usize, pieces: &[Piece]) {
    for piece in pieces {
        if from == to && group.at == from {
            draft.copy(piece.have, vec![piece.into]);
        } else if group.at == from {
            draft.send(group.port(to), piece.have);
        } else if group.at == to {
            draft.recv(group.port(from), piece.into);
        }
    }
}
