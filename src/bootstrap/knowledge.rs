//! What one rank knows of its job, and what it waits for: its side of the control plane without the sockets.
//!
//! The root's words come in, news for the listeners and answers for the root go out. When the root is gone, this is what
//! the rank tells the next one: who is gone, what has failed, which exchanges are over; and it asks again for
//! those that are not.
#![forbid(unsafe_code)]

use super::messages::{Admission, ExchangeError, ExchangeId, FromRoot, Gone, Parts, Report, ToRoot};
use super::recent::Recent;
use super::roster::{Roster, Seat};
use crate::error::Error;
use crate::types::Rank;
use std::collections::BTreeMap;

/// Failed communicators that are remembered for those who register late.
const REMEMBERED: usize = 4096;
/// Outcomes of exchanges that are kept for others who have not got theirs when the root dies.
const KEPT_OUTCOMES: usize = 8;

/// Own declarations that are kept for the next root.
const KEPT_DECLARATIONS: usize = 64;

/// Something that has happened to the job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Event {
    Gone(Rank, Gone),
    Revoked(u64, Error),
}

/// How an exchange ended.
pub(super) type Outcome = Result<Parts, ExchangeError>;

/// What follows from the root's words.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Upshot {
    pub events: Vec<Event>,
    pub answer: Option<ToRoot>,
}

/// An exchange that this rank waits for.
struct Waiting {
    contribution: ToRoot,
    has_given_up: bool,
    /// What has come so far.
    parts: Vec<Option<Option<Vec<u8>>>>,
    outcome: Option<Outcome>,
}

pub(super) struct Knowledge {
    me: Rank,
    gone: BTreeMap<Rank, Gone>,
    revoked: Recent<u64, Error>,
    /// What this rank declared failed itself; a root may have died before it told the others.
    declared: Recent<u64, Error>,
    finished: Recent<ExchangeId, Parts>,
    waiting: BTreeMap<ExchangeId, Waiting>,
    roster: Roster,
    beside_root: Vec<Rank>,
    reign: u32,
    is_deposed: bool,
}

impl Knowledge {
    pub(super) fn new(me: Rank, beside_root: Vec<Rank>) -> Knowledge {
        Knowledge {
            me,
            gone: BTreeMap::new(),
            revoked: Recent::new(REMEMBERED),
            declared: Recent::new(KEPT_DECLARATIONS),
            finished: Recent::new(KEPT_OUTCOMES),
            waiting: BTreeMap::new(),
            roster: Roster::new(),
            beside_root,
            reign: 0,
            is_deposed: false,
        }
    }

    /// Of a newcomer: what it was told.
    pub(super) fn of_recruit(admission: &Admission) -> Knowledge {
        Knowledge {
            gone: admission.gone.iter().cloned().collect(),
            roster: admission.roster.clone(),
            reign: admission.reign,
            ..Knowledge::new(admission.rank, admission.beside_root.clone())
        }
    }

    pub(super) fn gone(&self) -> &BTreeMap<Rank, Gone> {
        &self.gone
    }

    pub(super) fn revoked(&self, comm: u64) -> Option<&Error> {
        self.revoked.get(&comm)
    }

    pub(super) fn reign(&self) -> u32 {
        self.reign
    }

    /// The others have given this rank up, and why.
    pub(super) fn expelled(&self) -> Option<&Gone> {
        self.gone.get(&self.me)
    }

    /// The root that this rank follows was given up by others.
    pub(super) fn root_is_deposed(&self) -> bool {
        self.is_deposed
    }

    /// The root's process is known not to run, dead or stopped.
    pub(super) fn root_is_still(&self) -> bool {
        let seats: Vec<&Seat> = self.beside_root.iter().filter_map(|rank| self.roster.get(rank)).collect();
        !seats.is_empty() && seats.iter().all(|seat| seat.is_still())
    }

    pub(super) fn is_beside_root(&self) -> bool {
        self.beside_root.contains(&self.me)
    }

    /// Takes note; true when it is news.
    pub(super) fn learn(&mut self, event: &Event) -> bool {
        match event {
            Event::Gone(rank, how) => {
                let known = self.gone.get(rank);
                let news = known.map_or_else(|| Some(how.clone()), |known| known.in_the_light_of(how));
                let is_first = known.is_none();
                self.gone.extend(news.map(|how| (*rank, how)));
                is_first
            }
            Event::Revoked(comm, error) => {
                let is_news = self.revoked.get(comm).is_none();
                self.revoked.entry(*comm, || error.clone());
                is_news
            }
        }
    }

