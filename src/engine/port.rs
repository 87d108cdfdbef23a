//! A link as the engine uses it: for every call, a header first, then the bytes of the call's ops in order.
//!
//! The header carries the call's [`Signature`], so that ranks that made different calls find out on the first bytes they
//! exchange; and how many bytes follow, so that a pair that disagrees only about its own share does too.
#![forbid(unsafe_code)]

use super::planted::{Mistake, is_planted};
use crate::bare::IS_BARE;
use crate::error::{Error, Result, Signature};
use crate::schedule::Port;
use crate::transport::{Interest, Rx, Tx};
use crate::types::Rank;

/// First bytes of a call on a link. 64 bytes, so that what follows keeps the alignment of elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub(crate) struct Header {
    magic: u64,
    signature: Signature,
    follow_bytes: u64,
    reserved: u64,
}

const MAGIC: u64 = u64::from_le_bytes(*b"roundel1");
pub(crate) const HEADER_BYTES: usize = size_of::<Header>();

impl Header {
    pub(crate) fn new(signature: Signature, follow_bytes: u64) -> Header {
        Header { magic: MAGIC, signature, follow_bytes, reserved: 0 }
    }

    /// Compares what `peer` sent with what this rank would have sent itself.
    pub(super) fn accept(&self, theirs: &Header, me: Rank, peer: Rank) -> Result<()> {
        if theirs.magic != MAGIC {
            return Err(Error::PeerLost {
                suspects: vec![peer],
                what: "sent bytes that are no call of this protocol".into(),
                during: None,
            });
        }
        if IS_BARE || is_planted(Mistake::HeaderUnread) {
            return Ok(());
        }
        let mut other = theirs.signature;
        if is_planted(Mistake::OldCallAccepted) {
            (other.sequence, other.epoch) = (self.signature.sequence, self.signature.epoch);
        }
        if other == self.signature && theirs.follow_bytes == self.follow_bytes {
            return Ok(());
        }
        let mut mine = self.signature;
        if other == mine {
            // Equal calls with unequal shares (`all_to_all_v`): the byte counts of this pair are the difference.
            (mine.count, other.count) = (self.follow_bytes, theirs.follow_bytes);
        }
        Err(Error::Mismatch { rank: me, mine: Box::new(mine), other: peer, theirs: Box::new(other), during: None })
    }
}

/// How far the header of one call has come on one end of a link.
#[derive(Debug)]
pub(crate) struct Greeting {
    expected: Header,
    /// What has arrived, on a receiving end; the header itself on a sending one.
    bytes: [u8; HEADER_BYTES],
    done_bytes: usize,
}

impl Greeting {
    pub(crate) fn to_send(header: Header) -> Greeting {
        let mut bytes = [0; HEADER_BYTES];
        bytes.copy_from_slice(bytemuck::bytes_of(&header));
        Greeting { expected: header, bytes, done_bytes: 0 }
    }

    pub(crate) fn to_receive(expected: Header) -> Greeting {
        Greeting { expected, bytes: [0; HEADER_BYTES], done_bytes: 0 }
    }

    pub(crate) fn has_begun(&self) -> bool {
        self.done_bytes > 0
    }

    pub(crate) fn is_done(&self) -> bool {
        self.done_bytes == HEADER_BYTES
    }

    /// Sends what is left of it. True when all is on its way.
    pub(crate) fn send(&mut self, tx: &mut dyn Tx) -> Result<bool> {
        while !self.is_done() {
            let room = tx.reserve(HEADER_BYTES - self.done_bytes)?;
            if room.is_empty() {
                return Ok(false);
            }
            let end = self.done_bytes + room.len().min(HEADER_BYTES - self.done_bytes);
            room.write(&self.bytes[self.done_bytes..end]);
            tx.commit(end - self.done_bytes)?;
            self.done_bytes = end;
        }
        Ok(true)
    }

    /// Receives what has come of it; compares when it is whole. True when the call's bytes may follow.
    pub(crate) fn receive(&mut self, rx: &mut dyn Rx, me: Rank, peer: Rank) -> Result<bool> {
        while !self.is_done() {
            let arrived = rx.arrived(1, HEADER_BYTES - self.done_bytes)?;
            if arrived.is_empty() {
                return Ok(false);
            }
            let end = self.done_bytes + arrived.len();
            arrived.read(&mut self.bytes[self.done_bytes..end]);
            rx.release(arrived.len())?;
            if end == HEADER_BYTES {
                self.expected.accept(&bytemuck::pod_read_unaligned(&self.bytes), me, peer)?;
            }
            // Not before it was accepted: it is not done where nothing may follow.
            self.done_bytes = end;
        }
        Ok(true)
    }
}

/// Both ends of the links to one peer on one channel, once they are there.
pub(crate) type Ends = (Box<dyn Tx>, Box<dyn Rx>);

/// Makes links when the engine first needs them.
pub trait Connector: Send {
    /// The link through this port; `None` while it is not there yet. Never waits for the peer.
    fn connect(&mut self, port: Port) -> Result<Option<Ends>>;

    /// True from the first `connect` until the one that gives the link, where this side dials. The outcome will come
    /// whatever the peer does meanwhile.
    fn is_dialling(&self, port: Port) -> bool;

    /// Adds what to sleep on until links that were asked for, and are not there yet, can go on.
    fn interests(&self, _into: &mut Vec<Interest>) {}
}

/// A link that may not exist yet.
pub(crate) struct Link {
    pub(crate) port: Port,
    pub(crate) ends: Option<Ends>,
    /// `send` or `flush` stopped for want of room since the last look.
    pub(crate) full: bool,
    /// A receiving op found nothing since the last look.
    pub(crate) hungry: bool,
}

impl Link {
    pub(crate) fn new(port: Port) -> Link {
        Link { port, ends: None, full: false, hungry: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_64_bytes_without_padding() {
        assert_eq!(HEADER_BYTES, 64);
    }

    #[test]
    fn unequal_shares_of_equal_calls_are_told_by_their_bytes() {
        let signature: Signature = bytemuck::Zeroable::zeroed();
        let (mine, theirs) = (Header::new(signature, 8), Header::new(signature, 12));
        let error = mine.accept(&theirs, 0, 1).unwrap_err();
        let Error::Mismatch { mine, theirs, .. } = error else { panic!("{error}") };
        assert_eq!((mine.count, theirs.count), (8, 12));
        assert_eq!(Header::new(signature, 8).accept(&Header::new(signature, 8), 0, 1), Ok(()));
    }
}
