//! How a call meets its neighbours: signals, waits, and the messages that travel with the first signal.
//!
//! Before a rank waits for the first time in a call it has published a message: its call's signature, and where its
//! buffers are. Whoever waits for a neighbour's first signal then reads that neighbour's message, so every rank of the
//! host sees every other's call before it touches anybody's memory:
//!
//! - another signature: an error on all of them, at once;
//! - somebody's buffers cannot be mapped, and somebody else's can: all see it, and all begin again with the plan for
//!   private buffers. That costs one more signal; where all ranks are alike nothing is lost.
//!
//! Signal, signature and addresses fill one cache line. Where it makes no difference whose buffers can be mapped, as in small
//! calls, addresses are not needed; slots that are small enough lie in their place, and on the line after it:
//!
//! ```text
//!   byte   0        8                     48                64                128
//!          | signal | signature           | input, output   |                 |
//!          | signal | signature           | payload, up to 80 bytes           |
//! ```
#![forbid(unsafe_code)]

use super::call::Call;
use super::lane::Lane;
use super::offload::HOST;
use super::planted::{Mistake, is_planted};
use super::task::{Entry, Task};
use crate::bare::IS_BARE;
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
    /// [`address_word`] of its buffers.
    input: u64,
    output: u64,
}

/// Slots of a single round lie on the signal's line if they have no more bytes than this, all together.
pub(super) const INLINE_BYTES: usize = MESSAGE_BYTES - size_of::<Signature>();

/// The word of a buffer that neighbours cannot reach; no address has it.
const UNREACHABLE: u64 = u64::MAX;

/// The word that tells neighbours where a buffer is.
fn address_word(shared: &dyn Shared, span: Span, domain: u8) -> u64 {
    if span.is_empty() {
        return Address::to_word(None);
    }
    let address = match domain {
        HOST => shared.address_of(span),
        // Devices work on each other's memory within a process.
        domain => shared.is_one_process().then(|| Address::Device { domain, address: span.addr() as u64 }),
    };
    address.map_or(UNREACHABLE, |address| Address::to_word(Some(address)))
}

/// Where what such a word names lies: the host or a domain of devices; `None` for no bytes at all.
fn home(word: u64) -> Option<u8> {
    Address::from_word(word).map(|address| match address {
        Address::Arena(_) | Address::Process(_) => HOST,
        Address::Device { domain, .. } => domain,
    })
}

/// The neighbour's buffer behind such a word.
fn resolve(shared: &dyn Shared, neighbour: usize, word: u64, len_bytes: usize) -> Option<Span> {
    match Address::from_word(word) {
        None => (len_bytes == 0).then_some(Span::EMPTY),
        Some(address) => shared.resolve(neighbour, address, len_bytes),
    }
}

/// True when every neighbour can reach the call's buffers.
pub(super) fn reachable(shared: &dyn Shared, call: &Call, domain: u8) -> bool {
    [call.input, call.output].into_iter().all(|span| address_word(shared, span, domain) != UNREACHABLE)
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
    if task.is_staged {
        return;
    }
    for (index, &rank) in neighbours.iter().enumerate() {
        let half = |half| match task.is_inline {
            true => shared.message(index, half).from(size_of::<Signature>()),
            false => shared.stage(index, half),
        };
        task.bases.set_stage(rank, [half(0), half(1)]);
    }
    task.is_staged = true;
}

