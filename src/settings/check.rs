//! Settings that no model takes are refused here, before one looks at them.

use super::settings::Settings;
use super::source::{SeedChoice, Source, Start};
use crate::diffusion::Thresholding;
use crate::diffusion::repaint::Resampling;
use crate::error::{Error, Problem, Result, Setting, request};
use crate::picture::Picture;

/// Most pixels along a side: what the largest published cascades make, with room to spare.
pub const MAX_SIDE: usize = 8_192;
/// Most pictures at once.
pub const MAX_COUNT: usize = 256;
/// Largest guidance scale; 10 is a lot.
pub(crate) const MAX_GUIDANCE: f64 = 1e4;
/// Most pixels of all pictures at once: one of the largest.
const MAX_PIXELS: usize = MAX_SIDE * MAX_SIDE;
/// Largest factor of an upsampler's first noise.
const MAX_TEMP: f64 = 10.0;
/// Most evaluations of the network in a step of an inversion.
const MAX_EVALUATIONS: usize = 100;
/// Most candidates for a picture.
const MAX_CANDIDATES: usize = 64;
/// Most embeddings that a prior draws at once.
const MAX_EMBEDDINGS: usize = 1_024;

fn out_of_range(setting: Setting, what: String) -> Result<()> {
    Err(Error::request(setting, Problem::OutOfRange, what))
}

impl Settings {
    /// Refuses what makes no sense with any model.
    pub(crate) fn check(&self) -> Result<()> {
        let count = self.pictures();
        if count == 0 || count > MAX_COUNT {
            return out_of_range(Setting::Count, format!("{count} pictures at once: give 1 to {MAX_COUNT}"));
        }
        check_size(count, self.size)?;
        if let Some(scale) = self.guidance_scale.values().find(|s| !(0.0..=MAX_GUIDANCE).contains(*s)) {
            let what =
                format!("a guidance scale of {scale}: give a number from 0 to {MAX_GUIDANCE}; 1 is none");
            return out_of_range(Setting::GuidanceScale, what);
        }
        if let Some(eta) = self.eta.filter(|eta| !(0.0..=1.0).contains(eta)) {
            return out_of_range(Setting::Eta, format!("DDIM's eta of {eta}: give a number from 0 to 1"));
        }
        self.check_system(count)?;
        self.check_source(count)?;
        self.check_start(count)?;
        match self.thresholding {
            Some(Thresholding::Range(r)) if !(r > 0.0 && r.is_finite()) => {
                out_of_range(Setting::Thresholding, format!("clipping to {r}: give a range above 0"))
            }
            Some(Thresholding::Dynamic { ratio, max })
                if !((0.0..=1.0).contains(&ratio) && max >= 1.0 && max.is_finite()) =>
            {
                let what = format!(
                    "thresholding at quantile {ratio}, at most {max}: give a quantile of 0 to 1, a limit of 1 or more"
                );
                out_of_range(Setting::Thresholding, what)
            }
            _ => Ok(()),
        }
    }

    fn check_system(&self, count: usize) -> Result<()> {
        let (glide, unclip) = (self.glide(), self.unclip());
        if let Some(factor) = glide.upsample_temp.filter(|factor| !(0.0..=MAX_TEMP).contains(factor)) {
            let what = format!("an upsampling temperature of {factor}: give 0 to {MAX_TEMP}; 0.997 is usual");
            return out_of_range(Setting::UpsampleTemp, what);
        }
        let candidates = unclip.candidates;
        if candidates == 0 || candidates > MAX_CANDIDATES {
            let what = format!("{candidates} candidates for each picture: give 1 to {MAX_CANDIDATES}");
            return out_of_range(Setting::Candidates, what);
        }
        if candidates > 1 && count * candidates > MAX_EMBEDDINGS {
            let what = format!(
                "{candidates} candidates for each of {count} pictures at once: give fewer, {MAX_EMBEDDINGS} in all"
            );
            return out_of_range(Setting::Candidates, what);
        }
        match unclip.inversion.filter(|n| !(1..=MAX_EVALUATIONS).contains(n)) {
            Some(n) => {
                let what =
                    format!("{n} evaluations in each step of an inversion: give 1 to {MAX_EVALUATIONS}");
                out_of_range(Setting::Inversion, what)
            }
            None => Ok(()),
        }
    }

