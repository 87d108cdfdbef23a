//! After a death the others go on: they shrink and their next call is right.

use super::harness::{self, Job, RootIn, Scenario, clock, say};
use nix::sys::signal::Signal;
use roundel::{Communicator, Error, Rank, ReduceOp};
use std::time::Duration;

const COUNT: usize = 1 << 20;

pub const SCENARIOS: &[Scenario] = &[("survive", survive), ("rolling", rolling)];

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

/// Works until it is killed; takes in newcomers while ranks are missing.
fn rolling(mut comm: Communicator) {
    let full: usize = std::env::var("FAILURES_FULL").unwrap().parse().unwrap();
    let tell = |comm: &Communicator| {
        let members: Vec<String> = comm.members().iter().map(Rank::to_string).collect();
        say(format_args!("members {} {} {}", clock().as_nanos(), members.join(","), comm.invitation().unwrap()));
    };
    tell(&comm);
    loop {
        let step = |comm: &Communicator| -> Result<Option<Communicator>, Error> {
            let mut data = vec![1u32; 1000];
            comm.all_reduce_in_place(&mut data, ReduceOp::Sum)?;
            assert!(data.iter().all(|&sum| sum == comm.world() as u32));
            if comm.world() < full { comm.grow() } else { Ok(None) }
        };
        match step(&comm) {
            Ok(None) => continue,
            Ok(Some(grown)) => comm = grown,
            Err(Error::PeerLost { .. }) => comm = comm.shrink().unwrap(),
            Err(error) => panic!("{error}"),
        }
        tell(&comm);
    }
}

/// Every rank of the job dies, one after the other, and is replaced. In the end no process is left that began it.
fn replaced(world: usize, transport: &str) {
    let _turn = harness::turn();
    let full = world.to_string();
    let settings = [("ROUNDEL_TRANSPORT", transport), ("FAILURES_FULL", &full)];
    let mut job = Job::start("rolling", world, RootIn::RankZero, &settings);
    let mut living: Vec<Rank> = (0..world).collect();
    // The time of the last of them, and an invitation.
    let told = |job: &mut Job, living: &[Rank]| {
        let members: Vec<String> = living.iter().map(Rank::to_string).collect();
        let lines = job.wait_for_all(living, "members");
        let parts: Vec<Vec<&str>> = lines.iter().map(|line| line.split(' ').collect()).collect();
        assert!(parts.iter().all(|part| part[1] == members.join(",")), "{parts:?}");
        let last = parts.iter().map(|part| part[0].parse().unwrap()).max().unwrap();
        (Duration::from_nanos(last), parts[0][2].to_string())
    };
    let (_, mut invitation) = told(&mut job, &living);
    for victim in 0..world {
        let at = job.kill(victim);
        living.retain(|rank| *rank != victim);
        let (shrunk, _) = told(&mut job, &living);
        // The oldest invitation that still names somebody who lives.
        living.push(job.invite("rolling", &invitation, &settings));
        let (grown, new) = told(&mut job, &living);
        println!(
            "{world} ranks over {transport}, rank {victim} killed: shrunk after {:?}, and with a newcomer after {:?}",
            shrunk.saturating_sub(at),
            grown.saturating_sub(at)
        );
        invitation = new;
    }
    assert_eq!(living, (world..2 * world).collect::<Vec<_>>());
}

/// A job of one rank takes in others, and outlives that one.
fn grown_from_one(transport: &str) {
    let _turn = harness::turn();
    let settings = [("ROUNDEL_TRANSPORT", transport), ("FAILURES_FULL", "3")];
    let mut job = Job::start("rolling", 1, RootIn::RankZero, &settings);
    // Each line: when, who is there, and an invitation.
    let told = |job: &mut Job, living: &[Rank]| {
        let lines = job.wait_for_all(living, "members");
        let members: Vec<String> = living.iter().map(Rank::to_string).collect();
        assert!(lines.iter().all(|line| line.split(' ').nth(1) == Some(&members.join(","))), "{lines:?}");
        lines[0].split(' ').nth(2).expect("an invitation").to_string()
    };
    let invitation = told(&mut job, &[0]);
    job.invite("rolling", &invitation, &settings);
    told(&mut job, &[0, 1]);
    job.invite("rolling", &invitation, &settings);
    let later = told(&mut job, &[0, 1, 2]);
    job.kill(0);
    told(&mut job, &[1, 2]);
    job.invite("rolling", &later, &settings);
    told(&mut job, &[1, 2, 3]);
}

#[test]
fn one_rank_becomes_many() {
    grown_from_one("shm");
    grown_from_one("tcp");
}

#[test]
fn all_are_replaced_over_shm() {
    replaced(4, "shm");
}

#[test]
fn all_are_replaced_over_tcp() {
    replaced(3, "tcp");
}

#[test]
fn all_are_replaced_and_many_survive_over_fabric() {
    if harness::has_fabric() {
        replaced(3, "fabric");
        killed(4, &[0, 3, 1], "fabric", RootIn::RankZero);
        stopped(3, &[1], "fabric", RootIn::Parent);
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
