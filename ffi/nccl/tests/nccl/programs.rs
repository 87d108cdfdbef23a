//! Programs as NCCL's users write them, over host memory.

use crate::support::{self, Rank, has_program};
use crate::toolbox::{folder, has_compiler, here, library, program, start};
use std::process::Command;

/// Ranks as processes; all must come to the right end.
fn processes(how: &str, ranks: usize, start: impl Fn(&str, &str) -> Rank) {
    let file = folder().join(format!("id-{how}-{ranks}"));
    let mut running: Vec<Rank> = (0..ranks).map(|rank| start(&rank.to_string(), file.to_str().unwrap())).collect();
    for rank in &mut running {
        assert_eq!(rank.finished(), ["right"]);
    }
}

#[test]
fn processes_that_share_an_id_through_a_file() {
    if !has_compiler() {
        return;
    }
    let program = program("processes");
    for (how, ranks) in [("plain", 1), ("plain", 4), ("config", 3), ("nonblocking", 3), ("scalable", 2)] {
        processes(how, ranks, |rank, file| start(&program, &[rank, &ranks.to_string(), file, how]));
    }
}

#[test]
fn processes_over_tcp() {
    if !has_compiler() {
        return;
    }
    let program = program("processes");
    processes("tcp", 3, |rank, file| {
        let mut command = crate::toolbox::command(&program);
        command.args([rank, "3", file, "plain"]).env("ROUNDEL_TRANSPORT", "tcp");
        Rank::start(command)
    });
}

#[test]
fn threads_of_one_two_and_all_ranks() {
    if !has_compiler() {
        return;
    }
    let program = program("threads");
    for ranks in ["1", "3", "4"] {
        assert_eq!(start(&program, &[ranks]).finished(), ["right"], "{ranks} ranks");
    }
}

#[test]
fn every_mistake_is_answered() {
    if has_compiler() {
        assert_eq!(start(&program("misuse"), &[]).finished(), ["right"]);
    }
}

#[test]
fn a_call_that_cannot_end_is_ended() {
    if !has_compiler() {
        return;
    }
    let program = program("failing");
    for what in ["abort", "background", "quit", "mismatch", "late"] {
        assert_eq!(start(&program, &[what]).finished(), ["right"], "{what}");
    }
}

#[test]
fn killed_peers_are_errors_with_their_numbers_and_the_others_go_on() {
    if !has_compiler() {
        return;
    }
    let program = program("failing");
    // Rank 0 made the id, and its process is where the job began.
    for (what, transport, victims) in [
        ("death", "shm", "30"),
        ("idle", "shm", "01"),
        ("death", "tcp", "02"),
        ("both", "shm", "02"),
        ("both", "tcp", "31"),
    ] {
        let file = folder().join(format!("id-{what}-{transport}-{victims}"));
        let mut ranks: Vec<Option<Rank>> = (0..4)
            .map(|rank| {
                let mut command = crate::toolbox::command(&program);
                command.args([what, &rank.to_string(), file.to_str().unwrap(), victims]);
                command.env("ROUNDEL_TRANSPORT", transport);
                Some(Rank::start(command))
            })
            .collect();
        let victims: Vec<usize> = victims.bytes().map(|digit| usize::from(digit - b'0')).collect();
        for dead in if what == "both" { vec![victims] } else { victims.into_iter().map(|one| vec![one]).collect() } {
            for rank in ranks.iter_mut().flatten() {
                rank.said("ready");
            }
            dead.iter().for_each(|dead| ranks[*dead].take().expect("it lives").kill());
            let killed = std::time::Instant::now();
            for rank in ranks.iter_mut().flatten() {
                rank.said("lost");
            }
            let noticed = killed.elapsed();
            eprintln!(
                "{what} of {dead:?} over {transport}: the last of the others knew after {} ms",
                noticed.as_millis()
            );
            // A loaded machine; a quiet one takes some 20 ms.
            assert!(noticed.as_secs() < 20, "{noticed:?}");
        }
        for rank in ranks.iter_mut().flatten() {
            assert_eq!(rank.finished().last().unwrap(), "right");
        }
    }
}

#[test]
fn a_python_wrapper_shaped_like_that_of_vllm() {
    if !has_program("python3") {
        return support::skip("python3", "there is no python3");
    }
    let script = here().join("python/pynccl_shape.py");
    processes("python", 2, |rank, file| {
        let arguments = [script.to_str().unwrap(), library().to_str().unwrap(), rank, "2", file].map(String::from);
        start("python3".as_ref(), &arguments.each_ref().map(String::as_str))
    });
}

/// Where python3 has a torch that was built for CUDA: it loads, and asks us for ids.
#[test]
fn torch_takes_it_for_nccl() {
    let script = "import torch; print('@@' + str(torch._C._nccl_unique_id()[:7]))";
    let torch = Command::new("python3").args(["-c", "import torch; torch._C._nccl_unique_id"]).output();
    if !torch.is_ok_and(|output| output.status.success()) {
        return support::skip("torch", "python3 has no torch that was built with NCCL");
    }
    let mut command = crate::toolbox::command("python3".as_ref());
    // Its wheels find their own NCCL by RPATH, which comes before `LD_LIBRARY_PATH`.
    command.args(["-c", script]).env("LD_PRELOAD", library());
    assert_eq!(Rank::start(command).finished(), ["b'ROUNDEL'"]);
}
