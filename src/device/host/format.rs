//! The floats in memory: how each is read, one at a time ([`Float`]), in vector registers ([`InLanes`]) or packed in
//! words ([`InWord`]).

use super::convert::*;
use super::isa::Lanes;
use super::rule::Ring;

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

/// Bits that share a word with others.
pub(super) trait InWord: Copy {
    /// How many they are.
    const WIDTH: usize;
    fn at(word: u32, place: u32) -> Self;
    fn put(self, place: u32) -> u32;
}

macro_rules! in_word {
    ($($bits:ty)*) => {$(
        impl InWord for $bits {
            const WIDTH: usize = <$bits>::BITS as usize;

            #[inline(always)]
            fn at(word: u32, place: u32) -> $bits {
                (word >> place) as $bits
            }

            #[inline(always)]
            fn put(self, place: u32) -> u32 {
                u32::from(self) << place
            }
        }
    )*};
}
in_word!(u8 u16);
