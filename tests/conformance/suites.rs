//! The list of suites: what each runs, on how many ranks, with which options.

use crate::backend::Backend;
use crate::{bits, flight, forms, splits};
use roundel::schedule::catalogue::Algorithm;
use roundel::{Communicator, Options};

/// What every rank of a world runs.
#[derive(Clone, Copy)]
pub struct Suite {
    pub name: &'static str,
    pub body: fn(&Communicator),
    /// The worlds, out of those that the backend has.
    pub worlds: fn(usize) -> bool,
    /// It runs once with each.
    pub options: fn() -> Vec<Options>,
}

const fn suite(name: &'static str, body: fn(&Communicator)) -> Suite {
    Suite { name, body, worlds: |_| true, options: plain }
}

/// In the order in which `main` stamps them.
pub const SUITES: [Suite; 16] = [
    suite("every_type_and_operation", forms::every_type_and_operation),
    suite("counts", forms::counts),
    suite("roots_homes_and_places", forms::roots_homes_and_places),
    Suite { options: small_memory, worlds: |world| world < 5, ..suite("rounds", forms::rounds) },
    Suite {
        options: each_algorithm,
        worlds: |world| [3, 4, 5].contains(&world),
        ..suite("forced_algorithms", forms::forced)
    },
    Suite {
        options: each_reproducible,
        worlds: |world| [2, 3, 5, 8].contains(&world),
        ..suite("reproducible", bits::reproducible)
    },
    suite("same_bits", bits::same_bits),
    suite("special_values", bits::special_values),
    Suite {
        options: each_wish_reproducibly,
        worlds: |world| world == 3,
        ..suite("refused_wishes", bits::refused_wishes)
    },
    suite("barriers", flight::barriers),
    suite("groups", flight::groups),
    suite("messages", flight::messages),
    suite("started_calls", flight::started_calls),
    suite("progress_without_the_caller", flight::progress_without_the_caller),
    suite("splits", splits::splits),
    Suite { worlds: |world| world < 5, ..suite("threads", splits::threads) },
];

/// Runs a suite on all worlds of a backend that it takes.
pub fn run(backend: Backend, name: &str) {
    let suite = SUITES.into_iter().find(|suite| suite.name == name).expect("`main` stamps what is listed here");
    for &world in backend.worlds().iter().filter(|&&world| (suite.worlds)(world)) {
        for options in (suite.options)() {
            backend.run(suite, world, &options);
        }
    }
}

fn plain() -> Vec<Options> {
    vec![Options::default()]
}

/// As little memory as is allowed, so that calls take many rounds and links are always full.
fn small_memory() -> Vec<Options> {
    let small = Options { stage_bytes: 64 << 10, ring_bytes: 4096, ..Options::default() };
    vec![small.clone(), Options { channels: 3, sockets: 2, ..small }]
}

/// Every algorithm as a wish; it holds for the collectives that it can do.
fn each_algorithm() -> Vec<Options> {
    Algorithm::ALL.map(|algorithm| Options { algorithm: Some(algorithm), ..Options::default() }).into()
}

/// Reproducibly: no wish, and every wish that keeps the order of ranks.
fn each_reproducible() -> Vec<Options> {
    use Algorithm::*;
    let wishes = [None, Some(OneShot), Some(FlatPush), Some(Staged), Some(Direct)];
    wishes.map(|algorithm| Options { algorithm, reproducible: true, ..Options::default() }).into()
}

fn each_wish_reproducibly() -> Vec<Options> {
    each_algorithm().into_iter().map(|options| Options { reproducible: true, ..options }).collect()
}
