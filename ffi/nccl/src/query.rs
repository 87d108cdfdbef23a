//! What the library and a communicator tell of themselves.

use crate::abi::*;
use crate::comm;
use crate::status::{Failure, answer, out, put};
use std::ffi::c_int;
use std::mem::{offset_of, zeroed};

/// The release of NCCL whose ABI this is.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclGetVersion(version: *mut c_int) -> ncclResult_t {
    // SAFETY: the crate's contract.
    answer("ncclGetVersion", || unsafe { put(version, "version", NCCL_VERSION_CODE) })
}

/// How many ranks.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommCount(comm: ncclComm_t, count: *mut c_int) -> ncclResult_t {
    // SAFETY: the crate's contract.
    answer("ncclCommCount", || unsafe { put(count, "count", comm::find(comm)?.communicator()?.world() as c_int) })
}

/// Which of them this is.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommUserRank(comm: ncclComm_t, rank: *mut c_int) -> ncclResult_t {
    // SAFETY: the crate's contract.
    answer("ncclCommUserRank", || unsafe { put(rank, "rank", comm::find(comm)?.communicator()?.rank() as c_int) })
}

/// The device that `ncclCommInitAll` was given for the rank; -1 where none was named, for the memory is the host's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommCuDevice(comm: ncclComm_t, device: *mut c_int) -> ncclResult_t {
    // SAFETY: the crate's contract.
    answer("ncclCommCuDevice", || unsafe { put(device, "device", comm::find(comm)?.device) })
}

/// Fills in as much as the caller's version of the struct has.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommQueryProperties(comm: ncclComm_t, props: *mut ncclCommProperties_t) -> ncclResult_t {
    answer("ncclCommQueryProperties", || {
        let comm = comm::find(comm)?;
        let communicator = comm.communicator()?;
        let props = out(props, "props")?;
        // SAFETY: every version of the struct begins with these three (the crate's contract).
        let (size_bytes, magic, version) = unsafe { ((*props).size, (*props).magic, (*props).version as c_int) };
        let known_bytes = match version {
            _ if version < nccl_version(2, 31, 0) => offset_of!(ncclCommProperties_t, commHash),
            _ if version < nccl_version(2, 32, 0) => offset_of!(ncclCommProperties_t, cftSupport),
            _ => size_of::<ncclCommProperties_t>(),
        };
        if magic != NCCL_API_MAGIC || size_bytes < offset_of!(ncclCommProperties_t, commHash) {
            return Err(Failure::argument("props was not initialised by NCCL_COMM_PROPERTIES_INITIALIZER"));
        }
        // SAFETY: integers and booleans, for all of which zero is a value.
        let none: ncclCommProperties_t = unsafe { zeroed() };
        let answer = ncclCommProperties_t {
            size: size_bytes,
            magic,
            version: version as _,
            rank: communicator.rank() as c_int,
            nRanks: communicator.world() as c_int,
            cudaDev: comm.device,
            nvmlDev: comm::NO_DEVICE,
            // No rank loads from or stores to another's device memory: each is a team of its own.
            nLsaTeams: communicator.world() as c_int,
            commHash: comm.hash,
            ..none
        };
        // SAFETY: no more than the caller's struct has, by its size and its version.
        unsafe {
            std::ptr::copy_nonoverlapping((&raw const answer).cast::<u8>(), props.cast(), size_bytes.min(known_bytes))
        };
        Ok(())
    })
}
