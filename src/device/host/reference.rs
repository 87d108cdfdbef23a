//! What the arithmetic means, written to be read rather than run: one element at a time, floats decoded and rounded by
//! their definitions. Every device's results are equal to these, bit for bit. See [`ReduceOp`] for the table.
#![forbid(unsafe_code)]

use super::Fold;
use crate::types::{DType, ReduceOp};

/// The operands combined element by element, as [`reduce`](super::reduce) does. All have the same length.
pub fn reduce(fold: &Fold, finish: bool, from: &[&[u8]]) -> Vec<u8> {
    let size = fold.dtype().size_bytes();
    let divisor = (finish && fold.op() == ReduceOp::Avg).then_some(fold.world());
    if from.len() == 1 && divisor.is_none() {
        return from[0].to_vec();
    }
    let mut result = Vec::with_capacity(from[0].len());
    for at in (0..from[0].len()).step_by(size) {
        let operands: Vec<u64> = from.iter().map(|operand| bits_at(operand, at, size)).collect();
        let bits = element(fold.dtype(), fold.op(), divisor, &operands);
        result.extend_from_slice(&bits.to_le_bytes()[..size]);
    }
    result
}

/// Every element times the factor, as [`scale`](super::scale) does.
pub fn scale(dtype: DType, scalar_bits: u64, from: &[u8]) -> Vec<u8> {
    let size = dtype.size_bytes();
    let product = |bits| element(dtype, ReduceOp::Prod, None, &[bits, scalar_bits]);
    (0..from.len())
        .step_by(size)
        .flat_map(|at| product(bits_at(from, at, size)).to_le_bytes().into_iter().take(size))
        .collect()
}

/// The value of a float's bits. Exact.
pub fn decode(dtype: DType, bits: u64) -> f64 {
    let Format { exponent_bits, mantissa_bits, .. } = match dtype {
        DType::F32 => return f64::from(f32::from_bits(bits as u32)),
        DType::F64 => return f64::from_bits(bits),
        small => Format::of(small),
    };
    let negative = bits >> (exponent_bits + mantissa_bits) & 1 == 1;
    let exponent = bits >> mantissa_bits & ((1 << exponent_bits) - 1);
    let mantissa = bits & ((1 << mantissa_bits) - 1);
    let (all_ones, bias) = ((1u64 << exponent_bits) - 1, (1i32 << (exponent_bits - 1)) - 1);
    let fraction = mantissa as f64 / (1u64 << mantissa_bits) as f64;
    let magnitude = match (dtype, exponent) {
        (DType::F8E4M3, _) if bits & 0x7f == 0x7f => f64::NAN,
        (DType::F8E4M3, e) if e == all_ones => (1.0 + fraction) * 2f64.powi(e as i32 - bias),
        (_, e) if e == all_ones && mantissa == 0 => f64::INFINITY,
        (_, e) if e == all_ones => f64::NAN,
        (_, 0) => fraction * 2f64.powi(1 - bias),
        (_, e) => (1.0 + fraction) * 2f64.powi(e as i32 - bias),
    };
    if negative { -magnitude } else { magnitude }
}

/// The bits of the float of this type nearest to `value`, ties to even; NaN is canonical.
///
/// The codes of one sign ascend with their values. Rounding finds the two neighbours and takes the nearer one; what the
/// first code beyond the largest number *would* stand for is where overflow begins.
pub fn encode(dtype: DType, value: f64) -> u64 {
    let format = match dtype {
        DType::F32 if value.is_nan() => return 0x7fc0_0000,
        DType::F32 => return u64::from((value as f32).to_bits()),
        DType::F64 if value.is_nan() => return 0x7ff8_0000_0000_0000,
        DType::F64 => return value.to_bits(),
        small => Format::of(small),
    };
    if value.is_nan() {
        return format.nan;
    }
    let magnitude = value.abs();
    let as_number = |code: u64| {
        if code <= format.largest { decode(dtype, code) } else { format.beyond }
    };
    let (mut below, mut above) = (0, format.largest + 1);
    while above - below > 1 {
        let middle = (below + above) / 2;
        if as_number(middle) <= magnitude { below = middle } else { above = middle }
    }
    let (down, up) = (magnitude - as_number(below), as_number(above) - magnitude);
    let code = if down < up || (down == up && below % 2 == 0) { below } else { above };
    match (code > format.largest, value.is_sign_negative()) {
        (true, _) if dtype == DType::F8E4M3 => format.nan,
        (_, negative) => code | u64::from(negative) << (format.exponent_bits + format.mantissa_bits),
    }
}

