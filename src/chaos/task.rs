//! One call with data whose result is known: drawn by seed, made, and checked bit for bit.
//!
//! The values depend on who the members are, by number and epoch: ranks that are not agreed on that get wrong results, and
//! bytes of an earlier epoch or call are wrong bytes. The numbers are those of the `*_perf` programs
//! ([`crate::perf::data`]), whose reductions are exact in any order.
#![forbid(unsafe_code)]

use crate::chaos::random::Random;
use crate::chaos::words::Standing;
use crate::comm::Communicator;
use crate::element::Element;
use crate::engine::mix;
use crate::error::{BufferState, Error};
use crate::perf::data::{Recipe, RedOp};
use crate::perf::pattern::Pattern;
use crate::types::{DType, Rank};
use half::{bf16, f16};
use std::collections::HashMap;

/// The calls that ranks make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// All-reduce into another buffer.
    AllReduce,
    /// All-reduce where the data is.
    AllReduceInPlace,
    /// All-reduce where the data is, all or nothing.
    AllReducePreserving,
    /// Broadcast.
    Broadcast,
    /// Reduce-scatter into another buffer.
    ReduceScatter,
    /// All-gather into another buffer.
    AllGather,
    /// All-to-all into another buffer.
    AllToAll,
}

const FORMS: [Form; 7] = [
    Form::AllReduce,
    Form::AllReduceInPlace,
    Form::AllReducePreserving,
    Form::Broadcast,
    Form::ReduceScatter,
    Form::AllGather,
    Form::AllToAll,
];
const DTYPES: [DType; 7] = [DType::F32, DType::F64, DType::I32, DType::U64, DType::U8, DType::F16, DType::Bf16];
const OPS: [RedOp; 4] = [RedOp::Sum, RedOp::Max, RedOp::Prod, RedOp::Avg];

/// One call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Task {
    form: Form,
    dtype: DType,
    op: RedOp,
    /// Elements of the vector, or of one block.
    count: usize,
    root: Rank,
    /// Where in the pattern the data begin: other calls, other data.
    first: usize,
}

impl Task {
    /// Any call.
    pub fn draw(random: &mut Random, world: usize, largest_bytes: usize) -> Task {
        let form = *random.pick(&FORMS);
        let dtype = *random.pick(&DTYPES);
        let op = *random.pick(&OPS);
        let most = largest_bytes / dtype.size_bytes();
        let count = match random.within(0..=99) {
            0..=4 => 0,
            5..=39 => random.within(1..=64),
            40..=79 => random.within(1..=most.min(30_000)),
            _ => random.within(1..=most),
        };
        let has_blocks = matches!(form, Form::ReduceScatter | Form::AllGather | Form::AllToAll);
        let count = if has_blocks { count.div_ceil(world) } else { count };
        Task { form, dtype, op, count, root: random.within(0..=world - 1), first: random.within(0..=1 << 20) }
    }

    /// Every kind of call at small and large sizes, so that all that a communicator makes on demand is made.
    pub fn all_kinds(random: &mut Random) -> Vec<Task> {
        let mut tasks = Vec::new();
        for form in FORMS {
            for count in [1, 2000, 100_000] {
                let first = random.within(0..=1 << 20);
                tasks.push(Task { form, dtype: DType::F32, op: RedOp::Sum, count, root: 0, first });
            }
        }
        tasks
    }

    /// What a rank tries first after a change of the membership.
    pub fn first_of_an_epoch(random: &mut Random) -> Task {
        let first = random.within(0..=1 << 20);
        Task { form: Form::AllReduce, dtype: DType::F64, op: RedOp::Sum, count: 1000, root: 0, first }
    }
}

/// Why a call was not right.
#[derive(Debug)]
pub enum Trouble {
    /// It ended with an error.
    Failed(Error),
    /// It did what no call may do.
    Wrong(String),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Trouble {
        Trouble::Failed(error)
    }
}

/// Makes calls on one communicator, and knows their results.
pub struct Examiner {
    world: usize,
    seed: u64,
    /// All-or-nothing calls that were all.
    preserved: u64,
    inputs: HashMap<(DType, Option<RedOp>, Rank), Pattern>,
    results: HashMap<(DType, RedOp), Pattern>,
}

impl Examiner {
    /// For a communicator in which this rank has that standing.
    pub fn new(seed: u64, standing: &Standing) -> Examiner {
        let members = standing.members.iter().map(|member| *member as u64);
        let seed = members.fold(mix(seed, standing.epoch.into()), mix);
        Examiner { world: standing.members.len(), seed, preserved: 0, inputs: HashMap::new(), results: HashMap::new() }
    }

    /// All-or-nothing calls so far that took effect: the same on all ranks that live, whatever has happened.
    pub fn preserved(&self) -> u64 {
        self.preserved
    }

    /// Makes the call and checks all that it promises.
    pub fn run(&mut self, comm: &Communicator, task: &Task) -> Result<(), Trouble> {
        match task.dtype {
            DType::F32 => self.typed::<f32>(comm, task),
            DType::F64 => self.typed::<f64>(comm, task),
            DType::I32 => self.typed::<i32>(comm, task),
            DType::U64 => self.typed::<u64>(comm, task),
            DType::U8 => self.typed::<u8>(comm, task),
            DType::F16 => self.typed::<f16>(comm, task),
            DType::Bf16 => self.typed::<bf16>(comm, task),
            other => unreachable!("no task has type {other}"),
        }
    }