/// Gives this rank's next signal; the first one of a call carries its message.
pub(super) fn signal(task: &mut Task, shared: &mut dyn Shared, me: usize, signals: &mut u64) {
    if task.entry == Entry::Fresh {
        let mine = shared.message(me, task.parity);
        if task.depends_on_mapping {
            let word = |span| address_word(shared, span, task.domain);
            let (input, output) = (word(task.call.input), word(task.call.output));
            mine.write_value(&EntryMessage { signature: task.signature, input, output });
        } else if !IS_BARE {
            mine.write_value(&task.signature);
        }
        task.entry = Entry::Announced(0);
    }
    shared.signal(task.parity);
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
    if shared.signalled(neighbour, task.parity) < task.needed_signal(signal) {
        return Ok(Waited::NotYet);
    }
    let Entry::Announced(read) = task.entry else { return Ok(Waited::Seen) };
    if !IS_BARE {
        let theirs: Signature = message(shared, neighbour, task.parity);
        if theirs != task.signature && !is_planted(Mistake::NoteUnread) {
            return Err(Error::Mismatch {
                rank: lane.settings.me,
                mine: Box::new(task.signature),
                other: on,
                theirs: Box::new(theirs),
                during: None,
            });
        }
    }
    if read + 2 < lane.settings.neighbours().len() {
        task.entry = Entry::Announced(read + 1);
        return Ok(Waited::Seen);
    }
    task.entry = Entry::Agreed;
    if task.depends_on_mapping { agree(lane, task) } else { Ok(Waited::Seen) }
}

/// All neighbours have announced themselves: go on as planned, or start again with the plan for private buffers.
fn agree(lane: &mut Lane, task: &mut Task) -> Result<Waited> {
    let shared = lane.shared.as_deref_mut().expect("checked by the caller");
    let neighbours = lane.settings.neighbours();
    let announced = |neighbour| message::<EntryMessage>(&*shared, neighbour, task.parity);
    let words = |neighbour| {
        let EntryMessage { input, output, .. } = announced(neighbour);
        [input, output]
    };
    let is_mapped = |neighbour: &usize| !words(*neighbour).contains(&UNREACHABLE);
    let mapped = (0..neighbours.len()).filter(is_mapped).count();
    let mut homes = (0..neighbours.len()).filter(is_mapped).flat_map(words).filter_map(home);
    let first_home = homes.next();
    let is_one_home = homes.all(|home| Some(home) == first_home);
    if mapped != 0 && (mapped != neighbours.len() || !is_one_home) {
        let prepared = lane.prepare(&task.call, task.in_place, false)?;
        task.replan(prepared, lane.settings.stage_bytes);
        // The first signal is spent, on every rank.
        task.signal_base = Some(lane.signals);
        return Ok(Waited::Replanned);
    }
    if task.plan.algorithm != Algorithm::FlatPush {
        return Ok(Waited::Seen);
    }
    for (neighbour, &rank) in neighbours.iter().enumerate() {
        let sizes = task.call.sizes(rank, task.fold.world() as usize)?;
        let reach = |word: u64, len_bytes| {
            resolve(&*shared, neighbour, word, len_bytes).ok_or_else(|| Error::PeerLost {
                suspects: vec![rank],
                what: "named a buffer outside its shared memory".into(),
                during: None,
            })
        };
        let message = announced(neighbour);
        let (input, output) = (reach(message.input, sizes.input_bytes)?, reach(message.output, sizes.output_bytes)?);
        task.bases.set_peer(rank, input, output);
    }
    if !shared.enter() {
        return Err(Error::Aborted {
            by: lane.settings.me,
            reason: "a rank of this host has failed".into(),
            during: None,
        });
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
        shared.signalled(position(lane.settings.neighbours(), on), task.parity) < task.needed_signal(signal)
    });
    late.map(|(on, _)| on).collect()
}

/// The front of a neighbour's message.
fn message<T: bytemuck::Pod>(shared: &dyn Shared, neighbour: usize, parity: usize) -> T {
    shared.message(neighbour, parity).read_value()
}

pub(super) fn position(neighbours: &[Rank], rank: Rank) -> usize {
    // Where one host is all there is, ranks are positions.
    if neighbours.get(rank) == Some(&rank) {
        return rank;
    }
    neighbours.iter().position(|&neighbour| neighbour == rank).expect("the checker proved that waits stay on the host")
}
