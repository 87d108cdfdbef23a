//! Both ends of a new connection prove that they hold the job secret, before either believes a word of the other.
//!
//! Noise `NNpsk0` gives the proof and a fresh key; two messages under that key carry what the ends have to say. Nothing
//! of the caller's travels in the first message: whoever recorded one could send it again, and only the third shows that
//! the initiator is here now.
//!
//! ```text
//!   initiator                         responder
//!       |  1  psk, e                      |     fails to open: another secret, or a stranger; told so, and dropped
//!       | ------------------------------> |
//!       |                       2  e, ee  |
//!       | <------------------------------ |     opens: the responder is real
//!       |  3  {hello}                     |
//!       | ------------------------------> |     opens: the initiator is real and not a recording
//!       |         4  {answer or refusal}  |
//!       | <------------------------------ |
//! ```
//!
//! After that the stream is plain and handed on, with not a byte too many read. One deadline covers the whole exchange.
//! Until message 3 opens, a connection has cost the responder one file descriptor and a few hundred bytes.
#![forbid(unsafe_code)]

use super::frame::{self, Inbox, PROTOCOL_VERSION};
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

/// The 32 bytes that only ranks of one job know.
#[derive(Clone)]
pub struct Secret([u8; 32]);

impl Secret {
    /// A new one, from the system's random source.
    pub fn random() -> Result<Secret> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes)
            .map_err(|error| Error::bootstrap(format!("no random bytes for a job secret: {error}")))?;
        Ok(Secret(bytes))
    }

    /// The secret that is already known to be these bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Secret {
        Secret(bytes)
    }

    /// The bytes, to hand them to another rank of the job by a way that others cannot read.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.fill(0);
        // Keeps the optimiser from dropping a store that nobody reads.
        std::hint::black_box(&self.0);
    }
}

/// Dials in: proves the secret, says `hello` (at most [`MAX_MESSAGE_BYTES`]) and returns the responder's answer.
/// The error names the peer; the stream is of no use after one.
pub fn initiate(stream: &TcpStream, secret: &Secret, hello: &[u8], deadline: Instant) -> Result<Vec<u8>> {
    initiate_unless(stream, secret, hello, deadline, &|| None)
}

/// [`initiate`], given up as soon as `cancelled` says why (asked every [`CANCEL_POLL`]).
pub(super) fn initiate_unless(
    stream: &TcpStream,
    secret: &Secret,
    hello: &[u8],
    deadline: Instant,
    cancelled: &dyn Fn() -> Option<Error>,
) -> Result<Vec<u8>> {
    if hello.len() > MAX_MESSAGE_BYTES {
        return Err(Error::invalid(format!("a hello of {} bytes; at most {MAX_MESSAGE_BYTES}", hello.len())));
    }
    let patience = Patience { stream, started: Instant::now(), deadline, cancelled };
    let exchange = || {
        let mut inbox = Inbox::default();
        let mut noise = noise(secret, Side::Initiator)?;
        frame::write(stream, &seal(|room| noise.write_message(&[], room))?)?;
        let key = patience.frame(&mut inbox, KEY_FRAME_BYTES)?;
        if key.is_empty() {
            return Err(Error::bootstrap("it does not hold this job's secret; another job may be listening there"));
        }
        open(&key, |room| noise.read_message(&key, room))?;
        let mut noise = noise.into_transport_mode().map_err(unexpected)?;
        frame::write(stream, &seal(|room| noise.write_message(hello, room))?)?;
        let sealed = patience.frame(&mut inbox, 1 + MAX_MESSAGE_BYTES + TAG_BYTES)?;
        let mut answer = open(&sealed, |room| noise.read_message(&sealed, room))?;
        match answer.first() {
            Some(&ANSWER) => Ok(answer.split_off(1)),
            Some(&REFUSAL) => Err(Error::bootstrap(format!("it refused: {}", String::from_utf8_lossy(&answer[1..])))),
            _ => Err(Error::bootstrap("its answer makes no sense")),
        }
    };
    exchange().map_err(|error| blame(stream, error))
}

/// Takes a call: returns the hello of an initiator that is proved to hold the secret. `answer` sees the hello only then,
/// and says what the initiator gets back (at most [`MAX_MESSAGE_BYTES`]) or why it is refused.
pub fn respond(
    stream: &TcpStream,
    secret: &Secret,
    deadline: Instant,
    answer: impl FnOnce(&[u8]) -> Result<Vec<u8>>,
) -> Result<Vec<u8>> {
    let patience = Patience { stream, started: Instant::now(), deadline, cancelled: &|| None };
    let mut responding = Responding::new(secret)?;
    let hello = loop {
        match responding.advance(stream)? {
            Some(hello) => break hello,
            None => patience.wait().map_err(|error| blame(stream, error))?,
        }
    };
    let answer = answer(&hello);
    responding.answer(stream, &answer)?;
    answer.map(|_| hello)
}

/// The responder's half without a wait in it, for one thread that minds many connections.
pub(super) struct Responding {
    inbox: Inbox,
    stage: Stage,
}

