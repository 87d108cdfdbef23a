//! What went wrong last on this thread.

use crate::arguments;
use crate::boundary::boundary;
use crate::names::raw::roundel_collective_t;
use crate::names::roundel_buffer_state_t::{self, ROUNDEL_BUFFER_INTACT, ROUNDEL_BUFFER_UNDEFINED};
use crate::names::roundel_collective_t::ROUNDEL_COLLECTIVE_NONE;
use crate::names::roundel_result_t::{self, *};
use library::error::Interrupted;
use library::{BufferState, Error, OpId};
use std::cell::RefCell;
use std::ffi::{CString, c_char};
use std::mem::offset_of;

/// An error on its way to the caller.
#[derive(Debug, Clone)]
pub struct Failure {
    pub code: roundel_result_t,
    message: String,
    /// Whom it is about.
    ranks: Vec<i32>,
    /// In which call.
    op: Option<OpId>,
    /// What became of that call here.
    call: Option<Box<Interrupted>>,
    system_errno: i32,
    /// This rank.
    rank: Option<i32>,
}

impl Failure {
    pub fn new(code: roundel_result_t, message: impl Into<String>) -> Failure {
        Failure { code, message: message.into(), ranks: Vec::new(), op: None, call: None, system_errno: 0, rank: None }
    }

    /// The arguments make no sense.
    pub fn argument(message: impl AsRef<str>) -> Failure {
        Error::invalid(message.as_ref()).into()
    }

    /// The same, on this rank of a communicator.
    pub fn on(self, rank: usize) -> Failure {
        Failure { rank: Some(number(rank)), ..self }
    }
}

fn number(rank: usize) -> i32 {
    i32::try_from(rank).unwrap_or(i32::MAX)
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        let mut failure = Failure::new(ROUNDEL_ERROR_INTERNAL, error.to_string());
        failure.call = error.interrupted().copied().map(Box::new);
        failure.op = error.interrupted().map(|call| call.op);
        let mut ranks = Vec::new();
        failure.code = match error {
            Error::Invalid { .. } => ROUNDEL_ERROR_INVALID_ARGUMENT,
            Error::Unsupported { .. } => ROUNDEL_ERROR_UNSUPPORTED,
            Error::Mismatch { rank, mine, other, .. } => {
                ranks = vec![rank, other];
                let collective = library::Collective::from_code(mine.collective);
                failure.op = collective.map(|collective| OpId { collective, sequence: mine.sequence });
                ROUNDEL_ERROR_MISMATCH
            }
            Error::PeerLost { suspects, .. } => {
                ranks = suspects;
                ROUNDEL_ERROR_PEER_LOST
            }
            Error::Corrupted { suspects, .. } => {
                ranks = suspects;
                ROUNDEL_ERROR_CORRUPTED
            }
            Error::Timeout { waiting_for, .. } => {
                ranks = waiting_for;
                ROUNDEL_ERROR_TIMEOUT
            }
            Error::Bootstrap { missing, .. } => {
                ranks = missing;
                ROUNDEL_ERROR_BOOTSTRAP
            }
            Error::Aborted { by, .. } => {
                ranks = vec![by];
                ROUNDEL_ERROR_ABORTED
            }
            Error::System { errno, .. } => {
                failure.system_errno = errno;
                ROUNDEL_ERROR_SYSTEM
            }
            // The library may learn to fail in new ways; the message still says how.
            _ => ROUNDEL_ERROR_INTERNAL,
        };
        failure.ranks = ranks.into_iter().map(number).collect();
        failure
    }
}

/// The last error of a thread, in pieces. Set `size` before asking; pointers are good until the thread's next error.
#[repr(C)]
pub struct roundel_error_details_t {
    /// `sizeof(roundel_error_details_t)`, from the caller: no more than this is written, so the struct may grow.
    pub size: usize,
    /// What the failed call returned; `ROUNDEL_SUCCESS` when none has failed.
    pub code: roundel_result_t,
    /// `errno` of a `ROUNDEL_ERROR_SYSTEM`, else 0.
    pub system_errno: i32,
    /// The function that failed, as in "roundel_all_reduce"; never NULL.
    pub function: *const c_char,
    /// What `roundel_last_error` gives; never NULL.
    pub message: *const c_char,
    /// This rank's number in the communicator of the failed call, or -1.
    pub rank: i32,
    /// The collective in which this rank was interrupted, or `ROUNDEL_COLLECTIVE_NONE`. It may be an earlier one than the
    /// one that reports it.
    pub collective: roundel_collective_t,
    /// That collective's number on its communicator, counted from 0, the same on all ranks.
    pub sequence: u64,
    /// The ranks that it is about: lost (`PEER_LOST`), late (`TIMEOUT`), missing (`BOOTSTRAP`), disagreeing (`MISMATCH`),
    /// aborting (`ABORTED`), holding wrong bytes (`CORRUPTED`).
    pub ranks: *const i32,
    /// How many `ranks`.
    pub rank_count: usize,
    /// What is left of the data that the failed call was given: `ROUNDEL_BUFFER_INTACT` unless it was in place and cut in the
    /// middle.
    pub buffer: roundel_buffer_state_t,
    /// How far the failed call had come on this rank: bytes sent, received, copied and reduced, each time that one is touched.
    /// 0 where it was refused before it began.
    pub done_bytes: u64,
    /// Bytes that it would have, in all; 0 where it was refused before it began, and for a barrier within a host.
    pub total_bytes: u64,
}

