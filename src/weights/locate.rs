//! Finding a model folder's weights among the published spellings of their names.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use serde::Deserialize;

use crate::error::{Error, Result};

/// What to do with PyTorch's own files.
pub(super) const CONVERT: &str = "only `safetensors` files are read. Convert it with tools/convert.py, or \
     download the .safetensors file of the same model";

/// The files that hold a checkpoint, by their names in the folder.
#[derive(Debug, PartialEq)]
pub(super) enum Found {
    /// One file with everything.
    Single(String),
    /// An index, which names the shards.
    Index(String),
    /// Shards without an index, all of them.
    Shards(Vec<String>),
}

/// Looks through a folder, once.
pub(super) fn find(folder: &Path, stem: &str, variant: Option<&str>) -> Result<Found> {
    let names = list(folder)?;
    if let Some(found) = search(&names, stem, variant).map_err(|what| Error::file(folder, what))? {
        return Ok(found);
    }
    if variant.is_none()
        && let Some(found) = search(&names, stem, Some("fp16")).map_err(|what| Error::file(folder, what))?
    {
        log::info!("{}: no full-precision weights, taking the fp16 ones", folder.display());
        return Ok(found);
    }
    Err(Error::file(folder, absent(&names, stem, variant)))
}

fn list(folder: &Path) -> Result<BTreeSet<String>> {
    let entries = fs::read_dir(folder).map_err(|e| match fs::metadata(folder) {
        Ok(about) if !about.is_dir() => {
            Error::file(folder, "is a file, expected the folder that holds the weights")
        }
        _ => super::json::unreadable(folder, &e),
    })?;
    // A name that is not Unicode is none of ours.
    let names = entries.map(|entry| Ok(entry?.file_name().into_string().ok()));
    let names: std::io::Result<Vec<_>> = names.collect();
    Ok(names.map_err(|e| super::json::unreadable(folder, &e))?.into_iter().flatten().collect())
}

/// The first spelling that is there; an error's text when its shards are incomplete.
fn search(names: &BTreeSet<String>, stem: &str, variant: Option<&str>) -> Result<Option<Found>, String> {
    let (single, indices, shards) = match variant {
        None => (
            format!("{stem}.safetensors"),
            vec![format!("{stem}.safetensors.index.json")],
            vec![(format!("{stem}-"), ".safetensors".to_string())],
        ),
        Some(v) => (
            format!("{stem}.{v}.safetensors"),
            vec![format!("{stem}.safetensors.index.{v}.json"), format!("{stem}.{v}.safetensors.index.json")],
            vec![
                (format!("{stem}.{v}-"), ".safetensors".to_string()),
                (format!("{stem}-"), format!(".{v}.safetensors")),
            ],
        ),
    };
    if names.contains(&single) {
        return Ok(Some(Found::Single(single)));
    }
    if let Some(index) = indices.into_iter().find(|index| names.contains(index)) {
        return Ok(Some(Found::Index(index)));
    }
    for (prefix, suffix) in shards {
        if let Some(found) = complete(names, &prefix, &suffix)? {
            return Ok(Some(Found::Shards(found)));
        }
    }
    Ok(None)
}

/// The shards `{prefix}00001-of-00002{suffix}`, all of them, or none.
fn complete(names: &BTreeSet<String>, prefix: &str, suffix: &str) -> Result<Option<Vec<String>>, String> {
    let of = |name: &String| {
        let (number, total) = name.strip_prefix(prefix)?.strip_suffix(suffix)?.split_once("-of-")?;
        let digits = |s: &str| s.len() == 5 && s.bytes().all(|b| b.is_ascii_digit());
        (digits(number) && digits(total)).then(|| total.parse::<usize>().ok())?
    };
    let totals: BTreeSet<usize> = names.iter().filter_map(of).collect();
    let total = match totals.iter().collect::<Vec<_>>()[..] {
        [] => return Ok(None),
        [&total] => total,
        _ => {
            let what =
                "holds shards of more than one checkpoint and no index that says which belong together";
            return Err(format!("{what}: {prefix}…{suffix} of {totals:?}. Delete those that are not wanted"));
        }
    };
    let mut found = Vec::new();
    for number in 1..=total {
        let name = format!("{prefix}{number:05}-of-{total:05}{suffix}");
        if !names.contains(&name) {
            return Err(format!("shard {name} is missing: download it into this folder"));
        }
        found.push(name);
    }
    Ok((!found.is_empty()).then_some(found))
}

