//! Least and greatest, told by integer keys that order as the values do: no float is compared, so NaN and the two zeros
//! need no cases, and the small floats need no conversion.
#![forbid(unsafe_code)]

use std::marker::PhantomData;

use super::format::{Bf16, E4m3, E5m2, F16};
use super::rule::Rule;

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

/// Flips the bits below the sign where the sign is set; its own inverse.
macro_rules! flip {
    ($x:expr, $bits:ty, $key:ty) => {
        $x as $bits ^ (($x as $key >> (<$bits>::BITS - 1)) as $bits >> 1)
    };
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

macro_rules! ordered_integers {
    ($($int:ty)*) => {$(
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
ordered_integers!(i8 u8 i32 u32 i64 u64);
