//! Chain: the vector passes from rank to rank, and the watermarks make it a pipeline: a rank sends on the first bytes
//! while the last ones have not left the root. Every rank sends every byte once, which nothing can beat; but the first
//! byte takes n-1 steps to arrive, so this is for large vectors.
//!
//! ```text
//!   broadcast, root 0:   0 --send--> 1 --store, send--> 2 --store, send--> 3 --store
//!   reduce,    root 0:   1 --send--> 2 --reduce, send--> 3 --reduce, send--> 0 --reduce = result
//! ```
//!
//! Steps n-1, bytes sent per rank S. With several channels each has its share of the vector, the odd ones going round
//! the other way. Source: the fragmented pipeline of Open MPI's `coll/base`.
#![forbid(unsafe_code)]

use super::draft::{Draft, Group, Piece};

/// Position 0 is the root. Every piece ends at everybody's `into`.
pub(super) fn broadcast(draft: &mut Draft, group: &Group, pieces: &[Piece]) {
    for piece in pieces {
        let mut held = piece.have;
        if group.at > 0 {
            draft.recv(group.port(group.at - 1), piece.into);
            held = piece.into;
        }
        if group.at + 1 < group.len() {
            draft.send(group.port(group.at + 1), held);
        }
        draft.copy(held, vec![piece.into]);
    }
}

/// Position 0 is the root and the end of the chain, which position 1 begins. The root's `into` has the result; other
/// ranks put what they pass on at theirs.
pub(super) fn reduce(draft: &mut Draft, group: &Group, pieces: &[Piece]) {
    for piece in pieces {
        let mut held = piece.have;
        if group.at != 1 {
            draft.recv_reduce(group.port(group.behind(1)), piece.have, piece.into, group.at == 0);
            held = piece.into;
        }
        if group.at != 0 {
            draft.send(group.port(group.ahead(1)), held);
        }
    }
}
