//! Messages between two ranks, and the barrier. Each as a blocking call and as one that goes on by itself.

use crate::arguments::{self, buffer, bytes};
use crate::boundary::Outcome;
use crate::names::{raw::*, roundel_comm_t, roundel_result_t, roundel_work_t};
use crate::route;
use library::memory::Span;
use library::{Call, Collective, Communicator, Counts, DType};
use std::ffi::c_void;

/// A call without its buffer.
fn message(from: usize, to: usize, count: usize, dtype: DType) -> Call {
    Call {
        collective: Collective::SendRecv,
        dtype,
        op: None,
        root: from,
        peer: to,
        counts: Counts::Even(count),
        input: Span::EMPTY,
        output: Span::EMPTY,
    }
}

/// # Safety
/// Buffers are NULL or what [`Span::new`] wants until the call has ended.
unsafe fn sending(
    comm: &Communicator,
    send: *const c_void,
    count: usize,
    dtype: roundel_dtype_t,
    peer: i32,
) -> Outcome<Call> {
    let dtype = arguments::dtype(dtype)?;
    let to = arguments::rank(peer, "peer")?;
    // SAFETY: promised by the caller.
    let input = unsafe { buffer(send, bytes(count, 1, dtype)?, "send") }?;
    Ok(Call { input, ..message(comm.rank(), to, count, dtype) })
}

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
    // SAFETY: the caller promises what `sending` wants.
    route::run("roundel_send", comm, |comm| unsafe { sending(comm, send, count, dtype, peer) })
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
    // SAFETY: the caller promises what `sending` wants until the work has ended, and room for a handle, or NULL.
    unsafe { route::start("roundel_send_async", comm, work, |comm| sending(comm, send, count, dtype, peer)) }
}

/// # Safety
/// Buffers are NULL or what [`Span::new`] wants until the call has ended.
unsafe fn receiving(
    comm: &Communicator,
    recv: *mut c_void,
    count: usize,
    dtype: roundel_dtype_t,
    peer: i32,
) -> Outcome<Call> {
    let dtype = arguments::dtype(dtype)?;
    let from = arguments::rank(peer, "peer")?;
    // SAFETY: promised by the caller.
    let output = unsafe { buffer(recv, bytes(count, 1, dtype)?, "recv") }?;
    Ok(Call { output, ..message(from, comm.rank(), count, dtype) })
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
    // SAFETY: the caller promises what `receiving` wants.
    route::run("roundel_recv", comm, |comm| unsafe { receiving(comm, recv, count, dtype, peer) })
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
    // SAFETY: the caller promises what `receiving` wants until the work has ended, and room for a handle, or NULL.
    unsafe { route::start("roundel_recv_async", comm, work, |comm| receiving(comm, recv, count, dtype, peer)) }
}

/// The two calls of [`roundel_sendrecv`].
///
/// # Safety
/// Buffers are NULL or what [`Span::new`] wants until the calls have ended.
#[allow(clippy::too_many_arguments)]
unsafe fn both(
    comm: &Communicator,
    send: *const c_void,
    send_count: usize,
    to: i32,
    recv: *mut c_void,
    recv_count: usize,
    from: i32,
    dtype: roundel_dtype_t,
) -> Outcome<[Call; 2]> {
    // SAFETY: promised by the caller.
    unsafe { Ok([sending(comm, send, send_count, dtype, to)?, receiving(comm, recv, recv_count, dtype, from)?]) }
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
    // SAFETY: the caller promises what `both` wants.
    route::run_both("roundel_sendrecv", comm, |comm| unsafe {
        both(comm, send, send_count, to, recv, recv_count, from, dtype)
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
    // SAFETY: the caller promises what `both` wants until the work has ended, and room for a handle, or NULL.
    unsafe {
        route::start_both("roundel_sendrecv_async", comm, work, |comm| {
            both(comm, send, send_count, to, recv, recv_count, from, dtype)
        })
    }
}

fn barrier() -> Call {
    Call { collective: Collective::Barrier, ..message(0, 0, 0, DType::U8) }
}

/// Returns when all ranks have called it.
#[unsafe(no_mangle)]
pub extern "C" fn roundel_barrier(comm: roundel_comm_t) -> roundel_result_t {
    route::run("roundel_barrier", comm, |_| Ok(barrier()))
}

/// `roundel_barrier` that goes on by itself: the work ends when all ranks have started or called it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roundel_barrier_async(comm: roundel_comm_t, work: *mut roundel_work_t) -> roundel_result_t {
    // SAFETY: the caller promises room for a handle, or NULL.
    unsafe { route::start("roundel_barrier_async", comm, work, |_| Ok(barrier())) }
}
