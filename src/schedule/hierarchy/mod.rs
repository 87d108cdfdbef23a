//! Several hosts with several ranks each: inside a host through staging memory, between hosts over links, and every
//! local rank drives a flow of its own, so that the network sees as many streams as there are ranks and no leader is a
//! bottleneck.
//!
//! ```text
//!   all-reduce, 2 hosts of 2         host A: 0 1                    host B: 2 3
//!     reduce-scatter inside          0 has A's half f=0, 1 has f=1  2 has B's half f=0, 3 has f=1
//!     all-reduce between, per flow   0 <----------- flow 0 -----------> 2
//!                                      1 <--------- flow 1 -----------> 3
//!     all-gather inside              0 <-> 1                        2 <-> 3
//! ```
//!
//! **Flows.** There are as many as the smallest host has ranks; the rank in seat f of each host carries flow f, ranks
//! in higher seats only contribute and collect. So hosts may be uneven, and a host of one rank takes no part in any
//! staging: it works on its buffers directly.
//!
//! **Between hosts** one channel asks for latency and several for bandwidth: recursive doubling between two hosts;
//! otherwise PAT over one channel, rings over several; binomial trees or chains from and to a root.
//!
//! With H hosts and F flows a carrying rank sends 2(H-1)/H S/F in an all-reduce (S/F between two hosts) and, where
//! hosts are even, (H-1)/H S/F in a reduce-scatter or an all-gather. Steps are those of the algorithm between hosts;
//! two meetings of the host. Inside, what is staged costs what it costs in [`super::staged`].
//!
//! **Staging slots.** Slot c is for chunk c. Foreign ranks' slots are written before the first meeting of a round and
//! read by their carrier before the second; a carrier's own are written after the first meeting and read before the
//! first meeting of the next round. So two meetings keep rounds apart (see [`super::staged`] for the argument).
//!
//! Source: "multi-leader" designs (DPML, 2017) and NCCL's rail-optimised rings.
#![forbid(unsafe_code)]

mod plan;

use plan::Plan;

use super::catalogue::Shape;
use super::draft::{Draft, Group, Piece};
use super::{Loc, Program, binomial, chain, dissemination, pat, recursive_doubling, ring};
use crate::types::{Collective, Rank};

/// The program of `me` on two or more hosts; `None` where it does not do the collective.
pub(super) fn program(shape: &Shape, me: Rank) -> Option<Program> {
    let plan = Plan::new(shape, me);
    match shape.collective {
        Collective::AllReduce => Some(plan.all_reduce()),
        Collective::ReduceScatter => Some(plan.reduce_scatter()),
        Collective::AllGather => Some(plan.all_gather()),
        Collective::Broadcast => Some(plan.broadcast()),
        Collective::Reduce => Some(plan.reduce()),
        Collective::Barrier => Some(plan.barrier()),
        _ => None,
    }
}

impl Plan {
    fn all_reduce(&self) -> Program {
        let mut draft = Draft::new(self.me);
        let hosts = self.hosts.len();
        let parts = if hosts == 2 { 1 } else { hosts };
        // Chunk (flow, part, channel), counted in this order.
        let per_flow = parts * self.channels;
        let carrier_seat: Vec<usize> = (0..self.flows * per_flow).map(|chunk| chunk / per_flow).collect();
        if !self.alone() {
            self.copy_in(&mut draft, &carrier_seat);
            draft.meet(self.host());
            self.reduce_here(&mut draft, &carrier_seat);
        }
        if self.carries() {
            for channel in 0..self.channels {
                let order = self.flow_order(channel);
                let group = Group::new(&order, self.me, channel as u8);
                let blocks: Vec<Vec<Piece>> = (0..parts)
                    .map(|part| vec![self.partial((self.seat * per_flow + part * self.channels + channel) as u32)])
                    .collect();
                match (hosts, self.channels) {
                    (2, _) => recursive_doubling::all_reduce(&mut draft, &group, &blocks[0]),
                    (_, 1) => pat::all_reduce(&mut draft, &group, &blocks),
                    _ => ring::all_reduce(&mut draft, &group, &blocks),
                }
            }
        }
        if !self.alone() {
            draft.meet(self.host());
            self.copy_out(&mut draft, &carrier_seat, |_| true);
        }
        let chunks = carrier_seat.len() as u32;
        draft.finish(chunks, chunks, 0)
    }