enum Stage {
    /// Waits for message 1.
    Strange(Box<HandshakeState>),
    /// Has sent message 2. Waits for message 3, or has got it.
    Keyed(Box<TransportState>),
    /// Gave up.
    Over,
}

impl Responding {
    pub(super) fn new(secret: &Secret) -> Result<Responding> {
        Ok(Responding { inbox: Inbox::default(), stage: Stage::Strange(Box::new(noise(secret, Side::Responder)?)) })
    }

    /// Takes in what has arrived. The hello, once the initiator is proved; `None` while there is more to wait for.
    pub(super) fn advance(&mut self, stream: &TcpStream) -> Result<Option<Vec<u8>>> {
        self.try_advance(stream).map_err(|error| {
            self.stage = Stage::Over;
            blame(stream, error)
        })
    }

    fn try_advance(&mut self, stream: &TcpStream) -> Result<Option<Vec<u8>>> {
        if let Stage::Strange(_) = self.stage {
            let Some(key) = self.inbox.read(stream, KEY_FRAME_BYTES)? else { return Ok(None) };
            let Stage::Strange(mut noise) = std::mem::replace(&mut self.stage, Stage::Over) else { unreachable!() };
            if let Err(error) = open(&key, |room| noise.read_message(&key, room)) {
                // An empty frame says "not my secret", so that a misconfigured rank need not wait to find out. The
                // stranger may well be gone; that changes nothing.
                let _ = frame::write(stream, &[]);
                return Err(error);
            }
            frame::write(stream, &seal(|room| noise.write_message(&[], room))?)?;
            self.stage = Stage::Keyed(Box::new(noise.into_transport_mode().map_err(unexpected)?));
        }
        let Stage::Keyed(noise) = &mut self.stage else { return Err(Error::bootstrap("the handshake has failed")) };
        let Some(sealed) = self.inbox.read(stream, MAX_MESSAGE_BYTES + TAG_BYTES)? else { return Ok(None) };
        open(&sealed, |room| noise.read_message(&sealed, room)).map(Some)
    }

