//! Which files make a model: the folders people have, told apart by their JSON.

mod adm;
mod cascade;
mod glide;
mod unclip;

pub(crate) use adm::{AdmFile, AdmFiles};
pub(crate) use cascade::{ImagenFiles, StageFiles, UpsamplerFiles, read_upsampler};
pub(crate) use glide::GlideFiles;
pub(crate) use unclip::UnClipFiles;

use crate::diffusion::Sampler;
use crate::engine::LoadOptions;
use crate::error::{Error, Result};
use crate::models::check::require;
use crate::weights::read_json;
use adm::{find_adm, is_adm_folder};
use cascade::{add_upsamplers, read_cascade, split_upsamplers};
use glide::{find_glide, is_glide};
use serde::Deserialize;
use std::path::{Component, Path, PathBuf};
use unclip::find_unclip;

/// A stage's settings where the caller gives none.
#[derive(Clone, Debug)]
pub(crate) struct Defaults {
    pub steps: usize,
    /// Goes before `steps`, where it is known.
    pub respacing: Option<String>,
    pub guidance_scale: f64,
    pub sampler: Option<Sampler>,
    pub noise_level: usize,
}

/// A model as its files say.
pub(crate) enum Model {
    Ddpm(PathBuf, Defaults),
    Imagen(ImagenFiles),
    Upsampler(Vec<UpsamplerFiles>),
    Adm(AdmFiles),
    Glide(GlideFiles),
    UnClip(UnClipFiles),
}

impl Defaults {
    /// So many steps, spaced and sampled as the scheduler says.
    pub(crate) fn of(steps: usize, guidance_scale: f64, noise_level: usize) -> Defaults {
        Defaults { steps, respacing: None, guidance_scale, sampler: None, noise_level }
    }

    /// What GLIDE's notebooks take.
    pub(crate) fn glide(enlarges: bool, inpaint: bool) -> Defaults {
        let ddim = Sampler::Ddim { eta: 0.0, rederive_epsilon: true };
        let (steps, guidance_scale) = match (enlarges, inpaint) {
            (true, _) => (27, 1.0),
            (false, false) => (100, 3.0),
            (false, true) => (100, 5.0),
        };
        Defaults {
            steps,
            respacing: Some(if enlarges { "fast27" } else { "100" }.into()),
            guidance_scale,
            sampler: (enlarges && !inpaint).then_some(ddim),
            noise_level: 0,
        }
    }
}

/// `model_index.json`, or the root's `config.json` of the oldest DDPM folders.
#[derive(Deserialize)]
struct ClassName {
    #[serde(rename = "_class_name")]
    class_name: String,
}

/// What the reference pipelines take by default (diffusers' `__call__` signatures).
fn pipeline_defaults(class: &str) -> Option<Defaults> {
    match class {
        "IFPipeline" => Some(Defaults::of(100, 7.0, 0)),
        "IFSuperResolutionPipeline" => Some(Defaults::of(50, 4.0, 250)),
        "DDPMPipeline" | "DDIMPipeline" | "UNet2DModel" => Some(Defaults::of(1000, 1.0, 0)),
        _ => None,
    }
}

