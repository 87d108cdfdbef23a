//! The lane: every call in flight on one communicator, and the one function that moves them all, [`Lane::poll`].
//!
//! Calls are admitted in order. A later call may use a link end or the host's signals only once no earlier call needs
//! them any more; everything else overlaps. So calls that follow each other pipeline, and a receive that waits for its
//! sender holds up nothing but its own link.
//!
//! Nothing here blocks, sleeps, starts a thread or reads a clock: whoever drives the lane does ([`super::driver`]).
#![forbid(unsafe_code)]

use super::call::{Call, Counts};
use super::completion::Completion;
use super::fate::Fate;
use super::local;
use super::plan::{CallKey, Plans, Prepared, Way};
use super::port::{Connector, Link};
use super::task::{Parts, Task, signature};
use crate::device::host;
use crate::engine::layout::Layout;
use crate::error::{Error, Result};
use crate::memory::{Block, Span};
use crate::schedule::catalogue::{Algorithm, Shape};
use crate::schedule::{Op, Port, Program};
use crate::transport::{Interest, Shared};
use crate::tuner::{Situation, choose};
use crate::types::{Collective, Rank, ReduceOp, Scalar};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// Messages between two ranks travel on a channel of their own: they are matched with each other only, whatever
/// collectives run between them.
const MESSAGE_CHANNEL: u8 = u8::MAX;

/// What is the same for every call of a communicator.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) me: Rank,
    /// Ranks that share memory; every rank once.
    pub(crate) hosts: Vec<Vec<Rank>>,
    pub(crate) epoch: u32,
    pub(crate) channels: u8,
    pub(crate) wish: Option<Algorithm>,
    pub(crate) reproducible: bool,
    pub(crate) timeout: Duration,
    /// Digest of the above that must agree between ranks.
    pub(crate) digest: u64,
    /// Bytes of one staging half.
    pub(crate) stage_bytes: usize,
}

impl Settings {
    pub(crate) fn world(&self) -> usize {
        self.hosts.iter().map(Vec::len).sum()
    }

    /// The ranks of this rank's host, itself included.
    pub(crate) fn neighbours(&self) -> &[Rank] {
        self.hosts.iter().find(|host| host.contains(&self.me)).map_or(&[], Vec::as_slice)
    }

    /// What algorithms need to know of a call.
    pub(crate) fn shape(&self, call: &Call, in_place: bool) -> Shape {
        Shape {
            collective: call.collective,
            hosts: self.hosts.clone(),
            root: if call.collective.has_root() || call.collective == Collective::SendRecv { call.root } else { 0 },
            peer: if call.collective == Collective::SendRecv { call.peer } else { 0 },
            channels: self.channels,
            in_place,
        }
    }

    /// The algorithm for a call, given whether peers can map its buffers.
    pub(crate) fn choose(&self, shape: &Shape, call: &Call, mapped: bool) -> Result<Algorithm> {
        let situation = Situation {
            bytes: call.vector_bytes(self.world()),
            mapped,
            uneven_exchange: call.is_exchange(),
            reproducible: self.reproducible,
            wish: self.wish,
        };
        choose(shape, situation)
    }
}

/// All calls in flight of one rank on one communicator.
pub(crate) struct Lane {
    pub(crate) settings: Settings,
    pub(crate) fate: Arc<Fate>,
    pub(crate) plans: Plans,
    pub(crate) shared: Option<Box<dyn Shared>>,
    connector: Box<dyn Connector>,
    links: Vec<Link>,
    link_of: HashMap<Port, usize>,
    tasks: VecDeque<Task>,
    /// Collectives admitted so far.
    sequence: u64,
    /// Messages to and from each rank so far.
    messages: HashMap<(Rank, Way), u64>,
    /// This rank's signal word, and calls that used signals.
    pub(super) signals: u64,
    pub(super) signal_calls: u64,
    /// Reused lists of operands.
    operands: (Vec<Span>, Vec<Span>),
}

