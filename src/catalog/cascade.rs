//! Cascades: stages one after another, and upsamplers after them.

use super::defaults::{Defaults, sampler};
use super::index::{ClassName, class_of, inside_or_beside, stage_defaults};
use crate::error::{Error, Result, request};
use crate::models::check::require;
use crate::weights::read_json;
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// Most stages of a cascade.
const MAX_STAGES: usize = 8;

/// One stage's folder.
#[derive(Clone, Debug)]
pub(crate) struct StageFiles {
    pub folder: PathBuf,
    pub defaults: Defaults,
}

/// The folder of an unguided upsampler, our own layout.
#[derive(Clone, Debug)]
pub(crate) struct UpsamplerFiles {
    pub folder: PathBuf,
    /// Its pictures' sides to those of the pictures it enlarges.
    pub scale: usize,
    pub defaults: Defaults,
    /// It runs where it is asked for.
    pub optional: bool,
}

/// A base stage, super-resolution stages after it, and upsamplers after those.
#[derive(Clone, Debug)]
pub(crate) struct ImagenFiles {
    pub stages: Vec<StageFiles>,
    pub upsamplers: Vec<UpsamplerFiles>,
}

/// `cascade.json`: folders of one model's stages with their defaults.
#[derive(Deserialize)]
struct Cascade {
    stages: Vec<CascadeStage>,
}

#[derive(Deserialize)]
struct CascadeStage {
    path: String,
    steps: Option<usize>,
    guidance_scale: Option<f64>,
    sampler: Option<String>,
    eta: Option<f64>,
    noise_level: Option<usize>,
    /// It runs where it is asked for; upsamplers only.
    #[serde(default)]
    optional: bool,
}

/// An upsampler's `model_index.json`.
#[derive(Deserialize)]
struct UpsamplerIndex {
    num_inference_steps: Option<usize>,
    scale: Option<usize>,
}

/// The class of an upsampler's folder.
pub(super) const UPSAMPLER: &str = "ancestral.Upsampler";

fn is_upsampler(folder: &Path) -> bool {
    read_json::<ClassName>(&folder.join("model_index.json")).is_ok_and(|index| index.class_name == UPSAMPLER)
}

/// Parts the models of a cascade from the upsamplers after them.
pub(super) fn split_upsamplers(paths: &[PathBuf]) -> Result<(&[PathBuf], Vec<UpsamplerFiles>)> {
    let first = paths.iter().position(|path| is_upsampler(path)).unwrap_or(paths.len());
    let (models, upsamplers) = paths.split_at(first);
    if let Some(path) = upsamplers.iter().find(|path| !is_upsampler(path)) {
        return Err(Error::file(path, "comes after an upsampler; upsamplers are the last stages"));
    }
    if upsamplers.len() > MAX_STAGES {
        return Err(request!(
            Model,
            OutOfRange,
            "{} upsamplers; give at most {MAX_STAGES}",
            upsamplers.len()
        ));
    }
    Ok((models, upsamplers.iter().map(|path| read_upsampler(path)).collect::<Result<_>>()?))
}

/// Upsamplers that the caller names take the place of the model's optional ones.
pub(super) fn add_upsamplers(own: &mut Vec<UpsamplerFiles>, given: Vec<UpsamplerFiles>) {
    own.retain(|files| given.is_empty() || !files.optional);
    own.extend(given);
}

/// Reads what an upsampler's `model_index.json` says.
pub(crate) fn read_upsampler(folder: &Path) -> Result<UpsamplerFiles> {
    // As in DALL·E 2's second upsampler (Ramesh et al. 2022, table 3).
    const STEPS: usize = 15;
    const SCALE: usize = 4;
    const MAX_SCALE: usize = 16;
    let class = class_of(folder)?;
    let path = folder.join("model_index.json");
    require(&path, "_class_name", class == UPSAMPLER, || format!("`{class}`, not `{UPSAMPLER}`"))?;
    let index: UpsamplerIndex = read_json(&path)?;
    let (steps, scale) = (index.num_inference_steps.unwrap_or(STEPS), index.scale.unwrap_or(SCALE));
    require(&path, "scale", (2..=MAX_SCALE).contains(&scale), || {
        format!("{scale} is out of range; give 2 to {MAX_SCALE}")
    })?;
    let defaults = Defaults::of(steps, 1.0, 0).checked(&path, "num_inference_")?;
    Ok(UpsamplerFiles { folder: folder.to_path_buf(), scale, defaults, optional: false })
}

pub(super) fn read_cascade(root: &Path, path: &Path) -> Result<ImagenFiles> {
    let cascade: Cascade = read_json(path)?;
    let count = cascade.stages.len();
    if count == 0 || count > MAX_STAGES {
        let what = format!("{count} stages; name 1 to {MAX_STAGES} folders, a base stage's first");
        return Err(Error::config(path, "stages", what));
    }
    let mut files = ImagenFiles { stages: Vec::new(), upsamplers: Vec::new() };
    for stage in &cascade.stages {
        let folder = inside_or_beside(root, path, "path", &stage.path)?;
        if is_upsampler(&folder) {
            let upsampler = read_upsampler(&folder)?;
            let usual = stage.guidance_scale.is_none_or(|scale| scale == 1.0) && stage.noise_level.is_none();
            require(path, "guidance_scale", usual, || {
                format!("`{}` is unguided and sees no noise level: leave both out", stage.path)
            })?;
            let after = files.upsamplers.last().is_some_and(|last| last.optional);
            require(path, "optional", stage.optional || !after, || {
                format!("`{}` follows an optional stage and is not optional itself", stage.path)
            })?;
            let defaults = stage.over(path, &upsampler.defaults)?;
            files.upsamplers.push(UpsamplerFiles { defaults, optional: stage.optional, ..upsampler });
            continue;
        }
        require(path, "stages", files.upsamplers.is_empty(), || {
            format!("`{}` follows an upsampler; upsamplers are the last stages", stage.path)
        })?;
        require(path, "optional", !stage.optional, || {
            format!("`{}` is no upsampler; only upsamplers are optional", stage.path)
        })?;
        let defaults = stage.over(path, &stage_defaults(&folder)?)?;
        files.stages.push(StageFiles { folder, defaults });
    }
    require(path, "stages", !files.stages.is_empty(), || "upsamplers only; name a base stage first".into())?;
    Ok(files)
}

impl CascadeStage {
    /// Its settings, where it has any, over those that are usual.
    fn over(&self, path: &Path, usual: &Defaults) -> Result<Defaults> {
        let defaults = Defaults {
            steps: self.steps.unwrap_or(usual.steps),
            respacing: None,
            guidance_scale: self.guidance_scale.unwrap_or(usual.guidance_scale),
            sampler: sampler(path, self.sampler.as_deref(), self.eta)?,
            noise_level: self.noise_level.unwrap_or(usual.noise_level),
        };
        defaults.checked(path, "")
    }
}
