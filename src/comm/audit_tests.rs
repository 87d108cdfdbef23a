//! `verify_results`: a rank whose result is wrong is found out, by all, and named.
#![forbid(unsafe_code)]

use super::*;
use crate::engine::SPOILS;
use crate::topology::TransportChoice;
use crate::types::ReduceOp;
use std::time::Duration;

fn options(transport: TransportChoice) -> Options {
    let timeout = Duration::from_secs(60);
    Options { transport, timeout, init_timeout: timeout, verify_results: true, ..Options::default() }
}

/// What each rank of `world` gets from `calls`, where the results of some are spoiled from the start.
fn outcomes(
    world: usize,
    transport: TransportChoice,
    spoiled: &[Rank],
    calls: impl Fn(&Communicator) -> Result<()> + Sync,
) -> Vec<Result<()>> {
    let comms = Communicator::threads(world, options(transport)).unwrap();
    std::thread::scope(|scope| {
        let run = |comm: Communicator| {
            let calls = &calls;
            scope.spawn(move || {
                SPOILS.set(spoiled.contains(&comm.rank()));
                calls(&comm)
            })
        };
        let running: Vec<_> = comms.into_iter().map(run).collect();
        running.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

fn all_three(comm: &Communicator) -> Result<()> {
    for count in [0, 1, 1000, 70_000] {
        let mut data = vec![comm.rank() as u32; count];
        comm.all_reduce_in_place(&mut data, ReduceOp::Sum)?;
        comm.broadcast(&mut data, comm.world() - 1)?;
        let mut all = vec![0u32; count * comm.world()];
        comm.all_gather(&data, &mut all)?;
        // Not audited: every rank has another result.
        let mut part = vec![0u32; count];
        comm.reduce_scatter(&all, &mut part, ReduceOp::Max)?;
        comm.barrier()?;
    }
    Ok(())
}

#[test]
fn good_results_pass() {
    for transport in [TransportChoice::Auto, TransportChoice::Tcp] {
        for world in [1, 2, 3] {
            for outcome in outcomes(world, transport, &[], all_three) {
                assert_eq!(outcome, Ok(()));
            }
        }
    }
}

#[test]
fn the_rank_that_differs_is_named_on_all() {
    let calls: [fn(&Communicator) -> Result<()>; 4] = [
        |comm| comm.all_reduce_in_place(&mut [1.5f32; 300], ReduceOp::Sum),
        |comm| comm.broadcast(&mut [comm.rank() as u8; 5], 0),
        |comm| comm.all_gather(&[comm.rank() as u64; 40_000], &mut vec![0; comm.world() * 40_000]),
        |comm| {
            let mut data = [7i32; 3];
            comm.group(|group| group.all_reduce_in_place(&mut data, ReduceOp::Max))
        },
    ];
    for transport in [TransportChoice::Auto, TransportChoice::Tcp] {
        for (index, call) in calls.iter().enumerate() {
            let outcomes = outcomes(4, transport, &[2], call);
            for outcome in &outcomes {
                let Err(Error::Corrupted { suspects, what, during }) = outcome else { panic!("{index}: {outcome:?}") };
                assert_eq!(suspects, &[2], "{index}: {what}");
                assert!(what.contains("another result than most ranks"), "{what}");
                assert_eq!(during.unwrap().op.sequence, 0, "the call is named, not its audit");
            }
        }
    }
}

#[test]
fn without_a_majority_all_are_named() {
    for outcome in outcomes(2, TransportChoice::Auto, &[1], |comm| comm.broadcast(&mut [1u8; 9], 0)) {
        let Err(Error::Corrupted { suspects, what, .. }) = outcome else { panic!("{outcome:?}") };
        assert_eq!(suspects, [0, 1]);
        assert!(what.contains("different results"), "{what}");
    }
}

#[test]
fn unaudited_the_difference_goes_unnoticed() {
    let comms = Communicator::threads(2, Options { verify_results: false, ..options(TransportChoice::Auto) }).unwrap();
    std::thread::scope(|scope| {
        for comm in comms {
            scope.spawn(move || {
                SPOILS.set(comm.rank() == 1);
                comm.broadcast(&mut [1u8; 9], 0).unwrap();
            });
        }
    });
}

#[test]
fn ranks_that_do_not_agree_whether_to_verify_are_told() {
    let id = UniqueId::with_interface("127.0.0.1").unwrap();
    std::thread::scope(|scope| {
        for rank in 0..2 {
            let id = &id;
            scope.spawn(move || {
                let options = Options { verify_results: rank == 1, ..options(TransportChoice::Tcp) };
                let comm = Communicator::init_with(id, rank, 2, options).unwrap();
                let error = comm.all_reduce_in_place(&mut [1i32; 4], ReduceOp::Sum).unwrap_err();
                assert!(matches!(error, Error::Mismatch { .. }), "{error}");
            });
        }
    });
}

#[test]
fn ranks_that_do_not_agree_about_encryption_are_told_at_once() {
    let id = UniqueId::with_interface("127.0.0.1").unwrap();
    let started = Instant::now();
    let join = |rank: Rank, encrypt| {
        let options = Options { encrypt, init_timeout: Duration::from_secs(8), ..options(TransportChoice::Tcp) };
        let id = id.clone();
        std::thread::spawn(move || Communicator::init_with(&id, rank, 3, options).map(drop))
    };
    let ranks = [join(0, true), join(1, true), join(2, false)];
    let errors: Vec<String> = ranks.into_iter().map(|rank| rank.join().unwrap().unwrap_err().to_string()).collect();
    assert!(
        errors.iter().any(|error| error.contains("ROUNDEL_ENCRYPT=1") && error.contains("ROUNDEL_ENCRYPT=0")),
        "{errors:?}"
    );
    // Those who were there first wait for the missing rank, and no longer.
    assert!(started.elapsed() < Duration::from_secs(60));
}
