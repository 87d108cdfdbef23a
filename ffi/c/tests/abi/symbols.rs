//! What the libraries export: the functions of the header, and nothing else.

use crate::build::{libraries, package, succeed};
use crate::support::{has_program, skip};
use std::collections::BTreeSet;
use std::process::Command;

/// The functions that the header declares.
fn declared() -> BTreeSet<String> {
    let header = std::fs::read_to_string(package().join("include/roundel.h")).expect("the header is there");
    let code = header.lines().filter(|line| !line.starts_with("//") && !line.starts_with(" *"));
    let names = code.filter_map(|line| {
        let before = line.split_once('(')?.0;
        let name = before.rsplit([' ', '*']).next()?;
        name.starts_with("roundel_").then(|| name.to_string())
    });
    names.collect()
}

/// The names that a library defines, of the kinds (nm's letters) given; of all kinds where none are.
fn defined(library: &str, options: &[&str], kinds: &[&str]) -> BTreeSet<String> {
    let listed = succeed(Command::new("nm").arg("--defined-only").args(options).arg(libraries().join(library)));
    let symbol = |line: &str| {
        let mut words = line.split_whitespace().rev();
        let (name, kind) = (words.next()?, words.next()?);
        (kinds.is_empty() || kinds.contains(&kind)).then(|| name.to_string())
    };
    listed.lines().filter_map(symbol).collect()
}

#[test]
fn the_header_s_functions_are_exported_and_nothing_else() {
    if !has_program("nm") {
        return skip("gcc", "nm is not here");
    }
    let declared = declared();
    assert!(declared.len() > 50, "{declared:?}");
    assert_eq!(defined("libroundel.so", &["-D"], &[]), declared, "all that libroundel.so exports, data included");
    let archived = defined("libroundel.a", &[], &["T"]);
    assert!(archived.is_superset(&declared), "{:?}", declared.difference(&archived));
}
