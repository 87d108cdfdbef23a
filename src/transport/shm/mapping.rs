//! A memory file without a name, and a view of it.
//!
//! The file is sealed against shrinking, so no access through a view can ever fall off its end (which the kernel would
//! answer with SIGBUS); whoever receives such a file from somebody else checks the seal before mapping it.
#![allow(unsafe_code)]

use crate::error::{Error, Result};
use crate::memory::Span;
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, FcntlArg, SealFlag, fallocate, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;

/// Unit in which memory is backed and given back.
pub(super) const PAGE_BYTES: usize = 4096;

/// Not in `nix` yet: never executable, and no way to make it so. Since Linux 6.3, which can be told to demand it.
const MFD_NOEXEC_SEAL: MFdFlags = MFdFlags::from_bits_retain(0x8);

/// What the attaching side insists on.
const SIZE_SEALS: SealFlag = SealFlag::F_SEAL_SHRINK.union(SealFlag::F_SEAL_GROW);

/// Growing a file past this limit (`ulimit -f`) kills the process with SIGXFSZ, so it is asked for first.
pub(super) fn largest_file_bytes() -> u64 {
    getrlimit(Resource::RLIMIT_FSIZE).map_or(RLIM_INFINITY, |(soft, _)| soft)
}

/// Makes a sparse file of this length. Nothing is reserved: pages come into being when they are first touched.
pub(super) fn create_file(len_bytes: usize) -> Result<OwnedFd> {
    let limit = largest_file_bytes();
    if len_bytes as u64 > limit {
        return Err(Error::system(
            format!("making a shared arena of {len_bytes} bytes; raise `ulimit -f`, which stands at {limit} bytes"),
            Errno::EFBIG,
        ));
    }
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let file = match memfd_create("roundel-arena", flags | MFD_NOEXEC_SEAL) {
        Err(Errno::EINVAL) => memfd_create("roundel-arena", flags),
        answer => answer,
    }
    .map_err(|errno| Error::system("making a memory file (memfd_create)", errno))?;
    let length = i64::try_from(len_bytes).map_err(|_| Error::invalid(format!("an arena of {len_bytes} bytes")))?;
    nix::unistd::ftruncate(&file, length)
        .map_err(|errno| Error::system(format!("sizing a memory file to {len_bytes} bytes"), errno))?;
    fcntl(&file, FcntlArg::F_ADD_SEALS(SIZE_SEALS | SealFlag::F_SEAL_SEAL))
        .map_err(|errno| Error::system("sealing the size of a memory file", errno))?;
    Ok(file)
}

/// The length of a memory file that came from somebody else, once it is certain that it cannot change.
pub(super) fn checked_file_len_bytes(file: &OwnedFd) -> Result<usize> {
    let seals = fcntl(file, FcntlArg::F_GET_SEALS)
        .map_err(|errno| Error::system("asking for the seals of a peer's memory file", errno))?;
    if !SealFlag::from_bits_truncate(seals).contains(SIZE_SEALS) {
        return Err(Error::bootstrap(
            "a local peer sent a memory file whose size is not sealed; is it another version?",
        ));
    }
    let stat = nix::sys::stat::fstat(file).map_err(|errno| Error::system("sizing a peer's memory file", errno))?;
    usize::try_from(stat.st_size).map_err(|_| Error::bootstrap("a local peer sent a memory file of negative size"))
}

/// Gives the whole pages inside `offset..offset + len_bytes` back to the system; they read as zero afterwards. Returns
/// the part that was given back, in bytes from the front of the file.
pub(super) fn punch(file: &OwnedFd, offset: usize, len_bytes: usize) -> std::result::Result<(usize, usize), Errno> {
    let start = offset.next_multiple_of(PAGE_BYTES);
    let end = (offset + len_bytes) / PAGE_BYTES * PAGE_BYTES;
    if start < end {
        let mode = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        fallocate(file, mode, start as i64, (end - start) as i64)?;
    }
    Ok((start, end.max(start)))
}

/// A view of a whole memory file, readable and writable, until it is dropped.
#[derive(Debug)]
pub(super) struct Mapping {
    span: Span,
}

impl Mapping {
    /// Maps the first `len_bytes` of `file`, all that it has.
    pub(super) fn new(file: impl AsFd, len_bytes: usize) -> Result<Mapping> {
        let Some(length) = NonZeroUsize::new(len_bytes) else {
            return Err(Error::invalid("an arena of 0 bytes"));
        };
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let flags = MapFlags::MAP_SHARED | MapFlags::MAP_NORESERVE;
        // SAFETY: the kernel chooses an address that nothing else uses; nothing existing is replaced.
        let start = unsafe { mmap(None, length, access, flags, file, 0) }.map_err(|errno| {
            let variable = super::ARENA_SIZE_VARIABLE;
            let what = format!("mapping a shared arena of {len_bytes} bytes; lower {variable} or raise `ulimit -v`");
            Error::system(what, errno)
        })?;
        // SAFETY: `length` bytes were mapped readable and writable just now and stay so until `drop`; the file cannot
        // shrink (sealed in `create_file`, or asked for in `checked_file_len_bytes`). No reference to them is ever made.
        Ok(Mapping { span: unsafe { Span::new(start.as_ptr().cast(), len_bytes) } })
    }

    /// All of it.
    pub(super) fn span(&self) -> Span {
        self.span
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        let start = NonNull::new(self.span.as_ptr()).expect("mmap never maps address 0 unasked");
        // SAFETY: exactly what `new` mapped; every span cut from it is held by something that keeps this mapping alive.
        if let Err(errno) = unsafe { munmap(start.cast(), self.span.len()) } {
            tracing::warn!("unmapping {:?}: {errno}", self.span);
        }
    }
}
