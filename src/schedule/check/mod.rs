//! The checker proves programs: all ranks' programs of one call are run together, once, on symbols instead of data.
//!
//! | rule | what is proved | where |
//! |---|---|---|
//! | V1 exactly once | every output chunk holds the contributions that the [`contract`](super::contract) names, each once | `meaning` |
//! | V2 same bits | each chunk is the same expression on all ranks (addition commutes but does not associate, and where it rounds counts); `last` is exactly where a sum becomes complete | `meaning` |
//! | V3 no deadlock | the run ends, with links of the given capacity | `machine` |
//! | V4 no race | accesses of two ranks to one piece of memory, one of them writing, are ordered by signals and waits; buffers are touched only while their rank is inside the call; slots can be used again in the next rounds and calls | `order` |
//! | V5 well formed | every loc exists and may be used so, both ends of every transfer agree on its length, every host's ranks give equally many signals and begin with a meeting of all of them, links end empty | `form` |
//! | V6 costs | [`Facts`] count what the algorithms' docs claim | here |
//! | V7 can be aborted | whatever can block names a peer, and the peer is another rank | `form` |
//!
//! One run suffices because links and hazards make a Kahn network, and the least capacity is the hard case. Rounds are
//! unrolled: round k has its own pieces of the buffers, and the slots again.
//!
//! Three things are taken as given, and are the engine's to keep: calls of a communicator that use its memory run in
//! their order on every rank; a call uses the half of the staging memory that the call before did not; within a rank
//! hazards are honoured.
#![forbid(unsafe_code)]

mod form;
mod meaning;
mod order;
mod places;

#[cfg(test)]
pub(super) mod interleave;
#[cfg(test)]
mod tests;

pub use super::machine::Capacity;

use super::catalogue::Shape;
use super::contract::Contract;
use super::display::line;
use super::machine::{Halt, Machine, Step, Watch};
use super::{Op, Program};
use crate::types::{Collective, Rank};
use std::fmt;

/// A rule that programs must keep; see the module docs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rule {
    /// V1.
    ExactlyOnce,
    /// V2.
    SameBits,
    /// V3.
    NoDeadlock,
    /// V4.
    NoRace,
    /// V5.
    WellFormed,
    /// V7.
    Abortable,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Rule::ExactlyOnce => "V1, exactly once",
            Rule::SameBits => "V2, same bits",
            Rule::NoDeadlock => "V3, no deadlock",
            Rule::NoRace => "V4, no race",
            Rule::WellFormed => "V5, well formed",
            Rule::Abortable => "V7, can be aborted",
        })
    }
}

/// Why programs are wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("rank {rank}{}: {what} (rule {rule})", at_op(*.rank, .op))]
pub struct Violation {
    /// Which rule is broken.
    pub rule: Rule,
    /// On which rank it shows.
    pub rank: Rank,
    /// At which op: its index among the ops of all rounds (without copies of a place onto itself), and the op.
    pub op: Option<(usize, Op)>,
    /// What is wrong.
    pub what: String,
}

fn at_op(rank: Rank, op: &Option<(usize, Op)>) -> String {
    match op {
        None => String::new(),
        Some((index, Op::Signal)) => format!(", op {index} (signal)"),
        Some((index, op)) => format!(", op {index} ({})", line(rank, op, 0)),
    }
}

impl Violation {
    fn at_end(rule: Rule, rank: Rank, what: impl Into<String>) -> Violation {
        Violation { rule, rank, op: None, what: what.into() }
    }

    fn at(rule: Rule, step: &Step<'_>, what: impl Into<String>) -> Violation {
        Violation { rule, rank: step.rank, op: Some((step.index, step.op.clone())), what: what.into() }
    }
}

