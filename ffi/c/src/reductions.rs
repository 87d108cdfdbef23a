//! The collectives that combine. Each as a blocking call and as one that goes on by itself.

use crate::arguments::{self, buffer, bytes, total};
use crate::boundary::Outcome;
use crate::names::{raw::*, roundel_comm_t, roundel_result_t, roundel_work_t};
use crate::reduce_op::reduce_op;
use crate::route;
use library::memory::Span;
use library::{Call, Collective, Communicator, Counts};
use std::ffi::c_void;

/// # Safety
/// Buffers are NULL or what [`Span::new`] wants until the call has ended, arrays of counts NULL or as long as the world.
unsafe fn all_reduce(
    _: &Communicator,
    send: *const c_void,
    recv: *mut c_void,
    count: usize,
    dtype: roundel_dtype_t,
    op: roundel_reduce_op_t,
) -> Outcome<Call> {
    let dtype = arguments::dtype(dtype)?;
    // SAFETY: promised by the caller.
    let (input, output) =
        unsafe { (buffer(send, bytes(count, 1, dtype)?, "send")?, buffer(recv, bytes(count, 1, dtype)?, "recv")?) };
    Ok(Call {
        collective: Collective::AllReduce,
        dtype,
        op: Some(reduce_op(op)?),
        root: 0,
        peer: 0,
        counts: Counts::Even(count),
        input,
        output,
    })
}

/// Everyone's `recv` becomes the reduction of everyone's `send`. In place: `recv == send`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roundel_all_reduce(
    send: *const c_void,
    recv: *mut c_void,
    count: usize,
    dtype: roundel_dtype_t,
    op: roundel_reduce_op_t,
    comm: roundel_comm_t,
) -> roundel_result_t {
    // SAFETY: the caller promises what `all_reduce` wants.
    route::run("roundel_all_reduce", comm, |comm| unsafe { all_reduce(comm, send, recv, count, dtype, op) })
}

/// `roundel_all_reduce` that goes on by itself.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roundel_all_reduce_async(
    send: *const c_void,
    recv: *mut c_void,
    count: usize,
    dtype: roundel_dtype_t,
    op: roundel_reduce_op_t,
    comm: roundel_comm_t,
    work: *mut roundel_work_t,
) -> roundel_result_t {
    // SAFETY: the caller promises what `all_reduce` wants until the work has ended, and room for a handle, or NULL.
    unsafe {
        route::start("roundel_all_reduce_async", comm, work, |comm| all_reduce(comm, send, recv, count, dtype, op))
    }
}

/// # Safety
/// Buffers are NULL or what [`Span::new`] wants until the call has ended, arrays of counts NULL or as long as the world.
unsafe fn reduce(
    comm: &Communicator,
    send: *const c_void,
    recv: *mut c_void,
    count: usize,
    dtype: roundel_dtype_t,
    op: roundel_reduce_op_t,
    root: i32,
) -> Outcome<Call> {
    let dtype = arguments::dtype(dtype)?;
    let root = arguments::rank(root, "root")?;
    // SAFETY: promised by the caller.
    let (input, output) = unsafe {
        (
            buffer(send, bytes(count, 1, dtype)?, "send")?,
            if root == comm.rank() { buffer(recv, bytes(count, 1, dtype)?, "recv")? } else { Span::EMPTY },
        )
    };
    Ok(Call {
        collective: Collective::Reduce,
        dtype,
        op: Some(reduce_op(op)?),
        root,
        peer: 0,
        counts: Counts::Even(count),
        input,
        output,
    })
}

/// The root's `recv` becomes the reduction of everyone's `send`; elsewhere `recv` is ignored and may be NULL. In place:
/// `recv == send`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roundel_reduce(
    send: *const c_void,
    recv: *mut c_void,
    count: usize,
    dtype: roundel_dtype_t,
    op: roundel_reduce_op_t,
    root: i32,
    comm: roundel_comm_t,
) -> roundel_result_t {
    // SAFETY: the caller promises what `reduce` wants.
    route::run("roundel_reduce", comm, |comm| unsafe { reduce(comm, send, recv, count, dtype, op, root) })
}

/// `roundel_reduce` that goes on by itself.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roundel_reduce_async(
    send: *const c_void,
    recv: *mut c_void,
    count: usize,
    dtype: roundel_dtype_t,
    op: roundel_reduce_op_t,
    root: i32,
    comm: roundel_comm_t,
    work: *mut roundel_work_t,
) -> roundel_result_t {
    // SAFETY: the caller promises what `reduce` wants until the work has ended, and room for a handle, or NULL.
    unsafe { route::start("roundel_reduce_async", comm, work, |comm| reduce(comm, send, recv, count, dtype, op, root)) }
}

