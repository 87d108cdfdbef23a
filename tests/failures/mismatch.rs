//! One rank of four makes another call than the others.

use super::harness::{self, Job, PATIENCE, RootIn, Scenario, say};
use roundel::schedule::catalogue::Algorithm;
use roundel::{Communicator, Error, Options, Rank, ReduceOp, Result, TransportChoice, UniqueId};
use std::time::{Duration, Instant};

const WORLD: usize = 4;
/// Well within this every rank has its error; it is usually a few milliseconds.
const SOON: Duration = Duration::from_secs(5);

pub const SCENARIOS: &[Scenario] = &[("mismatch", every_case)];

/// A difference, and whether every rank must learn of it inside the call itself: a rank that only gives in that call
/// may be done before others have looked, and gets the error from its next call.
struct Case {
    name: &'static str,
    at_once: bool,
    call: fn(&Communicator, odd: Rank) -> Result<()>,
}

const CASES: &[Case] = &[
    Case {
        name: "collective",
        at_once: true,
        call: |comm, odd| match comm.rank() == odd {
            true => comm.barrier(),
            false => all_reduce(comm, 64, ReduceOp::Sum),
        },
    },
    Case {
        name: "collective, large",
        at_once: true,
        call: |comm, odd| match comm.rank() == odd {
            true => comm.all_gather(&vec![1f32; 100_000], &mut vec![0f32; 400_000]),
            false => all_reduce(comm, 400_000, ReduceOp::Sum),
        },
    },
    Case {
        name: "count",
        at_once: true,
        call: |comm, odd| all_reduce(comm, 100 + usize::from(comm.rank() == odd), ReduceOp::Sum),
    },
    Case {
        name: "count, none",
        at_once: true,
        call: |comm, odd| all_reduce(comm, if comm.rank() == odd { 0 } else { 100 }, ReduceOp::Sum),
    },
    Case {
        name: "count, large",
        at_once: true,
        call: |comm, odd| all_reduce(comm, 700_000 - usize::from(comm.rank() == odd), ReduceOp::Sum),
    },
    Case {
        name: "count, mapped",
        at_once: true,
        call: |comm, odd| {
            let count = 200_000 + usize::from(comm.rank() == odd);
            comm.all_reduce_in_place(&mut comm.alloc::<f32>(count)?, ReduceOp::Sum)
        },
    },
    Case {
        name: "dtype",
        at_once: true,
        call: |comm, odd| match comm.rank() == odd {
            true => comm.all_reduce_in_place(&mut [1i32; 100], ReduceOp::Sum),
            false => all_reduce(comm, 100, ReduceOp::Sum),
        },
    },
    Case {
        name: "op",
        at_once: true,
        call: |comm, odd| all_reduce(comm, 100, if comm.rank() == odd { ReduceOp::Max } else { ReduceOp::Sum }),
    },
    Case {
        name: "op, large",
        at_once: true,
        call: |comm, odd| all_reduce(comm, 700_000, if comm.rank() == odd { ReduceOp::Max } else { ReduceOp::Sum }),
    },
    Case {
        name: "root of broadcast",
        at_once: false,
        call: |comm, odd| comm.broadcast(&mut [comm.rank(); 100].map(|rank| rank as u64), root(comm, odd)),
    },
    Case {
        name: "root of broadcast, large",
        at_once: false,
        call: |comm, odd| comm.broadcast(&mut vec![1u8; 3 << 20], root(comm, odd)),
    },
    Case {
        name: "root of reduce",
        at_once: false,
        call: |comm, odd| comm.reduce(&[1f64; 100], &mut [0f64; 100], ReduceOp::Sum, root(comm, odd)),
    },
    Case {
        name: "root of gather",
        at_once: false,
        call: |comm, odd| comm.gather(&[1f64; 100], &mut [0f64; 400], root(comm, odd)),
    },
    Case {
        name: "root of scatter",
        at_once: false,
        call: |comm, odd| comm.scatter(&[1f64; 400], &mut [0f64; 100], root(comm, odd)),
    },
    Case {
        name: "count of reduce_scatter",
        at_once: true,
        call: |comm, odd| {
            let count = 50 + usize::from(comm.rank() == odd);
            comm.reduce_scatter(&vec![1u32; WORLD * count], &mut vec![0; count], ReduceOp::Sum)
        },
    },
    Case {
        name: "counts of all_gather_v",
        at_once: true,
        call: |comm, odd| {
            let counts = if comm.rank() == odd { [2, 1, 4, 3] } else { [1, 2, 3, 4] };
            comm.all_gather_v(&vec![1i8; counts[comm.rank()]], &mut [0i8; 10], &counts)
        },
    },
    Case {
        name: "counts of reduce_scatter_v",
        at_once: true,
        call: |comm, odd| {
            let counts = if comm.rank() == odd { [2, 1, 4, 3] } else { [1, 2, 3, 4] };
            comm.reduce_scatter_v(&[1i8; 10], &mut vec![0i8; counts[comm.rank()]], &counts, ReduceOp::Sum)
        },
    },
    Case {
        name: "pair of all_to_all_v",
        at_once: false,
        call: |comm, odd| {
            let mut send = [7; WORLD];
            if comm.rank() == odd {
                send[(odd + 1) % WORLD] += 1;
            }
            comm.all_to_all_v(&vec![1u8; send.iter().sum()], &send, &mut [0u8; 7 * WORLD], &[7; WORLD])
        },
    },
    Case {
        name: "receive of a message",
        at_once: false,
        call: |comm, odd| {
            let receiver = (odd + 1) % WORLD;
            match comm.rank() {
                me if me == odd => comm.send(&[1f32; 5], receiver),
                me if me == receiver => comm.recv(&mut [0f32; 6], odd),
                _ => Ok(()),
            }
        },
    },
    Case {
        name: "dtype of a message",
        at_once: false,
        call: |comm, odd| {
            let receiver = (odd + 1) % WORLD;
            match comm.rank() {
                me if me == odd => comm.send(&vec![1f32; 500_000], receiver),
                me if me == receiver => comm.recv(&mut vec![0i32; 500_000], odd),
                _ => Ok(()),
            }
        },
    },
];

