//! The two ends of a link.
#![forbid(unsafe_code)]

use super::hub::Hub;
use crate::error::Result;
use crate::memory::{Block, Span};
use crate::transport::{Interest, Rx, Tx};
use std::sync::Arc;

/// Bytes that are put together again where an element came in pieces, or askew.
const SEAM_BYTES: usize = 4096;

/// The sending end.
pub struct FabricTx {
    hub: Arc<Hub>,
    link: u32,
    /// Something was gathered or is under way.
    is_busy: bool,
}

impl FabricTx {
    pub(super) fn new(hub: Arc<Hub>, link: u32) -> FabricTx {
        FabricTx { hub, link, is_busy: false }
    }
}

impl Tx for FabricTx {
    fn send(&mut self, from: Span) -> Result<usize> {
        self.is_busy = true;
        self.hub.shared().driven().send(self.link, from)
    }

    fn reserve(&mut self, max_bytes: usize) -> Result<Span> {
        let mut inner = self.hub.shared().driven();
        let mut room = inner.room(self.link)?;
        if !room.addr().is_multiple_of(8) {
            // Elements are written here: on to the next slot, which begins at a multiple of eight.
            room = if inner.close_slot(self.link)? { inner.room(self.link)? } else { Span::EMPTY };
        }
        if !room.addr().is_multiple_of(8) {
            return Ok(Span::EMPTY);
        }
        // Slots end at a multiple of eight too, so less than was asked for is still whole elements.
        Ok(room.cut(0, room.len().min(max_bytes)))
    }

    fn commit(&mut self, len_bytes: usize) -> Result<()> {
        self.is_busy = true;
        self.hub.shared().lock().gather(self.link, len_bytes)
    }

    fn flush(&mut self) -> Result<bool> {
        if self.is_busy {
            self.is_busy = !self.hub.shared().driven().flush(self.link)?;
        }
        Ok(!self.is_busy)
    }

    fn interest(&self) -> Option<Interest> {
        self.hub.shared().stand_by(self.link)
    }
}

impl Drop for FabricTx {
    fn drop(&mut self) {
        self.hub.shared().lock().release_end(self.link);
    }
}

/// The receiving end.
pub struct FabricRx {
    hub: Arc<Hub>,
    link: u32,
    /// What is left of the slot that is being read.
    slot: Span,
    seam: Seam,
}

impl FabricRx {
    pub(super) fn new(hub: Arc<Hub>, link: u32) -> FabricRx {
        FabricRx { hub, link, slot: Span::EMPTY, seam: Seam::default() }
    }

    /// True when there is a slot with something in it.
    fn has_slot(&mut self) -> Result<bool> {
        if self.slot.is_empty()
            && let Some(slot) = self.hub.shared().driven().arrived(self.link)?
        {
            self.slot = slot;
        }
        Ok(!self.slot.is_empty())
    }

    /// Done with the front of the slot.
    fn skip(&mut self, len_bytes: usize) {
        self.slot = self.slot.from(len_bytes);
        if self.slot.is_empty() {
            self.hub.shared().lock().take(self.link);
        }
    }

    /// Fills the seam from slots, as far as they go.
    fn fill_seam(&mut self, wanted_bytes: usize) -> Result<()> {
        while self.seam.pending().len() < wanted_bytes && self.has_slot()? {
            let room = self.seam.room();
            let len_bytes = room.len().min(self.slot.len()).min(wanted_bytes - self.seam.pending().len());
            room.cut(0, len_bytes).copy_from(self.slot.cut(0, len_bytes));
            self.seam.push(len_bytes);
            self.skip(len_bytes);
        }
        Ok(())
    }

    /// Nothing is here: `value`, or why nothing will come.
    fn nothing<T>(&mut self, value: T) -> Result<T> {
        self.hub.shared().lock().expecting(self.link).map(|()| value)
    }
}

impl Rx for FabricRx {
    fn arrived(&mut self, unit_bytes: usize, max_bytes: usize) -> Result<Span> {
        let whole = |span: Span| {
            let ready_bytes = span.len().min(max_bytes);
            span.cut(0, ready_bytes - ready_bytes % unit_bytes)
        };
        if self.seam.pending().is_empty() {
            if !self.has_slot()? {
                return self.nothing(Span::EMPTY);
            }
            if self.slot.addr().is_multiple_of(unit_bytes) && self.slot.len() >= unit_bytes {
                return Ok(whole(self.slot));
            }
        }
        if self.seam.pending().len() < unit_bytes || !self.seam.pending().addr().is_multiple_of(unit_bytes) {
            self.seam.align();
        }
        if self.seam.pending().len() < unit_bytes {
            // An element in pieces is put together alone, so that the rest of its slot need not be copied; a slot that
            // lies askew is copied.
            let is_askew = !(self.slot.addr() + unit_bytes - self.seam.pending().len()).is_multiple_of(unit_bytes);
            self.fill_seam(if is_askew { SEAM_BYTES.min(max_bytes).max(unit_bytes) } else { unit_bytes })?;
        }
        let ready = whole(self.seam.pending());
        if ready.is_empty() { self.nothing(Span::EMPTY) } else { Ok(ready) }
    }

    fn release(&mut self, len_bytes: usize) -> Result<()> {
        if len_bytes == 0 {
            return Ok(());
        }
        if self.seam.pending().is_empty() {
            self.skip(len_bytes);
        } else {
            self.seam.pop(len_bytes);
        }
        Ok(())
    }

    fn recv(&mut self, into: Span) -> Result<usize> {
        let seam = self.seam.pending();
        let mut taken_bytes = seam.len().min(into.len());
        into.cut(0, taken_bytes).copy_from(seam.cut(0, taken_bytes));
        self.seam.pop(taken_bytes);
        while taken_bytes < into.len() && self.has_slot()? {
            let len_bytes = self.slot.len().min(into.len() - taken_bytes);
            into.cut(taken_bytes, len_bytes).copy_from(self.slot.cut(0, len_bytes));
            self.skip(len_bytes);
            taken_bytes += len_bytes;
        }
        if taken_bytes == 0 && !into.is_empty() { self.nothing(0) } else { Ok(taken_bytes) }
    }

    fn interest(&self) -> Option<Interest> {
        self.hub.shared().stand_by(self.link)
    }
}

impl Drop for FabricRx {
    fn drop(&mut self) {
        self.hub.shared().lock().release_end(self.link);
    }
}

/// Where elements are put together again whose bytes came in two slots, or at an address that is not theirs.
struct Seam {
    block: Block,
    head: usize,
    tail: usize,
}

impl Default for Seam {
    fn default() -> Seam {
        Seam { block: Block::new(SEAM_BYTES + 8), head: 0, tail: 0 }
    }
}

impl Seam {
    fn pending(&self) -> Span {
        self.block.span().cut(self.head, self.tail - self.head)
    }

    fn room(&self) -> Span {
        self.block.span().from(self.tail)
    }

    fn push(&mut self, len_bytes: usize) {
        self.tail += len_bytes;
    }

    fn pop(&mut self, len_bytes: usize) {
        self.head += len_bytes;
        if self.head == self.tail {
            (self.head, self.tail) = (0, 0);
        }
    }

    /// Moves what is pending to the front.
    fn align(&mut self) {
        let pending = self.pending();
        self.block.span().cut(0, pending.len()).copy_from(pending);
        (self.head, self.tail) = (0, pending.len());
    }
}
