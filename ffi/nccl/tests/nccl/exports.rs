//! The file from outside: its names, and that programs which need them load.

use crate::support;
use crate::toolbox::{self, command, compile, folder, library, names};
use std::collections::BTreeSet;
use std::process::Command;

fn read(tool: &str, arguments: &[&str]) -> Option<String> {
    if !support::has_program(tool) {
        support::skip(tool, &format!("there is no {tool}"));
        return None;
    }
    let output = Command::new(tool).args(arguments).arg(library()).output().unwrap();
    assert!(output.status.success(), "{tool}: {}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap())
}

#[test]
fn exactly_the_names_of_nccl_are_exported() {
    let Some(listing) = read("nm", &["-D", "--defined-only"]) else { return };
    let exported: BTreeSet<String> =
        listing.lines().filter_map(|line| Some(line.split_whitespace().nth(2)?.to_string())).collect();
    let wanted: BTreeSet<String> = names("all").into_iter().collect();
    assert_eq!(wanted.len(), 97);
    let missing: Vec<_> = wanted.difference(&exported).collect();
    let strangers: Vec<_> = exported.difference(&wanted).collect();
    assert!(missing.is_empty() && strangers.is_empty(), "missing {missing:?}, too many {strangers:?}");
}

#[test]
fn its_name_is_that_of_nccl_and_it_needs_only_the_system() {
    let Some(dynamic) = read("readelf", &["-d"]) else { return };
    assert!(dynamic.contains("soname: [libnccl.so.2]"), "{dynamic}");
    let system = ["libc.so.6", "libm.so.6", "libgcc_s.so.1", "libpthread.so.0", "libdl.so.2", "ld-linux-x86-64.so.2"];
    for needed in dynamic.lines().filter(|line| line.contains("(NEEDED)")) {
        assert!(system.iter().any(|name| needed.contains(&format!("[{name}]"))), "{needed}");
    }
}

/// A shared object that refers to these functions, as a framework's does.
fn stub(name: &str, functions: &[String]) -> std::path::PathBuf {
    let source = folder().join(format!("{name}.c"));
    let declared: String = functions.iter().map(|function| format!("void {function}(void);\n")).collect();
    let table = functions.join(", ");
    std::fs::write(&source, format!("{declared}void (*const needs[])(void) = {{ {table} }};\n")).unwrap();
    compile(&source, &format!("lib{name}.so"), &["-shared", "-fPIC"])
}

#[test]
fn what_frameworks_need_resolves_at_once() {
    if !toolbox::has_compiler() {
        return;
    }
    let load = toolbox::program("load");
    for (framework, count) in [("torch-2.15", 51), ("cupy-14.2", 22), ("jax-0.12", 47), ("all", 97)] {
        let functions = names(framework);
        assert_eq!(functions.len(), count, "{framework}");
        let stub = stub(&format!("needs-{framework}"), &functions);
        let output = command(&load).arg(stub).output().unwrap();
        assert!(output.status.success(), "{framework}: {}", String::from_utf8_lossy(&output.stderr));
    }
    // And the test can tell.
    let stub = stub("needs-more", &["ncclAllReduce".into(), "ncclIsNotThere".into()]);
    let output = command(&load).arg(stub).output().unwrap();
    assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains("ncclIsNotThere"));
}
