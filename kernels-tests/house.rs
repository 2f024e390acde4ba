//! The house: what its source files must be like, whatever they compute.

use std::collections::{BTreeMap, BTreeSet};
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

/// The modules that a file declares plainly, at the beginning of a line, by name: what rustfmt follows.
fn declared_in(file: &Path, text: &str) -> Vec<(String, PathBuf)> {
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
        let scope = line.strip_prefix("pub(").and_then(|rest| rest.split_once(") "));
        let line = scope.map_or(line.strip_prefix("pub ").unwrap_or(line), |(_, rest)| rest);
        if let Some(name) = line.strip_prefix("mod ").and_then(|rest| rest.strip_suffix(';')) {
            let plain = [folder.join(format!("{name}.rs")), folder.join(name).join("mod.rs")];
            let file = path.take().or(plain.into_iter().find(|file| file.exists()));
            modules.extend(file.map(|file| (name.to_string(), file)));
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
        rest.extend(declared_in(&file, &read(&file)).into_iter().map(|(_, module)| module));
        seen.insert(file);
    }
    let mut all = BTreeSet::new();
    rust_files(&src(), &mut all);
    let missed: Vec<_> = all.difference(&seen).collect();
    assert!(missed.is_empty(), "not declared by a plain `mod x;`, so never formatted: {missed:?}");
}

/// What is called from above only, highest first: an arrow may run down or within a rank.
const RANKS: &[&[&str]] = &[
    &["main", "cli"],
    &["engine", "lib"],
    &["pipeline", "train", "evaluate"],
    &["settings"],
    &["models", "catalog"],
    &["device", "weights", "text"],
    &["kernels", "graph"],
    &["diffusion"],
    &["picture"],
    &["files"],
    &["error"],
];
/// A node names its kernel, and kernels record nodes: the one pair that may know each other.
const PAIR: [&str; 2] = ["kernels", "graph"];
/// Longest file of source, in lines.
const MAX_LINES: usize = 450;

/// Before the names of the binary's modules.
const BINARY: &str = "(main)";

/// A file of the crate as a module.
struct Module {
    /// Names from the library's root on, as `["weights", "torch"]`; those of the binary begin with [`BINARY`].
    path: Vec<String>,
    /// Without comments and `#[cfg(test)]` modules.
    text: String,
    /// Modules that it declares.
    children: BTreeSet<String>,
    /// Those of them that it re-exports whole.
    globs: Vec<String>,
}

/// The text without comments, and up to the tests at the file's end.
fn plain(text: &str) -> String {
    let mut out = String::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        if line == "#[cfg(test)]" {
            match lines.peek() {
                Some(next) if next.ends_with("tests {") => break,
                Some(next) if next.starts_with("mod ") => drop(lines.next()),
                _ => {}
            }
            continue;
        }
        // `pub(in path)` says who may see a thing, not what it needs.
        let code = line.split_once("//").map_or(line, |(code, _)| code);
        let code = code.trim_start();
        out.push_str(match code.strip_prefix("pub(in ").and_then(|rest| rest.split_once(')')) {
            Some((_, rest)) => rest,
            None => code,
        });
        out.push('\n');
    }
    out
}

/// Every module, by file.
fn modules() -> BTreeMap<PathBuf, Module> {
    let mut modules = BTreeMap::new();
    let mut rest =
        vec![(src().join("lib.rs"), Vec::new()), (src().join("main.rs"), vec![BINARY.to_string()])];
    while let Some((file, path)) = rest.pop() {
        let text = plain(&read(&file));
        let mut children = BTreeSet::new();
        for (name, child) in declared_in(&file, &text) {
            rest.push((child, [path.clone(), vec![name.clone()]].concat()));
            children.insert(name);
        }
        let glob = |child: &&String| text.contains(&format!("pub use {child}::*;"));
        let globs = children.iter().filter(glob).cloned().collect();
        modules.insert(file, Module { path, text, children, globs });
    }
    modules
}

