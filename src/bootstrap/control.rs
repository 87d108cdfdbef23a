//! A rank's end of the control plane.
//!
//! [`Control::join`] makes the rank a member of its job. From then on a thread sleeps on the connection to the root and
//! tells the registered [`Listener`]s what the root says: who is gone, which communicator has failed. The last `Arc`
//! dropped says goodbye; a process that dies without is reported to everybody as soon as its connection closes.
#![forbid(unsafe_code)]

use super::address::Root;
use super::digest::digest;
use super::recent::Recent;
use super::seats::Patience;
use super::wire::{self, CONTROL_VERSION, ExchangeError, ExchangeId, FromRoot, Hello, MAX_WORLD, Outbox, ToRoot};
use super::{MAX_CONTRIBUTION_BYTES, deadline_after, join, listening, lock, root};
use crate::error::{Error, Result, Signature};
use crate::topology::detect::process_id;
use crate::transport::tcp::interface;
use crate::types::Rank;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// After its deadline an exchange waits so long for the root to say who was missing.
const GRACE: Duration = Duration::from_secs(2);
/// Failed communicators that are remembered for those who register late.
const REMEMBERED: usize = 4096;

/// What a rank needs to join.
#[derive(Debug, Clone)]
pub struct Config {
    /// Which job.
    pub root: Root,
    /// Who this is.
    pub rank: Rank,
    /// How many ranks the job has.
    pub world: usize,
    /// How long the join may take. All ranks fail together when the first loses its patience.
    pub timeout: Duration,
    /// `ROUNDEL_IFACE`: the interface for this rank's data, where it is not to be the one that leads to the root.
    pub iface: Option<String>,
}

/// Hears what happens to the job. Called from the control thread, so it must be quick and must not wait for anything that
/// the control plane does.
pub trait Listener: Send + Sync {
    /// A rank is gone without a goodbye, or somebody found it unreachable. It may be this rank itself, if the others have
    /// given it up.
    fn peer_lost(&self, world_rank: Rank, what: &str);
    /// A rank has left in good order.
    fn peer_left(&self, world_rank: Rank);
    /// The communicator has failed; the same error is told to all ranks. Only for the one registered for.
    fn revoked(&self, comm: u64, error: &Error);
}

/// A rank's membership in its job. Cheap to share; usable from any thread.
pub struct Control {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// Keeps a [`Listener`] listening until it is dropped. A call that has begun by then may still end after.
pub struct Registration {
    shared: Arc<Shared>,
    id: u64,
}

pub(super) struct Shared {
    rank: Rank,
    world: usize,
    local_ip: IpAddr,
    /// None in a world of one.
    pub(super) link: Option<Link>,
    state: Mutex<State>,
    /// An exchange has moved on, or the control plane has ended.
    changed: Condvar,
}

/// The connection to the root.
pub(super) struct Link {
    pub(super) stream: TcpStream,
    pub(super) outbox: Mutex<Outbox>,
    /// Written to, it wakes the control thread.
    waker: UnixStream,
    /// Ranks in the root's process.
    beside_root: Vec<Rank>,
}

struct State {
    leaving: bool,
    /// Why nothing comes from the root any more.
    ended: Option<Error>,
    exchanges: HashMap<ExchangeId, Exchange>,
    listeners: BTreeMap<u64, (u64, Arc<dyn Listener>)>,
    next_listener: u64,
    lost: BTreeMap<Rank, String>,
    left: BTreeSet<Rank>,
    revoked: Recent<u64, Error>,
}

/// An exchange that this rank waits for.
struct Exchange {
    parts: Vec<Option<Vec<u8>>>,
    failure: Option<ExchangeError>,
}

/// What the listeners are told.
enum Event {
    Lost(Rank, String),
    Left(Rank),
    Revoked(u64, Error),
}

impl Control {
    /// Joins the job; returns when all ranks have. Rank 0 also opens it, where no unique id did.
    pub fn join(config: Config) -> Result<Arc<Control>> {
        let Config { root, rank, world, timeout, iface } = config;
        if world == 0 || world > MAX_WORLD {
            return Err(Error::invalid(format!("a world of {world} ranks; it has between 1 and {MAX_WORLD}")));
        }
        if rank >= world {
            return Err(Error::invalid(format!("rank {rank} in a world of {world}; ranks count from 0")));
        }
        if world == 1 {
            let local_ip = match &iface {
                Some(iface) => interface::resolve(Some(iface))?,
                None => IpAddr::V4(Ipv4Addr::LOCALHOST),
            };
            return Ok(Arc::new(Control { shared: Arc::new(Shared::new(rank, world, local_ip, None)), thread: None }));
        }
        let deadline = deadline_after(timeout);
        let door = match &root {
            Root::Address(address) if rank == 0 => {
                let listeners = address.listen(iface.as_deref())?;
                let door = listeners[0].local_addr().map_err(no_link)?;
                root::start(
                    listeners,
                    root.secret().clone(),
                    root.job(),
                    Some((world, Patience { deadline, timeout })),
                )?;
                Some(door)
            }
            _ => None,
        };
        let timeout_ms = timeout.as_millis().try_into().unwrap_or(u64::MAX);
        let hello = Hello {
            version: CONTROL_VERSION,
            job: root.job(),
            rank,
            world,
            process: process_id()?,
            nonce: getrandom::u64().map_err(|error| Error::bootstrap(format!("no random bytes: {error}")))?,
            timeout_ms,
            remaining_ms: timeout_ms,
        };
        let joined = join::join(&root, door, &hello, deadline)?;

        let reached_from = joined.stream.local_addr().map_err(no_link)?.ip();
        let local_ip = match &iface {
            Some(iface) => interface::resolve(Some(iface))?,
            // Beside a root that knows itself as loopback, of a job that spans hosts.
            None if reached_from.is_loopback() && !root.is_loopback() => interface::resolve(None)?,
            None => reached_from,
        };
        let (woken, waker) = UnixStream::pair().map_err(no_link)?;
        woken.set_nonblocking(true).map_err(no_link)?;
        waker.set_nonblocking(true).map_err(no_link)?;
        let (stream, beside_root) = (joined.stream, joined.beside_root);
        let link = Link { stream, outbox: Mutex::default(), waker, beside_root };
        let shared = Arc::new(Shared::new(rank, world, local_ip, Some(link)));
        let (listener, inbox) = (shared.clone(), joined.inbox);
        let thread = std::thread::Builder::new()
            .name("roundel-control".into())
            .spawn(move || listening::listen(&listener, inbox, &woken))
            .map_err(no_link)?;
        Ok(Arc::new(Control { shared, thread: Some(thread) }))
    }

