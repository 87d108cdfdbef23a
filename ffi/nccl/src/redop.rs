//! Reductions: NCCL's five, and sums of inputs that each rank first multiplies by a factor of its own.

use crate::abi::*;
use crate::comm::{self, Comm};
use crate::status::{Failure, Result, answer, put};
use roundel::{DType, ReduceOp, Scalar};
use std::collections::BTreeMap;
use std::ffi::{c_int, c_void};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A factor, and when it is looked at.
#[derive(Debug, Clone, Copy)]
enum Factor {
    Known(Scalar),
    /// Where it will be when a call uses it (`ncclScalarDevice`).
    At(usize, DType),
}

struct Operator {
    /// [`Comm::id`] of the communicator that it was made for.
    owner: u64,
    factor: Factor,
}

/// The operators of all communicators, so that one that is used on a communicator not its own is found out.
struct Operators {
    living: BTreeMap<ncclRedOp_t, Operator>,
    next: ncclRedOp_t,
}

static OPERATORS: Mutex<Operators> = Mutex::new(Operators { living: BTreeMap::new(), next: ncclNumOps });

fn operators() -> MutexGuard<'static, Operators> {
    OPERATORS.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Operators {
    /// The number of a new operator; numbers come again only when all have been used.
    fn add(&mut self, operator: Operator) -> ncclRedOp_t {
        let mut number = self.next;
        while self.living.contains_key(&number) {
            number = after(number);
        }
        self.next = after(number);
        self.living.insert(number, operator);
        number
    }
}

fn after(number: ncclRedOp_t) -> ncclRedOp_t {
    if number == ncclMaxRedOp { ncclNumOps } else { number + 1 }
}

/// An element type out of C's integers.
pub(crate) fn dtype(number: ncclDataType_t) -> Result<DType> {
    let dtype = u8::try_from(number).ok().and_then(DType::from_code);
    dtype.ok_or_else(|| Failure::argument(format!("{number} is no ncclDataType_t; they are 0 to 11")))
}

/// A reduction of `comm`'s out of C's integers.
pub(crate) fn reduce_op(number: ncclRedOp_t, comm: &Comm) -> Result<ReduceOp> {
    Ok(match number {
        ncclSum => ReduceOp::Sum,
        ncclProd => ReduceOp::Prod,
        ncclMax => ReduceOp::Max,
        ncclMin => ReduceOp::Min,
        ncclAvg => ReduceOp::Avg,
        _ => ReduceOp::PreMulSum(factor(number, comm)?),
    })
}

fn factor(number: ncclRedOp_t, comm: &Comm) -> Result<Scalar> {
    let operators = operators();
    let own = operators.living.get(&number).filter(|operator| operator.owner == comm.id);
    match own.map(|operator| operator.factor) {
        Some(Factor::Known(scalar)) => Ok(scalar),
        // SAFETY: `ncclScalarDevice` promises an element there while calls use the operator (the crate's contract).
        Some(Factor::At(address, dtype)) => Ok(unsafe { read(std::ptr::with_exposed_provenance(address), dtype) }),
        None => Err(Failure::argument(format!(
            "{number} is no ncclRedOp_t of this communicator; 0 to 4 are, and what ncclRedOpCreatePreMulSum made for it"
        ))),
    }
}

/// # Safety
/// `scalar` points to an element of type `dtype`, aligned or not.
unsafe fn read(scalar: *const c_void, dtype: DType) -> Scalar {
    let mut bytes = [0u8; 8];
    // SAFETY: promised by the caller; no element has more than 8 bytes.
    unsafe { std::ptr::copy_nonoverlapping(scalar.cast(), bytes.as_mut_ptr(), dtype.size_bytes()) };
    Scalar { bits: u64::from_le_bytes(bytes), dtype }
}

/// Forgets the operators of a communicator that has ended.
pub(crate) fn forget(owner: u64) {
    operators().living.retain(|_, operator| operator.owner != owner);
}

/// A new operator for sums of `datatype` on `comm`: this rank's input is multiplied by `*scalar`, read now
/// (`ncclScalarHostImmediate`) or by each call that uses it (`ncclScalarDevice`; here that is host memory too).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclRedOpCreatePreMulSum(
    op: *mut ncclRedOp_t,
    scalar: *mut c_void,
    datatype: ncclDataType_t,
    residence: ncclScalarResidence_t,
    comm: ncclComm_t,
) -> ncclResult_t {
    answer("ncclRedOpCreatePreMulSum", || {
        let comm = comm::find(comm)?;
        comm.active()?;
        crate::status::out(op, "op")?;
        let dtype = dtype(datatype)?;
        if scalar.is_null() {
            return Err(Failure::argument("scalar is NULL; it is the factor"));
        }
        let factor = match residence {
            // SAFETY: an element of that type (the crate's contract).
            ncclScalarHostImmediate => Factor::Known(unsafe { read(scalar, dtype) }),
            ncclScalarDevice => Factor::At(scalar.expose_provenance(), dtype),
            _ => return Err(Failure::argument(format!("{residence} is no ncclScalarResidence_t; they are 0 and 1"))),
        };
        let number = operators().add(Operator { owner: comm.id, factor });
        // SAFETY: checked above.
        unsafe { put(op, "op", number) }
    })
}

/// Ends an operator. Calls that have it already keep it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclRedOpDestroy(op: ncclRedOp_t, comm: ncclComm_t) -> ncclResult_t {
    answer("ncclRedOpDestroy", || {
        let comm = comm::find(comm)?;
        if (0..ncclNumOps as c_int).contains(&op) {
            return Err(Failure::argument(format!("{op} is one of NCCL's own reductions, which cannot be destroyed")));
        }
        let mut operators = operators();
        match operators.living.get(&op).is_some_and(|operator| operator.owner == comm.id) {
            true => _ = operators.living.remove(&op),
            false => return Err(Failure::argument(format!("{op} is no ncclRedOp_t of this communicator"))),
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_round_and_never_meet_the_living() {
        let operator = || Operator { owner: 0, factor: Factor::At(0, DType::F32) };
        let mut operators = Operators { living: BTreeMap::new(), next: ncclMaxRedOp - 1 };
        assert_eq!([(); 3].map(|()| operators.add(operator())), [ncclMaxRedOp - 1, ncclMaxRedOp, ncclNumOps]);
        operators.next = ncclMaxRedOp;
        assert_eq!(operators.add(operator()), ncclNumOps + 1);
    }
}
