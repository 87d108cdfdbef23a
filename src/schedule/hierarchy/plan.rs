//! Who sits where on several hosts, who carries which chunks between them, and the moves inside a host that all
//! collectives share.
#![forbid(unsafe_code)]

use crate::schedule::Loc;
use crate::schedule::catalogue::Shape;
use crate::schedule::draft::{Draft, Piece, rotated};
use crate::types::Rank;

/// Who sits where, as one rank sees it.
pub(super) struct Plan {
    pub me: Rank,
    /// The hosts' ranks by seat. In rooted collectives the root's host is first and the root sits first there.
    pub hosts: Vec<Vec<Rank>>,
    /// My host, and my seat there.
    pub here: usize,
    pub seat: usize,
    pub flows: usize,
    pub channels: usize,
    pub root: Rank,
}

impl Plan {
    pub fn new(shape: &Shape, me: Rank) -> Plan {
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

    pub fn host(&self) -> &[Rank] {
        &self.hosts[self.here]
    }

    /// Nobody to share memory with.
    pub fn alone(&self) -> bool {
        self.host().len() == 1
    }

    pub fn carries(&self) -> bool {
        self.seat < self.flows
    }

    /// The carriers of my flow, by host; on odd channels the hosts after the first in reverse, to use links both ways.
    pub fn flow_order(&self, channel: usize) -> Vec<Rank> {
        let mut order: Vec<Rank> = self.hosts.iter().map(|host| host[self.seat]).collect();
        if channel % 2 == 1 {
            order[1..].reverse();
        }
        order
    }

    /// Puts my contribution to every chunk that another seat carries where that seat finds it.
    pub fn copy_in(&self, draft: &mut Draft, carrier_seat: &[usize]) {
        for (chunk, &seat) in (0u32..).zip(carrier_seat) {
            if seat != self.seat {
                draft.copy(draft.input(chunk), vec![draft.stage(chunk, chunk)]);
            }
        }
    }

    /// Sums the host's contributions to every chunk that my seat carries, into my slot for it.
    pub fn reduce_here(&self, draft: &mut Draft, carrier_seat: &[usize]) {
        for (chunk, &seat) in (0u32..).zip(carrier_seat) {
            if seat == self.seat {
                let of = |&rank| if rank == self.me { draft.input(chunk) } else { Loc::stage(rank, chunk, chunk) };
                draft.reduce(self.host().iter().map(of).collect(), vec![draft.stage(chunk, chunk)], false);
            }
        }
    }

    /// Copies chunks from their carriers' slots to my output.
    pub fn copy_out(&self, draft: &mut Draft, carrier_seat: &[usize], wanted: impl Fn(u32) -> bool) {
        for (chunk, &seat) in (0u32..).zip(carrier_seat) {
            if wanted(chunk) {
                draft.copy(Loc::stage(self.host()[seat], chunk, chunk), vec![draft.output(chunk)]);
            }
        }
    }

    /// What the host knows of a chunk that I carry, when sums end at everybody's output.
    pub fn partial(&self, chunk: u32) -> Piece {
        if self.alone() {
            Piece { have: Loc::input(self.me, chunk), into: Loc::output(self.me, chunk) }
        } else {
            Piece::settled(Loc::stage(self.me, chunk, chunk))
        }
    }

    /// For collectives with a block for each rank: the seat that carries it on any host. Blocks of ranks above the
    /// carrying seats are dealt out among those.
    pub fn block_carriers(&self) -> Vec<usize> {
        let mut carrier_seat = vec![0; self.hosts.iter().map(Vec::len).sum::<usize>() * self.channels];
        for (seat, &rank) in self.hosts.iter().flat_map(|host| host.iter().enumerate()) {
            carrier_seat[rank * self.channels..][..self.channels].fill(seat % self.flows);
        }
        carrier_seat
    }

    /// By host, in the group's order: what my flow carries for that host's ranks over that channel.
    pub fn flow_blocks(&self, order: &[Rank], channel: usize, piece: impl Fn(Rank, u32) -> Piece) -> Vec<Vec<Piece>> {
        let carried = |carrier: &Rank| {
            let host = self.hosts.iter().find(|host| host.contains(carrier)).expect("carriers sit on hosts");
            let ranks = host.iter().skip(self.seat).step_by(self.flows);
            ranks.map(|&rank| piece(rank, (rank * self.channels + channel) as u32)).collect()
        };
        order.iter().map(carried).collect()
    }

    /// The seats that carry the chunks of a vector to or from the root: chunk (flow, channel).
    pub fn vector_carriers(&self) -> Vec<usize> {
        (0..self.flows * self.channels).map(|chunk| chunk / self.channels).collect()
    }
}
