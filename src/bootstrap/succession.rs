//! Between two reigns: the next root waits for the ranks that live, and puts together what they know.
//!
//! A rank brings who is gone, what has failed, which exchanges are over, and what it still waits for. When all have
//! reported, or those who have not are found dead or stay silent for too long, the reign begins with a ledger as if the old
//! root had written it: reports are read first, so that an exchange that is over for one is not begun again for another.
#![forbid(unsafe_code)]

use super::knowledge::Knowledge;
use super::ledger::{Audience, Ledger, Mail};
use super::messages::{FromRoot, Gone, ToRoot};
use super::roster::{Roster, Seat};
use crate::types::Rank;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How long a successor waits for a rank that is not seen to have ended or stopped. One that has missed the news of a lower
/// rank's silence looks for the root there first, twice in vain.
pub(super) fn patience(timeout: Duration) -> Duration {
    timeout * 5 / 2
}

/// How long a rank that a successor has let in waits for the reign to begin: longer than the successor waits for others.
pub(super) fn longest_interregnum(timeout: Duration) -> Duration {
    patience(timeout) + timeout / 2 + Duration::from_millis(500)
}

/// What the next root knows itself.
#[derive(Debug, Clone)]
pub(super) struct Inheritance {
    roster: Roster,
    gone: BTreeMap<Rank, Gone>,
    /// The reign that has ended.
    reign: u32,
    /// A store decides who goes on.
    has_store: bool,
    /// How those went who are found to have ended ([`Knowledge::ended_meanwhile`]).
    ended_meanwhile: Gone,
}

impl Inheritance {
    pub(super) fn of(knowledge: &Knowledge) -> Inheritance {
        Inheritance {
            roster: knowledge.roster().clone(),
            gone: knowledge.gone().clone(),
            reign: knowledge.reign(),
            has_store: false,
            ended_meanwhile: knowledge.ended_meanwhile(),
        }
    }

    /// The same, by mistake: whoever has ended is taken for one of whom everything is known.
    #[cfg(any(test, feature = "sim"))]
    pub(super) fn trusting_ends(self) -> Inheritance {
        let settled = |how: Gone| if how.has_ended() { how.settled() } else { how };
        Inheritance {
            gone: self.gone.into_iter().map(|(rank, how)| (rank, settled(how))).collect(),
            ended_meanwhile: settled(self.ended_meanwhile),
            ..self
        }
    }

    /// The same where a store decides who goes on.
    pub(super) fn with_store(self, has_store: bool) -> Inheritance {
        Inheritance { has_store, ..self }
    }
}

/// The time until the reign begins.
pub(super) struct Succession {
    inheritance: Inheritance,
    /// Who has said what it knows.
    reported: BTreeSet<Rank>,
    /// What they have said, in order.
    heard: Vec<(Rank, ToRoot)>,
}

impl Succession {
    pub(super) fn new(inheritance: Inheritance) -> Succession {
        Succession { inheritance, reported: BTreeSet::new(), heard: Vec::new() }
    }

    /// The reign that begins.
    pub(super) fn reign(&self) -> u32 {
        self.inheritance.reign + 1
    }

    /// What is left where a succession was taken away.
    pub(super) fn nobodys() -> Succession {
        Succession::new(Inheritance {
            roster: Roster::new(),
            gone: BTreeMap::new(),
            reign: 0,
            has_store: false,
            ended_meanwhile: Gone::Silent(String::new()),
        })
    }

    /// `rank` is here, for the first time or again. What is against it, if something is.
    pub(super) fn admit(&mut self, rank: Rank) -> Result<(), Gone> {
        if !self.inheritance.roster.contains_key(&rank) {
            return Err(Gone::Silent("is not known to the ranks that live".into()));
        }
        if let Some(how) = self.inheritance.gone.get(&rank) {
            return Err(how.clone());
        }
        // What it said on an earlier connection it says again.
        self.heard.retain(|(from, _)| *from != rank);
        self.reported.remove(&rank);
        Ok(())
    }

    /// The connection of a rank is gone; it may come back.
    pub(super) fn vacate(&mut self, rank: Rank) {
        let has_left = self.heard.iter().any(|(from, message)| *from == rank && *message == ToRoot::Bye);
        if !has_left {
            self.reported.remove(&rank);
        }
    }