    fn typed<T: Element>(&mut self, comm: &Communicator, task: &Task) -> Result<(), Trouble> {
        let Task { form, dtype, count, root, first, .. } = *task;
        let (me, world) = (comm.rank(), comm.world());
        let op = task.op.for_rank(me, dtype);
        let zeros = |count: usize| vec![T::zeroed(); count];
        let filled = |pattern: &Pattern, count: usize| {
            let mut data = zeros(count);
            pattern.fill(bytemuck::cast_slice_mut(&mut data), first);
            data
        };
        match form {
            Form::AllReduce | Form::ReduceScatter => {
                let scatters = form == Form::ReduceScatter;
                let own = self.input(dtype, Some(task.op), me).clone();
                let input = filled(&own, if scatters { world * count } else { count });
                let mut output = zeros(count);
                let outcome = if scatters {
                    comm.reduce_scatter(&input, &mut output, op)
                } else {
                    comm.all_reduce(&input, &mut output, op)
                };
                expect(task, "the input", &own, &input, first)?;
                outcome?;
                let first = if scatters { first + me * count } else { first };
                expect(task, "the result", self.result(dtype, task.op), &output, first)
            }
            Form::AllReduceInPlace => {
                let own = self.input(dtype, Some(task.op), me).clone();
                let mut data = filled(&own, count);
                let outcome = comm.all_reduce_in_place(&mut data, op);
                if outcome.as_ref().is_err_and(|error| error.buffer() == BufferState::Intact) {
                    expect(task, "what was said to be intact", &own, &data, first)?;
                }
                outcome?;
                expect(task, "the result", self.result(dtype, task.op), &data, first)
            }
            Form::AllReducePreserving => {
                let own = self.input(dtype, Some(task.op), me).clone();
                let mut data = filled(&own, count);
                if let Err(error) = comm.all_reduce_preserving(&mut data, op) {
                    expect(task, "what was to be preserved", &own, &data, first)?;
                    return Err(error.into());
                }
                self.preserved += 1;
                expect(task, "the result", self.result(dtype, task.op), &data, first)
            }
            Form::Broadcast => {
                let of_root = self.input(dtype, None, root);
                let mut data = if me == root { filled(of_root, count) } else { zeros(count) };
                let outcome = comm.broadcast(&mut data, root);
                if me == root || outcome.is_ok() {
                    expect(task, "the data", of_root, &data, first)?;
                }
                Ok(outcome?)
            }
            Form::AllGather | Form::AllToAll => {
                let spreads = form == Form::AllToAll;
                let own = self.input(dtype, None, me).clone();
                let input = filled(&own, if spreads { world * count } else { count });
                let mut output = zeros(world * count);
                let outcome =
                    if spreads { comm.all_to_all(&input, &mut output) } else { comm.all_gather(&input, &mut output) };
                expect(task, "the input", &own, &input, first)?;
                outcome?;
                let first = if spreads { first + me * count } else { first };
                for rank in 0..world {
                    let block = &output[rank * count..][..count];
                    expect(task, "a block", self.input(dtype, None, rank), block, first)?;
                }
                Ok(())
            }
        }
    }

    fn recipe(&self, dtype: DType, op: Option<RedOp>) -> Recipe {
        Recipe { dtype, op, world: self.world, seed: self.seed }
    }

    fn input(&mut self, dtype: DType, op: Option<RedOp>, rank: Rank) -> &Pattern {
        let recipe = self.recipe(dtype, op);
        self.inputs.entry((dtype, op, rank)).or_insert_with(|| recipe.input(rank))
    }

    fn result(&mut self, dtype: DType, op: RedOp) -> &Pattern {
        let recipe = self.recipe(dtype, Some(op));
        self.results.entry((dtype, op)).or_insert_with(|| recipe.reduced())
    }
}

fn expect<T: Element>(task: &Task, what: &str, pattern: &Pattern, found: &[T], first: usize) -> Result<(), Trouble> {
    match pattern.count_wrong(bytemuck::cast_slice(found), first) {
        0 => Ok(()),
        wrong => Err(Trouble::Wrong(format!("{wrong} of {} elements of {what} are wrong after {task:?}", found.len()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Options;

    fn standing(comm: &Communicator) -> Standing {
        Standing { number: comm.rank(), epoch: 0, members: comm.members().to_vec() }
    }

    #[test]
    fn right_calls_are_right_and_strange_members_are_not() {
        let ranks = Communicator::threads(3, Options::default()).unwrap();
        std::thread::scope(|scope| {
            for comm in &ranks {
                scope.spawn(move || {
                    let mut examiner = Examiner::new(1, &standing(comm));
                    let mut random = Random::new(&[7]);
                    for task in Task::all_kinds(&mut random) {
                        examiner.run(comm, &task).unwrap();
                    }
                    for _ in 0..60 {
                        examiner.run(comm, &Task::draw(&mut random, 3, 1 << 16)).unwrap();
                    }
                    // Rank 2 has other members in mind.
                    let mut believed = standing(comm);
                    believed.members[1] += usize::from(comm.rank() == 2);
                    let mut examiner = Examiner::new(1, &believed);
                    let outcome = examiner.run(comm, &Task::first_of_an_epoch(&mut random));
                    assert!(matches!(outcome, Err(Trouble::Wrong(_))), "{outcome:?}");
                });
            }
        });
    }
}
