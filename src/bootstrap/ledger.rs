//! What the root knows about a job that runs, and whom it tells what: the control plane without its sockets.
//!
//! One message of one rank comes in, messages to some ranks go out, in an order that is the same for everybody. So all
//! members of an exchange see it succeed or all see it fail, and all ranks see the same first error of a communicator.
#![forbid(unsafe_code)]

use super::gathering::{Gathering, Prospect};
use super::messages::{Admission, ExchangeError, ExchangeId, FromRoot, Gone, Parts, Report, ToRoot, encode_ranks};
use super::quorum::{self, Judge, Standing};
use super::recent::Recent;
use super::roster::{Roster, Seat};
use super::store::{Appeal, MAX_DOORS, Member, Ruling, Way};
use crate::error::{Error, Signature};
use crate::types::{Collective, Rank};
use std::collections::{BTreeMap, BTreeSet};

/// Failed exchanges, revoked and stalled communicators that are remembered for ranks that come late.
const REMEMBERED: usize = 4096;

/// Who gets a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Audience {
    Everybody,
    Ranks(Vec<Rank>),
    /// The newcomer of that nonce, who is a rank from now on.
    Recruit(u64),
}

/// Messages, in the order in which they are to be sent.
pub(super) type Mail = Vec<(Audience, FromRoot)>;

/// What a rank waits in, and for whom.
struct Stalled {
    signature: Signature,
    waiting_for: Vec<Rank>,
}

/// An exchange that was over under an earlier root, but not for everybody.
#[derive(Default)]
struct Finished {
    /// Ranks that know the outcome.
    holders: BTreeSet<Rank>,
    /// Ranks that wait for it, and what they contributed.
    waiting: Vec<(Rank, Vec<u8>)>,
    /// What it was, should nobody be left who knows the outcome.
    again: Option<Gathering>,
}

/// The state of a running job.
pub(super) struct Ledger {
    world: usize,
    roster: Roster,
    /// Ranks that everybody knows how to find.
    introduced: BTreeSet<Rank>,
    gone: BTreeMap<Rank, Gone>,
    /// Who waits to join, by nonce.
    recruits: BTreeMap<u64, Seat>,
    finished: BTreeMap<ExchangeId, Finished>,
    gatherings: BTreeMap<ExchangeId, Gathering>,
    failed_exchanges: Recent<ExchangeId, ExchangeError>,
    revoked: Recent<u64, ()>,
    /// Who waits inside which call (communicator and number).
    stalled: Recent<(u64, u64), BTreeMap<Rank, Stalled>>,
    /// Who decides whether those who live may go on without those who cannot be reached.
    judge: Judge,
    /// Exchanges that wait for the judge.
    appellants: BTreeSet<ExchangeId>,
    /// Somebody has given this root up, so it must know for itself.
    is_contested: bool,
}

impl Ledger {
    pub(super) fn new(world: usize) -> Ledger {
        Ledger {
            world,
            roster: Roster::new(),
            introduced: BTreeSet::new(),
            gone: BTreeMap::new(),
            recruits: BTreeMap::new(),
            finished: BTreeMap::new(),
            gatherings: BTreeMap::new(),
            failed_exchanges: Recent::new(REMEMBERED),
            revoked: Recent::new(REMEMBERED),
            stalled: Recent::new(REMEMBERED),
            judge: Judge::Numbers,
            appellants: BTreeSet::new(),
            is_contested: false,
        }
    }

    /// From now on a store decides who may go on without those who cannot be reached. In the first reign nobody was given up
    /// before.
    pub(super) fn appeal_to_store(&mut self, is_first_reign: bool) {
        self.judge = Judge::Store(if is_first_reign { Standing::Good } else { Standing::Unknown });
    }

    /// The ledger of a root that follows another: everybody knows the roster already.
    pub(super) fn inherit(roster: Roster) -> Ledger {
        let world = roster.keys().next_back().map_or(0, |rank| rank + 1);
        Ledger { introduced: roster.keys().copied().collect(), roster, ..Ledger::new(world) }
    }

