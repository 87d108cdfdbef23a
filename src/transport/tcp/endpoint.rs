//! A rank's door to the network: one listening socket, one thread that minds it, and the connections that wait inside
//! until somebody asks for them.
//!
//! ```text
//!   stranger ──> accept ──> handshake ──> parked under its key ──> connect() of the rank that waits for it
//!                   at most 64,            at most 4096, gone with
//!                   the oldest makes room  their communicator
//! ```
//!
//! Handshakes run side by side in the one thread and never wait for each other: whoever connects and says nothing, or
//! nonsense, costs a file descriptor for at most five seconds and one line in the log.
#![forbid(unsafe_code)]

use super::dial::{Persistence, dial};
use super::handshake::{CANCEL_POLL, Responding, Secret};
use super::interface::{PortRange, listen};
use super::link::{TcpRx, TcpTx, link};
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

/// Connections whose handshake is under way. One more, and the oldest of them has to go: it had its chance.
const MAX_HALF_OPEN: usize = 64;
/// How long a handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections that may wait to be asked for.
const MAX_PARKED: usize = 4096;
/// Closed communicators that are remembered, to refuse those who come late.
const MAX_FORGOTTEN: usize = 1024;

/// Which connection of which link this is. The side that dials says it in its hello.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LinkKey {
    /// The communicator; a number that is never used for another one.
    pub comm: u64,
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
        LinkKey { comm: self.comm, from: number(from), to: number(to), channel: self.channel, socket }
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

    fn decode(bytes: &[u8]) -> Result<Hello> {
        match postcard::take_from_bytes(bytes) {
            Ok((hello, [])) => Ok(hello),
            _ => Err(Error::bootstrap("its hello makes no sense")),
        }
    }
}

/// A listening socket of this rank or process, and everything that came in through it.
pub struct Endpoint {
    addr: SocketAddr,
    secret: Secret,
    lobby: Arc<Lobby>,
    /// Closed to tell the thread to end.
    stop: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

impl Endpoint {
    /// Listens on `bind`, at a port of `ports` or at any free one, for those who hold `secret`.
    pub fn listen(bind: IpAddr, ports: Option<PortRange>, secret: Secret) -> Result<Arc<Endpoint>> {
        let listener = listen(bind, ports)?;
        let addr = listener.local_addr().map_err(|error| Error::system("asking for the port", error))?;
        listener.set_nonblocking(true).map_err(|error| Error::system("listening", error))?;
        let (stop, stopped) = UnixStream::pair().map_err(|error| Error::system("making a pair of sockets", error))?;
        let lobby = Arc::new(Lobby::default());
        let porter =
            Porter { listener, stopped, secret: secret.clone(), lobby: lobby.clone(), half_open: VecDeque::new() };
        let thread = std::thread::Builder::new()
            .name("roundel-accept".into())
            .spawn(move || porter.run())
            .map_err(|error| Error::system("starting the accept thread", error))?;
        Ok(Arc::new(Endpoint { addr, secret, lobby, stop: Some(stop), thread: Some(thread) }))
    }

    /// Where others reach it.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Makes one link of `sockets` connections, which carry bytes both ways. Exactly one side dials (`me_connects`), to
    /// the `addr` of the other side's endpoint, and tries again while nobody listens there; the other side waits. Both
    /// name the same number of sockets. Ends with an error at `deadline`, or when `cancelled` gives one: it is asked at
    /// least every 50 ms, and sooner after [`Endpoint::wake`].
    pub fn connect(
        &self,
        addr: SocketAddr,
        side: LinkSide,
        sockets: usize,
        me_connects: bool,
        deadline: Instant,
        cancelled: &dyn Fn() -> Option<Error>,
    ) -> Result<(TcpTx, TcpRx)> {
        if me_connects {
            return self.dial(addr, side, sockets, Persistence { deadline, cancelled, has_left: &|| false });
        }
        let streams = self.lobby.collect(side, socket_count(sockets)?, deadline, cancelled)?;
        link(side.peer, streams)
    }

