//! One call in flight: its plan, its geometry, its buffers, and how far every op has come.
#![forbid(unsafe_code)]

use super::audit::Audit;
use super::call::{Call, Counts};
use super::completion::Completion;
use super::layout::{Layout, Round};
use super::local::INLINE_BYTES;
use super::offload::Remote;
use super::places::{Bases, Place, Step, measured};
use super::plan::{CallKey, Plan, Prepared, Way};
use super::port::{Greeting, Header};
use super::progress::Progress;
use super::remains::InputUse;
use crate::device::host::Fold;
use crate::error::{OpId, Signature};
use crate::memory::{Block, Span};
use crate::schedule::{Loc, Op, Program};
use crate::tuner::slot_limit_bytes;
use crate::types::{Collective, DType, Rank, ReduceOp};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Ops of a run that are done, and the header before them.
#[derive(Debug)]
pub(super) struct RunState {
    pub(super) link: usize,
    pub(super) next: usize,
    pub(super) greeting: Greeting,
    /// All that it sends has left this side.
    pub(super) is_flushed: bool,
}

/// Where a task stands with the other ranks of its host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entry {
    /// Has not announced itself.
    Fresh,
    /// Has announced itself and read so many of the others' messages.
    Announced(usize),
    /// All agree.
    Agreed,
}

/// A call in flight.
pub(crate) struct Task {
    /// What it was prepared for, where an equal call may use it again.
    pub(super) key: Option<CallKey>,
    /// See [`super::plan::Prepared`].
    pub(super) depends_on_mapping: bool,
    pub(super) plan: Arc<Plan>,
    pub(super) layout: Arc<Layout>,
    pub(super) rounds: u32,
    pub(super) round: Round,
    pub(super) fold: Fold,
    pub(super) signature: Signature,
    pub(super) op: OpId,
    pub(super) me: Rank,
    pub(super) bases: Bases,
    /// Both halves of everybody's staging memory are among the bases.
    pub(super) is_staged: bool,
    /// Where its buffers are: the host, or a domain of devices.
    pub(super) domain: u8,
    /// What it has beyond others where that is not the host.
    pub(super) remote: Option<Box<Remote>>,
    /// Private slots and a scaled input, kept alive.
    pub(super) owned: Vec<Block>,
    /// The ops that move over no link.
    pub(super) steps: Vec<Step>,
    pub(super) slot_bytes: usize,
    /// Its slots are on the lines of the signals, not in staging memory.
    pub(super) is_inline: bool,
    pub(super) runs: Vec<RunState>,
    pub(super) local_next: usize,
    pub(super) progress: Progress,
    pub(super) entry: Entry,
    /// The signal word's value before this task's first signal.
    pub(super) signal_base: Option<u64>,
    /// Which stage half and message it uses.
    pub(super) parity: usize,
    /// This rank's input and output coincide.
    pub(super) in_place: bool,
    /// What becomes of the caller's input.
    pub(super) input_use: InputUse,
    /// Inside its neighbours' buffers.
    pub(super) inside: bool,
    /// The call as it was submitted, for a second try with another plan.
    pub(super) call: Call,
    pub(super) timeout: Duration,
    /// Whom this rank was waiting for when it last said that it waits.
    pub(super) stalled_on: Option<Vec<Rank>>,
    /// What it compares, where it is the audit of the call before it.
    pub(super) audit: Option<Box<Audit>>,
    /// The next call is its audit.
    pub(super) is_audited: bool,
    /// Who waits for its end; nobody while its caller runs it straight through, or where an audit follows.
    pub(super) completion: Option<Arc<Completion>>,
    /// When it joined the calls in flight; never while its caller runs it straight through.
    pub(super) started: Option<Instant>,
}

/// How far an op has come and may go.
pub(super) struct Reach {
    pub(super) len_bytes: usize,
    /// Bytes done.
    pub(super) mark: usize,
    /// Bytes that may follow now; 0 only for an op without any.
    pub(super) room: usize,
}

/// What `Task::new` puts together.
pub(super) struct Parts {
    pub(super) key: Option<CallKey>,
    pub(super) depends_on_mapping: bool,
    pub(super) plan: Arc<Plan>,
    pub(super) layout: Arc<Layout>,
    pub(super) call: Call,
    pub(super) signature: Signature,
    pub(super) me: Rank,
    pub(super) world: usize,
    /// Bytes of one staging half.
    pub(super) stage_bytes: usize,
    pub(super) slice_bytes: Option<usize>,
    pub(super) links: Vec<usize>,
    pub(super) timeout: Duration,
    pub(super) in_place: bool,
    pub(super) domain: u8,
    pub(super) remote: Option<Box<Remote>>,
}

