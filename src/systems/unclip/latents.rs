//! What [`latent`](crate::latent) needs of the model: embeddings of pictures and captions, and the decoder the other way.

use super::{PictureEncoder, UnClip};
use crate::device::{Device, ProgramOptions};
use crate::error::{Error, Result};
use crate::latent::{EVALUATIONS, Latent};
use crate::models::pca::Pca;
use crate::picture::Picture;
use crate::request::{GenerateConfig, Size, check_request};
use crate::systems::progress;

impl UnClip {
    fn rows(&self, embeddings: &[f32]) -> Vec<Vec<f32>> {
        embeddings.chunks_exact(self.columns()).map(<[f32]>::to_vec).collect()
    }

    /// Columns of an embedding.
    fn columns(&self) -> usize {
        self.projection.config.clip_embeddings_dim
    }

    /// What sees pictures. Errors: the model has nothing that does.
    pub(crate) fn encoder(&self) -> Result<&PictureEncoder> {
        self.pictures.as_ref().ok_or_else(|| {
            let what = "this model has no encoder of pictures: give Karlo's image variation, alone or beside it \
                        (--model PRIOR --model VARIATION)";
            Error::Request(what.into())
        })
    }

    /// The embedding of each picture, of any size.
    pub(crate) fn embed_pictures(&self, device: &Device, pictures: &[Picture]) -> Result<Vec<Vec<f32>>> {
        Ok(self.rows(&self.encoder()?.embed(device, pictures)?))
    }

    /// The embedding of each caption.
    pub(crate) fn embed_captions(&self, device: &Device, captions: &[&str]) -> Result<Vec<Vec<f32>>> {
        Ok(self.rows(&self.text.encode(device, captions)?.embeds))
    }

    /// The principal components of embeddings.
    pub(crate) fn principal_axes(&self) -> Result<&Pca> {
        let axes = self.priors.autoregressive.as_ref().map(|(prior, _)| &prior.alphabet.pca);
        axes.ok_or_else(|| {
            let what = "this model has no principal components of embeddings: they come with an autoregressive prior \
                        (prior_ar/)";
            Error::Request(what.into())
        })
    }

    /// Refuses latents of another model, or another size.
    pub(super) fn check_latents(&self, latents: &[Latent], (width, height): (usize, usize)) -> Result<()> {
        let (columns, values) = (self.columns(), width * height * 3);
        if let Some(found) = latents.iter().map(|latent| latent.embedding.len()).find(|len| *len != columns) {
            let what = format!("a latent's embedding of {found} columns: this model's have {columns}");
            return Err(Error::Request(what));
        }
        match latents
            .iter()
            .filter_map(|latent| Some(latent.noise.as_ref()?.len()))
            .find(|len| *len != values)
        {
            Some(found) => Err(Error::Request(format!(
                "a latent's noise of {found} values: the decoder's pictures of {width}x{height} pixels have {values}; \
                 it belongs to the size it was found with"
            ))),
            None => Ok(()),
        }
    }

    /// The size of the decoder's pictures in a run from latents. Errors: settings that make no sense for one.
    pub(crate) fn latent_size(&self, cfg: &mut GenerateConfig<'_>) -> Result<Size> {
        cfg.latents = vec![Latent { embedding: vec![0.0; self.columns()], noise: None }];
        let size = check_request(cfg).and_then(|()| Ok(self.request(cfg)?.sizes[0]));
        cfg.latents.clear();
        size
    }

    /// The embeddings of pictures, and the noises from which the decoder draws just these pictures.
    pub(crate) fn invert(
        &mut self,
        (device, options): (&Device, &ProgramOptions),
        pictures: &[Picture],
        cfg: &mut GenerateConfig<'_>,
    ) -> Result<Vec<Latent>> {
        // The way back is DDIM's own, whatever the way there is.
        let (eta, clip) = (cfg.eta.take(), cfg.clip.take());
        let (width, height) = self.latent_size(cfg)?;
        let embeddings = self.embed_pictures(device, pictures)?;
        // The pictures stand where the noises will, so that the settings are those of a run from noises.
        for (embedding, picture) in embeddings.into_iter().zip(pictures) {
            let fitted = picture.fitted(width, height).with_channels(3);
            let noise = fitted.ok_or_else(|| Error::Request("a picture has 1 channel or 3".into()))?.values;
            cfg.latents.push(Latent { embedding, noise: Some(noise) });
        }
        check_request(cfg)?;
        let request = self.request(cfg)?;
        let mut latents = std::mem::take(&mut cfg.latents);
        let captions = self.captions(device, &request, "", cfg)?;
        let of = |part: fn(&Latent) -> &[f32]| latents.iter().flat_map(part).copied().collect::<Vec<f32>>();
        let (embeddings, pixels) = (of(|l| &l.embedding), of(|l| l.noise.as_deref().unwrap_or_default()));
        let (steps, scale) = (&request.steps[0], request.scales[0]);
        let denoiser =
            self.conditioned((device, options), &request, (&captions, &embeddings), pictures.len())?;
        let mut on_step = progress(cfg.on_progress.as_mut(), (0, 1), (width, height));
        let evaluations = cfg.inversion.unwrap_or(EVALUATIONS);
        let noises = denoiser.invert(steps, scale, evaluations, &pixels, &mut on_step)?;
        self.decoder.release_if_large();
        for (latent, noise) in latents.iter_mut().zip(noises.chunks_exact(width * height * 3)) {
            latent.noise = Some(noise.to_vec());
        }
        (cfg.eta, cfg.clip) = (eta, clip);
        Ok(latents)
    }
}
