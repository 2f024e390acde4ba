//! What a scheduler class of diffusers is read with, besides its sampler.

use crate::diffusion::json::Json;
use crate::diffusion::process::Thresholding;
use crate::diffusion::schedule::Spacing;
use crate::error::Result;

/// A scheduler class of diffusers: what its JSON says.
pub struct Class {
    /// `_class_name`.
    pub name: &'static str,
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
    pub const SOLVER: Class = Class {
        name: "",
        clip: |_| Ok(Thresholding::None),
        spacing: Spacing::Linspace,
        betas: (0.0001, 0.02),
        rescales: true,
        exp: false,
    };
}
