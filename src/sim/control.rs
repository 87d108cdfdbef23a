//! The control plane of a simulated job: messages between ranks and their root, signs of life, and the search for the next root
//! when one is gone. What to say and what to make of it is decided by the real thing
//! ([`crate::bootstrap::simulated`]); here it travels.
#![forbid(unsafe_code)]

use super::Bug;
use super::agenda::{Answer, Event, HubId};
use super::climate::MS;
use super::process::{Doing, Life};
use super::recovery::{Aim, Census, Progress};
use super::world::World;
use crate::bootstrap::simulated::{
    Finding, Letters, News, Outcome, RHYTHM, RootSide, Saying, Word, longest_interregnum,
};
use crate::error::Error;
use crate::types::Rank;
use std::collections::BTreeSet;
use std::time::Duration;

/// How many times a job's membership may change before its ranks have had enough.
const EPOCHS: u32 = 3;

/// How long a rank waits for the others to agree on who goes on, and then for the root to say who was missing.
const CENSUS: Duration = Duration::from_secs(20);
const GRACE: Duration = Duration::from_secs(2);

/// How often a root that has not begun to reign looks for those who are missing, and a rank tries a door that may open.
const LOOK_AGAIN: u64 = 20 * MS;
const PAUSE: u64 = 2 * MS;

/// A root, and in whose process.
pub(super) struct Hub {
    pub(super) side: RootSide,
    pub(super) home: Rank,
    pub(super) is_closed: bool,
    /// Those who do not get what it said last.
    pub(super) unheard_by: BTreeSet<Rank>,
}

impl Hub {
    pub(super) fn new(side: RootSide, home: Rank) -> Hub {
        Hub { side, home, is_closed: false, unheard_by: BTreeSet::new() }
    }
}

impl World {
    // Messages.

    /// Everybody says where it can be found, and has heard where the others are: before that no rank has joined.
    pub(super) fn introduce(&mut self) {
        for rank in 0..self.processes.len() {
            for (to, word) in self.hubs[0].side.hear(rank, Saying::seat(rank)) {
                self.processes[to].member.hear(word);
            }
        }
    }

    pub(super) fn tell_root(&mut self, from: Rank, saying: Saying) {
        let Some(hub) = self.processes[from].root.or(self.processes[from].next_root) else { return };
        let at = (self.now + self.climate.control_delay()).max(self.up_by[from]);
        self.up_by[from] = at;
        self.agenda.put(at, Event::Up(hub, from, saying));
    }

    /// A rank has found a communicator failed.
    pub(super) fn revoke(&mut self, rank: Rank, comm: u64, error: &Error) {
        let process = &mut self.processes[rank];
        let saying = process.member.revoke(comm, error);
        if process.is_alone {
            let news = process.member.announce_failure(comm, error);
            self.tell(rank, news);
        }
        self.tell_root(rank, saying);
    }

    fn post(&mut self, hub: HubId, letters: Letters) {
        for (to, word) in letters {
            if self.bug == Some(Bug::DeathUntold) && word.is_of_death() {
                continue;
            }
            let at = (self.now + self.climate.control_delay()).max(self.down_by[to]);
            self.down_by[to] = at;
            self.agenda.put(at, Event::Down(hub, to, word));
        }
    }

    /// A root does something. What it says goes out, and those on whom it hangs up see that after its last words.
    pub(super) fn with_root(&mut self, hub: HubId, act: impl FnOnce(&mut RootSide) -> Letters) {
        if self.hubs[hub].is_closed {
            return;
        }
        let before = self.hubs[hub].side.guests().clone();
        let letters = act(&mut self.hubs[hub].side);
        self.post(hub, letters);
        let is_over = self.hubs[hub].side.is_over();
        self.hubs[hub].is_closed |= is_over;
        let gone: Vec<Rank> =
            before.into_iter().filter(|guest| is_over || !self.hubs[hub].side.guests().contains(guest)).collect();
        gone.into_iter().for_each(|guest| self.hang_up(hub, guest));
    }

