//! Binds the link algorithms to the buffers of a call: which chunks there are, where contributions lie, and where
//! partial results may be put. An algorithm runs once per channel, on that channel's share of every block.
//!
//! Where results go follows from what a caller's buffers must have. An output that has all blocks takes partial results
//! in the place of the result. Otherwise (reduce-scatter, and reduce on other ranks than the root) partial results live
//! in private slots, and the input is never written, in place or not. The link ops of a program do not depend on
//! `in_place`.
#![forbid(unsafe_code)]

use super::catalogue::{Algorithm, Shape};
use super::draft::{Blocks, Draft, Group, Piece, rotated, settle};
use super::{Loc, Program, binomial, chain, direct, dissemination, pairwise, pat, recursive_doubling, ring, tree};
use crate::types::{Collective, Rank};

/// The program of `me` in a world of two or more; `None` for a pair that `supports` does not list.
pub(super) fn program(algorithm: Algorithm, shape: &Shape, me: Rank) -> Option<Program> {
    let call =
        Call { collective: shape.collective, root: shape.root, n: shape.world(), me, channels: shape.channels.max(1) };
    Some(match algorithm {
        Algorithm::Ring => call.ring(),
        Algorithm::Pat => call.pat(),
        Algorithm::Direct => call.direct(),
        Algorithm::RecursiveDoubling => call.recursive_doubling(),
        Algorithm::DoubleTree => call.double_tree(),
        Algorithm::Chain => call.chain(),
        Algorithm::Binomial => call.binomial(),
        Algorithm::Pairwise => call.pairwise(shape.peer),
        Algorithm::Dissemination => {
            let mut draft = Draft::new(me);
            dissemination::barrier(&mut draft, &Group::new(&call.ranks(), me, 0));
            draft.finish(1, 0, 1)
        }
        _ => return None,
    })
}

/// A call as one rank sees it.
struct Call {
    collective: Collective,
    root: Rank,
    n: usize,
    me: Rank,
    channels: u8,
}

/// An algorithm that makes an all-reduce of a reduce-scatter and an all-gather.
struct ScatterGather {
    /// How many private slots hold partial sums per channel, and which one that of a position's block.
    slots: u32,
    slot: fn(&Group, usize) -> u32,
    /// Odd channels run through the ranks backwards.
    alternates: bool,
    reduce_scatter: fn(&mut Draft, &Group, &Blocks),
    all_gather: fn(&mut Draft, &Group, &Blocks),
    all_reduce: fn(&mut Draft, &Group, &Blocks),
}

impl Call {
    fn ranks(&self) -> Vec<Rank> {
        (0..self.n).collect()
    }

    /// Root first, then upwards; on odd channels downwards, so that both directions of every link carry data.
    fn order_from_root(&self, channel: u8) -> Vec<Rank> {
        let mut order = rotated(&self.ranks(), self.root);
        if channel % 2 == 1 {
            order[1..].reverse();
        }
        order
    }

    /// As many chunks as there are channels for every block: the chunk of `owner`'s block that travels on `channel`.
    fn chunk(&self, owner: Rank, channel: u8) -> u32 {
        owner as u32 * u32::from(self.channels) + u32::from(channel)
    }

    fn block_chunks(&self) -> u32 {
        self.n as u32 * u32::from(self.channels)
    }

    /// The blocks of a group: contributions from the input, results to the output, or `aside(position)` on the
    /// positions where there is no such output.
    fn blocks(&self, group: &Group, aside: impl Fn(usize) -> Option<u32>) -> Vec<Vec<Piece>> {
        let piece = |(position, &owner): (usize, &Rank)| {
            let chunk = self.chunk(owner, group.channel);
            let into = match aside(position) {
                Some(slot) => Loc::scratch(self.me, slot, chunk),
                None => Loc::output(self.me, chunk),
            };
            vec![Piece { have: Loc::input(self.me, chunk), into }]
        };
        group.order.iter().enumerate().map(piece).collect()
    }

