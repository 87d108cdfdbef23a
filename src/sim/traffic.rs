//! What travels on links and shows in shared memory: when it arrives, and whom it wakes.
#![forbid(unsafe_code)]

use super::agenda::Event;
use super::process::Life;
use super::switchboard::Side;
use super::world::{Comm, World};
use crate::error::Error;
use crate::transport::Interest;
use crate::transport::sim::{Notice, PipeId};
use crate::types::Rank;

impl World {
    /// Something has changed at one end of a pipe: wakes who sleeps on it.
    pub(super) fn stir(&mut self, id: PipeId, at_reader: bool) {
        let (rank, comm, is_socket) =
            self.board.line(id, |line| (if at_reader { line.to } else { line.from }, line.comm, line.is_socket));
        let process = &self.processes[rank];
        let is_awaited = |interest: &Interest| {
            interest.fd as usize == id && (if at_reader { interest.readable } else { interest.writable })
        };
        let is_there = process.session.as_ref().is_some_and(|session| session.comm == comm);
        if is_there && (!is_socket || process.interests.iter().any(is_awaited)) {
            self.wake(rank);
        }
    }

    pub(super) fn dial(&mut self, side: Side) {
        let (comm, me, peer, _) = side;
        let members = self.comms[&comm].members.clone();
        let life = self.processes[members[peer]].life;
        let is_there = self.processes[members[me]].session.as_ref().is_some_and(|session| session.comm == comm);
        if !is_there {
            return;
        }
        if matches!(life, Life::Dead | Life::Left) {
            self.board.fail(
                side,
                Error::PeerLost { suspects: vec![peer], what: "can no longer be reached".into(), during: None },
            );
        } else {
            self.judge.tally.links += 1;
            self.board.connect(side, &members);
        }
        self.wake(members[me]);
        self.wake(members[peer]);
    }

    /// Puts on the agenda what follows from what links and hosts have noted.
    pub(super) fn notice(&mut self) {
        let mut notices = std::mem::take(&mut self.notices);
        self.network.notices(&mut notices);
        for notice in notices.drain(..) {
            match notice {
                Notice::Sent(id, position) => {
                    let at = self.arrival(id);
                    self.agenda.put(at, Event::Arrives(id, position));
                }
                Notice::Released(id, position) => {
                    let delay = self.travel(id);
                    let now = self.now;
                    let at = self.board.line(id, |line| {
                        line.acknowledged_by = line.acknowledged_by.max(now + delay);
                        line.acknowledged_by
                    });
                    self.agenda.put(at, Event::Acknowledged(id, position));
                }
                Notice::SenderGone(id) if self.board.line(id, |line| line.is_socket) => {
                    let at = self.arrival(id);
                    self.agenda.put(at, Event::Ends(id));
                }
                Notice::ReaderGone(id) if self.board.line(id, |line| line.is_socket) => {
                    let delay = self.climate.link_delay();
                    self.agenda.put(self.now + delay, Event::Refused(id));
                }
                Notice::SenderGone(_) | Notice::ReaderGone(_) => {}
            }
        }
        self.notices = notices;
        for side in self.board.requests() {
            let delay = 2 * self.climate.link_delay();
            self.agenda.put(self.now + delay, Event::Dials(side));
        }
        self.show_signals();
    }

    /// How long something takes on a pipe.
    fn travel(&mut self, id: PipeId) -> u64 {
        match self.board.line(id, |line| line.is_socket) {
            true => self.climate.link_delay(),
            false => self.climate.memory_delay(),
        }
    }

    /// When what is sent on a pipe now arrives: after all that was sent before.
    fn arrival(&mut self, id: PipeId) -> u64 {
        let delay = self.travel(id);
        let now = self.now;
        self.board.line(id, |line| {
            line.arrives_by = line.arrives_by.max(now + delay);
            line.arrives_by
        })
    }

    fn show_signals(&mut self) {
        let mut seen = Vec::new();
        for (comm, Comm { hosts, .. }) in &self.comms {
            for (host, memory) in hosts.iter().enumerate() {
                for signal in memory.signals() {
                    let others = (0..memory.ranks()).filter(|observer| *observer != signal.0);
                    seen.extend(others.map(|observer| Event::Seen { comm: *comm, host, observer, signal }));
                }
                if !memory.aborts().is_empty() {
                    // All are woken; they look at the abort word themselves.
                    seen.extend((0..memory.ranks()).map(|observer| Event::Seen {
                        comm: *comm,
                        host,
                        observer,
                        signal: (observer, 0, 0),
                    }));
                }
            }
        }
        for event in seen {
            let delay = self.climate.memory_delay();
            self.agenda.put(self.now + delay, event);
        }
    }
}

pub(super) fn closed(peer: Rank) -> Error {
    Error::PeerLost { suspects: vec![peer], what: "closed its connection".into(), during: None }
}
