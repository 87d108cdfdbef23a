//! The test programs, with every compiler, over threads, shared memory and TCP; and under valgrind.

use crate::build::{compile, compilers, scratch};
use crate::jobs;
use crate::support::{has_program, skip};

fn every_call(source: &str) {
    let folder = scratch(source);
    for compiler in compilers(source) {
        let program = compile(compiler, source, &folder).into_os_string();
        for transport in ["shm", "tcp"] {
            jobs::pass(std::slice::from_ref(&program), 4, &[("ROUNDEL_TRANSPORT", transport)]);
        }
        jobs::pass(std::slice::from_ref(&program), 1, &[]);
    }
    std::fs::remove_dir_all(folder).expect("it is ours");
}

#[test]
fn c_makes_every_call_over_four_processes() {
    every_call("collectives.c");
}

#[test]
fn cpp_makes_every_call_over_four_processes() {
    every_call("wrapper.cpp");
}

#[test]
fn misuse_gets_the_error_of_the_table() {
    let folder = scratch("misuse");
    for compiler in compilers("misuse.c") {
        jobs::pass(&[compile(compiler, "misuse.c", &folder).into_os_string()], 1, &[]);
    }
    std::fs::remove_dir_all(folder).expect("it is ours");
}

#[test]
fn valgrind_finds_nothing() {
    if !has_program("valgrind") {
        return skip("valgrind", "valgrind is not here");
    }
    let folder = scratch("valgrind");
    for (source, world) in [("collectives.c", 2), ("wrapper.cpp", 1), ("misuse.c", 1)] {
        let Some(compiler) = compilers(source).into_iter().next() else { continue };
        let program = compile(compiler, source, &folder).into_os_string();
        let valgrind = ["valgrind", "--quiet", "--error-exitcode=99", "--leak-check=full", "--fair-sched=yes"];
        let kinds = ["--show-leak-kinds=definite,indirect", "--errors-for-leak-kinds=definite,indirect"];
        let words: Vec<_> = valgrind.into_iter().chain(kinds).map(Into::into).chain([program]).collect();
        // Valgrind gives a program 128 GiB of addresses, less than a few ranks reserve.
        jobs::pass(&words, world, &[("ROUNDEL_ARENA_BYTES", "67108864")]);
    }
    std::fs::remove_dir_all(folder).expect("it is ours");
}
