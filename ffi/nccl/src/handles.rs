//! From the handles of C to the things they stand for. A handle is a number that was never used before and is no address, so
//! a stale or foreign one is found out by looking it up.

use crate::status::{Failure, Result};
use std::collections::BTreeMap;
use std::ffi::c_void;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

/// Outside of what any address can be on x86-64 and ARM, and positive where a program keeps it as an integer.
const FIRST: usize = 0x4e43_0000_0000_0000;

/// Across all kinds, so that a handle of one kind is never one of another.
static NEXT: AtomicUsize = AtomicUsize::new(FIRST + 1);

/// All living things of a kind.
pub(crate) struct Registry<T> {
    kind: &'static str,
    things: RwLock<BTreeMap<usize, Arc<T>>>,
}

impl<T> Registry<T> {
    pub(crate) const fn new(kind: &'static str) -> Registry<T> {
        Registry { kind, things: RwLock::new(BTreeMap::new()) }
    }

    /// The handle of a new thing.
    pub(crate) fn add(&self, thing: Arc<T>) -> *mut c_void {
        // Relaxed: only distinct.
        let handle = NEXT.fetch_add(1, Ordering::Relaxed);
        self.things.write().unwrap_or_else(PoisonError::into_inner).insert(handle, thing);
        std::ptr::without_provenance_mut(handle)
    }

    pub(crate) fn find(&self, handle: *const c_void) -> Result<Arc<T>> {
        let things = self.things.read().unwrap_or_else(PoisonError::into_inner);
        things.get(&handle.addr()).cloned().ok_or_else(|| self.unknown(handle))
    }

    /// The thing, whose handle is no handle any more.
    pub(crate) fn take(&self, handle: *const c_void) -> Result<Arc<T>> {
        let taken = self.things.write().unwrap_or_else(PoisonError::into_inner).remove(&handle.addr());
        taken.ok_or_else(|| self.unknown(handle))
    }

    /// Ends all that are not wanted any more.
    pub(crate) fn retain(&self, wanted: impl Fn(&T) -> bool) {
        self.things.write().unwrap_or_else(PoisonError::into_inner).retain(|_, thing| wanted(thing));
    }

    fn unknown(&self, handle: *const c_void) -> Failure {
        let kind = self.kind;
        Failure::argument(match handle.addr() {
            0 => format!("the {kind} is NULL"),
            number if (FIRST..NEXT.load(Ordering::Relaxed)).contains(&number) => {
                format!("{handle:p} is no {kind} any more, or is a handle of another kind")
            }
            _ => format!("{handle:p} is no {kind}; was this program linked to another NCCL too?"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stale_foreign_and_null_handles_are_told_apart() {
        let (shoes, hats) = (Registry::new("shoe"), Registry::new("hat"));
        let shoe = shoes.add(Arc::new(1));
        let hat = hats.add(Arc::new(2));
        assert_eq!(*shoes.find(shoe).unwrap(), 1);
        assert!(shoes.find(hat).unwrap_err().message.contains("another kind"));
        assert_eq!(*shoes.take(shoe).unwrap(), 1);
        assert!(shoes.take(shoe).unwrap_err().message.contains("no shoe any more"));
        assert!(shoes.find(std::ptr::null()).unwrap_err().message.contains("NULL"));
        let local = 0;
        assert!(shoes.find((&raw const local).cast()).unwrap_err().message.contains("another NCCL"));
    }
}
