//! An independent judge of programs, for tests of the checker: it knows nothing of clocks and orders but only runs the
//! programs in many random interleavings and looks at the results.
#![forbid(unsafe_code)]

use super::{Capacity, Violation, form, meaning, places};
use crate::schedule::Program;
use crate::schedule::catalogue::Shape;
use crate::schedule::machine::{Machine, Step, Watch};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// True if the programs end, and end right, in each of `seeds` random interleavings.
pub fn right_in_all(programs: &[Program], shape: &Shape, capacity: Capacity, rounds: u32, seeds: u64) -> bool {
    let in_place = vec![shape.in_place; programs.len()];
    let Ok(call) = form::check(programs, shape, &in_place) else { return false };
    let machine = Machine::new(programs, &in_place, capacity, rounds);
    let places = places::Places::new(&machine);
    (0..seeds).all(|seed| {
        let meaning = meaning::Meaning::new(&machine, &call, places, &in_place);
        let mut watch = Interleaved { meaning, state: seed };
        machine.run(&mut watch).is_ok() && watch.meaning.finish().is_ok()
    })
}

struct Interleaved<'a> {
    meaning: meaning::Meaning<'a>,
    state: u64,
}

impl Watch for Interleaved<'_> {
    type Stop = Violation;
    type Agenda = BinaryHeap<Reverse<(u64, u32)>>;

    /// Whoever a step wakes gets its next turn at a random time.
    fn happens(&mut self, step: &Step<'_>) -> Result<u64, Violation> {
        self.meaning.happens(step)?;
        self.state = self.state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        Ok(self.state >> 33)
    }
}
