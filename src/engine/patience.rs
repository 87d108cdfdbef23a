//! How long a driver without news stays awake. Sleeping costs nothing and waking microseconds; spinning is quickest to see
//! news, and takes the core from whoever may be about to make some.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

/// How long to spin and to yield before sleeping.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    spin: Duration,
    awake: Duration,
}

impl Patience {
    /// For so many ranks on so many cores. A spin that a neighbour needs the core for costs a time slice; a yield does not,
    /// and costs little where nobody wants the core.
    pub(crate) fn new(ranks_here: usize, cores: usize) -> Patience {
        let spin = if ranks_here <= cores { Duration::from_micros(3) } else { Duration::ZERO };
        Patience { spin, awake: Duration::from_micros(200) }
    }

    /// Where some links are sockets. To look at one is a system call, so a yield between two looks costs little more, and
    /// lets ranks run that share this machine but no memory, whose number nobody knows here.
    pub(crate) fn over_sockets() -> Patience {
        Patience { spin: Duration::ZERO, awake: Duration::from_micros(200) }
    }
}

/// A wait without news, from its beginning.
pub(super) struct Idle {
    patience: Patience,
    since: Option<Instant>,
    turns: u32,
}

/// Turns of a wait between two looks at the clock, which costs more than a look at a flag.
const TURNS_PER_LOOK: u32 = 32;

impl Idle {
    pub(super) fn new(patience: Patience) -> Idle {
        Idle { patience, since: None, turns: 0 }
    }

    /// Since when.
    pub(super) fn since(&mut self) -> Instant {
        *self.since.get_or_insert_with(Instant::now)
    }

    /// Spins or yields a little; false when it is time to sleep.
    pub(super) fn rest(&mut self) -> bool {
        self.turns = self.turns.wrapping_add(1);
        let spins = self.patience.spin > Duration::ZERO;
        if spins && self.turns < TURNS_PER_LOOK {
            std::hint::spin_loop();
            return true;
        }
        let idle = self.since().elapsed();
        if spins && idle <= self.patience.spin {
            self.turns = 0;
            std::hint::spin_loop();
            return true;
        }
        if idle <= self.patience.awake {
            std::thread::yield_now();
            return true;
        }
        false
    }
}