/// # Safety
/// Buffers are NULL or what [`Span::new`] wants until the call has ended, arrays of counts NULL or as long as the world.
unsafe fn reduce_scatter(
    comm: &Communicator,
    send: *const c_void,
    recv: *mut c_void,
    count: usize,
    dtype: roundel_dtype_t,
    op: roundel_reduce_op_t,
) -> Outcome<Call> {
    let dtype = arguments::dtype(dtype)?;
    // SAFETY: promised by the caller.
    let (input, output) = unsafe {
        (buffer(send, bytes(count, comm.world(), dtype)?, "send")?, buffer(recv, bytes(count, 1, dtype)?, "recv")?)
    };
    Ok(Call {
        collective: Collective::ReduceScatter,
        dtype,
        op: Some(reduce_op(op)?),
        root: 0,
        peer: 0,
        counts: Counts::Even(count),
        input,
        output,
    })
}

/// Rank r's `recv` becomes block r of the reduction. `count` elements in a block, and as many blocks in `send` as ranks. In
/// place: `recv == send + rank * count`; the other blocks stay as they are.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roundel_reduce_scatter(
    send: *const c_void,
    recv: *mut c_void,
    count: usize,
    dtype: roundel_dtype_t,
    op: roundel_reduce_op_t,
    comm: roundel_comm_t,
) -> roundel_result_t {
    // SAFETY: the caller promises what `reduce_scatter` wants.
    route::run("roundel_reduce_scatter", comm, |comm| unsafe { reduce_scatter(comm, send, recv, count, dtype, op) })
}

/// `roundel_reduce_scatter` that goes on by itself.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roundel_reduce_scatter_async(
    send: *const c_void,
    recv: *mut c_void,
    count: usize,
    dtype: roundel_dtype_t,
    op: roundel_reduce_op_t,
    comm: roundel_comm_t,
    work: *mut roundel_work_t,
) -> roundel_result_t {
    // SAFETY: the caller promises what `reduce_scatter` wants until the work has ended, and room for a handle, or NULL.
    unsafe {
        route::start("roundel_reduce_scatter_async", comm, work, |comm| {
            reduce_scatter(comm, send, recv, count, dtype, op)
        })
    }
}

/// # Safety
/// Buffers are NULL or what [`Span::new`] wants until the call has ended, arrays of counts NULL or as long as the world.
unsafe fn reduce_scatter_v(
    comm: &Communicator,
    send: *const c_void,
    recv: *mut c_void,
    counts: *const usize,
    dtype: roundel_dtype_t,
    op: roundel_reduce_op_t,
) -> Outcome<Call> {
    let dtype = arguments::dtype(dtype)?;
    // SAFETY: promised by the caller.
    let counts = unsafe { arguments::array(counts, comm.world(), "counts") }?;
    // SAFETY: promised by the caller.
    let (input, output) = unsafe {
        (
            buffer(send, bytes(total(counts)?, 1, dtype)?, "send")?,
            buffer(recv, bytes(counts[comm.rank()], 1, dtype)?, "recv")?,
        )
    };
    Ok(Call {
        collective: Collective::ReduceScatter,
        dtype,
        op: Some(reduce_op(op)?),
        root: 0,
        peer: 0,
        counts: Counts::Blocks(counts.to_vec()),
        input,
        output,
    })
}

/// `roundel_reduce_scatter` with a length of its own for every block: `counts` has one for each rank, the same on all ranks.
/// In place: `recv` is this rank's block of `send`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roundel_reduce_scatter_v(
    send: *const c_void,
    recv: *mut c_void,
    counts: *const usize,
    dtype: roundel_dtype_t,
    op: roundel_reduce_op_t,
    comm: roundel_comm_t,
) -> roundel_result_t {
    // SAFETY: the caller promises what `reduce_scatter_v` wants.
    route::run("roundel_reduce_scatter_v", comm, |comm| unsafe {
        reduce_scatter_v(comm, send, recv, counts, dtype, op)
    })
}

/// `roundel_reduce_scatter_v` that goes on by itself.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roundel_reduce_scatter_v_async(
    send: *const c_void,
    recv: *mut c_void,
    counts: *const usize,
    dtype: roundel_dtype_t,
    op: roundel_reduce_op_t,
    comm: roundel_comm_t,
    work: *mut roundel_work_t,
) -> roundel_result_t {
    // SAFETY: the caller promises what `reduce_scatter_v` wants until the work has ended, and room for a handle, or NULL.
    unsafe {
        route::start("roundel_reduce_scatter_v_async", comm, work, |comm| {
            reduce_scatter_v(comm, send, recv, counts, dtype, op)
        })
    }
}
