//! The parameter of a launch, which kernel gets it, and how many threads. `kernels/reduce.cuh` has the other side.
#![forbid(unsafe_code)]

use crate::types::{DType, ReduceOp};

/// Threads of a block: `BLOCK` in `kernels/entries.cuh`.
pub(super) const BLOCK_THREADS: usize = 256;
/// Results that one launch writes.
pub(super) const MOST_OUTPUTS: usize = 16;
/// Operands whose addresses travel with a launch; those of more are in a table.
pub(super) const MOST_OPERANDS: usize = 256;
const VECTOR_BYTES: usize = 16;

/// A kernel, by what it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kernel {
    /// One input into several outputs, in bytes.
    Copy,
    /// Times a factor.
    Scale(DType),
    /// Operands joined by an operation.
    Reduce(Shape, DType, Op),
}

/// How a reduction goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Shape {
    /// Two operands.
    Two,
    /// Up to eight.
    Eight,
    /// Any number, anywhere.
    Any,
}

/// What kernels tell apart of operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Op {
    Sum,
    Prod,
    Min,
    Max,
    /// A sum that is divided.
    Avg,
    And,
    Or,
    Xor,
}

impl Op {
    /// `divides` says whether the sum of an average is divided now.
    pub(super) fn of(op: ReduceOp, divides: bool) -> Op {
        match op {
            ReduceOp::Avg if divides => Op::Avg,
            ReduceOp::Sum | ReduceOp::Avg | ReduceOp::PreMulSum(_) => Op::Sum,
            ReduceOp::Prod => Op::Prod,
            ReduceOp::Min => Op::Min,
            ReduceOp::Max => Op::Max,
            ReduceOp::BitAnd => Op::And,
            ReduceOp::BitOr => Op::Or,
            ReduceOp::BitXor => Op::Xor,
        }
    }

    fn depends_on_sign(self) -> bool {
        matches!(self, Op::Min | Op::Max | Op::Avg)
    }

    fn word(self) -> &'static str {
        match self {
            Op::Sum => "sum",
            Op::Prod => "prod",
            Op::Min => "min",
            Op::Max => "max",
            Op::Avg => "avg",
            Op::And => "and",
            Op::Or => "or",
            Op::Xor => "xor",
        }
    }
}

fn unsigned(dtype: DType) -> DType {
    match dtype {
        DType::I8 => DType::U8,
        DType::I32 => DType::U32,
        DType::I64 => DType::U64,
        other => other,
    }
}

impl Kernel {
    /// What does not depend on the sign is there for unsigned integers only.
    pub(super) fn reduce(shape: Shape, dtype: DType, op: Op) -> Kernel {
        Kernel::Reduce(shape, if op.depends_on_sign() { dtype } else { unsigned(dtype) }, op)
    }

    pub(super) fn scale(dtype: DType) -> Kernel {
        Kernel::Scale(unsigned(dtype))
    }

    /// The module that it is in.
    pub(super) fn module(self) -> &'static str {
        match self {
            Kernel::Copy => "copy",
            Kernel::Scale(dtype) | Kernel::Reduce(_, dtype, _) => match dtype {
                DType::I8 => "i8",
                DType::U8 => "u8",
                DType::I32 => "i32",
                DType::U32 => "u32",
                DType::I64 => "i64",
                DType::U64 => "u64",
                DType::F16 => "f16",
                DType::F32 => "f32",
                DType::F64 => "f64",
                DType::Bf16 => "bf16",
                DType::F8E4M3 => "f8e4m3",
                DType::F8E5M2 => "f8e5m2",
            },
        }
    }

    /// Its name there.
    pub(super) fn entry(self) -> String {
        let module = self.module();
        match self {
            Kernel::Copy => module.into(),
            Kernel::Scale(_) => format!("scale_{module}"),
            Kernel::Reduce(shape, _, op) => {
                let shape = match shape {
                    Shape::Two => "two",
                    Shape::Eight => "eight",
                    Shape::Any => "any",
                };
                format!("reduce_{shape}_{module}_{}", op.word())
            }
        }
    }
}

/// What a kernel is given: `Reduction` in `kernels/reduce.cuh`. Kernels for few operands read no further than they need.
#[derive(Debug, Clone)]
#[repr(C)]
pub(super) struct Reduction {
    len: u64,
    head: u64,
    vectors: u64,
    parameter: u64,
    table: u64,
    operand_count: u32,
    output_count: u32,
    is_bytewise: u32,
    reserved: u32,
    into: [u64; MOST_OUTPUTS],
    from: [u64; MOST_OPERANDS],
}

