//! The memory of one rank that the other ranks of its host can map: an [`Arena`], given out in [`Block`]s.
//!
//! An arena is large and empty: a file of many gigabytes of which only touched pages exist. That way a peer maps it once,
//! at world initialisation, and whatever is allocated later (rings, staging, user buffers) is an offset to it.
//!
//! Freed memory may only be used again when no peer touches it any more. A block that peers write to of their own accord
//! (rings, flags) is therefore *retired* instead of freed: it returns when its condition, a look at words in shared
//! memory, says so.
#![forbid(unsafe_code)]

use super::freelist::FreeList;
use super::mapping::{self, Mapping, PAGE_BYTES};
use super::{Id, random_id};
use crate::error::{Error, Result};
use crate::memory::Span;
use nix::errno::Errno;
use std::collections::HashMap;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};

/// The environment variable that the messages of this module tell people to set: bytes of shared memory per rank.
pub const ARENA_SIZE_VARIABLE: &str = "ROUNDEL_ARENA_BYTES";

/// Unit of allocation below a page: a cache line, so that blocks never share one.
const LINE_BYTES: usize = 64;

/// From here on freed blocks are given back to the system, and zeroing is left to it.
const GIVE_BACK_FROM_BYTES: usize = 64 << 10;

/// The arenas of this process, so that its threads find one another's without a descriptor.
static ARENAS: LazyLock<Mutex<HashMap<Id, Weak<Arena>>>> = LazyLock::new(Mutex::default);

/// A rank's shared memory. Lives until the last [`Block`] and the last same-process [`PeerArena`] of it are gone.
pub struct Arena {
    id: Id,
    file: OwnedFd,
    mapping: Mapping,
    state: Mutex<State>,
}

struct State {
    free: FreeList,
    retired: Vec<Retired>,
}

/// Memory that goes back to the free list once `unused` says so.
struct Retired {
    offset: usize,
    reserved_bytes: usize,
    unused: Box<dyn Fn() -> bool + Send>,
}

impl fmt::Debug for Arena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arena").field("span", &self.mapping.span()).finish_non_exhaustive()
    }
}

/// A lock whose holder panicked still protects consistent data here: every critical section is one step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Arena {
    /// Makes an arena of this size, rounded up to whole pages. It costs address space; memory only where it is touched.
    pub fn create(len_bytes: usize) -> Result<Arc<Arena>> {
        let len_bytes = len_bytes
            .checked_next_multiple_of(PAGE_BYTES)
            .ok_or_else(|| Error::invalid(format!("an arena of {len_bytes} bytes; set {ARENA_SIZE_VARIABLE} lower")))?;
        let file = mapping::create_file(len_bytes)?;
        let mapping = Mapping::new(&file, len_bytes)?;
        let state = State { free: FreeList::new(len_bytes), retired: Vec::new() };
        let arena = Arc::new(Arena { id: random_id()?, file, mapping, state: Mutex::new(state) });
        lock(&ARENAS).insert(arena.id, Arc::downgrade(&arena));
        Ok(arena)
    }

    /// The size to use when nothing was asked for: all memory of the machine, at most 64 GiB, and
    /// no more than a file may have.
    pub fn default_len_bytes() -> usize {
        const MOST_BYTES: u64 = 64 << 30;
        let total = nix::sys::sysinfo::sysinfo().map_or(MOST_BYTES, |info| info.ram_total());
        let len_bytes = total.min(MOST_BYTES).min(mapping::largest_file_bytes()) as usize;
        len_bytes / PAGE_BYTES * PAGE_BYTES
    }

    /// Allocates `len_bytes` bytes at a multiple of `align` (a power of two), with whatever they held before. Blocks of
    /// a page and more start on a page, smaller ones on a cache line.
    pub fn alloc(self: &Arc<Self>, len_bytes: usize, align: usize) -> Result<Block> {
        if !align.is_power_of_two() {
            return Err(Error::invalid(format!("alignment {align}; it must be a power of two")));
        }
        let unit = if len_bytes < PAGE_BYTES { LINE_BYTES } else { PAGE_BYTES };
        self.reclaim_retired();
        let mut state = lock(&self.state);
        let taken = len_bytes.max(1).checked_next_multiple_of(unit).and_then(|reserved_bytes| {
            let offset = state.free.take(reserved_bytes, align.max(unit))?;
            Some(Block { arena: self.clone(), offset, len_bytes, reserved_bytes })
        });
        taken.ok_or_else(|| {
            let what = format!(
                "allocating {len_bytes} bytes of shared memory: of the {} bytes that this rank may have {} are free, {} in \
                 one piece; free some, or set {ARENA_SIZE_VARIABLE} higher",
                self.mapping.span().len(),
                state.free.free_bytes(),
                state.free.longest_bytes(),
            );
            Error::system(what, Errno::ENOMEM)
        })
    }

    /// As [`Arena::alloc`], with all bytes zero. Large blocks are not touched for it.
    pub fn alloc_zeroed(self: &Arc<Self>, len_bytes: usize, align: usize) -> Result<Block> {
        let block = self.alloc(len_bytes, align)?;
        let untouched = if block.reserved_bytes >= GIVE_BACK_FROM_BYTES {
            mapping::punch(&self.file, block.offset, block.reserved_bytes)
                .map_err(|errno| Error::system("clearing shared memory (fallocate)", errno))?
        } else {
            (block.offset, block.offset)
        };
        let (start, end) = (block.offset, block.offset + block.reserved_bytes);
        for (from, to) in [(start, untouched.0), (untouched.1, end)] {
            zero(self.mapping.span().cut(from, to - from));
        }
        Ok(block)
    }

    /// Where in the arena these bytes are, if they are all inside.
    pub fn contains(&self, span: Span) -> Option<usize> {
        let all = self.mapping.span();
        let offset = span.addr().checked_sub(all.addr())?;
        (offset <= all.len() && span.len() <= all.len() - offset).then_some(offset)
    }

    /// The whole of it.
    pub(super) fn span(&self) -> Span {
        self.mapping.span()
    }

    pub(super) fn id(&self) -> &Id {
        &self.id
    }

    pub(super) fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// The arena of this process with that name, if it still lives.
    pub(super) fn find(id: &Id) -> Option<Arc<Arena>> {
        lock(&ARENAS).get(id)?.upgrade()
    }

    /// Frees what was retired and is unused by now.
    fn reclaim_retired(&self) {
        let ready: Vec<Retired> = {
            let mut state = lock(&self.state);
            let (ready, waiting) = std::mem::take(&mut state.retired).into_iter().partition(|one| (one.unused)());
            state.retired = waiting;
            ready
        };
        for one in ready {
            self.free(one.offset, one.reserved_bytes);
        }
    }

    fn free(&self, offset: usize, reserved_bytes: usize) {
        if reserved_bytes >= GIVE_BACK_FROM_BYTES {
            // Before the range is free: afterwards it may be somebody else's. A refusal costs memory, not correctness.
            if let Err(errno) = mapping::punch(&self.file, offset, reserved_bytes) {
                tracing::debug!("giving {reserved_bytes} bytes of shared memory back: {errno}");
            }
        }
        lock(&self.state).free.give(offset, reserved_bytes);
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        lock(&ARENAS).remove(&self.id);
    }
}