fn all_reduce(comm: &Communicator, count: usize, op: ReduceOp) -> Result<()> {
    comm.all_reduce(&vec![1f32; count], &mut vec![0f32; count], op)
}

fn root(comm: &Communicator, odd: Rank) -> Rank {
    if comm.rank() == odd { (odd + 1) % WORLD } else { (odd + 2) % WORLD }
}

/// Makes the differing calls, each on a communicator of its own: the one for all goes on.
fn every_case(all: Communicator) {
    for case in CASES {
        for odd in [0, 1, 3] {
            let comm = all.split(Some(0), 0).unwrap().expect("every rank is in it");
            all.barrier().unwrap();
            let called = Instant::now();
            let outcome = (case.call)(&comm, odd);
            assert!(!(case.at_once && outcome.is_ok()), "{} differs on rank {odd}: no error", case.name);
            expect_mismatch(&comm, outcome, case.name, odd);
            let took = called.elapsed();
            assert!(took < SOON, "{} differs on rank {odd}: {took:?}", case.name);
            drop(comm);
            all.all_reduce_in_place(&mut [1u8; 3], ReduceOp::Sum).unwrap();
            say(format_args!("took {} {}", took.as_micros(), case.name));
        }
    }
}

/// The call or the next one failed with an error that names both sides, and so do all later ones.
fn expect_mismatch(comm: &Communicator, outcome: Result<()>, what: &str, odd: Rank) {
    let error = outcome.and_then(|()| comm.barrier()).expect_err("ranks disagree");
    let Error::Mismatch { rank, mine, other, theirs, .. } = &error else {
        panic!("{what} differs on rank {odd}: {error}")
    };
    assert!(rank != other && mine != theirs, "{what}: {error}");
    assert!([*rank, *other].contains(&odd), "{what} differs on rank {odd}: {error}");
    assert!(error.to_string().contains(&mine.to_string()) && error.to_string().contains(&theirs.to_string()));
    for later in
        [comm.barrier(), comm.status(), all_reduce(comm, 10, ReduceOp::Sum), comm.recv(&mut [0u8], (odd + 1) % WORLD)]
    {
        if comm.rank() != (odd + 1) % WORLD || !matches!(later, Err(Error::Invalid { .. })) {
            assert_eq!(later.map_err(|later| later.fault()), Err(error.fault()), "{what}: errors stay");
        }
    }
}

