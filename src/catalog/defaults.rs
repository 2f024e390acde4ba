//! A stage's settings where the caller gives none.

use crate::diffusion::Sampler;
use crate::error::{Error, Result};
use crate::models::check::require;
use std::path::Path;

/// Largest guidance scale of a model's file; 10 is a lot.
const MAX_GUIDANCE: f64 = 1e4;

/// A stage's settings where the caller gives none.
#[derive(Clone, Debug)]
pub(crate) struct Defaults {
    pub steps: usize,
    /// Goes before `steps`, where it is known.
    pub respacing: Option<String>,
    pub guidance_scale: f64,
    pub sampler: Option<Sampler>,
    pub noise_level: usize,
}

impl Defaults {
    /// So many steps, spaced and sampled as the scheduler says.
    pub fn of(steps: usize, guidance_scale: f64, noise_level: usize) -> Defaults {
        Defaults { steps, respacing: None, guidance_scale, sampler: None, noise_level }
    }

    /// What GLIDE's notebooks take.
    pub fn glide(enlarges: bool, inpaint: bool) -> Defaults {
        let (steps, guidance_scale) = match (enlarges, inpaint) {
            (true, _) => (27, 1.0),
            (false, false) => (100, 3.0),
            (false, true) => (100, 5.0),
        };
        Defaults {
            respacing: Some(if enlarges { "fast27" } else { "100" }.into()),
            sampler: (enlarges && !inpaint).then_some(Sampler::Ddim { eta: 0.0 }),
            ..Defaults::of(steps, guidance_scale, 0)
        }
    }

    /// What the reference pipelines take (diffusers' `__call__` signatures).
    pub fn of_pipeline(class: &str) -> Option<Defaults> {
        match class {
            "IFPipeline" => Some(Defaults::of(100, 7.0, 0)),
            "IFSuperResolutionPipeline" => Some(Defaults::of(50, 4.0, 250)),
            "DDPMPipeline" | "UNet2DModel" => Some(Defaults::of(1000, 1.0, 0)),
            // It takes DDIM whatever scheduler the folder has.
            "DDIMPipeline" => {
                let sampler = Some(Sampler::Ddim { eta: 0.0 });
                Some(Defaults { sampler, ..Defaults::of(50, 1.0, 0) })
            }
            _ => None,
        }
    }

    /// Refuses what a model's `file` says, under keys that begin so.
    pub fn checked(self, file: &Path, key: &str) -> Result<Defaults> {
        require(file, &format!("{key}steps"), self.steps > 0, || {
            "0 steps make no picture; give 1 or more".into()
        })?;
        require_guidance(file, &format!("{key}guidance_scale"), self.guidance_scale)?;
        Ok(self)
    }
}

/// Refuses a guidance scale that makes no sense.
pub(crate) fn require_guidance(file: &Path, key: &str, scale: f64) -> Result<()> {
    require(file, key, (0.0..=MAX_GUIDANCE).contains(&scale), || {
        format!("{scale} is out of range; give 0 to {MAX_GUIDANCE}")
    })
}

/// A sampler by its name in a model's file.
pub(super) fn sampler(path: &Path, name: Option<&str>, eta: Option<f64>) -> Result<Option<Sampler>> {
    let eta = eta.unwrap_or(0.0);
    require(path, "eta", (0.0..=1.0).contains(&eta), || format!("{eta} is out of range; give 0 to 1"))?;
    match name.map(|name| Sampler::named(name, eta)) {
        None => Ok(None),
        Some(Some(sampler)) => Ok(Some(sampler)),
        Some(None) => {
            let what = format!(
                "`{}` is unknown; give one of {}",
                name.unwrap_or_default(),
                Sampler::NAMES.join(", ")
            );
            Err(Error::config(path, "sampler", what))
        }
    }
}
