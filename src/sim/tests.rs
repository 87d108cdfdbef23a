//! Some thousands of schedules; that a seed says it all; and planted bugs, each of which must be found.

use super::*;

fn replay(seed: u64) -> String {
    format!("cargo run --features sim --bin roundel-sim -- --seed {seed} --schedules 1 --trace")
}

#[test]
fn thousands_of_schedules_hold_what_is_promised() {
    const SCHEDULES: u64 = 1500;
    let mut tally = Tally::default();
    for seed in 0..SCHEDULES {
        let outcome = simulate(seed, None, false);
        assert_eq!(outcome.violation, None, "seed {seed}; replay: {}", replay(seed));
        tally.add(&outcome.tally);
    }
    println!("{tally}");
    // What is not exercised is not shown.
    let Tally { deaths, root_deaths, freezes, cuts, aborts, slips, shrunk, .. } = tally;
    assert!([deaths, root_deaths, freezes, cuts, aborts, slips, shrunk].iter().all(|count| *count > 50), "{tally}");
    assert_eq!((tally.calls.len(), tally.failed.len()), (10, 4), "{tally}");
}

#[test]
fn a_seed_is_a_schedule() {
    for seed in 0..60 {
        let (once, again) = (simulate(seed, None, true), simulate(seed, None, true));
        assert!(!once.trace.is_empty());
        assert_eq!(once, again, "seed {seed}");
        // Watching changes nothing.
        assert_eq!(simulate(seed, None, false).digest, once.digest);
    }
}

/// How many schedules it takes to find a planted bug.
fn schedules_until_found(bug: Bug) -> Option<(u64, String)> {
    (0..3000).find_map(|seed| Some((seed + 1, simulate(seed, Some(bug), false).violation?.what)))
}

#[test]
fn planted_bugs_are_found() {
    for bug in Bug::ALL {
        let found = schedules_until_found(bug);
        let (schedules, what) = found.unwrap_or_else(|| panic!("{} is not found", bug.name()));
        println!("{:18} found by schedule {schedules}: {}", bug.name(), &what[..what.len().min(150)]);
    }
}
