//! V4: who knows what has happened, by vector clocks.
//!
//! Between ranks only signals order memory: an access in the program before the s-th signal of its rank is over for
//! whoever has waited for that signal. So a clock need not count ops. Entry `p` of a clock is what is known of rank p:
//!
//! ```text
//!   0        nothing
//!   1        it has begun the call
//!   1 + s    it has given s signals, and all that came before them is over
//! ```
//!
//! Clocks are joined along hazards, fences, links and waits. Program order alone is no order: ops overlap. Beside the
//! accesses of the programs themselves there are two by each rank to all of its own buffers: before it begins (the
//! caller fills its input) and after it has ended (the caller reads, overwrites or frees). A peer that comes too early or
//! stays too long races with those.
//!
//! Slots outlive calls. A call uses the half of them that the call before did not; so that the half is free again two
//! calls later, nobody may end a call before all ranks of its host have begun it.
#![forbid(unsafe_code)]

use super::places::Places;
use super::{Call, Rule, Violation};
use crate::schedule::display::place;
use crate::schedule::hazards::each_access;
use crate::schedule::machine::{Machine, Step};
use crate::schedule::{Loc, Op, Space};
use crate::types::{Collective, Rank};

/// The number of a clock among [`Clocks`]. Number r, for a rank r, is what r knows when it begins.
type Clock = u32;

/// When an access of a rank is over: when it has given this many signals. What comes after its last one never is.
type Epoch = u32;

pub(super) struct Order {
    clocks: Clocks,
    /// Per op: what is known when it starts.
    known: Vec<Clock>,
    /// Per rank: the clocks of its signals; the next op to be joined into `so_far`, what all its ops before know.
    signals: Vec<Vec<Clock>>,
    next: Vec<usize>,
    so_far: Vec<Clock>,
    /// Per op: how many signals its rank's program has before it.
    epochs: Vec<Epoch>,
    in_links: Vec<Clock>,
    /// Per rank: what its waits have told it.
    heard: Vec<Vec<u32>>,
    /// What has been done to the places that several ranks can reach.
    places: Places,
    histories: Vec<History>,
    shared: Vec<bool>,
    in_place: Vec<bool>,
}

/// The last write to a place and the reads since, as far as they are not implied by what came later.
#[derive(Default, Clone)]
struct History {
    write: Option<(Rank, Epoch)>,
    reads: Vec<(Rank, Epoch)>,
}

impl Order {
    pub fn new(machine: &Machine<'_>, call: &Call<'_>, places: Places, in_place: &[bool]) -> Order {
        let world = machine.programs.len();
        let mut epochs = Vec::with_capacity(machine.ops());
        let mut known = Vec::with_capacity(machine.ops());
        for program in &machine.programs {
            known.resize(known.len() + program.ops.len(), program.rank as Clock);
            let mut signals = 0;
            for op in &program.ops {
                epochs.push(signals);
                signals += u32::from(matches!(op, Op::Signal));
            }
        }
        let mut heard = vec![vec![0; world]; world];
        heard.iter_mut().enumerate().for_each(|(rank, heard)| heard[rank] = 1);
        Order {
            clocks: Clocks::new(world),
            known,
            signals: vec![Vec::new(); world],
            next: machine.first[..world].to_vec(),
            so_far: (0..world as Clock).collect(),
            epochs,
            in_links: vec![0; machine.cells()],
            heard,
            histories: vec![History::default(); if call.shares_memory { places.len() } else { 0 }],
            places,
            shared: (0..world).map(|rank| call.shape.hosts[call.host_of[rank]].len() > 1).collect(),
            in_place: in_place.to_vec(),
        }
    }

    /// The first slice of an op.
    pub fn happens(&mut self, step: &Step<'_>) -> Result<(), Violation> {
        if let Op::Wait { on, signal } = *step.op {
            self.hear(step, on, signal);
            return Ok(());
        }
        let mut clock = step.rank as Clock;
        for before in step.before().chain(step.fence_id()) {
            clock = self.clocks.join(clock, self.known[before]);
        }
        match *step.op {
            Op::Recv { .. } | Op::RecvReduce { .. } => clock = self.clocks.join(clock, self.in_links[step.cell]),
            Op::Signal => {
                let before = self.up_to(step.rank, step.id);
                clock = self.clocks.join(clock, before);
                clock = self.clocks.tick(clock, step.rank, self.signals[step.rank].len() as u32 + 2);
                self.signals[step.rank].push(clock);
            }
            _ => {}
        }
        if let Op::Send { .. } = step.op {
            self.in_links[step.cell] = clock;
        }
        self.known[step.id] = clock;
        if !self.shared[step.rank] {
            return Ok(());
        }
        let mut race = Ok(());
        each_access(step.op, |loc, writes| {
            if race.is_ok() && loc.space != Space::Scratch {
                race = self.access(step, clock, loc, writes);
            }
        });
        race
    }

    /// A wait tells what was known when the signal was given. Of several waits in a row only the last can be another
    /// op's fence, so only that one gets a clock.
    fn hear(&mut self, step: &Step<'_>, on: Rank, signal: u32) {
        let told = self.clocks.entries(self.signals[on][signal as usize - 1]);
        let heard = &mut self.heard[step.rank];
        heard.iter_mut().zip(told).for_each(|(heard, &told)| *heard = told.max(*heard));
        if !step.next_is_wait {
            self.known[step.id] = self.clocks.add(heard);
        }
    }

