//! What the ranks contribute, and what must come out: computed element by element, from (rank, index) alone, so that every
//! rank knows everybody's data without having been told.
//!
//! Contributions repeat with a prime period, so that the oracle works on a few elements and a wrong place still shows.

use half::{bf16, f16};
use roundel::device::host::{Fold, reference};
use roundel::{DType, Element, F8E4M3, F8E5M2, Rank, ReduceOp};
use std::ops::Range;

/// Contributions of a rank repeat after so many elements.
const PERIOD: usize = 251;

/// Calls a generic function with every element type.
macro_rules! for_every_type {
    ($function:ident($argument:expr)) => {
        $crate::numbers::for_every_type!($function($argument): i8 u8 i32 u32 i64 u64 f32 f64 half::f16 half::bf16
            roundel::F8E4M3 roundel::F8E5M2)
    };
    ($function:ident($argument:expr): $($element:ty)*) => {
        $($function::<$element>($argument);)*
    };
}
pub(crate) use for_every_type;

/// Which data, and with it which oracle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Data {
    /// Floats whose reduction is exact in any order, integers of any bits; the oracle computes in `f64` and `i128`.
    Exact,
    /// Floats that round, overflow and cancel, with NaN, infinities and both zeros among them; the oracle is the
    /// reference tree in rank order, so the call must be reproducible.
    Rough,
}

/// Every operation on `T`; the factor of the pre-multiplied sum is put in by [`own`].
pub fn operations<T: Element>() -> Vec<ReduceOp> {
    use ReduceOp::*;
    let factor = PreMulSum(value::<T>(0).scalar());
    let all = [Sum, Prod, Max, Min, Avg, factor, BitAnd, BitOr, BitXor];
    all.into_iter().filter(|op| op.accepts(T::DTYPE)).collect()
}

/// The operation as `rank` names it: every rank has its own factor.
pub fn own<T: Element>(op: ReduceOp, data: Data, rank: Rank) -> ReduceOp {
    let ReduceOp::PreMulSum(_) = op else { return op };
    let factor = match data {
        _ if T::DTYPE.is_integer() => value::<T>(noise(rank as u64, 77) % 100),
        Data::Exact if rank == 0 => float::<T>(2.0),
        Data::Exact => float::<T>([-1.0, 1.0][rank % 2]),
        Data::Rough => float::<T>([0.3, -1.7, 3.1, 0.9][rank % 4]),
    };
    ReduceOp::PreMulSum(factor.scalar())
}

/// What `rank` contributes to a reduction.
pub fn contributions<T: Element>(data: Data, op: ReduceOp, rank: Rank, range: Range<usize>) -> Vec<T> {
    let period: Vec<T> = (0..PERIOD.min(range.end)).map(|index| contribution(data, op, rank, index)).collect();
    range.map(|index| period[index % PERIOD]).collect()
}

fn contribution<T: Element>(data: Data, op: ReduceOp, rank: Rank, index: usize) -> T {
    let bits = noise(rank as u64 + 1, index as u64);
    if T::DTYPE.is_integer() {
        return value(bits);
    }
    let pick = |from: &[f64]| from[bits as usize % from.len()];
    match (data, op) {
        (Data::Rough, _) => match bits % 16 {
            0 => float(pick(&[f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.0, -0.0, -0.0, 1e-7, -1e30])),
            _ => float((bits >> 8 & 0xffff) as f64 / 9000.0 - 3.6),
        },
        // At most eight ones: exact even with the two mantissa bits of e5m2.
        (Data::Exact, ReduceOp::PreMulSum(_)) if rank > 5 => float(0.0),
        (Data::Exact, ReduceOp::Sum | ReduceOp::Avg | ReduceOp::PreMulSum(_)) => float(pick(&[-1.0, 0.0, 1.0])),
        (Data::Exact, ReduceOp::Prod) => float(pick(&[-1.0, 1.0, 2.0])),
        (Data::Exact, _) => float(pick(&[-4.0, -3.0, -1.0, 0.0, 0.5, 2.0, 3.0])),
    }
}

/// What the reduction of all `world` ranks' contributions is.
pub fn reduction<T: Element>(data: Data, op: ReduceOp, world: usize, range: Range<usize>) -> Vec<T> {
    let period = 0..PERIOD.min(range.end);
    let inputs: Vec<Vec<T>> = (0..world).map(|rank| contributions(data, op, rank, period.clone())).collect();
    let period: Vec<T> = match data {
        Data::Exact => {
            period.map(|index| exactly(op, &inputs.iter().map(|input| input[index]).collect::<Vec<_>>())).collect()
        }
        Data::Rough => canonically(op, data, &inputs),
    };
    range.map(|index| period[index % PERIOD]).collect()
}

