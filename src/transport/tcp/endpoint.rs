//! A rank's door to the network: one listening socket, one thread that minds it, and the connections that wait inside
//! until somebody asks for them.
//!
//! ```text
//!   stranger ──> porch ──(proved)──> parked under its key ──> connect() of the rank that waits for it
//!                 at most 64          at most 4096, gone with
//!                                     their communicator
//! ```
#![forbid(unsafe_code)]

use super::dial::{Persistence, dial};
use super::handshake::CANCEL_POLL;
use super::interface::{PortRange, listen};
use super::link::{TcpRx, TcpTx, link};
use super::porch::{Arrival, Porch, decode_hello};
use super::secret::Secret;
use super::session::Session;
use super::terms::{Guard, Terms};
use crate::error::{Error, Result};
use crate::types::Rank;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Connections that may wait to be asked for.
const MAX_PARKED: usize = 4096;
/// Closed communicators that are remembered, to refuse those who come late.
const MAX_FORGOTTEN: usize = 1024;

/// Which connection of which link this is. The side that dials says it in its hello.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LinkKey {
    /// The communicator; a number that is never used for another one.
    pub comm: u64,
    /// The membership generation of the communicator.
    pub epoch: u32,
    /// The rank that dials.
    pub from: u32,
    /// The rank that is dialled.
    pub to: u32,
    /// The channel of the communicator.
    pub channel: u8,
    /// Which of the link's sockets, counted from 0.
    pub socket: u8,
}

/// One side of a link to be made: who this rank is and to whom it wants to talk about what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkSide {
    /// The communicator; a number that is never used for another one.
    pub comm: u64,
    /// Its membership generation: ends of different generations never meet.
    pub epoch: u32,
    /// This rank.
    pub me: Rank,
    /// The other one.
    pub peer: Rank,
    /// The channel of the communicator.
    pub channel: u8,
}

impl LinkSide {
    fn key(&self, me_connects: bool, socket: u8) -> LinkKey {
        let (from, to) = if me_connects { (self.me, self.peer) } else { (self.peer, self.me) };
        let number = |rank: Rank| u32::try_from(rank).expect("ranks are numbered in 32 bits");
        LinkKey {
            comm: self.comm,
            epoch: self.epoch,
            from: number(from),
            to: number(to),
            channel: self.channel,
            socket,
        }
    }
}

/// What a dialler says: which connection this is, and of how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Hello {
    key: LinkKey,
    sockets: u8,
}

impl Hello {
    fn encode(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("a hello of plain numbers encodes")
    }
}

/// Decodes a hello, for [`super::fuzz`].
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn decode_link_hello(bytes: &[u8]) {
    if let Ok(hello) = decode_hello::<Hello>(bytes) {
        assert_eq!(decode_hello::<Hello>(&hello.encode()), Ok(hello));
    }
}

/// A hello that makes sense.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn some_link_hello() -> Vec<u8> {
    let key = LinkKey { comm: 1 << 40, epoch: 0, from: 3, to: 300, channel: 255, socket: 1 };
    Hello { key, sockets: 2 }.encode()
}

/// Who listens, and for whom: what the terms of its connections are made of.
#[derive(Debug, Clone)]
pub struct Identity {
    /// What only ranks of the job know.
    pub secret: Secret,
    /// The job's name.
    pub job: [u8; 16],
    /// This rank of the job.
    pub rank: Rank,
    /// The number that this process drew at random: in another run of the job the same rank has another.
    pub process: u64,
    /// How links are protected; the same on all ranks.
    pub guard: Guard,
}

impl Identity {
    /// The terms of connections to `rank` in `process`.
    fn terms(&self, rank: Rank, process: u64) -> Terms {
        let (rank, process) = ((rank as u64).to_le_bytes(), process.to_le_bytes());
        Terms::new(self.secret.clone(), Some(self.guard), "roundel data link", &[&self.job, &rank, &process])
    }
}