    /// Where `rank` can be found.
    pub(super) fn seat(&self, rank: Rank) -> Option<&Seat> {
        self.roster.get(&rank)
    }

    /// The ranks that live in `process`.
    pub(super) fn beside(&self, process: u64) -> Vec<Rank> {
        self.roster.iter().filter(|(_, seat)| seat.process == process).map(|(rank, _)| *rank).collect()
    }

    /// How `rank` went, if it did.
    pub(super) fn fate(&self, rank: Rank) -> Option<&Gone> {
        self.gone.get(&rank)
    }

    /// Whether those who are not gone may go on without the others, as far as that is known.
    pub(super) fn may_go_on(&self) -> bool {
        match &self.judge {
            Judge::Numbers => self.is_worth_following(),
            Judge::Store(standing) => !matches!(standing, Standing::Denied(_)),
        }
    }

    fn is_worth_following(&self) -> bool {
        let members: Vec<Rank> = (0..self.world).collect();
        quorum::is_worth_a_root(&members, &self.gone)
    }

    /// Somebody has given this root up. It goes on for as long as it may.
    pub(super) fn contest(&mut self) {
        self.is_contested = true;
    }

    /// What the store is to be asked, if it is.
    pub(super) fn appeal(&self) -> Option<Appeal> {
        let Judge::Store(standing @ (Standing::Unknown | Standing::Good)) = &self.judge else { return None };
        if self.appellants.is_empty() && !self.is_contested {
            return None;
        }
        let is_doubtful = |rank: &Rank| self.gone.get(rank).is_some_and(|how| !how.has_ended());
        let doubtful: Vec<Member> = (0..self.world).filter(is_doubtful).map(|rank| self.member(rank)).collect();
        let is_outnumbered = !self.is_worth_following();
        let is_needed = !doubtful.is_empty() || *standing == Standing::Unknown;
        is_needed.then(|| Appeal { living: self.living(), doubtful, is_outnumbered })
    }

    /// What the store has said. False when this root is to be given up.
    pub(super) fn hear_ruling(&mut self, appeal: &Appeal, ruling: Ruling, mail: &mut Mail) -> bool {
        match ruling {
            // Who was given up once is not taken back.
            _ if !self.may_go_on() => {}
            Ruling::Granted => {
                self.judge = Judge::Store(Standing::Good);
                self.is_contested = false;
                for Member { rank, .. } in &appeal.doubtful {
                    // It may live, but nobody will ever let it go on. The next root is to know that, too.
                    let Some(Gone::Silent(what) | Gone::Stopped(what)) = self.gone.get(rank) else { continue };
                    let how = Gone::Dead(what.clone());
                    mail.push((Audience::Everybody, FromRoot::Gone { rank: *rank, how: how.clone() }));
                    self.depart(*rank, how, mail);
                }
                self.settle_appellants(mail);
            }
            Ruling::Denied => {
                self.lose_job(mail);
                return !self.is_contested;
            }
            Ruling::Silent(why) => {
                let doubtful: Vec<Rank> = appeal.doubtful.iter().map(|member| member.rank).collect();
                let why = format!("it could not be asked ({why})");
                for exchange in std::mem::take(&mut self.appellants) {
                    let error = ExchangeError::NotGranted { doubtful: doubtful.clone(), why: why.clone() };
                    self.fail(exchange, error, mail);
                }
                return !std::mem::take(&mut self.is_contested) || self.is_worth_following();
            }
        }
        true
    }

    /// The store has given up this part of the job: another one goes on, or has.
    pub(super) fn lose_job(&mut self, mail: &mut Mail) {
        let why = "it has given up the ranks on this side, and the others go on without them";
        self.judge = Judge::Store(Standing::Denied(why.to_string()));
        self.settle_appellants(mail);
    }

