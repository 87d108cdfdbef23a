//! The loops: every [`Rule`] over any number of elements, one table of them per element type and operation, one set of
//! tables per instruction set.
//!
//! All of them write into a small private block that stays in the first-level cache. Nothing else can overlap it, so
//! the compiler is free to vectorise; the operands may be outputs as well, because a block is finished before any of it
//! is stored; and how it is then stored (where to, how often, past the cache or not) is no concern of the arithmetic.

use std::marker::PhantomData;
use std::mem::MaybeUninit;

use super::isa::{Isa, Portable, Set, Task};
use super::rule::{
    And, Bf16, BitsOfF32, BitsOfF64, Bitwise, E4m3, E5m2, Extreme, F16, Float, Half, Or, Plus, Ring, Rounding, Rule,
    Times, Wrapping, Xor, tree,
};
use crate::types::{DType, ReduceOp};

/// Combines `len` elements of 1, 2, 3, 4 or 8 operands at any alignment into an aligned block.
///
/// # Safety
/// The machine has the instruction set that the loop came from; the operands are readable and `into` is writable for
/// `len` elements, aligned, and disjoint from the operands.
pub(super) type Combine = unsafe fn(from: &[*const u8], into: *mut u8, len: usize);

/// Changes `len` elements at any alignment by a parameter, into an aligned block. Safety as [`Combine`].
pub(super) type Change = unsafe fn(from: *const u8, into: *mut u8, len: usize, by: u64);

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

/// Element times factor, for [`ReduceOp::PreMulSum`]; the parameter is the factor's bits.
pub(super) fn scale(isa: Isa, dtype: DType) -> Change {
    match isa {
        Isa::Portable => scale_in::<Portable>(dtype),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => scale_in::<super::isa::Avx2>(dtype),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => scale_in::<super::isa::Avx512>(dtype),
        #[cfg(not(target_arch = "x86_64"))]
        Isa::Avx2 | Isa::Avx512 => unreachable!("not available on this architecture"),
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
    T: super::rule::Ordered<Bits = T> + Divide,
    U: Ring + super::rule::Integer,
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
    F: Float<Real = f32> + super::rule::Ordered + Divide,
{
    match op {
        ReduceOp::Min => plain::<S, F, Extreme<true, F>>(),
        ReduceOp::Max => plain::<S, F, Extreme<false, F>>(),
        ReduceOp::Prod => wide::<
            S,
            F,
            Rounding<Times, F, F>,
            Rounding<Times, F, f32>,
            Rounding<Times, f32, f32>,
            Rounding<Times, f32, F>,
        >(),
        _ => {
            wide::<S, F, Rounding<Plus, F, F>, Rounding<Plus, F, f32>, Rounding<Plus, f32, f32>, Rounding<Plus, f32, F>>(
            )
        }
    }
}

/// Sum or product of f16.
fn half<S: Set, O: super::rule::RingOp>() -> &'static Kernel {
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
            wide_from_wide: combine::<S, WW>,
            narrow_from_wide: combine::<S, NW>,
            divide: divide::<S, D>,
        }
    }
}

/// A [`Combine`].
unsafe fn combine<S: Set, R: Rule>(from: &[*const u8], into: *mut u8, len: usize) {
    /// Its loop for one number of operands.
    unsafe fn fixed<S: Set, R: Rule, const N: usize>(from: &[*const u8], into: *mut u8, len: usize) {
        let from = std::array::from_fn::<_, N, _>(|k| from[k].cast::<R::In>());
        // SAFETY: passed on from the caller of the `Combine`.
        unsafe { S::enter(Joined::<R, N> { from, into: into.cast(), len }) }
    }
    // SAFETY: passed on from the caller of the `Combine`.
    unsafe {
        match from.len() {
            1 => fixed::<S, R, 1>(from, into, len),
            2 => fixed::<S, R, 2>(from, into, len),
            3 => fixed::<S, R, 3>(from, into, len),
            4 => fixed::<S, R, 4>(from, into, len),
            8 => fixed::<S, R, 8>(from, into, len),
            n => unreachable!("no loop over {n} operands at once"),
        }
    }
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
        let element = |i: usize| {
            // SAFETY: called with `i < len`, and the operands are good for `len`.
            let operands = from.map(|operand| R::load(unsafe { operand.add(i).read_unaligned() }));
            R::store(tree(operands, R::join))
        };
        let mut i = done;
        while i + R::CHUNK <= len {
            let mut chunk = Chunk::<R>::new();
            for k in 0..R::CHUNK {
                chunk.set(k, element(i + k));
            }
            // SAFETY: `CHUNK` elements from `i` on are inside `len`; all of them were just set.
            unsafe { into.add(i).cast::<u8>().copy_from_nonoverlapping(chunk.start(), R::CHUNK * size_of::<R::Out>()) }
            i += R::CHUNK;
        }
        for i in i..len {
            // SAFETY: as above.
            unsafe { into.add(i).write_unaligned(element(i)) }
        }
    }
}

/// A few registers' worth of results.
///
/// An operand may be the output as well, which keeps the compiler from vectorising a loop that stores as it goes. Here
/// it sees that all is read before anything is stored, and the chunk never leaves the registers.
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

