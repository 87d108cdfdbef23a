//! Memory for buffers, and what programs tell of it beforehand. Registration and windows are hints to NCCL, for which
//! calls on the memory run faster; here they change nothing but are kept, so that their handles can be checked.

use crate::abi::*;
use crate::comm;
use crate::handles::Registry;
use crate::status::{Failure, Result, answer, out, put};
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::collections::BTreeMap;
use std::ffi::{c_int, c_void};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What `ncclMemAlloc` gave, by address.
static ALLOCATIONS: Mutex<BTreeMap<usize, Layout>> = Mutex::new(BTreeMap::new());

fn allocations() -> MutexGuard<'static, BTreeMap<usize, Layout>> {
    ALLOCATIONS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A piece of memory that a program told of.
struct Told {
    /// [`comm::Comm::id`] of the communicator that it told.
    owner: u64,
    start: usize,
}

static REGISTRATIONS: Registry<Told> = Registry::new("registration");
static WINDOWS: Registry<Told> = Registry::new("window");

/// Forgets what was told to a communicator that has ended.
pub(crate) fn forget(owner: u64) {
    REGISTRATIONS.retain(|told| told.owner != owner);
    WINDOWS.retain(|told| told.owner != owner);
}

/// `size` bytes of zeroed host memory, aligned for windows. NULL for none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclMemAlloc(ptr: *mut *mut c_void, size: usize) -> ncclResult_t {
    answer("ncclMemAlloc", || {
        let place = out(ptr, "ptr")?;
        if size == 0 {
            // SAFETY: the crate's contract.
            return unsafe { put(place, "ptr", std::ptr::null_mut()) };
        }
        let layout = Layout::from_size_align(size, NCCL_WIN_REQUIRED_ALIGNMENT)
            .map_err(|_| Failure::argument(format!("{size} bytes are more than there can be")))?;
        // SAFETY: at least one byte.
        let start = unsafe { alloc_zeroed(layout) };
        if start.is_null() {
            return Err(Failure::system(format!("the system has no {size} bytes")));
        }
        allocations().insert(start.expose_provenance(), layout);
        // SAFETY: the crate's contract.
        unsafe { put(place, "ptr", start.cast()) }
    })
}

/// Gives back what [`ncclMemAlloc`] gave. NULL is nothing to do.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclMemFree(ptr: *mut c_void) -> ncclResult_t {
    answer("ncclMemFree", || {
        if ptr.is_null() {
            return Ok(());
        }
        let Some(layout) = allocations().remove(&ptr.addr()) else {
            return Err(Failure::argument(format!("{ptr:p} did not come from ncclMemAlloc, or was freed before")));
        };
        // SAFETY: it came from `alloc_zeroed` with this layout and was not freed since: it was in the table until now.
        unsafe { dealloc(ptr.cast(), layout) };
        Ok(())
    })
}

/// A handle for memory that `comm` is told of.
fn tell(registry: &Registry<Told>, comm: ncclComm_t, buff: *mut c_void, size: usize) -> Result<*mut c_void> {
    let comm = comm::find(comm)?;
    comm.active()?;
    if buff.is_null() || size == 0 || buff.addr().checked_add(size).is_none() {
        return Err(Failure::argument(format!("{size} bytes at {buff:p} are no memory")));
    }
    Ok(registry.add(Arc::new(Told { owner: comm.id, start: buff.expose_provenance() })))
}

/// What `comm` was told of under a handle.
fn told(registry: &Registry<Told>, comm: ncclComm_t, handle: *const c_void) -> Result<Arc<Told>> {
    let comm = comm::find(comm)?;
    let told = registry.find(handle)?;
    if told.owner != comm.id {
        return Err(Failure::argument(format!("{handle:p} belongs to another communicator")));
    }
    Ok(told)
}

/// Takes note of a buffer. Not collective.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommRegister(
    comm: ncclComm_t,
    buff: *mut c_void,
    size: usize,
    handle: *mut *mut c_void,
) -> ncclResult_t {
    answer("ncclCommRegister", || {
        out(handle, "handle")?;
        // SAFETY: the crate's contract.
        unsafe { put(handle, "handle", tell(&REGISTRATIONS, comm, buff, size)?) }
    })
}

/// Forgets a buffer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommDeregister(comm: ncclComm_t, handle: *mut c_void) -> ncclResult_t {
    answer("ncclCommDeregister", || {
        told(&REGISTRATIONS, comm, handle)?;
        REGISTRATIONS.take(handle).map(drop)
    })
}

/// Takes note of a buffer that all ranks have. Calls on it work as on any other; one-sided ones do not (see
/// [`crate::refused`]). Not collective here: no rank waits for another.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommWindowRegister(
    comm: ncclComm_t,
    buff: *mut c_void,
    size: usize,
    win: *mut ncclWindow_t,
    winFlags: c_int,
) -> ncclResult_t {
    const ALL: c_int = NCCL_WIN_COLL_SYMMETRIC | NCCL_WIN_STRICT_ORDERING | NCCL_WIN_GIN_ONLY | NCCL_WIN_CFT_COUNTED;
    answer("ncclCommWindowRegister", || {
        out(win, "win")?;
        if winFlags & !ALL != NCCL_WIN_DEFAULT {
            return Err(Failure::argument(format!("winFlags {winFlags:#x}; there are 0x1, 0x2, 0x4 and 0x8")));
        }
        if !buff.addr().is_multiple_of(NCCL_WIN_REQUIRED_ALIGNMENT) {
            return Err(Failure::argument(format!(
                "a window at {buff:p}; its memory must be aligned to {NCCL_WIN_REQUIRED_ALIGNMENT} bytes, as ncclMemAlloc's is"
            )));
        }
        // SAFETY: the crate's contract.
        unsafe { put(win, "win", tell(&WINDOWS, comm, buff, size)?) }
    })
}

/// Forgets a window.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommWindowDeregister(comm: ncclComm_t, win: ncclWindow_t) -> ncclResult_t {
    answer("ncclCommWindowDeregister", || {
        told(&WINDOWS, comm, win)?;
        WINDOWS.take(win).map(drop)
    })
}

/// The memory that was made a window.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclWinGetUserPtr(
    comm: ncclComm_t,
    win: ncclWindow_t,
    outUserPtr: *mut *mut c_void,
) -> ncclResult_t {
    answer("ncclWinGetUserPtr", || {
        let start = told(&WINDOWS, comm, win)?.start;
        // SAFETY: the crate's contract.
        unsafe { put(outUserPtr, "outUserPtr", std::ptr::with_exposed_provenance_mut(start)) }
    })
}