    /// The root has spoken.
    pub(super) fn hear(&mut self, message: FromRoot) -> Upshot {
        let mut upshot = Upshot::default();
        match message {
            FromRoot::Part { exchange, index, bytes } => self.take_part(exchange, index, bytes),
            FromRoot::ExchangeFailed { exchange, error } => {
                if let Some(waiting) = self.waiting.get_mut(&exchange) {
                    waiting.outcome = Some(Err(error));
                }
            }
            FromRoot::Revoked { comm, error } => upshot.events.push(Event::Revoked(comm, error)),
            FromRoot::Gone { rank, how } => upshot.events.push(Event::Gone(rank, how)),
            FromRoot::Roster(seats) => self.roster.extend(seats),
            FromRoot::Reign { reign, beside_root } => {
                (self.reign, self.beside_root, self.is_deposed) = (reign, beside_root, false);
            }
            FromRoot::Recall { exchange } => {
                let parts = self.finished.get(&exchange).cloned();
                upshot.answer = parts.map(|parts| ToRoot::Recalled { exchange, parts });
            }
            FromRoot::Deposed => self.is_deposed = true,
            FromRoot::Alive => {}
            FromRoot::Start { .. }
            | FromRoot::Refused(_)
            | FromRoot::Failed { .. }
            | FromRoot::Admitted(_)
            | FromRoot::Elsewhere { .. } => {
                tracing::debug!("the root says again how the join ended");
            }
        }
        upshot.events.retain(|event| self.learn(event));
        upshot
    }

    fn take_part(&mut self, exchange: ExchangeId, index: usize, bytes: Option<Vec<u8>>) {
        let Some(waiting) = self.waiting.get_mut(&exchange) else { return };
        if let Some(part) = waiting.parts.get_mut(index) {
            *part = Some(bytes);
        }
        if waiting.outcome.is_none() && waiting.parts.iter().all(Option::is_some) {
            let parts: Parts = std::mem::take(&mut waiting.parts).into_iter().flatten().collect();
            self.finished.entry(exchange, || parts.clone());
            waiting.outcome = Some(Ok(parts));
        }
    }

    /// Begins to wait for an exchange of so many members; false when it is under way already.
    pub(super) fn begin(&mut self, exchange: ExchangeId, contribution: ToRoot, members: usize) -> bool {
        let waiting = Waiting { contribution, has_given_up: false, parts: vec![None; members], outcome: None };
        if self.waiting.contains_key(&exchange) {
            return false;
        }
        self.waiting.insert(exchange, waiting);
        true
    }

    /// This rank's deadline has passed: what to tell the root.
    pub(super) fn give_up(&mut self, exchange: ExchangeId) -> ToRoot {
        if let Some(waiting) = self.waiting.get_mut(&exchange) {
            waiting.has_given_up = true;
        }
        ToRoot::GiveUp { exchange }
    }

    /// The outcome, once there is one; then nobody waits for it any more.
    pub(super) fn outcome(&mut self, exchange: ExchangeId) -> Option<Outcome> {
        let outcome = self.waiting.get_mut(&exchange)?.outcome.take()?;
        self.waiting.remove(&exchange);
        Some(outcome)
    }

    /// Nobody waits for that exchange any more.
    pub(super) fn abandon(&mut self, exchange: ExchangeId) {
        self.waiting.remove(&exchange);
    }

    /// This rank has found `comm` failed: what to tell the root.
    pub(super) fn declare_failed(&mut self, comm: u64, error: &Error) -> ToRoot {
        self.declared.entry(comm, || error.clone());
        ToRoot::Revoke { comm, error: error.clone() }
    }

    /// The root is gone, and so are the ranks of its process, where it is known how.
    pub(super) fn lose_root(&mut self, how: Option<&Gone>) -> Vec<Event> {
        // Half an outcome: the next root sends a whole one.
        self.waiting.values_mut().for_each(|waiting| waiting.parts.iter_mut().for_each(|part| *part = None));
        let Some(how) = how else { return Vec::new() };
        let beside = self.beside_root.iter().filter(|rank| **rank != self.me);
        let mut events: Vec<Event> = beside.map(|rank| Event::Gone(*rank, how.clone())).collect();
        events.retain(|event| self.learn(event));
        events
    }

    /// True when `rank` lived in the process of the root that is gone.
    pub(super) fn was_beside_root(&self, rank: Rank) -> bool {
        self.beside_root.contains(&rank)
    }

    /// How a rank went whose process is found to have ended while the next root is looked for. Where the root's own ranks have
    /// left in good order, so has it most likely, and there was nobody to pass its goodbye on. Calls that need it fail all the same.
    pub(super) fn ended_meanwhile(&self) -> Gone {
        let has_left = |rank: &Rank| self.gone.get(rank).is_some_and(Gone::has_left);
        let in_good_order = !self.beside_root.is_empty() && self.beside_root.iter().all(has_left);
        Gone::Ended { what: "ended while the next root was being looked for".into(), in_good_order }
    }

