//! What was decided: for each collective, up to which size which way. Plain data that rank 0 sends to all.
#![forbid(unsafe_code)]

use super::Origin;
use crate::schedule::catalogue::{Algorithm, Shape, supports};
use crate::types::{Collective, Rank};
use serde::{Deserialize, Serialize};

/// More rules than any decision makes.
const MOST_RULES: usize = 4096;

/// FNV-1a: a fixed function, so that every rank and build computes the same.
pub(super) const FNV_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
pub(super) const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

/// What channels and slices may be, here as in the options.
pub const CHANNELS: std::ops::RangeInclusive<u8> = 1..=16;
/// See [`CHANNELS`].
pub const SLICE_BYTES: std::ops::RangeInclusive<usize> = 4 << 10..=16 << 20;

/// A way to do a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Way {
    /// By which program.
    pub algorithm: Algorithm,
    /// Over how many parallel links between hosts.
    pub channels: u8,
    /// How much of a chunk goes through a slot of staging or private memory at once; `None`: as much as fits.
    pub slice_bytes: Option<usize>,
}

impl Way {
    /// One channel, slices as large as fit.
    pub const fn plain(algorithm: Algorithm) -> Way {
        Way { algorithm, channels: 1, slice_bytes: None }
    }

    /// Whether ranks on these hosts can go this way.
    fn check(&self, collective: Collective, mapped: bool, hosts: &[Vec<Rank>]) -> Result<(), String> {
        let shape = Shape { hosts: hosts.to_vec(), ..Shape::apart(collective, 0) };
        if !supports(self.algorithm, &shape) {
            return Err(format!("{} does not do {collective} here", self.algorithm));
        }
        // Ranks whose buffers can be mapped may look at other rules than those whose cannot.
        if shape.is_one_host() && !self.algorithm.meets() {
            return Err(format!("{} among ranks of one host, who must be able to settle", self.algorithm));
        }
        if self.algorithm.needs_mapped_buffers() && !mapped {
            return Err(format!("{} for buffers that nobody maps", self.algorithm));
        }
        // Memory that a host's ranks share has room for as many links as were set, and no more.
        let apart = hosts.iter().all(|host| host.len() == 1);
        if !CHANNELS.contains(&self.channels) || (self.channels > 1 && !apart) {
            return Err(format!("{} channels", self.channels));
        }
        match self.slice_bytes {
            Some(bytes) if !SLICE_BYTES.contains(&bytes) => Err(format!("slices of {bytes} bytes")),
            _ => Ok(()),
        }
    }
}

impl std::fmt::Display for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut text = self.algorithm.name().to_string();
        if self.channels > 1 {
            text += &format!(" x{}", self.channels);
        }
        if let Some(slice_bytes) = self.slice_bytes {
            text += &format!(" /{}K", slice_bytes >> 10);
        }
        f.pad(&text)
    }
}

/// One line of a table: calls of this collective up to this size, if no line before covers them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Rule {
    /// The pattern.
    pub collective: Collective,
    /// For buffers that peers can map.
    pub mapped: bool,
    /// Vectors up to this size.
    pub up_to_bytes: u64,
    /// Go this way; `None`: nothing that was found is better than the built-in choice.
    pub way: Option<Way>,
}

/// What to do, by collective, buffers and size.
///
/// ```
/// use roundel::schedule::catalogue::Algorithm;
/// use roundel::tuner::{Origin, Rule, Table, Way};
/// use roundel::Collective;
/// let rule = |up_to_bytes, algorithm| Rule {
///     collective: Collective::AllReduce,
///     mapped: false,
///     up_to_bytes,
///     way: Some(Way::plain(algorithm)),
/// };
/// let table = Table {
///     origin: Origin::Measured,
///     rules: vec![rule(1 << 20, Algorithm::RecursiveDoubling), rule(u64::MAX, Algorithm::Ring)],
/// };
/// assert_eq!(table.check(&[vec![0], vec![1], vec![2]]), Ok(()));
/// let way = table.look_up(Collective::AllReduce, false, 2 << 20).unwrap();
/// assert_eq!(way.algorithm, Algorithm::Ring);
/// assert_eq!(table.look_up(Collective::AllGather, false, 8), None);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// Where it came from.
    pub origin: Origin,
    /// By collective and buffers, each from small to large.
    pub rules: Vec<Rule>,
}

