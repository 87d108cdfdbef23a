//! Nonsense from outside: a clear error, and the communicator goes on where it can.

use super::harness::{self, Job, RootIn, Scenario};
use roundel::bootstrap::launcher;
use roundel::memory::Span;
use roundel::{
    Call, Collective, Communicator, Counts, DType, Error, Options, ReduceOp, Result, TransportChoice, UniqueId,
};
use std::net::TcpListener;
use std::time::{Duration, Instant};

pub const SCENARIOS: &[Scenario] = &[("refused", |comm| panic!("{comm:?} was made of nonsense"))];

fn raw(collective: Collective, counts: Counts, input: Span, output: Span) -> Call {
    let op = collective.reduces().then_some(ReduceOp::Sum);
    Call { collective, dtype: DType::F32, op, root: 0, peer: 0, counts, input, output }
}

/// A bad call, and words that its error must have.
type Bad = (&'static str, &'static str, fn(&Communicator) -> Result<()>);

const BAD: &[Bad] = &[
    ("count that overflows", "overflows", |comm| {
        comm.run(&raw(Collective::AllReduce, Counts::Even(usize::MAX / 2), Span::EMPTY, Span::EMPTY))
    }),
    ("blocks that overflow together", "overflows", |comm| {
        comm.run(&raw(Collective::AllGather, Counts::Even(usize::MAX / 4 - 1), Span::EMPTY, Span::EMPTY))
    }),
    ("counts that overflow together", "overflows", |comm| {
        comm.run(&raw(Collective::AllGather, Counts::Blocks(vec![usize::MAX / 8; 2]), Span::EMPTY, Span::EMPTY))
    }),
    ("output too short", "needs 40", |comm| comm.all_reduce(&[1f32; 10], &mut [0f32; 9], ReduceOp::Sum)),
    ("output too long", "needs 40", |comm| comm.all_reduce(&[1f32; 10], &mut [0f32; 11], ReduceOp::Sum)),
    ("no block for a rank", "output", |comm| comm.all_gather(&[1u8; 10], &mut [0u8; 10])),
    ("reduce_scatter of too little", "input", |comm| comm.reduce_scatter(&[1i64; 5], &mut [0; 5], ReduceOp::Sum)),
    ("blocks that do not come out even", "equal blocks", |comm| comm.all_to_all_in_place(&mut [1u8; 3])),
    ("too few counts", "1 counts for 2 ranks", |comm| comm.all_gather_v(&[1u8], &mut [0u8], &[1])),
    ("too many pair counts", "3 send counts for 2 ranks", |comm| {
        comm.all_to_all_v(&[1u8; 3], &[1; 3], &mut [0u8; 2], &[1; 2])
    }),
    ("unequal counts to itself", "sends itself", |comm| {
        let mut counts = [1, 1];
        counts[comm.rank()] = 2;
        comm.all_to_all_v(&[1u8; 3], &counts, &mut [0u8; 2], &[1; 2])
    }),
    ("counts for the wrong collective", "per-rank counts", |comm| {
        comm.run(&raw(Collective::AllReduce, Counts::Blocks(vec![0, 0]), Span::EMPTY, Span::EMPTY))
    }),
    ("overlapping buffers", "overlap", |comm| {
        let mut data = [0f32; 15];
        // SAFETY: the array outlives the call and nothing else touches it.
        let whole = unsafe { Span::new(data.as_mut_ptr().cast(), 60) };
        comm.run(&raw(Collective::AllReduce, Counts::Even(10), whole.cut(0, 40), whole.cut(20, 40)))
    }),
    ("misaligned buffer", "not aligned", |comm| {
        let mut data = [0f32; 12];
        // SAFETY: as above.
        let whole = unsafe { Span::new(data.as_mut_ptr().cast(), 48) };
        comm.run(&raw(Collective::AllReduce, Counts::Even(10), whole.cut(1, 40), whole.cut(1, 40)))
    }),
    ("root outside", "root 2 in a world of 2", |comm| comm.broadcast(&mut [0u8], 2)),
    ("root far outside", "root 18446744073709551615", |comm| comm.reduce(&[1u8], &mut [0], ReduceOp::Sum, usize::MAX)),
    ("unknown receiver", "peer 7 in a world of 2", |comm| comm.send(&[1u8], 7)),
    ("unknown sender", "root 7 in a world of 2", |comm| comm.recv(&mut [1u8], 7)),
    ("message of others", "no part in a message", |comm| {
        let other = 1 - comm.rank();
        let call = raw(Collective::SendRecv, Counts::Even(0), Span::EMPTY, Span::EMPTY);
        comm.run(&Call { root: other, peer: other, ..call })
    }),
    ("bits of floats", "integers", |comm| comm.all_reduce_in_place(&mut [1f32], ReduceOp::BitXor)),
    ("reduction without a reduction", "needs a reduction", |comm| {
        comm.run(&Call { op: None, ..raw(Collective::AllReduce, Counts::Even(0), Span::EMPTY, Span::EMPTY) })
    }),
    ("message to itself", "one group", |comm| comm.send(&[1u8], comm.rank())),
    ("message from itself", "one group", |comm| comm.recv(&mut [1u8], comm.rank())),
    ("half a message to itself", "1 sends to this rank itself but 0 receives", |comm| {
        comm.group(|group| group.send(&[1u8], comm.rank()))
    }),
    ("half a message to itself, started", "0 sends to this rank itself but 1 receives", |comm| {
        let mut data = [0u8];
        // SAFETY: the byte outlives the call, which starts nothing.
        let output = unsafe { Span::new(data.as_mut_ptr(), 1) };
        let half = raw(Collective::SendRecv, Counts::Even(1), Span::EMPTY, output);
        let me = comm.rank();
        comm.start_group(vec![Call { dtype: DType::U8, root: me, peer: me, ..half }]).map(drop)
    }),
    ("explaining a root outside", "root 2 in a world of 2", |comm| {
        comm.explain(Collective::Broadcast, DType::U8, None, 1, 2, false, false).map(drop)
    }),
    ("explaining what overflows", "overflows", |comm| {
        comm.explain(Collective::AllGather, DType::F32, None, usize::MAX / 2, 0, false, false).map(drop)
    }),
    ("bad call in a group", "integers", |comm| {
        let (mut good, mut bad) = ([1u8; 4], [1f64; 4]);
        comm.group(|group| {
            group.all_reduce_in_place(&mut good, ReduceOp::Sum)?;
            group.all_reduce_in_place(&mut bad, ReduceOp::BitOr)
        })
    }),
    ("memory without end", "overflow", |comm| comm.alloc::<f64>(usize::MAX / 4).map(drop)),
];