    /// `from` says something; what it knows, first of all.
    pub(super) fn hear(&mut self, from: Rank, message: ToRoot) {
        if let ToRoot::Report(_) = message {
            self.reported.insert(from);
        }
        self.heard.push((from, message));
    }

    /// The process of `rank` has ended.
    pub(super) fn miss_ended(&mut self, rank: Rank) {
        let how = self.inheritance.ended_meanwhile.clone();
        self.inheritance.gone.entry(rank).or_insert(how);
    }

    /// `rank` will not come, and is seen like this.
    pub(super) fn miss(&mut self, rank: Rank, how: Gone) {
        self.inheritance.gone.entry(rank).or_insert(how.untold());
    }

    /// The ranks of the process `process`.
    pub(super) fn beside(&self, process: u64) -> Vec<Rank> {
        let roster = self.inheritance.roster.iter();
        roster.filter(|(_, seat)| seat.process == process).map(|(rank, _)| *rank).collect()
    }

    /// Who may still come, or has not said what it knows.
    pub(super) fn absent(&self) -> Vec<(Rank, Seat)> {
        let Inheritance { roster, gone, .. } = &self.inheritance;
        let absent = roster.iter().filter(|(rank, _)| !gone.contains_key(rank) && !self.reported.contains(rank));
        absent.map(|(rank, seat)| (*rank, seat.clone())).collect()
    }

