//! What one communicator needs of one rank's arena, and where in it everything lies.
//!
//! Every rank of a host allocates an [`Area`] of the same [`AreaShape`], so an offset to it (in its [`AreaCard`]) is all
//! that the others must be told:
//!
//! ```text
//!   line 0, 1    flags: { signal count | message }, used alternately by the calls of the communicator; the owner writes
//!   line 2       asleep: the owner sleeps; whoever wakes it clears it
//!   line 3       abort: a neighbour, or the owner, ended the communicator
//!   line 4       inside: the owner is accessing memory of others
//!   line 5       the shape, for the neighbours to compare
//!   then         detached: one word per neighbour, set by it after its last access
//!   then         ring headers, one per neighbour and channel
//!   pages        ring data                      the neighbour writes, the owner reads
//!   pages        stage, first half; stage, second half
//! ```
//!
//! All of it starts as zero. Pages that are never touched (the rings of a communicator that only uses staging, say) never
//! come into being.
//!
//! An area outlives its communicator where a neighbour is slower to drop its own: only when all have detached, or were
//! said to be dead, does the memory go back to the arena.
#![forbid(unsafe_code)]

use super::arena::{Arena, Block, PeerArena};
use super::doorbell::{Doorbell, Waker};
use super::mapping::PAGE_BYTES;
use super::ring::HEADER_BYTES;
use super::word::{LINE_BYTES, Word};
use crate::error::{Error, Result};
use crate::memory::Span;
use crate::transport::MESSAGE_BYTES;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::Ordering;

const WORD_BYTES: usize = 8;
/// The message fills the flag line, beside the signal count.
const _: () = assert!(MESSAGE_BYTES == LINE_BYTES - WORD_BYTES);
const ASLEEP_LINE: usize = 2;
const ABORT_LINE: usize = 3;
const INSIDE_LINE: usize = 4;
const SHAPE_LINE: usize = 5;
const DETACHED_LINE: usize = 6;

/// What every rank of a host must choose alike for one communicator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AreaShape {
    /// Ranks of this host.
    pub ranks: usize,
    /// Parallel links between each two of them.
    pub channels: usize,
    /// Capacity of a link, a power of two.
    pub ring_bytes: usize,
    /// Length of each of the two halves of the staging memory.
    pub stage_bytes: usize,
}

/// Where a rank's area is: what it tells its neighbours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AreaCard {
    /// Offset in the rank's arena.
    pub offset: u64,
    /// Random name of the rank's doorbell.
    pub doorbell: [u8; 16],
}

/// Offsets inside an area.
#[derive(Debug, Clone, Copy)]
struct Layout {
    shape: AreaShape,
    headers_at: usize,
    rings_at: usize,
    stages_at: usize,
    stage_stride_bytes: usize,
    len_bytes: usize,
}

impl Layout {
    fn new(shape: AreaShape) -> Result<Layout> {
        if shape.ranks == 0
            || shape.channels == 0
            || !shape.ring_bytes.is_power_of_two()
            || shape.ring_bytes < LINE_BYTES
        {
            return Err(Error::invalid(format!(
                "{shape:?}: at least one rank and one channel, and rings of a power of two of at least {LINE_BYTES} bytes"
            )));
        }
        Layout::measure(shape)
            .ok_or_else(|| Error::invalid(format!("{shape:?} needs more memory than there are addresses")))
    }

    /// `None` on overflow.
    fn measure(shape: AreaShape) -> Option<Layout> {
        let rings = shape.ranks.checked_mul(shape.channels)?;
        let detached_bytes = shape.ranks.checked_mul(WORD_BYTES)?.checked_next_multiple_of(LINE_BYTES)?;
        let headers_at = (DETACHED_LINE * LINE_BYTES).checked_add(detached_bytes)?;
        let rings_at =
            headers_at.checked_add(rings.checked_mul(HEADER_BYTES)?)?.checked_next_multiple_of(PAGE_BYTES)?;
        let rings_end = rings_at.checked_add(rings.checked_mul(shape.ring_bytes)?)?;
        let stages_at = rings_end.checked_next_multiple_of(PAGE_BYTES)?;
        let stage_stride_bytes = shape.stage_bytes.checked_next_multiple_of(PAGE_BYTES)?;
        let len_bytes = stages_at.checked_add(stage_stride_bytes.checked_mul(2)?)?;
        Some(Layout { shape, headers_at, rings_at, stages_at, stage_stride_bytes, len_bytes })
    }
}

/// A rank's area as this process sees it. Valid as long as what it was made from is kept.
#[derive(Clone, Copy)]
pub(super) struct AreaView {
    bytes: Span,
    layout: Layout,
}

