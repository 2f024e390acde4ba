//! Pictures and captions as embeddings, and the decoder the other way.

use super::conditioner::DECODER;
use super::load::UnClip;
use crate::error::{Error, Problem, Result, Setting, request};
use crate::models::pca::Pca;
use crate::picture::Picture;
use crate::pipeline::run::Run;
use crate::pipeline::sampler::OnStep;
use crate::pipeline::stage::At;
use crate::pipeline::system::{Conditioner, LatentSpace};
use crate::settings::Settings;

/// Evaluations of the network in a step of an inversion, where the caller gives none.
const EVALUATIONS: usize = 5;

impl UnClip {
    fn rows(&self, embeddings: &[f32]) -> Vec<Vec<f32>> {
        embeddings.chunks_exact(self.columns()).map(<[f32]>::to_vec).collect()
    }
}

impl LatentSpace for UnClip {
    fn columns(&self) -> usize {
        self.projection.config.clip_embeddings_dim
    }

    fn check_sees(&self) -> Result<()> {
        if self.pictures.is_some() {
            return Ok(());
        }
        Err(request!(
            Model,
            Unsupported,
            "this model has no encoder of pictures: Karlo's image variation has one, alone or beside it"
        ))
    }

    fn embed_pictures(&self, at: At<'_>, pictures: &[Picture]) -> Result<Vec<Vec<f32>>> {
        self.check_sees()?;
        let found = self.pictures.as_ref().map(|encoder| encoder.embed(at, pictures)).transpose()?;
        Ok(self.rows(&found.unwrap_or_default()))
    }

    fn embed_captions(&self, at: At<'_>, captions: &[&str]) -> Result<Vec<Vec<f32>>> {
        Ok(self.text.encode(at, captions)?.into_iter().map(|embeds| embeds.pooled).collect())
    }

    fn principal_axes(&self) -> Result<&Pca> {
        let axes = self.autoregressive.as_ref().map(|(prior, _)| &prior.alphabet.pca);
        axes.ok_or_else(|| {
            let what = "this model has no principal components of embeddings: they come with an autoregressive prior \
                        (prior_ar/)";
            Error::request(Setting::Model, Problem::Unsupported, what)
        })
    }

    fn invert(
        &self,
        at: At<'_>,
        run: &Run,
        settings: &Settings,
        on_step: &mut OnStep<'_>,
    ) -> Result<Vec<Vec<f32>>> {
        let Some(stage) = run.stages.iter().find(|stage| stage.stage == Some(DECODER)) else {
            return Ok(Vec::new());
        };
        let pixels: Vec<f32> =
            settings.given_latents().iter().flat_map(|l| l.noise.iter().flatten()).copied().collect();
        let network = &self.stages[DECODER].networks[0];
        let mut denoiser = network.denoiser(at, stage.shape, stage.steps.len())?;
        self.conditions(at, run, settings)?.condition(stage, &mut denoiser)?;
        let evaluations = settings.unclip().inversion.unwrap_or(EVALUATIONS);
        let noises = denoiser.invert(&stage.steps, stage.guidance_scale, evaluations, &pixels, on_step)?;
        network.put_back(denoiser);
        Ok(noises.chunks_exact(pixels.len() / run.pictures).map(<[f32]>::to_vec).collect())
    }
}
