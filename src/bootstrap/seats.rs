//! Who may take part: one seat a rank, given once, before the job starts.
#![forbid(unsafe_code)]

use super::messages::{CONTROL_VERSION, Hello, MAX_WORLD, Refusal};
use super::store::StoreChoice;
use super::vigil::Rhythm;
use super::{Seconds, deadline_after};
use crate::error::Error;
use crate::transport::tcp::Guard;
use crate::types::Rank;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Names a connection of the root.
pub(super) type Token = u64;

/// A rank that has arrived.
struct Seat {
    token: Token,
    nonce: u64,
    process: u64,
    rhythm: Rhythm,
    guard: u8,
    store: StoreChoice,
    patience: Patience,
}

/// When somebody's join fails, and how long that is after its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Patience {
    pub deadline: Instant,
    pub timeout: Duration,
}

/// The seats of a job that has not started.
pub(super) struct Seats {
    job: [u8; 16],
    /// Known from the start where rank 0 opened the job; else what the first to arrive says.
    expected: Option<(usize, Patience)>,
    world: usize,
    taken: BTreeMap<Rank, Seat>,
}

impl Seats {
    pub(super) fn new(job: [u8; 16], expected: Option<(usize, Patience)>) -> Seats {
        Seats { job, expected, world: expected.map_or(0, |(world, _)| world), taken: BTreeMap::new() }
    }

    /// Gives the rank that says `hello` its seat. A rank that comes again takes over from its first connection, which is
    /// returned.
    pub(super) fn admit(&mut self, hello: &Hello, token: Token) -> Result<Option<Token>, Refusal> {
        let Hello { rank, world, .. } = *hello;
        if hello.version != CONTROL_VERSION {
            return Err(Refusal::Wrong(format!(
                "rank {rank} speaks version {} of the control protocol, the root speaks {CONTROL_VERSION}; use the same \
                 Roundel on all ranks",
                hello.version
            )));
        }
        if hello.job != self.job {
            return Err(Refusal::NotHere(format!("rank {rank} belongs to another job than the root that it found")));
        }
        if world == 0 || world > MAX_WORLD || rank >= world {
            return Err(Refusal::Wrong(format!("rank {rank} of {world} makes no sense")));
        }
        if let Some(seat) = self.taken.values().find(|seat| seat.guard != hello.guard) {
            let [theirs, ours] = [hello.guard, seat.guard].map(in_words);
            return Err(Refusal::Wrong(format!(
                "rank {rank} has {theirs}, the ranks before it have {ours}; set both alike on all ranks"
            )));
        }
        let Ok(store) = hello.store.parse::<StoreChoice>() else {
            return Err(Refusal::Wrong(format!("rank {rank} has ROUNDEL_STORE={}, which makes no sense", hello.store)));
        };
        if let Some(seat) = self.taken.values().find(|seat| seat.store != store) {
            return Err(Refusal::Wrong(format!(
                "rank {rank} has ROUNDEL_STORE={}, the ranks before it have ROUNDEL_STORE={}; set it alike on all ranks",
                store, seat.store
            )));
        }
        if self.world == 0 {
            self.world = world;
        }
        if world != self.world {
            return Err(Refusal::Wrong(format!(
                "rank {rank} was started with a world of {world} ranks, the ranks before it with {}; use the same world \
                 size on all ranks",
                self.world
            )));
        }
        let replaced = match self.taken.get(&rank) {
            Some(seat) if seat.nonce != hello.nonce => {
                return Err(Refusal::Wrong(format!(
                    "rank {rank} has arrived twice; give each process a rank of its own"
                )));
            }
            seat => seat.map(|seat| seat.token),
        };
        let patience = Patience {
            deadline: deadline_after(Duration::from_millis(hello.remaining_ms)),
            timeout: Duration::from_millis(hello.timeout_ms),
        };
        let Hello { nonce, process, rhythm, guard, .. } = *hello;
        self.taken.insert(rank, Seat { token, nonce, process, rhythm, guard, store, patience });
        Ok(replaced)
    }

