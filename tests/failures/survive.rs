//! After a death the others go on: they shrink and their next call is right.

use super::harness::{self, Job, RootIn, Scenario, clock, say};
use roundel::{Communicator, Error, Rank, ReduceOp};
use std::time::Duration;

const COUNT: usize = 1 << 20;

pub const SCENARIOS: &[Scenario] = &[("survive", survive)];

/// Reduces until a rank dies, and then without it, again and again until few are left.
fn survive(mut comm: Communicator) {
    let last: usize = std::env::var("FAILURES_LAST").unwrap().parse().unwrap();
    say("ready");
    while comm.world() > last {
        let world = comm.world();
        let error = loop {
            let mut data = vec![1u32; COUNT];
            match comm.all_reduce_in_place(&mut data, ReduceOp::Sum) {
                Ok(()) => assert!(data.iter().all(|&sum| sum == world as u32)),
                Err(error) => break error,
            }
        };
        let told = clock();
        assert!(matches!(error, Error::PeerLost { .. }), "{error}");
        comm = comm.shrink().unwrap_or_else(|error| panic!("rank {}: {error}", comm.rank()));
        let mut sum = [1u32 << comm.members()[comm.rank()]];
        comm.all_reduce_in_place(&mut sum, ReduceOp::Sum).unwrap();
        let members: u32 = comm.members().iter().map(|rank| 1 << rank).sum();
        assert_eq!(sum, [members], "epoch {}", comm.epoch());
        say(format_args!("shrunk {} {} {members}", told.as_nanos(), clock().as_nanos()));
    }
}

/// Kills `victims` one after the other, each when the others are at work again.
fn killed(world: usize, victims: &[Rank], transport: &str, root: RootIn) {
    let _turn = harness::turn();
    let last = (world - victims.len()).to_string();
    let settings = [("ROUNDEL_TRANSPORT", transport), ("FAILURES_LAST", &last)];
    let mut job = Job::start("survive", world, root, &settings);
    let mut living: Vec<Rank> = (0..world).collect();
    job.wait_for_all(&living, "ready");
    for &victim in victims {
        let at = job.kill(victim);
        living.retain(|rank| *rank != victim);
        let members: u32 = living.iter().map(|rank| 1 << rank).sum();
        let (mut told, mut shrunk) = (Duration::ZERO, Duration::ZERO);
        for line in job.wait_for_all(&living, "shrunk") {
            let numbers: Vec<u64> = line.split(' ').map(|number| number.parse().unwrap()).collect();
            told = told.max(Duration::from_nanos(numbers[0]));
            shrunk = shrunk.max(Duration::from_nanos(numbers[1]));
            assert_eq!(numbers[2], u64::from(members));
        }
        println!(
            "{world} ranks over {transport}, root in {root:?}, rank {victim} killed: all know after {:?}, the first result \
             without it after {:?}",
            told.saturating_sub(at),
            shrunk.saturating_sub(at)
        );
    }
    job.succeed(&living);
}

#[test]
fn one_after_the_other_over_shm() {
    killed(4, &[3, 1, 0], "shm", RootIn::Parent);
}

#[test]
fn one_after_the_other_over_tcp() {
    killed(4, &[1, 2, 3], "tcp", RootIn::RankZero);
}
