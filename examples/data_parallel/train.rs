//! One rank's part of the training.
//!
//! Every rank holds the whole network and takes its share of every batch. The second layer's gradient is ready before the
//! first's, so its all-reduce travels while the other is computed:
//!
//! ```text
//!   forward | gradient 2 | gradient 1 | wait | update
//!                        |--- all-reduce 2 ---|
//!                                     |-- all-reduce 1 --|
//! ```

use super::digits::Digits;
use super::mlp::{Mlp, Random};
use roundel::{Communicator, ReduceOp, Result};

/// Images per step, over all ranks; rounded up to a multiple of their number.
const BATCH: usize = 32;
const RATE: f32 = 0.05;
const MOMENTUM: f32 = 0.9;

/// How the network does after an epoch; the same on every rank.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Progress {
    /// Passes over the training images so far.
    pub epoch: usize,
    /// Mean cross-entropy in this pass.
    pub loss: f32,
    /// The share of held-out images that it recognises.
    pub accuracy: f64,
    /// A hash of the weights.
    pub digest: u64,
}

/// Trains together with the other ranks and returns how it ended; `on_epoch` sees how it goes.
pub fn train(
    comm: &Communicator,
    digits: &Digits,
    epochs: usize,
    mut on_epoch: impl FnMut(Progress),
) -> Result<Option<Progress>> {
    let (rank, world) = (comm.rank(), comm.world());
    // Every rank begins with other weights; rank 0's are the ones that count.
    let mut mlp = Mlp::random(rank as u64 + 1);
    comm.broadcast(&mut mlp.first.numbers, 0)?;
    comm.broadcast(&mut mlp.second.numbers, 0)?;
    let mut velocity = Mlp::zeros();

    let share = BATCH.div_ceil(world);
    let mut order: Vec<usize> = (0..digits.training.len()).collect();
    let mut random = Random(0x5eed);
    let mut last = None;
    for epoch in 1..=epochs {
        random.shuffle(&mut order);
        let mut loss = [0.0f32];
        let mut steps = 0;
        // What is left over at the end of an epoch waits for the next shuffle.
        for batch in order.chunks_exact(share * world) {
            let batch = mlp.forward(&digits.training, &batch[rank * share..(rank + 1) * share]);
            let second = comm.start_all_reduce(mlp.second_gradient(&batch), ReduceOp::Avg)?;
            let first = comm.start_all_reduce(mlp.first_gradient(&batch, &digits.training), ReduceOp::Avg)?;
            mlp.second.descend(&second.wait()?, &mut velocity.second.numbers, RATE, MOMENTUM);
            mlp.first.descend(&first.wait()?, &mut velocity.first.numbers, RATE, MOMENTUM);
            loss[0] += batch.loss;
            steps += 1;
        }
        comm.all_reduce_in_place(&mut loss, ReduceOp::Avg)?;
        let mine = (rank..digits.held_out.len()).step_by(world);
        let mut right = [mlp.count_right(&digits.held_out, mine)];
        comm.all_reduce_in_place(&mut right, ReduceOp::Sum)?;
        let progress = Progress {
            epoch,
            loss: loss[0] / steps.max(1) as f32,
            accuracy: right[0] as f64 / digits.held_out.len() as f64,
            digest: mlp.digest(),
        };
        on_epoch(progress);
        last = Some(progress);
    }
    Ok(last)
}
