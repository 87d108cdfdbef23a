//! What a dialler says in the end: which connection of which link this is, and of how many.
#![forbid(unsafe_code)]

#[cfg(any(test, feature = "fuzzing"))]
use super::porch::decode_hello;
use crate::error::{Error, Result};
use crate::types::Rank;
use serde::{Deserialize, Serialize};

/// Interfaces that one rank may use.
pub(super) const MAX_RAILS: usize = 8;
/// Which of a link's sockets a roll call is: none.
pub(super) const ROLL_CALL: u8 = u8::MAX;

/// Which connection of which link this is. The side that dials says it in its hello.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LinkKey {
    /// The communicator; a number that is never used for another one.
    pub comm: u64,
    /// The membership generation of the communicator.
    pub epoch: u32,
    /// The rank that dials.
    pub from: u32,
    /// The rank that is dialled.
    pub to: u32,
    /// The channel of the communicator.
    pub channel: u8,
    /// Which of the link's sockets, counted from 0.
    pub socket: u8,
}

/// One side of a link to be made: who this rank is and to whom it wants to talk about what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkSide {
    /// The communicator; a number that is never used for another one.
    pub comm: u64,
    /// Its membership generation: ends of different generations never meet.
    pub epoch: u32,
    /// This rank.
    pub me: Rank,
    /// The other one.
    pub peer: Rank,
    /// The channel of the communicator.
    pub channel: u8,
}

impl LinkSide {
    pub(super) fn key(&self, me_connects: bool, socket: u8) -> LinkKey {
        let (from, to) = if me_connects { (self.me, self.peer) } else { (self.peer, self.me) };
        let number = |rank: Rank| u32::try_from(rank).expect("ranks are numbered in 32 bits");
        LinkKey {
            comm: self.comm,
            epoch: self.epoch,
            from: number(from),
            to: number(to),
            channel: self.channel,
            socket,
        }
    }
}

/// Of how many connections a link is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Strands {
    /// Pairs of interfaces that it goes over.
    pub rails: u8,
    /// Connections over each, 1 to 16. Several rails have one more each, for receipts.
    pub sockets: u8,
}

impl Strands {
    /// So many connections over one rail.
    pub fn sockets(sockets: u8) -> Strands {
        Strands { rails: 1, sockets }
    }

    pub(super) fn check(self) -> Result<()> {
        let are_good = (1..=16).contains(&self.sockets) && (1..=MAX_RAILS).contains(&self.rails.into());
        let Strands { rails, sockets } = self;
        if are_good {
            Ok(())
        } else {
            Err(Error::invalid(format!("a link of {rails} rails with {sockets} sockets each")))
        }
    }

    fn each(self) -> u8 {
        if self.rails == 1 { self.sockets } else { self.sockets + 1 }
    }

    /// The numbers of a rail's connections.
    pub(super) fn numbers(self, rail: u8) -> impl Iterator<Item = u8> {
        (0..self.each()).map(move |socket| rail * self.each() + socket)
    }
}

/// What a dialler says: which connection this is, and of how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Hello {
    pub(super) key: LinkKey,
    pub(super) strands: Strands,
    /// A bit for each rail: in a roll call, those that stand.
    pub(super) standing: u8,
}

impl Hello {
    pub(super) fn encode(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("a hello of plain numbers encodes")
    }
}

/// Decodes a hello, for [`super::fuzz`].
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn decode_link_hello(bytes: &[u8]) {
    if let Ok(hello) = decode_hello::<Hello>(bytes) {
        assert_eq!(decode_hello::<Hello>(&hello.encode()), Ok(hello));
    }
}

/// A hello that makes sense.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn some_link_hello() -> Vec<u8> {
    let key = LinkKey { comm: 1 << 40, epoch: 0, from: 3, to: 300, channel: 255, socket: 1 };
    Hello { key, strands: Strands { rails: 2, sockets: 3 }, standing: 2 }.encode()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_are_a_hello_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(hello) = decode_hello::<Hello>(&bytes) {
                prop_assert_eq!(decode_hello::<Hello>(&hello.encode()), Ok(hello));
            }
        }

        #[test]
        fn a_hello_survives_the_way_and_nothing_may_follow_it(
            comm: u64, epoch: u32, from: u32, to: u32, channel: u8, socket: u8, rails: u8, sockets: u8, standing: u8,
        ) {
            let key = LinkKey { comm, epoch, from, to, channel, socket };
            let hello = Hello { key, strands: Strands { rails, sockets }, standing };
            let mut bytes = hello.encode();
            prop_assert_eq!(decode_hello::<Hello>(&bytes), Ok(hello));
            bytes.push(0);
            prop_assert!(decode_hello::<Hello>(&bytes).is_err());
        }
    }
}
