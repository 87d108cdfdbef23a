//! The CPU as a device: reduce, copy and scale over [`Span`]s.
//!
//! # How a reduction goes
//!
//! The elements are taken a block at a time, small enough for the first-level cache. Every operand is read once from
//! where it is, combined in registers, and written to the first output; the other outputs get the block while it is in
//! L1. Streaming, the block is a private one, so that what goes past the cache is whole lines whatever the element:
//!
//! ```text
//!   from[0]  ----[ b ]-----------\
//!   from[1]  ----[ b ]------------+--> registers --> block --+--> into[0]
//!   from[2]  ----[ b ]-----------/                           +--> into[1]
//! ```
//!
//! # The order
//!
//! Operands are combined along the canonical tree, whose left part is the largest power of two below their number:
//!
//! ```text
//!   n = 7      ((0 1) (2 3)) ((4 5) 6)
//! ```
//!
//! Up to 8 operands that is one loop with everything in registers; above, `combine` is the tree's own recursion, with
//! a block for each part. The small floats stay in f32 in between and are rounded once, at the end. With two operands
//! every operation commutes bit for bit, NaN included, so both ends of a link agree.
//!
//! An element's result does not depend on its position, on alignment or on the length of the call.
//!
//! # Files
//!
//! `format` how floats are read and written; `rule` and `order` what happens to one element; `kernel` and `change` the
//! loops over it; `isa` which instructions they are compiled for;
//! `store` how results are written; `copying` the copy; [`convert`] the small floats; [`mod@reference`] the definition of
//! it all.

mod change;
pub mod convert;
mod copying;
mod format;
mod isa;
mod kernel;
mod order;
pub mod reference;
mod rule;
mod store;
#[cfg(test)]
mod tests;

use std::mem::MaybeUninit;

pub use isa::Isa;
use kernel::Kernel;
pub use store::Store;

use crate::memory::Span;
use crate::types::{DType, ReduceOp};

/// What is combined, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fold {
    dtype: DType,
    op: ReduceOp,
    world: u32,
}

