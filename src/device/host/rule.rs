//! What happens to one element: read, combined, written. A [`Rule`] is one column of the table in
//! [`ReduceOp`](crate::ReduceOp)'s documentation, in plain scalar Rust without branches; the loops around it are in
//! `kernel`.
//!
//! ```text
//!  memory        register                              memory
//!  In --load--> Register --join-- Register ... --store--> Out
//!  bf16 bits     f32         +      f32                 bf16 bits, or f32 while more is to come
//! ```

use std::marker::PhantomData;

use super::convert::*;
use super::isa::{Lanes, Set};

/// How the elements of one type are combined by one operation.
pub(super) trait Rule: 'static {
    /// An operand in memory.
    type In: Copy;
    /// A result in memory.
    type Out: Copy;
    /// An operand while it is worked on.
    type Register: Copy;
    /// How many results fill a few vector registers.
    const CHUNK: usize = super::kernel::CHUNK_BYTES / size_of::<Self::Out>();

    fn load(operand: Self::In) -> Self::Register;
    fn join(left: Self::Register, right: Self::Register) -> Self::Register;
    fn store(result: Self::Register) -> Self::Out;

    /// A head start: combines elements from the front, as many as suit it, with instructions that the compiler would not
    /// find by itself, and returns how many. Most rules have none.
    ///
    /// # Safety
    /// `len` elements are readable at each operand and writable at `into`; the machine has `S`.
    #[inline(always)]
    unsafe fn head<S: Set, const N: usize>(_: [*const Self::In; N], _into: *mut Self::Out, _len: usize) -> usize {
        0
    }
}

/// What can be added and multiplied: integers wrap, floats round.
pub(super) trait Ring: Copy {
    fn add(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;
}

/// Addition or multiplication.
pub(super) trait RingOp: 'static {
    fn apply<T: Ring>(left: T, right: T) -> T;
}

/// `+`.
pub(super) struct Plus;
/// `*`.
pub(super) struct Times;

impl RingOp for Plus {
    #[inline(always)]
    fn apply<T: Ring>(left: T, right: T) -> T {
        left.add(right)
    }
}

impl RingOp for Times {
    #[inline(always)]
    fn apply<T: Ring>(left: T, right: T) -> T {
        left.mul(right)
    }
}

/// The memory format of a float.
pub(super) trait Float: 'static {
    /// Its bits, as loops read and write them.
    type Bits: Copy;
    /// What it computes in.
    type Real: Ring;

    fn widen(bits: Self::Bits) -> Self::Real;
    /// Rounds to nearest even; NaN becomes canonical.
    fn narrow(value: Self::Real) -> Self::Bits;
}

/// binary16.
pub(super) struct F16;
/// bfloat16.
pub(super) struct Bf16;
/// fp8-e4m3.
pub(super) struct E4m3;
/// fp8-e5m2.
pub(super) struct E5m2;

macro_rules! float {
    ($format:ty, $bits:ty, $real:ty, $widen:expr, $narrow:expr) => {
        impl Float for $format {
            type Bits = $bits;
            type Real = $real;

            #[inline(always)]
            fn widen(bits: $bits) -> $real {
                $widen(bits)
            }

            #[inline(always)]
            fn narrow(value: $real) -> $bits {
                $narrow(value)
            }
        }
    };
}

float!(F16, u16, f32, f32_from_f16, f16_from_f32);
float!(Bf16, u16, f32, f32_from_bf16, bf16_from_f32);
float!(E4m3, u8, f32, f32_from_e4m3, e4m3_from_f32);
float!(E5m2, u8, f32, f32_from_e5m2, e5m2_from_f32);
float!(f32, f32, f32, |x| x, |x: f32| if x.is_nan() { f32::from_bits(0x7fc0_0000) } else { x });
float!(f64, f64, f64, |x| x, |x: f64| if x.is_nan() { f64::from_bits(0x7ff8_0000_0000_0000) } else { x });

/// Sum or product of integers.
pub(super) struct Wrapping<O, T>(PhantomData<(O, T)>);

impl<O: RingOp, T: Ring + 'static> Rule for Wrapping<O, T> {
    type In = T;
    type Out = T;
    type Register = T;

    #[inline(always)]
    fn load(operand: T) -> T {
        operand
    }

    #[inline(always)]
    fn join(left: T, right: T) -> T {
        O::apply(left, right)
    }

    #[inline(always)]
    fn store(result: T) -> T {
        result
    }
}

/// Sum or product of floats, from one format into another one that computes in the same type.
pub(super) struct Rounding<O, A, B>(PhantomData<(O, A, B)>);

impl<O: RingOp, A: Float, B: Float<Real = A::Real>> Rule for Rounding<O, A, B> {
    type In = A::Bits;
    type Out = B::Bits;
    type Register = A::Real;

