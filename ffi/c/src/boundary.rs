//! The line between Rust and C: the only place where a panic stops and an error becomes a code.

use crate::last_error::{self, Failure};
use crate::names::roundel_result_t::{self, *};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What exported functions do inside.
pub type Outcome<T = ()> = Result<T, Failure>;

/// Runs the body of the exported function `function`.
///
/// Unwind safety: what the body shares with later calls are the library's communicators, which survive panics by design
/// (a poisoned lock is taken over and the communicator ends with an error), and this crate's tables, which change in
/// single steps.
pub fn boundary(function: &'static str, body: impl FnOnce() -> Outcome) -> roundel_result_t {
    boundary_with(function, || body().map(|()| ROUNDEL_SUCCESS))
}

/// The same for functions that have more than one way to succeed.
pub fn boundary_with(function: &'static str, body: impl FnOnce() -> Outcome<roundel_result_t>) -> roundel_result_t {
    let failure = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(code)) => return code,
        Ok(Err(failure)) => failure,
        Err(panic) => {
            let words = panic.downcast_ref::<String>().map(String::as_str);
            let words = words.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without words");
            let failure = Failure::new(ROUNDEL_ERROR_INTERNAL, format!("a bug in Roundel, please report it: {words}"));
            // What was thrown may be anything, even something that panics when it is dropped.
            std::mem::forget(panic);
            failure
        }
    };
    let code = failure.code;
    last_error::set(function, failure);
    code
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::last_error::roundel_last_error;
    use std::ffi::CStr;

    fn last_error() -> String {
        // SAFETY: a text with a NUL at its end, good until this thread's next error.
        unsafe { CStr::from_ptr(roundel_last_error()) }.to_str().unwrap().to_string()
    }

    /// What some code might throw: dropping it throws again.
    struct Spiteful;

    impl Drop for Spiteful {
        fn drop(&mut self) {
            panic!("once more");
        }
    }

    #[test]
    fn panics_end_here_with_their_words() {
        assert_eq!(boundary("f", || panic!("{} and {}", 1, 2)), ROUNDEL_ERROR_INTERNAL);
        assert_eq!(last_error(), "f: a bug in Roundel, please report it: 1 and 2");
        assert_eq!(boundary("g", || panic!("just words")), ROUNDEL_ERROR_INTERNAL);
        assert!(last_error().ends_with(": just words"));
        assert_eq!(boundary("h", || std::panic::panic_any(Spiteful)), ROUNDEL_ERROR_INTERNAL);
        assert!(last_error().ends_with("a panic without words"));
        assert_eq!(boundary("i", || Ok(())), ROUNDEL_SUCCESS);
        assert!(last_error().starts_with("h: "), "a success leaves the last error as it is");
    }

    #[test]
    fn a_nul_does_not_end_a_message() {
        boundary("f", || Err(Failure::argument("one\0two")));
        assert!(last_error().ends_with("one?two"));
    }
}
