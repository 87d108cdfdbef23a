//! Recursive doubling: after step k every rank has the sum of its 2^k neighbours; both sides of a pair send what they
//! have and add what they get. The fewest steps there are, but every step carries the whole vector: for small vectors,
//! and for two ranks at any size, where it is a single step.
//!
//! ```text
//!   n = 4    0 <-> 1    2 <-> 3        then    0 <-> 2    1 <-> 3
//!   n = 6    0 -> 1, 2 -> 3, then 1 3 4 5 as above, then 1 -> 0, 3 -> 2      (0 and 2 sit out: the fold)
//! ```
//!
//! | | steps | bytes sent per rank |
//! |---|---|---|
//! | n = 2^k | log2 n | S log2 n |
//! | otherwise, p the largest power of two below n | log2 p + 2; as a chain of messages one less if n <= 3p/2 | S (log2 p + 1) |
//!
//! A rank sends from the very place into which it adds what it receives. That needs no second buffer: the receive stays
//! behind the send, byte for byte, and since the peer does the same the two advance together, even over a link that
//! holds one byte. Source: the fold is MPICH's (Thakur, Rabenseifner, Gropp 2005).
#![forbid(unsafe_code)]

use super::draft::{Draft, Group, Piece};

/// Every piece of everybody ends reduced at its `into`.
pub(super) fn all_reduce(draft: &mut Draft, group: &Group, pieces: &[Piece]) {
    let (n, at) = (group.len(), group.at);
    let power = 1 << n.ilog2();
    let folded = n - power;
    let mut held: Vec<_> = pieces.iter().map(|piece| piece.have).collect();
    let mut fold_in = |draft: &mut Draft, from, last| {
        for (held, piece) in held.iter_mut().zip(pieces) {
            draft.recv_reduce(from, *held, piece.into, last);
            *held = piece.into;
        }
    };

    if at < 2 * folded && at % 2 == 0 {
        let partner = group.port(at + 1);
        pieces.iter().for_each(|piece| draft.send(partner, piece.have));
        pieces.iter().for_each(|piece| draft.recv(partner, piece.into));
        return;
    }
    if at < 2 * folded {
        fold_in(draft, group.port(at - 1), false);
    }

    // The ranks that remain are numbered anew: the odd ones of the folded pairs, then those that had no pair.
    let seat = if at < 2 * folded { at / 2 } else { at - folded };
    let sitter = |seat: usize| if seat < folded { 2 * seat + 1 } else { seat + folded };
    let mut step = 1;
    while step < power {
        let partner = group.port(sitter(seat ^ step));
        let begun = step > 1 || at < 2 * folded;
        for piece in pieces {
            draft.send(partner, if begun { piece.into } else { piece.have });
        }
        step *= 2;
        fold_in(draft, partner, step == power);
    }

    if at < 2 * folded {
        pieces.iter().for_each(|piece| draft.send(group.port(at - 1), piece.into));
    }
}
