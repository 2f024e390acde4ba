//! The samplers, a file each. To add one: a file with what it reads of a scheduler's JSON and how it steps, and its name
//! here.

mod chain;
mod ddim;
mod ddpm;
mod deis;
mod dpm_solver;
mod euler;
mod heun;
mod levels;
mod pndm;
mod rule;
mod solver;
#[cfg(test)]
mod tests;
mod unipc;

pub use deis::Deis;
pub use dpm_solver::{Algorithm, DpmSolver, SolverType};
pub use euler::{Euler, Interpolation};
pub use heun::Heun;
pub use levels::{LastSigma, Sigmas, Spread};
pub use pndm::Pndm;
pub use unipc::{BFunction, UniPc};

use super::config::{SchedulerConfig, Timesteps};
use super::json::Json;
use super::process::Thresholding;
use super::schedule::Spacing;
use super::step::Step;
use crate::error::Result;
use serde::{Deserialize, Serialize};

/// How the next sample follows from this one and what the network says of it.
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
    /// DPM-Solver and DPM-Solver++, multistep (Lu et al. 2022, arXiv:2206.00927, arXiv:2211.01095).
    DpmSolver(DpmSolver),
    /// UniPC (Zhao et al. 2023, arXiv:2302.04867).
    UniPc(UniPc),
    /// DEIS (Zhang & Chen 2022, arXiv:2204.13902).
    Deis(Deis),
    /// PNDM and PLMS (Liu et al. 2022, arXiv:2202.09778).
    Pndm(Pndm),
    /// Heun's method (Karras et al. 2022, arXiv:2206.00364, algorithm 1): two calls of the network a step.
    Heun(Heun),
    /// Euler's method (the same).
    Euler(Euler),
    /// Euler's method with noise added, as k-diffusion has it.
    EulerAncestral,
}

impl Sampler {
    /// What models' files and commands call the samplers that a caller may choose.
    pub const NAMES: &'static [&'static str] = &[
        "ddpm",
        "ddim",
        "dpmsolver++",
        "sde-dpmsolver++",
        "unipc",
        "deis",
        "pndm",
        "plms",
        "heun",
        "euler",
        "euler-ancestral",
    ];

    /// The sampler of a name with its usual settings, DDIM with this η.
    pub fn named(name: &str, eta: f64) -> Option<Sampler> {
        Some(match name {
            "ddpm" => Sampler::Ddpm,
            "ddim" => Sampler::Ddim { eta },
            "dpmsolver++" => Sampler::DpmSolver(DpmSolver::default()),
            "sde-dpmsolver++" => {
                Sampler::DpmSolver(DpmSolver { algorithm: Algorithm::SdePlusPlus, ..DpmSolver::default() })
            }
            "unipc" => Sampler::UniPc(UniPc::default()),
            "deis" => Sampler::Deis(Deis::default()),
            "pndm" => Sampler::Pndm(Pndm::default()),
            "plms" => Sampler::Pndm(Pndm { skip_prk_steps: true, ..Pndm::default() }),
            "heun" => Sampler::Heun(Heun::default()),
            "euler" => Sampler::Euler(Euler::default()),
            "euler-ancestral" => Sampler::EulerAncestral,
            _ => return None,
        })
    }

    /// What it is called; UnCLIP's own DDPM by that name.
    pub fn name(&self) -> &'static str {
        match self {
            Sampler::Ddpm | Sampler::UnClip => "ddpm",
            Sampler::Ddim { .. } => "ddim",
            Sampler::DpmSolver(solver) => solver.algorithm.name(),
            Sampler::UniPc(_) => "unipc",
            Sampler::Deis(_) => "deis",
            Sampler::Pndm(Pndm { skip_prk_steps: false, .. }) => "pndm",
            Sampler::Pndm(_) => "plms",
            Sampler::Heun(_) => "heun",
            Sampler::Euler(_) => "euler",
            Sampler::EulerAncestral => "euler-ancestral",
        }
    }

    /// It solves an equation in steps of its own, and takes nothing of the trained chain but ᾱ.
    pub(super) fn is_solver(&self) -> bool {
        !matches!(self, Sampler::Ddpm | Sampler::Ddim { .. } | Sampler::UnClip)
    }

    /// Every call of the network from step `first` on, in a run that begins there.
    pub(super) fn steps(
        &self,
        config: &SchedulerConfig,
        timesteps: &Timesteps,
        first: usize,
    ) -> Result<Vec<Step>> {
        match self {
            Sampler::Ddpm => chain::steps(config, &ddpm::Ddpm, timesteps, first),
            Sampler::Ddim { eta } => chain::steps(config, &ddim::Ddim { eta: *eta }, timesteps, first),
            Sampler::UnClip => chain::steps(config, &ddpm::UnClip, timesteps, first),
            Sampler::DpmSolver(method) => solver::steps(config, self, method, timesteps, first),
            Sampler::UniPc(method) => solver::steps(config, self, method, timesteps, first),
            Sampler::Deis(method) => solver::steps(config, self, method, timesteps, first),
            Sampler::Heun(method) => solver::steps(config, self, method, timesteps, first),
            Sampler::Euler(method) => solver::steps(config, self, method, timesteps, first),
            Sampler::EulerAncestral => solver::steps(config, self, &euler::EulerAncestral, timesteps, first),
            Sampler::Pndm(method) => method.steps(config, self, timesteps, first),
        }
    }
}

/// A scheduler class of diffusers: what its JSON says.
pub struct Class {
    /// `_class_name`.
    pub name: &'static str,
    /// The sampler with its settings.
    pub sampler: fn(&Json<'_>) -> Result<Sampler>,
    /// What happens to x̂0.
    pub clip: fn(&Json<'_>) -> Result<Thresholding>,
    /// `timestep_spacing` where the file does not say; fractional: it has no such key.
    pub spacing: Spacing,
    /// `beta_start` and `beta_end` where the file does not say.
    pub betas: (f64, f64),
    /// It has the key `rescale_betas_zero_snr`.
    pub rescales: bool,
    /// It knows the β schedule `exp`.
    pub exp: bool,
}

impl Class {
    /// What most solvers have.
    const SOLVER: Class = Class {
        name: "",
        sampler: |_| Ok(Sampler::EulerAncestral),
        clip: |_| Ok(Thresholding::None),
        spacing: Spacing::Linspace,
        betas: (0.0001, 0.02),
        rescales: true,
        exp: false,
    };
}

/// The diffusers schedulers that are read.
pub(super) static CLASSES: &[&Class] = &[
    &ddpm::CLASS,
    &ddim::CLASS,
    &ddpm::UNCLIP,
    &dpm_solver::CLASS,
    &unipc::CLASS,
    &deis::CLASS,
    &pndm::CLASS,
    &heun::CLASS,
    &euler::CLASS,
    &euler::ANCESTRAL,
];