    fn settle_appellants(&mut self, mail: &mut Mail) {
        for exchange in std::mem::take(&mut self.appellants) {
            self.settle(exchange, mail);
        }
    }

    /// As long as these numbers are the same, so is what a store would be asked or told.
    pub(super) fn store_marks(&self) -> [usize; 4] {
        [self.introduced.len(), self.gone.len(), self.appellants.len(), usize::from(self.is_contested)]
    }

    fn member(&self, rank: Rank) -> Member {
        Member { rank, process: self.roster.get(&rank).map_or(0, |seat| seat.process) }
    }

    fn living(&self) -> Vec<Member> {
        (0..self.world).filter(|rank| !self.gone.contains_key(rank)).map(|rank| self.member(rank)).collect()
    }

    /// Where the job can be found in this reign, and who follows; nothing before everybody is known.
    pub(super) fn publication(&self, reign: u32) -> Option<(Vec<Member>, Way)> {
        let is_complete = self.introduced.len() == self.world;
        let living = self.roster.iter().filter(|(rank, _)| !self.gone.contains_key(rank));
        let doors = living.map(|(_, seat)| seat.door).take(MAX_DOORS).collect();
        is_complete.then(|| (self.living(), Way { reign, doors }))
    }

    /// Tells this run of the job from others of its name.
    pub(super) fn run(&self) -> Option<u64> {
        self.roster.get(&0).map(|seat| seat.process)
    }

    /// Takes in one message. What it makes the root say is appended to `mail`.
    pub(super) fn receive(&mut self, from: Rank, message: ToRoot, mail: &mut Mail) {
        match message {
            ToRoot::Contribute { exchange, members, terms, bytes } => {
                self.contribute(from, exchange, Gathering::new(members, terms), bytes, mail);
            }
            ToRoot::GiveUp { exchange } => self.give_up(from, exchange, mail),
            ToRoot::Revoke { comm, error } => self.revoke(comm, error, mail),
            ToRoot::Stalled { comm, rank, signature, waiting_for } => {
                self.stalled(comm, rank, Stalled { signature, waiting_for }, mail);
            }
            ToRoot::Lost { rank, what } if rank < self.world => self.depart(rank, Gone::Silent(what), mail),
            ToRoot::Lost { .. } => {}
            ToRoot::Bye => self.depart(from, Gone::Left, mail),
            ToRoot::Seat(seat) => self.seat_taken(from, seat, mail),
            ToRoot::Report(report) => self.report(from, report, mail),
            ToRoot::Recalled { exchange, parts } => self.recalled(exchange, parts, mail),
            // Of concern to whoever holds the connection.
            ToRoot::Alive | ToRoot::Standing(_) | ToRoot::Deposed { .. } => {}
        }
    }

    /// A newcomer waits to join.
    pub(super) fn enlist(&mut self, nonce: u64, seat: Seat) {
        self.recruits.insert(nonce, seat);
    }

    /// It waits no more.
    pub(super) fn withdraw(&mut self, nonce: u64) {
        self.recruits.remove(&nonce);
    }

    /// Makes ranks of all who wait. Their numbers.
    fn admit(&mut self, offer: &[u8], mail: &mut Mail) -> Vec<Rank> {
        let recruits = std::mem::take(&mut self.recruits);
        let new: Vec<(Rank, u64, Seat)> =
            recruits.into_iter().enumerate().map(|(index, (nonce, seat))| (self.world + index, nonce, seat)).collect();
        let ranks: Vec<Rank> = new.iter().map(|(rank, ..)| *rank).collect();
        if ranks.is_empty() {
            return ranks;
        }
        let seats: Roster = new.iter().map(|(rank, _, seat)| (*rank, seat.clone())).collect();
        mail.push((Audience::Everybody, FromRoot::Roster(seats.clone())));
        self.world += ranks.len();
        self.introduced.extend(seats.keys());
        self.roster.extend(seats);
        for (rank, nonce, _) in new {
            let admission = Admission {
                rank,
                recruits: ranks.clone(),
                offer: offer.to_vec(),
                roster: self.roster.clone(),
                gone: self.gone.iter().map(|(rank, how)| (*rank, how.clone())).collect(),
                beside_root: Vec::new(),
                reign: 0,
            };
            mail.push((Audience::Recruit(nonce), FromRoot::Admitted(Box::new(admission))));
        }
        ranks
    }

