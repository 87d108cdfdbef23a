//! The words that go with a code: `ncclGetErrorString` for the code alone, `ncclGetLastError` for what happened.

use crate::abi::*;
use crate::comm;
use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, PoisonError};

thread_local! {
    /// This thread's last failure.
    static OWN: RefCell<Option<String>> = const { RefCell::new(None) };
    /// What `ncclGetLastError` handed out here.
    static SHOWN: RefCell<CString> = RefCell::default();
}

/// The process's last failure, for threads that had none: a watchdog asks for what befell another thread.
static ANYBODYS: Mutex<String> = Mutex::new(String::new());

/// Keeps the text for `ncclGetLastError`, and prints it where `NCCL_DEBUG` asks for warnings.
pub(crate) fn remember(text: &str) {
    *ANYBODYS.lock().unwrap_or_else(PoisonError::into_inner) = text.to_string();
    note(text);
    if debug_level() >= WARN {
        eprintln!("{} NCCL WARN {text}", std::process::id());
    }
}

/// Keeps the text for this thread, which asked how things are.
pub(crate) fn note(text: &str) {
    // A thread that is ending has nobody left to ask it.
    let _ = OWN.try_with(|own| *own.borrow_mut() = Some(text.to_string()));
}

pub(crate) fn of_this_thread() -> Option<String> {
    OWN.try_with(|own| own.borrow().clone()).ok().flatten()
}

const UNKNOWN: u8 = 0;
const SILENT: u8 = 1;
const WARN: u8 = 2;
static DEBUG_LEVEL: AtomicU8 = AtomicU8::new(UNKNOWN);

/// `NCCL_DEBUG`, read once.
fn debug_level() -> u8 {
    // Relaxed: every thread would compute the same.
    match DEBUG_LEVEL.load(Ordering::Relaxed) {
        UNKNOWN => {
            let wanted = std::env::var("NCCL_DEBUG").unwrap_or_default().to_ascii_uppercase();
            let level = if ["WARN", "INFO", "ABORT", "TRACE"].contains(&wanted.as_str()) { WARN } else { SILENT };
            DEBUG_LEVEL.store(level, Ordering::Relaxed);
            level
        }
        level => level,
    }
}

/// Reads `NCCL_DEBUG` again at the next failure.
#[unsafe(no_mangle)]
pub extern "C" fn ncclResetDebugInit() {
    // Relaxed: see `debug_level`.
    DEBUG_LEVEL.store(UNKNOWN, Ordering::Relaxed);
}

/// As [`ncclResetDebugInit`].
#[unsafe(no_mangle)]
pub extern "C" fn ncclResetDebugInitInternal() {
    ncclResetDebugInit();
}

/// What a code means; the same text for ever.
#[unsafe(no_mangle)]
pub extern "C" fn ncclGetErrorString(result: ncclResult_t) -> *const c_char {
    let text: &'static CStr = match result {
        ncclSuccess => c"no error",
        ncclUnhandledCudaError => c"unhandled cuda error (run with NCCL_DEBUG=INFO for details)",
        ncclSystemError => c"unhandled system error (run with NCCL_DEBUG=INFO for details)",
        ncclInternalError => c"internal error - please report this issue to the developers of Roundel",
        ncclInvalidArgument => c"invalid argument (run with NCCL_DEBUG=WARN for details)",
        ncclInvalidUsage => c"invalid usage (run with NCCL_DEBUG=WARN for details)",
        ncclRemoteError => c"remote process exited or there was a network error",
        ncclInProgress => c"operation in progress",
        ncclTimeout => c"operation timed out",
        _ => c"unknown result code",
    };
    text.as_ptr()
}

/// What happened: to `comm` if it has failed, else to the calling thread, else to any thread. Empty when nothing did. The text
/// is the thread's own, and lasts until it asks again or ends.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclGetLastError(comm: ncclComm_t) -> *const c_char {
    let text = std::panic::catch_unwind(|| {
        let of_comm = comm::COMMS.find(comm).ok().and_then(|comm| comm.failure());
        let text = of_comm.map(|failure| failure.message).or_else(of_this_thread);
        text.unwrap_or_else(|| ANYBODYS.lock().unwrap_or_else(PoisonError::into_inner).clone())
    });
    let text = CString::new(text.unwrap_or_default().replace('\0', " ")).unwrap_or_default();
    let shown = SHOWN.try_with(|shown| {
        *shown.borrow_mut() = text;
        shown.borrow().as_ptr()
    });
    shown.unwrap_or(c"".as_ptr())
}
