//! The stand-in for CUDA's driver (`tests/cuda/driver.cpp`): compiled when a test first asks for it, and then kept beside the
//! test programs until its sources change. A process that finds its folder in `LD_LIBRARY_PATH` has a GPU.
#![allow(dead_code, reason = "each test program uses its part of it")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

/// A way to compile it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Build {
    Plain,
    /// Every access that kernels and driver make is checked, and all arithmetic that C++ leaves undefined. The program must
    /// be started with [`sanitizer`].
    Sanitized,
    /// As an old driver: a function is missing.
    Lacking,
}

impl Build {
    fn flags(self) -> &'static [&'static str] {
        match self {
            Build::Plain => &["-O1"],
            Build::Sanitized => &["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
            Build::Lacking => &["-O0", "-DWITHOUT_POINTER_ATTRIBUTES"],
        }
    }
}

/// The folder with `libcuda.so.1`, or why there is none.
pub fn folder(build: Build) -> Result<PathBuf, String> {
    // One test compiles, the others wait for it.
    static ALONE: [Mutex<()>; 3] = [const { Mutex::new(()) }; 3];
    let _alone = ALONE[build as usize].lock().unwrap_or_else(PoisonError::into_inner);
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let folder =
        program.parent().expect("a program is in a folder").join(format!("cuda-stand-in-{build:?}").to_lowercase());
    let library = folder.join("libcuda.so.1");
    let changed = |path: &Path| path.metadata().and_then(|data| data.modified()).ok();
    let sources = Path::new(env!("CARGO_MANIFEST_DIR"));
    let newest = [sources.join("kernels"), sources.join("tests/cuda")]
        .iter()
        .flat_map(|folder| folder.read_dir().expect("the sources are there"))
        .filter_map(|entry| changed(&entry.expect("an entry").path()))
        .max();
    if changed(&library).is_some_and(|made: SystemTime| newest.is_some_and(|newest| made > newest)) {
        return Ok(folder);
    }
    std::fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
    // Under a name of this process until it is whole: others may be at it too.
    let draft = folder.join(format!("draft-{}", std::process::id()));
    let mut compiler = Command::new("g++");
    compiler.args(["-std=c++17", "-Wall", "-Wextra", "-Werror", "-ffp-contract=off", "-fPIC", "-shared", "-pthread"]);
    compiler.args(build.flags()).arg("-Wl,-soname,libcuda.so.1");
    compiler.arg("-I").arg(sources.join("kernels")).arg("-I").arg(sources.join("tests/cuda"));
    compiler.arg(sources.join("tests/cuda/driver.cpp")).arg("-o").arg(&draft);
    let made = compiler.output().map_err(|error| format!("g++ cannot be started: {error}"))?;
    assert!(made.status.success(), "{compiler:?}:\n{}", String::from_utf8_lossy(&made.stderr));
    std::fs::rename(&draft, &library).map_err(|error| error.to_string())?;
    Ok(folder)
}

/// What `LD_PRELOAD` must be for a program that loads [`Build::Sanitized`].
pub fn sanitizer() -> Result<String, String> {
    let asked = Command::new("g++").arg("-print-file-name=libasan.so").output();
    let path = String::from_utf8_lossy(&asked.map_err(|error| error.to_string())?.stdout).trim().to_string();
    if Path::new(&path).is_absolute() { Ok(path) } else { Err("g++ has no AddressSanitizer".into()) }
}
