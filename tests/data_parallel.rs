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
use roundel::{Communicator, Options, Result};
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

#[test]
fn reproducible_weights_do_not_depend_on_transport_or_algorithm() {
    let digits = digits::load();
    for world in [2, 3, 5] {
        let reproducible = || Options { reproducible: true, ..Options::default() };
        let reference = trained(world, 2, reproducible(), &digits).unwrap();
        for transport in [TransportChoice::Memory, TransportChoice::Shm, TransportChoice::Tcp] {
            let end = trained(world, 2, Options { transport, ..reproducible() }, &digits).unwrap();
            assert_eq!(end, reference, "{world} ranks, {transport:?}");
        }
        let mut compared = 0;
        for algorithm in Algorithm::ALL {
            for transport in [TransportChoice::Memory, TransportChoice::Tcp] {
                let options = Options { algorithm: Some(algorithm), transport, ..reproducible() };
                // Not every algorithm can do every collective or keeps the order; what runs must agree.
                let Ok(end) = trained(world, 2, options, &digits) else { continue };
                assert_eq!(end, reference, "{world} ranks, {algorithm:?}, {transport:?}");
                compared += 1;
            }
        }
        assert!(compared >= 4, "{world} ranks: only {compared} combinations ran");
    }
}
