//! A rank's door to the network: one listening socket, one thread that minds it, and the connections that wait inside
//! until somebody asks for them.
//!
//! ```text
//!   stranger ──> porch ──(proved)──> parked under its key ──> connect() of the rank that waits for it
//!                 at most 64          at most 4096, gone with
//!                                     their communicator
//! ```
//!
//! Where there are several rails there is a listening socket on each, the i-th of this rank for the i-th of others. A rail
//! that cannot be dialled is left out; the dialler tells which stand with one more call, the *roll call*.
#![forbid(unsafe_code)]

use super::dial::{Persistence, dial};
use super::handshake::CANCEL_POLL;
use super::interface::{PortRange, listen};
use super::link::{Strung, TcpRx, TcpTx, link};
use super::porch::{Arrival, Porch, decode_hello};
use super::rails::Keeper;
use super::secret::Secret;
use super::session::Session;
use super::terms::{Guard, Terms};
use crate::error::{Error, Result};
use crate::types::Rank;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Connections that may wait to be asked for.
const MAX_PARKED: usize = 4096;
/// Closed communicators that are remembered, to refuse those who come late.
const MAX_FORGOTTEN: usize = 1024;
/// Interfaces that one rank may use.
pub(super) const MAX_RAILS: usize = 8;
/// Which of a link's sockets a roll call is: none.
const ROLL_CALL: u8 = u8::MAX;
/// How long to dial a rail before it is another one's turn. All ranks listen before any of them dials.
const RAIL_PATIENCE: Duration = Duration::from_secs(1);

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

/// Of how many connections a link is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Strands {
    /// Pairs of interfaces that it goes over.
    pub rails: u8,
    /// Connections over each, 1 to 16. Several rails have one more each, for receipts.
    pub sockets: u8,
}

impl Strands {
    /// So many connections over one rail.
    pub fn sockets(sockets: u8) -> Strands {
        Strands { rails: 1, sockets }
    }

    fn check(self) -> Result<()> {
        let are_good = (1..=16).contains(&self.sockets) && (1..=MAX_RAILS).contains(&self.rails.into());
        let Strands { rails, sockets } = self;
        if are_good {
            Ok(())
        } else {
            Err(Error::invalid(format!("a link of {rails} rails with {sockets} sockets each")))
        }
    }

    fn each(self) -> u8 {
        if self.rails == 1 { self.sockets } else { self.sockets + 1 }
    }

    /// The numbers of a rail's connections.
    fn numbers(self, rail: u8) -> impl Iterator<Item = u8> {
        (0..self.each()).map(move |socket| rail * self.each() + socket)
    }
}

/// What a dialler says: which connection this is, and of how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Hello {
    key: LinkKey,
    strands: Strands,
    /// A bit for each rail: in a roll call, those that stand.
    standing: u8,
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
    Hello { key, strands: Strands { rails: 2, sockets: 3 }, standing: 2 }.encode()
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Callee {
    /// Where it listens: on each of its rails.
    pub addrs: Vec<SocketAddr>,
    /// Its rank of the job.
    pub rank: Rank,
    /// Its [`Identity::process`].
    pub process: u64,
}

/// A listening socket of this rank or process, and everything that came in through it.
pub struct Endpoint {
    addrs: Vec<SocketAddr>,
    identity: Identity,
    lobby: Arc<Lobby>,
    /// Closed to tell the thread to end.
    stop: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
    /// Looks after links over several rails; there from the first of them on.
    keeper: Mutex<Option<Arc<Keeper>>>,
}

impl Endpoint {
    /// Listens on each of `binds`, one for each rail, at a port of `ports` or at any free one, for those who look for this
    /// very rank.
    pub fn listen(binds: &[IpAddr], ports: Option<PortRange>, identity: Identity) -> Result<Arc<Endpoint>> {
        let listeners = binds.iter().map(|bind| listen(*bind, ports)).collect::<Result<Vec<_>>>()?;
        let addrs = listeners.iter().map(TcpListener::local_addr).collect::<std::io::Result<Vec<_>>>();
        let addrs = addrs.map_err(|error| Error::system("asking for the port", error))?;
        let porch = Porch::new(listeners, identity.terms(identity.rank, identity.process));
        let porch = porch.map_err(|error| Error::system("listening", error))?;
        let (stop, stopped) = UnixStream::pair().map_err(|error| Error::system("making a pair of sockets", error))?;
        let lobby = Arc::new(Lobby::default());
        let porter = Porter { porch, stopped, lobby: lobby.clone() };
        let thread = std::thread::Builder::new()
            .name("roundel-accept".into())
            .spawn(move || porter.run())
            .map_err(|error| Error::system("starting the accept thread", error))?;
        let (stop, thread) = (Some(stop), Some(thread));
        Ok(Arc::new(Endpoint { addrs, identity, lobby, stop, thread, keeper: Mutex::default() }))
    }

    /// Where others reach it, on each of its rails.
    pub fn addrs(&self) -> &[SocketAddr] {
        &self.addrs
    }

    /// Makes one link of so many connections, which carry bytes both ways. Exactly one side dials (`me_connects`) the
    /// other side's endpoint, and tries again while nobody listens there; the other side waits. Both
    /// name the same strands. Ends with an error at `deadline`, or when `cancelled` gives one: it is asked at
    /// least every 50 ms, and sooner after [`Endpoint::wake`].
    pub fn connect(
        &self,
        callee: &Callee,
        side: LinkSide,
        strands: Strands,
        me_connects: bool,
        deadline: Instant,
        cancelled: &dyn Fn() -> Option<Error>,
    ) -> Result<(TcpTx, TcpRx)> {
        if me_connects {
            return self.dial(callee, side, strands, Persistence { deadline, cancelled, has_left: &|| false });
        }
        strands.check()?;
        let rails = self.lobby.collect(side, strands, deadline, cancelled)?;
        self.link(side, strands, rails)
    }

