//! What travels between a rank and the root once the handshake has proved both: frames of one message each.
//!
//! ```text
//!   len_bytes: u32 little-endian | epoch, message (postcard)        len_bytes <= MAX_FRAME_BYTES
//! ```
//!
//! Where the connection is protected, these bytes travel in records ([`crate::transport::tcp::record`]).
//!
//! Every frame carries the epoch (the membership generation) it belongs to. Today there is one, 0; frames of another are
//! skipped, so that a rank that slept through a change of membership can do no harm.
#![forbid(unsafe_code)]

use super::roster::{Roster, Seat};
use super::vigil::Rhythm;
use crate::error::{Error, Result, Signature};
use crate::transport::tcp::Session;
use crate::transport::tcp::record::{MAX_PAYLOAD_BYTES, Opener, Sealer};
use crate::types::Rank;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

/// The only membership generation so far.
pub(super) const EPOCH: u32 = 0;
/// Version of the messages below; both ends of a connection must have the same.
pub(super) const CONTROL_VERSION: u16 = 3;
/// What one rank may contribute to an exchange.
pub const MAX_CONTRIBUTION_BYTES: usize = 1 << 20;
/// Largest frame that is believed.
pub(super) const MAX_FRAME_BYTES: usize = 4 << 20;
/// Largest world that is believed.
pub(super) const MAX_WORLD: usize = 1 << 20;

const LENGTH_BYTES: usize = 4;
/// What is read at once where records are opened: most messages are short.
const OPENER_BYTES: usize = 4 << 10;

/// The first words on a connection, inside the handshake.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Knock {
    /// A rank of a job that has not started.
    Hello(Hello),
    /// A rank of a job that runs, whose root is gone: is the next one here?
    Return(Return),
    /// Somebody who wants to become a rank of a job that runs.
    Enlist(Enlist),
}

/// Says who wants to join.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Enlist {
    /// [`CONTROL_VERSION`] of the newcomer.
    pub version: u16,
    /// Which job it wants to belong to.
    pub job: [u8; 16],
    /// Drawn for this newcomer: a second connection with the same nonce takes the place of the first.
    pub nonce: u64,
    /// How its connections are protected: a [`crate::transport::tcp::Guard`].
    pub guard: u8,
}

/// How a newcomer becomes a rank.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Admission {
    /// Its number in the job.
    pub rank: Rank,
    /// All who are admitted together, this one included.
    pub recruits: Vec<Rank>,
    /// What the members that admit them say, the lowest of them speaking.
    pub offer: Vec<u8>,
    /// Where everybody is.
    pub roster: Roster,
    /// Who is gone.
    pub gone: Vec<(Rank, Gone)>,
    /// Ranks in the root's process.
    pub beside_root: Vec<Rank>,
    /// Which root this is.
    pub reign: u32,
}

/// Says who comes back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Return {
    /// [`CONTROL_VERSION`] of the rank.
    pub version: u16,
    /// Which job it belongs to.
    pub job: [u8; 16],
    /// Who it is.
    pub rank: Rank,
    /// The reign that has ended, as far as it knows.
    pub reign: u32,
}

/// What a rank knows that the next root must know too.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Report {
    /// Who is gone, and how.
    pub gone: Vec<(Rank, Gone)>,
    /// Communicators that have failed.
    pub revoked: Vec<(u64, Error)>,
    /// Exchanges whose outcome it has; others may still wait for it.
    pub finished: Vec<ExchangeId>,
}

/// The first words of a rank, inside the handshake.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Hello {
    /// [`CONTROL_VERSION`] of the rank.
    pub version: u16,
    /// Which job it belongs to.
    pub job: [u8; 16],
    /// Who it is.
    pub rank: Rank,
    /// How many ranks it expects.
    pub world: usize,
    /// The process it lives in ([`crate::topology::detect::process_id`]).
    pub process: u64,
    /// Drawn for this join: a second connection with the same nonce is the same rank trying again.
    pub nonce: u64,
    /// How often it will say that it lives, and how long it lets others be silent.
    pub rhythm: Rhythm,
    /// How long its join may take in all.
    pub timeout_ms: u64,
    /// How much of that is left.
    pub remaining_ms: u64,
    /// How its connections are protected: a [`crate::transport::tcp::Guard`].
    pub guard: u8,
}

/// Why the root does not let a rank in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Refusal {
    /// Another root may be the right one: this one serves another job, or a job that is already complete.
    NotHere(String),
    /// The rank is wrong wherever it goes.
    Wrong(String),
}

/// The exchange that a tag and a list of members name; every member derives it alike.
pub(super) type ExchangeId = [u8; 16];

