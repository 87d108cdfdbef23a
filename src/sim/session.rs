//! One rank's time in one communicator: its script, the real [`Lane`], and the driver's part, which in production is played
//! by threads ([`crate::engine`]'s driver and crank) and here by [`Session::turn`], one step at a time.
#![forbid(unsafe_code)]

use super::buffers::Buffers;
use super::dice::Dice;
use super::script::{Manner, Script, Wish};
use crate::engine::{Completion, Effort, Fate, Lane, Verdict};
use crate::error::{Error, Result, Signature};
use crate::transport::Interest;
use crate::transport::sim::HostMemory;
use crate::types::Rank;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A rank's engine on one communicator, and what it is to do there.
pub(super) struct Session {
    pub(super) comm: u64,
    pub(super) epoch: u32,
    pub(super) me: Rank,
    /// Rank of the communicator -> rank of the job.
    pub(super) members: Vec<Rank>,
    pub(super) fate: Arc<Fate>,
    pub(super) script: Arc<Script>,
    lane: Lane,
    host: Option<(HostMemory, usize)>,
    dice: Dice,
    /// The next call of the script, and the earliest moment for it.
    next: usize,
    ready_at: Instant,
    /// So many calls still belong to the group that was begun.
    grouped: usize,
    open: Vec<Open>,
    /// No further call before those in flight have ended.
    is_blocked: bool,
    express: Option<Open>,
    effort: Effort,
    idle_since: Option<Instant>,
    verdict: Option<Verdict>,
    pub(super) has_failed: bool,
    /// Censuses that it has taken part in.
    pub(super) censuses: u64,
}

/// A call that was made and has not ended.
struct Open {
    index: usize,
    wish: Wish,
    began: Instant,
    completion: Arc<Completion>,
    buffers: Buffers,
}

/// A call that has ended.
pub(super) struct Ended {
    pub(super) index: usize,
    pub(super) wish: Wish,
    pub(super) began: Instant,
    pub(super) outcome: Result<()>,
    pub(super) buffers: Buffers,
}

/// What a turn brought forth.
pub(super) enum Said {
    /// The rank ends the communicator, or asks who is to blame.
    Failed(Error),
    Stalled(Signature, Vec<Rank>),
    Ended(Box<Ended>),
}

/// When the next turn is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// As soon as the rank's thread runs again.
    Again,
    In(Duration),
    /// When something wakes it, at the latest after that time.
    Sleep(Duration),
    /// All calls were made and have ended.
    Finished,
    /// The communicator has failed, and so have all calls.
    Failed,
}

/// What a turn did.
pub(super) struct Turn {
    pub(super) next: Next,
    pub(super) moved: bool,
}

impl Session {
    #[expect(clippy::too_many_arguments, reason = "made in one place")]
    pub(super) fn new(
        comm: u64,
        epoch: u32,
        me: Rank,
        members: Vec<Rank>,
        fate: Arc<Fate>,
        script: Arc<Script>,
        lane: Lane,
        host: Option<(HostMemory, usize)>,
        dice: Dice,
        now: Instant,
    ) -> Session {
        Session {
            comm,
            epoch,
            me,
            members,
            fate,
            script,
            lane,
            host,
            dice,
            next: 0,
            ready_at: now,
            grouped: 0,
            open: Vec::new(),
            is_blocked: false,
            express: None,
            effort: Effort::Quick,
            idle_since: None,
            verdict: None,
            has_failed: false,
            censuses: 0,
        }
    }

    /// Calls that were made and have not ended.
    pub(super) fn open_calls(&self) -> usize {
        self.open.len() + usize::from(self.express.is_some())
    }

    /// What a sleeper waits for.
    pub(super) fn interests(&self, into: &mut Vec<Interest>) {
        self.lane.interests(into);
    }

    /// Calls that were made.
    pub(super) fn begun(&self) -> usize {
        self.next
    }

    /// Whether it is in a call and not ending it for an error.
    pub(super) fn is_underway(&self) -> bool {
        self.verdict.is_none() && !self.has_failed
    }

    fn is_over(&self) -> bool {
        self.next == self.script.wishes.len()
    }

    /// Does what the driver does between two looks at the clock.
    pub(super) fn turn(&mut self, now: Instant, said: &mut Vec<Said>) -> Turn {
        let still = |next| Turn { next, moved: false };
        let moved = |next| Turn { next, moved: true };
        if self.has_failed {
            return still(Next::Failed);
        }
        if let Some(verdict) = &self.verdict {
            return match verdict.reached(&self.fate, now) {
                Some(error) => {
                    self.fail(error, said);
                    moved(Next::Failed)
                }
                None => still(Next::In(Duration::from_millis(1))),
            };
        }
        let submitted = self.submit(now, said);
        if self.express.is_some() {
            return moved(self.ride(now, said));
        }
        if self.lane.in_flight() == 0 {
            return match self.fate.check() {
                Err(error) => {
                    self.fail(error, said);
                    moved(Next::Failed)
                }
                Ok(()) if submitted => moved(Next::Again),
                Ok(()) if self.is_over() => still(Next::Finished),
                Ok(()) => still(Next::Sleep(self.ready_at.saturating_duration_since(now))),
            };
        }
        match self.fate.check().and_then(|()| self.lane.poll(self.effort)) {
            Err(error) => return moved(self.doubt(error, now, said)),
            Ok(true) => {
                self.collect(now, said);
                (self.idle_since, self.effort) = (None, Effort::Quick);
                return moved(Next::Again);
            }
            Ok(false) if submitted => return moved(Next::Again),
            Ok(false) => {}
        }
        let since = *self.idle_since.get_or_insert(now);
        if self.effort == Effort::Quick {
            self.effort = Effort::Thorough;
            return still(Next::Again);
        }
        match self.lane.look_around(now, since) {
            Err(error) => return moved(self.doubt(error, now, said)),
            Ok(Some(stall)) => {
                said.extend(stall.calls.into_iter().map(|call| Said::Stalled(call, stall.waiting_for.clone())));
            }
            Ok(None) => {}
        }
        let nap = self.lane.nap(now, since);
        let due = self.ready_at.saturating_duration_since(now);
        still(Next::Sleep(if self.may_submit() { nap.min(due) } else { nap }))
    }