    /// Lists that hold neither one for all nor one for each, and broken values in them.
    fn check_source(&self, count: usize) -> Result<()> {
        let each = |setting: Setting, given: usize, what: &str| one_or_each(setting, (given, what), count);
        if let SeedChoice::Each(seeds) = &self.seeds
            && seeds.len() != count
        {
            return Err(request!(
                Seeds,
                Mismatch,
                "{} seeds for {count} pictures to draw: give one for each",
                seeds.len()
            ));
        }
        each(Setting::NegativePrompt, self.negative_prompts.len().max(1), "negative prompts")?;
        match &self.source {
            Source::Prompt => Ok(()),
            Source::Prompts(prompts) => each(Setting::Prompt, prompts.len(), "prompts"),
            Source::Classes(classes) => each(Setting::Classes, classes.len(), "classes"),
            Source::Image(pictures) => {
                each(Setting::Image, pictures.len(), "pictures to vary")?;
                pictures.iter().try_for_each(Picture::check)
            }
            Source::Latents(latents) => {
                each(Setting::Latents, latents.len(), "latents")?;
                let mut numbers =
                    latents.iter().flat_map(|l| l.embedding.iter().chain(l.noise.iter().flatten()));
                match numbers.all(|v| v.is_finite()) {
                    true => Ok(()),
                    false => Err(request!(Latents, Malformed, "a latent holds values that are not numbers")),
                }
            }
            Source::Embeds { prompts, negative } => {
                each(Setting::Embeds, prompts.len(), "text states")?;
                each(Setting::Embeds, negative.len().max(1), "negative text states")
            }
            Source::Stage { pictures, prompts } => {
                each(Setting::Prompt, prompts.len().max(1), "prompts")?;
                if pictures.len() != count {
                    let given = pictures.len();
                    return Err(request!(
                        FromPictures,
                        Mismatch,
                        "{given} pictures to go on from for {count} to draw: give one for each"
                    ));
                }
                pictures.iter().try_for_each(Picture::check)
            }
        }
    }

    /// Pictures to begin at, and how far they are left.
    fn check_start(&self, count: usize) -> Result<()> {
        if let Some(strength) = self.strength.filter(|s| !(*s > 0.0 && *s <= 1.0)) {
            let what = format!("a strength of {strength}: give a number above 0, up to 1");
            return out_of_range(Setting::Strength, what);
        }
        let Resampling { times, jump } = self.resampling;
        if !(1..=100).contains(&times) || !(1..=1_000).contains(&jump) {
            let what = format!(
                "going {times} times through stretches of {jump} steps: give 1 to 100, and 1 to 1000"
            );
            return out_of_range(Setting::Resampling, what);
        }
        if self.start == Start::Noise {
            return Ok(());
        }
        let pictures = self.start.pictures();
        one_or_each(Setting::Init, (pictures.len(), "pictures to begin at"), count)?;
        pictures.iter().try_for_each(Picture::check)?;
        let beside = match self.source {
            Source::Stage { .. } => Some("pictures of an earlier stage say"),
            Source::Latents(_) => Some("latents say what is drawn and"),
            _ => None,
        };
        if let Some(what) = beside {
            return Err(request!(
                Init,
                Conflict,
                "{what} where a run begins: a picture to begin at cannot, too"
            ));
        }
        let Some(mask) = self.start.mask() else { return Ok(()) };
        let sizes = pictures.iter().map(|p| (p.width, p.height)).chain([(mask.width(), mask.height())]);
        sizes.into_iter().try_for_each(|size| mask.drawn_in(size).map(drop))
    }
}

/// Refuses a list that holds neither one for all pictures nor one for each.
fn one_or_each(setting: Setting, (given, of): (usize, &str), count: usize) -> Result<()> {
    if given == 1 || given == count {
        return Ok(());
    }
    let what = format!("{given} {of} for {count} pictures to draw: give one for all, or one for each");
    Err(Error::request(setting, Problem::Mismatch, what))
}

/// Refuses pictures of a size that are too large, or too many for it.
pub(crate) fn check_size(count: usize, size: Option<(usize, usize)>) -> Result<()> {
    let Some((w, h)) = size else { return Ok(()) };
    if w == 0 || h == 0 || w > MAX_SIDE || h > MAX_SIDE {
        return out_of_range(Setting::Size, format!("{w}x{h} pixels: a side may have 1 to {MAX_SIDE}"));
    }
    if count * w * h > MAX_PIXELS {
        // A single one of the largest is not.
        return out_of_range(
            Setting::Count,
            format!("{count} pictures of {w}x{h} pixels at once are too many"),
        );
    }
    Ok(())
}
