//! Programs with one mistake each, all of which the checker must catch: a proof that it looks.
//!
//! A mutant that it lets pass must be shown to be no mistake. Some are not: two neighbours that nothing orders can be
//! swapped, and a wait can be implied by other waits. Those are given to an independent judge, who runs them in many
//! random interleavings and only looks at the results.
#![forbid(unsafe_code)]

use super::catalogue::{self, Algorithm, Shape};
use super::check::interleave::right_in_all;
use super::check::{Capacity, check};
use super::check_tests::{hosts, programs};
use super::hazards::{each_loc_mut, hazards};
use super::{Op, Program, Space};
use crate::types::Collective;

const CAPACITY: Capacity = Capacity { link_slices: 1, chunk_slices: 2 };

/// What became of a mutant.
enum Fate {
    /// The checker noticed, in some variant of the call; in the others the results were right.
    Caught,
    /// The results were right in all.
    Harmless,
    /// The checker let pass what ended wrong in some interleaving.
    Missed,
}

/// The variants of a call: in place or not, one round or more.
fn variants(algorithm: Algorithm, shape: &Shape) -> impl Iterator<Item = (Shape, u32)> {
    let rounds = if algorithm.single_round() || shape.collective == Collective::Barrier { 1 } else { 3 };
    let shape = shape.clone();
    (1..=rounds).flat_map(move |rounds| [false, true].map(|in_place| (Shape { in_place, ..shape.clone() }, rounds)))
}

fn fate(mutant: impl Fn(&mut Program), rank: usize, algorithm: Algorithm, shape: &Shape) -> Fate {
    let (mut caught, mut passed) = (false, Vec::new());
    for (shape, rounds) in variants(algorithm, shape) {
        let mut programs = programs(algorithm, &shape);
        mutant(&mut programs[rank]);
        match check(&programs, &shape, CAPACITY, rounds) {
            Ok(_) => passed.push((programs, shape, rounds)),
            Err(_) => caught = true,
        }
    }
    // The judge looks at results, and a barrier has none.
    let judged = shape.collective != Collective::Barrier;
    let seeds = if caught { 3 } else { 20 };
    let right = |(programs, shape, rounds): &(Vec<Program>, Shape, u32)| {
        right_in_all(programs, shape, CAPACITY, *rounds, seeds)
    };
    match caught {
        _ if judged && !passed.iter().all(right) => Fate::Missed,
        true => Fate::Caught,
        false => Fate::Harmless,
    }
}

fn shapes() -> Vec<Shape> {
    let layouts: [&[usize]; 6] = [&[1; 3], &[1; 4], &[1; 6], &[3], &[4], &[2, 1, 3]];
    let shape = |collective: Collective, sizes: &[usize]| {
        let hosts = hosts(sizes);
        let (root, peer) = match collective {
            Collective::SendRecv => (1, 2),
            _ if collective.has_root() => (1, 0),
            _ => (0, 0),
        };
        Shape { root, peer, hosts, ..Shape::apart(collective, 0) }
    };
    Collective::ALL.into_iter().flat_map(|collective| layouts.map(|sizes| shape(collective, sizes))).collect()
}

/// Runs `judge(algorithm, shape, rank, program)` over everything.
fn everywhere(mut judge: impl FnMut(Algorithm, &Shape, usize, &Program)) {
    for shape in shapes() {
        for algorithm in catalogue::candidates(&shape) {
            for (rank, program) in programs(algorithm, &shape).iter().enumerate() {
                judge(algorithm, &shape, rank, program);
            }
        }
    }
}

/// How many mutants there were, and those that the checker let pass.
#[derive(Default)]
struct Count {
    tried: usize,
    harmless: Vec<(Op, String)>,
}

impl Count {
    fn add(&mut self, mutant: impl Fn(&mut Program), rank: usize, index: usize, algorithm: Algorithm, shape: &Shape) {
        let program = &programs(algorithm, shape)[rank];
        let op = &program.ops[index];
        let what = || format!("{algorithm} {} {:?}, rank {rank}, op {index} {op:?}", shape.collective, shape.hosts);
        self.tried += 1;
        match fate(mutant, rank, algorithm, shape) {
            Fate::Caught => {}
            Fate::Harmless => self.harmless.push((op.clone(), what())),
            Fate::Missed => panic!("the checker misses a mutant of {}", what()),
        }
    }

    /// All were caught, but for waits that are implied by others.
    fn all_but_implied_waits(&self, what: &str, least: usize) {
        println!("{} {what}, {} of them implied waits", self.tried, self.harmless.len());
        assert!(self.tried >= least);
        let stray = self.harmless.iter().find(|(op, _)| !matches!(op, Op::Wait { .. }));
        assert!(stray.is_none(), "{what}: not caught: {stray:?}");
        assert!(self.harmless.len() * 20 < self.tried, "too many waits are implied: {:#?}", self.harmless);
    }
}

#[test]
fn deleted_ops() {
    let mut count = Count::default();
    everywhere(|algorithm, shape, rank, program| {
        for index in 0..program.ops.len() {
            let delete = |program: &mut Program| {
                // The in-place program of flat all-to-all has other ops; what is deleted is the op with this number.
                if index < program.ops.len() {
                    program.ops.remove(index);
                }
            };
            count.add(delete, rank, index, algorithm, shape);
        }
    });
    count.all_but_implied_waits("ops deleted", 4000);
}

