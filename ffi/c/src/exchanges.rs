//! The collectives that only move. Each as a blocking call and as one that goes on by itself.

use crate::arguments::{self, buffer, bytes, total};
use crate::boundary::Outcome;
use crate::names::{raw::*, roundel_comm_t, roundel_result_t, roundel_work_t};
use crate::route;
use library::memory::Span;
use library::{Call, Collective, Communicator, Counts};
use std::ffi::c_void;

/// # Safety
/// Buffers are NULL or what [`Span::new`] wants until the call has ended, arrays of counts NULL or as long as the world.
unsafe fn broadcast(
    comm: &Communicator,
    send: *const c_void,
    recv: *mut c_void,
    count: usize,
    dtype: roundel_dtype_t,
    root: i32,
) -> Outcome<Call> {
    let dtype = arguments::dtype(dtype)?;
    let root = arguments::rank(root, "root")?;
    // SAFETY: promised by the caller.
    let (input, output) = unsafe {
        (
            if root == comm.rank() { buffer(send, bytes(count, 1, dtype)?, "send")? } else { Span::EMPTY },
            buffer(recv, bytes(count, 1, dtype)?, "recv")?,
        )
    };
    Ok(Call {
        collective: Collective::Broadcast,
        dtype,
        op: None,
        root,
        peer: 0,
        counts: Counts::Even(count),
        input,
        output,
    })
}

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
    // SAFETY: the caller promises what `broadcast` wants.
    route::run("roundel_broadcast", comm, |comm| unsafe { broadcast(comm, send, recv, count, dtype, root) })
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
    // SAFETY: the caller promises what `broadcast` wants until the work has ended, and room for a handle, or NULL.
    unsafe {
        route::start("roundel_broadcast_async", comm, work, |comm| broadcast(comm, send, recv, count, dtype, root))
    }
}

/// # Safety
/// Buffers are NULL or what [`Span::new`] wants until the call has ended, arrays of counts NULL or as long as the world.
unsafe fn all_gather(
    comm: &Communicator,
    send: *const c_void,
    recv: *mut c_void,
    count: usize,
    dtype: roundel_dtype_t,
) -> Outcome<Call> {
    let dtype = arguments::dtype(dtype)?;
    // SAFETY: promised by the caller.
    let (input, output) = unsafe {
        (buffer(send, bytes(count, 1, dtype)?, "send")?, buffer(recv, bytes(count, comm.world(), dtype)?, "recv")?)
    };
    Ok(Call {
        collective: Collective::AllGather,
        dtype,
        op: None,
        root: 0,
        peer: 0,
        counts: Counts::Even(count),
        input,
        output,
    })
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
    // SAFETY: the caller promises what `all_gather` wants.
    route::run("roundel_all_gather", comm, |comm| unsafe { all_gather(comm, send, recv, count, dtype) })
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
    // SAFETY: the caller promises what `all_gather` wants until the work has ended, and room for a handle, or NULL.
    unsafe { route::start("roundel_all_gather_async", comm, work, |comm| all_gather(comm, send, recv, count, dtype)) }
}

/// # Safety
/// Buffers are NULL or what [`Span::new`] wants until the call has ended, arrays of counts NULL or as long as the world.
unsafe fn all_gather_v(
    comm: &Communicator,
    send: *const c_void,
    recv: *mut c_void,
    counts: *const usize,
    dtype: roundel_dtype_t,
) -> Outcome<Call> {
    let dtype = arguments::dtype(dtype)?;
    // SAFETY: promised by the caller.
    let counts = unsafe { arguments::array(counts, comm.world(), "counts") }?;
    // SAFETY: promised by the caller.
    let (input, output) = unsafe {
        (
            buffer(send, bytes(counts[comm.rank()], 1, dtype)?, "send")?,
            buffer(recv, bytes(total(counts)?, 1, dtype)?, "recv")?,
        )
    };
    Ok(Call {
        collective: Collective::AllGather,
        dtype,
        op: None,
        root: 0,
        peer: 0,
        counts: Counts::Blocks(counts.to_vec()),
        input,
        output,
    })
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
    // SAFETY: the caller promises what `all_gather_v` wants.
    route::run("roundel_all_gather_v", comm, |comm| unsafe { all_gather_v(comm, send, recv, counts, dtype) })
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
    // SAFETY: the caller promises what `all_gather_v` wants until the work has ended, and room for a handle, or NULL.
    unsafe {
        route::start("roundel_all_gather_v_async", comm, work, |comm| all_gather_v(comm, send, recv, counts, dtype))
    }
}

