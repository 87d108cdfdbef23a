//! The root service: the hub of the control plane, one thread in one process of the job. What it decides is decided by
//! [`Seats`] until all are here, then by [`Office`]; this file is its connections.
//!
//! ```text
//!   connection --> gate --(proved, says hello)----> seats --(all are here)--> office
//!                  |                                |                         |
//!                  strangers                        wrong, twice, too late    who is gone, what is gathered, what failed
//!
//!                  --(proved, comes back)---------------------------------> office
//!                  --(proved, wants to become a rank)--> recruits --------> office
//! ```
//!
//! It lives until the last rank has left, or died, until not all ranks came in time, or until enough of them have given
//! it up.
#![forbid(unsafe_code)]

use super::gate::Gate;
use super::ledger::{Ledger, Mail};
use super::messages::{Admission, CONTROL_VERSION, Enlist, FromRoot, Gone, Hello, Knock, Refusal, Return, ToRoot};
use super::office::{Deed, Lookout, Office};
use super::roster::Seat;
use super::seats::{Patience, Seats, Token};
use super::seek::Creed;
use super::standby::Parked;
use super::store::{Clerk, StoreChoice};
pub(super) use super::succession::Inheritance;
use super::succession::Succession;
use super::vigil::Rhythm;
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

/// How long a look at a rank on another host may wait for its answer.
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
    let succession = Succession::new(inheritance.with_store(creed.store != StoreChoice::Embedded));
    let office = Office::succeed(succession, creed.rhythm, creed.process, Instant::now());
    let phase = Phase::Staffed(Box::new(office));
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
    Staffed(Box<Office>),
}

/// A rank that was let in.
struct Guest {
    rank: Rank,
    caller: Caller,
}