/// A small float: a sign, an exponent, a mantissa.
struct Format {
    exponent_bits: u32,
    mantissa_bits: u32,
    /// The largest finite magnitude's code.
    largest: u64,
    /// The magnitude that would follow it.
    beyond: f64,
    /// The canonical quiet NaN.
    nan: u64,
}

impl Format {
    fn of(dtype: DType) -> Format {
        let (exponent_bits, mantissa_bits, largest, beyond, nan) = match dtype {
            DType::F16 => (5, 10, 0x7bff, 65536.0, 0x7e00),
            DType::Bf16 => (8, 7, 0x7f7f, 2f64.powi(128), 0x7fc0),
            DType::F8E4M3 => (4, 3, 0x7e, 480.0, 0x7f),
            DType::F8E5M2 => (5, 2, 0x7b, 65536.0, 0x7e),
            other => unreachable!("{other} is not a small float"),
        };
        Format { exponent_bits, mantissa_bits, largest, beyond, nan }
    }
}

/// One element of the result.
fn element(dtype: DType, op: ReduceOp, divisor: Option<u32>, operands: &[u64]) -> u64 {
    let op = match op {
        ReduceOp::Avg | ReduceOp::PreMulSum(_) => ReduceOp::Sum,
        other => other,
    };
    match dtype {
        DType::F64 => {
            let sum = tree(&map(operands, f64::from_bits), &|a, b| match op {
                ReduceOp::Sum => a + b,
                ReduceOp::Prod => a * b,
                _ => extreme(op, a, b),
            });
            encode(dtype, divisor.map_or(sum, |world| sum / f64::from(world)))
        }
        dtype if dtype.is_integer() => {
            let sum = tree(&map(operands, |bits| extend(dtype, bits)), &|a, b| wrap(dtype, integer(op, a, b)));
            divisor.map_or(sum, |world| sum / i128::from(world)) as u64
        }
        _ => {
            let sum = tree(&map(operands, |bits| decode(dtype, bits) as f32), &|a, b| match op {
                ReduceOp::Sum => a + b,
                ReduceOp::Prod => a * b,
                _ => extreme(op, f64::from(a), f64::from(b)) as f32,
            });
            encode(dtype, f64::from(divisor.map_or(sum, |world| sum / world as f32)))
        }
    }
}

/// The canonical order: the left part is the largest power of two below the number of operands.
fn tree<T: Copy>(operands: &[T], join: &dyn Fn(T, T) -> T) -> T {
    match operands {
        [one] => *one,
        _ => {
            let (left, right) = operands.split_at(operands.len().next_power_of_two() / 2);
            join(tree(left, join), tree(right, join))
        }
    }
}

/// Minimum or maximum: NaN wins, -0 is below +0.
fn extreme(op: ReduceOp, a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() {
        return f64::NAN;
    }
    match (op, a.total_cmp(&b).is_le()) {
        (ReduceOp::Min, true) | (ReduceOp::Max, false) => a,
        (ReduceOp::Min, false) | (ReduceOp::Max, true) => b,
        (other, _) => unreachable!("{other} of floats"),
    }
}

/// An operation on integers that are wide enough never to overflow... except products of 64-bit ones, which wrap early;
/// the low bits are right all the same.
fn integer(op: ReduceOp, a: i128, b: i128) -> i128 {
    match op {
        ReduceOp::Sum => a + b,
        ReduceOp::Prod => a.wrapping_mul(b),
        ReduceOp::Min => a.min(b),
        ReduceOp::Max => a.max(b),
        ReduceOp::BitAnd => a & b,
        ReduceOp::BitOr => a | b,
        ReduceOp::BitXor => a ^ b,
        other => unreachable!("{other} was replaced by sum"),
    }
}

/// `value` cut to the type's bits and read as the type again.
fn wrap(dtype: DType, value: i128) -> i128 {
    extend(dtype, value as u64)
}

/// The integer that the low bits stand for.
fn extend(dtype: DType, bits: u64) -> i128 {
    match dtype {
        DType::I8 => i128::from(bits as i8),
        DType::U8 => i128::from(bits as u8),
        DType::I32 => i128::from(bits as i32),
        DType::U32 => i128::from(bits as u32),
        DType::I64 => i128::from(bits as i64),
        DType::U64 => i128::from(bits),
        other => unreachable!("{other} is not an integer"),
    }
}

fn map<T>(operands: &[u64], f: impl Fn(u64) -> T) -> Vec<T> {
    operands.iter().map(|&bits| f(bits)).collect()
}

fn bits_at(bytes: &[u8], at: usize, size: usize) -> u64 {
    let mut bits = [0; 8];
    bits[..size].copy_from_slice(&bytes[at..at + size]);
    u64::from_le_bytes(bits)
}
