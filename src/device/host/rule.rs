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

use super::format::{Float, InLanes, InWord};
use super::isa::{Lanes, Set};
use super::kernel::CHUNK_BYTES;

/// How the elements of one type are combined by one operation.
pub(super) trait Rule: 'static {
    /// An operand in memory.
    type In: Copy;
    /// A result in memory.
    type Out: Copy;
    /// An operand while it is worked on.
    type Register: Copy;
    /// How many results fill a few vector registers.
    const CHUNK: usize = CHUNK_BYTES / size_of::<Self::Out>();

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

/// See [`Packed::CHUNK`](Rule::CHUNK).
const PACKED_BYTES: usize = 64;

/// [`Rounding`] from a small format into itself, with a head start in words of 32 bits: an f32 is as wide as a word, so
/// shifts bring each packed element to where it is computed with, and back, without moving it between lanes.
///
/// ```text
///   word   | b1   | b0   |      b0 << 16 and b1 & ffff0000 are two f32
/// ```
pub(super) struct Packed<O, F>(PhantomData<(O, F)>);

impl<O: RingOp, F: Float<Bits: InWord, Real = f32>> Rule for Packed<O, F> {
    type In = F::Bits;
    type Out = F::Bits;
    type Register = f32;
    /// One register of AVX-512: each word is several results, so there is enough to do at once.
    const CHUNK: usize = PACKED_BYTES / size_of::<F::Bits>();

    #[inline(always)]
    fn load(operand: F::Bits) -> f32 {
        F::widen(operand)
    }

    #[inline(always)]
    fn join(left: f32, right: f32) -> f32 {
        O::apply(left, right)
    }

    #[inline(always)]
    fn store(result: f32) -> F::Bits {
        F::narrow(result)
    }

    #[inline(always)]
    unsafe fn head<S: Set, const N: usize>(from: [*const F::Bits; N], into: *mut F::Bits, len: usize) -> usize {
        let mut i = 0;
        while i + Self::CHUNK <= len {
            let mut chunk = [0u32; PACKED_BYTES / 4];
            for (w, result) in chunk.iter_mut().enumerate() {
                // SAFETY: a chunk's elements from `i` on are inside `len`, which the caller vouches for.
                let words = from.map(|operand| unsafe { operand.add(i).cast::<u32>().add(w).read_unaligned() });
                for place in (0..u32::BITS).step_by(F::Bits::WIDTH) {
                    let sum = tree(words.map(|word| F::widen(F::Bits::at(word, place))), O::apply);
                    *result |= F::narrow(sum).put(place);
                }
            }
            // SAFETY: as above, and all of the chunk is set.
            unsafe { into.add(i).cast::<u8>().copy_from_nonoverlapping(chunk.as_ptr().cast(), PACKED_BYTES) }
            i += Self::CHUNK;
        }
        i
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
