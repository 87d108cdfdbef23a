//! Turning the crank: taking calls in, moving them, telling those who wait; and when nothing moves, spinning a little,
//! yielding, and then sleeping until a peer, a socket, another caller or a failure wakes the driver.
//!
//! Whoever sleeps has looked around before: at deadlines, at ranks that left, at calls that nobody else has made.
#![forbid(unsafe_code)]

use super::driver::{Drive, Engine, Submission};
use super::lane::{Effort, Lane};
use super::patience::Idle;
use crate::error::{Error, OpId, Result};
use crate::types::Collective;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// A call that waits longer than this without progress is reported, so that somebody may notice a mismatch.
const STALL: Duration = Duration::from_millis(40);

/// A broken link is taken at its word only after the control plane had this long to say who really failed.
const VERDICT: Duration = Duration::from_millis(150);

/// What is said of a rank that went in good order while others needed it.
const LEFT: &str = "left the communicator";

/// The longest sleep: deadlines are looked at between sleeps.
const NAP: Duration = Duration::from_millis(500);

impl Engine {
    /// Turns the crank until `enough`, or the moment has come. Only the thread that set `driving` is here.
    pub(super) fn drive(&self, enough: impl Fn() -> bool, until: Option<Instant>) {
        let mut guard = self.lane.lock().unwrap_or_else(PoisonError::into_inner);
        let drive = &mut *guard;
        let mut idle = Idle::new(drive.patience);
        let mut effort = Effort::Quick;
        loop {
            self.admit(&mut drive.lane);
            let moved = match self.fate.check().and_then(|()| drive.lane.poll(effort)) {
                Ok(moved) => moved,
                Err(error) => {
                    self.fail(&mut drive.lane, error);
                    true
                }
            };
            if moved {
                self.settle(&drive.lane);
            }
            if enough() || until.is_some_and(|until| Instant::now() >= until) {
                return;
            }
            if moved {
                idle = Idle::new(drive.patience);
                effort = Effort::Quick;
                continue;
            }
            if idle.rest() {
                continue;
            }
            if effort == Effort::Quick {
                effort = Effort::Thorough;
                continue;
            }
            let since = idle.since();
            if let Err(error) = self.look_around(&mut drive.lane, since).and_then(|()| self.sleep(drive, since, until))
            {
                self.fail(&mut drive.lane, error);
                self.settle(&drive.lane);
            }
        }
    }

    /// Takes submitted calls into the lane, in order.
    fn admit(&self, lane: &mut Lane) {
        // Relaxed: a hint; a submission that is missed rings the bell or is found on the next turn.
        if self.waiting.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut refused = Vec::new();
        {
            let mut state = self.lock();
            while let Some(Submission { call, in_place, completion }) = state.inbox.pop_front() {
                self.waiting.fetch_sub(1, Ordering::Relaxed);
                if let Err(error) = lane.admit(call, in_place, completion.clone()) {
                    refused.push((completion, error));
                }
            }
        }
        for (completion, error) in refused {
            completion.finish(Err(error));
        }
        self.settle(lane);
    }

    /// Counts the calls that have ended and tells those who wait for them.
    fn settle(&self, lane: &Lane) {
        let mut state = self.lock();
        let open = lane.in_flight() + state.inbox.len();
        if open < state.open {
            state.open = open;
            if state.followers > 0 {
                self.changed.notify_all();
            }
        }
    }

    /// After a while without progress: deadlines, peers that left, calls that nobody else has made.
    fn look_around(&self, lane: &mut Lane, idle_since: Instant) -> Result<()> {
        let gone = lane.waiting_in_vain_for(|rank| self.fate.has_left(rank));
        if !gone.is_empty() && !lane.poll(Effort::Thorough)? {
            // What they sent before they left has been read by now: nothing more will come.
            let suspects = lane.waiting_in_vain_for(|rank| gone.contains(&rank));
            if !suspects.is_empty() {
                return Err(Error::PeerLost { suspects, what: LEFT.into(), during: None });
            }
        }
        let waiting_for = lane.waiting_for();
        let now = Instant::now();
        let mut stalled = Vec::new();
        for task in lane.tasks() {
            let waited = now - task.started;
            if waited > task.timeout {
                let during: Option<OpId> = Some(task.op);
                return Err(Error::Timeout { waiting_for, after: waited, during });
            }
            // Messages are numbered by each pair for itself: only the pair can compare them, and its headers do.
            let comparable = task.op.collective != Collective::SendRecv;
            if now - idle_since > STALL && comparable && task.stalled_on.as_ref() != Some(&waiting_for) {
                task.stalled_on = Some(waiting_for.clone());
                stalled.push(task.signature);
            }
        }
        for signature in stalled {
            self.reporter.stalled(signature, &waiting_for);
        }
        Ok(())
    }

    /// Sleeps until there may be news. True when something moved on the last look before the sleep.
    fn sleep(&self, drive: &mut Drive, idle_since: Instant, until: Option<Instant>) -> Result<bool> {
        let Drive { lane, sleeper, interests, .. } = drive;
        lane.interests(interests);
        // Wake up in time to report a stall, then seldom.
        let nap = STALL.saturating_sub(idle_since.elapsed()) + Duration::from_millis(1);
        let nap = if idle_since.elapsed() > STALL { NAP.min(lane.time_left()) } else { nap };
        let nap = until.map_or(nap, |until| nap.min(until.saturating_duration_since(Instant::now())));
        let mut outcome = Ok(false);
        sleeper.sleep(interests, nap, &mut || {
            // Relaxed: a submitter that came too late for this look rings the bell.
            if self.waiting.load(Ordering::Relaxed) > 0 || self.fate.check().is_err() {
                return true;
            }
            outcome = lane.poll(Effort::Thorough);
            !matches!(outcome, Ok(false))
        })?;
        self.settle(lane);
        outcome
    }

    /// Ends the communicator on this rank and tells everybody.
    pub(super) fn fail(&self, lane: &mut Lane, error: Error) {
        let error = self.verdict(error);
        let first = self.fate.fail(error);
        let error = self.fate.check().expect_err("it has just failed");
        if first {
            tracing::debug!("this rank ends the communicator: {error}");
            self.reporter.failed(&error);
        }
        lane.fail(&error);
    }

    /// The end of a link says only that a neighbour is gone, perhaps because of somebody else's death; a deadline only
    /// that a neighbour waits too. The control plane knows who was first, or who is missing, and gets a moment to say so.
    fn verdict(&self, error: Error) -> Error {
        match &error {
            Error::Mismatch { .. } | Error::Corrupted { .. } | Error::Invalid { .. } | Error::Unsupported { .. } => {
                return error;
            }
            Error::Timeout { .. } if self.fate.check().is_ok() => self.reporter.failed(&error),
            _ => {}
        }
        let deadline = Instant::now() + VERDICT;
        while Instant::now() < deadline {
            if let Err(known) = self.fate.check() {
                return known;
            }
            if let Error::PeerLost { suspects, during, .. } = &error
                && suspects.iter().all(|&rank| self.fate.has_left(rank))
            {
                tracing::debug!("{error}: it has left in good order");
                return Error::PeerLost { suspects: suspects.clone(), what: LEFT.into(), during: *during };
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        error
    }
}
