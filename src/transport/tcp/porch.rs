//! Before the door: callers whose handshake is under way. A rank's data endpoint and the root of the control plane have
//! one each; the thread that has it sleeps on its descriptors and asks it who has come.
//!
//! Handshakes run side by side and never wait for each other, so whoever connects and says nothing, or nonsense, costs
//! a file descriptor for at most five seconds, and one line in the log. At most 64 are under way. Who comes then takes the
//! place of the oldest of those that have not shown that they know the secret, or else of the oldest: a rank, which
//! speaks as soon as it is connected, is a stranger for a moment only, and whoever is shown out can call again.
#![forbid(unsafe_code)]

use super::handshake::Responding;
use super::session::Session;
use super::terms::Terms;
use crate::error::{Error, Result};
use nix::errno::Errno;
use std::collections::VecDeque;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

/// Handshakes under way.
const MAX_HALF_OPEN: usize = 64;
/// How long a handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long to leave the system alone when it had no descriptor for us.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Lines about strangers in a second; the rest are counted.
const MAX_LINES: u32 = 20;

/// Listens, and shakes hands with all who come.
pub struct Porch {
    listeners: Vec<TcpListener>,
    terms: Terms,
    /// Oldest first, so that they also expire in order.
    half_open: VecDeque<HalfOpen>,
    paused_until: Option<Instant>,
    complaints: Complaints,
}

struct HalfOpen {
    stream: TcpStream,
    peer: SocketAddr,
    responding: Responding,
    since: Instant,
}

/// A caller that has proved to hold the secret and waits for an answer.
pub struct Arrival {
    /// What it said.
    pub hello: Vec<u8>,
    stream: TcpStream,
    responding: Responding,
}

impl Arrival {
    /// Lets it in, or refuses it with a reason, which is also the error here.
    pub fn answer(self, answer: Result<Vec<u8>>) -> Result<(TcpStream, Session)> {
        let session = self.responding.answer(&self.stream, answer)?;
        Ok((self.stream, session))
    }
}

impl Porch {
    /// Before sockets that listen already.
    pub fn new(listeners: Vec<TcpListener>, terms: Terms) -> std::io::Result<Porch> {
        for listener in &listeners {
            listener.set_nonblocking(true)?;
        }
        let half_open = VecDeque::with_capacity(MAX_HALF_OPEN);
        Ok(Porch { listeners, terms, half_open, paused_until: None, complaints: Complaints::default() })
    }

    /// The sockets it listened on, for another porch. Handshakes under way are given up; who was honest tries again.
    pub fn into_listeners(self) -> Vec<TcpListener> {
        self.listeners
    }