/// What correct programs cost and how they compute: the numbers that algorithms' docs claim.
/// Chunks are counted for one round, chains are those of the whole call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Chunks that the buffers are cut into; the unit of what follows is one of them.
    pub chunks: u32,
    /// Chunks that each rank sends over links.
    pub sent: Vec<u64>,
    /// Messages on the longest chain in which each needs the one before: the latency in units of a message.
    pub steps: u32,
    /// Signals on the longest chain of signals and waits.
    pub meetings: u32,
    /// Chunks that the copies and reductions of all ranks load from memory.
    pub loads: u64,
    /// Chunks that the copies and reductions of all ranks store.
    pub stores: u64,
    /// Every sum is the canonical tree over the ranks in their order (see [`Op::Reduce`]).
    pub rank_order: bool,
    /// Every sum is rounded once, at its end.
    pub rounds_once: bool,
}

impl Facts {
    /// The most that one rank sends.
    pub fn sent_max(&self) -> u64 {
        self.sent.iter().copied().max().unwrap_or(0)
    }

    /// What all ranks send together.
    pub fn sent_total(&self) -> u64 {
        self.sent.iter().sum()
    }
}

/// Proves the programs of all ranks, `programs[r]` that of rank r, for links of this capacity and calls of `rounds`
/// rounds.
pub fn check(programs: &[Program], shape: &Shape, capacity: Capacity, rounds: u32) -> Result<Facts, Violation> {
    check_mixed(programs, shape, &vec![shape.in_place; programs.len()], capacity, rounds)
}

/// As [`check`], where some ranks call in place and others do not: `in_place[r]` says what rank r does.
pub fn check_mixed(
    programs: &[Program],
    shape: &Shape,
    in_place: &[bool],
    capacity: Capacity,
    rounds: u32,
) -> Result<Facts, Violation> {
    assert!(
        capacity.link_slices > 0 && capacity.chunk_slices > 0 && rounds > 0,
        "nothing moves in zero rounds or slices"
    );
    let call = form::check(programs, shape, in_place)?;
    let machine = Machine::new(programs, in_place, capacity, rounds);
    let places = places::Places::new(&machine);
    let mut proof = Proof {
        meaning: (shape.collective != Collective::Barrier)
            .then(|| meaning::Meaning::new(&machine, &call, places, in_place)),
        order: (call.shares_memory || shape.collective == Collective::Barrier)
            .then(|| order::Order::new(&machine, &call, places, in_place)),
        depth: Depth::new(&machine),
    };
    match machine.run(&mut proof) {
        Ok(()) => {}
        Err(Halt::Stopped(violation)) => return Err(violation),
        Err(Halt::Stuck(stuck)) => return Err(deadlock(&machine, &stuck)),
        Err(Halt::Unread(from, to)) => {
            return Err(Violation::at_end(Rule::WellFormed, from, format!("sends more to rank {to} than it receives")));
        }
    }
    if let Some(order) = &mut proof.order {
        order.finish(&machine, &call)?;
    }
    let sums = match &mut proof.meaning {
        Some(meaning) => meaning.finish()?,
        None => meaning::Sums { rank_order: true, rounds_once: true },
    };
    for program in programs {
        form::entry(program, &call)?;
    }
    let mut facts = Facts {
        chunks: call.contract.chunks(),
        sent: vec![0; programs.len()],
        steps: proof.depth.messages.iter().copied().max().unwrap_or(0),
        meetings: proof.depth.signals.iter().copied().max().unwrap_or(0),
        loads: 0,
        stores: 0,
        rank_order: sums.rank_order,
        rounds_once: sums.rounds_once,
    };
    for (rank, program) in machine.programs.iter().enumerate() {
        for op in &program.ops[..program.ops.len() / rounds as usize] {
            match op {
                Op::Send { .. } => facts.sent[rank] += 1,
                Op::Copy { into, .. } => {
                    facts.loads += 1;
                    facts.stores += into.len() as u64;
                }
                Op::Reduce { from, into, .. } => {
                    facts.loads += from.len() as u64;
                    facts.stores += into.len() as u64;
                }
                Op::Recv { .. } | Op::RecvReduce { .. } | Op::Signal | Op::Wait { .. } => {}
            }
        }
    }
    Ok(facts)
}