    /// The connection is gone, and its rank with it. It may come back.
    pub(super) fn vacate(&mut self, token: Token) {
        self.taken.retain(|_, seat| seat.token != token);
        if self.taken.is_empty() && self.expected.is_none() {
            self.world = 0;
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.world > 0 && self.taken.len() == self.world
    }

    pub(super) fn world(&self) -> usize {
        self.world
    }

    /// How all of them protect their connections.
    pub(super) fn guard(&self) -> u8 {
        self.taken.values().next().map_or(0, |seat| seat.guard)
    }

    /// Where the job keeps what it keeps outside itself.
    pub(super) fn store(&self) -> StoreChoice {
        self.taken.values().next().map_or(StoreChoice::Embedded, |seat| seat.store.clone())
    }

    /// The slowest that a rank wishes for, should they differ.
    pub(super) fn rhythm(&self) -> Rhythm {
        let slowest = self.taken.values().map(|seat| seat.rhythm).max_by_key(|rhythm| rhythm.timeout);
        slowest.unwrap_or_default()
    }

    /// The ranks that live in `process`.
    pub(super) fn beside(&self, process: u64) -> Vec<Rank> {
        self.taken.iter().filter(|(_, seat)| seat.process == process).map(|(rank, _)| *rank).collect()
    }

    /// The end of the first patience that ends: nobody's join can succeed after it.
    pub(super) fn patience(&self) -> Option<Patience> {
        let guests = self.taken.values().map(|seat| seat.patience);
        guests.chain(self.expected.map(|(_, patience)| patience)).min()
    }

    /// Why the job did not start.
    pub(super) fn failure(&self, patience: Patience) -> Error {
        let (arrived, world) = (self.taken.len(), self.world);
        Error::Bootstrap {
            what: format!("{arrived} of {world} ranks arrived within {}", Seconds(patience.timeout)),
            missing: (0..world).filter(|rank| !self.taken.contains_key(rank)).collect(),
        }
    }
}

fn in_words(guard: u8) -> String {
    Guard::from_code(guard).map_or_else(|| format!("protection {guard}"), |guard| guard.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(rank: Rank, world: usize) -> Hello {
        Hello {
            version: CONTROL_VERSION,
            job: [1; 16],
            rank,
            world,
            process: rank as u64 / 2,
            nonce: rank as u64,
            rhythm: Rhythm::default(),
            timeout_ms: 5000,
            remaining_ms: 4000 - rank as u64,
            guard: 0,
            store: "embedded".into(),
        }
    }

    fn refusal(outcome: Result<Option<Token>, Refusal>) -> String {
        match outcome.unwrap_err() {
            Refusal::Wrong(what) | Refusal::NotHere(what) => what,
        }
    }

    #[test]
    fn the_first_to_arrive_sets_the_world_and_the_last_fills_it() {
        let mut seats = Seats::new([1; 16], None);
        assert!(!seats.is_full() && seats.patience().is_none());
        assert_eq!(seats.admit(&hello(1, 3), 10), Ok(None));
        assert!(refusal(seats.admit(&hello(0, 4), 11)).contains("world of 4 ranks, the ranks before it with 3"));
        assert!(refusal(seats.admit(&hello(3, 3), 11)).contains("rank 3 of 3"));
        assert!(refusal(seats.admit(&Hello { version: 9, ..hello(0, 3) }, 11)).contains("version 9"));
        assert!(matches!(seats.admit(&Hello { job: [2; 16], ..hello(0, 3) }, 11), Err(Refusal::NotHere(_))));
        assert_eq!(seats.admit(&hello(0, 3), 11), Ok(None));
        assert_eq!(seats.admit(&hello(2, 3), 12), Ok(None));
        assert!(seats.is_full());
        assert_eq!(seats.beside(0), [0, 1]);
    }

    #[test]
    fn ranks_that_protect_their_connections_differently_are_told_how() {
        let mut seats = Seats::new([1; 16], None);
        seats.admit(&hello(0, 2), 10).unwrap();
        let refused = refusal(seats.admit(&Hello { guard: 2, ..hello(1, 2) }, 11));
        assert!(
            refused.contains("rank 1 has ROUNDEL_ENCRYPT=1, the ranks before it have ROUNDEL_ENCRYPT=0"),
            "{refused}"
        );
        assert!(!seats.is_full());
    }

    #[test]
    fn ranks_with_different_stores_are_told() {
        let mut seats = Seats::new([1; 16], None);
        assert!(refusal(seats.admit(&Hello { store: "etcd".into(), ..hello(0, 2) }, 10)).contains("no sense"));
        seats.admit(&hello(0, 2), 10).unwrap();
        let refused = refusal(seats.admit(&Hello { store: "etcd://a:1".into(), ..hello(1, 2) }, 11));
        assert!(refused.contains("ROUNDEL_STORE=etcd://a:1") && refused.contains("STORE=embedded"), "{refused}");
    }

    #[test]
    fn a_seat_is_given_once_but_a_rank_may_try_again() {
        let mut seats = Seats::new([1; 16], None);
        seats.admit(&hello(1, 2), 10).unwrap();
        assert!(refusal(seats.admit(&Hello { nonce: 99, ..hello(1, 2) }, 11)).contains("rank 1 has arrived twice"));
        assert_eq!(seats.admit(&hello(1, 2), 12), Ok(Some(10)));
        seats.vacate(10);
        assert_eq!(seats.beside(0), [1], "the connection that took over stays");
        seats.vacate(12);
        assert_eq!(seats.admit(&hello(0, 5), 13), Ok(None), "nobody is left who knew the world");
    }

    #[test]
    fn the_shortest_patience_ends_it_for_all_and_the_missing_are_named() {
        let mut seats = Seats::new([1; 16], None);
        seats.admit(&hello(0, 4), 10).unwrap();
        let first = seats.patience().unwrap();
        seats.admit(&Hello { remaining_ms: 10, ..hello(2, 4) }, 11).unwrap();
        let patience = seats.patience().unwrap();
        assert!(patience.deadline < first.deadline);
        assert_eq!(
            seats.failure(patience).to_string(),
            "initialisation: 2 of 4 ranks arrived within 5 s; missing: rank 1, 3"
        );
    }

    #[test]
    fn absurd_patience_is_no_overflow() {
        let mut seats = Seats::new([1; 16], None);
        seats.admit(&Hello { remaining_ms: u64::MAX, timeout_ms: u64::MAX, ..hello(0, 2) }, 1).unwrap();
        assert!(seats.patience().is_some());
    }
}