    /// The root's end of a connection is gone.
    pub(super) fn hang_up(&mut self, hub: HubId, guest: Rank) {
        let at = (self.now + self.climate.control_delay()).max(self.down_by[guest]);
        self.down_by[guest] = at;
        self.agenda.put(at, Event::RootGone(hub, guest));
    }

    /// A rank's end of its connections is gone.
    pub(super) fn disconnect(&mut self, rank: Rank) {
        let process = &mut self.processes[rank];
        for hub in [process.root.take(), process.next_root.take()].into_iter().flatten() {
            let at = (self.now + self.climate.control_delay()).max(self.up_by[rank]);
            self.up_by[rank] = at;
            self.agenda.put(at, Event::RankGone(hub, rank));
        }
    }

    /// What has happened is news for a rank.
    pub(super) fn tell(&mut self, rank: Rank, news: Vec<News>) {
        for news in &news {
            self.log(rank, || format!("learns {news:?}"));
        }
        self.processes[rank].tell(news);
        self.ring(rank);
    }

    /// Wakes a rank if what it has heard says so.
    fn ring(&mut self, rank: Rank) {
        if self.processes[rank].was_woken() {
            self.wake(rank);
        }
    }

    /// A message of a root has reached a rank.
    pub(super) fn read(&mut self, hub: HubId, rank: Rank, word: Word) {
        let process = &mut self.processes[rank];
        if process.next_root == Some(hub) && word.is_reign() {
            (process.root, process.next_root) = (Some(hub), None);
            self.judge.tally.successions += 1;
            self.log(rank, || format!("follows root {hub}"));
            self.hear_word(rank, word);
            let now = self.moment();
            self.processes[rank].member.follow(now);
            self.processes[rank].tries = None;
            if self.bug == Some(Bug::ReportLate) {
                self.introduce_again(rank);
            }
        } else if process.root == Some(hub) {
            self.hear_word(rank, word);
        }
    }

    fn hear_word(&mut self, rank: Rank, word: Word) {
        if !word.is_alive() {
            self.log(rank, || format!("hears {word:?}"));
        }
        let (news, answer) = self.processes[rank].member.hear(word);
        self.tell(rank, news);
        if let Some(answer) = answer {
            self.tell_root(rank, answer);
        }
        self.conclude(rank);
        let member = &mut self.processes[rank].member;
        let (is_expelled, has_deposed_root) = (member.is_expelled(), member.has_deposed_root());
        if is_expelled {
            self.expelled(rank);
        } else if has_deposed_root {
            self.lose_root(rank, Some(Finding::Silent));
        }
    }

    // Signs of life.

    pub(super) fn pulse(&mut self, rank: Rank) {
        let now = self.moment();
        let process = &mut self.processes[rank];
        if process.life != Life::Runs || process.is_alone {
            return;
        }
        if process.root.is_some() {
            if process.member.has_silent_root(now) {
                self.log(rank, || "gives up its root, which is silent".into());
                let home = self.processes[rank].root.map(|hub| self.hubs[hub].home);
                match home.is_some_and(|home| self.judge.may_name(home)) {
                    // Should the root go on after all, it goes on without this rank.
                    true => self.judge.blame(rank),
                    false => self.judge.accuse(format!("rank {rank} gave up a root that did nothing")),
                }
                self.tell_root(rank, Saying::deposed());
                self.lose_root(rank, Some(Finding::Silent));
            } else {
                self.tell_root(rank, Saying::alive());
            }
        }
        self.agenda.put(self.now + RHYTHM.interval.as_nanos() as u64, Event::Pulse(rank));
    }

    pub(super) fn watch(&mut self, hub: HubId) {
        let now = self.moment();
        let home = self.hubs[hub].home;
        let has_ended = |rank: Rank| matches!(self.processes[rank].life, Life::Dead | Life::Left);
        let ended: Vec<bool> =
            (0..self.processes.len()).map(|rank| has_ended(rank) && self.can_reach(home, rank)).collect();
        let was_reigning = self.hubs[hub].side.is_reigning();
        self.with_root(hub, |side| side.keep_watch(now, |rank| ended[rank]));
        if !self.hubs[hub].is_closed {
            let pause = if was_reigning { RHYTHM.interval.as_nanos() as u64 } else { LOOK_AGAIN };
            self.agenda.put(self.now + pause, Event::Watch(hub));
        }
    }

