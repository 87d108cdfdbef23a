//! The pen that algorithms write programs with: [`Draft`] collects the ops of one rank, [`Group`] says among whom a
//! link algorithm runs and [`Piece`] where its data lies. Because an algorithm only sees those three, the same ring
//! serves a whole job, one flow between hosts, or one channel of several.
#![forbid(unsafe_code)]

use super::{Loc, Op, Port, Program};
use crate::types::Rank;

/// A program that is being written.
pub(super) struct Draft {
    /// Whose program.
    pub me: Rank,
    ops: Vec<Op>,
    signals: u32,
}

impl Draft {
    pub fn new(me: Rank) -> Draft {
        Draft { me, ops: Vec::new(), signals: 0 }
    }

    /// Closes the draft. The slot counts are those of the call, equal on all ranks, not only what this rank used.
    pub fn finish(self, chunks: u32, stage_slots: u32, scratch_slots: u32) -> Program {
        Program { rank: self.me, chunks, stage_slots, scratch_slots, ops: self.ops }
    }

    pub fn input(&self, chunk: u32) -> Loc {
        Loc::input(self.me, chunk)
    }

    pub fn output(&self, chunk: u32) -> Loc {
        Loc::output(self.me, chunk)
    }

    pub fn stage(&self, slot: u32, chunk: u32) -> Loc {
        Loc::stage(self.me, slot, chunk)
    }

    pub fn scratch(&self, slot: u32, chunk: u32) -> Loc {
        Loc::scratch(self.me, slot, chunk)
    }

    pub fn send(&mut self, to: Port, from: Loc) {
        self.ops.push(Op::Send { to, from });
    }

    pub fn recv(&mut self, from: Port, into: Loc) {
        self.ops.push(Op::Recv { from, into });
    }

    pub fn recv_reduce(&mut self, from: Port, with: Loc, into: Loc, last: bool) {
        self.ops.push(Op::RecvReduce { from, with, into, last });
    }

    /// Copies to all of `into` but `from` itself. That `Input` and `Output` may be one memory is not settled here but
    /// by [`super::hazards::resolve`].
    pub fn copy(&mut self, from: Loc, mut into: Vec<Loc>) {
        into.retain(|&loc| loc != from);
        if !into.is_empty() {
            self.ops.push(Op::Copy { from, into });
        }
    }

    pub fn reduce(&mut self, from: Vec<Loc>, into: Vec<Loc>, last: bool) {
        self.ops.push(Op::Reduce { from, into, last });
    }

    /// Tells the host that everything so far is done, and returns the number of that signal.
    pub fn signal(&mut self) -> u32 {
        self.signals += 1;
        self.ops.push(Op::Signal);
        self.signals
    }

    pub fn wait(&mut self, on: Rank, signal: u32) {
        self.ops.push(Op::Wait { on, signal });
    }

    /// Waits for that signal of every other rank of the host.
    pub fn wait_all(&mut self, host: &[Rank], signal: u32) {
        for &rank in host.iter().filter(|&&rank| rank != self.me) {
            self.ops.push(Op::Wait { on: rank, signal });
        }
    }

    /// Everybody of the host gets here before anybody goes on. All must do it equally often.
    pub fn meet(&mut self, host: &[Rank]) {
        let signal = self.signal();
        self.wait_all(host, signal);
    }
}

/// Two or more ranks that run a link algorithm among themselves, over one channel. Algorithms count *positions* in the
/// order, which wrap around; only ports are ranks. What the members hold together is what the whole world holds, so
/// what completes a reduction among them completes it.
#[derive(Clone, Copy)]
pub(super) struct Group<'a> {
    /// The members, by position.
    pub order: &'a [Rank],
    /// My position.
    pub at: usize,
    /// Which of the parallel links they use.
    pub channel: u8,
}

impl<'a> Group<'a> {
    /// The group in which `me` is a member; `order` has it exactly once.
    pub fn new(order: &'a [Rank], me: Rank, channel: u8) -> Group<'a> {
        let at = order.iter().position(|&rank| rank == me).expect("a rank runs only in groups it belongs to");
        debug_assert!(order.len() > 1, "a group of one has nobody to talk to");
        Group { order, at, channel }
    }

    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// The position `distance` after mine.
    pub fn ahead(&self, distance: usize) -> usize {
        (self.at + distance) % self.len()
    }

    /// The position `distance` before mine.
    pub fn behind(&self, distance: usize) -> usize {
        (self.at + self.len() - distance % self.len()) % self.len()
    }

    /// The link to and from that position.
    pub fn port(&self, position: usize) -> Port {
        Port { peer: self.order[position], channel: self.channel }
    }
}

/// One chunk as a link algorithm sees it on one rank: where this rank's contribution lies, and where partial results
/// and results may be put. The two may be the same place.
#[derive(Debug, Clone, Copy)]
pub(super) struct Piece {
    /// My contribution; never written, unless it is `into` as well.
    pub have: Loc,
    /// Partial results, then the result.
    pub into: Loc,
}

impl Piece {
    /// Contribution and result in one place.
    pub fn settled(at: Loc) -> Piece {
        Piece { have: at, into: at }
    }
}

/// What belongs to each position of a group: the pieces of its block, of any number, alike on all ranks.
pub(super) type Blocks = [Vec<Piece>];

/// The same blocks after a reduce-scatter: every contribution of mine is now a result.
pub(super) fn settle(blocks: &Blocks) -> Vec<Vec<Piece>> {
    blocks.iter().map(|block| block.iter().map(|piece| Piece::settled(piece.into)).collect()).collect()
}

/// `order` begun at position `first`.
pub(super) fn rotated(order: &[Rank], first: usize) -> Vec<Rank> {
    order[first..].iter().chain(&order[..first]).copied().collect()
}
