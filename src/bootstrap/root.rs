//! The root service: the hub of the control plane, one thread in one process of the job.
//!
//! ```text
//!   connection --> gate --(proved, says hello)--> seats --(all are here)--> ledger
//!                  |                              |                         |
//!                  strangers                      wrong, twice, too late    who is gone, what is gathered, what failed
//!
//!                  --(proved, comes back)--> succession --(all who live have reported)--> ledger
//! ```
//!
//! It lives until the last rank has left, or died, until not all ranks came in time, or until enough of them have given
//! it up.
#![forbid(unsafe_code)]

use super::gate::Gate;
use super::laggards::Laggards;
use super::ledger::{Audience, Ledger, Mail};
use super::messages::{Admission, CONTROL_VERSION, Enlist, FromRoot, Gone, Hello, Knock, Refusal, Return, ToRoot};
use super::roster::Seat;
use super::seats::{Patience, Seats, Token};
use super::seek::Creed;
use super::standby::{Parked, silence};
use super::store::{Clerk, StoreChoice};
pub(super) use super::succession::Inheritance;
use super::succession::{Succession, patience};
use super::vigil::{Rhythm, Vigil, Wakefulness};
use super::wire::{self, Caller};
use crate::error::{Error, Result};
use crate::topology::detect::process_id;
use crate::transport::tcp::Secret;
use crate::types::Rank;
use nix::poll::{PollFd, PollFlags};
use std::cell::OnceCell;
use std::collections::{BTreeMap, HashMap};
use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Between two looks at those who have not come to a succession.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// How long such a look may wait for the answer of another host.
const PROBE_TIMEOUT: Duration = Duration::from_millis(50);

/// Starts the service of a job on sockets that listen already. `expected` are the world, and the end of its patience,
/// where they are known beforehand.
pub(super) fn start(
    listeners: Vec<TcpListener>,
    secret: &Secret,
    job: [u8; 16],
    expected: Option<(usize, Patience)>,
) -> Result<()> {
    let phase = Phase::Filling(Seats::new(job, expected));
    let root = Root::new(listeners, secret, job, phase, Rhythm::default(), process_id()?)?;
    root.spawn()
}

/// Starts the service again, in the process of the first rank that lives, when the one before is gone. `parked` have come
/// already.
pub(super) fn succeed(
    listeners: Vec<TcpListener>,
    parked: Vec<Parked>,
    creed: &Creed,
    inheritance: Inheritance,
) -> Result<()> {
    let most_between = (2 * creed.rhythm.interval).max(5 * LOOK_AGAIN);
    let waking = Wakefulness::new(most_between, Instant::now());
    let inheritance = inheritance.with_store(creed.store != StoreChoice::Embedded);
    let phase = Phase::Succeeding(Box::new(Succession::new(inheritance)), Wait { waking, probe_at: LOOK_AGAIN });
    let mut root = Root::new(listeners, &creed.secret, creed.job, phase, creed.rhythm, creed.process)?;
    root.guard = creed.guard as u8;
    root.store = creed.store.clone();
    for Parked { caller, who, .. } in parked {
        root.welcome(caller, Knock::Return(who));
    }
    root.spawn()
}

enum Phase {
    Filling(Seats),
    Succeeding(Box<Succession>, Wait),
    Running(Box<Ledger>),
}

/// For those who have not come to a succession.
struct Wait {
    /// For how long, without what this process slept.
    waking: Wakefulness,
    /// When to try their doors: soon, then ever more seldom, for each try is a stranger there.
    probe_at: Duration,
}

/// A rank that was let in.
struct Guest {
    rank: Rank,
    caller: Caller,
}

/// Somebody who is no rank yet.
struct Recruit {
    caller: Caller,
    /// Where it will be found. Before it says that, it cannot be admitted.
    seat: Option<Seat>,
}

