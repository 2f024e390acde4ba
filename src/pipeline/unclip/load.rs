//! The parts of an unCLIP, read and held against each other.

use super::encoders::{PictureEncoder, TextEncoder};
use super::projection::Projection;
use super::tokens::AutoregressivePrior;
use crate::catalog::{Defaults, UnClipFiles};
use crate::device::Weights;
use crate::diffusion::SchedulerConfig;
use crate::error::Result;
use crate::models::ar_prior::TokenSampling;
use crate::models::check::require;
use crate::models::network::DenoisingNetwork;
use crate::models::text_unet::TextUNet;
use crate::models::{prior, unet};
use crate::pipeline::clip::Clip;
use crate::pipeline::stage::{Network, Stage, name_upscalers};
use crate::pipeline::text::Remembered;
use crate::pipeline::upsampler;
use crate::weights::{Checkpoint, read_json};
use serde::de::DeserializeOwned;
use std::path::Path;

/// The loaded networks.
pub(crate) struct UnClip {
    pub(super) text: TextEncoder,
    pub(super) remembered: Remembered,
    /// Sees the embeddings of pictures.
    pub(super) pictures: Option<PictureEncoder>,
    pub(super) projection: Projection,
    /// The decoder, what enlarges its pictures, and the diffusion prior, if there is one.
    pub(super) stages: Vec<Stage>,
    /// Stages that draw pictures and usually run.
    pub(super) usual: usize,
    /// The diffusion prior's place in the list, and its config.
    pub(super) diffusion: Option<(usize, prior::Config)>,
    /// Draws embeddings token by token.
    pub(super) autoregressive: Option<(AutoregressivePrior, TokenSampling)>,
}

/// Reads a network's folder, `part` of a pipeline's, and its scheduler, and checks every tensor.
fn load_part<C: DeserializeOwned, N: DenoisingNetwork + 'static>(
    (folder, part): (&Path, &str),
    variant: Option<&str>,
    defaults: Defaults,
    network: impl FnOnce(&Path, C) -> Result<(N, usize)>,
) -> Result<Stage> {
    let scheduler = folder.join(format!("{part}_scheduler/scheduler_config.json"));
    let scheduler = SchedulerConfig::read(&scheduler)?;
    let folder = folder.join(part);
    let path = folder.join("config.json");
    let (network, out_channels) = network(&path, read_json(&path)?)?;
    scheduler.fits(&path, network.sample_channels(), out_channels)?;
    let checkpoint = Checkpoint::open(&folder, "diffusion_pytorch_model", variant)?;
    checkpoint.check(network.smallest().weights(), |_| false)?;
    let network = Network::new(part, network, Weights::new(checkpoint));
    Ok(Stage { classifier_free: true, ..Stage::new(part, network, scheduler, defaults) })
}

/// Reads `prior/` and `prior_scheduler/` of a pipeline's folder.
///
/// Errors: files that are absent, broken, or of another network.
pub fn load_prior(folder: &Path, variant: Option<&str>) -> Result<(Stage, prior::Config)> {
    load_prior_with(folder, variant, Defaults::of(25, 4.0, 0))
}

fn load_prior_with(
    folder: &Path,
    variant: Option<&str>,
    defaults: Defaults,
) -> Result<(Stage, prior::Config)> {
    let mut found = None;
    let mut stage = load_part((folder, "prior"), variant, defaults, |path, config: prior::Config| {
        config.validate(path)?;
        found = Some(config.clone());
        let columns = config.embedding_dim;
        Ok((config, columns))
    })?;
    let config = found.unwrap_or_default();
    stage.tokens = config.num_embeddings;
    Ok((stage, config))
}

/// Reads `decoder/` and `decoder_scheduler/` of a pipeline's folder; it reads so many tokens of a caption and a picture.
///
/// Errors: files that are absent, broken, or of another network.
pub fn load_decoder(folder: &Path, variant: Option<&str>, tokens: usize) -> Result<(Stage, unet::Config)> {
    load_decoder_with(folder, variant, tokens, Defaults::of(25, 8.0, 0))
}

fn load_decoder_with(
    folder: &Path,
    variant: Option<&str>,
    tokens: usize,
    defaults: Defaults,
) -> Result<(Stage, unet::Config)> {
    let mut found = None;
    let mut stage = load_part((folder, "decoder"), variant, defaults, |path, config: unet::Config| {
        config.validate(path)?;
        require(path, "class_embed_type", config.takes_embedding(), || {
            "unCLIP's decoder has `identity`: a picture's embedding joins the time's".into()
        })?;
        found = Some(config.clone());
        let channels = config.out_channels;
        Ok((TextUNet::new(config), channels))
    })?;
    stage.tokens = tokens;
    Ok((stage, found.unwrap_or_default()))
}

