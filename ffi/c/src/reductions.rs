//! The collectives that combine. Each as a blocking call and as one that goes on by itself.

use crate::asked::{Asked, Elements::*};
use crate::names::{raw::*, roundel_comm_t, roundel_result_t, roundel_work_t};
use crate::route;
use library::Collective::*;
use std::ffi::c_void;

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
    // SAFETY: the caller promises what `Asked::new` wants.
    route::run("roundel_all_reduce", comm, unsafe { Asked::new(AllReduce, send, recv, Even(count), dtype).op(op) })
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
    // SAFETY: the caller promises what `Asked::new` wants until the work has ended, and room for a handle, or NULL.
    unsafe {
        route::start(
            "roundel_all_reduce_async",
            comm,
            work,
            Asked::new(AllReduce, send, recv, Even(count), dtype).op(op),
        )
    }
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
    // SAFETY: the caller promises what `Asked::new` wants.
    route::run("roundel_reduce", comm, unsafe { Asked::new(Reduce, send, recv, Even(count), dtype).op(op).root(root) })
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
    // SAFETY: the caller promises what `Asked::new` wants until the work has ended, and room for a handle, or NULL.
    unsafe {
        route::start(
            "roundel_reduce_async",
            comm,
            work,
            Asked::new(Reduce, send, recv, Even(count), dtype).op(op).root(root),
        )
    }
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
    // SAFETY: the caller promises what `Asked::new` wants.
    route::run("roundel_reduce_scatter", comm, unsafe {
        Asked::new(ReduceScatter, send, recv, Even(count), dtype).op(op)
    })
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
    // SAFETY: the caller promises what `Asked::new` wants until the work has ended, and room for a handle, or NULL.
    unsafe {
        route::start(
            "roundel_reduce_scatter_async",
            comm,
            work,
            Asked::new(ReduceScatter, send, recv, Even(count), dtype).op(op),
        )
    }
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
    // SAFETY: the caller promises what `Asked::new` wants.
    route::run("roundel_reduce_scatter_v", comm, unsafe {
        Asked::new(ReduceScatter, send, recv, Blocks(counts), dtype).op(op)
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
    // SAFETY: the caller promises what `Asked::new` wants until the work has ended, and room for a handle, or NULL.
    unsafe {
        route::start(
            "roundel_reduce_scatter_v_async",
            comm,
            work,
            Asked::new(ReduceScatter, send, recv, Blocks(counts), dtype).op(op),
        )
    }
}