    /// The dialling side of [`Endpoint::connect`].
    pub fn dial(
        &self,
        addr: SocketAddr,
        side: LinkSide,
        sockets: usize,
        persistence: Persistence,
    ) -> Result<(TcpTx, TcpRx)> {
        let sockets = socket_count(sockets)?;
        let pause = |timeout| self.lobby.pause(timeout);
        let connect_one = |socket| {
            let hello = Hello { key: side.key(true, socket), sockets };
            dial(addr, side.peer, &self.secret, &hello.encode(), &persistence, &pause)
        };
        link(side.peer, (0..sockets).map(connect_one).collect::<Result<_>>()?)
    }

    /// The link that the peer dials, if all its connections have come in: [`Endpoint::connect`] without waiting.
    pub fn accepted(&self, side: LinkSide, sockets: usize) -> Result<Option<(TcpTx, TcpRx)>> {
        let sockets = socket_count(sockets)?;
        match self.lobby.lock().take(side, sockets)? {
            Some(streams) => link(side.peer, streams).map(Some),
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

/// The connections that are proved and wait to be asked for.
#[derive(Default)]
struct Lobby {
    guests: Mutex<Guests>,
    changed: Condvar,
}

#[derive(Default)]
struct Guests {
    parked: HashMap<LinkKey, (TcpStream, u8)>,
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
    fn take(&mut self, side: LinkSide, sockets: u8) -> Result<Option<Vec<TcpStream>>> {
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
        Ok(Some(keys.iter().filter_map(|key| self.parked.remove(key)).map(|(stream, _)| stream).collect()))
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
    ) -> Result<Vec<TcpStream>> {
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

/// The accept thread: lets callers in, hears them all at once, and believes those who prove themselves.
struct Porter {
    listener: TcpListener,
    stopped: UnixStream,
    secret: Secret,
    lobby: Arc<Lobby>,
    /// Oldest first, so that they also expire in order.
    half_open: VecDeque<HalfOpen>,
}

struct HalfOpen {
    stream: TcpStream,
    peer: SocketAddr,
    responding: Responding,
    since: Instant,
}

impl Porter {
    fn run(mut self) {
        let mut can_accept = true;
        loop {
            let (stop, knock, ready) = match self.sleep(can_accept) {
                Ok(events) => events,
                Err(Errno::EINTR) => continue,
                Err(errno) => {
                    tracing::error!(
                        "the accept thread cannot wait any more ({errno}); no rank can connect from now on"
                    );
                    return;
                }
            };
            if stop {
                return;
            }
            self.hear(&ready);
            self.expire();
            can_accept = !knock || self.accept();
        }
    }

    /// Waits for the next event: (the endpoint is gone, somebody knocks, which of the half-open have something to say).
    fn sleep(&self, can_accept: bool) -> nix::Result<(bool, bool, Vec<bool>)> {
        let knocking = if can_accept { PollFlags::POLLIN } else { PollFlags::empty() };
        let mut fds =
            vec![PollFd::new(self.stopped.as_fd(), PollFlags::POLLIN), PollFd::new(self.listener.as_fd(), knocking)];
        fds.extend(self.half_open.iter().map(|guest| PollFd::new(guest.stream.as_fd(), PollFlags::POLLIN)));
        let timeout = match self.half_open.front() {
            // Out of file descriptors, most likely: look again soon.
            _ if !can_accept => PollTimeout::from(50u8),
            None => PollTimeout::NONE,
            Some(oldest) => {
                let left = HANDSHAKE_TIMEOUT.saturating_sub(oldest.since.elapsed());
                PollTimeout::try_from(left.as_millis() as i32 + 1).expect("five seconds fit")
            }
        };
        poll(&mut fds, timeout)?;
        let mut events = fds.iter().map(|fd| fd.any().unwrap_or(true));
        let (stop, knock) = (events.next().unwrap_or(true), events.next().unwrap_or(false));
        Ok((stop, knock || !can_accept, events.collect()))
    }

    /// Goes on with the handshakes of those that are `ready`.
    fn hear(&mut self, ready: &[bool]) {
        let mut ready = ready.iter();
        for mut guest in std::mem::take(&mut self.half_open) {
            if !ready.next().copied().unwrap_or(false) {
                self.half_open.push_back(guest);
                continue;
            }
            match guest.responding.advance(&guest.stream) {
                Ok(None) => self.half_open.push_back(guest),
                Ok(Some(hello)) => {
                    if let Err(error) = self.welcome(guest, &hello) {
                        tracing::warn!("refused a rank of this job: {error}");
                    }
                }
                Err(error) => tracing::warn!("dropped a stranger: {error}"),
            }
        }
    }

    /// The guest is proved: parks it, or tells it why not.
    fn welcome(&self, guest: HalfOpen, hello: &[u8]) -> Result<()> {
        let hello = Hello::decode(hello);
        // One lock for both: a peer may do all its work as soon as it has the answer, and say goodbye; whoever then looks
        // for its connection must find it. The answer is small and the socket's buffer empty, so it does not wait.
        let mut guests = self.lobby.lock();
        let answer = hello.as_ref().map_err(Error::clone).and_then(|hello| guests.admit(hello));
        guest.responding.answer(&guest.stream, &answer)?;
        answer?;
        let hello = hello?;
        // One that dials again has given up its earlier try.
        guests.parked.insert(hello.key, (guest.stream, hello.sockets));
        self.lobby.changed.notify_all();
        if let Some(arrived) = guests.watchers.get(&hello.key.comm) {
            arrived();
        }
        Ok(())
    }

    fn expire(&mut self) {
        while self.half_open.front().is_some_and(|guest| guest.since.elapsed() >= HANDSHAKE_TIMEOUT) {
            self.drop_oldest("it did not finish the handshake in time");
        }
    }

    fn drop_oldest(&mut self, why: &str) {
        if let Some(guest) = self.half_open.pop_front() {
            tracing::warn!("dropped a stranger: {}: {why}", guest.peer);
        }
    }

    /// Takes in a few of those who knock. False when the system allows no more for now.
    fn accept(&mut self) -> bool {
        // A few, so that a crowd at the door does not keep those inside from finishing.
        for _ in 0..MAX_HALF_OPEN / 4 {
            let (stream, peer) = match self.listener.accept() {
                Ok(accepted) => accepted,
                Err(error) => match error.raw_os_error().map(Errno::from_raw) {
                    Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM) => {
                        self.drop_oldest("this process has no file descriptors left");
                        tracing::warn!("cannot accept a connection: {error}; raise `ulimit -n`");
                        return false;
                    }
                    // Nobody there any more.
                    _ => return true,
                },
            };
            if self.half_open.len() == MAX_HALF_OPEN {
                self.drop_oldest("too many strangers at once, and it was the slowest");
            }
            match Responding::new(&self.secret) {
                Ok(responding) => {
                    self.half_open.push_back(HalfOpen { stream, peer, responding, since: Instant::now() });
                }
                Err(error) => tracing::error!("cannot begin a handshake: {error}"),
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_are_a_hello_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(hello) = Hello::decode(&bytes) {
                prop_assert_eq!(Hello::decode(&hello.encode()), Ok(hello));
            }
        }

        #[test]
        fn a_hello_survives_the_way_and_nothing_may_follow_it(
            comm: u64, from: u32, to: u32, channel: u8, socket: u8, sockets: u8,
        ) {
            let hello = Hello { key: LinkKey { comm, from, to, channel, socket }, sockets };
            let mut bytes = hello.encode();
            prop_assert_eq!(Hello::decode(&bytes), Ok(hello));
            bytes.push(0);
            prop_assert!(Hello::decode(&bytes).is_err());
        }
    }
}
