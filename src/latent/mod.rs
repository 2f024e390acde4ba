//! Pictures as unCLIP sees them, to vary, blend and move them (DALL·E 2; Ramesh et al. 2022, arXiv:2204.06125, section 3).
//!
//! A [`Latent`] is two things: a picture's CLIP embedding, which says what is in it, and the noise from which the decoder
//! draws just that picture, which says where, and how it is done. [`Engine::embed`] finds the first, [`Engine::invert`]
//! both, by DDIM the other way; [`GenerateConfig::latents`] draws them. The rest is arithmetic between the two:
//!
//! - [`Engine::vary`]: others of a picture, its layout new or kept.
//! - [`Engine::blend`]: from one picture to another.
//! - [`Engine::morph`]: a picture along the difference of two captions.
//! - [`Engine::reconstruct`]: a picture from the first principal components of its embedding.
//!
//! ```no_run
//! use ancestral::engine::Bundled;
//! use ancestral::latent::{Latent, Layout};
//! use ancestral::{Engine, GenerateConfig, LoadOptions, Picture};
//!
//! let mut engine = Engine::bundled_as(Bundled::UnClip, &LoadOptions::default())?;
//! let open = |name: &str| Picture::open(name.as_ref());
//! let (a, b) = (open("a.png")?, open("b.png")?);
//! // Seven pictures; the first and the last are the two as the model draws them.
//! let blend = engine.blend([&a, &b], 7, Layout::Kept, GenerateConfig::new())?;
//! // The same by hand, but for the way between.
//! let ends = engine.invert(&[a, b], GenerateConfig::new())?;
//! let between = [0.0, 0.25, 0.5].map(|t| Latent::slerp(&ends[0], &ends[1], t));
//! let drawn = engine.generate("", GenerateConfig::new().count(3).latents(between))?;
//! # Ok::<(), ancestral::Error>(())
//! ```

mod math;
#[cfg(test)]
mod tests;

pub use math::{slerp, text_diff};

use crate::device::ProgramOptions;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::picture::Picture;
use crate::request::{GenerateConfig, check_picture, check_request};
use crate::systems::denoise::{Noise, SeededNoise};
use crate::systems::unclip::UnClip;

/// Evaluations of the network in a step of an inversion, where the caller gives none.
pub(crate) const EVALUATIONS: usize = 5;

/// What unCLIP's decoder draws a picture of.
#[derive(Clone, Debug, PartialEq)]
pub struct Latent {
    /// The picture's embedding `[E]`, as CLIP has it.
    pub embedding: Vec<f32>,
    /// The decoder's first noise, x_T `[h, w, 3]`, channels last; the seed's where there is none.
    pub noise: Option<Vec<f32>>,
}

impl Latent {
    /// Between two latents, `t` of the way: spherical in embedding and in noise (see [`slerp`]); of noise only if both
    /// have it.
    ///
    /// # Panics
    /// Where they are not of the same sizes.
    #[track_caller]
    pub fn slerp(a: &Latent, b: &Latent, t: f64) -> Latent {
        let noise = a.noise.as_ref().zip(b.noise.as_ref()).map(|(a, b)| slerp(a, b, t));
        Latent { embedding: slerp(&a.embedding, &b.embedding, t), noise }
    }

    /// The picture's embedding turned towards a direction, of whatever length, `t` of the way; length and noise stay.
    ///
    /// # Panics
    /// Where the direction has not as many elements.
    #[track_caller]
    pub fn towards(&self, direction: &[f32], t: f64) -> Latent {
        let scale = math::length(&self.embedding) / math::length(direction).max(f64::MIN_POSITIVE);
        let direction: Vec<f32> = direction.iter().map(|v| (scale * f64::from(*v)) as f32).collect();
        Latent { embedding: slerp(&self.embedding, &direction, t), noise: self.noise.clone() }
    }
}

/// Where the decoder's noise is from, and so what becomes of a picture's layout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Layout {
    /// From the seed: things are where chance puts them.
    #[default]
    New,
    /// From the picture, by DDIM inversion: things stay where they are.
    Kept,
}

/// One seed's noise for every picture, so that pictures differ by their latents only.
struct OneNoise(SeededNoise);

impl OneNoise {
    fn new(seed: u64) -> Self {
        OneNoise(SeededNoise::new(seed, 1))
    }
}

impl Noise for OneNoise {
    fn draw(&mut self, pictures: usize, channels: usize, height: usize, width: usize) -> Vec<f32> {
        self.0.draw(1, channels, height, width).repeat(pictures)
    }

