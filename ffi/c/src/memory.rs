//! Memory that the other ranks of the host can map.

use crate::arguments;
use crate::boundary::boundary;
use crate::comm;
use crate::last_error::Failure;
use crate::names::{roundel_comm_t, roundel_result_t};
use library::Buffer;
use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

/// What was handed out and not given back, by address.
static BUFFERS: LazyLock<Mutex<HashMap<usize, Buffer<u8>>>> = LazyLock::new(Mutex::default);

fn buffers() -> MutexGuard<'static, HashMap<usize, Buffer<u8>>> {
    BUFFERS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Zeroed memory that the other ranks of the host can reach: calls on it need no staging copies. At least 64-byte
/// aligned. Not collective: each rank allocates for itself, and calls find out whether all of them did. It may outlive
/// the communicator.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roundel_alloc(
    memory: *mut *mut c_void,
    len_bytes: usize,
    comm: roundel_comm_t,
) -> roundel_result_t {
    boundary("roundel_alloc", || {
        // SAFETY: the caller promises room for a pointer, or NULL.
        let memory = unsafe { arguments::out(memory, "memory") }?;
        let comm = comm::get(comm)?;
        let mut buffer = comm.alloc::<u8>(len_bytes).map_err(|error| Failure::from(error).on(comm.rank()))?;
        let start = buffer.as_mut_ptr();
        buffers().insert(start.addr(), buffer);
        *memory = start.cast();
        Ok(())
    })
}

/// Gives memory of `roundel_alloc` back; NULL is fine. No call that uses it may be in flight.
#[unsafe(no_mangle)]
pub extern "C" fn roundel_free(memory: *mut c_void) -> roundel_result_t {
    boundary("roundel_free", || {
        if memory.is_null() {
            return Ok(());
        }
        let buffer = buffers().remove(&memory.addr());
        let gone = || Failure::argument(format!("{memory:p} is not from roundel_alloc, or was freed before"));
        buffer.map(drop).ok_or_else(gone)
    })
}
