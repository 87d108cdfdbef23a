//! What an error says of the call that it ended: how far that had come, and whether its input is still there.

use super::harness::{self, Job, RootIn, Scenario, say};
use roundel::error::Interrupted;
use roundel::{BufferState, Communicator, Element, Error, Rank, ReduceOp, Result, TransportChoice};

const WORLD: usize = 3;
const COUNT: usize = 2 << 20;
/// Kills until one has fallen into the middle of a call in place, which nearly every one does.
const ATTEMPTS: usize = 20;

pub const SCENARIOS: &[Scenario] = &[("cut", cut)];

/// Reduces until a rank dies, one of three ways, and tells what is left.
fn cut(comm: Communicator) {
    let given: Vec<u64> = (0..COUNT as u64).map(|at| at << 8 | 1 << comm.rank()).collect();
    let (mut data, mut sums) = (given.clone(), vec![0u64; COUNT]);
    let how = std::env::var("FAILURES_HOW").unwrap();
    let mut reduce = || -> Result<()> {
        data.copy_from_slice(&given);
        match how.as_str() {
            "in place" => comm.all_reduce_in_place(&mut data, ReduceOp::Sum),
            "apart" => comm.all_reduce(&data, &mut sums, ReduceOp::Sum),
            "preserving" => comm.all_reduce_preserving(&mut data, ReduceOp::Sum),
            how => unreachable!("{how}"),
        }
    };
    reduce().unwrap();
    say("ready");
    let error = loop {
        if let Err(error) = reduce() {
            break error;
        }
    };
    assert!(matches!(error, Error::PeerLost { .. }), "{error}");
    if error.buffer() == BufferState::Intact {
        assert!(data == given, "{error}");
    }
    refused(&comm, &error);
    // The news may come between two calls.
    let progress = error.interrupted().and_then(|call| call.progress);
    if let Some(progress) = progress {
        assert!(progress.done_bytes <= progress.total_bytes && progress.total_bytes > 0, "{error}");
        assert!(error.to_string().contains(&format!("({progress}, {})", error.buffer())), "{error}");
    }
    say(format_args!("left {:?} {}", error.buffer(), progress.is_some()));
}

/// What is called afterwards does not begin.
fn refused(comm: &Communicator, error: &Error) {
    let mut data = [7u32; 100];
    let later = comm.all_reduce_in_place(&mut data, ReduceOp::Sum).unwrap_err();
    assert_eq!((later.fault(), later.buffer(), data), (error.fault(), BufferState::Intact, [7; 100]));
    assert!(later.interrupted().is_none_or(|call| call.progress.is_none()), "{later}");
}

/// Kills a rank in the middle of its calls; what the others say is left.
fn left_by(how: &str, transport: &str) -> Vec<String> {
    let mut job = Job::start("cut", WORLD, RootIn::Parent, &[("ROUNDEL_TRANSPORT", transport), ("FAILURES_HOW", how)]);
    let others: Vec<Rank> = (1..WORLD).collect();
    job.wait_for_all(&[0, 1, 2], "ready");
    job.kill(0);
    let left = job.wait_for_all(&others, "left");
    job.succeed(&others);
    println!("{how} over {transport}: {left:?}");
    left
}

#[test]
fn in_place_and_cut_in_the_middle_the_buffer_is_undefined() {
    let _turn = harness::turn();
    for transport in ["shm", "tcp"] {
        let is_cut = |_| left_by("in place", transport).contains(&"Undefined true".to_string());
        assert!((0..ATTEMPTS).any(is_cut), "{transport}");
    }
}

#[test]
fn with_an_output_of_its_own_and_preserving_the_input_is_intact() {
    let _turn = harness::turn();
    for transport in ["shm", "tcp"] {
        for how in ["apart", "preserving"] {
            assert!(left_by(how, transport).iter().all(|left| left.starts_with("Intact")), "{how} over {transport}");
        }
    }
}

#[test]
fn a_call_that_differs_is_refused_before_it_touches_anything() {
    let _turn = harness::turn();
    for transport in [TransportChoice::Memory, TransportChoice::Tcp] {
        for count in [100, 100_000] {
            harness::threads(2, harness::options(transport), move |comm| {
                let mut data = vec![comm.rank() as u32; count + comm.rank()];
                let error = comm.all_reduce_in_place(&mut data, ReduceOp::Sum).unwrap_err();
                assert!(matches!(error, Error::Mismatch { .. }), "{error}");
                assert_eq!(error.buffer(), BufferState::Intact, "{error}");
                assert!(data.iter().all(|&element| element == comm.rank() as u32));
                let Some(Interrupted { op, progress: Some(progress), .. }) = error.interrupted() else {
                    panic!("{error}")
                };
                assert!(op.sequence == 0 && progress.done_bytes < progress.total_bytes, "{error}");
                refused(&comm, &error);
            });
        }
    }
}

/// Scaling is the beginning of a pre-multiplied sum; in place it goes into the input.
#[test]
fn what_was_scaled_in_place_is_gone() {
    let _turn = harness::turn();
    harness::threads(2, harness::options(TransportChoice::Memory), |comm| {
        if comm.rank() == 1 {
            return;
        }
        let (given, mut output) = ([1.0f32; 10], [0.0f32; 10]);
        let twice = ReduceOp::PreMulSum(2.0f32.scalar());
        let mut data = given;
        let error = comm.all_reduce_in_place(&mut data, twice).unwrap_err();
        let began = error.interrupted().is_some_and(|call| call.progress.is_some());
        let expected = if began { (BufferState::Undefined, [2.0; 10]) } else { (BufferState::Intact, given) };
        assert_eq!((error.buffer(), data), expected, "{error}");
        let error = comm.all_reduce(&given, &mut output, twice).unwrap_err();
        assert_eq!((error.buffer(), given), (BufferState::Intact, [1.0; 10]));
    });
}