fn as_processes(transport: &str) {
    let _turn = harness::turn();
    let mut job = Job::start("mismatch", WORLD, RootIn::Parent, &[("ROUNDEL_TRANSPORT", transport)]);
    let mut slowest = Duration::ZERO;
    for case in CASES {
        for rank in (0..WORLD).flat_map(|rank| [rank; 3]) {
            let line = job.wait_for(rank, "took");
            let (micros, name) = line.split_once(' ').unwrap();
            assert_eq!(name, case.name);
            slowest = slowest.max(Duration::from_micros(micros.parse().unwrap()));
        }
    }
    job.succeed(&[0, 1, 2, 3]);
    println!("mismatch over {transport}: {} cases, slowest rank {slowest:?}", 3 * CASES.len());
}

#[test]
fn differing_calls_of_processes_over_shm() {
    as_processes("shm");
}

#[test]
fn differing_calls_of_processes_over_tcp() {
    as_processes("tcp");
    if harness::has_fabric() {
        as_processes("fabric");
    }
}

#[test]
fn differing_calls_of_threads() {
    let _turn = harness::turn();
    for transport in harness::between_threads() {
        harness::threads(WORLD, harness::options(transport), every_case);
    }
}

/// Joins four ranks of which one has other options.
fn with_other_options(transport: TransportChoice, odd: Rank, change: fn(&mut Options)) -> Vec<Result<Communicator>> {
    let id = UniqueId::with_interface("127.0.0.1").unwrap();
    let join = |rank| {
        let mut options = harness::options(transport);
        if rank == odd {
            change(&mut options);
        }
        let id = id.clone();
        std::thread::spawn(move || Communicator::init_with(&id, rank, WORLD, options))
    };
    let joining: Vec<_> = (0..WORLD).map(join).collect();
    joining.into_iter().map(|thread| thread.join().unwrap()).collect()
}

#[test]
fn differing_settings() {
    let _turn = harness::turn();
    type Change = fn(&mut Options);
    let changes: [(&str, Change); 5] = [
        ("algorithm", |options| options.algorithm = Some(Algorithm::Ring)),
        ("reproducible", |options| options.reproducible = true),
        ("channels", |options| options.channels = Some(2)),
        ("slice_bytes", |options| options.slice_bytes = Some(1 << 16)),
        ("stage_bytes", |options| options.stage_bytes = 1 << 18),
    ];
    for transport in harness::between_threads() {
        for (what, change) in changes {
            for odd in [0, 1, 3] {
                let joined = with_other_options(transport, odd, change);
                if transport == TransportChoice::Memory && ["channels", "stage_bytes"].contains(&what) {
                    // The layout of shared memory depends on these: they cannot even begin.
                    for (rank, joined) in joined.into_iter().enumerate() {
                        let error = joined.expect_err("no common layout").to_string();
                        assert!(error.contains("settings the same"), "{what} differs on {odd}, rank {rank}: {error}");
                    }
                    continue;
                }
                let comms = joined.into_iter().map(|comm| comm.expect("compared by the first call")).collect();
                harness::each(comms, move |comm| {
                    let called = Instant::now();
                    expect_mismatch(&comm, all_reduce(&comm, 1000, ReduceOp::Sum), what, odd);
                    assert!(called.elapsed() < SOON.min(PATIENCE), "{what}: {:?}", called.elapsed());
                });
            }
        }
    }
}
