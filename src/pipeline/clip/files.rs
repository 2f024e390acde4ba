//! Which files hold CLIP's encoders, told apart by their tensors and configs.

use crate::device::Weights;
use crate::diffusion::{Arithmetic, BetaSchedule, Schedule};
use crate::error::{Error, Result};
use crate::graph::{Graph, Repack};
use crate::models::adm::detect::shapes;
use crate::models::clip::detect::{self, GlideFile, LOGIT_SCALE, TransformersFile};
use crate::models::clip::{ImageEncoder, text};
use crate::weights::{Checkpoint, read_json};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A picture encoder and where its weights are.
#[derive(Clone)]
pub(crate) struct Image {
    pub config: ImageEncoder,
    pub weights: Arc<Weights>,
    /// ᾱ of the timesteps it was trained at, where it sees noise.
    pub alpha_bars: Option<Vec<f64>>,
}

/// A text encoder and where its weights are.
#[derive(Clone)]
pub(crate) struct Text {
    pub config: text::Config,
    pub weights: Arc<Weights>,
    /// Where the tokenizer's tables are looked for.
    pub tokenizer: PathBuf,
}

/// What one path gives.
#[derive(Clone, Default)]
pub(crate) struct Parts {
    pub image: Option<Image>,
    pub text: Option<Text>,
    pub logit_scale: Option<f64>,
}

const NONE: &str = "holds no CLIP that is known: expected clip_image_enc and clip_text_enc (.pt or .safetensors, GLIDE), \
                    a checkpoint of OpenAI's CLIP (ViT-B-32.pt) or of Semantic Diffusion Guidance, or a folder of \
                    transformers with config.json";

/// Timesteps that Semantic Diffusion Guidance's encoder was trained at.
const SDG_TIMESTEPS: usize = 1000;

/// Reads what a file or folder holds.
pub(super) fn read(path: &Path) -> Result<Parts> {
    if path.is_file() {
        return read_file(path);
    }
    if !path.is_dir() {
        return Err(Error::file(path, "does not exist; give a CLIP checkpoint or its folder"));
    }
    let glide = Glide::in_folder(path);
    if glide.image.is_some() || glide.text.is_some() {
        return glide.read();
    }
    let mut parts = Parts::default();
    // The folder itself, or encoders beside each other in a pipeline's folder.
    for folder in [path.to_path_buf(), path.join("text_encoder"), path.join("image_encoder")] {
        if folder.join("config.json").is_file()
            && let Some(found) = read_transformers(path, &folder, None)?
        {
            parts.image = parts.image.or(found.image);
            parts.text = parts.text.or(found.text);
            parts.logit_scale = parts.logit_scale.or(found.logit_scale);
        }
    }
    match (&parts.image, &parts.text) {
        (None, None) => Err(Error::file(path, NONE)),
        _ => Ok(parts),
    }
}

fn read_file(path: &Path) -> Result<Parts> {
    let checkpoint = Checkpoint::open_file(path)?;
    let shapes = shapes(&checkpoint);
    let wrong = |what: String| Error::file(path, what);
    let file = GlideFile::default();
    if detect::glide_image(&shapes, &file).is_some() || detect::glide_text(&shapes, &file).is_some() {
        let mut glide = Glide::in_folder(folder_of(path));
        let is_image = detect::glide_image(&shapes, &file).is_some();
        *(if is_image { &mut glide.image } else { &mut glide.text }) = Some(path.to_path_buf());
        return glide.read();
    }
    let batches = |name: &str| name.ends_with(".num_batches_tracked");
    if let Some(config) = detect::sdg_image(&shapes) {
        let config = config.map_err(wrong)?;
        checkpoint.check(config.graph().weights(), batches)?;
        let schedule = schedule_of(&BetaSchedule::openai_linear(SDG_TIMESTEPS), SDG_TIMESTEPS)?;
        let weights = Arc::new(Weights::new(checkpoint));
        let image = Image { config, weights, alpha_bars: Some(schedule) };
        return Ok(Parts { image: Some(image), ..Parts::default() });
    }
    let image = detect::openai_image(&shapes).transpose().map_err(wrong)?;
    let text = detect::openai_text(&shapes).transpose().map_err(wrong)?;
    if image.is_none() && text.is_none() {
        return Err(Error::file(path, NONE));
    }
    // Numbers beside the networks, as the archives have them.
    let ignored = |name: &str| {
        batches(name)
            || name.ends_with("attn_mask")
            || ["logit_scale", "input_resolution", "context_length", "vocab_size"].contains(&name)
    };
    let logit_scale = logit_scale_of(&checkpoint)?;
    both(checkpoint, (image, text), folder_of(path), logit_scale, ignored)
}

/// The encoders of one checkpoint, if every tensor is there and nothing else.
fn both(
    checkpoint: Checkpoint,
    (image, text): (Option<ImageEncoder>, Option<text::Config>),
    tokenizer: &Path,
    logit_scale: Option<f64>,
    ignored: impl Fn(&str) -> bool,
) -> Result<Parts> {
    let graphs: Vec<Graph> =
        image.iter().map(ImageEncoder::graph).chain(text.iter().map(|text| text.graph(1, &[0]))).collect();
    checkpoint.check(graphs.iter().flat_map(Graph::weights), ignored)?;
    let weights = Arc::new(Weights::new(checkpoint));
    let image = image.map(|config| Image { config, weights: weights.clone(), alpha_bars: None });
    let text = text.map(|config| Text { config, weights, tokenizer: tokenizer.to_path_buf() });
    Ok(Parts { image, text, logit_scale })
}