impl Task {
    pub(super) fn new(parts: Parts) -> Task {
        let Parts {
            key,
            depends_on_mapping,
            plan,
            layout,
            call,
            signature,
            me,
            world,
            stage_bytes,
            slice_bytes,
            links,
            timeout,
            in_place,
            domain,
            remote,
        } = parts;
        let room = Room { stage_bytes, slice_bytes };
        let Slots { slot_bytes, round, is_inline } = slots(&plan, &layout, room, depends_on_mapping);
        let rounds = round.count(layout.max_chunk_bytes());
        let mut task = Task {
            key,
            depends_on_mapping,
            rounds,
            round,
            fold: fold(&call, world as u32),
            signature,
            op: OpId { collective: call.collective, sequence: signature.sequence },
            me,
            bases: {
                let is_shared = plan.uses_signals() || plan.program.stage_slots > 0;
                Bases::new(call.input, call.output, if is_shared { world } else { 0 })
            },
            is_staged: false,
            domain,
            remote,
            owned: Vec::new(),
            steps: Step::all(&plan, me, &layout, slot_bytes),
            slot_bytes,
            is_inline,
            runs: Vec::new(),
            local_next: 0,
            progress: Progress::new(if plan.is_local() { 0 } else { plan.program.ops.len() }),
            entry: Entry::Fresh,
            signal_base: None,
            parity: 0,
            in_place,
            input_use: InputUse::of(&call, in_place),
            inside: false,
            timeout,
            stalled_on: None,
            audit: None,
            is_audited: false,
            completion: None,
            started: None,
            call,
            layout,
            plan,
        };
        task.runs = task.greetings(links);
        task
    }

    /// Whether it can serve calls with this key.
    pub(super) fn is_for(&self, key: &CallKey) -> bool {
        self.key.as_ref() == Some(key)
    }

    /// Makes a task that has ended ready for a call with the same key: everything but what the key leaves open.
    pub(super) fn renew(&mut self, call: &Call, signature: Signature) {
        debug_assert!(self.plan.is_local() && self.owned.is_empty());
        if self.call.op != call.op {
            self.fold = fold(call, self.fold.world());
        }
        self.op = OpId { collective: call.collective, sequence: signature.sequence };
        self.signature = signature;
        self.bases.set_own(call.input, call.output);
        (self.call.op, self.call.input, self.call.output) = (call.op, call.input, call.output);
        self.round.index = 0;
        (self.entry, self.signal_base, self.inside) = (Entry::Fresh, None, false);
        (self.stalled_on, self.completion, self.started) = (None, None, None);
        self.restart();
    }

    /// Puts another plan in place of the first one, before any data moved.
    pub(super) fn replan(&mut self, prepared: Prepared, stage_bytes: usize) {
        let Prepared { plan, layout, slice_bytes, .. } = prepared;
        debug_assert!(plan.runs.is_empty(), "only programs of one host are planned again");
        let room = Room { stage_bytes, slice_bytes };
        let Slots { slot_bytes, round, is_inline } = slots(&plan, &layout, room, self.depends_on_mapping);
        (self.slot_bytes, self.round, self.is_inline) = (slot_bytes, round, is_inline);
        self.rounds = round.count(layout.max_chunk_bytes());
        self.steps = Step::all(&plan, self.me, &layout, slot_bytes);
        (self.layout, self.plan, self.key) = (layout, plan, None);
        self.restart();
    }

    fn restart(&mut self) {
        self.local_next = 0;
        if self.plan.is_local() {
            return;
        }
        self.progress.reset(self.plan.program.ops.len());
        for run in &mut self.runs {
            run.next = 0;
        }
    }

    /// One header per link end: it says how many bytes all rounds together move there.
    fn greetings(&self, links: Vec<usize>) -> Vec<RunState> {
        let ops = &self.plan.program.ops;
        let states = self.plan.runs.iter().zip(links).map(|(run, link)| {
            let bytes: usize = run.ops.iter().map(|&op| self.chunk_bytes(&ops[op as usize])).sum();
            let header = Header::new(self.signature, bytes as u64);
            let greeting = match run.way {
                Way::Out => Greeting::to_send(header),
                Way::In => Greeting::to_receive(header),
            };
            RunState { link, next: 0, greeting, is_flushed: false }
        });
        states.collect()
    }