    /// Once everybody who lives can be found, everybody is told.
    fn seat_taken(&mut self, rank: Rank, seat: Seat, mail: &mut Mail) {
        self.roster.insert(rank, seat);
        let is_known = |rank: &Rank| self.roster.contains_key(rank) || self.gone.contains_key(rank);
        if !(0..self.world).all(|rank| is_known(&rank)) {
            return;
        }
        let new = self.roster.iter().filter(|(rank, _)| !self.introduced.contains(rank));
        let new: Roster = new.map(|(rank, seat)| (*rank, seat.clone())).collect();
        if !new.is_empty() {
            self.introduced.extend(new.keys());
            mail.push((Audience::Everybody, FromRoot::Roster(new)));
        }
    }

    /// What a rank knows from the time of an earlier root.
    fn report(&mut self, from: Rank, report: Report, mail: &mut Mail) {
        for (rank, how) in report.gone {
            self.depart(rank, how, mail);
        }
        for (comm, error) in report.revoked {
            self.revoke(comm, error, mail);
        }
        for exchange in report.finished {
            self.finished.entry(exchange).or_default().holders.insert(from);
        }
    }

    /// Somebody waits for what others know.
    fn recall(&mut self, exchange: ExchangeId, mail: &mut Mail) {
        let Some(finished) = self.finished.get_mut(&exchange) else { return };
        finished.holders.retain(|holder| !self.gone.contains_key(holder));
        if let Some(holder) = finished.holders.first() {
            mail.push((Audience::Ranks(vec![*holder]), FromRoot::Recall { exchange }));
            return;
        }
        // Whoever knew is dead: as if it had never been.
        let Some(Finished { waiting, again: Some(again), .. }) = self.finished.remove(&exchange) else { return };
        let gathering = self.gatherings.entry(exchange).or_insert(again);
        waiting.into_iter().for_each(|(rank, bytes)| gathering.contribute(rank, bytes));
        self.settle(exchange, mail);
    }

    fn recalled(&mut self, exchange: ExchangeId, parts: Parts, mail: &mut Mail) {
        let Some(finished) = self.finished.get_mut(&exchange) else { return };
        let waiting: Vec<Rank> = finished.waiting.drain(..).map(|(rank, _)| rank).collect();
        finished.holders.extend(&waiting);
        deliver(exchange, waiting, parts, mail);
    }

    /// `rank` is gone. Only the first news of it counts, except that it may become surer.
    pub(super) fn depart(&mut self, rank: Rank, how: Gone, mail: &mut Mail) {
        match self.gone.get(&rank) {
            None => {
                mail.push((Audience::Everybody, FromRoot::Gone { rank, how: how.clone() }));
                self.gone.insert(rank, how);
            }
            Some(known) => match known.in_the_light_of(&how) {
                Some(surer) => _ = self.gone.insert(rank, surer),
                None => return,
            },
        }
        let concerned: Vec<ExchangeId> = self.gatherings.keys().copied().collect();
        concerned.into_iter().for_each(|exchange| self.settle(exchange, mail));
        let recalled = self.finished.iter().filter(|(_, finished)| !finished.waiting.is_empty());
        let recalled: Vec<ExchangeId> = recalled.map(|(exchange, _)| *exchange).collect();
        recalled.into_iter().for_each(|exchange| self.recall(exchange, mail));
    }

