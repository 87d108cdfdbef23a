//! The cost model: how long programs would take, by running them with a clock. A discrete event simulation on the same
//! interpreter that the checker uses, so what is timed is what runs.
//!
//! The model is LogGP, with one processor per rank (Alexandrov et al., 1995). Every step of an op (one slice of one
//! chunk) keeps the rank's processor busy, and steps of one rank do not overlap:
//!
//! | step | the processor is busy for | and then |
//! |---|---|---|
//! | send | step + bytes x link | after the link's latency the slice has arrived |
//! | receive | step + bytes x memory | its room in the link is free again, after the latency |
//! | receive and reduce | step + bytes x (memory + reduce) | the same |
//! | copy 1 to m | step + bytes x memory x (1 + m) / 2 | |
//! | reduce n to m | step + bytes x (memory x (n + m) / 2 + reduce x (n - 1)) | |
//! | signal | step | after `sync` every rank of the host can see it |
//! | wait | step | |
//!
//! `memory` is the time of copying a byte, one load and one store. Left out, on purpose: contention between ranks for a
//! wire or for memory bandwidth (measure `link` and `memory` with all ranks busy to have it inside), and cache effects.
#![forbid(unsafe_code)]

use super::catalogue::Shape;
use super::machine::{Capacity, Halt, Machine, Step, Watch};
use super::{Op, Port, Program};
use crate::types::Rank;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::convert::Infallible;
use std::time::Duration;

/// What a link costs.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct LinkCost {
    /// From the last byte sent until it can be received.
    pub latency_ns: f64,
    /// For each byte, on the sending rank.
    pub ns_per_byte: f64,
}

/// What everything costs on one machine or cluster; measured by the tuner.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct CostModel {
    /// Links inside a host.
    pub local: LinkCost,
    /// Links between hosts.
    pub remote: LinkCost,
    /// Copying, per byte.
    pub memory_ns_per_byte: f64,
    /// Combining two operands, per byte of result, beyond moving them.
    pub reduce_ns_per_byte: f64,
    /// From giving a signal until a waiting rank sees it.
    pub sync_ns: f64,
    /// Any step of any op, whatever its size.
    pub step_ns: f64,
    /// How finely links cut: what moves at once.
    pub slice_bytes: usize,
    /// How much a link holds.
    pub link_bytes: usize,
    /// How large a slot of staging or private memory is; more means another round.
    pub slot_bytes: usize,
}

/// At most so many slices are told apart in a chunk: pipelining is seen well enough, and the run stays short.
const MOST_SLICES: usize = 8;

/// At most so many rounds are run; the rest is extrapolated from the last of them.
const MOST_ROUNDS: usize = 3;

/// How long the call takes, from the moment all ranks make it to the moment the last one has its result. `bytes` is the
/// size of the whole vector: of all blocks together where there are blocks. The programs must be correct (see
/// [`check`](super::check)).
///
/// # Panics
///
/// If they are not, and the run ends in a deadlock.
pub fn predict(programs: &[Program], shape: &Shape, bytes: usize, model: &CostModel) -> Duration {
    let first = &programs[0];
    let chunk_bytes = bytes.div_ceil(first.chunks.max(1) as usize);
    let uses_slots = first.stage_slots + first.scratch_slots > 0;
    let rounds = if uses_slots { chunk_bytes.div_ceil(model.slot_bytes.max(1)).max(1) } else { 1 };
    let piece_bytes = chunk_bytes.div_ceil(rounds);
    if rounds <= MOST_ROUNDS {
        return Duration::from_nanos(run(programs, shape, piece_bytes, rounds, model));
    }
    let (fewer, most) = (MOST_ROUNDS - 1, MOST_ROUNDS);
    let (before, after) =
        (run(programs, shape, piece_bytes, fewer, model), run(programs, shape, piece_bytes, most, model));
    Duration::from_nanos(after + after.saturating_sub(before) * (rounds - most) as u64)
}

