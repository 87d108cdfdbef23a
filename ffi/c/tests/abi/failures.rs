//! A rank that is killed: the others get the error through C.

use crate::build::{compile, compilers, scratch};
use crate::jobs;
use std::time::{Duration, Instant};

/// Milliseconds on a quiet machine.
const SOON: Duration = Duration::from_secs(10);

/// `ROUNDEL_ERROR_PEER_LOST`.
const PEER_LOST: &str = "6";

#[test]
fn a_killed_rank_is_named_on_all_others() {
    let folder = scratch("mortal");
    let Some(compiler) = compilers("mortal.c").into_iter().next() else { return };
    let program = compile(compiler, "mortal.c", &folder).into_os_string();
    for (transport, dies) in [("shm", 2), ("tcp", 3), ("shm", 0)] {
        let settings = [("ROUNDEL_TRANSPORT", transport), ("MORTAL_IN_PLACE", "1")];
        // The first with an output of its own.
        let settings = if dies == 2 { &settings[..1] } else { &settings };
        let (mut ranks, _id) = jobs::start(std::slice::from_ref(&program), 4, settings);
        for rank in &mut ranks {
            rank.said("ready");
        }
        let killed = Instant::now();
        ranks[dies].kill();
        for (_, rank) in ranks.iter_mut().enumerate().filter(|(rank, _)| *rank != dies) {
            let lost = rank.said("lost");
            let words: Vec<&str> = lost.splitn(3, ' ').collect();
            assert_eq!(words[..2], [PEER_LOST, &dies.to_string()], "{lost}");
            assert!(words[2].starts_with(&format!("roundel_all_reduce: rank {dies} ")), "{lost}");
            rank.finished();
        }
        assert!(killed.elapsed() < SOON, "{:?} over {transport}", killed.elapsed());
    }
    std::fs::remove_dir_all(folder).expect("it is ours");
}
