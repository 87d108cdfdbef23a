//! What a root decides once all seats are taken: who is given up, when a successor begins to reign, what is said to whom. It
//! knows no connection and no clock: [`super::root`] carries out what it decides, and the simulation does so without sockets.
//!
//! ```text
//!   first root   ----------------------------------------------------> Running: the ledger
//!   successor    ---> Succeeding --(all who live have reported)----->
//! ```
#![forbid(unsafe_code)]

use super::laggards::Laggards;
use super::ledger::{Audience, Ledger, Mail};
use super::messages::{Admission, FromRoot, Gone, ToRoot};
use super::roster::Seat;
use super::standby::silence;
use super::succession::{Succession, patience};
use super::vigil::{Rhythm, Vigil, Wakefulness};
use crate::types::Rank;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// Between two looks at those who have not come to a succession.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// What the root is to do, in this order.
#[derive(Debug)]
pub(super) enum Deed {
    /// Say something to these ranks, which are here.
    Say(Vec<Rank>, FromRoot),
    /// Make a newcomer, here by its nonce, a rank, and tell it so.
    Admit(u64, Box<Admission>),
    /// Remove what the job keeps outside itself: the last rank leaves, in good order.
    Retire,
    /// Hang up on a rank, after what was said to it.
    HangUp(Rank),
}

/// What can be seen of a rank from outside.
pub(super) trait Lookout {
    /// True when its process is known to have ended. To knock at its door takes time, and makes a stranger there.
    fn has_ended(&self, rank: Rank, seat: &Seat, may_knock: bool) -> bool;

    /// True when its process is seen to be stopped.
    fn is_still(&self, seat: &Seat) -> bool;
}

/// The root's knowledge, and its decisions.
pub(super) struct Office {
    phase: Phase,
    /// The process that it is in.
    process: u64,
    reign: u32,
    rhythm: Rhythm,
    vigil: Vigil,
    laggards: Laggards,
    /// Who is here.
    guests: BTreeSet<Rank>,
    /// Who waits to become a rank, by nonce, and where it will be found.
    recruits: BTreeMap<u64, Seat>,
    /// Enough ranks have given this root up.
    is_deposed: bool,
}

enum Phase {
    Succeeding(Box<Succession>, Wait),
    Running(Box<Ledger>),
}

/// For those who have not come to a succession.
struct Wait {
    /// For how long, without what this process slept.
    waking: Wakefulness,
    /// When to try their doors: soon, then ever more seldom.
    knock_at: Duration,
}

impl Office {
    /// Of the first root of a job, in the process `process`. All its `guests` are here.
    pub(super) fn first(
        ledger: Ledger,
        rhythm: Rhythm,
        process: u64,
        guests: impl IntoIterator<Item = Rank>,
        now: Instant,
    ) -> Office {
        let mut office = Office::over(Phase::Running(Box::new(ledger)), rhythm, process, now);
        office.guests.extend(guests);
        office.watch_all(now);
        office
    }

    /// Of the root that comes after one that is gone. Nobody is here yet.
    pub(super) fn succeed(succession: Succession, rhythm: Rhythm, process: u64, now: Instant) -> Office {
        let most_between = (2 * rhythm.interval).max(5 * LOOK_AGAIN);
        let wait = Wait { waking: Wakefulness::new(most_between, now), knock_at: LOOK_AGAIN };
        Office::over(Phase::Succeeding(Box::new(succession), wait), rhythm, process, now)
    }

    fn over(phase: Phase, rhythm: Rhythm, process: u64, now: Instant) -> Office {
        Office {
            phase,
            process,
            reign: 0,
            rhythm,
            vigil: Vigil::new(rhythm, now),
            laggards: Laggards::default(),
            guests: BTreeSet::new(),
            recruits: BTreeMap::new(),
            is_deposed: false,
        }
    }

    /// Who is here.
    #[cfg(any(test, feature = "sim"))]
    pub(super) fn guests(&self) -> &BTreeSet<Rank> {
        &self.guests
    }

    /// What is known of the job, once the reign has begun.
    pub(super) fn ledger(&mut self) -> Option<&mut Ledger> {
        match &mut self.phase {
            Phase::Running(ledger) => Some(ledger),
            Phase::Succeeding(..) => None,
        }
    }

    pub(super) fn is_reigning(&self) -> bool {
        matches!(self.phase, Phase::Running(_))
    }

    pub(super) fn reign(&self) -> u32 {
        self.reign
    }

    /// Nobody needs this root any more, or enough ranks have given it up.
    pub(super) fn is_over(&self) -> bool {
        self.is_deposed || (self.guests.is_empty() && self.is_reigning())
    }

    /// Enough ranks have given this root up.
    #[cfg(any(test, feature = "sim"))]
    pub(super) fn is_deposed(&self) -> bool {
        self.is_deposed
    }

