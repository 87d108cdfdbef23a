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
use super::hello::{Hello, LinkSide, ROLL_CALL, Strands};
use super::interface::{PortRange, listen};
use super::link::{Strung, TcpRx, TcpTx, link};
use super::lobby::{Connection, Lobby, Porter, Strand};
use super::porch::Porch;
use super::rails::Keeper;
use super::secret::Secret;
use super::terms::{Guard, Terms};
use crate::error::{Error, Result};
use crate::types::Rank;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long to dial a rail before it is another one's turn. All ranks listen before any of them dials.
const RAIL_PATIENCE: Duration = Duration::from_secs(1);

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
        let rails = self.lobby.take(side, strands)?;
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
        self.lobby.watch(comm, arrived);
    }

    /// Lets every `connect` that sleeps ask its `cancelled` now. One that was just about to sleep asks 50 ms later.
    pub fn wake(&self) {
        self.lobby.wake();
    }

    /// The communicator is closed: drops the connections that wait for it, and refuses those that come later.
    pub fn forget(&self, comm: u64) {
        self.lobby.forget(comm);
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
