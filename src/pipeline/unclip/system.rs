//! unCLIP as a system of the cascade: its stages for a request, their steps, what they cost.

use super::conditioner::DECODER;
use super::load::UnClip;
use super::prior::{denormalised_graph, of_run};
use crate::device::Weights;
use crate::diffusion::{Sampler, Step, Thresholding, Timesteps, invertible_timesteps, steps_from};
use crate::error::{Error, Problem, Result, Setting, request};
use crate::graph::Graph;
use crate::models::network::Shape;
use crate::pipeline::cost::{NetworkCost, Target};
use crate::pipeline::run::{Line, Run, StageRun};
use crate::pipeline::stage::{At, Stage};
use crate::pipeline::system::{Abilities, Condition, Conditioner, LatentSpace, System};
use crate::settings::{Latent, PriorKind, PromptEmbeds, Settings, Source};
use crate::text::caption;

impl UnClip {
    fn priors(&self) -> Vec<PriorKind> {
        let diffusion = self.diffusion.is_some().then_some(PriorKind::Diffusion);
        let autoregressive = self.autoregressive.is_some().then_some(PriorKind::Autoregressive);
        diffusion.into_iter().chain(autoregressive).collect()
    }

    /// The steps of the decoder for latents: DDIM's; where they bring their noise without clipping, on timesteps whose
    /// inversion is well-conditioned.
    fn latent_steps(&self, settings: &Settings, place: usize, first: usize) -> Result<Vec<Step>> {
        let stage = &self.stages[DECODER];
        let mut scheduler = stage.scheduler.clone();
        let inverted = has_noise(settings);
        let sampler = match settings.sampler {
            None | Some(Sampler::Ddim { .. }) => Sampler::Ddim { eta: settings.eta.unwrap_or(0.0) },
            Some(other) if inverted || settings.eta.is_some() => {
                return Err(request!(
                    Sampler,
                    Conflict,
                    "{} beside latents with a noise or an eta: DDIM alone leads from a picture to its noise and back",
                    other.name()
                ));
            }
            Some(other) => other,
        };
        scheduler.clip =
            settings.thresholding.unwrap_or(if inverted { Thresholding::None } else { scheduler.clip });
        let count = stage.step_count(settings, place)?;
        let timesteps = match settings.respacing.get(place, &stage.name) {
            Some(respacing) => Timesteps::Respaced(respacing.clone()),
            None if inverted => invertible_timesteps(&scheduler, count)?,
            None => scheduler.timesteps(&sampler, count),
        };
        steps_from(&scheduler, &sampler, timesteps, first)
    }

    /// Refuses latents of another model, or another size.
    fn check_latents(&self, latents: &[Latent], (width, height): (usize, usize)) -> Result<()> {
        let (columns, values) = (self.projection.config.clip_embeddings_dim, width * height * 3);
        let refused = |what: String| Err(Error::request(Setting::Latents, Problem::Mismatch, what));
        if let Some(found) = latents.iter().map(|latent| latent.embedding.len()).find(|len| *len != columns) {
            return refused(format!("a latent's embedding of {found} columns: this model's have {columns}"));
        }
        let mut noises = latents.iter().filter_map(|latent| Some(latent.noise.as_ref()?.len()));
        match noises.find(|len| *len != values) {
            Some(found) => refused(format!(
                "a latent's noise of {found} values: the decoder's pictures of {width}x{height} pixels have {values}; \
                 it belongs to the size it was found with"
            )),
            None => Ok(()),
        }
    }
}

/// Whether any latent brings its noise.
fn has_noise(settings: &Settings) -> bool {
    settings.given_latents().iter().any(|latent| latent.noise.is_some())
}

impl System for UnClip {
    fn stages(&self) -> &[Stage] {
        &self.stages
    }

    fn condition(&self) -> Condition {
        if self.priors().is_empty() { Condition::Picture } else { Condition::Prompt }
    }

    fn abilities(&self) -> Abilities {
        Abilities {
            varies_pictures: self.pictures.is_some(),
            draws_latents: true,
            takes_embeds: !self.priors().is_empty(),
            scales_first_noise: false,
            priors: self.priors(),
        }
    }

    fn fewest_steps(&self) -> usize {
        // Two networks of super-resolution share two; UnCLIP's scheduler spaces no fewer.
        2
    }

    fn line(&self, settings: &Settings) -> Result<Line> {
        let embedding = of_run(&self.priors(), settings)?.map(|kind| match kind {
            PriorKind::Diffusion => self.diffusion.as_ref().map(|(place, _)| *place),
            PriorKind::Autoregressive => None,
        });
        let drawing = self.stages.len() - usize::from(self.diffusion.is_some());
        Ok(Line { stages: (0..drawing).collect(), usual: self.usual, embedding, alone: None })
    }