    #[inline(always)]
    fn load(operand: A::Bits) -> A::Real {
        A::widen(operand)
    }

    #[inline(always)]
    fn join(left: A::Real, right: A::Real) -> A::Real {
        O::apply(left, right)
    }

    #[inline(always)]
    fn store(result: A::Real) -> B::Bits {
        B::narrow(result)
    }
}

/// A format that [`Lanes`] can read and write.
pub(super) trait InLanes: Float<Real = f32> {
    /// # Safety
    /// As [`Lanes::load_f16`].
    unsafe fn load<L: Lanes>(from: *const Self::Bits) -> L;
    /// # Safety
    /// As [`Lanes::store_f16`].
    unsafe fn store<L: Lanes>(lanes: L, into: *mut Self::Bits);
}

impl InLanes for F16 {
    #[inline(always)]
    unsafe fn load<L: Lanes>(from: *const u16) -> L {
        // SAFETY: passed on.
        unsafe { L::load_f16(from) }
    }

    #[inline(always)]
    unsafe fn store<L: Lanes>(lanes: L, into: *mut u16) {
        // SAFETY: passed on.
        unsafe { lanes.store_f16(into) }
    }
}

impl InLanes for f32 {
    #[inline(always)]
    unsafe fn load<L: Lanes>(from: *const f32) -> L {
        // SAFETY: passed on.
        unsafe { L::load_f32(from) }
    }

    #[inline(always)]
    unsafe fn store<L: Lanes>(lanes: L, into: *mut f32) {
        // SAFETY: passed on.
        unsafe { lanes.store_f32(into) }
    }
}

/// [`Rounding`] with a head start in lanes: for f16, whose conversion the hardware has but the compiler does not see.
pub(super) struct Half<O, A, B>(PhantomData<(O, A, B)>);

impl<O: RingOp, A: InLanes, B: InLanes> Rule for Half<O, A, B> {
    type In = A::Bits;
    type Out = B::Bits;
    type Register = f32;

    #[inline(always)]
    fn load(operand: A::Bits) -> f32 {
        A::widen(operand)
    }

    #[inline(always)]
    fn join(left: f32, right: f32) -> f32 {
        O::apply(left, right)
    }

    #[inline(always)]
    fn store(result: f32) -> B::Bits {
        B::narrow(result)
    }

    #[inline(always)]
    unsafe fn head<S: Set, const N: usize>(from: [*const A::Bits; N], into: *mut B::Bits, len: usize) -> usize {
        let whole = len - len % S::Lanes::COUNT;
        let mut i = 0;
        while i < whole {
            // SAFETY: `COUNT` elements from `i` on are inside `len`, which the caller vouches for, as for `S`.
            let operands = from.map(|operand| unsafe { A::load::<S::Lanes>(operand.add(i)) });
            let result = tree(operands, O::apply);
            // SAFETY: as above.
            unsafe { B::store(result, into.add(i)) }
            i += S::Lanes::COUNT;
        }
        whole
    }
}

/// The canonical tree over 1, 2, 3, 4 or 8 operands in registers.
#[inline(always)]
pub(super) fn tree<T: Copy, const N: usize>(x: [T; N], join: impl Fn(T, T) -> T) -> T {
    let four = |i: usize| join(join(x[i], x[i + 1]), join(x[i + 2], x[i + 3]));
    match N {
        1 => x[0],
        2 => join(x[0], x[1]),
        3 => join(join(x[0], x[1]), x[2]),
        4 => four(0),
        8 => join(four(0), four(4)),
        _ => unreachable!("no loop over {N} operands at once"),
    }
}

/// A type with an order among its values, told by integer keys. `LEAST` says which end wins: a NaN's key lies beyond
/// that end.
pub(super) trait Ordered: 'static {
    /// The value in memory.
    type Bits: Copy;
    /// An integer that orders as the values do.
    type Key: Ord + Copy;

    fn key<const LEAST: bool>(bits: Self::Bits) -> Self::Key;
    fn value<const LEAST: bool>(key: Self::Key) -> Self::Bits;
}

/// Least (or greatest) of all.
pub(super) struct Extreme<const LEAST: bool, T>(PhantomData<T>);

impl<const LEAST: bool, T: Ordered> Rule for Extreme<LEAST, T> {
    type In = T::Bits;
    type Out = T::Bits;
    type Register = T::Key;

    #[inline(always)]
    fn load(operand: T::Bits) -> T::Key {
        T::key::<LEAST>(operand)
    }

    #[inline(always)]
    fn join(left: T::Key, right: T::Key) -> T::Key {
        if LEAST { left.min(right) } else { left.max(right) }
    }

    #[inline(always)]
    fn store(result: T::Key) -> T::Bits {
        T::value::<LEAST>(result)
    }
}

