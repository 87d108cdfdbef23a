//! The 32 bits that travel with every write and come out of the receiver's completion queue once all its bytes are in
//! place. No provider carries fewer.
//!
//! ```text
//!     31 .......... 12 | 11     | 10 ........ 0
//!     receiver's link  | kind   | slot, or number of slots taken so far (its last bits)
//! ```
#![forbid(unsafe_code)]

const VALUE_BITS: u32 = 11;
const LINK_BITS: u32 = 20;

/// Slots that a link may have at most: half of what their numbers can tell apart, so that an old credit is never new.
pub const MAX_SLOTS: u64 = 1 << (VALUE_BITS - 1);
/// Counts of slots are told by their last bits.
pub const COUNT_MASK: u64 = (1 << VALUE_BITS) - 1;
/// Numbers of links are below this.
pub const LINKS: u32 = 1 << LINK_BITS;

/// What a write is, for whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Immediate {
    /// A slot of this link is filled.
    Data {
        /// The receiver's number for the link.
        link: u32,
        /// Which slot.
        slot: u32,
    },
    /// Slots of this link have been emptied.
    Credit {
        /// The receiver's number for the link.
        link: u32,
        /// How many in all so far, in its last bits.
        count: u32,
    },
}

impl Immediate {
    /// As it travels.
    pub fn encode(self) -> u32 {
        let (link, kind, value) = match self {
            Immediate::Data { link, slot } => (link, 0, slot),
            Immediate::Credit { link, count } => (link, 1, count),
        };
        debug_assert!(link < LINKS && u64::from(value) <= COUNT_MASK);
        link << (VALUE_BITS + 1) | kind << VALUE_BITS | value
    }

    /// Every word means something; whether there is such a link and slot is for the receiver to see.
    pub fn decode(word: u32) -> Immediate {
        let (link, value) = (word >> (VALUE_BITS + 1), word & COUNT_MASK as u32);
        match word >> VALUE_BITS & 1 {
            0 => Immediate::Data { link, slot: value },
            _ => Immediate::Credit { link, count: value },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_word_survives(word: u32) {
            prop_assert_eq!(Immediate::decode(word).encode(), word);
        }

        #[test]
        fn what_is_meant_arrives(link in 0..LINKS, value in 0..=COUNT_MASK as u32) {
            for meant in [Immediate::Data { link, slot: value }, Immediate::Credit { link, count: value }] {
                prop_assert_eq!(Immediate::decode(meant.encode()), meant);
            }
        }
    }
}