/// What [`Lane::outline`] tells.
pub(crate) struct Outline {
    pub(crate) algorithm: Algorithm,
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
            settings,
            fate,
            shared,
            connector,
            links: Vec::new(),
            link_of: HashMap::new(),
            tasks: VecDeque::new(),
            sequence: 0,
            messages: HashMap::new(),
            signals: 0,
            signal_calls: 0,
            operands: (Vec::new(), Vec::new()),
        }
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.tasks.len()
    }

    /// Takes a validated call in. An error here has sent nothing, and leaves the communicator usable.
    pub(crate) fn admit(&mut self, mut call: Call, mut in_place: bool, completion: Arc<Completion>) -> Result<()> {
        let scaling = Scaling::take_from(&mut call, &mut in_place);
        let mapped = self.shared.as_deref().is_some_and(|shared| local::reachable(shared, &call));
        let Prepared { plan, layout } = self.prepare(&call, in_place, mapped)?;
        let message = call.collective == Collective::SendRecv;
        let sequence = self.next_sequence(&call);
        let links: Vec<usize> = plan.runs.iter().map(|run| self.link(run.port, message)).collect();
        let mut task = Task::new(Parts {
            signature: signature(&call, sequence, self.settings.epoch, self.settings.digest),
            me: self.settings.me,
            world: self.settings.world(),
            stage_bytes: self.settings.stage_bytes,
            timeout: self.settings.timeout,
            in_place,
            links,
            plan,
            layout,
            call,
            completion,
        });
        task.buffers.owned.extend(scaling.and_then(Scaling::run));
        task.allocate_scratch();
        self.tasks.push_back(task);
        Ok(())
    }

    /// Plan and geometry of a call; from memory where an equal one was made before.
    pub(super) fn prepare(&mut self, call: &Call, in_place: bool, mapped: bool) -> Result<Prepared> {
        let key = match call.counts {
            Counts::Even(count) => Some(CallKey {
                collective: call.collective,
                dtype: call.dtype,
                count,
                root: call.root,
                peer: call.peer,
                in_place,
                mapped,
            }),
            _ => None,
        };
        if let Some(prepared) = key.as_ref().and_then(|key| self.plans.recall(key)) {
            return Ok(prepared);
        }
        let shape = self.settings.shape(call, in_place);
        let algorithm = self.settings.choose(&shape, call, mapped)?;
        let plan = self.plans.get(algorithm, &shape)?;
        let layout = Arc::new(Layout::new(call, self.settings.world(), plan.program.chunks));
        let prepared = Prepared { plan, layout };
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
            _ => &mut self.sequence,
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
    pub(crate) fn poll(&mut self) -> Result<bool> {
        for link in &mut self.links {
            (link.full, link.hungry) = (false, false);
        }
        let mut tasks = std::mem::take(&mut self.tasks);
        let moved = self.poll_all(&mut tasks);
        self.tasks = tasks;
        moved
    }

    fn poll_all(&mut self, tasks: &mut VecDeque<Task>) -> Result<bool> {
        let mut claims = Claims::default();
        let mut moved = false;
        let mut index = 0;
        while index < tasks.len() {
            let task = &mut tasks[index];
            moved |= self.poll_task(task, &mut claims).map_err(|error| error.during(task.op))?;
            if task.is_over() && self.flush(task)? {
                self.retire(tasks.remove(index).expect("index is in range"));
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
        loop {
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
            if !(task.progress.all_done() && task.next_round()) {
                break;
            }
        }
        claims.signals |= task.plan.uses_signals();
        for (index, state) in task.runs.iter().enumerate() {
            let run = &task.plan.runs[index];
            if state.next < run.ops.len() || task.has_more_rounds() {
                claims.ends.push((state.link, run.way));
            }
        }
        Ok(moved)
    }

    /// Moves the ops of one link end as far as they go.
    fn poll_run(&mut self, task: &mut Task, index: usize) -> Result<bool> {
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
        while let Some(&op) = run.ops.get(task.runs[index].next) {
            let op = op as usize;
            let len_bytes = task.len_bytes(op);
            let Some(limit) = task.limit(op, len_bytes) else { break };
            let mark = task.progress.mark(op);
            let room = limit - mark;
            if room == 0 && len_bytes > 0 {
                break;
            }
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
            task.progress.advance(op, bytes, len_bytes);
            if task.progress.mark(op) == len_bytes {
                task.runs[index].next += 1;
            }
        }
        Ok(moved)
    }

    /// Moves copies, reductions, signals and waits, in their order.
    fn poll_local(&mut self, task: &mut Task) -> Result<bool> {
        let mut moved = false;
        self.begin_local(task);
        while let Some(&op) = task.plan.local.get(task.local_next) {
            let op = op as usize;
            let len_bytes = task.len_bytes(op);
            let Some(limit) = task.limit(op, len_bytes) else { break };
            let mark = task.progress.mark(op);
            let room = limit - mark;
            if room == 0 && len_bytes > 0 {
                break;
            }
            let plan = task.plan.clone();
            match &plan.program.ops[op] {
                Op::Signal => {
                    let shared = self.shared.as_deref_mut().expect("programs with signals run where memory is shared");
                    local::signal(task, shared, &mut self.signals);
                }
                Op::Wait { on, signal } => match local::wait(self, task, *on, *signal)? {
                    local::Waited::NotYet => break,
                    local::Waited::Seen => {}
                    local::Waited::Replanned => return Ok(true),
                },
                Op::Copy { from, into } => {
                    self.operands.1.clear();
                    self.operands.1.extend(into.iter().map(|&loc| task.span(loc, mark, room)));
                    host::copy(task.span(*from, mark, room), &self.operands.1, host::Store::Cached);
                }
                Op::Reduce { from, into, last } => {
                    let (inputs, outputs) = &mut self.operands;
                    inputs.clear();
                    inputs.extend(from.iter().map(|&loc| task.span(loc, mark, room)));
                    outputs.clear();
                    outputs.extend(into.iter().map(|&loc| task.span(loc, mark, room)));
                    host::reduce(&task.fold, *last, inputs, outputs, host::Store::Cached);
                }
                other => unreachable!("{other:?} moves over a link"),
            }
            moved = true;
            task.progress.advance(op, room, len_bytes);
            if task.progress.mark(op) < len_bytes {
                break;
            }
            task.local_next += 1;
        }
        Ok(moved)
    }

    /// Pushes out what the task's links have gathered; true when nothing is left.
    fn flush(&mut self, task: &Task) -> Result<bool> {
        let mut empty = true;
        for (state, run) in task.runs.iter().zip(&task.plan.runs) {
            let link = &mut self.links[state.link];
            if let (Way::Out, Some((tx, _))) = (run.way, &mut link.ends) {
                let flushed = tx.flush()?;
                link.full |= !flushed;
                empty &= flushed;
            }
        }
        Ok(empty)
    }

    /// Pushes out what all links have gathered, while calls wait for answers to it.
    fn flush_all(&mut self) -> Result<()> {
        for link in &mut self.links {
            if let Some((tx, _)) = &mut link.ends {
                link.full |= !tx.flush()?;
            }
        }
        Ok(())
    }

    fn retire(&mut self, task: Task) {
        if task.plan.uses_signals() {
            self.signal_calls += 1;
            if let (true, Some(shared)) = (task.inside, &mut self.shared) {
                shared.leave();
            }
        }
        task.completion.finish(Ok(()));
    }

    /// Ends all calls in flight with the communicator's error. Returns when no neighbour of this process touches this
    /// rank's buffers any more.
    pub(crate) fn fail(&mut self, error: &Error) {
        if let Some(shared) = &mut self.shared {
            if self.tasks.iter().any(|task| task.inside) {
                shared.leave();
            }
            shared.abort();
        }
        for task in self.tasks.drain(..) {
            task.completion.finish(Err(error.clone().during(task.op)));
        }
    }

    /// What to sleep on.
    pub(crate) fn interests(&self, into: &mut Vec<Interest>) {
        into.clear();
        for link in &self.links {
            let Some((tx, rx)) = &link.ends else { continue };
            into.extend(tx.interest().filter(|_| link.full));
            into.extend(rx.interest().filter(|_| link.hungry));
        }
    }

    /// Ranks that the calls in flight are waiting for.
    pub(crate) fn waiting_for(&self) -> Vec<Rank> {
        self.ranks_of(|_| true)
    }

    /// Likewise, where the last thing that can come from a rank has come once it has said goodbye. Over sockets it may
    /// still be on its way then, and its end shows by itself; so does the outcome of dialling.
    pub(crate) fn waiting_in_vain_for(&self, has_left: impl Fn(Rank) -> bool) -> Vec<Rank> {
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
    pub(crate) fn time_left(&self) -> Duration {
        let left = self.tasks.iter().map(|task| task.timeout.saturating_sub(task.started.elapsed()));
        left.min().unwrap_or(self.settings.timeout) + Duration::from_millis(1)
    }

    /// The calls in flight, oldest first.
    pub(crate) fn tasks(&mut self) -> impl Iterator<Item = &mut Task> {
        self.tasks.iter_mut()
    }

    /// What this rank would run for a call, for people.
    pub(crate) fn outline(&mut self, call: &Call, in_place: bool, mapped: bool) -> Result<Outline> {
        let Prepared { plan, layout } = self.prepare(call, in_place, mapped)?;
        let (slot_bytes, round) = super::task::slots(&plan, &layout, self.settings.stage_bytes);
        Ok(Outline {
            algorithm: plan.algorithm,
            chunk_bytes: layout.max_chunk_bytes(),
            slot_bytes,
            rounds: round.count(layout.max_chunk_bytes()),
            program: plan.program.clone(),
        })
    }
}

/// The multiplication that a pre-multiplied sum starts with.
struct Scaling {
    factor: Scalar,
    from: Span,
    into: Span,
    /// Where `into` is memory of the task's own.
    block: Option<Block>,
}

impl Scaling {
    /// Makes a pre-multiplied sum a sum of what is yet to be multiplied: in the output where that holds the whole vector
    /// (the rest is then in place), else in memory of the task's own. Touches nothing yet.
    fn take_from(call: &mut Call, in_place: &mut bool) -> Option<Scaling> {
        let Some(ReduceOp::PreMulSum(factor)) = call.op else { return None };
        let from = call.input;
        if call.collective == Collective::AllReduce {
            (call.input, *in_place) = (call.output, true);
            return Some(Scaling { factor, from, into: call.output, block: None });
        }
        let block = Block::new(from.len().next_multiple_of(8));
        (call.input, *in_place) = (block.span().cut(0, from.len()), false);
        Some(Scaling { factor, from, into: call.input, block: Some(block) })
    }

    /// Multiplies; what the task must keep alive is left.
    fn run(self) -> Option<Block> {
        host::scale(self.factor.dtype, self.factor.bits, self.from, self.into);
        self.block
    }
}
