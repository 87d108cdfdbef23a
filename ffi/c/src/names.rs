//! The enumerations of the header. C hands them over as integers, which [`crate::arguments`] checks; so functions take
//! the aliases of [`raw`] under the names of these.

use library::{Collective, DType};

/// What a call returns. Everything but `ROUNDEL_SUCCESS` and `ROUNDEL_IN_PROGRESS` is an error, about which
/// `roundel_last_error` and `roundel_last_error_details` tell more.
#[repr(i32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum roundel_result_t {
    /// The call has done what it should.
    ROUNDEL_SUCCESS = 0,
    /// Not an error: the work has not ended yet.
    ROUNDEL_IN_PROGRESS = 1,
    /// The arguments make no sense. Nothing was sent; the communicator is still good.
    ROUNDEL_ERROR_INVALID_ARGUMENT = 2,
    /// A handle is NULL, was destroyed before, or never was one. Nothing else happened.
    ROUNDEL_ERROR_INVALID_HANDLE = 3,
    /// This build, machine or combination does not offer it. The communicator is still good.
    ROUNDEL_ERROR_UNSUPPORTED = 4,
    /// Ranks made different calls; the message shows both. The communicator is finished, on every rank.
    ROUNDEL_ERROR_MISMATCH = 5,
    /// A rank exited, was killed, froze, or its host went away. The communicator is finished, on every rank; those who live
    /// go on with `roundel_shrink`.
    ROUNDEL_ERROR_PEER_LOST = 6,
    /// A deadline passed. The communicator is finished, on every rank.
    ROUNDEL_ERROR_TIMEOUT = 7,
    /// Not all ranks turned up when the communicator was made.
    ROUNDEL_ERROR_BOOTSTRAP = 8,
    /// A rank called `roundel_comm_abort`. The communicator is finished, on every rank.
    ROUNDEL_ERROR_ABORTED = 9,
    /// The operating system said no. If that was during a collective, the communicator is finished.
    ROUNDEL_ERROR_SYSTEM = 10,
    /// A bug in Roundel; please report it with the message.
    ROUNDEL_ERROR_INTERNAL = 11,
    /// Bytes arrived changed, or ranks hold different results (`ROUNDEL_CHECKSUM`, `ROUNDEL_ENCRYPT`,
    /// `ROUNDEL_VERIFY_RESULTS`). The communicator is finished, on every rank.
    ROUNDEL_ERROR_CORRUPTED = 12,
}

/// The type of an element. The numbers are those of `ncclDataType_t`.
#[repr(i32)]
pub enum roundel_dtype_t {
    /// int8_t
    ROUNDEL_INT8 = 0,
    /// uint8_t
    ROUNDEL_UINT8 = 1,
    /// int32_t
    ROUNDEL_INT32 = 2,
    /// uint32_t
    ROUNDEL_UINT32 = 3,
    /// int64_t
    ROUNDEL_INT64 = 4,
    /// uint64_t
    ROUNDEL_UINT64 = 5,
    /// IEEE binary16
    ROUNDEL_FLOAT16 = 6,
    /// float
    ROUNDEL_FLOAT32 = 7,
    /// double
    ROUNDEL_FLOAT64 = 8,
    /// The upper half of a float
    ROUNDEL_BFLOAT16 = 9,
    /// OCP E4M3FN: no infinities, at most 448
    ROUNDEL_FLOAT8_E4M3 = 10,
    /// OCP E5M2: at most 57344
    ROUNDEL_FLOAT8_E5M2 = 11,
}

/// How elements combine. The numbers of the first five are those of `ncclRedOp_t`; more are made by
/// `roundel_reduce_op_create_pre_mul_sum`.
#[repr(i32)]
pub enum roundel_reduce_op_t {
    /// Integers wrap around; small floats add in 32 bits and round once where the path allows.
    ROUNDEL_SUM = 0,
    /// Product
    ROUNDEL_PROD = 1,
    /// A NaN anywhere gives NaN; -0 is below +0.
    ROUNDEL_MAX = 2,
    /// A NaN anywhere gives NaN; -0 is below +0.
    ROUNDEL_MIN = 3,
    /// The sum divided by the number of ranks; integers truncate toward zero.
    ROUNDEL_AVG = 4,
    /// Integers only
    ROUNDEL_BIT_AND = 6,
    /// Integers only
    ROUNDEL_BIT_OR = 7,
    /// Integers only
    ROUNDEL_BIT_XOR = 8,
}

/// The pattern of a call.
#[repr(i32)]
pub enum roundel_collective_t {
    /// None: the error belongs to no call.
    ROUNDEL_COLLECTIVE_NONE = -1,
    /// roundel_all_reduce
    ROUNDEL_COLLECTIVE_ALL_REDUCE = 0,
    /// roundel_reduce
    ROUNDEL_COLLECTIVE_REDUCE = 1,
    /// roundel_broadcast
    ROUNDEL_COLLECTIVE_BROADCAST = 2,
    /// roundel_reduce_scatter, roundel_reduce_scatter_v
    ROUNDEL_COLLECTIVE_REDUCE_SCATTER = 3,
    /// roundel_all_gather, roundel_all_gather_v
    ROUNDEL_COLLECTIVE_ALL_GATHER = 4,
    /// roundel_gather
    ROUNDEL_COLLECTIVE_GATHER = 5,
    /// roundel_scatter
    ROUNDEL_COLLECTIVE_SCATTER = 6,
    /// roundel_all_to_all, roundel_all_to_all_v
    ROUNDEL_COLLECTIVE_ALL_TO_ALL = 7,
    /// roundel_barrier, roundel_comm_split, roundel_grow
    ROUNDEL_COLLECTIVE_BARRIER = 8,
    /// roundel_send, roundel_recv, roundel_sendrecv
    ROUNDEL_COLLECTIVE_SEND_RECV = 9,
}

