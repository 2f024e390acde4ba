//! The systems: one file each, from what a user asks to pictures.

pub mod adm;
pub mod ddpm;
pub mod denoise;
pub mod glide;
pub mod imagen;
mod invert;
mod loaded;
pub mod repaint;
mod start;
pub mod unclip;
pub mod upsampler;

use crate::device::{Device, ProgramOptions, Weights};
use crate::engine::{OnProgress, Progress};
use crate::error::Result;
use crate::estimate::{NetworkCost, Target};
use crate::graph::Graph;
use crate::guidance::{Guidance, Weighted};
use crate::picture::Picture;
use crate::request::{GenerateConfig, PriorKind, Size};
use denoise::{Noise, OnStep};
pub use start::initial_noise;
use unclip::DrawnEmbedding;

/// What a model's pictures follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Words.
    Prompt,
    /// One of the classes it was trained on.
    Class,
    /// Another picture.
    Picture,
    /// Nothing but the seed.
    Nothing,
}

/// A run as its caller asks for it.
pub(crate) struct Run<'r, 'c> {
    pub device: &'r Device,
    pub options: &'r ProgramOptions,
    pub prompt: &'r str,
    pub cfg: &'r mut GenerateConfig<'c>,
    pub noise: &'r mut dyn Noise,
}

/// A loaded model.
pub(crate) trait System {
    /// Stages a run may have.
    fn stages(&self) -> usize;
    /// What its pictures follow.
    fn condition(&self) -> Condition;
    /// Whether it draws others of a given picture.
    fn varies_pictures(&self) -> bool {
        false
    }
    /// What can draw embeddings for a prompt; the first does where nothing is said.
    fn priors(&self) -> Vec<PriorKind> {
        Vec::new()
    }
    /// It, where it draws pictures of CLIP embeddings.
    fn as_unclip(&mut self) -> Option<&mut unclip::UnClip> {
        None
    }
    /// Whether the noise of its upsampler may be scaled.
    fn takes_upsample_temp(&self) -> bool {
        false
    }
    /// Width and height of the pictures that it enlarges, where it draws none by itself.
    fn enlarges(&self, _cfg: &GenerateConfig<'_>) -> Result<Option<Size>> {
        Ok(None)
    }
    /// Steps that each stage of a run has at least.
    fn fewest_steps(&self) -> usize {
        1
    }
    /// Width and height of each stage's pictures in a run.
    fn sizes(&self, cfg: &GenerateConfig<'_>) -> Result<Vec<Size>>;
    /// What was taken for granted of its files, in lines for a person.
    fn notes(&self) -> Vec<String> {
        Vec::new()
    }
    /// Draws the pictures. Everything that can be refused is refused before the first network runs.
    fn draw(&mut self, run: Run<'_, '_>) -> Result<Vec<Picture>>;
    /// Draws the embeddings that [`System::draw`] draws pictures of. The caller has seen to it that there is a prior.
    fn embed(&mut self, _: Run<'_, '_>) -> Result<Vec<DrawnEmbedding>> {
        Ok(Vec::new())
    }
    /// What a run costs.
    fn plan(&self, cfg: &GenerateConfig<'_>, on: &Target) -> Result<Vec<NetworkCost>>;
    /// Its denoising networks by name, as small as they may be.
    fn networks(&self) -> Vec<(String, Graph, &Weights)>;
}

/// The caller's guidances for a run.
fn lent<'r>(guides: &'r mut [(f64, Box<dyn Guidance + '_>)]) -> Vec<Weighted<'r>> {
    guides
        .iter_mut()
        .map(|(weight, guidance)| Weighted { weight: *weight, guidance: &mut **guidance })
        .collect()
}

/// A stage's steps as the caller's progress.
fn progress<'a>(
    mut on_progress: Option<&'a mut OnProgress<'_>>,
    (stage, stages): (usize, usize),
    size: (usize, usize),
) -> Box<OnStep<'a>> {
    Box::new(move |step| match &mut on_progress {
        Some(f) => {
            f(Progress { stage, stages, size, done: step.done, steps: step.steps, estimate: step.estimate })
        }
        None => true,
    })
}
