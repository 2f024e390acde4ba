//! What a system adds to the one cascade: which networks there are, and what conditions them.

use super::cost::{NetworkCost, Target};
use super::denoiser::Denoiser;
use super::run::{Line, Run, StageRun};
use super::sampler::OnStep;
use super::stage::{At, Stage};
use crate::device::Weights;
use crate::diffusion::{Noise, Step};
use crate::error::{Result, request};
use crate::graph::Graph;
use crate::models::pca::Pca;
use crate::picture::{ByteRounding, Picture};
use crate::settings::guidance::Guide;
use crate::settings::{DrawnEmbedding, PriorKind, PromptEmbeds, Settings};

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

/// What a model can do besides following its [`Condition`].
#[derive(Clone, Debug, Default)]
pub struct Abilities {
    /// It draws others of a given picture.
    pub varies_pictures: bool,
    /// It draws CLIP embeddings.
    pub draws_latents: bool,
    /// It takes text states in place of prompts.
    pub takes_embeds: bool,
    /// The first noise of its upsampler may be scaled.
    pub scales_first_noise: bool,
    /// What draws embeddings for a prompt; the first does where nothing is said.
    pub priors: Vec<PriorKind>,
}

/// A loaded model: its stages, and what they need besides a sample and a time. Everything else is the cascade's.
pub trait System: Send + Sync {
    /// All stages of all requests.
    fn stages(&self) -> &[Stage];

    /// What its pictures follow.
    fn condition(&self) -> Condition;

    /// What else it can do.
    fn abilities(&self) -> Abilities {
        Abilities::default()
    }

    /// What was taken for granted of its files, in lines for a person.
    fn notes(&self) -> Vec<String> {
        Vec::new()
    }

    /// Steps that each stage of a run has at least.
    fn fewest_steps(&self) -> usize {
        1
    }

    /// How its pictures' values become bytes.
    fn byte_rounding(&self) -> ByteRounding {
        ByteRounding::Nearest
    }

    /// The stages that a request may have.
    ///
    /// Errors: a request for which it has none.
    fn line(&self, settings: &Settings) -> Result<Line>;

    /// The steps of a stage from step `first` on, of a run that begins there, and its guidance scale.
    ///
    /// Errors: numbers of steps that there cannot be.
    fn sampled(
        &self,
        stage: usize,
        settings: &Settings,
        place: usize,
        first: usize,
    ) -> Result<(Vec<Step>, f64)> {
        let stage = &self.stages()[stage];
        Ok((stage.steps(settings, place, first)?, stage.guidance_scale(settings, place)))
    }

    /// The stage that draws an embedding for each picture, where [`System::line`] has one.
    ///
    /// Errors: numbers of steps that there cannot be.
    fn embedding(&self, _settings: &Settings, _stage: Option<usize>, _pictures: usize) -> Result<StageRun> {
        Err(request!(Prior, Unsupported, "this model draws no embeddings"))
    }

    /// Refuses what it alone can tell of a run.
    fn check(&self, _run: &Run, _settings: &Settings) -> Result<()> {
        Ok(())
    }

