//! Buffers that notice who writes where: guards on both sides, a start of any alignment, on the heap or in memory that
//! peers can map.

use roundel::memory::Span;
use roundel::{Buffer, Communicator, Element};

/// Elements between the buffer's ends and the memory's.
const GUARD: usize = 17;

/// Where a buffer lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Home {
    /// A `Vec`, private to the process.
    Heap,
    /// From [`Communicator::alloc`].
    Mapped,
}

enum Memory<T: Element> {
    Heap(Vec<T>),
    Mapped(Buffer<T>),
}

/// A buffer in the middle of guards.
pub struct Room<T: Element> {
    memory: Memory<T>,
    start: usize,
    count: usize,
}

impl<T: Element> Room<T> {
    /// Holds `contents`, `shift` elements off an even start.
    pub fn new(comm: &Communicator, home: Home, shift: usize, contents: &[T]) -> Room<T> {
        let (start, count) = (GUARD + 15 + shift, contents.len());
        let whole = start + count + GUARD;
        let memory = match home {
            Home::Heap => Memory::Heap(vec![guard(); whole]),
            Home::Mapped => Memory::Mapped(comm.alloc(whole).unwrap()),
        };
        let mut room = Room { memory, start, count };
        room.memory().fill(guard());
        room.copy_from_slice(contents);
        room
    }

    /// Holds `count` elements of no meaning.
    pub fn stale(comm: &Communicator, home: Home, shift: usize, count: usize) -> Room<T> {
        let stale: T = bytemuck::pod_read_unaligned(&[0x5a; 8][..size_of::<T>()]);
        Room::new(comm, home, shift, &vec![stale; count])
    }

    /// The bytes are these, and nothing around them was touched.
    #[track_caller]
    pub fn expect(&mut self, wanted: &[T], what: &dyn std::fmt::Display) {
        let (start, end) = (self.start, self.start + self.count);
        let memory = self.memory();
        same(&memory[start..end], wanted, what);
        let outside = memory[..start].iter().chain(&memory[end..]);
        let touched = outside.map(|x| x.scalar().bits).position(|bits| bits != guard::<T>().scalar().bits);
        assert_eq!(touched, None, "{what}: an element around the buffer was written");
    }

    /// The part of it that begins at `from`, for a call that is described by hand.
    pub fn span(&mut self, from: usize, count: usize) -> Span {
        let part = &mut self[from..from + count];
        // SAFETY: the room lives until the test's blocking call has returned, and nothing touches it meanwhile.
        unsafe { Span::new(part.as_mut_ptr().cast(), size_of_val(part)) }
    }

    fn memory(&mut self) -> &mut [T] {
        match &mut self.memory {
            Memory::Heap(elements) => elements,
            Memory::Mapped(elements) => elements,
        }
    }
}

impl<T: Element> std::ops::Deref for Room<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        let whole: &[T] = match &self.memory {
            Memory::Heap(elements) => elements,
            Memory::Mapped(elements) => elements,
        };
        &whole[self.start..self.start + self.count]
    }
}

impl<T: Element> std::ops::DerefMut for Room<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        let (start, end) = (self.start, self.start + self.count);
        &mut self.memory()[start..end]
    }
}

fn guard<T: Element>() -> T {
    bytemuck::pod_read_unaligned(&[0xa5; 8][..size_of::<T>()])
}

/// The same bits, or a message that says where the first difference is.
#[track_caller]
pub fn same<T: Element>(got: &[T], wanted: &[T], what: &dyn std::fmt::Display) {
    assert_eq!(got.len(), wanted.len(), "{what}");
    if bytemuck::cast_slice::<T, u8>(got) == bytemuck::cast_slice::<T, u8>(wanted) {
        return;
    }
    let bits = |x: &T| x.scalar().bits;
    let wrong: Vec<usize> = (0..got.len()).filter(|&at| bits(&got[at]) != bits(&wanted[at])).collect();
    let at = wrong[0];
    let (got, wanted) = (bits(&got[at]), bits(&wanted[at]));
    panic!("{what}: {} of {} wrong, first {at}: {got:#x}, not {wanted:#x}", wrong.len(), T::DTYPE);
}
