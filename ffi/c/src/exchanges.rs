//! The collectives that only move. Each as a blocking call and as one that goes on by itself.

use crate::asked::{Asked, Elements::*};
use crate::names::{raw::*, roundel_comm_t, roundel_result_t, roundel_work_t};
use crate::route;
use library::Collective::*;
use std::ffi::c_void;

/// Everyone's `recv` becomes the root's `send`; elsewhere `send` is ignored and may be NULL. In place: `recv == send`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roundel_broadcast(
    send: *const c_void,
    recv: *mut c_void,
    count: usize,
    dtype: roundel_dtype_t,
    root: i32,
    comm: roundel_comm_t,
) -> roundel_result_t {
    // SAFETY: the caller promises what `Asked::new` wants.
    route::run("roundel_broadcast", comm, unsafe { Asked::new(Broadcast, send, recv, Even(count), dtype).root(root) })
}

/// `roundel_broadcast` that goes on by itself.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roundel_broadcast_async(
    send: *const c_void,
    recv: *mut c_void,
    count: usize,
    dtype: roundel_dtype_t,
    root: i32,
    comm: roundel_comm_t,
    work: *mut roundel_work_t,
) -> roundel_result_t {
    // SAFETY: the caller promises what `Asked::new` wants until the work has ended, and room for a handle, or NULL.
    unsafe {
        route::start(
            "roundel_broadcast_async",
            comm,
            work,
            Asked::new(Broadcast, send, recv, Even(count), dtype).root(root),
        )
    }
}

/// Everyone's `recv` becomes all ranks' `send`, in the order of ranks. `count` elements in `send`, and that times the world in
/// `recv`. In place: `send == recv + rank * count`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roundel_all_gather(
    send: *const c_void,
    recv: *mut c_void,
    count: usize,
    dtype: roundel_dtype_t,
    comm: roundel_comm_t,
) -> roundel_result_t {
    // SAFETY: the caller promises what `Asked::new` wants.
    route::run("roundel_all_gather", comm, unsafe { Asked::new(AllGather, send, recv, Even(count), dtype) })
}

/// `roundel_all_gather` that goes on by itself.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roundel_all_gather_async(
    send: *const c_void,
    recv: *mut c_void,
    count: usize,
    dtype: roundel_dtype_t,
    comm: roundel_comm_t,
    work: *mut roundel_work_t,
) -> roundel_result_t {
    // SAFETY: the caller promises what `Asked::new` wants until the work has ended, and room for a handle, or NULL.
    unsafe {
        route::start("roundel_all_gather_async", comm, work, Asked::new(AllGather, send, recv, Even(count), dtype))
    }
}

/// `roundel_all_gather` with a length of its own for every block: `counts` has one for each rank, the same on all ranks. In
/// place: `send` is this rank's block of `recv`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roundel_all_gather_v(
    send: *const c_void,
    recv: *mut c_void,
    counts: *const usize,
    dtype: roundel_dtype_t,
    comm: roundel_comm_t,
) -> roundel_result_t {
    // SAFETY: the caller promises what `Asked::new` wants.
    route::run("roundel_all_gather_v", comm, unsafe { Asked::new(AllGather, send, recv, Blocks(counts), dtype) })
}

/// `roundel_all_gather_v` that goes on by itself.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roundel_all_gather_v_async(
    send: *const c_void,
    recv: *mut c_void,
    counts: *const usize,
    dtype: roundel_dtype_t,
    comm: roundel_comm_t,
    work: *mut roundel_work_t,
) -> roundel_result_t {
    // SAFETY: the caller promises what `Asked::new` wants until the work has ended, and room for a handle, or NULL.
    unsafe {
        route::start("roundel_all_gather_v_async", comm, work, Asked::new(AllGather, send, recv, Blocks(counts), dtype))
    }
}

/// The root's `recv` becomes all ranks' `send`, in the order of ranks; elsewhere `recv` is ignored and may be NULL. `count`
/// elements in `send`. In place: `send == recv + rank * count` on the root.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roundel_gather(
    send: *const c_void,
    recv: *mut c_void,
    count: usize,
    dtype: roundel_dtype_t,
    root: i32,
    comm: roundel_comm_t,
) -> roundel_result_t {
    // SAFETY: the caller promises what `Asked::new` wants.
    route::run("roundel_gather", comm, unsafe { Asked::new(Gather, send, recv, Even(count), dtype).root(root) })
}

