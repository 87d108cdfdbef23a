//! Every algorithm through the checker.
#![forbid(unsafe_code)]

use super::catalogue::{self, Algorithm, Shape};
use super::check::{Capacity, Facts, Violation, check};
use super::{Op, Program};
use crate::types::{Collective, Rank};

const COLLECTIVES: [Collective; 10] = [
    Collective::AllReduce,
    Collective::Reduce,
    Collective::Broadcast,
    Collective::ReduceScatter,
    Collective::AllGather,
    Collective::Gather,
    Collective::Scatter,
    Collective::AllToAll,
    Collective::Barrier,
    Collective::SendRecv,
];

fn programs(algorithm: Algorithm, shape: &Shape) -> Vec<Program> {
    (0..shape.world()).map(|me| catalogue::program(algorithm, shape, me).expect("a candidate")).collect()
}

#[test]
fn small_worlds() {
    let mut wrong = std::collections::BTreeMap::new();
    for collective in COLLECTIVES {
        for world in 1..=17 {
            for shape in [Shape::one_host(collective, world), Shape::apart(collective, world)] {
                for algorithm in catalogue::candidates(&shape) {
                    let programs = programs(algorithm, &shape);
                    if let Err(violation) = check(&programs, &shape, Capacity::LEAST, 1) {
                        wrong.entry((algorithm, collective)).or_insert((world, violation.to_string()));
                    }
                }
            }
        }
    }
    for w in &wrong {
        println!("{w:?}");
    }
    assert!(wrong.is_empty());
}
