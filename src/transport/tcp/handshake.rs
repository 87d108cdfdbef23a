//! Both ends of a new connection prove that they hold the job secret, before either believes a word of the other.
//!
//! Noise `NNpsk0` gives the proof and fresh keys; two messages under those keys carry what the ends have to say. Nothing
//! of the caller's travels in the first message: whoever recorded one could send it again, and only the third shows that
//! the initiator is here now.
//!
//! ```text
//!   initiator                         responder
//!       |  1  psk, e                      |     fails to open: another secret, other terms, or a stranger;
//!       | ------------------------------> |     told so, and dropped
//!       |                       2  e, ee  |
//!       | <------------------------------ |     opens: the responder is real
//!       |  3  {hello}                     |
//!       | ------------------------------> |     opens: the initiator is real and not a recording
//!       |         4  {answer or refusal}  |
//!       | <------------------------------ |
//! ```
//!
//! **What is bound.** The prologue, which both ends hash in before message 1, holds the protocol version, the guard
//! (so that nobody on the way can talk two ends out of encrypting) and the purpose: a digest of which plane this is, of the
//! job, and for data links of the rank that is called and the very process that it lives in. What only the
//! initiator knows (its own rank, its world size, the communicator, the epoch) is its hello: message 3, under keys that
//! depend on all of the above. So a recording, a rank of another job, world, epoch or version, and a call for another
//! rank all fail here, and the two ends cannot be made to believe different things.
//!
//! **What it costs.** Until message 1 opens, which takes the secret, a caller has cost the responder a file descriptor, a few
//! hundred bytes and one hash; the key exchange comes after that, and state that lasts only after message 3. One deadline
//! covers the whole exchange.
//!
//! After it the stream is handed on, with not a byte too many read, and is protected as the [`Session`] says.
#![forbid(unsafe_code)]