#[test]
fn nonsense_is_refused_and_the_communicator_goes_on() {
    let _turn = harness::turn();
    for transport in harness::between_threads() {
        harness::threads(2, harness::options(transport), |comm| {
            for (what, words, call) in BAD {
                let error = call(&comm).expect_err(what);
                assert!(matches!(error, Error::Invalid { .. }) && error.is_recoverable(), "{what}: {error:?}");
                assert!(error.to_string().contains(words), "{what}: {error}");
                let mut data = [comm.rank() as u32 + 1; 50];
                comm.all_reduce_in_place(&mut data, ReduceOp::Sum).unwrap();
                assert_eq!(data, [3; 50], "after {what}");
            }
            assert_eq!(comm.group(|_| Ok(())), Ok(()), "an empty group does nothing");
            // One rank's refusal is its own affair: the others wait until it does better.
            if comm.rank() == 0 {
                comm.all_reduce(&[1u8; 3], &mut [0u8; 2], ReduceOp::Sum).unwrap_err();
            }
            comm.all_reduce_in_place(&mut [1u8; 3], ReduceOp::Sum).unwrap();
        });
    }
}

fn soon(init_timeout_ms: u64) -> Options {
    Options { init_timeout: Duration::from_millis(init_timeout_ms), ..Options::default() }
}

fn joining(id: &UniqueId, ranks: &[usize], world: usize, options: Options) -> Vec<Result<Communicator>> {
    let join = |&rank: &usize| {
        let (id, options) = (id.clone(), options.clone());
        std::thread::spawn(move || Communicator::init_with(&id, rank, world, options))
    };
    let joining: Vec<_> = ranks.iter().map(join).collect();
    joining.into_iter().map(|thread| thread.join().expect("no panic")).collect()
}

#[test]
fn worlds_that_cannot_be() {
    let id = UniqueId::with_interface("127.0.0.1").unwrap();
    for (rank, world) in [(0, 0), (1, 1), (5, 2), (usize::MAX, 2), (0, usize::MAX)] {
        let error = Communicator::init_with(&id, rank, world, soon(1000)).expect_err("no such rank");
        assert!(matches!(error, Error::Invalid { .. }), "rank {rank} of {world}: {error:?}");
    }
    assert!(matches!(Communicator::threads(0, soon(1000)), Err(Error::Invalid { .. })));
    for options in [Options { channels: Some(0), ..soon(1000) }, Options { timeout: Duration::ZERO, ..soon(1000) }] {
        assert!(matches!(Communicator::threads(2, options), Err(Error::Invalid { .. })));
    }
}

