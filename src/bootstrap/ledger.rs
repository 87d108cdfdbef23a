//! What the root knows about a job that runs, and whom it tells what: the control plane without its sockets.
//!
//! One message of one rank comes in, messages to some ranks go out, in an order that is the same for everybody. So all
//! members of an exchange see it succeed or all see it fail, and all ranks see the same first error of a communicator.
#![forbid(unsafe_code)]

use super::recent::Recent;
use super::wire::{ExchangeError, ExchangeId, FromRoot, ToRoot};
use crate::error::{Error, Signature};
use crate::types::{Collective, Rank};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Failed exchanges, revoked and stalled communicators that are remembered for ranks that come late.
const REMEMBERED: usize = 4096;

/// Who gets a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Audience {
    Everybody,
    Ranks(Vec<Rank>),
}

/// Messages, in the order in which they are to be sent.
pub(super) type Mail = Vec<(Audience, FromRoot)>;

/// An exchange that some members have not contributed to.
struct Gathering {
    members: Vec<Rank>,
    contributions: BTreeMap<Rank, Vec<u8>>,
}

impl Gathering {
    fn missing(&self) -> impl Iterator<Item = Rank> + '_ {
        self.members.iter().copied().filter(|member| !self.contributions.contains_key(member))
    }

    fn waiting(&self) -> Audience {
        Audience::Ranks(self.contributions.keys().copied().collect())
    }
}

/// How a rank went.
enum Gone {
    Left,
    Lost(String),
}

impl Gone {
    fn words(&self) -> String {
        match self {
            Gone::Left => "left".to_string(),
            Gone::Lost(what) => what.clone(),
        }
    }
}

/// What a rank waits in, and for whom.
struct Stalled {
    signature: Signature,
    waiting_for: Vec<Rank>,
}

/// The state of a running job.
pub(super) struct Ledger {
    world: usize,
    gone: BTreeMap<Rank, Gone>,
    gatherings: HashMap<ExchangeId, Gathering>,
    failed_exchanges: Recent<ExchangeId, ExchangeError>,
    revoked: Recent<u64, ()>,
    /// Who waits inside which call (communicator and number).
    stalled: Recent<(u64, u64), BTreeMap<Rank, Stalled>>,
}

impl Ledger {
    pub(super) fn new(world: usize) -> Ledger {
        Ledger {
            world,
            gone: BTreeMap::new(),
            gatherings: HashMap::new(),
            failed_exchanges: Recent::new(REMEMBERED),
            revoked: Recent::new(REMEMBERED),
            stalled: Recent::new(REMEMBERED),
        }
    }

    /// Takes in one message. What it makes the root say is appended to `mail`.
    pub(super) fn receive(&mut self, from: Rank, message: ToRoot, mail: &mut Mail) {
        match message {
            ToRoot::Contribute { exchange, members, bytes } => self.contribute(from, exchange, members, bytes, mail),
            ToRoot::GiveUp { exchange } => self.give_up(from, exchange, mail),
            ToRoot::Revoke { comm, error } => self.revoke(comm, error, mail),
            ToRoot::Stalled { comm, rank, signature, waiting_for } => {
                self.stalled(comm, rank, Stalled { signature, waiting_for }, mail);
            }
            ToRoot::Lost { rank, what } if rank < self.world => self.lost(rank, &what, mail),
            ToRoot::Lost { .. } => {}
            ToRoot::Bye => self.depart(from, Gone::Left, mail),
        }
    }

    /// `rank` is gone without a goodbye.
    pub(super) fn lost(&mut self, rank: Rank, what: &str, mail: &mut Mail) {
        self.depart(rank, Gone::Lost(what.to_string()), mail);
    }

    fn depart(&mut self, rank: Rank, how: Gone, mail: &mut Mail) {
        if self.gone.contains_key(&rank) {
            return;
        }
        let what = how.words();
        let news = match how {
            Gone::Left => FromRoot::Left { rank },
            Gone::Lost(_) => FromRoot::Lost { rank, what: what.clone() },
        };
        mail.push((Audience::Everybody, news));
        self.gone.insert(rank, how);
        // A member that has contributed is no longer needed: the others end up with its bytes, all of them.
        let hopeless = self.gatherings.iter().filter(|(_, gathering)| gathering.missing().any(|m| m == rank));
        let hopeless: Vec<ExchangeId> = hopeless.map(|(exchange, _)| *exchange).collect();
        for exchange in hopeless {
            self.fail(exchange, ExchangeError::Gone { rank, what: what.clone() }, mail);
        }
    }