    /// The part of a whole vector that travels on `channel`, when the vector is cut by channels only.
    fn vector(&self, channel: u8) -> Piece {
        Piece { have: Loc::input(self.me, channel.into()), into: Loc::output(self.me, channel.into()) }
    }

    /// The same, for a reduction to the root: others put partial results aside.
    fn vector_to_root(&self, channel: u8) -> Piece {
        let whole = self.vector(channel);
        let aside = Loc::scratch(self.me, channel.into(), channel.into());
        if self.me == self.root { whole } else { Piece { into: aside, ..whole } }
    }

    /// The partial sums of n-2 foreign blocks pass through a rank, two of them at a time.
    fn ring(&self) -> Program {
        self.scatter_gather(&ScatterGather {
            slots: (self.n as u32 - 2).min(2),
            slot: ring::partial_slot,
            alternates: true,
            reduce_scatter: ring::reduce_scatter,
            all_gather: ring::all_gather,
            all_reduce: ring::all_reduce,
        })
    }

    fn pat(&self) -> Program {
        self.scatter_gather(&ScatterGather {
            slots: pat::partial_slots(self.n),
            slot: pat::partial_slot,
            alternates: false,
            reduce_scatter: pat::reduce_scatter,
            all_gather: pat::all_gather,
            all_reduce: pat::all_reduce,
        })
    }

    fn scatter_gather(&self, how: &ScatterGather) -> Program {
        let mut draft = Draft::new(self.me);
        for channel in 0..self.channels {
            let mut order = self.ranks();
            if how.alternates && channel % 2 == 1 {
                order.reverse();
            }
            let group = Group::new(&order, self.me, channel);
            let first = u32::from(channel) * how.slots;
            let aside = |position| (position != group.at).then(|| first + (how.slot)(&group, position));
            match self.collective {
                Collective::ReduceScatter => (how.reduce_scatter)(&mut draft, &group, &self.blocks(&group, aside)),
                Collective::AllGather => (how.all_gather)(&mut draft, &group, &self.blocks(&group, |_| None)),
                _ => (how.all_reduce)(&mut draft, &group, &self.blocks(&group, |_| None)),
            }
        }
        let scatters = self.collective == Collective::ReduceScatter;
        draft.finish(self.block_chunks(), 0, if scatters { how.slots * u32::from(self.channels) } else { 0 })
    }

    fn direct(&self) -> Program {
        let mut draft = Draft::new(self.me);
        let order = self.ranks();
        let others = self.n as u32 - 1;
        let channels = u32::from(self.channels);
        for channel in 0..self.channels {
            let group = Group::new(&order, self.me, channel);
            let output = self.blocks(&group, |_| None);
            let arrival = |position: usize, piece: &Piece| {
                let distance = (position + self.n - self.me) % self.n;
                Loc::scratch(self.me, u32::from(channel) * others + distance as u32 - 1, piece.have.chunk)
            };
            match self.collective {
                Collective::AllGather => direct::all_gather(&mut draft, &group, &output),
                Collective::ReduceScatter => direct::reduce_scatter(&mut draft, &group, &output, arrival),
                Collective::Reduce => {
                    let result = channels * others + u32::from(channel);
                    let aside = |position| (position == self.me && self.me != self.root).then_some(result);
                    let blocks = self.blocks(&group, aside);
                    direct::reduce_scatter(&mut draft, &group, &blocks, arrival);
                    pairwise::gather(&mut draft, &group, self.root, &settle(&blocks));
                }
                _ => {
                    direct::reduce_scatter(&mut draft, &group, &output, arrival);
                    direct::all_gather(&mut draft, &group, &settle(&output));
                }
            }
        }
        let slots = match self.collective {
            Collective::AllGather => 0,
            Collective::Reduce => channels * (others + 1),
            _ => channels * others,
        };
        draft.finish(self.block_chunks(), 0, slots)
    }