    /// Whether nothing more is to be expected of anybody.
    pub(super) fn is_quiet(&self) -> bool {
        !self.agenda.is_busy()
            && self
                .processes
                .iter()
                .all(|process| process.is_at_rest() || (process.life == Life::Frozen && !process.thaws))
    }

    // The search for a root.

    pub(super) fn root_gone(&mut self, hub: HubId, rank: Rank) {
        let process = &mut self.processes[rank];
        if process.life != Life::Runs {
            return;
        }
        if process.next_root == Some(hub) {
            process.next_root = None;
            self.seek(rank);
        } else if process.root == Some(hub) {
            self.lose_root(rank, None);
        }
    }

    fn lose_root(&mut self, rank: Rank, finding: Option<Finding>) {
        self.log(rank, || format!("has lost its root: {finding:?}"));
        self.disconnect(rank);
        let news = self.processes[rank].member.lose_root(finding);
        self.tell(rank, news);
        self.seek(rank);
    }

    /// Knocks at the first door that may be the next root's.
    fn seek(&mut self, rank: Rank) {
        if self.processes[rank].is_alone {
            return;
        }
        if self.processes[rank].member.is_expelled() {
            return self.expelled(rank);
        }
        // The root may die before it has told anybody where the others are.
        let Some(heir) = self.processes[rank].member.heir() else { return self.end(rank) };
        if heir == rank && !self.hubs.iter().any(|hub| hub.home == rank && !hub.is_closed) {
            self.log(rank, || "takes over".into());
            self.judge.tally.takeovers += 1;
            let trusts_ends = self.bug == Some(Bug::EndTrusted);
            let side = RootSide::succeed(&self.processes[rank].member, trusts_ends, self.moment());
            self.hubs.push(Hub::new(side, rank));
            self.agenda.put(self.now + LOOK_AGAIN, Event::Watch(self.hubs.len() - 1));
        }
        let since = self.processes[rank].tries.filter(|(tried, _)| *tried == heir).map_or(self.now, |(_, since)| since);
        self.processes[rank].tries = Some((heir, since));
        // When patience is over it is tried a last time: this process may have slept over the answer.
        let patience = RHYTHM.timeout.as_nanos() as u64;
        let patience = if self.now - since > patience { patience / 2 } else { patience };
        self.processes[rank].attempt += 1;
        let attempt = self.processes[rank].attempt;
        let at = self.now + self.climate.control_delay();
        self.agenda.put(at, Event::Knock { rank, at: heir, attempt });
        self.be_patient(rank, patience);
    }

    /// Waits so long for what comes of its attempt.
    fn be_patient(&mut self, rank: Rank, patience: u64) {
        let until = self.now + patience;
        let process = &mut self.processes[rank];
        process.patient_until = until;
        let silence = Event::Answer { rank, attempt: process.attempt, answer: Answer::Silence };
        self.agenda.put(until, silence);
    }

    /// Tells the root that it has found what it knows.
    fn introduce_again(&mut self, rank: Rank) {
        let introduction = self.processes[rank].member.introduction();
        introduction.into_iter().for_each(|saying| self.tell_root(rank, saying));
    }

    pub(super) fn knock(&mut self, rank: Rank, door: Rank, attempt: u64) {
        let caller = &self.processes[rank];
        if caller.attempt != attempt || caller.root.is_some() || caller.next_root.is_some() {
            return;
        }
        let hub = self.hubs.iter().position(|hub| hub.home == door && !hub.is_closed);
        // The process of a root goes on when its rank has left.
        if self.processes[door].life == Life::Dead || (self.processes[door].life == Life::Left && hub.is_none()) {
            return self.answer_in(rank, attempt, Answer::NobodyThere);
        }
        if let Some(hub) = hub {
            let mut word = None;
            self.with_root(hub, |side| {
                let (letters, objection) = side.take_back(rank);
                word = objection;
                letters
            });
            return match word {
                Some(word) => self.answer_in(rank, attempt, Answer::Word(word)),
                None => self.answer_in(rank, attempt, Answer::Inside(hub)),
            };
        }
        let host = &self.processes[door];
        if let Some(word) = host.member.gives_up(rank) {
            return self.answer_in(rank, attempt, Answer::Word(word));
        }
        let elsewhere = host.root.filter(|_| host.member.reign() > self.processes[rank].member.reign());
        let (at, pause) = elsewhere.map_or((door, PAUSE), |hub| (self.hubs[hub].home, self.climate.control_delay()));
        self.agenda.put(self.now + pause, Event::Knock { rank, at, attempt });
    }

