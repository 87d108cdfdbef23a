//! Numbers whose reduction is exact in any order, so that a check may count every differing element as wrong.
//!
//! Rank r's vector holds, at element i, a value hashed from (seed, r, i). For reductions the hash is shaped by what the
//! element type can hold: the magnitudes of a sum over all ranks stay within the integers that the type represents, the
//! factors of a product are powers of two whose exponents fit. Then no partial result rounds or overflows, whatever the
//! order in which ranks meet, and the expected value is computed here once more, in 128-bit integers or binary64, by code
//! that shares nothing with the library's own kernels. Integer sums and products are free to wrap around: that is exact.
//!
//! Values repeat every [`PERIOD`](super::pattern::PERIOD) elements, see [`Pattern`].
#![forbid(unsafe_code)]

use crate::perf::pattern::Pattern;
use crate::types::{DType, Rank, ReduceOp, Scalar};

/// A reduction as the command line names it; what each rank passes can differ (the factor of `mulsum`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RedOp {
    /// Sum.
    Sum,
    /// Product.
    Prod,
    /// Minimum.
    Min,
    /// Maximum.
    Max,
    /// Average.
    Avg,
    /// Sum of pre-multiplied inputs: the factor is 1 on even ranks and 2 on odd ones.
    MulSum,
    /// Bitwise and.
    BitAnd,
    /// Bitwise or.
    BitOr,
    /// Bitwise exclusive or.
    BitXor,
}

impl RedOp {
    /// All of them, in the order in which `-o all` runs them.
    pub const ALL: [RedOp; 9] = [
        RedOp::Sum,
        RedOp::Prod,
        RedOp::Min,
        RedOp::Max,
        RedOp::Avg,
        RedOp::MulSum,
        RedOp::BitAnd,
        RedOp::BitOr,
        RedOp::BitXor,
    ];

    /// What `rank` passes to the library.
    pub fn for_rank(self, rank: Rank, dtype: DType) -> ReduceOp {
        match self {
            RedOp::Sum => ReduceOp::Sum,
            RedOp::Prod => ReduceOp::Prod,
            RedOp::Min => ReduceOp::Min,
            RedOp::Max => ReduceOp::Max,
            RedOp::Avg => ReduceOp::Avg,
            RedOp::MulSum => ReduceOp::PreMulSum(Scalar { bits: Value::factor(rank, dtype).encode(dtype), dtype }),
            RedOp::BitAnd => ReduceOp::BitAnd,
            RedOp::BitOr => ReduceOp::BitOr,
            RedOp::BitXor => ReduceOp::BitXor,
        }
    }

    /// The name in tables.
    pub fn name(self) -> &'static str {
        self.for_rank(0, DType::F32).name()
    }

    /// Whether the op is defined on this element type.
    pub fn accepts(self, dtype: DType) -> bool {
        self.for_rank(0, dtype).accepts(dtype)
    }
}

/// One element, outside of its type's own arithmetic.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Value {
    Int(i128),
    Float(f64),
}

impl Value {
    fn new(value: i128, dtype: DType) -> Value {
        if dtype.is_integer() { Value::Int(wrap(value, dtype)) } else { Value::Float(value as f64) }
    }

    /// The factor of `mulsum`.
    fn factor(rank: Rank, dtype: DType) -> Value {
        Value::new(1 + (rank as i128 & 1), dtype)
    }

    /// The element's bits. Exact by construction of the values; that is asserted where it could go wrong.
    fn encode(self, dtype: DType) -> u64 {
        match (self, dtype) {
            (Value::Int(value), _) => value as u64 & (u64::MAX >> (64 - 8 * dtype.size_bytes())),
            (Value::Float(value), DType::F64) => value.to_bits(),
            (Value::Float(value), DType::F32) => (value as f32).to_bits().into(),
            (Value::Float(value), DType::F16) => half::f16::from_f64(value).to_bits().into(),
            (Value::Float(value), DType::Bf16) => half::bf16::from_f64(value).to_bits().into(),
            (Value::Float(value), DType::F8E4M3) => encode_f8(value, 3, 7),
            (Value::Float(value), _) => encode_f8(value, 2, 15),
        }
    }
}

/// The code of a value that an 8-bit float with this many mantissa bits and this bias holds as a normal number, or zero.
fn encode_f8(value: f64, mantissa_bits: u32, bias: i64) -> u64 {
    let bits = value.to_bits();
    let sign = (bits >> 63) << 7;
    if value == 0.0 {
        return sign;
    }
    let exponent = ((bits >> 52) & 0x7ff) as i64 - 1023 + bias;
    let mantissa = bits & ((1 << 52) - 1);
    assert!(
        (1..=2 * bias).contains(&exponent) && mantissa.trailing_zeros() >= 52 - mantissa_bits,
        "check data {value} does not fit an 8-bit float"
    );
    sign | (exponent as u64) << mantissa_bits | mantissa >> (52 - mantissa_bits)
}

