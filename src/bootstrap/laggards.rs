//! Who is slow: of the ranks of a communicator that live, those that have not entered a call in which others wait. They are
//! reported, not failed: somebody may be at a breakpoint, or loading data.
//!
//! Ranks say with their signs of life how far they have come on each communicator. One is behind from when another was first
//! seen ahead of it until it moves on.
//!
//! ```text
//!   rank 0   #40 #41 #42 ........................
//!   rank 1   #40 #41 #42 ........................
//!   rank 2   #40 #41 ............................     "rank 2 has not entered all_reduce #42, 3.1 s behind"
//!                    |<- behind
//! ```
#![forbid(unsafe_code)]

use super::Seconds;
use super::messages::Reached;
use crate::error::OpId;
use crate::types::Rank;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// How far all ranks have come, as their latest signs of life say.
#[derive(Default)]
pub(super) struct Laggards {
    comms: BTreeMap<u64, BTreeMap<Rank, Runner>>,
}

/// One rank on one communicator. Times are the watcher's waking time.
struct Runner {
    reached: Reached,
    /// Since when another is ahead, and how many bytes had been moved then.
    behind: Option<(Duration, u64)>,
    /// How far behind it was when it was reported last.
    reported: Duration,
}

/// A rank that keeps others waiting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Laggard {
    pub rank: Rank,
    /// What the rank that is furthest has entered.
    pub awaited: OpId,
    pub behind: Duration,
    /// What it has entered last.
    pub entered: Option<OpId>,
    /// Bytes that it has moved since it is behind.
    pub moved_bytes: u64,
}

impl Laggards {
    /// What `rank` says of all its communicators; of others that it spoke of before it is a part no more.
    pub(super) fn note(&mut self, rank: Rank, standing: &[(u64, Reached)], now: Duration) {
        for (comm, runners) in &mut self.comms {
            if !standing.iter().any(|(named, _)| named == comm) {
                runners.remove(&rank);
            }
        }
        for (comm, reached) in standing {
            let runners = self.comms.entry(*comm).or_default();
            let moved_on = runners.get(&rank).is_none_or(|runner| runner.reached.entered != reached.entered);
            if moved_on {
                let runner = Runner { reached: *reached, behind: None, reported: Duration::ZERO };
                runners.insert(rank, runner);
                let furthest = runners.values().map(Runner::number).max();
                for runner in runners.values_mut().filter(|runner| Some(runner.number()) < furthest) {
                    runner.behind.get_or_insert((now, runner.reached.moved_bytes));
                }
            } else if let Some(runner) = runners.get_mut(&rank) {
                runner.reached.moved_bytes = reached.moved_bytes;
            }
        }
        self.comms.retain(|_, runners| !runners.is_empty());
    }

    /// `rank` is gone.
    pub(super) fn forget(&mut self, rank: Rank) {
        self.note(rank, &[], Duration::ZERO);
    }

    /// Who is further behind than `patience`, or twice as far as when it was last named.
    pub(super) fn overdue(&mut self, patience: Duration, now: Duration) -> Vec<Laggard> {
        let mut overdue = Vec::new();
        for runners in self.comms.values_mut() {
            let furthest = runners.values().max_by_key(|runner| runner.number());
            let Some(awaited) = furthest.and_then(|runner| runner.reached.entered) else { continue };
            for (&rank, runner) in runners {
                let Some((since, moved_before)) = runner.behind else { continue };
                let behind = now.saturating_sub(since);
                if behind > patience.max(2 * runner.reported) {
                    runner.reported = behind;
                    let Reached { entered, moved_bytes } = runner.reached;
                    overdue.push(Laggard { rank, awaited, behind, entered, moved_bytes: moved_bytes - moved_before });
                }
            }
        }
        overdue
    }
}

impl Runner {
    /// Calls entered.
    fn number(&self) -> u64 {
        self.reached.entered.map_or(0, |op| op.sequence + 1)
    }
}

impl fmt::Display for Laggard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Laggard { rank, awaited, behind, entered, moved_bytes } = self;
        write!(f, "rank {rank} has not entered {awaited}, {} behind", Seconds(*behind))?;
        match entered {
            Some(op) => write!(f, "; its last call is {op}")?,
            None => write!(f, "; it has made no call on this communicator")?,
        }
        if *moved_bytes > 0 { write!(f, ", and it has moved {moved_bytes} bytes meanwhile") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Collective;

    const SECOND: Duration = Duration::from_secs(1);

    fn op(sequence: u64) -> OpId {
        OpId { collective: Collective::AllReduce, sequence }
    }

    fn at(sequence: u64, moved_bytes: u64) -> Vec<(u64, Reached)> {
        vec![(7, Reached { entered: Some(op(sequence)), moved_bytes })]
    }

    #[test]
    fn who_keeps_others_waiting_is_named_after_a_while_and_then_ever_more_seldom() {
        let mut laggards = Laggards::default();
        for rank in 0..3 {
            laggards.note(rank, &at(41, 100), SECOND);
        }
        laggards.note(0, &at(42, 100), 2 * SECOND);
        laggards.note(1, &at(42, 100), 3 * SECOND);
        assert_eq!(laggards.overdue(SECOND, 3 * SECOND), []);
        laggards.note(2, &at(41, 130), 4 * SECOND);
        let mut named = laggards.overdue(SECOND, 4 * SECOND);
        let expected = Laggard { rank: 2, awaited: op(42), behind: 2 * SECOND, entered: Some(op(41)), moved_bytes: 30 };
        assert_eq!(named, [expected]);
        assert_eq!(
            named.remove(0).to_string(),
            "rank 2 has not entered all_reduce #42, 2 s behind; its last call is all_reduce #41, and it has moved 30 \
             bytes meanwhile"
        );
        assert_eq!(laggards.overdue(SECOND, 6 * SECOND), [], "not yet twice as far");
        assert_eq!(laggards.overdue(SECOND, 7 * SECOND).len(), 1);
        laggards.note(2, &at(42, 130), 8 * SECOND);
        assert_eq!(laggards.overdue(SECOND, 100 * SECOND), [], "all wait for the network now, not for each other");
    }

    #[test]
    fn a_rank_that_never_began_is_behind_too() {
        let mut laggards = Laggards::default();
        laggards.note(0, &[(7, Reached::default())], SECOND);
        laggards.note(1, &at(0, 0), SECOND);
        let named = laggards.overdue(SECOND, 3 * SECOND);
        assert_eq!(named.iter().map(|laggard| (laggard.rank, laggard.entered)).collect::<Vec<_>>(), [(0, None)]);
    }

    #[test]
    fn nobody_waits_for_those_who_are_gone_or_of_a_communicator_no_more() {
        let mut laggards = Laggards::default();
        for rank in 0..3 {
            laggards.note(rank, &at(rank as u64, 0), SECOND);
        }
        laggards.forget(0);
        laggards.note(1, &[(8, Reached::default())], SECOND);
        assert_eq!(laggards.overdue(SECOND, 9 * SECOND), []);
        assert_eq!(laggards.comms.len(), 2);
    }
}
