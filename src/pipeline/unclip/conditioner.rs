//! What conditions the stages of one unCLIP run: captions, and the embeddings that the decoder draws pictures of.

use super::load::UnClip;
use super::prior::Asked;
use super::projection::padded_mask;
use crate::diffusion::Noise;
use crate::error::{Result, request};
use crate::pipeline::denoiser::Denoiser;
use crate::pipeline::run::{Run, StageRun};
use crate::pipeline::sampler::OnStep;
use crate::pipeline::stage::At;
use crate::pipeline::system::Conditioner;
use crate::pipeline::text::{Halves, Texts};
use crate::settings::{DrawnEmbedding, Settings, Source};
use crate::text::caption;

/// The decoder's place among the stages.
pub(super) const DECODER: usize = 0;

impl UnClip {
    /// The texts that a run reads; the empty one where an embedding is given.
    pub(super) fn texts(&self, run: &Run, settings: &Settings) -> Texts {
        let clean = |text: &str| match settings.clean_caption {
            true => caption::clean(text),
            false => text.to_string(),
        };
        if run.stages.iter().any(|stage| stage.embedding) {
            return Texts::of(run, settings, clean);
        }
        let guided = run.stages.iter().any(|stage| stage.shape.guided);
        let empty = vec![String::new()];
        Texts { negative: if guided { empty.clone() } else { Vec::new() }, prompts: empty }
    }

    fn captions(&self, at: At<'_>, run: &Run, settings: &Settings) -> Result<Halves> {
        let sizes = (self.text.config.context, self.text.config.transformer.width);
        let encode = |texts: &[&str]| self.text.encode(at, texts);
        self.texts(run, settings).states(settings, &self.remembered, sizes, encode)
    }

    /// What conditions a run, with the embeddings that are given.
    ///
    /// Errors: captions and pictures that cannot be read; a device that fails.
    pub(super) fn conditions<'a>(
        &'a self,
        at: At<'a>,
        run: &'a Run,
        settings: &'a Settings,
    ) -> Result<Conditions<'a>> {
        let decodes = run.stages.iter().any(|stage| stage.stage == Some(DECODER));
        let captions = decodes.then(|| self.captions(at, run, settings)).transpose()?;
        let embeddings = match (&settings.source, &self.pictures) {
            (Source::Latents(latents), _) => latents.iter().flat_map(|l| &l.embedding).copied().collect(),
            (Source::Image(pictures), Some(encoder)) => encoder.embed(at, pictures)?,
            _ => Vec::new(),
        };
        Ok(Conditions { model: self, at, run, settings, captions, embeddings })
    }
}

/// See the module.
pub(super) struct Conditions<'a> {
    model: &'a UnClip,
    at: At<'a>,
    run: &'a Run,
    settings: &'a Settings,
    captions: Option<Halves>,
    /// `[N, E]`, or one for all pictures.
    embeddings: Vec<f32>,
}

impl Conditioner for Conditions<'_> {
    fn condition(&mut self, stage: &StageRun, denoiser: &mut Denoiser) -> Result<()> {
        let Some(captions) = self.captions.as_ref().filter(|_| stage.stage == Some(DECODER)) else {
            return Ok(());
        };
        let (shape, model) = (stage.shape, self.model);
        let columns = model.projection.config.clip_embeddings_dim;
        let pictures = self.embeddings.repeat(shape.pictures * columns / self.embeddings.len());
        let embeds = captions.of(shape, |embeds| &embeds.pooled);
        let states = captions.of(shape, |embeds| &embeds.states);
        let (context, labels) = model.projection.run(self.at, &pictures, &embeds, &states)?;
        let extra = model.projection.config.clip_extra_context_tokens;
        let mask = captions.of(shape, |embeds| &embeds.mask);
        denoiser.write("context", &context);
        denoiser.write("class_labels", &labels);
        denoiser.write("mask", &padded_mask(&mask, model.text.config.context, extra, 0));
        Ok(())
    }

    fn first_noise(&mut self, stage: &StageRun, z: &mut [f32]) {
        let latents = self.settings.given_latents();
        if stage.stage != Some(DECODER) || latents.is_empty() {
            return;
        }
        let item = z.len() / stage.shape.pictures;
        for (z, latent) in z.chunks_exact_mut(item).zip(latents.iter().cycle()) {
            if let Some(noise) = &latent.noise {
                z.copy_from_slice(noise);
            }
        }
    }

    fn embed(
        &mut self,
        stage: &StageRun,
        noise: &mut dyn Noise,
        on_step: &mut OnStep<'_>,
    ) -> Result<Vec<DrawnEmbedding>> {
        let (model, candidates) = (self.model, self.settings.unclip().candidates);
        let Some(captions) = &self.captions else { return Ok(Vec::new()) };
        let asked = Asked { at: self.at, run: self.run, stage, candidates, captions };
        let drawn = match (&model.diffusion, &model.autoregressive) {
            (Some((place, config)), _) if stage.stage == Some(*place) => {
                let prior = &model.stages[*place];
                asked.best(noise, |noise| asked.denoise(prior, config, noise, on_step))?
            }
            (_, Some(prior)) => asked.best(noise, |noise| asked.decode(prior, noise, on_step))?,
            _ => return Err(request!(Prior, Unsupported, "this model has no prior")),
        };
        self.embeddings = drawn.iter().flat_map(|drawn| &drawn.embedding).copied().collect();
        Ok(drawn)
    }
}
