//! The words every other module uses: who ([`Rank`]), what the elements are ([`DType`]), how they are combined
//! ([`ReduceOp`]) and which pattern moves them ([`Collective`]).
#![forbid(unsafe_code)]

use std::fmt;

/// A member of a communicator, counted from 0. Ranks are local to a communicator: after `split` they are renumbered.
pub type Rank = usize;

/// Element type of a buffer. The discriminants are NCCL's `ncclDataType_t`, so a value crosses the C ABI unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
#[non_exhaustive]
pub enum DType {
    /// 8-bit signed integer.
    I8 = 0,
    /// 8-bit unsigned integer.
    U8 = 1,
    /// 32-bit signed integer.
    I32 = 2,
    /// 32-bit unsigned integer.
    U32 = 3,
    /// 64-bit signed integer.
    I64 = 4,
    /// 64-bit unsigned integer.
    U64 = 5,
    /// IEEE binary16.
    F16 = 6,
    /// IEEE binary32.
    F32 = 7,
    /// IEEE binary64.
    F64 = 8,
    /// The upper half of a binary32.
    Bf16 = 9,
    /// 8-bit float, 4 exponent and 3 mantissa bits, no infinities (OCP E4M3FN, maximum 448).
    F8E4M3 = 10,
    /// 8-bit float, 5 exponent and 2 mantissa bits (OCP E5M2, maximum 57344).
    F8E5M2 = 11,
}

impl DType {
    /// Every element type, in the order of their discriminants.
    pub const ALL: [DType; 12] = [
        DType::I8,
        DType::U8,
        DType::I32,
        DType::U32,
        DType::I64,
        DType::U64,
        DType::F16,
        DType::F32,
        DType::F64,
        DType::Bf16,
        DType::F8E4M3,
        DType::F8E5M2,
    ];

    /// Bytes of one element.
    ///
    /// ```
    /// assert_eq!(roundel::DType::Bf16.size_bytes(), 2);
    /// ```
    pub const fn size_bytes(self) -> usize {
        match self {
            DType::I8 | DType::U8 | DType::F8E4M3 | DType::F8E5M2 => 1,
            DType::F16 | DType::Bf16 => 2,
            DType::I32 | DType::U32 | DType::F32 => 4,
            DType::I64 | DType::U64 | DType::F64 => 8,
        }
    }

    /// True for the integer types, the only ones that take the bitwise operations.
    pub const fn is_integer(self) -> bool {
        matches!(self, DType::I8 | DType::U8 | DType::I32 | DType::U32 | DType::I64 | DType::U64)
    }

    /// The name used on the command line and in tables, as nccl-tests spells it.
    pub const fn name(self) -> &'static str {
        match self {
            DType::I8 => "int8",
            DType::U8 => "uint8",
            DType::I32 => "int32",
            DType::U32 => "uint32",
            DType::I64 => "int64",
            DType::U64 => "uint64",
            DType::F16 => "half",
            DType::F32 => "float",
            DType::F64 => "double",
            DType::Bf16 => "bfloat16",
            DType::F8E4M3 => "f8e4m3",
            DType::F8E5M2 => "f8e5m2",
        }
    }

    /// The element type with this discriminant, if there is one: the check for values that come from outside.
    pub fn from_code(code: u8) -> Option<DType> {
        DType::ALL.get(code as usize).copied()
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A factor for [`ReduceOp::PreMulSum`]: one element, kept as the little-endian bits of the call's element type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Scalar {
    /// The element's bits, in the low bytes.
    pub bits: u64,
    /// The type those bits are to be read as; it must be the call's.
    pub dtype: DType,
}

/// How the contributions of the ranks are combined, element by element.
///
/// | op | defined as |
/// |---|---|
/// | `Sum`, `Prod` | integers wrap around; floats follow IEEE 754, f16, bf16 and fp8 compute in f32 and round to nearest even |
/// | `Min`, `Max` | a NaN anywhere gives NaN; -0 is below +0 |
/// | `Avg` | the sum divided by the number of ranks; integers truncate toward zero |
/// | `PreMulSum` | every rank multiplies its own input by its own factor (rounding to the element type), then `Sum` |
/// | `BitAnd`, `BitOr`, `BitXor` | integers only; on floats the call is an error |
///
/// A result that is not a number is always the one canonical quiet NaN of its type, so that every rank holds the same
/// bits; only a world of one copies its input as it is. fp8-e4m3 has no infinity: what is too large becomes NaN (as the OCP conversion without saturation).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ReduceOp {
    /// Sum.
    Sum,
    /// Product.
    Prod,
    /// Maximum; NaN wins.
    Max,
    /// Minimum; NaN wins.
    Min,
    /// Sum divided by the number of ranks.
    Avg,
    /// Sum of inputs, each first multiplied by the calling rank's factor.
    PreMulSum(Scalar),
    /// Bitwise and.
    BitAnd,
    /// Bitwise or.
    BitOr,
    /// Bitwise exclusive or.
    BitXor,
}

