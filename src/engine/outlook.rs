//! What a driver without news looks at before it sleeps: deadlines, ranks that left, calls that nobody else has made. And how
//! long it may sleep.
#![forbid(unsafe_code)]

use super::lane::{Effort, Lane};
use super::offload::DEVICE_NAP;
use super::planted::{Mistake, is_planted};
use super::verdict::LEFT;
use crate::error::{Error, Result, Signature};
use crate::types::{Collective, Rank};
use std::time::{Duration, Instant};

/// A call that waits longer than this without progress is reported, so that somebody may notice a mismatch.
const STALL: Duration = Duration::from_millis(40);

/// The longest sleep: deadlines are looked at between sleeps.
const NAP: Duration = Duration::from_millis(500);

/// Calls that wait, and for whom; others are to be told.
pub(crate) struct Stall {
    pub(crate) calls: Vec<Signature>,
    pub(crate) waiting_for: Vec<Rank>,
}

impl Lane {
    /// Looks around when nothing has moved since `idle_since`. An error ends the communicator.
    pub(crate) fn look_around(&mut self, now: Instant, idle_since: Instant) -> Result<Option<Stall>> {
        let fate = self.fate.clone();
        let gone = self.waiting_in_vain_for(|rank| fate.has_left(rank));
        if !gone.is_empty() && !self.poll(Effort::Thorough)? {
            // What they sent before they left has been read by now: nothing more will come.
            let suspects = self.waiting_in_vain_for(|rank| gone.contains(&rank));
            if !suspects.is_empty() {
                return Err(Error::PeerLost { suspects, what: LEFT.into(), during: None });
            }
        }
        let waiting_for = self.waiting_for();
        let is_long = now.saturating_duration_since(idle_since) > STALL;
        let mut calls = Vec::new();
        for task in self.tasks() {
            let waited = task.waited(now);
            if waited > task.timeout && !is_planted(Mistake::DeadlineUnread) {
                return Err(Error::Timeout { waiting_for, after: waited, during: None }.during(task.op));
            }
            // Messages are numbered by each pair for itself: only the pair can compare them, and its headers do.
            let comparable = task.op.collective != Collective::SendRecv;
            if is_long && comparable && task.stalled_on.as_ref() != Some(&waiting_for) {
                task.stalled_on = Some(waiting_for.clone());
                calls.push(task.signature);
            }
        }
        Ok((!calls.is_empty()).then_some(Stall { calls, waiting_for }))
    }

    /// How long to sleep at most: to wake up in time to report a stall, then seldom.
    pub(crate) fn nap(&self, now: Instant, idle_since: Instant) -> Duration {
        if self.awaits_device() {
            return DEVICE_NAP;
        }
        let idle = now.saturating_duration_since(idle_since);
        if idle > STALL { NAP.min(self.time_left(now)) } else { STALL - idle + Duration::from_millis(1) }
    }
}
