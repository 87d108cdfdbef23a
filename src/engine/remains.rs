//! What a call leaves behind that a fault ends before its end: how far it has come, and whether its input is still what its
//! caller gave.
#![forbid(unsafe_code)]

use super::call::Call;
use super::plan::Way;
use super::task::{Entry, Task};
use crate::error::{BufferState, Error, Interrupted, Progress, Signature};
use crate::schedule::Space;
use crate::schedule::catalogue::Algorithm;
use crate::schedule::hazards::each_access;
use crate::types::Collective;

/// What becomes of the memory that a call reads its input from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum InputUse {
    /// Nothing is ever written there.
    Kept,
    /// It becomes the output, as ops write that.
    Overwritten,
    /// It was written before the first op.
    Spent,
}

impl InputUse {
    /// In place some collectives write where their input lies; in others this rank's part of the output is its input already.
    pub(super) fn of(call: &Call, in_place: bool) -> InputUse {
        match in_place && (call.collective.reduces() || call.collective == Collective::AllToAll) {
            true => InputUse::Overwritten,
            false => InputUse::Kept,
        }
    }
}

impl Task {
    /// What to tell the caller of a call that ends as it stands, with this fault if it is one.
    pub(super) fn remains(&self, fault: Option<&Error>) -> Interrupted {
        // The comparison of results belongs to the call before it, and so does its failure.
        if let Some(call) = self.audit.as_ref().and_then(|audit| audit.audited()) {
            return call;
        }
        let is_spoilt = match self.input_use {
            InputUse::Kept => false,
            InputUse::Overwritten => self.has_written_output(fault),
            InputUse::Spent => true,
        };
        let buffer = if is_spoilt { BufferState::Undefined } else { BufferState::Intact };
        Interrupted { op: self.op, progress: Some(self.come()), buffer }
    }

    fn come(&self) -> Progress {
        let ops = &self.plan.program.ops;
        let bytes = ops.iter().enumerate().map(|(op, what)| {
            let chunk_bytes = self.chunk_bytes(what);
            (self.done_bytes(op, chunk_bytes) as u64, chunk_bytes as u64)
        });
        let (done_bytes, total_bytes) = bytes.fold((0, 0), |sum, bytes| (sum.0 + bytes.0, sum.1 + bytes.1));
        Progress { done_bytes, total_bytes }
    }

    /// What an op has moved, of `chunk_bytes` in all rounds together.
    fn done_bytes(&self, op: usize, chunk_bytes: usize) -> usize {
        let (past_bytes, len_bytes) = self.round.extent(chunk_bytes);
        past_bytes
            + if self.plan.is_local() {
                if op < self.local_next { len_bytes } else { 0 }
            } else {
                self.progress.mark(op)
            }
    }

    /// Whether neighbours may have written to this rank's buffers. They may from the moment that they see where these are, which
    /// can be long before this rank has seen the same of all of them and enters theirs.
    fn has_opened_its_buffers(&self, fault: Option<&Error>) -> bool {
        self.plan.algorithm == Algorithm::FlatPush && self.entry != Entry::Fresh && !self.was_refused(fault)
    }

    /// Ranks made other calls in the place of this one. All see that before any of them enters.
    fn was_refused(&self, fault: Option<&Error>) -> bool {
        let Some(Error::Mismatch { mine, theirs, .. }) = fault else { return false };
        // Messages are counted for themselves.
        let is_this = |call: &Signature| {
            call.sequence == self.signature.sequence && call.collective != Collective::SendRecv as u8
        };
        is_this(mine) && is_this(theirs)
    }

    /// Whether this rank, or a neighbour that was let into its buffers, may have written to its output.
    fn has_written_output(&self, fault: Option<&Error>) -> bool {
        let writes_output = |op: usize| {
            let mut writes = false;
            let is_own = |space, rank| rank == self.me && matches!(space, Space::Input | Space::Output);
            each_access(&self.plan.program.ops[op], |loc, is_write| writes |= is_write && is_own(loc.space, loc.rank));
            writes
        };
        let ops = &self.plan.program.ops;
        let has_moved = |op: usize| self.done_bytes(op, self.chunk_bytes(&ops[op])) > 0;
        // A link that broke in the middle of an op may have delivered bytes that were not counted.
        let mut receiving = self.runs.iter().zip(&self.plan.runs).filter_map(|(state, run)| {
            let is_open = run.way == Way::In && state.greeting.is_done();
            run.ops.get(state.next).filter(|_| is_open).map(|&op| op as usize)
        });
        // What a device was asked for it may have begun.
        let is_at_work = self.remote.as_ref().is_some_and(|remote| remote.awaits_device());
        self.has_opened_its_buffers(fault)
            || is_at_work && (0..ops.len()).any(writes_output)
            || receiving.any(writes_output)
            || (0..ops.len()).any(|op| has_moved(op) && writes_output(op))
    }
}
