//! A link through shared memory: a ring of bytes with one writer and one reader.
//!
//! ```text
//!            head (the reader's)            tail (the writer's)
//!              │                              │
//!   ┌──────────▼──────────────────────────────▼─────────────┐
//!   │  free    │ arrived ───────────────────▶ │ free ──────▶│ and on from the front
//!   └──────────┴──────────────────────────────┴─────────────┘
//! ```
//!
//! Both positions count bytes since the beginning and never wrap; the place in the ring is the position modulo the
//! capacity, a power of two. Each lies on cache lines of its own, and each side keeps a copy of the other's position that
//! it refreshes only when it runs out of bytes or room: so a line moves between cores once per batch, not per call.
//!
//! The other side may be a process that went mad: a position that cannot be is an error, and no length is ever taken
//! from memory unchecked. That the other side is dead is not the ring's to notice; the control connection does, and the
//! abort word ends the wait.
#![allow(unsafe_code)]

use super::doorbell::{Keep, Ringer};
use super::word::{LINE_BYTES, Word};
use crate::error::{Error, Result};
use crate::memory::Span;
use crate::transport::{Interest, Rx, Tx};
use nix::errno::Errno;
use std::cell::UnsafeCell;
use std::sync::atomic::Ordering;

/// Bytes of control words that a ring needs besides its data; all zero at first.
pub(super) const HEADER_BYTES: usize = 2 * LINE_BYTES;

/// Large copies are published in this many parts, so that both sides copy at the same time.
const PARTS: usize = 8;

/// What both ends are made of.
pub(super) struct Ring {
    /// Bytes released so far: the reader stores, the writer loads.
    head: Word,
    /// Bytes committed so far: the writer stores, the reader loads.
    tail: Word,
    data: Span,
    /// The other side's doorbell.
    bell: Ringer,
    /// Who is at the other side, for messages.
    peer: usize,
    _keep: Keep,
}

impl Ring {
    /// The ring with this header and data, whose length is a power of two. The other end, one of it, is with `peer`.
    pub(super) fn new(header: Span, data: Span, bell: Ringer, peer: usize, keep: Keep) -> Ring {
        assert!(data.len().is_power_of_two(), "ring of {} bytes", data.len());
        Ring { head: Word::at(header, LINE_BYTES), tail: Word::at(header, 0), data, bell, peer, _keep: keep }
    }

    /// The contiguous bytes at `position`, at most `max_bytes`.
    fn piece(&self, position: u64, max_bytes: usize) -> Span {
        let offset = self.offset(position);
        self.data.cut(offset, max_bytes.min(self.data.len() - offset))
    }

    fn offset(&self, position: u64) -> usize {
        position as usize & (self.data.len() - 1)
    }

    /// What lies between two positions, once it is certain that they can be: in order, no further apart than the ring is
    /// long, and the one that `moved` not behind where it was `known` to be.
    fn distance(&self, head: u64, tail: u64, moved: u64, known: u64) -> Result<usize> {
        if let Some(distance) = tail.checked_sub(head)
            && distance <= self.data.len() as u64
            && moved >= known
        {
            return Ok(distance as usize);
        }
        Err(Error::system(
            format!(
                "the ring shared with local neighbour {} is corrupt: head {head}, tail {tail}, capacity {}; something \
                 overwrote shared memory, look at the neighbour's log",
                self.peer,
                self.data.len()
            ),
            Errno::EBADMSG,
        ))
    }

    fn part_bytes(&self) -> usize {
        (self.data.len() / PARTS).max(LINE_BYTES)
    }
}

/// The writing end.
pub(super) struct RingTx {
    ring: Ring,
    tail: u64,
    /// The reader's position when it was last looked at.
    seen_head: u64,
    /// Length of what `reserve` gave out.
    reserved_bytes: usize,
}

impl RingTx {
    pub(super) fn new(ring: Ring) -> RingTx {
        RingTx { ring, tail: 0, seen_head: 0, reserved_bytes: 0 }
    }
}

impl Tx for RingTx {
    fn send(&mut self, from: Span) -> Result<usize> {
        let mut sent = 0;
        while sent < from.len() {
            let room = self.reserve((from.len() - sent).min(self.ring.part_bytes()))?;
            if room.is_empty() {
                break;
            }
            room.copy_from(from.cut(sent, room.len()));
            self.commit(room.len())?;
            sent += room.len();
        }
        Ok(sent)
    }

