//! What a rank's control thread and the threads that use the control plane share: the connection, what is known, and
//! who is to be told.
#![forbid(unsafe_code)]

use super::control::Listener;
use super::digest::digest;
use super::knowledge::{Event, Knowledge};
use super::lock;
use super::messages::{ExchangeError, ExchangeId, FromRoot, Gone, Parts, Reached, Terms, ToRoot};
use super::wire::{self, Outbox};
use crate::error::{Error, Result};
use crate::types::Rank;
use std::collections::BTreeMap;
use std::io::Write;
use std::net::{IpAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::time::{Duration, Instant};

/// After its deadline an exchange waits so long for the root to say who was missing.
const GRACE: Duration = Duration::from_secs(2);

/// Communicators of which a sign of life tells.
const STANDINGS: usize = 64;

/// A rank's membership.
pub(super) struct Shared {
    pub(super) rank: Rank,
    /// Ranks of the job when this one joined.
    pub(super) world: usize,
    local_ip: Mutex<IpAddr>,
    /// None in a world of one that has invited nobody.
    link: OnceLock<Link>,
    state: Mutex<State>,
    /// An exchange has moved on, or the control plane has ended.
    changed: Condvar,
}

/// The way to the root.
pub(super) struct Link {
    line: Mutex<Line>,
    /// Written to, it wakes the control thread.
    waker: UnixStream,
}

struct Line {
    /// None while there is nobody to say anything to: what is said then is said again to the next root.
    stream: Option<Arc<TcpStream>>,
    outbox: Outbox,
}

struct State {
    leaving: bool,
    /// Why nothing comes from any root any more.
    ended: Option<Error>,
    knowledge: Knowledge,
    listeners: BTreeMap<u64, (u64, Arc<dyn Listener>)>,
    next_listener: u64,
}

impl Link {
    /// A link over a nonblocking stream, and what is readable when its control thread is to look around.
    pub(super) fn new(stream: Arc<TcpStream>, outbox: Outbox) -> std::io::Result<(Link, UnixStream)> {
        let (woken, waker) = UnixStream::pair()?;
        woken.set_nonblocking(true)?;
        waker.set_nonblocking(true)?;
        let line = Line { stream: Some(stream), outbox };
        Ok((Link { line: Mutex::new(line), waker }, woken))
    }

    /// Sends as much as goes at once; the control thread sends the rest. A broken connection shows when it is read.
    pub(super) fn send(&self, message: &ToRoot) {
        let frame = match wire::encode(message) {
            Ok(frame) => frame,
            Err(error) => return tracing::error!(%error, "cannot tell the root"),
        };
        let mut line = lock(&self.line);
        if line.stream.is_some() {
            line.outbox.push(Arc::new(frame));
        }
        if line.flush() {
            drop(line);
            self.wake();
        }
    }

    /// Sends what can be sent now; true when there is more.
    pub(super) fn flush(&self) -> bool {
        lock(&self.line).flush()
    }

    /// The connection is no more.
    pub(super) fn cut(&self) {
        *lock(&self.line) = Line { stream: None, outbox: Outbox::default() };
    }

    /// Goes on over a new connection, on which these messages are the first.
    pub(super) fn splice(&self, stream: Arc<TcpStream>, mut outbox: Outbox, first: &[ToRoot]) {
        for frame in first.iter().filter_map(|message| wire::encode(message).ok()) {
            outbox.push(Arc::new(frame));
        }
        let mut line = lock(&self.line);
        *line = Line { stream: Some(stream), outbox };
        line.flush();
    }

    fn wake(&self) {
        // A full pipe wakes just as well.
        let _ = (&self.waker).write(&[0]);
    }

    #[cfg(test)]
    pub(super) fn sever(&self) {
        lock(&self.line).stream.as_ref().unwrap().shutdown(std::net::Shutdown::Both).unwrap();
    }
}

impl Line {
    /// True when there is more to send.
    fn flush(&mut self) -> bool {
        if let Some(stream) = &self.stream
            && self.outbox.flush(stream).is_err()
        {
            self.outbox.clear();
        }
        !self.outbox.is_empty()
    }
}

impl Shared {
    pub(super) fn new(rank: Rank, world: usize, local_ip: IpAddr, knowledge: Knowledge) -> Shared {
        let state = State { leaving: false, ended: None, knowledge, listeners: BTreeMap::new(), next_listener: 0 };
        let (local_ip, link) = (Mutex::new(local_ip), OnceLock::new());
        Shared { rank, world, local_ip, link, state: Mutex::new(state), changed: Condvar::new() }
    }

    /// The address for this rank's data.
    pub(super) fn local_ip(&self) -> IpAddr {
        *lock(&self.local_ip)
    }

    /// The way to the root, where there is one.
    pub(super) fn link(&self) -> Option<&Link> {
        self.link.get()
    }

    /// There is a root from now on, and others find this rank at that address. Once.
    pub(super) fn attach(&self, link: Link, local_ip: IpAddr) {
        *lock(&self.local_ip) = local_ip;
        let is_first = self.link.set(link).is_ok();
        debug_assert!(is_first, "a rank joins once");
    }

    pub(super) fn is_leaving(&self) -> bool {
        lock(&self.state).leaving
    }

    /// Has the control thread say goodbye and end.
    pub(super) fn leave(&self) {
        lock(&self.state).leaving = true;
        if let Some(link) = self.link() {
            link.wake();
        }
    }

    /// The connection, while there is a root or may be another.
    pub(super) fn living_link(&self) -> Option<&Link> {
        self.link().filter(|_| lock(&self.state).ended.is_none())
    }

    /// Looks at what is known.
    pub(super) fn knows<T>(&self, look: impl FnOnce(&Knowledge) -> T) -> T {
        look(&lock(&self.state).knowledge)
    }

    /// Adds a listener and tells it what has happened already. Its number.
    pub(super) fn register(&self, comm: u64, listener: Arc<dyn Listener>) -> u64 {
        let mut state = lock(&self.state);
        let id = state.next_listener;
        state.next_listener += 1;
        state.listeners.insert(id, (comm, listener.clone()));
        let gone = state.knowledge.gone().clone();
        let revoked = state.knowledge.revoked(comm).cloned();
        drop(state);
        gone.into_iter().for_each(|(rank, how)| tell(comm, &*listener, &Event::Gone(rank, how)));
        if let Some(error) = revoked {
            listener.revoked(comm, &error);
        }
        id
    }

    /// How far this rank has come on each communicator that somebody listens for: on the latest ones, where there are many.
    pub(super) fn standing(&self) -> Vec<(u64, Reached)> {
        let latest = lock(&self.state).listeners.values().rev().take(STANDINGS).cloned().collect::<Vec<_>>();
        latest.into_iter().map(|(comm, listener)| (comm, listener.reached())).collect()
    }

    pub(super) fn unregister(&self, id: u64) {
        let listener = lock(&self.state).listeners.remove(&id);
        // Dropped without the lock: its own drop may use the control plane.
        drop(listener);
    }

    /// [`super::Control::exchange`] and [`super::Control::census`] among several, whose arguments make sense.
    pub(super) fn exchange(
        &self,
        link: &Link,
        tag: u64,
        members: &[Rank],
        terms: Terms,
        mine: Vec<u8>,
        deadline: Instant,
    ) -> Result<Parts> {
        let began = Instant::now();
        let exchange = exchange_id(tag, members);
        let contribution = ToRoot::Contribute { exchange, members: members.to_vec(), terms, bytes: mine };
        let mut state = lock(&self.state);
        let parts = members.len() + usize::from(terms == Terms::Growing);
        if !state.knowledge.begin(exchange, contribution.clone(), parts) {
            return Err(Error::invalid(format!("exchange {tag} among {members:?} is already under way")));
        }
        // Under the lock that `follow` takes too: either the root hears it here, or the next one in its introduction.
        link.send(&contribution);
        let mut limit = deadline;
        let outcome = loop {
            if let Some(outcome) = state.knowledge.outcome(exchange) {
                break outcome.map_err(|failure| in_words(failure, began.elapsed()));
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
                let give_up = state.knowledge.give_up(exchange);
                link.send(&give_up);
                limit = now.max(deadline) + GRACE;
            } else {
                break Err(Error::Timeout { waiting_for: Vec::new(), after: began.elapsed(), during: None });
            }
        };
        state.knowledge.abandon(exchange);
        outcome
    }

    /// Blocks until every rank can be found without the root.
    pub(super) fn wait_for_roster(&self, deadline: Instant) -> Result<()> {
        let mut state = lock(&self.state);
        loop {
            if state.knowledge.roster().len() >= self.world {
                return Ok(());
            }
            if let Some(error) = &state.ended {
                return Err(error.clone());
            }
            let now = Instant::now();
            if now >= deadline {
                return Err(Error::bootstrap("all ranks came, but the root did not say where they are"));
            }
            let waited = self.changed.wait_timeout(state, deadline - now);
            state = waited.unwrap_or_else(std::sync::PoisonError::into_inner).0;
        }
    }

    /// Tells the root, and every later one, that communicator `comm` has failed; this rank's own listeners where there is
    /// none.
    pub(super) fn revoke(&self, comm: u64, error: &Error) {
        let message = lock(&self.state).knowledge.declare_failed(comm, error);
        match self.living_link() {
            Some(link) => link.send(&message),
            None => self.announce(Event::Revoked(comm, error.clone())),
        }
    }

    /// The first root of the job is beside these ranks.
    pub(super) fn know_root(&self, beside_root: Vec<Rank>) {
        self.hear(FromRoot::Reign { reign: 0, beside_root });
    }

    /// The root has spoken.
    pub(super) fn hear(&self, message: FromRoot) {
        let upshot = lock(&self.state).knowledge.hear(message);
        self.changed.notify_all();
        self.tell_all(&upshot.events);
        if let (Some(answer), Some(link)) = (upshot.answer, self.link()) {
            link.send(&answer);
        }
    }

    /// The connection is no more.
    pub(super) fn cut(&self) {
        if let Some(link) = self.link() {
            link.cut();
        }
    }

    /// The root is gone, and with it the ranks of its process that had not left before, where it is known how.
    pub(super) fn lose_root(&self, how: Option<&Gone>) {
        self.cut();
        let events = lock(&self.state).knowledge.lose_root(how);
        self.tell_all(&events);
    }

    /// Tells whoever is, or may become, the next root what this rank knows, and goes on with it.
    pub(super) fn follow(&self, stream: Arc<TcpStream>, outbox: Outbox) {
        let Some(link) = self.link() else { return };
        // Under the lock under which contributions are made: none is said twice, and none not at all.
        let state = lock(&self.state);
        link.splice(stream, outbox, &state.knowledge.introduction());
    }

    /// No root is left for this rank. What waits for one fails.
    pub(super) fn end(&self, error: Error) {
        tracing::debug!(rank = self.rank, %error, "the control plane has ended");
        self.cut();
        lock(&self.state).ended = Some(error);
        self.changed.notify_all();
    }

    /// Remembers what happened, once, and tells the listeners.
    pub(super) fn announce(&self, event: Event) {
        if lock(&self.state).knowledge.learn(&event) {
            self.tell_all(&[event]);
        }
    }

    fn tell_all(&self, events: &[Event]) {
        if events.is_empty() {
            return;
        }
        let listeners: Vec<(u64, Arc<dyn Listener>)> = lock(&self.state).listeners.values().cloned().collect();
        for event in events {
            listeners.iter().for_each(|(comm, listener)| tell(*comm, &**listener, event));
        }
    }
}

fn tell(registered_for: u64, listener: &dyn Listener, event: &Event) {
    match event {
        Event::Gone(rank, how) if how.has_left() => listener.peer_left(*rank),
        Event::Gone(rank, how) => listener.peer_lost(*rank, &how.words()),
        Event::Revoked(comm, error) if *comm == registered_for => listener.revoked(*comm, error),
        Event::Revoked(..) => {}
    }
}

pub(super) fn exchange_id(tag: u64, members: &[Rank]) -> ExchangeId {
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
            what: "cannot be reached and may still live; they, and those who may have gone on with them before they ended, \
                   outnumber the ranks on this side, which must not go on alone"
                .into(),
            during: None,
        },
        ExchangeError::NotGranted { doubtful, why } => Error::PeerLost {
            suspects: doubtful,
            what: format!("cannot be reached and may still live, so the job's store decides who goes on: {why}"),
            during: None,
        },
    }
}
