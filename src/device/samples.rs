//! Operands that find out devices: every operation, and elements at which something special happens.
#![forbid(unsafe_code)]

use super::host::reference;
use crate::types::DType;
#[cfg(test)]
use crate::types::ReduceOp;

/// Every operation without a factor.
#[cfg(test)]
pub(crate) const OPS: [ReduceOp; 8] = [
    ReduceOp::Sum,
    ReduceOp::Prod,
    ReduceOp::Max,
    ReduceOp::Min,
    ReduceOp::Avg,
    ReduceOp::BitAnd,
    ReduceOp::BitOr,
    ReduceOp::BitXor,
];
/// A sequence of numbers that looks random and is always the same (splitmix64).
pub(crate) struct Noise(pub(crate) u64);

impl Noise {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
}

/// Bits at which something special happens in this type, of either sign.
pub(crate) fn special(dtype: DType) -> Vec<u64> {
    let width = dtype.size_bytes() * 8;
    let sign = 1u64 << (width - 1);
    let magnitudes: Vec<u64> = match dtype {
        DType::F64 => {
            let (inf, one) = (0x7ff0_0000_0000_0000, 0x3ff0_0000_0000_0000);
            vec![0, 1, 2, (1 << 52) - 1, 1 << 52, one - 1, one, one + 1, inf - 1, inf, inf + 1, sign - 1, inf | 1 << 51]
        }
        DType::F32 => {
            let (inf, one) = (0x7f80_0000, 0x3f80_0000);
            vec![0, 1, 2, (1 << 23) - 1, 1 << 23, one - 1, one, one + 1, inf - 1, inf, inf + 1, sign - 1, inf | 1 << 22]
        }
        DType::F16 => {
            vec![0, 1, 2, 0x3ff, 0x400, 0x3bff, 0x3c00, 0x3c01, 0x7bff, 0x7c00, 0x7c01, 0x7dff, 0x7e00, 0x7fff]
        }
        DType::Bf16 => {
            vec![0, 1, 2, 0x7f, 0x80, 0x3f7f, 0x3f80, 0x3f81, 0x7f7f, 0x7f80, 0x7f81, 0x7fbf, 0x7fc0, 0x7fff]
        }
        DType::F8E4M3 | DType::F8E5M2 => (0..0x80).collect(),
        _ => vec![0, 1, 2, 3, 10, sign >> 1, sign - 2, sign - 1],
    };
    magnitudes.iter().flat_map(|&m| [m, m | sign, m.wrapping_neg() & (sign | (sign - 1))]).collect()
}

/// `len` elements: special ones, and any.
pub(crate) fn elements(dtype: DType, len: usize, noise: &mut Noise) -> Vec<u8> {
    let special = special(dtype);
    let mut bytes = Vec::with_capacity(len * dtype.size_bytes());
    for _ in 0..len {
        let bits = match noise.next() % 4 {
            0 => special[noise.next() as usize % special.len()],
            // Near one another, so that sums round and cancel rather than overflow.
            1 if !dtype.is_integer() => reference::encode(dtype, (noise.next() % 4096) as f64 / 512.0 - 4.0),
            _ => noise.next(),
        };
        bytes.extend_from_slice(&bits.to_le_bytes()[..dtype.size_bytes()]);
    }
    bytes
}

/// Fails at the first element that differs.
#[cfg(test)]
#[track_caller]
pub(crate) fn assert_same(dtype: DType, got: &[u8], wanted: &[u8], what: &str) {
    if got != wanted {
        let size = dtype.size_bytes();
        let at = (0..wanted.len()).step_by(size).find(|&at| got[at..at + size] != wanted[at..at + size]).unwrap();
        panic!("{what}: element {}: {:02x?}, not {:02x?}", at / size, &got[at..at + size], &wanted[at..at + size]);
    }
}
