//! Ranks that are killed, and others that take their place: the rest go on, through C.

use crate::build::{compile, compilers, scratch};
use crate::jobs;
use crate::support::{Rank, clean};
use std::ffi::OsString;
use std::process::Command;

/// What the ranks `of` say next: all that they are this epoch and these members. An invitation of the first.
fn told(ranks: &mut [Rank], of: &[usize], epoch: usize) -> String {
    let members: Vec<String> = of.iter().map(usize::to_string).collect();
    let mut invitations = Vec::new();
    for rank in of {
        let line = ranks[*rank].said("members");
        let words: Vec<&str> = line.split(' ').collect();
        assert_eq!(words[..2], [epoch.to_string(), members.join(",")], "rank {rank}");
        invitations.push(words[2].to_string());
    }
    invitations.remove(0)
}

/// Starts a process that sees so many changes.
fn start(program: &OsString, changes: usize, settings: &[(&str, &str)]) -> Rank {
    let mut command = Command::new(program);
    command.arg(changes.to_string());
    let mut command = clean(command);
    command.env("ROUNDEL_IFACE", "lo").envs(settings.iter().copied());
    Rank::start(command)
}

#[test]
fn the_rest_go_on_and_a_newcomer_makes_them_four_again() {
    let folder = scratch("survivor");
    let Some(compiler) = compilers("survivor.c").into_iter().next() else { return };
    let program = compile(compiler, "survivor.c", &folder).into_os_string();
    // Rank 0's death is no different, though its process is where the job began; the second to die was no founder.
    for (transport, first) in [("shm", 2), ("tcp", 0)] {
        // Four changes: a death, a newcomer, that one's death, another newcomer.
        let over = ("ROUNDEL_TRANSPORT", transport);
        let mut ranks = vec![start(&program, 4, &[over])];
        let id = ranks[0].said("id");
        for rank in ["1", "2", "3"] {
            let place = [("ROUNDEL_RANK", rank), ("ROUNDEL_WORLD_SIZE", "4"), ("ROUNDEL_UNIQUE_ID", &id)];
            ranks.push(start(&program, 4, &[over, place[0], place[1], place[2]]));
        }
        told(&mut ranks, &[0, 1, 2, 3], 0);
        ranks[first].kill();
        let mut living: Vec<usize> = (0..4).filter(|rank| *rank != first).collect();
        let invitation = told(&mut ranks, &living, 1);
        let invited = [over, ("ROUNDEL_TEST_INVITATION", &invitation)];
        ranks.push(start(&program, 9, &invited));
        living.push(4);
        told(&mut ranks, &living, 2);
        ranks[4].kill();
        living.pop();
        told(&mut ranks, &living, 3);
        // The first invitation still names ranks that live.
        ranks.push(start(&program, 0, &invited));
        living.push(5);
        told(&mut ranks, &living, 4);
        for rank in living {
            assert_eq!(ranks[rank].finished().last().unwrap(), "passed", "rank {rank} over {transport}");
        }
    }
    std::fs::remove_dir_all(folder).expect("it is ours");
}

#[test]
fn one_rank_becomes_four() {
    let folder = scratch("survivor-alone");
    let Some(compiler) = compilers("survivor.c").into_iter().next() else { return };
    let program = compile(compiler, "survivor.c", &folder).into_os_string();
    for transport in ["shm", "tcp"] {
        let over = ("ROUNDEL_TRANSPORT", transport);
        let mut ranks = vec![start(&program, 3, &[over, ("SURVIVOR_BEGINS_WITH", "1")])];
        ranks[0].said("id");
        let invitation = told(&mut ranks, &[0], 0);
        let mut living = vec![0];
        for newcomer in 1..4 {
            ranks.push(start(&program, 3 - newcomer, &[over, ("ROUNDEL_TEST_INVITATION", &invitation)]));
            living.push(newcomer);
            told(&mut ranks, &living, newcomer);
        }
        for (rank, process) in ranks.iter_mut().enumerate() {
            assert_eq!(process.finished().last().unwrap(), "passed", "rank {rank} over {transport}");
        }
    }
    std::fs::remove_dir_all(folder).expect("it is ours");
}

#[test]
fn cpp_shrinks_and_grows() {
    let folder = scratch("survivor-cpp");
    for compiler in compilers("survivor.cpp") {
        jobs::pass(&[compile(compiler, "survivor.cpp", &folder).into_os_string()], 1, &[]);
    }
    std::fs::remove_dir_all(folder).expect("it is ours");
}
