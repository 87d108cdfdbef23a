//! Who owns which slot of a ring: pure bookkeeping of the two ends of one direction.
//!
//! Slot k of the stream lies in place k mod n on both sides. The sender fills it when two things are known: its own copy
//! is no longer being read (the write that used the place is complete), and the receiver has taken what lay there (a credit
//! says so). Writes may arrive in any order, and credits too: a credit is the number of slots taken *so far*, so one that
//! is late says nothing new. Counts travel by their last bits: all 32 that fit into a slot's head, and 11 in a write of their
//! own, of which there is one at a time, so that none can be old enough to be taken for new.
#![forbid(unsafe_code)]

use super::immediate::MAX_SLOTS;

/// The sending side.
#[derive(Debug)]
pub struct Outflow {
    /// Slots sent.
    sent: u64,
    /// Slots that the receiver has taken.
    taken: u64,
    /// Which places are still being read.
    busy: Box<[bool]>,
}

impl Outflow {
    /// With so many places.
    pub fn new(slots: usize) -> Outflow {
        assert!(slots as u64 <= MAX_SLOTS && slots > 0, "{slots} slots");
        Outflow { sent: 0, taken: 0, busy: vec![false; slots].into() }
    }

    /// The place of the next slot, if it may be filled now.
    pub fn next(&self) -> Option<usize> {
        let place = (self.sent % self.busy.len() as u64) as usize;
        let has_credit = self.sent - self.taken < self.busy.len() as u64;
        (has_credit && !self.busy[place]).then_some(place)
    }

    /// The next slot is on its way from its place.
    pub fn send(&mut self) {
        let place = self.next().expect("only a free place is filled");
        self.busy[place] = true;
        self.sent += 1;
    }

    /// The write out of this place is complete.
    pub fn complete(&mut self, place: usize) {
        self.busy[place] = false;
    }

    /// The receiver has taken so many slots so far, of which these are the bits under `mask`. Nothing new is what has been
    /// overtaken, and what never was sent.
    pub fn credit(&mut self, count: u64, mask: u64) {
        let news = count.wrapping_sub(self.taken) & mask;
        if news <= self.sent - self.taken {
            self.taken += news;
        }
    }

    /// Slots sent so far.
    pub fn sent(&self) -> u64 {
        self.sent
    }
}

/// The receiving side.
#[derive(Debug)]
pub struct Inflow {
    /// Slots that have arrived.
    arrived: u64,
    /// Slots that were taken.
    taken: u64,
    /// How many of them the sender has been told of.
    told: u64,
    /// Which places are filled.
    filled: Box<[bool]>,
}

impl Inflow {
    /// With so many places.
    pub fn new(slots: usize) -> Inflow {
        assert!(slots as u64 <= MAX_SLOTS && slots > 0, "{slots} slots");
        Inflow { arrived: 0, taken: 0, told: 0, filled: vec![false; slots].into() }
    }

    /// This place has been filled. False for one that cannot have been.
    pub fn arrive(&mut self, place: usize) -> bool {
        match self.filled.get_mut(place) {
            Some(filled) if !*filled => {
                *filled = true;
                self.arrived += 1;
                true
            }
            _ => false,
        }
    }

    /// The place of the next slot of the stream, if it has arrived.
    pub fn next(&self) -> Option<usize> {
        let place = (self.taken % self.filled.len() as u64) as usize;
        self.filled[place].then_some(place)
    }

    /// The next slot is empty again.
    pub fn take(&mut self) {
        let place = self.next().expect("only what has arrived is taken");
        self.filled[place] = false;
        self.taken += 1;
    }

    /// True when the sender should be told what was taken though there is nothing else to tell it.
    pub fn owes_credit(&self) -> bool {
        (self.taken - self.told) * 2 >= self.filled.len() as u64
    }

    /// The credit to send now: how many slots were taken so far.
    pub fn tell(&mut self) -> u64 {
        self.told = self.taken;
        self.taken
    }