    /// What to poll for reading.
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let listeners = if self.paused_until.is_some() { &[][..] } else { &self.listeners };
        listeners.iter().map(AsFd::as_fd).chain(self.half_open.iter().map(|guest| guest.stream.as_fd()))
    }

    /// When to look again although nothing came.
    pub fn wakes_at(&self) -> Option<Instant> {
        let expiry = self.half_open.front().map(|oldest| oldest.since + HANDSHAKE_TIMEOUT);
        expiry.into_iter().chain(self.paused_until).chain(self.complaints.due_at()).min()
    }

    /// Goes on with all handshakes as far as they go without waiting: those who have proved themselves.
    pub fn attend(&mut self) -> Vec<Arrival> {
        let mut arrivals = Vec::new();
        for guest in std::mem::take(&mut self.half_open) {
            self.hear(guest, &mut arrivals);
        }
        while self.half_open.front().is_some_and(|guest| guest.since.elapsed() >= HANDSHAKE_TIMEOUT) {
            self.show_out(0, "it did not finish the handshake in time");
        }
        if self.paused_until.is_none_or(|until| until <= Instant::now()) {
            self.paused_until = None;
            for index in 0..self.listeners.len() {
                self.accept(index, &mut arrivals);
            }
        }
        self.complaints.settle();
        arrivals
    }

    fn hear(&mut self, mut guest: HalfOpen, arrivals: &mut Vec<Arrival>) {
        match guest.responding.advance(&guest.stream) {
            Ok(None) => self.half_open.push_back(guest),
            Ok(Some(hello)) => {
                arrivals.push(Arrival { hello, stream: guest.stream, responding: guest.responding });
            }
            Err(error) => self.complaints.say(format_args!("{error}")),
        }
    }

    fn show_out(&mut self, index: usize, why: &str) {
        if let Some(guest) = self.half_open.remove(index) {
            self.complaints.say(format_args!("{}: {why}", guest.peer));
        }
    }

    /// Takes in a few of those who knock: a crowd at the door does not keep those inside from finishing.
    fn accept(&mut self, index: usize, arrivals: &mut Vec<Arrival>) {
        for _ in 0..MAX_HALF_OPEN / 4 {
            let (stream, peer) = match self.listeners[index].accept() {
                Ok(accepted) => accepted,
                Err(error) => match error.raw_os_error().map(Errno::from_raw) {
                    Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM) => {
                        self.show_out(0, "this process has no file descriptors left");
                        self.complaints.say(format_args!("cannot accept a connection: {error}; raise `ulimit -n`"));
                        self.paused_until = Some(Instant::now() + ACCEPT_PAUSE);
                        return;
                    }
                    // Gone before they were accepted.
                    Some(Errno::ECONNABORTED | Errno::EINTR) => continue,
                    _ => return,
                },
            };
            if self.half_open.len() >= MAX_HALF_OPEN {
                let strangest = self.half_open.iter().position(|guest| guest.responding.is_strange());
                self.show_out(strangest.unwrap_or(0), "too many callers at once, and it was the slowest");
            }
            let guest = HalfOpen { stream, peer, responding: Responding::new(&self.terms), since: Instant::now() };
            // What it has to say is often there already.
            self.hear(guest, arrivals);
        }
    }
}

impl std::fmt::Debug for Porch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Porch").field("half_open", &self.half_open.len()).finish_non_exhaustive()
    }
}

/// Lines in the log about those who are not of this job: one each, but a flood of them must not flood the log.
#[derive(Default)]
struct Complaints {
    /// Since when the lines are counted.
    since: Option<Instant>,
    said: u32,
    unsaid: u32,
}

impl Complaints {
    const SPAN: Duration = Duration::from_secs(1);

    fn say(&mut self, what: std::fmt::Arguments) {
        self.settle();
        self.since.get_or_insert_with(Instant::now);
        if self.said < MAX_LINES {
            self.said += 1;
            tracing::warn!("a connection that is not of this job was turned away: {what}");
        } else {
            self.unsaid += 1;
        }
    }

    /// When there is a sum to be told.
    fn due_at(&self) -> Option<Instant> {
        self.since.filter(|_| self.unsaid > 0).map(|since| since + Complaints::SPAN)
    }

    /// A second is over: tells the sum of what was not said.
    fn settle(&mut self) {
        if self.since.is_some_and(|since| since.elapsed() >= Complaints::SPAN) {
            if self.unsaid > 0 {
                tracing::warn!("{} more connections that are not of this job were turned away", self.unsaid);
            }
            *self = Complaints::default();
        }
    }
}

/// The hello of a rank that was let in, or why it makes no sense.
pub fn decode_hello<'a, H: serde::Deserialize<'a>>(bytes: &'a [u8]) -> Result<H> {
    match postcard::take_from_bytes(bytes) {
        Ok((hello, [])) => Ok(hello),
        _ => Err(Error::bootstrap("its hello makes no sense")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_strangers_is_a_few_lines_and_a_sum() {
        let mut complaints = Complaints::default();
        assert_eq!(complaints.due_at(), None);
        for _ in 0..1000 {
            complaints.say(format_args!("nobody"));
        }
        // The machine may have been slow enough for a second second.
        assert!(complaints.said <= MAX_LINES && complaints.said + complaints.unsaid <= 1000);
        assert_eq!(complaints.due_at().is_some(), complaints.unsaid > 0);
        complaints.since = Instant::now().checked_sub(Complaints::SPAN);
        if complaints.since.is_some() {
            complaints.settle();
            assert_eq!((complaints.said, complaints.unsaid, complaints.due_at()), (0, 0, None));
        }
    }
}