/// Keys of floats. Flipping the lower bits of the negative ones makes two's complement order them:
///
/// ```text
///     least                                                                   greatest
///     -NaN...   -inf ... -1 ... -0   +0 ... +1 ... +inf   +NaN...
/// ```
///
/// Turned by the number of NaNs that a sign has, the NaNs of both signs lie together at the end that is to win.
macro_rules! ordered_float {
    ($format:ty, $bits:ty, $key:ty, greatest: $greatest:literal, nan: $nan:literal) => {
        impl Ordered for $format {
            type Bits = $bits;
            type Key = $key;

            #[inline(always)]
            fn key<const LEAST: bool>(bits: $bits) -> $key {
                let key = flip!(bits, $bits, $key) as $key;
                if LEAST {
                    key.wrapping_add(<$key>::MAX - $greatest)
                } else {
                    key.wrapping_sub(<$key>::MAX - $greatest)
                }
            }

            #[inline(always)]
            fn value<const LEAST: bool>(key: $key) -> $bits {
                let turn = <$key>::MAX - $greatest;
                let key = if LEAST { key.wrapping_sub(turn) } else { key.wrapping_add(turn) };
                let bits = flip!(key, $bits, $key);
                if bits & <$key>::MAX as $bits > $greatest { $nan } else { bits }
            }
        }
    };
}

/// Flips the bits below the sign where the sign is set; its own inverse.
macro_rules! flip {
    ($x:expr, $bits:ty, $key:ty) => {
        $x as $bits ^ (($x as $key >> (<$bits>::BITS - 1)) as $bits >> 1)
    };
}
/// f32 and f64 in memory are read as their bits where they are only compared.
pub(super) struct BitsOfF32;
/// See [`BitsOfF32`].
pub(super) struct BitsOfF64;

ordered_float!(E4m3, u8, i8, greatest: 0x7e, nan: 0x7f);
ordered_float!(E5m2, u8, i8, greatest: 0x7c, nan: 0x7e);
ordered_float!(F16, u16, i16, greatest: 0x7c00, nan: 0x7e00);
ordered_float!(Bf16, u16, i16, greatest: 0x7f80, nan: 0x7fc0);
ordered_float!(BitsOfF32, u32, i32, greatest: 0x7f80_0000, nan: 0x7fc0_0000);
ordered_float!(BitsOfF64, u64, i64, greatest: 0x7ff0_0000_0000_0000, nan: 0x7ff8_0000_0000_0000);

/// Bits of integers, combined bit by bit.
pub(super) struct Bitwise<O, T>(PhantomData<(O, T)>);

/// And, or, exclusive or.
pub(super) trait BitOp: 'static {
    fn apply<T: Integer>(left: T, right: T) -> T;
}

/// `&`.
pub(super) struct And;
/// `|`.
pub(super) struct Or;
/// `^`.
pub(super) struct Xor;

/// What the bitwise operations and the order of integers need.
pub(super) trait Integer:
    Copy + 'static + std::ops::BitAnd<Output = Self> + std::ops::BitOr<Output = Self> + std::ops::BitXor<Output = Self>
{
}

macro_rules! bit_op {
    ($name:ty, $op:tt) => {
        impl BitOp for $name {
            #[inline(always)]
            fn apply<T: Integer>(left: T, right: T) -> T {
                left $op right
            }
        }
    };
}
bit_op!(And, &);
bit_op!(Or, |);
bit_op!(Xor, ^);

impl<O: BitOp, T: Integer> Rule for Bitwise<O, T> {
    type In = T;
    type Out = T;
    type Register = T;

    #[inline(always)]
    fn load(operand: T) -> T {
        operand
    }

    #[inline(always)]
    fn join(left: T, right: T) -> T {
        O::apply(left, right)
    }

    #[inline(always)]
    fn store(result: T) -> T {
        result
    }
}

macro_rules! integers {
    ($($int:ty)*) => {$(
        impl Ring for $int {
            #[inline(always)]
            fn add(self, other: Self) -> Self {
                self.wrapping_add(other)
            }

            #[inline(always)]
            fn mul(self, other: Self) -> Self {
                self.wrapping_mul(other)
            }
        }

        impl Integer for $int {}

        impl Ordered for $int {
            type Bits = $int;
            type Key = $int;

            #[inline(always)]
            fn key<const LEAST: bool>(bits: $int) -> $int {
                bits
            }

            #[inline(always)]
            fn value<const LEAST: bool>(key: $int) -> $int {
                key
            }
        }
    )*};
}
integers!(i8 u8 i32 u32 i64 u64);

macro_rules! reals {
    ($($real:ty)*) => {$(
        impl Ring for $real {
            #[inline(always)]
            fn add(self, other: Self) -> Self {
                self + other
            }

            #[inline(always)]
            fn mul(self, other: Self) -> Self {
                self * other
            }
        }
    )*};
}
reals!(f32 f64);