/// Whether a call that failed has changed what it was given.
#[repr(i32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum roundel_buffer_state_t {
    /// The input is as it was, and the call can be made again with it on a communicator that works. Always so where input and
    /// output are not the same memory; then the output's contents are undefined once the call has begun.
    ROUNDEL_BUFFER_INTACT = 0,
    /// The call was in place and had begun to write: the buffer holds parts of the input, of sums, and of the result.
    ROUNDEL_BUFFER_UNDEFINED = 1,
}

/// What the enumerations are when they arrive: any integer.
pub mod raw {
    /// cbindgen:ignore
    pub type roundel_dtype_t = i32;
    /// cbindgen:ignore
    pub type roundel_reduce_op_t = i32;
    /// cbindgen:ignore
    pub type roundel_collective_t = i32;
}

// The numbers are the library's own, so they need no translation.
const _: () = {
    use roundel_collective_t::*;
    use roundel_dtype_t::*;
    use roundel_reduce_op_t::*;
    let dtypes = [
        (ROUNDEL_INT8 as i32, DType::I8),
        (ROUNDEL_UINT8 as i32, DType::U8),
        (ROUNDEL_INT32 as i32, DType::I32),
        (ROUNDEL_UINT32 as i32, DType::U32),
        (ROUNDEL_INT64 as i32, DType::I64),
        (ROUNDEL_UINT64 as i32, DType::U64),
        (ROUNDEL_FLOAT16 as i32, DType::F16),
        (ROUNDEL_FLOAT32 as i32, DType::F32),
        (ROUNDEL_FLOAT64 as i32, DType::F64),
        (ROUNDEL_BFLOAT16 as i32, DType::Bf16),
        (ROUNDEL_FLOAT8_E4M3 as i32, DType::F8E4M3),
        (ROUNDEL_FLOAT8_E5M2 as i32, DType::F8E5M2),
    ];
    assert!(dtypes.len() == DType::ALL.len());
    let mut at = 0;
    while at < dtypes.len() {
        assert!(dtypes[at].0 == dtypes[at].1 as i32 && dtypes[at].0 == at as i32);
        at += 1;
    }
    let collectives = [
        (ROUNDEL_COLLECTIVE_ALL_REDUCE as i32, Collective::AllReduce),
        (ROUNDEL_COLLECTIVE_REDUCE as i32, Collective::Reduce),
        (ROUNDEL_COLLECTIVE_BROADCAST as i32, Collective::Broadcast),
        (ROUNDEL_COLLECTIVE_REDUCE_SCATTER as i32, Collective::ReduceScatter),
        (ROUNDEL_COLLECTIVE_ALL_GATHER as i32, Collective::AllGather),
        (ROUNDEL_COLLECTIVE_GATHER as i32, Collective::Gather),
        (ROUNDEL_COLLECTIVE_SCATTER as i32, Collective::Scatter),
        (ROUNDEL_COLLECTIVE_ALL_TO_ALL as i32, Collective::AllToAll),
        (ROUNDEL_COLLECTIVE_BARRIER as i32, Collective::Barrier),
        (ROUNDEL_COLLECTIVE_SEND_RECV as i32, Collective::SendRecv),
    ];
    assert!(collectives.len() == Collective::ALL.len());
    let mut at = 0;
    while at < collectives.len() {
        assert!(collectives[at].0 == collectives[at].1 as i32);
        at += 1;
    }
    let ops = [
        (ROUNDEL_SUM as i32, library::ReduceOp::Sum),
        (ROUNDEL_PROD as i32, library::ReduceOp::Prod),
        (ROUNDEL_MAX as i32, library::ReduceOp::Max),
        (ROUNDEL_MIN as i32, library::ReduceOp::Min),
        (ROUNDEL_AVG as i32, library::ReduceOp::Avg),
        (ROUNDEL_BIT_AND as i32, library::ReduceOp::BitAnd),
        (ROUNDEL_BIT_OR as i32, library::ReduceOp::BitOr),
        (ROUNDEL_BIT_XOR as i32, library::ReduceOp::BitXor),
    ];
    let mut at = 0;
    while at < ops.len() {
        assert!(ops[at].0 == ops[at].1.code() as i32);
        at += 1;
    }
};

/// A communicator: a group of ranks. Any number of threads may use one at once, as long as all ranks see the same order of
/// collectives. It is a number in disguise that is checked on every use: NULL, a destroyed or an invented one gives
/// `ROUNDEL_ERROR_INVALID_HANDLE`.
pub struct roundel_comm {
    _opaque: [u8; 0],
}

/// See `struct roundel_comm`.
pub type roundel_comm_t = *mut roundel_comm;

/// One or several calls in flight. Checked on every use like a communicator.
pub struct roundel_work {
    _opaque: [u8; 0],
}

/// See `struct roundel_work`.
pub type roundel_work_t = *mut roundel_work;

/// Settings for new communicators. Checked on every use like a communicator.
pub struct roundel_options {
    _opaque: [u8; 0],
}

/// See `struct roundel_options`.
pub type roundel_options_t = *mut roundel_options;
