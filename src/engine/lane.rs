//! The lane: every call in flight on one communicator, and the one function that moves them all, [`Lane::poll`].
//!
//! Calls are admitted in order. A later call may use a link end or the host's signals only once no earlier call needs
//! them any more; everything else overlaps. So calls that follow each other pipeline, and a receive that waits for its
//! sender holds up nothing but its own link.
//!
//! Nothing here blocks, sleeps, starts a thread or reads a clock: whoever drives the lane does ([`super::driver`]).
#![forbid(unsafe_code)]

use super::call::Call;
use super::completion::Completion;
use super::fate::Fate;
use super::local;
use super::offload::{HOST, Offload, Remote};
use super::pace::Pace;
use super::plan::{CallKey, Plans, Prepared, Way};
use super::planted::{Mistake, is_planted};
use super::port::{Connector, Link};
use super::remains::InputUse;
use super::scaling::{Kept, Scaling};
use super::settings::Settings;
use super::task::{Parts, Room, Slots, Task, signature};
use crate::engine::layout::Layout;
use crate::error::{Error, OpId, Result, Signature};
use crate::memory::Span;
use crate::schedule::catalogue::{Algorithm, Shape};
use crate::schedule::{Op, Port, Program};
use crate::transport::{Interest, Shared};
use crate::tuner::{Choice, Origin, Table};
use crate::types::{Collective, Rank};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Messages between two ranks travel on a channel of their own: they are matched with each other only, whatever
/// collectives run between them.
const MESSAGE_CHANNEL: u8 = u8::MAX;

/// So many tasks are kept for equal calls: a loop repeats a few different ones.
const SPARES: usize = 16;

/// All calls in flight of one rank on one communicator.
pub(crate) struct Lane {
    pub(crate) settings: Settings,
    /// Digest of all that was set or measured and must agree between ranks.
    agreed: u64,
    pub(crate) fate: Arc<Fate>,
    pub(crate) pace: Arc<Pace>,
    pub(crate) plans: Plans,
    /// Where calls on device memory are worked on. It may hold on to what is shared, and goes before that.
    pub(crate) offload: Option<Offload>,
    pub(crate) shared: Option<Box<dyn Shared>>,
    pub(super) connector: Box<dyn Connector>,
    pub(super) links: Vec<Link>,
    link_of: HashMap<Port, usize>,
    pub(super) tasks: VecDeque<Box<Task>>,
    /// The call that its caller runs straight through, alone.
    pub(super) express: Option<Box<Task>>,
    /// Tasks that have ended, for equal calls to come; the latest last.
    #[expect(clippy::vec_box, reason = "they go from list to list, and are large")]
    pub(super) spares: Vec<Box<Task>>,
    /// Collectives admitted so far.
    sequence: u64,
    /// Messages to and from each rank so far.
    messages: HashMap<(Rank, Way), u64>,
    /// This rank's signal word, and calls that used signals.
    pub(super) signals: u64,
    pub(super) signal_calls: u64,
    /// Reused lists of operands.
    pub(super) operands: (Vec<Span>, Vec<Span>),
    pub(super) effort: Effort,
}

/// How much a look at the links takes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effort {
    /// A header travels with the bytes that follow it, and is looked for when they can be used: one message, not two.
    Quick,
    /// Headers travel ahead of what is not ready, so that ranks that made different calls find out before they sleep.
    Thorough,
}

/// What [`Lane::outline`] tells.
pub(crate) struct Outline {
    pub(crate) algorithm: Algorithm,
    pub(crate) channels: u8,
    pub(crate) origin: Origin,
    pub(crate) chunk_bytes: usize,
    pub(crate) slot_bytes: usize,
    pub(crate) rounds: u32,
    pub(crate) program: Program,
}

/// A rank that a call waits for.
struct HoldUp {
    rank: Rank,
    /// Should the rank be gone, the link will say so after its last byte.
    ends_by_itself: bool,
}

/// Reads memory of either kind.
fn fetch(offload: &mut Option<Offload>, domain: u8, from: Span, bytes: &mut [u8]) -> Result<()> {
    match Offload::of(offload, domain) {
        Some(offload) => offload.fetch(from, bytes),
        None => {
            from.read(bytes);
            Ok(())
        }
    }
}