struct Root {
    gate: Gate,
    process: u64,
    job: [u8; 16],
    /// How the job's connections are protected.
    guard: u8,
    /// Where it keeps what it keeps outside itself, and who asks there once it is known which job this is.
    store: StoreChoice,
    clerk: OnceCell<Option<Clerk>>,
    reign: u32,
    rhythm: Rhythm,
    vigil: Vigil,
    laggards: Laggards,
    phase: Phase,
    guests: BTreeMap<Token, Guest>,
    /// Who waits to become a rank, by nonce.
    recruits: BTreeMap<u64, Recruit>,
    token_of: HashMap<Rank, Token>,
    next_token: Token,
    /// Enough ranks have given this root up.
    is_deposed: bool,
}

impl Root {
    fn new(
        listeners: Vec<TcpListener>,
        secret: &Secret,
        job: [u8; 16],
        phase: Phase,
        rhythm: Rhythm,
        process: u64,
    ) -> Result<Root> {
        let no_start = |error| Error::system("starting the root service", error);
        Ok(Root {
            gate: Gate::new(listeners, secret, &job).map_err(no_start)?,
            process,
            job,
            guard: 0,
            store: StoreChoice::Embedded,
            clerk: OnceCell::new(),
            reign: 0,
            rhythm,
            vigil: Vigil::new(rhythm, Instant::now()),
            laggards: Laggards::default(),
            phase,
            guests: BTreeMap::new(),
            recruits: BTreeMap::new(),
            token_of: HashMap::new(),
            next_token: 0,
            is_deposed: false,
        })
    }

    fn spawn(self) -> Result<()> {
        let no_start = |error| Error::system("starting the root service", error);
        std::thread::Builder::new().name("roundel-root".into()).spawn(move || self.run()).map_err(no_start)?;
        Ok(())
    }

    fn run(mut self) {
        while !self.is_over() {
            let ready = self.wait();
            for (caller, knock) in self.gate.arrivals() {
                self.welcome(caller, knock);
            }
            for token in ready {
                self.serve(token);
            }
            self.serve_recruits();
            self.keep_watch(Instant::now());
            self.consult_store(Instant::now());
            self.flush();
        }
    }

