//! The loops: every [`Rule`] over any number of elements, one table of them per element type and operation, one set of
//! tables per instruction set.
//!
//! An output may be one of the operands, which keeps a compiler from vectorising a loop that stores as it goes. So the
//! loops go in *chunks* of a few registers: all of a chunk is read and combined before any of it is stored. The compiler
//! sees that the chunk is private, makes it vector registers, and no byte of it touches memory.

use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Range;

use super::change::{Change, Divide, divide};
use super::format::{Bf16, E4m3, E5m2, F16, Float, InWord};
use super::isa::{Isa, Portable, Set, Task};
use super::order::{BitsOfF32, BitsOfF64, Extreme, Ordered};
use super::rule::{
    And, Bitwise, Half, Integer, Or, Packed, Plus, Ring, RingOp, Rounding, Rule, Times, Wrapping, Xor, tree,
};
use crate::types::{DType, ReduceOp};

/// Combines `len` elements of 1, 2, 3, 4 or 8 operands; any alignment.
///
/// # Safety
/// The machine has the instruction set that the loop came from; the operands are readable and `into` is writable for
/// `len` elements; `into` is one of the operands or disjoint from all.
pub(super) type Combine = unsafe fn(from: &[*const u8], into: *mut u8, len: usize);

/// The loops of one element type and one operation. Partial results are kept `wide`: in f32 for the floats that are
/// smaller than that, else as the elements themselves.
pub(super) struct Kernel {
    /// Bytes of a partial result.
    pub wide_bytes: usize,
    /// Operands into a result: the whole reduction, when it has few operands.
    pub narrow_from_narrow: Combine,
    /// Operands into a partial result.
    pub wide_from_narrow: Combine,
    /// Two partial results into one.
    pub wide_from_wide: Combine,
    /// The last two partial results into a result.
    pub narrow_from_wide: Combine,
    /// The quotient of a partial result and a number of ranks, rounded into a result.
    pub divide: Change,
}

impl Kernel {
    /// The loops for this combination, in the instructions of `isa`, which this machine has.
    pub fn of(isa: Isa, dtype: DType, op: ReduceOp) -> &'static Kernel {
        match isa {
            Isa::Portable => kernel::<Portable>(dtype, op),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => kernel::<super::isa::Avx2>(dtype, op),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => kernel::<super::isa::Avx512>(dtype, op),
            #[cfg(not(target_arch = "x86_64"))]
            Isa::Avx2 | Isa::Avx512 => unreachable!("not available on this architecture"),
        }
    }
}

fn kernel<S: Set>(dtype: DType, op: ReduceOp) -> &'static Kernel {
    match dtype {
        DType::I8 => integer::<S, i8, u8>(op),
        DType::U8 => integer::<S, u8, u8>(op),
        DType::I32 => integer::<S, i32, u32>(op),
        DType::U32 => integer::<S, u32, u32>(op),
        DType::I64 => integer::<S, i64, u64>(op),
        DType::U64 => integer::<S, u64, u64>(op),
        DType::F32 => match op {
            ReduceOp::Min => plain::<S, f32, Extreme<true, BitsOfF32>>(),
            ReduceOp::Max => plain::<S, f32, Extreme<false, BitsOfF32>>(),
            ReduceOp::Prod => plain::<S, f32, Rounding<Times, f32, f32>>(),
            _ => plain::<S, f32, Rounding<Plus, f32, f32>>(),
        },
        DType::F64 => match op {
            ReduceOp::Min => plain::<S, f64, Extreme<true, BitsOfF64>>(),
            ReduceOp::Max => plain::<S, f64, Extreme<false, BitsOfF64>>(),
            ReduceOp::Prod => plain::<S, f64, Rounding<Times, f64, f64>>(),
            _ => plain::<S, f64, Rounding<Plus, f64, f64>>(),
        },
        DType::F16 => match op {
            ReduceOp::Min => plain::<S, F16, Extreme<true, F16>>(),
            ReduceOp::Max => plain::<S, F16, Extreme<false, F16>>(),
            ReduceOp::Prod => half::<S, Times>(),
            _ => half::<S, Plus>(),
        },
        DType::Bf16 => small::<S, Bf16>(op),
        DType::F8E4M3 => small::<S, E4m3>(op),
        DType::F8E5M2 => small::<S, E5m2>(op),
    }
}

/// Integers `T`; what does not depend on the sign is done, and compiled, once for both, as the unsigned `U`.
fn integer<S: Set, T, U>(op: ReduceOp) -> &'static Kernel
where
    T: Ordered<Bits = T> + Divide,
    U: Ring + Integer,
{
    match op {
        ReduceOp::Min => plain::<S, T, Extreme<true, T>>(),
        ReduceOp::Max => plain::<S, T, Extreme<false, T>>(),
        ReduceOp::Prod => plain::<S, T, Wrapping<Times, U>>(),
        ReduceOp::BitAnd => plain::<S, T, Bitwise<And, U>>(),
        ReduceOp::BitOr => plain::<S, T, Bitwise<Or, U>>(),
        ReduceOp::BitXor => plain::<S, T, Bitwise<Xor, U>>(),
        ReduceOp::Sum | ReduceOp::Avg | ReduceOp::PreMulSum(_) => plain::<S, T, Wrapping<Plus, U>>(),
    }
}

