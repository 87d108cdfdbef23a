//! How a rank tells its neighbours where a buffer is.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};

/// A buffer, told to a neighbour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Address {
    /// Offset in the arena of the rank that tells it. Every rank of the host can reach it.
    Arena(u64),
    /// Address in the process of the rank that tells it. Only ranks of that process can reach it.
    Process(u64),
    /// Likewise, of memory of a device: only ranks of that process whose devices are of the same domain can reach it.
    Device {
        /// Which devices can: 1 to 31.
        domain: u8,
        /// Where.
        address: u64,
    },
}

impl Address {
    const ARENA_BIT: u64 = 1 << 63;
    const DOMAIN_SHIFT: u32 = 57;
    const DOMAINS: u64 = 31;

    /// The address as one word, for a message; 0 says that there is none.
    pub fn to_word(address: Option<Address>) -> u64 {
        match address {
            // User addresses and offsets in an arena (which is mapped) are below 2^57.
            Some(Address::Arena(offset)) => offset | Address::ARENA_BIT,
            Some(Address::Process(address)) => address,
            Some(Address::Device { domain, address }) => address | u64::from(domain) << Address::DOMAIN_SHIFT,
            None => 0,
        }
    }

    /// What [`Address::to_word`] made a word of.
    pub fn from_word(word: u64) -> Option<Address> {
        match word {
            0 => None,
            word if word & Address::ARENA_BIT != 0 => Some(Address::Arena(word & !Address::ARENA_BIT)),
            word => match word >> Address::DOMAIN_SHIFT & Address::DOMAINS {
                0 => Some(Address::Process(word)),
                domain => {
                    let address = word & ((1 << Address::DOMAIN_SHIFT) - 1);
                    Some(Address::Device { domain: domain as u8, address })
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Address;

    #[test]
    fn words_are_addresses_again() {
        let device = |domain, address| Some(Address::Device { domain, address });
        let processes = [Some(Address::Process(1)), Some(Address::Process(1 << 56))];
        for address in
            [None, Some(Address::Arena(0)), device(1, 1 << 56), device(31, 4096)].into_iter().chain(processes)
        {
            assert_eq!(Address::from_word(Address::to_word(address)), address);
        }
    }
}