    fn reduce_scatter(&self) -> Program {
        let mut draft = Draft::new(self.me);
        let carrier_seat = self.block_carriers();
        if !self.alone() {
            self.copy_in(&mut draft, &carrier_seat);
            draft.meet(self.host());
            self.reduce_here(&mut draft, &carrier_seat);
        }
        if self.carries() {
            for channel in 0..self.channels {
                let order = self.flow_order(channel);
                let group = Group::new(&order, self.me, channel as u8);
                let blocks = self.flow_blocks(&order, channel, |rank, chunk| {
                    let aside = draft.stage(chunk, chunk);
                    Piece {
                        have: if self.alone() { draft.input(chunk) } else { aside },
                        into: if rank == self.me { draft.output(chunk) } else { aside },
                    }
                });
                match self.channels {
                    1 => pat::reduce_scatter(&mut draft, &group, &blocks),
                    _ => ring::reduce_scatter(&mut draft, &group, &blocks),
                }
            }
        }
        if !self.alone() {
            draft.meet(self.host());
            if !self.carries() {
                let mine = |chunk| chunk as usize / self.channels == self.me;
                self.copy_out(&mut draft, &carrier_seat, mine);
            }
        }
        let chunks = carrier_seat.len() as u32;
        draft.finish(chunks, chunks, 0)
    }

    fn all_gather(&self) -> Program {
        let mut draft = Draft::new(self.me);
        let carrier_seat = self.block_carriers();
        let chunk_of = |rank: Rank, channel: usize| (rank * self.channels + channel) as u32;
        // My own block: a carrier's slots are still being read until the first meeting, so it comes after.
        let stage_mine = |draft: &mut Draft| {
            for chunk in (0..self.channels).map(|channel| chunk_of(self.me, channel)) {
                draft.copy(draft.input(chunk), vec![draft.stage(chunk, chunk), draft.output(chunk)]);
            }
        };
        if !self.alone() {
            if !self.carries() {
                stage_mine(&mut draft);
            }
            draft.meet(self.host());
            if self.carries() {
                stage_mine(&mut draft);
                for &rank in self.host().iter().skip(self.seat + self.flows).step_by(self.flows) {
                    for chunk in (0..self.channels).map(|channel| chunk_of(rank, channel)) {
                        draft.copy(Loc::stage(rank, chunk, chunk), vec![draft.stage(chunk, chunk)]);
                    }
                }
            }
        }
        if self.carries() {
            for channel in 0..self.channels {
                let order = self.flow_order(channel);
                let group = Group::new(&order, self.me, channel as u8);
                let blocks = self.flow_blocks(&order, channel, |_, chunk| self.partial(chunk));
                match self.channels {
                    1 => pat::all_gather(&mut draft, &group, &blocks),
                    _ => ring::all_gather(&mut draft, &group, &blocks),
                }
            }
        }
        if !self.alone() {
            draft.meet(self.host());
            self.copy_out(&mut draft, &carrier_seat, |chunk| chunk as usize / self.channels != self.me);
        }
        let chunks = carrier_seat.len() as u32;
        draft.finish(chunks, chunks, 0)
    }

    fn broadcast(&self) -> Program {
        let mut draft = Draft::new(self.me);
        let carrier_seat = self.vector_carriers();
        let chunks = carrier_seat.len() as u32;
        let at_root = self.here == 0;
        if self.me == self.root {
            for chunk in 0..chunks {
                let staged = (!self.alone()).then(|| draft.stage(chunk, chunk));
                draft.copy(draft.input(chunk), staged.into_iter().chain([draft.output(chunk)]).collect());
            }
        }
        if !self.alone() {
            draft.meet(self.host());
            if at_root && self.me != self.root {
                for chunk in 0..chunks {
                    draft.copy(Loc::stage(self.root, chunk, chunk), vec![draft.output(chunk)]);
                }
            }
        }
        if self.carries() {
            for channel in 0..self.channels {
                let chunk = (self.seat * self.channels + channel) as u32;
                let piece = Piece::settled(if self.me == self.root {
                    draft.input(chunk)
                } else if at_root || self.alone() {
                    draft.output(chunk)
                } else {
                    draft.stage(chunk, chunk)
                });
                let order = self.flow_order(channel);
                let group = Group::new(&order, self.me, channel as u8);
                match self.channels {
                    1 => binomial::broadcast(&mut draft, &group, &[piece]),
                    _ => chain::broadcast(&mut draft, &group, &[piece]),
                }
            }
        }
        if !self.alone() {
            let done = draft.signal();
            if !at_root {
                draft.wait_all(self.host(), done);
                self.copy_out(&mut draft, &carrier_seat, |_| true);
            } else if self.me == self.root {
                // The root fills its slots first thing in the next round.
                draft.wait_all(self.host(), done);
            }
        }
        draft.finish(chunks, chunks, 0)
    }

