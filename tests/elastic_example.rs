//! The elastic example: every rank that began the training is killed, and its weights are those of one that nobody disturbed.

#[path = "../examples/data_parallel/digits.rs"]
mod digits;
#[path = "../examples/data_parallel/mlp.rs"]
mod mlp;
#[path = "../examples/elastic/rank.rs"]
mod rank;
#[path = "../examples/elastic/supervisor.rs"]
mod supervisor;
mod support;
#[path = "../examples/elastic/training.rs"]
mod training;

use std::process::Command;
use std::sync::Mutex;
use supervisor::{End, Plan, supervise};

/// What a started process does: nothing, unless it is a rank.
#[test]
fn rank_process() {
    if rank::is_one() {
        rank::play().unwrap();
    }
}

/// This program again, as a rank over `transport`.
fn over(transport: &str) -> Command {
    let words = support::rank_program();
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]);
    let mut command = support::clean(command);
    command.env("ROUNDEL_TRANSPORT", transport).env("ROUNDEL_IFACE", "lo");
    command
}

#[test]
fn training_outlives_all_who_began_it() {
    for transport in ["shm", "tcp"] {
        let told = Mutex::new(Vec::new());
        let plan = Plan { procs: 3, epochs: 6, kills: true };
        let end = supervise(&plan, || over(transport), |line| told.lock().unwrap().push(line)).unwrap();
        assert_eq!(end.members, [3, 4, 5]);
        assert!(end.epochs >= 6);
        let told = told.into_inner().unwrap();
        let count = |word: &str| told.iter().filter(|line| line.contains(word)).count();
        assert_eq!((count(" killed; "), count("newcomer")), (3, 3), "{told:#?}");
        // Each epoch is told once, whoever lives to tell it, and the network learns.
        assert_eq!(count("epoch ") as u64, end.epochs, "{told:#?}");
        let losses: Vec<f64> =
            told.iter().filter_map(|line| line.split("loss ").nth(1)?.split(' ').next()?.parse().ok()).collect();
        assert!(losses[5] < losses[0] / 4.0, "{losses:?}");
    }
}

#[test]
fn the_weights_do_not_depend_on_the_number_of_ranks() {
    let end = |procs| supervise(&Plan { procs, epochs: 2, kills: false }, || over("shm"), |_| {}).unwrap();
    let (two, three) = (end(2), end(3));
    assert_eq!(two.members, [0, 1]);
    assert_eq!(three, End { members: vec![0, 1, 2], ..two });
}

#[test]
fn one_rank_cannot_die_and_go_on() {
    let plan = Plan { procs: 1, epochs: 1, kills: true };
    assert!(supervise(&plan, || over("shm"), |_| {}).is_err());
}
