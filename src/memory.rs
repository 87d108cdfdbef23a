//! A piece of memory that somebody else may touch too: [`Span`].
//!
//! Collectives work on memory that peers read and write at the same time (shared segments, buffers of other threads),
//! so no Rust reference to it may exist while a call runs. A `Span` is a checked pointer and length: making one is
//! `unsafe` and states the facts once; cutting and copying are safe, bounds-checked, and never form a reference.
//! This is vm-memory's `VolatileSlice` with the volatile replaced by our own ordering: which rank may touch which bytes
//! when is what the schedule checker proves.

use nix::errno::Errno;
use std::os::fd::{AsRawFd, BorrowedFd};

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
    #[inline]
    pub const fn as_ptr(self) -> *mut u8 {
        self.start
    }

    /// Length in bytes.
    #[inline]
    pub const fn len(self) -> usize {
        self.len_bytes
    }

    /// True when there is nothing in it.
    #[inline]
    pub const fn is_empty(self) -> bool {
        self.len_bytes == 0
    }

    /// Address of the first byte, to compare and to print.
    #[inline]
    pub fn addr(self) -> usize {
        self.start as usize
    }

    /// The `len_bytes` bytes from `offset_bytes` on. Panics when that is not inside: a bug of ours, never of the caller,
    /// whose counts were checked on entry.
    #[inline]
    pub fn cut(self, offset_bytes: usize, len_bytes: usize) -> Span {
        if offset_bytes > self.len_bytes || len_bytes > self.len_bytes - offset_bytes {
            self.refuse_cut(offset_bytes, len_bytes);
        }
        // SAFETY: the offset is inside the range that `new` was promised (asserted above).
        Span { start: unsafe { self.start.add(offset_bytes) }, len_bytes }
    }

    /// Out of the way of those who cut rightly.
    #[cold]
    #[inline(never)]
    fn refuse_cut(self, offset_bytes: usize, len_bytes: usize) -> ! {
        panic!("cut {offset_bytes}+{len_bytes} of {self:?}")
    }

    /// Everything from `offset_bytes` on.
    #[inline]
    pub fn from(self, offset_bytes: usize) -> Span {
        self.cut(offset_bytes, self.len_bytes - offset_bytes)
    }

    /// True when the two share a byte.
    #[inline]
    pub fn overlaps(self, other: Span) -> bool {
        !self.is_empty()
            && !other.is_empty()
            && self.addr() < other.addr() + other.len_bytes
            && other.addr() < self.addr() + self.len_bytes
    }

    /// The memory as elements, for whoever owns it alone.
    ///
    /// # Safety
    /// The span is aligned for `T` and holds valid values (any bytes are); nobody else writes it while the slice lives,
    /// and the memory stays mapped that long.
    pub(crate) unsafe fn as_slice<'a, T: bytemuck::Pod>(self) -> &'a [T] {
        // SAFETY: promised by the caller; the length is cut to whole elements.
        unsafe { std::slice::from_raw_parts(self.start.cast(), self.len_bytes / size_of::<T>()) }
    }

    /// [`Span::as_slice`], exclusively.
    ///
    /// # Safety
    /// As for `as_slice`, and nobody else reads or writes it while the slice lives.
    pub(crate) unsafe fn as_mut_slice<'a, T: bytemuck::Pod>(self) -> &'a mut [T] {
        // SAFETY: promised by the caller; the length is cut to whole elements.
        unsafe { std::slice::from_raw_parts_mut(self.start.cast(), self.len_bytes / size_of::<T>()) }
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
    #[inline]
    pub fn write(self, bytes: &[u8]) {
        let target = self.cut(0, bytes.len());
        // SAFETY: `target` has the length of `bytes` (cut above) and is writable (promised to `new`); a live `&[u8]`
        // cannot overlap memory that `new` was told no reference covers.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), target.start, bytes.len()) }
    }

    /// Copies a value to the front.
    #[inline]
    pub fn write_value<T: bytemuck::Pod>(self, value: &T) {
        let target = self.cut(0, size_of::<T>());
        // SAFETY: `target` has the length of `T` (cut above) and is writable (promised to `new`); any alignment will do.
        unsafe { target.start.cast::<T>().write_unaligned(*value) }
    }

    /// The value at the front.
    #[inline]
    pub fn read_value<T: bytemuck::Pod>(self) -> T {
        let source = self.cut(0, size_of::<T>());
        // SAFETY: `source` has the length of `T` (cut above) and is readable (promised to `new`); any bytes make a `T`, and
        // any alignment will do.
        unsafe { source.start.cast::<T>().read_unaligned() }
    }

    /// Sends as many leading bytes as the socket takes now. Never blocks (`EAGAIN`), raises no `SIGPIPE`.
    pub fn write_to_fd(self, fd: BorrowedFd<'_>) -> nix::Result<usize> {
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: the range is mapped and readable (promised to `new`); the kernel only reads it.
        let sent = unsafe { libc::send(fd.as_raw_fd(), self.start.cast(), self.len_bytes, flags) };
        Errno::result(sent).map(|sent| sent as usize)
    }

    /// [`Span::write_to_fd`] of this span and then of `after`, in one system call.
    pub fn write_two_to_fd(self, after: Span, fd: BorrowedFd<'_>) -> nix::Result<usize> {
        let mut parts = [self.as_iovec(), after.as_iovec()];
        let message = message_of(&mut parts);
        // SAFETY: `message` points to `parts`, alive here; both ranges are mapped and readable (promised to `new`).
        let sent = unsafe { libc::sendmsg(fd.as_raw_fd(), &message, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) };
        Errno::result(sent).map(|sent| sent as usize)
    }

    /// Fills as much of the front as the socket has now. Never blocks (`EAGAIN`); 0 when the peer has finished.
    pub fn read_from_fd(self, fd: BorrowedFd<'_>) -> nix::Result<usize> {
        // SAFETY: the range is mapped and writable (promised to `new`), and the kernel writes no more than its length.
        let got = unsafe { libc::recv(fd.as_raw_fd(), self.start.cast(), self.len_bytes, libc::MSG_DONTWAIT) };
        Errno::result(got).map(|got| got as usize)
    }

    /// [`Span::read_from_fd`] into this span, and what does not fit into `after`, in one system call.
    pub fn read_two_from_fd(self, after: Span, fd: BorrowedFd<'_>) -> nix::Result<usize> {
        let mut parts = [self.as_iovec(), after.as_iovec()];
        let mut message = message_of(&mut parts);
        // SAFETY: `message` points to `parts`, alive here; both ranges are mapped and writable (promised to `new`), and
        // the kernel writes no more than their lengths.
        let got = unsafe { libc::recvmsg(fd.as_raw_fd(), &mut message, libc::MSG_DONTWAIT) };
        Errno::result(got).map(|got| got as usize)
    }

    fn as_iovec(self) -> libc::iovec {
        libc::iovec { iov_base: self.start.cast(), iov_len: self.len_bytes }
    }

    /// Copies the front of the span into `bytes`.
    #[inline]
    pub fn read(self, bytes: &mut [u8]) {
        let source = self.cut(0, bytes.len());
        // SAFETY: `source` has the length of `bytes` (cut above) and is readable (promised to `new`).
        unsafe { std::ptr::copy_nonoverlapping(source.start, bytes.as_mut_ptr(), bytes.len()) }
    }
}

