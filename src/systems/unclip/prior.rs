//! What draws embeddings for a prompt: a prior of either kind, and of several candidates the best.

use super::{AutoregressivePrior, Captions, Stage, TokenSampling, halves, padded_mask};
use crate::device::{Device, ProgramOptions};
use crate::diffusion::Step;
use crate::error::{Error, Result};
use crate::request::{GenerateConfig, PriorKind};
use crate::systems::denoise::{Guided, Noise, OnStep, SeededNoise, StepDone};
use crate::systems::{initial_noise, progress};

/// A picture's embedding that a prior has drawn for a prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct DrawnEmbedding {
    /// As CLIP has it, of no particular length `[E]`.
    pub embedding: Vec<f32>,
    /// Which of the candidates it is.
    pub candidate: usize,
    /// Of every candidate, its dot product with the prompt's embedding, both of length 1.
    pub scores: Vec<f64>,
}

impl DrawnEmbedding {
    /// Its dot product with the prompt's embedding, both of length 1.
    pub fn score(&self) -> f64 {
        self.scores[self.candidate]
    }

    /// The best of several candidates by their scores; the first one of those that are alike.
    fn best(candidates: Vec<(Vec<f32>, f64)>) -> Self {
        let (embeddings, scores): (Vec<_>, Vec<_>) = candidates.into_iter().unzip();
        let better = |best: usize, i: usize| if scores[i] > scores[best] { i } else { best };
        let candidate = (0..scores.len()).fold(0, better);
        let embedding = embeddings.into_iter().nth(candidate).unwrap_or_default();
        DrawnEmbedding { embedding, candidate, scores }
    }
}

/// The priors of a model.
pub(super) struct Priors {
    pub diffusion: Option<Stage>,
    pub autoregressive: Option<(AutoregressivePrior, TokenSampling)>,
}

/// What a prior's run follows.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    pub kind: PriorKind,
    pub captions: &'a Captions,
    /// A diffusion prior's steps.
    pub steps: &'a [Step],
    pub guidance_scale: f64,
    /// Stages of the whole run.
    pub stages: usize,
}

impl Priors {
    /// Those that there are; what draws where nothing is said comes first.
    pub fn kinds(&self) -> Vec<PriorKind> {
        let diffusion = self.diffusion.is_some().then_some(PriorKind::Diffusion);
        let autoregressive = self.autoregressive.is_some().then_some(PriorKind::Autoregressive);
        diffusion.into_iter().chain(autoregressive).collect()
    }

    /// The one that draws in a run, if any does.
    ///
    /// Errors: one is asked for that there is not, or where none draws.
    pub fn of_run(&self, cfg: &GenerateConfig<'_>) -> Result<Option<PriorKind>> {
        let kinds = self.kinds();
        if !cfg.image.is_empty() || !cfg.latents.is_empty() || kinds.is_empty() {
            if cfg.prior.is_some() || cfg.candidates > 1 {
                let what =
                    "the embedding is a given one, no prior draws it: leave `--prior` and `--candidates` out";
                return Err(Error::Request(what.into()));
            }
            return Ok(None);
        }
        match cfg.prior {
            Some(kind) if !kinds.contains(&kind) => Err(Error::Request(format!(
                "this model has no {kind} prior, but a prior by {}: leave `--prior` out",
                kinds[0]
            ))),
            Some(kind) => Ok(Some(kind)),
            None => Ok(kinds.first().copied()),
        }
    }

    /// Draws an embedding for each picture of a run.
    ///
    /// Errors: a device that fails; a callback that cancels.
    pub fn draw(
        &mut self,
        at: (&Device, &ProgramOptions),
        asked: &Asked<'_>,
        cfg: &mut GenerateConfig<'_>,
        noise: &mut dyn Noise,
    ) -> Result<Vec<DrawnEmbedding>> {
        let (count, candidates) = (cfg.count, cfg.candidates);
        let others = (1..candidates).map(|number| SeededNoise::of_candidate(cfg.seed, count, number));
        let mut noise = CandidateNoise { first: noise, others: others.collect(), count };
        let mut on_step = progress(cfg.on_progress.as_mut(), (0, asked.stages), (1, 1));
        // An embedding is no picture to show.
        let mut blind = |step: StepDone<'_>| on_step(StepDone { estimate: None, ..step });
        let drawn = match asked.kind {
            PriorKind::Diffusion => self.denoise(at, asked, count * candidates, &mut noise, &mut blind)?,
            PriorKind::Autoregressive => {
                self.decode(at, asked, count * candidates, &mut noise, &mut blind)?
            }
        };
        let captions = &asked.captions.embeds;
        let prompt = &captions[captions.len() / 2..];
        // Candidate j of picture i is row j · count + i.
        let of_picture = |i: usize| {
            let rows = drawn.iter().skip(i).step_by(count);
            DrawnEmbedding::best(rows.map(|row| (row.clone(), cosine(row, prompt))).collect())
        };
        let kept: Vec<DrawnEmbedding> = (0..count).map(of_picture).collect();
        for (i, embedding) in kept.iter().enumerate() {
            let of = match candidates {
                1 => String::new(),
                _ => format!(", candidate {} of {candidates}", embedding.candidate + 1),
            };
            log::info!(
                "picture {i}: the embedding's dot product with the prompt's is {:.3}{of}",
                embedding.score()
            );
        }
        Ok(kept)
    }