    fn sampled(
        &self,
        stage: usize,
        settings: &Settings,
        place: usize,
        first: usize,
    ) -> Result<(Vec<Step>, f64)> {
        let of = &self.stages[stage];
        if stage != DECODER || settings.given_latents().is_empty() {
            return Ok((of.steps(settings, place, first)?, of.guidance_scale(settings, place)));
        }
        let scale = match has_noise(settings) {
            true => settings.guidance_scale.get(place, &of.name).copied().unwrap_or(1.0),
            false => of.guidance_scale(settings, place),
        };
        Ok((self.latent_steps(settings, place, first)?, scale))
    }

    fn embedding(&self, settings: &Settings, stage: Option<usize>, pictures: usize) -> Result<StageRun> {
        let (rows, name) = (pictures * settings.unclip().candidates, "prior".to_string());
        let (shape, steps, guidance_scale) = match (stage, &self.autoregressive) {
            (Some(stage), _) => {
                let (steps, scale) = self.sampled(stage, settings, 0, 0)?;
                (self.stages[stage].shape(rows, (1, 1), &steps, scale), steps, scale)
            }
            (None, usual) => {
                let usual = usual.as_ref().map_or(1.0, |(_, usual)| usual.guidance_scale);
                let scale = settings.guidance_scale.get(0, &name).copied().unwrap_or(usual);
                let one =
                    Shape { pictures: rows, height: 1, width: 1, guided: scale > 1.0, ..Shape::default() };
                (one, Vec::new(), scale)
            }
        };
        let (embedding, first, keeps, steered) = (true, false, None, false);
        Ok(StageRun { place: 0, stage, name, embedding, first, shape, steps, guidance_scale, keeps, steered })
    }

    fn check(&self, run: &Run, settings: &Settings) -> Result<()> {
        let drawn = run.stages.iter().any(|stage| stage.embedding);
        let given = matches!(settings.source, Source::Image(_) | Source::Latents(_));
        if run.begins_at.is_none() && !drawn && !given {
            return Err(request!(Image, Missing, "this model varies a picture"));
        }
        self.check_latents(settings.given_latents(), run.sizes[0])
    }

    fn begin<'a>(
        &'a self,
        at: At<'a>,
        run: &'a Run,
        settings: &'a Settings,
    ) -> Result<Box<dyn Conditioner + 'a>> {
        Ok(Box::new(self.conditions(at, run, settings)?))
    }

    fn encode(&self, at: At<'_>, prompts: &[&str], clean: bool) -> Result<Vec<PromptEmbeds>> {
        let clean = |text: &&str| if clean { caption::clean(text) } else { text.to_string() };
        let texts: Vec<String> = prompts.iter().map(clean).collect();
        self.remembered.states(&texts, |texts| self.text.encode(at, texts))
    }

    fn costs_before(&self, run: &Run, i: usize, settings: &Settings, on: &Target) -> Vec<NetworkCost> {
        let (mut costs, context) = (Vec::new(), self.text.config.context);
        if i == 0 && run.begins_at.is_none() {
            let texts = self.texts(run, settings).count();
            if texts > 0 {
                costs.push(NetworkCost::of_text(self.text.config.graph(context, &vec![0; texts]), on));
            }
            if let (Some(encoder), Source::Image(pictures)) = (&self.pictures, &settings.source) {
                let sizes = format!("{} pictures of {1}x{1}", pictures.len(), encoder.config.image_size());
                costs.push(NetworkCost::of_once("picture encoder", sizes, encoder.graph(pictures.len()), on));
            }
        }
        let stage = &run.stages[i];
        if let (true, None, Some((prior, _))) = (stage.embedding, stage.stage, &self.autoregressive) {
            let texts = self.texts(run, settings);
            let negative = if stage.shape.guided { texts.negative.len().max(1) } else { 0 };
            let captions = negative + texts.prompts.len().max(1);
            costs.push(NetworkCost::of_tokens(
                &prior.config,
                stage.shape.pictures,
                captions,
                stage.shape.guided,
                on,
            ));
        }
        if stage.stage == Some(DECODER) {
            let before = i.checked_sub(1).map(|i| &run.stages[i]).filter(|stage| stage.stage.is_some());
            if let (Some(prior), Some((_, config))) = (before, &self.diffusion) {
                let graph = denormalised_graph(config, prior.shape.pictures);
                costs.push(NetworkCost::of_once("embeddings as CLIP has them", String::new(), graph, on));
            }
            let graph = self.projection.config.graph(run.pictures, stage.shape.guided, context);
            costs.push(NetworkCost::of_once(
                "text projection",
                format!("{} embeddings", run.pictures),
                graph,
                on,
            ));
        }
        costs
    }

    fn text_weights(&self) -> Option<&Weights> {
        Some(self.text.weights())
    }

    fn other_networks(&self) -> Vec<(String, Graph, &Weights)> {
        let priors = self.autoregressive.iter();
        priors.map(|(prior, _)| ("prior_ar".into(), prior.config.graph(1), prior.weights())).collect()
    }

    fn latent_space(&self) -> Option<&dyn LatentSpace> {
        Some(self)
    }
}