    /// Who this is.
    pub fn rank(&self) -> Rank {
        self.shared.rank
    }

    /// How many ranks the job has.
    pub fn world(&self) -> usize {
        self.shared.world
    }

    /// The address for this rank's data: of the interface asked for, else of the one that leads to the root.
    pub fn local_ip(&self) -> IpAddr {
        self.shared.local_ip
    }

    /// All members give bytes (at most [`MAX_CONTRIBUTION_BYTES`] each) and get everybody's, in the order of `members`,
    /// which with `tag` names the exchange and is the same on all. It succeeds for all or fails for all: at the first
    /// deadline that passes, or as soon as a member is gone that has not contributed. A tag that failed stays failed.
    pub fn exchange(&self, tag: u64, members: &[Rank], mine: Vec<u8>, deadline: Instant) -> Result<Vec<Vec<u8>>> {
        let shared = &self.shared;
        let distinct: HashSet<Rank> = members.iter().copied().collect();
        if distinct.len() != members.len() || !distinct.contains(&shared.rank) {
            return Err(Error::invalid(format!("an exchange of rank {} among {members:?}", shared.rank)));
        }
        if let Some(stranger) = members.iter().find(|member| **member >= shared.world) {
            return Err(Error::invalid(format!("an exchange with rank {stranger} in a world of {}", shared.world)));
        }
        if mine.len() > MAX_CONTRIBUTION_BYTES {
            return Err(Error::invalid(format!(
                "an exchange of {} bytes; at most {MAX_CONTRIBUTION_BYTES} a rank",
                mine.len()
            )));
        }
        match &shared.link {
            Some(link) if members.len() > 1 => shared.exchange(link, tag, members, mine, deadline),
            _ => Ok(vec![mine]),
        }
    }

    /// Tells all ranks that communicator `comm` has failed. If several say so, the first is heard, by everybody.
    pub fn revoke(&self, comm: u64, error: &Error) {
        match &self.shared.link {
            Some(link) => link.send(&ToRoot::Revoke { comm, error: error.clone() }),
            None => self.shared.announce(Event::Revoked(comm, error.clone())),
        }
    }

    /// Tells the root that this rank (`rank_in_comm` of communicator `comm`) has been waiting inside this call for a
    /// while. When two ranks wait in different calls of the same number, the communicator is revoked with
    /// [`Error::Mismatch`].
    pub fn report_stalled(&self, comm: u64, rank_in_comm: Rank, signature: Signature) {
        if let Some(link) = &self.shared.link {
            link.send(&ToRoot::Stalled { comm, rank: rank_in_comm, signature });
        }
    }

