//! Forks. A child has a copy of its parent's memory, the parent's sockets, and none of its threads: a communicator would
//! speak there in the parent's name. So whatever belongs to a job remembers the process that made it.
#![allow(unsafe_code)]

use crate::error::{Error, Result};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

/// Forks between the first process that used the library and this one.
static FORKS: AtomicU32 = AtomicU32::new(0);

/// The process in which something was made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Birthplace(u32);

impl Birthplace {
    /// This process.
    pub(crate) fn here() -> Birthplace {
        static REGISTER: Once = Once::new();
        REGISTER.call_once(|| {
            // SAFETY: the handler is a function that lives as long as the program, and does what is allowed between fork and
            // exec: it adds to an atomic. Should there be no memory to note it, forks go unnoticed, as before.
            unsafe { libc::pthread_atfork(None, None, Some(count)) };
        });
        // Relaxed, here and below: a child has a single thread when the count changes.
        Birthplace(FORKS.load(Ordering::Relaxed))
    }

    /// True in the process in which it was made.
    #[inline]
    pub(crate) fn is_here(self) -> bool {
        FORKS.load(Ordering::Relaxed) == self.0
    }

    /// An error in any other.
    #[inline]
    pub(crate) fn check(self) -> Result<()> {
        if self.is_here() {
            return Ok(());
        }
        Err(Error::invalid(
            "this process was forked after the communicator was made, which belongs to its parent; make a new one",
        ))
    }
}

extern "C" fn count() {
    FORKS.fetch_add(1, Ordering::Relaxed);
}
