//! Where buffers begin within a page, so that the copies in and out of a socket are fast.
//!
//! `rep movsb`, with which kernels copy, is slow on common processors (Zen 3 and 4: 3 GB/s instead of 50) when the target
//! begins 1 to 31 bytes further into its page than the source. Large allocations begin 16 bytes into a page, and a socket's
//! own pages begin at 0, at every write that finds the last page consumed: so without care it is no accident but the
//! rule, at the receiver of bytes sent within a host.
//!
//! ```text
//!                     caller's memory     socket's page     caller's memory, or our queue
//!   offset in page          16       ->        0        ->      16: slow         (2048: fast)
//!                          2048      ->        0        ->     2048: fast
//! ```
//!
//! So what is ours begins in the middle of a page, and a large write ends where the next one will begin there. What is copied
//! from there on its way, into a record, begins at a quarter. Nothing depends on it but speed.
#![forbid(unsafe_code)]

use crate::memory::Span;

/// The smallest page there is; offsets count modulo this.
pub const PAGE_BYTES: usize = 4096;
/// As far as can be from where sockets and allocations begin.
const MIDDLE: usize = PAGE_BYTES / 2;
/// As far as can be from those and from the middle.
const QUARTER: usize = PAGE_BYTES / 4;

/// Bytes to skip from `addr` to the next middle of a page.
pub fn to_middle(addr: usize) -> usize {
    to(MIDDLE, addr)
}

fn to(begin: usize, addr: usize) -> usize {
    begin.wrapping_sub(addr) % PAGE_BYTES
}

/// The leading part of `span` to write at once: all of it, or about `burst_bytes`, which must be more than a page, up to
/// the middle of a page.
pub fn burst(span: Span, burst_bytes: usize) -> Span {
    if span.len() <= burst_bytes {
        return span;
    }
    let end = span.addr() + burst_bytes - PAGE_BYTES;
    span.cut(0, end + to_middle(end) - span.addr())
}

/// Bytes that begin at such a place in a page, as many as are asked for.
pub struct Room {
    begin: usize,
    bytes: Vec<u8>,
    skipped_bytes: usize,
    len_bytes: usize,
}

impl Room {
    /// For what comes from a socket.
    pub fn to_receive() -> Room {
        Room { begin: MIDDLE, bytes: Vec::new(), skipped_bytes: 0, len_bytes: 0 }
    }

    /// For what goes into a socket, and is copied here first.
    pub fn to_send() -> Room {
        Room { begin: QUARTER, ..Room::to_receive() }
    }

    /// Makes it shorter or longer; what is in it stays.
    pub fn resize(&mut self, len_bytes: usize) {
        if self.skipped_bytes + len_bytes > self.bytes.len() {
            let mut bytes = vec![0; len_bytes + PAGE_BYTES];
            let skipped_bytes = to(self.begin, bytes.as_ptr().addr());
            bytes[skipped_bytes..skipped_bytes + self.len_bytes].copy_from_slice(self);
            (self.bytes, self.skipped_bytes) = (bytes, skipped_bytes);
        }
        self.len_bytes = len_bytes;
    }
}

impl std::ops::Deref for Room {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.skipped_bytes..self.skipped_bytes + self.len_bytes]
    }
}

impl std::ops::DerefMut for Room {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.skipped_bytes..self.skipped_bytes + self.len_bytes]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_ends_in_the_middle_of_a_page_or_with_the_span() {
        let mut bytes = vec![0; 8 * PAGE_BYTES];
        let whole = crate::memory::test_span(&mut bytes);
        for skipped in 0..PAGE_BYTES {
            let span = whole.from(skipped);
            let first = burst(span, 4 * PAGE_BYTES);
            assert_eq!((first.addr() + first.len()) % PAGE_BYTES, MIDDLE);
            assert!(first.len() > 2 * PAGE_BYTES && first.len() <= 4 * PAGE_BYTES);
            let rest = span.from(span.len() - 4 * PAGE_BYTES);
            assert_eq!(burst(rest, 4 * PAGE_BYTES), rest);
        }
    }

    #[test]
    fn room_begins_where_it_should_and_keeps_its_bytes() {
        for (mut room, begin) in [(Room::to_receive(), MIDDLE), (Room::to_send(), QUARTER)] {
            room.resize(3);
            room.copy_from_slice(b"abc");
            for len_bytes in [5, 4, 10 * PAGE_BYTES, 3] {
                room.resize(len_bytes);
                assert_eq!((room.len(), &room[..3]), (len_bytes, &b"abc"[..]));
                assert_eq!(room.as_ptr().addr() % PAGE_BYTES, begin);
            }
        }
    }
}