/// Nanoseconds for `rounds` rounds with pieces of `piece_bytes` per chunk.
fn run(programs: &[Program], shape: &Shape, piece_bytes: usize, rounds: usize, model: &CostModel) -> u64 {
    let slices = piece_bytes.div_ceil(model.slice_bytes.max(1)).clamp(1, MOST_SLICES);
    let slice_bytes = piece_bytes.div_ceil(slices);
    let link_slices = (model.link_bytes / slice_bytes.max(1)).clamp(1, 4 * MOST_SLICES);
    let capacity = Capacity { link_slices: link_slices as u32, chunk_slices: slices as u32 };
    let machine = Machine::new(programs, &vec![shape.in_place; programs.len()], capacity, rounds as u32);
    let mut host_of = vec![0; programs.len()];
    for (host, ranks) in shape.hosts.iter().enumerate() {
        ranks.iter().for_each(|&rank| host_of[rank] = host);
    }
    let mut clock = Clock {
        model,
        slice_bytes: slice_bytes as f64,
        host_of,
        done: vec![0; machine.ops() * slices],
        slices,
        busy_until: vec![0; programs.len()],
        arrival: vec![0; machine.cells()],
        room: vec![0; machine.cells()],
        signals: vec![Vec::new(); programs.len()],
    };
    match machine.run(&mut clock) {
        Ok(()) => clock.busy_until.into_iter().max().unwrap_or(0),
        Err(Halt::Stopped(never)) => match never {},
        Err(Halt::Stuck(stuck)) => panic!("these programs end in a deadlock: (rank, op) {stuck:?}"),
        Err(Halt::Unread(from, to)) => panic!("rank {from} sends more to rank {to} than it receives"),
    }
}

/// Tells the time of every step.
struct Clock<'a> {
    model: &'a CostModel,
    slice_bytes: f64,
    host_of: Vec<usize>,
    /// When each slice of each op was done.
    done: Vec<u64>,
    slices: usize,
    /// Per rank: its processor is free from then on.
    busy_until: Vec<u64>,
    /// Per cell of a link: what is in it has arrived; it can be filled again.
    arrival: Vec<u64>,
    room: Vec<u64>,
    /// Per rank: when others can see its signals.
    signals: Vec<Vec<u64>>,
}

impl Clock<'_> {
    fn link(&self, rank: Rank, port: &Port) -> LinkCost {
        if self.host_of[rank] == self.host_of[port.peer] { self.model.local } else { self.model.remote }
    }

    /// For how long a step keeps the processor busy.
    fn work(&self, rank: Rank, op: &Op) -> u64 {
        let CostModel { memory_ns_per_byte: memory, reduce_ns_per_byte: reduce, .. } = *self.model;
        let moved = |loads: usize, stores: usize| memory * (loads + stores) as f64 / 2.0;
        let ns_per_byte = match op {
            Op::Send { to, .. } => self.link(rank, to).ns_per_byte,
            Op::Recv { .. } => memory,
            Op::RecvReduce { .. } => memory + reduce,
            Op::Copy { into, .. } => moved(1, into.len()),
            Op::Reduce { from, into, .. } => moved(from.len(), into.len()) + reduce * (from.len() - 1) as f64,
            Op::Signal | Op::Wait { .. } => 0.0,
        };
        (self.model.step_ns + ns_per_byte * self.slice_bytes) as u64
    }
}

