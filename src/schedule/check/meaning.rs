//! V1 and V2: what the memory of all ranks holds, as expressions over contributions (rank, chunk).
//!
//! A value is a *leaf*, one contribution as it was, or a *sum*: the set of ranks that are in it, all with the same chunk,
//! and the shape of the expression as a hash in which the two sides of an addition can be swapped. Two hashes are kept:
//! one of the bare tree, one that also marks where results are rounded (stored), because a sum of three that is rounded
//! once and one that is rounded after every addition are different numbers in f16.
#![forbid(unsafe_code)]

use super::places::Places;
use super::{Call, Rule, Violation};
use crate::schedule::contract::Content;
use crate::schedule::display::place;
use crate::schedule::machine::{Machine, Step};
use crate::schedule::{Loc, Op, Space};
use crate::types::Rank;

/// How all sums of a call were computed.
pub(super) struct Sums {
    pub rank_order: bool,
    pub rounds_once: bool,
}

/// A number of a value; `NOTHING` is memory that nobody wrote.
type Value = u32;
const NOTHING: Value = u32::MAX;

pub(super) struct Meaning<'a> {
    call: &'a Call<'a>,
    in_place: &'a [bool],
    places: Places,
    /// What every slice of every place holds.
    memory: Vec<Value>,
    /// Slices inside links.
    in_links: Vec<Value>,
    values: Values,
    slices: usize,
    operands: Vec<Value>,
}