/// Whose contributions an exchange needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Terms {
    /// Those of all members: it fails when one of them is gone.
    All,
    /// Those of the members that live: it goes on without the others, unless these may be going on without it.
    Living,
    /// Those of all members; and whoever waits to join is admitted. To the parts one is added: the numbers that the newcomers
    /// got ([`encode_ranks`]).
    Growing,
}

/// What a rank tells the root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum ToRoot {
    /// Its part of an exchange among `members`.
    Contribute { exchange: ExchangeId, members: Vec<Rank>, terms: Terms, bytes: Vec<u8> },
    /// Its deadline for that exchange has passed.
    GiveUp { exchange: ExchangeId },
    /// A communicator failed.
    Revoke { comm: u64, error: Error },
    /// It has been waiting for a while inside this call, for these. Ranks are the communicator's.
    Stalled { comm: u64, rank: Rank, signature: Signature, waiting_for: Vec<Rank> },
    /// It found a data link to that rank broken.
    Lost { rank: Rank, what: String },
    /// Where it can be found if the root is gone.
    Seat(Seat),
    /// It lives.
    Alive,
    /// It has come back from a root that is gone. What it was waiting for follows.
    Report(Report),
    /// The outcome of an exchange that it was asked for.
    Recalled { exchange: ExchangeId, parts: Parts },
    /// It has given up this root, which fell silent, and looks for another; `is_certain` when it was seen to be stopped.
    Deposed { is_certain: bool },
    /// It leaves in good order; nothing follows.
    Bye,
}

/// What the root tells a rank.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum FromRoot {
    /// Go away.
    Refused(Refusal),
    /// Everybody is here. `beside_root` are the ranks in the root's own process: they die with it.
    Start { beside_root: Vec<Rank> },
    /// The join, and with it the job, has failed.
    Failed { error: Error },
    /// What the `index`-th member contributed to an exchange, if it lived to. Parts come when all are there.
    Part { exchange: ExchangeId, index: usize, bytes: Option<Vec<u8>> },
    /// An exchange will not complete.
    ExchangeFailed { exchange: ExchangeId, error: ExchangeError },
    /// A communicator failed.
    Revoked { comm: u64, error: Error },
    /// A rank is gone. It may be the one that is told: the others have given it up.
    Gone { rank: Rank, how: Gone },
    /// Where ranks can be found if the root is gone: all of them at first, later those who join.
    Roster(Roster),
    /// The root lives.
    Alive,
    /// The root is the successor of one that is gone. `beside_root` are the ranks in its process.
    Reign { reign: u32, beside_root: Vec<Rank> },
    /// This rank has the outcome of an exchange that others still wait for.
    Recall { exchange: ExchangeId },
    /// Not this process is the root but the one at that address.
    Elsewhere { address: SocketAddr },
    /// This newcomer is a rank now.
    Admitted(Box<Admission>),
    /// The root was given up by others while it was silent, and so was its process.
    Deposed,
}

/// How a rank went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Gone {
    /// Said goodbye.
    Left,
    /// Its process has ended, or is stopped and will be told before it goes on.
    Dead(String),
    /// It cannot be reached, or was given up; its process may live.
    Silent(String),
}

impl Gone {
    pub(super) fn words(&self) -> String {
        match self {
            Gone::Left => "left".to_string(),
            Gone::Dead(what) | Gone::Silent(what) => what.clone(),
        }
    }

    /// It will not act any more.
    pub(super) fn is_certain(&self) -> bool {
        !matches!(self, Gone::Silent(_))
    }
}

/// Of each member of an exchange, what it contributed, if it lived to.
pub(super) type Parts = Vec<Option<Vec<u8>>>;

/// Why an exchange failed, the same for all its members.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum ExchangeError {
    /// The deadline of one member passed; these had not contributed.
    Late { missing: Vec<Rank> },
    /// This member can no longer contribute.
    Gone { rank: Rank, what: String },
    /// These members cannot be reached, are not known to be dead, and are too many to go on without.
    Minority { doubtful: Vec<Rank> },
}

/// Ranks as a part of an exchange.
pub(super) fn encode_ranks(ranks: &[Rank]) -> Vec<u8> {
    ranks.iter().flat_map(|rank| (*rank as u64).to_le_bytes()).collect()
}

/// What [`encode_ranks`] wrote.
pub(super) fn decode_ranks(bytes: &[u8]) -> Vec<Rank> {
    bytes.as_chunks().0.iter().map(|rank| u64::from_le_bytes(*rank) as Rank).collect()
}