/// The paths that a `use` tree names, nested braces included.
fn expand(tree: &str, prefix: &str, into: &mut Vec<String>) {
    let tree = tree.trim();
    let Some((head, rest)) = tree.split_once('{') else {
        let name = tree.split(" as ").next().unwrap_or_default().trim();
        into.push(format!("{prefix}{name}"));
        return;
    };
    let inner = rest.rsplit_once('}').map_or(rest, |(inner, _)| inner);
    let (mut depth, mut start) = (0, 0);
    for (i, c) in inner.char_indices().chain([(inner.len(), ',')]) {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                if !inner[start..i].trim().is_empty() {
                    expand(&inner[start..i], &format!("{prefix}{}", head.trim()), into);
                }
                start = i + 1;
            }
            _ => {}
        }
    }
}

/// Every path in a module's text that may lead to another file.
fn paths(module: &Module) -> Vec<String> {
    let mut found = Vec::new();
    let mut code = String::new();
    let mut rest = module.text.as_str();
    while let Some(at) = rest.find("use ") {
        let starts = rest[..at].chars().next_back().is_none_or(|c| c.is_whitespace() || c == ')');
        let end = rest[at..].find(';').map_or(rest.len(), |end| at + end);
        if starts {
            code.push_str(&rest[..at]);
            expand(&rest[at + 4..end], "", &mut found);
        } else {
            code.push_str(&rest[..end]);
        }
        rest = &rest[end..];
    }
    code.push_str(rest);
    let name = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    found.extend(code.split(|c| !name(c)).filter(|word| word.contains("::")).map(str::to_string));
    found
}

/// The file that a path in a module leads to, if it is one of the crate's.
fn resolve(
    from: &Module,
    path: &str,
    by_path: &BTreeMap<&[String], &PathBuf>,
    all: &BTreeMap<PathBuf, Module>,
) -> Option<PathBuf> {
    let mut names = path.split("::").filter(|name| !name.is_empty()).peekable();
    let root: Vec<String> = from.path.iter().take_while(|name| *name == BINARY).cloned().collect();
    let mut at = match *names.peek()? {
        "crate" => root,
        "ancestral" => Vec::new(),
        "self" | "super" => from.path.clone(),
        name if from.children.contains(name) => from.path.clone(),
        _ => return None,
    };
    for name in names {
        let child = |of: &[String]| [of, &[name.to_string()]].concat();
        match name {
            "crate" | "ancestral" | "self" => {}
            "super" => drop(at.pop()),
            _ => {
                // Through `pub use family::*`, as all paths to kernels go.
                let here = by_path.get(at.as_slice()).map(|file| &all[*file]);
                let globs = here.into_iter().flat_map(|module| &module.globs);
                let through = globs.map(|glob| child(&[at.as_slice(), std::slice::from_ref(glob)].concat()));
                let mut ways = through.chain([child(&at)]);
                match ways.find(|way| by_path.contains_key(way.as_slice())) {
                    Some(way) => at = way,
                    None => break,
                }
            }
        }
    }
    by_path.get(at.as_slice()).map(|file| (*file).clone())
}

/// Which file names which.
fn arrows(modules: &BTreeMap<PathBuf, Module>) -> BTreeMap<PathBuf, BTreeSet<PathBuf>> {
    let by_path: BTreeMap<&[String], &PathBuf> =
        modules.iter().map(|(file, module)| (module.path.as_slice(), file)).collect();
    let of = |(file, module): (&PathBuf, &Module)| {
        let to = paths(module)
            .iter()
            .filter_map(|path| resolve(module, path, &by_path, modules))
            .collect::<BTreeSet<_>>();
        (file.clone(), to.into_iter().filter(|to| to != file).collect())
    };
    modules.iter().map(of).collect()
}

/// The module of the crate's root that a file is in.
fn top(file: &Path) -> String {
    let inside = file.strip_prefix(src()).expect("a file of src");
    let first = inside.components().next().expect("it has a name");
    first.as_os_str().to_string_lossy().trim_end_matches(".rs").to_string()
}

fn short(file: &Path) -> String {
    file.strip_prefix(src()).expect("a file of src").display().to_string()
}