/// The definition: the reference tree, in rank order.
pub fn canonically<T: Element>(op: ReduceOp, data: Data, inputs: &[Vec<T>]) -> Vec<T> {
    let bytes = inputs.iter().enumerate().map(|(rank, input)| {
        let bytes: &[u8] = bytemuck::cast_slice(input);
        match own::<T>(op, data, rank) {
            ReduceOp::PreMulSum(factor) => reference::scale(T::DTYPE, factor.bits, bytes),
            _ => bytes.to_vec(),
        }
    });
    let bytes: Vec<Vec<u8>> = bytes.collect();
    let fold = match op {
        ReduceOp::PreMulSum(_) => Fold::new(T::DTYPE, ReduceOp::Sum, inputs.len() as u32),
        op => Fold::new(T::DTYPE, op, inputs.len() as u32),
    };
    let operands: Vec<&[u8]> = bytes.iter().map(Vec::as_slice).collect();
    reference::reduce(&fold, true, &operands).chunks(size_of::<T>()).map(bytemuck::pod_read_unaligned).collect()
}

/// One element's result in arithmetic that cannot round or overflow.
fn exactly<T: Element>(op: ReduceOp, operands: &[T]) -> T {
    let factors = (0..operands.len()).map(|rank| match own::<T>(op, Data::Exact, rank) {
        ReduceOp::PreMulSum(scalar) => value::<T>(scalar.bits),
        _ if T::DTYPE.is_integer() => value::<T>(1),
        _ => float::<T>(1.0),
    });
    if T::DTYPE.is_integer() {
        let terms = operands.iter().zip(factors).map(|(&x, f)| wrap::<T>(integer(x).wrapping_mul(integer(f))));
        let folded = terms.reduce(|a, b| match op {
            ReduceOp::Prod => wrap::<T>(a.wrapping_mul(b)),
            ReduceOp::Max => a.max(b),
            ReduceOp::Min => a.min(b),
            ReduceOp::BitAnd => a & b,
            ReduceOp::BitOr => a | b,
            ReduceOp::BitXor => a ^ b,
            _ => wrap::<T>(a + b),
        });
        let folded = folded.expect("a world has ranks");
        let divisor = if op == ReduceOp::Avg { operands.len() as i128 } else { 1 };
        return value((folded / divisor) as u64);
    }
    let decode = |x: T| reference::decode(T::DTYPE, x.scalar().bits);
    let terms = operands.iter().zip(factors).map(|(&x, f)| decode(x) * decode(f));
    let folded = terms.reduce(|a, b| match op {
        ReduceOp::Prod => a * b,
        ReduceOp::Max => a.max(b),
        ReduceOp::Min => a.min(b),
        _ => a + b,
    });
    let folded = folded.expect("a world has ranks");
    float(if op == ReduceOp::Avg { folded / operands.len() as f64 } else { folded })
}

/// What `from` has for `to` where data only moves: any bits at all, of every (from, to, index) its own.
pub fn parcel<T: Element>(from: Rank, to: Rank, count: usize) -> Vec<T> {
    (0..count).map(|index| value(noise((from * 64 + to) as u64 + 1000, index as u64))).collect()
}

/// The element with these low bits.
pub fn value<T: Element>(bits: u64) -> T {
    bytemuck::pod_read_unaligned(&bits.to_le_bytes()[..size_of::<T>()])
}

/// The float nearest to `x`.
pub fn float<T: Element>(x: f64) -> T {
    value(match T::DTYPE {
        DType::F16 => f16::from_f64(x).to_bits().into(),
        DType::Bf16 => bf16::from_f64(x).to_bits().into(),
        DType::F32 => (x as f32).to_bits().into(),
        DType::F64 => x.to_bits(),
        small => reference::encode(small, x),
    })
}

/// The integer as it is meant.
fn integer<T: Element>(x: T) -> i128 {
    wrap::<T>(x.scalar().bits.into())
}

/// `x` cut to the bits of `T` and read as a `T` again.
fn wrap<T: Element>(x: i128) -> i128 {
    let unused = 128 - 8 * size_of::<T>() as u32;
    match T::DTYPE {
        DType::I8 | DType::I32 | DType::I64 => x << unused >> unused,
        _ => ((x as u128) << unused >> unused) as i128,
    }
}

/// A number that looks random and is always the same (splitmix64).
pub fn noise(stream: u64, index: u64) -> u64 {
    let z = (stream << 40 ^ index).wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(0x1234_5678_9abc_def1);
    let z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

/// The oracle itself, against sums done by hand.
#[test]
fn the_oracle_counts_right() {
    assert_eq!(exactly(ReduceOp::Sum, &[100i8, 100, -1]), -57);
    assert_eq!(exactly(ReduceOp::Avg, &[-3i32, -4]), -3, "integers truncate toward zero");
    assert_eq!(exactly(ReduceOp::Avg, &[200u8, 100]), 22, "the sum wraps, then it is divided");
    assert_eq!(exactly(ReduceOp::Prod, &[u64::MAX, 3]), u64::MAX - 2);
    assert_eq!(exactly(ReduceOp::Avg, &[1.0f32, 0.0, 0.0]), 1.0 / 3.0);
    assert_eq!(exactly(ReduceOp::Sum, &[F8E4M3(0x38), F8E4M3(0x38)]), F8E4M3(0x40), "1 + 1 = 2");
    assert_eq!(float::<F8E5M2>(-1.0), F8E5M2(0xbc));
    assert_eq!(exactly(ReduceOp::Max, &[-4.0f64, -3.0]), -3.0);
}
