//! What goes wrong in a simulated job, and when.
#![forbid(unsafe_code)]

use super::climate::MS;
use super::dice::Dice;
use crate::types::Rank;

/// Something that goes wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// The process ends without a word. With `is_reset`, what it sent and nobody has received is lost.
    Death { rank: Rank, is_reset: bool },
    /// The process stops, for so long or for good.
    Freeze { rank: Rank, for_ns: Option<u64> },
    /// Nothing goes over the links from one rank to the other, or either way, for so long or for good.
    Cut { from: Rank, to: Rank, both_ways: bool, for_ns: Option<u64> },
    /// Nothing leaves the host of that rank, or reaches it, or either, for so long or for good: neither over links nor between
    /// ranks and their root.
    Unplugged { rank: Rank, out: bool, back: bool, for_ns: Option<u64> },
    /// The rank ends the communicator.
    Abort { rank: Rank },
}

/// A fault, and after how many steps of the world it comes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Planned {
    pub(super) at_step: u64,
    pub(super) fault: Fault,
}

/// Draws the faults of a schedule, in their order; none in every third. `cables` decides where a cut is one of a host's cable.
pub(super) fn draw(dice: &mut Dice, cables: &mut Dice, world: usize) -> Vec<Planned> {
    if world < 2 || dice.permille(330) {
        return Vec::new();
    }
    let mut faults: Vec<Planned> = (0..dice.between(1, 3))
        .map(|_| Planned { at_step: dice.magnitude(1, 4000), fault: one(dice, world) })
        .collect();
    faults.sort_by_key(|planned| planned.at_step);
    for Planned { fault, .. } in &mut faults {
        if let Fault::Cut { from: rank, for_ns, .. } = *fault
            && cables.permille(500)
        {
            let (out, back) = cables.pick(&[(true, true), (true, true), (true, false), (false, true)]);
            *fault = Fault::Unplugged { rank, out, back, for_ns };
        }
    }
    faults
}

fn one(dice: &mut Dice, world: usize) -> Fault {
    let rank = dice.below(world);
    let for_ns = match dice.below(3) {
        0 => None,
        1 => Some(dice.magnitude(MS, 300 * MS)),
        _ => Some(dice.magnitude(MS, 20_000 * MS)),
    };
    match dice.below(10) {
        0..=4 => Fault::Death { rank, is_reset: dice.permille(500) },
        5..=6 => Fault::Freeze { rank, for_ns },
        7..=8 => {
            let to = (rank + 1 + dice.below(world - 1)) % world;
            Fault::Cut { from: rank, to, both_ways: dice.permille(500), for_ns }
        }
        _ => Fault::Abort { rank },
    }
}