/// Which link ends and signals earlier calls still need.
#[derive(Default)]
struct Claims {
    ends: Vec<(usize, Way)>,
    signals: bool,
}

impl Lane {
    pub(crate) fn new(
        settings: Settings,
        fate: Arc<Fate>,
        shared: Option<Box<dyn Shared>>,
        connector: Box<dyn Connector>,
    ) -> Lane {
        Lane {
            plans: Plans::new(settings.me),
            agreed: settings.agreed(),
            settings,
            fate,
            pace: Arc::default(),
            shared,
            connector,
            offload: None,
            links: Vec::new(),
            link_of: HashMap::new(),
            tasks: VecDeque::new(),
            express: None,
            spares: Vec::new(),
            sequence: 0,
            messages: HashMap::new(),
            signals: 0,
            signal_calls: 0,
            operands: (Vec::new(), Vec::new()),
            effort: Effort::Thorough,
        }
    }

    /// From now on calls go the ways of this table. Every rank does this between the same two calls, with an equal one.
    pub(crate) fn follow(&mut self, table: Option<Arc<Table>>) {
        debug_assert!(self.tasks.is_empty() && self.express.is_none(), "calls in flight go another way");
        self.settings.table = table;
        self.agreed = self.settings.agreed();
        self.plans.forget_calls();
        self.spares.clear();
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.tasks.len()
    }

    /// Takes a validated call in. An error here has sent nothing, and leaves the communicator usable.
    pub(crate) fn admit(
        &mut self,
        call: Call,
        in_place: bool,
        completion: Arc<Completion>,
        now: Instant,
    ) -> Result<()> {
        let Some(audit) = self.settings.audit(&call) else {
            return self.board_in_line(call, in_place, now, |task| {
                task.completion = Some(completion);
            });
        };
        let digests = audit.call();
        // What could go wrong with it goes wrong before its call is counted.
        self.prepare(&digests, true, self.reachable(&digests))?;
        let mut audited = None;
        self.board_in_line(call, in_place, now, |task| {
            task.is_audited = true;
            audited = Some(task.op);
        })?;
        self.board_in_line(digests, true, now, |task| {
            // Its failure is the call's.
            task.op = audited.unwrap_or(task.op);
            task.audit = Some(Box::new(audit));
            task.completion = Some(completion);
        })
    }

    fn board_in_line(
        &mut self,
        mut call: Call,
        mut in_place: bool,
        now: Instant,
        finish: impl FnOnce(&mut Task),
    ) -> Result<()> {
        let input_use = InputUse::of(&call, in_place);
        let domain = self.domain_of(&call)?;
        let scaling = Scaling::take_from(&mut call, &mut in_place, Offload::of(&mut self.offload, domain).as_deref())?;
        let mapped = self.is_reachable(&call, domain);
        let prepared = self.prepare(&call, in_place, mapped)?;
        // What a device may refuse it refuses before the call is counted.
        let stage_bytes = self.settings.stage_bytes;
        let device = Offload::of(&mut self.offload, domain);
        let near = self.shared.as_deref().map(|shared| (shared, self.settings.neighbours().len()));
        let remote = device.map(|device| device.equip(&prepared, stage_bytes, near)).transpose()?;
        let is_scaled = scaling.is_some();
        let device = Offload::of(&mut self.offload, domain);
        let kept = scaling.map(|scaling| scaling.run(device)).transpose()?;
        let signature = self.sign(&call);
        let mut task = self.task(prepared, &call, in_place, mapped, signature, (domain, remote));
        task.started = Some(now);
        task.input_use = match input_use {
            InputUse::Overwritten if is_scaled => InputUse::Spent,
            input_use => input_use,
        };
        finish(&mut task);
        if let (true, Some(remote)) = (is_scaled, &mut task.remote) {
            remote.expect_work();
        }
        match (kept, &mut task.remote) {
            (Some(Kept::Host(block)), _) => task.owned.push(block),
            (Some(Kept::Device(memory)), Some(remote)) => remote.scaled = Some(memory),
            _ => {}
        }
        task.allocate_scratch();
        self.tasks.push_back(task);
        Ok(())
    }