    fn uniform(&mut self, pictures: usize, count: usize) -> Vec<f32> {
        self.0.uniform(1, count).repeat(pictures)
    }
}

fn refuse<T>(what: impl Into<String>) -> Result<T> {
    Err(Error::Request(what.into()))
}

impl Engine {
    /// The model, if its decoder draws pictures of embeddings.
    fn unclip(&mut self) -> Result<&mut UnClip> {
        let what = "this model has no CLIP embeddings to vary, blend or move: give an unCLIP, as Karlo's image variation";
        self.system.as_unclip().ok_or_else(|| Error::Request(what.into()))
    }

    /// The CLIP embeddings of pictures of any size, of which CLIP sees the middle; without their noise.
    ///
    /// Errors ([`Error::Request`]): no pictures, or broken ones; a model without CLIP's picture encoder.
    pub fn embed(&mut self, pictures: &[Picture]) -> Result<Vec<Latent>> {
        if pictures.is_empty() {
            return refuse("no pictures are given");
        }
        pictures.iter().try_for_each(check_picture)?;
        let device = self.device.clone();
        let embeddings = self.unclip()?.embed_pictures(&device, pictures)?;
        Ok(embeddings.into_iter().map(|embedding| Latent { embedding, noise: None }).collect())
    }

    /// The CLIP embeddings of captions, as [`text_diff`] takes them.
    ///
    /// Errors ([`Error::Request`]): a caption that is empty, or that the tokenizer refuses; another kind of model.
    pub fn embed_captions(&mut self, captions: &[&str]) -> Result<Vec<Vec<f32>>> {
        if captions.is_empty() || captions.iter().any(|caption| caption.trim().is_empty()) {
            return refuse(
                "a caption is empty; give two of what is to change: \"a red circle\" \"a blue square\"",
            );
        }
        let device = self.device.clone();
        self.unclip()?.embed_captions(&device, captions)
    }

    /// Embeddings of pictures and the noise from which the decoder draws just these pictures: DDIM the other way, from
    /// the picture at the decoder's size (its middle), led by its own embedding and no caption.
    ///
    /// It belongs to the settings it was found with: steps, size and guidance scale of the decoder's stage, which is 1,
    /// none, unless given. Each step is solved by [`GenerateConfig::inversion`] evaluations of the network, 5 by itself.
    ///
    /// Errors: what [`Engine::embed`] and [`Engine::generate`] refuse.
    pub fn invert(&mut self, pictures: &[Picture], mut cfg: GenerateConfig<'_>) -> Result<Vec<Latent>> {
        self.invert_by(pictures, &mut cfg)
    }

    fn invert_by(&mut self, pictures: &[Picture], cfg: &mut GenerateConfig<'_>) -> Result<Vec<Latent>> {
        if pictures.is_empty() {
            return refuse("no pictures are given");
        }
        pictures.iter().try_for_each(check_picture)?;
        let options = ProgramOptions { precision: self.precision, ..Default::default() };
        let device = self.device.clone();
        let count = std::mem::replace(&mut cfg.count, pictures.len());
        let latents = self.unclip()?.invert((&device, &options), pictures, cfg);
        cfg.count = count;
        latents
    }

    fn latents(
        &mut self,
        pictures: &[Picture],
        layout: Layout,
        cfg: &mut GenerateConfig<'_>,
    ) -> Result<Vec<Latent>> {
        check_request(cfg)?;
        match layout {
            Layout::New => {
                self.unclip()?.latent_size(cfg)?;
                self.embed(pictures)
            }
            Layout::Kept => self.invert_by(pictures, cfg),
        }
    }

    /// Draws these latents, all from the seed's one noise.
    fn draw(&mut self, latents: Vec<Latent>, cfg: GenerateConfig<'_>) -> Result<Vec<Picture>> {
        let mut noise = OneNoise::new(cfg.seed);
        let mut cfg = cfg.latents(latents);
        self.generate_from_noise("", &mut cfg, &mut noise)
    }

