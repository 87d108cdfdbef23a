//! The run itself: who moves next, and who is woken by it.
//!
//! A port that cannot move is put on one list, that of whatever keeps it: an op that has not come far enough, a link,
//! a signal. It looks again when that changes. So the work of a run is proportional to the steps and hazards, not to
//! how often somebody looks in vain.
#![forbid(unsafe_code)]

use super::{Agenda, Halt, Machine, NONE, Step, Watch};
use crate::schedule::Op;
use crate::schedule::hazards::Fence;
use crate::types::Rank;

/// What changes while a machine runs.
pub(super) struct Run<'m, 'a, W: Watch> {
    machine: &'m Machine<'a>,
    agenda: W::Agenda,
    heads: Vec<u32>,
    rank_of_port: Vec<u32>,
    /// Per op: slices done, and the first port that waits for more of them.
    marks: Vec<u32>,
    waiting: Vec<u32>,
    /// Per port: the next port that waits for the same op or signal.
    next_waiting: Vec<u32>,
    /// Per link: slices ever entered and ever left; per port: it waits for its link.
    entered: Vec<u32>,
    left: Vec<u32>,
    waits_for_link: Vec<bool>,
    /// Per rank: ops done without a gap from the start, signals given, and who waits for the next one.
    prefix: Vec<u32>,
    signals: Vec<u32>,
    listeners: Vec<u32>,
}

/// Why a port does not move.
enum Blocked {
    Finished,
    OnOp(usize),
    OnLink,
    OnSignal(Rank),
}

impl<'m, 'a, W: Watch> Run<'m, 'a, W> {
    pub fn new(machine: &'m Machine<'a>) -> Self {
        let (world, ops, ports, links) = (machine.programs.len(), machine.ops(), machine.ports(), machine.links.len());
        let ends = machine.links.iter().flat_map(|&(from, to)| [from as u32, to as u32]);
        Run {
            machine,
            agenda: W::Agenda::default(),
            heads: machine.heads.clone(),
            rank_of_port: (0..world as u32).chain(ends).collect(),
            marks: vec![0; ops],
            waiting: vec![NONE; ops],
            next_waiting: vec![NONE; ports],
            entered: vec![0; links],
            left: vec![0; links],
            waits_for_link: vec![false; ports],
            prefix: vec![0; world],
            signals: vec![0; world],
            listeners: vec![NONE; world],
        }
    }

    pub fn finish(mut self, watch: &mut W) -> Result<(), Halt<W::Stop>> {
        for port in (0..self.heads.len() as u32).rev() {
            self.agenda.push(port, 0);
        }
        while let Some((port, time)) = self.agenda.pop() {
            match self.obstacle(port as usize) {
                None => {
                    let step = self.next_step(port as usize);
                    let ready = watch.ready(&step);
                    if ready > time {
                        self.agenda.push(port, ready);
                    } else {
                        let over = watch.happens(&step).map_err(Halt::Stopped)?;
                        self.done(port as usize, step.id, step.op, over);
                        self.agenda.push(port, over);
                    }
                }
                Some(Blocked::Finished) => {}
                Some(Blocked::OnLink) => self.waits_for_link[port as usize] = true,
                Some(Blocked::OnOp(op)) => {
                    self.next_waiting[port as usize] = std::mem::replace(&mut self.waiting[op], port);
                }
                Some(Blocked::OnSignal(rank)) => {
                    self.next_waiting[port as usize] = std::mem::replace(&mut self.listeners[rank], port);
                }
            }
        }
        let stuck: Vec<(Rank, usize)> = (0..self.heads.len())
            .filter(|&port| self.heads[port] != NONE)
            .map(|port| {
                let rank = self.rank_of_port[port] as Rank;
                (rank, self.heads[port] as usize - self.machine.first[rank])
            })
            .collect();
        if !stuck.is_empty() {
            return Err(Halt::Stuck(stuck));
        }
        match (0..self.entered.len()).find(|&link| self.entered[link] != self.left[link]) {
            Some(link) => Err(Halt::Unread(self.machine.links[link].0, self.machine.links[link].1)),
            None => Ok(()),
        }
    }

