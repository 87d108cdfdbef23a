//! An atomic 64-bit word in shared memory.
#![allow(unsafe_code)]

use crate::memory::Span;
use std::ops::Deref;
use std::sync::atomic::AtomicU64;

/// Bytes that one writer has for itself: two cache lines, because processors prefetch them in pairs.
pub(super) const LINE_BYTES: usize = 128;

/// A word that other threads and processes access too, always atomically. It stays valid as long as the [`Span`] it
/// was cut from.
#[derive(Clone, Copy)]
pub(super) struct Word(*const AtomicU64);

// SAFETY: an atomic may be used from any thread; that it stays mapped was promised to the span.
unsafe impl Send for Word {}
// SAFETY: as above.
unsafe impl Sync for Word {}

impl Word {
    /// The word at `offset_bytes` of `span`; a multiple of 8.
    pub(super) fn at(span: Span, offset_bytes: usize) -> Word {
        let cell = span.cut(offset_bytes, size_of::<AtomicU64>());
        assert!(cell.addr().is_multiple_of(align_of::<AtomicU64>()), "word at {cell:?}");
        Word(cell.as_ptr().cast())
    }
}

impl Deref for Word {
    type Target = AtomicU64;

    #[inline]
    fn deref(&self) -> &AtomicU64 {
        // SAFETY: aligned, and inside a span (both checked in `at`), which was promised to be mapped and writable while
        // in use; everybody accesses this word through atomics only, the one kind of access a shared reference allows.
        unsafe { &*self.0 }
    }
}