impl Fold {
    /// `op` over elements of `dtype` between `world` ranks. A pre-multiplied sum is a sum here: [`scale`] comes before.
    ///
    /// Panics where the op is not defined on the type, or without a rank: arguments were checked when the call came in.
    pub fn new(dtype: DType, op: ReduceOp, world: u32) -> Fold {
        assert!(op.accepts(dtype), "{op} of {dtype}");
        assert!(world > 0, "a reduction between no ranks");
        Fold { dtype, op, world }
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The operation.
    pub fn op(&self) -> ReduceOp {
        self.op
    }

    /// The number of ranks, by which an average divides.
    pub fn world(&self) -> u32 {
        self.world
    }

    /// What the sum is divided by, where it is.
    fn divisor(&self, finish: bool) -> Option<u32> {
        (finish && self.op == ReduceOp::Avg).then_some(self.world)
    }
}

/// Combines the elements of `from`, in the canonical order, and stores the result in every span of `into`.
///
/// All spans have the same length, a multiple of the element's; alignment is free. An output may be exactly one of the
/// inputs, else they do not overlap. `finish` says that the result holds every rank's contribution: an average divides
/// then. A single operand that is not divided is copied, bit for bit.
pub fn reduce(fold: &Fold, finish: bool, from: &[Span], into: &[Span], store: Store) {
    reduce_with(Isa::chosen(), fold, finish, from, into, store);
}

/// Copies `from` to every span of `into`, reading it once. All have the same length; an output may be exactly `from`,
/// else they do not overlap.
pub fn copy(from: Span, into: &[Span], store: Store) {
    check(&[from], into);
    if let (&[into], Store::Cached) = (into, store) {
        if into.overlaps(from) {
            // Itself, if the caller keeps the contract; whatever it is, `copy_from` allows it.
            return into.copy_from(from);
        }
        // SAFETY: of one length (checked above), and apart.
        return unsafe { copying::copy(from.as_ptr(), into.as_ptr(), from.len()) };
    }
    // A whole number of lines and pages, well inside L1.
    const STEP: usize = 8192;
    for start in (0..from.len()).step_by(STEP) {
        let len_bytes = STEP.min(from.len() - start);
        for &into in into.iter().filter(|&&into| into != from) {
            // SAFETY: inside both spans, which are of one length and do not overlap (checked above).
            unsafe { store.put(from.as_ptr().add(start), into.as_ptr().add(start), len_bytes) }
        }
    }
    store.finish();
}

/// Multiplies every element of `from` by the factor whose bits are given ([`Scalar`](crate::Scalar)) into `into`: what
/// each rank does to its input before a pre-multiplied sum. Small floats compute in f32; integers wrap. Lengths and
/// overlap as in [`reduce`].
pub fn scale(dtype: DType, scalar_bits: u64, from: Span, into: Span) {
    scale_with(Isa::chosen(), dtype, scalar_bits, from, into);
}

fn scale_with(isa: Isa, dtype: DType, scalar_bits: u64, from: Span, into: Span) {
    check(&[from], &[into]);
    let change = change::scale(isa, dtype);
    let size = dtype.size_bytes();
    let mut block = Block::new();
    for_blocks(dtype, size, into, Store::Cached, |start, len| {
        // SAFETY: `for_blocks` keeps within the spans, which have one length (checked above); a block has room for
        // `len` elements; `isa` is available.
        unsafe {
            change(from.as_ptr().add(start), block.start(), len, scalar_bits);
            Store::Cached.put(block.start(), into.as_ptr().add(start), len * size);
        }
    });
}

/// [`reduce`] with the instructions of an available `isa`.
fn reduce_with(isa: Isa, fold: &Fold, finish: bool, from: &[Span], into: &[Span], store: Store) {
    let divisor = fold.divisor(finish);
    if let (&[from], None) = (from, divisor) {
        return copy(from, into, store);
    }
    check(from, into);
    let Some(&first) = into.first() else { return };
    let kernel = Kernel::of(isa, fold.dtype, fold.op);
    let size = fold.dtype.size_bytes();
    let mut block = Block::new();
    for_blocks(fold.dtype, kernel.wide_bytes, first, store, |start, len| {
        // SAFETY: `for_blocks` keeps within the spans, which have one length (checked above); a block has room for
        // `len` elements even when they are wide; `isa` is available.
        unsafe {
            // Through the cache, the first output serves as the block.
            let (result, others) = match store {
                Store::Cached => (first.as_ptr().add(start), &into[1..]),
                Store::Streaming => (block.start(), into),
            };
            match divisor {
                None => combine(kernel, from, start, result, len, Width::Narrow),
                Some(world) => {
                    let mut sum = Block::new();
                    combine(kernel, from, start, sum.start(), len, Width::Wide);
                    (kernel.divide)(sum.start(), result, len, u64::from(world));
                }
            }
            for into in others {
                store.put(result, into.as_ptr().add(start), len * size);
            }
        }
    });
    store.finish();
}

/// How a combination is written down: as elements, or as partial results that more will be added to.
#[derive(Clone, Copy)]
enum Width {
    Narrow,
    Wide,
}

/// The canonical tree over `from`, for the `len` elements at `start` (in bytes).
///
/// # Safety
/// The kernel's instruction set is there; each of `from` has `len` elements at `start`; `len` wide ones fit in a block.
unsafe fn combine(kernel: &Kernel, from: &[Span], start: usize, into: *mut u8, len: usize, width: Width) {
    // SAFETY: operands are readable and blocks writable for `len` elements, and a block of ours overlaps nothing.
    unsafe {
        let loop_ = match width {
            Width::Narrow => kernel.narrow_from_narrow,
            Width::Wide => kernel.wide_from_narrow,
        };
        let operand = |k: usize| from[k].as_ptr().add(start).cast_const();
        match from.len() {
            1 => return loop_(&[operand(0)], into, len),
            2 => return loop_(&[operand(0), operand(1)], into, len),
            3 => return loop_(&[0, 1, 2].map(operand), into, len),
            4 => return loop_(&[0, 1, 2, 3].map(operand), into, len),
            8 => return loop_(&[0, 1, 2, 3, 4, 5, 6, 7].map(operand), into, len),
            _ => {}
        }
        let (front, back) = from.split_at(from.len().next_power_of_two() / 2);
        let (mut left, mut right) = (Block::new(), Block::new());
        combine(kernel, front, start, left.start(), len, Width::Wide);
        combine(kernel, back, start, right.start(), len, Width::Wide);
        let loop_ = match width {
            Width::Narrow => kernel.narrow_from_wide,
            Width::Wide => kernel.wide_from_wide,
        };
        loop_(&[left.start(), right.start()], into, len)
    }
}

/// Private memory for a block's worth of (partial) results.
#[repr(align(64))]
struct Block(MaybeUninit<[u8; Block::LEN_BYTES]>);

impl Block {
    /// A page: long enough that calls and loop ends do not show, and a dozen of them still fit in L1.
    const LEN_BYTES: usize = 4096;

    fn new() -> Block {
        Block(MaybeUninit::uninit())
    }

    fn start(&mut self) -> *mut u8 {
        self.0.as_mut_ptr().cast()
    }
}

/// Calls `body(start in bytes, length in elements)` for the successive blocks of `into`. When streaming, the first one
/// is cut short so that the others begin at the beginning of a line.
fn for_blocks(dtype: DType, wide_bytes: usize, into: Span, store: Store, mut body: impl FnMut(usize, usize)) {
    let size = dtype.size_bytes();
    assert_eq!(into.len() % size, 0, "{into:?} in whole elements of {dtype}");
    let full = Block::LEN_BYTES / wide_bytes;
    let mut len = match store {
        Store::Cached => full,
        Store::Streaming => full - into.addr() % 64 / size,
    };
    let mut start = 0;
    while start < into.len() {
        len = len.min((into.len() - start) / size);
        body(start, len);
        start += len * size;
        len = full;
    }
}

/// The caller's part of the contract, as far as it is cheap to look at.
fn check(from: &[Span], into: &[Span]) {
    let first = from.first().expect("a reduction has operands");
    for span in from.iter().chain(into) {
        assert_eq!(span.len(), first.len(), "spans of one call differ in length: {span:?}, {first:?}");
    }
    for (i, into_i) in into.iter().enumerate() {
        debug_assert!(
            from.iter().all(|from| from == into_i || !from.overlaps(*into_i)),
            "output {into_i:?} overlaps an input"
        );
        debug_assert!(into[..i].iter().all(|other| !other.overlaps(*into_i)), "output {into_i:?} overlaps another");
    }
}
