//! Where the ops of a task find their bytes. A loc of a program is a *base* (a buffer or a staging area, which differs from
//! call to call) and an offset (which does not); so a call that is made again only gets new bases.
//!
//! ```text
//!   bases   | input | output | scratch |  rank 0: input, output, stage half 0, stage half 1  |  rank 1: ...
//! ```
#![forbid(unsafe_code)]

use super::layout::Layout;
use super::plan::Plan;
use crate::memory::Span;
use crate::schedule::{Loc, Op, Space};
use crate::types::Rank;

const INPUT: usize = 0;
const OUTPUT: usize = 1;
const SCRATCH: usize = 2;
const RANKS: usize = 3;
const PER_RANK: usize = 4;
const STAGE: usize = 2;

/// The memory that the locs of a program stand for.
pub(super) struct Bases(Vec<Span>);

impl Bases {
    /// For a call on these buffers; only programs that reach beyond them need the ranks of the host.
    pub(super) fn new(input: Span, output: Span, ranks: usize) -> Bases {
        let mut bases = vec![Span::EMPTY; RANKS + PER_RANK * ranks];
        (bases[INPUT], bases[OUTPUT]) = (input, output);
        Bases(bases)
    }

    /// This rank's buffers.
    pub(super) fn set_own(&mut self, input: Span, output: Span) {
        (self.0[INPUT], self.0[OUTPUT]) = (input, output);
    }

    /// This rank's private slots.
    pub(super) fn set_scratch(&mut self, scratch: Span) {
        self.0[SCRATCH] = scratch;
    }

    /// Both halves of the memory that a rank of the host is staging in.
    pub(super) fn set_stage(&mut self, rank: Rank, halves: [Span; 2]) {
        self.0[RANKS + PER_RANK * rank + STAGE..][..2].copy_from_slice(&halves);
    }

    /// The buffers of another rank of the host.
    pub(super) fn set_peer(&mut self, rank: Rank, input: Span, output: Span) {
        self.0[RANKS + PER_RANK * rank..][..2].copy_from_slice(&[input, output]);
    }

    /// The part of `place` from its `skip_bytes`-th byte on, in a round that has `past_bytes` of each chunk behind it and
    /// a call that stages in this half.
    #[inline]
    pub(super) fn span(
        &self,
        place: &Place,
        past_bytes: usize,
        half: usize,
        skip_bytes: usize,
        len_bytes: usize,
    ) -> Span {
        // Without branches: this is the inner loop of small calls.
        let base = self.0[place.base + (half & place.half_mask)];
        base.cut(place.offset_bytes + (past_bytes & place.round_mask) + skip_bytes, len_bytes)
    }
}

/// A loc of a program, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    base: usize,
    offset_bytes: usize,
    /// All ones where each call uses the other half.
    half_mask: usize,
    /// All ones where each round takes the next part; none where it uses the same slot again.
    round_mask: usize,
}

impl Place {
    /// The place of a loc in the program of `me`.
    pub(super) fn new(loc: Loc, me: Rank, layout: &Layout, slot_bytes: usize) -> Place {
        let slot = loc.slot as usize * slot_bytes;
        let of_rank = |which| RANKS + PER_RANK * loc.rank + which;
        match loc.space {
            Space::Stage => Place { base: of_rank(STAGE), offset_bytes: slot, half_mask: usize::MAX, round_mask: 0 },
            Space::Scratch => Place { base: SCRATCH, offset_bytes: slot, half_mask: 0, round_mask: 0 },
            Space::Input | Space::Output => {
                let which = if loc.space == Space::Input { INPUT } else { OUTPUT };
                let base = if loc.rank == me { which } else { of_rank(which) };
                let offset_bytes = layout.chunk(loc).offset_bytes;
                Place { base, offset_bytes, half_mask: 0, round_mask: usize::MAX }
            }
        }
    }
}

/// One op that moves over no link, made ready for calls of one geometry.
#[derive(Debug)]
pub(super) struct Step {
    /// Its number in the program.
    pub(super) op: usize,
    /// What it moves in all rounds together.
    pub(super) chunk_bytes: usize,
    pub(super) what: What,
}

/// What a [`Step`] does: [`Op`], with places for locs.
#[derive(Debug)]
pub(super) enum What {
    Signal,
    Wait { on: Rank, signal: u32 },
    Copy { from: Place, into: Vec<Place> },
    Reduce { from: Vec<Place>, into: Vec<Place>, last: bool },
}

impl Step {
    /// It copies or reduces.
    pub(super) fn moves_bytes(&self) -> bool {
        matches!(self.what, What::Copy { .. } | What::Reduce { .. })
    }

    /// All of them, in order.
    pub(super) fn all(plan: &Plan, me: Rank, layout: &Layout, slot_bytes: usize) -> Vec<Step> {
        let place = |loc: &Loc| Place::new(*loc, me, layout, slot_bytes);
        let step = |&op: &u32| {
            let op = op as usize;
            let what = match &plan.program.ops[op] {
                Op::Signal => What::Signal,
                Op::Wait { on, signal } => What::Wait { on: *on, signal: *signal },
                Op::Copy { from, into } => What::Copy { from: place(from), into: into.iter().map(place).collect() },
                Op::Reduce { from, into, last } => What::Reduce {
                    from: from.iter().map(place).collect(),
                    into: into.iter().map(place).collect(),
                    last: *last,
                },
                other => unreachable!("{other:?} moves over a link"),
            };
            Step { op, chunk_bytes: measured(&plan.program.ops[op]).map_or(0, |loc| layout.chunk(loc).len_bytes), what }
        };
        plan.local.iter().map(step).collect()
    }
}

/// The loc that says how long an op is: a caller's buffer where one takes part, else the slot's chunk. Signals have none.
pub(super) fn measured(op: &Op) -> Option<Loc> {
    let user = |loc: &&Loc| matches!(loc.space, Space::Input | Space::Output);
    match op {
        Op::Send { from, .. } => Some(*from),
        Op::Recv { into, .. } => Some(*into),
        Op::RecvReduce { with, .. } => Some(*with),
        Op::Copy { from, into } => Some(*std::iter::once(from).chain(into).find(user).unwrap_or(from)),
        Op::Reduce { from, into, .. } => Some(*from.iter().chain(into).find(user).unwrap_or(&from[0])),
        Op::Signal | Op::Wait { .. } => None,
    }
}
