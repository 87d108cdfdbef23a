//! Everything that is left to chance, from one seed. The generator is our own (splitmix64) so that a seed means the same
//! schedule whatever becomes of a dependency.
#![forbid(unsafe_code)]

/// A stream of numbers.
#[derive(Debug, Clone)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    /// A stream of its own for one purpose: what is drawn from it changes nothing elsewhere.
    pub(super) fn fork(&self, purpose: u64) -> Dice {
        let mut dice = Dice(self.0 ^ purpose.wrapping_mul(0xd6e8_feb8_6659_fd93));
        Dice(dice.next())
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From 0 to `end`, which is not reached.
    pub(super) fn below(&mut self, end: usize) -> usize {
        ((u128::from(self.next()) * end as u128) >> 64) as usize
    }

    /// From `least` to `most`, both included.
    pub(super) fn between(&mut self, least: u64, most: u64) -> u64 {
        least + ((u128::from(self.next()) * u128::from(most - least + 1)) >> 64) as u64
    }

    /// True in so many of a thousand cases.
    pub(super) fn permille(&mut self, cases: usize) -> bool {
        self.below(1000) < cases
    }

    pub(super) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    /// From `least` to `most`, each order of magnitude as likely as the next.
    pub(super) fn magnitude(&mut self, least: u64, most: u64) -> u64 {
        let (low, high) = (u64::from(least.max(1).ilog2()), u64::from(most.max(1).ilog2()));
        let top = 1 << self.between(low, high);
        self.between(top, 2 * top - 1).clamp(least, most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_stay_in_their_range_and_reach_its_ends() {
        let mut dice = Dice::new(1);
        let draws: Vec<u64> = (0..1000).map(|_| dice.between(3, 6)).collect();
        assert_eq!((draws.iter().min(), draws.iter().max()), (Some(&3), Some(&6)));
        assert!((0..1000).all(|_| (10..=5000).contains(&dice.magnitude(10, 5000))));
        assert_eq!(Dice::new(7).fork(1).next(), Dice::new(7).fork(1).next());
        assert_ne!(Dice::new(7).fork(1).next(), Dice::new(7).fork(2).next());
    }
}
