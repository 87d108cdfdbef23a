//! Memory that peers can map, and the owners that a nonblocking call accepts.

use super::device_buffer::DeviceBuffer;
use crate::element::Element;
use crate::memory::Span;
use crate::transport::shm::Block;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

/// Elements in memory that the other ranks of the host can reach: calls on it need no staging copies.
/// From [`Communicator::alloc`](crate::Communicator::alloc); a slice in every other respect.
///
/// ```
/// # use roundel::{Communicator, Options, ReduceOp};
/// # fn main() -> roundel::Result<()> {
/// let comm = Communicator::threads(1, Options::default())?.remove(0);
/// let mut gradients = comm.alloc::<f32>(1024)?;
/// gradients.fill(1.0);
/// comm.all_reduce_in_place(&mut gradients, ReduceOp::Sum)?;
/// assert_eq!(gradients[1023], 1.0);
/// # Ok(()) }
/// ```
pub struct Buffer<T: Element> {
    block: Block,
    count: usize,
    elements: PhantomData<T>,
}

impl<T: Element> Buffer<T> {
    /// Takes zeroed memory for `count` elements, aligned for them.
    pub(super) fn new(block: Block, count: usize) -> Buffer<T> {
        assert!(block.span().len() >= count * size_of::<T>() && block.span().addr().is_multiple_of(align_of::<T>()));
        Buffer { block, count, elements: PhantomData }
    }

    fn span(&self) -> Span {
        self.block.span().cut(0, self.count * size_of::<T>())
    }
}

impl<T: Element> Deref for Buffer<T> {
    type Target = [T];

    #[allow(unsafe_code)]
    fn deref(&self) -> &[T] {
        // SAFETY: aligned and long enough (checked in `new`); the block is this buffer's alone, and peers touch it only
        // during calls, which borrow or own the buffer.
        unsafe { self.span().as_slice() }
    }
}

impl<T: Element> DerefMut for Buffer<T> {
    #[allow(unsafe_code)]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`, and `&mut self` excludes every other user of this process.
        unsafe { self.span().as_mut_slice() }
    }
}

impl<T: Element> std::fmt::Debug for Buffer<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer<{}>[{}]", T::DTYPE, self.count)
    }
}

/// Memory that a nonblocking call can own until it ends: a `Vec`, a [`Buffer`] or a [`DeviceBuffer`].
pub trait Owned<T: Element>: Send + 'static + private::Sealed {
    /// Where the elements are. They stay there while the owner is moved about.
    #[doc(hidden)]
    fn lend(&mut self) -> Span;
}

impl<T: Element> Owned<T> for Vec<T> {
    fn lend(&mut self) -> Span {
        crate::memory::lend_mut(self)
    }
}

impl<T: Element> Owned<T> for Buffer<T> {
    fn lend(&mut self) -> Span {
        self.span()
    }
}

impl<T: Element> Owned<T> for DeviceBuffer<T> {
    fn lend(&mut self) -> Span {
        self.span()
    }
}

mod private {
    pub trait Sealed {}
    impl<T> Sealed for Vec<T> {}
    impl<T: crate::Element> Sealed for super::Buffer<T> {}
    impl<T: crate::Element> Sealed for super::DeviceBuffer<T> {}
}