    fn reduce(&self) -> Program {
        let mut draft = Draft::new(self.me);
        let carrier_seat = self.vector_carriers();
        let chunks = carrier_seat.len() as u32;
        if !self.alone() {
            self.copy_in(&mut draft, &carrier_seat);
            draft.meet(self.host());
            self.reduce_here(&mut draft, &carrier_seat);
        }
        if self.carries() {
            for channel in 0..self.channels {
                let chunk = (self.seat * self.channels + channel) as u32;
                let aside = draft.stage(chunk, chunk);
                let piece = Piece {
                    have: if self.alone() { draft.input(chunk) } else { aside },
                    into: if self.me == self.root { draft.output(chunk) } else { aside },
                };
                let order = self.flow_order(channel);
                let group = Group::new(&order, self.me, channel as u8);
                match self.channels {
                    1 => binomial::reduce(&mut draft, &group, &[piece]),
                    _ => chain::reduce(&mut draft, &group, &[piece]),
                }
            }
        }
        if !self.alone() {
            draft.meet(self.host());
            if self.me == self.root {
                self.copy_out(&mut draft, &carrier_seat, |chunk| chunk as usize / self.channels != self.seat);
            }
        }
        draft.finish(chunks, chunks, 0)
    }

    /// The host's ranks report to the first seat, the first seats tell each other, and each tells its host.
    fn barrier(&self) -> Program {
        let mut draft = Draft::new(self.me);
        if !self.alone() {
            draft.meet(self.host());
        }
        if self.seat == 0 {
            let order = self.flow_order(0);
            dissemination::barrier(&mut draft, &Group::new(&order, self.me, 0));
        }
        if !self.alone() {
            let done = draft.signal();
            if self.seat != 0 {
                draft.wait(self.host()[0], done);
            }
        }
        draft.finish(1, 0, 1)
    }
}

#[cfg(test)]
mod tests {
    use super::super::catalogue::{self, Algorithm};
    use super::super::check::{Capacity, check};
    use super::*;

    /// Hosts of these sizes; with `dealt` neighbouring ranks sit on different hosts.
    fn hosts(sizes: &[usize], dealt: bool) -> Vec<Vec<Rank>> {
        let mut hosts = vec![Vec::new(); sizes.len()];
        let world = sizes.iter().sum();
        let mut at = 0;
        for rank in 0..world {
            while hosts[at].len() == sizes[at] {
                at = (at + 1) % sizes.len();
            }
            hosts[at].push(rank);
            at = (at + usize::from(dealt)) % sizes.len();
        }
        hosts
    }

    #[test]
    fn even_and_uneven_hosts_every_root_in_place_and_not() {
        let layouts: [&[usize]; 8] =
            [&[2, 2], &[1, 2], &[3, 1, 2], &[4, 4], &[2, 2, 2], &[3, 5], &[1, 1, 4], &[2, 3, 4, 5]];
        for (sizes, dealt) in layouts.iter().flat_map(|&sizes| [(sizes, false), (sizes, true)]) {
            let hosts = hosts(sizes, dealt);
            let world = hosts.iter().map(Vec::len).sum();
            for collective in [
                Collective::AllReduce,
                Collective::ReduceScatter,
                Collective::AllGather,
                Collective::Broadcast,
                Collective::Reduce,
                Collective::Barrier,
            ] {
                for root in 0..if collective.has_root() { world } else { 1 } {
                    for (channels, in_place) in [(1, false), (1, true), (2, false), (3, true)] {
                        let apart = Shape::apart(collective, world);
                        let shape = Shape { root, hosts: hosts.clone(), channels, in_place, ..apart };
                        let write = |me| catalogue::program(Algorithm::Hierarchical, &shape, me).expect("two levels");
                        let programs: Vec<Program> = (0..world).map(write).collect();
                        for rounds in 1..=3 {
                            if let Err(violation) = check(&programs, &shape, Capacity::LEAST, rounds) {
                                panic!("{rounds} rounds of {shape:?}: {violation}");
                            }
                        }
                    }
                }
            }
        }
    }
}
