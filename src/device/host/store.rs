//! Bringing finished bytes to where they belong, through the cache or past it.
//!
//! A streaming store sends whole lines to memory without first reading what they held, which saves a third of the
//! traffic and spares the cache, when what is written will not be read again before it would have fallen out anyway.

/// Whether what is written will be read again soon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Store {
    /// Through the cache: right for all that fits in it.
    Cached,
    /// Past the cache: right for what is larger.
    Streaming,
}

impl Store {
    /// Writes `len_bytes` from `from` to `into`.
    ///
    /// # Safety
    /// Readable there, writable here, no overlap. After streaming, [`Store::finish`] comes before anyone is told.
    #[inline]
    pub(super) unsafe fn put(self, from: *const u8, into: *mut u8, len_bytes: usize) {
        // SAFETY: passed on from the caller.
        unsafe {
            match self {
                Store::Cached => super::copying::copy(from, into, len_bytes),
                Store::Streaming => stream(from, into, len_bytes),
            }
        }
    }

    /// Makes what was streamed as ordered as ordinary stores are.
    #[inline]
    pub(super) fn finish(self) {
        #[cfg(target_arch = "x86_64")]
        if self == Store::Streaming {
            // Streaming stores are outside the order that Release stores rely on; the fence puts them back in.
            // SAFETY: SSE is part of x86-64.
            unsafe { std::arch::x86_64::_mm_sfence() }
        }
    }
}

/// Whole lines go past the cache; what is left at either end goes through it.
#[cfg(target_arch = "x86_64")]
unsafe fn stream(from: *const u8, into: *mut u8, len_bytes: usize) {
    use std::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_stream_si128};
    const LINE: usize = 64;
    let head = into.align_offset(LINE).min(len_bytes);
    let whole = (len_bytes - head) / LINE * LINE;
    // SAFETY: head, whole and the rest add up to `len_bytes`, for which the caller vouches; `into + head` is aligned to
    // a line wherever `whole` is not 0. SSE2 is part of x86-64.
    unsafe {
        std::ptr::copy_nonoverlapping(from, into, head);
        let mut at = head;
        while at < head + whole {
            let source = from.add(at).cast::<__m128i>();
            let target = into.add(at).cast::<__m128i>();
            let line = [0, 1, 2, 3].map(|i| _mm_loadu_si128(source.add(i)));
            for (i, part) in line.into_iter().enumerate() {
                _mm_stream_si128(target.add(i), part);
            }
            at += LINE;
        }
        std::ptr::copy_nonoverlapping(from.add(at), into.add(at), len_bytes - at);
    }
}

/// Only x86-64 has streaming stores that plain fences order.
#[cfg(not(target_arch = "x86_64"))]
unsafe fn stream(from: *const u8, into: *mut u8, len_bytes: usize) {
    // SAFETY: passed on from the caller.
    unsafe { std::ptr::copy_nonoverlapping(from, into, len_bytes) }
}
