//! Address ranges that stand for memory without an address: [`Names`].
//!
//! A buffer that is only a handle gets a piece of this process's address space for a name. Nothing is behind it: a
//! host that reads or writes there by mistake is stopped at once, and no other memory can ever be taken for it. Cutting a
//! span cuts the name, and whoever works on the buffer finds it and the offset again.

use crate::error::{Error, Result};
use crate::memory::Span;
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use std::collections::BTreeMap;
use std::ffi::c_void;
use std::num::NonZeroUsize;
use std::ptr::NonNull;
use std::sync::{Arc, PoisonError, RwLock};

/// What the names of one kind of memory stand for.
pub(crate) struct Names<T> {
    /// By the first address.
    given: RwLock<BTreeMap<usize, (usize, T)>>,
}

impl<T> Default for Names<T> {
    fn default() -> Names<T> {
        Names { given: RwLock::default() }
    }
}

/// One name. What it stands for is forgotten with it.
pub(crate) struct Name<T> {
    names: Arc<Names<T>>,
    span: Span,
    /// The reservation, which ends at a page.
    start: NonNull<c_void>,
    reserved_bytes: usize,
}

// SAFETY: a name is an address range that nobody can touch, and a share of a table behind a lock.
unsafe impl<T: Send + Sync> Send for Name<T> {}
// SAFETY: as above; `&Name` offers its span only.
unsafe impl<T: Send + Sync> Sync for Name<T> {}

impl<T> Names<T> {
    /// A name for memory of this length.
    pub(crate) fn give(self: &Arc<Self>, len_bytes: usize, what: T) -> Result<Name<T>> {
        let reserved = NonZeroUsize::new(len_bytes).unwrap_or(NonZeroUsize::MIN);
        // SAFETY: a new private reservation at an address that the system chooses; it replaces nothing.
        let start = unsafe {
            mmap_anonymous(None, reserved, ProtFlags::PROT_NONE, MapFlags::MAP_NORESERVE | MapFlags::MAP_PRIVATE)
        }
        .map_err(|errno| Error::system(format!("reserving {len_bytes} bytes of address space (mmap)"), errno))?;
        // SAFETY: nobody touches the memory behind this span (there is none): it is a name, looked up before any use.
        let span = unsafe { Span::new(start.as_ptr().cast(), len_bytes) };
        let mut given = self.given.write().unwrap_or_else(PoisonError::into_inner);
        given.insert(span.addr(), (len_bytes, what));
        Ok(Name { names: self.clone(), span, start, reserved_bytes: reserved.get() })
    }
}

impl<T: Clone> Names<T> {
    /// What a span is part of, and where in it the span begins. `None` for other memory, for spans that reach beyond, and for
    /// empty ones.
    pub(crate) fn find(&self, span: Span) -> Option<(T, usize)> {
        let given = self.given.read().unwrap_or_else(PoisonError::into_inner);
        let (start, (len_bytes, what)) = given.range(..=span.addr()).next_back()?;
        let offset = span.addr() - start;
        let is_inside = !span.is_empty() && offset < *len_bytes && span.len() <= len_bytes - offset;
        is_inside.then(|| (what.clone(), offset))
    }
}

impl<T> Name<T> {
    /// The name.
    pub(crate) fn span(&self) -> Span {
        self.span
    }
}

impl<T> Drop for Name<T> {
    fn drop(&mut self) {
        let mut given = self.names.given.write().unwrap_or_else(PoisonError::into_inner);
        given.remove(&self.span.addr());
        // SAFETY: the reservation of `give`, given back only here, while its name can no longer be found.
        let outcome = unsafe { munmap(self.start, self.reserved_bytes) };
        debug_assert_eq!(outcome, Ok(()));
    }
}

#[cfg(test)]
mod tests {
    use super::Names;
    use crate::memory::Span;
    use std::sync::Arc;

    #[test]
    fn what_lies_inside_a_name_is_found_until_it_is_dropped() {
        let names = Arc::new(Names::default());
        let (first, second) = (names.give(10_000, 'a').unwrap(), names.give(5, 'b').unwrap());
        let (first_span, second_span) = (first.span(), second.span());
        assert_eq!(names.find(first_span), Some(('a', 0)));
        assert_eq!(names.find(first_span.cut(9_999, 1)), Some(('a', 9_999)));
        assert_eq!(names.find(second_span.from(2)), Some(('b', 2)));
        assert_eq!(names.find(first_span.cut(10_000, 0)), None);
        assert_eq!(names.find(Span::EMPTY), None);
        drop(first);
        assert_eq!(names.find(first_span), None);
        assert_eq!(names.find(second_span), Some(('b', 0)));
    }
}
