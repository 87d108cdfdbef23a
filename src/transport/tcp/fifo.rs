//! Bytes on their way between the caller's memory and a socket.
//!
//! ```text
//!     0        head            tail          end
//!     |  free  |    pending    |    room     |        whatever is pending lies in one piece
//! ```
#![forbid(unsafe_code)]

use super::phase::{self, PAGE_BYTES};
use crate::memory::{Block, Span};

/// A queue of bytes that is contiguous at all times: it slides back to the start instead of wrapping around.
pub struct Fifo {
    block: Block,
    /// Bytes of the block before the queue's.
    skipped_bytes: usize,
    head: usize,
    tail: usize,
}

impl Fifo {
    /// An empty one. Its memory starts at a multiple of eight, in the middle of a page ([`phase`]).
    pub fn new(capacity_bytes: usize) -> Fifo {
        let block = Block::new(capacity_bytes + PAGE_BYTES);
        Fifo { skipped_bytes: phase::to_middle(block.span().addr()), block, head: 0, tail: 0 }
    }

    fn span(&self) -> Span {
        self.block.span().from(self.skipped_bytes)
    }

    /// What is in it, oldest first.
    pub fn pending(&self) -> Span {
        self.span().cut(self.head, self.tail - self.head)
    }

    /// Where the next bytes go.
    pub fn room(&self) -> Span {
        self.span().from(self.tail)
    }

    /// The first `len_bytes` of the room now hold bytes.
    pub fn push(&mut self, len_bytes: usize) {
        assert!(len_bytes <= self.room().len(), "pushed {len_bytes} bytes into {:?}", self.room());
        self.tail += len_bytes;
    }

    /// The first `len_bytes` that were pending are done with.
    pub fn pop(&mut self, len_bytes: usize) {
        assert!(len_bytes <= self.pending().len(), "popped {len_bytes} bytes of {:?}", self.pending());
        self.head += len_bytes;
        if self.head == self.tail {
            (self.head, self.tail) = (0, 0);
        }
    }

    /// Moves what is pending so that it starts at a multiple of eight.
    pub fn align_head(&mut self) {
        self.slide(0);
    }

    /// Moves what is pending so that the room behind it starts at a multiple of eight.
    pub fn align_tail(&mut self) {
        self.slide(self.pending().len().wrapping_neg() % 8);
    }

    fn slide(&mut self, head: usize) {
        let pending = self.pending();
        let target = self.span().cut(head, pending.len());
        if target != pending {
            target.copy_from(pending);
        }
        (self.head, self.tail) = (head, head + pending.len());
    }
}