    /// Whether every neighbour can reach the call's buffers, which are in host memory.
    pub(super) fn reachable(&self, call: &Call) -> bool {
        self.is_reachable(call, HOST)
    }

    /// Whether every neighbour can reach the call's buffers, given where they are.
    fn is_reachable(&self, call: &Call, domain: u8) -> bool {
        self.shared.as_deref().is_some_and(|shared| local::reachable(shared, call, domain))
    }

    /// Counts a call.
    pub(super) fn sign(&mut self, call: &Call) -> Signature {
        let sequence = self.next_sequence(call);
        signature(call, sequence, self.settings.epoch, self.agreed)
    }

    pub(super) fn task(
        &mut self,
        prepared: Prepared,
        call: &Call,
        in_place: bool,
        mapped: bool,
        signature: Signature,
        (domain, remote): (u8, Option<Box<Remote>>),
    ) -> Box<Task> {
        let Prepared { plan, layout, slice_bytes, depends_on_mapping, .. } = prepared;
        let message = call.collective == Collective::SendRecv;
        let links: Vec<usize> = plan.runs.iter().map(|run| self.link(run.port, message)).collect();
        Box::new(Task::new(Parts {
            key: CallKey::new(call, in_place, mapped && depends_on_mapping).filter(|_| plan.is_local()),
            depends_on_mapping,
            signature,
            me: self.settings.me,
            world: self.settings.world(),
            stage_bytes: self.settings.stage_bytes,
            slice_bytes,
            timeout: if call.is_meeting() { self.settings.meeting_timeout } else { self.settings.timeout },
            in_place,
            links,
            plan,
            layout,
            call: call.clone(),
            domain,
            remote,
        }))
    }

    /// Plan and geometry of a call; from memory where an equal one was made before.
    pub(super) fn prepare(&mut self, call: &Call, in_place: bool, mapped: bool) -> Result<Prepared> {
        let key = CallKey::new(call, in_place, mapped);
        if let Some(prepared) = key.as_ref().and_then(|key| self.plans.recall(key)) {
            return Ok(prepared);
        }
        let shape = self.settings.shape(call, in_place);
        let Choice { way, origin } = self.settings.choose(&shape, call, mapped)?;
        let shape = Shape { channels: way.channels, ..shape };
        let plan = self.plans.get(way.algorithm, &shape)?;
        let layout = Arc::new(Layout::new(call, self.settings.world(), plan.program.chunks));
        let otherwise = self.settings.choose(&shape, call, !mapped).ok();
        let depends_on_mapping = otherwise.is_none_or(|otherwise| otherwise.way != way);
        let prepared = Prepared { plan, layout, slice_bytes: way.slice_bytes, origin, depends_on_mapping };
        if let Some(key) = key {
            self.plans.remember(key, prepared.clone());
        }
        Ok(prepared)
    }

    fn next_sequence(&mut self, call: &Call) -> u64 {
        let counter = match call.collective {
            Collective::SendRecv if call.root == self.settings.me => {
                self.messages.entry((call.peer, Way::Out)).or_default()
            }
            Collective::SendRecv => self.messages.entry((call.root, Way::In)).or_default(),
            collective => {
                self.pace.enter(OpId { collective, sequence: self.sequence });
                &mut self.sequence
            }
        };
        *counter += 1;
        *counter - 1
    }

    fn link(&mut self, port: Port, message: bool) -> usize {
        let port = if message { Port { channel: MESSAGE_CHANNEL, ..port } } else { port };
        *self.link_of.entry(port).or_insert_with(|| {
            self.links.push(Link::new(port));
            self.links.len() - 1
        })
    }

    /// Moves everything that can move. True when something did. An error ends the communicator.
    pub(crate) fn poll(&mut self, effort: Effort) -> Result<bool> {
        self.effort = effort;
        for link in &mut self.links {
            (link.full, link.hungry) = (false, false);
        }
        let mut tasks = std::mem::take(&mut self.tasks);
        let moved = self.poll_all(&mut tasks);
        self.tasks = tasks;
        moved
    }