    /// Slots that have arrived so far.
    pub fn arrived(&self) -> u64 {
        self.arrived
    }
}

#[cfg(test)]
mod tests {
    use super::super::immediate::COUNT_MASK;
    use super::*;
    use proptest::prelude::*;

    /// Writes and credits under way, that complete and arrive in any order.
    #[derive(Default)]
    struct Air {
        writes: Vec<usize>,
        reads: Vec<usize>,
        /// In heads of slots, and the one that may be alone.
        told: Vec<u64>,
        credit: Option<u64>,
    }

    proptest! {
        #[test]
        fn the_stream_keeps_its_order_whatever_overtakes(
            slots in 1usize..9,
            total in 1u64..5000,
            dice in proptest::collection::vec(any::<u16>(), 1..200),
        ) {
            let (mut out, mut inflow, mut air) = (Outflow::new(slots), Inflow::new(slots), Air::default());
            // What lies in each place: the number of the slot.
            let (mut staged, mut ring) = (vec![u64::MAX; slots], vec![u64::MAX; slots]);
            let mut received = 0;
            let mut idle = 0;
            for turn in 0.. {
                let roll = usize::from(dice[turn % dice.len()]) + turn / dice.len();
                let before = (out.sent(), received, air.writes.len(), air.reads.len(), air.credit);
                match roll % 6 {
                    0 => while let Some(place) = out.next().filter(|_| out.sent() < total) {
                        prop_assert!(!air.reads.contains(&place), "overwritten while it was read");
                        staged[place] = out.sent();
                        out.send();
                        air.writes.push(place);
                        air.reads.push(place);
                    },
                    1 if !air.writes.is_empty() => {
                        let place = air.writes.swap_remove(roll % air.writes.len());
                        ring[place] = staged[place];
                        prop_assert!(inflow.arrive(place));
                        prop_assert!(!inflow.arrive(place), "twice");
                    }
                    2 if !air.reads.is_empty() => {
                        let at = roll % air.reads.len();
                        // Local completion may come late, never before the bytes have left.
                        if !air.writes.contains(&air.reads[at]) {
                            out.complete(air.reads.swap_remove(at));
                        }
                    }
                    3 => while let Some(place) = inflow.next() {
                        prop_assert_eq!(ring[place], received);
                        received += 1;
                        inflow.take();
                        if roll % 3 == 0 {
                            air.told.push(inflow.tell() & u64::from(u32::MAX));
                        }
                    },
                    4 => match air.credit.take() {
                        None => air.credit = inflow.owes_credit().then(|| inflow.tell() & COUNT_MASK),
                        Some(credit) => out.credit(credit, COUNT_MASK),
                    },
                    5 if !air.told.is_empty() => {
                        let told = air.told.swap_remove(roll % air.told.len());
                        out.credit(told, u32::MAX.into());
                    }
                    _ => {}
                }
                if received == total {
                    break;
                }
                let after = (out.sent(), received, air.writes.len(), air.reads.len(), air.credit);
                idle = if before == after { idle + 1 } else { 0 };
                prop_assert!(idle < 5000, "stuck at {after:?}");
            }
        }
    }

    #[test]
    fn credits_for_what_was_never_sent_change_nothing() {
        let mut out = Outflow::new(1);
        out.send();
        out.complete(0);
        for nonsense in [2, 900, COUNT_MASK] {
            out.credit(nonsense, COUNT_MASK);
            assert_eq!(out.next(), None);
        }
        out.credit(1, COUNT_MASK);
        assert_eq!(out.next(), Some(0));
        out.credit(0, COUNT_MASK);
        assert_eq!(out.next(), Some(0), "what is late takes nothing back");
    }

    #[test]
    fn places_that_do_not_exist_cannot_be_filled() {
        let mut inflow = Inflow::new(4);
        assert!(!inflow.arrive(4));
        assert_eq!(inflow.next(), None);
    }
}