    /// Bytes that an op moves in all rounds together.
    pub(super) fn chunk_bytes(&self, op: &Op) -> usize {
        measured(op).map_or(0, |loc| self.layout.chunk(loc).len_bytes)
    }

    /// The memory behind the loc of an op over a link in this round, from its `skip_bytes`-th byte on.
    pub(super) fn span(&self, loc: Loc, skip_bytes: usize, len_bytes: usize) -> Span {
        let place = Place::new(loc, self.me, &self.layout, self.slot_bytes);
        let (past_bytes, _) = self.round.extent(self.layout.chunk(loc).len_bytes);
        self.bases.span(&place, past_bytes, self.parity, skip_bytes, len_bytes)
    }

    /// What an op may move now, in this round; `None` while it is held back.
    pub(super) fn reach(&mut self, op: usize) -> Option<Reach> {
        let len_bytes = self.round_bytes(op);
        let limit = self.limit(op)?;
        let mark = self.progress.mark(op);
        let room = limit - mark;
        (room > 0 || len_bytes == 0).then_some(Reach { len_bytes, mark, room })
    }

    /// How far an op may go in this round; `None` while it is held back.
    pub(super) fn limit(&mut self, op: usize) -> Option<usize> {
        let len_bytes = self.round_bytes(op);
        self.progress.limit(&self.plan.order, op, len_bytes, self.fold.dtype().size_bytes())
    }

    /// Bytes that an op moves in this round.
    pub(super) fn round_bytes(&self, op: usize) -> usize {
        self.round.extent(self.chunk_bytes(&self.plan.program.ops[op])).1
    }

    /// Notes that an op has moved so many bytes; true when that was all of it.
    pub(super) fn advance(&mut self, op: usize, by_bytes: usize, len_bytes: usize) -> bool {
        self.progress.advance(op, by_bytes, len_bytes);
        self.progress.mark(op) == len_bytes
    }

    /// How long it has been among the calls in flight.
    pub(super) fn waited(&self, now: Instant) -> Duration {
        self.started.map_or(Duration::ZERO, |started| now.saturating_duration_since(started))
    }

    /// Every op of this round is done.
    pub(super) fn round_is_done(&self) -> bool {
        if self.plan.is_local() { self.local_next == self.plan.local.len() } else { self.progress.all_done() }
    }

    /// Starts the next round; false when there is none.
    pub(super) fn next_round(&mut self) -> bool {
        if !self.has_more_rounds() {
            return false;
        }
        self.round.index += 1;
        if let Some(remote) = &mut self.remote {
            remote.rewind();
        }
        self.restart();
        true
    }

    /// The value of `on`'s signal word that this wait needs.
    pub(super) fn needed_signal(&self, signal: u32) -> u64 {
        let base = self.signal_base.expect("a wait follows this rank's own first signal or base");
        base + u64::from(self.round.index) * u64::from(self.plan.signals) + u64::from(signal)
    }

    /// Gives the program its private slots: those that it calls so, and those for staging where nobody shares them, on a host
    /// of one rank.
    pub(super) fn allocate_scratch(&mut self) {
        let private = private_slots(&self.plan);
        let (scratch, stage) = match self.remote.as_deref() {
            Some(remote) => remote.private(),
            None => (self.allocate(private.scratch), self.allocate(private.stage)),
        };
        self.bases.set_scratch(scratch);
        if private.stage > 0 {
            self.bases.set_stage(self.me, [stage; 2]);
        }
    }

    fn allocate(&mut self, slots: u32) -> Span {
        if slots == 0 {
            return Span::EMPTY;
        }
        let block = Block::new(slots as usize * self.slot_bytes);
        let span = block.span();
        self.owned.push(block);
        span
    }

    pub(super) fn has_more_rounds(&self) -> bool {
        self.round.index + 1 < self.rounds
    }

    /// It may not begin yet: the call that it audits goes on.
    pub(super) fn is_held(&self) -> bool {
        self.audit.as_ref().is_some_and(|audit| audit.is_held())
    }

    /// All that it sends has left this side.
    pub(super) fn is_flushed(&self) -> bool {
        self.runs.iter().zip(&self.plan.runs).all(|(state, run)| run.way == Way::In || state.is_flushed)
    }

