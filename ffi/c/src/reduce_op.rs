//! Reductions: the constants, and those that a program makes.

use crate::arguments;
use crate::boundary::{Outcome, boundary};
use crate::last_error::Failure;
use crate::names::{raw::*, roundel_result_t};
use library::{ReduceOp, Scalar};
use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{LazyLock, PoisonError, RwLock};

/// Numbers of made reductions begin here.
const FIRST_MADE: i32 = 0x100;

struct Made {
    ops: HashMap<i32, ReduceOp>,
    /// Never given out before: a destroyed reduction's number stays unknown.
    next: i32,
}

static MADE: LazyLock<RwLock<Made>> = LazyLock::new(|| RwLock::new(Made { ops: HashMap::new(), next: FIRST_MADE }));

/// The reduction of this number.
pub fn reduce_op(code: i32) -> Outcome<ReduceOp> {
    Ok(match code {
        0 => ReduceOp::Sum,
        1 => ReduceOp::Prod,
        2 => ReduceOp::Max,
        3 => ReduceOp::Min,
        4 => ReduceOp::Avg,
        6 => ReduceOp::BitAnd,
        7 => ReduceOp::BitOr,
        8 => ReduceOp::BitXor,
        _ => {
            let made = MADE.read().unwrap_or_else(PoisonError::into_inner);
            return made.ops.get(&code).copied().ok_or_else(|| unknown(code, made.next));
        }
    })
}

fn unknown(code: i32, next: i32) -> Failure {
    Failure::argument(match code {
        FIRST_MADE.. if code < next => format!("the reduction {code} was destroyed before"),
        _ => format!("there is no reduction {code} (roundel_reduce_op_t)"),
    })
}

/// Makes a reduction that multiplies this rank's input by a factor, rounding to the element type, and then sums. `factor`
/// points to one element of type `dtype`, which is copied; calls must be of that type. Every rank has its own factor.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roundel_reduce_op_create_pre_mul_sum(
    op: *mut roundel_reduce_op_t,
    factor: *const c_void,
    dtype: roundel_dtype_t,
) -> roundel_result_t {
    boundary("roundel_reduce_op_create_pre_mul_sum", || {
        let dtype = arguments::dtype(dtype)?;
        // SAFETY: the caller promises room for a number, or NULL.
        let op = unsafe { arguments::out(op, "op") }?;
        // SAFETY: the caller promises one element of this type, or NULL.
        let element = unsafe { arguments::array(factor.cast::<u8>(), dtype.size_bytes(), "factor") }?;
        let mut bits = [0; 8];
        bits[..element.len()].copy_from_slice(element);
        let mut made = MADE.write().unwrap_or_else(PoisonError::into_inner);
        let code = made.next;
        made.next = code.checked_add(1).ok_or_else(|| Failure::argument("no numbers are left for reductions"))?;
        made.ops.insert(code, ReduceOp::PreMulSum(Scalar { bits: u64::from_le_bytes(bits), dtype }));
        *op = code;
        Ok(())
    })
}

/// Gives a made reduction back. Calls in flight keep theirs.
#[unsafe(no_mangle)]
pub extern "C" fn roundel_reduce_op_destroy(op: roundel_reduce_op_t) -> roundel_result_t {
    boundary("roundel_reduce_op_destroy", || {
        let mut made = MADE.write().unwrap_or_else(PoisonError::into_inner);
        let next = made.next;
        match (0..FIRST_MADE).contains(&op) {
            true => Err(Failure::argument(format!("the reduction {op} was not made by this program"))),
            false => made.ops.remove(&op).map(drop).ok_or_else(|| unknown(op, next)),
        }
    })
}