/// What is known about a call before it runs.
struct Call<'a> {
    contract: Contract,
    shape: &'a Shape,
    /// Some op touches a peer's memory, or waits for a peer.
    shares_memory: bool,
    /// For every rank the number of its host.
    host_of: Vec<usize>,
}

/// Everything that is watched while the programs run.
struct Proof<'a> {
    meaning: Option<meaning::Meaning<'a>>,
    order: Option<order::Order>,
    depth: Depth,
}

impl Watch for Proof<'_> {
    type Stop = Violation;
    type Agenda = Vec<u32>;

    fn happens(&mut self, step: &Step<'_>) -> Result<u64, Violation> {
        if let Some(meaning) = &mut self.meaning {
            meaning.happens(step)?;
        }
        // An op's place in the order of things is settled by its first slice.
        if step.slice == 0 {
            if let Some(order) = &mut self.order {
                order.happens(step)?;
            }
            self.depth.happens(step);
        }
        Ok(0)
    }
}

/// The lengths of chains of messages, and of signals, that lead to each op.
struct Depth {
    messages: Vec<u32>,
    signals: Vec<u32>,
    in_links: Vec<(u32, u32)>,
    /// Per rank the depth of each of its signals.
    given: Vec<Vec<(u32, u32)>>,
    /// Per rank the deepest of its ops, in program order, up to an index: what its next signal comes after.
    so_far: Vec<(usize, u32, u32)>,
}

impl Depth {
    fn new(machine: &Machine<'_>) -> Depth {
        Depth {
            messages: vec![0; machine.ops()],
            signals: vec![0; machine.ops()],
            in_links: vec![(0, 0); machine.cells()],
            given: vec![Vec::new(); machine.programs.len()],
            so_far: machine.first.iter().map(|&first| (first, 0, 0)).collect(),
        }
    }

    fn happens(&mut self, step: &Step<'_>) {
        let (mut messages, mut signals) = (0, 0);
        let mut after = |deep: (u32, u32)| {
            messages = messages.max(deep.0);
            signals = signals.max(deep.1);
        };
        for before in step.before().chain(step.fence_id()) {
            after((self.messages[before], self.signals[before]));
        }
        match step.op {
            Op::Recv { .. } | Op::RecvReduce { .. } => after(self.in_links[step.cell]),
            Op::Wait { on, signal } => after(self.given[*on][*signal as usize - 1]),
            Op::Signal => {
                let (next, deepest_messages, deepest_signals) = &mut self.so_far[step.rank];
                for id in std::mem::replace(next, step.id)..step.id {
                    *deepest_messages = self.messages[id].max(*deepest_messages);
                    *deepest_signals = self.signals[id].max(*deepest_signals);
                }
                after((*deepest_messages, *deepest_signals));
            }
            _ => {}
        }
        match step.op {
            Op::Send { .. } => self.in_links[step.cell] = (messages + 1, signals),
            Op::Signal => {
                signals += 1;
                self.given[step.rank].push((messages, signals));
            }
            _ => {}
        }
        self.messages[step.id] = messages;
        self.signals[step.id] = signals;
    }
}

/// Tells a deadlock by the ops that can never move.
fn deadlock(machine: &Machine<'_>, stuck: &[(Rank, usize)]) -> Violation {
    let (rank, index) = stuck[0];
    let others: Vec<String> =
        stuck[1..].iter().take(3).map(|(rank, index)| format!("rank {rank} op {index}")).collect();
    let more = if stuck.len() > 4 { format!(" and {} more", stuck.len() - 4) } else { String::new() };
    let also = if others.is_empty() { String::new() } else { format!("; stuck too: {}{more}", others.join(", ")) };
    Violation {
        rule: Rule::NoDeadlock,
        rank,
        op: Some((index, machine.programs[rank].ops[index].clone())),
        what: format!("can never go on{also}"),
    }
}