/// Whom to dial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Callee {
    /// Where it listens.
    pub addr: SocketAddr,
    /// Its rank of the job.
    pub rank: Rank,
    /// Its [`Identity::process`].
    pub process: u64,
}

/// A listening socket of this rank or process, and everything that came in through it.
pub struct Endpoint {
    addr: SocketAddr,
    identity: Identity,
    lobby: Arc<Lobby>,
    /// Closed to tell the thread to end.
    stop: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

impl Endpoint {
    /// Listens on `bind`, at a port of `ports` or at any free one, for those who look for this very rank.
    pub fn listen(bind: IpAddr, ports: Option<PortRange>, identity: Identity) -> Result<Arc<Endpoint>> {
        let listener = listen(bind, ports)?;
        let addr = listener.local_addr().map_err(|error| Error::system("asking for the port", error))?;
        let porch = Porch::new(vec![listener], identity.terms(identity.rank, identity.process));
        let porch = porch.map_err(|error| Error::system("listening", error))?;
        let (stop, stopped) = UnixStream::pair().map_err(|error| Error::system("making a pair of sockets", error))?;
        let lobby = Arc::new(Lobby::default());
        let porter = Porter { porch, stopped, lobby: lobby.clone() };
        let thread = std::thread::Builder::new()
            .name("roundel-accept".into())
            .spawn(move || porter.run())
            .map_err(|error| Error::system("starting the accept thread", error))?;
        Ok(Arc::new(Endpoint { addr, identity, lobby, stop: Some(stop), thread: Some(thread) }))
    }

    /// Where others reach it.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Makes one link of `sockets` connections, which carry bytes both ways. Exactly one side dials (`me_connects`) the
    /// other side's endpoint, and tries again while nobody listens there; the other side waits. Both
    /// name the same number of sockets. Ends with an error at `deadline`, or when `cancelled` gives one: it is asked at
    /// least every 50 ms, and sooner after [`Endpoint::wake`].
    pub fn connect(
        &self,
        callee: Callee,
        side: LinkSide,
        sockets: usize,
        me_connects: bool,
        deadline: Instant,
        cancelled: &dyn Fn() -> Option<Error>,
    ) -> Result<(TcpTx, TcpRx)> {
        if me_connects {
            return self.dial(callee, side, sockets, Persistence { deadline, cancelled, has_left: &|| false });
        }
        let streams = self.lobby.collect(side, socket_count(sockets)?, deadline, cancelled)?;
        link(side.peer, streams)
    }

    /// The dialling side of [`Endpoint::connect`].
    pub fn dial(
        &self,
        callee: Callee,
        side: LinkSide,
        sockets: usize,
        persistence: Persistence,
    ) -> Result<(TcpTx, TcpRx)> {
        let sockets = socket_count(sockets)?;
        let pause = |timeout| self.lobby.pause(timeout);
        let terms = self.identity.terms(callee.rank, callee.process);
        let connect_one = |socket| {
            let hello = Hello { key: side.key(true, socket), sockets };
            dial(callee.addr, side.peer, &terms, &hello.encode(), &persistence, &pause)
        };
        link(side.peer, (0..sockets).map(connect_one).collect::<Result<_>>()?)
    }

    /// The link that the peer dials, if all its connections have come in: [`Endpoint::connect`] without waiting.
    pub fn accepted(&self, side: LinkSide, sockets: usize) -> Result<Option<(TcpTx, TcpRx)>> {
        let sockets = socket_count(sockets)?;
        match self.lobby.lock().take(side, sockets)? {
            Some(connections) => link(side.peer, connections).map(Some),
            None => Ok(None),
        }
    }

    /// Calls `arrived` whenever a connection of this communicator has come in, until [`Endpoint::forget`].
    pub fn watch(&self, comm: u64, arrived: Box<dyn Fn() + Send>) {
        self.lobby.lock().watchers.insert(comm, arrived);
    }

    /// Lets every `connect` that sleeps ask its `cancelled` now. One that was just about to sleep asks 50 ms later.
    pub fn wake(&self) {
        self.lobby.changed.notify_all();
    }

