//! GLIDE's files.

use super::adm::{checkpoint_of, is_adm_folder, parse_flags};
use super::options::LoadOptions;
use crate::error::{Error, Result, request};
use crate::weights::Checkpoint;
use std::path::{Path, PathBuf};

/// A checkpoint of GLIDE.
#[derive(Clone, Debug)]
pub(crate) struct GlideFile {
    pub weights: PathBuf,
    /// A JSON file that may have its options.
    pub flags: Option<PathBuf>,
    /// Options by the user.
    pub overrides: Vec<(String, String)>,
}

/// GLIDE's networks, in any order, and the folder of its tokenizer's tables.
#[derive(Clone, Debug)]
pub(crate) struct GlideFiles {
    pub networks: Vec<GlideFile>,
    pub tokenizer: PathBuf,
}

/// GLIDE's networks as they are published.
const GLIDE: [&str; 4] = ["base", "upsample", "base_inpaint", "upsample_inpaint"];

/// A folder with files of GLIDE's names, or a file with a U-Net's and a text transformer's tensors.
pub(super) fn is_glide(path: &Path) -> bool {
    if path.is_dir() {
        let other = path.join("model_index.json").exists() || is_adm_folder(path);
        return !other && GLIDE.iter().any(|stem| checkpoint_of(path, stem).is_some());
    }
    // A file that cannot be read is told so where it is loaded.
    let names = ["time_embed.0.weight", "token_embedding.weight"];
    path.is_file() && Checkpoint::lists(path, &names)
}

/// GLIDE's files: folders with some of its four networks under their published names, or single checkpoints. Options may
/// stand in a `config.json` beside them; the tokenizer's tables lie in the first one's folder.
pub(super) fn find_glide(paths: &[PathBuf], options: &LoadOptions) -> Result<GlideFiles> {
    if options.classifier.is_some() {
        return Err(request!(
            Classifier,
            Unsupported,
            "a classifier steers guided diffusion; GLIDE has none"
        ));
    }
    let mut files = GlideFiles { networks: Vec::new(), tokenizer: PathBuf::new() };
    for (i, path) in paths.iter().enumerate() {
        let (folder, weights) = match path.is_dir() {
            true => (path.as_path(), GLIDE.iter().filter_map(|stem| checkpoint_of(path, stem)).collect()),
            false => (path.parent().unwrap_or(Path::new("")), vec![path.clone()]),
        };
        if weights.is_empty() {
            let what =
                "holds none of GLIDE's networks: base.pt, upsample.pt, base_inpaint.pt, upsample_inpaint.pt";
            return Err(Error::file(path, what));
        }
        if i == 0 {
            files.tokenizer = if folder.as_os_str().is_empty() { ".".into() } else { folder.to_path_buf() };
        }
        let flags = Some(folder.join("config.json")).filter(|file| file.is_file());
        let overrides = options.flags.get(i).map(|text| parse_flags(text)).transpose()?.unwrap_or_default();
        let file = |weights| GlideFile { weights, flags: flags.clone(), overrides: overrides.clone() };
        files.networks.extend(weights.into_iter().map(file));
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What tells GLIDE's files apart is a look: a file that breaks off after its list is still GLIDE's, and is told what is
    /// wrong with it as such.
    #[test]
    fn nothing_but_the_list_of_names_is_looked_at() {
        let path = std::env::temp_dir().join(format!("ancestral-glide-{}", std::process::id()));
        let holds = |names: &[&str]| {
            let tensor =
                |name: &&str| format!(r#""{name}":{{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}"#);
            let header = format!("{{{}}}", names.iter().map(tensor).collect::<Vec<_>>().join(","));
            let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat();
            std::fs::write(&path, bytes).unwrap();
            is_glide(&path)
        };
        assert!(holds(&["token_embedding.weight", "time_embed.0.weight"]));
        assert!(!holds(&["time_embed.0.weight", "out.2.weight"]));
        assert!(!holds(&["text_model.token_embedding.weight", "time_embed.0.weight"]));
        std::fs::write(&path, b"no checkpoint").unwrap();
        assert!(!is_glide(&path) && !is_glide(&path.join("absent")));
        std::fs::remove_file(path).unwrap();
    }
}
