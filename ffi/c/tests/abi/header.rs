//! `roundel.h` is what the crate's source says.

use std::path::Path;

/// Set to write the header instead of comparing it.
const WRITE: &str = "ROUNDEL_WRITE_HEADER";

#[test]
fn the_header_is_current() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = cbindgen::Config::from_file(folder.join("cbindgen.toml")).expect("the settings can be read");
    let bindings =
        cbindgen::Builder::new().with_crate(folder).with_config(config).generate().expect("a header is made");
    let mut made = Vec::new();
    bindings.write(&mut made);
    let made = String::from_utf8(made).expect("text");
    let path = folder.join("include/roundel.h");
    if std::env::var_os(WRITE).is_some() {
        std::fs::write(&path, made).expect("the header can be written");
        return;
    }
    let kept = std::fs::read_to_string(&path).expect("the header is there");
    let differs = kept.lines().zip(made.lines()).position(|(kept, made)| kept != made);
    assert!(
        kept == made,
        "include/roundel.h is out of date (line {}); write it again: {WRITE}=1 cargo test -p roundel-c --test abi header",
        differs.map_or(kept.lines().count().min(made.lines().count()), |at| at) + 1
    );
}
