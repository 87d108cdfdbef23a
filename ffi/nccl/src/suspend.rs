//! Giving GPU memory back for a while. A communicator here holds none, so there is none to give back, and the counters say
//! so; but while it is suspended it takes no calls, as in NCCL.

use crate::abi::*;
use crate::comm::{self, Phase};
use crate::status::{Failure, answer, put};
use std::ffi::c_int;

/// No calls until [`ncclCommResume`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommSuspend(comm: ncclComm_t, flags: c_int) -> ncclResult_t {
    answer("ncclCommSuspend", || {
        let comm = comm::find(comm)?;
        if flags != NCCL_SUSPEND_MEM {
            return Err(Failure::argument(format!("flags {flags}; NCCL_SUSPEND_MEM (1) is the only one there is")));
        }
        comm.active()?;
        if comm.is_in_use() {
            return Err(Failure::usage("calls are in flight on the communicator; wait for them first"));
        }
        comm.set_phase(Phase::Suspended);
        Ok(())
    })
}

/// Takes calls again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommResume(comm: ncclComm_t) -> ncclResult_t {
    answer("ncclCommResume", || {
        let comm = comm::find(comm)?;
        if comm.phase() != Phase::Suspended {
            return Err(Failure::usage("the communicator is not suspended"));
        }
        comm.set_phase(Phase::Active);
        Ok(())
    })
}

/// GPU memory of the communicator: none, and whether it is suspended.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommMemStats(comm: ncclComm_t, stat: ncclCommMemStat_t, value: *mut u64) -> ncclResult_t {
    answer("ncclCommMemStats", || {
        let comm = comm::find(comm)?;
        let answer = match stat {
            ncclStatGpuMemSuspended => u64::from(comm.phase() == Phase::Suspended),
            ncclStatGpuMemSuspend | ncclStatGpuMemPersist | ncclStatGpuMemTotal => 0,
            _ => return Err(Failure::argument(format!("{stat} is no ncclCommMemStat_t; they are 0 to 3"))),
        };
        // SAFETY: the crate's contract.
        unsafe { put(value, "value", answer) }
    })
}