    /// Tells all ranks that the data link to `world_rank` broke, unless it has left in good order.
    pub fn report_lost(&self, world_rank: Rank, what: &str) {
        if let Some(link) = &self.shared.link {
            link.send(&ToRoot::Lost { rank: world_rank, what: what.to_string() });
        }
    }

    /// Lets `listener` hear of ranks that go, and of the failure of communicator `comm`. What has happened already is told
    /// before this returns.
    pub fn register(&self, comm: u64, listener: Arc<dyn Listener>) -> Registration {
        let mut state = lock(&self.shared.state);
        let id = state.next_listener;
        state.next_listener += 1;
        state.listeners.insert(id, (comm, listener.clone()));
        let (lost, left, revoked) = (state.lost.clone(), state.left.clone(), state.revoked.get(&comm).cloned());
        drop(state);
        lost.iter().for_each(|(rank, what)| listener.peer_lost(*rank, what));
        left.iter().for_each(|rank| listener.peer_left(*rank));
        if let Some(error) = revoked {
            listener.revoked(comm, &error);
        }
        Registration { shared: self.shared.clone(), id }
    }

    /// Cuts the connection as the death of the process would.
    #[cfg(test)]
    pub(crate) fn sever(&self) {
        if let Some(link) = &self.shared.link {
            link.stream.shutdown(std::net::Shutdown::Both).unwrap();
        }
    }
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Control(rank {} of {}, {})", self.shared.rank, self.shared.world, self.shared.local_ip)
    }
}

impl Drop for Control {
    /// Says goodbye. Returns when the root has heard it, or has been given a moment to.
    fn drop(&mut self) {
        let (Some(link), Some(thread)) = (&self.shared.link, self.thread.take()) else { return };
        lock(&self.shared.state).leaving = true;
        link.wake();
        // A listener may hold the last handle; its thread cannot wait for itself, and ends by itself.
        if thread.thread().id() != std::thread::current().id() {
            let _ = thread.join();
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let listener = lock(&self.shared.state).listeners.remove(&self.id);
        // Dropped without the lock: its own drop may use the control plane.
        drop(listener);
    }
}

impl Link {
    /// Sends as much as goes at once; the control thread sends the rest. A broken connection shows when it is read.
    pub(super) fn send(&self, message: &ToRoot) {
        let frame = match wire::encode(message) {
            Ok(frame) => frame,
            Err(error) => return tracing::error!(%error, "cannot tell the root"),
        };
        let mut outbox = lock(&self.outbox);
        outbox.push(Arc::new(frame));
        if outbox.flush(&self.stream).is_err() {
            *outbox = Outbox::default();
        }
        if !outbox.is_empty() {
            drop(outbox);
            self.wake();
        }
    }

    fn wake(&self) {
        // A full pipe wakes just as well.
        let _ = (&self.waker).write(&[0]);
    }
}

impl Shared {
    fn new(rank: Rank, world: usize, local_ip: IpAddr, link: Option<Link>) -> Shared {
        let state = State {
            leaving: false,
            ended: None,
            exchanges: HashMap::new(),
            listeners: BTreeMap::new(),
            next_listener: 0,
            lost: BTreeMap::new(),
            left: BTreeSet::new(),
            revoked: Recent::new(REMEMBERED),
        };
        Shared { rank, world, local_ip, link, state: Mutex::new(state), changed: Condvar::new() }
    }

    pub(super) fn is_leaving(&self) -> bool {
        lock(&self.state).leaving
    }

    fn exchange(
        &self,
        link: &Link,
        tag: u64,
        members: &[Rank],
        mine: Vec<u8>,
        deadline: Instant,
    ) -> Result<Vec<Vec<u8>>> {
        let began = Instant::now();
        let exchange = exchange_id(tag, members);
        {
            let mut state = lock(&self.state);
            if state.exchanges.contains_key(&exchange) {
                return Err(Error::invalid(format!("exchange {tag} among {members:?} is already under way")));
            }
            state.exchanges.insert(exchange, Exchange { parts: vec![None; members.len()], failure: None });
        }
        link.send(&ToRoot::Contribute { exchange, members: members.to_vec(), bytes: mine });
        let mut state = lock(&self.state);
        let mut limit = deadline;
        let outcome = loop {
            let entry = state.exchanges.get_mut(&exchange).expect("only this call removes it");
            if let Some(failure) = entry.failure.take() {
                break Err(in_words(failure, began.elapsed()));
            }
            if entry.parts.iter().all(Option::is_some) {
                break Ok(std::mem::take(&mut entry.parts).into_iter().flatten().collect());
            }
            if let Some(error) = &state.ended {
                break Err(error.clone());
            }
            let now = Instant::now();
            if now < limit {
                let waited = self.changed.wait_timeout(state, limit - now);
                state = waited.unwrap_or_else(std::sync::PoisonError::into_inner).0;
            } else if limit == deadline {
                // The root decides whether it is too late, for all members alike.
                link.send(&ToRoot::GiveUp { exchange });
                limit = now.max(deadline) + GRACE;
            } else {
                let waiting_for = link.beside_root.clone();
                break Err(Error::Timeout { waiting_for, after: began.elapsed(), during: None });
            }
        };
        state.exchanges.remove(&exchange);
        outcome
    }