#[test]
fn wrong_chunks() {
    let mut count = Count::default();
    everywhere(|algorithm, shape, rank, program| {
        if program.chunks < 2 || shape.collective == Collective::Barrier {
            return;
        }
        for (index, op) in program.ops.iter().enumerate() {
            let mut locs = 0;
            each_loc_mut(&mut op.clone(), |_| locs += 1);
            for which in 0..locs {
                let shift = |program: &mut Program| {
                    let (mut at, chunks) = (0, program.chunks);
                    let Some(op) = program.ops.get_mut(index) else { return };
                    each_loc_mut(op, |loc| {
                        if at == which {
                            loc.chunk = (loc.chunk + 1) % chunks;
                        }
                        at += 1;
                    });
                };
                count.add(shift, rank, index, algorithm, shape);
            }
        }
    });
    count.all_but_implied_waits("chunks changed", 4000);
}

#[test]
fn wrong_slots() {
    let mut count = Count::default();
    everywhere(|algorithm, shape, rank, program| {
        for (index, op) in program.ops.iter().enumerate() {
            let mut locs = 0;
            each_loc_mut(&mut op.clone(), |_| locs += 1);
            for which in 0..locs {
                let mut is_slot = false;
                let shift = |program: &mut Program, is_slot: &mut bool| {
                    let (mut at, stage, scratch) = (0, program.stage_slots, program.scratch_slots);
                    let Some(op) = program.ops.get_mut(index) else { return };
                    each_loc_mut(op, |loc| {
                        let slots = match loc.space {
                            Space::Stage => stage,
                            Space::Scratch => scratch,
                            Space::Input | Space::Output => 1,
                        };
                        if at == which && slots > 1 {
                            loc.slot = (loc.slot + 1) % slots;
                            *is_slot = true;
                        }
                        at += 1;
                    });
                };
                shift(&mut program.clone(), &mut is_slot);
                if !is_slot {
                    continue;
                }
                count.add(|program| shift(program, &mut false), rank, index, algorithm, shape);
            }
        }
    });
    count.all_but_implied_waits("slots changed", 1000);
}

#[test]
fn wrong_peers() {
    let mut count = Count::default();
    everywhere(|algorithm, shape, rank, program| {
        let world = shape.world();
        for index in 0..program.ops.len() {
            for other in 0..world {
                let redirect = |program: &mut Program| match program.ops.get_mut(index) {
                    Some(
                        Op::Send { to: port, .. } | Op::Recv { from: port, .. } | Op::RecvReduce { from: port, .. },
                    ) => port.peer = other,
                    Some(Op::Wait { on, .. }) => *on = other,
                    _ => {}
                };
                let mut redirected = program.clone();
                redirect(&mut redirected);
                if redirected == *program {
                    continue;
                }
                count.add(redirect, rank, index, algorithm, shape);
            }
        }
    });
    count.all_but_implied_waits("peers changed", 10_000);
}

#[test]
fn flipped_last() {
    let mut count = Count::default();
    everywhere(|algorithm, shape, rank, program| {
        for (index, op) in program.ops.iter().enumerate() {
            if !matches!(op, Op::RecvReduce { .. } | Op::Reduce { .. }) {
                continue;
            }
            let flip = |program: &mut Program| {
                if let Op::RecvReduce { last, .. } | Op::Reduce { last, .. } = &mut program.ops[index] {
                    *last = !*last;
                }
            };
            count.add(flip, rank, index, algorithm, shape);
        }
    });
    count.all_but_implied_waits("times `last` flipped", 500);
}

#[test]
fn swapped_neighbours() {
    let (mut caught, mut same, mut harmless) = (0, 0, 0);
    everywhere(|algorithm, shape, rank, program| {
        for index in 1..program.ops.len() {
            let swap = |program: &mut Program| {
                if index < program.ops.len() {
                    program.ops.swap(index - 1, index);
                }
            };
            match fate(swap, rank, algorithm, shape) {
                Fate::Caught => caught += 1,
                Fate::Harmless if commute(program, index - 1) => same += 1,
                Fate::Harmless => harmless += 1,
                Fate::Missed => panic!("{algorithm}, {shape:?}, rank {rank}: swapping {} {index} is missed", index - 1),
            }
        }
    });
    println!("neighbours swapped: {caught} caught, {same} the same program, {harmless} harmless");
    assert!(caught > 1000 && same > 1000);
}

/// The judge of last resort is no rubber stamp: of the deleted waits that the checker catches he finds a good part as well.
#[test]
fn interleavings_find_races_too() {
    let (mut caught, mut confirmed) = (0, 0);
    everywhere(|algorithm, shape, rank, program| {
        if shape.collective == Collective::Barrier {
            return;
        }
        for index in (0..program.ops.len()).filter(|&index| matches!(program.ops[index], Op::Wait { .. })) {
            let mut mutated = programs(algorithm, shape);
            mutated[rank].ops.remove(index);
            let rounds = if algorithm.single_round() { 1 } else { 2 };
            if check(&mutated, shape, CAPACITY, rounds).is_err() {
                caught += 1;
                confirmed += usize::from(!right_in_all(&mutated, shape, CAPACITY, rounds, 20));
            }
        }
    });
    println!("{caught} deleted waits caught, {confirmed} of them ended wrong in one of 20 interleavings");
    assert!(confirmed * 4 > caught);
}

/// Whether an op and the next are in no order: not in the same port, no hazard between them, no fence.
fn commute(program: &Program, index: usize) -> bool {
    let (a, b) = (&program.ops[index], &program.ops[index + 1]);
    let port = |op: &Op| match op {
        Op::Send { to, .. } => Some((true, *to)),
        Op::Recv { from, .. } | Op::RecvReduce { from, .. } => Some((false, *from)),
        _ => None,
    };
    let fences = |op: &Op| matches!(op, Op::Signal | Op::Wait { .. });
    let order = hazards(program, true);
    port(a) != port(b) && !order.behind(index + 1).contains(&(index as u32)) && !fences(a) && !fences(b)
}
