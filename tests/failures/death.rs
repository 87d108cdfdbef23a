//! Ranks that die or leave while others need them.

use super::harness::{self, Job, RootIn, Scenario, clock, say};
use roundel::{Communicator, Error, Rank, ReduceOp};
use std::time::Duration;

const WORLD: usize = 4;
/// Asserted of the time from the kill to the last rank's error. What is promised, and printed, is far less; a loaded
/// machine must not fail the test.
const SOON: Duration = Duration::from_secs(5);

pub const SCENARIOS: &[Scenario] = &[
    ("busy", busy),
    ("blocked in recv", blocked_in_recv),
    ("blocked in barrier", blocked_in_barrier),
    ("leaving", leaving),
];

/// Reduces 16 MiB again and again until that fails.
fn busy(comm: Communicator) {
    let mut data = vec![1f32; 4 << 20];
    for _ in 0..2 {
        comm.all_reduce_in_place(&mut data, ReduceOp::Max).unwrap();
    }
    say("ready");
    let error = loop {
        if let Err(error) = comm.all_reduce_in_place(&mut data, ReduceOp::Max) {
            break error;
        }
    };
    report(&comm, error);
}

/// Every rank waits for the next one, so most have no link to the one that dies.
fn blocked_in_recv(comm: Communicator) {
    comm.barrier().unwrap();
    say("ready");
    let error = comm.recv(&mut [0u8; 10], (comm.rank() + 1) % WORLD).expect_err("nobody sends");
    report(&comm, error);
}

/// All but the one that will die wait in a barrier; it waits for a message.
fn blocked_in_barrier(comm: Communicator) {
    comm.barrier().unwrap();
    say("ready");
    let dies: Rank = std::env::var("FAILURES_DIES").unwrap().parse().unwrap();
    let outcome = if comm.rank() == dies { comm.recv(&mut [0u8], (dies + 1) % WORLD) } else { comm.barrier() };
    report(&comm, outcome.expect_err("one rank never comes"));
}

/// Rank 2 goes away in one of several ways while the others want to go on.
fn leaving(comm: Communicator) {
    if comm.rank() == 2 {
        comm.all_reduce_in_place(&mut [1u8; 100], ReduceOp::Sum).unwrap();
        match std::env::var("FAILURES_HOW").unwrap().as_str() {
            "returns" => return,
            "panics" => panic!("as the test wants it"),
            "exits" => std::process::exit(3),
            "aborts" => std::process::abort(),
            how => unreachable!("{how}"),
        }
    }
    // Already the first of these may fail on a rank that is behind: others have gone on and found rank 2 gone.
    let outcome = comm.all_reduce_in_place(&mut [1u8; 100], ReduceOp::Sum);
    let outcome = outcome.and_then(|()| comm.all_reduce_in_place(&mut vec![1u32; 100_000], ReduceOp::Max));
    let error = outcome.expect_err("rank 2 makes one call only");
    report(&comm, error);
}

/// Tells when the error came and what it was, once later calls have repeated it.
fn report(comm: &Communicator, error: Error) {
    let at = clock();
    // The news may come between two calls, and then names none.
    let Error::PeerLost { suspects, what, during: _ } = &error else { panic!("rank {}: {error}", comm.rank()) };
    let later = [comm.barrier(), comm.all_reduce_in_place(&mut [1u8], ReduceOp::Sum), comm.status()];
    for later in later {
        let Err(Error::PeerLost { suspects: same, .. }) = &later else { panic!("{later:?}") };
        assert_eq!(same, suspects);
    }
    let words: Vec<String> = suspects.iter().map(Rank::to_string).collect();
    say(format_args!("lost {} {} {what}", at.as_nanos(), words.join(",")));
}

/// What the ranks but `gone` report: when the last of them knew, and the words. All name `gone` and nobody else.
fn reports(job: &mut Job, gone: Rank) -> (Duration, Vec<String>) {
    let others: Vec<Rank> = (0..WORLD).filter(|rank| *rank != gone).collect();
    let mut last = Duration::ZERO;
    let mut words = Vec::new();
    for line in job.wait_for_all(&others, "lost") {
        let mut parts = line.splitn(3, ' ');
        let mut part = || parts.next().unwrap();
        last = last.max(Duration::from_nanos(part().parse().unwrap()));
        assert_eq!(part(), gone.to_string(), "{line}");
        words.push(part().to_string());
    }
    job.succeed(&others);
    (last, words)
}

fn killed(scenario: &str, transport: &str, root: RootIn, asleep: bool) {
    let _turn = harness::turn();
    for dies in 0..WORLD {
        let dies_text = dies.to_string();
        let settings = [("ROUNDEL_TRANSPORT", transport), ("FAILURES_DIES", &dies_text)];
        let mut job = Job::start(scenario, WORLD, root, &settings);
        job.wait_for_all(&[0, 1, 2, 3], "ready");
        if asleep {
            (0..WORLD).for_each(|rank| job.wait_until_asleep(rank));
        }
        let at = job.kill(dies);
        let (last, _) = reports(&mut job, dies);
        let took = last.saturating_sub(at);
        println!("{scenario} over {transport}, root in {root:?}, rank {dies} killed: all know after {took:?}");
        assert!(took < SOON, "{took:?}");
    }
}

#[test]
fn killed_during_all_reduce_over_shm() {
    killed("busy", "shm", RootIn::Parent, false);
    killed("busy", "shm", RootIn::RankZero, false);
}

#[test]
fn killed_during_all_reduce_over_tcp() {
    killed("busy", "tcp", RootIn::Parent, false);
    killed("busy", "tcp", RootIn::RankZero, false);
}

#[test]
fn killed_while_all_sleep_over_shm() {
    killed("blocked in recv", "shm", RootIn::RankZero, true);
    killed("blocked in barrier", "shm", RootIn::Parent, true);
}

#[test]
fn killed_while_all_sleep_over_tcp() {
    killed("blocked in recv", "tcp", RootIn::Parent, true);
    killed("blocked in barrier", "tcp", RootIn::RankZero, true);
}

#[test]
fn killed_over_fabric() {
    if harness::has_fabric() {
        killed("busy", "fabric", RootIn::Parent, false);
        killed("blocked in recv", "fabric", RootIn::RankZero, true);
        killed("blocked in barrier", "fabric", RootIn::Parent, true);
    }
}

#[test]
fn those_who_leave_are_named() {
    let _turn = harness::turn();
    for transport in harness::between_processes() {
        for (how, tells) in [("returns", "left"), ("panics", "left"), ("exits", "closed"), ("aborts", "closed")] {
            let settings = [("ROUNDEL_TRANSPORT", transport), ("FAILURES_HOW", how)];
            let mut job = Job::start("leaving", WORLD, RootIn::RankZero, &settings);
            let (_, words) = reports(&mut job, 2);
            assert!(words.iter().all(|words| words.contains(tells)), "{how}: {words:?}");
            assert_eq!(job.end_of(2).success(), how == "returns");
        }
    }
}