/// Two's complement: what is left of an integer in the element type.
fn wrap(value: i128, dtype: DType) -> i128 {
    match dtype {
        DType::I8 => value as i8 as i128,
        DType::U8 => value as u8 as i128,
        DType::I32 => value as i32 as i128,
        DType::U32 => value as u32 as i128,
        DType::I64 => value as i64 as i128,
        _ => value as u64 as i128,
    }
}

/// The largest n such that the type holds every integer of -n..=n exactly (0..=n where it has no sign); no more than
/// thousands are ever needed.
fn largest_exact(dtype: DType) -> i128 {
    match dtype {
        DType::F8E5M2 => 8,
        DType::F8E4M3 => 16,
        DType::I8 => i8::MAX.into(),
        DType::U8 => u8::MAX.into(),
        DType::Bf16 => 256,
        DType::F16 => 2048,
        _ => 1 << 24,
    }
}

/// The largest e such that the type holds 2^-e and 2^e as normal numbers.
fn largest_exponent(dtype: DType) -> usize {
    match dtype {
        DType::F8E4M3 => 6,
        DType::F8E5M2 | DType::F16 => 14,
        _ => 100,
    }
}

/// Which values a check uses: the same description on every rank gives the same numbers.
#[derive(Debug, Clone, Copy)]
pub struct Recipe {
    /// The element type.
    pub dtype: DType,
    /// The reduction; without one values are arbitrary bits, which must arrive unchanged.
    pub op: Option<RedOp>,
    /// How many ranks contribute.
    pub world: usize,
    /// Other seed, other values.
    pub seed: u64,
}

impl Recipe {
    /// One period of `rank`'s vector.
    pub fn input(&self, rank: Rank) -> Pattern {
        Pattern::new(self.dtype, |index| self.input_bits(rank, index))
    }

    /// One period of the reduction over all ranks.
    pub fn reduced(&self) -> Pattern {
        Pattern::new(self.dtype, |index| self.reduced_value(index).encode(self.dtype))
    }

    fn input_bits(&self, rank: Rank, index: usize) -> u64 {
        match self.op {
            Some(op) => self.input_value(op, rank, index).encode(self.dtype),
            None => self.hash(rank, index),
        }
    }

    fn input_value(&self, op: RedOp, rank: Rank, index: usize) -> Value {
        let hash = self.hash(rank, index);
        let integer = self.dtype.is_integer();
        match op {
            RedOp::Sum | RedOp::MulSum if integer => Value::new(hash.into(), self.dtype),
            RedOp::Prod if integer => Value::new((hash | 1).into(), self.dtype),
            RedOp::Min | RedOp::Max if integer => Value::new(hash.into(), self.dtype),
            // Mostly ones for `and`, mostly zeros for `or`: the result of many ranks is neither all zeros nor all ones.
            RedOp::BitAnd => Value::new((hash | mix(hash) | mix(mix(hash))).into(), self.dtype),
            RedOp::BitOr => Value::new((hash & mix(hash) & mix(mix(hash))).into(), self.dtype),
            RedOp::BitXor => Value::new(hash.into(), self.dtype),
            RedOp::Min | RedOp::Max => Value::new(spread(hash, largest_exact(self.dtype).min(1000)), self.dtype),
            RedOp::Sum => Value::new(self.share(rank, index, largest_exact(self.dtype)), self.dtype),
            RedOp::MulSum => Value::new(self.share(rank, index, largest_exact(self.dtype) / 2), self.dtype),
            RedOp::Prod => {
                let exponent = if self.contributes(rank, index, self.world, largest_exponent(self.dtype)) {
                    spread(hash, 1)
                } else {
                    0
                };
                let sign = if hash >> 63 == 1 { -1.0 } else { 1.0 };
                Value::Float(sign * (exponent as f64).exp2())
            }
            RedOp::Avg => Value::new(self.divisible(rank, index), self.dtype),
        }
    }

    /// A signed term: whichever way they are added up, the terms of all ranks stay within `limit`.
    fn share(&self, rank: Rank, index: usize, limit: i128) -> i128 {
        let contributors = self.world.min(limit as usize);
        if !self.contributes(rank, index, self.world, contributors) {
            return 0;
        }
        spread(self.hash(rank, index), (limit / contributors as i128).min(1000))
    }