/// One message as it goes over the wire.
pub(super) fn encode(message: &impl Serialize) -> Result<Vec<u8>> {
    let unencodable =
        |error: postcard::Error| Error::invalid(format!("a control message that cannot be encoded: {error}"));
    let mut frame = postcard::to_extend(&(EPOCH, message), vec![0; LENGTH_BYTES]).map_err(unencodable)?;
    let len_bytes = frame.len() - LENGTH_BYTES;
    if len_bytes > MAX_FRAME_BYTES {
        return Err(Error::invalid(format!(
            "a control message of {len_bytes} bytes; at most {MAX_FRAME_BYTES} make a frame"
        )));
    }
    frame[..LENGTH_BYTES].copy_from_slice(&(len_bytes as u32).to_le_bytes());
    Ok(frame)
}

/// Bytes that arrived and are not yet a message.
#[derive(Default)]
pub(super) struct Inbox {
    bytes: Vec<u8>,
    consumed_bytes: usize,
    /// Everything that ever came.
    received_bytes: u64,
    /// Where the connection is protected.
    opener: Option<Opener>,
}

impl Inbox {
    /// One into which these bytes have come.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn of(bytes: &[u8]) -> Inbox {
        Inbox { bytes: bytes.to_vec(), ..Inbox::default() }
    }

    /// Reads once from a nonblocking stream. False at the end of the stream; `WouldBlock` is not an error but true with
    /// nothing new.
    pub(super) fn fill(&mut self, mut stream: &TcpStream) -> std::io::Result<bool> {
        const READ_BYTES: usize = 64 << 10;
        self.bytes.drain(..std::mem::take(&mut self.consumed_bytes));
        let outcome = match &mut self.opener {
            Some(opener) => match stream.read(opener.room()) {
                Ok(read_bytes) if read_bytes > 0 => open(opener, read_bytes, &mut self.bytes).map(|()| read_bytes),
                outcome => outcome,
            },
            None => {
                let filled_bytes = self.bytes.len();
                self.bytes.resize(filled_bytes + READ_BYTES, 0);
                let outcome = stream.read(&mut self.bytes[filled_bytes..]);
                self.bytes.truncate(filled_bytes + outcome.as_ref().copied().unwrap_or(0));
                outcome
            }
        };
        match outcome {
            Ok(0) => Ok(false),
            Ok(read_bytes) => {
                self.received_bytes += read_bytes as u64;
                Ok(true)
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(true),
            // How the stream of a process ends that exits with something unread.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// How much has ever come.
    pub(super) fn received_bytes(&self) -> u64 {
        self.received_bytes
    }

    /// The next whole message of this epoch. An error when the peer does not speak our language.
    pub(super) fn next<M: DeserializeOwned>(&mut self) -> Result<Option<M>> {
        loop {
            let rest = &self.bytes[self.consumed_bytes..];
            let Some((length, rest)) = rest.split_first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
            let len_bytes = u32::from_le_bytes(*length) as usize;
            if len_bytes > MAX_FRAME_BYTES {
                return Err(Error::bootstrap(format!("a control frame of {len_bytes} bytes makes no sense")));
            }
            let Some(body) = rest.get(..len_bytes) else { return Ok(None) };
            let malformed = |_| Error::bootstrap("a control frame that makes no sense");
            let (epoch, body) = postcard::take_from_bytes::<u32>(body).map_err(malformed)?;
            let message = if epoch == EPOCH { Some(postcard::from_bytes(body).map_err(malformed)?) } else { None };
            self.consumed_bytes += LENGTH_BYTES + len_bytes;
            match message {
                Some(message) => return Ok(Some(message)),
                None => tracing::debug!(epoch, "a control frame of another epoch, skipped"),
            }
        }
    }
}

/// Opens the records that have come whole.
fn open(opener: &mut Opener, read_bytes: usize, into: &mut Vec<u8>) -> std::io::Result<()> {
    opener.received(read_bytes);
    loop {
        let changed = |how| std::io::Error::new(ErrorKind::InvalidData, format!("bytes that arrived changed: {how}"));
        let opened = opener.opened().map_err(changed)?;
        if opened.is_empty() {
            return Ok(());
        }
        into.extend_from_slice(opened);
        let len_bytes = opened.len();
        opener.take(len_bytes);
    }
}

/// Frames that wait for room in the socket. Many outboxes may hold the same frame.
#[derive(Default)]
pub(super) struct Outbox {
    frames: VecDeque<Arc<Vec<u8>>>,
    /// Of the first frame: sent, or in a record that is on its way.
    sent_bytes: usize,
    /// Where the connection is protected.
    sealer: Option<Sealer>,
}

impl Outbox {
    pub(super) fn push(&mut self, frame: Arc<Vec<u8>>) {
        self.frames.push_back(frame);
    }

    /// Nothing is waiting.
    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty() && self.sealer.as_ref().is_none_or(|sealer| sealer.pending().is_empty())
    }

    /// Forgets what is waiting: the connection is of no more use.
    pub(super) fn clear(&mut self) {
        (self.frames, self.sent_bytes) = (VecDeque::new(), 0);
        if let Some(sealer) = &mut self.sealer {
            sealer.sent(sealer.pending().len());
        }
    }

    /// Writes what a nonblocking stream takes now.
    pub(super) fn flush(&mut self, stream: &TcpStream) -> std::io::Result<()> {
        while !self.is_empty() {
            let written_bytes = match self.write_some(stream) {
                Ok(written_bytes) => written_bytes,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            self.sent_bytes += written_bytes;
            if self.frames.front().is_some_and(|frame| frame.len() == self.sent_bytes) {
                self.frames.pop_front();
                self.sent_bytes = 0;
            }
        }
        Ok(())
    }

    /// Writes once, or makes a record to be written: how much of the first frame that took along.
    fn write_some(&mut self, mut stream: &TcpStream) -> std::io::Result<usize> {
        let rest = self.frames.front().map_or(&[][..], |frame| &frame[self.sent_bytes..]);
        let Some(sealer) = &mut self.sealer else { return stream.write(rest) };
        if !sealer.pending().is_empty() {
            let written_bytes = stream.write(sealer.pending())?;
            sealer.sent(written_bytes);
            return Ok(0);
        }
        let len_bytes = rest.len().min(MAX_PAYLOAD_BYTES);
        sealer.seal(len_bytes, |record| record.copy_from_slice(&rest[..len_bytes]));
        Ok(len_bytes)
    }
}

/// A control connection whose two ends know each other, and that nobody has used yet.
pub(super) struct Caller {
    /// Nonblocking.
    pub stream: TcpStream,
    pub inbox: Inbox,
    pub outbox: Outbox,
}

impl Caller {
    pub(super) fn new(stream: TcpStream, session: Session) -> Caller {
        let (sealer, opener) = session.split(OPENER_BYTES);
        let outbox = Outbox { sealer, ..Outbox::default() };
        Caller { stream, inbox: Inbox { opener, ..Inbox::default() }, outbox }
    }

    /// Says one thing and hangs up.
    pub(super) fn say(mut self, message: &impl Serialize) {
        // One small frame into an empty socket: it goes at once or not at all.
        if let Ok(frame) = encode(message) {
            self.outbox.push(Arc::new(frame));
            let _ = self.outbox.flush(&self.stream);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decode(bytes: &[u8]) -> Result<Vec<ToRoot>> {
        let mut inbox = Inbox::of(bytes);
        std::iter::from_fn(|| inbox.next().transpose()).collect()
    }

    #[test]
    fn messages_survive_and_other_epochs_are_skipped() {
        let lost = ToRoot::Lost { rank: 3, what: "reset".into() };
        let mut stranger = postcard::to_stdvec(&(7u32, &ToRoot::Bye)).unwrap();
        stranger.splice(0..0, (stranger.len() as u32).to_le_bytes());
        let bytes = [encode(&lost).unwrap(), stranger, encode(&ToRoot::Bye).unwrap()].concat();
        assert_eq!(decode(&bytes).unwrap(), [lost, ToRoot::Bye]);
        assert_eq!(decode(&bytes[..bytes.len() - 1]).unwrap().len(), 1, "half a frame is no message yet");
    }

    #[test]
    fn oversized_frames_are_refused_before_they_are_read_or_sent() {
        assert!(decode(&u32::MAX.to_le_bytes()).is_err());
        let bytes = vec![0; MAX_FRAME_BYTES + 1];
        assert!(encode(&ToRoot::Contribute { exchange: [0; 16], members: vec![], terms: Terms::All, bytes }).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes);
            let framed = [&(bytes.len() as u32).to_le_bytes()[..], &bytes].concat();
            let _ = decode(&framed);
            let _ = postcard::from_bytes::<Knock>(&bytes);
            let _ = postcard::from_bytes::<FromRoot>(&bytes);
        }

        #[test]
        fn a_contribution_survives(exchange: ExchangeId, members in proptest::collection::vec(0usize..1000, 0..20),
                                   bytes in proptest::collection::vec(any::<u8>(), 0..500)) {
            let message = ToRoot::Contribute { exchange, members, terms: Terms::Living, bytes };
            prop_assert_eq!(decode(&encode(&message).unwrap()).unwrap(), vec![message]);
        }
    }
}
