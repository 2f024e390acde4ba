//! DDPM: an unconditional U-Net and its scheduler, from the diffusers folders (files in subfolders, or all at the
//! root as in the oldest ones).

use super::run::Line;
use super::stage::{Network, Stage};
use super::system::{Condition, System};
use crate::catalog::Defaults;
use crate::device::Weights;
use crate::diffusion::SchedulerConfig;
use crate::error::Result;
use crate::models::check::require;
use crate::models::network::DenoisingNetwork;
use crate::models::unet2d::Config;
use crate::settings::Settings;
use crate::weights::{Checkpoint, ddpm_attention_name, read_json};
use std::path::{Path, PathBuf};

/// Reads the configs and checks every tensor of the checkpoint against them.
///
/// Errors: files that are absent, broken, or of another network.
pub fn load_stage(folder: &Path) -> Result<Stage> {
    let part = |name: &str| -> PathBuf {
        let sub = folder.join(name);
        if sub.is_dir() { sub } else { folder.to_path_buf() }
    };
    load_parts(&part("unet"), &part("scheduler").join("scheduler_config.json"), Defaults::of(1000, 1.0, 0))
}

/// The network's folder and the scheduler's file by themselves.
pub(crate) fn load_parts(unet_folder: &Path, scheduler: &Path, defaults: Defaults) -> Result<Stage> {
    let path = unet_folder.join("config.json");
    let unet: Config = read_json(&path)?;
    unet.validate(&path)?;
    let mut checkpoint = Checkpoint::open(unet_folder, "diffusion_pytorch_model", None)?;
    checkpoint.rename(ddpm_attention_name)?;
    require(&path, "in_channels", !unet.enlarges(), || {
        "6 channels: this network enlarges a picture; a DDPM has 3 or 1".into()
    })?;
    checkpoint.check(unet.smallest().weights(), |_| false)?;
    let scheduler = SchedulerConfig::read(scheduler)?;
    scheduler.fits(&path, unet.in_channels, unet.out_channels)?;
    let network = Network::new("unet", unet, Weights::new(checkpoint));
    Ok(Stage::new("base", network, scheduler, defaults))
}

/// A stage that follows nothing but its seed.
pub(crate) struct Ddpm([Stage; 1]);

impl Ddpm {
    /// Reads a folder.
    pub fn load(folder: &Path, defaults: Defaults) -> Result<Self> {
        Ok(Ddpm([Stage { defaults, ..load_stage(folder)? }]))
    }
}

impl System for Ddpm {
    fn stages(&self) -> &[Stage] {
        &self.0
    }

    fn condition(&self) -> Condition {
        Condition::Nothing
    }

    fn line(&self, _: &Settings) -> Result<Line> {
        Ok(Line::all(vec![0]))
    }
}