/// The tensor `logit_scale`, a logarithm.
fn logit_scale_of(checkpoint: &Checkpoint) -> Result<Option<f64>> {
    if checkpoint.shape("logit_scale").is_none_or(|shape| shape.iter().product::<usize>() != 1) {
        return Ok(None);
    }
    let value = checkpoint.read("logit_scale", Repack::None)?;
    let value = f64::from(value.first().copied().unwrap_or_default()).exp();
    let fits = detect::logit_scale(value);
    fits.map(Some).map_err(|what| Error::tensor(checkpoint.path(), "logit_scale", what))
}

/// The encoders that a folder's `config.json` describes, with its files of `variant`; none where it is not of CLIP. The
/// tokenizer is looked for in `root`.
pub(crate) fn read_transformers(root: &Path, folder: &Path, variant: Option<&str>) -> Result<Option<Parts>> {
    let file = &folder.join("config.json");
    let config: TransformersFile = read_json(file)?;
    if !config.is_clip() {
        return Ok(None);
    }
    let wrong = |what: String| Error::file(file, what);
    let image = config.image().transpose().map_err(wrong)?;
    let text = config.text().transpose().map_err(wrong)?;
    if image.is_none() && text.is_none() {
        return Ok(None);
    }
    let checkpoint = Checkpoint::open(folder, "model", variant)?;
    let logit_scale = logit_scale_of(&checkpoint)?;
    let ignored = |name: &str| name == "logit_scale" || name.ends_with(".position_ids");
    Ok(Some(both(checkpoint, (image, text), root, logit_scale, ignored)?))
}

/// GLIDE's files of a folder.
struct Glide {
    image: Option<PathBuf>,
    text: Option<PathBuf>,
    config: Option<PathBuf>,
    folder: PathBuf,
}

impl Glide {
    fn in_folder(folder: &Path) -> Self {
        let first = |names: &[&str]| names.iter().map(|name| folder.join(name)).find(|path| path.is_file());
        Glide {
            image: first(&["clip_image_enc.safetensors", "clip_image_enc.pt"]),
            text: first(&["clip_text_enc.safetensors", "clip_text_enc.pt"]),
            config: first(&["clip_config.yaml", "clip/config.yaml", "config.yaml"]),
            folder: folder.to_path_buf(),
        }
    }

    fn read(self) -> Result<Parts> {
        let file = match &self.config {
            Some(path) => {
                let text = read_small(path)?;
                GlideFile::parse(&text).map_err(|what| Error::file(path, what))?
            }
            None => GlideFile::default(),
        };
        // What does not fit may be wrong in either file.
        let wrong = |path: &Path, what: String| {
            let config = self.config.as_ref().map(|config| format!(" ({} beside it)", config.display()));
            Error::file(path, what + &config.unwrap_or_default())
        };
        let mut parts = Parts::default();
        let by_config = |what: String| Error::file(self.config.as_deref().unwrap_or(&self.folder), what);
        parts.logit_scale = Some(file.logit_scale().map_err(by_config)?);
        if let Some(path) = &self.image {
            let checkpoint = Checkpoint::open_file(path)?;
            let config = detect::glide_image(&shapes(&checkpoint), &file);
            let config = config.unwrap_or_else(|| Err("is no picture encoder of GLIDE's CLIP".into()));
            let config = config.map_err(|what| wrong(path, what))?;
            checkpoint.check(config.graph().weights(), |_| false)?;
            let alpha_bars = match &config {
                ImageEncoder::Transformer(config) => config.timesteps,
                ImageEncoder::ResNet(_) => None,
            };
            let betas = |steps| match file.beta_schedule() {
                "squaredcos_cap_v2" => Ok(BetaSchedule::SquaredCosCapV2),
                "linear" => Ok(BetaSchedule::openai_linear(steps)),
                other => {
                    let what = format!(
                        "`beta_schedule`: `{other}` is unknown; squaredcos_cap_v2 and linear are known"
                    );
                    Err(by_config(what))
                }
            };
            let alpha_bars = alpha_bars.map(|steps| schedule_of(&betas(steps)?, steps)).transpose()?;
            parts.image = Some(Image { config, weights: Arc::new(Weights::new(checkpoint)), alpha_bars });
        }
        if let Some(path) = &self.text {
            let checkpoint = Checkpoint::open_file(path)?;
            let config = detect::glide_text(&shapes(&checkpoint), &file);
            let config = config.unwrap_or_else(|| Err("is no text encoder of GLIDE's CLIP".into()));
            let config = config.map_err(|what| wrong(path, what))?;
            checkpoint.check(config.graph(1, &[0]).weights(), |_| false)?;
            let (weights, tokenizer) = (Arc::new(Weights::new(checkpoint)), self.folder.clone());
            parts.text = Some(Text { config, weights, tokenizer });
        }
        Ok(parts)
    }
}

fn schedule_of(betas: &BetaSchedule, steps: usize) -> Result<Vec<f64>> {
    Ok(Schedule::new(betas, steps, Arithmetic::Float64, false)?.alpha_bars)
}

/// Largest text file that is a configuration.
const MAX_TEXT: u64 = 1 << 20;

fn read_small(path: &Path) -> Result<String> {
    let size = std::fs::metadata(path).map_err(|error| Error::file(path, error))?.len();
    if size > MAX_TEXT {
        return Err(Error::file(path, format!("{size} bytes are no configuration")));
    }
    std::fs::read_to_string(path).map_err(|error| Error::file(path, format!("cannot be read: {error}")))
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

impl Parts {
    /// What is missing here, from another path.
    pub(super) fn or(self, other: Parts) -> Parts {
        Parts {
            image: self.image.or(other.image),
            text: self.text.or(other.text),
            logit_scale: self.logit_scale.or(other.logit_scale),
        }
    }

    /// The factor of cosines.
    pub(super) fn scale(&self) -> f64 {
        self.logit_scale.unwrap_or(LOGIT_SCALE)
    }
}