impl AreaView {
    /// The area of a neighbour, once it is certain that it lies inside the arena and has the shape that we expect.
    pub(super) fn of_peer(arena: &PeerArena, card: &AreaCard, shape: AreaShape, peer: usize) -> Result<AreaView> {
        let layout = Layout::new(shape)?;
        let all = arena.span();
        let offset = usize::try_from(card.offset).ok().filter(|offset| {
            offset.is_multiple_of(PAGE_BYTES) && *offset <= all.len() && layout.len_bytes <= all.len() - offset
        });
        let Some(offset) = offset else {
            return Err(Error::bootstrap(format!(
                "local neighbour {peer} says its area is at {}, which is not in its arena of {} bytes",
                card.offset,
                all.len()
            )));
        };
        let view = AreaView { bytes: all.cut(offset, layout.len_bytes), layout };
        let theirs = view.shape_words().map(|word| word.load(Ordering::Acquire));
        if theirs != view.expected_shape(peer) {
            return Err(Error::bootstrap(format!(
                "local neighbour {peer} has laid out its shared memory as {theirs:?} (position, ranks, channels, ring and \
                 stage bytes), this rank expects {:?}; are ROUNDEL_* settings the same on all ranks?",
                view.expected_shape(peer)
            )));
        }
        Ok(view)
    }

    fn shape_words(&self) -> [Word; 5] {
        std::array::from_fn(|index| Word::at(self.bytes, SHAPE_LINE * LINE_BYTES + index * WORD_BYTES))
    }

    fn expected_shape(&self, position: usize) -> [u64; 5] {
        let AreaShape { ranks, channels, ring_bytes, stage_bytes } = self.layout.shape;
        [position, ranks, channels, ring_bytes, stage_bytes].map(|number| number as u64)
    }

    pub(super) fn shape(&self) -> AreaShape {
        self.layout.shape
    }

    /// The signal count on the flag line of calls of this parity.
    pub(super) fn signal(&self, parity: usize) -> Word {
        Word::at(self.bytes, parity * LINE_BYTES)
    }

    /// The message on the flag line of calls of this parity.
    pub(super) fn message(&self, parity: usize) -> Span {
        self.bytes.cut(parity * LINE_BYTES + WORD_BYTES, MESSAGE_BYTES)
    }

    pub(super) fn asleep(&self) -> Word {
        Word::at(self.bytes, ASLEEP_LINE * LINE_BYTES)
    }

    pub(super) fn abort(&self) -> Word {
        Word::at(self.bytes, ABORT_LINE * LINE_BYTES)
    }

    pub(super) fn inside(&self) -> Word {
        Word::at(self.bytes, INSIDE_LINE * LINE_BYTES)
    }

    /// Set by `neighbour` after its last access to this area.
    pub(super) fn detached(&self, neighbour: usize) -> Word {
        assert!(neighbour < self.layout.shape.ranks);
        Word::at(self.bytes, DETACHED_LINE * LINE_BYTES + neighbour * WORD_BYTES)
    }

    /// Header and data of the ring in which `from` sends to the owner.
    pub(super) fn ring(&self, from: usize, channel: usize) -> (Span, Span) {
        let Layout { shape, headers_at, rings_at, .. } = self.layout;
        assert!(from < shape.ranks && channel < shape.channels, "ring {from}.{channel} of {shape:?}");
        let index = from * shape.channels + channel;
        let header = self.bytes.cut(headers_at + index * HEADER_BYTES, HEADER_BYTES);
        (header, self.bytes.cut(rings_at + index * shape.ring_bytes, shape.ring_bytes))
    }

    pub(super) fn stage(&self, half: usize) -> Span {
        assert!(half < 2, "half {half} of two");
        self.bytes.cut(self.layout.stages_at + half * self.layout.stage_stride_bytes, self.layout.shape.stage_bytes)
    }
}

/// The memory of this rank's own area.
pub(super) struct AreaMemory {
    /// Taken only by `drop`.
    block: Option<Block>,
    view: AreaView,
    me: usize,
}

impl AreaMemory {
    pub(super) fn view(&self) -> &AreaView {
        &self.view
    }

    pub(super) fn me(&self) -> usize {
        self.me
    }

    pub(super) fn arena(&self) -> &Arena {
        self.block.as_ref().expect("taken only by drop").arena()
    }
}

impl Drop for AreaMemory {
    fn drop(&mut self) {
        let (view, me) = (self.view, self.me);
        if let Some(block) = self.block.take() {
            // Acquire: pairs with the Release in `Neighbours`' `Drop`; the neighbour's last access is over. The arena
            // asks only while it lives, so the words are mapped.
            block.retire(move || {
                (0..view.shape().ranks).all(|peer| peer == me || view.detached(peer).load(Ordering::Acquire) != 0)
            });
        }
    }
}

