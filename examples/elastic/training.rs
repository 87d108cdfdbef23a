//! The training in steps. What a step adds to the weights does not depend on how many ranks share its images: every image's
//! gradient is rounded to an integer, and sums of integers are the same in whatever order and groups they are made.

use super::digits::Digits;
use super::mlp::{Mlp, Random};
use roundel::elastic::Stepwise;
use roundel::{Communicator, Error, ReduceOp, Result};
use std::cell::Cell;

/// Images per step, over all ranks.
const BATCH: usize = 32;
const RATE: f32 = 0.05;
const MOMENTUM: f32 = 0.9;
/// Integers per unit of gradient or loss.
const SCALE: f64 = (1u64 << 32) as f64;

/// How the network does after an epoch; the same on every rank.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Progress {
    /// Passes over the training images so far.
    pub epoch: u64,
    /// Mean cross-entropy in this pass.
    pub loss: f64,
    /// The share of held-out images that it recognises.
    pub accuracy: f64,
}

/// What each rank holds.
pub struct Training<'a> {
    digits: &'a Digits,
    /// Passes over the training images, at least.
    epochs: u64,
    /// Ranks that are to be replaced. Who takes their places has this number or a higher one, and until all have come it goes
    /// on.
    doomed: usize,
    steps: u64,
    /// How many of those made the last step.
    newcomers: u64,
    /// Summed over this epoch so far.
    loss: i64,
    weights: Mlp,
    velocity: Mlp,
    /// The images in this epoch's order.
    order: Vec<usize>,
    /// The epoch of the communicator with which the last step was made.
    made_with: Cell<Option<u32>>,
    on_members: Box<dyn Fn(&Communicator) + 'a>,
    on_epoch: Box<dyn FnMut(Progress) + 'a>,
}

impl<'a> Training<'a> {
    /// The same on every rank. It ends after so many epochs, and not before the ranks below `doomed` have been replaced;
    /// `on_members` hears with whom the first step is made and every first step with others, `on_epoch` how it goes.
    pub fn new(
        digits: &'a Digits,
        epochs: u64,
        doomed: usize,
        on_members: impl Fn(&Communicator) + 'a,
        on_epoch: impl FnMut(Progress) + 'a,
    ) -> Training<'a> {
        let mut training = Training {
            digits,
            epochs,
            doomed,
            steps: 0,
            newcomers: 0,
            loss: 0,
            weights: Mlp::random(1),
            velocity: Mlp::zeros(),
            order: Vec::new(),
            made_with: Cell::new(None),
            on_members: Box::new(on_members),
            on_epoch: Box::new(on_epoch),
        };
        training.shuffle();
        training
    }

    /// Epochs that are complete.
    pub fn epochs_done(&self) -> u64 {
        self.steps / self.steps_an_epoch()
    }

    /// A hash of the weights.
    pub fn digest(&self) -> u64 {
        self.weights.digest()
    }

    /// What is left over at the end of an epoch waits for the next shuffle.
    fn steps_an_epoch(&self) -> u64 {
        (self.digits.training.len() / BATCH) as u64
    }

    /// The images in the order of this epoch, which follows from its number alone.
    fn shuffle(&mut self) {
        self.order = (0..self.digits.training.len()).collect();
        Random(0x5eed + self.epochs_done()).shuffle(&mut self.order);
    }

    fn layers(&self) -> [&Vec<f32>; 4] {
        let (weights, velocity) = (&self.weights, &self.velocity);
        [&weights.first.numbers, &weights.second.numbers, &velocity.first.numbers, &velocity.second.numbers]
    }
}

fn round(value: f32) -> i64 {
    (f64::from(value) * SCALE).round() as i64
}

/// The mean over a batch, of the sum over it.
fn mean(sum: &[i64]) -> Vec<f32> {
    sum.iter().map(|&sum| (sum as f64 / SCALE / BATCH as f64) as f32).collect()
}

