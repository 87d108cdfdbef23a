//! Runs the programs of all ranks in memory, without data: the one interpreter behind the checker and the cost model.
//!
//! Every rank is a few *ports*, and each port is a queue of ops in program order of which only the first may move: one
//! per outgoing link, one per incoming link, and one for what happens on the rank itself (`Copy`, `Reduce`, `Signal`,
//! `Wait`). One step is one slice of one op. A slice may move when everything it stays behind is past that slice, when
//! its fence is done, and when the link has room (to send) or holds something (to receive).
//!
//! ```text
//!   rank 0                                       rank 1
//!   tx to 1    Send Send Send   --> [ link ] -->  rx from 0   Recv RecvReduce
//!   local      Copy Signal Wait                   local       Wait Copy
//! ```
//!
//! What a step *means* is told by a [`Watch`]: symbolic values for the proof, a clock for the cost. Steps come in an
//! order that a real run could have had; which one does not matter (see the module docs of [`super`]).
#![forbid(unsafe_code)]

mod run;

use self::run::Run;
use super::hazards::{Fence, Hazards, each_loc_mut, hazards, resolve};
use super::{Op, Port, Program};
use crate::types::Rank;
use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

/// How finely data is cut, and how much of it a link holds. One slice in a link is the hard case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// Slices that one link holds.
    pub link_slices: u32,
    /// Slices that make one chunk.
    pub chunk_slices: u32,
}

impl Capacity {
    /// Links that hold one slice, chunks of one slice.
    pub const LEAST: Capacity = Capacity { link_slices: 1, chunk_slices: 1 };
}

/// One slice of one op moves.
pub(super) struct Step<'a> {
    pub rank: Rank,
    /// The op's number among the ops of all ranks.
    pub id: usize,
    /// The op's number in its rank's program.
    pub index: usize,
    pub op: &'a Op,
    /// The next op of the program is a wait.
    pub next_is_wait: bool,
    pub slice: usize,
    /// As [`Hazards`] has them; `offset` makes an `id` of an index.
    behind: &'a [u32],
    offset: usize,
    fence: Fence,
    /// The cell of the link that the slice enters or leaves. Meaningless where no link is involved.
    pub cell: usize,
}

impl Step<'_> {
    /// The ops, by `id`, that this one stays behind.
    pub fn before(&self) -> impl Iterator<Item = usize> + '_ {
        self.behind.iter().map(|&index| self.offset + index as usize)
    }

    /// The `Wait`, by `id`, that this one follows.
    pub fn fence_id(&self) -> Option<usize> {
        match self.fence {
            Fence::After(wait) => Some(self.offset + wait as usize),
            Fence::Free | Fence::AfterAll => None,
        }
    }
}

/// Gives steps a meaning.
pub(super) trait Watch {
    /// What ends the run early.
    type Stop;
    /// In which order ports get their turn.
    type Agenda: Agenda;

    /// When a step that nothing holds back any more can happen, for agendas that care.
    fn ready(&self, _: &Step<'_>) -> u64 {
        0
    }

    /// A step happens. Says when it is over, for agendas that care.
    fn happens(&mut self, step: &Step<'_>) -> Result<u64, Self::Stop>;
}

/// The ports that may be able to move.
pub(super) trait Agenda: Default {
    /// `port` may be able to move, from `time` on.
    fn push(&mut self, port: u32, time: u64);
    /// Whose turn it is.
    fn pop(&mut self) -> Option<(u32, u64)>;
}

/// Whoever was woken last, first: the quickest, where time plays no part.
impl Agenda for Vec<u32> {
    fn push(&mut self, port: u32, _: u64) {
        Vec::push(self, port);
    }

    fn pop(&mut self) -> Option<(u32, u64)> {
        Vec::pop(self).map(|port| (port, 0))
    }
}

/// Whoever can start earliest, first: a discrete event simulation.
impl Agenda for BinaryHeap<Reverse<(u64, u32)>> {
    fn push(&mut self, port: u32, time: u64) {
        BinaryHeap::push(self, Reverse((time, port)));
    }

    fn pop(&mut self) -> Option<(u32, u64)> {
        BinaryHeap::pop(self).map(|Reverse((time, port))| (port, time))
    }
}

/// How a run that did not reach its end looks.
pub(super) enum Halt<S> {
    /// The watch stopped it.
    Stopped(S),
    /// These (rank, op) are first in their ports and can never move.
    Stuck(Vec<(Rank, usize)>),
    /// The link from the first to the second rank still holds slices.
    Unread(Rank, Rank),
}

const NONE: u32 = u32::MAX;

/// The programs, resolved and unrolled, with everything derived from them that a run needs.
pub(super) struct Machine<'a> {
    pub programs: Vec<Cow<'a, Program>>,
    pub capacity: Capacity,
    /// The number of each rank's first op, and the number of ops at the end.
    pub first: Vec<usize>,
    hazards: Vec<Hazards>,
    /// Per op: its port, and the next op in that port.
    port_of: Vec<u32>,
    next_in_port: Vec<u32>,
    /// Per port: its first op. Ports are: one per rank, then two (tx, rx) per link.
    heads: Vec<u32>,
    links: Vec<(Rank, Rank)>,
}