/// Floats below f32, all but f16.
fn small<S: Set, F>(op: ReduceOp) -> &'static Kernel
where
    F: Float<Bits: InWord, Real = f32> + Ordered + Divide,
{
    match op {
        ReduceOp::Min => plain::<S, F, Extreme<true, F>>(),
        ReduceOp::Max => plain::<S, F, Extreme<false, F>>(),
        ReduceOp::Prod => {
            wide::<S, F, Packed<Times, F>, Rounding<Times, F, f32>, Rounding<Times, f32, f32>, Rounding<Times, f32, F>>(
            )
        }
        _ => wide::<S, F, Packed<Plus, F>, Rounding<Plus, F, f32>, Rounding<Plus, f32, f32>, Rounding<Plus, f32, F>>(),
    }
}

/// Sum or product of f16.
fn half<S: Set, O: RingOp>() -> &'static Kernel {
    wide::<S, F16, Half<O, F16, F16>, Half<O, F16, f32>, Rounding<O, f32, f32>, Half<O, f32, F16>>()
}

/// A kernel whose partial results are elements.
fn plain<S: Set, D: Divide, R: Rule>() -> &'static Kernel {
    wide::<S, D, R, R, R, R>()
}

/// A kernel from its four rules: narrow from narrow, wide from narrow, wide from wide, narrow from wide.
fn wide<S: Set, D: Divide, NN: Rule, WN: Rule, WW: Rule, NW: Rule>() -> &'static Kernel {
    const {
        &Kernel {
            wide_bytes: size_of::<WW::Out>(),
            narrow_from_narrow: combine::<S, NN>,
            wide_from_narrow: combine::<S, WN>,
            wide_from_wide: pair::<S, WW>,
            narrow_from_wide: pair::<S, NW>,
            divide: divide::<S, D>,
        }
    }
}

/// A [`Combine`].
unsafe fn combine<S: Set, R: Rule>(from: &[*const u8], into: *mut u8, len: usize) {
    // SAFETY: passed on from the caller of the `Combine`.
    unsafe {
        match from.len() {
            1 => joined::<S, R, 1>(from, into, len),
            2 => joined::<S, R, 2>(from, into, len),
            3 => joined::<S, R, 3>(from, into, len),
            4 => joined::<S, R, 4>(from, into, len),
            8 => joined::<S, R, 8>(from, into, len),
            n => unreachable!("no loop over {n} operands at once"),
        }
    }
}

/// A [`Combine`] of two.
unsafe fn pair<S: Set, R: Rule>(from: &[*const u8], into: *mut u8, len: usize) {
    // SAFETY: passed on from the caller of the `Combine`.
    unsafe { joined::<S, R, 2>(from, into, len) }
}

/// A [`Combine`] of `N`.
unsafe fn joined<S: Set, R: Rule, const N: usize>(from: &[*const u8], into: *mut u8, len: usize) {
    let from = std::array::from_fn::<_, N, _>(|k| from[k].cast::<R::In>());
    // SAFETY: passed on from the caller of the `Combine`.
    unsafe { S::enter(Joined::<R, N> { from, into: into.cast(), len }) }
}

/// The loop that everything here is about.
struct Joined<R: Rule, const N: usize> {
    from: [*const R::In; N],
    into: *mut R::Out,
    len: usize,
}

impl<R: Rule, const N: usize> Task for Joined<R, N> {
    #[inline(always)]
    unsafe fn run<S: Set>(self) {
        let Joined { from, into, len } = self;
        // SAFETY: the pointers are good for `len` elements and the machine has `S`, says the caller of the `Combine`.
        let done = unsafe { R::head::<S, N>(from, into, len) };
        let mut i = done;
        while i + R::CHUNK <= len {
            let mut chunk = Chunk::<R>::new();
            for k in 0..R::CHUNK {
                // SAFETY: `i + k < len`, and the operands are good for `len`.
                chunk.set(k, unsafe { element::<R, N>(&from, i + k) });
            }
            // SAFETY: `CHUNK` elements from `i` on are inside `len`; all of them were just set.
            unsafe { into.add(i).cast::<u8>().copy_from_nonoverlapping(chunk.start(), R::CHUNK * size_of::<R::Out>()) }
            i += R::CHUNK;
        }
        if i < len {
            // SAFETY: what is left of what the caller vouches for.
            unsafe { rest::<R, N>(&from, into, i..len) }
        }
    }
}

/// Element `i` of the result.
#[inline(always)]
unsafe fn element<R: Rule, const N: usize>(from: &[*const R::In; N], i: usize) -> R::Out {
    // SAFETY: the operands are readable there, says the caller.
    R::store(tree(from.map(|operand| R::load(unsafe { operand.add(i).read_unaligned() })), R::join))
}

/// The elements that do not fill a chunk; compiled once, for every instruction set.
#[inline(never)]
unsafe fn rest<R: Rule, const N: usize>(from: &[*const R::In; N], into: *mut R::Out, range: Range<usize>) {
    for i in range {
        // SAFETY: readable and writable there, says the caller.
        unsafe { into.add(i).write_unaligned(element::<R, N>(from, i)) }
    }
}

/// A few registers' worth of results.
#[repr(align(64))]
struct Chunk<R: Rule>(MaybeUninit<[u8; CHUNK_BYTES]>, PhantomData<R>);

/// Two registers of AVX-512, four of AVX2.
pub(super) const CHUNK_BYTES: usize = 128;

impl<R: Rule> Chunk<R> {
    #[inline(always)]
    fn new() -> Self {
        Chunk(MaybeUninit::uninit(), PhantomData)
    }

    #[inline(always)]
    fn set(&mut self, k: usize, result: R::Out) {
        debug_assert!(k < R::CHUNK);
        // SAFETY: inside the chunk, which holds `CHUNK` results and is aligned for any.
        unsafe { self.0.as_mut_ptr().cast::<R::Out>().add(k).write(result) }
    }

    #[inline(always)]
    fn start(&self) -> *const u8 {
        self.0.as_ptr().cast()
    }
}
