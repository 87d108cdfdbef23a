//! Programs as the ranks of a job.

use crate::support::{Rank, clean};
use library::UniqueId;
use std::ffi::OsString;
use std::process::Command;

/// Starts `world` processes of a command that find one another.
pub fn start(words: &[OsString], world: usize, settings: &[(&str, &str)]) -> (Vec<Rank>, UniqueId) {
    let id = UniqueId::with_interface("127.0.0.1").expect("loopback is there");
    let rank = |rank: usize| {
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        let mut command = clean(command);
        command.env("ROUNDEL_RANK", rank.to_string()).env("ROUNDEL_WORLD_SIZE", world.to_string());
        command.env("ROUNDEL_UNIQUE_ID", id.to_string()).envs(settings.iter().copied());
        Rank::start(command)
    };
    ((0..world).map(rank).collect(), id)
}

/// Runs such a job: all say that they passed, and end well.
pub fn pass(words: &[OsString], world: usize, settings: &[(&str, &str)]) {
    let (ranks, _id) = start(words, world, settings);
    for mut rank in ranks {
        if words[0] == "valgrind" {
            // A yield there is a time slice where other programs run, and a call has many.
            rank.patience *= 6;
        }
        assert_eq!(rank.finished(), ["passed"], "{words:?}: {}", rank.printed());
    }
}