    fn recursive_doubling(&self) -> Program {
        let mut draft = Draft::new(self.me);
        let order = self.ranks();
        for channel in 0..self.channels {
            let group = Group::new(&order, self.me, channel);
            recursive_doubling::all_reduce(&mut draft, &group, &[self.vector(channel)]);
        }
        draft.finish(self.channels.into(), 0, 0)
    }

    /// An even number of trees, at least one of each kind; chunk t travels in tree t, on one of the channels.
    fn double_tree(&self) -> Program {
        let mut draft = Draft::new(self.me);
        let order = self.ranks();
        let trees = tree::count(self.channels);
        for index in 0..trees {
            let group = Group::new(&order, self.me, (index % u32::from(self.channels)) as u8);
            let side = if index % 2 == 0 { tree::Side::First } else { tree::Side::Second };
            let piece = Piece { have: Loc::input(self.me, index), into: Loc::output(self.me, index) };
            tree::all_reduce(&mut draft, &group, side, &[piece]);
        }
        draft.finish(trees, 0, 0)
    }

    fn chain(&self) -> Program {
        let mut draft = Draft::new(self.me);
        for channel in 0..self.channels {
            let order = self.order_from_root(channel);
            let group = Group::new(&order, self.me, channel);
            match self.collective {
                Collective::Broadcast => chain::broadcast(&mut draft, &group, &[self.vector(channel)]),
                _ => chain::reduce(&mut draft, &group, &[self.vector_to_root(channel)]),
            }
        }
        let partials = if self.collective == Collective::Reduce { self.channels.into() } else { 0 };
        draft.finish(self.channels.into(), 0, partials)
    }

    /// For small vectors, hence over one channel only.
    fn binomial(&self) -> Program {
        let mut draft = Draft::new(self.me);
        let order = rotated(&self.ranks(), self.root);
        let group = Group::new(&order, self.me, 0);
        let one_channel = Call { channels: 1, ..*self };
        // What is below me follows me in the order.
        let passed_on = |position: usize| position.checked_sub(group.at + 1).map(|below| below as u32);
        match self.collective {
            Collective::Broadcast => {
                binomial::broadcast(&mut draft, &group, &[self.vector(0)]);
                draft.finish(1, 0, 0)
            }
            Collective::Reduce => {
                binomial::reduce(&mut draft, &group, &[self.vector_to_root(0)]);
                draft.finish(1, 0, 1)
            }
            gather_or_scatter => {
                let keeps_all = gather_or_scatter == Collective::Gather && self.me == self.root;
                let aside = |position| if keeps_all { None } else { passed_on(position) };
                let blocks = one_channel.blocks(&group, aside);
                match gather_or_scatter {
                    Collective::Gather => binomial::gather(&mut draft, &group, &blocks),
                    _ => binomial::scatter(&mut draft, &group, &blocks),
                }
                draft.finish(self.n as u32, 0, binomial::passed_on(self.n))
            }
        }
    }

    fn pairwise(&self, receiver: Rank) -> Program {
        let mut draft = Draft::new(self.me);
        let order = self.ranks();
        let one_pair = self.collective == Collective::SendRecv;
        for channel in 0..self.channels {
            let group = Group::new(&order, self.me, channel);
            let blocks = self.blocks(&group, |_| None);
            match self.collective {
                Collective::SendRecv => {
                    pairwise::send_recv(&mut draft, &group, self.root, receiver, &[self.vector(channel)]);
                }
                Collective::Gather => pairwise::gather(&mut draft, &group, self.root, &blocks),
                Collective::Scatter => pairwise::scatter(&mut draft, &group, self.root, &blocks),
                _ => pairwise::all_to_all(&mut draft, &group, &blocks),
            }
        }
        draft.finish(if one_pair { self.channels.into() } else { self.block_chunks() }, 0, 0)
    }
}