    fn reserve(&mut self, max_bytes: usize) -> Result<Span> {
        let capacity = self.ring.data.len();
        let mut free = capacity - (self.tail - self.seen_head) as usize;
        if free < max_bytes.min(capacity) {
            // Acquire: pairs with the Release in `RingRx::release`; the reader has read what we are about to overwrite.
            let head = self.ring.head.load(Ordering::Acquire);
            free = capacity - self.ring.distance(head, self.tail, head, self.seen_head)?;
            self.seen_head = head;
        }
        let room = self.ring.piece(self.tail, max_bytes.min(free));
        self.reserved_bytes = room.len();
        Ok(room)
    }

    fn commit(&mut self, len_bytes: usize) -> Result<()> {
        assert!(len_bytes <= self.reserved_bytes, "{len_bytes} of {} reserved bytes", self.reserved_bytes);
        if len_bytes > 0 {
            self.reserved_bytes -= len_bytes;
            self.tail += len_bytes as u64;
            // Release: pairs with the Acquire in `RingRx::arrived`; the bytes are visible before the position.
            self.ring.tail.store(self.tail, Ordering::Release);
            self.ring.bell.ring_if_asleep();
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<bool> {
        Ok(true)
    }

    fn interest(&self) -> Option<Interest> {
        None
    }
}

/// The reading end.
pub(super) struct RingRx {
    ring: Ring,
    head: u64,
    /// The writer's position when it was last looked at.
    seen_tail: u64,
    /// Length of what `arrived` gave out.
    given_bytes: usize,
    /// Where an element is put together that lies partly at the end and partly at the front of the ring.
    joined: Box<UnsafeCell<u64>>,
}

impl RingRx {
    pub(super) fn new(ring: Ring) -> RingRx {
        RingRx { ring, head: 0, seen_tail: 0, given_bytes: 0, joined: Box::default() }
    }

    /// The element at `head`, which the end of the ring cuts in two.
    fn join(&mut self, unit_bytes: usize) -> Span {
        // SAFETY: 8 bytes on the heap that live as long as `self` and are accessed through this span only.
        let joined = unsafe { Span::new(self.joined.get().cast(), size_of::<u64>()) }.cut(0, unit_bytes);
        let end = self.ring.piece(self.head, unit_bytes);
        joined.cut(0, end.len()).copy_from(end);
        joined.from(end.len()).copy_from(self.ring.data.cut(0, unit_bytes - end.len()));
        joined
    }
}

impl Rx for RingRx {
    fn arrived(&mut self, unit_bytes: usize, max_bytes: usize) -> Result<Span> {
        assert!(matches!(unit_bytes, 1 | 2 | 4 | 8), "elements of {unit_bytes} bytes");
        let capacity = self.ring.data.len();
        let mut arrived = (self.seen_tail - self.head) as usize;
        if arrived < max_bytes.min(capacity) {
            // Acquire: pairs with the Release in `RingTx::commit`; the bytes up to the position are visible.
            let tail = self.ring.tail.load(Ordering::Acquire);
            arrived = self.ring.distance(self.head, tail, tail, self.seen_tail)?;
            self.seen_tail = tail;
        }
        let wanted = max_bytes.min(arrived) / unit_bytes * unit_bytes;
        let piece = self.ring.piece(self.head, wanted);
        let whole = piece.cut(0, piece.len() / unit_bytes * unit_bytes);
        let given = if whole.is_empty() && wanted > 0 { self.join(unit_bytes) } else { whole };
        self.given_bytes = given.len();
        Ok(given)
    }

    fn release(&mut self, len_bytes: usize) -> Result<()> {
        assert!(len_bytes <= self.given_bytes, "{len_bytes} of {} bytes given", self.given_bytes);
        if len_bytes > 0 {
            self.given_bytes -= len_bytes;
            self.head += len_bytes as u64;
            // Release: pairs with the Acquire in `RingTx::reserve`; our reading is over before the room is free.
            self.ring.head.store(self.head, Ordering::Release);
            self.ring.bell.ring_if_asleep();
        }
        Ok(())
    }

    fn recv(&mut self, into: Span) -> Result<usize> {
        let mut received = 0;
        while received < into.len() {
            let piece = self.arrived(1, (into.len() - received).min(self.ring.part_bytes()))?;
            if piece.is_empty() {
                break;
            }
            into.cut(received, piece.len()).copy_from(piece);
            self.release(piece.len())?;
            received += piece.len();
        }
        Ok(received)
    }

    fn interest(&self) -> Option<Interest> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::shm::{Arena, Block, Doorbell};
    use proptest::prelude::*;
    use std::sync::Arc;

    struct Pair {
        tx: RingTx,
        rx: RingRx,
        block: Arc<Block>,
        tx_bell: Doorbell,
        rx_bell: Doorbell,
    }

    fn pair(capacity: usize) -> Pair {
        let len = 2 * LINE_BYTES + HEADER_BYTES + capacity;
        let block = Arc::new(Arena::create(len).unwrap().alloc_zeroed(len, LINE_BYTES).unwrap());
        let [tx_asleep, rx_asleep] = [0, LINE_BYTES].map(|at| Word::at(block.span(), at));
        let (tx_bell, tx_name) = Doorbell::new(tx_asleep, block.clone()).unwrap();
        let (rx_bell, rx_name) = Doorbell::new(rx_asleep, block.clone()).unwrap();
        let to_rx = tx_bell.waker().ringer(&rx_name, rx_asleep, block.clone());
        let to_tx = rx_bell.waker().ringer(&tx_name, tx_asleep, block.clone());
        let header = block.span().cut(2 * LINE_BYTES, HEADER_BYTES);
        let data = block.span().cut(2 * LINE_BYTES + HEADER_BYTES, capacity);
        let tx = RingTx::new(Ring::new(header, data, to_rx, 1, block.clone()));
        let rx = RingRx::new(Ring::new(header, data, to_tx, 0, block.clone()));
        Pair { tx, rx, block, tx_bell, rx_bell }
    }

    fn send(tx: &mut RingTx, bytes: &mut [u8]) -> usize {
        // SAFETY: the slice is borrowed for the whole call and nobody else accesses it.
        tx.send(unsafe { Span::new(bytes.as_mut_ptr(), bytes.len()) }).unwrap()
    }

    fn bytes(span: Span) -> Vec<u8> {
        let mut bytes = vec![0; span.len()];
        span.read(&mut bytes);
        bytes
    }

    #[test]
    fn a_full_ring_takes_nothing_and_an_empty_one_gives_nothing() {
        let Pair { mut tx, mut rx, .. } = pair(256);
        assert!(rx.arrived(1, usize::MAX).unwrap().is_empty());
        let mut data: Vec<u8> = (0..=255).chain(0..=255).collect();
        assert_eq!(send(&mut tx, &mut data), 256);
        assert_eq!(send(&mut tx, &mut data[..1]), 0);
        assert!(tx.reserve(10).unwrap().is_empty());
        assert_eq!(bytes(rx.arrived(8, 100).unwrap()), (0..96).collect::<Vec<u8>>());
        rx.release(40).unwrap();
        assert_eq!(tx.reserve(1000).unwrap().len(), 40);
        assert!(tx.flush().unwrap() && tx.interest().is_none() && rx.interest().is_none());
    }

    #[test]
    fn an_element_across_the_end_comes_whole() {
        let Pair { mut tx, mut rx, .. } = pair(128);
        send(&mut tx, &mut [0; 125]);
        rx.arrived(1, 125).unwrap();
        rx.release(125).unwrap();
        send(&mut tx, &mut [1, 2, 3, 4, 5, 6, 7, 8, 9]);
        assert_eq!(bytes(rx.arrived(8, 100).unwrap()), [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(bytes(rx.arrived(4, 100).unwrap()), [1, 2, 3, 4]);
        assert!(rx.arrived(4, 3).unwrap().is_empty(), "no whole element is allowed");
        assert_eq!(bytes(rx.arrived(2, 100).unwrap()), [1, 2]);
        rx.release(2).unwrap();
        assert_eq!(bytes(rx.arrived(2, 100).unwrap()), [3, 4]);
        rx.release(2).unwrap();
        assert!(rx.arrived(8, 100).unwrap().is_empty(), "only 5 bytes are there");
    }

    #[test]
    fn impossible_positions_are_errors() {
        let Pair { mut tx, mut rx, block, .. } = pair(128);
        let (tail, head) = (Word::at(block.span(), 2 * LINE_BYTES), Word::at(block.span(), 3 * LINE_BYTES));
        send(&mut tx, &mut [0; 100]);
        for wrong in [101, u64::MAX, 1 << 63] {
            head.store(wrong, Ordering::SeqCst);
            assert!(tx.reserve(128).unwrap_err().to_string().contains("neighbour 1 is corrupt"), "{wrong}");
        }
        rx.arrived(1, 128).unwrap();
        for wrong in [99, 129, u64::MAX] {
            tail.store(wrong, Ordering::SeqCst);
            assert!(rx.arrived(1, 128).unwrap_err().to_string().contains("neighbour 0 is corrupt"), "{wrong}");
        }
    }

    proptest! {
        /// Any interleaving of calls moves the same bytes in the same order, and never splits an element.
        #[test]
        fn what_goes_in_comes_out(
            log in 7u32..10,
            steps in prop::collection::vec((0usize..700, 0usize..4, any::<bool>()), 1..200),
        ) {
            let Pair { mut tx, mut rx, .. } = pair(1 << log);
            let (mut sent, mut received) = (0u64, 0u64);
            for (len, unit, sending) in steps {
                if sending {
                    let mut data: Vec<u8> = (sent..).map(|at| ((at * 31) >> 3) as u8).take(len).collect();
                    sent += send(&mut tx, &mut data) as u64;
                } else {
                    let unit = 1 << unit;
                    let got = bytes(rx.arrived(unit, len).unwrap());
                    prop_assert!(got.len() <= len && got.len().is_multiple_of(unit));
                    prop_assert!(!got.is_empty() || len < unit || sent - received < unit as u64);
                    let expected: Vec<u8> = (received..).map(|at| ((at * 31) >> 3) as u8).take(got.len()).collect();
                    prop_assert_eq!(&got, &expected);
                    rx.release(got.len()).unwrap();
                    received += got.len() as u64;
                }
                prop_assert!(received <= sent && sent - received <= 1 << log);
            }
        }
    }

    /// A small generator, so that both threads know what comes without sharing it.
    fn next(state: &mut u64) -> u64 {
        *state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        *state >> 33
    }

    /// Two threads, random sizes, both sleeping whenever they cannot move: every byte checked. A lost wake-up would hang
    /// a nap without timeout, so naps have a very long one that fails the test.
    #[test]
    fn two_threads_move_a_stream_unharmed() {
        const TOTAL: usize = 8 << 20;
        let nap_limit = std::time::Duration::from_secs(60);
        let Pair { mut tx, mut rx, mut tx_bell, mut rx_bell, .. } = pair(4096);
        let woken = |start: std::time::Instant| assert!(start.elapsed() < nap_limit, "a wake-up was lost");
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let (mut content, mut sizes, mut sent) = (1, 2, 0);
                let mut data = vec![0u8; 10_000];
                while sent < TOTAL {
                    let len = (next(&mut sizes) as usize % data.len() + 1).min(TOTAL - sent);
                    data[..len].fill_with(|| next(&mut content) as u8);
                    let mut done = send(&mut tx, &mut data[..len]);
                    while done < len {
                        let nap = tx_bell.lie_down();
                        match send(&mut tx, &mut data[done..len]) {
                            0 => {
                                let start = std::time::Instant::now();
                                nap.sleep(&[], Some(nap_limit)).unwrap();
                                woken(start);
                            }
                            count => done += count,
                        }
                    }
                    sent += len;
                }
            });
            let (mut content, mut sizes, mut received) = (1, 3, 0);
            while received < TOTAL {
                let unit = 1 << (next(&mut sizes) % 4).min((TOTAL - received).ilog2() as u64);
                let max = next(&mut sizes) as usize % 6000 + 8;
                let nap = rx_bell.lie_down();
                let got = bytes(rx.arrived(unit, max).unwrap());
                if got.is_empty() {
                    let start = std::time::Instant::now();
                    nap.sleep(&[], Some(nap_limit)).unwrap();
                    woken(start);
                    continue;
                }
                drop(nap);
                assert!(got.iter().all(|&byte| byte == next(&mut content) as u8), "before {received}");
                rx.release(got.len()).unwrap();
                received += got.len();
            }
        });
    }
}
