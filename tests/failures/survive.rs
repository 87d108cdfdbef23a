//! After a death the others go on: they shrink and their next call is right.

use super::harness::{self, Job, RootIn, Scenario, clock, say};
use nix::sys::signal::Signal;
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
        comm = match comm.shrink() {
            Ok(rest) => rest,
            Err(error) => return say(format_args!("expelled {error}")),
        };
        let mut sum = [1u32 << comm.members()[comm.rank()]];
        comm.all_reduce_in_place(&mut sum, ReduceOp::Sum).unwrap();
        let members: u32 = comm.members().iter().map(|rank| 1 << rank).sum();
        assert_eq!(sum, [members], "epoch {}", comm.epoch());
        say(format_args!("shrunk {} {} {members}", told.as_nanos(), clock().as_nanos()));
    }
}

/// What happens to a rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blow {
    Killed,
    /// And woken up when the others have gone on.
    Stopped,
}

fn killed(world: usize, victims: &[Rank], transport: &str, root: RootIn) {
    struck(Blow::Killed, world, victims, transport, root);
}

fn stopped(world: usize, victims: &[Rank], transport: &str, root: RootIn) {
    struck(Blow::Stopped, world, victims, transport, root);
}

/// Strikes `victims` one after the other, each when the others are at work again.
fn struck(blow: Blow, world: usize, victims: &[Rank], transport: &str, root: RootIn) {
    let _turn = harness::turn();
    let last = (world - victims.len()).to_string();
    let settings = [("ROUNDEL_TRANSPORT", transport), ("FAILURES_LAST", &last)];
    let mut job = Job::start("survive", world, root, &settings);
    let mut living: Vec<Rank> = (0..world).collect();
    job.wait_for_all(&living, "ready");
    for &victim in victims {
        let at = match blow {
            Blow::Killed => job.kill(victim),
            Blow::Stopped => job.signal(victim, Signal::SIGSTOP),
        };
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
            "{world} ranks over {transport}, root in {root:?}, rank {victim} {blow:?}: all know after {:?}, the first result \
             without it after {:?}",
            told.saturating_sub(at),
            shrunk.saturating_sub(at)
        );
        if blow == Blow::Stopped {
            job.signal(victim, Signal::SIGCONT);
            let words = job.wait_for(victim, "expelled");
            assert!(words.contains(&format!("rank {victim} ")), "it is told that it is the one: {words}");
            job.succeed(&[victim]);
        }
    }
    job.succeed(&living);
}

#[test]
fn one_after_the_other_over_shm() {
    killed(4, &[3, 1, 0], "shm", RootIn::Parent);
}

#[test]
fn one_after_the_other_over_tcp() {
    killed(4, &[0, 1, 2], "tcp", RootIn::RankZero);
}

#[test]
fn the_root_and_its_heirs_over_shm() {
    killed(5, &[0, 1, 4, 2], "shm", RootIn::RankZero);
}

#[test]
fn the_stopped_are_left_behind_and_harm_nobody_when_they_wake() {
    stopped(4, &[3, 0, 1], "shm", RootIn::RankZero);
    stopped(3, &[2, 1], "tcp", RootIn::Parent);
}

#[test]
fn of_two_either_may_be_stopped() {
    stopped(2, &[0], "shm", RootIn::RankZero);
    stopped(2, &[1], "tcp", RootIn::RankZero);
}
