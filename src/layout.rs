//! Which files make a model: the folders people have, told apart by their JSON.

use crate::diffusion::Sampler;
use crate::error::{Error, Result};
use crate::models::check::require;
use crate::request::MAX_GUIDANCE;
use crate::weights::read_json;
use serde::Deserialize;
use std::path::{Component, Path, PathBuf};

/// Most stages of a cascade.
const MAX_STAGES: usize = 8;

/// A stage's settings where the caller gives none.
#[derive(Clone, Debug)]
pub(crate) struct Defaults {
    pub steps: usize,
    pub guidance_scale: f64,
    pub sampler: Option<Sampler>,
    pub noise_level: usize,
}

/// One stage's folder.
#[derive(Clone, Debug)]
pub(crate) struct StageFiles {
    pub folder: PathBuf,
    pub defaults: Defaults,
}

/// A model as its files say.
pub(crate) enum Model {
    Ddpm(PathBuf, Defaults),
    Imagen(Vec<StageFiles>),
}

/// `model_index.json`, or the root's `config.json` of the oldest DDPM folders.
#[derive(Deserialize)]
struct ClassName {
    #[serde(rename = "_class_name")]
    class_name: String,
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
}

/// What the reference pipelines take by default (diffusers' `__call__` signatures).
fn pipeline_defaults(class: &str) -> Option<Defaults> {
    let defaults =
        |steps, guidance_scale, noise_level| Defaults { steps, guidance_scale, sampler: None, noise_level };
    match class {
        "IFPipeline" => Some(defaults(100, 7.0, 0)),
        "IFSuperResolutionPipeline" => Some(defaults(50, 4.0, 250)),
        "DDPMPipeline" | "DDIMPipeline" | "UNet2DModel" => Some(defaults(1000, 1.0, 0)),
        _ => None,
    }
}

impl Model {
    /// Tells what the folders hold.
    pub(crate) fn find(paths: &[PathBuf]) -> Result<Model> {
        let [first, rest @ ..] = paths else {
            return Err(Error::Request("no model folder is given".into()));
        };
        let cascade = first.join("cascade.json");
        if rest.is_empty() && cascade.exists() {
            return Ok(Model::Imagen(read_cascade(first, &cascade)?));
        }
        let class = class_of(first)?;
        if rest.is_empty() && matches!(class.as_str(), "DDPMPipeline" | "DDIMPipeline" | "UNet2DModel") {
            let defaults = pipeline_defaults(&class).ok_or_else(|| unknown(first, &class))?;
            return Ok(Model::Ddpm(first.clone(), defaults));
        }
        let stages: Result<Vec<StageFiles>> = paths
            .iter()
            .map(|folder| Ok(StageFiles { folder: folder.clone(), defaults: stage_defaults(folder)? }))
            .collect();
        Ok(Model::Imagen(stages?))
    }
}

/// The defaults of a cascade's stage; refuses folders that are none.
fn stage_defaults(folder: &Path) -> Result<Defaults> {
    let class = class_of(folder)?;
    let defaults = pipeline_defaults(&class).filter(|_| class.starts_with("IF"));
    defaults.ok_or_else(|| unknown(folder, &class))
}

fn unknown(folder: &Path, class: &str) -> Error {
    Error::file(
        folder,
        format!(
            "holds a `{class}`, which this version does not run. It runs IFPipeline and IFSuperResolutionPipeline \
             (DeepFloyd IF), DDPMPipeline and DDIMPipeline"
        ),
    )
}

fn class_of(folder: &Path) -> Result<String> {
    if !folder.is_dir() {
        let what = if folder.exists() { "is not a folder" } else { "does not exist" };
        return Err(Error::file(
            folder,
            format!("{what}; give the folder of a model, as diffusers saves it"),
        ));
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

fn read_cascade(root: &Path, path: &Path) -> Result<Vec<StageFiles>> {
    let cascade: Cascade = read_json(path)?;
    let count = cascade.stages.len();
    if count == 0 || count > MAX_STAGES {
        let what = format!("{count} stages; name 1 to {MAX_STAGES} folders, a base stage's first");
        return Err(Error::config(path, "stages", what));
    }
    cascade.stages.iter().map(|stage| read_stage(root, path, stage)).collect()
}

fn read_stage(root: &Path, path: &Path, stage: &CascadeStage) -> Result<StageFiles> {
    let inside = |part: Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir);
    if !Path::new(&stage.path).components().all(inside) {
        let what = format!("`{}` leads out of the model's folder; stages lie inside it", stage.path);
        return Err(Error::config(path, "path", what));
    }
    let folder = root.join(&stage.path);
    let base = stage_defaults(&folder)?;
    let eta = stage.eta.unwrap_or(0.0);
    require(path, "eta", (0.0..=1.0).contains(&eta), || format!("{eta} is out of range; give 0 to 1"))?;
    let sampler = match stage.sampler.as_deref() {
        None => None,
        Some("ddpm") => Some(Sampler::Ddpm),
        Some("ddim") => Some(Sampler::Ddim { eta, rederive_epsilon: false }),
        Some(other) => {
            return Err(Error::config(path, "sampler", format!("`{other}` is unknown; give ddpm or ddim")));
        }
    };
    let defaults = Defaults {
        steps: stage.steps.unwrap_or(base.steps),
        guidance_scale: stage.guidance_scale.unwrap_or(base.guidance_scale),
        sampler,
        noise_level: stage.noise_level.unwrap_or(base.noise_level),
    };
    let scale = defaults.guidance_scale;
    require(path, "steps", defaults.steps > 0, || "0 steps make no picture; give 1 or more".into())?;
    require(path, "guidance_scale", (0.0..=MAX_GUIDANCE).contains(&scale), || {
        format!("{scale} is out of range; give 0 to {MAX_GUIDANCE}")
    })?;
    Ok(StageFiles { folder, defaults })
}

/// The bundled model's folder: `$ANCESTRAL_MODELS/scenes`, beside the program, or in the source tree.
pub(crate) fn bundled_model() -> Result<PathBuf> {
    let mut places: Vec<PathBuf> =
        std::env::var_os("ANCESTRAL_MODELS").map(PathBuf::from).into_iter().collect();
    places.push("models".into());
    if let Ok(program) = std::env::current_exe() {
        places.extend(program.ancestors().skip(1).take(4).map(|p| p.join("models")));
    }
    places.push(Path::new(env!("CARGO_MANIFEST_DIR")).join("models"));
    let found = places.iter().map(|p| p.join("scenes")).find(|p| p.join("cascade.json").exists());
    found.ok_or_else(|| {
        Error::Request(
            "the bundled model is not found; set ANCESTRAL_MODELS to the repository's models folder, or give `--model PATH`"
                .into(),
        )
    })
}
