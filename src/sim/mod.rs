//! Deterministic simulation: the real engine and the real rules of the control plane, on a simulated network and clock. One
//! seed decides everything: who runs when, how long anything takes, how much fits into which buffer, who dies, freezes, is cut
//! off or makes a mistake, at any step. The same seed gives the same schedule, on every machine.
//!
//! ```text
//!   real       Lane and all below it: tasks, plans, programs, headers, signatures, signals, audits, sums; Fate, Verdict,
//!              deadlines; Ledger, Knowledge, Succession, Vigil of the control plane; counts of who lives
//!   simulated  links, shared memory, connections to the root, threads, processes, time
//! ```
//!
//! ```text
//!   mod          one schedule: simulate
//!   world        what happens next
//!     agenda       events by their time
//!     climate      how fast things are
//!     turns        a rank's thread runs
//!       process      a rank's process
//!       session      its engine on one communicator, and the driver's part
//!     traffic      what travels on links
//!       switchboard  who is linked with whom
//!     control      what is said between ranks and root, and the search for the next one
//!       recovery     what ranks agree on, and how they go on after a failure
//!     mishaps      what goes wrong; faults: what, and when
//!   judge        what must hold
//!   script       which calls ranks make; data, buffers: with what, and what must come out
//!   report       what was gone through
//! ```
//!
//! What it cannot see: the threads inside a process (who drives the engine when several want to), the order of memory
//! accesses between processes, and the operating system's sockets. Those have tests of their own.
#![forbid(unsafe_code)]

mod agenda;
mod buffers;
mod climate;
mod control;
mod data;
mod dice;
mod faults;
mod judge;
mod mishaps;
mod process;
#[cfg(feature = "sim")]
pub mod program;
mod recovery;
mod report;
mod script;
mod session;
mod switchboard;
#[cfg(test)]
mod tests;
mod traffic;
mod turns;
mod world;

pub use report::Tally;

pub use crate::engine::Mistake;
use crate::engine::plant;
use world::World;

/// A bug that is planted to see it found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// In the engine. With [`Mistake::OldCallAccepted`] links are used again as with [`Bug::LinkReused`], and nobody finds out.
    Engine(Mistake),
    /// Links of a new communicator go on where those of the last one stood: its calls begin with bytes of an older epoch.
    LinkReused,
    /// A link is no queue: bytes overtake bytes.
    Overtaking,
    /// The root tells nobody of a death.
    DeathUntold,
    /// Ranks say what they know when the next root reigns already.
    ReportLate,
    /// The next root takes those who have ended while there was none for dead, whatever they took part in before.
    EndTrusted,
}

impl Bug {
    /// All of them, with their names on the command line.
    pub fn all() -> impl Iterator<Item = (&'static str, Bug)> {
        let elsewhere = [
            ("link-reused", Bug::LinkReused),
            ("overtaking", Bug::Overtaking),
            ("death-untold", Bug::DeathUntold),
            ("report-late", Bug::ReportLate),
            ("end-trusted", Bug::EndTrusted),
        ];
        Mistake::ALL.into_iter().map(|(name, mistake)| (name, Bug::Engine(mistake))).chain(elsewhere)
    }

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        Bug::all().find(|(_, bug)| *bug == self).map_or("", |(name, _)| name)
    }

    fn in_engine(self) -> Option<Mistake> {
        match self {
            Bug::Engine(mistake) => Some(mistake),
            Bug::LinkReused | Bug::Overtaking | Bug::DeathUntold | Bug::ReportLate | Bug::EndTrusted => None,
        }
    }
}

/// Something that must never happen, and did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// What, where, to whom.
    pub what: String,
}

/// How a schedule ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// What it went through.
    pub tally: Tally,
    /// Equal for equal schedules.
    pub digest: u64,
    /// What happened, line by line, where that was asked for.
    pub trace: Vec<String>,
    /// What was wrong with it.
    pub violation: Option<Violation>,
}

/// Runs the schedule of one seed to its end, on this thread, with a bug planted or none. Writes down what happens if
/// `is_traced`.
///
/// ```
/// let outcome = roundel::sim::simulate(1, None, false);
/// assert_eq!(outcome.violation, None);
/// assert_eq!(outcome.digest, roundel::sim::simulate(1, None, true).digest);
/// ```
pub fn simulate(seed: u64, bug: Option<Bug>, is_traced: bool) -> Outcome {
    plant(bug.and_then(Bug::in_engine));
    let outcome = World::new(seed, bug, is_traced).run();
    plant(None);
    outcome
}
