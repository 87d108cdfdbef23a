//! The data: handwritten digits, 8 x 8 pixels of 0..=16, and which digit each is.
//!
//! `digits.csv.gz` is the test set of "Optical Recognition of Handwritten Digits" by E. Alpaydin and C. Kaynak, from the
//! UCI Machine Learning Repository (<https://doi.org/10.24432/C50P49>), licence CC BY 4.0: 1,797 lines of 64 pixels and a
//! label.

use std::io::Read;

/// Pixels of one image.
pub const PIXELS: usize = 64;
/// How many different digits there are.
pub const CLASSES: usize = 10;
/// Every so manyth image is held out from training.
const HELD_OUT: usize = 5;

/// Images and labels.
#[derive(Default)]
pub struct Set {
    /// One after the other, each pixel 0 to 1.
    pub pixels: Vec<f32>,
    /// The digit in each image.
    pub labels: Vec<u8>,
}

impl Set {
    /// How many images there are.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// The pixels of one.
    pub fn image(&self, index: usize) -> &[f32] {
        &self.pixels[index * PIXELS..(index + 1) * PIXELS]
    }
}

/// What to learn from, and what to test with.
pub struct Digits {
    /// Four fifths of the images.
    pub training: Set,
    /// The rest.
    pub held_out: Set,
}

/// Unpacks the data.
pub fn load() -> Digits {
    let mut text = String::new();
    flate2::read::GzDecoder::new(&include_bytes!("../digits.csv.gz")[..])
        .read_to_string(&mut text)
        .expect("the file beside this one is gzipped text");
    let mut digits = Digits { training: Set::default(), held_out: Set::default() };
    for (line_number, line) in text.lines().enumerate() {
        let numbers: Vec<u8> =
            line.split(',').map(|number| number.trim().parse().expect("a number of 0..=16")).collect();
        assert_eq!(numbers.len(), PIXELS + 1, "line {}", line_number + 1);
        let set = if line_number % HELD_OUT == 0 { &mut digits.held_out } else { &mut digits.training };
        set.pixels.extend(numbers[..PIXELS].iter().map(|&pixel| f32::from(pixel) / 16.0));
        set.labels.push(numbers[PIXELS]);
    }
    digits
}
