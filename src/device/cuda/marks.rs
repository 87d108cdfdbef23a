//! Marks are events behind the work, and what must live until it is done waits here for them.

use super::context::{Context, Entered};
use crate::device::contract::Mark;
use crate::error::Result;
use cudarc::driver::sys::{CUevent, CUstream};
use std::any::Any;
use std::collections::VecDeque;
use std::sync::Arc;

/// The marks of one stream.
pub(super) struct Marks {
    context: Arc<Context>,
    /// The last one that was given out, and the last one that was passed.
    given: u64,
    passed: u64,
    /// An event for each mark in between.
    pending: VecDeque<CUevent>,
    /// Events to use again.
    free: Vec<CUevent>,
    /// What work that is behind the mark with this number uses.
    kept: VecDeque<(u64, Box<dyn Any + Send>)>,
}

// SAFETY: events are handles that every thread may use while their context is current.
unsafe impl Send for Marks {}

impl Marks {
    pub(super) fn new(context: Arc<Context>) -> Marks {
        Marks { context, given: 0, passed: 0, pending: VecDeque::new(), free: Vec::new(), kept: VecDeque::new() }
    }

    /// Keeps something until the next mark is passed.
    pub(super) fn keep(&mut self, what: Box<dyn Any + Send>) {
        self.kept.push_back((self.given + 1, what));
    }

    /// # Safety
    /// The stream is there.
    pub(super) unsafe fn record(&mut self, entered: &Entered, stream: CUstream) -> Result<Mark> {
        let event = match self.free.pop() {
            Some(event) => event,
            None => entered.event()?,
        };
        // SAFETY: the event is of ours, and the caller vouches for the stream.
        let recorded = unsafe { entered.record(event, stream) };
        if recorded.is_err() {
            self.free.push(event);
        }
        recorded?;
        self.pending.push_back(event);
        self.given += 1;
        Ok(Mark(self.given))
    }

    /// Whether the mark is passed, without asking the driver.
    pub(super) fn is_passed(&self, mark: Mark) -> bool {
        mark.0 <= self.passed
    }

    /// Asks the driver how far it has come.
    pub(super) fn ask(&mut self, entered: &Entered) -> Result<()> {
        while let Some(&event) = self.pending.front() {
            // SAFETY: an event of ours.
            if !unsafe { entered.has_happened(event)? } {
                break;
            }
            self.pending.pop_front();
            self.free.push(event);
            self.passed += 1;
        }
        while self.kept.front().is_some_and(|(until, _)| *until <= self.passed) {
            self.kept.pop_front();
        }
        Ok(())
    }

    /// All work is done.
    pub(super) fn pass_all(&mut self) {
        self.free.extend(self.pending.drain(..));
        self.passed = self.given;
        self.kept.clear();
    }
}

impl Drop for Marks {
    fn drop(&mut self) {
        for event in self.free.drain(..).chain(self.pending.drain(..)) {
            // SAFETY: from `event`, once.
            self.context.give_back(|entered| unsafe { entered.destroy_event(event) });
        }
    }
}
