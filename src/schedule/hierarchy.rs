//! Several hosts with several ranks each: inside a host through staging memory, between hosts over links, and every local
//! rank drives a flow of its own, so that the network sees as many streams as there are ranks and no leader is a bottleneck.
//!
//! ```text
//!   all-reduce, 2 hosts of 2         host A: 0 1                    host B: 2 3
//!     reduce-scatter inside          0 has A's half f=0, 1 has f=1  2 has B's half f=0, 3 has f=1
//!     all-reduce between, per flow   0 <----------- flow 0 -----------> 2
//!                                      1 <--------- flow 1 -----------> 3
//!     all-gather inside              0 <-> 1                        2 <-> 3
//! ```
//!
//! **Flows.** There are as many as the smallest host has ranks; the rank in seat f of each host carries flow f, ranks in
//! higher seats only contribute and collect. So hosts may be uneven, and a host of one rank takes no part in any staging:
//! it works on its buffers directly.
//!
//! **Between hosts** one channel asks for latency and several for bandwidth: recursive doubling between two hosts;
//! otherwise PAT over one channel, rings over several; binomial trees or chains from and to a root.
//!
//! With H hosts, F flows and g ranks on the host, a carrying rank sends 2(H-1)/H S/F in an all-reduce, (H-1)/H S/F in a
//! reduce-scatter or an all-gather of even hosts; loads and stores inside are those of [`super::staged`].
//!
//! **Staging slots.** Slot c is for chunk c. Foreign ranks' slots are written before the first meeting of a round and read
//! by their carrier before the second; a carrier's own are written after the first meeting and read before the first
//! meeting of the next round. So two meetings keep rounds apart (see [`super::staged`] for the argument).
//!
//! Source: "multi-leader" designs (DPML, 2017) and NCCL's rail-optimised rings.
#![forbid(unsafe_code)]

use super::catalogue::Shape;
use super::draft::{Draft, Group, Piece, rotated};
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

/// Who sits where, as one rank sees it.
struct Plan {
    me: Rank,
    /// The hosts' ranks by seat. In rooted collectives the root's host is first and the root sits first there.
    hosts: Vec<Vec<Rank>>,
    /// My host, and my seat there.
    here: usize,
    seat: usize,
    flows: usize,
    channels: usize,
    root: Rank,
}

impl Plan {
    fn new(shape: &Shape, me: Rank) -> Plan {
        let place_of = |hosts: &[Vec<Rank>], rank| {
            let seat_in = |host: &Vec<Rank>| host.iter().position(|&other| other == rank);
            let found = hosts.iter().enumerate().find_map(|(index, host)| seat_in(host).map(|seat| (index, seat)));
            found.expect("every rank is on one of the hosts")
        };
        let mut hosts = shape.hosts.clone();
        if shape.collective.has_root() {
            let (host, seat) = place_of(&hosts, shape.root);
            hosts.rotate_left(host);
            hosts[0] = rotated(&hosts[0], seat);
        }
        let (here, seat) = place_of(&hosts, me);
        let flows = hosts.iter().map(Vec::len).min().unwrap_or(1);
        Plan { me, hosts, here, seat, flows, channels: shape.channels.max(1).into(), root: shape.root }
    }

    fn host(&self) -> &[Rank] {
        &self.hosts[self.here]
    }

    /// Nobody to share memory with.
    fn alone(&self) -> bool {
        self.host().len() == 1
    }

    fn carries(&self) -> bool {
        self.seat < self.flows
    }

    /// The carriers of my flow, by host; on odd channels the hosts after the first in reverse, to use links both ways.
    fn flow_order(&self, channel: usize) -> Vec<Rank> {
        let mut order: Vec<Rank> = self.hosts.iter().map(|host| host[self.seat]).collect();
        if channel % 2 == 1 {
            order[1..].reverse();
        }
        order
    }

    /// Puts my contribution to every chunk that another seat carries where that seat finds it.
    fn copy_in(&self, draft: &mut Draft, carrier_seat: &[usize]) {
        for (chunk, &seat) in (0u32..).zip(carrier_seat) {
            if seat != self.seat {
                draft.copy(draft.input(chunk), vec![draft.stage(chunk, chunk)]);
            }
        }
    }

    /// Sums the host's contributions to every chunk that my seat carries, into my slot for it.
    fn reduce_here(&self, draft: &mut Draft, carrier_seat: &[usize]) {
        for (chunk, &seat) in (0u32..).zip(carrier_seat) {
            if seat == self.seat {
                let of = |&rank| if rank == self.me { draft.input(chunk) } else { Loc::stage(rank, chunk, chunk) };
                draft.reduce(self.host().iter().map(of).collect(), vec![draft.stage(chunk, chunk)], false);
            }
        }
    }

    /// Copies chunks from their carriers' slots to my output.
    fn copy_out(&self, draft: &mut Draft, carrier_seat: &[usize], wanted: impl Fn(u32) -> bool) {
        for (chunk, &seat) in (0u32..).zip(carrier_seat) {
            if wanted(chunk) {
                draft.copy(Loc::stage(self.host()[seat], chunk, chunk), vec![draft.output(chunk)]);
            }
        }
    }

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

    /// What the host knows of a chunk that I carry, when sums end at everybody's output.
    fn partial(&self, chunk: u32) -> Piece {
        if self.alone() {
            Piece { have: Loc::input(self.me, chunk), into: Loc::output(self.me, chunk) }
        } else {
            Piece::settled(Loc::stage(self.me, chunk, chunk))
        }
    }

    /// For collectives with a block for each rank: the seat that carries it on any host. Blocks of ranks above the
    /// carrying seats are dealt out among those.
    fn block_carriers(&self) -> Vec<usize> {
        let mut carrier_seat = vec![0; self.hosts.iter().map(Vec::len).sum::<usize>() * self.channels];
        for (seat, &rank) in self.hosts.iter().flat_map(|host| host.iter().enumerate()) {
            carrier_seat[rank * self.channels..][..self.channels].fill(seat % self.flows);
        }
        carrier_seat
    }

    /// By host, in the group's order: what my flow carries for that host's ranks over that channel.
    fn flow_blocks(&self, order: &[Rank], channel: usize, piece: impl Fn(Rank, u32) -> Piece) -> Vec<Vec<Piece>> {
        let carried = |carrier: &Rank| {
            let host = self.hosts.iter().find(|host| host.contains(carrier)).expect("carriers sit on hosts");
            let ranks = host.iter().skip(self.seat).step_by(self.flows);
            ranks.map(|&rank| piece(rank, (rank * self.channels + channel) as u32)).collect()
        };
        order.iter().map(carried).collect()
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

    /// The seats that carry the chunks of a vector to or from the root: chunk (flow, channel).
    fn vector_carriers(&self) -> Vec<usize> {
        (0..self.flows * self.channels).map(|chunk| chunk / self.channels).collect()
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
