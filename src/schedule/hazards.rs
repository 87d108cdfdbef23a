//! What holds an op back. Nobody writes dependencies into a program: they follow from the memory that its ops touch.
//!
//! An op that reads what an earlier op writes, or writes what an earlier op reads or writes, stays *behind* it, byte for
//! byte: at offset `b` it waits until the earlier op is past `b`. The two name the same chunk, so their offsets mean the
//! same and one can follow a few bytes after the other:
//!
//! ```text
//!   RecvReduce  into Output[3]   |=========>......|     its watermark
//!   Send        from Output[3]   |======>.........|     may go as far as that, and no further
//! ```
//!
//! `Signal` and `Wait` order whole ops instead ([`Fence`]): what crosses to another rank has no common watermark.
//!
//! Only the nearest op is kept per piece of memory (the last writer, or the readers since): what lies before it is
//! implied, because that op was itself held back at the same offset.
#![forbid(unsafe_code)]

use super::{Loc, Op, Program, Space};
use crate::types::Rank;

/// Which ops must be complete, to the last byte, before an op starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fence {
    /// None.
    #[default]
    Free,
    /// The [`Op::Wait`] with this index, the latest one before the op.
    After(u32),
    /// Every op before it in the program: the op is a [`Op::Signal`].
    AfterAll,
}

/// The order that memory and fences impose on the ops of one program; everything else may overlap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hazards {
    /// All lists of predecessors, one after the other; the list of op `i` is `first[i]..first[i + 1]`.
    behind: Vec<u32>,
    first: Vec<u32>,
    fences: Vec<Fence>,
}

impl Hazards {
    /// The earlier ops that this op stays behind, byte for byte. Ascending, without repetition.
    pub fn behind(&self, op: usize) -> &[u32] {
        &self.behind[self.first[op] as usize..self.first[op + 1] as usize]
    }

    /// Which ops must be complete before this op starts.
    pub fn fence(&self, op: usize) -> Fence {
        self.fences[op]
    }

    /// How many ops there are.
    pub fn len(&self) -> usize {
        self.fences.len()
    }

    /// True for a program without ops.
    pub fn is_empty(&self) -> bool {
        self.fences.is_empty()
    }
}

/// Derives the hazards of one rank's program. With `in_place` chunk c of its `Input` and of its `Output` are the same
/// memory. Whether a peer's are, the rank cannot know, and so takes them to be.
/// Takes time proportional to the number of locations that the ops name (times its logarithm).
pub fn hazards(program: &Program, in_place: bool) -> Hazards {
    let Program { rank: me, ops, .. } = program;
    // Sorting by (place, op) brings together all that happens to one place, in program order.
    let mut accesses: Vec<((Rank, Space, u32), u32, bool)> = Vec::with_capacity(ops.len() * 2);
    for (index, op) in ops.iter().enumerate() {
        each_access(op, |loc, writes| {
            accesses.push((loc.place(in_place || loc.rank != *me), index as u32, writes));
        });
    }
    accesses.sort_unstable();

    // An edge is (op, the earlier op it stays behind), packed so that sorting groups them by op.
    let mut edges: Vec<u64> = Vec::with_capacity(accesses.len());
    let mut readers: Vec<u32> = Vec::new();
    for history in accesses.chunk_by(|a, b| a.0 == b.0) {
        let mut writer: Option<u32> = None;
        readers.clear();
        for touch in history.chunk_by(|a, b| a.1 == b.1) {
            let op = touch[0].1;
            let reads = !touch[0].2;
            let writes = touch[touch.len() - 1].2;
            if writes && !readers.is_empty() {
                edges.extend(readers.iter().map(|&reader| edge(op, reader)));
            } else {
                edges.extend(writer.map(|writer| edge(op, writer)));
            }
            if writes {
                writer = Some(op);
                readers.clear();
            } else if reads {
                readers.push(op);
            }
        }
    }
    edges.sort_unstable();
    edges.dedup();

    let mut first = Vec::with_capacity(ops.len() + 1);
    let mut fences = Vec::with_capacity(ops.len());
    let mut latest_wait = Fence::Free;
    let mut at = 0;
    for (index, op) in ops.iter().enumerate() {
        first.push(at as u32);
        at += edges[at..].iter().take_while(|&&edge| edge >> 32 == index as u64).count();
        fences.push(if matches!(op, Op::Signal) { Fence::AfterAll } else { latest_wait });
        if matches!(op, Op::Wait { .. }) {
            latest_wait = Fence::After(index as u32);
        }
    }
    first.push(at as u32);
    Hazards { behind: edges.iter().map(|&edge| edge as u32).collect(), first, fences }
}

/// The program as it runs: copies of a place onto itself, which an in-place call makes of `Copy Input[c] -> Output[c]`,
/// are gone. Nothing else changes; `Input` and `Output` keep their names. Engine and checker both start from this.
pub fn resolve(program: &Program, in_place: bool) -> Program {
    let mut resolved = program.clone();
    let place = |loc: Loc| loc.place(in_place && loc.rank == program.rank);
    resolved.ops.retain_mut(|op| match op {
        Op::Copy { from, into } => {
            into.retain(|&loc| place(loc) != place(*from));
            !into.is_empty()
        }
        _ => true,
    });
    resolved
}

