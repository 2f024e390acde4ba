//! Finding a model folder's weights among the published spellings of their names.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use serde::Deserialize;

use crate::error::{Error, Result};

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

/// Looks through a folder, once. Precision goes before format: full before fp16 where nothing is asked for, and of
/// one precision safetensors before PyTorch's own files.
pub(super) fn find(folder: &Path, stem: &str, variant: Option<&str>) -> Result<Found> {
    let names = list(folder)?;
    let search = |variant| search(&names, stem, variant).map_err(|what| Error::file(folder, what));
    if let Some(found) = search(variant)? {
        return Ok(found);
    }
    if variant.is_none()
        && let Some(found) = search(Some("fp16"))?
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
        _ => crate::files::unreadable(folder, &e),
    })?;
    // A name that is not Unicode is none of ours.
    let names = entries.map(|entry| Ok(entry?.file_name().into_string().ok()));
    let names: std::io::Result<Vec<_>> = names.collect();
    Ok(names.map_err(|e| crate::files::unreadable(folder, &e))?.into_iter().flatten().collect())
}

/// The first spelling that is there; an error's text when its shards are incomplete.
fn search(names: &BTreeSet<String>, stem: &str, variant: Option<&str>) -> Result<Option<Found>, String> {
    // transformers calls its PyTorch files otherwise, diffusers does not.
    let pickled = if stem == "model" { "pytorch_model" } else { stem };
    match search_format(names, stem, "safetensors", variant)? {
        None => search_format(names, pickled, "bin", variant),
        found => Ok(found),
    }
}

/// Of one format, whose files end in `.{end}`.
fn search_format(
    names: &BTreeSet<String>,
    stem: &str,
    end: &str,
    variant: Option<&str>,
) -> Result<Option<Found>, String> {
    let (single, indices, shards) = match variant {
        None => (
            format!("{stem}.{end}"),
            vec![format!("{stem}.{end}.index.json")],
            vec![(format!("{stem}-"), format!(".{end}"))],
        ),
        Some(v) => (
            format!("{stem}.{v}.{end}"),
            vec![format!("{stem}.{end}.index.{v}.json"), format!("{stem}.{v}.{end}.index.json")],
            vec![(format!("{stem}.{v}-"), format!(".{end}")), (format!("{stem}-"), format!(".{v}.{end}"))],
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
    if variant.is_some()
        && let Ok(Some(_)) = search(names, stem, None)
    {
        return format!(
            "no {wanted} or its shards here, but there are full-precision weights: ask for no variant"
        );
    }
    let weights = |name: &str| {
        let ends = [".bin", ".pt", ".pth", ".ckpt", ".th"];
        name.contains(".safetensors") || ends.iter().any(|end| name.ends_with(end))
    };
    if let Some(found) = some_of(&weights) {
        return format!(
            "no {wanted} or its shards here, found {found}: name the variant, or rename the file"
        );
    }
    format!("no {wanted} or its shards here: is this the right folder, and complete?")
}

/// `*.safetensors.index.json`, `*.bin.index.json`.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// The index: each tensor's name and its shard's, which is a plain file name.
pub(super) fn read_index(path: &Path) -> Result<BTreeMap<String, String>> {
    let Index { weight_map } = crate::files::read_json(path)?;
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
    fn pytorch_files() {
        let single = |s: &str| Ok(Some(Found::Single(s.into())));
        assert_eq!(found(&["pytorch_model.bin"], None), single("pytorch_model.bin"));
        assert_eq!(found(&["model.bin", "model.pt"], None), Ok(None));
        assert_eq!(found(&["pytorch_model.bin", "model.safetensors"], None), single("model.safetensors"));
        assert_eq!(found(&["pytorch_model.fp16.bin"], Some("fp16")), single("pytorch_model.fp16.bin"));
        let index = "pytorch_model.bin.index.json";
        assert_eq!(found(&[index], None), Ok(Some(Found::Index(index.into()))));
        let shards = ["pytorch_model-00001-of-00001.bin".to_string()];
        assert_eq!(found(&[&shards[0]], None), Ok(Some(Found::Shards(shards.to_vec()))));
        let names = ["diffusion_pytorch_model.bin".to_string()].into_iter().collect();
        assert_eq!(search(&names, "diffusion_pytorch_model", None), single("diffusion_pytorch_model.bin"));
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
