//! How a call meets its neighbours: signals, waits, and the messages that travel with the first signal.
//!
//! Before a rank waits for the first time in a call it has published a message: its call's signature, the algorithm it
//! has in mind and where its buffers are. Whoever waits for a neighbour's first signal then reads that neighbour's
//! message, so every rank of the host sees every other's call before it touches anybody's memory:
//!
//! - another signature: an error on all of them, at once;
//! - somebody's buffers cannot be mapped: all see it, and all begin again with the plan for private buffers. That costs
//!   one more signal; where all ranks are alike nothing is lost.
#![forbid(unsafe_code)]

use super::call::Call;
use super::lane::Lane;
use super::plan::Prepared;
use super::task::{Entry, Task};
use crate::error::{Error, Result, Signature};
use crate::memory::Span;
use crate::schedule::catalogue::Algorithm;
use crate::transport::{Address, MESSAGE_BYTES, Shared};
use crate::types::Rank;

/// What a rank tells its neighbours on entering a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct EntryMessage {
    signature: Signature,
    /// [`Algorithm`] as a number.
    algorithm: u64,
    /// [`Address::to_word`] of its buffers.
    input: u64,
    output: u64,
}

const _: () = assert!(size_of::<EntryMessage>() <= MESSAGE_BYTES);

/// The word that tells neighbours where a buffer is. `None`: they could not reach it.
fn address_word(shared: &dyn Shared, span: Span) -> Option<u64> {
    if span.is_empty() {
        return Some(Address::to_word(None));
    }
    shared.address_of(span).map(|address| Address::to_word(Some(address)))
}

/// The neighbour's buffer behind such a word.
fn resolve(shared: &dyn Shared, neighbour: usize, word: u64, len_bytes: usize) -> Option<Span> {
    match Address::from_word(word) {
        None => (len_bytes == 0).then_some(Span::EMPTY),
        Some(address) => shared.resolve(neighbour, address, len_bytes),
    }
}

/// True when every neighbour can reach the call's buffers.
pub(super) fn reachable(shared: &dyn Shared, call: &Call) -> bool {
    address_word(shared, call.input).is_some() && address_word(shared, call.output).is_some()
}

/// How a wait ended.
pub(super) enum Waited {
    /// The neighbour has not signalled.
    NotYet,
    /// It has.
    Seen,
    /// It has, and its message made this rank, like all its neighbours, start again with another plan.
    Replanned,
}

/// Prepares a task for the host's signals, when it is its turn.
fn begin(task: &mut Task, shared: &dyn Shared, signals: u64, calls: u64, neighbours: &[Rank]) {
    if task.signal_base.is_some() {
        return;
    }
    task.signal_base = Some(signals);
    task.parity = (calls & 1) as usize;
    let world = task.fold.world() as usize;
    task.buffers.stages = vec![Span::EMPTY; world];
    for (index, &rank) in neighbours.iter().enumerate() {
        task.buffers.stages[rank] = shared.stage(index, task.parity);
    }
}

/// Gives this rank's next signal; the first one of a call carries its message.
pub(super) fn signal(task: &mut Task, shared: &mut dyn Shared, signals: &mut u64) {
    if task.entry == Entry::Fresh {
        let message = EntryMessage {
            signature: task.signature,
            algorithm: task.plan.algorithm as u64,
            input: address_word(shared, task.call.input).unwrap_or(0),
            output: address_word(shared, task.call.output).unwrap_or(0),
        };
        shared.publish(task.parity, bytemuck::bytes_of(&message));
        task.entry = Entry::Announced(0);
    }
    shared.signal();
    *signals += 1;
}

impl Lane {
    /// Makes a task ready to signal and to use staging memory: the first local op that runs calls this.
    pub(super) fn begin_local(&self, task: &mut Task) {
        if let (true, Some(shared)) = (task.plan.uses_signals(), self.shared.as_deref()) {
            begin(task, shared, self.signals, self.signal_calls, self.settings.neighbours());
        }
    }
}