impl ReduceOp {
    /// The names of all ops, at their [`ReduceOp::code`].
    pub(crate) const NAMES: [&'static str; 9] = ["sum", "prod", "max", "min", "avg", "mulsum", "band", "bor", "bxor"];

    /// NCCL's number for the op (`ncclRedOp_t`); pre-multiplied sum and the bitwise ops, which NCCL lacks as
    /// constants, follow.
    pub const fn code(self) -> u8 {
        match self {
            ReduceOp::Sum => 0,
            ReduceOp::Prod => 1,
            ReduceOp::Max => 2,
            ReduceOp::Min => 3,
            ReduceOp::Avg => 4,
            ReduceOp::PreMulSum(_) => 5,
            ReduceOp::BitAnd => 6,
            ReduceOp::BitOr => 7,
            ReduceOp::BitXor => 8,
        }
    }

    /// The name used on the command line and in tables.
    pub const fn name(self) -> &'static str {
        ReduceOp::NAMES[self.code() as usize]
    }

    /// Whether the op is defined on this element type.
    pub const fn accepts(self, dtype: DType) -> bool {
        match self {
            ReduceOp::BitAnd | ReduceOp::BitOr | ReduceOp::BitXor => dtype.is_integer(),
            ReduceOp::PreMulSum(scalar) => scalar.dtype as u8 == dtype as u8,
            _ => true,
        }
    }
}

impl fmt::Display for ReduceOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The pattern of a call: who contributes what and who ends with what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[repr(u8)]
#[non_exhaustive]
pub enum Collective {
    /// Everyone ends with the reduction of everyone's vector.
    AllReduce = 0,
    /// The root ends with the reduction of everyone's vector.
    Reduce = 1,
    /// Everyone ends with the root's vector.
    Broadcast = 2,
    /// Rank r ends with block r of the reduction. Blocks may differ in size (`reduce_scatter_v`).
    ReduceScatter = 3,
    /// Everyone ends with all blocks, block r from rank r. Blocks may differ in size (`all_gather_v`).
    AllGather = 4,
    /// The root ends with all blocks, block r from rank r.
    Gather = 5,
    /// Rank r ends with block r of the root's vector.
    Scatter = 6,
    /// Block j of rank i becomes block i of rank j. Blocks may differ in size (`all_to_all_v`).
    AllToAll = 7,
    /// Nobody leaves before everybody has entered.
    Barrier = 8,
    /// One rank's vector to one other rank.
    SendRecv = 9,
}

impl Collective {
    /// Every collective, in the order of their discriminants.
    pub const ALL: [Collective; 10] = [
        Collective::AllReduce,
        Collective::Reduce,
        Collective::Broadcast,
        Collective::ReduceScatter,
        Collective::AllGather,
        Collective::Gather,
        Collective::Scatter,
        Collective::AllToAll,
        Collective::Barrier,
        Collective::SendRecv,
    ];

    /// The collective with this discriminant, if there is one: the check for values that come from outside.
    ///
    /// ```
    /// assert_eq!(roundel::Collective::from_code(2), Some(roundel::Collective::Broadcast));
    /// ```
    pub fn from_code(code: u8) -> Option<Collective> {
        Collective::ALL.get(code as usize).copied()
    }

    /// The name as the API spells it.
    pub const fn name(self) -> &'static str {
        match self {
            Collective::AllReduce => "all_reduce",
            Collective::Reduce => "reduce",
            Collective::Broadcast => "broadcast",
            Collective::ReduceScatter => "reduce_scatter",
            Collective::AllGather => "all_gather",
            Collective::Gather => "gather",
            Collective::Scatter => "scatter",
            Collective::AllToAll => "all_to_all",
            Collective::Barrier => "barrier",
            Collective::SendRecv => "send_recv",
        }
    }

    /// True where contributions are combined, so that a [`ReduceOp`] is part of the call.
    pub const fn reduces(self) -> bool {
        matches!(self, Collective::AllReduce | Collective::Reduce | Collective::ReduceScatter)
    }

    /// True where one rank plays a special part.
    pub const fn has_root(self) -> bool {
        matches!(self, Collective::Reduce | Collective::Broadcast | Collective::Gather | Collective::Scatter)
    }
}

impl fmt::Display for Collective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
