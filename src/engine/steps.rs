//! What each op of a program does when it moves: the innermost loop of [`Lane::poll`].
#![forbid(unsafe_code)]

use super::lane::{Effort, Lane};
use super::local;
use super::offload::{AtWork, Offload};
use super::places::{Step, What};
use super::plan::Way;
use super::task::{Reach, Task};
use crate::device::host;
use crate::error::Result;
use crate::schedule::Op;

impl Lane {
    /// Moves the ops of one link end as far as they go.
    pub(super) fn poll_run(&mut self, task: &mut Task, index: usize) -> Result<bool> {
        let plan = task.plan.clone();
        let run = &plan.runs[index];
        if task.runs[index].next == run.ops.len() && task.runs[index].greeting.is_done() {
            return Ok(false);
        }
        let link = &mut self.links[task.runs[index].link];
        if link.ends.is_none() {
            link.ends = self.connector.connect(link.port)?;
        }
        let Some((tx, rx)) = &mut link.ends else { return Ok(false) };
        if self.effort == Effort::Quick
            && !task.runs[index].greeting.has_begun()
            && run.ops.first().is_some_and(|&op| task.reach(op as usize).is_none())
        {
            return Ok(false);
        }
        let greeting = &mut task.runs[index].greeting;
        let mut moved = !greeting.is_done();
        let greeted = match run.way {
            Way::Out => greeting.send(&mut **tx)?,
            Way::In => greeting.receive(&mut **rx, self.settings.me, run.port.peer)?,
        };
        if !greeted {
            (link.full, link.hungry) = (link.full | (run.way == Way::Out), link.hungry | (run.way == Way::In));
            return Ok(false);
        }
        if task.remote.is_some() {
            return Ok(self.poll_ferry(task, index)? | moved);
        }
        while let Some(&op) = run.ops.get(task.runs[index].next) {
            let op = op as usize;
            let Some(Reach { len_bytes, mark, room }) = task.reach(op) else { break };
            let (bytes, blocked) = match &plan.program.ops[op] {
                _ if len_bytes == 0 => (0, false),
                Op::Send { from, .. } => {
                    let sent = tx.send(task.span(*from, mark, room))?;
                    link.full |= sent < room;
                    (sent, sent == 0)
                }
                Op::Recv { into, .. } => {
                    let got = rx.recv(task.span(*into, mark, room))?;
                    link.hungry |= got < room;
                    (got, got == 0)
                }
                Op::RecvReduce { with, into, last, .. } => {
                    let arrived = rx.arrived(task.fold.dtype().size_bytes(), room)?;
                    let got = arrived.len();
                    link.hungry |= got < room;
                    if got > 0 {
                        let operands = [task.span(*with, mark, got), arrived];
                        host::reduce(&task.fold, *last, &operands, &[task.span(*into, mark, got)], host::Store::Cached);
                        rx.release(got)?;
                    }
                    (got, got == 0)
                }
                other => unreachable!("{other:?} moves over no link"),
            };
            if blocked {
                break;
            }
            moved = true;
            self.pace.advance(bytes);
            if task.advance(op, bytes, len_bytes) {
                task.runs[index].next += 1;
            } else if bytes < room {
                // The link has had enough for now: the other ends' turn, so that both directions keep moving.
                break;
            }
        }
        Ok(moved)
    }

    /// Moves copies, reductions, signals and waits, in their order.
    pub(super) fn poll_local(&mut self, task: &mut Task) -> Result<bool> {
        self.begin_local(task);
        let steps = std::mem::take(&mut task.steps);
        let moved = self.poll_steps(task, &steps);
        // A plan that took the place of this one has brought its own.
        if task.steps.is_empty() {
            task.steps = steps;
        }
        moved
    }

    fn poll_steps(&mut self, task: &mut Task, steps: &[Step]) -> Result<bool> {
        // Where nothing of the plan moves over links, ops simply follow each other, whole.
        let is_straight = task.plan.is_local();
        let mut moved = false;
        while let Some(step) = steps.get(task.local_next) {
            let (past_bytes, len_bytes) = task.round.extent(step.chunk_bytes);
            match self.look_at_step(task)? {
                AtWork::Nothing => {}
                AtWork::Still => break,
                AtWork::Done(bytes) => {
                    moved = true;
                    if task.advance(step.op, bytes, len_bytes) {
                        task.local_next += 1;
                    }
                    continue;
                }
            }
            let (mark, room) = match is_straight {
                true => (0, len_bytes),
                false => match task.reach(step.op) {
                    Some(Reach { mark, room, .. }) => (mark, room),
                    None => break,
                },
            };
            let span = |place| task.bases.span(place, past_bytes, task.parity, mark, room);
            match &step.what {
                What::Signal => {
                    if !self.has_caught_up(task)? {
                        break;
                    }
                    let shared = self.shared.as_deref_mut().expect("programs with signals run where memory is shared");
                    let me = local::position(self.settings.neighbours(), self.settings.me);
                    local::signal(task, shared, me, &mut self.signals);
                }
                What::Wait { on, signal } => match local::wait(self, task, *on, *signal)? {
                    local::Waited::NotYet => break,
                    local::Waited::Seen => {}
                    local::Waited::Replanned => return Ok(true),
                },
                What::Copy { from, into } => {
                    let outputs = &mut self.operands.1;
                    outputs.clear();
                    outputs.extend(into.iter().map(span));
                    match Offload::of(&mut self.offload, task.domain) {
                        None => host::copy(span(from), outputs, host::Store::Cached),
                        Some(device) => device.queue()?.copy(span(from), outputs)?,
                    }
                }
                What::Reduce { from, into, last } => {
                    let (inputs, outputs) = &mut self.operands;
                    inputs.clear();
                    inputs.extend(from.iter().map(span));
                    outputs.clear();
                    outputs.extend(into.iter().map(span));
                    match Offload::of(&mut self.offload, task.domain) {
                        None => host::reduce(&task.fold, *last, inputs, outputs, host::Store::Cached),
                        Some(device) => device.queue()?.reduce(&task.fold, *last, inputs, outputs)?,
                    }
                }
            }
            moved = true;
            if step.moves_bytes()
                && room > 0
                && let (Some(device), Some(remote)) = (Offload::of(&mut self.offload, task.domain), &mut task.remote)
            {
                remote.put(device.queue()?, room, is_straight)?;
                if !is_straight {
                    continue;
                }
            }
            if !is_straight && !task.advance(step.op, room, len_bytes) {
                break;
            }
            task.local_next += 1;
        }
        Ok(moved)
    }
}