    /// Sleeps until there is something to do; the guests that have something for us, or room.
    fn wait(&self) -> Vec<Token> {
        let wake_at = match &self.phase {
            Phase::Filling(seats) => seats.patience().map(|patience| patience.deadline),
            Phase::Succeeding(..) => Some(Instant::now() + LOOK_AGAIN),
            Phase::Running(_) => self.vigil.next_look(),
        };
        let asks_at = self.clerk().and_then(Clerk::wakes_at);
        let wake_at = wake_at.into_iter().chain(self.gate.wakes_at()).chain(asks_at).min();
        let guests = self.guests.values().map(|guest| PollFd::new(guest.caller.stream.as_fd(), guest.interest()));
        let recruits = self.recruits.values();
        let recruits = recruits.map(|recruit| PollFd::new(recruit.caller.stream.as_fd(), PollFlags::POLLIN));
        let mut fds: Vec<PollFd> = guests.chain(recruits).collect();
        let others = self.gate.fds().chain(self.clerk().map(Clerk::fd));
        fds.extend(others.map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        super::sleep_until(&mut fds, wake_at);
        let guests = self.guests.keys().zip(&fds);
        guests.filter(|(_, fd)| fd.any().unwrap_or(true)).map(|(token, _)| *token).collect()
    }

    /// True when nobody needs the service any more. Ends the join of everybody when its time has come.
    fn is_over(&mut self) -> bool {
        let Phase::Filling(seats) = &self.phase else {
            return self.is_deposed || (self.guests.is_empty() && matches!(self.phase, Phase::Running(_)));
        };
        let Some(patience) = seats.patience().filter(|patience| patience.deadline <= Instant::now()) else {
            return false;
        };
        let error = seats.failure(patience);
        tracing::warn!(%error, "the job did not start");
        self.post(vec![(Audience::Everybody, FromRoot::Failed { error })]);
        self.flush();
        true
    }

    /// What has to be done because time has passed.
    fn keep_watch(&mut self, now: Instant) {
        if let Phase::Succeeding(succession, Wait { waking, probe_at }) = &mut self.phase {
            waking.look(now);
            if waking.asleep() > self.rhythm.timeout {
                return self.step_back();
            }
            let waited = waking.awake();
            let probes = waited > *probe_at;
            *probe_at *= if probes { 2 } else { 1 };
            for (rank, seat) in succession.absent() {
                if seat.has_ended() || (probes && refuses(&seat)) {
                    succession.miss(rank, Gone::Dead("ended while the next root was being looked for".into()));
                } else if waited > self.rhythm.timeout && (seat.is_still() || waited > patience(self.rhythm.timeout)) {
                    succession.miss(rank, silence(rank, seat.is_still(), waited));
                }
            }
            return self.reign_when_complete();
        }
        let is_due = self.vigil.next_look().is_some_and(|at| at <= now);
        let Phase::Running(ledger) = &mut self.phase else { return };
        if !is_due {
            return;
        }
        self.vigil.look(now);
        let mut mail = vec![(Audience::Everybody, FromRoot::Alive)];
        let silent = self.vigil.silent();
        for &(rank, silent_for) in &silent {
            let is_still = ledger.seat(rank).is_some_and(|seat| seat.is_still());
            ledger.depart(rank, silence(rank, is_still, silent_for), &mut mail);
        }
        self.post(mail);
        for laggard in self.laggards.overdue(self.rhythm.timeout, self.vigil.awake()) {
            tracing::warn!("{laggard}");
        }
        if let Ok(alive) = wire::encode(&FromRoot::Alive).map(Arc::new) {
            self.recruits.values_mut().for_each(|recruit| recruit.caller.outbox.push(alive.clone()));
        }
        if silent.is_empty() {
            return;
        }
        // Should one of them wake up, it finds this, and knows that it was given up.
        self.flush();
        for (rank, _) in silent {
            self.dismiss(rank);
        }
    }

    fn clerk(&self) -> Option<&Clerk> {
        self.clerk.get()?.as_ref()
    }

    /// Where there is a store: what it says, and what it is to be asked.
    fn consult_store(&mut self, now: Instant) {
        let Phase::Running(ledger) = &mut self.phase else { return };
        let Some(run) = ledger.run() else { return };
        self.clerk.get_or_init(|| Clerk::open(&self.store, self.job, run, self.rhythm));
        let Some(Some(clerk)) = self.clerk.get_mut() else { return };
        let mut mail = Mail::new();
        let stands = clerk.consult(ledger, self.reign, now, &mut mail);
        self.post(mail);
        if !stands {
            self.abdicate();
        }
    }

    /// This process slept while it was to take over, so long that the others have given it up and gone on without it.
    fn step_back(&mut self) {
        let Phase::Succeeding(succession, _) = &self.phase else { return };
        let how =
            Gone::Silent("slept while it was to become the next root, and the others have gone on without it".into());
        let beside = succession.beside(self.process).into_iter();
        let mail = beside.map(|rank| (Audience::Everybody, FromRoot::Gone { rank, how: how.clone() })).collect();
        tracing::warn!("this process slept while it was to become the next root");
        self.is_deposed = true;
        self.post(mail);
        self.flush();
    }

    /// Hangs up on a rank.
    fn dismiss(&mut self, rank: Rank) {
        self.vigil.forget(rank);
        self.laggards.forget(rank);
        if let Some(token) = self.token_of.remove(&rank) {
            self.guests.remove(&token);
        }
    }

    fn welcome(&mut self, caller: Caller, knock: Knock) {
        match knock {
            Knock::Hello(hello) => self.seat(caller, &hello),
            Knock::Return(who) => self.take_back(caller, &who),
            Knock::Enlist(who) => self.enlist(caller, &who),
        }
    }

    fn enlist(&mut self, caller: Caller, who: &Enlist) {
        let why = match &self.phase {
            _ if who.job != self.job => "the root that was found belongs to another job",
            _ if who.version != CONTROL_VERSION => "the job runs another version of Roundel",
            Phase::Filling(_) => "the job has not started",
            _ if who.guard != self.guard => {
                "the job protects its connections otherwise (ROUNDEL_ENCRYPT, ROUNDEL_CHECKSUM)"
            }
            _ if who.store != self.store.to_string() => "the job keeps its register elsewhere (ROUNDEL_STORE)",
            _ => "",
        };
        if !why.is_empty() {
            tracing::warn!(why, "a newcomer was turned away");
            return caller.say(&FromRoot::Refused(Refusal::NotHere(why.into())));
        }
        let recruit = Recruit { caller, seat: None };
        // The second connection of a newcomer takes the place of the first.
        self.recruits.insert(who.nonce, recruit);
    }

    /// Hears where newcomers are, and which of them wait no more.
    fn serve_recruits(&mut self) {
        let mut gone = Vec::new();
        for (&nonce, recruit) in &mut self.recruits {
            let is_here = recruit.caller.inbox.fill(&recruit.caller.stream).unwrap_or(false);
            match recruit.caller.inbox.next::<ToRoot>() {
                Ok(Some(ToRoot::Seat(seat))) if recruit.seat.is_none() => {
                    if let Phase::Running(ledger) = &mut self.phase {
                        ledger.enlist(nonce, seat.clone());
                    }
                    recruit.seat = Some(seat);
                }
                Ok(None) if is_here => {}
                _ => gone.push(nonce),
            }
        }
        for nonce in gone {
            self.recruits.remove(&nonce);
            if let Phase::Running(ledger) = &mut self.phase {
                ledger.withdraw(nonce);
            }
        }
    }

    /// A newcomer becomes a rank.
    fn promote(&mut self, nonce: u64, mut admission: Admission) {
        let Some(recruit) = self.recruits.remove(&nonce) else { return };
        admission.reign = self.reign;
        admission.beside_root = match &self.phase {
            Phase::Running(ledger) => ledger.beside(self.process),
            _ => Vec::new(),
        };
        let token = self.admit(admission.rank, recruit.caller);
        self.vigil.hear(admission.rank);
        let frame = wire::encode(&FromRoot::Admitted(Box::new(admission)));
        if let (Some(guest), Ok(frame)) = (self.guests.get_mut(&token), frame) {
            guest.caller.outbox.push(Arc::new(frame));
        }
    }

    fn admit(&mut self, rank: Rank, caller: Caller) -> Token {
        let token = self.next_token;
        self.next_token += 1;
        self.token_of.insert(rank, token);
        self.guests.insert(token, Guest { rank, caller });
        token
    }

    fn seat(&mut self, caller: Caller, hello: &Hello) {
        let admitted = match &mut self.phase {
            Phase::Filling(seats) => seats.admit(hello, self.next_token),
            _ => Err(Refusal::NotHere(format!("rank {} comes when the job is complete", hello.rank))),
        };
        match admitted {
            Err(refusal) => {
                tracing::warn!(?refusal, "a rank was turned away");
                caller.say(&FromRoot::Refused(refusal));
            }
            Ok(replaced) => {
                if let Some(replaced) = replaced {
                    self.guests.remove(&replaced);
                }
                self.admit(hello.rank, caller);
                self.start_when_full();
            }
        }
    }

    /// A rank that has lost its root.
    fn take_back(&mut self, caller: Caller, who: &Return) {
        let rank = who.rank;
        let objection = match &mut self.phase {
            Phase::Succeeding(succession, _) => succession.admit(rank).err(),
            Phase::Running(ledger) => {
                // The others go on already, without those who did not come in time.
                let mut mail = Mail::new();
                let what = "came back when the others had gone on without it".to_string();
                ledger.depart(rank, Gone::Silent(what), &mut mail);
                let how = ledger.fate(rank).cloned();
                self.post(mail);
                self.dismiss(rank);
                how
            }
            Phase::Filling(_) => Some(Gone::Silent("is not of this job".into())),
        };
        match objection {
            Some(how) => caller.say(&FromRoot::Gone { rank, how }),
            None => _ = self.admit(rank, caller),
        }
    }

    /// Begins to reign if everybody who lives is here.
    fn reign_when_complete(&mut self) {
        let Phase::Succeeding(succession, _) = &mut self.phase else { return };
        if !succession.absent().is_empty() {
            return;
        }
        // Nothing is in it any more once it is taken; the phase changes two lines below.
        let succession = std::mem::replace(&mut **succession, Succession::nobodys());
        self.reign = succession.reign();
        let (mut ledger, mail) = succession.conclude(self.process);
        for (&nonce, recruit) in &self.recruits {
            if let Some(seat) = &recruit.seat {
                ledger.enlist(nonce, seat.clone());
            }
        }
        self.phase = Phase::Running(Box::new(ledger));
        self.watch_all();
        self.post(mail);
    }

    fn watch_all(&mut self) {
        self.vigil = Vigil::new(self.rhythm, Instant::now());
        self.laggards = Laggards::default();
        self.guests.values().for_each(|guest| self.vigil.hear(guest.rank));
    }

    fn start_when_full(&mut self) {
        let Phase::Filling(seats) = &self.phase else { return };
        if !seats.is_full() {
            return;
        }
        // Where hands are shaken slowly somebody may have lost patience, and hung up: it comes again, and must find its seat.
        let mut gone = Vec::new();
        for (token, Guest { caller, .. }) in &mut self.guests {
            if !caller.inbox.fill(&caller.stream).unwrap_or(false) {
                gone.push(*token);
            }
        }
        gone.into_iter().for_each(|token| self.lose(token, "hung up"));
        let Phase::Filling(seats) = &self.phase else { return };
        if seats.is_full() {
            let beside_root = seats.beside(self.process);
            self.rhythm = seats.rhythm();
            self.guard = seats.guard();
            self.store = seats.store();
            let mut ledger = Ledger::new(seats.world());
            if self.store != StoreChoice::Embedded {
                ledger.appeal_to_store(true);
            }
            self.phase = Phase::Running(Box::new(ledger));
            self.watch_all();
            self.post(vec![(Audience::Everybody, FromRoot::Start { beside_root })]);
        }
    }

    /// Reads what a guest has sent, and does it.
    fn serve(&mut self, token: Token) {
        let Some(guest) = self.guests.get_mut(&token) else { return };
        let ended = match guest.caller.inbox.fill(&guest.caller.stream) {
            Ok(true) => None,
            Ok(false) => Some("closed its control connection without a goodbye".to_string()),
            Err(error) => Some(format!("lost its control connection ({error})")),
        };
        self.vigil.hear(guest.rank);
        loop {
            let Some(guest) = self.guests.get_mut(&token) else { return };
            let message = match guest.caller.inbox.next::<ToRoot>() {
                Ok(Some(message)) => message,
                Ok(None) => break,
                Err(error) => return self.lose(token, &format!("sent what makes no sense ({error})")),
            };
            let rank = guest.rank;
            match &message {
                ToRoot::Deposed { is_certain } => return self.given_up_by(rank, *is_certain),
                ToRoot::Standing(standing) => self.laggards.note(rank, standing, self.vigil.awake()),
                _ => {}
            }
            let leaver = if message == ToRoot::Bye { self.guests.remove(&token) } else { None };
            let mut mail = Mail::new();
            match &mut self.phase {
                Phase::Running(ledger) => ledger.receive(rank, message, &mut mail),
                Phase::Succeeding(succession, _) => succession.hear(rank, message),
                Phase::Filling(_) => return self.lose(token, "spoke before the job started"),
            }
            self.post(mail);
            if leaver.is_some() {
                self.vigil.forget(rank);
                self.laggards.forget(rank);
                // The others are told before the leaver sees its connection close: its process may end right after.
                self.flush();
                if let (true, Some(Some(clerk))) = (self.guests.is_empty(), self.clerk.get_mut()) {
                    clerk.retire();
                }
            }
        }
        if let Some(what) = ended {
            self.lose(token, &what);
        }
    }

    /// The connection of a guest is of no more use.
    fn lose(&mut self, token: Token, what: &str) {
        let Some(guest) = self.guests.remove(&token) else { return };
        self.vigil.forget(guest.rank);
        self.laggards.forget(guest.rank);
        match &mut self.phase {
            Phase::Filling(seats) => {
                tracing::warn!(rank = guest.rank, what, "a rank went away before the job started; it may come back");
                seats.vacate(token);
            }
            Phase::Succeeding(succession, _) => succession.vacate(guest.rank),
            Phase::Running(ledger) => {
                let mut mail = Mail::new();
                ledger.depart(guest.rank, Gone::Dead(what.to_string()), &mut mail);
                self.post(mail);
            }
        }
    }

    /// `rank` did not hear this root for too long, and looks for another.
    fn given_up_by(&mut self, rank: Rank, is_certain: bool) {
        self.dismiss(rank);
        let Phase::Running(ledger) = &mut self.phase else { return };
        let mut mail = Mail::new();
        ledger.depart(rank, Gone::Silent("has given up the root".into()), &mut mail);
        ledger.contest();
        // Seen to be stopped, this process was taken for dead. Else it may go on, if enough still follow.
        if is_certain || !ledger.may_go_on() {
            return self.abdicate();
        }
        self.post(mail);
        self.flush();
    }

    /// Others have given this root up, and it may not go on without them.
    fn abdicate(&mut self) {
        tracing::warn!("this root was silent, and the others have given it up");
        self.is_deposed = true;
        self.post(vec![(Audience::Everybody, FromRoot::Deposed)]);
        self.flush();
    }

    /// Puts mail into the outboxes of those who are still here.
    fn post(&mut self, mail: Mail) {
        for (audience, message) in mail {
            let message = match (&audience, message) {
                (Audience::Recruit(nonce), FromRoot::Admitted(admission)) => {
                    self.promote(*nonce, *admission);
                    continue;
                }
                (_, message) => message,
            };
            let frame = match wire::encode(&message) {
                Ok(frame) => Arc::new(frame),
                Err(error) => {
                    tracing::error!(%error, "the root cannot say something");
                    continue;
                }
            };
            match audience {
                Audience::Recruit(_) => {}
                Audience::Everybody => {
                    self.guests.values_mut().for_each(|guest| guest.caller.outbox.push(frame.clone()));
                }
                Audience::Ranks(ranks) => {
                    for rank in ranks {
                        if let Some(guest) = self.token_of.get(&rank).and_then(|token| self.guests.get_mut(token)) {
                            guest.caller.outbox.push(frame.clone());
                        }
                    }
                }
            }
        }
    }

    /// Sends what can be sent now. Whether a guest that cannot be sent to is lost shows when it is read: its goodbye may
    /// have arrived before its connection broke.
    fn flush(&mut self) {
        let guests = self.guests.values_mut().map(|guest| &mut guest.caller);
        let recruits = self.recruits.values_mut().map(|recruit| &mut recruit.caller);
        for Caller { stream, outbox, .. } in guests.chain(recruits) {
            if outbox.flush(stream).is_err() {
                outbox.clear();
            }
        }
    }
}

impl Guest {
    fn interest(&self) -> PollFlags {
        if self.caller.outbox.is_empty() { PollFlags::POLLIN } else { PollFlags::POLLIN | PollFlags::POLLOUT }
    }
}

/// True when the process of that rank is known to be gone: its host answers, and nobody listens.
fn refuses(seat: &Seat) -> bool {
    match TcpStream::connect_timeout(&seat.door, PROBE_TIMEOUT) {
        Ok(_) => false,
        Err(error) => error.kind() == ErrorKind::ConnectionRefused,
    }
}