    /// What keeps the first op of a port from moving by a slice, if anything does.
    fn obstacle(&mut self, port: usize) -> Option<Blocked> {
        let machine = self.machine;
        if self.heads[port] == NONE {
            return Some(Blocked::Finished);
        }
        let id = self.heads[port] as usize;
        let rank = self.rank_of_port[port] as Rank;
        let first = machine.first[rank];
        let (index, slice, slices) = (id - first, self.marks[id], machine.capacity.chunk_slices);
        match machine.hazards[rank].fence(index) {
            Fence::Free => {}
            Fence::After(wait) => {
                if self.marks[first + wait as usize] < slices {
                    return Some(Blocked::OnOp(first + wait as usize));
                }
            }
            Fence::AfterAll => {
                let done = &mut self.prefix[rank];
                while (*done as usize) < index && self.marks[first + *done as usize] == slices {
                    *done += 1;
                }
                if (*done as usize) < index {
                    return Some(Blocked::OnOp(first + *done as usize));
                }
            }
        }
        for &before in machine.hazards[rank].behind(index) {
            if self.marks[first + before as usize] <= slice {
                return Some(Blocked::OnOp(first + before as usize));
            }
        }
        if let Some((link, receives)) = self.link(port) {
            let inside = self.entered[link] - self.left[link];
            let blocked = if receives { inside == 0 } else { inside == machine.capacity.link_slices };
            return blocked.then_some(Blocked::OnLink);
        }
        match machine.programs[rank].ops[index] {
            Op::Wait { on, signal } if self.signals[on] < signal => Some(Blocked::OnSignal(on)),
            _ => None,
        }
    }

    /// The first op of a port is about to move by a slice.
    fn next_step(&self, port: usize) -> Step<'m> {
        let machine = self.machine;
        let id = self.heads[port] as usize;
        let rank = self.rank_of_port[port] as Rank;
        let offset = machine.first[rank];
        let index = id - offset;
        let cell = self.link(port).map_or(0, |(link, receives)| {
            let count = if receives { self.left[link] } else { self.entered[link] };
            link as u32 * machine.capacity.link_slices + count % machine.capacity.link_slices
        });
        Step {
            rank,
            id,
            index,
            op: &machine.programs[rank].ops[index],
            next_is_wait: matches!(machine.programs[rank].ops.get(index + 1), Some(Op::Wait { .. })),
            slice: self.marks[id] as usize,
            behind: machine.hazards[rank].behind(index),
            offset,
            fence: machine.hazards[rank].fence(index),
            cell: cell as usize,
        }
    }

    /// The first op of a port, `id`, has moved by a slice: whoever may move now is woken.
    fn done(&mut self, port: usize, id: usize, op: &Op, time: u64) {
        let machine = self.machine;
        let rank = self.rank_of_port[port] as Rank;
        if let Some((link, receives)) = self.link(port) {
            let count = if receives { &mut self.left[link] } else { &mut self.entered[link] };
            *count += 1;
            let other = machine.programs.len() + ((port - machine.programs.len()) ^ 1);
            if std::mem::take(&mut self.waits_for_link[other]) {
                self.agenda.push(other as u32, time);
            }
        }
        let slices = machine.capacity.chunk_slices;
        match op {
            Op::Signal => {
                self.signals[rank] += 1;
                self.marks[id] = slices;
                let listeners = std::mem::replace(&mut self.listeners[rank], NONE);
                self.wake(listeners, time);
            }
            Op::Wait { .. } => self.marks[id] = slices,
            _ => self.marks[id] += 1,
        }
        if self.marks[id] == slices {
            self.heads[port] = machine.next_in_port[id];
        }
        let waiting = std::mem::replace(&mut self.waiting[id], NONE);
        self.wake(waiting, time);
    }

    fn wake(&mut self, mut port: u32, time: u64) {
        while port != NONE {
            self.agenda.push(port, time);
            port = std::mem::replace(&mut self.next_waiting[port as usize], NONE);
        }
    }

    /// The link behind a port, and whether this is its receiving end.
    fn link(&self, port: usize) -> Option<(usize, bool)> {
        let beyond = port.checked_sub(self.machine.programs.len())?;
        Some((beyond / 2, beyond % 2 == 1))
    }
}
