//! The network: 64 pixels, 32 hidden units with ReLU, 10 scores; softmax and cross-entropy on top.
//!
//! Every sum runs in one fixed order, so the same inputs give the same bits.

use super::digits::{CLASSES, PIXELS, Set};

const HIDDEN: usize = 32;

/// A fully connected layer, or its gradient: `inputs` weights per unit, unit after unit, then one bias per unit. Flat, so
/// that it can be all-reduced as it is.
pub struct Layer {
    /// Weights, then biases.
    pub numbers: Vec<f32>,
    inputs: usize,
}

impl Layer {
    fn new(inputs: usize, units: usize) -> Layer {
        Layer { numbers: vec![0.0; (inputs + 1) * units], inputs }
    }

    fn units(&self) -> usize {
        self.numbers.len() / (self.inputs + 1)
    }

    fn forward(&self, input: &[f32], output: &mut [f32]) {
        let (weights, biases) = self.numbers.split_at(self.inputs * self.units());
        for ((unit, weights), bias) in output.iter_mut().zip(weights.chunks(self.inputs)).zip(biases) {
            *unit = bias + weights.iter().zip(input).map(|(weight, value)| weight * value).sum::<f32>();
        }
    }

    /// Adds one sample's gradient, given what came in and how the loss changes with what went out.
    fn accumulate(&mut self, input: &[f32], output_gradient: &[f32]) {
        let inputs = self.inputs;
        let (weights, biases) = self.numbers.split_at_mut(inputs * output_gradient.len());
        for ((weights, bias), gradient) in weights.chunks_mut(inputs).zip(biases).zip(output_gradient) {
            weights.iter_mut().zip(input).for_each(|(weight, value)| *weight += gradient * value);
            *bias += gradient;
        }
    }

    /// One step of gradient descent with momentum.
    pub fn descend(&mut self, gradient: &[f32], velocity: &mut [f32], rate: f32, momentum: f32) {
        for ((number, gradient), velocity) in self.numbers.iter_mut().zip(gradient).zip(velocity) {
            *velocity = momentum * *velocity + gradient;
            *number -= rate * *velocity;
        }
    }
}

/// The two layers; also the shape of their gradients and velocities.
pub struct Mlp {
    /// Pixels to hidden units.
    pub first: Layer,
    /// Hidden units to scores.
    pub second: Layer,
}

/// What a forward pass over a batch leaves for the backward pass.
pub struct Batch {
    images: Vec<usize>,
    hidden: Vec<f32>,
    score_gradients: Vec<f32>,
    /// Cross-entropy, averaged over the batch.
    pub loss: f32,
}

impl Mlp {
    /// All zeros.
    pub fn zeros() -> Mlp {
        Mlp { first: Layer::new(PIXELS, HIDDEN), second: Layer::new(HIDDEN, CLASSES) }
    }

    /// Small random weights.
    pub fn random(seed: u64) -> Mlp {
        let mut mlp = Mlp::zeros();
        let mut random = Random(seed);
        for layer in [&mut mlp.first, &mut mlp.second] {
            let (reach, weights) = ((6.0 / layer.inputs as f32).sqrt(), layer.inputs * layer.units());
            layer.numbers[..weights].iter_mut().for_each(|weight| *weight = (2.0 * random.unit() - 1.0) * reach);
        }
        mlp
    }

    /// Scores of one image; `hidden` is left as the second layer saw it.
    fn scores(&self, image: &[f32], hidden: &mut [f32]) -> [f32; CLASSES] {
        let mut scores = [0.0; CLASSES];
        self.first.forward(image, hidden);
        hidden.iter_mut().for_each(|value| *value = value.max(0.0));
        self.second.forward(hidden, &mut scores);
        scores
    }

    /// Runs a batch forward and finds how the mean loss changes with the scores.
    pub fn forward(&self, set: &Set, images: &[usize]) -> Batch {
        let mut hidden = vec![0.0; HIDDEN * images.len()];
        let mut score_gradients = Vec::with_capacity(CLASSES * images.len());
        let mut loss = 0.0;
        for (&image, hidden) in images.iter().zip(hidden.chunks_mut(HIDDEN)) {
            let scores = self.scores(set.image(image), hidden);
            let highest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let exponentials = scores.map(|score| (score - highest).exp());
            let total: f32 = exponentials.iter().sum();
            let label = usize::from(set.labels[image]);
            loss -= (exponentials[label] / total).ln();
            score_gradients.extend(exponentials.iter().enumerate().map(|(class, exponential)| {
                let wanted = if class == label { 1.0 } else { 0.0 };
                (exponential / total - wanted) / images.len() as f32
            }));
        }
        Batch { images: images.to_vec(), hidden, score_gradients, loss: loss / images.len() as f32 }
    }

    /// The second layer's gradient, which comes first.
    pub fn second_gradient(&self, batch: &Batch) -> Vec<f32> {
        let mut gradient = Layer::new(HIDDEN, CLASSES);
        for (hidden, scores) in batch.hidden.chunks(HIDDEN).zip(batch.score_gradients.chunks(CLASSES)) {
            gradient.accumulate(hidden, scores);
        }
        gradient.numbers
    }

    /// The first layer's gradient.
    pub fn first_gradient(&self, batch: &Batch, set: &Set) -> Vec<f32> {
        let mut gradient = Layer::new(PIXELS, HIDDEN);
        let weights = &self.second.numbers;
        for ((&image, hidden), scores) in
            batch.images.iter().zip(batch.hidden.chunks(HIDDEN)).zip(batch.score_gradients.chunks(CLASSES))
        {
            let mut back = [0.0; HIDDEN];
            for (unit, back) in back.iter_mut().enumerate().filter(|(unit, _)| hidden[*unit] > 0.0) {
                *back = scores.iter().enumerate().map(|(class, score)| score * weights[class * HIDDEN + unit]).sum();
            }
            gradient.accumulate(set.image(image), &back);
        }
        gradient.numbers
    }

    /// How many of these images it recognises.
    pub fn count_right(&self, set: &Set, images: impl Iterator<Item = usize>) -> u64 {
        let mut hidden = [0.0; HIDDEN];
        let mut right = 0;
        for image in images {
            let scores = self.scores(set.image(image), &mut hidden);
            let best = (0..CLASSES).fold(0, |best, class| if scores[class] > scores[best] { class } else { best });
            right += u64::from(best == usize::from(set.labels[image]));
        }
        right
    }

    /// A hash of every bit of every weight (FNV-1a).
    pub fn digest(&self) -> u64 {
        let bits = self.first.numbers.iter().chain(&self.second.numbers).flat_map(|number| number.to_le_bytes());
        bits.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
    }
}

/// Xorshift: the same numbers everywhere.
pub struct Random(pub u64);

impl Random {
    /// The next 64 bits. The state must not be zero.
    fn bits(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Fisher and Yates.
    pub fn shuffle(&mut self, order: &mut [usize]) {
        for last in (1..order.len()).rev() {
            order.swap(last, (self.bits() % (last as u64 + 1)) as usize);
        }
    }

    /// Of 0..1.
    fn unit(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u64 << 24) as f32
    }
}