impl Table {
    /// The way for a vector of this size; `None` where that is left to the built-in choice.
    pub fn look_up(&self, collective: Collective, mapped: bool, bytes: usize) -> Option<Way> {
        let of_kind = self.rules.iter().filter(|rule| (rule.collective, rule.mapped) == (collective, mapped));
        of_kind.into_iter().find(|rule| bytes as u64 <= rule.up_to_bytes)?.way
    }

    /// Equal for equal tables, and for hardly any others.
    pub fn digest(&self) -> u64 {
        // Plain data in memory: there is nothing to fail.
        let bytes = postcard::to_stdvec(self).unwrap_or_default();
        bytes.iter().fold(FNV_BASIS, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(FNV_PRIME))
    }

    /// Whether it makes sense for ranks on these hosts. The error says what does not.
    pub fn check(&self, hosts: &[Vec<Rank>]) -> Result<(), String> {
        if self.rules.len() > MOST_RULES {
            return Err(format!("{} rules", self.rules.len()));
        }
        let mut last: Option<&Rule> = None;
        for rule in &self.rules {
            let Rule { collective, mapped, up_to_bytes, way } = *rule;
            if let Some(way) = way {
                way.check(collective, mapped, hosts)?;
            }
            let sorted =
                |last: &Rule| (last.collective, last.mapped, last.up_to_bytes) < (collective, mapped, up_to_bytes);
            if !last.is_none_or(sorted) {
                return Err("rules out of order".into());
            }
            last = Some(rule);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(up_to_bytes: u64, way: Way) -> Rule {
        Rule { collective: Collective::AllReduce, mapped: false, up_to_bytes, way: Some(way) }
    }

    fn complaint(rules: Vec<Rule>, hosts: &[Vec<Rank>]) -> String {
        Table { origin: Origin::Cache, rules }.check(hosts).expect_err("nonsense")
    }

    #[test]
    fn the_first_rule_that_is_large_enough_holds() {
        let (small, large) = (Way::plain(Algorithm::OneShot), Way::plain(Algorithm::Staged));
        let table = Table { origin: Origin::Cache, rules: vec![rule(64, small), rule(1024, large)] };
        let look_up = |bytes| table.look_up(Collective::AllReduce, false, bytes);
        assert_eq!([0, 64, 65, 1024].map(look_up), [Some(small), Some(small), Some(large), Some(large)]);
        assert_eq!(look_up(1025), None);
        assert_eq!(table.look_up(Collective::AllReduce, true, 8), None);
    }

    #[test]
    fn nonsense_is_found() {
        let (here, apart) = (vec![vec![0, 1]], vec![vec![0], vec![1]]);
        let (ring, staged) = (Way::plain(Algorithm::Ring), Way::plain(Algorithm::Staged));
        assert!(complaint(vec![rule(8, staged)], &apart).contains("staged does not do all_reduce"));
        assert!(complaint(vec![rule(8, Way::plain(Algorithm::FlatPush))], &here).contains("nobody maps"));
        assert!(complaint(vec![rule(8, Way { channels: 0, ..ring })], &apart).contains("0 channels"));
        assert!(complaint(vec![rule(8, Way { channels: 17, ..ring })], &apart).contains("17 channels"));
        assert!(complaint(vec![rule(8, Way { channels: 2, ..staged })], &here).contains("2 channels"));
        assert!(complaint(vec![rule(8, ring)], &here).contains("settle"));
        assert!(complaint(vec![rule(8, Way { slice_bytes: Some(1), ..staged })], &here).contains("slices"));
        assert!(complaint(vec![rule(8, staged), rule(8, staged)], &here).contains("order"));
        assert!(complaint(vec![rule(9, staged), rule(8, staged)], &here).contains("order"));
    }
}