    /// Reads and encodes what conditions a run.
    ///
    /// Errors: prompts that cannot be read; a device that fails.
    fn begin<'a>(
        &'a self,
        _at: At<'a>,
        _run: &'a Run,
        _settings: &'a Settings,
    ) -> Result<Box<dyn Conditioner + 'a>> {
        Ok(Box::new(Unconditional))
    }

    /// Encodes prompts alone, in order.
    ///
    /// Errors: prompts that cannot be read; a device that fails; a model that [takes none](Abilities::takes_embeds).
    fn encode(&self, _at: At<'_>, _prompts: &[&str], _clean: bool) -> Result<Vec<PromptEmbeds>> {
        Err(request!(
            Embeds,
            Unsupported,
            "this model has no text encoder of its own, or reads tokens inside its network"
        ))
    }

    /// What runs beside the stage at index `i` of a run, before it: encoders, and what makes their states inputs.
    fn costs_before(&self, _run: &Run, _i: usize, _settings: &Settings, _on: &Target) -> Vec<NetworkCost> {
        Vec::new()
    }

    /// The graphs of guidance of its own at a stage of a run, each by its name and with how often it runs.
    ///
    /// Errors: a graph without a gradient.
    fn own_guides(
        &self,
        _run: &Run,
        _stage: &StageRun,
        _settings: &Settings,
    ) -> Result<Vec<(String, usize, Graph)>> {
        Ok(Vec::new())
    }

    /// Its networks by name, as small as they may be, with their weights.
    fn networks(&self) -> Vec<(String, Graph, &Weights)> {
        let networks = self.stages().iter().flat_map(|stage| &stage.networks);
        let networks = networks.map(|n| (n.name.clone(), n.network().smallest(), &**n.weights()));
        networks.chain(self.other_networks()).collect()
    }

    /// The weights of its text encoder that adapters may change.
    fn text_weights(&self) -> Option<&Weights> {
        None
    }

    /// Those of its networks that are no stage's.
    fn other_networks(&self) -> Vec<(String, Graph, &Weights)> {
        Vec::new()
    }

    /// Its CLIP embeddings, where it draws pictures of them.
    fn latent_space(&self) -> Option<&dyn LatentSpace> {
        None
    }
}

/// A model whose pictures are drawn of CLIP embeddings and noise, and which finds both of a picture.
pub trait LatentSpace {
    /// Columns of an embedding.
    fn columns(&self) -> usize;

    /// Refuses a model that sees no pictures.
    fn check_sees(&self) -> Result<()>;

    /// The embedding of each picture, of any size.
    ///
    /// Errors: [`LatentSpace::check_sees`]; a device that fails.
    fn embed_pictures(&self, at: At<'_>, pictures: &[Picture]) -> Result<Vec<Vec<f32>>>;

    /// The embedding of each caption.
    ///
    /// Errors: a caption that the tokenizer refuses; a device that fails.
    fn embed_captions(&self, at: At<'_>, captions: &[&str]) -> Result<Vec<Vec<f32>>>;

    /// The principal components of embeddings. Errors: a model without.
    fn principal_axes(&self) -> Result<&Pca>;

    /// The noises `[h, w, 3]` from which the decoder draws just the pictures that stand in the latents' places for noise,
    /// where `run` is a run from these latents.
    ///
    /// Errors: a device that fails; a callback that cancels.
    fn invert(
        &self,
        at: At<'_>,
        run: &Run,
        settings: &Settings,
        on_step: &mut OnStep<'_>,
    ) -> Result<Vec<Vec<f32>>>;
}

/// What conditions the stages of one run.
pub trait Conditioner {
    /// Writes a stage's inputs, but for the sample, the pictures it enlarges and what is kept of one.
    ///
    /// Errors: a device that fails.
    fn condition(&mut self, _stage: &StageRun, _denoiser: &mut Denoiser) -> Result<()> {
        Ok(())
    }

    /// Changes a stage's first noise `[N, H, W, C]`.
    fn first_noise(&mut self, _stage: &StageRun, _z: &mut [f32]) {}

    /// What steers a stage besides what the caller brings.
    fn guide(&mut self, _stage: &StageRun) -> Option<Guide> {
        None
    }

    /// Draws the embeddings of a run, and keeps them for the stages to come.
    ///
    /// Errors: a device that fails; a callback that cancels.
    fn embed(
        &mut self,
        _stage: &StageRun,
        _noise: &mut dyn Noise,
        _on_step: &mut OnStep<'_>,
    ) -> Result<Vec<DrawnEmbedding>> {
        Ok(Vec::new())
    }
}

/// What conditions nothing.
struct Unconditional;

impl Conditioner for Unconditional {}
