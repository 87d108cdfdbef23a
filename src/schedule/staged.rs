//! Staged: the ranks of a host meet in shared staging memory, so the caller's buffers may be any private memory. What
//! others need is copied in, reduced there by n-ary sums, and copied out; what only its owner needs is never staged.
//!
//! ```text
//!   all-reduce     copy in      slice c of my input -> slot c of my staging, for every c but my own
//!                  meet
//!                  reduce       slice r of everybody -> my output and slot r of my staging     (rank r)
//!                  meet
//!                  copy out     slot c of rank c's staging -> slice c of my output
//! ```
//!
//! | | loads + stores of all ranks | meetings |
//! |---|---|---|
//! | all-reduce | (5n-2) S: copy in 2(n-1), reduce n+2, copy out 2(n-1) | 2 |
//! | reduce | (3n+1 - 2/n) S | 2 |
//! | reduce-scatter | (3n-1) S | 2 |
//! | broadcast | 2n S; four pieces, the root fills one while others read the one before | 1, one signal of the root for each further piece, and the root waits for all |
//! | all-gather | 2n S, and S stored into one's own output | 2 |
//! | all-to-all | 4(n-1) S + 2S, in place too | 2 |
//! | gather, scatter | 4(n-1)/n S + 2S/n | 1, and the root (or whoever writes again) waits |
//! | barrier | | 1 |
//!
//! **Using slots again.** In the next round of a call the same slots are written again, so a slot may only be written
//! when all reads of the round before are known to be over. Where that follows from the meetings there are, nothing is
//! added: in an all-reduce whoever reads slot c of mine does so before the second meeting, and whoever reads my result
//! does so before the first meeting of the next round, after which alone I write it. Elsewhere the round ends with a
//! signal, and those who write first thing in the next round wait for it. From call to call nothing is needed: the
//! engine alternates between two halves, and a call cannot begin before everybody has ended the last but one.
//!
//! A call of a single round needs none of these endings: [`super::one_shot`]. Source: Open MPI's `coll/sm` and XHC with
//! n-ary sums in place of DPML's pairwise ones; the count is derived in the project's design notes.
#![forbid(unsafe_code)]

use super::draft::{Draft, rotated};
use super::{Loc, Program};
use crate::types::{Collective, Rank};

/// How often the slots of a call are filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rounds {
    /// Once: the payload fits.
    One,
    /// Any number of times.
    Any,
}

/// Into how many pieces a broadcast is cut, so that copies in and copies out overlap.
pub(super) const BROADCAST_PIECES: u32 = 4;

/// The program of `me`, on one host whose `n` ranks are all there are. `None` where it does not do the collective.
pub(super) fn program(collective: Collective, n: usize, root: Rank, rounds: Rounds, me: Rank) -> Option<Program> {
    let host: Vec<Rank> = (0..n).collect();
    let mine = me as u32;
    let others = &rotated(&host, me)[1..];
    let mut draft = Draft::new(me);
    let d = &mut draft;
    // Ends a round: `writers` may fill their slots again when all others have come this far.
    let end_round = |d: &mut Draft, writes_again: bool| {
        if rounds == Rounds::Any {
            let done = d.signal();
            if writes_again {
                d.wait_all(&host, done);
            }
        }
    };
    let (chunks, stage_slots) = match collective {
        Collective::AllReduce => {
            copy_in(d, others);
            d.meet(&host);
            d.reduce(operands(d, &host), vec![d.output(mine), d.stage(mine, mine)], true);
            d.meet(&host);
            for &owner in others {
                d.copy(Loc::stage(owner, owner as u32, owner as u32), vec![d.output(owner as u32)]);
            }
            (n, n)
        }
        Collective::Reduce => {
            copy_in(d, others);
            d.meet(&host);
            let result = if me == root { d.output(mine) } else { d.stage(mine, mine) };
            d.reduce(operands(d, &host), vec![result], true);
            d.meet(&host);
            if me == root {
                for &owner in others {
                    d.copy(Loc::stage(owner, owner as u32, owner as u32), vec![d.output(owner as u32)]);
                }
            }
            (n, n)
        }
        Collective::ReduceScatter => {
            copy_in(d, others);
            d.meet(&host);
            d.reduce(operands(d, &host), vec![d.output(mine)], true);
            end_round(d, true);
            (n, n)
        }
        Collective::Broadcast => {
            // The last piece goes in while the first ones are already being read.
            let pieces = if rounds == Rounds::Any { BROADCAST_PIECES } else { 1 };
            for piece in 0..pieces {
                if me == root {
                    d.copy(d.input(piece), vec![d.stage(piece, piece), d.output(piece)]);
                }
                d.signal();
                // Nobody gives a second signal before all have come: until then the host may settle on another program.
                if piece == 0 {
                    d.wait_all(&host, 1);
                }
            }
            if me != root {
                for piece in 0..pieces {
                    if piece > 0 {
                        d.wait(root, piece + 1);
                    }
                    d.copy(Loc::stage(root, piece, piece), vec![d.output(piece)]);
                }
            }
            end_round(d, me == root);
            (pieces as usize, pieces as usize)
        }
        Collective::AllGather => {
            d.copy(d.input(mine), vec![d.stage(0, mine), d.output(mine)]);
            d.meet(&host);
            for &owner in others {
                d.copy(Loc::stage(owner, 0, owner as u32), vec![d.output(owner as u32)]);
            }
            end_round(d, true);
            (n, 1)
        }
        Collective::AllToAll => {
            copy_in(d, others);
            d.copy(d.input(mine), vec![d.output(mine)]);
            d.meet(&host);
            for &peer in others {
                d.copy(Loc::stage(peer, mine, peer as u32), vec![d.output(peer as u32)]);
            }
            end_round(d, true);
            (n, n)
        }
        Collective::Gather => {
            d.copy(d.input(mine), vec![if me == root { d.output(mine) } else { d.stage(0, mine) }]);
            d.meet(&host);
            if me == root {
                for &owner in others {
                    d.copy(Loc::stage(owner, 0, owner as u32), vec![d.output(owner as u32)]);
                }
            }
            if rounds == Rounds::Any {
                let emptied = d.signal();
                if me != root {
                    d.wait(root, emptied);
                }
            }
            (n, 1)
        }
        Collective::Scatter => {
            if me == root {
                copy_in(d, others);
                d.copy(d.input(mine), vec![d.output(mine)]);
            }
            d.meet(&host);
            if me != root {
                d.copy(Loc::stage(root, mine, mine), vec![d.output(mine)]);
            }
            end_round(d, me == root);
            (n, n)
        }
        Collective::Barrier => {
            d.meet(&host);
            (1, 0)
        }
        _ => return None,
    };
    Some(draft.finish(chunks as u32, stage_slots as u32, 0))
}

/// Puts every other rank's chunk of my input where that rank finds it.
fn copy_in(draft: &mut Draft, others: &[Rank]) {
    for &rank in others {
        draft.copy(draft.input(rank as u32), vec![draft.stage(rank as u32, rank as u32)]);
    }
}

/// Everybody's contribution to my chunk, in rank order: my own from where it is.
fn operands(draft: &Draft, host: &[Rank]) -> Vec<Loc> {
    let mine = draft.me as u32;
    let of = |&rank| if rank == draft.me { draft.input(mine) } else { Loc::stage(rank, mine, mine) };
    host.iter().map(of).collect()
}
