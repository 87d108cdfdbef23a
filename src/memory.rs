//! A piece of memory that somebody else may touch too: [`Span`].
//!
//! Collectives work on memory that peers read and write at the same time (shared segments, buffers of other threads),
//! so no Rust reference to it may exist while a call runs. A `Span` is a checked pointer and length: making one is
//! `unsafe` and states the facts once; cutting and copying are safe, bounds-checked, and never form a reference.
//! This is vm-memory's `VolatileSlice` with the volatile replaced by our own ordering: which rank may touch which bytes
//! when is what the schedule checker proves.

/// Pointer and length of memory that stays mapped while the span is in use.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Span {
    start: *mut u8,
    len_bytes: usize,
}

// SAFETY: a span is an address range, not an owner; what may be done with it from another thread was promised to
// `Span::new` and is ordered by the program that uses it.
unsafe impl Send for Span {}
// SAFETY: as above; `&Span` offers nothing that `Span` (which is Copy) does not.
unsafe impl Sync for Span {}

impl std::fmt::Debug for Span {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:p}+{}", self.start, self.len_bytes)
    }
}

impl Span {
    /// No bytes at all; valid for every use.
    pub const EMPTY: Span = Span { start: std::ptr::NonNull::<u64>::dangling().as_ptr().cast(), len_bytes: 0 };

    /// Names `len_bytes` bytes at `start`.
    ///
    /// # Safety
    /// Until the last use of this span and of everything cut from it: the range is mapped and readable; it is writable
    /// if anything writes through it; no `&` or `&mut` to it is used by Rust code meanwhile except as the borrow that
    /// this span stands for; accesses by other threads or processes are ordered by the caller's protocol.
    pub const unsafe fn new(start: *mut u8, len_bytes: usize) -> Span {
        Span { start, len_bytes }
    }

    /// First byte.
    pub const fn as_ptr(self) -> *mut u8 {
        self.start
    }

    /// Length in bytes.
    pub const fn len(self) -> usize {
        self.len_bytes
    }

    /// True when there is nothing in it.
    pub const fn is_empty(self) -> bool {
        self.len_bytes == 0
    }

    /// Address of the first byte, to compare and to print.
    pub fn addr(self) -> usize {
        self.start as usize
    }

    /// The `len_bytes` bytes from `offset_bytes` on. Panics when that is not inside: a bug of ours, never of the caller,
    /// whose counts were checked on entry.
    #[inline]
    pub fn cut(self, offset_bytes: usize, len_bytes: usize) -> Span {
        assert!(
            offset_bytes <= self.len_bytes && len_bytes <= self.len_bytes - offset_bytes,
            "cut {offset_bytes}+{len_bytes} of {self:?}"
        );
        // SAFETY: the offset is inside the range that `new` was promised (asserted above).
        Span { start: unsafe { self.start.add(offset_bytes) }, len_bytes }
    }

    /// Everything from `offset_bytes` on.
    #[inline]
    pub fn from(self, offset_bytes: usize) -> Span {
        self.cut(offset_bytes, self.len_bytes - offset_bytes)
    }

    /// True when the two share a byte.
    pub fn overlaps(self, other: Span) -> bool {
        !self.is_empty()
            && !other.is_empty()
            && self.addr() < other.addr() + other.len_bytes
            && other.addr() < self.addr() + self.len_bytes
    }

    /// Copies all bytes of `from` here; both have the same length, and may even overlap.
    #[inline]
    pub fn copy_from(self, from: Span) {
        assert_eq!(self.len_bytes, from.len_bytes, "copy of {from:?} into {self:?}");
        // SAFETY: both ranges are mapped, `self` is writable (promised to `new`), lengths are equal (asserted above);
        // `copy` allows overlap.
        unsafe { std::ptr::copy(from.start, self.start, self.len_bytes) }
    }

    /// Copies `bytes` to the front.
    pub fn write(self, bytes: &[u8]) {
        let target = self.cut(0, bytes.len());
        // SAFETY: `target` has the length of `bytes` (cut above) and is writable (promised to `new`); a live `&[u8]`
        // cannot overlap memory that `new` was told no reference covers.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), target.start, bytes.len()) }
    }

    /// Copies the front of the span into `bytes`.
    pub fn read(self, bytes: &mut [u8]) {
        let source = self.cut(0, bytes.len());
        // SAFETY: `source` has the length of `bytes` (cut above) and is readable (promised to `new`).
        unsafe { std::ptr::copy_nonoverlapping(source.start, bytes.as_mut_ptr(), bytes.len()) }
    }
}

/// A span over a test's own bytes. The test keeps them alive and leaves them alone while it uses the span.
#[cfg(test)]
pub(crate) fn test_span(bytes: &mut [u8]) -> Span {
    // SAFETY: the caller's vector outlives the span and is not touched through the slice meanwhile.
    unsafe { Span::new(bytes.as_mut_ptr(), bytes.len()) }
}

#[cfg(test)]
mod tests {
    use super::test_span as span_of;

    #[test]
    fn cut_write_read_round_trip() {
        let mut bytes = vec![0u8; 16];
        let span = span_of(&mut bytes);
        span.cut(4, 4).write(&[1, 2, 3, 4]);
        span.cut(8, 4).copy_from(span.cut(4, 4));
        let mut back = [0; 4];
        span.from(8).read(&mut back);
        assert_eq!(back, [1, 2, 3, 4]);
    }

    #[test]
    fn overlap_is_by_bytes_and_empty_never_overlaps() {
        let mut bytes = vec![0u8; 16];
        let span = span_of(&mut bytes);
        assert!(span.cut(0, 9).overlaps(span.cut(8, 8)));
        assert!(!span.cut(0, 8).overlaps(span.cut(8, 8)));
        assert!(!span.cut(4, 0).overlaps(span));
    }

    #[test]
    #[should_panic(expected = "cut")]
    fn cut_outside_panics() {
        let mut bytes = vec![0u8; 4];
        span_of(&mut bytes).cut(2, usize::MAX);
    }
}