impl<'a> Meaning<'a> {
    pub fn new(machine: &Machine<'_>, call: &'a Call<'a>, places: Places, in_place: &'a [bool]) -> Meaning<'a> {
        let slices = machine.capacity.chunk_slices as usize;
        let values = Values::new(in_place.len(), call.shape.collective.reduces());
        Meaning {
            call,
            in_place,
            places,
            memory: vec![NOTHING; places.len() * slices],
            in_links: vec![NOTHING; machine.cells()],
            values,
            slices,
            operands: Vec::new(),
        }
    }

    pub fn happens(&mut self, step: &Step<'_>) -> Result<(), Violation> {
        match step.op {
            Op::Send { from, .. } => self.in_links[step.cell] = self.read(step, *from)?,
            Op::Recv { into, .. } => self.write(step, *into, self.in_links[step.cell])?,
            Op::RecvReduce { with, into, last, .. } => {
                let mine = self.read(step, *with)?;
                let sum = self.sum(step, &[self.in_links[step.cell], mine], *last)?;
                self.write(step, *into, sum)?;
            }
            Op::Copy { from, into } => {
                let value = self.read(step, *from)?;
                into.iter().try_for_each(|&loc| self.write(step, loc, value))?;
            }
            Op::Reduce { from, into, last } => {
                let mut operands = std::mem::take(&mut self.operands);
                operands.clear();
                for &loc in from {
                    operands.push(self.read(step, loc)?);
                }
                let sum = self.sum(step, &operands, *last)?;
                self.operands = operands;
                into.iter().try_for_each(|&loc| self.write(step, loc, sum))?;
            }
            Op::Signal | Op::Wait { .. } => {}
        }
        Ok(())
    }

    /// Checks what all outputs hold at the end.
    pub fn finish(&mut self) -> Result<Sums, Violation> {
        let world = self.in_place.len();
        let contract = self.call.contract;
        let mut sums = Sums { rank_order: true, rounds_once: true };
        for chunk in 0..self.places.chunks {
            for slice in 0..self.slices {
                let mut first: Option<(Rank, Value)> = None;
                for rank in 0..world {
                    let Some(content) = contract.output(rank, chunk % contract.chunks()) else { continue };
                    let value = self.peek(Loc::output(rank, chunk), slice);
                    self.holds(rank, chunk, slice, content, value)?;
                    let Content::Sum { .. } = content else { continue };
                    let (other, theirs) = *first.get_or_insert((rank, value));
                    if self.values.rounded[value as usize] != self.values.rounded[theirs as usize] {
                        let what = format!("adds up chunk {chunk} in another order than rank {other}");
                        return Err(Violation::at_end(Rule::SameBits, rank, what));
                    }
                }
                if let Some((_, value)) = first {
                    sums.rank_order &= self.values.tree[value as usize] == self.values.in_rank_order(chunk, slice);
                    sums.rounds_once &= self.values.steps[value as usize] <= 1;
                }
            }
        }
        Ok(sums)
    }

    /// Whether an output chunk holds what it should.
    fn holds(&self, rank: Rank, chunk: u32, slice: usize, content: Content, value: Value) -> Result<(), Violation> {
        let wrong = |what: String| Err(Violation::at_end(Rule::ExactlyOnce, rank, what));
        let base = chunk - chunk % self.call.contract.chunks();
        if value == NOTHING {
            return wrong(format!("output chunk {chunk} ends with nothing in it"));
        }
        let is = value as usize;
        let (of, whose) = (self.values.chunk[is], self.values.leaf_of[is]);
        match content {
            Content::Copy { rank: from, chunk: origin } => {
                if (whose, of) != (from as u32, self.values.label(base + origin, slice)) {
                    return wrong(format!(
                        "output chunk {chunk} ends with {} instead of chunk {origin} of rank {from}",
                        self.values.name(value)
                    ));
                }
            }
            Content::Sum { chunk: origin } => {
                let complete = self.values.count[is] as usize == self.in_place.len();
                if !complete || of != self.values.label(base + origin, slice) {
                    return wrong(format!("output chunk {chunk} ends with {}", self.values.name(value)));
                }
            }
        }
        Ok(())
    }

    fn cell(&self, loc: Loc, slice: usize) -> usize {
        self.places.index(loc, self.in_place[loc.rank]) * self.slices + slice
    }

    /// What memory holds. Where a rank's contribution lies, that is what is there until it is overwritten.
    fn peek(&mut self, loc: Loc, slice: usize) -> Value {
        let in_place = self.in_place[loc.rank];
        let cell = self.cell(loc, slice);
        let holds_input = loc.space == Space::Input || (loc.space == Space::Output && in_place);
        let chunk = loc.chunk % self.call.contract.chunks();
        if self.memory[cell] == NOTHING && holds_input && self.call.contract.has_input(loc.rank, chunk) {
            self.memory[cell] = self.values.leaf(loc.rank, loc.chunk, slice);
        }
        self.memory[cell]
    }

    fn read(&mut self, step: &Step<'_>, loc: Loc) -> Result<Value, Violation> {
        let value = self.peek(loc, step.slice);
        if value == NOTHING {
            return Err(Violation::at(
                Rule::ExactlyOnce,
                step,
                format!("{} is read, but nobody wrote it", place(step.rank, loc)),
            ));
        }
        self.fits(step, loc, value)?;
        Ok(value)
    }

    fn write(&mut self, step: &Step<'_>, loc: Loc, value: Value) -> Result<(), Violation> {
        self.fits(step, loc, value)?;
        let cell = self.cell(loc, step.slice);
        self.memory[cell] = value;
        Ok(())
    }

    /// A loc names the chunk whose data it holds. (In all-to-all the name depends on who speaks; there the contract
    /// decides at the end.)
    fn fits(&self, step: &Step<'_>, loc: Loc, value: Value) -> Result<(), Violation> {
        let holds = self.values.chunk[value as usize];
        if self.call.shape.collective == crate::Collective::AllToAll
            || holds == self.values.label(loc.chunk, step.slice)
        {
            return Ok(());
        }
        Err(Violation::at(
            Rule::ExactlyOnce,
            step,
            format!("{} holds {}", place(step.rank, loc), self.values.name(value)),
        ))
    }

    /// Adds up, and checks that nothing is counted twice and that `last` is told the truth.
    fn sum(&mut self, step: &Step<'_>, operands: &[Value], last: bool) -> Result<Value, Violation> {
        let world = self.in_place.len();
        if !self.call.shape.collective.reduces() {
            return Err(Violation::at(Rule::ExactlyOnce, step, "adds up where nothing is to be added"));
        }
        let sum = self.values.sum(operands).map_err(|(a, b)| {
            let (a, b) = (self.values.name(a), self.values.name(b));
            Violation::at(Rule::ExactlyOnce, step, format!("adds {a} to {b}"))
        })?;
        let completes = self.values.count[sum as usize] as usize == world && (operands.len() > 1 || world == 1);
        if last != completes {
            let is = self.values.name(sum);
            return Err(Violation::at(Rule::SameBits, step, format!("`last` is {last}, but the result is {is}")));
        }
        Ok(sum)
    }
}

/// All values that ever were, by number.
struct Values {
    /// Hash of the expression, and of the expression with its roundings.
    tree: Vec<u64>,
    rounded: Vec<u64>,
    /// The most roundings that any contribution went through.
    steps: Vec<u32>,
    /// Which chunk (and slice of it), and how many ranks' contributions.
    chunk: Vec<u64>,
    count: Vec<u32>,
    /// Whose contribution this is, if it is one as it was.
    leaf_of: Vec<u32>,
    /// Who is in it, a bit for each rank. Empty where nothing is added up.
    sets: Vec<u64>,
    words: usize,
    world: usize,
    scratch: Vec<u64>,
}

const SUM: u32 = u32::MAX;

impl Values {
    fn new(world: usize, reduces: bool) -> Values {
        Values {
            tree: Vec::new(),
            rounded: Vec::new(),
            steps: Vec::new(),
            chunk: Vec::new(),
            count: Vec::new(),
            leaf_of: Vec::new(),
            sets: Vec::new(),
            words: if reduces { world.div_ceil(64) } else { 0 },
            world,
            scratch: Vec::new(),
        }
    }

