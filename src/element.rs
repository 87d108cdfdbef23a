//! The Rust types that buffers may hold: [`Element`].
#![forbid(unsafe_code)]

use crate::types::{DType, Scalar};

/// A type whose values collectives can move and combine. Plain bytes without padding, every bit pattern valid.
///
/// ```
/// use roundel::{DType, Element};
/// assert_eq!(f32::DTYPE, DType::F32);
/// assert_eq!(half::bf16::DTYPE.size_bytes(), size_of::<half::bf16>());
/// ```
pub trait Element: bytemuck::Pod + Send + Sync {
    /// The element type's name at run time.
    const DTYPE: DType;

    /// This value as the factor of [`crate::ReduceOp::PreMulSum`].
    ///
    /// ```
    /// use roundel::{Element, ReduceOp};
    /// let halved = ReduceOp::PreMulSum(0.5f32.scalar());
    /// assert_eq!(halved.name(), "mulsum");
    /// ```
    fn scalar(self) -> Scalar {
        let mut bits = [0; 8];
        bits[..size_of::<Self>()].copy_from_slice(bytemuck::bytes_of(&self));
        Scalar { bits: u64::from_le_bytes(bits), dtype: Self::DTYPE }
    }
}

/// The bits of an 8-bit float with 4 exponent bits (see [`DType::F8E4M3`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(transparent)]
pub struct F8E4M3(pub u8);

/// The bits of an 8-bit float with 5 exponent bits (see [`DType::F8E5M2`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(transparent)]
pub struct F8E5M2(pub u8);

macro_rules! elements {
    ($($rust:ty => $dtype:ident),* $(,)?) => {
        $(impl Element for $rust {
            const DTYPE: DType = DType::$dtype;
        })*
    };
}

elements! {
    i8 => I8, u8 => U8, i32 => I32, u32 => U32, i64 => I64, u64 => U64,
    half::f16 => F16, f32 => F32, f64 => F64, half::bf16 => Bf16, F8E4M3 => F8E4M3, F8E5M2 => F8E5M2,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scalar_keeps_the_bits() {
        assert_eq!((-2i8).scalar(), Scalar { bits: 0xfe, dtype: DType::I8 });
        assert_eq!(1.0f64.scalar().bits, 0x3ff0_0000_0000_0000);
    }
}