    fn contribute(&mut self, from: Rank, exchange: ExchangeId, members: Vec<Rank>, bytes: Vec<u8>, mail: &mut Mail) {
        if let Some(error) = self.failed_exchanges.get(&exchange) {
            let error = error.clone();
            mail.push((Audience::Ranks(vec![from]), FromRoot::ExchangeFailed { exchange, error }));
            return;
        }
        let gathering =
            self.gatherings.entry(exchange).or_insert_with(|| Gathering { members, contributions: BTreeMap::new() });
        gathering.contributions.insert(from, bytes);
        let gone = gathering.missing().find_map(|rank| Some((rank, self.gone.get(&rank)?.words())));
        if let Some((rank, what)) = gone {
            self.fail(exchange, ExchangeError::Gone { rank, what }, mail);
        } else if gathering.missing().next().is_none() {
            self.deliver(exchange, mail);
        }
    }

    fn deliver(&mut self, exchange: ExchangeId, mail: &mut Mail) {
        let Some(mut gathering) = self.gatherings.remove(&exchange) else { return };
        let waiting = gathering.waiting();
        for (index, member) in gathering.members.iter().enumerate() {
            let bytes = gathering.contributions.remove(member).unwrap_or_default();
            mail.push((waiting.clone(), FromRoot::Part { exchange, index, bytes }));
        }
    }

    fn give_up(&mut self, from: Rank, exchange: ExchangeId, mail: &mut Mail) {
        let Some(gathering) = self.gatherings.get(&exchange) else { return };
        if gathering.contributions.contains_key(&from) {
            let missing = gathering.missing().collect();
            self.fail(exchange, ExchangeError::Late { missing }, mail);
        }
    }

    fn fail(&mut self, exchange: ExchangeId, error: ExchangeError, mail: &mut Mail) {
        let Some(gathering) = self.gatherings.remove(&exchange) else { return };
        mail.push((gathering.waiting(), FromRoot::ExchangeFailed { exchange, error: error.clone() }));
        self.failed_exchanges.entry(exchange, || error);
    }

    fn revoke(&mut self, comm: u64, error: Error, mail: &mut Mail) {
        if self.revoked.get(&comm).is_none() {
            self.revoked.entry(comm, || ());
            let error = self.to_the_point(comm, error);
            mail.push((Audience::Everybody, FromRoot::Revoked { comm, error }));
        }
    }

    /// A rank that ran out of time knows whom it waits for itself, but these may wait too. Names those at the ends.
    fn to_the_point(&self, comm: u64, error: Error) -> Error {
        let Error::Timeout { waiting_for, after, during: Some(op) } = error else { return error };
        // Messages are numbered by each pair for itself, and reported by nobody.
        let nobody = BTreeMap::new();
        let reports = match op.collective {
            Collective::SendRecv => &nobody,
            _ => self.stalled.get(&(comm, op.sequence)).unwrap_or(&nobody),
        };
        let mut seen: BTreeSet<Rank> = waiting_for.iter().copied().collect();
        let mut asked = waiting_for.clone();
        let mut absent = BTreeSet::new();
        while let Some(rank) = asked.pop() {
            match reports.get(&rank) {
                None => _ = absent.insert(rank),
                Some(stalled) => asked.extend(stalled.waiting_for.iter().filter(|&&rank| seen.insert(rank))),
            }
        }
        let waiting_for = if absent.is_empty() { waiting_for } else { absent.into_iter().collect() };
        Error::Timeout { waiting_for, after, during: Some(op) }
    }

