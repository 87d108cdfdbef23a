//! Calls in flight.

use crate::arguments;
use crate::boundary::{Outcome, boundary, boundary_with};
use crate::handles::Table;
use crate::last_error::Failure;
use crate::names::roundel_result_t::{self, *};
use crate::names::roundel_work_t;
use library::{Result, Work};
use std::time::{Duration, Instant};

static WORKS: Table<Flight> = Table::new(2, "work");

/// The calls of one handle: one, or those of a group.
struct Flight {
    works: Vec<Work<()>>,
    rank: usize,
}

impl Flight {
    fn outcome(&self, ended: Result<()>) -> Outcome {
        ended.map_err(|error| Failure::from(error).on(self.rank))
    }

    /// `None` while one of the calls is in flight; then the first error.
    fn test(&self) -> Option<Outcome> {
        let ended: Option<Vec<Result<()>>> = self.works.iter().map(Work::outcome).collect();
        Some(self.outcome(ended?.into_iter().collect()))
    }

    fn wait(&self) -> Outcome {
        let ended: Vec<Result<()>> = self.works.iter().map(Work::finish).collect();
        self.outcome(ended.into_iter().collect())
    }

    fn wait_for(&self, timeout: Duration) -> Option<Outcome> {
        let deadline = Instant::now() + timeout;
        let wait = |work: &Work<()>| work.finish_within(deadline.saturating_duration_since(Instant::now()));
        let ended: Option<Vec<Result<()>>> = self.works.iter().map(wait).collect();
        Some(self.outcome(ended?.into_iter().collect()))
    }
}

/// Starts work and writes its handle.
///
/// # Safety
/// `to` is NULL or has room for a handle.
pub unsafe fn hand_out(
    to: *mut roundel_work_t,
    rank: usize,
    start: impl FnOnce() -> Outcome<Vec<Work<()>>>,
) -> Outcome {
    // Before anything starts, because nobody could wait for it.
    // SAFETY: promised by the caller.
    let to = unsafe { arguments::out(to, "work") }?;
    *to = std::ptr::without_provenance_mut(WORKS.insert(Flight { works: start()?, rank })? as usize);
    Ok(())
}

/// `ROUNDEL_IN_PROGRESS` while the work is in flight, afterwards how it ended: `ROUNDEL_SUCCESS` or its error. Never
/// blocks, and the work need not be asked to make progress.
#[unsafe(no_mangle)]
pub extern "C" fn roundel_work_test(work: roundel_work_t) -> roundel_result_t {
    boundary_with("roundel_work_test", || match WORKS.get(work.addr() as u64)?.test() {
        None => Ok(ROUNDEL_IN_PROGRESS),
        Some(outcome) => outcome.map(|()| ROUNDEL_SUCCESS),
    })
}

/// Blocks until the work has ended and returns how. May be called again, and by several threads.
#[unsafe(no_mangle)]
pub extern "C" fn roundel_work_wait(work: roundel_work_t) -> roundel_result_t {
    boundary("roundel_work_wait", || WORKS.get(work.addr() as u64)?.wait())
}

/// The same for at most `timeout_ms`, not negative; then `ROUNDEL_IN_PROGRESS`, and the work goes on.
#[unsafe(no_mangle)]
pub extern "C" fn roundel_work_wait_for(work: roundel_work_t, timeout_ms: i64) -> roundel_result_t {
    boundary_with("roundel_work_wait_for", || {
        let work = WORKS.get(work.addr() as u64)?;
        let timeout = u64::try_from(timeout_ms).map_err(|_| Failure::argument(format!("{timeout_ms} ms")))?;
        // A year is as good as forever, and a clock and a year do not overflow.
        let timeout = Duration::from_millis(timeout).min(Duration::from_secs(366 * 24 * 3600));
        match work.wait_for(timeout) {
            None => Ok(ROUNDEL_IN_PROGRESS),
            Some(outcome) => outcome.map(|()| ROUNDEL_SUCCESS),
        }
    })
}

/// Gives a work back. Blocks until it has ended, because other ranks may be using its buffers; how it ended is told by
/// `roundel_work_wait` only.
#[unsafe(no_mangle)]
pub extern "C" fn roundel_work_free(work: roundel_work_t) -> roundel_result_t {
    boundary("roundel_work_free", || {
        let work = WORKS.remove(work.addr() as u64)?;
        // Not only dropped: another thread may hold it too.
        let _ = work.wait();
        Ok(())
    })
}