    /// A term of a sum that the number of ranks divides: the same quotient on every rank, plus a difference that a
    /// neighbour takes back.
    fn divisible(&self, rank: Rank, index: usize) -> i128 {
        let (world, limit) = (self.world as i128, largest_exact(self.dtype));
        let unsigned = matches!(self.dtype, DType::U8 | DType::U32 | DType::U64);
        let quotient_limit = (limit / (2 * world)).min(1000);
        let quotient = spread(self.hash(usize::MAX, index), quotient_limit);
        let pairs = self.world / 2;
        let pair = rank / 2;
        if pair >= pairs {
            return if unsigned { quotient.abs() } else { quotient };
        }
        let active = pairs.min((limit / 2) as usize);
        let room = (limit - world * quotient_limit) / (2 * active as i128);
        let difference = if self.contributes(pair, index, pairs, active) {
            spread(self.hash(usize::MAX - 1 - pair, index), room.min(1000))
        } else {
            0
        };
        let difference = if rank.is_multiple_of(2) { difference } else { -difference };
        if unsigned {
            // Without negative numbers the difference may only eat from the quotient.
            let quotient = quotient.abs();
            return quotient + difference.clamp(-quotient, quotient);
        }
        quotient + difference
    }

    /// Whether `who` is among the `active` of `all` that take part at this element.
    fn contributes(&self, who: usize, index: usize, all: usize, active: usize) -> bool {
        let turn = self.hash(usize::MAX, index) as usize % all;
        (who + turn) % all < active
    }

    fn reduced_value(&self, index: usize) -> Value {
        let op = self.op.expect("only reductions have a reduced value");
        let term = |rank| match (op, self.input_value(op, rank, index), Value::factor(rank, self.dtype)) {
            (RedOp::MulSum, Value::Int(value), Value::Int(factor)) => Value::Int(wrap(value * factor, self.dtype)),
            (RedOp::MulSum, Value::Float(value), Value::Float(factor)) => Value::Float(value * factor),
            (_, value, _) => value,
        };
        let total = (1..self.world).map(term).fold(term(0), |a, b| match (a, b) {
            (Value::Int(a), Value::Int(b)) => Value::Int(wrap(combine_integers(op, a, b), self.dtype)),
            (Value::Float(a), Value::Float(b)) => Value::Float(combine_floats(op, a, b)),
            _ => unreachable!("all values of a type are of one kind"),
        });
        match (op, total) {
            (RedOp::Avg, Value::Int(total)) => Value::Int(total / self.world as i128),
            (RedOp::Avg, Value::Float(total)) => Value::Float(total / self.world as f64),
            (_, total) => total,
        }
    }

    fn hash(&self, rank: usize, index: usize) -> u64 {
        mix(mix(self.seed ^ (rank as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)) ^ index as u64)
    }
}

fn combine_integers(op: RedOp, a: i128, b: i128) -> i128 {
    match op {
        RedOp::Sum | RedOp::MulSum | RedOp::Avg => a + b,
        // Both are within 64 bits; of a product only the low 64 bits matter.
        RedOp::Prod => a.wrapping_mul(b),
        RedOp::Min => a.min(b),
        RedOp::Max => a.max(b),
        RedOp::BitAnd => a & b,
        RedOp::BitOr => a | b,
        RedOp::BitXor => a ^ b,
    }
}

fn combine_floats(op: RedOp, a: f64, b: f64) -> f64 {
    match op {
        RedOp::Prod => a * b,
        RedOp::Min => a.min(b),
        RedOp::Max => a.max(b),
        _ => a + b,
    }
}

/// An integer of -limit..=limit.
fn spread(hash: u64, limit: i128) -> i128 {
    i128::from(hash >> 1) % (2 * limit + 1) - limit
}

