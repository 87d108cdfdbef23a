//! The sender's book: which pieces of the stream are on their way, over which rail, and which still wait for one. Pure:
//! it knows no socket and no memory, only where in the ring bytes belong.
#![forbid(unsafe_code)]

use super::parcel::Parcel;
use super::{MAX_PARCELS, PARCEL_BYTES, WINDOW_BYTES};
use std::collections::VecDeque;
use std::ops::Range;

/// Bytes that may wait for a rail. More would only sit in the ring instead of the caller's memory.
const WAITING_BYTES: usize = 4 * PARCEL_BYTES;

struct Entry {
    parcel: Parcel,
    place: Place,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// May still grow.
    Filling,
    /// On no rail, but it was: stays as it was cut.
    Cut,
    /// On that rail, or at its end.
    On(usize),
}

/// Where everything is that was accepted and has no receipt.
pub(super) struct Manifest {
    /// Oldest first, without a gap; the last ends where the stream does.
    entries: VecDeque<Entry>,
    /// Those of them that wait for a rail, oldest first.
    waiting: VecDeque<Parcel>,
    waiting_bytes: usize,
    /// Length of the stream so far.
    end: u64,
}

impl Manifest {
    pub(super) fn new() -> Manifest {
        Manifest { entries: VecDeque::new(), waiting: VecDeque::new(), waiting_bytes: 0, end: 0 }
    }

    /// Where the oldest bytes are that may have to go again.
    fn begin(&self) -> u64 {
        self.entries.front().map_or(self.end, |oldest| oldest.parcel.offset)
    }

    /// Bytes without a receipt.
    pub(super) fn open_bytes(&self) -> usize {
        (self.end - self.begin()) as usize
    }

    /// It is time to look for receipts: there may soon be no room.
    pub(super) fn is_half_full(&self) -> bool {
        self.open_bytes() >= WINDOW_BYTES / 2 || self.entries.len() >= MAX_PARCELS / 2
    }

