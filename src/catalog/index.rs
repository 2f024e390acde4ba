//! What a folder's JSON says it is.

use super::defaults::Defaults;
use crate::error::{Error, Result};
use crate::models::check::require;
use crate::weights::read_json;
use serde::Deserialize;
use std::path::{Component, Path, PathBuf};

/// `model_index.json`, or the root's `config.json` of the oldest DDPM folders.
#[derive(Deserialize)]
pub(super) struct ClassName {
    #[serde(rename = "_class_name")]
    pub class_name: String,
}

/// The defaults of a cascade's stage; refuses folders that are none.
pub(super) fn stage_defaults(folder: &Path) -> Result<Defaults> {
    let class = class_of(folder)?;
    let defaults = Defaults::of_pipeline(&class).filter(|_| class.starts_with("IF"));
    defaults.ok_or_else(|| unknown(folder, &class))
}

pub(super) fn unknown(folder: &Path, class: &str) -> Error {
    Error::file(
        folder,
        format!(
            "holds a `{class}`, which cannot be run here. A cascade is made of IFPipeline and IFSuperResolutionPipeline \
             (DeepFloyd IF), an unCLIP of UnCLIPPipeline and UnCLIPImageVariationPipeline (Karlo), and ancestral.Upsampler \
             may follow either; DDPMPipeline and DDIMPipeline run alone"
        ),
    )
}

pub(super) fn class_of(folder: &Path) -> Result<String> {
    if !folder.is_dir() {
        let what = if folder.exists() { "is not a folder" } else { "does not exist" };
        let give = "give the folder of a model, as diffusers saves it, or a checkpoint: 64x64_diffusion.pt";
        return Err(Error::file(folder, format!("{what}; {give}")));
    }
    let index = folder.join("model_index.json");
    let config = folder.join("config.json");
    if !index.exists() && !config.exists() {
        return Err(Error::file(
            folder,
            "holds no model_index.json; give the root folder of a model, as diffusers saves it",
        ));
    }
    // A folder with all files at its root may have both; its index says what it is.
    let class: ClassName = read_json(if index.exists() { &index } else { &config })?;
    Ok(class.class_name)
}

/// A folder that a model's file names: inside the model's own, or beside it.
pub(super) fn inside_or_beside(root: &Path, file: &Path, key: &str, name: &str) -> Result<PathBuf> {
    let parts = Path::new(name).strip_prefix("..").unwrap_or(Path::new(name));
    let normal = |part: Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir);
    require(file, key, parts.components().all(normal), || {
        format!("`{name}` lies neither inside the model's folder nor beside it")
    })?;
    Ok(root.join(name))
}
