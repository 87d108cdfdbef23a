//! Where proved connections wait until somebody asks for them, and the thread that lets them in.
#![forbid(unsafe_code)]

use super::handshake::CANCEL_POLL;
use super::hello::{Hello, LinkKey, LinkSide, ROLL_CALL, Strands};
use super::porch::{Arrival, Porch, decode_hello};
use super::session::Session;
use crate::error::{Error, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::collections::{HashMap, VecDeque};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Connections that may wait to be asked for.
const MAX_PARKED: usize = 4096;
/// Closed communicators that are remembered, to refuse those who come late.
const MAX_FORGOTTEN: usize = 1024;

/// A connection whose two ends know each other.
pub(super) type Connection = (TcpStream, Session);

/// The connections of one rail, and which it is.
pub(super) type Strand = (usize, Vec<Connection>);

/// The connections that are proved and wait to be asked for.
#[derive(Default)]
pub(super) struct Lobby {
    guests: Mutex<Guests>,
    changed: Condvar,
}

#[derive(Default)]
struct Guests {
    parked: HashMap<LinkKey, (Connection, Hello)>,
    forgotten: VecDeque<u64>,
    watchers: HashMap<u64, Box<dyn Fn() + Send>>,
}

impl Guests {
    /// Whether somebody with this hello may come in.
    fn admit(&self, hello: &Hello) -> Result<Vec<u8>> {
        if self.forgotten.contains(&hello.key.comm) {
            return Err(Error::bootstrap("that communicator is closed here"));
        }
        if self.parked.len() >= MAX_PARKED {
            return Err(Error::bootstrap(format!("{MAX_PARKED} connections wait here already")));
        }
        Ok(Vec::new())
    }

    /// The connections of a link, once all are there that stand.
    fn take(&mut self, side: LinkSide, strands: Strands) -> Result<Option<Vec<Strand>>> {
        let key = |socket| side.key(false, socket);
        let numbers = || (0..strands.rails).flat_map(|rail| strands.numbers(rail)).chain([ROLL_CALL]);
        let theirs = numbers().find_map(|number| Some(self.parked.get(&key(number))?.1.strands));
        if let Some(theirs) = theirs.filter(|theirs| *theirs != strands) {
            let words = |Strands { rails, sockets }| match rails {
                1 => format!("{sockets} sockets"),
                _ => format!("{rails} rails of {sockets} sockets"),
            };
            return Err(Error::bootstrap(format!(
                "rank {} makes links of {}, rank {} of {}; set the same on all ranks",
                side.peer,
                words(theirs),
                side.me,
                words(strands)
            )));
        }
        let roll = self.parked.get(&key(ROLL_CALL)).map(|(_, roll)| roll.standing);
        let standing = |rail: &u8| roll.is_none_or(|standing| standing & 1 << rail != 0);
        let rails: Vec<u8> = (0..strands.rails).filter(standing).collect();
        let is_here = |number| self.parked.contains_key(&key(number));
        if rails.is_empty() || !rails.iter().flat_map(|rail| strands.numbers(*rail)).all(is_here) {
            return Ok(None);
        }
        let taken = |rail: &u8| {
            let connections = strands.numbers(*rail).filter_map(|number| self.parked.remove(&key(number)));
            (usize::from(*rail), connections.map(|(connection, _)| connection).collect())
        };
        let taken = rails.iter().map(taken).collect();
        // What is left was left out.
        numbers().for_each(|number| drop(self.parked.remove(&key(number))));
        Ok(Some(taken))
    }
}

impl Lobby {
    fn lock(&self) -> MutexGuard<'_, Guests> {
        // Every change to the guests is one call; a panic elsewhere leaves them whole.
        self.guests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connections of a link, if all have come in that stand.
    pub(super) fn take(&self, side: LinkSide, strands: Strands) -> Result<Option<Vec<Strand>>> {
        self.lock().take(side, strands)
    }

    /// Calls `arrived` whenever a connection of this communicator has come in, until it is forgotten.
    pub(super) fn watch(&self, comm: u64, arrived: Box<dyn Fn() + Send>) {
        self.lock().watchers.insert(comm, arrived);
    }

    /// Lets everybody who waits here look again.
    pub(super) fn wake(&self) {
        self.changed.notify_all();
    }

    /// Drops the connections of a communicator, and refuses those that come later.
    pub(super) fn forget(&self, comm: u64) {
        let mut guests = self.lock();
        guests.parked.retain(|key, _| key.comm != comm);
        guests.watchers.remove(&comm);
        guests.forgotten.push_back(comm);
        if guests.forgotten.len() > MAX_FORGOTTEN {
            guests.forgotten.pop_front();
        }
    }

    /// Sleeps, at most until the next change or `wake`.
    pub(super) fn pause(&self, timeout: Duration) {
        let _ = self.changed.wait_timeout(self.lock(), timeout.min(CANCEL_POLL));
    }

    /// Waits for all connections of a link that the peer dials.
    pub(super) fn collect(
        &self,
        side: LinkSide,
        strands: Strands,
        deadline: Instant,
        cancelled: &dyn Fn() -> Option<Error>,
    ) -> Result<Vec<Strand>> {
        let started = Instant::now();
        loop {
            if let Some(error) = cancelled() {
                return Err(error);
            }
            let mut guests = self.lock();
            if let Some(rails) = guests.take(side, strands)? {
                return Ok(rails);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Error::Bootstrap {
                    what: format!("rank {} did not connect within {:.1} s", side.peer, started.elapsed().as_secs_f64()),
                    missing: vec![side.peer],
                });
            }
            let _ = self.changed.wait_timeout(guests, left.min(CANCEL_POLL));
        }
    }
}

