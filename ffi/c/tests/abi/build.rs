//! The library as its users link it, and compilers.

use crate::support::{has_program, skip};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The folder of this package.
pub fn package() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The folder that has `libroundel.so` and `libroundel.a`. Cargo builds neither of them for a test, so this asks it to.
pub fn libraries() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        // This program is TARGET/PROFILE/deps/NAME.
        let program = std::env::current_exe().expect("a running program has a path");
        let folder = program.parent().and_then(Path::parent).expect("tests are two folders deep");
        let profile = match folder.file_name().and_then(|name| name.to_str()) {
            Some("debug") | None => "dev",
            Some(name) => name,
        };
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command.args(["build", "--quiet", "--package", "roundel-c", "--profile", profile, "--target-dir"]);
        command.arg(folder.parent().expect("the target folder")).current_dir(package());
        succeed(&mut command);
        assert!(folder.join("libroundel.so").exists() && folder.join("libroundel.a").exists(), "cargo built both");
        folder.to_path_buf()
    })
}

/// Runs a command that must succeed; what it printed.
pub fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let words = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{command:?}: {}\n{words}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    words
}

/// A folder of this process for what a test builds.
pub fn scratch(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder can be made");
    folder
}

/// The compilers of a language that are here, the others skipped.
pub fn compilers(file: &str) -> Vec<&'static str> {
    let names = if file.ends_with(".c") { ["gcc", "clang"] } else { ["g++", "clang++"] };
    let is_here = |name: &&str| {
        let here = has_program(name);
        if !here {
            // Both drivers of a compiler come in one package, and a machine promises them by its name.
            let promised = if name.starts_with("clang") { "clang" } else { "gcc" };
            skip(promised, &format!("{name} is not here"));
        }
        here
    };
    names.into_iter().filter(is_here).collect()
}

/// Compiles a source file of this folder without a warning.
pub fn compile(compiler: &str, source: &str, into: &Path) -> PathBuf {
    let program = into.join(format!("{source}.{compiler}"));
    let standard = if source.ends_with(".c") { "-std=c11" } else { "-std=c++17" };
    let mut command = Command::new(compiler);
    command.args([standard, "-Wall", "-Wextra", "-Wshadow", "-pedantic", "-Werror", "-g", "-O1", "-pthread", "-I"]);
    command.arg(package().join("include")).arg(package().join("tests/abi").join(source)).arg("-o").arg(&program);
    command.arg("-L").arg(libraries()).arg("-lroundel").arg(format!("-Wl,-rpath,{}", libraries().display()));
    succeed(&mut command);
    program
}