impl Model {
    /// Tells what the folders or files hold.
    pub(crate) fn find(paths: &[PathBuf], options: &LoadOptions) -> Result<Model> {
        let [first, ..] = paths else {
            return Err(Error::Request("no model is given".into()));
        };
        let (glide, adm) = (is_glide(first), first.is_file() || is_adm_folder(first));
        if (glide || adm) && options.flags.len() > paths.len() {
            let (given, models) = (options.flags.len(), paths.len());
            let what = format!("flags for {given} models, {models} given: one text for each");
            return Err(Error::Request(what));
        }
        if glide {
            return Ok(Model::Glide(find_glide(paths, options)?));
        }
        if adm {
            return Ok(Model::Adm(find_adm(paths, options)?));
        }
        if options.classifier.is_some() || !options.flags.is_empty() {
            let what = "`--classifier` and `--flags` are for OpenAI's checkpoints (guided diffusion, GLIDE); leave them out";
            return Err(Error::Request(what.into()));
        }
        let (paths, upsamplers) = split_upsamplers(paths)?;
        if paths.is_empty() {
            return Ok(Model::Upsampler(upsamplers));
        }
        let (alone, cascade) = (paths.len() == 1, first.join("cascade.json"));
        if alone && cascade.exists() {
            let mut files = read_cascade(first, &cascade)?;
            add_upsamplers(&mut files.upsamplers, upsamplers);
            return Ok(Model::Imagen(files));
        }
        let class = class_of(first)?;
        if alone
            && upsamplers.is_empty()
            && matches!(class.as_str(), "DDPMPipeline" | "DDIMPipeline" | "UNet2DModel")
        {
            let defaults = pipeline_defaults(&class).ok_or_else(|| unknown(first, &class))?;
            return Ok(Model::Ddpm(first.clone(), defaults));
        }
        if class.starts_with("UnCLIP") {
            let mut files = find_unclip(paths)?;
            add_upsamplers(&mut files.upsamplers, upsamplers);
            return Ok(Model::UnClip(files));
        }
        let stages: Result<Vec<StageFiles>> = paths
            .iter()
            .map(|folder| Ok(StageFiles { folder: folder.clone(), defaults: stage_defaults(folder)? }))
            .collect();
        Ok(Model::Imagen(ImagenFiles { stages: stages?, upsamplers }))
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
            "holds a `{class}`, which cannot be run here. A cascade is made of IFPipeline and IFSuperResolutionPipeline \
             (DeepFloyd IF), an unCLIP of UnCLIPPipeline and UnCLIPImageVariationPipeline (Karlo), and ancestral.Upsampler \
             may follow either; DDPMPipeline and DDIMPipeline run alone"
        ),
    )
}

fn class_of(folder: &Path) -> Result<String> {
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
fn inside_or_beside(root: &Path, file: &Path, key: &str, name: &str) -> Result<PathBuf> {
    let parts = Path::new(name).strip_prefix("..").unwrap_or(Path::new(name));
    let normal = |part: Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir);
    require(file, key, parts.components().all(normal), || {
        format!("`{name}` lies neither inside the model's folder nor beside it")
    })?;
    Ok(root.join(name))
}

/// A sampler by its name in a model's file.
fn sampler(path: &Path, name: Option<&str>, eta: Option<f64>) -> Result<Option<Sampler>> {
    let eta = eta.unwrap_or(0.0);
    require(path, "eta", (0.0..=1.0).contains(&eta), || format!("{eta} is out of range; give 0 to 1"))?;
    match name {
        None => Ok(None),
        Some("ddpm") => Ok(Some(Sampler::Ddpm)),
        Some("ddim") => Ok(Some(Sampler::Ddim { eta, rederive_epsilon: false })),
        Some(other) => {
            Err(Error::config(path, "sampler", format!("`{other}` is unknown; give ddpm or ddim")))
        }
    }
}

/// Models that come with the program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Bundled {
    /// A cascade that draws simple scenes by a prompt.
    #[default]
    Imagen,
    /// An unconditional model of single objects and a noisy classifier that steers it.
    Adm,
    /// A prior and a decoder that draw the same scenes by CLIP's embeddings, and so vary and mix pictures.
    UnClip,
}

/// A bundled model's folder.
pub(crate) fn bundled_model(which: Bundled) -> Result<PathBuf> {
    match which {
        Bundled::Imagen => bundled_folder("scenes", "cascade.json", "--model"),
        Bundled::Adm => bundled_folder("adm-scenes", "config.json", "--model"),
        Bundled::UnClip => bundled_folder("unclip-scenes", "model_index.json", "--model"),
    }
}

/// A folder that comes with the program and holds `file`: in `$ANCESTRAL_MODELS`, beside the program, or in the source
/// tree; `option` names another.
pub(crate) fn bundled_folder(folder: &str, file: &str, option: &str) -> Result<PathBuf> {
    let mut places: Vec<PathBuf> =
        std::env::var_os("ANCESTRAL_MODELS").map(PathBuf::from).into_iter().collect();
    places.push("models".into());
    if let Ok(program) = std::env::current_exe() {
        places.extend(program.ancestors().skip(1).take(4).map(|p| p.join("models")));
    }
    places.push(Path::new(env!("CARGO_MANIFEST_DIR")).join("models"));
    let found = places.iter().map(|p| p.join(folder)).find(|p| p.join(file).exists());
    found.ok_or_else(|| {
        Error::Request(format!(
            "the bundled model `{folder}` is not found; set ANCESTRAL_MODELS to the repository's models folder, or give \
             `{option} PATH`"
        ))
    })
}