    /// Everybody is here, or has ended: whoever ended unseen can have gone on only with others who have ended too. So it is no
    /// more in doubt than those whom a root saw die, also when others fall silent later.
    pub(super) fn settle_ended(&mut self, mail: &mut Mail) {
        if !self.gone.values().all(Gone::has_ended) {
            return;
        }
        for (&rank, how) in &mut self.gone {
            if let Gone::Ended { .. } = how {
                *how = how.settled();
                mail.push((Audience::Everybody, FromRoot::Gone { rank, how: how.clone() }));
            }
        }
    }

    fn contribute(&mut self, from: Rank, exchange: ExchangeId, new: Gathering, bytes: Vec<u8>, mail: &mut Mail) {
        let refusal = match (self.failed_exchanges.get(&exchange), self.gone.get(&from)) {
            (Some(error), _) => Some(error.clone()),
            (None, Some(how)) => Some(ExchangeError::Gone { rank: from, what: how.words() }),
            (None, None) => None,
        };
        if let Some(error) = refusal {
            mail.push((Audience::Ranks(vec![from]), FromRoot::ExchangeFailed { exchange, error }));
            return;
        }
        if let Some(finished) = self.finished.get_mut(&exchange) {
            finished.waiting.push((from, bytes));
            finished.again.get_or_insert(new);
            return self.recall(exchange, mail);
        }
        self.gatherings.entry(exchange).or_insert(new).contribute(from, bytes);
        self.settle(exchange, mail);
    }

    /// Ends the exchange if it is time.
    fn settle(&mut self, exchange: ExchangeId, mail: &mut Mail) {
        let Some(gathering) = self.gatherings.get(&exchange) else { return };
        let prospect = gathering.prospect(&self.gone, &self.judge);
        self.appellants.remove(&exchange);
        match prospect {
            Prospect::Waits => {}
            Prospect::Appeals => _ = self.appellants.insert(exchange),
            Prospect::Fails(error) => self.fail(exchange, error, mail),
            Prospect::Succeeds(mut parts) => {
                let (waiting, grows) = (gathering.waiting(), gathering.grows());
                if grows {
                    let offer = parts.first().cloned().flatten().unwrap_or_default();
                    let recruits = self.admit(&offer, mail);
                    parts.push(Some(encode_ranks(&recruits)));
                }
                deliver(exchange, waiting, parts, mail);
                self.gatherings.remove(&exchange);
            }
        }
    }

    fn give_up(&mut self, from: Rank, exchange: ExchangeId, mail: &mut Mail) {
        let Some(gathering) = self.gatherings.get(&exchange) else { return };
        if gathering.has(from) {
            let missing: Vec<Rank> = gathering.missing().filter(|rank| !self.gone.contains_key(rank)).collect();
            let error = match self.appeal().filter(|_| missing.is_empty()) {
                Some(Appeal { doubtful, .. }) => ExchangeError::NotGranted {
                    doubtful: doubtful.into_iter().map(|member| member.rank).collect(),
                    why: "it has not answered in time".to_string(),
                },
                None => ExchangeError::Late { missing },
            };
            self.fail(exchange, error, mail);
        }
    }

    fn fail(&mut self, exchange: ExchangeId, error: ExchangeError, mail: &mut Mail) {
        let Some(gathering) = self.gatherings.remove(&exchange) else { return };
        self.appellants.remove(&exchange);
        mail.push((Audience::Ranks(gathering.waiting()), FromRoot::ExchangeFailed { exchange, error: error.clone() }));
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
        let Error::Timeout { waiting_for, after, during: Some(call) } = error else { return error };
        let op = call.op;
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
        Error::Timeout { waiting_for, after, during: Some(call) }
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
        self.revoke(comm, Error::Mismatch { rank, mine, other, theirs, during: None }, mail);
    }
}

fn deliver(exchange: ExchangeId, to: Vec<Rank>, parts: Parts, mail: &mut Mail) {
    let audience = Audience::Ranks(to);
    for (index, bytes) in parts.into_iter().enumerate() {
        mail.push((audience.clone(), FromRoot::Part { exchange, index, bytes }));
    }
}