    /// Chunk and slice as one number.
    fn label(&self, chunk: u32, slice: usize) -> u64 {
        u64::from(chunk) << 32 | slice as u64
    }

    fn leaf(&mut self, rank: Rank, chunk: u32, slice: usize) -> Value {
        let label = self.label(chunk, slice);
        let hash = leaf_hash(rank, label);
        let value = self.push(hash, hash, 0, label, 1, rank as u32);
        self.sets.resize(self.sets.len() + self.words, 0);
        if self.words > 0 {
            self.sets[value as usize * self.words + rank / 64] |= 1 << (rank % 64);
        }
        value
    }

    /// The canonical tree over the operands, rounded once; or two operands that cannot be added.
    fn sum(&mut self, operands: &[Value]) -> Result<Value, (Value, Value)> {
        let label = self.chunk[operands[0] as usize];
        let start = self.sets.len();
        self.sets.resize(start + self.words, 0);
        let (mut count, mut steps) = (0, 0);
        for &operand in operands {
            let is = operand as usize;
            let (old, new) = self.sets.split_at_mut(start);
            let theirs = &old[is * self.words..(is + 1) * self.words];
            let overlaps = new.iter().zip(theirs).any(|(have, adds)| have & adds != 0);
            if overlaps || self.chunk[is] != label {
                self.sets.truncate(start);
                let culprit = operands.iter().copied().find(|&other| self.clash(other, operand)).unwrap_or(operand);
                return Err((operand, culprit));
            }
            new.iter_mut().zip(theirs).for_each(|(have, adds)| *have |= adds);
            count += self.count[is];
            steps = self.steps[is].max(steps);
        }
        if let [only] = operands {
            // Storing what was stored once already rounds nothing.
            let is = *only as usize;
            return Ok(self.push(self.tree[is], self.rounded[is], steps, label, count, self.leaf_of[is]));
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        let mut over = |hashes: &[u64]| {
            scratch.clear();
            scratch.extend(operands.iter().map(|&operand| hashes[operand as usize]));
            canonical(&scratch)
        };
        let (tree, rounded) = (over(&self.tree), mix(over(&self.rounded), ROUNDED));
        self.scratch = scratch;
        Ok(self.push(tree, rounded, steps + 1, label, count, SUM))
    }

    fn clash(&self, a: Value, b: Value) -> bool {
        let set = |value: Value| &self.sets[value as usize * self.words..(value as usize + 1) * self.words];
        self.chunk[a as usize] != self.chunk[b as usize] || set(a).iter().zip(set(b)).any(|(a, b)| a & b != 0)
    }

    /// Hash of the canonical tree over all ranks.
    fn in_rank_order(&self, chunk: u32, slice: usize) -> u64 {
        let label = self.label(chunk, slice);
        let leaves: Vec<u64> = (0..self.world).map(|rank| leaf_hash(rank, label)).collect();
        canonical(&leaves)
    }

    fn push(&mut self, tree: u64, rounded: u64, steps: u32, chunk: u64, count: u32, leaf_of: u32) -> Value {
        self.tree.push(tree);
        self.rounded.push(rounded);
        self.steps.push(steps);
        self.chunk.push(chunk);
        self.count.push(count);
        self.leaf_of.push(leaf_of);
        (self.tree.len() - 1) as Value
    }

    /// A value in words.
    fn name(&self, value: Value) -> String {
        let is = value as usize;
        let chunk = self.chunk[is] >> 32;
        match self.leaf_of[is] {
            SUM => {
                let set = &self.sets[is * self.words..(is + 1) * self.words];
                let ranks: Vec<String> = (0..self.world)
                    .filter(|rank| set[rank / 64] >> (rank % 64) & 1 == 1)
                    .map(|rank| rank.to_string())
                    .collect();
                format!("the sum of chunk {chunk} of ranks {}", ranks.join(" "))
            }
            rank => format!("chunk {chunk} of rank {rank}"),
        }
    }
}

const ROUNDED: u64 = 0x5bd1_e995_9d1b_58d3;

fn leaf_hash(rank: Rank, label: u64) -> u64 {
    mix(rank as u64 + 1, label.wrapping_add(0x9e37_79b9_7f4a_7c15))
}

/// The tree of [`Op::Reduce`]: the left part is the largest power of two below the length.
fn canonical(hashes: &[u64]) -> u64 {
    match hashes {
        [only] => *only,
        _ => {
            let (left, right) = hashes.split_at(hashes.len().next_power_of_two() / 2);
            let (a, b) = (canonical(left), canonical(right));
            mix(a.min(b), a.max(b))
        }
    }
}

/// Two numbers into one that depends on their order (the finaliser of SplitMix64 over their combination).
fn mix(a: u64, b: u64) -> u64 {
    let mut hash = a.wrapping_mul(0xbf58_476d_1ce4_e5b9) ^ b.rotate_left(32).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash = (hash ^ hash >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ hash >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ hash >> 31
}
