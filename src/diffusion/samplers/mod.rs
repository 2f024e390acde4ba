//! The samplers, a file each. To add one: a file with its `Method`, and its name here.

mod ddim;
mod ddpm;
mod rule;

use rule::Method;
pub(super) use rule::Point;

use serde::{Deserialize, Serialize};

/// How x_{t−1} is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum Sampler {
    /// Ancestral (Ho et al. 2020), over whatever timesteps are chosen.
    Ddpm,
    /// Song et al. 2020 (arXiv:2010.02502).
    Ddim {
        /// 0 deterministic, 1 as random as DDPM.
        eta: f64,
    },
    /// DDPM as Karlo's UnCLIPScheduler has it: the last step's predecessor is t − 1.
    UnClip,
}

impl Sampler {
    /// What models' files and commands call the samplers that a caller may choose.
    pub const NAMES: &'static [&'static str] = &["ddpm", "ddim"];

    /// The diffusers schedulers that name them.
    pub(super) const CLASSES: &'static [(&'static str, Sampler)] = &[
        ("DDPMScheduler", Sampler::Ddpm),
        ("DDIMScheduler", Sampler::Ddim { eta: 0.0 }),
        ("UnCLIPScheduler", Sampler::UnClip),
    ];

    /// The sampler of a name, DDIM with this η.
    pub fn named(name: &str, eta: f64) -> Option<Sampler> {
        match name {
            "ddpm" => Some(Sampler::Ddpm),
            "ddim" => Some(Sampler::Ddim { eta }),
            _ => None,
        }
    }

    /// How it steps.
    pub(super) fn method(self) -> Box<dyn Method> {
        match self {
            Sampler::Ddpm => Box::new(ddpm::Ddpm),
            Sampler::Ddim { eta } => Box::new(ddim::Ddim { eta }),
            Sampler::UnClip => Box::new(ddpm::UnClip),
        }
    }
}
