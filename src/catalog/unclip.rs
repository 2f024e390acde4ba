//! Karlo's folders, and the bundled unCLIP's.

use super::cascade::{UpsamplerFiles, read_upsampler};
use super::defaults::{Defaults, require_guidance};
use super::index::{class_of, inside_or_beside, unknown};
use crate::error::{Error, Result};
use crate::models::ar_prior::TokenSampling;
use crate::models::check::require;
use crate::weights::read_json;
use serde::Deserialize;
use std::path::{Path, PathBuf};

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
pub(super) fn find_unclip(paths: &[PathBuf]) -> Result<UnClipFiles> {
    let read = |folder: &PathBuf| {
        let class = class_of(folder)?;
        if !class.starts_with("UnCLIP") {
            return Err(unknown(folder, &class));
        }
        let path = folder.join("model_index.json");
        let index: UnClipIndex = read_json(&path)?;
        Ok((path, index))
    };
    let indices = paths.iter().map(read).collect::<Result<Vec<_>>>()?;
    let (folder, (path, index)) = (&paths[0], &indices[0]);
    let clip = index.clip.as_deref().map(|clip| inside_or_beside(folder, path, "clip", clip)).transpose()?;
    let defaults = |what: &str, steps: Option<usize>, scale: Option<f64>, usual: Defaults| {
        let (steps, scale) = (steps.unwrap_or(usual.steps), scale.unwrap_or(usual.guidance_scale));
        require_guidance(path, &format!("{what}_guidance_scale"), scale)?;
        Defaults { steps, ..usual }.checked(path, &format!("{what}_num_inference_"))?;
        Ok(Defaults::of(steps, scale, 0))
    };
    let (prior, decoder) = (index.prior_num_inference_steps, index.decoder_num_inference_steps);
    let defaults = [
        defaults("prior", prior, index.prior_guidance_scale, Defaults::of(25, 4.0, 0))?,
        defaults("decoder", decoder, index.decoder_guidance_scale, Defaults::of(25, 8.0, 0))?,
        defaults("super_res", index.super_res_num_inference_steps, None, Defaults::of(7, 1.0, 0))?,
    ];
    let upsampler = index.upsampler.as_deref().map(|name| {
        let files = read_upsampler(&inside_or_beside(folder, path, "upsampler", name)?)?;
        Ok(UpsamplerFiles { optional: true, ..files })
    });
    let upsamplers = upsampler.transpose()?.into_iter().collect();
    let one_for_all_steps = !index.parts.contains_key("super_res_last");
    let mut files = UnClipFiles {
        folder: folder.clone(),
        prior: None,
        prior_ar: None,
        // A CLIP of its own has an encoder of pictures.
        pictures: clip.clone(),
        clip,
        one_for_all_steps,
        defaults,
        upsamplers,
    };
    for (i, (folder, (path, index))) in paths.iter().zip(&indices).enumerate() {
        let holds = |part: &str| Some(folder.clone()).filter(|_| index.parts.contains_key(part));
        let (prior, pictures) = (holds("prior"), holds("image_encoder"));
        let prior_ar = holds("prior_ar").map(|folder| token_prior(folder, path, index)).transpose()?;
        let adds_pictures =
            files.pictures.is_none() && pictures.is_some() || i == 0 && files.pictures.is_some();
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
    Ok(files)
}

/// An autoregressive prior in a folder, as the folder's index has it.
fn token_prior(folder: PathBuf, path: &Path, index: &UnClipIndex) -> Result<TokenPriorFiles> {
    const TEMPERATURES: std::ops::RangeInclusive<f64> = 0.01..=100.0;
    let usual = TokenSampling::default();
    let guidance_scale = index.prior_ar_guidance_scale.unwrap_or(usual.guidance_scale);
    let temperature = index.prior_ar_temperature.unwrap_or(usual.temperature);
    require_guidance(path, "prior_ar_guidance_scale", guidance_scale)?;
    require(path, "prior_ar_temperature", TEMPERATURES.contains(&temperature), || {
        format!("{temperature} is out of range; give 0.01 to 100")
    })?;
    Ok(TokenPriorFiles { folder, sampling: TokenSampling { guidance_scale, temperature } })
}
