//! One-shot: for small vectors, where a meeting costs more than moving the data n times. Everybody puts its whole
//! vector into its staging slot, meets the others once, and reduces all n of them by itself.
//!
//! ```text
//!   copy in     my input -> slot 0 of my staging
//!   meet
//!   reduce      slot 0 of everybody (my own from my input) -> my output
//! ```
//!
//! One meeting; a rank loads (n+1) S and stores 2S. All ranks compute the same expression, so they end with the same
//! bits. The other collectives are those of [`super::staged`] without the end of a round.
//!
//! **A single round only.** Nothing keeps a rank from filling its slot again while others still read it, so the payload
//! must fit the slot: [`super::Algorithm::single_round`]. The next call uses the other half of the staging memory, and
//! the one after that cannot begin before everybody has ended this one. Source: the one-shot all-reduce of TensorRT-LLM
//! and vLLM, and NCCL's AGxLL_R.
#![forbid(unsafe_code)]

use super::draft::Draft;
use super::staged::{self, Rounds};
use super::{Loc, Program};
use crate::types::{Collective, Rank};

/// The program of `me`, on one host whose `n` ranks are all there are. `None` where it does not do the collective.
pub(super) fn program(collective: Collective, n: usize, root: Rank, me: Rank) -> Option<Program> {
    if !matches!(collective, Collective::AllReduce | Collective::Reduce) {
        return staged::program(collective, n, root, Rounds::One, me);
    }
    let host: Vec<Rank> = (0..n).collect();
    let reduces = collective == Collective::AllReduce || me == root;
    let mut draft = Draft::new(me);
    if collective == Collective::AllReduce || me != root {
        draft.copy(draft.input(0), vec![draft.stage(0, 0)]);
    }
    draft.meet(&host);
    if reduces {
        let of = |&rank| if rank == me { draft.input(0) } else { Loc::stage(rank, 0, 0) };
        draft.reduce(host.iter().map(of).collect(), vec![draft.output(0)], true);
    }
    Some(draft.finish(1, 1, 0))
}
