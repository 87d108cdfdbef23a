//! How far the ops of a program have come, and how far each may go: rules 2 and 3 of [`crate::schedule`].
#![forbid(unsafe_code)]

use super::planted::{Mistake, is_planted};
use crate::schedule::hazards::{Fence, Hazards};

/// Watermarks of one round of one program.
#[derive(Debug)]
pub(super) struct Progress {
    /// Bytes done, per op.
    marks: Vec<usize>,
    done: Vec<bool>,
    /// Done, and so is everything it was behind.
    settled: Vec<bool>,
    done_count: usize,
    /// All ops before this one are done.
    prefix: usize,
}

impl Progress {
    pub(super) fn new(ops: usize) -> Progress {
        let mut progress =
            Progress { marks: Vec::new(), done: Vec::new(), settled: Vec::new(), done_count: 0, prefix: 0 };
        progress.reset(ops);
        progress
    }

    /// Back to the beginning, for a program of so many ops.
    pub(super) fn reset(&mut self, ops: usize) {
        self.marks.clear();
        self.marks.resize(ops, 0);
        self.done.clear();
        self.done.resize(ops, false);
        self.settled.clear();
        self.settled.resize(ops, false);
        (self.done_count, self.prefix) = (0, 0);
    }

    pub(super) fn mark(&self, op: usize) -> usize {
        self.marks[op]
    }

    pub(super) fn all_done(&self) -> bool {
        self.done_count == self.done.len()
    }

    /// Moves an op's watermark; at the end of its bytes the op is done.
    pub(super) fn advance(&mut self, op: usize, by_bytes: usize, len_bytes: usize) {
        self.marks[op] += by_bytes;
        debug_assert!(self.marks[op] <= len_bytes && !self.done[op]);
        if self.marks[op] == len_bytes {
            self.done[op] = true;
            self.done_count += 1;
            while self.done.get(self.prefix) == Some(&true) {
                self.prefix += 1;
            }
        }
    }

    /// How far an op may go now: to the lowest watermark among the ops it is behind, in whole elements. `None` while a
    /// fence holds it back altogether.
    pub(super) fn limit(&mut self, order: &Hazards, op: usize, len_bytes: usize, elem_bytes: usize) -> Option<usize> {
        match order.fence(op) {
            Fence::Free => {}
            Fence::After(wait) if self.done[wait as usize] => {}
            Fence::AfterAll if self.prefix == op => {}
            Fence::After(_) | Fence::AfterAll => return None,
        }
        if is_planted(Mistake::HazardIgnored) {
            return Some(len_bytes);
        }
        let mut limit = usize::MAX;
        for &earlier in order.behind(op) {
            limit = limit.min(self.watermark(order, earlier as usize));
        }
        Some(if limit >= len_bytes { len_bytes } else { limit / elem_bytes * elem_bytes })
    }

    /// What an op allows those behind it. A short op that is done may have been followed, past its own end, by nothing
    /// that waits for the longer op before it (slots are used again for chunks of other lengths); so beyond its end it
    /// frees the way only once all before it are done too.
    fn watermark(&mut self, order: &Hazards, op: usize) -> usize {
        if !self.done[op] {
            return self.marks[op];
        }
        if !self.settled[op] {
            self.settled[op] =
                order.behind(op).iter().all(|&earlier| self.watermark(order, earlier as usize) == usize::MAX);
        }
        if self.settled[op] { usize::MAX } else { self.marks[op] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::hazards::hazards;
    use crate::schedule::{Loc, Op, Port, Program};

    fn program(ops: Vec<Op>) -> Program {
        Program { rank: 0, chunks: 2, stage_slots: 0, scratch_slots: 1, ops }
    }

    const PEER: Port = Port { peer: 1, channel: 0 };

    #[test]
    fn a_send_follows_the_watermark_of_what_it_sends_in_whole_elements() {
        let into = Loc::output(0, 0);
        let program = program(vec![
            Op::RecvReduce { from: PEER, with: Loc::input(0, 0), into, last: true },
            Op::Send { to: PEER, from: into },
        ]);
        let order = hazards(&program, false);
        let mut progress = Progress::new(2);
        assert_eq!(progress.limit(&order, 1, 16, 4), Some(0));
        progress.advance(0, 10, 16);
        assert_eq!(progress.limit(&order, 1, 16, 4), Some(8));
        progress.advance(0, 6, 16);
        assert_eq!(progress.limit(&order, 1, 16, 4), Some(16));
        assert!(!progress.all_done());
    }

    #[test]
    fn a_short_op_does_not_open_the_way_past_a_longer_one_before_it() {
        // One slot: filled with a long chunk and sent on, then filled with a short chunk, then with a long one again.
        let slot = |chunk| Loc::scratch(0, 0, chunk);
        let program = program(vec![
            Op::Recv { from: PEER, into: slot(0) },
            Op::Send { to: PEER, from: slot(0) },
            Op::Recv { from: PEER, into: slot(1) },
            Op::Recv { from: PEER, into: slot(0) },
        ]);
        let order = hazards(&program, false);
        let mut progress = Progress::new(4);
        progress.advance(0, 100, 100);
        progress.advance(1, 60, 100);
        progress.advance(2, 60, 60);
        assert_eq!(progress.limit(&order, 3, 100, 1), Some(60), "bytes 60.. are still being sent");
        progress.advance(1, 40, 100);
        assert_eq!(progress.limit(&order, 3, 100, 1), Some(100));
    }
}