    /// Nothing waits for a rail.
    pub(super) fn is_sent(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Where in the ring the next bytes may go, contiguous; empty when there is no room now.
    pub(super) fn room(&self) -> Range<usize> {
        let begin = (self.end % WINDOW_BYTES as u64) as usize;
        if self.entries.len() >= MAX_PARCELS {
            return begin..begin;
        }
        let of_window = WINDOW_BYTES - self.open_bytes();
        let of_waiting = WAITING_BYTES.saturating_sub(self.waiting_bytes);
        begin..begin + of_window.min(of_waiting).min(WINDOW_BYTES - begin).min(PARCEL_BYTES)
    }

    /// The first `len_bytes` of the room now hold bytes of the stream.
    pub(super) fn accept(&mut self, len_bytes: usize) {
        assert!((1..=self.room().len()).contains(&len_bytes), "accepted {len_bytes} bytes");
        let at_seam = self.end.is_multiple_of(WINDOW_BYTES as u64);
        let (end, more) = (self.end, len_bytes as u32);
        self.end += u64::from(more);
        self.waiting_bytes += len_bytes;
        if let Some(Entry { parcel, place: Place::Filling }) = self.entries.back_mut()
            && !at_seam
            && parcel.len() + len_bytes <= PARCEL_BYTES
            && let Some(last) = self.waiting.back_mut()
        {
            parcel.len_bytes += more;
            *last = *parcel;
            return;
        }
        let parcel = Parcel { offset: end, len_bytes: more };
        self.entries.push_back(Entry { parcel, place: Place::Filling });
        self.waiting.push_back(parcel);
    }

    /// The next parcel for this rail.
    pub(super) fn load(&mut self, rail: usize) -> Option<Parcel> {
        let parcel = self.waiting.pop_front()?;
        self.waiting_bytes -= parcel.len();
        let index = self.entries.partition_point(|entry| entry.parcel.offset < parcel.offset);
        self.entries[index].place = Place::On(rail);
        Some(parcel)
    }

    /// The rail has no room for what it was just given, and another may have.
    pub(super) fn give_back(&mut self, parcel: Parcel) {
        let index = self.entries.partition_point(|entry| entry.parcel.offset < parcel.offset);
        self.entries[index].place = Place::Cut;
        self.waiting.push_front(parcel);
        self.waiting_bytes += parcel.len();
    }

    /// The receiver has taken so much of the stream; false when it cannot have.
    pub(super) fn receipt(&mut self, taken_bytes: u64) -> bool {
        if taken_bytes > self.end {
            return false;
        }
        while self.entries.front().is_some_and(|oldest| oldest.parcel.end() <= taken_bytes) {
            self.entries.pop_front();
        }
        // What was lost with a rail may have arrived all the same.
        while self.waiting.front().is_some_and(|next| next.end() <= taken_bytes) {
            self.waiting_bytes -= self.waiting.pop_front().map_or(0, Parcel::len);
        }
        true
    }

    /// The rail is gone: all that went over it, and has no receipt, waits for another. How many bytes.
    pub(super) fn lose(&mut self, rail: usize) -> usize {
        let mut lost_bytes = 0;
        for entry in &mut self.entries {
            if entry.place == Place::On(rail) {
                entry.place = Place::Cut;
                lost_bytes += entry.parcel.len();
            }
        }
        let waits = |entry: &&Entry| !matches!(entry.place, Place::On(_));
        self.waiting = self.entries.iter().filter(waits).map(|entry| entry.parcel).collect();
        self.waiting_bytes += lost_bytes;
        lost_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::super::reassembly::Reassembly;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn small_pieces_become_one_parcel_until_a_rail_has_it() {
        let mut manifest = Manifest::new();
        manifest.accept(10);
        manifest.accept(30);
        assert_eq!(manifest.load(0), Some(Parcel { offset: 0, len_bytes: 40 }));
        manifest.accept(5);
        assert_eq!(manifest.load(1), Some(Parcel { offset: 40, len_bytes: 5 }));
        assert_eq!((manifest.load(0), manifest.open_bytes()), (None, 45));
        assert_eq!(manifest.lose(0), 40);
        // What was cut once stays as it was cut: the receiver may have half of it.
        manifest.accept(7);
        assert_eq!(manifest.load(1), Some(Parcel { offset: 0, len_bytes: 40 }));
        assert!(manifest.receipt(45) && !manifest.receipt(53));
        assert_eq!((manifest.load(1), manifest.open_bytes()), (Some(Parcel { offset: 45, len_bytes: 7 }), 7));
    }

    #[test]
    fn a_receipt_for_what_was_lost_spares_sending_it_again() {
        let mut manifest = Manifest::new();
        manifest.accept(10);
        manifest.load(0);
        manifest.lose(0);
        assert!(!manifest.is_sent() && manifest.receipt(10) && manifest.is_sent());
        assert_eq!(manifest.room().len(), PARCEL_BYTES);
    }

    #[test]
    fn there_is_room_for_a_window_and_no_parcel_crosses_its_seam() {
        let mut manifest = Manifest::new();
        let mut sent = 0;
        while !manifest.room().is_empty() {
            manifest.accept(manifest.room().len().min(50_000));
            sent += manifest.load(0).unwrap().len();
        }
        assert_eq!((sent, manifest.open_bytes()), (WINDOW_BYTES, WINDOW_BYTES));
        assert!(manifest.receipt(WINDOW_BYTES as u64 - 1));
        // The last parcel is not taken whole.
        assert!(manifest.room().start == 0 && !manifest.room().is_empty());
        assert!(manifest.is_half_full() == (manifest.open_bytes() >= WINDOW_BYTES / 2));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Accept(usize),
        /// A rail takes a parcel.
        Load(usize),
        /// A parcel arrives, whichever this is of those on their way.
        Arrive(usize),
        Take(usize),
        Receipt,
        /// A rail dies, and a new one takes its number.
        Cut(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (1usize..100_000).prop_map(Step::Accept),
            (0usize..3).prop_map(Step::Load),
            (0usize..3).prop_map(Step::Load),
            (0usize..100).prop_map(Step::Arrive),
            (0usize..100).prop_map(Step::Arrive),
            (1usize..200_000).prop_map(Step::Take),
            Just(Step::Receipt),
            (0usize..3).prop_map(Step::Cut),
        ]
    }

    proptest! {
        /// Whatever order parcels arrive in, whatever is lost and sent twice: all bytes come, once, in order.
        #[test]
        fn nothing_is_lost_or_taken_twice(steps in proptest::collection::vec(step(), 0..400)) {
            let (mut manifest, mut reassembly) = (Manifest::new(), Reassembly::new());
            let mut on_the_way: Vec<(usize, Parcel)> = Vec::new();
            let mut dice = 0;
            for step in steps.into_iter().chain((0..3).map(Step::Cut)) {
                match step {
                    Step::Accept(bytes) if !manifest.room().is_empty() => {
                        manifest.accept(bytes.min(manifest.room().len()));
                    }
                    Step::Accept(_) => {}
                    Step::Load(rail) => on_the_way.extend(manifest.load(rail).map(|parcel| (rail, parcel))),
                    Step::Arrive(which) if !on_the_way.is_empty() => {
                        let (_, parcel) = on_the_way.remove(which % on_the_way.len());
                        prop_assert_eq!(reassembly.check(parcel), Ok(()));
                        reassembly.complete(parcel);
                    }
                    Step::Arrive(_) => {}
                    Step::Take(bytes) => reassembly.take(bytes.min(reassembly.ready_bytes())),
                    Step::Receipt => prop_assert!(manifest.receipt(reassembly.taken())),
                    Step::Cut(rail) => {
                        manifest.lose(rail);
                        // Some of what was on it arrives all the same, now or much later.
                        dice += 1;
                        on_the_way.retain(|(on, parcel)| *on != rail || (parcel.offset + dice).is_multiple_of(3));
                    }
                }
            }
            while let Some(parcel) = manifest.load(0) {
                prop_assert_eq!(reassembly.check(parcel), Ok(()));
                reassembly.complete(parcel);
            }
            for (_, parcel) in on_the_way {
                prop_assert_eq!(reassembly.check(parcel), Ok(()));
                reassembly.complete(parcel);
            }
            reassembly.take(reassembly.ready_bytes());
            prop_assert_eq!(reassembly.taken(), manifest.end);
            prop_assert!(manifest.receipt(reassembly.taken()) && manifest.open_bytes() == 0 && manifest.is_sent());
        }
    }
}