/// Names a slice that its owner has lent to a call: the caller of this function keeps the borrow until the call that
/// uses the span has ended, on every path.
pub(crate) fn lend<T: bytemuck::Pod>(slice: &[T]) -> Span {
    // SAFETY: the slice is mapped and initialised, the borrow outlives the span's use (above), and spans of inputs are
    // only read: `engine::call` tells inputs from outputs and the schedule checker proves that inputs are not written.
    unsafe { Span::new(slice.as_ptr().cast_mut().cast(), size_of_val(slice)) }
}

/// [`lend`], for memory that the call writes.
pub(crate) fn lend_mut<T: bytemuck::Pod>(slice: &mut [T]) -> Span {
    // SAFETY: as in `lend`; the borrow is exclusive, so nothing else refers to the memory while the call writes it.
    unsafe { Span::new(slice.as_mut_ptr().cast(), size_of_val(slice)) }
}

fn message_of(parts: &mut [libc::iovec; 2]) -> libc::msghdr {
    // SAFETY: `msghdr` is integers and pointers, for which zero is a value: no address, no control data.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = parts.as_mut_ptr();
    message.msg_iovlen = parts.len() as _;
    message
}

/// Zeroed memory on the heap, eight-byte aligned, that spans may name: what a transport gathers and scatters in.
/// Pages that are never touched cost nothing.
pub(crate) struct Block {
    words: *mut [u64],
}

// SAFETY: a block owns its memory and offers nothing but its address range, as `Span` does.
unsafe impl Send for Block {}
// SAFETY: as above; `&Block` offers nothing else either.
unsafe impl Sync for Block {}

impl Block {
    /// `len_bytes` zero bytes; a multiple of eight.
    pub(crate) fn new(len_bytes: usize) -> Block {
        assert_eq!(len_bytes % 8, 0, "a block is made of eight-byte words");
        Block { words: Box::into_raw(vec![0u64; len_bytes / 8].into_boxed_slice()) }
    }

    /// All of it. Whoever keeps the span past the block's life has broken the promise that `Span` stands for: the ends
    /// of a link hand out such spans only until their own next call.
    pub(crate) fn span(&self) -> Span {
        Span { start: self.words.cast(), len_bytes: self.words.len() * 8 }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: `words` came from `Box::into_raw` in `new` and is given back only here.
        drop(unsafe { Box::from_raw(self.words) });
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
    use super::{Block, test_span as span_of};
    use nix::errno::Errno;

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
    fn two_spans_cross_a_socket_in_one_call_and_an_empty_socket_says_so() {
        use std::os::fd::AsFd;
        let (left, right) = std::os::unix::net::UnixStream::pair().unwrap();
        let block = Block::new(16);
        let all = block.span();
        all.write(b"abcdefgh");
        assert_eq!(all.cut(4, 4).write_two_to_fd(all.cut(0, 4), left.as_fd()), Ok(8));
        assert_eq!(all.cut(8, 3).read_two_from_fd(all.cut(11, 5), right.as_fd()), Ok(8));
        let mut back = [0; 8];
        all.from(8).read(&mut back);
        assert_eq!(&back, b"efghabcd");
        assert_eq!(all.read_from_fd(right.as_fd()), Err(Errno::EAGAIN));
        assert_eq!(all.cut(0, 2).write_to_fd(left.as_fd()), Ok(2));
        assert_eq!(all.read_from_fd(right.as_fd()), Ok(2));
        drop(left);
        assert_eq!(all.read_from_fd(right.as_fd()), Ok(0));
        assert_eq!(all.write_to_fd(right.as_fd()), Err(Errno::EPIPE));
    }

    #[test]
    #[should_panic(expected = "cut")]
    fn cut_outside_panics() {
        let mut bytes = vec![0u8; 4];
        span_of(&mut bytes).cut(2, usize::MAX);
    }
}
