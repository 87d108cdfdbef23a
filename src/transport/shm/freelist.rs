//! Which bytes of an arena are free: ranges ordered by offset, given out first fit and merged when they come back.
//!
//! First fit by offset keeps an arena's touched pages together at its front. Blocks are few (areas of communicators and
//! user buffers, not messages), so a walk over the free ranges is cheap.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

/// Ordered, non-empty free ranges, no two of which touch.
#[derive(Debug)]
pub(super) struct FreeList {
    /// Offset of each range, and its length.
    ranges: BTreeMap<usize, usize>,
}

impl FreeList {
    /// All of `len_bytes` bytes are free.
    pub(super) fn new(len_bytes: usize) -> FreeList {
        FreeList { ranges: BTreeMap::from([(0, len_bytes)]) }
    }

    /// Takes `len_bytes` (not 0) bytes at a multiple of `align` (a power of two); `None` where no free range has room.
    pub(super) fn take(&mut self, len_bytes: usize, align: usize) -> Option<usize> {
        debug_assert!(len_bytes > 0 && align.is_power_of_two());
        let (free, free_len, offset) = self.ranges.iter().find_map(|(&free, &free_len)| {
            let offset = free.checked_next_multiple_of(align)?;
            let end = offset.checked_add(len_bytes)?;
            (end <= free + free_len).then_some((free, free_len, offset))
        })?;
        self.ranges.remove(&free);
        let (before, after) = (offset - free, free + free_len - (offset + len_bytes));
        if before > 0 {
            self.ranges.insert(free, before);
        }
        if after > 0 {
            self.ranges.insert(offset + len_bytes, after);
        }
        Some(offset)
    }

    /// Takes back a range that `take` gave out.
    pub(super) fn give(&mut self, offset: usize, len_bytes: usize) {
        let (mut start, mut end) = (offset, offset + len_bytes);
        if let Some((&before, &before_len)) = self.ranges.range(..=start).next_back() {
            assert!(before + before_len <= start, "range {start}+{len_bytes} given back twice");
            if before + before_len == start {
                self.ranges.remove(&before);
                start = before;
            }
        }
        if let Some((&after, &after_len)) = self.ranges.range(start..).next() {
            assert!(end <= after, "range {offset}+{len_bytes} given back twice");
            if end == after {
                self.ranges.remove(&after);
                end = after + after_len;
            }
        }
        self.ranges.insert(start, end - start);
    }

    /// Free bytes in all.
    pub(super) fn free_bytes(&self) -> usize {
        self.ranges.values().sum()
    }

    /// Length of the longest free range.
    pub(super) fn longest_bytes(&self) -> usize {
        self.ranges.values().copied().max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn neighbours_merge_on_both_sides() {
        let mut list = FreeList::new(256);
        let taken: Vec<usize> = (0..4).map(|_| list.take(64, 64).unwrap()).collect();
        assert_eq!(taken, [0, 64, 128, 192]);
        assert_eq!(list.take(1, 1), None);
        list.give(0, 64);
        list.give(128, 64);
        assert_eq!(list.longest_bytes(), 64);
        list.give(64, 64);
        assert_eq!(list.longest_bytes(), 192);
        list.give(192, 64);
        assert_eq!(list.ranges, BTreeMap::from([(0, 256)]));
    }

    #[test]
    fn absurd_sizes_find_no_room() {
        let mut list = FreeList::new(256);
        assert_eq!(list.take(usize::MAX, 64), None);
        assert_eq!(list.take(1, 1 << 63), Some(0));
        assert_eq!(list.take(1, 1 << 63), None);
    }

    #[test]
    #[should_panic(expected = "twice")]
    fn giving_back_twice_is_noticed() {
        let mut list = FreeList::new(256);
        list.take(128, 64).unwrap();
        list.give(0, 64);
        list.give(0, 64);
    }

    proptest! {
        /// Takes and gives in any order: ranges in use never overlap, lie aligned inside, and all come back.
        #[test]
        fn ranges_in_use_are_disjoint_and_return(
            steps in prop::collection::vec((1usize..5000, 0u32..13, any::<prop::sample::Index>(), any::<bool>()), 1..120),
        ) {
            const LEN: usize = 1 << 16;
            let mut list = FreeList::new(LEN);
            let mut used: Vec<(usize, usize)> = Vec::new();
            for (len, align, pick, give) in steps {
                if give && !used.is_empty() {
                    let (offset, len) = used.swap_remove(pick.index(used.len()));
                    list.give(offset, len);
                } else if let Some(offset) = list.take(len, 1 << align) {
                    prop_assert!(offset % (1 << align) == 0 && offset + len <= LEN);
                    prop_assert!(used.iter().all(|&(o, l)| offset + len <= o || o + l <= offset));
                    used.push((offset, len));
                }
                prop_assert_eq!(list.free_bytes() + used.iter().map(|u| u.1).sum::<usize>(), LEN);
            }
            for (offset, len) in used {
                list.give(offset, len);
            }
            prop_assert_eq!(list.longest_bytes(), LEN);
        }
    }
}