    /// When to [`Office::keep_watch`].
    pub(super) fn next_look(&self, now: Instant) -> Option<Instant> {
        match &self.phase {
            Phase::Succeeding(..) => Some(now + LOOK_AGAIN),
            Phase::Running(_) => self.vigil.next_look(),
        }
    }

    /// True when something has to be done because time has passed.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        !self.is_reigning() || self.vigil.next_look().is_some_and(|at| at <= now)
    }

    /// A guest gives a sign of life.
    pub(super) fn feel(&mut self, rank: Rank) {
        self.vigil.hear(rank);
    }

    /// A guest says something.
    pub(super) fn hear(&mut self, from: Rank, message: ToRoot) -> Vec<Deed> {
        match &message {
            ToRoot::Deposed { is_certain } => return self.given_up_by(from, *is_certain),
            ToRoot::Standing(standing) => self.laggards.note(from, standing, self.vigil.awake()),
            _ => {}
        }
        let has_left = message == ToRoot::Bye;
        if has_left {
            self.forget(from);
        }
        let mut mail = Mail::new();
        match &mut self.phase {
            Phase::Running(ledger) => ledger.receive(from, message, &mut mail),
            Phase::Succeeding(succession, _) => succession.hear(from, message),
        }
        let mut deeds = self.address(mail);
        if has_left {
            // All that is done before the leaver sees its connection close: its process may end right after.
            deeds.extend(self.guests.is_empty().then_some(Deed::Retire));
            deeds.push(Deed::HangUp(from));
        }
        deeds
    }

    /// A guest is here no more.
    pub(super) fn lose(&mut self, rank: Rank, what: &str) -> Vec<Deed> {
        self.forget(rank);
        let mut mail = Mail::new();
        match &mut self.phase {
            Phase::Running(ledger) => ledger.depart(rank, Gone::Dead(what.to_string()), &mut mail),
            Phase::Succeeding(succession, _) => succession.vacate(rank),
        }
        self.address(mail)
    }

    /// A rank that has lost its root comes. What is against it, if something is; else it is a guest.
    pub(super) fn take_back(&mut self, rank: Rank) -> (Vec<Deed>, Option<Gone>) {
        match &mut self.phase {
            Phase::Succeeding(succession, _) => {
                let objection = succession.admit(rank).err();
                if objection.is_none() {
                    self.guests.insert(rank);
                }
                (Vec::new(), objection)
            }
            Phase::Running(ledger) => {
                // The others go on already, without those who did not come in time.
                let mut mail = Mail::new();
                let what = "came back when the others had gone on without it".to_string();
                ledger.depart(rank, Gone::Silent(what), &mut mail);
                let how = ledger.fate(rank).cloned();
                let mut deeds = self.address(mail);
                self.forget(rank);
                deeds.push(Deed::HangUp(rank));
                (deeds, how)
            }
        }
    }

    /// Somebody who is here waits to become a rank, and will be found there.
    pub(super) fn enlist(&mut self, nonce: u64, seat: Seat) {
        if let Phase::Running(ledger) = &mut self.phase {
            ledger.enlist(nonce, seat.clone());
        }
        self.recruits.insert(nonce, seat);
    }

    /// It waits no more.
    pub(super) fn withdraw(&mut self, nonce: u64) {
        self.recruits.remove(&nonce);
        if let Phase::Running(ledger) = &mut self.phase {
            ledger.withdraw(nonce);
        }
    }

    /// Time has passed.
    pub(super) fn keep_watch(&mut self, now: Instant, lookout: &dyn Lookout) -> Vec<Deed> {
        match &mut self.phase {
            Phase::Succeeding(succession, Wait { waking, knock_at }) => {
                waking.look(now);
                if waking.asleep() > self.rhythm.timeout {
                    return self.step_back();
                }
                let waited = waking.awake();
                let may_knock = waited > *knock_at;
                *knock_at *= if may_knock { 2 } else { 1 };
                for (rank, seat) in succession.absent() {
                    if lookout.has_ended(rank, &seat, may_knock) {
                        succession.miss_ended(rank);
                        continue;
                    }
                    let is_late = waited > self.rhythm.timeout;
                    let is_still = is_late && lookout.is_still(&seat);
                    if is_still || waited > patience(self.rhythm.timeout) {
                        succession.miss(rank, silence(rank, is_still, waited));
                    }
                }
                self.reign_when_complete(now)
            }
            Phase::Running(ledger) => {
                self.vigil.look(now);
                let mut mail = vec![(Audience::Everybody, FromRoot::Alive)];
                let silent = self.vigil.silent();
                for &(rank, silent_for) in &silent {
                    let is_still = ledger.seat(rank).is_some_and(|seat| lookout.is_still(seat));
                    ledger.depart(rank, silence(rank, is_still, silent_for), &mut mail);
                }
                for laggard in self.laggards.overdue(self.rhythm.timeout, self.vigil.awake()) {
                    tracing::warn!("{laggard}");
                }
                // Should one of the silent wake up, it finds this, and knows that it was given up.
                let mut deeds = self.address(mail);
                for (rank, _) in silent {
                    self.forget(rank);
                    deeds.push(Deed::HangUp(rank));
                }
                deeds
            }
        }
    }

    /// This process slept while it was to take over, so long that the others have given it up and gone on without it.
    fn step_back(&mut self) -> Vec<Deed> {
        let Phase::Succeeding(succession, _) = &self.phase else { return Vec::new() };
        let how =
            Gone::Silent("slept while it was to become the next root, and the others have gone on without it".into());
        let beside = succession.beside(self.process).into_iter();
        let mail = beside.map(|rank| (Audience::Everybody, FromRoot::Gone { rank, how: how.clone() })).collect();
        tracing::warn!("this process slept while it was to become the next root");
        self.is_deposed = true;
        self.address(mail)
    }

    /// Begins to reign if everybody who lives is here.
    fn reign_when_complete(&mut self, now: Instant) -> Vec<Deed> {
        let Phase::Succeeding(succession, _) = &mut self.phase else { return Vec::new() };
        if !succession.absent().is_empty() {
            return Vec::new();
        }
        // Nothing is in it any more once it is taken; the phase changes two lines below.
        let succession = std::mem::replace(&mut **succession, Succession::nobodys());
        self.reign = succession.reign();
        let (mut ledger, mail) = succession.conclude(self.process);
        for (&nonce, seat) in &self.recruits {
            ledger.enlist(nonce, seat.clone());
        }
        self.phase = Phase::Running(Box::new(ledger));
        self.watch_all(now);
        self.address(mail)
    }

    /// `rank` did not hear this root for too long, and looks for another.
    fn given_up_by(&mut self, rank: Rank, is_certain: bool) -> Vec<Deed> {
        self.forget(rank);
        let mut deeds = vec![Deed::HangUp(rank)];
        let ledger = match &mut self.phase {
            Phase::Running(ledger) => ledger,
            // It is not here any more, whatever it has said before.
            Phase::Succeeding(succession, _) => {
                succession.vacate(rank);
                return deeds;
            }
        };
        let mut mail = Mail::new();
        ledger.depart(rank, Gone::Silent("has given up the root".into()), &mut mail);
        ledger.contest();
        // Seen to be stopped, this process was taken for dead. Else it may go on, if enough still follow.
        let may_go_on = !is_certain && ledger.may_go_on();
        deeds.extend(if may_go_on { self.address(mail) } else { self.abdicate() });
        deeds
    }

    /// Others have given this root up, and it may not go on without them.
    pub(super) fn abdicate(&mut self) -> Vec<Deed> {
        tracing::warn!("this root was silent, and the others have given it up");
        self.is_deposed = true;
        self.address(vec![(Audience::Everybody, FromRoot::Deposed)])
    }

    /// Mail, for those who are here.
    pub(super) fn address(&mut self, mail: Mail) -> Vec<Deed> {
        mail.into_iter().map(|(audience, message)| self.direct(audience, message)).collect()
    }

    fn direct(&mut self, audience: Audience, message: FromRoot) -> Deed {
        match (audience, message) {
            (Audience::Recruit(nonce), FromRoot::Admitted(admission)) => self.admit(nonce, admission),
            (Audience::Recruit(_), message) => Deed::Say(Vec::new(), message),
            (Audience::Everybody, message) => Deed::Say(self.guests.iter().copied().collect(), message),
            (Audience::Ranks(ranks), message) => {
                Deed::Say(ranks.into_iter().filter(|rank| self.guests.contains(rank)).collect(), message)
            }
        }
    }

    fn admit(&mut self, nonce: u64, mut admission: Box<Admission>) -> Deed {
        self.recruits.remove(&nonce);
        admission.reign = self.reign;
        if let Phase::Running(ledger) = &self.phase {
            admission.beside_root = ledger.beside(self.process);
        }
        self.guests.insert(admission.rank);
        self.vigil.hear(admission.rank);
        Deed::Admit(nonce, admission)
    }

    fn forget(&mut self, rank: Rank) {
        self.guests.remove(&rank);
        self.vigil.forget(rank);
        self.laggards.forget(rank);
    }

    fn watch_all(&mut self, now: Instant) {
        self.vigil = Vigil::new(self.rhythm, now);
        self.laggards = Laggards::default();
        self.guests.iter().for_each(|guest| self.vigil.hear(*guest));
    }
}
