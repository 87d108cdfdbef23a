//! Different roots over links. The links of a rooted collective depend on its root, so each rank may find everything that
//! it looks at in order; that all notice all the same is what this asks.

use roundel::{Communicator, Error, Options, ReduceOp, Result, TransportChoice};

/// One call; the root is what it is given.
type Rooted = fn(&Communicator, usize) -> Result<()>;

const CALLS: [(&str, Rooted); 4] = [
    ("broadcast", |comm, root| comm.broadcast(&mut [comm.rank() as f32; 300], root)),
    ("reduce", |comm, root| comm.reduce(&[1.0f32; 300], &mut [0.0; 300], ReduceOp::Sum, root)),
    ("gather", |comm, root| comm.gather(&[1.0f32; 10], &mut vec![0.0; 10 * comm.world()], root)),
    ("scatter", |comm, root| comm.scatter(&vec![1.0f32; 10 * comm.world()], &mut [0.0; 10], root)),
];

#[test]
fn another_root_is_noticed_over_links_whatever_each_rank_looks_at() {
    for world in [2, 3, 5] {
        for (name, call) in CALLS {
            let options = Options { transport: TransportChoice::Tcp, ..Options::default() };
            let ranks = Communicator::threads(world, options).unwrap();
            let outcomes: Vec<_> = std::thread::scope(|scope| {
                let threads: Vec<_> = ranks
                    .iter()
                    .map(|comm| {
                        scope.spawn(move || {
                            let root = usize::from(comm.rank() == 1);
                            // Who only gave may have returned before the news; the barrier waits for it.
                            (call(comm, root), comm.barrier())
                        })
                    })
                    .collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            for (rank, (first, second)) in outcomes.into_iter().enumerate() {
                let error = first.and(second).unwrap_err();
                let Error::Mismatch { mine, theirs, .. } = &error else { panic!("{name}, rank {rank}: {error}") };
                // A rank whose part was done is told by its next call, so the calls shown may be the two's next and last.
                assert_ne!(mine, theirs, "{name} in a world of {world}, rank {rank}");
            }
        }
    }
}
