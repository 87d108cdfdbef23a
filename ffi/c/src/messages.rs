//! Messages between two ranks, and the barrier. Each as a blocking call and as one that goes on by itself.

use crate::asked::Asked;
use crate::names::{raw::*, roundel_comm_t, roundel_result_t, roundel_work_t};
use crate::route;
use std::ffi::c_void;

/// Sends to one other rank, which must receive as many elements of the same type. Messages of a pair keep their order and
/// are independent of collectives. May block until the receiver takes the data.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roundel_send(
    send: *const c_void,
    count: usize,
    dtype: roundel_dtype_t,
    peer: i32,
    comm: roundel_comm_t,
) -> roundel_result_t {
    // SAFETY: the caller promises what `message_to` wants.
    route::run("roundel_send", comm, unsafe { Asked::message_to(peer, send, count, dtype) })
}

/// `roundel_send` that goes on by itself.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roundel_send_async(
    send: *const c_void,
    count: usize,
    dtype: roundel_dtype_t,
    peer: i32,
    comm: roundel_comm_t,
    work: *mut roundel_work_t,
) -> roundel_result_t {
    // SAFETY: the caller promises what `message_to` wants until the work has ended, and room for a handle, or NULL.
    unsafe { route::start("roundel_send_async", comm, work, Asked::message_to(peer, send, count, dtype)) }
}

/// Receives from one other rank what it sends.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roundel_recv(
    recv: *mut c_void,
    count: usize,
    dtype: roundel_dtype_t,
    peer: i32,
    comm: roundel_comm_t,
) -> roundel_result_t {
    // SAFETY: the caller promises what `message_from` wants.
    route::run("roundel_recv", comm, unsafe { Asked::message_from(peer, recv, count, dtype) })
}

/// `roundel_recv` that goes on by itself.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roundel_recv_async(
    recv: *mut c_void,
    count: usize,
    dtype: roundel_dtype_t,
    peer: i32,
    comm: roundel_comm_t,
    work: *mut roundel_work_t,
) -> roundel_result_t {
    // SAFETY: the caller promises what `message_from` wants until the work has ended, and room for a handle, or NULL.
    unsafe { route::start("roundel_recv_async", comm, work, Asked::message_from(peer, recv, count, dtype)) }
}

/// Sends to rank `to` and receives from rank `from` at once, which may be the same rank or this one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roundel_sendrecv(
    send: *const c_void,
    send_count: usize,
    to: i32,
    recv: *mut c_void,
    recv_count: usize,
    from: i32,
    dtype: roundel_dtype_t,
    comm: roundel_comm_t,
) -> roundel_result_t {
    // SAFETY: the caller promises what the two ends want.
    route::run_both("roundel_sendrecv", comm, unsafe {
        [Asked::message_to(to, send, send_count, dtype), Asked::message_from(from, recv, recv_count, dtype)]
    })
}

/// `roundel_sendrecv` that goes on by itself.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roundel_sendrecv_async(
    send: *const c_void,
    send_count: usize,
    to: i32,
    recv: *mut c_void,
    recv_count: usize,
    from: i32,
    dtype: roundel_dtype_t,
    comm: roundel_comm_t,
    work: *mut roundel_work_t,
) -> roundel_result_t {
    // SAFETY: the caller promises what the two ends want until the work has ended, and room for a handle, or NULL.
    unsafe {
        route::start_both(
            "roundel_sendrecv_async",
            comm,
            work,
            [Asked::message_to(to, send, send_count, dtype), Asked::message_from(from, recv, recv_count, dtype)],
        )
    }
}

/// Returns when all ranks have called it.
#[unsafe(no_mangle)]
pub extern "C" fn roundel_barrier(comm: roundel_comm_t) -> roundel_result_t {
    route::run("roundel_barrier", comm, Asked::barrier())
}

/// `roundel_barrier` that goes on by itself: the work ends when all ranks have started or called it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roundel_barrier_async(comm: roundel_comm_t, work: *mut roundel_work_t) -> roundel_result_t {
    // SAFETY: the caller promises room for a handle, or NULL.
    unsafe { route::start("roundel_barrier_async", comm, work, Asked::barrier()) }
}
