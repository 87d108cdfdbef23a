//! What travels between a rank and the root once the handshake has proved both: frames of one message each.
//!
//! ```text
//!   len_bytes: u32 little-endian | message (postcard)        len_bytes <= MAX_FRAME_BYTES
//! ```
//!
//! Where the connection is protected, these bytes travel in records ([`crate::transport::tcp::record`]).
//!
//! A connection belongs to one rank and one root's reign, as its handshake and first words say, so frames need not: one of an
//! earlier reign arrives on a connection that nobody reads.
#![forbid(unsafe_code)]

use crate::error::{Error, Result};
use crate::transport::tcp::Session;
use crate::transport::tcp::record::{MAX_PAYLOAD_BYTES, Opener, Sealer};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

/// What one rank may contribute to an exchange.
pub const MAX_CONTRIBUTION_BYTES: usize = 1 << 20;
/// Largest frame that is believed.
pub(super) const MAX_FRAME_BYTES: usize = 4 << 20;

const LENGTH_BYTES: usize = 4;
/// What is read at once where records are opened: most messages are short.
const OPENER_BYTES: usize = 4 << 10;

/// One message as it goes over the wire.
pub(super) fn encode(message: &impl Serialize) -> Result<Vec<u8>> {
    let unencodable =
        |error: postcard::Error| Error::invalid(format!("a control message that cannot be encoded: {error}"));
    let mut frame = postcard::to_extend(message, vec![0; LENGTH_BYTES]).map_err(unencodable)?;
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

    /// The next whole message. An error when the peer does not speak our language.
    pub(super) fn next<M: DeserializeOwned>(&mut self) -> Result<Option<M>> {
        let rest = &self.bytes[self.consumed_bytes..];
        let Some((length, rest)) = rest.split_first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
        let len_bytes = u32::from_le_bytes(*length) as usize;
        if len_bytes > MAX_FRAME_BYTES {
            return Err(Error::bootstrap(format!("a control frame of {len_bytes} bytes makes no sense")));
        }
        let Some(body) = rest.get(..len_bytes) else { return Ok(None) };
        let message =
            postcard::from_bytes(body).map_err(|_| Error::bootstrap("a control frame that makes no sense"))?;
        self.consumed_bytes += LENGTH_BYTES + len_bytes;
        Ok(Some(message))
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
    use super::super::messages::{ExchangeId, FromRoot, Knock, Terms, ToRoot};
    use super::*;
    use proptest::prelude::*;

    fn decode(bytes: &[u8]) -> Result<Vec<ToRoot>> {
        let mut inbox = Inbox::of(bytes);
        std::iter::from_fn(|| inbox.next().transpose()).collect()
    }

    #[test]
    fn messages_survive() {
        let lost = ToRoot::Lost { rank: 3, what: "reset".into() };
        let bytes = [encode(&lost).unwrap(), encode(&ToRoot::Bye).unwrap()].concat();
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