/// A loop from one operand, by a function of its elements.
struct Mapped<A, B, F: Fn(A) -> B> {
    from: *const A,
    into: *mut B,
    len: usize,
    by: F,
}

impl<A: Copy, B, F: Fn(A) -> B> Task for Mapped<A, B, F> {
    #[inline(always)]
    unsafe fn run<S: Set>(self) {
        for i in 0..self.len {
            // SAFETY: `i < len`, and the pointers are good for `len`, says the caller of the `Change`.
            unsafe { self.into.add(i).write_unaligned((self.by)(self.from.add(i).read_unaligned())) }
        }
    }
}

/// A type whose sums can be divided by a number of ranks.
trait Divide: 'static {
    /// A partial result.
    type Wide: Copy;
    /// A result.
    type Narrow: Copy;
    /// The number of ranks, ready to divide by.
    type By: Copy;

    fn by(world: u64) -> Self::By;
    fn quotient(sum: Self::Wide, world: Self::By) -> Self::Narrow;
}

unsafe fn divide<S: Set, D: Divide>(from: *const u8, into: *mut u8, len: usize, world: u64) {
    let world = D::by(world);
    let by = move |sum| D::quotient(sum, world);
    // SAFETY: passed on from the caller of the `Change`.
    unsafe { S::enter(Mapped::<D::Wide, D::Narrow, _> { from: from.cast(), into: into.cast(), len, by }) }
}

/// Floats divide, then round. A count of ranks is exact in f64, and in f32 up to 2^24.
macro_rules! divide_float {
    ($($format:ty: $real:ty),*) => {$(
        impl Divide for $format {
            type Wide = $real;
            type Narrow = <$format as Float>::Bits;
            type By = $real;

            #[inline(always)]
            fn by(world: u64) -> $real {
                world as $real
            }

            #[inline(always)]
            fn quotient(sum: $real, world: $real) -> Self::Narrow {
                <$format>::narrow(sum / world)
            }
        }
    )*};
}
divide_float!(F16: f32, Bf16: f32, E4m3: f32, E5m2: f32, f32: f32, f64: f64);

/// Integers up to 32 bits divide in f64, which vectorises. It is exact: a quotient that is not whole is at least
/// 1 / world below the next whole number, far more than f64 can be off by.
macro_rules! divide_small {
    ($($int:ty)*) => {$(
        impl Divide for $int {
            type Wide = $int;
            type Narrow = $int;
            type By = f64;

            #[inline(always)]
            fn by(world: u64) -> f64 {
                world as f64
            }

            #[inline(always)]
            fn quotient(sum: $int, world: f64) -> $int {
                (f64::from(sum) / world) as $int
            }
        }
    )*};
}
divide_small!(i8 u8 i32 u32);

macro_rules! divide_large {
    ($($int:ty)*) => {$(
        impl Divide for $int {
            type Wide = $int;
            type Narrow = $int;
            type By = $int;

            #[inline(always)]
            fn by(world: u64) -> $int {
                world as $int
            }

            #[inline(always)]
            fn quotient(sum: $int, world: $int) -> $int {
                sum / world
            }
        }
    )*};
}
divide_large!(i64 u64);

fn scale_in<S: Set>(dtype: DType) -> Change {
    match dtype {
        DType::I8 | DType::U8 => scale_integer::<S, u8>,
        DType::I32 | DType::U32 => scale_integer::<S, u32>,
        DType::I64 | DType::U64 => scale_integer::<S, u64>,
        DType::F16 => scale_float::<S, F16>,
        DType::Bf16 => scale_float::<S, Bf16>,
        DType::F8E4M3 => scale_float::<S, E4m3>,
        DType::F8E5M2 => scale_float::<S, E5m2>,
        DType::F32 => scale_float::<S, f32>,
        DType::F64 => scale_float::<S, f64>,
    }
}

/// A value from the low bits of a parameter.
trait FromBits: Copy {
    fn from_low_bits(bits: u64) -> Self;
}

macro_rules! from_bits {
    ($($bits:ty => $value:ty: $from:expr),*) => {$(
        impl FromBits for $value {
            fn from_low_bits(bits: u64) -> $value {
                $from(bits as $bits)
            }
        }
    )*};
}
from_bits!(u8 => u8: |x| x, u16 => u16: |x| x, u32 => u32: |x| x, u64 => u64: |x| x);
from_bits!(u32 => f32: f32::from_bits, u64 => f64: f64::from_bits);

unsafe fn scale_integer<S: Set, T: Ring + FromBits>(from: *const u8, into: *mut u8, len: usize, by: u64) {
    let factor = T::from_low_bits(by);
    let by = move |x: T| x.mul(factor);
    // SAFETY: passed on from the caller of the `Change`.
    unsafe { S::enter(Mapped { from: from.cast(), into: into.cast(), len, by }) }
}

unsafe fn scale_float<S: Set, F: Float<Bits: FromBits>>(from: *const u8, into: *mut u8, len: usize, by: u64) {
    let factor = F::widen(FromBits::from_low_bits(by));
    let by = move |x: F::Bits| F::narrow(F::widen(x).mul(factor));
    // SAFETY: passed on from the caller of the `Change`.
    unsafe { S::enter(Mapped { from: from.cast(), into: into.cast(), len, by }) }
}
