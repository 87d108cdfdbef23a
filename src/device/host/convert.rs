//! The small floats, one value at a time: bits to `f32` (always exact) and back (nearest, ties to even).
//!
//! All of it is branch-free integer and f32 arithmetic, so that a loop over it becomes vector code on every instruction
//! set, and so that the result cannot depend on which. Going down, a NaN becomes the type's one canonical quiet NaN,
//! positive; going up, a NaN stays some NaN.
//!
//! ```text
//! f32    s eeeeeeee mmmmmmmmmmmmmmmmmmmmmmm    bias 127
//! bf16   s eeeeeeee mmmmmmm                    bias 127
//! f16    s eeeee    mmmmmmmmmm                 bias 15
//! e5m2   s eeeee    mm                         bias 15
//! e4m3   s eeee     mmm                        bias 7, no infinity; only s1111111 is NaN
//! ```
#![forbid(unsafe_code)]

/// Bits of a binary16 as a number.
#[inline(always)]
pub fn f32_from_f16(bits: u16) -> f32 {
    let code = u32::from(bits & 0x7fff);
    let finite = widen::<10, 15>(code);
    signed(if code >= 0x7c00 { special(code << 13) } else { finite }, u32::from(bits) << 16)
}

/// The binary16 nearest to `value`; too large becomes infinity.
#[inline(always)]
pub fn f16_from_f32(value: f32) -> u16 {
    let magnitude = narrow::<10, 15>(value.to_bits() & MAGNITUDE).min(0x7c00);
    let signed = magnitude | (value.to_bits() >> 16 & 0x8000);
    (if value.is_nan() { 0x7e00 } else { signed }) as u16
}

/// Bits of a bfloat16 as a number.
#[inline(always)]
pub fn f32_from_bf16(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// The bfloat16 nearest to `value`, subnormals included; too large becomes infinity.
#[inline(always)]
pub fn bf16_from_f32(value: f32) -> u16 {
    let bits = value.to_bits();
    let odd = bits >> 16 & 1;
    let rounded = bits.wrapping_add(0x7fff + odd) >> 16;
    (if value.is_nan() { 0x7fc0 } else { rounded }) as u16
}

/// Bits of an fp8-e4m3 (FN) as a number.
#[inline(always)]
pub fn f32_from_e4m3(bits: u8) -> f32 {
    let code = u32::from(bits & 0x7f);
    let finite = widen::<3, 7>(code);
    signed(if code == 0x7f { f32::from_bits(QUIET_NAN) } else { finite }, u32::from(bits) << 24)
}

/// The fp8-e4m3 (FN) nearest to `value`; what rounds to more than 448 becomes NaN, as infinity does.
#[inline(always)]
pub fn e4m3_from_f32(value: f32) -> u8 {
    let magnitude = narrow::<3, 7>(value.to_bits() & MAGNITUDE);
    let signed = magnitude | (value.to_bits() >> 24 & 0x80);
    (if magnitude >= 0x7f || value.is_nan() { 0x7f } else { signed }) as u8
}

/// Bits of an fp8-e5m2 as a number: it is the upper half of a binary16.
#[inline(always)]
pub fn f32_from_e5m2(bits: u8) -> f32 {
    let code = u32::from(bits & 0x7f);
    let finite = widen::<2, 15>(code);
    signed(if code >= 0x7c { special(code << 21) } else { finite }, u32::from(bits) << 24)
}

/// The fp8-e5m2 nearest to `value`; what rounds to more than 57344 becomes infinity.
#[inline(always)]
pub fn e5m2_from_f32(value: f32) -> u8 {
    let magnitude = narrow::<2, 15>(value.to_bits() & MAGNITUDE).min(0x7c);
    let signed = magnitude | (value.to_bits() >> 24 & 0x80);
    (if value.is_nan() { 0x7e } else { signed }) as u8
}

const MAGNITUDE: u32 = 0x7fff_ffff;
const INFINITY: u32 = 0x7f80_0000;
const QUIET_NAN: u32 = 0x7fc0_0000;

/// The finite magnitude `code` of a format with `M` mantissa bits and this bias.
///
/// A normal number only moves up and changes its bias. A subnormal one counts units of 2^(1 - BIAS - M): under the
/// implicit one of 2^(1 - BIAS) it is in place, and subtracting that one is exact.
#[inline(always)]
fn widen<const M: u32, const BIAS: u32>(code: u32) -> f32 {
    let moved = code << (23 - M);
    let normal = f32::from_bits(moved.wrapping_add((127 - BIAS) << 23));
    let one = (127 - BIAS + 1) << 23;
    let subnormal = f32::from_bits(one | moved) - f32::from_bits(one);
    if code < 1 << M { subnormal } else { normal }
}

/// Infinity, or a NaN with the mantissa in `moved`.
#[inline(always)]
fn special(moved: u32) -> f32 {
    f32::from_bits(moved | INFINITY)
}

/// `magnitude` with the sign bit of `sign`.
#[inline(always)]
fn signed(magnitude: f32, sign: u32) -> f32 {
    f32::from_bits(magnitude.to_bits() | sign & !MAGNITUDE)
}

/// The code nearest to a magnitude, in a format with `M` mantissa bits and this bias whose exponent has no upper end:
/// the caller says what overflow becomes.
///
/// A normal number is rounded by adding just under half a unit, or half a unit when it is odd, and cutting. For a
/// subnormal one the addition unit does it: added to the number whose last bit is worth the smallest subnormal, the
/// result's low bits are the code.
#[inline(always)]
fn narrow<const M: u32, const BIAS: u32>(magnitude: u32) -> u32 {
    let dropped = 23 - M;
    let odd = magnitude >> dropped & 1;
    let rebiased = magnitude.wrapping_sub((127 - BIAS) << 23);
    let normal = rebiased.wrapping_add((1 << (dropped - 1)) - 1 + odd) >> dropped;
    let unit = (127 - BIAS + 1 - M + 23) << 23;
    let subnormal = (f32::from_bits(magnitude) + f32::from_bits(unit)).to_bits().wrapping_sub(unit);
    if magnitude < (127 - BIAS + 1) << 23 { subnormal } else { normal }
}
