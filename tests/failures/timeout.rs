//! A rank that never calls.

use super::harness::{self, Job, RootIn, Scenario, say};
use roundel::{Collective, Communicator, Error, Options, Rank, ReduceOp};
use std::time::{Duration, Instant};

const WORLD: usize = 4;
const LIMIT: Duration = Duration::from_millis(300);

pub const SCENARIOS: &[Scenario] = &[("timeout", absent_three)];

fn absent_three(comm: Communicator) {
    one_is_absent(&comm, 3, 1000);
    say("done");
}

/// Everybody but `absent` reduces. All end up with an error that names it, also `absent` itself.
fn one_is_absent(comm: &Communicator, absent: Rank, count: usize) {
    let began = Instant::now();
    let error = if comm.rank() == absent {
        loop {
            match comm.status() {
                Err(error) => break error,
                Ok(()) => std::thread::sleep(Duration::from_millis(2)),
            }
            assert!(began.elapsed() < harness::PATIENCE, "rank {absent} was not told");
        }
    } else {
        comm.all_reduce_in_place(&mut vec![1f32; count], ReduceOp::Sum).expect_err("one is absent")
    };
    let Error::Timeout { waiting_for, after, during } = &error else { panic!("rank {}: {error}", comm.rank()) };
    assert_eq!(waiting_for, &[absent], "rank {}: {error}", comm.rank());
    assert!(*after >= LIMIT && during.is_some_and(|call| call.op.collective == Collective::AllReduce), "{error}");
    let fault = Err(error.fault());
    assert_eq!(comm.barrier().map_err(|error| error.fault()), fault);
    assert_eq!(comm.status().map_err(|error| error.fault()), fault);
}

#[test]
fn threads_learn_who_is_absent() {
    let _turn = harness::turn();
    for transport in harness::between_threads() {
        for absent in 0..WORLD {
            for count in [10, 1000, 1 << 20] {
                let options = Options { timeout: LIMIT, ..harness::options(transport) };
                harness::threads(WORLD, options, move |comm| one_is_absent(&comm, absent, count));
            }
        }
    }
}

#[test]
fn processes_learn_who_is_absent() {
    let _turn = harness::turn();
    for transport in harness::between_processes() {
        let settings = [("ROUNDEL_TRANSPORT", transport), ("ROUNDEL_TIMEOUT_MS", "300")];
        let mut job = Job::start("timeout", WORLD, RootIn::Parent, &settings);
        job.wait_for_all(&[0, 1, 2, 3], "done");
        job.succeed(&[0, 1, 2, 3]);
    }
}

#[test]
fn a_message_that_never_comes() {
    let _turn = harness::turn();
    for transport in harness::between_threads() {
        let options = Options { timeout: LIMIT, ..harness::options(transport) };
        harness::threads(2, options, |comm| {
            if comm.rank() == 0 {
                let error = comm.recv(&mut [0u8], 1).expect_err("nobody sends");
                let Error::Timeout { waiting_for, .. } = &error else { panic!("{error}") };
                assert_eq!(waiting_for, &[1]);
                assert_eq!(comm.send(&[1u8], 1).map_err(|error| error.fault()), Err(error.fault()));
            } else {
                let began = Instant::now();
                while comm.status().is_ok() {
                    assert!(began.elapsed() < harness::PATIENCE);
                    std::thread::sleep(Duration::from_millis(2));
                }
            }
        });
    }
}
