//! The house: what its source files must be like, whatever they compute.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every Rust file under a folder.
fn rust_files(folder: &Path, into: &mut BTreeSet<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("the folder exists") {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            rust_files(&path, into);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            into.insert(path);
        }
    }
}

/// The modules that a file declares plainly, at the beginning of a line: what rustfmt follows.
fn declared(file: &Path) -> Vec<PathBuf> {
    let text = read(file);
    let stem = file.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    let here = file.parent().expect("a file is in a folder");
    let folder = if ["mod", "lib", "main"].contains(&stem) { here.to_path_buf() } else { here.join(stem) };
    let mut path = None;
    let mut modules = Vec::new();
    for line in text.lines() {
        if let Some(given) = line.strip_prefix("#[path = \"").and_then(|rest| rest.strip_suffix("\"]")) {
            path = Some(here.join(given));
            continue;
        }
        let line = line.strip_prefix("pub(crate) ").or(line.strip_prefix("pub ")).unwrap_or(line);
        if let Some(name) = line.strip_prefix("mod ").and_then(|rest| rest.strip_suffix(';')) {
            let plain = [folder.join(format!("{name}.rs")), folder.join(name).join("mod.rs")];
            modules.extend(path.take().or(plain.into_iter().find(|file| file.exists())));
        }
    }
    modules
}

/// What `cargo fmt` sees: a module that a macro declares would never be formatted.
#[test]
fn every_file_is_formatted() {
    let mut seen = BTreeSet::new();
    let mut rest = vec![src().join("lib.rs"), src().join("main.rs")];
    while let Some(file) = rest.pop() {
        rest.extend(declared(&file).into_iter().filter(|module| !seen.contains(module)));
        seen.insert(file);
    }
    let mut all = BTreeSet::new();
    rust_files(&src(), &mut all);
    let missed: Vec<_> = all.difference(&seen).collect();
    assert!(missed.is_empty(), "not declared by a plain `mod x;`, so never formatted: {missed:?}");
}
