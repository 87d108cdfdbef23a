//! Who has fallen silent. Everybody on the control plane says at regular intervals that it lives, from a thread that no
//! stall of the application stops; whoever is not heard for long enough is dead, frozen or cut off.
//!
//! A watcher that slept itself (its process was stopped, the machine was suspended, the core was taken away) has not
//! listened meanwhile, and must not hold that against the others. So silence is counted in the watcher's waking time: of
//! the time between two of its looks at most two intervals count.
//!
//! ```text
//!   looks        |  |  |  |  |  |                          |  |  |
//!   waking time  0  1  2  3  4  5          asleep          7  8  9     (intervals)
//! ```
#![forbid(unsafe_code)]

use crate::types::Rank;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How often a sign of life is given, and how long none is a sign of death.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rhythm {
    /// Between two signs of life. Zero: none are given, and nobody is watched.
    pub interval: Duration,
    /// Silence longer than this is taken for death.
    pub timeout: Duration,
}

impl Default for Rhythm {
    fn default() -> Rhythm {
        Rhythm { interval: Duration::from_millis(100), timeout: Duration::from_secs(1) }
    }
}

impl Rhythm {
    pub(super) fn is_off(&self) -> bool {
        self.interval.is_zero()
    }
}

/// Waking time: what passes between two looks counts, up to a limit.
pub(super) struct Wakefulness {
    began: Instant,
    last_look: Instant,
    awake: Duration,
    most_between: Duration,
}

impl Wakefulness {
    /// Begins to count now; what is looked at less often than every `most_between` was asleep in between.
    pub(super) fn new(most_between: Duration, now: Instant) -> Wakefulness {
        Wakefulness { began: now, last_look: now, awake: Duration::ZERO, most_between }
    }

    /// Time has passed.
    pub(super) fn look(&mut self, now: Instant) {
        self.awake += now.saturating_duration_since(self.last_look).min(self.most_between);
        self.last_look = now;
    }

    /// Up to the last look.
    pub(super) fn awake(&self) -> Duration {
        self.awake
    }

    /// What is missing to the time on the wall.
    pub(super) fn asleep(&self) -> Duration {
        self.last_look.saturating_duration_since(self.began).saturating_sub(self.awake)
    }
}

/// Watches over some ranks.
pub(super) struct Vigil {
    rhythm: Rhythm,
    /// This watcher's own.
    waking: Wakefulness,
    /// When, in that time, each was last heard.
    heard: BTreeMap<Rank, Duration>,
}

impl Vigil {
    pub(super) fn new(rhythm: Rhythm, now: Instant) -> Vigil {
        Vigil { rhythm, waking: Wakefulness::new(2 * rhythm.interval, now), heard: BTreeMap::new() }
    }

    /// Time has passed. To be called before anything else that happens at `now`.
    pub(super) fn look(&mut self, now: Instant) {
        self.waking.look(now);
    }

    /// `rank` has given a sign of life. From the first on it is watched.
    pub(super) fn hear(&mut self, rank: Rank) {
        self.heard.insert(rank, self.waking.awake());
    }

    /// `rank` is not watched any more.
    pub(super) fn forget(&mut self, rank: Rank) {
        self.heard.remove(&rank);
    }

    /// How long this watcher has been awake.
    pub(super) fn awake(&self) -> Duration {
        self.waking.awake()
    }

    /// Who has been silent for too long, and for how long.
    pub(super) fn silent(&self) -> Vec<(Rank, Duration)> {
        if self.rhythm.is_off() {
            return Vec::new();
        }
        let silence = self.heard.iter().map(|(rank, heard)| (*rank, self.waking.awake() - *heard));
        silence.filter(|(_, silence)| *silence > self.rhythm.timeout).collect()
    }

    /// When to look again, and to give a sign of life; never where there are none.
    pub(super) fn next_look(&self) -> Option<Instant> {
        (!self.rhythm.is_off()).then(|| self.waking.last_look + self.rhythm.interval)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_millis(100);

    fn rhythm() -> Rhythm {
        Rhythm { interval: STEP, timeout: 10 * STEP }
    }

    #[test]
    fn silence_is_noticed_once_it_lasts() {
        let start = Instant::now();
        let mut vigil = Vigil::new(rhythm(), start);
        vigil.hear(3);
        vigil.hear(4);
        for step in 1..=10 {
            vigil.look(start + step * STEP);
            vigil.hear(4);
            assert_eq!(vigil.silent(), []);
        }
        vigil.look(start + 11 * STEP);
        assert_eq!(vigil.silent(), [(3, 11 * STEP)]);
        vigil.forget(3);
        assert_eq!(vigil.silent(), []);
    }

    #[test]
    fn who_slept_itself_accuses_nobody() {
        let start = Instant::now();
        let mut vigil = Vigil::new(rhythm(), start);
        vigil.hear(3);
        vigil.look(start + 1000 * STEP);
        assert_eq!(vigil.silent(), []);
        assert_eq!(vigil.next_look(), Some(start + 1001 * STEP));
        for step in 1..10 {
            vigil.look(start + (1000 + step) * STEP);
        }
        assert_eq!(vigil.silent(), [(3, 11 * STEP)], "two steps of the sleep, and nine more");
    }

    #[test]
    fn waking_time_and_sleep_make_up_the_time_that_passed() {
        let start = Instant::now();
        let mut waking = Wakefulness::new(2 * STEP, start);
        for at in [1, 2, 50, 51] {
            waking.look(start + at * STEP);
        }
        assert_eq!((waking.awake(), waking.asleep()), (5 * STEP, 46 * STEP));
    }

    #[test]
    fn without_a_rhythm_nobody_is_watched() {
        let start = Instant::now();
        let mut vigil = Vigil::new(Rhythm { interval: Duration::ZERO, ..rhythm() }, start);
        vigil.hear(1);
        vigil.look(start + 1000 * STEP);
        assert_eq!((vigil.silent(), vigil.next_look()), (vec![], None));
    }
}
