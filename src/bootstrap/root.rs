//! The root service: the hub of the control plane, one thread in one process of the job.
//!
//! ```text
//!   connection --> gate --(proved, says hello)--> seats --(all are here)--> ledger
//!                  |                              |                         |
//!                  strangers                      wrong, twice, too late    who is gone, what is gathered, what failed
//! ```
//!
//! It lives until the last rank has left, or died, or until not all ranks came in time.
#![forbid(unsafe_code)]

use super::gate::Gate;
use super::gathering::Gone;
use super::ledger::{Audience, Ledger, Mail};
use super::seats::{Patience, Seats, Token};
use super::wire::{self, FromRoot, Hello, Inbox, Outbox, Refusal, ToRoot};
use crate::error::{Error, Result};
use crate::topology::detect::process_id;
use crate::transport::tcp::Secret;
use crate::types::Rank;
use nix::poll::{PollFd, PollFlags};
use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Instant;

/// Starts the service of a job on sockets that listen already. `expected` are the world, and the end of its patience,
/// where they are known beforehand.
pub(super) fn start(
    listeners: Vec<TcpListener>,
    secret: Secret,
    job: [u8; 16],
    expected: Option<(usize, Patience)>,
) -> Result<()> {
    let no_start = |error| Error::system("starting the root service", error);
    let (woken, waker) = UnixStream::pair().map_err(no_start)?;
    woken.set_nonblocking(true).map_err(no_start)?;
    waker.set_nonblocking(true).map_err(no_start)?;
    let root = Root {
        gate: Gate::new(listeners, secret, waker).map_err(no_start)?,
        woken,
        process: process_id()?,
        phase: Phase::Filling(Seats::new(job, expected)),
        guests: BTreeMap::new(),
        token_of: HashMap::new(),
        next_token: 0,
    };
    std::thread::Builder::new().name("roundel-root".into()).spawn(move || root.run()).map_err(no_start)?;
    Ok(())
}

enum Phase {
    Filling(Seats),
    Running(Box<Ledger>),
}

/// A rank that was let in.
struct Guest {
    rank: Rank,
    stream: TcpStream,
    inbox: Inbox,
    outbox: Outbox,
}

struct Root {
    gate: Gate,
    woken: UnixStream,
    process: u64,
    phase: Phase,
    guests: BTreeMap<Token, Guest>,
    token_of: HashMap<Rank, Token>,
    next_token: Token,
}

impl Root {
    fn run(mut self) {
        while !self.is_over() {
            let ready = self.wait();
            let mut scrap = [0; 64];
            while matches!((&self.woken).read(&mut scrap), Ok(read_bytes) if read_bytes > 0) {}
            self.gate.accept();
            for (stream, hello) in self.gate.arrivals() {
                self.welcome(stream, &hello);
            }
            for token in ready {
                self.serve(token);
            }
            self.flush();
        }
    }

