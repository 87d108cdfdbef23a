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
//! So what is ours begins in the middle of a page, and a large write ends where the next one will begin there. Nothing
//! depends on it but speed.
#![forbid(unsafe_code)]

use crate::memory::Span;

/// The smallest page there is; offsets count modulo this.
pub const PAGE_BYTES: usize = 4096;
/// As far as can be from where sockets and allocations begin.
const MIDDLE: usize = PAGE_BYTES / 2;

/// Bytes to skip from `addr` to the next middle of a page.
pub fn to_middle(addr: usize) -> usize {
    MIDDLE.wrapping_sub(addr) % PAGE_BYTES
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
}
