//! Pictures as unCLIP sees them, to vary, blend and move them (DALL·E 2; Ramesh et al. 2022, arXiv:2204.06125, section 3).
//!
//! A [`Latent`] is two things: a picture's CLIP embedding, which says what is in it, and the noise from which the decoder
//! draws just that picture, which says where, and how it is done. [`Engine::embed`] finds the first, [`Engine::invert`]
//! both, by DDIM the other way; [`Settings::latents`] draws them. The rest is arithmetic between the two.

use super::model::Engine;
use crate::diffusion::draws::OneNoise;
use crate::diffusion::vectors::text_diff;
use crate::error::{Error, Problem, Result, Setting, request};
use crate::picture::Picture;
use crate::pipeline::cascade::progress;
use crate::pipeline::system::LatentSpace;
use crate::settings::{Latent, Layout, Settings};

fn refuse<T>(setting: Setting, problem: Problem, what: impl Into<String>) -> Result<T> {
    Err(Error::request(setting, problem, what))
}

fn check_pictures(pictures: &[Picture]) -> Result<()> {
    if pictures.is_empty() {
        return refuse(Setting::Picture, Problem::Missing, "no pictures are given");
    }
    pictures.iter().try_for_each(Picture::check)
}

impl Engine {
    /// The model's embeddings, if its decoder draws pictures of any.
    fn latent_space(&self) -> Result<&dyn LatentSpace> {
        self.system().latent_space().ok_or_else(|| {
            request!(Model, Unsupported, "this model has no CLIP embeddings to vary, blend or move: an unCLIP has, as Karlo's image variation")
        })
    }

    /// The CLIP embeddings of pictures of any size, of which CLIP sees the middle; without their noise.
    ///
    /// Errors: no pictures, or broken ones; a model without CLIP's picture encoder; a device that fails.
    pub fn embed(&self, pictures: &[Picture]) -> Result<Vec<Latent>> {
        check_pictures(pictures)?;
        let embeddings = self.latent_space()?.embed_pictures(self.at(), pictures)?;
        Ok(embeddings.into_iter().map(|embedding| Latent { embedding, noise: None }).collect())
    }

    /// The CLIP embeddings of captions, as [`text_diff`] takes them.
    ///
    /// Errors: a caption that is empty, or that the tokenizer refuses; another kind of model; a device that fails.
    pub fn embed_captions(&self, captions: &[&str]) -> Result<Vec<Vec<f32>>> {
        if captions.is_empty() || captions.iter().any(|caption| caption.trim().is_empty()) {
            let what =
                "a caption is empty; give two of what is to change: \"a red circle\" \"a blue square\"";
            return refuse(Setting::Captions, Problem::Missing, what);
        }
        self.latent_space()?.embed_captions(self.at(), captions)
    }

    /// Embeddings of pictures and the noise from which the decoder draws just these pictures: DDIM the other way, from
    /// the picture at the decoder's size (its middle), led by its own embedding and no caption.
    ///
    /// It belongs to the settings it was found with: steps, size and guidance scale of the decoder's stage, which is 1,
    /// none, unless given. Each step is solved by [`inversion`](crate::UnClipSettings::inversion) evaluations of the network.
    ///
    /// Errors: what [`Engine::embed`] and [`Engine::generate`] refuse.
    pub fn invert(&self, pictures: &[Picture], settings: Settings) -> Result<Vec<Latent>> {
        check_pictures(pictures)?;
        let space = self.latent_space()?;
        // The way back is DDIM's own, whatever the way there is.
        let back = Settings { thresholding: None, eta: None, ..settings.count(pictures.len()) };
        let (width, height) = self.decoded(&back, pictures.len())?;
        let mut latents = self.embed(pictures)?;
        // The pictures stand where the noises will, so that the settings are those of a run from noises.
        for (latent, picture) in latents.iter_mut().zip(pictures) {
            let fitted = picture.fitted(width, height).with_channels(3);
            let what = "a picture has 1 channel or 3";
            let refused = || Error::request(Setting::Picture, Problem::Malformed, what);
            latent.noise = Some(fitted.ok_or_else(refused)?.values);
        }
        let back = back.latents(latents.clone());
        let run = self.resolve("", &back)?;
        let stage = &run.stages[0];
        let mut on_step = progress(&back, stage, 1);
        let noises = space.invert(self.at(), &run, &back, &mut on_step)?;
        latents.iter_mut().zip(noises).for_each(|(latent, noise)| latent.noise = Some(noise));
        Ok(latents)
    }

    /// The size of the decoder's pictures in a run of so many latents.
    ///
    /// Errors: settings that make no sense for one.
    fn decoded(&self, settings: &Settings, count: usize) -> Result<(usize, usize)> {
        let any = Latent { embedding: vec![0.0; self.latent_space()?.columns()], noise: None };
        Ok(self.resolve("", &settings.clone().latents(vec![any; count]))?.sizes[0])
    }

    fn latents(&self, pictures: &[Picture], layout: Layout, settings: &Settings) -> Result<Vec<Latent>> {
        match layout {
            Layout::New => {
                self.decoded(settings, settings.pictures())?;
                self.embed(pictures)
            }
            Layout::Kept => self.invert(pictures, settings.clone()),
        }
    }

