//! Calls that nothing keeps company with, on the thread that makes them: no queue, no completion, and a task that an equal
//! call has used before. What such a call does is what its plan says, step by step, like any other's; when it has to wait
//! for long it joins the calls in flight as it stands.
#![forbid(unsafe_code)]

use super::audit::Audit;
use super::call::Call;
use super::completion::Completion;
use super::lane::Lane;
use super::offload::HOST;
use super::plan::CallKey;
use super::task::Task;
use crate::error::Result;
use crate::types::ReduceOp;
use std::sync::Arc;
use std::time::Instant;

impl Lane {
    /// Takes a validated call in that can run straight through: one that no other call is in flight with, that was made
    /// before, and that needs no link. False, and nothing has happened, where it is not of that kind.
    ///
    /// Whoever boards it calls [`Lane::poll_express`] until it is over, or [`Lane::park`].
    pub(crate) fn board(&mut self, call: &Call, in_place: bool) -> bool {
        let is_audited = self.settings.verifies && Audit::applies_to(call, self.settings.world());
        // A device would keep this thread waiting.
        let is_remote = self.domain_of(call) != Ok(HOST);
        if !self.tasks.is_empty() || is_audited || is_remote || matches!(call.op, Some(ReduceOp::PreMulSum(_))) {
            return false;
        }
        // Most calls are like one of the calls before; for the small ones it does not matter where the buffers are.
        let Some(private) = CallKey::new(call, in_place, false) else { return false };
        if let Some(at) = self.spares.iter().rposition(|spare| spare.is_for(&private) && !spare.depends_on_mapping) {
            self.renew(at, call);
            return true;
        }
        let mapped = self.reachable(call);
        let key = CallKey { mapped, ..private };
        if let Some(at) = self.spares.iter().rposition(|spare| spare.is_for(&key)) {
            self.renew(at, call);
            return true;
        }
        let Some(prepared) = self.plans.recall(&key).filter(|prepared| prepared.plan.is_local()) else { return false };
        let signature = self.sign(call);
        let mut task = self.task(prepared, call, in_place, mapped, signature, (HOST, None));
        task.allocate_scratch();
        self.express = Some(task);
        true
    }

    /// Boards a call on a spare task.
    fn renew(&mut self, at: usize, call: &Call) {
        let signature = self.sign(call);
        let mut task = self.spares.swap_remove(at);
        task.renew(call, signature);
        self.express = Some(task);
    }

    /// Moves the call that was boarded as far as it goes; true when it is over.
    pub(crate) fn poll_express(&mut self) -> Result<bool> {
        let Some(mut task) = self.express.take() else { return Ok(true) };
        let outcome = self.advance_local(&mut task).map_err(|error| error.during(task.op));
        if outcome.is_ok() && task.is_over() {
            return self.retire(task).map(|()| true);
        }
        self.express = Some(task);
        outcome.map(|_| false)
    }

    /// Puts the call that was boarded among the calls in flight.
    pub(crate) fn park(&mut self, completion: Arc<Completion>, now: Instant) {
        if let Some(mut task) = self.express.take() {
            (task.completion, task.started) = (Some(completion), Some(now));
            self.tasks.push_back(task);
        }
    }

    /// [`Lane::poll_local`] through all rounds, for a task that has nothing else to do.
    fn advance_local(&mut self, task: &mut Task) -> Result<bool> {
        let mut moved = false;
        loop {
            moved |= self.poll_local(task)?;
            if !(task.round_is_done() && task.next_round()) {
                return Ok(moved);
            }
        }
    }
}
