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
