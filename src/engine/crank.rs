//! Turning the crank: taking calls in, moving them, telling those who wait; and when nothing moves, spinning a little,
//! yielding, and then sleeping until a peer, a socket, another caller or a failure wakes the driver.
//!
//! Here is what waits; what is decided meanwhile, [`super::outlook`] and [`super::verdict`], takes the time as an argument.
#![forbid(unsafe_code)]

use super::driver::{Drive, Engine, Submission};
use super::lane::{Effort, Lane};
use super::outlook::Stall;
use super::patience::Idle;
use super::verdict::Verdict;
use crate::error::{Error, Result};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

impl Engine {
    /// Turns the crank until `enough`, or the moment has come. Only the thread that set `driving` is here.
    pub(super) fn drive(&self, enough: impl Fn() -> bool, until: Option<Instant>) {
        let mut guard = self.lane.lock().unwrap_or_else(PoisonError::into_inner);
        let drive = &mut *guard;
        let mut idle = Idle::new(drive.patience);
        let mut effort = Effort::Quick;
        loop {
            self.admit(&mut drive.lane);
            let moved = match self.fate.watch().and_then(|()| drive.lane.poll(effort)) {
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
            let now = Instant::now();
            let mut state = self.lock();
            while let Some(Submission { call, in_place, completion }) = state.inbox.pop_front() {
                self.waiting.fetch_sub(1, Ordering::Relaxed);
                if let Err(error) = lane.admit(call, in_place, completion.clone(), now) {
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

    /// After a while without progress; see [`Lane::look_around`].
    fn look_around(&self, lane: &mut Lane, idle_since: Instant) -> Result<()> {
        if let Some(Stall { calls, waiting_for }) = lane.look_around(Instant::now(), idle_since)? {
            calls.into_iter().for_each(|call| self.reporter.stalled(call, &waiting_for));
        }
        Ok(())
    }

    /// Sleeps until there may be news. True when something moved on the last look before the sleep.
    fn sleep(&self, drive: &mut Drive, idle_since: Instant, until: Option<Instant>) -> Result<bool> {
        let Drive { lane, sleeper, interests, .. } = drive;
        lane.interests(interests);
        let now = Instant::now();
        let nap = lane.nap(now, idle_since);
        let nap = until.map_or(nap, |until| nap.min(until.saturating_duration_since(now)));
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

    /// Waits until the control plane has had its say; see [`Verdict`].
    fn verdict(&self, error: Error) -> Error {
        let verdict = Verdict::on(error, Instant::now());
        if let Some(error) = verdict.question().filter(|_| self.fate.check().is_ok()) {
            self.reporter.failed(error);
        }
        loop {
            match verdict.reached(&self.fate, Instant::now()) {
                Some(error) => return error,
                None => std::thread::sleep(Duration::from_millis(1)),
            }
        }
    }
}