use super::frame::{self, Inbox, PROTOCOL_VERSION};
use super::session::Session;
use super::terms::{Guard, Terms};
use crate::error::{Error, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use snow::{HandshakeState, TransportState};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// What a hello or an answer may hold.
pub const MAX_MESSAGE_BYTES: usize = 1024;

/// Longest time between two looks at `cancelled`.
pub(super) const CANCEL_POLL: Duration = Duration::from_millis(50);

const PATTERN: &str = "Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s";
const TAG_BYTES: usize = 16;
/// Messages 1 and 2: an ephemeral key, and an empty payload's tag.
const KEY_FRAME_BYTES: usize = 32 + TAG_BYTES;
/// First byte of message 4.
const ANSWER: u8 = 0;
const REFUSAL: u8 = 1;

/// Dials in: proves the secret, says `hello` (at most [`MAX_MESSAGE_BYTES`]) and returns the responder's answer.
/// `terms` must name a guard. The error names the peer; the stream is of no use after one.
pub fn initiate(stream: &TcpStream, terms: &Terms, hello: &[u8], deadline: Instant) -> Result<(Vec<u8>, Session)> {
    initiate_unless(stream, terms, hello, deadline, &|| None)
}

/// [`initiate`], given up as soon as `cancelled` says why (asked every [`CANCEL_POLL`]).
pub(super) fn initiate_unless(
    stream: &TcpStream,
    terms: &Terms,
    hello: &[u8],
    deadline: Instant,
    cancelled: &dyn Fn() -> Option<Error>,
) -> Result<(Vec<u8>, Session)> {
    if hello.len() > MAX_MESSAGE_BYTES {
        return Err(Error::invalid(format!("a hello of {} bytes; at most {MAX_MESSAGE_BYTES}", hello.len())));
    }
    let guard = terms.guard.ok_or_else(|| Error::invalid("whoever dials says how the connection is protected"))?;
    let patience = Patience { stream, started: Instant::now(), deadline, cancelled };
    let exchange = || {
        let mut inbox = Inbox::new(Some(guard));
        let mut noise = noise(terms, guard, Side::Initiator)?;
        frame::write(stream, guard, &seal(|room| noise.write_message(&[], room))?)?;
        let key = patience.frame(&mut inbox, KEY_FRAME_BYTES)?;
        if key.is_empty() {
            return Err(Error::bootstrap(
                "it does not hold this job's secret, or is not whom this rank looks for; another job may be listening there",
            ));
        }
        open(&key, |room| noise.read_message(&key, room))?;
        let session = Session::new(guard, noise.dangerously_get_raw_split(), true);
        let mut noise = noise.into_transport_mode().map_err(unexpected)?;
        frame::write(stream, guard, &seal(|room| noise.write_message(hello, room))?)?;
        let sealed = patience.frame(&mut inbox, 1 + MAX_MESSAGE_BYTES + TAG_BYTES)?;
        let mut answer = open(&sealed, |room| noise.read_message(&sealed, room))?;
        match answer.first() {
            Some(&ANSWER) => Ok((answer.split_off(1), session)),
            Some(&REFUSAL) => Err(Error::bootstrap(format!("it refused: {}", String::from_utf8_lossy(&answer[1..])))),
            _ => Err(Error::bootstrap("its answer makes no sense")),
        }
    };
    exchange().map_err(|error| blame(stream, error))
}

/// The responder's half, without a wait in it: one thread minds many connections.
pub(super) struct Responding {
    inbox: Inbox,
    stage: Stage,
}

enum Stage {
    /// Waits for message 1; what it will take.
    Strange(Box<Terms>),
    /// Has sent message 2. Waits for message 3, or has got it.
    Keyed(Guard, Box<TransportState>, Box<Session>),
    /// Gave up.
    Over,
}

impl Responding {
    pub(super) fn new(terms: &Terms) -> Responding {
        Responding { inbox: Inbox::new(terms.guard), stage: Stage::Strange(Box::new(terms.clone())) }
    }

    /// Nothing has shown yet that the caller ever knew the secret.
    pub(super) fn is_strange(&self) -> bool {
        matches!(self.stage, Stage::Strange(_))
    }

    /// Takes in what has arrived. The hello, once the initiator is proved; `None` while there is more to wait for.
    pub(super) fn advance(&mut self, stream: &TcpStream) -> Result<Option<Vec<u8>>> {
        self.try_advance(stream).map_err(|error| {
            self.stage = Stage::Over;
            blame(stream, error)
        })
    }

    fn try_advance(&mut self, stream: &TcpStream) -> Result<Option<Vec<u8>>> {
        if let Stage::Strange(terms) = &self.stage {
            let key = self.inbox.read(stream, KEY_FRAME_BYTES).inspect_err(|_| {
                // One of us, of another version or with other settings: our own header tells it which.
                if self.inbox.speaks_roundel() {
                    let _ = frame::write(stream, terms.guard.unwrap_or(Guard::Plain), &[]);
                }
            })?;
            let Some(key) = key else { return Ok(None) };
            let guard = self.inbox.guard().expect("a whole frame has said its guard");
            let mut noise = noise(terms, guard, Side::Responder)?;
            if let Err(error) = open(&key, |room| noise.read_message(&key, room)) {
                // An empty frame says "not my secret", so that a misconfigured rank need not wait to find out. The
                // stranger may well be gone; that changes nothing.
                let _ = frame::write(stream, guard, &[]);
                return Err(error);
            }
            frame::write(stream, guard, &seal(|room| noise.write_message(&[], room))?)?;
            let session = Session::new(guard, noise.dangerously_get_raw_split(), false);
            let noise = noise.into_transport_mode().map_err(unexpected)?;
            self.stage = Stage::Keyed(guard, Box::new(noise), Box::new(session));
        }
        let Stage::Keyed(_, noise, _) = &mut self.stage else {
            return Err(Error::bootstrap("the handshake has failed"));
        };
        let Some(sealed) = self.inbox.read(stream, MAX_MESSAGE_BYTES + TAG_BYTES)? else { return Ok(None) };
        open(&sealed, |room| noise.read_message(&sealed, room)).map(Some)
    }

    /// Ends the handshake: the answer to a hello, or the reason for which it is refused, which is also the error here.
    pub(super) fn answer(self, stream: &TcpStream, answer: Result<Vec<u8>>) -> Result<Session> {
        let Stage::Keyed(guard, mut noise, session) = self.stage else {
            return Err(Error::bootstrap("the handshake has failed"));
        };
        let message = match &answer {
            Ok(bytes) if bytes.len() > MAX_MESSAGE_BYTES => {
                return Err(Error::invalid(format!("an answer of {} bytes; at most {MAX_MESSAGE_BYTES}", bytes.len())));
            }
            Ok(bytes) => [&[ANSWER][..], bytes].concat(),
            Err(error) => {
                let reason = error.to_string();
                [&[REFUSAL][..], &reason.as_bytes()[..reason.len().min(MAX_MESSAGE_BYTES)]].concat()
            }
        };
        seal(|room| noise.write_message(&message, room))
            .and_then(|sealed| frame::write(stream, guard, &sealed))
            .map_err(|error| blame(stream, error))?;
        answer.map(|_| *session)
    }
}

/// Tries bytes as a first message, for [`super::fuzz`].
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn try_first_message(terms: &Terms, bytes: &[u8]) {
    let mut noise = noise(terms, Guard::Checksum, Side::Responder).expect("the terms make sense");
    let _ = open(bytes, |room| noise.read_message(bytes, room));
}

/// A first message that opens.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn first_message(terms: &Terms, guard: Guard) -> Vec<u8> {
    let mut noise = noise(terms, guard, Side::Initiator).expect("the terms make sense");
    seal(|room| noise.write_message(&[], room)).expect("there is room")
}