/// `roundel_gather` that goes on by itself.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roundel_gather_async(
    send: *const c_void,
    recv: *mut c_void,
    count: usize,
    dtype: roundel_dtype_t,
    root: i32,
    comm: roundel_comm_t,
    work: *mut roundel_work_t,
) -> roundel_result_t {
    // SAFETY: the caller promises what `Asked::new` wants until the work has ended, and room for a handle, or NULL.
    unsafe {
        route::start("roundel_gather_async", comm, work, Asked::new(Gather, send, recv, Even(count), dtype).root(root))
    }
}

/// Rank r's `recv` becomes block r of the root's `send`; elsewhere `send` is ignored and may be NULL. `count` elements in
/// `recv`. In place: `recv == send + rank * count` on the root.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roundel_scatter(
    send: *const c_void,
    recv: *mut c_void,
    count: usize,
    dtype: roundel_dtype_t,
    root: i32,
    comm: roundel_comm_t,
) -> roundel_result_t {
    // SAFETY: the caller promises what `Asked::new` wants.
    route::run("roundel_scatter", comm, unsafe { Asked::new(Scatter, send, recv, Even(count), dtype).root(root) })
}

/// `roundel_scatter` that goes on by itself.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roundel_scatter_async(
    send: *const c_void,
    recv: *mut c_void,
    count: usize,
    dtype: roundel_dtype_t,
    root: i32,
    comm: roundel_comm_t,
    work: *mut roundel_work_t,
) -> roundel_result_t {
    // SAFETY: the caller promises what `Asked::new` wants until the work has ended, and room for a handle, or NULL.
    unsafe {
        route::start(
            "roundel_scatter_async",
            comm,
            work,
            Asked::new(Scatter, send, recv, Even(count), dtype).root(root),
        )
    }
}

/// Block j of rank i's `send` becomes block i of rank j's `recv`. `count` elements in a block. In place: `recv == send`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roundel_all_to_all(
    send: *const c_void,
    recv: *mut c_void,
    count: usize,
    dtype: roundel_dtype_t,
    comm: roundel_comm_t,
) -> roundel_result_t {
    // SAFETY: the caller promises what `Asked::new` wants.
    route::run("roundel_all_to_all", comm, unsafe { Asked::new(AllToAll, send, recv, Even(count), dtype) })
}

/// `roundel_all_to_all` that goes on by itself.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roundel_all_to_all_async(
    send: *const c_void,
    recv: *mut c_void,
    count: usize,
    dtype: roundel_dtype_t,
    comm: roundel_comm_t,
    work: *mut roundel_work_t,
) -> roundel_result_t {
    // SAFETY: the caller promises what `Asked::new` wants until the work has ended, and room for a handle, or NULL.
    unsafe {
        route::start("roundel_all_to_all_async", comm, work, Asked::new(AllToAll, send, recv, Even(count), dtype))
    }
}

/// `roundel_all_to_all` with a length of its own for every pair: `send_counts[j]` elements go to rank j, which must expect as
/// many. Blocks lie end to end. In place: `recv == send`, and equal counts both ways.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roundel_all_to_all_v(
    send: *const c_void,
    send_counts: *const usize,
    recv: *mut c_void,
    recv_counts: *const usize,
    dtype: roundel_dtype_t,
    comm: roundel_comm_t,
) -> roundel_result_t {
    // SAFETY: the caller promises what `Asked::new` wants.
    route::run("roundel_all_to_all_v", comm, unsafe {
        Asked::new(AllToAll, send, recv, Exchange(send_counts, recv_counts), dtype)
    })
}

/// `roundel_all_to_all_v` that goes on by itself.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roundel_all_to_all_v_async(
    send: *const c_void,
    send_counts: *const usize,
    recv: *mut c_void,
    recv_counts: *const usize,
    dtype: roundel_dtype_t,
    comm: roundel_comm_t,
    work: *mut roundel_work_t,
) -> roundel_result_t {
    // SAFETY: the caller promises what `Asked::new` wants until the work has ended, and room for a handle, or NULL.
    unsafe {
        route::start(
            "roundel_all_to_all_v_async",
            comm,
            work,
            Asked::new(AllToAll, send, recv, Exchange(send_counts, recv_counts), dtype),
        )
    }
}