struct LastError {
    failure: Failure,
    function: CString,
    message: CString,
}

thread_local! {
    static LAST: RefCell<Option<LastError>> = const { RefCell::new(None) };
}

/// Text for C. What follows a NUL would be lost, so there is none.
pub fn text(words: &str) -> CString {
    CString::new(words.replace('\0', "?")).unwrap_or_default()
}

/// Keeps the failure of `function` for this thread's questions.
pub fn set(function: &'static str, failure: Failure) {
    let message = text(&format!("{function}: {}", failure.message));
    let last = LastError { failure, function: text(function), message };
    // A thread on its way out has no last error any more.
    let _ = LAST.try_with(|slot| slot.replace(Some(last)));
}

/// What went wrong in the last call of this thread that returned an error: which function, what happened, which ranks,
/// what to do. Never NULL, empty when no call has failed; good until the thread's next error. A success leaves it as it is.
#[unsafe(no_mangle)]
pub extern "C" fn roundel_last_error() -> *const c_char {
    let message = LAST.try_with(|slot| slot.borrow().as_ref().map(|last| last.message.as_ptr()));
    message.ok().flatten().unwrap_or(c"".as_ptr())
}

/// The same in pieces, for programs.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roundel_last_error_details(details: *mut roundel_error_details_t) -> roundel_result_t {
    boundary("roundel_last_error_details", || {
        // SAFETY: the caller promises a struct whose first field says how long it is.
        let size = unsafe { arguments::out(details.cast::<usize>(), "details") }?;
        let (asked, known) = (*size, size_of::<roundel_error_details_t>());
        if asked < offset_of!(roundel_error_details_t, rank) {
            return Err(Failure::argument(format!(
                "details->size is {asked}; set it to sizeof(roundel_error_details_t), {known} bytes here"
            )));
        }
        let answer = LAST.with(|slot| slot.borrow().as_ref().map(|last| last.details(asked)));
        let answer = answer.unwrap_or_else(|| roundel_error_details_t::nothing(asked));
        // SAFETY: both structs begin alike, `details` has `asked` bytes (promised above), `answer` has `known`.
        unsafe { std::ptr::copy_nonoverlapping((&raw const answer).cast::<u8>(), details.cast(), asked.min(known)) };
        Ok(())
    })
}

impl roundel_error_details_t {
    fn nothing(size: usize) -> roundel_error_details_t {
        roundel_error_details_t {
            size,
            code: ROUNDEL_SUCCESS,
            system_errno: 0,
            function: c"".as_ptr(),
            message: c"".as_ptr(),
            rank: -1,
            collective: ROUNDEL_COLLECTIVE_NONE as i32,
            sequence: 0,
            ranks: std::ptr::null(),
            rank_count: 0,
            buffer: ROUNDEL_BUFFER_INTACT,
            done_bytes: 0,
            total_bytes: 0,
        }
    }
}

impl LastError {
    fn details(&self, size: usize) -> roundel_error_details_t {
        let failure = &self.failure;
        let progress = failure.call.as_ref().and_then(|call| call.progress);
        roundel_error_details_t {
            code: failure.code,
            system_errno: failure.system_errno,
            function: self.function.as_ptr(),
            message: self.message.as_ptr(),
            rank: failure.rank.unwrap_or(-1),
            collective: failure.op.map_or(ROUNDEL_COLLECTIVE_NONE as i32, |op| op.collective as i32),
            sequence: failure.op.map_or(0, |op| op.sequence),
            ranks: failure.ranks.as_ptr(),
            rank_count: failure.ranks.len(),
            buffer: match failure.call.as_ref().map(|call| call.buffer) {
                Some(BufferState::Undefined) => ROUNDEL_BUFFER_UNDEFINED,
                Some(BufferState::Intact) | None => ROUNDEL_BUFFER_INTACT,
            },
            done_bytes: progress.map_or(0, |progress| progress.done_bytes),
            total_bytes: progress.map_or(0, |progress| progress.total_bytes),
            ..roundel_error_details_t::nothing(size)
        }
    }
}
