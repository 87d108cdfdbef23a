//! A collective is data: a pure function writes each rank's [`Program`], a short list of [`Op`]s. Everything else reads
//! it: the engine runs it, the checker proves it, the cost model times it, `Display` prints it. Nothing outside this
//! module knows what a ring is. [`catalogue`] lists the algorithms and says which does what.
//!
//! # What a program means
//!
//! **Chunks.** A program never speaks of bytes, only of chunks, and chunk numbers mean the same on every rank:
//!
//! | collective | chunk `c` of `Input` and `Output` |
//! |---|---|
//! | all-reduce, reduce, broadcast | the c-th of `chunks` pieces of the vector |
//! | reduce-scatter, all-gather, gather, scatter | piece `c % k` of block `c / k` of the whole vector, `k = chunks / world`; where a rank's buffer is one block only, only that block's chunks exist there |
//! | all-to-all | in `Input`, piece of the block *for* rank `c / k`; in `Output`, piece of the block *from* rank `c / k`; in a slot, as in the sender's `Input` on the sending rank and as in the receiver's `Output` on the receiving one |
//! | barrier | none; slots are tokens of one byte |
//!
//! In place therefore always means: `Input` chunk `c` and `Output` chunk `c` are the same memory.
//!
//! **Slots.** [`Space::Stage`] (shared with the ranks of the same host) and [`Space::Scratch`] (private) are not user
//! memory: a program asks for a number of equal slots of each. When a chunk is larger than a slot the program runs in
//! *rounds*: round k moves the k-th piece of every chunk, and slots are used again.
//!
//! **Order.** Three rules replace tags and step barriers:
//! 1. Links are FIFO and bounded: the k-th byte sent a -> b on a channel meets the k-th byte b receives from a there.
//! 2. Hazards are derived, never written: two ops of a rank that touch the same memory, one of them writing, keep their
//!    program order; all else may overlap ([`hazards`]). `Signal` comes after everything before it, `Wait` before
//!    everything after it.
//! 3. Watermarks pipeline: an op advances as far as the ops it is behind have gone, so "receive, reduce, send on" needs
//!    no verb of its own.
//!
//! Links and derived hazards make a Kahn network: the result cannot depend on timing, one greedy run decides deadlock
//! for every interleaving, and more link capacity never hurts (Kahn 1974; Siegel and Avrunin 2003).
#![forbid(unsafe_code)]

pub mod catalogue;
pub mod check;
pub mod claim;
pub mod contract;
pub mod cost;
pub mod display;
pub mod hazards;

mod binomial;
mod chain;
mod direct;
mod dissemination;
mod draft;
mod hierarchy;
mod links;
mod machine;
mod mapped;
mod one_shot;
mod pairwise;
mod pat;
mod recursive_doubling;
mod ring;
mod staged;
mod tree;

#[cfg(test)]
mod check_tests;
#[cfg(test)]
mod mutants;

pub use catalogue::{Algorithm, Shape, candidates, honours_rank_order, program};

use crate::types::Rank;

/// Where a piece of data is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Space {
    /// The caller's input buffer: read only, unless the call is in place.
    Input,
    /// The caller's output buffer.
    Output,
    /// A slot of the rank's staging area, which the ranks of its host can address.
    Stage,
    /// A slot of private memory.
    Scratch,
}

/// One chunk of data of one rank, and where it lies. Link ops name only their own rank's memory; [`Op::Copy`] and
/// [`Op::Reduce`] may name that of any rank of the same host.
///
/// `chunk` always says which chunk's data (or partial result) this is, also in a slot: lengths follow from it, so both
/// ends of a link and every operand of a reduction must name chunks of equal length. `slot` says where in
/// [`Space::Stage`] or [`Space::Scratch`]; in the caller's buffers it is 0, the chunk is the place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Loc {
    /// Whose memory.
    pub rank: Rank,
    /// Which part of it.
    pub space: Space,
    /// Which chunk of the data.
    pub chunk: u32,
    /// Which slot, in `Stage` and `Scratch`.
    pub slot: u32,
}

impl Loc {
    /// Chunk `chunk` of `rank`'s input buffer.
    pub const fn input(rank: Rank, chunk: u32) -> Loc {
        Loc { rank, space: Space::Input, chunk, slot: 0 }
    }

    /// Chunk `chunk` of `rank`'s output buffer.
    pub const fn output(rank: Rank, chunk: u32) -> Loc {
        Loc { rank, space: Space::Output, chunk, slot: 0 }
    }

    /// Slot `slot` of `rank`'s staging area, holding data of `chunk`.
    pub const fn stage(rank: Rank, slot: u32, chunk: u32) -> Loc {
        Loc { rank, space: Space::Stage, chunk, slot }
    }

    /// Slot `slot` of `rank`'s private memory, holding data of `chunk`.
    pub const fn scratch(rank: Rank, slot: u32, chunk: u32) -> Loc {
        Loc { rank, space: Space::Scratch, chunk, slot }
    }

    /// The memory behind it: two locs are the same bytes exactly when their places are equal.
    pub fn place(self, in_place: bool) -> (Rank, Space, u32) {
        match self.space {
            Space::Input | Space::Output if in_place => (self.rank, Space::Output, self.chunk),
            Space::Input | Space::Output => (self.rank, self.space, self.chunk),
            Space::Stage | Space::Scratch => (self.rank, self.space, self.slot),
        }
    }
}

/// The far end of a link: which rank, over which of the parallel links to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Port {
    /// The rank at the other end.
    pub peer: Rank,
    /// Which of the parallel, independent links to it.
    pub channel: u8,
}

/// One step of a program.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Op {
    /// Sends a chunk over a link.
    Send {
        /// Over which link.
        to: Port,
        /// What.
        from: Loc,
    },
    /// Receives a chunk from a link.
    Recv {
        /// Over which link.
        from: Port,
        /// Into where.
        into: Loc,
    },
    /// Receives a chunk and stores `with` combined with it. The combination commutes, bit for bit.
    RecvReduce {
        /// Over which link.
        from: Port,
        /// The local operand.
        with: Loc,
        /// Where the result goes; may be `with`.
        into: Loc,
        /// The result holds every rank's contribution: the place where an average divides.
        last: bool,
    },
    /// Copies one chunk to one or more places, in one pass.
    Copy {
        /// What.
        from: Loc,
        /// Where to.
        into: Vec<Loc>,
    },
    /// Combines n chunks and stores the result in m places, in one pass; f16, bf16 and fp8 accumulate in f32 and round
    /// once. The order is the canonical tree over the list: the left part is the largest power of two below its length.
    Reduce {
        /// The operands, in order.
        from: Vec<Loc>,
        /// Where the result goes; may be among the operands.
        into: Vec<Loc>,
        /// As in [`Op::RecvReduce`].
        last: bool,
    },
    /// Tells the ranks of this host that everything before it is done. Signals of a rank are counted, from 1, in every
    /// round anew; every rank of a host gives the same number of signals in a round.
    Signal,
    /// Holds everything after it until `on` has given its `signal`-th signal of this round.
    Wait {
        /// A rank of the same host.
        on: Rank,
        /// Which of its signals.
        signal: u32,
    },
}

/// What one rank does in one collective.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Program {
    /// Whose program this is.
    pub rank: Rank,
    /// How many chunks the buffers are cut into.
    pub chunks: u32,
    /// How many staging slots the call uses; the same number on every rank, so that all cut the same rounds.
    pub stage_slots: u32,
    /// How many private slots the call uses; the same number on every rank, whether this one needs them all or not.
    pub scratch_slots: u32,
    /// The ops, in program order.
    pub ops: Vec<Op>,
}