/// Calls `visit` with every location an op touches, and whether it writes there.
pub fn each_access(op: &Op, mut visit: impl FnMut(Loc, bool)) {
    match op {
        Op::Send { from, .. } => visit(*from, false),
        Op::Recv { into, .. } => visit(*into, true),
        Op::RecvReduce { with, into, .. } => {
            visit(*with, false);
            visit(*into, true);
        }
        Op::Copy { from, into } => {
            visit(*from, false);
            into.iter().for_each(|&loc| visit(loc, true));
        }
        Op::Reduce { from, into, .. } => {
            from.iter().for_each(|&loc| visit(loc, false));
            into.iter().for_each(|&loc| visit(loc, true));
        }
        Op::Signal | Op::Wait { .. } => {}
    }
}

/// Calls `change` with every location an op touches.
pub(super) fn each_loc_mut(op: &mut Op, mut change: impl FnMut(&mut Loc)) {
    match op {
        Op::Send { from, .. } => change(from),
        Op::Recv { into, .. } => change(into),
        Op::RecvReduce { with, into, .. } => {
            change(with);
            change(into);
        }
        Op::Copy { from, into } => {
            change(from);
            into.iter_mut().for_each(change);
        }
        Op::Reduce { from, into, .. } => from.iter_mut().chain(into).for_each(change),
        Op::Signal | Op::Wait { .. } => {}
    }
}

fn edge(op: u32, before: u32) -> u64 {
    u64::from(op) << 32 | u64::from(before)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::Port;

    const PEER: Port = Port { peer: 1, channel: 0 };

    fn input(chunk: u32) -> Loc {
        Loc::input(0, chunk)
    }

    fn output(chunk: u32) -> Loc {
        Loc::output(0, chunk)
    }

    fn program(ops: Vec<Op>) -> Program {
        Program { rank: 0, chunks: 2, stage_slots: 1, scratch_slots: 0, ops }
    }

    #[test]
    fn read_after_write_write_after_read_and_write_after_write() {
        let ops = vec![
            Op::Recv { from: PEER, into: output(0) },
            Op::Send { to: PEER, from: output(0) },
            Op::Send { to: PEER, from: output(0) },
            Op::Recv { from: PEER, into: output(0) },
            Op::Recv { from: PEER, into: output(0) },
            Op::Recv { from: PEER, into: output(1) },
        ];
        let order = hazards(&program(ops), false);
        let behind: Vec<&[u32]> = (0..order.len()).map(|op| order.behind(op)).collect();
        assert_eq!(behind, [&[][..], &[0], &[0], &[1, 2], &[3], &[]]);
    }

    #[test]
    fn an_op_that_reads_and_writes_one_place_is_both() {
        let fold = |last| Op::RecvReduce { from: PEER, with: output(0), into: output(0), last };
        let ops = vec![fold(false), fold(true), Op::Send { to: PEER, from: output(0) }];
        let order = hazards(&program(ops), false);
        assert_eq!((order.behind(1), order.behind(2)), (&[0][..], &[1][..]));
    }

    #[test]
    fn in_place_joins_input_and_output() {
        let ops = vec![Op::Send { to: PEER, from: input(0) }, Op::Recv { from: PEER, into: output(0) }];
        let program = program(ops);
        assert_eq!(hazards(&program, false).behind(1), &[] as &[u32]);
        assert_eq!(hazards(&program, true).behind(1), &[0]);
    }

    #[test]
    fn the_memory_of_two_ranks_is_two_places() {
        let theirs = Loc { rank: 1, ..output(0) };
        let ops = vec![
            Op::Copy { from: input(0), into: vec![output(0), theirs] },
            Op::Copy { from: theirs, into: vec![output(1)] },
            Op::Copy { from: output(0), into: vec![theirs] },
        ];
        let order = hazards(&program(ops), false);
        assert_eq!((order.behind(1), order.behind(2)), (&[0][..], &[0, 1][..]));
    }

    #[test]
    fn a_slot_is_one_place_whatever_it_holds() {
        let ops = vec![
            Op::Copy { from: input(0), into: vec![Loc::stage(0, 0, 0)] },
            Op::Copy { from: input(1), into: vec![Loc::stage(0, 0, 1)] },
            Op::Copy { from: input(1), into: vec![Loc::stage(0, 1, 1)] },
        ];
        let order = hazards(&program(ops), false);
        assert_eq!((order.behind(1), order.behind(2)), (&[0][..], &[] as &[u32]));
    }

    #[test]
    fn a_peers_input_and_output_may_be_one() {
        let ops = vec![
            Op::Copy { from: Loc::input(1, 0), into: vec![output(0)] },
            Op::Copy { from: input(0), into: vec![Loc::output(1, 0)] },
        ];
        assert_eq!(hazards(&program(ops), false).behind(1), &[0]);
    }

    #[test]
    fn signals_come_after_all_and_waits_before_all() {
        let ops = vec![
            Op::Send { to: PEER, from: input(0) },
            Op::Wait { on: 1, signal: 1 },
            Op::Signal,
            Op::Wait { on: 2, signal: 1 },
            Op::Send { to: PEER, from: input(0) },
        ];
        let order = hazards(&program(ops), false);
        let fences: Vec<Fence> = (0..order.len()).map(|op| order.fence(op)).collect();
        assert_eq!(fences, [Fence::Free, Fence::Free, Fence::AfterAll, Fence::After(1), Fence::After(3)]);
    }

    #[test]
    fn copies_onto_themselves_disappear() {
        let stage = Loc::stage(0, 0, 1);
        let ops = vec![
            Op::Copy { from: input(0), into: vec![output(0)] },
            Op::Copy { from: input(1), into: vec![output(1), stage] },
            Op::Copy { from: stage, into: vec![stage] },
        ];
        let program = program(ops);
        assert_eq!(resolve(&program, true).ops, [Op::Copy { from: input(1), into: vec![stage] }]);
        assert_eq!(resolve(&program, false).ops, program.ops[..2]);
    }
}