/// # Safety
/// Buffers are NULL or what [`Span::new`] wants until the call has ended, arrays of counts NULL or as long as the world.
unsafe fn gather(
    comm: &Communicator,
    send: *const c_void,
    recv: *mut c_void,
    count: usize,
    dtype: roundel_dtype_t,
    root: i32,
) -> Outcome<Call> {
    let dtype = arguments::dtype(dtype)?;
    let root = arguments::rank(root, "root")?;
    // SAFETY: promised by the caller.
    let (input, output) = unsafe {
        (
            buffer(send, bytes(count, 1, dtype)?, "send")?,
            if root == comm.rank() { buffer(recv, bytes(count, comm.world(), dtype)?, "recv")? } else { Span::EMPTY },
        )
    };
    Ok(Call {
        collective: Collective::Gather,
        dtype,
        op: None,
        root,
        peer: 0,
        counts: Counts::Even(count),
        input,
        output,
    })
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
    // SAFETY: the caller promises what `gather` wants.
    route::run("roundel_gather", comm, |comm| unsafe { gather(comm, send, recv, count, dtype, root) })
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
    // SAFETY: the caller promises what `gather` wants until the work has ended, and room for a handle, or NULL.
    unsafe { route::start("roundel_gather_async", comm, work, |comm| gather(comm, send, recv, count, dtype, root)) }
}

/// # Safety
/// Buffers are NULL or what [`Span::new`] wants until the call has ended, arrays of counts NULL or as long as the world.
unsafe fn scatter(
    comm: &Communicator,
    send: *const c_void,
    recv: *mut c_void,
    count: usize,
    dtype: roundel_dtype_t,
    root: i32,
) -> Outcome<Call> {
    let dtype = arguments::dtype(dtype)?;
    let root = arguments::rank(root, "root")?;
    // SAFETY: promised by the caller.
    let (input, output) = unsafe {
        (
            if root == comm.rank() { buffer(send, bytes(count, comm.world(), dtype)?, "send")? } else { Span::EMPTY },
            buffer(recv, bytes(count, 1, dtype)?, "recv")?,
        )
    };
    Ok(Call {
        collective: Collective::Scatter,
        dtype,
        op: None,
        root,
        peer: 0,
        counts: Counts::Even(count),
        input,
        output,
    })
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
    // SAFETY: the caller promises what `scatter` wants.
    route::run("roundel_scatter", comm, |comm| unsafe { scatter(comm, send, recv, count, dtype, root) })
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
    // SAFETY: the caller promises what `scatter` wants until the work has ended, and room for a handle, or NULL.
    unsafe { route::start("roundel_scatter_async", comm, work, |comm| scatter(comm, send, recv, count, dtype, root)) }
}

/// # Safety
/// Buffers are NULL or what [`Span::new`] wants until the call has ended, arrays of counts NULL or as long as the world.
unsafe fn all_to_all(
    comm: &Communicator,
    send: *const c_void,
    recv: *mut c_void,
    count: usize,
    dtype: roundel_dtype_t,
) -> Outcome<Call> {
    let dtype = arguments::dtype(dtype)?;
    // SAFETY: promised by the caller.
    let (input, output) = unsafe {
        (
            buffer(send, bytes(count, comm.world(), dtype)?, "send")?,
            buffer(recv, bytes(count, comm.world(), dtype)?, "recv")?,
        )
    };
    Ok(Call {
        collective: Collective::AllToAll,
        dtype,
        op: None,
        root: 0,
        peer: 0,
        counts: Counts::Even(count),
        input,
        output,
    })
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
    // SAFETY: the caller promises what `all_to_all` wants.
    route::run("roundel_all_to_all", comm, |comm| unsafe { all_to_all(comm, send, recv, count, dtype) })
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
    // SAFETY: the caller promises what `all_to_all` wants until the work has ended, and room for a handle, or NULL.
    unsafe { route::start("roundel_all_to_all_async", comm, work, |comm| all_to_all(comm, send, recv, count, dtype)) }
}

/// # Safety
/// Buffers are NULL or what [`Span::new`] wants until the call has ended, arrays of counts NULL or as long as the world.
unsafe fn all_to_all_v(
    comm: &Communicator,
    send: *const c_void,
    send_counts: *const usize,
    recv: *mut c_void,
    recv_counts: *const usize,
    dtype: roundel_dtype_t,
) -> Outcome<Call> {
    let dtype = arguments::dtype(dtype)?;
    // SAFETY: promised by the caller.
    let counts = unsafe {
        let send = arguments::array(send_counts, comm.world(), "send_counts")?;
        (send, arguments::array(recv_counts, comm.world(), "recv_counts")?)
    };
    // SAFETY: promised by the caller.
    let (input, output) = unsafe {
        (
            buffer(send, bytes(total(counts.0)?, 1, dtype)?, "send")?,
            buffer(recv, bytes(total(counts.1)?, 1, dtype)?, "recv")?,
        )
    };
    Ok(Call {
        collective: Collective::AllToAll,
        dtype,
        op: None,
        root: 0,
        peer: 0,
        counts: Counts::Exchange { send: counts.0.to_vec(), recv: counts.1.to_vec() },
        input,
        output,
    })
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
    // SAFETY: the caller promises what `all_to_all_v` wants.
    route::run("roundel_all_to_all_v", comm, |comm| unsafe {
        all_to_all_v(comm, send, send_counts, recv, recv_counts, dtype)
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
    // SAFETY: the caller promises what `all_to_all_v` wants until the work has ended, and room for a handle, or NULL.
    unsafe {
        route::start("roundel_all_to_all_v_async", comm, work, |comm| {
            all_to_all_v(comm, send, send_counts, recv, recv_counts, dtype)
        })
    }
}
