//! Which files make a model: the folders people have, told apart by their JSON.

use crate::diffusion::Sampler;
use crate::engine::LoadOptions;
use crate::error::{Error, Result};
use crate::models::adm::flags::Flags;
use crate::models::adm::{classifier, presets};
use crate::models::check::require;
use crate::request::MAX_GUIDANCE;
use crate::systems::unclip::TokenSampling;
use crate::weights::{Checkpoint, read_json};
use serde::Deserialize;
use std::path::{Component, Path, PathBuf};

/// Most stages of a cascade.
const MAX_STAGES: usize = 8;

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

/// A model as its files say.
pub(crate) enum Model {
    Ddpm(PathBuf, Defaults),
    Imagen(ImagenFiles),
    Upsampler(Vec<UpsamplerFiles>),
    Adm(AdmFiles),
    Glide(GlideFiles),
    UnClip(UnClipFiles),
}

/// A base stage, super-resolution stages after it, and upsamplers after those.
#[derive(Clone, Debug)]
pub(crate) struct ImagenFiles {
    pub stages: Vec<StageFiles>,
    pub upsamplers: Vec<UpsamplerFiles>,
}

/// Where an unCLIP's parts lie.
#[derive(Clone, Debug)]
pub(crate) struct UnClipFiles {
    /// The pipeline's folder: decoder, super-resolution, and the rest but for what is named here.
    pub folder: PathBuf,
    /// The folder with the prior that draws embeddings for a prompt, if there is one.
    pub prior: Option<PathBuf>,
    /// The prior that draws embeddings token by token, if there is one.
    pub prior_ar: Option<TokenPriorFiles>,
    /// The folder with the encoder of pictures to vary, if there is one.
    pub pictures: Option<PathBuf>,
    /// A CLIP of its own, in place of encoders in the folders.
    pub clip: Option<PathBuf>,
    /// Super-resolution has no other network for its last step.
    pub one_for_all_steps: bool,
    /// Of prior, decoder and super-resolution.
    pub defaults: [Defaults; 3],
    /// What enlarges its pictures further.
    pub upsamplers: Vec<UpsamplerFiles>,
}

/// An autoregressive prior.
#[derive(Clone, Debug)]
pub(crate) struct TokenPriorFiles {
    /// The pipeline's folder that holds it.
    pub folder: PathBuf,
    /// How it is sampled where nothing else is said.
    pub sampling: TokenSampling,
}

/// A checkpoint of guided diffusion.
#[derive(Clone, Debug)]
pub(crate) struct AdmFile {
    pub weights: PathBuf,
    /// A JSON file with its flags.
    pub flags: Option<PathBuf>,
    /// Flags by the user.
    pub overrides: Vec<(String, String)>,
    pub defaults: Defaults,
}

/// A base model, upsamplers after it, and a classifier.
#[derive(Clone, Debug)]
pub(crate) struct AdmFiles {
    pub stages: Vec<AdmFile>,
    pub classifier: Option<AdmFile>,
    /// The classes' own names.
    pub names: Option<Vec<String>>,
}

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

/// What a folder's `config.json` says besides flags.
#[derive(Deserialize)]
struct AdmConfig {
    /// The classes' names.
    classes: Option<Vec<String>>,
    #[serde(default)]
    defaults: AdmDefaults,
}

