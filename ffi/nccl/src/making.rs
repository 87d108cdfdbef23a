//! Making communicators: here, several at once, or in the background. Whatever the way, the handle exists from the start and
//! becomes a communicator when its ranks have met.

use crate::abi::ncclComm_t;
use crate::comm::{COMMS, Comm, Offspring, Phase};
use crate::status::{Done, Failure, Result, caught};
use roundel::Communicator;
use std::sync::Arc;

/// Meets the other ranks. None where this rank is to get no communicator.
pub(crate) type Meeting = Box<dyn FnOnce() -> Result<Option<Communicator>> + Send>;

/// A communicator that is to be made.
pub(crate) struct Making {
    child: Option<Arc<Comm>>,
    /// Where the caller's handle is. Not touched by other threads.
    place: *mut ncclComm_t,
    parent: Option<Arc<Comm>>,
    blocking: bool,
    meeting: Meeting,
}

impl Making {
    /// Gives `child` (None: this rank gets none) its handle and writes that to `place`, or NULL.
    ///
    /// # Safety
    /// `place` may be written, now and until the making has ended or, if it is not blocking, has begun.
    pub(crate) unsafe fn new(
        place: *mut ncclComm_t,
        child: Option<Arc<Comm>>,
        parent: Option<Arc<Comm>>,
        meeting: Meeting,
    ) -> Making {
        let handle = child.clone().map_or(std::ptr::null_mut(), |child| COMMS.add(child));
        // SAFETY: promised by the caller.
        unsafe { place.write(handle) };
        // A split is made as its parent wants it, anything else as the new one does.
        let blocking = parent.as_ref().or(child.as_ref()).is_none_or(|comm| comm.wishes.blocking);
        Making { child, place, parent, blocking, meeting }
    }

    /// Takes the handle back.
    pub(crate) fn undo(self) {
        if self.child.is_some() {
            // SAFETY: the promise of `new`, which still holds: the making has not begun.
            unsafe { forget(self.place) };
        }
    }
}

/// Takes the handle at `place` back.
///
/// # Safety
/// `place` may be read and written, and holds what `Making::new` wrote.
unsafe fn forget(place: *mut ncclComm_t) {
    // SAFETY: promised by the caller.
    let handle = unsafe { place.replace(std::ptr::null_mut()) };
    // Gone already if somebody aborted it.
    let _ = COMMS.take(handle);
}

/// Makes all of them, at the same time. When one that the caller waits for fails, all of those are undone.
pub(crate) fn make_all(makings: Vec<Making>) -> Result<Done> {
    let (here, background): (Vec<_>, Vec<_>) = makings.into_iter().partition(|making| making.blocking);
    let done = if background.is_empty() { Done::Now } else { Done::Later };
    for Making { child, parent, meeting, .. } in background {
        let offspring = parent.map(|parent| parent.expect_offspring());
        let orphan = child.clone();
        let maker = std::thread::Builder::new().name("roundel-init".into());
        let spawned = maker.spawn(move || finish_in_background(child, offspring, meeting));
        if let (Err(error), Some(orphan)) = (spawned, orphan) {
            orphan.finish_making(Err(Failure::system(format!("starting a thread to make a communicator: {error}"))));
        }
    }
    let mut places = Vec::new();
    let mut jobs = Vec::new();
    for Making { child, place, meeting, .. } in here {
        if child.is_some() {
            places.push(place);
        }
        jobs.push((child, meeting));
    }
    if let Err(failure) = finish_together(jobs) {
        for place in places {
            // SAFETY: the promise of `Making::new`; the caller still waits for the end of the making.
            unsafe { forget(place) };
        }
        return Err(failure);
    }
    Ok(done)
}

type Job = (Option<Arc<Comm>>, Meeting);

/// The last of the jobs runs on this thread, each other one on its own.
fn finish_together(mut jobs: Vec<Job>) -> Result<()> {
    let Some(last) = jobs.pop() else { return Ok(()) };
    std::thread::scope(|scope| {
        let maker = || std::thread::Builder::new().name("roundel-init".into());
        let others: Vec<_> = jobs.into_iter().map(|job| maker().spawn_scoped(scope, move || finish(job))).collect();
        let mut outcome = finish(last);
        for other in others {
            let other = match other {
                Ok(thread) => thread.join().expect("`finish` catches panics"),
                Err(error) => Err(Failure::system(format!("starting a thread to make a communicator: {error}"))),
            };
            outcome = outcome.and(other);
        }
        outcome
    })
}

fn finish((child, meeting): Job) -> Result<()> {
    let outcome = caught(meeting);
    let Some(child) = child else { return outcome.map(drop) };
    let made = outcome.and_then(|made| made.ok_or_else(|| Failure::usage("the other ranks gave this one no place")));
    let failure = made.as_ref().err().cloned();
    child.finish_making(made);
    if child.phase() == Phase::Aborted {
        return Err(Failure::usage("the communicator was aborted while it was being made"));
    }
    failure.map_or(Ok(()), Err)
}

fn finish_in_background(child: Option<Arc<Comm>>, offspring: Option<Offspring>, meeting: Meeting) {
    if let (Err(failure), Some(offspring)) = (finish((child, meeting)), offspring) {
        offspring.parent().fail(failure);
    }
}