impl Watch for Clock<'_> {
    type Stop = Infallible;
    type Agenda = BinaryHeap<Reverse<(u64, u32)>>;

    fn ready(&self, step: &Step<'_>) -> u64 {
        let behind = step.before().map(|before| self.done[before * self.slices + step.slice]);
        let fence = step.fence_id().map(|wait| self.done[wait * self.slices]);
        let outside = match step.op {
            Op::Send { .. } => self.room[step.cell],
            Op::Recv { .. } | Op::RecvReduce { .. } => self.arrival[step.cell],
            Op::Wait { on, signal } => self.signals[*on][*signal as usize - 1],
            // A signal follows all that its rank did before, and the processor did that already.
            Op::Signal | Op::Copy { .. } | Op::Reduce { .. } => 0,
        };
        behind.chain(fence).fold(outside, u64::max)
    }

    fn happens(&mut self, step: &Step<'_>) -> Result<u64, Infallible> {
        let start = self.ready(step).max(self.busy_until[step.rank]);
        let end = start + self.work(step.rank, step.op);
        self.busy_until[step.rank] = end;
        self.done[step.id * self.slices + step.slice] = end;
        match step.op {
            Op::Send { to, .. } => self.arrival[step.cell] = end + self.link(step.rank, to).latency_ns as u64,
            Op::Recv { from, .. } | Op::RecvReduce { from, .. } => {
                self.room[step.cell] = end + self.link(step.rank, from).latency_ns as u64;
            }
            Op::Signal => self.signals[step.rank].push(end + self.model.sync_ns as u64),
            _ => {}
        }
        Ok(end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::catalogue::{self, Algorithm};
    use crate::types::Collective;

    /// A machine of round numbers: 10 us and 1 ns/B between hosts, 1 us and a quarter of that inside.
    const MODEL: CostModel = CostModel {
        local: LinkCost { latency_ns: 1_000.0, ns_per_byte: 0.25 },
        remote: LinkCost { latency_ns: 10_000.0, ns_per_byte: 1.0 },
        memory_ns_per_byte: 0.25,
        reduce_ns_per_byte: 0.125,
        sync_ns: 500.0,
        step_ns: 100.0,
        slice_bytes: 64 << 10,
        link_bytes: 256 << 10,
        slot_bytes: 256 << 10,
    };

    fn time(algorithm: Algorithm, shape: &Shape, bytes: usize) -> Duration {
        let programs: Vec<Program> =
            (0..shape.world()).map(|me| catalogue::program(algorithm, shape, me).unwrap()).collect();
        predict(&programs, shape, bytes, &MODEL)
    }

    #[test]
    fn one_message_is_what_the_table_says() {
        let shape = Shape { peer: 1, ..Shape::apart(Collective::SendRecv, 2) };
        let (send, travel, receive) = (100 + 1_000, 10_000, 100 + 250);
        assert_eq!(time(Algorithm::Pairwise, &shape, 1_000), Duration::from_nanos(send + travel + receive));
        // On one host the link is the local one.
        let shape = Shape { peer: 1, ..Shape::one_host(Collective::SendRecv, 2) };
        assert_eq!(time(Algorithm::Pairwise, &shape, 1_000), Duration::from_nanos(350 + 1_000 + 350));
    }

    #[test]
    fn one_reduction_in_memory_is_what_the_table_says() {
        let shape = Shape::one_host(Collective::AllReduce, 2);
        let meet = 100 + 500 + 100;
        // Two operands and two results of half of 4000 bytes.
        let reduce = 100 + 2_000 / 2 + 2_000 / 8;
        assert_eq!(time(Algorithm::FlatPush, &shape, 4_000), Duration::from_nanos(meet + reduce + meet));
    }

    #[test]
    fn small_vectors_want_few_steps_and_large_ones_few_bytes() {
        let shape = Shape::apart(Collective::AllReduce, 16);
        let [small, large] = [64, 64 << 20].map(|bytes| {
            [Algorithm::RecursiveDoubling, Algorithm::Pat, Algorithm::Ring]
                .map(|algorithm| time(algorithm, &shape, bytes))
        });
        assert!(small[0] < small[1] && small[1] < small[2], "{small:?}");
        assert!(large[0] > large[1] && large[0] > large[2], "{large:?}");
        // 2 (n-1)/n of the vector are sent and received, half of it is added: less than a tenth is latency.
        let bytes = f64::from(64 << 20);
        let floor = Duration::from_nanos((bytes * 15.0 / 16.0 * (2.0 * 1.0 + 2.0 * 0.25 + 0.125)) as u64);
        assert!(large[2] >= floor && large[2] < floor * 11 / 10, "{:?} against {floor:?}", large[2]);
    }

    #[test]
    fn a_chain_is_a_pipeline() {
        let shape = Shape::apart(Collective::Broadcast, 9);
        let (one, whole) = (time(Algorithm::Chain, &shape, 64 << 10), time(Algorithm::Chain, &shape, 8 * (64 << 10)));
        assert!(whole < one * 3, "eight slices through eight links: {whole:?} against {one:?} for one slice");
    }

    #[test]
    fn mapped_buffers_beat_staging() {
        for collective in [Collective::AllReduce, Collective::ReduceScatter, Collective::AllGather] {
            let shape = Shape::one_host(collective, 8);
            let (flat, staged) = (time(Algorithm::FlatPush, &shape, 8 << 20), time(Algorithm::Staged, &shape, 8 << 20));
            assert!(flat < staged, "{collective}: {flat:?} against {staged:?}");
        }
    }

    #[test]
    fn many_rounds_are_extrapolated_evenly() {
        let shape = Shape::one_host(Collective::AllReduce, 4);
        let rounds = |rounds: usize| time(Algorithm::Staged, &shape, rounds * 4 * MODEL.slot_bytes).as_nanos();
        let (three, four, ten) = (rounds(3), rounds(4), rounds(10));
        assert_eq!(ten - three, (four - three) * 7);
    }
}
