//! One rank ends the communicator for all, also while others are inside each other's buffers.

use super::harness;
use roundel::{Communicator, Error, Options, ReduceOp, TransportChoice};
use std::time::{Duration, Instant};

const WORLD: usize = 3;

#[test]
fn others_are_freed_with_the_reason() {
    let _turn = harness::turn();
    for transport in harness::between_threads() {
        harness::threads(WORLD, harness::options(transport), |comm| {
            let error = match comm.rank() {
                0 => comm.barrier().expect_err("not all come"),
                1 => {
                    comm.abort("out of memory in step 7");
                    comm.barrier().expect_err("aborted")
                }
                // The abort may come before the call has begun.
                _ => match comm.start_recv(vec![5u8; 3], 0) {
                    Ok(work) => work.wait().expect_err("nobody sends").error,
                    Err(error) => error,
                },
            };
            let expected = Error::Aborted { by: 1, reason: "out of memory in step 7".into(), during: None };
            assert_eq!(error.fault(), expected, "rank {}", comm.rank());
            assert_eq!(comm.status(), Err(expected.clone()));
            assert_eq!(comm.start_barrier().map(drop), Err(expected));
            comm.abort("too late");
        });
    }
}

#[test]
fn a_thread_frees_its_own_rank() {
    let _turn = harness::turn();
    for transport in harness::between_threads() {
        harness::threads(2, harness::options(transport), |comm| {
            if comm.rank() == 0 {
                std::thread::scope(|scope| {
                    let blocked = scope.spawn(|| comm.recv(&mut [0u8; 4], 1));
                    let began = Instant::now();
                    comm.abort("the user pressed a button");
                    let outcome = blocked.join().unwrap();
                    assert!(matches!(outcome, Err(Error::Aborted { by: 0, .. })), "{outcome:?}");
                    assert!(began.elapsed() < Duration::from_secs(10));
                });
            } else {
                let outcome = comm.barrier();
                assert!(matches!(outcome, Err(Error::Aborted { by: 0, .. })), "{outcome:?}");
            }
        });
    }
}

/// A number that differs from round to round and rank to rank, below `limit`.
fn scatter(round: usize, rank: usize, limit: u64) -> u64 {
    let mixed = (round as u64 * 31 + rank as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 32) % limit
}

fn busy_wait(time: Duration) {
    let until = Instant::now() + time;
    while Instant::now() < until {
        std::thread::yield_now();
    }
}

/// Fills the buffer of a call that has failed, and sees that nobody else writes into it any more. Peers that still read it
/// when it is freed would crash: at this size the allocator gives it back to the system.
fn is_ours_again(mut data: Vec<f32>) {
    data.fill(-7.0);
    for _ in 0..20 {
        std::thread::yield_now();
    }
    assert!(data.iter().all(|&word| word == -7.0), "somebody still writes into the buffer of a call that has failed");
}

#[test]
fn buffers_of_aborted_calls_are_free_at_once() {
    let _turn = harness::turn();
    const ROUNDS: usize = 2000;
    harness::threads(WORLD, harness::options(TransportChoice::Memory), |all| {
        for round in 0..ROUNDS {
            let comm = all.split(Some(0), 0).unwrap().expect("every rank is in it");
            std::thread::scope(|scope| {
                if comm.rank() == round % WORLD {
                    scope.spawn(|| {
                        busy_wait(Duration::from_micros(scatter(round, comm.rank(), 400)));
                        comm.abort("enough");
                    });
                }
                loop {
                    let mut data = vec![1f32; 60_000];
                    let outcome = comm.all_reduce_in_place(&mut data, ReduceOp::Sum);
                    match outcome {
                        Ok(()) => assert!(data.iter().all(|&sum| sum == WORLD as f32), "round {round}"),
                        Err(error) => {
                            let expected = Error::Aborted { by: round % WORLD, reason: "enough".into(), during: None };
                            assert_eq!(error.fault(), expected);
                            break is_ours_again(data);
                        }
                    }
                }
            });
        }
    });
}

#[test]
fn buffers_of_late_calls_are_free_at_once() {
    let _turn = harness::turn();
    const ROUNDS: usize = 500;
    let options = Options { timeout: Duration::from_millis(2), ..harness::options(TransportChoice::Memory) };
    harness::threads(WORLD, options, |all| {
        let mut late = 0;
        for round in 0..ROUNDS {
            let comm = all.split(Some(0), 0).unwrap().expect("every rank is in it");
            for turn in 0..3 {
                busy_wait(Duration::from_micros(scatter(round * 3 + turn, comm.rank(), 3000)));
                let mut data = vec![1f32; 60_000];
                match comm.all_reduce_in_place(&mut data, ReduceOp::Sum) {
                    Ok(()) => assert!(data.iter().all(|&sum| sum == WORLD as f32), "round {round}"),
                    Err(error) => {
                        assert!(matches!(error, Error::Timeout { .. } | Error::PeerLost { .. }), "{error}");
                        late += 1;
                        is_ours_again(data);
                        break;
                    }
                }
            }
        }
        assert!(late > 0, "no call was late");
        println!("rank {}: {late} of {ROUNDS} rounds were late", all.rank());
    });
}

#[test]
fn work_that_is_aborted_gives_its_buffer_back() {
    let _turn = harness::turn();
    harness::threads(2, harness::options(TransportChoice::Memory), |comm: Communicator| {
        if comm.rank() == 0 {
            let work = comm.start_all_reduce(vec![3i32; 1000], ReduceOp::Sum).unwrap();
            comm.send(&[1u8], 1).unwrap();
            let failed = work.wait().expect_err("rank 1 aborts");
            assert!(matches!(failed.error, Error::Aborted { by: 1, .. }), "{failed}");
            assert_eq!(failed.buffers.len(), 1000);
        } else {
            // The other rank's work has begun when its message is here.
            comm.recv(&mut [0u8], 0).unwrap();
            comm.abort("no");
        }
    });
}
