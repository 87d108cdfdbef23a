//! Four ranks as threads of one process add up their numbers: `cargo run --example hello`.
use roundel::{Communicator, Options, ReduceOp, Result};

fn main() -> Result<()> {
    let ranks: Vec<_> = Communicator::threads(4, Options::default())?
        .into_iter()
        .map(|comm| {
            std::thread::spawn(move || {
                let mut data = [comm.rank() as f32 + 1.0; 3];
                comm.all_reduce_in_place(&mut data, ReduceOp::Sum)?;
                println!("rank {} of {}: {data:?}", comm.rank(), comm.world());
                Ok(())
            })
        })
        .collect();
    ranks.into_iter().try_for_each(|rank| rank.join().expect("a rank panicked"))
}
