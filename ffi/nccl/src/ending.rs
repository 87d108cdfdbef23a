//! The end of communicators, and what is known of their health until then.

use crate::abi::*;
use crate::comm::{self, COMMS, Comm, Phase};
use crate::status::{Done, Failure, answer, put};
use crate::{last_error, memory, redop};
use roundel::Communicator;
use std::ffi::c_int;

/// Interrupts the calls that are in flight, on all ranks. Where there is none, no other rank is disturbed.
pub(crate) fn interrupt(comm: &Comm, communicator: &Communicator, why: &str) {
    if comm.is_in_use() {
        communicator.abort(why);
    }
}

/// No more calls after this. Without blocking, calls in the background end by themselves.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommFinalize(comm: ncclComm_t) -> ncclResult_t {
    answer("ncclCommFinalize", || {
        if comm.is_null() {
            return Ok(Done::Now);
        }
        let comm = comm::find(comm)?;
        comm.active()?;
        comm.set_phase(Phase::Finalized);
        match comm.failure() {
            Some(failure) => Err(failure),
            None if comm.is_busy() => Ok(Done::Later),
            None => Ok(Done::Now),
        }
    })
}

/// Waits for calls in the background and leaves. NULL is nothing to do.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommDestroy(comm: ncclComm_t) -> ncclResult_t {
    answer("ncclCommDestroy", || {
        if comm.is_null() {
            return Ok(());
        }
        let comm = COMMS.take(comm)?;
        forget_belongings(&comm);
        // One that could not be made is as easily destroyed.
        let _ = comm.wait_until_made();
        Ok(())
    })
}

/// Interrupts what is in flight, on all ranks, and leaves; from any thread. NULL is nothing to do.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommAbort(comm: ncclComm_t) -> ncclResult_t {
    answer("ncclCommAbort", || {
        if comm.is_null() {
            return Ok(());
        }
        let comm = COMMS.take(comm)?;
        forget_belongings(&comm);
        comm.set_phase(Phase::Aborted);
        // One that is still being made is dropped by whoever makes it.
        if let Ok(communicator) = comm.communicator() {
            interrupt(&comm, communicator, "ncclCommAbort");
        }
        Ok(())
    })
}

/// Interrupts what is in flight, on all ranks. The communicator can then be shrunk or destroyed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommRevoke(comm: ncclComm_t, revokeFlags: c_int) -> ncclResult_t {
    answer("ncclCommRevoke", || {
        let comm = comm::find(comm)?;
        if revokeFlags != NCCL_REVOKE_DEFAULT {
            return Err(Failure::argument(format!("revokeFlags {revokeFlags}; 0 is the only value there is")));
        }
        let communicator = comm.communicator()?;
        if comm.phase() == Phase::Finalized {
            comm.active()?;
        }
        comm.set_phase(Phase::Revoked);
        interrupt(&comm, communicator, "ncclCommRevoke");
        Ok(())
    })
}

/// Whether `comm` works, is busy in the background (`ncclInProgress`), or why it no longer works. Also without any call:
/// the death of a peer shows here.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommGetAsyncError(comm: ncclComm_t, asyncError: *mut ncclResult_t) -> ncclResult_t {
    answer("ncclCommGetAsyncError", || {
        let comm = comm::find(comm)?;
        // Looked at before the failure: a call that has ended has left its failure by then.
        let busy = !comm.is_made() || comm.is_busy();
        let failure = comm.failure().filter(|_| comm.phase() != Phase::Revoked);
        let state = match failure {
            Some(failure) => {
                last_error::note(&failure.message);
                failure.code
            }
            None if busy => ncclInProgress,
            None => ncclSuccess,
        };
        // SAFETY: the crate's contract.
        unsafe { put(asyncError, "asyncError", state) }
    })
}

/// What was registered with the communicator ends with it.
fn forget_belongings(comm: &Comm) {
    redop::forget(comm.id);
    memory::forget(comm.id);
}