    fn stalled(&mut self, comm: u64, rank: Rank, stalled: Stalled, mail: &mut Mail) {
        let signature = stalled.signature;
        let reports = self.stalled.entry((comm, signature.sequence), BTreeMap::new);
        reports.insert(rank, stalled);
        let differing = reports.iter().find(|(_, other)| other.signature != signature);
        let Some((&other, &Stalled { signature: theirs, .. })) = differing else { return };
        let mut sides = [(rank, signature), (other, theirs)];
        sides.sort_by_key(|(rank, _)| *rank);
        let [(rank, mine), (other, theirs)] = sides.map(|(rank, signature)| (rank, Box::new(signature)));
        self.revoke(comm, Error::Mismatch { rank, mine, other, theirs }, mail);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::OpId;
    use bytemuck::Zeroable;

    const EXCHANGE: ExchangeId = [7; 16];

    /// A ledger and the mail that it has sent since it was last asked.
    struct Told {
        ledger: Ledger,
    }

    impl Told {
        fn by(&mut self, from: Rank, message: ToRoot) -> Mail {
            let mut mail = Mail::new();
            self.ledger.receive(from, message, &mut mail);
            mail
        }

        fn contribution(&mut self, from: Rank, members: &[Rank]) -> Mail {
            self.by(from, ToRoot::Contribute { exchange: EXCHANGE, members: members.to_vec(), bytes: vec![from as u8] })
        }
    }

    fn world(world: usize) -> Told {
        Told { ledger: Ledger::new(world) }
    }

    fn failed(ranks: &[Rank], error: ExchangeError) -> (Audience, FromRoot) {
        (Audience::Ranks(ranks.to_vec()), FromRoot::ExchangeFailed { exchange: EXCHANGE, error })
    }

    #[test]
    fn parts_go_out_when_the_last_member_has_contributed() {
        let mut told = world(4);
        assert_eq!(told.contribution(3, &[3, 1]), []);
        let part = |index, byte| {
            (Audience::Ranks(vec![1, 3]), FromRoot::Part { exchange: EXCHANGE, index, bytes: vec![byte] })
        };
        assert_eq!(told.contribution(1, &[3, 1]), [part(0, 3), part(1, 1)]);
    }

    #[test]
    fn one_deadline_fails_the_exchange_for_all_also_for_those_who_come_later() {
        let mut told = world(3);
        told.contribution(0, &[0, 1, 2]);
        told.contribution(2, &[0, 1, 2]);
        let late = ExchangeError::Late { missing: vec![1] };
        assert_eq!(told.by(2, ToRoot::GiveUp { exchange: EXCHANGE }), [failed(&[0, 2], late.clone())]);
        assert_eq!(told.contribution(1, &[0, 1, 2]), [failed(&[1], late)]);
        assert_eq!(told.by(0, ToRoot::GiveUp { exchange: EXCHANGE }), []);
    }

    #[test]
    fn a_lost_member_fails_what_it_has_not_contributed_to_and_only_that() {
        let mut told = world(3);
        told.contribution(0, &[0, 1, 2]);
        told.contribution(1, &[0, 1, 2]);
        let mut mail = Mail::new();
        told.ledger.lost(1, "was killed", &mut mail);
        told.ledger.lost(1, "again", &mut mail);
        let lost = |rank, what: &str| (Audience::Everybody, FromRoot::Lost { rank, what: what.into() });
        assert_eq!(mail, [lost(1, "was killed")]);
        let gone = ExchangeError::Gone { rank: 2, what: "was killed too".into() };
        let report = ToRoot::Lost { rank: 2, what: "was killed too".into() };
        assert_eq!(told.by(0, report), [lost(2, "was killed too"), failed(&[0, 1], gone)]);
    }

    #[test]
    fn an_exchange_with_a_member_that_left_fails_at_once() {
        let mut told = world(2);
        assert_eq!(told.by(1, ToRoot::Bye), [(Audience::Everybody, FromRoot::Left { rank: 1 })]);
        assert_eq!(told.by(0, ToRoot::Lost { rank: 1, what: "no answer".into() }), [], "it left first");
        let gone = ExchangeError::Gone { rank: 1, what: "left".into() };
        assert_eq!(told.contribution(0, &[0, 1]), [failed(&[0], gone)]);
    }

    #[test]
    fn the_first_revocation_of_a_communicator_wins() {
        let mut told = world(2);
        let revoke = |comm, what: &str| ToRoot::Revoke { comm, error: Error::invalid(what) };
        assert_eq!(told.by(0, revoke(5, "one")).len(), 1);
        assert_eq!(told.by(1, revoke(5, "two")), []);
        assert_eq!(told.by(1, revoke(6, "two")).len(), 1);
    }

    #[test]
    fn stalled_calls_are_compared_when_they_have_the_same_number() {
        let mut told = world(3);
        let signature = |sequence, count| Signature { sequence, count, ..Signature::zeroed() };
        let stalled = |rank, signature| ToRoot::Stalled { comm: 9, rank, signature, waiting_for: vec![] };
        assert_eq!(told.by(2, stalled(2, signature(4, 10))), []);
        assert_eq!(told.by(0, stalled(0, signature(3, 11))), [], "another call");
        assert_eq!(told.by(1, stalled(1, signature(4, 10))), [], "the same");
        let (mine, theirs) = (Box::new(signature(4, 11)), Box::new(signature(4, 10)));
        let error = Error::Mismatch { rank: 0, mine, other: 1, theirs };
        assert_eq!(
            told.by(0, stalled(0, signature(4, 11))),
            [(Audience::Everybody, FromRoot::Revoked { comm: 9, error })]
        );
    }

    #[test]
    fn a_timeout_names_those_who_keep_the_others_waiting() {
        let timeout = |waiting_for, collective| Error::Timeout {
            waiting_for,
            after: std::time::Duration::from_secs(1),
            during: Some(OpId { collective, sequence: 4 }),
        };
        // 0 waits for 1, 1 for 2 and 3; 3 for 0 again; 2 for nobody.
        let told = |collective| {
            let mut told = world(4);
            for (rank, waiting_for) in [(0, vec![1]), (1, vec![2, 3]), (3, vec![0])] {
                let signature = Signature { sequence: 4, ..Signature::zeroed() };
                assert_eq!(told.by(rank, ToRoot::Stalled { comm: 9, rank, signature, waiting_for }), []);
            }
            told.by(0, ToRoot::Revoke { comm: 9, error: timeout(vec![1], collective) })
        };
        let revoked = |error| [(Audience::Everybody, FromRoot::Revoked { comm: 9, error })];
        assert_eq!(told(Collective::AllReduce), revoked(timeout(vec![2], Collective::AllReduce)));
        assert_eq!(told(Collective::SendRecv), revoked(timeout(vec![1], Collective::SendRecv)), "other numbers");
    }
}
