//! How bytes of device memory cross a link: in slices, through host memory that the device reaches easily.
//!
//! ```text
//!   out   device ──copy──> slot . passed? ──> link         in   link ──> slot ──copy or reduce──> device . passed?
//!                          slot                                          slot
//! ```
//!
//! Slots are used in turn, so while one is on the link the device fills (or empties) the next ones. A socket reads and writes
//! the slots themselves: no copy but the device's and the kernel's. What the op has moved, its watermark, is what has left
//! on the link, or what the device has taken; ops behind it see nothing else.
#![forbid(unsafe_code)]

use super::lane::Lane;
use super::plan::Way;
use super::task::Task;
use crate::device::{Mark, Memory};
use crate::error::Result;
use crate::memory::Span;
use crate::schedule::Op;
use std::collections::VecDeque;

/// Slices in flight on one end of a link.
const SLOTS: usize = 4;

/// The largest slice: long enough that starting its copy is small beside it, short enough that several are on their way.
const SLOT_BYTES: usize = 256 << 10;

/// One end of a link of one call.
pub(super) struct Ferry {
    hold: Memory,
    slot_bytes: usize,
    slices: VecDeque<Slice>,
    /// The op that the next slice is of, among those of the run, and how much of it has one already.
    next: usize,
    next_bytes: usize,
    /// Slices begun so far: the next one takes the slot after the last.
    begun: usize,
}

/// Some bytes of one op.
struct Slice {
    /// Number of the op in the program.
    op: usize,
    at_bytes: usize,
    len_bytes: usize,
    slot: Span,
    /// What has gone to the link, or has come from there.
    moved_bytes: usize,
    /// Where the device is at work on it.
    mark: Option<Mark>,
}

impl Ferry {
    /// For ops of at most `longest_bytes`, with a hold of [`Ferry::hold_bytes`].
    pub(super) fn new(hold: Memory, longest_bytes: usize) -> Ferry {
        let slot_bytes = slot_bytes(longest_bytes);
        Ferry { hold, slot_bytes, slices: VecDeque::new(), next: 0, next_bytes: 0, begun: 0 }
    }

    pub(super) fn hold_bytes(longest_bytes: usize) -> usize {
        slot_bytes(longest_bytes) * SLOTS
    }

    pub(super) fn into_hold(self) -> Memory {
        self.hold
    }

    /// For the next round.
    pub(super) fn rewind(&mut self) {
        debug_assert!(self.slices.is_empty(), "a round ends when all its bytes have come across");
        (self.next, self.next_bytes) = (0, 0);
    }

    pub(super) fn awaits_device(&self) -> bool {
        self.slices.iter().any(|slice| slice.mark.is_some())
    }

    /// Begins the next slice of an op: at most `limit_bytes`.
    fn begin(&mut self, op: usize, op_bytes: usize, limit_bytes: usize) -> &mut Slice {
        let slot = self.begun % SLOTS * self.slot_bytes;
        let len_bytes = limit_bytes.min(self.slot_bytes);
        let slot = self.hold.span().cut(slot, len_bytes);
        self.slices.push_back(Slice { op, at_bytes: self.next_bytes, len_bytes, slot, moved_bytes: 0, mark: None });
        self.begun += 1;
        self.next_bytes += len_bytes;
        if self.next_bytes == op_bytes {
            (self.next, self.next_bytes) = (self.next + 1, 0);
        }
        self.slices.back_mut().expect("pushed above")
    }
}

/// A power of two, so that calls of about one size use each other's.
fn slot_bytes(longest_bytes: usize) -> usize {
    longest_bytes.next_power_of_two().clamp(64, SLOT_BYTES)
}

impl Lane {
    /// Moves the ops of one link end of a call on device memory as far as they go. The headers have been exchanged.
    pub(super) fn poll_ferry(&mut self, task: &mut Task, index: usize) -> Result<bool> {
        let mut moved = self.skip_empty(task, index)?;
        moved |= match task.plan.runs[index].way {
            Way::Out => self.ferry_out(task, index)?,
            Way::In => self.ferry_in(task, index)?,
        };
        Ok(moved | self.skip_empty(task, index)?)
    }

    /// Ops without bytes are over as soon as those before them are and nothing holds them back.
    fn skip_empty(&mut self, task: &mut Task, index: usize) -> Result<bool> {
        let mut moved = false;
        let plan = task.plan.clone();
        while let Some(&op) = plan.runs[index].ops.get(task.runs[index].next)
            && task.round_bytes(op as usize) == 0
            && task.reach(op as usize).is_some()
        {
            task.advance(op as usize, 0, 0);
            task.runs[index].next += 1;
            let ferry = &mut task.remote.as_mut().expect("a call on a device").ferries[index];
            ferry.next = ferry.next.max(task.runs[index].next);
            moved = true;
        }
        Ok(moved)
    }