    /// What the ops of a rank before op `id` know together.
    fn up_to(&mut self, rank: Rank, id: usize) -> Clock {
        for op in std::mem::replace(&mut self.next[rank], id)..id {
            self.so_far[rank] = self.clocks.join(self.so_far[rank], self.known[op]);
        }
        self.so_far[rank]
    }

    fn access(&mut self, step: &Step<'_>, clock: Clock, loc: Loc, writes: bool) -> Result<(), Violation> {
        let me = step.rank;
        let verb = if writes { "writes" } else { "reads" };
        if loc.rank != me && loc.space != Space::Stage && self.clocks.of(clock, loc.rank) == 0 {
            let what = format!("{verb} {} without knowing that rank {} has begun the call", place(me, loc), loc.rank);
            return Err(Violation::at(Rule::NoRace, step, what));
        }
        let epoch = self.epochs[step.id];
        let history = &mut self.histories[self.places.index(loc, self.in_place[loc.rank])];
        let reads = if writes { &history.reads[..] } else { &[] };
        for &(other, then) in history.write.iter().chain(reads) {
            if other != me && !self.clocks.is_over(clock, other, then) {
                let what = format!("{verb} {} without knowing that rank {other} is done with it", place(me, loc));
                return Err(Violation::at(Rule::NoRace, step, what));
            }
        }
        if writes {
            history.write = Some((me, epoch));
            history.reads.clear();
        } else if history.reads.last() != Some(&(me, epoch)) {
            history.reads.push((me, epoch));
        }
        Ok(())
    }

    /// What must be known at the end.
    pub fn finish(&mut self, machine: &Machine<'_>, call: &Call<'_>) -> Result<(), Violation> {
        let world = machine.programs.len();
        let ends: Vec<Clock> = (0..world).map(|rank| self.up_to(rank, machine.first[rank + 1])).collect();
        let late = |rank, what| Err(Violation::at_end(Rule::NoRace, rank, what));
        for (index, history) in self.histories.iter().enumerate() {
            let (rank, space, chunk) = self.places.of(index);
            if space == Space::Stage {
                continue;
            }
            for &(other, then) in history.write.iter().chain(&history.reads) {
                if other != rank && !self.clocks.is_over(ends[rank], other, then) {
                    let what =
                        format!("ends without knowing that rank {other} is done with its {space:?} chunk {chunk}");
                    return late(rank, what);
                }
            }
        }
        for (rank, &end) in ends.iter().enumerate() {
            let host = &call.shape.hosts[call.host_of[rank]];
            let everybody = call.shape.collective == Collective::Barrier;
            let met = |other: Rank| self.clocks.of(end, other) > 0;
            let missed = if everybody { (0..world).find(|&other| !met(other)) } else { None };
            let missed = missed.or_else(|| host.iter().copied().find(|&other| call.shares_memory && !met(other)));
            if let Some(other) = missed {
                return late(rank, format!("ends without knowing that rank {other} has begun the call"));
            }
        }
        Ok(())
    }
}

/// Clocks are made once and then only named: most ops know what the op before knew.
struct Clocks {
    entries: Vec<u32>,
    world: usize,
}

impl Clocks {
    /// The clocks that ranks begin with.
    fn new(world: usize) -> Clocks {
        let mut entries = vec![0; world * world];
        (0..world).for_each(|rank| entries[rank * world + rank] = 1);
        Clocks { entries, world }
    }

    fn entries(&self, clock: Clock) -> &[u32] {
        &self.entries[clock as usize * self.world..][..self.world]
    }

    fn of(&self, clock: Clock, rank: Rank) -> u32 {
        self.entries(clock)[rank]
    }

    /// Whether an access of a rank in that epoch is known to be over.
    fn is_over(&self, clock: Clock, rank: Rank, epoch: Epoch) -> bool {
        self.of(clock, rank) >= epoch + 2
    }

    /// What both know.
    fn join(&mut self, a: Clock, b: Clock) -> Clock {
        if a == b {
            return a;
        }
        let covers = |a: &[u32], b: &[u32]| a.iter().zip(b).all(|(a, b)| a >= b);
        if covers(self.entries(a), self.entries(b)) {
            return a;
        }
        if covers(self.entries(b), self.entries(a)) {
            return b;
        }
        let joined = self.next();
        for rank in 0..self.world {
            let entry = self.of(a, rank).max(self.of(b, rank));
            self.entries.push(entry);
        }
        joined
    }

    /// The clock with one entry set.
    fn tick(&mut self, clock: Clock, rank: Rank, entry: u32) -> Clock {
        let ticked = self.next();
        let start = clock as usize * self.world;
        self.entries.extend_from_within(start..start + self.world);
        let last = self.entries.len() - self.world + rank;
        self.entries[last] = entry;
        ticked
    }

    /// A clock with these entries.
    fn add(&mut self, entries: &[u32]) -> Clock {
        let added = self.next();
        self.entries.extend_from_slice(entries);
        added
    }

    fn next(&self) -> Clock {
        (self.entries.len() / self.world) as Clock
    }
}
