//! Every decoder of bytes or text that others wrote, as a function that must come back whatever it is given.
//!
//! `fuzz/` runs them under libFuzzer, which follows what code a new input reaches; the test below mutates valid messages
//! and kept inputs for a moment at every `cargo test`. What a run found stays in `fuzz/seeds`, a folder a target.
//!
//! | target | what it decodes | where from |
//! |---|---|---|
//! | `handshake_frames` | headers, first messages, hellos | whoever connects |
//! | `records` | checked and encrypted records | whoever sits on the way |
//! | `parcels` | headers of parcels and receipts, put in order | whoever sits on the way |
//! | `control_frames` | what ranks and root tell each other | holders of the secret |
//! | `cards` | places, arenas, areas | holders of the secret |
//! | `call_headers` | first bytes of a call on a link | holders of the secret |
//! | `unique_ids` | ids, secrets in digits | environment, files |
//! | `launchers` | the environment | launchers |
//! | `registers` | what a job keeps in an etcd | the etcd |
//! | `settings` | option values, host lists, port ranges | users, launchers |
//! | `tuning_files` | kept measurements, tables | whoever can write the file; rank 0 |
#![forbid(unsafe_code)]

use crate::{bootstrap, comm, engine, transport, tuner};

/// One decoder, or a few that belong together.
pub struct Target {
    /// Its name, and that of its folder of kept inputs.
    pub name: &'static str,
    /// Decodes. Panics only where a decoder is wrong.
    pub run: fn(&[u8]),
    /// Inputs that make sense.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All of them.
pub const TARGETS: [Target; 11] = [
    Target { name: "handshake_frames", run: transport::tcp::fuzz::frames, seeds: transport::tcp::fuzz::some_frames },
    Target {
        name: "parcels",
        run: transport::tcp::rails::fuzz::parcels,
        seeds: transport::tcp::rails::fuzz::some_parcels,
    },
    Target { name: "records", run: transport::tcp::fuzz::records, seeds: transport::tcp::fuzz::some_records },
    Target {
        name: "control_frames",
        run: bootstrap::fuzz::control_frames,
        seeds: bootstrap::fuzz::some_control_frames,
    },
    Target { name: "cards", run: comm::fuzz::cards, seeds: comm::fuzz::some_cards },
    Target { name: "call_headers", run: engine::fuzz::call_headers, seeds: engine::fuzz::some_call_headers },
    Target { name: "unique_ids", run: bootstrap::fuzz::unique_ids, seeds: bootstrap::fuzz::some_unique_ids },
    Target { name: "launchers", run: bootstrap::fuzz::launchers, seeds: bootstrap::fuzz::some_launchers },
    Target { name: "registers", run: bootstrap::fuzz::registers, seeds: bootstrap::fuzz::some_registers },
    Target { name: "settings", run: comm::fuzz::settings, seeds: comm::fuzz::some_settings },
    Target { name: "tuning_files", run: tuner::fuzz::tuning_files, seeds: tuner::fuzz::some_tuning_files },
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;
    use std::time::{Duration, Instant};

    /// A small generator of numbers that do not repeat soon (splitmix64).
    struct Dice(u64);

    impl Dice {
        fn below(&mut self, end: usize) -> usize {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            ((mixed ^ (mixed >> 27)) % end.max(1) as u64) as usize
        }
    }

    /// Changes one thing.
    fn mutate(input: &mut Vec<u8>, others: &[Vec<u8>], dice: &mut Dice) {
        let at = dice.below(input.len());
        match dice.below(8) {
            0 if !input.is_empty() => input[at] ^= 1 << dice.below(8),
            1 if !input.is_empty() => input[at] = [0, 1, 0x7f, 0x80, 0xff][dice.below(5)],
            2 => input.insert(at, dice.below(256) as u8),
            3 if !input.is_empty() => drop(input.remove(at)),
            4 => input.truncate(at),
            5 => {
                let other = &others[dice.below(others.len())];
                let begin = dice.below(other.len());
                let end = begin + dice.below(other.len() - begin + 1);
                input.splice(at..at, other[begin..end].iter().copied());
            }
            6 if input.len() >= at + 4 => {
                let number = [0, 1, u32::MAX, 1 << 31, dice.below(1 << 20) as u32][dice.below(5)];
                input[at..at + 4].copy_from_slice(&number.to_le_bytes());
            }
            _ => input.extend((0..dice.below(20)).map(|_| dice.below(256) as u8)),
        }
        input.truncate(1 << 16);
    }

    /// A second a target, or as many as `ROUNDEL_FUZZ_SECONDS` says; `ROUNDEL_FUZZ_SEED` begins elsewhere.
    #[test]
    fn decoders_come_back_from_whatever_they_are_given() {
        let number = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
        let time = Duration::from_secs(number("ROUNDEL_FUZZ_SECONDS").unwrap_or(1));
        let seed = number("ROUNDEL_FUZZ_SEED").unwrap_or(1);
        for target in TARGETS {
            let mut inputs = (target.seeds)();
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target.name);
            let mut kept: Vec<_> = std::fs::read_dir(&folder).into_iter().flatten().flatten().collect();
            kept.sort_by_key(|entry| entry.file_name());
            inputs.extend(kept.iter().map(|entry| std::fs::read(entry.path()).expect("a file of the repository")));
            inputs.push(Vec::new());
            inputs.iter().for_each(|input| (target.run)(input));
            let (began, mut dice, mut runs) = (Instant::now(), Dice(seed), 0u64);
            while began.elapsed() < time {
                let mut input = inputs[dice.below(inputs.len())].clone();
                (0..=dice.below(6)).for_each(|_| mutate(&mut input, &inputs, &mut dice));
                let outcome = std::panic::catch_unwind(|| (target.run)(&input));
                assert!(outcome.is_ok(), "{} (seed {seed}, run {runs}) fails on {input:?}", target.name);
                runs += 1;
            }
            println!("{}: {} kept inputs, {runs} mutants", target.name, inputs.len());
        }
    }
}
