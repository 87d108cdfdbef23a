//! What must hold in every schedule, whatever happens in it:
//!
//! - a call that ended well has the bits of the oracle, on every rank, and nobody who made another call had a part in it;
//! - an input that is not also the output is never touched, and no other one of which an error says so;
//! - an error names only ranks that were dead, frozen, cut off, or made another call; a timeout may also name one
//!   that waits itself, but there is none without a reason;
//! - every call ends in bounded time, and nobody waits for ever;
//! - where a communicator failed, every rank that lives knows;
//! - those who go on all have the same members, and there is but one part of the job that does;
//! - nobody sleeps while there is something to do;
//! - between ranks whose calls all ended well every byte was read, and in the end no end of a link is left.
#![forbid(unsafe_code)]

use super::agenda::Event;
use super::data;
use super::process::{Life, Process};
use super::report::Tally;
use super::session::{Ended, Session};
use super::{Outcome, Violation};
use crate::error::{BufferState, Error};
use crate::types::Rank;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::time::Duration;

/// What a call may take beyond its deadline: a verdict, a nap, the control plane.
const GRACE: Duration = Duration::from_secs(2);

/// Watches one schedule.
pub(super) struct Judge {
    pub(super) tally: Tally,
    trace: Option<Vec<String>>,
    digest: u64,
    violation: Option<String>,
    /// Ranks that may be named.
    blamed: BTreeSet<Rank>,
    left: BTreeSet<Rank>,
    /// Who is of the job no more, and sees the others go on without it.
    outcasts: BTreeSet<Rank>,
    died: Vec<(Rank, u64)>,
    thawed: BTreeMap<Rank, u64>,
    /// Communicators that some rank saw fail.
    failed: BTreeSet<u64>,
    slips: BTreeSet<u64>,
    /// What ranks have got of a census, by communicator and number.
    counts: BTreeMap<(u64, u64), BTreeMap<Rank, Parts>>,
}

/// Where nothing else is wrong, so long after a death every call has failed.
const NOTICED: Duration = Duration::from_millis(500);

/// What each member gave to a census.
type Parts = Vec<Option<Vec<u8>>>;

impl Judge {
    pub(super) fn new(is_traced: bool) -> Judge {
        Judge {
            tally: Tally { schedules: 1, ..Tally::default() },
            trace: is_traced.then(Vec::new),
            digest: 0,
            violation: None,
            blamed: BTreeSet::new(),
            left: BTreeSet::new(),
            outcasts: BTreeSet::new(),
            died: Vec::new(),
            thawed: BTreeMap::new(),
            failed: BTreeSet::new(),
            slips: BTreeSet::new(),
            counts: BTreeMap::new(),
        }
    }