#[cfg(test)]
mod tests {
    use super::super::messages::Terms;
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
            self.by(
                from,
                ToRoot::Contribute {
                    exchange: EXCHANGE,
                    members: members.to_vec(),
                    terms: Terms::All,
                    bytes: vec![from as u8],
                },
            )
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
            (Audience::Ranks(vec![1, 3]), FromRoot::Part { exchange: EXCHANGE, index, bytes: Some(vec![byte]) })
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
        told.ledger.depart(1, Gone::Dead("was killed".into()), &mut mail);
        told.ledger.depart(1, Gone::Dead("again".into()), &mut mail);
        let lost = |rank, how| (Audience::Everybody, FromRoot::Gone { rank, how });
        assert_eq!(mail, [lost(1, Gone::Dead("was killed".into()))]);
        let gone = ExchangeError::Gone { rank: 2, what: "was killed too".into() };
        let report = ToRoot::Lost { rank: 2, what: "was killed too".into() };
        assert_eq!(told.by(0, report), [lost(2, Gone::Silent("was killed too".into())), failed(&[0, 1], gone)]);
    }

    #[test]
    fn an_exchange_with_a_member_that_left_fails_at_once() {
        let mut told = world(2);
        assert_eq!(told.by(1, ToRoot::Bye), [(Audience::Everybody, FromRoot::Gone { rank: 1, how: Gone::Left })]);
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
        let error = Error::Mismatch { rank: 0, mine, other: 1, theirs, during: None };
        assert_eq!(
            told.by(0, stalled(0, signature(4, 11))),
            [(Audience::Everybody, FromRoot::Revoked { comm: 9, error })]
        );
    }

    #[test]
    fn a_timeout_names_those_who_keep_the_others_waiting() {
        let timeout = |waiting_for, collective| {
            Error::Timeout { waiting_for, after: std::time::Duration::from_secs(1), during: None }
                .during(OpId { collective, sequence: 4 })
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

    fn counted(from: Rank, members: &[Rank]) -> ToRoot {
        ToRoot::Contribute {
            exchange: EXCHANGE,
            members: members.to_vec(),
            terms: Terms::Living,
            bytes: vec![from as u8],
        }
    }

    fn depart(told: &mut Told, rank: Rank, how: Gone) -> Mail {
        let mut mail = Mail::new();
        told.ledger.depart(rank, how, &mut mail);
        mail
    }

    #[test]
    fn a_census_goes_on_without_the_dead_and_does_not_count_those_who_die_meanwhile() {
        let mut told = world(4);
        let members = [0, 1, 2, 3];
        depart(&mut told, 3, Gone::Dead("was killed".into()));
        assert_eq!(told.by(0, counted(0, &members)), []);
        assert_eq!(told.by(1, counted(1, &members)), []);
        depart(&mut told, 1, Gone::Dead("was killed too".into()));
        let part = |index, bytes| (Audience::Ranks(vec![0, 1, 2]), FromRoot::Part { exchange: EXCHANGE, index, bytes });
        assert_eq!(
            told.by(2, counted(2, &members)),
            [part(0, Some(vec![0])), part(1, None), part(2, Some(vec![2])), part(3, None)]
        );
        let given_up = ExchangeError::Gone { rank: 1, what: "was killed too".into() };
        assert_eq!(told.by(1, counted(1, &members)), [failed(&[1], given_up)], "it was dead, they said");
    }

    #[test]
    fn a_census_of_the_smaller_part_fails_until_the_rest_is_known_to_be_dead() {
        let mut told = world(3);
        let silent = |rank| Gone::Silent(format!("rank {rank} fell silent"));
        assert_eq!(told.by(2, counted(2, &[0, 1, 2])), []);
        depart(&mut told, 0, silent(0));
        let mail = depart(&mut told, 1, silent(1));
        assert_eq!(mail[1..], [failed(&[2], ExchangeError::Minority { doubtful: vec![0, 1] })]);
        let mut told = world(3);
        for rank in [0, 1] {
            depart(&mut told, rank, silent(rank));
            assert_eq!(depart(&mut told, rank, Gone::Dead("closed".into())), [], "no news");
        }
        assert_eq!(told.by(2, counted(2, &[0, 1, 2])).len(), 3);
    }

    #[test]
    fn those_who_ended_unseen_are_settled_where_nobody_is_left_with_whom_they_might_have_gone_on() {
        let ended = |in_good_order| Gone::Ended { what: "ended meanwhile".into(), in_good_order };
        let settled = |also: Option<Gone>| {
            let mut told = world(4);
            depart(&mut told, 0, ended(false));
            depart(&mut told, 1, ended(true));
            also.map(|how| depart(&mut told, 2, how));
            let mut mail = Mail::new();
            told.ledger.settle_ended(&mut mail);
            mail
        };
        let gone = |rank, how| (Audience::Everybody, FromRoot::Gone { rank, how });
        let all = [gone(0, Gone::Dead("ended meanwhile".into())), gone(1, Gone::Left)];
        assert_eq!(settled(None), all);
        assert_eq!(settled(Some(Gone::Dead("was killed".into()))), all);
        assert_eq!(settled(Some(Gone::Silent("fell silent".into()))), []);
        assert_eq!(settled(Some(Gone::Stopped("is stopped".into()))), []);
    }

    #[test]
    fn newcomers_get_the_next_numbers_when_the_members_admit_them() {
        let mut told = world(2);
        let seat = Seat { door: ([127, 0, 0, 1], 7).into(), process: 1, pid: 1, process_table: String::new() };
        for nonce in [50, 40, 60] {
            told.ledger.enlist(nonce, seat.clone());
        }
        told.ledger.withdraw(60);
        let grow = |from: Rank| ToRoot::Contribute {
            exchange: EXCHANGE,
            members: vec![0, 1],
            terms: Terms::Growing,
            bytes: vec![from as u8],
        };
        assert_eq!(told.by(1, grow(1)), []);
        let mail = told.by(0, grow(0));
        let seats: Roster = [(2, seat.clone()), (3, seat.clone())].into();
        assert_eq!(mail[0], (Audience::Everybody, FromRoot::Roster(seats)));
        for (letter, (rank, nonce)) in mail[1..3].iter().zip([(2, 40), (3, 50)]) {
            let (Audience::Recruit(to), FromRoot::Admitted(admission)) = letter else { panic!("{letter:?}") };
            assert_eq!((*to, admission.rank), (nonce, rank));
            assert_eq!((&admission.recruits[..], &admission.offer[..]), (&[2, 3][..], &[0][..]));
        }
        let numbers = FromRoot::Part { exchange: EXCHANGE, index: 2, bytes: Some(encode_ranks(&[2, 3])) };
        assert_eq!(mail.last(), Some(&(Audience::Ranks(vec![0, 1]), numbers)));
        assert!(!told.by(2, ToRoot::Revoke { comm: 5, error: Error::invalid("as good as any") }).is_empty());
    }

    #[test]
    fn a_member_that_dies_ends_the_growth_for_those_who_wait_also_when_it_had_come() {
        let mut told = world(3);
        let grow = |from: Rank| ToRoot::Contribute {
            exchange: EXCHANGE,
            members: vec![0, 1, 2],
            terms: Terms::Growing,
            bytes: vec![from as u8],
        };
        told.by(0, grow(0));
        told.by(1, grow(1));
        // Rank 2 hears of it before it comes, and shrinks.
        let mail = depart(&mut told, 1, Gone::Dead("was killed".into()));
        let gone = ExchangeError::Gone { rank: 1, what: "was killed".into() };
        assert_eq!(mail[1..], [failed(&[0, 1], gone)]);
    }
}
