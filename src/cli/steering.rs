//! Guidance by CLIP.

use super::model::Model;
use super::remedy::refuse;
use ancestral::guidance::ClipGuidance;
use ancestral::{Clip, Engine, Error, Picture, Problem, Setting};
use clap::Args;
use std::path::PathBuf;

/// What CLIP steers by. Weights compare: all are of cosines or shares, times CLIP's logit scale, as GLIDE's are.
#[derive(Args)]
#[command(next_help_heading = "CLIP guidance (GLIDE, Semantic Diffusion Guidance)")]
pub struct Steering {
    /// How strongly CLIP steers towards the prompt, whatever the model follows by itself; GLIDE's notebook takes 3
    #[arg(long, value_name = "W")]
    clip_guidance: Option<f64>,
    /// A picture, PNG or JPEG, that CLIP steers towards
    #[arg(long, value_name = "PICTURE")]
    like: Option<PathBuf>,
    /// How strongly towards what --like shows [default: 1 where --like is given alone]
    #[arg(long, value_name = "W", requires = "like")]
    content: Option<f64>,
    /// How strongly towards showing at each place what --like shows there
    #[arg(long, value_name = "W", requires = "like")]
    structure: Option<f64>,
    /// How strongly towards the style of --like
    #[arg(long, value_name = "W", requires = "like")]
    style: Option<f64>,
    /// Which CLIP: GLIDE's folder or files, OpenAI's ViT-B-32.pt or RN50.pt, a folder of transformers; of Semantic
    /// Diffusion Guidance its picture encoder, and OpenAI's RN50x16.pt for texts [default: beside the model, or bundled]
    #[arg(long, value_name = "PATH")]
    clip_model: Vec<PathBuf>,
}

impl Steering {
    /// Whether anything steers.
    fn is_on(&self) -> bool {
        self.clip_guidance.is_some() || self.like.is_some()
    }

    /// Whether the prompt is for CLIP.
    pub fn reads_prompt(&self) -> bool {
        self.clip_guidance.is_some()
    }

    /// Reads what steers, if anything does.
    pub fn load(&self, model: &Model) -> Result<Option<Steers<'_>>, Error> {
        if !self.is_on() {
            let refused = "`--clip-model` is for `--clip-guidance` or `--like`; give one of them";
            return match self.clip_model[..] {
                [] => Ok(None),
                _ => refuse(Setting::ClipModel, Problem::Unsupported, refused),
            };
        }
        let clip = match (self.clip_model.as_slice(), model.folder()) {
            ([], None) => Clip::bundled(),
            ([], Some(folder)) => Clip::load(folder).or_else(|error| {
                let what = format!("no CLIP beside the model: {error}");
                refuse(Setting::ClipModel, Problem::Missing, what)
            }),
            (paths, _) => Clip::load_parts(paths),
        }?;
        let like = self.like.as_deref().map(Picture::open).transpose()?;
        Ok(Some(Steers { clip, like, by: self }))
    }
}

/// What steers, read from its files.
pub struct Steers<'a> {
    clip: Clip,
    like: Option<Picture>,
    by: &'a Steering,
}

impl Steers<'_> {
    /// The guidance of one run.
    pub fn guidance(&self, engine: &Engine, prompts: &[String], seed: u64) -> Result<ClipGuidance, Error> {
        let mut guidance = self.clip.guidance(engine.device()).seed(seed);
        if let Some(weight) = self.by.clip_guidance {
            if prompts.is_empty() || prompts.iter().any(|prompt| prompt.trim().is_empty()) {
                let what = "`--clip-guidance` steers towards a prompt: ancestral generate \"a red circle\"";
                return refuse(Setting::Prompt, Problem::Missing, what);
            }
            guidance = guidance.texts(prompts, weight);
        }
        if let Some(like) = &self.like {
            let Steering { content, structure, style, .. } = self.by;
            let alone = (structure.is_none() && style.is_none()).then_some(1.0);
            if let Some(weight) = content.or(alone) {
                guidance = guidance.content(like, weight);
            }
            if let Some(weight) = *structure {
                guidance = guidance.structure(like, weight);
            }
            if let Some(weight) = *style {
                guidance = guidance.style(like, weight);
            }
        }
        guidance.build()
    }
}