fn zero(span: Span) {
    const ZEROS: [u8; PAGE_BYTES] = [0; PAGE_BYTES];
    for offset in (0..span.len()).step_by(PAGE_BYTES) {
        span.from(offset).write(&ZEROS[..PAGE_BYTES.min(span.len() - offset)]);
    }
}

/// Bytes of an [`Arena`] that are the holder's until it is dropped. Keeps its arena mapped.
#[derive(Debug)]
pub struct Block {
    arena: Arc<Arena>,
    offset: usize,
    len_bytes: usize,
    reserved_bytes: usize,
}

impl Block {
    /// The bytes, in this process.
    pub fn span(&self) -> Span {
        self.arena.mapping.span().cut(self.offset, self.len_bytes)
    }

    /// Where they are in the arena: the same for every process that maps it.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// Whose bytes they are.
    pub(super) fn arena(&self) -> &Arena {
        &self.arena
    }

    /// Gives the block up now, and its memory back as soon as `unused` returns true. That is asked, under the arena's
    /// lock, at later allocations; it may look at words inside the arena.
    pub(super) fn retire(mut self, unused: impl Fn() -> bool + Send + 'static) {
        let retired = Retired { offset: self.offset, reserved_bytes: self.reserved_bytes, unused: Box::new(unused) };
        lock(&self.arena.state).retired.push(retired);
        // The memory is the retired entry's now, and not `drop`'s to free.
        self.reserved_bytes = 0;
        self.arena.reclaim_retired();
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        if self.reserved_bytes > 0 {
            self.arena.free(self.offset, self.reserved_bytes);
        }
    }
}

/// The whole arena of a rank of this host, this rank's own included, as seen from this process.
#[derive(Debug)]
pub struct PeerArena {
    view: View,
}

#[derive(Debug)]
enum View {
    /// A rank of this process: the same mapping once more.
    SameProcess(Arc<Arena>),
    /// A rank of another process: a mapping of its file.
    OtherProcess(Mapping),
}

impl PeerArena {
    /// A rank's view of an arena of its own process.
    pub fn of_this_process(arena: Arc<Arena>) -> PeerArena {
        PeerArena { view: View::SameProcess(arena) }
    }