/// A rank's own area before it knows its neighbours.
pub struct Area {
    pub(super) memory: Arc<AreaMemory>,
    pub(super) waker: Waker,
}

impl Area {
    /// Allocates the area of the rank at position `me` among the ranks of its host, and the doorbell that it will sleep on.
    /// The card is for the neighbours.
    pub fn create(arena: &Arc<Arena>, shape: AreaShape, me: usize) -> Result<(Area, Doorbell, AreaCard)> {
        let layout = Layout::new(shape)?;
        if me >= shape.ranks {
            return Err(Error::invalid(format!("position {me} among {} ranks of this host", shape.ranks)));
        }
        let block = arena.alloc_zeroed(layout.len_bytes, PAGE_BYTES)?;
        let offset = block.offset() as u64;
        let view = AreaView { bytes: block.span(), layout };
        for (word, number) in view.shape_words().iter().zip(view.expected_shape(me)) {
            // Release: pairs with the Acquire in `AreaView::of_peer`.
            word.store(number, Ordering::Release);
        }
        let memory = Arc::new(AreaMemory { block: Some(block), view, me });
        let (bell, doorbell) = Doorbell::new(view.asleep(), memory.clone())?;
        let waker = bell.waker();
        Ok((Area { memory, waker }, bell, AreaCard { offset, doorbell }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: AreaShape = AreaShape { ranks: 3, channels: 2, ring_bytes: 1024, stage_bytes: 5000 };

    #[test]
    fn nothing_overlaps_and_all_of_it_is_inside() {
        let arena = Arena::create(1 << 20).unwrap();
        let block = arena.alloc(Layout::new(SHAPE).unwrap().len_bytes, PAGE_BYTES).unwrap();
        let view = AreaView { bytes: block.span(), layout: Layout::new(SHAPE).unwrap() };
        let line = |line: usize| view.bytes.cut(line * LINE_BYTES, LINE_BYTES);
        let mut parts = vec![view.stage(0), view.stage(1), view.message(0), view.message(1)];
        parts.extend([ASLEEP_LINE, ABORT_LINE, INSIDE_LINE, SHAPE_LINE, DETACHED_LINE].map(line));
        parts.extend([0, 1].map(|parity| view.bytes.cut(parity * LINE_BYTES, WORD_BYTES)));
        for ring in 0..6 {
            let (header, data) = view.ring(ring / 2, ring % 2);
            parts.extend([header, data]);
        }
        for (i, part) in parts.iter().enumerate() {
            assert!(parts[i + 1..].iter().all(|other| !other.overlaps(*part)), "{part:?}");
            assert!(arena.contains(*part).is_some());
        }
    }

    #[test]
    fn impossible_shapes_are_refused() {
        let arena = Arena::create(1 << 20).unwrap();
        for shape in [
            AreaShape { ranks: 0, ..SHAPE },
            AreaShape { channels: 0, ..SHAPE },
            AreaShape { ring_bytes: 1000, ..SHAPE },
            AreaShape { ring_bytes: 0, ..SHAPE },
            AreaShape { ring_bytes: 1 << 63, ..SHAPE },
            AreaShape { stage_bytes: usize::MAX, ..SHAPE },
            AreaShape { stage_bytes: 1 << 30, ..SHAPE },
            AreaShape { ranks: usize::MAX, ..SHAPE },
        ] {
            assert!(Area::create(&arena, shape, 0).is_err(), "{shape:?}");
        }
        assert!(Area::create(&arena, SHAPE, 3).is_err());
        assert!(Area::create(&arena, SHAPE, 2).is_ok());
    }

    #[test]
    fn a_card_that_points_elsewhere_is_refused() {
        let arena = Arena::create(1 << 20).unwrap();
        let (_area, _bell, card) = Area::create(&arena, SHAPE, 1).unwrap();
        let peer = PeerArena::of_this_process(arena.clone());
        assert!(AreaView::of_peer(&peer, &card, SHAPE, 1).is_ok());
        assert!(AreaView::of_peer(&peer, &card, SHAPE, 2).is_err(), "another position");
        assert!(AreaView::of_peer(&peer, &card, AreaShape { channels: 1, ..SHAPE }, 1).is_err(), "another shape");
        for offset in [card.offset + 8, card.offset + 4096, 1 << 20, u64::MAX, u64::MAX - 4095] {
            let wrong = AreaCard { offset, ..card.clone() };
            assert!(AreaView::of_peer(&peer, &wrong, SHAPE, 1).is_err(), "{offset}");
        }
    }
}
