//! From what happens in Rust to the codes that NCCL's functions return: errors, and panics, which end here.

use crate::abi::*;
use crate::last_error;
use roundel::Error;
use std::ffi::c_int;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// A call that failed: NCCL's code, and the words for `ncclGetLastError`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) code: ncclResult_t,
    pub(crate) message: String,
}

pub(crate) type Result<T> = std::result::Result<T, Failure>;

/// A call that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Done {
    Now,
    /// It goes on; `ncclCommGetAsyncError` tells when it ends.
    Later,
}

impl From<()> for Done {
    fn from((): ()) -> Done {
        Done::Now
    }
}

impl Failure {
    /// The arguments make no sense.
    pub(crate) fn argument(message: impl Into<String>) -> Failure {
        Failure { code: ncclInvalidArgument, message: message.into() }
    }

    /// The arguments make sense, but not here, or not yet.
    pub(crate) fn usage(message: impl Into<String>) -> Failure {
        Failure { code: ncclInvalidUsage, message: message.into() }
    }

    pub(crate) fn system(message: impl Into<String>) -> Failure {
        Failure { code: ncclSystemError, message: message.into() }
    }

    fn panicked(payload: &(dyn std::any::Any + Send)) -> Failure {
        let words = payload.downcast_ref::<String>().map(String::as_str);
        let words = words.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("no words");
        Failure { code: ncclInternalError, message: format!("a bug in Roundel: {words}") }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        let code = match &error {
            Error::Invalid { .. } => ncclInvalidArgument,
            Error::Unsupported { .. } | Error::Mismatch { .. } => ncclInvalidUsage,
            // `ncclTimeout` would say it better, but programs built before 2.30.3 do not know it.
            Error::PeerLost { .. } | Error::Corrupted { .. } | Error::Timeout { .. } | Error::Aborted { .. } => {
                ncclRemoteError
            }
            Error::Bootstrap { missing, .. } if !missing.is_empty() => ncclRemoteError,
            Error::Bootstrap { .. } | Error::System { .. } => ncclSystemError,
            _ => ncclInternalError,
        };
        Failure { code, message: error.to_string() }
    }
}

/// Runs `body`; a panic is a failure like others.
pub(crate) fn caught<T>(body: impl FnOnce() -> Result<T>) -> Result<T> {
    // Unwind safety: what a panic may leave half done is behind locks that are taken poisoned or not, and whose data are
    // valid after every statement.
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|payload| Err(Failure::panicked(&*payload)))
}

/// The body of the exported function `name`: its code, and on failure its text for `ncclGetLastError`.
pub(crate) fn answer<D: Into<Done>>(name: &str, body: impl FnOnce() -> Result<D>) -> ncclResult_t {
    match caught(body).map(Into::into) {
        Ok(Done::Now) => ncclSuccess,
        Ok(Done::Later) => ncclInProgress,
        Err(failure) => {
            last_error::remember(&format!("{name}: {}", failure.message));
            failure.code
        }
    }
}

/// Writes a result where the caller wants it.
///
/// # Safety
/// `place` is NULL or may be written.
pub(crate) unsafe fn put<T>(place: *mut T, what: &str, value: T) -> Result<()> {
    // SAFETY: `out` refuses NULL; the rest is this function's own promise.
    unsafe { out(place, what)?.write(value) };
    Ok(())
}

/// A place for a result, which must not be NULL.
pub(crate) fn out<T>(place: *mut T, what: &str) -> Result<*mut T> {
    if place.is_null() {
        return Err(Failure::argument(format!("{what} is NULL; it is where the result goes")));
    }
    if !place.is_aligned() {
        return Err(Failure::argument(format!("{what} at {place:p} is not aligned")));
    }
    Ok(place)
}

/// A rank out of C's integers.
pub(crate) fn rank(what: &str, value: c_int, world: usize) -> Result<usize> {
    let rank = usize::try_from(value).ok().filter(|rank| *rank < world);
    rank.ok_or_else(|| Failure::argument(format!("{what} {value} in a communicator of {world} ranks")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_internal_error_with_its_words() {
        let code = answer("ncclTest", || -> Result<()> { panic!("number {}", 7) });
        assert_eq!(code, ncclInternalError);
        assert_eq!(last_error::of_this_thread().as_deref(), Some("ncclTest: a bug in Roundel: number 7"));
    }

    #[test]
    fn ranks_are_checked_on_both_sides() {
        assert_eq!(rank("root", 2, 3), Ok(2));
        for wrong in [-1, 3, c_int::MIN, c_int::MAX] {
            assert_eq!(rank("root", wrong, 3).unwrap_err().code, ncclInvalidArgument);
        }
    }
}
