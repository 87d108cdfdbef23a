//! What is going to happen, in the order in which it will.
#![forbid(unsafe_code)]

use super::switchboard::Side;
use crate::bootstrap::simulated::{Saying, Word};
use crate::transport::sim::{PipeId, Signal};
use crate::types::Rank;
use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// Something that happens at a moment. Ranks are the job's.
#[derive(Debug, Clone)]
pub(super) enum Event {
    /// A rank's thread runs. `turn` tells whether it was called off meanwhile; with `by_timer` nothing has woken it.
    Turn {
        rank: Rank,
        turn: u64,
        by_timer: bool,
    },
    Arrives(PipeId, u64),
    Acknowledged(PipeId, u64),
    /// The reader learns that the sender is gone.
    Ends(PipeId),
    /// The sender learns that the reader is gone.
    Refused(PipeId),
    /// A rank sees a neighbour's signal: communicator, host, observer's position.
    Seen {
        comm: u64,
        host: usize,
        observer: usize,
        signal: Signal,
    },
    /// Two ranks begin to shake hands.
    Dials(Side),
    /// A message reaches a root.
    Up(HubId, Rank, Saying),
    /// A message of a root reaches a rank.
    Down(HubId, Rank, Word),
    /// A root sees a rank's connection end.
    RankGone(HubId, Rank),
    /// A rank sees its connection to a root end.
    RootGone(HubId, Rank),
    /// A rank looks at the clock, and says that it lives.
    Pulse(Rank),
    /// So does a root.
    Watch(HubId),
    /// A rank without a root knocks at the door of one that may be the next.
    Knock {
        rank: Rank,
        at: Rank,
        attempt: u64,
    },
    /// What came of it.
    Answer {
        rank: Rank,
        attempt: u64,
        answer: Answer,
    },
    /// A rank's patience with an exchange ends; then, once more, for good.
    Deadline {
        rank: Rank,
        exchange: [u8; 16],
        is_final: bool,
    },
    /// A rank that is done leaves.
    Leaves(Rank),
    Thaws(Rank),
    Heals(usize),
}

/// Names a root.
pub(super) type HubId = usize;

/// How a knock ended.
#[derive(Debug, Clone)]
pub(super) enum Answer {
    /// A root, or one that may become it, has let the rank in.
    Inside(HubId),
    /// Nobody listens: the process has ended.
    NobodyThere,
    /// Not in time.
    Silence,
    /// This, and no more.
    Word(Word),
}

struct Entry {
    at: u64,
    order: u64,
    event: Event,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Entry) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Entry) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    /// The earliest is the greatest; of two at once, the one that was put down first.
    fn cmp(&self, other: &Entry) -> Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

impl Event {
    /// Whether it only keeps an idle job company: signs of life, and what is due if nothing comes.
    fn is_idle(&self) -> bool {
        match self {
            Event::Pulse(_) | Event::Watch(_) | Event::Deadline { .. } | Event::Heals(_) => true,
            Event::Up(_, _, saying) => saying.is_alive(),
            Event::Down(_, _, word) => word.is_alive(),
            _ => false,
        }
    }
}

/// Events by their time.
#[derive(Default)]
pub(super) struct Agenda {
    heap: BinaryHeap<Entry>,
    order: u64,
    busy: usize,
}

impl Agenda {
    pub(super) fn put(&mut self, at: u64, event: Event) {
        self.busy += usize::from(!event.is_idle());
        self.heap.push(Entry { at, order: self.order, event });
        self.order += 1;
    }

    /// Whether anything is to come but signs of life.
    pub(super) fn is_busy(&self) -> bool {
        self.busy > 0
    }

    pub(super) fn take(&mut self) -> Option<(u64, Event)> {
        let entry = self.heap.pop()?;
        self.busy -= usize::from(!entry.event.is_idle());
        Some((entry.at, entry.event))
    }
}