impl Reduction {
    /// `len` elements of `size_bytes`. At most [`MOST_OUTPUTS`] outputs; of more than [`MOST_OPERANDS`] operands the caller
    /// has put the addresses in a `table` on the device.
    pub(super) fn new(
        size_bytes: usize,
        len: usize,
        from: &[u64],
        into: &[u64],
        table: Option<u64>,
        parameter: u64,
    ) -> Reduction {
        let size = size_bytes as u64;
        let mut all = from.iter().chain(into);
        let past_vector = into.first().map_or(0, |address| address % VECTOR_BYTES as u64);
        let (mut is_bytewise, mut is_alike) = (false, true);
        for address in &mut all {
            is_bytewise |= address % size != 0;
            is_alike &= address % VECTOR_BYTES as u64 == past_vector;
        }
        let (mut head, mut vectors) = (0, 0);
        if is_alike && !is_bytewise {
            let before = (VECTOR_BYTES as u64 - past_vector) % VECTOR_BYTES as u64;
            head = (before / size).min(len as u64);
            vectors = (len as u64 - head) * size / VECTOR_BYTES as u64;
        }
        let mut call = Reduction {
            len: len as u64,
            head,
            vectors,
            parameter,
            table: table.unwrap_or(0),
            operand_count: from.len() as u32,
            output_count: into.len() as u32,
            is_bytewise: is_bytewise.into(),
            reserved: 0,
            into: [0; MOST_OUTPUTS],
            from: [0; MOST_OPERANDS],
        };
        call.into[..into.len()].copy_from_slice(into);
        if table.is_none() {
            call.from[..from.len()].copy_from_slice(from);
        }
        call
    }

    /// The kernel's shape.
    pub(super) fn shape(&self) -> Shape {
        match self.operand_count {
            _ if self.is_bytewise != 0 => Shape::Any,
            2 => Shape::Two,
            ..=8 => Shape::Eight,
            _ => Shape::Any,
        }
    }

    /// Blocks enough that every thread has something to do, but no more than run at once.
    pub(super) fn blocks(&self, kernel: Kernel, size_bytes: usize, threads_at_once: usize) -> u32 {
        let in_vectors = self.vectors * (VECTOR_BYTES / size_bytes) as u64;
        let turns = match kernel {
            Kernel::Reduce(Shape::Any, ..) => self.len,
            // The same threads take the elements at both ends.
            _ => self.vectors.max(self.len - in_vectors),
        };
        let most = (threads_at_once / BLOCK_THREADS).max(1) as u64;
        turns.div_ceil(BLOCK_THREADS as u64).clamp(1, most) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_are_where_all_operands_are_aligned_alike() {
        let call = |size, len, from: &[u64], into: &[u64]| {
            let call = Reduction::new(size, len, from, into, None, 0);
            (call.head, call.vectors, call.shape())
        };
        assert_eq!(call(4, 100, &[0x1000, 0x2000], &[0x1000]), (0, 25, Shape::Two));
        assert_eq!(call(4, 100, &[0x1004, 0x2004], &[0x3014]), (3, 24, Shape::Two));
        assert_eq!(call(2, 3, &[0x1002, 0x2002, 0x5002], &[0x3002]), (3, 0, Shape::Eight));
        assert_eq!(call(4, 100, &[0x1004, 0x2008], &[0x3004]), (0, 0, Shape::Two));
        assert_eq!(call(4, 100, &[0x1001, 0x2001], &[0x3001]), (0, 0, Shape::Any));
        assert_eq!(call(8, 100, &[0x1004, 0x2004], &[0x3004]), (0, 0, Shape::Any));
        assert_eq!(call(1, 100, &[0x1000; 9], &[0x3000]), (0, 6, Shape::Any));
    }

    #[test]
    fn a_grid_has_work_for_all_its_threads_and_ends_where_the_gpu_does() {
        let blocks = |len, shape| {
            let kernel = Kernel::reduce(shape, DType::F32, Op::Sum);
            Reduction::new(4, len, &[0x1000, 0x2000], &[0x1000], None, 0).blocks(kernel, 4, 132 * 2048)
        };
        assert_eq!([1, 1024, 1028].map(|len| blocks(len, Shape::Two)), [1, 1, 2]);
        assert_eq!([256, 257].map(|len| blocks(len, Shape::Any)), [1, 2]);
        assert_eq!(blocks(1 << 30, Shape::Two), 132 * 8);
    }

    #[test]
    fn the_parameter_is_as_long_as_in_the_kernels() {
        assert_eq!(size_of::<Reduction>(), 56 + 8 * MOST_OUTPUTS + 8 * MOST_OPERANDS);
        let text = include_str!("../../../kernels/ptx/f32.ptx");
        assert!(text.contains(&format!("p[{}]", size_of::<Reduction>())), "kernels for any number of operands");
        assert!(text.contains(&format!("p[{}]", size_of::<Reduction>() - 8 * (MOST_OPERANDS - 8))), "for up to eight");
    }
}