    fn ferry_out(&mut self, task: &mut Task, index: usize) -> Result<bool> {
        let plan = task.plan.clone();
        let ops = &plan.runs[index].ops;
        let mut remote = task.remote.take().expect("a call on a device");
        let ferry = &mut remote.ferries[index];
        let mut moved = false;
        // The device fills what there is room for.
        while ferry.slices.len() < SLOTS
            && let Some(&op) = ops.get(ferry.next)
        {
            let op = op as usize;
            let (op_bytes, ready_bytes) = (task.round_bytes(op), task.limit(op).unwrap_or(0));
            if ready_bytes <= ferry.next_bytes {
                break;
            }
            let Op::Send { from, .. } = &plan.program.ops[op] else { unreachable!("it leaves by this link") };
            let slice = ferry.begin(op, op_bytes, ready_bytes - ferry.next_bytes);
            let queue = self.queue()?;
            queue.copy(task.span(*from, slice.at_bytes, slice.len_bytes), &[slice.slot])?;
            slice.mark = Some(queue.mark()?);
            moved = true;
        }
        // What it has filled leaves in order.
        while let Some(slice) = ferry.slices.front_mut() {
            if let Some(mark) = slice.mark {
                if !self.queue()?.passed(mark)? {
                    break;
                }
                slice.mark = None;
            }
            let link = &mut self.links[task.runs[index].link];
            let (tx, _) = link.ends.as_mut().expect("headers have crossed it");
            let left = slice.slot.from(slice.moved_bytes);
            let sent = tx.send(left)?;
            link.full |= sent < left.len();
            if sent == 0 {
                break;
            }
            moved = true;
            slice.moved_bytes += sent;
            self.pace.advance(sent);
            let (op, is_gone) = (slice.op, slice.moved_bytes == slice.len_bytes);
            if is_gone {
                ferry.slices.pop_front();
            }
            let op_bytes = task.round_bytes(op);
            if task.advance(op, sent, op_bytes) {
                task.runs[index].next += 1;
            }
        }
        task.remote = Some(remote);
        Ok(moved)
    }

    fn ferry_in(&mut self, task: &mut Task, index: usize) -> Result<bool> {
        let plan = task.plan.clone();
        let ops = &plan.runs[index].ops;
        let mut remote = task.remote.take().expect("a call on a device");
        let ferry = &mut remote.ferries[index];
        let mut moved = false;
        // What arrives fills slots, whether or not its op may go on yet.
        loop {
            let is_full = ferry.slices.back().is_none_or(|slice| slice.moved_bytes == slice.len_bytes);
            if is_full {
                let Some(&op) = ops.get(ferry.next).filter(|_| ferry.slices.len() < SLOTS) else { break };
                let op_bytes = task.round_bytes(op as usize);
                if op_bytes == 0 {
                    break;
                }
                ferry.begin(op as usize, op_bytes, op_bytes - ferry.next_bytes);
            }
            let slice = ferry.slices.back_mut().expect("one is begun");
            let link = &mut self.links[task.runs[index].link];
            let (_, rx) = link.ends.as_mut().expect("headers have crossed it");
            let room = slice.slot.from(slice.moved_bytes);
            let got = rx.recv(room)?;
            link.hungry |= got < room.len();
            if got == 0 {
                break;
            }
            moved = true;
            slice.moved_bytes += got;
            self.pace.advance(got);
        }
        // The device takes what is whole, as far as its ops may go.
        for slice in ferry.slices.iter_mut().filter(|slice| slice.mark.is_none()) {
            let is_whole = slice.moved_bytes == slice.len_bytes;
            if !is_whole || task.limit(slice.op).is_none_or(|limit| limit < slice.at_bytes + slice.len_bytes) {
                break;
            }
            let span = |loc| task.span(loc, slice.at_bytes, slice.len_bytes);
            let queue = self.queue()?;
            match &plan.program.ops[slice.op] {
                Op::Recv { into, .. } => queue.copy(slice.slot, &[span(*into)])?,
                Op::RecvReduce { with, into, last, .. } => {
                    queue.reduce(&task.fold, *last, &[span(*with), slice.slot], &[span(*into)])?;
                }
                other => unreachable!("{other:?} does not come by this link"),
            }
            slice.mark = Some(queue.mark()?);
            moved = true;
        }
        while let Some(slice) = ferry.slices.front() {
            let Some(mark) = slice.mark else { break };
            if !self.queue()?.passed(mark)? {
                break;
            }
            let (op, len_bytes) = (slice.op, slice.len_bytes);
            ferry.slices.pop_front();
            let op_bytes = task.round_bytes(op);
            if task.advance(op, len_bytes, op_bytes) {
                task.runs[index].next += 1;
            }
            moved = true;
        }
        task.remote = Some(remote);
        Ok(moved)
    }
}
