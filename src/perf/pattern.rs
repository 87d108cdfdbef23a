//! A vector that repeats, so that a table of one period makes filling and checking as cheap as copying and comparing.
#![forbid(unsafe_code)]

use crate::types::DType;

/// After so many elements the values repeat. A prime: a block that lands at the wrong place shows.
pub const PERIOD: usize = 8191;

/// One period of a vector, as bytes.
#[derive(Debug, Clone)]
pub struct Pattern {
    bytes: Vec<u8>,
    element_bytes: usize,
}

impl Pattern {
    /// Of the elements that `bits` gives for the indices of one period.
    pub fn new(dtype: DType, bits: impl Fn(usize) -> u64) -> Pattern {
        let element_bytes = dtype.size_bytes();
        let mut bytes = Vec::with_capacity(PERIOD * element_bytes);
        for index in 0..PERIOD {
            bytes.extend_from_slice(&bits(index).to_le_bytes()[..element_bytes]);
        }
        Pattern { bytes, element_bytes }
    }

    /// Writes the vector's elements from `first` on.
    pub fn fill(&self, target: &mut [u8], first: usize) {
        let mut rest = target;
        let mut offset = first % PERIOD * self.element_bytes;
        while !rest.is_empty() {
            let len = rest.len().min(self.bytes.len() - offset);
            let (now, later) = rest.split_at_mut(len);
            now.copy_from_slice(&self.bytes[offset..offset + len]);
            (rest, offset) = (later, 0);
        }
    }

    /// How many elements of `found` are not the vector's elements from `first` on.
    pub fn count_wrong(&self, found: &[u8], first: usize) -> u64 {
        let mut wrong = 0;
        let mut rest = found;
        let mut offset = first % PERIOD * self.element_bytes;
        while !rest.is_empty() {
            let len = rest.len().min(self.bytes.len() - offset);
            let (now, later) = rest.split_at(len);
            let expected = &self.bytes[offset..offset + len];
            if now != expected {
                let elements = now.chunks(self.element_bytes).zip(expected.chunks(self.element_bytes));
                wrong += elements.filter(|(found, expected)| found != expected).count() as u64;
            }
            (rest, offset) = (later, 0);
        }
        wrong
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_repeat_and_count_differences() {
        let pattern = Pattern::new(DType::U32, |index| index as u64 * 0x9e37_79b9);
        let mut bytes = vec![0; (2 * PERIOD + 10) * 4];
        pattern.fill(&mut bytes, 5);
        assert_eq!(pattern.count_wrong(&bytes, 5), 0);
        assert_eq!(pattern.count_wrong(&bytes, 5 + PERIOD), 0);
        assert!(pattern.count_wrong(&bytes, 6) > 2 * PERIOD as u64);
        bytes[4 * PERIOD] ^= 1;
        bytes[4 * PERIOD + 3] ^= 1;
        bytes[0] ^= 1;
        assert_eq!(pattern.count_wrong(&bytes, 5), 2);
        assert_eq!(pattern.count_wrong(&[], 5), 0);
    }
}