#[test]
fn who_is_missing_is_named_in_time() {
    let _turn = harness::turn();
    let id = UniqueId::with_interface("127.0.0.1").unwrap();
    let began = Instant::now();
    for joined in joining(&id, &[0, 1, 3], 5, soon(700)) {
        let error = joined.expect_err("two ranks are missing");
        let Error::Bootstrap { missing, .. } = &error else { panic!("{error:?}") };
        assert_eq!(missing, &[2, 4], "{error}");
    }
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}

#[test]
fn the_same_rank_twice_is_refused() {
    let _turn = harness::turn();
    let id = UniqueId::with_interface("127.0.0.1").unwrap();
    let errors: Vec<String> = joining(&id, &[0, 0], 2, soon(1500))
        .into_iter()
        .map(|joined| joined.expect_err("rank 1 is missing").to_string())
        .collect();
    assert!(errors.iter().any(|error| error.contains("twice") || error.contains("already")), "{errors:?}");
    assert!(errors.iter().any(|error| error.contains("missing: rank 1")), "{errors:?}");
}

#[test]
fn worlds_of_different_size_do_not_meet() {
    let _turn = harness::turn();
    let id = UniqueId::with_interface("127.0.0.1").unwrap();
    let other = id.clone();
    let two = std::thread::spawn(move || Communicator::init_with(&other, 0, 2, soon(1500)));
    let three = Communicator::init_with(&id, 1, 3, soon(1500)).expect_err("the world has one size");
    let two = two.join().unwrap().expect_err("rank 1 thinks otherwise");
    let both = format!("{two} / {three}");
    assert!(both.contains("world of 3") || both.contains("world of 2") || both.contains("3 ranks"), "{both}");
}

#[test]
fn occupied_ports_are_an_error_that_names_them() {
    let _turn = harness::turn();
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = holder.local_addr().unwrap().port();
    let options = Options { port_range: Some(port.to_string().parse().unwrap()), ..soon(20_000) };
    let began = Instant::now();
    let error =
        Communicator::threads(2, Options { transport: TransportChoice::Tcp, ..options }).expect_err("no port is free");
    assert!(matches!(error, Error::System { errno: nix::libc::EADDRINUSE, .. }), "{error:?}");
    assert!(error.to_string().contains(&port.to_string()), "{error}");
    assert!(began.elapsed() < Duration::from_secs(10), "it need not wait for anybody: {:?}", began.elapsed());
}

#[test]
fn secret_files_that_are_none() {
    let folder = std::env::temp_dir().join(format!("roundel-secrets-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = |name: &str, content: &[u8]| {
        let path = folder.join(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_string()
    };
    let launch = |path: String| {
        launcher::detect(&|name| match name {
            "ROUNDEL_RANK" => Some("0".into()),
            "ROUNDEL_WORLD_SIZE" => Some("2".into()),
            "ROUNDEL_MASTER_ADDR" => Some("127.0.0.1".into()),
            "ROUNDEL_SECRET_FILE" => Some(path.clone()),
            _ => None,
        })
    };
    for path in [
        file("short", b"abc"),
        file("empty", b""),
        file("long", &[7; 100]),
        folder.join("missing").to_str().unwrap().to_string(),
        folder.to_str().unwrap().to_string(),
        "/dev/zero".to_string(),
    ] {
        let error = launch(path.clone()).expect_err("no secret in there").to_string();
        assert!(error.contains("ROUNDEL_SECRET_FILE") && error.contains(&path), "{error}");
    }
    assert!(launch(file("good", &[9; 32])).unwrap().is_some());
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn unknown_settings_name_their_variable() {
    let _turn = harness::turn();
    for (variable, value) in [
        ("ROUNDEL_ALGO", "fastest"),
        ("ROUNDEL_TRANSPORT", "pigeon"),
        ("ROUNDEL_TIMEOUT_MS", "soon"),
        ("ROUNDEL_INIT_TIMEOUT_MS", "-1"),
        ("ROUNDEL_CHANNELS", "1000"),
        ("ROUNDEL_SOCKETS", "none"),
        ("ROUNDEL_REPRODUCIBLE", "perhaps"),
        ("ROUNDEL_PORT_RANGE", "9-1"),
        ("ROUNDEL_IFACE", "no-such-interface0"),
        ("ROUNDEL_STAGE_BYTES", "3"),
        ("ROUNDEL_RING_BYTES", "1000"),
        ("ROUNDEL_UNIQUE_ID", "0123abcd"),
        ("ROUNDEL_RANK", "first"),
        ("ROUNDEL_RANK", "3"),
        ("ROUNDEL_WORLD_SIZE", "0"),
    ] {
        let mut job = Job::start("refused", 1, RootIn::Parent, &[(variable, value)]);
        let error = job.wait_for(0, "refused");
        assert!(error.contains(variable), "{variable}={value}: {error}");
        assert_eq!(job.end_of(0).code(), Some(1));
    }
}
