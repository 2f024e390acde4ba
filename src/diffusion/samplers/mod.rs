//! The samplers, a file each. To add one: a file with what it reads of a scheduler's JSON and how it steps, and its name
//! here.

mod chain;
mod class;
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

pub use class::Class;
pub use deis::Deis;
pub use dpm_solver::{Algorithm, DpmSolver, SolverType};
pub use euler::{Euler, Interpolation};
pub use heun::Heun;
pub use levels::{LastSigma, Sigmas, Spread};
pub use pndm::Pndm;
pub use unipc::{BFunction, UniPc};

use super::json::Json;
use super::process::Process;
use super::step::Step;
use super::timesteps::Timesteps;
use crate::error::Result;
use serde::{Deserialize, Serialize};
use solver::Asked;

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

    /// Every call of the network from step `first` on, in a run that begins there; `own`: the process' file names this
    /// sampler.
    pub(super) fn steps(
        &self,
        process: &Process,
        own: bool,
        timesteps: &Timesteps,
        first: usize,
    ) -> Result<Vec<Step>> {
        let run = Asked { process, own, name: self.name(), timesteps, first };
        match self {
            Sampler::Ddpm => chain::steps(process, &ddpm::Ddpm, timesteps, first),
            Sampler::Ddim { eta } => chain::steps(process, &ddim::Ddim { eta: *eta }, timesteps, first),
            Sampler::UnClip => chain::steps(process, &ddpm::UnClip, timesteps, first),
            Sampler::DpmSolver(method) => run.steps(method),
            Sampler::UniPc(method) => run.steps(method),
            Sampler::Deis(method) => run.steps(method),
            Sampler::Heun(method) => run.steps(method),
            Sampler::Euler(method) => run.steps(method),
            Sampler::EulerAncestral => run.steps(&euler::EulerAncestral),
            Sampler::Pndm(method) => method.steps(&run),
        }
    }
}

/// Reads a sampler's settings of a class.
pub(super) type ReadSampler = fn(&Json<'_>) -> Result<Sampler>;

/// The diffusers schedulers that are read, and what of them is the sampler.
pub(super) static CLASSES: &[(&Class, ReadSampler)] = &[
    (&ddpm::CLASS, |_| Ok(Sampler::Ddpm)),
    (&ddim::CLASS, |_| Ok(Sampler::Ddim { eta: 0.0 })),
    (&ddpm::UNCLIP, |_| Ok(Sampler::UnClip)),
    (&dpm_solver::CLASS, |json| dpm_solver::read(json).map(Sampler::DpmSolver)),
    (&unipc::CLASS, |json| unipc::read(json).map(Sampler::UniPc)),
    (&deis::CLASS, |json| deis::read(json).map(Sampler::Deis)),
    (&pndm::CLASS, |json| pndm::read(json).map(Sampler::Pndm)),
    (&heun::CLASS, |json| heun::read(json).map(Sampler::Heun)),
    (&euler::CLASS, |json| euler::read(json).map(Sampler::Euler)),
    (&euler::ANCESTRAL, |_| Ok(Sampler::EulerAncestral)),
];