    /// The reign begins, in the process `process`: what is known from now on, and what everybody is told first.
    pub(super) fn conclude(self, process: u64) -> (Ledger, Mail) {
        let reign = self.reign();
        let Inheritance { roster, gone, has_store, .. } = self.inheritance;
        let mut ledger = Ledger::inherit(roster);
        if has_store {
            ledger.appeal_to_store(false);
        }
        let beside_root = ledger.beside(process);
        let mut mail = vec![(Audience::Everybody, FromRoot::Reign { reign, beside_root })];
        for (rank, how) in gone {
            ledger.depart(rank, how, &mut mail);
        }
        let (reports, rest): (Vec<_>, Vec<_>) =
            self.heard.into_iter().partition(|(_, message)| matches!(message, ToRoot::Report(_)));
        for (from, message) in reports {
            ledger.receive(from, message, &mut mail);
        }
        ledger.settle_ended(&mut mail);
        for (from, message) in rest {
            ledger.receive(from, message, &mut mail);
        }
        (ledger, mail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bootstrap::messages::{ExchangeId, Report, Terms};

    const EXCHANGE: ExchangeId = [4; 16];

    fn seat(rank: Rank) -> Seat {
        Seat {
            door: ([127, 0, 0, 1], 1000 + rank as u16).into(),
            process: rank as u64,
            pid: 1,
            process_table: String::new(),
        }
    }

    /// After the root beside rank 0 of `world` was killed.
    fn succession(world: usize) -> Succession {
        Succession::new(Inheritance {
            roster: (0..world).map(|rank| (rank, seat(rank))).collect(),
            gone: [(0, Gone::Dead("was killed".into()))].into(),
            reign: 2,
            has_store: false,
            ended_meanwhile: ended("meanwhile"),
        })
    }

    fn ended(what: &str) -> Gone {
        Gone::Ended { what: what.into(), in_good_order: false }
    }

    fn report(finished: &[ExchangeId]) -> ToRoot {
        ToRoot::Report(Report { finished: finished.to_vec(), ..Report::default() })
    }

    fn contribution(rank: Rank) -> ToRoot {
        let members = vec![0, 1, 2, 3];
        ToRoot::Contribute { exchange: EXCHANGE, members, terms: Terms::Living, bytes: vec![rank as u8] }
    }

    #[test]
    fn it_waits_for_those_who_live() {
        let mut succession = succession(4);
        assert_eq!(succession.admit(0), Err(Gone::Dead("was killed".into())));
        assert!(succession.admit(9).is_err(), "nobody knows it");
        for rank in [1, 2, 3] {
            assert_eq!(succession.absent().first().map(|(rank, _)| *rank), Some(rank));
            assert_eq!(succession.admit(rank), Ok(()));
            assert_eq!(
                succession.absent().first().map(|(rank, _)| *rank),
                Some(rank),
                "it is here, and has said nothing"
            );
            succession.hear(rank, report(&[]));
        }
        assert_eq!(succession.absent(), []);
        succession.vacate(2);
        succession.miss_ended(2);
        assert_eq!(succession.absent(), []);
        let (_, mail) = succession.conclude(1);
        let everybody = |message| (Audience::Everybody, message);
        assert_eq!(
            mail,
            [
                everybody(FromRoot::Reign { reign: 3, beside_root: vec![1] }),
                everybody(FromRoot::Gone { rank: 0, how: Gone::Dead("was killed".into()) }),
                everybody(FromRoot::Gone { rank: 2, how: ended("meanwhile") }),
                everybody(FromRoot::Gone { rank: 2, how: Gone::Dead("meanwhile".into()) }),
            ],
            "nobody is left who could have gone on with it"
        );
    }

    /// Rank 3 was the root, and froze; rank 0 has given it up. Rank 3 woke up and went on with the others, who are done.
    #[test]
    fn who_ended_unseen_may_have_gone_on_with_those_who_are_silent() {
        let gone_on = |absent: [Option<Gone>; 2], told: &[(Rank, Gone)]| {
            let silent = Gone::Silent("has given no sign of life".into());
            let mut succession = succession(4);
            succession.inheritance.gone = [(3, silent)].into();
            succession.admit(0).unwrap();
            succession.hear(0, ToRoot::Report(Report { gone: told.to_vec(), ..Report::default() }));
            succession.hear(0, contribution(0));
            for (rank, how) in (1..).zip(absent) {
                match how {
                    Some(how) => succession.miss(rank, how),
                    None => succession.miss_ended(rank),
                }
            }
            let (_, mail) = succession.conclude(0);
            mail.iter().any(|(_, message)| matches!(message, FromRoot::Part { .. }))
        };
        let stopped = || Some(Gone::Dead("is stopped or dead".into()));
        assert!(!gone_on([None, None], &[]));
        assert!(!gone_on([None, stopped()], &[]), "it may have been stopped after it had gone on");
        let left = [(1, Gone::Left), (2, Gone::Dead("was killed".into()))];
        assert!(gone_on([None, None], &left), "their root saw it, and rank 0 followed it still");
        assert!(!gone_on([None, None], &left[..1]), "of rank 2 nobody knows");
    }

    #[test]
    fn an_exchange_that_is_over_for_one_is_recalled_for_the_others() {
        let mut succession = succession(4);
        for rank in [1, 2, 3] {
            succession.admit(rank).unwrap();
        }
        // The contribution arrives before the report that says that it is over.
        succession.hear(3, contribution(3));
        succession.hear(3, report(&[]));
        succession.hear(1, report(&[]));
        succession.hear(1, contribution(1));
        succession.hear(2, report(&[EXCHANGE]));
        let (mut ledger, mail) = succession.conclude(1);
        let recall = (Audience::Ranks(vec![2]), FromRoot::Recall { exchange: EXCHANGE });
        assert_eq!(mail.iter().filter(|letter| **letter == recall).count(), 2);
        assert!(!mail.iter().any(|(_, message)| matches!(message, FromRoot::Part { .. })));
        let mut mail = Mail::new();
        let parts = vec![Some(vec![0]), Some(vec![1]), Some(vec![2]), Some(vec![3])];
        ledger.receive(2, ToRoot::Recalled { exchange: EXCHANGE, parts }, &mut mail);
        assert_eq!(mail.len(), 4);
        let first = FromRoot::Part { exchange: EXCHANGE, index: 0, bytes: Some(vec![0]) };
        assert_eq!(mail[0], (Audience::Ranks(vec![3, 1]), first));
    }

    #[test]
    fn when_those_who_know_an_outcome_die_too_it_is_held_again() {
        let mut succession = succession(4);
        for rank in [1, 2, 3] {
            succession.admit(rank).unwrap();
            succession.hear(rank, report(if rank == 2 { &[EXCHANGE] } else { &[] }));
        }
        succession.hear(1, contribution(1));
        succession.hear(3, contribution(3));
        let (mut ledger, _) = succession.conclude(1);
        let mut mail = Mail::new();
        ledger.depart(2, Gone::Dead("just now".into()), &mut mail);
        let parts: Vec<_> = mail
            .iter()
            .filter_map(|(_, message)| match message {
                FromRoot::Part { bytes, .. } => Some(bytes.clone()),
                _ => None,
            })
            .collect();
        assert_eq!(parts, [None, Some(vec![1]), None, Some(vec![3])]);
    }
}
