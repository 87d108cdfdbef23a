//! The library under its own name, and programs linked against it.

use crate::support::{self, Rank};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock, PoisonError};

/// A folder of this test run's own.
pub fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let all = Path::new(env!("CARGO_TARGET_TMPDIR")).join("nccl");
        let folder = all.join(std::process::id().to_string());
        std::fs::create_dir_all(&folder).unwrap();
        // Those of test runs that are over.
        for old in std::fs::read_dir(&all).unwrap().map(|entry| entry.unwrap().path()) {
            if !Path::new("/proc").join(old.file_name().unwrap()).exists() {
                let _ = std::fs::remove_dir_all(old);
            }
        }
        // As a user would put it first in the library path.
        std::os::unix::fs::symlink(built(), folder.join("libnccl.so.2")).unwrap();
        folder
    })
}

/// What cargo has built: it puts the shared library beside the test program.
fn built() -> PathBuf {
    let built = std::env::current_exe().unwrap().parent().unwrap().join("libnccl.so");
    assert!(built.exists(), "{built:?} is missing");
    built
}

pub fn library() -> PathBuf {
    folder().join("libnccl.so.2")
}

/// The C compiler, or a word why the test is skipped.
pub fn has_compiler() -> bool {
    let has = support::has_program("cc");
    if !has {
        support::skip("cc", "there is no C compiler (cc)");
    }
    has
}

/// Compiles `source` to `name` with more arguments; links the library.
pub fn compile(source: &Path, name: &str, more: &[&str]) -> PathBuf {
    let program = folder().join(name);
    let mut command = Command::new("cc");
    command.args(["-std=c11", "-D_DEFAULT_SOURCE", "-Wall", "-Wextra", "-Werror", "-O1", "-pthread"]);
    command.args(more).arg(source).arg("-o").arg(&program);
    command.arg(format!("-L{}", folder().display())).args(["-Wl,--no-as-needed", "-l:libnccl.so.2", "-ldl"]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}\n{}", String::from_utf8_lossy(&output.stderr));
    program
}

/// One of the programs in `tests/c`, compiled once.
pub fn program(name: &str) -> PathBuf {
    static COMPILED: Mutex<BTreeMap<String, PathBuf>> = Mutex::new(BTreeMap::new());
    let mut compiled = COMPILED.lock().unwrap_or_else(PoisonError::into_inner);
    compiled.entry(name.to_string()).or_insert_with(|| compile_c(name)).clone()
}

fn compile_c(name: &str) -> PathBuf {
    compile(&here().join("c").join(format!("{name}.c")), name, &["-pedantic"])
}

/// The folder with these tests.
pub fn here() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")
}

/// A command that finds our library first, as `LD_LIBRARY_PATH` does it for users.
pub fn command(program: &Path) -> Command {
    let mut command = support::clean(Command::new(program));
    command.env("LD_LIBRARY_PATH", folder()).env("ROUNDEL_IFACE", "lo").env_remove("NCCL_DEBUG");
    command
}

/// Starts it, with arguments.
pub fn start(program: &Path, arguments: &[&str]) -> Rank {
    let mut command = command(program);
    command.args(arguments);
    Rank::start(command)
}

/// The lines of `names/NAME.txt`.
pub fn names(name: &str) -> Vec<String> {
    let text = std::fs::read_to_string(here().join("names").join(format!("{name}.txt"))).unwrap();
    text.lines().map(str::to_string).collect()
}