    /// Draws these latents, all from the seed's one noise.
    fn draw_latents(&self, latents: Vec<Latent>, settings: Settings) -> Result<Vec<Picture>> {
        let mut noise = OneNoise::new(settings.seeds.of(1).first().copied().unwrap_or_default());
        self.generate_from_noise("", &settings.latents(latents), &mut noise)
    }

    /// Draws [`Settings::count`] others of a picture.
    ///
    /// [`Layout::New`]: from each seed's noise, sampled as the model's files say, as `UnCLIPImageVariationPipeline` does.
    /// [`Layout::Kept`]: from the picture's own noise, by DDIM with [`Settings::eta`]: with 0 the picture as the
    /// model draws it, with more what its embedding leaves open changes.
    ///
    /// Errors: what [`Engine::embed`] and [`Engine::generate`] refuse.
    pub fn vary(&self, picture: &Picture, layout: Layout, settings: Settings) -> Result<Vec<Picture>> {
        let pictures = std::slice::from_ref(picture);
        match layout {
            Layout::New if settings.eta.is_some() => {
                let what = "eta varies a picture whose layout is kept; a new one varies by its seed";
                refuse(Setting::Eta, Problem::Conflict, what)
            }
            Layout::New => {
                picture.check()?;
                self.latent_space()?.check_sees()?;
                self.generate("", settings.image(pictures))
            }
            Layout::Kept => {
                let latents = self.latents(pictures, layout, &settings)?;
                self.generate("", settings.latents(latents))
            }
        }
    }

    /// Draws `steps` pictures from one picture to another, evenly, the first and the last of the two themselves:
    /// spherical between their embeddings, and with [`Layout::Kept`] between their noises. With [`Layout::New`] all are
    /// drawn from the seed's one noise.
    ///
    /// Errors: fewer than 2 steps; the same picture twice; what [`Engine::embed`] and [`Engine::generate`] refuse.
    pub fn blend(
        &self,
        [a, b]: [&Picture; 2],
        steps: usize,
        layout: Layout,
        settings: Settings,
    ) -> Result<Vec<Picture>> {
        if steps < 2 {
            let what = format!("a blend of {steps} pictures: give 2 or more, the two themselves among them");
            return refuse(Setting::Count, Problem::OutOfRange, what);
        }
        if a == b {
            let what = "both pictures are the same: there is nothing between them";
            return refuse(Setting::Picture, Problem::Malformed, what);
        }
        let settings = settings.count(steps);
        let ends = self.latents(&[a.clone(), b.clone()], layout, &settings)?;
        let at = |i: usize| Latent::slerp(&ends[0], &ends[1], i as f64 / (steps - 1) as f64);
        self.draw_latents((0..steps).map(at).collect(), settings)
    }

    /// Draws a picture moved along the difference of two captions: what the first says becomes what the second says. One
    /// picture for each strength, which is how far its embedding turns from itself (0) towards the difference (1); most
    /// is done by 0.25 to 0.5, and beyond that the picture is lost.
    ///
    /// Errors: strengths beyond 0 to 1; captions that are empty or mean the same; what [`Engine::embed`] and
    /// [`Engine::generate`] refuse.
    pub fn morph(
        &self,
        picture: &Picture,
        [from, to]: [&str; 2],
        strengths: &[f64],
        layout: Layout,
        settings: Settings,
    ) -> Result<Vec<Picture>> {
        if let Some(strength) = strengths.iter().find(|t| !(0.0..=1.0).contains(*t)) {
            let what = format!("a strength of {strength}: give a number from 0 to 1; 0.25 to 0.5 is usual");
            return refuse(Setting::Strength, Problem::OutOfRange, what);
        }
        let settings = settings.count(strengths.len());
        settings.check()?;
        let captions = self.embed_captions(&[from, to])?;
        let direction = text_diff(&captions[0], &captions[1])?;
        let latent = self.latents(std::slice::from_ref(picture), layout, &settings)?.remove(0);
        self.draw_latents(strengths.iter().map(|t| latent.towards(&direction, *t)).collect(), settings)
    }

    /// Draws a picture from as many of its embedding's principal components as each of `dimensions` says: the first few
    /// hold what it is of, the later ones its details. All are drawn from the seed's one noise, or with [`Layout::Kept`]
    /// from the picture's.
    ///
    /// Errors: a model without an autoregressive prior, which has the components, or with fewer of them; what
    /// [`Engine::embed`] and [`Engine::generate`] refuse.
    pub fn reconstruct(
        &self,
        picture: &Picture,
        dimensions: &[usize],
        layout: Layout,
        settings: Settings,
    ) -> Result<Vec<Picture>> {
        let axes = self.latent_space()?.principal_axes()?;
        if let Some(count) = dimensions.iter().find(|count| **count > axes.count()) {
            let what = format!("{count} dimensions: this model has {}; give 0 to that many", axes.count());
            return refuse(Setting::Dimensions, Problem::OutOfRange, what);
        }
        let settings = settings.count(dimensions.len());
        let latent = self.latents(std::slice::from_ref(picture), layout, &settings)?.remove(0);
        let coordinates = axes.project(&latent.embedding);
        let of_first =
            |count: &usize| Latent { embedding: axes.reconstruct(&coordinates[..*count]), ..latent.clone() };
        self.draw_latents(dimensions.iter().map(of_first).collect(), settings)
    }
}