    pub(super) fn log(&mut self, now: u64, who: impl Display, what: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{:>13.3} us  {who}: {}", now as f64 / 1e3, what()));
        }
    }

    fn digest(&mut self, word: u64) {
        self.digest = (self.digest.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
    }

    /// Something happens.
    pub(super) fn step(&mut self, at: u64, event: &Event) {
        self.digest(at);
        if self.trace.is_some() {
            self.log(at, "  event", || format!("{event:?}"));
        }
    }

    pub(super) fn accuse(&mut self, what: String) {
        self.violation.get_or_insert(what);
    }

    pub(super) fn is_convicted(&self) -> bool {
        self.violation.is_some()
    }

    /// From now on errors may name `rank`.
    pub(super) fn blame(&mut self, rank: Rank) {
        self.blamed.insert(rank);
    }

    /// `rank` is of the job no more: it cannot tell who has failed and who has gone on.
    pub(super) fn cast_out(&mut self, rank: Rank) {
        self.blame(rank);
        self.outcasts.insert(rank);
    }

    pub(super) fn may_name(&self, rank: Rank) -> bool {
        self.blamed.contains(&rank)
    }

    pub(super) fn left(&mut self, rank: Rank) {
        self.tally.left += 1;
        self.left.insert(rank);
    }

    pub(super) fn death(&mut self, rank: Rank, now: u64) {
        self.died.push((rank, now));
    }

    pub(super) fn thawed(&mut self, rank: Rank, now: u64) {
        self.thawed.insert(rank, now);
    }

    /// A call has ended on a rank.
    pub(super) fn ended(&mut self, rank: Rank, session: &Session, ended: Ended, took: Duration, now: u64) {
        let Ended { index, wish, outcome, buffers, .. } = ended;
        let (script, me, world) = (&session.script, session.me, session.members.len());
        let which = format!("rank {rank} ({me} of {world}), call {index} of {:x}, {wish:?}", session.comm);
        self.tally.called(wish.collective);
        self.digest(now ^ (rank as u64) << 48 ^ u64::from(outcome.is_ok()) << 63);
        if script.errs(index, me) && self.slips.insert(session.comm) {
            self.tally.slips += 1;
        }
        let says_intact = outcome.as_ref().is_err_and(|error| error.buffer() == BufferState::Intact);
        if (says_intact || !buffers.is_in_place) && !buffers.is_input_intact() {
            self.accuse(format!("{which}: the input was touched: {outcome:?}"));
        }
        let since_thaw = self.thawed.get(&rank).map_or(took, |at| took.min(Duration::from_nanos(now - at)));
        if since_thaw > script.timeout() + GRACE {
            self.accuse(format!("{which}: took {took:?}"));
        }
        match outcome {
            Ok(()) => {
                self.tally.right += 1;
                let others = data::sources(&wish, world, me);
                let other = others.into_iter().find(|source| script.errs(index, *source) != script.errs(index, me));
                if let Some(other) = other {
                    self.accuse(format!("{which}: ended well with the help of {other}, which made another call"));
                } else if let Some((at, is, should)) = buffers.wrong_output(&wish, world, me) {
                    self.accuse(format!("{which}: byte {at} is {is:#04x} instead of {should:#04x}"));
                }
            }
            Err(error) => {
                self.failed.insert(session.comm);
                if buffers.is_in_place {
                    let count = if says_intact { &mut self.tally.spared } else { &mut self.tally.spoilt };
                    *count += 1;
                }
                self.named(session, &error, &which);
                if let (&[(_, died)], 1, None) = (&self.died[..], self.blamed.len(), script.slip) {
                    let late = Duration::from_nanos(now - died);
                    self.tally.slowest_error = self.tally.slowest_error.max(late);
                    if late > NOTICED {
                        self.accuse(format!("{which}: failed only {late:?} after a lone death: {error}"));
                    }
                }
            }
        }
    }

    /// Whether an error blames those who are to blame.
    fn named(&mut self, session: &Session, error: &Error, which: &str) {
        let slip = session.script.slip.map(|(who, ..)| who);
        let (kind, named): (&str, Vec<Rank>) = match error {
            Error::PeerLost { suspects, .. } => ("lost", suspects.clone()),
            Error::Timeout { waiting_for, .. } => ("timeout", waiting_for.clone()),
            Error::Aborted { by, .. } => ("aborted", vec![*by]),
            Error::Mismatch { rank, other, .. } => {
                // One of the two is the one that errs.
                let guilty = [*rank, *other].into_iter().filter(|rank| slip == Some(*rank)).collect::<Vec<_>>();
                ("mismatch", if guilty.is_empty() { vec![*rank, *other] } else { guilty })
            }
            _ => return self.accuse(format!("{which}: {error}")),
        };
        *self.tally.failed.entry(kind).or_default() += 1;
        // Who makes a call that nobody else makes, or wakes up late, finds that the others have left in good order.
        let is_late = slip.is_some() || self.blamed.contains(&session.members[session.me]);
        // And a goodbye that the root did not live to pass on was heard by nobody: who said it passes for dead.
        let is_unheard = self.tally.root_deaths > 0;
        let is_absent = |member: &Rank| (is_late || is_unheard) && self.left.contains(member);
        // So has who slept for long, and has not found out yet.
        let me = &session.members[session.me];
        let is_outcast = self.outcasts.contains(me) || self.thawed.contains_key(me);
        let innocent = |rank: &&Rank| {
            let member = &session.members[**rank];
            slip != Some(**rank) && !self.blamed.contains(member) && !is_absent(member) && !is_outcast
        };
        if let Error::Timeout { .. } = error {
            // Who cannot see beyond its own links may name one that waits too; but without a reason nobody times out.
            self.tally.vague += u64::from(named.iter().any(|rank| innocent(&rank)));
            if self.blamed.is_empty() && slip.is_none() {
                self.accuse(format!("{which}: a false alarm: {error}"));
            }
        } else if let Some(rank) = named.iter().find(innocent) {
            self.accuse(format!("{which}: names rank {rank}, which did nothing: {error}"));
        } else if named.is_empty() {
            self.accuse(format!("{which}: names nobody: {error}"));
        }
    }

    /// A census has ended on a rank.
    pub(super) fn counted(&mut self, rank: Rank, comm: u64, number: u64, parts: &Parts) {
        self.counts.entry((comm, number)).or_default().insert(rank, parts.clone());
    }

    /// Censuses were the same for all who are still of the job. (A root that was frozen counts once more when it wakes up, for
    /// itself alone, before it hears that the others have given it up.)
    pub(super) fn agree_on_counts(&mut self, processes: &[Process]) {
        let is_in = |rank: Rank| processes[rank].life == Life::Runs && !processes[rank].is_alone;
        for ((comm, number), counts) in std::mem::take(&mut self.counts) {
            let mut counts = counts.into_iter().filter(|(rank, _)| is_in(*rank));
            let Some((first, known)) = counts.next() else { continue };
            if let Some((other, parts)) = counts.find(|(_, parts)| *parts != known) {
                self.accuse(format!(
                    "census {number} of {comm:x}: rank {first} counts {known:?}, rank {other} {parts:?}"
                ));
            }
        }
    }

    /// Who lives knows which communicators have failed.
    pub(super) fn agree_on_failure(&mut self, processes: &[Process]) {
        for (rank, process) in processes.iter().enumerate() {
            if let (Life::Runs, false, Some(session)) = (process.life, process.is_alone, &process.session)
                && self.failed.contains(&session.comm)
                && session.fate.check().is_ok()
            {
                self.accuse(format!("rank {rank} was not told that {:x} has failed", session.comm));
            }
        }
    }

    /// The end. `holders` are ends of links that are left.
    pub(super) fn sentence(mut self, steps: u64, virtual_time: Duration, holders: usize) -> Outcome {
        if holders > 0 {
            self.accuse(format!("{holders} ends of links are left"));
        }
        self.digest(steps);
        (self.tally.steps, self.tally.virtual_time) = (steps, virtual_time);
        let Judge { tally, trace, digest, violation, .. } = self;
        Outcome { tally, digest, trace: trace.unwrap_or_default(), violation: violation.map(|what| Violation { what }) }
    }
}
