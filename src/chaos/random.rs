//! Numbers that one seed decides.
#![forbid(unsafe_code)]

use crate::engine::mix;
use std::ops::RangeInclusive;
use std::time::Duration;

/// A stream of numbers; the same seed, the same stream.
#[derive(Debug, Clone)]
pub struct Random {
    state: u64,
}

impl Random {
    /// The stream of what these words name.
    pub fn new(words: &[u64]) -> Random {
        Random { state: words.iter().copied().fold(0, mix) }
    }

    /// The next 64 bits: splitmix64 (Steele, Lea, Flood 2014).
    pub fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let bits = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// One of the range.
    pub fn within(&mut self, range: RangeInclusive<usize>) -> usize {
        let (first, last) = (*range.start(), *range.end());
        // The high bits: a remainder's bias is far below what anybody here could notice.
        first + ((u128::from(self.bits()) * (last - first + 1) as u128) >> 64) as usize
    }

    /// One of the items, of which there is at least one.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.within(0..=items.len() - 1)]
    }

    /// True in so many of a hundred cases.
    pub fn percent(&mut self, share: usize) -> bool {
        self.within(1..=100) <= share
    }

    /// Any duration up to `longest`.
    pub fn up_to(&mut self, longest: Duration) -> Duration {
        Duration::from_micros(self.within(0..=longest.as_micros() as usize) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_decides_and_ranges_are_filled() {
        let draw = |seed| {
            let mut random = Random::new(&[seed, 1]);
            (0..1000).map(|_| random.within(3..=7)).collect::<Vec<_>>()
        };
        assert_eq!(draw(5), draw(5));
        assert_ne!(draw(5), draw(6));
        for value in 3..=7 {
            let times = draw(5).iter().filter(|drawn| **drawn == value).count();
            assert!((120..280).contains(&times), "{value}: {times} times");
        }
    }
}
