//! The control plane without sockets and threads, for the simulation: what one rank knows, what a root decides, and their
//! messages as things to be carried. All that is decided here is decided by [`Knowledge`], [`Office`] and [`Vigil`]; the rest
//! is what [`super::listening`] and [`super::seek`] do around them with connections.
#![forbid(unsafe_code)]

use super::knowledge::{Event, Knowledge};
use super::ledger::Ledger;
use super::member::exchange_id;
use super::messages::{ExchangeError, ExchangeId, FromRoot, Gone, Report, Terms, ToRoot};
use super::office::{Deed, Lookout, Office};
use super::roster::Seat;
use super::succession::{self, Inheritance, Succession};
use super::vigil::{Rhythm, Vigil};
use crate::error::{Error, Signature};
use crate::types::Rank;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// How often signs of life are given, and how long none is a sign of death: the defaults.
pub(crate) const RHYTHM: Rhythm = Rhythm { interval: Duration::from_millis(100), timeout: Duration::from_secs(1) };

/// How long a rank waits for the reign of a successor that has let it in.
pub(crate) fn longest_interregnum() -> Duration {
    succession::longest_interregnum(RHYTHM.timeout)
}

/// What is said of a rank whose process has ended.
const ENDED: &str = "closed its control connection without a goodbye";

/// The one that a rank watches.
const ROOT: Rank = 0;

/// What a rank says to its root.
#[derive(Debug, Clone)]
pub(crate) struct Saying(ToRoot);

/// What a root says to a rank.
#[derive(Debug, Clone)]
pub(crate) struct Word(FromRoot);

/// What a rank's communicators are told.
#[derive(Debug)]
pub(crate) enum News {
    Lost(Rank, String),
    Left(Rank),
    Revoked(u64, Error),
}

/// What each member of an exchange gave, or why it failed.
pub(crate) type Outcome = Result<Vec<Option<Vec<u8>>>, Failure>;

/// Why an exchange failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    Late,
    Gone,
    Minority,
}

/// An exchange: all its members name it alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Exchange {
    pub(crate) tag: u64,
    pub(crate) members: Vec<Rank>,
    /// Those who are gone are not waited for.
    pub(crate) among_living: bool,
}

/// How a rank went, as another finds out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Finding {
    /// Its process has ended.
    Ended,
    /// It does not answer.
    Silent,
}

impl Finding {
    fn gone(self) -> Gone {
        match self {
            Finding::Ended => Gone::Ended { what: ENDED.into(), in_good_order: false },
            Finding::Silent => Gone::Silent("has given no sign of life".into()),
        }
    }
}

/// Where a rank is to be found: in a simulation, nowhere.
fn seat(rank: Rank) -> Seat {
    Seat { door: ([127, 0, 0, 1], 1 + rank as u16).into(), process: rank as u64, pid: 0, process_table: String::new() }
}

impl Saying {
    pub(crate) fn alive() -> Saying {
        Saying(ToRoot::Alive)
    }

    pub(crate) fn goodbye() -> Saying {
        Saying(ToRoot::Bye)
    }

    /// A report of nothing at all.
    pub(crate) fn empty_report() -> Saying {
        Saying(ToRoot::Report(Report::default()))
    }

    pub(crate) fn seat(rank: Rank) -> Saying {
        Saying(ToRoot::Seat(seat(rank)))
    }

    /// This root has been silent for too long.
    pub(crate) fn deposed() -> Saying {
        Saying(ToRoot::Deposed { is_certain: false })
    }

    pub(crate) fn stalled(comm: u64, rank: Rank, signature: Signature, waiting_for: Vec<Rank>) -> Saying {
        Saying(ToRoot::Stalled { comm, rank, signature, waiting_for })
    }

    pub(crate) fn is_goodbye(&self) -> bool {
        self.0 == ToRoot::Bye
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.0 == ToRoot::Alive
    }
}

impl Word {
    pub(crate) fn is_alive(&self) -> bool {
        self.0 == FromRoot::Alive
    }

    /// A new root reigns.
    pub(crate) fn is_reign(&self) -> bool {
        matches!(self.0, FromRoot::Reign { .. })
    }

    /// Tells somebody of a death.
    pub(crate) fn is_of_death(&self) -> bool {
        matches!(&self.0, FromRoot::Gone { how, .. } if *how != Gone::Left)
    }
}

/// One rank's side.
pub(crate) struct MemberSide {
    me: Rank,
    knowledge: Knowledge,
    vigil: Vigil,
}

