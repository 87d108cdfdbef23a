//! Where a call goes: it runs, it starts, or the thread's group takes it.

use crate::asked::Asked;
use crate::boundary::{Outcome, boundary};
use crate::last_error::Failure;
use crate::names::{roundel_comm_t, roundel_result_t, roundel_work_t};
use crate::{comm, group, work};
use library::{Call, Communicator, Error};

/// Runs the call that was asked for, or adds it to the group that is open on this thread.
#[inline]
pub fn run(function: &'static str, handle: roundel_comm_t, asked: Asked) -> roundel_result_t {
    boundary(function, || {
        if group::is_open() {
            return group::add(handle, |comm| Ok([asked.call(comm)?]));
        }
        let comm = comm::get(handle)?;
        let on = |failure: Failure| failure.on(comm.rank());
        comm.run(&asked.call(&comm).map_err(on)?).map_err(|error| on(error.into()))
    })
}

/// Runs two calls at once, or adds them to the open group.
pub fn run_both(function: &'static str, handle: roundel_comm_t, asked: [Asked; 2]) -> roundel_result_t {
    boundary(function, || {
        if group::is_open() {
            return group::add(handle, |comm| pair(&asked, comm));
        }
        let comm = comm::get(handle)?;
        let on = |failure: Failure| failure.on(comm.rank());
        let calls = pair(&asked, &comm).map_err(on)?;
        let ended = comm.group(|group| calls.into_iter().try_for_each(|call| group.call(call)));
        ended.map_err(|error| on(error.into()))
    })
}

/// Starts the call that was asked for.
///
/// # Safety
/// `to` is NULL or has room for a handle.
pub unsafe fn start(
    function: &'static str,
    handle: roundel_comm_t,
    to: *mut roundel_work_t,
    asked: Asked,
) -> roundel_result_t {
    // SAFETY: promised by the caller.
    unsafe { start_any(function, handle, to, |comm| asked.call(comm), |comm, call| Ok(vec![comm.start(&call)?])) }
}

/// Starts two calls.
///
/// # Safety
/// `to` is NULL or has room for a handle.
pub unsafe fn start_both(
    function: &'static str,
    handle: roundel_comm_t,
    to: *mut roundel_work_t,
    asked: [Asked; 2],
) -> roundel_result_t {
    // SAFETY: promised by the caller.
    unsafe { start_any(function, handle, to, |comm| pair(&asked, comm), |comm, calls| comm.start_group(calls.into())) }
}

fn pair([one, other]: &[Asked; 2], comm: &Communicator) -> Outcome<[Call; 2]> {
    Ok([one.call(comm)?, other.call(comm)?])
}

/// # Safety
/// `to` is NULL or has room for a handle.
unsafe fn start_any<C>(
    function: &'static str,
    handle: roundel_comm_t,
    to: *mut roundel_work_t,
    make: impl FnOnce(&Communicator) -> Outcome<C>,
    start: impl FnOnce(&Communicator, C) -> Result<Vec<library::Work<()>>, Error>,
) -> roundel_result_t {
    boundary(function, || {
        group::must_be_closed("a nonblocking call")?;
        let comm = comm::get(handle)?;
        let start = || {
            let calls = make(&comm)?;
            // SAFETY: promised by the caller.
            unsafe { work::hand_out(to, comm.rank(), || Ok(start(&comm, calls)?)) }
        };
        start().map_err(|failure| failure.on(comm.rank()))
    })
}
