//! The connection beside a link. It carries each side's card first and its goodbye last, and its end is the link's end.
#![forbid(unsafe_code)]

use super::device::MAX_ADDRESS_BYTES;
use crate::error::{Error, Result};
use crate::memory::Block;
use crate::transport::{Interest, Rx, Tx};
use crate::types::Rank;
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// What is still under way when a peer has said goodbye has left it before; it is here soon, or never.
const GRACE: Duration = Duration::from_secs(2);
/// The longest card, with its length in front.
const MAX_CARD_BYTES: usize = MAX_ADDRESS_BYTES + 128;
const LENGTH_BYTES: usize = 2;
const GOODBYE_BYTES: usize = size_of::<Goodbye>();

/// What a side must know of the other to write to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Card {
    /// The endpoint's address.
    pub address: Vec<u8>,
    /// The receiver's number for this link.
    pub link: u32,
    /// Where its ring is, and the key to it.
    pub base: u64,
    pub key: u64,
    /// The shape of the ring.
    pub slots: u32,
    pub slot_bytes: u32,
}

/// How much this side has written, and got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct Goodbye {
    /// Slots.
    pub slots: u64,
    /// Writes of any kind.
    pub writes: u64,
    /// Slots of the other side that have arrived.
    pub taken: u64,
}

/// One side of the connection.
pub struct Control {
    peer: Rank,
    tx: Box<dyn Tx>,
    rx: Box<dyn Rx>,
    outgoing: Block,
    /// Of `outgoing`: what there is to send, and what was sent.
    to_send: (usize, usize),
    incoming: Block,
    received_bytes: usize,
    card: Option<Card>,
    goodbye: Option<Goodbye>,
    /// Why nothing more will come, and since when.
    ended: Option<(Error, Instant)>,
}

impl Control {
    /// Over the connection to `peer`, with which nothing was exchanged so far.
    pub fn new(peer: Rank, tx: Box<dyn Tx>, rx: Box<dyn Rx>) -> Control {
        let block = || Block::new((MAX_CARD_BYTES + LENGTH_BYTES).next_multiple_of(8));
        Control {
            peer,
            tx,
            rx,
            outgoing: block(),
            to_send: (0, 0),
            incoming: block(),
            received_bytes: 0,
            card: None,
            goodbye: None,
            ended: None,
        }
    }

    /// Begins to send this side's card.
    pub fn introduce(&mut self, card: &Card) {
        let bytes = postcard::to_stdvec(card).expect("a card of plain numbers encodes");
        assert!(bytes.len() <= MAX_CARD_BYTES, "a card of {} bytes", bytes.len());
        let length = (bytes.len() as u16).to_be_bytes();
        self.queue(&[&length[..], &bytes].concat());
    }

    /// Begins to send this side's goodbye.
    pub fn say_goodbye(&mut self, goodbye: Goodbye) {
        self.queue(bytemuck::bytes_of(&goodbye));
    }

    fn queue(&mut self, bytes: &[u8]) {
        assert_eq!(self.to_send.0, self.to_send.1, "one message after the other");
        self.outgoing.span().write(bytes);
        self.to_send = (bytes.len(), 0);
    }

    /// Sends on. True when all has gone.
    pub fn flush(&mut self) -> Result<bool> {
        let (end, sent) = self.to_send;
        self.to_send.1 += self.tx.send(self.outgoing.span().cut(sent, end - sent))?;
        Ok(self.tx.flush()? && self.to_send.1 == end)
    }

    /// The peer's card, once it is here.
    pub fn card(&mut self) -> Result<Option<Card>> {
        if self.card.is_none() {
            let Some(()) = self.receive(LENGTH_BYTES)? else { return Ok(None) };
            let mut length = [0; LENGTH_BYTES];
            self.incoming.span().read(&mut length);
            let len_bytes = usize::from(u16::from_be_bytes(length));
            if len_bytes > MAX_CARD_BYTES {
                return Err(self.nonsense());
            }
            let Some(()) = self.receive(LENGTH_BYTES + len_bytes)? else { return Ok(None) };
            let mut bytes = vec![0; len_bytes];
            self.incoming.span().from(LENGTH_BYTES).read(&mut bytes);
            let card = postcard::from_bytes(&bytes).map_err(|_| self.nonsense())?;
            self.received_bytes = 0;
            self.card = Some(card);
        }
        Ok(self.card.clone())
    }

    fn nonsense(&self) -> Error {
        Error::bootstrap(format!("rank {} sent a card that this version cannot read", self.peer))
    }

    /// Receives until `len_bytes` are here; `None` while they are not.
    fn receive(&mut self, len_bytes: usize) -> Result<Option<()>> {
        while self.received_bytes < len_bytes {
            let missing = self.incoming.span().cut(self.received_bytes, len_bytes - self.received_bytes);
            match self.rx.recv(missing)? {
                0 => return Ok(None),
                got => self.received_bytes += got,
            }
        }
        Ok(Some(()))
    }

    /// Looks whether the peer has closed. After its card nothing but its goodbye comes.
    pub fn look(&mut self) {
        if self.ended.is_some() || self.card.is_none() {
            return;
        }
        let error = match self.receive(GOODBYE_BYTES) {
            Ok(None) => return,
            Ok(Some(())) => {
                self.goodbye = Some(self.incoming.span().read_value());
                Error::PeerLost { suspects: vec![self.peer], what: "closed its connection".into(), during: None }
            }
            Err(error) => error,
        };
        self.ended = Some((error, Instant::now()));
    }

    /// What the peer said in the end.
    pub fn goodbye(&self) -> Option<Goodbye> {
        self.goodbye
    }

    /// Why nothing more can be sent to the peer.
    pub fn ended(&self) -> Option<&Error> {
        self.ended.as_ref().map(|(error, _)| error)
    }

    /// Why nothing more will be received than the `slots` that have arrived.
    pub fn exhausted(&self, slots: u64) -> Option<&Error> {
        let (error, since) = self.ended.as_ref()?;
        let more_will_come = self.goodbye.is_some_and(|goodbye| slots < goodbye.slots) && since.elapsed() < GRACE;
        (!more_will_come).then_some(error)
    }

    /// What to sleep on until the peer closes.
    pub fn interest(&self) -> Option<Interest> {
        self.rx.interest()
    }

    /// What to sleep on until what was begun is sent.
    pub fn sending_interest(&self) -> Option<Interest> {
        self.tx.interest().filter(|_| self.to_send.0 != self.to_send.1)
    }
}