impl MemberSide {
    /// Of a rank of a job whose root is in the process of rank `home`.
    pub(crate) fn new(me: Rank, home: Rank, now: Instant) -> MemberSide {
        let mut member = MemberSide { me, knowledge: Knowledge::new(me, vec![home]), vigil: Vigil::new(RHYTHM, now) };
        member.vigil.hear(ROOT);
        member
    }

    /// The root has spoken: what is new, and what to answer.
    pub(crate) fn hear(&mut self, Word(message): Word) -> (Vec<News>, Option<Saying>) {
        self.vigil.hear(ROOT);
        let upshot = self.knowledge.hear(message);
        (news(upshot.events), upshot.answer.map(Saying))
    }

    /// What is told to whoever asks late.
    pub(crate) fn so_far(&self, comm: u64) -> Vec<News> {
        let gone = self.knowledge.gone().iter().map(|(rank, how)| Event::Gone(*rank, how.clone()));
        let revoked = self.knowledge.revoked(comm).map(|error| Event::Revoked(comm, error.clone()));
        news(gone.chain(revoked).collect())
    }

    /// Looks at the time: true when the root has been silent for too long.
    pub(crate) fn has_silent_root(&mut self, now: Instant) -> bool {
        self.vigil.look(now);
        !self.vigil.silent().is_empty()
    }

    pub(crate) fn revoke(&mut self, comm: u64, error: &Error) -> Saying {
        Saying(self.knowledge.declare_failed(comm, error))
    }

    /// Where there is no root any more, a rank tells itself.
    pub(crate) fn announce_failure(&mut self, comm: u64, error: &Error) -> Vec<News> {
        self.announce(Event::Revoked(comm, error.clone()))
    }

    /// Begins an exchange. Its name, and what to tell the root.
    pub(crate) fn contribute(&mut self, exchange: Exchange, bytes: Vec<u8>) -> (ExchangeId, Saying) {
        let Exchange { tag, members, among_living } = exchange;
        let (exchange, count) = (exchange_id(tag, &members), members.len());
        let terms = if among_living { Terms::Living } else { Terms::All };
        let message = ToRoot::Contribute { exchange, members, terms, bytes };
        self.knowledge.begin(exchange, message.clone(), count);
        (exchange, Saying(message))
    }

    pub(crate) fn give_up(&mut self, exchange: ExchangeId) -> Saying {
        Saying(self.knowledge.give_up(exchange))
    }

    pub(crate) fn outcome(&mut self, exchange: ExchangeId) -> Option<Outcome> {
        let outcome = self.knowledge.outcome(exchange)?;
        Some(outcome.map_err(|error| match error {
            ExchangeError::Late { .. } => Failure::Late,
            ExchangeError::Gone { .. } => Failure::Gone,
            // The embedded store, which is simulated, grants what the majority wants.
            ExchangeError::Minority { .. } | ExchangeError::NotGranted { .. } => Failure::Minority,
        }))
    }

    pub(crate) fn abandon(&mut self, exchange: ExchangeId) {
        self.knowledge.abandon(exchange);
    }

    /// The connection to the root has ended, or it fell silent. How it went is known only in the second case.
    pub(crate) fn lose_root(&mut self, finding: Option<Finding>) -> Vec<News> {
        news(self.knowledge.lose_root(finding.map(Finding::gone).as_ref()))
    }

    /// Who is to be the next root.
    pub(crate) fn heir(&self) -> Option<Rank> {
        self.knowledge.heirs().first().map(|(rank, _)| *rank)
    }

    /// Nobody answers at the heir's door.
    pub(crate) fn miss_heir(&mut self, heir: Rank, finding: Finding) -> Vec<News> {
        if finding == Finding::Ended && self.knowledge.was_beside_root(heir) {
            return self.lose_root(Some(finding));
        }
        let how = if finding == Finding::Ended { self.knowledge.ended_meanwhile() } else { finding.gone() };
        self.announce(Event::Gone(heir, how))
    }

    /// What it tells whoever is, or may become, the next root.
    pub(crate) fn introduction(&self) -> Vec<Saying> {
        self.knowledge.introduction().into_iter().map(Saying).collect()
    }

    /// This rank follows a root again.
    pub(crate) fn follow(&mut self, now: Instant) {
        self.vigil = Vigil::new(RHYTHM, now);
        self.vigil.hear(ROOT);
    }

