//! The memory that the ranks of a simulated host share. What is written is there at once; a signal is seen by each neighbour
//! when the owner says so.
#![forbid(unsafe_code)]

use crate::memory::{Block, Span};
use crate::transport::{Address, MESSAGE_BYTES, Shared};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A signal that was given: by whom, on which line, and the count.
pub(crate) type Signal = (usize, usize, u64);

/// One host's memory for one communicator.
#[derive(Clone)]
pub(crate) struct HostMemory(Arc<Mutex<Memory>>);

struct Memory {
    stage_bytes: usize,
    arena_bytes: usize,
    ranks: Vec<RankMemory>,
    /// `seen[observer][neighbour][parity]`.
    seen: Vec<Vec<[u64; 2]>>,
    signals: Vec<Signal>,
    aborts: Vec<usize>,
}

struct RankMemory {
    messages: Block,
    stage: Block,
    /// What neighbours can reach, and how much of it is in use.
    arena: Block,
    used_bytes: usize,
    given: u64,
    aborted: bool,
}

impl HostMemory {
    pub(crate) fn new(ranks: usize, stage_bytes: usize, arena_bytes: usize) -> HostMemory {
        let rank = |_| RankMemory {
            messages: Block::new(2 * MESSAGE_BYTES),
            stage: Block::new(2 * stage_bytes),
            arena: Block::new(arena_bytes),
            used_bytes: 0,
            given: 0,
            aborted: false,
        };
        HostMemory(Arc::new(Mutex::new(Memory {
            stage_bytes,
            arena_bytes,
            ranks: (0..ranks).map(rank).collect(),
            seen: vec![vec![[0; 2]; ranks]; ranks],
            signals: Vec::new(),
            aborts: Vec::new(),
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Memory> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This host as the rank at a position sees it.
    pub(crate) fn of(&self, me: usize) -> SimShared {
        SimShared { host: self.clone(), me }
    }

    /// Memory of a rank's that its neighbours can reach, while there is some.
    pub(crate) fn alloc(&self, me: usize, len_bytes: usize) -> Option<Span> {
        let mut memory = self.lock();
        let arena_bytes = memory.arena_bytes;
        let rank = &mut memory.ranks[me];
        let start = rank.used_bytes;
        let end = start.checked_add(len_bytes)?.next_multiple_of(8);
        (end <= arena_bytes).then(|| {
            rank.used_bytes = end;
            rank.arena.span().cut(start, len_bytes)
        })
    }

    /// Ranks on this host.
    pub(crate) fn ranks(&self) -> usize {
        self.lock().ranks.len()
    }

    /// Signals given since this was last asked, for each neighbour to see.
    pub(crate) fn signals(&self) -> Vec<Signal> {
        std::mem::take(&mut self.lock().signals)
    }

    /// Ranks that have aborted the communicator since this was last asked.
    pub(crate) fn aborts(&self) -> Vec<usize> {
        std::mem::take(&mut self.lock().aborts)
    }

    /// `observer` sees a signal.
    pub(crate) fn show(&self, observer: usize, (from, parity, count): Signal) {
        let seen = &mut self.lock().seen[observer][from][parity];
        *seen = count.max(*seen);
    }
}

/// [`HostMemory`] as one rank's engine holds it.
pub(crate) struct SimShared {
    host: HostMemory,
    me: usize,
}

impl Shared for SimShared {
    fn signal(&mut self, parity: usize) {
        let mut memory = self.host.lock();
        memory.ranks[self.me].given += 1;
        let count = memory.ranks[self.me].given;
        let me = self.me;
        memory.seen[me][me][parity] = count;
        memory.signals.push((me, parity, count));
    }

    fn signalled(&self, neighbour: usize, parity: usize) -> u64 {
        self.host.lock().seen[self.me][neighbour][parity]
    }

    fn message(&self, neighbour: usize, parity: usize) -> Span {
        self.host.lock().ranks[neighbour].messages.span().cut(parity * MESSAGE_BYTES, MESSAGE_BYTES)
    }

    fn stage(&self, neighbour: usize, half: usize) -> Span {
        let memory = self.host.lock();
        memory.ranks[neighbour].stage.span().cut(half * memory.stage_bytes, memory.stage_bytes)
    }

    /// Devices are not simulated.
    fn is_one_process(&self) -> bool {
        false
    }

    fn address_of(&self, span: Span) -> Option<Address> {
        let arena = self.host.lock().ranks[self.me].arena.span();
        let inside = span.addr() >= arena.addr() && span.addr() + span.len() <= arena.addr() + arena.len();
        inside.then(|| Address::Arena((span.addr() - arena.addr()) as u64))
    }

    fn resolve(&self, neighbour: usize, address: Address, len_bytes: usize) -> Option<Span> {
        let Address::Arena(offset) = address else { return None };
        let (arena, offset) = (self.host.lock().ranks[neighbour].arena.span(), usize::try_from(offset).ok()?);
        (offset <= arena.len() && len_bytes <= arena.len() - offset).then(|| arena.cut(offset, len_bytes))
    }

    fn enter(&mut self) -> bool {
        !self.aborted()
    }

    fn leave(&mut self) {}

    fn aborted(&self) -> bool {
        self.host.lock().ranks[self.me].aborted
    }

    /// Waits for nobody: a neighbour that is inside has always finished its turn, and what it may still do is done to
    /// memory that lasts as long as the host.
    fn abort(&mut self) {
        let mut memory = self.host.lock();
        memory.ranks.iter_mut().for_each(|rank| rank.aborted = true);
        memory.aborts.push(self.me);
    }
}
