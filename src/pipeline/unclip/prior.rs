//! What draws embeddings for a prompt: a prior of either kind, and of several candidates the best.

use super::projection::padded_mask;
use super::tokens::AutoregressivePrior;
use crate::device::Weights;
use crate::diffusion::draws::CandidateNoise;
use crate::diffusion::vectors::cosine;
use crate::diffusion::{Noise, SeededNoise};
use crate::error::{Error, Problem, Result, Setting, request};
use crate::graph::{Graph, Storage};
use crate::models::ar_prior::TokenSampling;
use crate::models::prior;
use crate::pipeline::denoiser::distinct;
use crate::pipeline::guidance::OPTIONS;
use crate::pipeline::run::{Run, StageRun};
use crate::pipeline::sampler::{Led, OnStep, initial_noise};
use crate::pipeline::stage::{At, Stage};
use crate::pipeline::text::Halves;
use crate::settings::{DrawnEmbedding, PriorKind, Settings, Source};

/// The prior that draws in a run, if any does, of those that there are.
///
/// Errors: one is asked for that there is not, or where none draws.
pub(super) fn of_run(kinds: &[PriorKind], settings: &Settings) -> Result<Option<PriorKind>> {
    let asked = settings.unclip();
    let given = matches!(settings.source, Source::Image(_) | Source::Latents(_));
    if given || kinds.is_empty() {
        if asked.prior.is_some() || asked.candidates > 1 {
            let setting = if asked.prior.is_some() { Setting::Prior } else { Setting::Candidates };
            let what = "the embedding is a given one, no prior draws it";
            return Err(Error::request(setting, Problem::Conflict, what));
        }
        return Ok(None);
    }
    match asked.prior {
        Some(kind) if !kinds.contains(&kind) => {
            Err(request!(Prior, Unsupported, "this model has no {kind} prior, but a prior by {}", kinds[0]))
        }
        Some(kind) => Ok(Some(kind)),
        None => Ok(kinds.first().copied()),
    }
}

/// What a run's prior needs.
pub(super) struct Asked<'a> {
    pub at: At<'a>,
    pub run: &'a Run,
    pub stage: &'a StageRun,
    pub candidates: usize,
    pub captions: &'a Halves,
}

impl Asked<'_> {
    /// Draws an embedding for each picture of a run, by `draw`, which is given noise for every candidate.
    ///
    /// Errors: those of `draw`.
    pub fn best(
        &self,
        noise: &mut dyn Noise,
        draw: impl FnOnce(&mut dyn Noise) -> Result<Vec<Vec<f32>>>,
    ) -> Result<Vec<DrawnEmbedding>> {
        let count = self.run.pictures;
        let others =
            (1..self.candidates).map(|number| SeededNoise::each(self.run.seeds.iter().copied(), number));
        let drawn = draw(&mut CandidateNoise { first: noise, others: others.collect(), count })?;
        // Candidate j of picture i is row j · count + i.
        let of_picture = |i: usize| {
            let prompt = &self.captions.prompts[i % self.captions.prompts.len()].pooled;
            let rows = drawn.iter().skip(i).step_by(count);
            DrawnEmbedding::best(rows.map(|row| (row.clone(), cosine(row, prompt))).collect())
        };
        let kept: Vec<DrawnEmbedding> = (0..count).map(of_picture).collect();
        for (i, embedding) in kept.iter().enumerate() {
            let of = match self.candidates {
                1 => String::new(),
                all => format!(", candidate {} of {all}", embedding.candidate + 1),
            };
            let score = embedding.score();
            log::info!("picture {i}: the embedding's dot product with the prompt's is {score:.3}{of}");
        }
        Ok(kept)
    }

    /// By denoising.
    ///
    /// Errors: a device that fails; a callback that cancels.
    pub fn denoise(
        &self,
        prior: &Stage,
        config: &prior::Config,
        noise: &mut dyn Noise,
        on_step: &mut OnStep<'_>,
    ) -> Result<Vec<Vec<f32>>> {
        let (shape, steps) = (self.stage.shape, &self.stage.steps);
        let length = config.num_embeddings;
        let mut x = initial_noise(noise, shape);
        self.stage.scale_first_noise(&mut x);
        let network = &prior.networks[0];
        let mut denoiser = network.denoiser(self.at, shape, distinct(steps).len())?;
        denoiser.write("embeds", &self.captions.of(shape, |embeds| &embeds.pooled));
        denoiser.write("states", &self.captions.of(shape, |embeds| &embeds.states));
        let mask = self.captions.of(shape, |embeds| &embeds.mask);
        denoiser.write("mask", &padded_mask(&mask, length, 0, 1));
        let led = Led::classifier_free(self.stage.guidance_scale);
        let drawn = denoiser.sample_from(steps, &led, noise, &x, on_step)?;
        network.put_back(denoiser);
        let embeddings = denormalised(self.at, config, network.weights(), &drawn)?;
        Ok(embeddings.chunks_exact(shape.channels).map(<[f32]>::to_vec).collect())
    }

    /// Token by token.
    ///
    /// Errors: a device that fails; a callback that cancels.
    pub fn decode(
        &self,
        (prior, usual): &(AutoregressivePrior, TokenSampling),
        noise: &mut dyn Noise,
        on_step: &mut OnStep<'_>,
    ) -> Result<Vec<Vec<f32>>> {
        let sampling = TokenSampling { guidance_scale: self.stage.guidance_scale, ..*usual };
        let dot = prior.alphabet.dot(prior.config.dot_default);
        log::info!("the prior is asked for embeddings whose dot product with the prompt's is {dot:.3}");
        let uniforms = noise.uniform(self.run.pictures * self.candidates, prior.config.num_components);
        let drawn = prior.draw(self.at, self.captions, sampling, &uniforms, on_step)?;
        Ok(drawn.iter().map(|buckets| prior.alphabet.embedding(buckets)).collect())
    }
}

/// The graph of [`denormalised`] embeddings, so many.
pub(super) fn denormalised_graph(config: &prior::Config, count: usize) -> Graph {
    let mut g = Graph::new();
    let x = g.input("x", &[count, config.embedding_dim], Storage::Elem);
    let y = config.denormalised(&mut g, &x);
    g.output("y", &y);
    g
}

/// What the prior has drawn `[N, E]` as CLIP has it. Errors: a device that fails.
pub fn denormalised(
    at: At<'_>,
    config: &prior::Config,
    weights: &Weights,
    drawn: &[f32],
) -> Result<Vec<f32>> {
    let graph = denormalised_graph(config, drawn.len() / config.embedding_dim);
    let mut program = at.device.program(graph, weights, &OPTIONS)?;
    program.write("x", drawn);
    program.run(&mut |_| true)?;
    program.read("y")
}
