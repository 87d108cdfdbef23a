//! Whether a communicator still lives, and who has left it. Written by whoever learns of it first (the control plane's
//! thread, a broken link, a deadline), read by every wait.
#![forbid(unsafe_code)]

use crate::bare::IS_BARE;
use crate::error::{Error, Result};
use crate::types::Rank;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

/// The life of one communicator, as one rank knows it.
#[derive(Debug)]
pub struct Fate {
    failed: AtomicBool,
    error: Mutex<Option<Error>>,
    left: Box<[AtomicBool]>,
}

impl Fate {
    /// Alive and complete.
    pub fn new(world: usize) -> Fate {
        Fate {
            failed: AtomicBool::new(false),
            error: Mutex::new(None),
            left: (0..world).map(|_| AtomicBool::new(false)).collect(),
        }
    }

    /// Ends the communicator. The first error stays; true if this was it. What it did to one call is not told to others.
    pub fn fail(&self, error: Error) -> bool {
        let mut slot = self.error.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let first = slot.is_none();
        slot.get_or_insert_with(|| error.elsewhere());
        // Release: pairs with the Acquire in `check`; whoever sees the flag finds the error.
        self.failed.store(true, Ordering::Release);
        first
    }

    /// [`Fate::check`], as whoever waits does it between two looks.
    #[inline]
    pub(super) fn watch(&self) -> Result<()> {
        if IS_BARE { Ok(()) } else { self.check() }
    }

    /// `Ok` while the communicator lives; afterwards its error.
    #[inline]
    pub fn check(&self) -> Result<()> {
        // Acquire: pairs with the Release in `fail`.
        if !self.failed.load(Ordering::Acquire) {
            return Ok(());
        }
        let slot = self.error.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        slot.clone().map_or(Ok(()), Err)
    }

    /// `rank` said goodbye: nothing more will come from it than what it has already sent.
    pub fn leave(&self, rank: Rank) {
        // Release: pairs with the Acquire in `has_left`; what the rank sent before its goodbye is visible after it.
        self.left[rank].store(true, Ordering::Release);
    }

    /// True when `rank` said goodbye.
    pub fn has_left(&self, rank: Rank) -> bool {
        // Acquire: pairs with the Release in `leave`.
        self.left[rank].load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_error_stays() {
        let fate = Fate::new(2);
        assert_eq!(fate.check(), Ok(()));
        assert!(fate.fail(Error::invalid("first")));
        assert!(!fate.fail(Error::invalid("second")));
        assert_eq!(fate.check(), Err(Error::invalid("first")));
        assert!(!fate.has_left(1));
        fate.leave(1);
        assert!(fate.has_left(1) && !fate.has_left(0));
    }
}
