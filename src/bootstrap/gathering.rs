//! One exchange at the root: who has contributed, who is missing, and whether it can still succeed.
#![forbid(unsafe_code)]

use super::messages::{ExchangeError, Gone, Parts, Terms};
use super::quorum::{Judge, Verdict};
use crate::types::Rank;
use std::collections::BTreeMap;

/// An exchange that some members have not contributed to.
pub(super) struct Gathering {
    members: Vec<Rank>,
    terms: Terms,
    contributions: BTreeMap<Rank, Vec<u8>>,
}

/// What may come of a gathering as it stands.
pub(super) enum Prospect {
    /// Somebody who lives has not contributed yet.
    Waits,
    /// The job's store has to say whether it may go on without those who cannot be reached.
    Appeals,
    /// To each member, in order, what it contributed.
    Succeeds(Parts),
    Fails(ExchangeError),
}

impl Gathering {
    pub(super) fn new(members: Vec<Rank>, terms: Terms) -> Gathering {
        Gathering { members, terms, contributions: BTreeMap::new() }
    }

    /// Whoever waits to join is to be admitted when it succeeds.
    pub(super) fn grows(&self) -> bool {
        self.terms == Terms::Growing
    }

    pub(super) fn contribute(&mut self, from: Rank, bytes: Vec<u8>) {
        self.contributions.insert(from, bytes);
    }

    pub(super) fn has(&self, rank: Rank) -> bool {
        self.contributions.contains_key(&rank)
    }

    /// Members who have not contributed.
    pub(super) fn missing(&self) -> impl Iterator<Item = Rank> + '_ {
        self.members.iter().copied().filter(|member| !self.has(*member))
    }

    /// Members who wait for the outcome.
    pub(super) fn waiting(&self) -> Vec<Rank> {
        self.contributions.keys().copied().collect()
    }

    pub(super) fn prospect(&self, gone: &BTreeMap<Rank, Gone>, judge: &Judge) -> Prospect {
        match self.terms {
            // A member that has contributed is no longer needed: the others end up with its bytes, all of them.
            Terms::All => self.unless_gone(self.missing(), gone),
            // Here the others may have heard of its death before they came, and never come: whoever is here must not wait.
            Terms::Growing => self.unless_gone(self.members.iter().copied(), gone),
            // Here it would be taken for one that lives.
            Terms::Living => {
                let lives = |rank: Rank| !gone.contains_key(&rank);
                match judge.judge(&self.members, gone) {
                    Verdict::GoOn => self.complete(!self.missing().any(lives), lives),
                    Verdict::Stop(error) => Prospect::Fails(error),
                    Verdict::Appeal => Prospect::Appeals,
                }
            }
        }
    }

    /// Fails if one of `needed` is gone.
    fn unless_gone(&self, mut needed: impl Iterator<Item = Rank>, gone: &BTreeMap<Rank, Gone>) -> Prospect {
        match needed.find_map(|rank| Some((rank, gone.get(&rank)?))) {
            Some((rank, how)) => Prospect::Fails(ExchangeError::Gone { rank, what: how.words() }),
            None => self.complete(self.missing().next().is_none(), |_| true),
        }
    }

    fn complete(&self, is_complete: bool, counts: impl Fn(Rank) -> bool) -> Prospect {
        if !is_complete {
            return Prospect::Waits;
        }
        let part = |member: &Rank| self.contributions.get(member).filter(|_| counts(*member)).cloned();
        Prospect::Succeeds(self.members.iter().map(part).collect())
    }
}