impl<'a> Machine<'a> {
    /// Prepares a run of `rounds` rounds. Programs must be well formed (see `check`).
    pub fn new(programs: &'a [Program], in_place: &[bool], capacity: Capacity, rounds: u32) -> Machine<'a> {
        let programs: Vec<Cow<'a, Program>> = programs
            .iter()
            .zip(in_place)
            .map(|(program, &in_place)| {
                let copies = program.ops.iter().any(|op| matches!(op, Op::Copy { .. }));
                let resolved = if copies { Cow::Owned(resolve(program, in_place)) } else { Cow::Borrowed(program) };
                if rounds > 1 { Cow::Owned(unroll(&resolved, rounds)) } else { resolved }
            })
            .collect();
        let hazards =
            programs.iter().zip(in_place).map(|(program, &in_place)| hazards(program, in_place)).collect::<Vec<_>>();
        let mut machine = Machine {
            capacity,
            first: Vec::with_capacity(programs.len() + 1),
            hazards,
            port_of: Vec::new(),
            next_in_port: Vec::new(),
            heads: vec![NONE; programs.len()],
            links: Vec::new(),
            programs: Vec::new(),
        };
        machine.sort_into_ports(&programs);
        machine.programs = programs;
        machine
    }

    fn sort_into_ports(&mut self, programs: &[Cow<'_, Program>]) {
        let total: usize = programs.iter().map(|program| program.ops.len()).sum();
        self.port_of.reserve(total);
        self.next_in_port = vec![NONE; total];
        let world = programs.len();
        let mut tails = vec![NONE; world];
        let mut link_numbers: HashMap<(Rank, Rank, u8), usize> = HashMap::new();
        for (rank, program) in programs.iter().enumerate() {
            self.first.push(self.port_of.len());
            for op in &program.ops {
                let mut link = |from: Rank, to: Rank, channel: u8| {
                    *link_numbers.entry((from, to, channel)).or_insert_with(|| {
                        self.links.push((from, to));
                        self.heads.extend([NONE; 2]);
                        tails.extend([NONE; 2]);
                        self.links.len() - 1
                    })
                };
                let port = match *op {
                    Op::Send { to: Port { peer, channel }, .. } => world + 2 * link(rank, peer, channel),
                    Op::Recv { from: Port { peer, channel }, .. }
                    | Op::RecvReduce { from: Port { peer, channel }, .. } => world + 2 * link(peer, rank, channel) + 1,
                    Op::Copy { .. } | Op::Reduce { .. } | Op::Signal | Op::Wait { .. } => rank,
                };
                let id = self.port_of.len() as u32;
                match tails[port] {
                    NONE => self.heads[port] = id,
                    tail => self.next_in_port[tail as usize] = id,
                }
                tails[port] = id;
                self.port_of.push(port as u32);
            }
        }
        self.first.push(total);
    }

    /// How many ports there are.
    pub fn ports(&self) -> usize {
        self.heads.len()
    }

    /// How many cells all links have together.
    pub fn cells(&self) -> usize {
        self.links.len() * self.capacity.link_slices as usize
    }

    /// How many ops all ranks have together.
    pub fn ops(&self) -> usize {
        self.port_of.len()
    }

    /// Runs everything to the end, or says why not.
    pub fn run<W: Watch>(&self, watch: &mut W) -> Result<(), Halt<W::Stop>> {
        Run::<W>::new(self).finish(watch)
    }
}

/// One long program that does what `rounds` rounds of this one do: every round has its own pieces of the caller's
/// buffers (chunk c of round k is chunk `k * chunks + c`) and the same slots, and its signals are counted on.
fn unroll(program: &Program, rounds: u32) -> Program {
    let signals = program.ops.iter().filter(|op| matches!(op, Op::Signal)).count() as u32;
    let mut ops = Vec::with_capacity(program.ops.len() * rounds as usize);
    for round in 0..rounds {
        ops.extend(program.ops.iter().cloned().map(|mut op| {
            each_loc_mut(&mut op, |loc| loc.chunk += round * program.chunks);
            if let Op::Wait { signal, .. } = &mut op {
                *signal += round * signals;
            }
            op
        }));
    }
    Program { chunks: program.chunks * rounds, ops, ..*program }
}
