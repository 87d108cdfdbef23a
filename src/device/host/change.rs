//! Loops from one operand and a parameter: the division that ends an average, and the factor of a pre-multiplied sum.

use super::format::{Bf16, E4m3, E5m2, F16, Float};
use super::isa::{Isa, Portable, Set, Task};
use super::rule::Ring;
use crate::types::DType;

/// Changes `len` elements by a parameter; any alignment. Safety as [`Combine`](super::kernel::Combine).
pub(super) type Change = unsafe fn(from: *const u8, into: *mut u8, len: usize, by: u64);

/// Element times factor, for [`ReduceOp::PreMulSum`](crate::ReduceOp::PreMulSum); the parameter is the factor's bits.
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
pub(super) trait Divide: 'static {
    /// A partial result.
    type Wide: Copy;
    /// A result.
    type Narrow: Copy;
    /// The number of ranks, ready to divide by.
    type By: Copy;

    fn by(world: u64) -> Self::By;
    fn quotient(sum: Self::Wide, world: Self::By) -> Self::Narrow;
}

/// A [`Change`] of partial sums into averages.
pub(super) unsafe fn divide<S: Set, D: Divide>(from: *const u8, into: *mut u8, len: usize, world: u64) {
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