    pub(super) fn of_another_process(mapping: Mapping) -> PeerArena {
        PeerArena { view: View::OtherProcess(mapping) }
    }

    /// All of its bytes, at this process's addresses; valid while the `PeerArena` lives.
    pub fn span(&self) -> Span {
        match &self.view {
            View::SameProcess(arena) => arena.span(),
            View::OtherProcess(mapping) => mapping.span(),
        }
    }

    /// True when its owner is a thread of this process, so that any address of the one means the same to the other.
    pub fn is_same_process(&self) -> bool {
        matches!(self.view, View::SameProcess(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    fn resident_bytes(arena: &Arena) -> u64 {
        nix::sys::stat::fstat(&arena.file).unwrap().st_blocks as u64 * 512
    }

    #[test]
    fn large_arenas_cost_only_what_is_touched_and_give_it_back() {
        let arena = Arena::create(Arena::default_len_bytes()).unwrap();
        let block = arena.alloc(8 << 20, 4096).unwrap();
        assert_eq!(resident_bytes(&arena), 0);
        block.span().cut(0, 8 << 20).copy_from(block.span());
        block.span().write(&[7; 5000]);
        assert!(resident_bytes(&arena) >= 8192);
        drop(block);
        assert_eq!(resident_bytes(&arena), 0);
    }

    #[test]
    fn zeroed_blocks_are_zero_whatever_their_memory_held() {
        let arena = Arena::create(4 << 20).unwrap();
        for len in [1, 64, 100, 4096, 5000, 65536, 65537, 300_000] {
            let dirty = arena.alloc(len, 64).unwrap();
            dirty.span().write(&vec![0xff; len]);
            let offset = dirty.offset();
            drop(dirty);
            let block = arena.alloc_zeroed(len, 64).unwrap();
            assert_eq!(block.offset(), offset, "the memory was meant to be used again");
            let mut bytes = vec![1; len];
            block.span().read(&mut bytes);
            assert!(bytes.iter().all(|&byte| byte == 0), "{len}");
        }
    }

    #[test]
    fn blocks_are_aligned_disjoint_and_found_again() {
        let arena = Arena::create(1 << 20).unwrap();
        let blocks: Vec<Block> =
            [(1, 1), (100, 256), (5000, 64), (0, 1), (4096, 65536)].map(|(l, a)| arena.alloc(l, a).unwrap()).into();
        for (i, block) in blocks.iter().enumerate() {
            assert_eq!(arena.contains(block.span()), Some(block.offset()));
            assert!(blocks[i + 1..].iter().all(|other| !other.span().overlaps(block.span())));
        }
        assert_eq!(blocks[1].offset() % 256, 0);
        assert_eq!(blocks[2].offset() % 4096, 0);
        assert_eq!(blocks[4].offset() % 65536, 0);
        let mut outside = [0u8; 4];
        let mut other = Arena::create(4096).unwrap().alloc(64, 64).unwrap();
        assert_eq!(arena.contains(other.span()), None);
        other = arena.alloc(1, 1).unwrap();
        assert_eq!(arena.contains(other.span()), Some(other.offset()));
        arena.span().read(&mut outside);
        assert_eq!(arena.contains(arena.span()), Some(0));
    }

    #[test]
    fn running_out_says_what_to_set() {
        let arena = Arena::create(1 << 20).unwrap();
        let _held = arena.alloc(600 << 10, 4096).unwrap();
        for len in [600 << 10, usize::MAX, usize::MAX - 4096] {
            let error = arena.alloc(len, 64).unwrap_err();
            assert!(error.to_string().contains(ARENA_SIZE_VARIABLE), "{error}");
        }
        assert!(matches!(arena.alloc(64, 3), Err(Error::Invalid { .. })));
        assert!(Arena::create(0).is_err());
        assert!(Arena::create(usize::MAX).unwrap_err().to_string().contains(ARENA_SIZE_VARIABLE));
        assert!(Arena::create(1 << 62).is_err());
    }

    #[test]
    fn a_retired_block_comes_back_only_when_it_is_unused() {
        let arena = Arena::create(1 << 20).unwrap();
        let unused = Arc::new(AtomicBool::new(false));
        let block = arena.alloc(1 << 20, 4096).unwrap();
        let condition = unused.clone();
        block.retire(move || condition.load(Ordering::SeqCst));
        assert!(arena.alloc(64, 64).is_err());
        unused.store(true, Ordering::SeqCst);
        assert_eq!(arena.alloc(1 << 20, 4096).unwrap().offset(), 0);
        let id = arena.id;
        drop(arena);
        assert!(Arena::find(&id).is_none(), "a retired block must not keep its arena alive");
    }
}