/// Somebody who is no rank yet.
struct Recruit {
    caller: Caller,
    /// It has said where it will be found. Before that it cannot be admitted.
    is_seated: bool,
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
    rhythm: Rhythm,
    phase: Phase,
    guests: BTreeMap<Token, Guest>,
    /// Who waits to become a rank, by nonce.
    recruits: BTreeMap<u64, Recruit>,
    token_of: HashMap<Rank, Token>,
    next_token: Token,
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
            rhythm,
            phase,
            guests: BTreeMap::new(),
            recruits: BTreeMap::new(),
            token_of: HashMap::new(),
            next_token: 0,
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
            Phase::Staffed(office) => office.next_look(Instant::now()),
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
        let seats = match &self.phase {
            Phase::Filling(seats) => seats,
            Phase::Staffed(office) => return office.is_over(),
        };
        let Some(patience) = seats.patience().filter(|patience| patience.deadline <= Instant::now()) else {
            return false;
        };
        let error = seats.failure(patience);
        tracing::warn!(%error, "the job did not start");
        self.say_to_all(&FromRoot::Failed { error });
        self.flush();
        true
    }

    /// What has to be done because time has passed.
    fn keep_watch(&mut self, now: Instant) {
        let Phase::Staffed(office) = &mut self.phase else { return };
        if !office.is_due(now) {
            return;
        }
        if let (true, Ok(alive)) = (office.is_reigning(), wire::encode(&FromRoot::Alive).map(Arc::new)) {
            self.recruits.values_mut().for_each(|recruit| recruit.caller.outbox.push(alive.clone()));
        }
        let deeds = office.keep_watch(now, &Outside);
        self.carry_out(deeds);
    }

    fn clerk(&self) -> Option<&Clerk> {
        self.clerk.get()?.as_ref()
    }

    /// Where there is a store: what it says, and what it is to be asked.
    fn consult_store(&mut self, now: Instant) {
        let Phase::Staffed(office) = &mut self.phase else { return };
        let reign = office.reign();
        let Some(ledger) = office.ledger() else { return };
        let Some(run) = ledger.run() else { return };
        self.clerk.get_or_init(|| Clerk::open(&self.store, self.job, run, self.rhythm));
        let Some(Some(clerk)) = self.clerk.get_mut() else { return };
        let mut mail = Mail::new();
        let stands = clerk.consult(ledger, reign, now, &mut mail);
        let mut deeds = office.address(mail);
        if !stands {
            deeds.extend(office.abdicate());
        }
        self.carry_out(deeds);
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
        let recruit = Recruit { caller, is_seated: false };
        // The second connection of a newcomer takes the place of the first.
        self.recruits.insert(who.nonce, recruit);
    }

    /// Hears where newcomers are, and which of them wait no more.
    fn serve_recruits(&mut self) {
        let mut gone = Vec::new();
        for (&nonce, recruit) in &mut self.recruits {
            let is_here = recruit.caller.inbox.fill(&recruit.caller.stream).unwrap_or(false);
            match recruit.caller.inbox.next::<ToRoot>() {
                Ok(Some(ToRoot::Seat(seat))) if !recruit.is_seated => {
                    if let Phase::Staffed(office) = &mut self.phase {
                        office.enlist(nonce, seat);
                    }
                    recruit.is_seated = true;
                }
                Ok(None) if is_here => {}
                _ => gone.push(nonce),
            }
        }
        for nonce in gone {
            self.recruits.remove(&nonce);
            if let Phase::Staffed(office) = &mut self.phase {
                office.withdraw(nonce);
            }
        }
    }

    /// A newcomer becomes a rank.
    fn promote(&mut self, nonce: u64, admission: Box<Admission>) {
        let rank = admission.rank;
        let Some(recruit) = self.recruits.remove(&nonce) else {
            if let Phase::Staffed(office) = &mut self.phase {
                let deeds = office.lose(rank, "went away while it was admitted");
                self.carry_out(deeds);
            }
            return;
        };
        let token = self.admit(rank, recruit.caller);
        let frame = wire::encode(&FromRoot::Admitted(admission));
        if let (Some(guest), Ok(frame)) = (self.guests.get_mut(&token), frame) {
            guest.caller.outbox.push(Arc::new(frame));
        }
    }

    fn admit(&mut self, rank: Rank, caller: Caller) -> Token {
        let token = self.next_token;
        self.next_token += 1;
        // The second connection of a rank takes the place of the first.
        if let Some(first) = self.token_of.insert(rank, token) {
            self.guests.remove(&first);
        }
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
            Ok(_) => {
                self.admit(hello.rank, caller);
                self.start_when_full();
            }
        }
    }

    /// A rank that has lost its root.
    fn take_back(&mut self, caller: Caller, who: &Return) {
        let rank = who.rank;
        let objection = match &mut self.phase {
            Phase::Staffed(office) => {
                let (deeds, objection) = office.take_back(rank);
                self.carry_out(deeds);
                objection
            }
            Phase::Filling(_) => Some(Gone::Silent("is not of this job".into())),
        };
        match objection {
            Some(how) => caller.say(&FromRoot::Gone { rank, how }),
            None => _ = self.admit(rank, caller),
        }
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
            let here = self.guests.values().map(|guest| guest.rank);
            let office = Office::first(ledger, self.rhythm, self.process, here, Instant::now());
            self.phase = Phase::Staffed(Box::new(office));
            self.say_to_all(&FromRoot::Start { beside_root });
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
        if let Phase::Staffed(office) = &mut self.phase {
            office.feel(guest.rank);
        }
        loop {
            let Some(guest) = self.guests.get_mut(&token) else { return };
            let message = match guest.caller.inbox.next::<ToRoot>() {
                Ok(Some(message)) => message,
                Ok(None) => break,
                Err(error) => return self.lose(token, &format!("sent what makes no sense ({error})")),
            };
            let rank = guest.rank;
            let Phase::Staffed(office) = &mut self.phase else {
                return self.lose(token, "spoke before the job started");
            };
            let deeds = office.hear(rank, message);
            self.carry_out(deeds);
        }
        if let Some(what) = ended {
            self.lose(token, &what);
        }
    }

    /// The connection of a guest is of no more use.
    fn lose(&mut self, token: Token, what: &str) {
        let Some(guest) = self.guests.remove(&token) else { return };
        self.token_of.remove(&guest.rank);
        match &mut self.phase {
            Phase::Filling(seats) => {
                tracing::warn!(rank = guest.rank, what, "a rank went away before the job started; it may come back");
                seats.vacate(token);
            }
            Phase::Staffed(office) => {
                let deeds = office.lose(guest.rank, what);
                self.carry_out(deeds);
            }
        }
    }

    /// Does what was decided.
    fn carry_out(&mut self, deeds: Vec<Deed>) {
        for deed in deeds {
            match deed {
                Deed::Say(ranks, message) => self.say(&ranks, &message),
                Deed::Admit(nonce, admission) => self.promote(nonce, admission),
                Deed::Retire => {
                    if let Some(Some(clerk)) = self.clerk.get_mut() {
                        clerk.retire();
                    }
                }
                Deed::HangUp(rank) => {
                    self.flush();
                    if let Some(token) = self.token_of.remove(&rank) {
                        self.guests.remove(&token);
                    }
                }
            }
        }
    }

    fn say_to_all(&mut self, message: &FromRoot) {
        let all: Vec<Rank> = self.guests.values().map(|guest| guest.rank).collect();
        self.say(&all, message);
    }

    /// Puts a message into the outboxes of those of these ranks who are still here.
    fn say(&mut self, ranks: &[Rank], message: &FromRoot) {
        let frame = match wire::encode(message) {
            Ok(frame) => Arc::new(frame),
            Err(error) => return tracing::error!(%error, "the root cannot say something"),
        };
        for rank in ranks {
            if let Some(guest) = self.token_of.get(rank).and_then(|token| self.guests.get_mut(token)) {
                guest.caller.outbox.push(frame.clone());
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

/// A rank's process, as the operating system and its door show it.
struct Outside;

impl Lookout for Outside {
    fn has_ended(&self, _: Rank, seat: &Seat, may_knock: bool) -> bool {
        seat.has_ended() || (may_knock && refuses(seat))
    }

    fn is_still(&self, seat: &Seat) -> bool {
        seat.is_still()
    }
}

/// True when the process of that rank is known to be gone: its host answers, and nobody listens.
fn refuses(seat: &Seat) -> bool {
    match TcpStream::connect_timeout(&seat.door, PROBE_TIMEOUT) {
        Ok(_) => false,
        Err(error) => error.kind() == ErrorKind::ConnectionRefused,
    }
}