    /// The dialling side of [`Endpoint::connect`].
    pub fn dial(
        &self,
        callee: &Callee,
        side: LinkSide,
        strands: Strands,
        persistence: Persistence,
    ) -> Result<(TcpTx, TcpRx)> {
        strands.check()?;
        let pause = |timeout| self.lobby.pause(timeout);
        let terms = self.identity.terms(callee.rank, callee.process);
        let way = |rail: u8| {
            // One rail leaves by whichever interface leads there; several must not meet on one of them.
            let from = (strands.rails > 1).then(|| self.addrs.get(usize::from(rail)).map(SocketAddr::ip)).flatten();
            let to = callee.addrs.get(usize::from(rail)).copied();
            to.map(|to| (from, to)).ok_or_else(|| Error::invalid(format!("rank {} has no rail {rail}", side.peer)))
        };
        let call = |rail, socket, standing, persistence: &Persistence| {
            let hello = Hello { key: side.key(true, socket), strands, standing };
            dial(way(rail)?, side.peer, &terms, &hello.encode(), persistence, &pause)
        };
        if strands.rails == 1 {
            let connections =
                strands.numbers(0).map(|socket| call(0, socket, 0, &persistence)).collect::<Result<_>>()?;
            return link(side.peer, Strung::Stripes(connections));
        }
        let rails = dial_rails(strands, persistence, &|rail, persistence| {
            strands.numbers(rail).map(|socket| call(rail, socket, 0, persistence)).collect()
        })?;
        if rails.len() < usize::from(strands.rails) {
            let standing = rails.iter().fold(0, |standing, (rail, _)| standing | 1 << rail);
            let (first, _) = rails[0];
            drop(call(first as u8, ROLL_CALL, standing, &persistence)?);
        }
        self.link(side, strands, rails)
    }

    /// The link that the peer dials, if all its connections have come in: [`Endpoint::connect`] without waiting.
    pub fn accepted(&self, side: LinkSide, strands: Strands) -> Result<Option<(TcpTx, TcpRx)>> {
        strands.check()?;
        let rails = self.lobby.lock().take(side, strands)?;
        rails.map(|rails| self.link(side, strands, rails)).transpose()
    }

    fn link(&self, side: LinkSide, strands: Strands, mut rails: Vec<Strand>) -> Result<(TcpTx, TcpRx)> {
        if strands.rails == 1 {
            let (_, connections) = rails.pop().expect("a link has a rail");
            return link(side.peer, Strung::Stripes(connections));
        }
        let mut keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner);
        let keeper = match &*keeper {
            Some(keeper) => keeper.clone(),
            None => keeper.insert(Keeper::new()?).clone(),
        };
        link(side.peer, Strung::Rails(rails, keeper))
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

/// Dials all rails; those that stand. One that cannot be dialled is told and left out, as long as another one can.
fn dial_rails(
    strands: Strands,
    persistence: Persistence,
    dial_one: &dyn Fn(u8, &Persistence) -> Result<Vec<Connection>>,
) -> Result<Vec<Strand>> {
    loop {
        let (mut standing, mut failed) = (Vec::new(), Vec::new());
        for rail in 0..strands.rails {
            let deadline = persistence.deadline.min(Instant::now() + RAIL_PATIENCE);
            match dial_one(rail, &Persistence { deadline, ..persistence }) {
                Ok(connections) => standing.push((usize::from(rail), connections)),
                Err(error) => failed.push((rail, error)),
            }
            if let Some(error) = (persistence.cancelled)() {
                return Err(error);
            }
        }
        if !standing.is_empty() {
            for (rail, error) in failed {
                tracing::warn!("rail {rail} is left out, the others go on: {error}");
            }
            return Ok(standing);
        }
        // Only those who ran out of patience may have more luck the next time.
        let (_, error) = failed.swap_remove(0);
        let may_pass = matches!(&error, Error::Bootstrap { missing, .. } if !missing.is_empty());
        if !may_pass || Instant::now() >= persistence.deadline {
            return Err(error);
        }
    }
}

/// A connection whose two ends know each other.
pub(super) type Connection = (TcpStream, Session);

/// The connections of one rail, and which it is.
type Strand = (usize, Vec<Connection>);

/// The connections that are proved and wait to be asked for.
#[derive(Default)]
struct Lobby {
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

    /// Sleeps, at most until the next change or `wake`.
    fn pause(&self, timeout: Duration) {
        let _ = self.changed.wait_timeout(self.lock(), timeout.min(CANCEL_POLL));
    }

    /// Waits for all connections of a link that the peer dials.
    fn collect(
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
        guests.parked.insert(hello.key, (connection, hello));
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
            comm: u64, epoch: u32, from: u32, to: u32, channel: u8, socket: u8, rails: u8, sockets: u8, standing: u8,
        ) {
            let key = LinkKey { comm, epoch, from, to, channel, socket };
            let hello = Hello { key, strands: Strands { rails, sockets }, standing };
            let mut bytes = hello.encode();
            prop_assert_eq!(decode_hello::<Hello>(&bytes), Ok(hello));
            bytes.push(0);
            prop_assert!(decode_hello::<Hello>(&bytes).is_err());
        }
    }
}
