//! How fast things happen in one simulated job, and how small its buffers are.
#![forbid(unsafe_code)]

use super::dice::Dice;
use crate::transport::sim::Habit;

/// Nanoseconds of a microsecond and of a millisecond.
pub(super) const US: u64 = 1000;
pub(super) const MS: u64 = 1000 * US;

/// What one schedule is like throughout.
#[derive(Debug, Clone)]
pub(super) struct Climate {
    dice: Dice,
    /// The usual delay on a link is between 1 us and this.
    link_ns: u64,
    /// So many of a thousand deliveries take far longer.
    spikes: usize,
    spike_ns: u64,
    /// Between two turns of a rank.
    turn_ns: u64,
    control_ns: u64,
    windows: &'static [usize],
    gathers: &'static [usize],
}

impl Climate {
    pub(super) fn draw(mut dice: Dice) -> Climate {
        let link_ns = dice.pick(&[2 * US, 20 * US, 200 * US]);
        // What takes longest still has to end before its deadline.
        let windows: &'static [&'static [usize]] = match link_ns > 100 * US {
            true => &[&[64, 200, 1000], &[4096], &[64, 1000, 65536]],
            false => &[&[16, 24, 64], &[64, 200, 1000], &[4096], &[16, 1000, 65536]],
        };
        let spikes = dice.pick(&[0, 2, 20]);
        let longest_spike_ns = if spikes > 2 { 4 * MS } else { 20 * MS };
        Climate {
            link_ns,
            spikes,
            spike_ns: dice.pick(&[MS, longest_spike_ns]),
            turn_ns: dice.pick(&[500, 5 * US, 50 * US]),
            control_ns: dice.pick(&[30 * US, MS, 10 * MS]),
            windows: dice.pick(windows),
            gathers: dice.pick(&[&[0][..], &[64, 256], &[0, 100, 4096]]),
            dice,
        }
    }

    /// How long something takes on a link.
    pub(super) fn link_delay(&mut self) -> u64 {
        if self.dice.permille(self.spikes) {
            return self.dice.between(self.link_ns, self.spike_ns);
        }
        self.dice.between(US, self.link_ns)
    }

    /// Until a neighbour's core sees what was stored: well before anything that is told by a message.
    pub(super) fn memory_delay(&mut self) -> u64 {
        self.dice.between(50, 5 * US)
    }

    /// Until a rank's thread runs again.
    pub(super) fn turn_delay(&mut self) -> u64 {
        if self.dice.permille(3) { self.dice.between(1, 2 * MS) } else { self.dice.between(100, self.turn_ns) }
    }

    /// Between a rank and the root.
    pub(super) fn control_delay(&mut self) -> u64 {
        self.dice.between(10 * US, self.control_ns)
    }

    pub(super) fn habit(&mut self, is_socket: bool) -> Habit {
        Habit {
            window_bytes: self.dice.pick(self.windows),
            gather_bytes: if is_socket { self.dice.pick(self.gathers) } else { 0 },
            is_socket,
            whim: self.dice.next(),
            overtakes: false,
        }
    }
}
