//! All memory of all ranks as one list: a number for every place.
#![forbid(unsafe_code)]

use crate::schedule::machine::Machine;
use crate::schedule::{Loc, Space};
use crate::types::Rank;

/// How places are numbered: rank by rank, and in each rank output, input, staging, private slots. In place the numbers
/// of the input are not used.
#[derive(Clone, Copy)]
pub(super) struct Places {
    /// Chunks of all rounds.
    pub chunks: u32,
    stage_slots: u32,
    per_rank: usize,
    world: usize,
}

impl Places {
    pub fn new(machine: &Machine<'_>) -> Places {
        let first = &machine.programs[0];
        let per_rank = 2 * first.chunks + first.stage_slots + first.scratch_slots;
        Places {
            chunks: first.chunks,
            stage_slots: first.stage_slots,
            per_rank: per_rank as usize,
            world: machine.programs.len(),
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.per_rank * self.world
    }

    /// The number of a place.
    pub fn index(&self, loc: Loc, in_place: bool) -> usize {
        let (rank, space, number) = loc.place(in_place);
        let offset = match space {
            Space::Output => 0,
            Space::Input => self.chunks,
            Space::Stage => 2 * self.chunks,
            Space::Scratch => 2 * self.chunks + self.stage_slots,
        };
        rank * self.per_rank + (offset + number) as usize
    }

    /// Whose, what and which chunk or slot a number is.
    pub fn of(&self, index: usize) -> (Rank, Space, u32) {
        let (rank, number) = (index / self.per_rank, (index % self.per_rank) as u32);
        let starts = [
            (Space::Scratch, 2 * self.chunks + self.stage_slots),
            (Space::Stage, 2 * self.chunks),
            (Space::Input, self.chunks),
            (Space::Output, 0),
        ];
        let (space, start) = starts.into_iter().find(|&(_, start)| number >= start).expect("the last starts at 0");
        (rank, space, number - start)
    }
}
