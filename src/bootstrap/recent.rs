//! A map that remembers a bounded number of things: the oldest entry makes room for a new one.
#![forbid(unsafe_code)]

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

/// What the control plane keeps about things that nobody will ever declare finished.
pub(super) struct Recent<K, V> {
    entries: HashMap<K, V>,
    order: VecDeque<K>,
    max_entries: usize,
}

impl<K: Clone + Eq + Hash, V> Recent<K, V> {
    pub(super) fn new(max_entries: usize) -> Recent<K, V> {
        Recent { entries: HashMap::new(), order: VecDeque::new(), max_entries }
    }

    pub(super) fn get(&self, key: &K) -> Option<&V> {
        self.entries.get(key)
    }

    /// Everything that is remembered, the oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.order.iter().filter_map(|key| Some((key, self.entries.get(key)?)))
    }

    /// The entry of `key`, made by `value` if there is none yet.
    pub(super) fn entry(&mut self, key: K, value: impl FnOnce() -> V) -> &mut V {
        if !self.entries.contains_key(&key) {
            if self.order.len() == self.max_entries
                && let Some(oldest) = self.order.pop_front()
            {
                self.entries.remove(&oldest);
            }
            self.order.push_back(key.clone());
        }
        self.entries.entry(key).or_insert_with(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_makes_room() {
        let mut recent = Recent::new(2);
        for key in [1, 2, 1, 3] {
            recent.entry(key, || key * 10);
        }
        assert_eq!([1, 2, 3].map(|key| recent.get(&key).copied()), [None, Some(20), Some(30)]);
    }
}