#[derive(Default, Deserialize)]
struct AdmDefaults {
    /// A respacing, in OpenAI's notation.
    steps: Option<String>,
    sampler: Option<String>,
    eta: Option<f64>,
    guidance_scale: Option<f64>,
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

/// The class of an upsampler's folder.
const UPSAMPLER: &str = "ancestral.Upsampler";

fn is_upsampler(folder: &Path) -> bool {
    read_json::<ClassName>(&folder.join("model_index.json")).is_ok_and(|index| index.class_name == UPSAMPLER)
}

/// Parts the models of a cascade from the upsamplers after them.
fn split_upsamplers(paths: &[PathBuf]) -> Result<(&[PathBuf], Vec<UpsamplerFiles>)> {
    let first = paths.iter().position(|path| is_upsampler(path)).unwrap_or(paths.len());
    let (models, upsamplers) = paths.split_at(first);
    if let Some(path) = upsamplers.iter().find(|path| !is_upsampler(path)) {
        return Err(Error::file(path, "comes after an upsampler; upsamplers are the last stages"));
    }
    if upsamplers.len() > MAX_STAGES {
        let what = format!("{} upsamplers; give at most {MAX_STAGES}", upsamplers.len());
        return Err(Error::Request(what));
    }
    Ok((models, upsamplers.iter().map(|path| read_upsampler(path)).collect::<Result<_>>()?))
}

/// Upsamplers that the caller names take the place of the model's optional ones.
fn add_upsamplers(own: &mut Vec<UpsamplerFiles>, given: Vec<UpsamplerFiles>) {
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
    require(&path, "num_inference_steps", steps > 0, || "0 steps make no picture; give 1 or more".into())?;
    require(&path, "scale", (2..=MAX_SCALE).contains(&scale), || {
        format!("{scale} is out of range; give 2 to {MAX_SCALE}")
    })?;
    let defaults = Defaults::of(steps, 1.0, 0);
    Ok(UpsamplerFiles { folder: folder.to_path_buf(), scale, defaults, optional: false })
}

fn read_cascade(root: &Path, path: &Path) -> Result<ImagenFiles> {
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
        let scale = defaults.guidance_scale;
        require(path, "steps", defaults.steps > 0, || "0 steps make no picture; give 1 or more".into())?;
        require(path, "guidance_scale", (0.0..=MAX_GUIDANCE).contains(&scale), || {
            format!("{scale} is out of range; give 0 to {MAX_GUIDANCE}")
        })?;
        Ok(defaults)
    }
}

/// What an unCLIP's `model_index.json` may say besides its parts, by the names of the pipelines' own settings.
#[derive(Deserialize)]
struct UnClipIndex {
    /// A CLIP in place of encoders in the folder: a folder inside it, or beside it.
    clip: Option<String>,
    /// What enlarges its pictures further, where it is asked for: a folder inside it, or beside it.
    upsampler: Option<String>,
    /// What the pipeline is made of, each as its library and class.
    #[serde(flatten)]
    parts: serde_json::Map<String, serde_json::Value>,
    prior_num_inference_steps: Option<usize>,
    prior_guidance_scale: Option<f64>,
    prior_ar_guidance_scale: Option<f64>,
    prior_ar_temperature: Option<f64>,
    decoder_num_inference_steps: Option<usize>,
    decoder_guidance_scale: Option<f64>,
    super_res_num_inference_steps: Option<usize>,
}

/// Karlo's folders: `UnCLIPPipeline`, `UnCLIPImageVariationPipeline`, or both, the one lending the other its prior or its
/// encoder of pictures.
fn find_unclip(paths: &[PathBuf]) -> Result<UnClipFiles> {
    let folder = &paths[0];
    let path = folder.join("model_index.json");
    let index: UnClipIndex = read_json(&path)?;
    let clip = index.clip.as_deref().map(|clip| inside_or_beside(folder, &path, "clip", clip)).transpose()?;
    let defaults = |what: &str, steps: Option<usize>, scale: Option<f64>, usual: Defaults| {
        let (steps, scale) = (steps.unwrap_or(usual.steps), scale.unwrap_or(usual.guidance_scale));
        require(&path, &format!("{what}_num_inference_steps"), steps > 0, || {
            "0 steps make no picture".into()
        })?;
        require(&path, &format!("{what}_guidance_scale"), (0.0..=MAX_GUIDANCE).contains(&scale), || {
            format!("{scale} is out of range; give 0 to {MAX_GUIDANCE}")
        })?;
        Ok(Defaults { steps, guidance_scale: scale, ..usual })
    };
    let (prior, decoder) = (index.prior_num_inference_steps, index.decoder_num_inference_steps);
    let defaults = [
        defaults("prior", prior, index.prior_guidance_scale, Defaults::of(25, 4.0, 0))?,
        defaults("decoder", decoder, index.decoder_guidance_scale, Defaults::of(25, 8.0, 0))?,
        defaults("super_res", index.super_res_num_inference_steps, None, Defaults::of(7, 1.0, 0))?,
    ];
    let upsampler = index.upsampler.as_deref().map(|name| {
        let files = read_upsampler(&inside_or_beside(folder, &path, "upsampler", name)?)?;
        Ok(UpsamplerFiles { optional: true, ..files })
    });
    let upsamplers = upsampler.transpose()?.into_iter().collect();
    let one_for_all_steps = !index.parts.contains_key("super_res_last");
    let mut files = UnClipFiles {
        folder: folder.clone(),
        prior: None,
        prior_ar: None,
        pictures: None,
        clip,
        one_for_all_steps,
        defaults,
        upsamplers,
    };
    for (i, folder) in paths.iter().enumerate() {
        let class = class_of(folder)?;
        if !class.starts_with("UnCLIP") {
            return Err(unknown(folder, &class));
        }
        let path = folder.join("model_index.json");
        let index: UnClipIndex = read_json(&path)?;
        let holds = |part: &str| Some(folder.clone()).filter(|_| index.parts.contains_key(part));
        let (prior, pictures) = (holds("prior"), holds("image_encoder"));
        let prior_ar = holds("prior_ar").map(|folder| token_prior(folder, &path, &index)).transpose()?;
        // A CLIP of its own has an encoder of pictures.
        let has_pictures = files.pictures.is_some() || files.clip.is_some() && i > 0;
        let adds_pictures = !has_pictures && (pictures.is_some() || files.clip.is_some());
        let adds_prior =
            files.prior.is_none() && prior.is_some() || files.prior_ar.is_none() && prior_ar.is_some();
        if !adds_prior && !adds_pictures {
            let what =
                "adds neither a prior, to begin at a prompt, nor an image_encoder, to begin at a picture";
            return Err(Error::file(folder, what));
        }
        files.prior = files.prior.or(prior);
        files.prior_ar = files.prior_ar.or(prior_ar);
        files.pictures = files.pictures.or(pictures);
    }
    files.pictures = files.clip.clone().or(files.pictures);
    Ok(files)
}