impl Stepwise for Training<'_> {
    /// Summed over the batch: the gradient of the first layer, of the second, the loss; and the number of newcomers.
    type Update = Vec<i64>;

    fn steps_done(&self) -> u64 {
        self.steps
    }

    fn is_done(&self) -> bool {
        let is_end = self.steps.is_multiple_of(self.steps_an_epoch());
        is_end && self.epochs_done() >= self.epochs && self.newcomers >= self.doomed as u64
    }

    fn step(&self, comm: &Communicator) -> Result<Vec<i64>> {
        let (rank, world) = (comm.rank(), comm.world());
        let start = (self.steps % self.steps_an_epoch()) as usize * BATCH;
        let batch = &self.order[start..start + BATCH];
        let mine = &batch[rank * BATCH / world..(rank + 1) * BATCH / world];
        let (first, second) = (self.weights.first.numbers.len(), self.weights.second.numbers.len());
        let mut sums = vec![0; first + second + 2];
        for &image in mine {
            let batch = self.weights.forward(&self.digits.training, &[image]);
            let gradients =
                [self.weights.first_gradient(&batch, &self.digits.training), self.weights.second_gradient(&batch)];
            for (sum, gradient) in sums.iter_mut().zip(gradients.into_iter().flatten()) {
                *sum += round(gradient);
            }
            sums[first + second] += round(batch.loss);
        }
        sums[first + second + 1] = i64::from(comm.members()[rank] >= self.doomed);
        comm.all_reduce_in_place(&mut sums, ReduceOp::Sum)?;
        if self.made_with.replace(Some(comm.epoch())) != Some(comm.epoch()) {
            (self.on_members)(comm);
        }
        Ok(sums)
    }

    fn apply(&mut self, sums: Vec<i64>) {
        let (first, rest) = sums.split_at(self.weights.first.numbers.len());
        let (second, rest) = rest.split_at(self.weights.second.numbers.len());
        self.weights.first.descend(&mean(first), &mut self.velocity.first.numbers, RATE, MOMENTUM);
        self.weights.second.descend(&mean(second), &mut self.velocity.second.numbers, RATE, MOMENTUM);
        self.loss += rest[0];
        self.newcomers = rest[1] as u64;
        self.steps += 1;
        if self.steps.is_multiple_of(self.steps_an_epoch()) {
            let images = self.steps_an_epoch() * BATCH as u64;
            let held_out = &self.digits.held_out;
            let right = self.weights.count_right(held_out, 0..held_out.len());
            let progress = Progress {
                epoch: self.epochs_done(),
                loss: self.loss as f64 / SCALE / images as f64,
                accuracy: right as f64 / held_out.len() as f64,
            };
            (self.on_epoch)(progress);
            self.loss = 0;
            self.shuffle();
        }
    }

    fn save(&self) -> Vec<u8> {
        let numbers = [self.steps, self.newcomers, self.loss as u64];
        let weights = self.layers().into_iter().flatten().flat_map(|weight| weight.to_le_bytes());
        numbers.into_iter().flat_map(u64::to_le_bytes).chain(weights).collect()
    }

    fn load(&mut self, bytes: &[u8]) -> Result<()> {
        if bytes.len() != self.save().len() {
            return Err(Error::invalid(format!("a state of {} bytes is no training like this one", bytes.len())));
        }
        let (numbers, weights) = bytes.split_at(24);
        let mut numbers = numbers.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().expect("eight")));
        let mut number = || numbers.next().expect("three of them");
        (self.steps, self.newcomers, self.loss) = (number(), number(), number() as i64);
        let mut weights = weights.chunks_exact(4).map(|word| f32::from_le_bytes(word.try_into().expect("four")));
        for network in [&mut self.weights, &mut self.velocity] {
            for layer in [&mut network.first, &mut network.second] {
                layer.numbers.fill_with(|| weights.next().expect("as many as were saved"));
            }
        }
        self.shuffle();
        Ok(())
    }
}