    /// The root has spoken.
    pub(super) fn hear(&self, message: FromRoot) {
        match message {
            FromRoot::Part { exchange, index, bytes } => self.advance(exchange, |waiting| {
                if let Some(part) = waiting.parts.get_mut(index) {
                    *part = Some(bytes);
                }
            }),
            FromRoot::ExchangeFailed { exchange, error } => {
                self.advance(exchange, |waiting| waiting.failure = Some(error));
            }
            FromRoot::Revoked { comm, error } => self.announce(Event::Revoked(comm, error)),
            FromRoot::Lost { rank, what } => self.announce(Event::Lost(rank, what)),
            FromRoot::Left { rank } => self.announce(Event::Left(rank)),
            FromRoot::Start { .. } | FromRoot::Refused(_) | FromRoot::Failed { .. } => {
                tracing::debug!("the root says again how the join ended");
            }
        }
    }

    fn advance(&self, exchange: ExchangeId, how: impl FnOnce(&mut Exchange)) {
        if let Some(waiting) = lock(&self.state).exchanges.get_mut(&exchange) {
            how(waiting);
            self.changed.notify_all();
        }
    }

    /// The root is gone, and with it the ranks of its process that had not left before.
    pub(super) fn root_ended(&self, what: &str) {
        let Some(link) = &self.link else { return };
        let left = lock(&self.state).left.clone();
        let fallen: Vec<Rank> =
            link.beside_root.iter().copied().filter(|rank| *rank != self.rank && !left.contains(rank)).collect();
        for rank in &fallen {
            self.announce(Event::Lost(*rank, what.to_string()));
        }
        let error = if fallen.is_empty() {
            Error::bootstrap(format!("the process of the root service is gone ({what}), so ranks cannot be reached"))
        } else {
            Error::PeerLost { suspects: fallen, what: what.to_string(), during: None }
        };
        tracing::debug!(rank = self.rank, what, "the control plane has ended");
        lock(&self.state).ended = Some(error);
        self.changed.notify_all();
    }

    /// Remembers what happened, once, and tells the listeners.
    fn announce(&self, event: Event) {
        let mut state = lock(&self.state);
        let is_news = match &event {
            Event::Lost(rank, what) => state.lost.insert(*rank, what.clone()).is_none(),
            Event::Left(rank) => state.left.insert(*rank),
            Event::Revoked(comm, error) => {
                let is_news = state.revoked.get(comm).is_none();
                state.revoked.entry(*comm, || error.clone());
                is_news
            }
        };
        if !is_news {
            return;
        }
        let listeners: Vec<(u64, Arc<dyn Listener>)> = state.listeners.values().cloned().collect();
        drop(state);
        for (registered_for, listener) in listeners {
            match &event {
                Event::Lost(rank, what) => listener.peer_lost(*rank, what),
                Event::Left(rank) => listener.peer_left(*rank),
                Event::Revoked(comm, error) if *comm == registered_for => listener.revoked(*comm, error),
                Event::Revoked(..) => {}
            }
        }
    }
}

fn exchange_id(tag: u64, members: &[Rank]) -> ExchangeId {
    let members: Vec<u8> = members.iter().flat_map(|member| (*member as u64).to_le_bytes()).collect();
    let mut id = ExchangeId::default();
    id.copy_from_slice(&digest("roundel exchange", &[&tag.to_le_bytes(), &members])[..16]);
    id
}

fn in_words(failure: ExchangeError, after: Duration) -> Error {
    match failure {
        ExchangeError::Late { missing } => Error::Timeout { waiting_for: missing, after, during: None },
        ExchangeError::Gone { rank, what } => Error::PeerLost { suspects: vec![rank], what, during: None },
    }
}

fn no_link(error: std::io::Error) -> Error {
    Error::system("setting up the control connection", error)
}
