//! The root's door: whoever connects is shown to a thread of its own, and only those who prove that they hold the job's
//! secret come through.
//!
//! Scanners and silent connections cost a bounded number of such threads for a bounded time. When all are busy the
//! connection that has been here longest is hung up on to make room, so strangers cannot keep a rank out.
#![forbid(unsafe_code)]

use super::wire::Knock;
use crate::error::{Error, Result};
use crate::transport::tcp::{Secret, handshake};
use std::collections::BTreeMap;
use std::io::{ErrorKind, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

/// Handshakes under way at once.
const MAX_HALF_OPEN: usize = 64;
/// What a handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Before this age a handshake is not hung up on, however long the queue: an honest one needs a moment too.
const MIN_AGE: Duration = Duration::from_millis(500);
/// Pause after `accept` failed for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A guest under examination.
struct HalfOpen {
    stream: TcpStream,
    since: Instant,
}

/// How an examination ended.
struct Verdict {
    id: u64,
    outcome: Result<(TcpStream, Knock)>,
}

pub(super) struct Gate {
    listeners: Vec<TcpListener>,
    secret: Arc<Secret>,
    half_open: BTreeMap<u64, HalfOpen>,
    next_id: u64,
    paused_until: Option<Instant>,
    verdicts: Receiver<Verdict>,
    report: Sender<Verdict>,
    waker: Arc<UnixStream>,
}

impl Gate {
    /// A gate over listening sockets. `waker` is written to when [`Gate::arrivals`] has something new.
    pub(super) fn new(listeners: Vec<TcpListener>, secret: Secret, waker: UnixStream) -> std::io::Result<Gate> {
        for listener in &listeners {
            listener.set_nonblocking(true)?;
        }
        let (report, verdicts) = channel();
        Ok(Gate {
            listeners,
            secret: Arc::new(secret),
            half_open: BTreeMap::new(),
            next_id: 0,
            paused_until: None,
            verdicts,
            report,
            waker: Arc::new(waker),
        })
    }

    /// The sockets it listened on, for another gate. Handshakes under way are given up; who was honest tries again.
    pub(super) fn into_listeners(mut self) -> Vec<TcpListener> {
        std::mem::take(&mut self.listeners)
    }

    /// What to poll for reading; nothing while nobody can be let in.
    pub(super) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let listeners = if self.resumes_at().is_some() { &[][..] } else { &self.listeners };
        listeners.iter().map(AsFd::as_fd)
    }

    /// When to look again although nothing came: there will be room.
    pub(super) fn resumes_at(&self) -> Option<Instant> {
        let oldest = self.half_open.values().next().filter(|_| self.half_open.len() >= MAX_HALF_OPEN);
        let room_at = oldest.map(|oldest| oldest.since + MIN_AGE);
        self.paused_until.max(room_at).filter(|at| *at > Instant::now())
    }

    /// Takes in everybody who waits outside, as far as there is room.
    pub(super) fn accept(&mut self) {
        for index in 0..self.listeners.len() {
            while self.resumes_at().is_none() {
                match self.listeners[index].accept() {
                    Ok((stream, _)) => self.examine(stream),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    // Connections that are gone before they are accepted.
                    Err(error) if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::ConnectionAborted) => {}
                    Err(error) => {
                        tracing::warn!(%error, "the root cannot accept connections; it tries again");
                        self.paused_until = Some(Instant::now() + ACCEPT_PAUSE);
                    }
                }
            }
        }
    }

    fn examine(&mut self, stream: TcpStream) {
        if self.half_open.len() >= MAX_HALF_OPEN
            && let Some((_, oldest)) = self.half_open.pop_first()
        {
            // Its thread notices, and says so.
            let _ = oldest.stream.shutdown(Shutdown::Both);
        }
        let id = self.next_id;
        self.next_id += 1;
        let copy = match stream.try_clone() {
            Ok(copy) => copy,
            Err(error) => return tracing::warn!(%error, "the root cannot take in a connection"),
        };
        let (secret, report, waker) = (self.secret.clone(), self.report.clone(), self.waker.clone());
        let examination = move || {
            let _ = report.send(Verdict { id, outcome: shake_hands(stream, &secret) });
            // A full pipe wakes just as well.
            let _ = (&*waker).write(&[0]);
        };
        match std::thread::Builder::new().name("roundel-gate".into()).spawn(examination) {
            Ok(_) => drop(self.half_open.insert(id, HalfOpen { stream: copy, since: Instant::now() })),
            Err(error) => tracing::warn!(%error, "the root cannot start a thread for a connection"),
        }
    }

    /// Those who have proved themselves since the last call.
    pub(super) fn arrivals(&mut self) -> Vec<(TcpStream, Knock)> {
        let mut arrivals = Vec::new();
        while let Ok(Verdict { id, outcome }) = self.verdicts.try_recv() {
            self.half_open.remove(&id);
            match outcome {
                Ok(arrival) => arrivals.push(arrival),
                Err(error) => tracing::warn!(%error, "a connection that is not of this job was turned away"),
            }
        }
        arrivals
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        for half_open in self.half_open.values() {
            let _ = half_open.stream.shutdown(Shutdown::Both);
        }
    }
}

fn shake_hands(stream: TcpStream, secret: &Secret) -> Result<(TcpStream, Knock)> {
    let unprepared = |error| Error::system("preparing a connection to the root", error);
    super::prepare(&stream).map_err(unprepared)?;
    let deadline = Instant::now() + HANDSHAKE_TIMEOUT;
    let hello = handshake::respond(&stream, secret, deadline, |_| Ok(Vec::new()))?;
    stream.set_nonblocking(true).map_err(unprepared)?;
    let hello = postcard::from_bytes(&hello).map_err(|_| Error::bootstrap("a hello that makes no sense"))?;
    Ok((stream, hello))
}