/// Why nothing was found, and what to do.
fn absent(names: &BTreeSet<String>, stem: &str, variant: Option<&str>) -> String {
    let wanted = match variant {
        None => format!("{stem}.safetensors"),
        Some(v) => format!("{stem}.{v}.safetensors"),
    };
    let some_of = |test: &dyn Fn(&str) -> bool| {
        let found: Vec<&str> = names.iter().map(String::as_str).filter(|name| test(name)).take(5).collect();
        (!found.is_empty()).then(|| found.join(", "))
    };
    let pickled =
        |name: &str| [".bin", ".pt", ".pth", ".ckpt", ".th"].iter().any(|suffix| name.ends_with(suffix));
    if variant.is_some()
        && let Ok(Some(_)) = search(names, stem, None)
    {
        return format!(
            "no {wanted} or its shards here, but there are full-precision weights: ask for no variant"
        );
    }
    if let Some(found) = some_of(&|name| name.contains(".safetensors")) {
        return format!(
            "no {wanted} or its shards here, found {found}: name the variant, or rename the file"
        );
    }
    if let Some(found) = some_of(&pickled) {
        return format!("no {wanted} here, only {found}, and {CONVERT}");
    }
    format!("no {wanted} or its shards here: is this the right folder, and complete?")
}

/// `*.safetensors.index.json`.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// The index: each tensor's name and its shard's, which is a plain file name.
pub(super) fn read_index(path: &Path) -> Result<BTreeMap<String, String>> {
    let Index { weight_map } = super::read_json(path)?;
    if weight_map.is_empty() {
        return Err(Error::file(path, "`weight_map` names no tensor: download the index again"));
    }
    for (name, shard) in &weight_map {
        // A shard lies beside its index; a path that leads elsewhere is a trick or a mistake.
        if shard.is_empty() || shard == "." || shard == ".." || shard.contains(['/', '\\', ':', '\0']) {
            let what = format!(
                "its shard {shard:?} is not the name of a file in this folder: download the index again"
            );
            return Err(Error::tensor(path, name, what));
        }
    }
    Ok(weight_map)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(names: &[&str], variant: Option<&str>) -> Result<Option<Found>, String> {
        search(&names.iter().map(|n| n.to_string()).collect(), "model", variant)
    }

    #[test]
    fn spellings() {
        let single = |s: &str| Ok(Some(Found::Single(s.into())));
        let index = |s: &str| Ok(Some(Found::Index(s.into())));
        let shards = |s: &[&str]| Ok(Some(Found::Shards(s.iter().map(|s| s.to_string()).collect())));
        let both = ["model.safetensors", "model.fp16.safetensors", "config.json"];
        assert_eq!(found(&both, None), single("model.safetensors"));
        assert_eq!(found(&both, Some("fp16")), single("model.fp16.safetensors"));
        let indices = ["model.safetensors.index.json", "model.safetensors.index.fp16.json"];
        assert_eq!(found(&indices, None), index(indices[0]));
        assert_eq!(found(&indices, Some("fp16")), index(indices[1]));
        assert_eq!(
            found(&["model.fp16.safetensors.index.json"], Some("fp16")),
            index("model.fp16.safetensors.index.json")
        );
        let plain = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
        assert_eq!(found(&plain, None), shards(&plain));
        assert_eq!(found(&plain, Some("fp16")), Ok(None));
        let half = ["model.fp16-00001-of-00002.safetensors", "model.fp16-00002-of-00002.safetensors"];
        assert_eq!(found(&half, Some("fp16")), shards(&half));
        assert_eq!(found(&half, None), Ok(None));
        let old = ["model-00001-of-00001.fp16.safetensors"];
        assert_eq!(found(&old, Some("fp16")), shards(&old));
        assert_eq!(found(&old, None), Ok(None));
    }

    #[test]
    fn shards_without_an_index() {
        let missing = found(&["model-00002-of-00002.safetensors"], None).unwrap_err();
        assert!(missing.contains("model-00001-of-00002.safetensors is missing"), "{missing}");
        let mixed = ["model-00001-of-00001.safetensors", "model-00001-of-00002.safetensors"];
        assert!(found(&mixed, None).unwrap_err().contains("more than one checkpoint"));
        assert_eq!(found(&["model-00000-of-00000.safetensors", "model-1-of-2.safetensors"], None), Ok(None));
        assert_eq!(found(&["model-000é1-of-00002.safetensors", "model-.safetensors"], None), Ok(None));
    }
}
