//! What a rank's control thread and the threads that use the control plane share: the connection, what has happened, and
//! who is to be told.
#![forbid(unsafe_code)]

use super::control::Listener;
use super::digest::digest;
use super::lock;
use super::recent::Recent;
use super::wire::{self, ExchangeError, ExchangeId, FromRoot, Outbox, Terms, ToRoot};
use crate::error::{Error, Result};
use crate::types::Rank;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Write;
use std::net::{IpAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// After its deadline an exchange waits so long for the root to say who was missing.
const GRACE: Duration = Duration::from_secs(2);
/// Failed communicators that are remembered for those who register late.
const REMEMBERED: usize = 4096;

/// A rank's membership.
pub(super) struct Shared {
    pub(super) rank: Rank,
    pub(super) world: usize,
    pub(super) local_ip: IpAddr,
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
    /// What has come: of each member, what it contributed, if it lived to.
    parts: Vec<Option<Option<Vec<u8>>>>,
    failure: Option<ExchangeError>,
}

/// What the listeners are told.
pub(super) enum Event {
    Lost(Rank, String),
    Left(Rank),
    Revoked(u64, Error),
}

impl Link {
    /// A link over a nonblocking stream, and what is readable when its control thread is to look around.
    pub(super) fn new(stream: TcpStream, beside_root: Vec<Rank>) -> std::io::Result<(Link, UnixStream)> {
        let (woken, waker) = UnixStream::pair()?;
        woken.set_nonblocking(true)?;
        waker.set_nonblocking(true)?;
        Ok((Link { stream, outbox: Mutex::default(), waker, beside_root }, woken))
    }

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
    pub(super) fn new(rank: Rank, world: usize, local_ip: IpAddr, link: Option<Link>) -> Shared {
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

    /// Has the control thread say goodbye and end.
    pub(super) fn leave(&self) {
        lock(&self.state).leaving = true;
        if let Some(link) = &self.link {
            link.wake();
        }
    }

    /// The connection, while the root is there.
    pub(super) fn living_link(&self) -> Option<&Link> {
        self.link.as_ref().filter(|_| lock(&self.state).ended.is_none())
    }

    /// Adds a listener and tells it what has happened already. Its number.
    pub(super) fn register(&self, comm: u64, listener: Arc<dyn Listener>) -> u64 {
        let mut state = lock(&self.state);
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
        id
    }

    pub(super) fn unregister(&self, id: u64) {
        let listener = lock(&self.state).listeners.remove(&id);
        // Dropped without the lock: its own drop may use the control plane.
        drop(listener);
    }

    /// [`super::Control::exchange`] among several, whose arguments make sense.
    pub(super) fn exchange(
        &self,
        link: &Link,
        tag: u64,
        members: &[Rank],
        terms: Terms,
        mine: Vec<u8>,
        deadline: Instant,
    ) -> Result<Vec<Option<Vec<u8>>>> {
        let began = Instant::now();
        let exchange = exchange_id(tag, members);
        {
            let mut state = lock(&self.state);
            if state.exchanges.contains_key(&exchange) {
                return Err(Error::invalid(format!("exchange {tag} among {members:?} is already under way")));
            }
            state.exchanges.insert(exchange, Exchange { parts: vec![None; members.len()], failure: None });
        }
        link.send(&ToRoot::Contribute { exchange, members: members.to_vec(), terms, bytes: mine });
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
    pub(super) fn announce(&self, event: Event) {
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
        ExchangeError::Minority { doubtful } => Error::PeerLost {
            suspects: doubtful,
            what: "cannot be reached, may still live, and outnumber the ranks on this side, which must not go on alone"
                .into(),
            during: None,
        },
    }
}
