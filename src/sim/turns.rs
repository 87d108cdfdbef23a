//! A rank's thread runs: when, and what comes of it.
#![forbid(unsafe_code)]

use super::agenda::Event;
use super::climate::{MS, US};
use super::process::{Doing, Life};
use super::script::Slip;
use super::session::{Next, Said, Session};
use super::world::World;
use crate::bootstrap::simulated::Saying;
use crate::transport::Interest;
use crate::types::Rank;

/// How long a rank that leaves looks for a root to tell.
const GOODBYE: u64 = 2000 * MS;

impl World {
    fn turn_in(&mut self, rank: Rank, delay: u64, by_timer: bool) {
        let process = &mut self.processes[rank];
        process.turn += 1;
        let turn = process.turn;
        self.agenda.put(self.now + delay, Event::Turn { rank, turn, by_timer });
    }

    pub(super) fn turn_soon(&mut self, rank: Rank) {
        self.processes[rank].is_asleep = false;
        let delay = self.climate.turn_delay();
        self.turn_in(rank, delay, false);
    }

    /// Ends a rank's sleep.
    pub(super) fn wake(&mut self, rank: Rank) {
        if self.processes[rank].is_asleep {
            self.turn_soon(rank);
        }
    }

    pub(super) fn turn(&mut self, rank: Rank, by_timer: bool) {
        let now = self.moment();
        let process = &mut self.processes[rank];
        process.was_woken();
        let Some(session) = &mut process.session else { return };
        if matches!(process.doing, Doing::Agrees(_) | Doing::Out) {
            // Its thread waits for something else.
            process.is_asleep = true;
            return;
        }
        let mut said = std::mem::take(&mut self.said);
        let begun = session.begun();
        let turn = session.turn(now, &mut said);
        if by_timer && turn.moved && session.begun() == begun && session.is_underway() {
            self.judge.accuse(format!("rank {rank} slept while there was something to do: a lost wake-up"));
        }
        let comm = session.comm;
        for said in said.drain(..) {
            self.hear(rank, comm, said);
        }
        self.said = said;
        self.after(rank, turn.next);
    }

    /// What a rank's turn has brought forth.
    fn hear(&mut self, rank: Rank, comm: u64, said: Said) {
        match said {
            Said::Failed(error) => {
                self.log(rank, || format!("ends the communicator: {error}"));
                self.revoke(rank, comm, &error);
            }
            Said::Stalled(signature, waiting_for) => {
                self.log(rank, || format!("waits for {waiting_for:?} in {signature}"));
                let me = self.processes[rank].session.as_ref().map_or(0, |session| session.me);
                self.tell_root(rank, Saying::stalled(comm, me, signature, waiting_for));
            }
            Said::Ended(ended) => {
                self.log(rank, || format!("call {} of {comm:x} ended: {:?}", ended.index, ended.outcome));
                let Some(session) = &self.processes[rank].session else { return };
                let took = self.moment().saturating_duration_since(ended.began);
                self.judge.ended(rank, session, *ended, took, self.now);
            }
        }
    }

    fn after(&mut self, rank: Rank, next: Next) {
        match next {
            Next::Again => self.turn_soon(rank),
            Next::In(delay) => {
                let delay = delay.as_nanos() as u64 + self.climate.turn_delay();
                self.turn_in(rank, delay, false);
            }
            Next::Sleep(nap) => {
                let process = &mut self.processes[rank];
                process.is_asleep = true;
                if let Some(session) = &process.session {
                    session.interests(&mut process.interests);
                }
                let ready = |interest: &Interest| interest.writable && self.network.is_writable(interest.fd as usize);
                if process.interests.iter().any(ready) {
                    return self.turn_soon(rank);
                }
                let interests = std::mem::take(&mut self.processes[rank].interests);
                self.log(rank, || format!("sleeps on {interests:?}, at most {nap:?}"));
                self.processes[rank].interests = interests;
                // Now and then for no reason, as sleepers do.
                let nap = nap.as_nanos() as u64 + 1;
                let early = self.dice.permille(20);
                let nap = if early { self.dice.between(1, nap) } else { nap };
                self.turn_in(rank, nap, true);
            }
            Next::Finished => self.finished(rank),
            Next::Failed => {
                let open = self.processes[rank].session.as_ref().map_or(0, Session::open_calls);
                if open > 0 {
                    self.judge.accuse(format!("rank {rank} ended its communicator, but not {open} calls in flight"));
                }
                self.recover(rank);
            }
        }
    }

    fn finished(&mut self, rank: Rank) {
        let process = &mut self.processes[rank];
        process.is_asleep = true;
        process.interests.clear();
        let is_new = !matches!(process.doing, Doing::Done);
        let Some(session) = &process.session else { return };
        match session.script.agrees {
            true if is_new => self.agree(rank),
            false if is_new => self.content(rank),
            _ => {}
        }
    }

    /// A rank is done, as far as it knows.
    pub(super) fn content(&mut self, rank: Rank) {
        let process = &mut self.processes[rank];
        process.doing = Doing::Done;
        let Some(session) = &process.session else { return };
        let slip = session.script.slip.filter(|(who, _, _)| *who == session.me).map(|(_, _, slip)| slip);
        if session.fate.check().is_err() {
            return self.turn_soon(rank);
        }
        if slip == Some(Slip::Leaves) {
            self.judge.blame(rank);
            self.agenda.put(self.now + 10 * US, Event::Leaves(rank));
        } else if self.leaves_when_done {
            let pause = self.dice.between(US, 5 * MS);
            self.agenda.put(self.now + pause, Event::Leaves(rank));
        }
    }

    pub(super) fn leave(&mut self, rank: Rank) {
        let process = &mut self.processes[rank];
        // Who has learnt meanwhile that the others failed stays with them.
        let goes = match &process.doing {
            Doing::Done => process.session.as_ref().is_none_or(|session| session.fate.check().is_ok()),
            Doing::Out => true,
            _ => false,
        };
        if process.life == Life::Runs && goes && process.root.is_none() && !process.is_alone {
            // It wants somebody to hear its goodbye, for a while.
            let since = *self.processes[rank].leaves_since.get_or_insert(self.now);
            if self.now < since + GOODBYE {
                return self.agenda.put(self.now + 20 * MS, Event::Leaves(rank));
            }
        }
        let process = &mut self.processes[rank];
        if process.life == Life::Runs && goes {
            self.log(rank, || "leaves".into());
            let process = &mut self.processes[rank];
            process.life = Life::Left;
            let followed = process.root;
            self.judge.left(rank);
            if followed.is_some_and(|hub| self.hubs[hub].is_closed) {
                // A goodbye that nobody hears: it looks like a death.
                self.judge.blame(rank);
            }
            self.drop_session(rank);
            self.tell_root(rank, Saying::goodbye());
        }
    }

    pub(super) fn drop_session(&mut self, rank: Rank) {
        if let Some(session) = self.processes[rank].drop_session() {
            self.board.forget(session.comm, session.me);
            drop(session);
        }
    }
}
