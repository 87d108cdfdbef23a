//! `libnccl.so.2` from Roundel: NCCL's ABI, so that a program built against NCCL runs unchanged when this library comes
//! first in its library path.
//!
//! All 97 names of NCCL 2.32.3 are exported, and nothing else. What this build does not do answers `ncclInvalidUsage`, and
//! `ncclGetLastError` says what it was and why.
//!
//! # What differs from NCCL
//!
//! - **Memory is host memory.** There is no CUDA support yet. A pointer into device memory cannot be told from any other
//!   without a driver, and using one is a segmentation fault, as it is in `memcpy`.
//! - **Streams are ignored.** A call, or the group it is in, has done its work when it returns. On a communicator with
//!   `blocking = 0` it has when `ncclCommGetAsyncError` no longer says `ncclInProgress`; its buffers belong to it until
//!   then. Further calls queue up behind it, in order.
//! - **Any number of ranks per process, thread and device.** `ncclCommInitAll` takes the same device several times. One
//!   thread that drives several ranks puts their calls into one group, as NCCL asks.
//! - **Ranks that disagree, and ranks that die, are errors.** Where NCCL hangs, all ranks get `ncclInvalidUsage` (they made
//!   different calls) or `ncclRemoteError` (one is gone or late), with a text that names ranks and call. Every wait ends:
//!   see `ROUNDEL_TIMEOUT_MS`, `ROUNDEL_INIT_TIMEOUT_MS`.
//! - **`ncclCommAbort` tells the others** if it interrupts a call of this rank. An idle communicator just leaves.
//! - **`ncclCommShrink` works after deaths**, with either flag, that of the process which made the unique id included. A rank
//!   that is kept but dead is `ncclRemoteError` on all others, whose text names it: list it too and shrink again.
//! - Settings that steer GPU kernels and NICs are checked as NCCL checks them and otherwise ignored, and so are `NCCL_*`
//!   variables except `NCCL_DEBUG`. Roundel's own are the `ROUNDEL_*` of [`roundel::Options`].
//!
//! # Safety
//!
//! The functions are NCCL's and so is their contract: pointers to memory that is as large as the counts say, strings that
//! end, structs that were initialised by NCCL's macros. Everything that can be checked is (NULL, enums, ranks, sizes,
//! alignment, magic numbers); handles are looked up and never followed, so that one that was destroyed, or never was
//! one, is `ncclInvalidArgument`. No panic crosses.
//!
//! # Where things are
//!
//! ```text
//!   abi        the types and numbers of the header
//!   init       ids and new communicators          split      communicators from communicators
//!   collectives, messages, redop                  group      calls that run together
//!   ending     finalize, destroy, abort, revoke   query      what a communicator tells of itself
//!   memory     allocation, registration, windows  suspend, team, refused
//!
//!   comm       what a handle stands for           handles    from handles to things
//!   making     how it comes to be
//!   config     ncclConfig_t and ncclCollConfig_t of every version
//!   status     from Rust's errors and panics to codes        last_error   and to text
//! ```
#![allow(non_snake_case, non_camel_case_types, non_upper_case_globals, reason = "the names are NCCL's")]
#![allow(clippy::missing_safety_doc, reason = "one contract for all functions: the crate's documentation")]
#![allow(clippy::too_many_arguments, reason = "the signatures are NCCL's")]

pub mod abi;
pub mod collectives;
mod comm;
pub mod config;
pub mod ending;
pub mod group;
mod handles;
pub mod init;
pub mod last_error;
mod making;
pub mod memory;
pub mod messages;
pub mod query;
pub mod redop;
pub mod refused;
pub mod split;
mod status;
pub mod suspend;
pub mod team;