    fn denoise(
        &mut self,
        (device, options): (&Device, &ProgramOptions),
        asked: &Asked<'_>,
        rows: usize,
        noise: &mut dyn Noise,
        on_step: &mut OnStep<'_>,
    ) -> Result<Vec<Vec<f32>>> {
        let prior = self.diffusion.as_mut().ok_or_else(|| missing(asked.kind))?;
        let Asked { captions, steps, guidance_scale, .. } = *asked;
        let length = captions.mask.len() / 2;
        let shape = prior.shape(steps, rows, (1, 1), length, guidance_scale);
        let x = initial_noise(noise, shape);
        let denoiser = prior.denoiser(device, options, shape)?;
        denoiser.write("embeds", &halves(&captions.embeds, shape));
        denoiser.write("states", &halves(&captions.states, shape));
        denoiser.write("mask", &padded_mask(&halves(&captions.mask, shape), length, 0, 1));
        let mut guided = Guided::classifier_free(guidance_scale);
        let drawn = denoiser.sample(steps, &mut guided, noise, x, on_step)?;
        let embeddings = prior.denormalised(device, &drawn)?;
        prior.release_if_large();
        Ok(embeddings.chunks_exact(shape.channels).map(<[f32]>::to_vec).collect())
    }

    fn decode(
        &mut self,
        at: (&Device, &ProgramOptions),
        asked: &Asked<'_>,
        rows: usize,
        noise: &mut dyn Noise,
        on_step: &mut OnStep<'_>,
    ) -> Result<Vec<Vec<f32>>> {
        let (prior, usual) = self.autoregressive.as_mut().ok_or_else(|| missing(asked.kind))?;
        let sampling = TokenSampling { guidance_scale: asked.guidance_scale, ..*usual };
        let dot = prior.alphabet.dot(prior.config.dot_default);
        log::info!("the prior is asked for embeddings whose dot product with the prompt's is {dot:.3}");
        let uniforms = noise.uniform(rows, prior.config.num_components);
        let drawn = prior.draw(at, asked.captions, sampling, &uniforms, on_step)?;
        Ok(drawn.iter().map(|buckets| prior.alphabet.embedding(buckets)).collect())
    }
}

fn missing(kind: PriorKind) -> Error {
    Error::Request(format!("this model has no {kind} prior"))
}

/// The dot product of two vectors, both brought to length 1; 0 where one has none.
fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let lengths = (dot(a, a) * dot(b, b)).sqrt();
    if lengths > 0.0 { dot(a, b) / lengths } else { 0.0 }
}

/// The caller's noise for every picture's first candidate, and each other candidate's own.
struct CandidateNoise<'a> {
    first: &'a mut dyn Noise,
    others: Vec<SeededNoise>,
    /// Pictures.
    count: usize,
}

impl Noise for CandidateNoise<'_> {
    fn draw(&mut self, _: usize, channels: usize, height: usize, width: usize) -> Vec<f32> {
        let mut all = self.first.draw(self.count, channels, height, width);
        let others = self.others.iter_mut().flat_map(|noise| noise.draw(self.count, channels, height, width));
        all.extend(others);
        all
    }

    fn uniform(&mut self, _: usize, count: usize) -> Vec<f32> {
        let mut all = self.first.uniform(self.count, count);
        all.extend(self.others.iter_mut().flat_map(|noise| noise.uniform(self.count, count)));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_candidate_is_kept() {
        let candidates = [(1.0, 0.2), (2.0, 0.7), (3.0, -0.9), (4.0, 0.7)];
        let best = DrawnEmbedding::best(candidates.map(|(v, score)| (vec![v], score)).to_vec());
        assert_eq!((best.embedding.clone(), best.candidate, best.score()), (vec![2.0], 1, 0.7));
        assert_eq!(best.scores, [0.2, 0.7, -0.9, 0.7]);
        assert_eq!(DrawnEmbedding::best(vec![(vec![5.0], -1.0)]).embedding, [5.0]);
    }

    #[test]
    fn scores_are_of_directions() {
        assert!((cosine(&[3.0, 4.0], &[30.0, 40.0]) - 1.0).abs() < 1e-12);
        assert!((cosine(&[1.0, 0.0], &[2.0, 2.0]) - 0.5f64.sqrt()).abs() < 1e-12);
        assert_eq!(cosine(&[0.0, 0.0], &[1.0, 1.0]), 0.0);
    }

    #[test]
    fn the_first_candidate_is_the_only_one() {
        let (mut alone, mut first) = (SeededNoise::new(7, 2), SeededNoise::new(7, 2));
        let others = vec![SeededNoise::of_candidate(7, 2, 1), SeededNoise::of_candidate(7, 2, 2)];
        let mut all = CandidateNoise { first: &mut first, others, count: 2 };
        let (normal, uniform) = (all.draw(6, 20, 1, 1), all.uniform(6, 3));
        assert_eq!((normal.len(), uniform.len()), (120, 18));
        assert_eq!(normal[..40], alone.draw(2, 20, 1, 1)[..]);
        assert_eq!(uniform[..6], alone.uniform(2, 3)[..]);
        let mut rows: Vec<&[f32]> = uniform.chunks_exact(3).collect();
        rows.sort_by(|a, b| a.partial_cmp(b).unwrap());
        rows.dedup();
        assert_eq!(rows.len(), 6, "two candidates of one stream");
    }
}
