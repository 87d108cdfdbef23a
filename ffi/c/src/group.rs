//! Several calls at once: what `ncclGroupStart` and `ncclGroupEnd` are to NCCL.

use crate::boundary::{Outcome, boundary};
use crate::last_error::Failure;
use crate::names::{roundel_comm_t, roundel_result_t, roundel_work_t};
use crate::{comm, work};
use library::{Call, Communicator, Work};
use std::cell::{Cell, RefCell};
use std::sync::Arc;

thread_local! {
    static DEPTH: Cell<u32> = const { Cell::new(0) };
    static COLLECTED: RefCell<Collected> = const { RefCell::new(Collected { parts: Vec::new(), refused: None }) };
}

/// What this thread's group holds so far.
#[derive(Default)]
struct Collected {
    parts: Vec<Part>,
    /// The first call that was refused: the group will not run.
    refused: Option<Failure>,
}

/// The calls on one communicator, in order.
struct Part {
    comm: Arc<Communicator>,
    calls: Vec<Call>,
}

/// True between the start and the end of a group on this thread.
#[inline]
pub fn is_open() -> bool {
    DEPTH.get() > 0
}

/// For what a group cannot hold.
pub fn must_be_closed(what: &str) -> Outcome {
    if !is_open() {
        return Ok(());
    }
    let failure =
        Failure::argument(format!("{what} inside a group; call it before or after (roundel_group_end_async)"));
    refuse(failure.clone());
    Err(failure)
}

fn refuse(failure: Failure) {
    COLLECTED.with_borrow_mut(|collected| {
        collected.refused.get_or_insert(failure);
    });
}

/// Adds the calls that `make` describes, or remembers that they were refused.
pub fn add<const N: usize>(handle: roundel_comm_t, make: impl FnOnce(&Communicator) -> Outcome<[Call; N]>) -> Outcome {
    let made = || {
        let comm = comm::get(handle)?;
        let calls = make(&comm).map_err(|failure| failure.on(comm.rank()))?;
        Ok((comm, calls))
    };
    let (comm, calls) = made().inspect_err(|failure: &Failure| refuse(failure.clone()))?;
    COLLECTED.with_borrow_mut(|collected| {
        match collected.parts.iter_mut().find(|part| Arc::ptr_eq(&part.comm, &comm)) {
            Some(part) => part.calls.extend(calls),
            None => collected.parts.push(Part { comm, calls: calls.into() }),
        }
    });
    Ok(())
}

/// Opens a group on this thread: until `roundel_group_end` the thread's blocking calls return at once and only note what
/// to do, on any number of communicators. Groups nest; the outermost end counts.
#[unsafe(no_mangle)]
pub extern "C" fn roundel_group_start() -> roundel_result_t {
    boundary("roundel_group_start", || {
        let deeper = DEPTH.get().checked_add(1).ok_or_else(|| Failure::argument("groups nest too deeply"))?;
        DEPTH.set(deeper);
        Ok(())
    })
}

/// Runs the calls of the group, all at once, and returns when all have ended. Collectives of a communicator keep their
/// order, messages the order of each pair, and nothing waits for anything else: a send and a receive cannot block each
/// other, and one thread can call for several ranks. When one of the calls was refused, none runs and its error is
/// returned; otherwise the first error of a call. The buffers must stay until then, and no call may write what another
/// one of the group uses.
#[unsafe(no_mangle)]
pub extern "C" fn roundel_group_end() -> roundel_result_t {
    boundary("roundel_group_end", || match close()? {
        Some(parts) => run(parts),
        None => Ok(()),
    })
}

/// The same without waiting: starts the calls, and `work` ends when all have. Of nested groups only the outermost may end
/// like this.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn roundel_group_end_async(work: *mut roundel_work_t) -> roundel_result_t {
    boundary("roundel_group_end_async", || {
        if DEPTH.get() > 1 {
            return Err(Failure::argument("the group is inside another one; end it with roundel_group_end"));
        }
        let parts = close()?.unwrap_or_default();
        let rank = parts.first().map_or(0, |part| part.comm.rank());
        // SAFETY: the caller promises room for a handle, or NULL.
        unsafe { work::hand_out(work, rank, || start(parts)) }
    })
}

/// Ends the innermost group and forgets its calls: for a program that finds on the way that it cannot go on. A group around
/// it will not run either; its end returns `ROUNDEL_ERROR_INVALID_ARGUMENT`.
#[unsafe(no_mangle)]
pub extern "C" fn roundel_group_cancel() -> roundel_result_t {
    boundary("roundel_group_cancel", || {
        match leave()? {
            0 => drop(COLLECTED.take()),
            _ => refuse(Failure::argument("a group inside this one was cancelled")),
        }
        Ok(())
    })
}

/// Ends the innermost group: how many are still open.
fn leave() -> Outcome<u32> {
    let depth = DEPTH.get().checked_sub(1);
    let depth =
        depth.ok_or_else(|| Failure::argument("no group is open on this thread; roundel_group_start opens one"))?;
    DEPTH.set(depth);
    Ok(depth)
}

/// Ends the innermost group; what is to be done when it was the outermost.
fn close() -> Outcome<Option<Vec<Part>>> {
    if leave()? > 0 {
        return Ok(None);
    }
    let Collected { parts, refused } = COLLECTED.take();
    match refused {
        Some(failure) => Err(failure),
        None => Ok(Some(parts)),
    }
}

fn run(mut parts: Vec<Part>) -> Outcome {
    if parts.len() > 1 {
        // All of them have to be under way before one is waited for.
        let works = start(parts)?;
        let ended: Vec<_> = works.into_iter().map(|work| work.finish()).collect();
        return Ok(ended.into_iter().collect::<library::Result<()>>()?);
    }
    let Some(Part { comm, calls }) = parts.pop() else { return Ok(()) };
    let ended = comm.group(|group| calls.into_iter().try_for_each(|call| group.call(call)));
    ended.map_err(|error| Failure::from(error).on(comm.rank()))
}

fn start(parts: Vec<Part>) -> Outcome<Vec<Work<()>>> {
    // Of a group that is wrong anywhere nothing starts.
    for Part { comm, calls } in &parts {
        comm.check_group(calls.clone()).map_err(|error| Failure::from(error).on(comm.rank()))?;
    }
    let mut works = Vec::new();
    for Part { comm, calls } in parts {
        works.extend(comm.start_group(calls).map_err(|error| Failure::from(error).on(comm.rank()))?);
    }
    Ok(works)
}