    /// The others have given this rank up, or the root beside it.
    pub(crate) fn is_expelled(&mut self) -> bool {
        if self.knowledge.root_is_deposed() && self.knowledge.is_beside_root() {
            self.announce(Event::Gone(
                self.me,
                Gone::Silent("was silent for so long that the others gave it up".into()),
            ));
        }
        self.knowledge.expelled().is_some()
    }

    /// The root that it follows was given up by the others.
    pub(crate) fn has_deposed_root(&self) -> bool {
        self.knowledge.root_is_deposed()
    }

    pub(crate) fn reign(&self) -> u32 {
        self.knowledge.reign()
    }

    /// What it says of a rank that takes it for a root.
    pub(crate) fn gives_up(&self, rank: Rank) -> Option<Word> {
        self.knowledge.gone().get(&rank).map(|how| Word(FromRoot::Gone { rank, how: how.clone() }))
    }

    fn announce(&mut self, event: Event) -> Vec<News> {
        if self.knowledge.learn(&event) { news(vec![event]) } else { Vec::new() }
    }
}

fn news(events: Vec<Event>) -> Vec<News> {
    let news = events.into_iter().map(|event| match event {
        Event::Gone(rank, how) if how.has_left() => News::Left(rank),
        Event::Gone(rank, how) => News::Lost(rank, how.words()),
        Event::Revoked(comm, error) => News::Revoked(comm, error),
    });
    news.collect()
}

/// Words, and for whom.
pub(crate) type Letters = Vec<(Rank, Word)>;

/// A root's side.
pub(crate) struct RootSide(Office);

/// What a root sees of a process.
struct View<F>(F);

impl<F: Fn(Rank) -> bool> Lookout for View<F> {
    fn has_ended(&self, rank: Rank, _: &Seat, _: bool) -> bool {
        self.0(rank)
    }

    fn is_still(&self, _: &Seat) -> bool {
        false
    }
}

impl RootSide {
    /// The first root of a job, whose ranks are all there.
    pub(crate) fn first(world: usize, home: Rank, now: Instant) -> RootSide {
        RootSide(Office::first(Ledger::new(world), RHYTHM, home as u64, 0..world, now))
    }

    /// A rank's process takes over. `trusts_ends` is a mistake.
    pub(crate) fn succeed(member: &MemberSide, trusts_ends: bool, now: Instant) -> RootSide {
        let inheritance = Inheritance::of(&member.knowledge);
        let inheritance = if trusts_ends { inheritance.trusting_ends() } else { inheritance };
        RootSide(Office::succeed(Succession::new(inheritance), RHYTHM, member.me as u64, now))
    }

    pub(crate) fn guests(&self) -> &BTreeSet<Rank> {
        self.0.guests()
    }

    pub(crate) fn is_reigning(&self) -> bool {
        self.0.is_reigning()
    }

    /// Enough ranks have given it up.
    pub(crate) fn is_over(&self) -> bool {
        self.0.is_deposed()
    }

    /// A guest has said something.
    pub(crate) fn hear(&mut self, from: Rank, Saying(message): Saying) -> Letters {
        if !self.guests().contains(&from) {
            return Letters::new();
        }
        self.0.feel(from);
        letters(self.0.hear(from, message))
    }

    /// The connection of a guest has ended.
    pub(crate) fn lose(&mut self, rank: Rank) -> Letters {
        if !self.guests().contains(&rank) {
            return Letters::new();
        }
        letters(self.0.lose(rank, ENDED))
    }

    /// A rank that has lost its root knocks: whether it is let in, or what it is told.
    pub(crate) fn take_back(&mut self, rank: Rank) -> (Letters, Option<Word>) {
        let (deeds, objection) = self.0.take_back(rank);
        (letters(deeds), objection.map(|how| Word(FromRoot::Gone { rank, how })))
    }

    /// Time has passed. `has_ended` tells of a process whose door refuses.
    pub(crate) fn keep_watch(&mut self, now: Instant, has_ended: impl Fn(Rank) -> bool) -> Letters {
        letters(self.0.keep_watch(now, &View(has_ended)))
    }
}

/// Whoever is no guest any more is hung up on.
fn letters(deeds: Vec<Deed>) -> Letters {
    let mut letters = Letters::new();
    for deed in deeds {
        if let Deed::Say(ranks, message) = deed {
            letters.extend(ranks.into_iter().map(|rank| (rank, Word(message.clone()))));
        }
    }
    letters
}