    fn answer_in(&mut self, rank: Rank, attempt: u64, answer: Answer) {
        let at = self.now + self.climate.control_delay();
        self.agenda.put(at, Event::Answer { rank, attempt, answer });
    }

    pub(super) fn answered(&mut self, rank: Rank, attempt: u64, answer: Answer) {
        let now = self.now;
        let process = &self.processes[rank];
        if process.attempt != attempt || process.root.is_some() || process.is_alone {
            if let Answer::Inside(hub) = answer {
                // Nobody waits behind that door any more.
                let at = now + self.climate.control_delay();
                self.agenda.put(at, Event::RankGone(hub, rank));
            }
            return;
        }
        let (heir, tries) = (process.member.heir(), process.tries);
        let patience = RHYTHM.timeout.as_nanos() as u64;
        let waited = tries.map_or(0, |(_, since)| now - since);
        let news = match (answer, heir) {
            (Answer::Word(word), _) => self.processes[rank].member.hear(word).0,
            (Answer::Inside(hub), _) => return self.enter(rank, hub),
            (Answer::Silence, _) if now < process.patient_until => return,
            (Answer::Silence, Some(heir)) => {
                // Whoever let it in is told that it waits no more.
                self.tell_root(rank, Saying::deposed());
                self.disconnect(rank);
                match heir == rank {
                    true if waited > 3 * patience => return self.end(rank),
                    false if waited > patience => self.processes[rank].member.miss_heir(heir, Finding::Silent),
                    _ => Vec::new(),
                }
            }
            (Answer::NobodyThere, Some(heir)) if heir != rank => {
                self.processes[rank].member.miss_heir(heir, Finding::Ended)
            }
            _ => Vec::new(),
        };
        self.tell(rank, news);
        self.seek(rank);
    }

    /// A root, or one that may become it, waits for what the rank knows.
    fn enter(&mut self, rank: Rank, hub: HubId) {
        let Hub { side, is_closed, .. } = &self.hubs[hub];
        if *is_closed || !side.guests().contains(&rank) {
            return self.seek(rank);
        }
        self.processes[rank].next_root = Some(hub);
        match self.bug == Some(Bug::ReportLate) {
            true => self.tell_root(rank, Saying::empty_report()),
            false => self.introduce_again(rank),
        }
        // The successor waits for all who may still come.
        self.be_patient(rank, longest_interregnum().as_nanos() as u64);
    }

    /// The others have given a rank up. They need a reason.
    fn expelled(&mut self, rank: Rank) {
        if !self.processes[rank].is_alone && !self.judge.may_name(rank) {
            self.judge.accuse(format!("rank {rank} was given up by the others without a reason"));
        }
        self.end(rank);
    }

    /// No root is left for a rank: it is cut off from the rest of the job.
    fn end(&mut self, rank: Rank) {
        if std::mem::replace(&mut self.processes[rank].is_alone, true) {
            return;
        }
        self.judge.cast_out(rank);
        self.log(rank, || "is of the job no more".into());
        self.judge.tally.expelled += 1;
        self.disconnect(rank);
        if let Doing::Agrees(_) = self.processes[rank].doing {
            self.give_up(rank, "is of the job no more");
        }
    }

    // What ranks agree on.

    /// All calls of a rank have ended well: have they for the others?
    pub(super) fn agree(&mut self, rank: Rank) {
        self.take_census(rank, Aim::Agree(true));
    }