    /// Ends the handshake: the answer to a hello, or the reason for which it is refused.
    pub(super) fn answer(self, stream: &TcpStream, answer: &Result<Vec<u8>>) -> Result<()> {
        let Stage::Keyed(mut noise) = self.stage else { return Err(Error::bootstrap("the handshake has failed")) };
        let message = match answer {
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
            .and_then(|sealed| frame::write(stream, &sealed))
            .map_err(|error| blame(stream, error))
    }
}

enum Side {
    Initiator,
    Responder,
}

fn noise(secret: &Secret, side: Side) -> Result<HandshakeState> {
    let prologue = [&b"roundel"[..], &PROTOCOL_VERSION.to_be_bytes()].concat();
    let params = PATTERN.parse().expect("the pattern is well-formed and its primitives are compiled in");
    let build = || {
        let builder = snow::Builder::new(params).prologue(&prologue)?.psk(0, secret.as_bytes())?;
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
    let len_bytes = read(&mut plain).map_err(|_| Error::bootstrap("it does not hold this job's secret"))?;
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
        Error::System { what, source_text, errno } => {
            Error::System { what: format!("{peer}: {what}"), source_text, errno }
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
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::thread;

    const PATIENT: Duration = Duration::from_secs(20);
    const SHORT: Duration = Duration::from_millis(200);

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let dialled = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (dialled, listener.accept().unwrap().0)
    }

    fn within(timeout: Duration) -> Instant {
        Instant::now() + timeout
    }

    /// Both ends of one handshake, and the two streams as it left them.
    fn shake(ours: Secret, theirs: Secret) -> (Result<Vec<u8>>, Result<Vec<u8>>, TcpStream, TcpStream) {
        let (dialled, accepted) = pair();
        let responder = thread::spawn(move || {
            let hello = respond(&accepted, &theirs, within(PATIENT), |hello| Ok([b"re: ", hello].concat()));
            (hello, accepted)
        });
        let answer = initiate(&dialled, &ours, b"hello", within(PATIENT));
        let (hello, accepted) = responder.join().unwrap();
        (answer, hello, dialled, accepted)
    }

    #[test]
    fn both_ends_learn_what_the_other_said_and_the_stream_goes_on_plain() {
        let secret = Secret::random().unwrap();
        let (answer, hello, mut dialled, mut accepted) = shake(secret.clone(), secret);
        assert_eq!((answer.unwrap(), hello.unwrap()), (b"re: hello".to_vec(), b"hello".to_vec()));
        accepted.write_all(b"plain").unwrap();
        let mut plain = [0; 5];
        dialled.read_exact(&mut plain).unwrap();
        assert_eq!(&plain, b"plain");
    }

    #[test]
    fn another_secret_is_refused_and_both_are_told() {
        let (answer, hello, ..) = shake(Secret::from_bytes([1; 32]), Secret::from_bytes([2; 32]));
        assert!(answer.unwrap_err().to_string().contains("another job may be listening"));
        let refused = hello.unwrap_err().to_string();
        assert!(refused.contains("127.0.0.1:") && refused.contains("does not hold"), "{refused}");
    }

    #[test]
    fn a_refusal_reaches_the_initiator_in_words() {
        let (dialled, accepted) = pair();
        let secret = Secret::from_bytes([3; 32]);
        let theirs = secret.clone();
        let responder =
            thread::spawn(move || respond(&accepted, &theirs, within(PATIENT), |_| Err(Error::invalid("rank 9 of 4"))));
        let refused = initiate(&dialled, &secret, b"", within(PATIENT)).unwrap_err();
        assert!(refused.to_string().contains("refused: invalid argument: rank 9 of 4"), "{refused}");
        assert_eq!(responder.join().unwrap(), Err(Error::invalid("rank 9 of 4")));
    }

    /// Carries the bytes of a real handshake and keeps what the initiator sent.
    fn record(secret: &Secret) -> Vec<u8> {
        let (dialled, mut middle_in) = pair();
        let (mut middle_out, accepted) = pair();
        let (ours, theirs) = (secret.clone(), secret.clone());
        let initiator = thread::spawn(move || initiate(&dialled, &ours, b"hello", within(PATIENT)));
        let responder = thread::spawn(move || respond(&accepted, &theirs, within(PATIENT), |_| Ok(Vec::new())));
        let mut sent = Vec::new();
        let frame_bytes = |payload_bytes: usize| 8 + payload_bytes + TAG_BYTES;
        for (upward_bytes, downward_bytes) in
            [(frame_bytes(32), frame_bytes(32)), (frame_bytes(b"hello".len()), frame_bytes(1))]
        {
            let mut upward = vec![0; upward_bytes];
            middle_in.read_exact(&mut upward).unwrap();
            middle_out.write_all(&upward).unwrap();
            sent.extend_from_slice(&upward);
            let mut downward = vec![0; downward_bytes];
            middle_out.read_exact(&mut downward).unwrap();
            middle_in.write_all(&downward).unwrap();
        }
        initiator.join().unwrap().unwrap();
        assert_eq!(responder.join().unwrap().unwrap(), b"hello");
        sent
    }

    #[test]
    fn a_recorded_initiator_is_not_believed() {
        let secret = Secret::from_bytes([4; 32]);
        let sent = record(&secret);
        let (mut replayed, accepted) = pair();
        replayed.write_all(&sent).unwrap();
        let refused = respond(&accepted, &secret, within(PATIENT), |_| panic!("the hello of a recording was read"));
        assert!(refused.unwrap_err().to_string().contains("does not hold this job's secret"));
    }

    #[test]
    fn an_initiator_that_hears_its_own_words_is_not_fooled() {
        let (dialled, mut mirror) = pair();
        let secret = Secret::from_bytes([5; 32]);
        let initiator = thread::spawn(move || initiate(&dialled, &secret, b"hello", within(PATIENT)));
        let mut key = [0; 8 + KEY_FRAME_BYTES];
        mirror.read_exact(&mut key).unwrap();
        mirror.write_all(&key).unwrap();
        assert!(initiator.join().unwrap().unwrap_err().to_string().contains("does not hold"));
    }

    #[test]
    fn silence_ends_at_the_deadline_on_both_sides() {
        let (dialled, accepted) = pair();
        let secret = Secret::from_bytes([6; 32]);
        let silent = respond(&accepted, &secret, within(SHORT), |_| unreachable!()).unwrap_err();
        assert!(silent.to_string().contains("did not finish the handshake within 0."), "{silent}");
        let silent = initiate(&dialled, &secret, b"", within(SHORT)).unwrap_err();
        assert!(silent.to_string().contains("did not finish the handshake within 0."), "{silent}");
    }

    #[test]
    fn dripping_bytes_does_not_extend_the_deadline() {
        let (mut dialled, accepted) = pair();
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let dripper = thread::spawn(move || {
            // Never more than a start of the first frame: at most 50 bytes, each well within any per-read timeout.
            for byte in b"RNDL\0\x01\0\x30".iter().chain([0; 42].iter()) {
                if dialled.write_all(&[*byte]).is_err() || stopped.recv_timeout(SHORT / 10).is_ok() {
                    return;
                }
            }
        });
        let dripped = respond(&accepted, &Secret::from_bytes([7; 32]), within(SHORT), |_| unreachable!()).unwrap_err();
        assert!(dripped.to_string().contains("did not finish"), "{dripped}");
        let _ = stop.send(());
        dripper.join().unwrap();
    }

    #[test]
    fn a_cut_short_frame_and_a_web_browser_are_errors_at_once() {
        for (sent, expected) in [(&b"RNDL\0\x01"[..], "closed the connection"), (b"GET / HTTP/1.1", "does not speak")] {
            let (mut dialled, accepted) = pair();
            dialled.write_all(sent).unwrap();
            drop(dialled);
            let refused = respond(&accepted, &Secret::from_bytes([8; 32]), within(PATIENT), |_| unreachable!());
            assert!(refused.as_ref().unwrap_err().to_string().contains(expected), "{refused:?}");
        }
    }

    #[test]
    fn secrets_do_not_print() {
        assert_eq!(format!("{:?}", Secret::from_bytes([9; 32])), "Secret(..)");
    }
}