/// The arrows that run up, in words.
fn upward(arrows: &BTreeMap<PathBuf, BTreeSet<PathBuf>>) -> Vec<String> {
    let rank = |file: &Path| RANKS.iter().position(|rank| rank.contains(&top(file).as_str()));
    let mut wrong = Vec::new();
    for (from, to) in arrows.iter().filter(|(from, _)| top(from) != "lib") {
        for to in to {
            let up = match (rank(from), rank(to)) {
                (Some(from), Some(to)) => to < from,
                // A module without a rank: none of the house's.
                _ => true,
            };
            let pair = PAIR.contains(&top(from).as_str()) && PAIR.contains(&top(to).as_str());
            if up && !pair {
                wrong.push(format!("{} -> {}", short(from), short(to)));
            }
        }
    }
    wrong
}

/// The files that a file leads to, by any number of arrows.
fn reach<'a>(
    from: &'a PathBuf,
    arrows: &BTreeMap<&'a PathBuf, BTreeSet<&'a PathBuf>>,
) -> BTreeSet<&'a PathBuf> {
    let (mut seen, mut rest) = (BTreeSet::new(), vec![from]);
    while let Some(file) = rest.pop() {
        rest.extend(arrows.get(file).into_iter().flatten().copied().filter(|to| seen.insert(*to)));
    }
    seen
}

/// The circles of files, each as the files that reach one another.
fn circles(arrows: &BTreeMap<PathBuf, BTreeSet<PathBuf>>) -> Vec<Vec<String>> {
    let arrows: BTreeMap<&PathBuf, BTreeSet<&PathBuf>> =
        arrows.iter().map(|(from, to)| (from, to.iter().collect())).collect();
    let reached: BTreeMap<&PathBuf, BTreeSet<&PathBuf>> =
        arrows.keys().map(|file| (*file, reach(file, &arrows))).collect();
    let mut circles = BTreeSet::new();
    for (file, to) in reached.iter().filter(|(file, to)| to.contains(*file)) {
        let circle: Vec<&PathBuf> =
            to.iter().copied().filter(|other| reached[other].contains(file)).collect();
        circles.insert(circle);
    }
    let apart = |circle: &Vec<&PathBuf>| !circle.iter().all(|file| PAIR.contains(&top(file).as_str()));
    circles.into_iter().filter(apart).map(|circle| circle.iter().map(|file| short(file)).collect()).collect()
}

#[test]
fn layers_look_down() {
    let wrong = upward(&arrows(&modules()));
    assert!(wrong.is_empty(), "{} arrows run up:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn no_circles_of_files() {
    let arrows = arrows(&modules());
    let circles = circles(&arrows);
    let words: Vec<String> = circles.iter().map(|circle| circle.join(", ")).collect();
    assert!(circles.is_empty(), "{} circles:\n{}", circles.len(), words.join("\n"));
}

#[test]
fn no_file_is_too_long() {
    let mut all = BTreeSet::new();
    rust_files(&src(), &mut all);
    let long = |file: &&PathBuf| read(file).lines().count() > MAX_LINES;
    let long: Vec<String> = all.iter().filter(long).map(|file| short(file)).collect();
    assert!(long.is_empty(), "more than {MAX_LINES} lines: {}", long.join(", "));
}

/// Each check sees what it is for.
#[test]
fn planted_arrows_are_seen() {
    let file = |name: &str| src().join(name);
    let with = |from: &str, code: &str| {
        let mut modules = modules();
        modules.get_mut(&file(from)).expect("a file").text.push_str(&plain(code));
        arrows(&modules)
    };
    for code in [
        "use crate::{error::Error, models::{blocks::linear as l, t5}};",
        "fn f() { crate::models::t5::graph() }",
    ] {
        let up = upward(&with("graph/fuse.rs", code));
        assert!(up.contains(&"graph/fuse.rs -> models/t5.rs".to_string()), "{code}: {up:?}");
    }
    let circle = |from, code| circles(&with(from, code)).concat();
    for code in ["use super::scheduler::steps;", "pub(super) use super::super::diffusion::scheduler;"] {
        assert!(
            circle("diffusion/schedule.rs", code).contains(&"diffusion/schedule.rs".to_string()),
            "{code}"
        );
    }
    assert!(upward(&with("graph/fuse.rs", "// use crate::models::t5;")).is_empty());
    let mut expanded = Vec::new();
    expand("a::{b, c::{d, e as f}, g}", "", &mut expanded);
    assert_eq!(expanded, ["a::b", "a::c::d", "a::c::e", "a::g"]);
}