enum Side {
    Initiator,
    Responder,
}

fn noise(terms: &Terms, guard: Guard, side: Side) -> Result<HandshakeState> {
    let prologue = [&b"roundel"[..], &PROTOCOL_VERSION.to_be_bytes(), &[guard as u8], &terms.purpose].concat();
    let params = PATTERN.parse().expect("the pattern is well-formed and its primitives are compiled in");
    let build = || {
        let builder = snow::Builder::new(params).prologue(&prologue)?.psk(0, terms.secret.as_bytes())?;
        match side {
            Side::Initiator => builder.build_initiator(),
            Side::Responder => builder.build_responder(),
        }
    };
    build().map_err(unexpected)
}

/// What `write` puts into room for the largest message.
fn seal(write: impl FnOnce(&mut [u8]) -> std::result::Result<usize, snow::Error>) -> Result<Vec<u8>> {
    let mut sealed = vec![0; 1 + MAX_MESSAGE_BYTES + TAG_BYTES];
    let len_bytes = write(&mut sealed).map_err(unexpected)?;
    sealed.truncate(len_bytes);
    Ok(sealed)
}

/// What `read` finds in `sealed`.
fn open(sealed: &[u8], read: impl FnOnce(&mut [u8]) -> std::result::Result<usize, snow::Error>) -> Result<Vec<u8>> {
    let mut plain = vec![0; sealed.len()];
    let len_bytes = read(&mut plain)
        .map_err(|_| Error::bootstrap("it does not hold this job's secret, or looks for another rank or job"))?;
    plain.truncate(len_bytes);
    Ok(plain)
}

fn unexpected(error: snow::Error) -> Error {
    Error::bootstrap(format!("the handshake's cryptography failed: {error}"))
}

/// The same error, with the address of the peer in front.
fn blame(stream: &TcpStream, error: Error) -> Error {
    let peer = stream.peer_addr().map_or_else(|_| "a vanished peer".to_string(), |addr| addr.to_string());
    match error {
        Error::Bootstrap { what, missing } => Error::Bootstrap { what: format!("{peer}: {what}"), missing },
        Error::System { what, source_text, errno, .. } => {
            Error::refused_by_system(format!("{peer}: {what}"), source_text, errno)
        }
        other => other,
    }
}

/// How long a blocking end waits for its peer.
struct Patience<'a> {
    stream: &'a TcpStream,
    started: Instant,
    deadline: Instant,
    cancelled: &'a dyn Fn() -> Option<Error>,
}

impl Patience<'_> {
    fn frame(&self, inbox: &mut Inbox, limit_bytes: usize) -> Result<Vec<u8>> {
        loop {
            match inbox.read(self.stream, limit_bytes)? {
                Some(body) => return Ok(body),
                None => self.wait()?,
            }
        }
    }

    /// Returns when there may be something to read.
    fn wait(&self) -> Result<()> {
        loop {
            if let Some(error) = (self.cancelled)() {
                return Err(error);
            }
            let left = self.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let waited = self.started.elapsed().as_secs_f64();
                return Err(Error::bootstrap(format!("it did not finish the handshake within {waited:.1} s")));
            }
            let slice_ms = left.min(CANCEL_POLL).as_millis().max(1) as u16;
            let mut fds = [PollFd::new(self.stream.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, PollTimeout::from(slice_ms)) {
                Ok(0) | Err(nix::errno::Errno::EINTR) => {}
                Ok(_) => return Ok(()),
                Err(errno) => return Err(Error::system("waiting for a handshake", errno)),
            }
        }
    }
}

#[cfg(test)]
mod tests;
