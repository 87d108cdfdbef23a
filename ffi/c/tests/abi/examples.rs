//! The examples, compiled as the README says, and against an installed library.

use crate::build::{compilers, libraries, package, scratch, succeed};
use crate::jobs;
use crate::support::{has_program, skip};
use std::path::{Path, PathBuf};
use std::process::Command;

const EXAMPLES: [&str; 3] = ["hello.c", "overlap.c", "mapped_memory.cpp"];

fn root() -> PathBuf {
    package().ancestors().nth(2).expect("two folders up").to_path_buf()
}

/// Runs a program as four ranks, which all end well; what the first of them printed.
fn run(program: &Path) -> String {
    let (mut ranks, _id) = jobs::start(&[program.as_os_str().to_owned()], 4, &[]);
    ranks.iter_mut().for_each(|rank| assert!(rank.finished().is_empty()));
    ranks[0].printed()
}

#[test]
fn the_readme_s_line_compiles_every_example() {
    let readme = std::fs::read_to_string(root().join("README.md")).expect("there is a README");
    let line = readme.lines().find(|line| line.starts_with("cc ")).expect("it has a line that begins with cc");
    let folder = scratch("examples");
    for example in EXAMPLES {
        let Some(compiler) = compilers(example).into_iter().next() else { continue };
        let program = folder.join(example).with_extension("");
        let words = line.replace("hello.c", example).replace("$PWD/target/release", &libraries().display().to_string());
        let words = words.replace("target/release", &libraries().display().to_string());
        let words = words.replace("-o hello", &format!("-o {}", program.display()));
        let words = words.replacen("cc ", &format!("{compiler} -Wall -Wextra -pedantic -Werror "), 1);
        succeed(Command::new("sh").args(["-c", &words]).current_dir(root()));
        let printed = run(&program);
        assert!(printed.contains("rank 0 of 4: "), "{example}: {printed}");
        assert!(example != "hello.c" || printed.contains("rank 0 of 4: 6 4 2"), "{printed}");
    }
    std::fs::remove_dir_all(folder).expect("it is ours");
}

#[test]
fn an_installed_library_is_found_by_pkg_config() {
    if !has_program("pkg-config") {
        return skip("pkg-config", "pkg-config is not here");
    }
    let folder = scratch("installed");
    let profile = match libraries().file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(name) => name,
    };
    let target = libraries().parent().expect("the target folder");
    let mut install = Command::new(root().join("ffi/install"));
    succeed(install.arg(&folder).arg(profile).env("CARGO_TARGET_DIR", target));
    let found = |words: &[&str]| {
        let mut command = Command::new("pkg-config");
        succeed(command.args(words).arg("roundel").env("PKG_CONFIG_PATH", folder.join("lib/pkgconfig")))
            .trim()
            .to_string()
    };
    assert_eq!(found(&["--modversion"]), env!("CARGO_PKG_VERSION"));
    let hello = root().join("examples/c/hello.c").display().to_string();
    let library = folder.join("lib/libroundel.a").display().to_string();
    let flags = found(&["--cflags", "--libs"]);
    let shared = format!("{hello} {flags} -Wl,-rpath,{}/lib -o {}/shared", folder.display(), folder.display());
    let private = found(&["--cflags", "--libs", "--static"]).replace("-lroundel", &library);
    let statically = format!("{hello} {private} -o {}/static", folder.display());
    let Some(compiler) = compilers("hello.c").into_iter().next() else { return };
    for (program, words) in [("shared", shared), ("static", statically)] {
        succeed(Command::new("sh").args(["-c", &format!("{compiler} {words}")]));
        assert!(run(&folder.join(program)).contains("rank 0 of 4: 6 4 2"));
    }
    std::fs::remove_dir_all(folder).expect("it is ours");
}