/// The accept thread: hears all callers at once, and lets in those who prove themselves.
pub(super) struct Porter {
    pub(super) porch: Porch,
    /// Readable when the endpoint is gone.
    pub(super) stopped: UnixStream,
    pub(super) lobby: Arc<Lobby>,
}

impl Porter {
    pub(super) fn run(mut self) {
        loop {
            match self.sleep() {
                Ok(false) | Err(Errno::EINTR) => {}
                Ok(true) => return,
                Err(errno) => {
                    tracing::error!(
                        "the accept thread cannot wait any more ({errno}); no rank can connect from now on"
                    );
                    return;
                }
            }
            for arrival in self.porch.attend() {
                if let Err(error) = self.welcome(arrival) {
                    tracing::warn!("refused a rank of this job: {error}");
                }
            }
        }
    }

    /// Waits until there may be something to do; true when the endpoint is gone.
    fn sleep(&self) -> nix::Result<bool> {
        let mut fds = vec![PollFd::new(self.stopped.as_fd(), PollFlags::POLLIN)];
        fds.extend(self.porch.fds().map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        let timeout = match self.porch.wakes_at() {
            None => PollTimeout::NONE,
            Some(at) => {
                let left = at.saturating_duration_since(Instant::now());
                PollTimeout::try_from(left.as_millis() as i32 + 1).expect("a few seconds fit")
            }
        };
        poll(&mut fds, timeout)?;
        Ok(fds[0].any().unwrap_or(true))
    }

    /// The guest is proved: parks it, or tells it why not.
    fn welcome(&self, arrival: Arrival) -> Result<()> {
        let hello = decode_hello::<Hello>(&arrival.hello);
        // One lock for both: a peer may do all its work as soon as it has the answer, and say goodbye; whoever then looks
        // for its connection must find it. The answer is small and the socket's buffer empty, so it does not wait.
        let mut guests = self.lobby.lock();
        let answer = hello.as_ref().map_err(Error::clone).and_then(|hello| guests.admit(hello));
        let connection = arrival.answer(answer)?;
        let hello = hello?;
        // One that dials again has given up its earlier try.
        guests.parked.insert(hello.key, (connection, hello));
        self.lobby.changed.notify_all();
        if let Some(arrived) = guests.watchers.get(&hello.key.comm) {
            arrived();
        }
        Ok(())
    }
}
