//! The list of suites: what each runs, on how many ranks, with which options.

use crate::backend::Backend;
use crate::players::Player;
use crate::{bits, devices, flight, forms, splits, ways};
use roundel::schedule::catalogue::Algorithm;
use roundel::{Communicator, Options};

/// What every rank of a world runs.
#[derive(Clone, Copy)]
pub struct Suite {
    pub name: &'static str,
    pub body: fn(&Communicator),
    /// The worlds, out of those that the backend has, where a call takes microseconds.
    near: fn(usize) -> bool,
    /// Likewise where a call takes milliseconds.
    far: fn(usize) -> bool,
    /// It runs once with each.
    options: fn() -> Vec<Options>,
    /// And on each of these devices.
    devices: fn() -> Vec<Player>,
}

const fn suite(name: &'static str, body: fn(&Communicator)) -> Suite {
    Suite { name, body, near: |_| true, far: |_| true, options: plain, devices: none }
}

/// The suites with options of their own: many communicators, so few worlds.
const ROUNDS: Suite =
    Suite { options: small_memory, near: |n| n < 4, far: |n| n == 3, ..suite("rounds", forms::rounds) };
const FORCED: Suite = Suite {
    options: each_algorithm,
    near: |n| n == 3 || n == 4,
    far: |n| n == 3,
    ..suite("forced_algorithms", forms::forced)
};
const REPRODUCIBLE: Suite = Suite {
    options: each_reproducible,
    near: |n| n == 2 || n == 8,
    far: |n| n == 5,
    ..suite("reproducible", bits::reproducible)
};
const REFUSED: Suite = Suite {
    options: each_wish_reproducibly,
    near: |n| n == 3,
    far: |n| n == 3,
    ..suite("refused_wishes", bits::refused_wishes)
};

const PROTECTED: Suite = Suite {
    options: each_protection,
    near: |n| n == 3,
    far: |n| n == 2 || n == 3,
    ..suite("protected", flight::protected)
};

const DEVICES: Suite = Suite {
    options: large_and_small,
    devices: each_device,
    near: |n| n == 1 || n == 3 || n == 4,
    far: |n| n == 2 || n == 3,
    ..suite("devices", devices::devices)
};

/// In the order in which `main` stamps them.
pub const SUITES: [Suite; 20] = [
    Suite { far: |n| n == 3, ..suite("every_type_and_operation", forms::every_type_and_operation) },
    suite("counts", forms::counts),
    Suite {
        near: |n| n < 5 || n == 8,
        far: |n| n == 3,
        ..suite("roots_homes_and_places", forms::roots_homes_and_places)
    },
    ROUNDS,
    FORCED,
    REPRODUCIBLE,
    Suite { far: |n| n == 2 || n == 5, ..suite("same_bits", bits::same_bits) },
    suite("special_values", bits::special_values),
    REFUSED,
    suite("barriers", flight::barriers),
    suite("groups", flight::groups),
    suite("messages", flight::messages),
    Suite { far: |n| n < 8, ..suite("started_calls", flight::started_calls) },
    suite("progress_without_the_caller", flight::progress_without_the_caller),
    Suite { far: |n| n < 8, ..suite("splits", splits::splits) },
    Suite { near: |n| n < 4, far: |n| n < 4, ..suite("threads", splits::threads) },
    Suite { near: |n| n < 5, far: |n| n == 3, ..suite("ways", ways::ways) },
    Suite { near: |n| n < 5, far: |n| n == 3, ..suite("waits_of_several_threads", flight::waits_of_several_threads) },
    PROTECTED,
    DEVICES,
];

/// Runs a suite on all worlds of a backend that it takes.
pub fn run(backend: Backend, name: &str) {
    let suite = SUITES.into_iter().find(|suite| suite.name == name).expect("`main` stamps what is listed here");
    let takes = if backend.is_far() { suite.far } else { suite.near };
    for &world in backend.worlds().iter().filter(|&&world| takes(world)) {
        for player in (suite.devices)().into_iter().filter(|player| player.plays(backend)) {
            for options in (suite.options)() {
                backend.run(suite, world, &options, &player);
            }
        }
    }
}

fn plain() -> Vec<Options> {
    vec![Options::default()]
}

/// As little memory as is allowed, so that calls take many rounds and links are always full.
fn small_memory() -> Vec<Options> {
    let small = Options { stage_bytes: 64 << 10, ring_bytes: 4096, ..Options::default() };
    vec![small.clone(), Options { channels: Some(3), sockets: 2, ..small }]
}

/// Bytes and results that are checked in every way there is.
fn each_protection() -> Vec<Options> {
    let plain = Options::default();
    vec![
        Options { checksum: true, ..plain.clone() },
        Options { encrypt: true, sockets: 2, ..plain.clone() },
        Options { encrypt: true, checksum: true, verify_results: true, channels: Some(2), ..plain.clone() },
        Options { verify_results: true, ..plain },
    ]
}

fn none() -> Vec<Player> {
    vec![Player::named("cpu")]
}

/// Calls of one round and of many, and results that are compared.
fn large_and_small() -> Vec<Options> {
    let plain = Options::default();
    vec![plain.clone(), Options { stage_bytes: 64 << 10, ring_bytes: 4096, verify_results: true, ..plain }]
}

/// The devices that are here, and those that this machine can play.
fn each_device() -> Vec<Player> {
    let hardware = [("cuda", "cuda"), ("wgpu:llvmpipe", "vulkan")].into_iter().filter_map(Player::of_this_machine);
    [Player::named("emulated")].into_iter().chain(hardware).chain(Player::stand_in()).collect()
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