    fn poll_all(&mut self, tasks: &mut VecDeque<Box<Task>>) -> Result<bool> {
        let mut claims = Claims::default();
        let mut moved = false;
        let mut index = 0;
        while index < tasks.len() {
            let task = &mut tasks[index];
            moved |= self.poll_task(task, &mut claims).map_err(|error| error.during(task.op))?;
            if task.is_over() && task.is_flushed() {
                let task = tasks.remove(index).expect("index is in range");
                if let (true, Some(audit)) = (task.is_audited, tasks.get_mut(index)) {
                    let audit = audit.audit.as_mut().expect("an audit stands right behind its call");
                    audit.release(task.remains(None), |span, bytes| {
                        fetch(&mut self.offload, task.domain, span, bytes)
                    })?;
                }
                self.retire(task)?;
                moved = true;
            } else {
                index += 1;
            }
        }
        self.flush_all()?;
        Ok(moved)
    }

    fn poll_task(&mut self, task: &mut Task, claims: &mut Claims) -> Result<bool> {
        let mut moved = false;
        // What is held back keeps its place all the same.
        while !task.is_held() {
            let mut moved_now = false;
            for index in 0..task.runs.len() {
                let end = (task.runs[index].link, task.plan.runs[index].way);
                if !claims.ends.contains(&end) {
                    moved_now |= self.poll_run(task, index)?;
                }
            }
            if !task.plan.uses_signals() || !claims.signals {
                moved_now |= self.poll_local(task)?;
            }
            moved |= moved_now;
            if !(task.round_is_done() && task.next_round()) {
                break;
            }
        }
        if task.round_is_done() && task.remote.as_ref().is_some_and(|remote| !remote.is_settled()) {
            moved |= self.has_caught_up(task)?;
        }
        claims.signals |= task.plan.uses_signals();
        self.claim_ends(task, claims)?;
        Ok(moved)
    }

    /// Which link ends the task still needs. One that sends it needs until all has gone: what a later call gathered behind it
    /// would go only when the peer has come to that call, and the peer may be waiting for the end of this one.
    fn claim_ends(&mut self, task: &mut Task, claims: &mut Claims) -> Result<()> {
        let has_more_rounds = task.has_more_rounds();
        for (state, run) in task.runs.iter_mut().zip(&task.plan.runs) {
            let has_moved = state.next == run.ops.len() && state.greeting.is_done() && !has_more_rounds;
            let link = &mut self.links[state.link];
            if let (true, Way::Out, false, Some((tx, _))) = (has_moved, run.way, state.is_flushed, &mut link.ends) {
                state.is_flushed = tx.flush()?;
                link.full |= !state.is_flushed;
            }
            if !has_moved || (run.way == Way::Out && !state.is_flushed) {
                claims.ends.push((state.link, run.way));
            }
        }
        Ok(())
    }

    /// Pushes out what all links have gathered, while calls wait for answers to it.
    fn flush_all(&mut self) -> Result<()> {
        for link in &mut self.links {
            if let Some((tx, _)) = &mut link.ends
                && !is_planted(Mistake::FlushForgotten)
            {
                link.full |= !tx.flush()?;
            }
        }
        Ok(())
    }

    /// The task is over. An error is what its audit found.
    pub(super) fn retire(&mut self, mut task: Box<Task>) -> Result<()> {
        if task.plan.uses_signals() {
            self.signal_calls += 1;
            if let (true, Some(shared)) = (task.inside, &mut self.shared) {
                shared.leave();
            }
        }
        let is_remote = task.remote.is_some();
        self.take_back(&mut task);
        let verdict = task.audit.as_ref().map_or(Ok(()), |audit| audit.verdict());
        if let Some(completion) = task.completion.take() {
            completion.finish(verdict.clone());
        }
        task.is_audited = false;
        if task.audit.is_none() && task.key.is_some() && task.owned.is_empty() && !is_remote {
            if self.spares.len() == SPARES {
                self.spares.swap_remove(0);
            }
            self.spares.push(task);
        }
        verdict
    }

    /// Ends all calls in flight with the communicator's error. Returns when no neighbour of this process touches this
    /// rank's buffers any more.
    pub(crate) fn fail(&mut self, error: &Error) {
        self.quiesce_device();
        if let Some(shared) = &mut self.shared {
            if self.tasks.iter().any(|task| task.inside) {
                shared.leave();
            }
            shared.abort();
        }
        // Of a call that was to be audited, for the audit behind it, which answers for both.
        let mut audited = None;
        for task in self.tasks.drain(..) {
            let remains = audited.take().unwrap_or_else(|| task.remains(Some(error)));
            audited = task.is_audited.then_some(remains);
            if let Some(completion) = &task.completion {
                completion.finish(Err(error.clone().ending(remains)));
                if is_planted(Mistake::CallForgotten) {
                    break;
                }
            }
        }
    }

