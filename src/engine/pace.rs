//! How far this rank has come on a communicator. The driver writes it, the control thread reads it: who is slow shows in
//! its signs of life.
#![forbid(unsafe_code)]

use crate::bare::IS_BARE;
use crate::error::OpId;
use crate::types::Collective;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bits of [`Pace::entered`] for the collective; the rest is one more than the call's number.
const COLLECTIVE_BITS: u32 = 8;

/// Written by one thread at a time, which holds the lane.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// The latest collective that was entered; 0 before the first.
    entered: AtomicU64,
    moved_bytes: AtomicU64,
}

impl Pace {
    /// A collective begins. Messages between two ranks are numbered by each pair for itself, and do not count.
    pub(super) fn enter(&self, op: OpId) {
        if IS_BARE {
            return;
        }
        // Relaxed, here and below: a figure for a log; nothing else is read because of it.
        self.entered.store((op.sequence + 1) << COLLECTIVE_BITS | op.collective as u64, Ordering::Relaxed);
    }

    /// So many bytes were sent, received, copied or reduced.
    pub(super) fn advance(&self, by_bytes: usize) {
        if IS_BARE {
            return;
        }
        // One thread writes: a load and a store cost less than an addition that nobody can come between.
        let moved_bytes = self.moved_bytes.load(Ordering::Relaxed);
        self.moved_bytes.store(moved_bytes.wrapping_add(by_bytes as u64), Ordering::Relaxed);
    }

    /// The latest collective that was entered, if there was one, and the bytes moved in all.
    pub(crate) fn read(&self) -> (Option<OpId>, u64) {
        let entered = self.entered.load(Ordering::Relaxed);
        let collective = Collective::from_code((entered & ((1 << COLLECTIVE_BITS) - 1)) as u8);
        let sequence = (entered >> COLLECTIVE_BITS).checked_sub(1);
        let op = collective.zip(sequence).map(|(collective, sequence)| OpId { collective, sequence });
        (op, self.moved_bytes.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let pace = Pace::default();
        assert_eq!(pace.read(), (None, 0));
        for sequence in [0, 1, 1 << 40] {
            for collective in Collective::ALL {
                let op = OpId { collective, sequence };
                pace.enter(op);
                pace.advance(3);
                assert_eq!(pace.read().0, Some(op));
            }
        }
        assert_eq!(pace.read().1, 90);
    }
}