/// Looks whether `on` has given its `signal`-th signal.
pub(super) fn wait(lane: &mut Lane, task: &mut Task, on: Rank, signal: u32) -> Result<Waited> {
    let shared = lane.shared.as_deref().expect("programs with signals run where memory is shared");
    let neighbour = position(lane.settings.neighbours(), on);
    if shared.signalled(neighbour) < task.needed_signal(signal) {
        return Ok(Waited::NotYet);
    }
    let Entry::Announced(read) = task.entry else { return Ok(Waited::Seen) };
    let message = message(shared, neighbour, task.parity);
    if message.signature != task.signature {
        return Err(Error::Mismatch {
            rank: lane.settings.me,
            mine: Box::new(task.signature),
            other: on,
            theirs: Box::new(message.signature),
        });
    }
    if read + 2 < lane.settings.neighbours().len() {
        task.entry = Entry::Announced(read + 1);
        return Ok(Waited::Seen);
    }
    task.entry = Entry::Agreed;
    agree(lane, task)
}

/// All neighbours have announced themselves: go on as planned, or start again with the plan for private buffers.
fn agree(lane: &mut Lane, task: &mut Task) -> Result<Waited> {
    let neighbours = lane.settings.neighbours().to_vec();
    let shared = lane.shared.as_deref_mut().expect("checked by the caller");
    let messages: Vec<EntryMessage> =
        (0..neighbours.len()).map(|neighbour| message(shared, neighbour, task.parity)).collect();
    if messages.iter().any(|message| message.algorithm != task.plan.algorithm as u64) {
        let Prepared { plan, layout } = lane.prepare(&task.call, task.in_place, false)?;
        task.replan(plan, layout, lane.settings.stage_bytes);
        // The first signal is spent, on every rank.
        task.signal_base = Some(lane.signals);
        return Ok(Waited::Replanned);
    }
    if task.plan.algorithm != Algorithm::FlatPush {
        return Ok(Waited::Seen);
    }
    task.buffers.peers = vec![(Span::EMPTY, Span::EMPTY); task.fold.world() as usize];
    for (neighbour, &rank) in neighbours.iter().enumerate() {
        let sizes = task.call.sizes(rank, task.fold.world() as usize)?;
        let reach = |word: u64, len_bytes| {
            resolve(shared, neighbour, word, len_bytes).ok_or_else(|| Error::PeerLost {
                suspects: vec![rank],
                what: "named a buffer outside its shared memory".into(),
                during: None,
            })
        };
        let message = &messages[neighbour];
        task.buffers.peers[rank] =
            (reach(message.input, sizes.input_bytes)?, reach(message.output, sizes.output_bytes)?);
    }
    if !shared.enter() {
        return Err(Error::Aborted { by: lane.settings.me, reason: "a rank of this host has failed".into() });
    }
    task.inside = true;
    Ok(Waited::Seen)
}

/// Neighbours whose signals the task's waits from here on still miss.
pub(super) fn missing(lane: &Lane, task: &Task) -> Vec<Rank> {
    let (Some(shared), Some(_)) = (lane.shared.as_deref(), task.signal_base) else { return Vec::new() };
    let waits = task.plan.local[task.local_next..].iter().map_while(|&op| match &task.plan.program.ops[op as usize] {
        crate::schedule::Op::Wait { on, signal } => Some((*on, *signal)),
        _ => None,
    });
    let late = waits.filter(|&(on, signal)| {
        shared.signalled(position(lane.settings.neighbours(), on)) < task.needed_signal(signal)
    });
    late.map(|(on, _)| on).collect()
}

fn message(shared: &dyn Shared, neighbour: usize, parity: usize) -> EntryMessage {
    bytemuck::pod_read_unaligned(&shared.message(neighbour, parity)[..size_of::<EntryMessage>()])
}

fn position(neighbours: &[Rank], rank: Rank) -> usize {
    neighbours.iter().position(|&neighbour| neighbour == rank).expect("the checker proved that waits stay on the host")
}