    /// A rank's communicator has failed.
    pub(super) fn recover(&mut self, rank: Rank) {
        let Some(session) = &self.processes[rank].session else { return };
        if session.epoch + 1 >= EPOCHS {
            self.processes[rank].is_asleep = true;
            return self.give_up(rank, "has had enough");
        }
        // A rank may still be about to agree on a step when others have begun to shrink.
        let after = if self.dice.permille(250) { self.dice.between(1, 2) as u32 } else { 0 };
        self.take_census(rank, Aim::Shrink { after });
    }

    fn take_census(&mut self, rank: Rank, aim: Aim) {
        let process = &mut self.processes[rank];
        process.is_asleep = true;
        let Some(session) = &process.session else { return };
        let (members, number) = (session.members.clone(), session.censuses);
        let census = Census::begin(session.comm, session.epoch, members, number, aim);
        process.doing = Doing::Agrees(Box::new(census));
        self.ask(rank);
    }

    /// Takes part in the exchange that its census has come to, for so long.
    fn ask(&mut self, rank: Rank) {
        let process = &mut self.processes[rank];
        let Doing::Agrees(census) = &process.doing else { return };
        let (exchange, mine) = (census.exchange(), census.contribution());
        self.judge.tally.censuses += u64::from(census.counts().is_some());
        if exchange.members.len() == 1 {
            // Nobody else is asked, root or no root.
            return self.proceed(rank, Ok(vec![Some(mine)]));
        }
        if process.is_alone {
            return self.give_up(rank, "is of the job no more");
        }
        let (exchange, saying) = process.member.contribute(exchange, mine);
        process.exchange = Some(exchange);
        self.log(rank, || format!("says {saying:?}"));
        self.tell_root(rank, saying);
        let deadline = Event::Deadline { rank, exchange, is_final: false };
        self.agenda.put(self.now + CENSUS.as_nanos() as u64, deadline);
    }

    /// Goes on with its census, if the exchange has ended.
    fn conclude(&mut self, rank: Rank) {
        let process = &mut self.processes[rank];
        let Some(outcome) = process.exchange.and_then(|exchange| process.member.outcome(exchange)) else { return };
        process.exchange = None;
        self.proceed(rank, outcome);
    }

    fn proceed(&mut self, rank: Rank, outcome: Outcome) {
        let process = &mut self.processes[rank];
        let Doing::Agrees(census) = &mut process.doing else { return };
        if let (Some((comm, number)), Ok(parts)) = (census.counts(), &outcome) {
            self.judge.counted(rank, comm, number, parts);
        }
        let progress = census.conclude(outcome);
        let number = census.number;
        let before = process.session.as_mut().map(|session| {
            session.censuses = number;
            session.comm
        });
        match progress {
            Progress::Asks => self.ask(rank),
            Progress::Agreed(true) => self.content(rank),
            Progress::Agreed(false) => {
                self.judge.tally.disagreed += 1;
                self.log(rank, || "hears that not all is well".into());
                self.recover(rank);
            }
            Progress::Fails(why) => self.give_up(rank, why),
            Progress::Late => self.judge.accuse(format!("rank {rank} waited in vain for the others to agree")),
            Progress::Together(identity, members) => {
                self.log(rank, || format!("goes on with {members:?}"));
                self.judge.tally.shrunk += 1;
                self.drop_session(rank);
                self.assemble(rank, identity, &members, before);
            }
        }
    }

    pub(super) fn deadline(&mut self, rank: Rank, exchange: [u8; 16], is_final: bool) {
        let process = &mut self.processes[rank];
        if process.exchange != Some(exchange) || process.life != Life::Runs {
            return;
        }
        if is_final {
            process.member.abandon(exchange);
            return self.give_up(rank, "the root does not answer");
        }
        let saying = process.member.give_up(exchange);
        self.tell_root(rank, saying);
        let at = self.now + GRACE.as_nanos() as u64;
        self.agenda.put(at, Event::Deadline { rank, exchange, is_final: true });
    }

    pub(super) fn give_up(&mut self, rank: Rank, why: &'static str) {
        self.log(rank, || format!("gives up: {why}"));
        *self.judge.tally.gave_up.entry(why).or_default() += 1;
        self.processes[rank].exchange = None;
        self.processes[rank].doing = Doing::Out;
        self.agenda.put(self.now + MS, Event::Leaves(rank));
    }
}