    /// Draws [`GenerateConfig::count`] others of a picture.
    ///
    /// [`Layout::New`]: from each seed's noise, sampled as the model's files say, as `UnCLIPImageVariationPipeline` does.
    /// [`Layout::Kept`]: from the picture's own noise, by DDIM with [`GenerateConfig::eta`]: with 0 the picture as the
    /// model draws it, with more what its embedding leaves open changes.
    ///
    /// Errors: what [`Engine::embed`] and [`Engine::generate`] refuse.
    pub fn vary(
        &mut self,
        picture: &Picture,
        layout: Layout,
        mut cfg: GenerateConfig<'_>,
    ) -> Result<Vec<Picture>> {
        let pictures = std::slice::from_ref(picture);
        match layout {
            Layout::New if cfg.eta.is_some() => {
                refuse("eta varies a picture whose layout is kept: leave it out, or keep the layout")
            }
            Layout::New => {
                check_picture(picture)?;
                self.unclip()?.encoder()?;
                self.generate("", cfg.image(pictures))
            }
            Layout::Kept => {
                let latents = self.latents(pictures, layout, &mut cfg)?;
                self.generate("", cfg.latents(latents))
            }
        }
    }

    /// Draws `steps` pictures from one picture to another, evenly, the first and the last of the two themselves:
    /// spherical between their embeddings, and with [`Layout::Kept`] between their noises. With [`Layout::New`] all are
    /// drawn from the seed's one noise.
    ///
    /// Errors: fewer than 2 steps; the same picture twice; what [`Engine::embed`] and [`Engine::generate`] refuse.
    pub fn blend(
        &mut self,
        [a, b]: [&Picture; 2],
        steps: usize,
        layout: Layout,
        mut cfg: GenerateConfig<'_>,
    ) -> Result<Vec<Picture>> {
        if steps < 2 {
            return refuse(format!(
                "a blend of {steps} pictures: give 2 or more, the two themselves among them"
            ));
        }
        if a == b {
            return refuse("both pictures are the same: there is nothing between them");
        }
        cfg = cfg.count(steps);
        let ends = self.latents(&[a.clone(), b.clone()], layout, &mut cfg)?;
        let at = |i: usize| Latent::slerp(&ends[0], &ends[1], i as f64 / (steps - 1) as f64);
        self.draw((0..steps).map(at).collect(), cfg)
    }

    /// Draws a picture moved along the difference of two captions: what the first says becomes what the second says. One
    /// picture for each strength, which is how far its embedding turns from itself (0) towards the difference (1); most
    /// is done by 0.25 to 0.5, and beyond that the picture is lost.
    ///
    /// Errors: strengths beyond 0 to 1; captions that are empty or mean the same; what [`Engine::embed`] and
    /// [`Engine::generate`] refuse.
    pub fn morph(
        &mut self,
        picture: &Picture,
        [from, to]: [&str; 2],
        strengths: &[f64],
        layout: Layout,
        mut cfg: GenerateConfig<'_>,
    ) -> Result<Vec<Picture>> {
        if let Some(strength) = strengths.iter().find(|t| !(0.0..=1.0).contains(*t)) {
            return refuse(format!(
                "a strength of {strength}: give a number from 0 to 1; 0.25 to 0.5 is usual"
            ));
        }
        cfg = cfg.count(strengths.len());
        check_request(&cfg)?;
        let captions = self.embed_captions(&[from, to])?;
        let direction = text_diff(&captions[0], &captions[1])?;
        let latent = self.latents(std::slice::from_ref(picture), layout, &mut cfg)?.remove(0);
        self.draw(strengths.iter().map(|t| latent.towards(&direction, *t)).collect(), cfg)
    }

    /// Draws a picture from as many of its embedding's principal components as each of `dimensions` says: the first few
    /// hold what it is of, the later ones its details. All are drawn from the seed's one noise, or with [`Layout::Kept`]
    /// from the picture's.
    ///
    /// Errors: a model without an autoregressive prior, which has the components, or with fewer of them; what
    /// [`Engine::embed`] and [`Engine::generate`] refuse.
    pub fn reconstruct(
        &mut self,
        picture: &Picture,
        dimensions: &[usize],
        layout: Layout,
        mut cfg: GenerateConfig<'_>,
    ) -> Result<Vec<Picture>> {
        let axes = self.unclip()?.principal_axes()?.clone();
        if let Some(count) = dimensions.iter().find(|count| **count > axes.count()) {
            return refuse(format!(
                "{count} dimensions: this model has {}; give 0 to that many",
                axes.count()
            ));
        }
        cfg = cfg.count(dimensions.len());
        let latent = self.latents(std::slice::from_ref(picture), layout, &mut cfg)?.remove(0);
        let coordinates = axes.project(&latent.embedding);
        let of_first =
            |count: &usize| Latent { embedding: axes.reconstruct(&coordinates[..*count]), ..latent.clone() };
        self.draw(dimensions.iter().map(of_first).collect(), cfg)
    }
}
