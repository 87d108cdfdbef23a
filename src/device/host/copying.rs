//! Copying, in a loop of our own.
//!
//! The C library's `memcpy` switches to `rep movsb` somewhere between 2 KiB and the size of a cache. On several generations
//! of processors that instruction is a few times slower when source and destination lie almost alike within their pages
//! (glibc bug 30994), and just that is the rule here: staging memory begins on a page, and what `malloc` gives for a large
//! vector begins 16 bytes into one. Plain loads and stores do not mind.

use super::isa::{Isa, Portable, Set, Task};

/// Below this the call costs more than the choice of instructions can save.
const SMALL_BYTES: usize = 1024;

/// Copies `len_bytes` from `from` to `into`, through the cache.
///
/// # Safety
/// Readable there, writable here, no overlap.
#[inline]
pub(super) unsafe fn copy(from: *const u8, into: *mut u8, len_bytes: usize) {
    // SAFETY: passed on from the caller; a chosen instruction set is available.
    unsafe {
        if len_bytes < SMALL_BYTES {
            return std::ptr::copy_nonoverlapping(from, into, len_bytes);
        }
        let copied = Copied { from, into, len_bytes };
        match Isa::chosen() {
            Isa::Portable => Portable::enter(copied),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => super::isa::Avx2::enter(copied),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => super::isa::Avx512::enter(copied),
            #[cfg(not(target_arch = "x86_64"))]
            Isa::Avx2 | Isa::Avx512 => unreachable!("not available on this architecture"),
        }
    }
}

/// The loop.
struct Copied {
    from: *const u8,
    into: *mut u8,
    /// At least [`SMALL_BYTES`].
    len_bytes: usize,
}

/// What one load and one store move. Several of them make one turn of the loop: single ones the compiler would take for
/// a `memcpy`, and call it.
type Part = [u64; 4];
const PARTS: usize = 4;
const TURN_BYTES: usize = PARTS * size_of::<Part>();

impl Task for Copied {
    #[inline(always)]
    unsafe fn run<S: Set>(self) {
        let Copied { from, into, len_bytes } = self;
        // SAFETY: every turn lies inside `len_bytes`, which the caller vouches for: the first starts at 0, the last ends
        // at the end, and those of the loop start before the last. Turns may copy the same bytes twice, which is harmless.
        unsafe {
            turn(from, into);
            let last = len_bytes - TURN_BYTES;
            // Whole lines of the destination; a load may straddle two lines at less cost than a store.
            let mut at = into.align_offset(64).min(TURN_BYTES);
            while at < last {
                turn(from.add(at), into.add(at));
                at += TURN_BYTES;
            }
            turn(from.add(last), into.add(last));
        }
    }
}

/// # Safety
/// [`TURN_BYTES`] are readable at `from` and writable at `into`.
#[inline(always)]
unsafe fn turn(from: *const u8, into: *mut u8) {
    let (from, into) = (from.cast::<Part>(), into.cast::<Part>());
    let mut parts = [[0; 4]; PARTS];
    for (k, part) in parts.iter_mut().enumerate() {
        // SAFETY: says the caller.
        *part = unsafe { from.add(k).read_unaligned() };
    }
    for (k, part) in parts.into_iter().enumerate() {
        // SAFETY: says the caller.
        unsafe { into.add(k).write_unaligned(part) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_arrives_and_none_beside_it() {
        let source: Vec<u8> = (0..20_000u32).map(|i| (i * 7 + i / 251) as u8).collect();
        for len in (0..=1300).chain([2047, 2048, 2049, 4096, 8191, 16_000]) {
            for (skip, offset) in [(0, 0), (16, 0), (0, 16), (3, 61), (64, 1)] {
                let mut target = vec![0xAA; len + 200];
                // SAFETY: `skip + len` bytes are in the source, `offset + len` in the target, and the two are apart.
                unsafe { copy(source.as_ptr().add(skip), target.as_mut_ptr().add(offset), len) }
                assert_eq!(target[offset..offset + len], source[skip..skip + len], "{len} bytes");
                assert!(target[..offset].iter().chain(&target[offset + len..]).all(|&byte| byte == 0xAA));
            }
        }
    }
}
