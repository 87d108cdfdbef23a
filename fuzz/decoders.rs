//! One decoder of `roundel::fuzz`, the one that `ROUNDEL_FUZZ_TARGET` names, under libFuzzer. `.ci/fuzz` runs them all.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

static TARGET: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    let name = std::env::var("ROUNDEL_FUZZ_TARGET").unwrap_or_default();
    let names: Vec<&str> = roundel::fuzz::TARGETS.iter().map(|target| target.name).collect();
    let target = roundel::fuzz::TARGETS.iter().find(|target| target.name == name);
    target.unwrap_or_else(|| panic!("ROUNDEL_FUZZ_TARGET={name:?}; there are {}", names.join(", "))).run
});

fuzz_target!(|bytes: &[u8]| TARGET(bytes));