    /// Sleeps until there is something to do; the guests that have something for us, or room.
    fn wait(&self) -> Vec<Token> {
        let patience = match &self.phase {
            Phase::Filling(seats) => seats.patience().map(|patience| patience.deadline),
            Phase::Running(_) => None,
        };
        let wake_at = patience.into_iter().chain(self.gate.resumes_at()).min();
        let mut fds = vec![PollFd::new(self.woken.as_fd(), PollFlags::POLLIN)];
        fds.extend(self.guests.values().map(|guest| PollFd::new(guest.stream.as_fd(), guest.interest())));
        fds.extend(self.gate.fds().map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        super::sleep_until(&mut fds, wake_at);
        let guests = self.guests.keys().zip(&fds[1..]);
        guests.filter(|(_, fd)| fd.any().unwrap_or(true)).map(|(token, _)| *token).collect()
    }

    /// True when nobody needs the service any more. Ends the join of everybody when its time has come.
    fn is_over(&mut self) -> bool {
        let Phase::Filling(seats) = &self.phase else { return self.guests.is_empty() };
        let Some(patience) = seats.patience().filter(|patience| patience.deadline <= Instant::now()) else {
            return false;
        };
        let error = seats.failure(patience);
        tracing::warn!(%error, "the job did not start");
        self.post(vec![(Audience::Everybody, FromRoot::Failed { error })]);
        self.flush();
        true
    }

    fn welcome(&mut self, stream: TcpStream, hello: &Hello) {
        let token = self.next_token;
        self.next_token += 1;
        let mut guest = Guest { rank: hello.rank, stream, inbox: Inbox::default(), outbox: Outbox::default() };
        let admitted = match &mut self.phase {
            Phase::Filling(seats) => seats.admit(hello, token),
            Phase::Running(_) => Err(Refusal::NotHere(format!("rank {} comes when the job is complete", hello.rank))),
        };
        match admitted {
            Err(refusal) => {
                tracing::warn!(?refusal, "a rank was turned away");
                // One small frame into an empty socket: it goes at once or not at all.
                if let Ok(frame) = wire::encode(&FromRoot::Refused(refusal)) {
                    guest.outbox.push(Arc::new(frame));
                    let _ = guest.outbox.flush(&guest.stream);
                }
            }
            Ok(replaced) => {
                if let Some(replaced) = replaced {
                    self.guests.remove(&replaced);
                }
                self.token_of.insert(guest.rank, token);
                self.guests.insert(token, guest);
                self.start_when_full();
            }
        }
    }

    fn start_when_full(&mut self) {
        let Phase::Filling(seats) = &self.phase else { return };
        if seats.is_full() {
            let beside_root = seats.beside(self.process);
            self.phase = Phase::Running(Box::new(Ledger::new(seats.world())));
            self.post(vec![(Audience::Everybody, FromRoot::Start { beside_root })]);
        }
    }

    /// Reads what a guest has sent, and does it.
    fn serve(&mut self, token: Token) {
        let Some(guest) = self.guests.get_mut(&token) else { return };
        let ended = match guest.inbox.fill(&guest.stream) {
            Ok(true) => None,
            Ok(false) => Some("closed its control connection without a goodbye".to_string()),
            Err(error) => Some(format!("lost its control connection ({error})")),
        };
        loop {
            let Some(guest) = self.guests.get_mut(&token) else { return };
            let message = match guest.inbox.next::<ToRoot>() {
                Ok(Some(message)) => message,
                Ok(None) => break,
                Err(error) => return self.lose(token, &format!("sent what makes no sense ({error})")),
            };
            let rank = guest.rank;
            let Phase::Running(ledger) = &mut self.phase else {
                return self.lose(token, "spoke before the job started");
            };
            let leaver = if message == ToRoot::Bye { self.guests.remove(&token) } else { None };
            let mut mail = Mail::new();
            ledger.receive(rank, message, &mut mail);
            self.post(mail);
            if leaver.is_some() {
                // The others are told before the leaver sees its connection close: its process may end right after.
                self.flush();
            }
        }
        if let Some(what) = ended {
            self.lose(token, &what);
        }
    }

    /// The connection of a guest is of no more use.
    fn lose(&mut self, token: Token, what: &str) {
        let Some(guest) = self.guests.remove(&token) else { return };
        match &mut self.phase {
            Phase::Filling(seats) => {
                tracing::warn!(rank = guest.rank, what, "a rank went away before the job started; it may come back");
                seats.vacate(token);
            }
            Phase::Running(ledger) => {
                let mut mail = Mail::new();
                ledger.depart(guest.rank, Gone::Dead(what.to_string()), &mut mail);
                self.post(mail);
            }
        }
    }

    /// Puts mail into the outboxes of those who are still here.
    fn post(&mut self, mail: Mail) {
        for (audience, message) in mail {
            let frame = match wire::encode(&message) {
                Ok(frame) => Arc::new(frame),
                Err(error) => {
                    tracing::error!(%error, "the root cannot say something");
                    continue;
                }
            };
            match audience {
                Audience::Everybody => {
                    self.guests.values_mut().for_each(|guest| guest.outbox.push(frame.clone()));
                }
                Audience::Ranks(ranks) => {
                    for rank in ranks {
                        if let Some(guest) = self.token_of.get(&rank).and_then(|token| self.guests.get_mut(token)) {
                            guest.outbox.push(frame.clone());
                        }
                    }
                }
            }
        }
    }

    /// Sends what can be sent now. Whether a guest that cannot be sent to is lost shows when it is read: its goodbye may
    /// have arrived before its connection broke.
    fn flush(&mut self) {
        for guest in self.guests.values_mut() {
            if guest.outbox.flush(&guest.stream).is_err() {
                guest.outbox = Outbox::default();
            }
        }
    }
}

impl Guest {
    fn interest(&self) -> PollFlags {
        if self.outbox.is_empty() { PollFlags::POLLIN } else { PollFlags::POLLIN | PollFlags::POLLOUT }
    }
}
