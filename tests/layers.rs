//! Imports point down. Reads every `crate::` path of the library and fails on an arrow that points up, or between two
//! modules that are not to know each other.

use std::path::{Path, PathBuf};

/// Each module and the modules it may name, besides itself. The floors of the house, from the ground up.
const MAY_USE: &[(&str, &[&str])] = &[
    ("types", &[]),
    ("bare", &[]),
    ("element", &["types"]),
    ("memory", &[]),
    ("error", &["types"]),
    ("fork", &["error"]),
    ("schedule", &["types"]),
    ("topology", &["types", "error"]),
    ("tuner", &["types", "error", "schedule"]),
    ("device", &["types", "error", "memory"]),
    ("transport", &["types", "error", "memory"]),
    ("bootstrap", &["types", "error", "topology", "transport"]),
    ("engine", &["types", "bare", "error", "fork", "memory", "schedule", "tuner", "device", "transport"]),
    (
        "comm",
        &[
            "types",
            "element",
            "error",
            "memory",
            "schedule",
            "topology",
            "tuner",
            "device",
            "transport",
            "bootstrap",
            "engine",
        ],
    ),
    ("fuzz", &["transport", "bootstrap", "engine", "comm", "tuner"]),
    ("elastic", &["types", "error", "engine", "comm"]),
    (
        "sim",
        &["types", "error", "memory", "schedule", "topology", "device", "transport", "bootstrap", "engine", "comm"],
    ),
    ("launch", &["types", "error", "bootstrap", "comm"]),
    ("log", &[]),
];

/// Modules where `unsafe` may be written; everywhere else the compiler forbids it.
const UNSAFE_HOMES: &[&str] = &[
    "src/memory.rs",
    "src/fork.rs",
    "src/device/host/",
    "src/device/cuda/",
    "src/device/names.rs",
    "src/transport/shm/",
    "src/transport/fabric/",
    "src/transport/tcp/rails/vitals.rs",
    "src/comm/buffer.rs",
];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("the source folder can be read") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Every library source file: its path from the root of the repository, and its text.
fn library() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    sources(&root.join("src"), &mut files);
    assert!(files.len() > 30, "the library was found");
    let read = |path: PathBuf| {
        let name = path.strip_prefix(root).expect("below the root").to_string_lossy().into_owned();
        (name, std::fs::read_to_string(&path).expect("a source file can be read"))
    };
    files.into_iter().map(read).collect()
}

/// The module on the first level that a file belongs to; `None` for `lib.rs` and the programs.
fn floor_of(name: &str) -> Option<&str> {
    let first = name.strip_prefix("src/")?.split('/').next()?;
    let module = first.strip_suffix(".rs").unwrap_or(first);
    (!matches!(module, "lib" | "bin")).then_some(module)
}

/// The modules named by `crate::…` paths outside comments.
fn named(text: &str) -> Vec<String> {
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    let mut modules = Vec::new();
    for line in code {
        for (at, _) in line.match_indices("crate::") {
            let rest = &line[at + "crate::".len()..];
            let word: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            modules.push(word);
        }
    }
    modules
}

#[test]
fn imports_point_down() {
    let mut wrong = Vec::new();
    for (name, text) in library() {
        let Some(module) = floor_of(&name) else { continue };
        // What the programs share stands above the whole library.
        if matches!(module, "perf" | "chaos" | "cluster") {
            continue;
        }
        let allowed = MAY_USE.iter().find(|(known, _)| *known == module);
        let (_, allowed) = allowed.unwrap_or_else(|| panic!("{name}: module {module} has no place in the house"));
        for used in named(&text) {
            let is_module = MAY_USE.iter().any(|(known, _)| *known == used);
            if is_module && used != module && !allowed.contains(&used.as_str()) {
                wrong.push(format!("{name} uses crate::{used}"));
            }
        }
    }
    assert!(wrong.is_empty(), "imports that point up or sideways:\n{}", wrong.join("\n"));
}

#[test]
fn unsafe_code_stays_at_home() {
    for (name, text) in library() {
        if UNSAFE_HOMES.iter().any(|home| name.starts_with(home)) || name == "src/lib.rs" {
            continue;
        }
        // What follows the keyword where code of that kind begins.
        let begins = |rest: &str| ["{", "fn ", "impl"].iter().any(|word| rest.starts_with(word));
        let lines = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        let written = lines.flat_map(|line| line.split("unsafe ").skip(1)).any(begins);
        assert!(!written, "{name} is not a home of unsafe code");
    }
}
