//! The receiver's book: which pieces of the stream have come, in whatever order, and how far they are without a gap. Pure, as
//! [`super::manifest`] is.
#![forbid(unsafe_code)]

use super::parcel::Parcel;
use super::{MAX_PARCELS, PARCEL_BYTES, WINDOW_BYTES};
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

/// Taken and not yet told: a receipt is worth a system call then.
const TOLD_EVERY_BYTES: u64 = WINDOW_BYTES as u64 / 8;
const TOLD_EVERY_PARCELS: usize = MAX_PARCELS / 8;

/// What has come.
pub(super) struct Reassembly {
    /// The caller has the stream up to here.
    taken: u64,
    /// It has come without a gap up to here.
    ready: u64,
    /// Beyond that: length by offset.
    early: BTreeMap<u64, u32>,
    /// Ends of the parcels between `taken` and `ready`.
    ends: VecDeque<u64>,
    /// The last receipt said so much.
    told: u64,
    /// Parcels taken since then.
    untold_parcels: usize,
}

impl Reassembly {
    pub(super) fn new() -> Reassembly {
        Reassembly { taken: 0, ready: 0, early: BTreeMap::new(), ends: VecDeque::new(), told: 0, untold_parcels: 0 }
    }

    /// Whether an honest sender can have sent this; if not, why.
    pub(super) fn check(&self, parcel: Parcel) -> Result<(), &'static str> {
        if !(1..=PARCEL_BYTES).contains(&parcel.len()) {
            return Err("a parcel of an impossible length");
        }
        if self.place(parcel).end > WINDOW_BYTES {
            return Err("a parcel that crosses the seam of the window");
        }
        if parcel.end() > self.taken.saturating_add(WINDOW_BYTES as u64) {
            return Err("a parcel beyond the window");
        }
        if parcel.offset < self.ready && parcel.end() > self.ready {
            return Err("a parcel that was cut elsewhere before");
        }
        if self.early.len() >= MAX_PARCELS && parcel.offset > self.ready {
            return Err("more parcels than may be on their way");
        }
        Ok(())
    }

    /// Where in the ring its bytes belong.
    pub(super) fn place(&self, parcel: Parcel) -> Range<usize> {
        let begin = (parcel.offset % WINDOW_BYTES as u64) as usize;
        begin..begin + parcel.len()
    }

    /// It has come before, over another rail: its place may hold something else by now.
    pub(super) fn has(&self, parcel: Parcel) -> bool {
        parcel.offset < self.ready || self.early.contains_key(&parcel.offset)
    }

    /// All its bytes are in place, or were.
    pub(super) fn complete(&mut self, parcel: Parcel) {
        if self.has(parcel) {
            return;
        }
        self.early.insert(parcel.offset, parcel.len_bytes);
        while let Some(len_bytes) = self.early.remove(&self.ready) {
            self.ready += u64::from(len_bytes);
            self.ends.push_back(self.ready);
        }
    }

    /// Bytes that the caller may have.
    pub(super) fn ready_bytes(&self) -> usize {
        (self.ready - self.taken) as usize
    }

    /// Where the first of them are, as far as they are contiguous.
    pub(super) fn ready(&self) -> Range<usize> {
        let begin = (self.taken % WINDOW_BYTES as u64) as usize;
        begin..begin + self.ready_bytes().min(WINDOW_BYTES - begin)
    }

    /// The caller has them.
    pub(super) fn take(&mut self, len_bytes: usize) {
        assert!(len_bytes <= self.ready_bytes(), "took {len_bytes} of {} bytes", self.ready_bytes());
        self.taken += len_bytes as u64;
        while self.ends.front().is_some_and(|end| *end <= self.taken) {
            self.ends.pop_front();
            self.untold_parcels += 1;
        }
    }

    pub(super) fn taken(&self) -> u64 {
        self.taken
    }

    /// The sender does not know how far the stream was taken.
    pub(super) fn is_untold(&self) -> bool {
        self.told < self.taken
    }

    /// And should.
    pub(super) fn is_due(&self) -> bool {
        self.taken - self.told >= TOLD_EVERY_BYTES || self.untold_parcels >= TOLD_EVERY_PARCELS
    }

    /// Now it does.
    pub(super) fn told(&mut self) {
        (self.told, self.untold_parcels) = (self.taken, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parcel(offset: u64, len_bytes: u32) -> Parcel {
        Parcel { offset, len_bytes }
    }

    #[test]
    fn parcels_are_put_in_order_and_taken_once() {
        let mut book = Reassembly::new();
        book.complete(parcel(10, 5));
        assert!(book.ready_bytes() == 0 && book.has(parcel(10, 5)) && !book.has(parcel(0, 10)));
        book.complete(parcel(0, 10));
        book.complete(parcel(10, 5));
        assert_eq!((book.ready(), book.is_untold()), (0..15, false));
        book.take(12);
        assert_eq!((book.ready(), book.taken(), book.is_untold(), book.is_due()), (12..15, 12, true, false));
        book.complete(parcel(0, 10));
        assert_eq!(book.ready_bytes(), 3);
    }

    #[test]
    fn what_no_honest_sender_sends_is_refused() {
        let mut book = Reassembly::new();
        let seam = WINDOW_BYTES as u64;
        assert_eq!(book.check(parcel(seam - 9, 9)), Ok(()));
        for (wrong, why) in [
            (parcel(0, 0), "length"),
            (parcel(0, PARCEL_BYTES as u32 + 1), "length"),
            (parcel(seam - 8, 9), "seam"),
            (parcel(seam, 1), "beyond"),
            (parcel(u64::MAX, 1), "beyond"),
        ] {
            assert!(book.check(wrong).is_err_and(|told| told.contains(why)), "{wrong:?}");
        }
        book.complete(parcel(0, 10));
        assert!(book.check(parcel(5, 10)).is_err() && book.check(parcel(0, 10)).is_ok());
        for offset in 0..MAX_PARCELS as u64 {
            book.complete(parcel(20 + offset, 1));
        }
        assert!(book.check(parcel(20_000, 1)).is_err() && book.check(parcel(10, 10)).is_ok());
    }

    #[test]
    fn receipts_are_due_for_many_bytes_or_many_parcels() {
        let mut book = Reassembly::new();
        let mut end = 0;
        while end < TOLD_EVERY_BYTES {
            book.complete(parcel(end, PARCEL_BYTES as u32));
            end += PARCEL_BYTES as u64;
        }
        assert!(!book.is_due());
        book.take(book.ready_bytes());
        assert!(book.is_due());
        book.told();
        for offset in 0..TOLD_EVERY_PARCELS as u64 {
            assert!(!book.is_due());
            book.complete(parcel(end + offset, 1));
            book.take(1);
        }
        assert!(book.is_due());
    }
}