/// An autoregressive prior in a folder, as the folder's index has it.
fn token_prior(folder: PathBuf, path: &Path, index: &UnClipIndex) -> Result<TokenPriorFiles> {
    const TEMPERATURES: std::ops::RangeInclusive<f64> = 0.01..=100.0;
    let usual = TokenSampling::default();
    let guidance_scale = index.prior_ar_guidance_scale.unwrap_or(usual.guidance_scale);
    let temperature = index.prior_ar_temperature.unwrap_or(usual.temperature);
    require(path, "prior_ar_guidance_scale", (0.0..=MAX_GUIDANCE).contains(&guidance_scale), || {
        format!("{guidance_scale} is out of range; give 0 to {MAX_GUIDANCE}")
    })?;
    require(path, "prior_ar_temperature", TEMPERATURES.contains(&temperature), || {
        format!("{temperature} is out of range; give 0.01 to 100")
    })?;
    Ok(TokenPriorFiles { folder, sampling: TokenSampling { guidance_scale, temperature } })
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

/// A folder whose `config.json` holds the flags of guided diffusion.
fn is_adm_folder(folder: &Path) -> bool {
    let config = read_json::<serde_json::Map<String, serde_json::Value>>(&folder.join("config.json"));
    config.is_ok_and(|config| config.contains_key("diffusion"))
}

/// GLIDE's networks as they are published.
const GLIDE: [&str; 4] = ["base", "upsample", "base_inpaint", "upsample_inpaint"];

/// A folder with files of GLIDE's names, or a file with a U-Net's and a text transformer's tensors.
fn is_glide(path: &Path) -> bool {
    if path.is_dir() {
        let other = path.join("model_index.json").exists() || is_adm_folder(path);
        return !other && GLIDE.iter().any(|stem| checkpoint_of(path, stem).is_some());
    }
    // A file that cannot be read is told so where it is loaded.
    let names = ["time_embed.0.weight", "token_embedding.weight"];
    path.is_file()
        && Checkpoint::open_file(path).is_ok_and(|file| names.iter().all(|name| file.shape(name).is_some()))
}

/// GLIDE's files: folders with some of its four networks under their published names, or single checkpoints. Options may
/// stand in a `config.json` beside them; the tokenizer's tables lie in the first one's folder.
fn find_glide(paths: &[PathBuf], options: &LoadOptions) -> Result<GlideFiles> {
    if options.classifier.is_some() {
        let what = "`--classifier` is for guided diffusion; leave it out with GLIDE";
        return Err(Error::Request(what.into()));
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

/// The files of guided diffusion: a folder with `config.json`, `diffusion.*` and maybe `classifier.*`, or single
/// checkpoints, of which the first one's classifier may lie beside it under its published name.
fn find_adm(paths: &[PathBuf], options: &LoadOptions) -> Result<AdmFiles> {
    let (mut stages, mut classifier, mut names) = (Vec::new(), None, None);
    for (i, path) in paths.iter().enumerate() {
        let flags = options.flags.get(i).map(|text| parse_flags(text)).transpose()?.unwrap_or_default();
        let (of_classifier, overrides): (Vec<_>, Vec<_>) =
            flags.into_iter().partition(|(flag, _)| flag.starts_with("classifier_"));
        let mut stage =
            AdmFile { weights: path.clone(), flags: None, overrides, defaults: Defaults::of(250, 1.0, 0) };
        let mut beside = None;
        if path.is_dir() {
            let file = path.join("config.json");
            let config: AdmConfig = read_json(&file)?;
            stage.weights = checkpoint_of(path, "diffusion").ok_or_else(|| {
                Error::file(path, "holds no diffusion.safetensors and no diffusion.pt beside its config.json")
            })?;
            adm_defaults(&file, &config.defaults, &mut stage.defaults)?;
            names = names.or(config.classes);
            beside = checkpoint_of(path, "classifier").map(|weights| (weights, Some(file.clone())));
            stage.flags = Some(file);
        } else if let Some((name, scale)) = presets::named(path).and_then(|preset| preset.classifier) {
            stage.defaults.guidance_scale = f64::from(scale);
            let folder = path.parent().unwrap_or(Path::new("."));
            beside = checkpoint_of(folder, name).map(|weights| (weights, None));
        }
        if i == 0 {
            let given = options.classifier.clone().map(|weights| (weights, None));
            classifier = given.or(beside).map(|(weights, flags)| AdmFile {
                weights,
                flags,
                overrides: of_classifier.into_iter().map(classifier_flag).collect(),
                defaults: stage.defaults.clone(),
            });
        }
        stages.push(stage);
    }
    Ok(AdmFiles { stages, classifier, names })
}

/// The classifier's flags that are not called `classifier_…` on OpenAI's command lines are set with that before them.
fn classifier_flag((flag, value): (String, String)) -> (String, String) {
    let names = classifier::Config::NAMES;
    let short = flag.strip_prefix("classifier_").filter(|short| names.contains(short));
    match short.filter(|_| !names.contains(&flag.as_str())) {
        Some(short) => (short.to_string(), value),
        None => (flag, value),
    }
}

/// `stem.safetensors` or `stem.pt` in a folder.
fn checkpoint_of(folder: &Path, stem: &str) -> Option<PathBuf> {
    ["safetensors", "pt"].iter().map(|ending| folder.join(format!("{stem}.{ending}"))).find(|p| p.is_file())
}

fn adm_defaults(path: &Path, said: &AdmDefaults, defaults: &mut Defaults) -> Result<()> {
    defaults.respacing = said.steps.clone();
    defaults.sampler = sampler(path, said.sampler.as_deref(), said.eta)?;
    defaults.guidance_scale = said.guidance_scale.unwrap_or(defaults.guidance_scale);
    require(path, "guidance_scale", (0.0..=MAX_GUIDANCE).contains(&defaults.guidance_scale), || {
        format!("{} is out of range; give 0 to {MAX_GUIDANCE}", defaults.guidance_scale)
    })
}

/// Flags as OpenAI's command lines have them, `--num_channels 192 --learn_sigma True`, or as `num_channels=192`.
fn parse_flags(text: &str) -> Result<Vec<(String, String)>> {
    let mut words = text.split_whitespace();
    let mut flags = Vec::new();
    while let Some(word) = words.next() {
        let name = word.trim_start_matches('-');
        let (name, value) = match name.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (name, words.next()),
        };
        let value = value.filter(|_| !name.is_empty()).ok_or_else(|| {
            Error::Request(format!(
                "flag `{word}` has no value; write `--num_channels 192 --learn_sigma True`"
            ))
        })?;
        flags.push((name.to_string(), value.to_string()));
    }
    Ok(flags)
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