    /// Every op of every round is done, and every header has been exchanged.
    pub(super) fn is_over(&self) -> bool {
        let is_settled = self.remote.as_ref().is_none_or(|remote| remote.is_settled());
        is_settled
            && self.round_is_done()
            && !self.has_more_rounds()
            && self.runs.iter().all(|run| run.greeting.is_done())
    }
}

/// What the call's reductions compute. A pre-multiplied sum was multiplied on submission; here it is a sum.
fn fold(call: &Call, world: u32) -> Fold {
    let op = match call.op {
        Some(ReduceOp::PreMulSum(_)) | None => ReduceOp::Sum,
        Some(op) => op,
    };
    Fold::new(call.dtype, op, world)
}

/// Slots of a program that only its rank uses.
pub(super) struct PrivateSlots {
    pub(super) scratch: u32,
    pub(super) stage: u32,
}

pub(super) fn private_slots(plan: &Plan) -> PrivateSlots {
    let Program { scratch_slots, stage_slots, .. } = plan.program;
    PrivateSlots { scratch: scratch_slots, stage: if plan.uses_signals() { 0 } else { stage_slots } }
}

/// The slots of a plan for one call.
pub(super) struct Slots {
    pub(super) slot_bytes: usize,
    pub(super) round: Round,
    pub(super) is_inline: bool,
}

/// What slots are made from.
#[derive(Clone, Copy)]
pub(super) struct Room {
    /// Bytes of one staging half.
    pub(super) stage_bytes: usize,
    pub(super) slice_bytes: Option<usize>,
}

/// A chunk that fits needs one round; otherwise slots are as large as they can be, or were said to be.
pub(super) fn slots(plan: &Plan, layout: &Layout, room: Room, depends_on_mapping: bool) -> Slots {
    let tight = layout.max_chunk_bytes().next_multiple_of(8);
    if plan.algorithm.single_round()
        && !depends_on_mapping
        && plan.program.stage_slots > 0
        && tight.saturating_mul(plan.program.stage_slots as usize) <= INLINE_BYTES
    {
        return Slots { slot_bytes: tight, round: Round { index: 0, piece_bytes: tight.max(1) }, is_inline: true };
    }
    let Some(limit_bytes) = slot_limit_bytes(&plan.program, room.stage_bytes, room.slice_bytes) else {
        return Slots { slot_bytes: 0, round: Round::WHOLE, is_inline: false };
    };
    let whole = layout.max_chunk_bytes().next_multiple_of(64).max(64);
    let slot_bytes = whole.min(limit_bytes);
    debug_assert!(
        !plan.algorithm.single_round() || layout.max_chunk_bytes() <= slot_bytes,
        "{} bytes go through slots of {slot_bytes} in a single round",
        layout.max_chunk_bytes()
    );
    Slots { slot_bytes, round: Round { index: 0, piece_bytes: slot_bytes }, is_inline: false }
}

/// The facts of a call that must agree, less what only the communicator knows.
pub(super) fn signature(call: &Call, sequence: u64, epoch: u32, settings: u64) -> Signature {
    let (count, details) = match &call.counts {
        Counts::Even(count) => (*count as u64, settings),
        Counts::Blocks(counts) => {
            let total: usize = counts.iter().sum();
            (total as u64, counts.iter().fold(settings, |hash, &count| mix(hash, count as u64)))
        }
        Counts::Exchange { .. } => (0, mix(settings, 1)),
    };
    let root = match call.collective {
        Collective::SendRecv => call.root as u32,
        collective if collective.has_root() => call.root as u32,
        _ => Signature::NO_ROOT,
    };
    let dtype = if call.collective == Collective::Barrier { DType::U8 } else { call.dtype };
    // In place or not is each rank's own affair, except where it changes what the others do: in an all-to-all of equal
    // blocks. In one of unequal blocks every pair exchanges for itself, and a rank without any could not even tell.
    let in_place = call.collective == Collective::AllToAll
        && !call.is_exchange()
        && !call.input.is_empty()
        && call.input == call.output;
    Signature {
        sequence,
        count,
        details,
        epoch,
        root,
        collective: call.collective as u8,
        dtype: dtype as u8,
        op: call.op.filter(|_| call.collective.reduces()).map_or(Signature::NO_OP, ReduceOp::code),
        flags: u8::from(in_place),
        reserved: 0,
    }
}

/// FNV-1a over words: a fixed function, so that every rank and build computes the same.
pub(crate) fn mix(hash: u64, word: u64) -> u64 {
    word.to_le_bytes()
        .iter()
        .fold(hash ^ 0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}