    fn may_submit(&self) -> bool {
        !self.is_over() && !self.is_blocked
    }

    /// Makes the calls whose time has come. True when there was one.
    fn submit(&mut self, now: Instant, said: &mut Vec<Said>) -> bool {
        let mut submitted = false;
        while self.may_submit() && self.ready_at <= now && self.express.is_none() && self.fate.check().is_ok() {
            let index = self.next;
            self.next += 1;
            let Some(wish) = self.script.part(index, self.me) else { continue };
            let manner = match self.grouped {
                0 => Manner::draw(&mut self.dice),
                left => Manner::Group(left - 1),
            };
            self.grouped = if let Manner::Group(left) = manner { left } else { 0 };
            self.is_blocked = matches!(manner, Manner::Blocking | Manner::Group(0));
            submitted = true;
            self.make(index, wish, manner, now, said);
            if self.grouped == 0 {
                self.ready_at = now + self.pause();
            }
        }
        // A group that the script's end cut short is waited for as it is.
        self.is_blocked |= self.is_over();
        submitted
    }

    /// What the rank does between two calls.
    fn pause(&mut self) -> Duration {
        Duration::from_nanos(match self.dice.below(20) {
            0 => self.dice.between(0, 300_000_000),
            1..=9 => self.dice.between(0, 300_000),
            _ => 0,
        })
    }

    fn make(&mut self, index: usize, wish: Wish, manner: Manner, now: Instant, said: &mut Vec<Said>) {
        let world = self.members.len();
        let shared = self.host.as_ref().map(|(host, position)| (host, *position));
        let buffers = Buffers::new(&wish, self.me, world, shared, &mut self.dice);
        let call = buffers.call(&wish, self.me);
        let completion = Arc::new(Completion::default());
        let open = |buffers| Open { index, wish: wish.clone(), began: now, completion: completion.clone(), buffers };
        let in_place = match call.validate(self.me, world) {
            Ok(in_place) if in_place == buffers.is_in_place || wish.dtype.size_bytes() == 0 => in_place,
            Ok(in_place) => {
                let error = Error::invalid(format!("in place: the call says {in_place}, the script did not"));
                return said.push(open(buffers).end(Err(error)));
            }
            Err(error) => return said.push(open(buffers).end(Err(error))),
        };
        if manner == Manner::Blocking && self.open.is_empty() && self.lane.board(&call, in_place) {
            self.express = Some(open(buffers));
            return;
        }
        match self.lane.admit(call, in_place, completion.clone(), now) {
            Ok(()) => self.open.push(open(buffers)),
            Err(error) => said.push(open(buffers).end(Err(error))),
        }
    }

    /// Moves the call that its caller runs straight through; after a while it joins the others.
    fn ride(&mut self, now: Instant, said: &mut Vec<Said>) -> Next {
        let outcome = self.fate.check().and_then(|()| self.lane.poll_express());
        let Some(open) = self.express.take() else { return Next::Again };
        match outcome {
            Ok(true) => {
                said.push(open.end(Ok(())));
                self.settle();
                Next::Again
            }
            Ok(false) if self.dice.permille(800) => {
                self.express = Some(open);
                Next::Again
            }
            outcome => {
                self.lane.park(open.completion.clone(), now);
                self.open.push(open);
                match outcome {
                    Err(error) => self.doubt(error, now, said),
                    Ok(_) => Next::Again,
                }
            }
        }
    }

    /// An error: nothing moves any more until it is clear who is to blame.
    fn doubt(&mut self, error: Error, now: Instant, said: &mut Vec<Said>) -> Next {
        let verdict = Verdict::on(error, now);
        if let Some(error) = verdict.question().filter(|_| self.fate.check().is_ok()) {
            said.push(Said::Failed(error.clone()));
        }
        self.verdict = Some(verdict);
        Next::In(Duration::ZERO)
    }

    /// Ends the communicator on this rank and tells everybody.
    fn fail(&mut self, error: Error, said: &mut Vec<Said>) {
        let first = self.fate.fail(error);
        let error = self.fate.check().expect_err("it has just failed");
        if first {
            said.push(Said::Failed(error.clone()));
        }
        self.lane.fail(&error);
        self.has_failed = true;
        self.collect_all(said);
    }

    fn collect(&mut self, _now: Instant, said: &mut Vec<Said>) {
        self.collect_all(said);
        self.settle();
    }

    fn collect_all(&mut self, said: &mut Vec<Said>) {
        let mut index = 0;
        while index < self.open.len() {
            match self.open[index].completion.outcome().cloned() {
                Some(outcome) => said.push(self.open.remove(index).end(outcome)),
                None => index += 1,
            }
        }
    }

    /// Lets the script go on where it waited for calls that have ended.
    fn settle(&mut self) {
        if self.open.is_empty() && self.express.is_none() {
            self.is_blocked = false;
        }
    }
}

impl Open {
    fn end(self, outcome: Result<()>) -> Said {
        let Open { index, wish, began, buffers, .. } = self;
        Said::Ended(Box::new(Ended { index, wish, began, outcome, buffers }))
    }
}