    /// The communicator is closed: drops the connections that wait for it, and refuses those that come later.
    pub fn forget(&self, comm: u64) {
        let mut guests = self.lobby.lock();
        guests.parked.retain(|key, _| key.comm != comm);
        guests.watchers.remove(&comm);
        guests.forgotten.push_back(comm);
        if guests.forgotten.len() > MAX_FORGOTTEN {
            guests.forgotten.pop_front();
        }
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed; dropping must not add another.
            let _ = thread.join();
        }
    }
}

fn socket_count(sockets: usize) -> Result<u8> {
    let count = u8::try_from(sockets).ok().filter(|sockets| *sockets > 0);
    count.ok_or_else(|| Error::invalid(format!("a link of {sockets} sockets; it may have 1 to 255")))
}

/// A connection whose two ends know each other.
pub(super) type Connection = (TcpStream, Session);

/// The connections that are proved and wait to be asked for.
#[derive(Default)]
struct Lobby {
    guests: Mutex<Guests>,
    changed: Condvar,
}

#[derive(Default)]
struct Guests {
    parked: HashMap<LinkKey, (Connection, u8)>,
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

    /// The connections of a link, once all are there.
    fn take(&mut self, side: LinkSide, sockets: u8) -> Result<Option<Vec<Connection>>> {
        let keys: Vec<LinkKey> = (0..sockets).map(|socket| side.key(false, socket)).collect();
        let others = keys.iter().find_map(|key| self.parked.get(key).filter(|(_, theirs)| *theirs != sockets));
        if let Some((_, theirs)) = others {
            return Err(Error::bootstrap(format!(
                "rank {} makes links of {theirs} sockets, rank {} of {sockets}; set the same on all ranks",
                side.peer, side.me
            )));
        }
        if !keys.iter().all(|key| self.parked.contains_key(key)) {
            return Ok(None);
        }
        Ok(Some(keys.iter().filter_map(|key| self.parked.remove(key)).map(|(connection, _)| connection).collect()))
    }
}

impl Lobby {
    fn lock(&self) -> MutexGuard<'_, Guests> {
        // Every change to the guests is one call; a panic elsewhere leaves them whole.
        self.guests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sleeps, at most until the next change or `wake`.
    fn pause(&self, timeout: Duration) {
        let _ = self.changed.wait_timeout(self.lock(), timeout.min(CANCEL_POLL));
    }

    /// Waits for all connections of a link that the peer dials.
    fn collect(
        &self,
        side: LinkSide,
        sockets: u8,
        deadline: Instant,
        cancelled: &dyn Fn() -> Option<Error>,
    ) -> Result<Vec<Connection>> {
        let started = Instant::now();
        loop {
            if let Some(error) = cancelled() {
                return Err(error);
            }
            let mut guests = self.lock();
            if let Some(streams) = guests.take(side, sockets)? {
                return Ok(streams);
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
struct Porter {
    porch: Porch,
    stopped: UnixStream,
    lobby: Arc<Lobby>,
}

impl Porter {
    fn run(mut self) {
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
        guests.parked.insert(hello.key, (connection, hello.sockets));
        self.lobby.changed.notify_all();
        if let Some(arrived) = guests.watchers.get(&hello.key.comm) {
            arrived();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_are_a_hello_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(hello) = decode_hello::<Hello>(&bytes) {
                prop_assert_eq!(decode_hello::<Hello>(&hello.encode()), Ok(hello));
            }
        }

        #[test]
        fn a_hello_survives_the_way_and_nothing_may_follow_it(
            comm: u64, epoch: u32, from: u32, to: u32, channel: u8, socket: u8, sockets: u8,
        ) {
            let hello = Hello { key: LinkKey { comm, epoch, from, to, channel, socket }, sockets };
            let mut bytes = hello.encode();
            prop_assert_eq!(decode_hello::<Hello>(&bytes), Ok(hello));
            bytes.push(0);
            prop_assert!(decode_hello::<Hello>(&bytes).is_err());
        }
    }
}
