//! Going on after a death, and taking in newcomers.

use crate::arguments;
use crate::asked::{Asked, Elements::Even};
use crate::boundary::{Outcome, boundary};
use crate::comm::{get, insert};
use crate::last_error::Failure;
use crate::names::{raw::*, roundel_comm_t, roundel_options_t, roundel_result_t};
use crate::{group, options};
use library::bootstrap::Invitation;
use library::{Collective, Communicator};
use std::ffi::{c_char, c_void};
use std::ptr::null_mut;

/// The ranks of `comm` that live become a communicator of their own, in the same processes and in the same order. All of them
/// make this call (after the error that told them of a loss, they all can); the dead are not waited for, and whoever dies
/// meanwhile is left out too. `comm` is not changed: it has failed, as a rule, and is destroyed.
///
/// Blocks until all that live have called, at most the option `init_timeout_ms`; then the error names those who did not.
/// `ROUNDEL_ERROR_PEER_LOST` where so many cannot be reached, without being known to be dead, that they may be going on by
/// themselves: of a network cut in two at most one side goes on.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roundel_shrink(comm: roundel_comm_t, rest: *mut roundel_comm_t) -> roundel_result_t {
    boundary("roundel_shrink", || {
        // SAFETY: the caller promises room for a handle, or NULL.
        let rest = unsafe { arguments::out(rest, "rest") }?;
        *rest = insert(with(comm, "a shrink", |comm| Ok(comm.shrink()?))?)?;
        Ok(())
    })
}

/// `all` becomes true on all ranks that live when all of them said `flag`: one answer everywhere, also when ranks die meanwhile
/// and when `comm` has failed. What a step of training needs to know before it counts as done. All ranks that live make this
/// call; where one of them shrinks instead the answer is false. Blocks until they have, at most `timeout_ms`; takes some
/// 100 us.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roundel_agree(comm: roundel_comm_t, flag: bool, all: *mut bool) -> roundel_result_t {
    boundary("roundel_agree", || {
        // SAFETY: the caller promises room for an answer, or NULL.
        let all = unsafe { arguments::out(all, "all") }?;
        *all = with(comm, "an agreement", |comm| Ok(comm.agree(flag)?))?;
        Ok(())
    })
}

/// `roundel_all_reduce` in place that either changes `data` on every rank that lives or on none: on an error, here or
/// anywhere, it is as it was, so that the call can be made again after `roundel_shrink`. Takes memory for a second vector, one
/// copy of it, and a `roundel_agree`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roundel_all_reduce_preserving(
    data: *mut c_void,
    count: usize,
    dtype: roundel_dtype_t,
    op: roundel_reduce_op_t,
    comm: roundel_comm_t,
) -> roundel_result_t {
    boundary("roundel_all_reduce_preserving", || {
        // SAFETY: the caller promises what `Asked::new` wants.
        let asked = unsafe { Asked::new(Collective::AllReduce, data, data, Even(count), dtype).op(op) };
        with(comm, "a preserving call", |comm| Ok(comm.run_preserving(&asked.call(comm)?)?))
    })
}

/// Bytes that are enough for every text of `roundel_invitation`, the NUL at its end among them.
pub const ROUNDEL_INVITATION_TEXT_BYTES: usize = 4096;

const _: () = assert!(Invitation::MAX_TEXT_BYTES < ROUNDEL_INVITATION_TEXT_BYTES);

/// Writes what a process needs to join this job while it runs, as text for `roundel_enlist`. Any rank's will do, for as long as
/// one of the ranks lives that are members now. Whoever reads it can join: pass it like a password. `text` has `text_bytes`
/// bytes; `ROUNDEL_INVITATION_TEXT_BYTES` are enough. A job of one rank listens nowhere before its
/// first invitation, which opens it on the option `iface` or the first interface that leads somewhere.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roundel_invitation(
    comm: roundel_comm_t,
    text: *mut c_char,
    text_bytes: usize,
) -> roundel_result_t {
    boundary("roundel_invitation", || {
        let comm = get(comm)?;
        let written = comm.invitation().map_err(Failure::from).and_then(|invitation| {
            let digits = invitation.to_string();
            if text_bytes <= digits.len() {
                let need = digits.len() + 1;
                return Err(Failure::argument(format!("text has {text_bytes} bytes, this invitation needs {need}")));
            }
            // SAFETY: the caller promises room for `text_bytes` bytes, which is enough (above), or NULL.
            unsafe { arguments::write_text(&digits, text, "text") }
        });
        written.map_err(|failure| failure.on(comm.rank()))
    })
}

/// Becomes a rank of a job that runs, by the text of `roundel_invitation`: blocks until its members call `roundel_grow`, at most
/// `init_timeout_ms`. `options` may be NULL; those that the members share must be theirs.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roundel_enlist(
    comm: *mut roundel_comm_t,
    invitation: *const c_char,
    options: roundel_options_t,
) -> roundel_result_t {
    boundary("roundel_enlist", || {
        // SAFETY: the caller promises room for a handle, or NULL.
        let comm = unsafe { arguments::out(comm, "comm") }?;
        // SAFETY: the caller promises a text with a NUL at its end, or NULL.
        let invitation: Invitation = unsafe { arguments::text(invitation, "invitation") }?.parse()?;
        *comm = insert(Communicator::enlist_with(&invitation, options::resolve(options)?)?)?;
        Ok(())
    })
}

/// Admits everybody who waits in `roundel_enlist`: `grown` becomes a communicator of this one's ranks, in their order, and then
/// the newcomers, or NULL where nobody waits, after some 100 us. `comm` stays what it is and can be used on.
///
/// All ranks make this call, between two steps of their work. Blocks until all have, at most `init_timeout_ms`. An error, the
/// same on all ranks, when one of them is gone (`roundel_shrink` first) or a newcomer dies meanwhile (grow again).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roundel_grow(comm: roundel_comm_t, grown: *mut roundel_comm_t) -> roundel_result_t {
    boundary("roundel_grow", || {
        // SAFETY: the caller promises room for a handle, or NULL.
        let grown = unsafe { arguments::out(grown, "grown") }?;
        *grown = with(comm, "a growth", |comm| Ok(comm.grow()?))?.map_or(Ok(null_mut()), insert)?;
        Ok(())
    })
}

/// What blocks until other ranks come cannot be part of a group; what goes wrong is told with this rank's number.
fn with<T>(comm: roundel_comm_t, what: &str, body: impl FnOnce(&Communicator) -> Outcome<T>) -> Outcome<T> {
    let comm = get(comm)?;
    let done = group::must_be_closed(what).and_then(|()| body(&comm));
    done.map_err(|failure| failure.on(comm.rank()))
}