    /// What to sleep on.
    pub(crate) fn interests(&self, into: &mut Vec<Interest>) {
        into.clear();
        self.connector.interests(into);
        for link in &self.links {
            let Some((tx, rx)) = &link.ends else { continue };
            into.extend(tx.interest().filter(|_| link.full));
            into.extend(rx.interest().filter(|_| link.hungry && !is_planted(Mistake::WakeUpLost)));
        }
    }

    /// Ranks that the calls in flight are waiting for.
    pub(super) fn waiting_for(&self) -> Vec<Rank> {
        self.ranks_of(|_| true)
    }

    /// Likewise, where the last thing that can come from a rank has come once it has said goodbye. Over sockets it may
    /// still be on its way then, and its end shows by itself; so does the outcome of dialling.
    pub(super) fn waiting_in_vain_for(&self, has_left: impl Fn(Rank) -> bool) -> Vec<Rank> {
        self.ranks_of(|hold_up| !hold_up.ends_by_itself && has_left(hold_up.rank))
    }

    fn ranks_of(&self, which: impl Fn(&HoldUp) -> bool) -> Vec<Rank> {
        let hold_ups = self.tasks.iter().flat_map(|task| self.hold_ups(task)).filter(which);
        let mut ranks: Vec<Rank> = hold_ups.map(|hold_up| hold_up.rank).collect();
        ranks.sort_unstable();
        ranks.dedup();
        ranks
    }

    fn hold_ups(&self, task: &Task) -> Vec<HoldUp> {
        let mut hold_ups = Vec::new();
        if let Some(&op) = task.plan.local.get(task.local_next)
            && let Op::Wait { .. } = task.plan.program.ops[op as usize]
        {
            let missing = local::missing(self, task).into_iter();
            hold_ups.extend(missing.map(|rank| HoldUp { rank, ends_by_itself: false }));
        }
        for (state, run) in task.runs.iter().zip(&task.plan.runs) {
            let link = &self.links[state.link];
            let stuck = match run.way {
                Way::Out => link.full,
                Way::In => link.hungry,
            };
            if (state.next < run.ops.len() || !state.greeting.is_done()) && (stuck || link.ends.is_none()) {
                let ends_by_itself = match &link.ends {
                    Some((_, rx)) => rx.interest().is_some(),
                    None => self.connector.is_dialling(link.port),
                };
                hold_ups.push(HoldUp { rank: run.port.peer, ends_by_itself });
            }
        }
        hold_ups
    }

    /// Until the first deadline of a call in flight.
    pub(super) fn time_left(&self, now: Instant) -> Duration {
        let left = self.tasks.iter().map(|task| task.timeout.saturating_sub(task.waited(now)));
        left.min().unwrap_or(self.settings.timeout) + Duration::from_millis(1)
    }

    /// The calls in flight, oldest first.
    pub(super) fn tasks(&mut self) -> impl Iterator<Item = &mut Task> {
        self.tasks.iter_mut().map(|task| &mut **task)
    }

    /// What this rank would run for a call, for people.
    pub(crate) fn outline(&mut self, call: &Call, in_place: bool, mapped: bool) -> Result<Outline> {
        let prepared = self.prepare(call, in_place, mapped)?;
        let Prepared { plan, layout, slice_bytes, origin, depends_on_mapping } = prepared;
        let room = Room { stage_bytes: self.settings.stage_bytes, slice_bytes };
        let Slots { slot_bytes, round, .. } = super::task::slots(&plan, &layout, room, depends_on_mapping);
        Ok(Outline {
            algorithm: plan.algorithm,
            channels: plan.channels,
            origin,
            chunk_bytes: layout.max_chunk_bytes(),
            slot_bytes,
            rounds: round.count(layout.max_chunk_bytes()),
            program: plan.program.clone(),
        })
    }
}
