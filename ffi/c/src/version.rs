//! What this library is, and words for its numbers.

use crate::arguments;
use crate::boundary::boundary;
use crate::names::raw::roundel_dtype_t;
use crate::names::roundel_result_t::{self, *};
use std::ffi::c_char;

/// The version of this header: major * 10000 + minor * 100 + patch.
pub const ROUNDEL_VERSION: i32 = 100;

const _: () = {
    let words = env!("CARGO_PKG_VERSION").as_bytes();
    let (mut version, mut part, mut at) = (0, 0, 0);
    while at < words.len() {
        match words[at] {
            b'.' => (version, part) = ((version + part) * 100, 0),
            digit => part = part * 10 + (digit - b'0') as i32,
        }
        at += 1;
    }
    assert!(version + part == ROUNDEL_VERSION, "ROUNDEL_VERSION is not the package's version");
};

/// The version of the library that is running, to compare with `ROUNDEL_VERSION`.
#[unsafe(no_mangle)]
pub extern "C" fn roundel_version() -> i32 {
    ROUNDEL_VERSION
}

/// The same as text, as in "0.1.0".
#[unsafe(no_mangle)]
pub extern "C" fn roundel_version_string() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

/// What a result means, in a few words; never NULL. What happened is told by `roundel_last_error`.
#[unsafe(no_mangle)]
pub extern "C" fn roundel_result_string(result: i32) -> *const c_char {
    const WORDS: [(roundel_result_t, &std::ffi::CStr); 13] = [
        (ROUNDEL_SUCCESS, c"success"),
        (ROUNDEL_IN_PROGRESS, c"in progress"),
        (ROUNDEL_ERROR_INVALID_ARGUMENT, c"invalid argument"),
        (ROUNDEL_ERROR_INVALID_HANDLE, c"invalid handle"),
        (ROUNDEL_ERROR_UNSUPPORTED, c"not supported"),
        (ROUNDEL_ERROR_MISMATCH, c"ranks made different calls"),
        (ROUNDEL_ERROR_PEER_LOST, c"a rank is gone"),
        (ROUNDEL_ERROR_TIMEOUT, c"timed out"),
        (ROUNDEL_ERROR_BOOTSTRAP, c"not all ranks turned up"),
        (ROUNDEL_ERROR_ABORTED, c"a rank aborted the communicator"),
        (ROUNDEL_ERROR_SYSTEM, c"the operating system said no"),
        (ROUNDEL_ERROR_INTERNAL, c"a bug in Roundel"),
        (ROUNDEL_ERROR_CORRUPTED, c"bytes or results are not what they should be"),
    ];
    let words = WORDS.iter().find(|(code, _)| *code as i32 == result);
    words.map_or(c"unknown result", |(_, words)| words).as_ptr()
}

/// Bytes of one element of this type.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roundel_dtype_size(dtype: roundel_dtype_t, size_bytes: *mut usize) -> roundel_result_t {
    boundary("roundel_dtype_size", || {
        let dtype = arguments::dtype(dtype)?;
        // SAFETY: the caller promises room for a number, or NULL.
        *unsafe { arguments::out(size_bytes, "size_bytes") }? = dtype.size_bytes();
        Ok(())
    })
}