/// The finaliser of splitmix64.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::perf::pattern::PERIOD;

    const WORLDS: [usize; 12] = [1, 2, 3, 4, 5, 7, 8, 12, 17, 64, 130, 1000];

    fn decode_f8(code: u64, mantissa_bits: u32, bias: i32) -> f64 {
        let sign = if code >> 7 == 1 { -1.0 } else { 1.0 };
        let exponent = (code >> mantissa_bits & (0x7f >> mantissa_bits)) as i32;
        let mantissa = (code & ((1 << mantissa_bits) - 1)) as f64 / f64::from(1 << mantissa_bits);
        let (lead, exponent) = if exponent == 0 { (0.0, 1) } else { (1.0, exponent) };
        sign * (lead + mantissa) * f64::from(exponent - bias).exp2()
    }

    fn decode(bits: u64, dtype: DType) -> f64 {
        match dtype {
            DType::F64 => f64::from_bits(bits),
            DType::F32 => f32::from_bits(bits as u32).into(),
            DType::F16 => half::f16::from_bits(bits as u16).to_f64(),
            DType::Bf16 => half::bf16::from_bits(bits as u16).to_f64(),
            DType::F8E4M3 => decode_f8(bits, 3, 7),
            _ => decode_f8(bits, 2, 15),
        }
    }

    /// True when an order of any kind cannot round: every subset's sum (bounded by the sum of magnitudes) is an integer
    /// that the type holds, or every subset's product a power of two that it holds.
    fn exact_in_any_order(recipe: &Recipe, op: RedOp, index: usize) -> bool {
        let values: Vec<f64> = (0..recipe.world)
            .map(|rank| decode(recipe.input_bits(rank, index), recipe.dtype))
            .enumerate()
            .map(|(rank, value)| if op == RedOp::MulSum { value * (1 + rank % 2) as f64 } else { value })
            .collect();
        match op {
            RedOp::Prod => {
                let exponents: f64 = values.iter().map(|value| value.abs().log2().abs()).sum();
                values.iter().all(|value| value.abs().log2().fract() == 0.0)
                    && exponents <= largest_exponent(recipe.dtype) as f64
            }
            RedOp::Min | RedOp::Max => true,
            _ => {
                values.iter().all(|value| value.fract() == 0.0)
                    && values.iter().map(|value| value.abs()).sum::<f64>() <= largest_exact(recipe.dtype) as f64
            }
        }
    }

    #[test]
    fn float_reductions_are_exact_in_any_order() {
        for dtype in DType::ALL.into_iter().filter(|dtype| !dtype.is_integer()) {
            for op in RedOp::ALL.into_iter().filter(|op| op.accepts(dtype)) {
                for world in WORLDS {
                    let recipe = Recipe { dtype, op: Some(op), world, seed: 7 };
                    for index in (0..PERIOD).step_by(151) {
                        assert!(
                            exact_in_any_order(&recipe, op, index),
                            "{dtype} {op:?} {world} ranks, element {index}"
                        );
                        let expected = recipe.reduced_value(index);
                        let Value::Float(number) = expected else { panic!("an integer for {dtype}") };
                        assert_eq!(decode(expected.encode(dtype), dtype), number, "{dtype} {op:?} {world}");
                    }
                }
            }
        }
    }

    #[test]
    fn integer_averages_neither_overflow_nor_leave_a_rest() {
        for dtype in DType::ALL.into_iter().filter(|dtype| dtype.is_integer()) {
            for world in WORLDS {
                let recipe = Recipe { dtype, op: Some(RedOp::Avg), world, seed: 1 };
                for index in (0..PERIOD).step_by(97) {
                    let values: Vec<i128> = (0..world).map(|rank| recipe.divisible(rank, index)).collect();
                    let unsigned = matches!(dtype, DType::U8 | DType::U32 | DType::U64);
                    assert!(!unsigned || values.iter().all(|&value| value >= 0), "{dtype} {world}: {values:?}");
                    assert!(values.iter().map(|value| value.abs()).sum::<i128>() <= largest_exact(dtype));
                    assert_eq!(values.iter().sum::<i128>() % world as i128, 0);
                }
            }
        }
    }

    #[test]
    fn integers_wrap_like_the_type_itself() {
        let recipe = Recipe { dtype: DType::I8, op: Some(RedOp::Prod), world: 5, seed: 3 };
        for index in 0..100 {
            let bits = (0..5).map(|rank| recipe.input_bits(rank, index) as u8 as i8);
            let product = bits.fold(1i8, i8::wrapping_mul);
            assert_eq!(recipe.reduced_value(index).encode(DType::I8), u64::from(product as u8));
        }
    }

    #[test]
    fn values_matter() {
        // Leaving out any rank, or taking one twice, must change many elements of a sum.
        for dtype in DType::ALL {
            for world in [2, 3, 8] {
                let recipe = Recipe { dtype, op: Some(RedOp::Sum), world, seed: 11 };
                for rank in 0..world {
                    let zero = Value::new(0, dtype);
                    let alive = (0..1000).filter(|&index| recipe.input_value(RedOp::Sum, rank, index) != zero).count();
                    assert!(alive > 500, "{dtype} {world} ranks: only {alive} of 1000 elements of rank {rank} count");
                }
            }
        }
    }

    #[test]
    fn the_factor_of_mulsum_is_one_or_two() {
        let ReduceOp::PreMulSum(scalar) = RedOp::MulSum.for_rank(3, DType::F8E5M2) else { panic!() };
        assert_eq!(decode_f8(scalar.bits, 2, 15), 2.0);
        let ReduceOp::PreMulSum(scalar) = RedOp::MulSum.for_rank(2, DType::I64) else { panic!() };
        assert_eq!(scalar.bits, 1);
    }
}
