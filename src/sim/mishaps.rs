//! Faults as they happen.
#![forbid(unsafe_code)]

use super::agenda::Event;
use super::control::Hub;
use super::faults::{Fault, Planned};
use super::process::Life;
use super::switchboard::Switchboard;
use super::world::{Comm, World};
use crate::error::Error;
use crate::types::Rank;
use std::collections::BTreeMap;

/// Connections that carry nothing.
pub(super) struct Cut {
    ways: Vec<(Rank, Rank)>,
    /// Also those between ranks and their root.
    is_whole: bool,
    pub(super) held: Vec<Event>,
    pub(super) is_healed: bool,
}

impl World {
    /// Does the faults whose time has come.
    pub(super) fn strike(&mut self) {
        while self.plan.first().is_some_and(|planned| planned.at_step <= self.steps) {
            let Planned { fault, .. } = self.plan.remove(0);
            self.suffer(fault);
        }
    }

    fn suffer(&mut self, fault: Fault) {
        let tally = &mut self.judge.tally;
        match fault {
            Fault::Death { rank, is_reset } if matches!(self.processes[rank].life, Life::Runs | Life::Frozen) => {
                tally.deaths += 1;
                self.log(rank, || "dies".into());
                self.die(rank, is_reset);
            }
            Fault::Freeze { rank, for_ns } if self.processes[rank].life == Life::Runs => {
                tally.freezes += 1;
                self.log(rank, || format!("is frozen for {for_ns:?} ns"));
                self.judge.blame(rank);
                self.processes[rank].life = Life::Frozen;
                self.processes[rank].thaws = for_ns.is_some();
                if let Some(for_ns) = for_ns {
                    self.agenda.put(self.now + for_ns, Event::Thaws(rank));
                }
            }
            Fault::Cut { from, to, both_ways, for_ns } => {
                tally.cuts += 1;
                self.log("net", || format!("cut between {from} and {to}, both ways: {both_ways}, for {for_ns:?} ns"));
                self.judge.blame(from);
                self.judge.blame(to);
                let mut ways = vec![(from, to)];
                ways.extend(both_ways.then_some((to, from)));
                self.cut(ways, false, for_ns);
            }
            Fault::Unplugged { rank, out, back, for_ns } => {
                let here = |other: &Rank| self.hosts.iter().any(|host| host.contains(&rank) && host.contains(other));
                let (inside, outside): (Vec<Rank>, Vec<Rank>) = (0..self.processes.len()).partition(here);
                if outside.is_empty() {
                    return;
                }
                tally.unplugged += 1;
                self.log("net", || format!("{inside:?} unplugged, out: {out}, back: {back}, for {for_ns:?} ns"));
                // Each side finds the other silent.
                inside.iter().chain(&outside).for_each(|rank| self.judge.blame(*rank));
                let pairs = inside.iter().flat_map(|inner| outside.iter().map(move |outer| (*inner, *outer)));
                let ways = pairs.flat_map(|(inner, outer)| {
                    [out.then_some((inner, outer)), back.then_some((outer, inner))].into_iter().flatten()
                });
                self.cut(ways.collect(), true, for_ns);
            }
            Fault::Abort { rank } if self.processes[rank].life == Life::Runs => {
                let Some(session) = &self.processes[rank].session else { return };
                let (comm, by) = (session.comm, session.me);
                let error = Error::Aborted { by, reason: "it was told to".into(), during: None };
                if session.fate.fail(error.clone()) {
                    tally.aborts += 1;
                    self.log(rank, || "aborts".into());
                    self.judge.blame(rank);
                    self.revoke(rank, comm, &error);
                    self.wake(rank);
                }
            }
            Fault::Death { .. } | Fault::Freeze { .. } | Fault::Abort { .. } => {}
        }
    }

    fn cut(&mut self, ways: Vec<(Rank, Rank)>, is_whole: bool, for_ns: Option<u64>) {
        self.cuts.push(Cut { ways, is_whole, held: Vec::new(), is_healed: false });
        if let Some(for_ns) = for_ns {
            self.agenda.put(self.now + for_ns, Event::Heals(self.cuts.len() - 1));
        }
    }

    /// Whether one rank's process can knock at the door of another.
    pub(super) fn can_reach(&self, from: Rank, to: Rank) -> bool {
        let way = |cut: &Cut| cut.ways.contains(&(from, to)) || cut.ways.contains(&(to, from));
        !self.cuts.iter().any(|cut| cut.is_whole && !cut.is_healed && way(cut))
    }

    fn die(&mut self, rank: Rank, is_reset: bool) {
        self.judge.blame(rank);
        self.judge.death(rank, self.now);
        self.processes[rank].life = Life::Dead;
        self.processes[rank].missed.clear();
        if is_reset {
            for (id, line) in self.board.lines().iter().enumerate() {
                if line.from == rank && line.is_socket {
                    self.board.line(id, |line| line.is_reset = true);
                }
            }
        }
        self.drop_session(rank);
        self.disconnect(rank);
        for hub in (0..self.hubs.len()).filter(|hub| self.hubs[*hub].home == rank).collect::<Vec<_>>() {
            if !std::mem::replace(&mut self.hubs[hub].is_closed, true) {
                self.judge.tally.root_deaths += 1;
                let guests = self.hubs[hub].side.guests().clone();
                // It dies in the middle of what it says: some hear the end of it, others do not.
                let unheard = guests.iter().copied().filter(|_| self.dice.permille(400)).collect();
                self.hubs[hub].unheard_by = unheard;
                guests.into_iter().for_each(|guest| self.hang_up(hub, guest));
            }
        }
    }

    pub(super) fn thaw(&mut self, rank: Rank) {
        if self.processes[rank].life != Life::Frozen {
            return;
        }
        self.log(rank, || "goes on".into());
        self.judge.thawed(rank, self.now);
        self.processes[rank].life = Life::Runs;
        let missed = std::mem::take(&mut self.processes[rank].missed);
        for event in missed {
            // In the order in which they came; a timer that ran out meanwhile has company now.
            let event = match event {
                Event::Turn { rank, turn, .. } => Event::Turn { rank, turn, by_timer: false },
                event => event,
            };
            self.agenda.put(self.now + 100, event);
        }
    }
}

/// Whether an event would have to cross a cut.
pub(super) fn crosses(
    board: &Switchboard,
    comms: &BTreeMap<u64, Comm>,
    hubs: &[Hub],
    cut: &Cut,
    event: &Event,
) -> bool {
    let crossed = |from: Rank, to: Rank| cut.ways.contains(&(from, to));
    match event {
        Event::Arrives(id, _) | Event::Ends(id) => {
            board.line(*id, |line| line.is_socket && crossed(line.from, line.to))
        }
        Event::Acknowledged(id, _) | Event::Refused(id) => {
            board.line(*id, |line| line.is_socket && crossed(line.to, line.from))
        }
        Event::Dials((comm, me, peer, _)) => {
            let members = &comms[comm].members;
            crossed(members[*me], members[*peer]) || crossed(members[*peer], members[*me])
        }
        Event::Up(hub, from, _) | Event::RankGone(hub, from) => cut.is_whole && crossed(*from, hubs[*hub].home),
        Event::Down(hub, to, _) | Event::RootGone(hub, to) => cut.is_whole && crossed(hubs[*hub].home, *to),
        Event::Knock { rank, at, .. } => cut.is_whole && (crossed(*rank, *at) || crossed(*at, *rank)),
        _ => false,
    }
}
