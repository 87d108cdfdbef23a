//! The training example: it learns, and in reproducible mode the weights at the end are the same bits whatever carries
//! the gradients and whichever algorithm adds them up.

#[path = "../examples/data_parallel/digits.rs"]
mod digits;
#[path = "../examples/data_parallel/mlp.rs"]
mod mlp;
#[path = "../examples/data_parallel/train.rs"]
mod train;

use digits::Digits;
use roundel::schedule::catalogue::Algorithm;
use roundel::topology::TransportChoice;
use roundel::{Communicator, Error, Options, Result};
use train::Progress;

/// Trains with as many threads as ranks; every rank must end with the same.
fn trained(world: usize, epochs: usize, options: Options, digits: &Digits) -> Result<Progress> {
    let ranks = Communicator::threads(world, options)?;
    std::thread::scope(|scope| {
        let ranks: Vec<_> =
            ranks.iter().map(|comm| scope.spawn(|| train::train(comm, digits, epochs, |_| {}))).collect();
        let ends: Result<Vec<_>> = ranks.into_iter().map(|rank| rank.join().unwrap()).collect();
        let ends = ends?;
        assert!(ends.iter().all(|end| *end == ends[0]), "ranks disagree: {ends:?}");
        Ok(ends[0].expect("at least one epoch"))
    })
}

#[test]
fn it_learns_to_read() {
    let end = trained(4, 15, Options::default(), &digits::load()).unwrap();
    assert!(end.accuracy > 0.93, "{end:?}");
    assert!(end.loss < 0.2, "{end:?}");
}

fn reproducible() -> Options {
    Options { reproducible: true, ..Options::default() }
}

#[test]
fn reproducible_weights_do_not_depend_on_the_transport() {
    let digits = digits::load();
    for world in [2, 3, 4] {
        let [memory, shm, tcp] = [TransportChoice::Memory, TransportChoice::Shm, TransportChoice::Tcp]
            .map(|transport| trained(world, 1, Options { transport, ..reproducible() }, &digits).unwrap());
        assert_eq!(memory, shm, "{world} ranks");
        assert_eq!(memory, tcp, "{world} ranks");
    }
}

#[test]
fn reproducible_weights_do_not_depend_on_the_algorithm() {
    let digits = digits::load();
    let reference = trained(3, 1, reproducible(), &digits).unwrap();
    let mut kept_the_order = Vec::new();
    for algorithm in Algorithm::ALL {
        match trained(3, 1, Options { algorithm: Some(algorithm), ..reproducible() }, &digits) {
            Ok(end) => {
                assert_eq!(end, reference, "{algorithm:?}");
                kept_the_order.push(algorithm);
            }
            // Those that cannot keep the order say so.
            Err(error) => assert!(matches!(error, Error::Unsupported { .. }), "{algorithm:?}: {error}"),
        }
    }
    for algorithm in [Algorithm::OneShot, Algorithm::FlatPush, Algorithm::Staged, Algorithm::Direct] {
        assert!(kept_the_order.contains(&algorithm), "{algorithm:?} was refused");
    }
}