impl UnClip {
    /// Reads every part of a pipeline.
    ///
    /// Errors: files that are absent, broken, or of different models.
    pub fn load(files: &UnClipFiles, variant: Option<&str>) -> Result<Self> {
        let folder = &files.folder;
        let clip = files.clip.as_ref().map(|path| Ok((Clip::load(path)?, path))).transpose()?;
        let text = match &clip {
            Some((clip, path)) => TextEncoder::of_clip(clip, path)?,
            None => TextEncoder::load(folder, variant)?,
        };
        let pictures = match (&files.pictures, &clip) {
            (Some(folder), Some((clip, path))) if folder == *path => {
                PictureEncoder::of_clip(clip, path).map(Some)?
            }
            (Some(folder), _) => Some(PictureEncoder::load(folder, variant)?),
            (None, _) => None,
        };
        let projection = Projection::load(folder, variant)?;
        let [of_prior, of_decoder, enlarging] = files.defaults.clone();
        let tokens = text.config.context + projection.config.clip_extra_context_tokens;
        let (decoder, unet) = load_decoder_with(folder, variant, tokens, of_decoder)?;
        let upsampler = upsampler::load_karlo_with(folder, files.one_for_all_steps, variant, enlarging)?;
        let (upsamplers, usual) = upsampler::load_all(&files.upsamplers, variant)?;
        let mut stages = vec![decoder, upsampler];
        stages.extend(upsamplers);
        name_upscalers(stages.iter_mut().skip(1));
        let mut diffusion = None;
        if let Some(folder) = &files.prior {
            let (stage, config) = load_prior_with(folder, variant, of_prior)?;
            diffusion = Some((stages.len(), config));
            stages.push(stage);
        }
        let tokens = files.prior_ar.as_ref();
        let tokens = tokens.map(|of| Ok((AutoregressivePrior::load(&of.folder, variant)?, of.sampling)));
        let autoregressive = tokens.transpose()?;
        let (usual, remembered) = (2 + usual, Remembered::default());
        let model =
            UnClip { text, remembered, pictures, projection, stages, usual, diffusion, autoregressive };
        model.check_parts(files, &unet)?;
        Ok(model)
    }

    /// Refuses parts that are not of one model.
    fn check_parts(&self, files: &UnClipFiles, unet: &unet::Config) -> Result<()> {
        let file = |part: &str| {
            let folder = match part {
                "prior" => files.prior.as_ref(),
                "prior_ar" => files.prior_ar.as_ref().map(|of| &of.folder),
                "image_encoder" => files.pictures.as_ref(),
                _ => None,
            };
            folder.unwrap_or(&files.folder).join(part).join("config.json")
        };
        let same = |part: &str, key: &str, found: usize, other: &str, wanted: usize| {
            require(&file(part), key, found == wanted, || format!("{found}, but {other} has {wanted}"))
        };
        let (text, projection) = (&self.text.config, &self.projection.config);
        let columns = projection.clip_embeddings_dim;
        same("text_encoder", "projection_dim", text.embed, "text_proj", columns)?;
        same("text_encoder", "hidden_size", text.transformer.width, "text_proj", columns)?;
        let (channels, time) = (unet.context_channels(), unet.time_channels());
        same("text_proj", "cross_attention_dim", projection.cross_attention_dim, "the decoder", channels)?;
        same("text_proj", "time_embed_dim", projection.time_embed_dim, "the decoder", time)?;
        if let Some(encoder) = &self.pictures {
            same("image_encoder", "projection_dim", encoder.config.embed(), "text_proj", columns)?;
        }
        if let Some((prior, _)) = &self.autoregressive {
            let (prior, width) = (&prior.config, text.transformer.width);
            same("prior_ar", "embedding_dim", prior.embedding_dim, "text_proj", columns)?;
            same("prior_ar", "text_states_dim", prior.text_states_dim, "the text encoder", width)?;
            same("prior_ar", "max_text_len", prior.max_text_len, "the text encoder", text.context)?;
        }
        if let Some((_, prior)) = &self.diffusion {
            same("prior", "embedding_dim", prior.embedding_dim, "text_proj", columns)?;
            same("prior", "num_embeddings", prior.num_embeddings, "the text encoder", text.context)?;
        }
        Ok(())
    }
}