    /// Who may be the next root, in order: the first of these that lives is.
    pub(super) fn heirs(&self) -> Vec<(Rank, Seat)> {
        let living = self.roster.iter().filter(|(rank, _)| !self.gone.contains_key(rank));
        living.map(|(rank, seat)| (*rank, seat.clone())).collect()
    }

    pub(super) fn roster(&self) -> &Roster {
        &self.roster
    }

    /// What the next root is told first, in this order.
    pub(super) fn introduction(&self) -> Vec<ToRoot> {
        let mut messages = vec![ToRoot::Report(Report {
            gone: self.gone.iter().map(|(rank, how)| (*rank, how.clone())).collect(),
            revoked: self.revoked.iter().map(|(comm, error)| (*comm, error.clone())).collect(),
            finished: self.finished.iter().map(|(exchange, _)| *exchange).collect(),
        })];
        let declared = self.declared.iter().filter(|(comm, _)| self.revoked.get(comm).is_none());
        messages.extend(declared.map(|(comm, error)| ToRoot::Revoke { comm: *comm, error: error.clone() }));
        for (exchange, waiting) in self.waiting.iter().filter(|(_, waiting)| waiting.outcome.is_none()) {
            messages.push(waiting.contribution.clone());
            if waiting.has_given_up {
                messages.push(ToRoot::GiveUp { exchange: *exchange });
            }
        }
        messages
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bootstrap::messages::Terms;

    const EXCHANGE: ExchangeId = [3; 16];

    fn part(index: usize, bytes: Option<Vec<u8>>) -> FromRoot {
        FromRoot::Part { exchange: EXCHANGE, index, bytes }
    }

    fn contribution() -> ToRoot {
        ToRoot::Contribute { exchange: EXCHANGE, members: vec![0, 1], terms: Terms::Living, bytes: vec![7] }
    }

    fn dead() -> Gone {
        Gone::Dead("was killed".into())
    }

    #[test]
    fn where_the_roots_ranks_have_left_others_have_too() {
        let mut knowledge = Knowledge::new(3, vec![0, 1]);
        assert!(!knowledge.ended_meanwhile().has_left());
        knowledge.learn(&Event::Gone(0, Gone::Left));
        assert!(!knowledge.ended_meanwhile().has_left(), "rank 1 has not");
        knowledge.learn(&Event::Gone(1, Gone::Left));
        assert!(knowledge.ended_meanwhile().has_left());
        assert!(!Knowledge::new(3, vec![]).ended_meanwhile().has_left(), "the root is in no rank's process");
    }

    #[test]
    fn news_are_told_once() {
        let mut knowledge = Knowledge::new(1, vec![0]);
        let silent = FromRoot::Gone { rank: 2, how: Gone::Silent("fell silent".into()) };
        let told = knowledge.hear(silent.clone()).events;
        assert_eq!(told, [Event::Gone(2, Gone::Silent("fell silent".into()))]);
        assert_eq!(knowledge.hear(silent), Upshot::default());
        assert_eq!(knowledge.hear(FromRoot::Gone { rank: 2, how: dead() }), Upshot::default());
        assert_eq!(knowledge.gone()[&2], Gone::Dead("fell silent".into()), "but certainty is kept");
        assert_eq!(knowledge.lose_root(None), []);
        assert_eq!(knowledge.lose_root(Some(&dead())), [Event::Gone(0, dead())]);
        assert!(knowledge.expelled().is_none());
        knowledge.hear(FromRoot::Gone { rank: 1, how: dead() });
        assert!(knowledge.expelled().is_some());
    }

    #[test]
    fn the_next_root_is_asked_again_for_what_is_not_over_and_can_recall_what_is() {
        let mut knowledge = Knowledge::new(1, vec![]);
        assert!(knowledge.begin(EXCHANGE, contribution(), 2) && !knowledge.begin(EXCHANGE, contribution(), 2));
        knowledge.hear(part(0, Some(vec![1])));
        assert_eq!(knowledge.introduction().len(), 2);
        let give_up = knowledge.give_up(EXCHANGE);
        assert_eq!(knowledge.introduction()[1..], [contribution(), give_up]);
        assert_eq!(knowledge.outcome(EXCHANGE), None);
        knowledge.hear(part(0, Some(vec![1])));
        knowledge.hear(part(1, None));
        let parts = vec![Some(vec![1]), None];
        assert_eq!(knowledge.outcome(EXCHANGE), Some(Ok(parts.clone())));
        let [ToRoot::Report(report)] = &knowledge.introduction()[..] else { panic!() };
        assert_eq!(report.finished, [EXCHANGE]);
        let answer = knowledge.hear(FromRoot::Recall { exchange: EXCHANGE }).answer;
        assert_eq!(answer, Some(ToRoot::Recalled { exchange: EXCHANGE, parts }));
        assert_eq!(knowledge.hear(FromRoot::Recall { exchange: [9; 16] }).answer, None);
    }
}
