//! Unguided super-resolution as unCLIP has it (Ramesh et al. 2022, arXiv:2204.06125, section 2.1): a network that sees the
//! enlarged picture beside the sample and reads no text. One network takes all steps, or one takes all but the last, and
//! another that one: Karlo's 64 → 256. The last stage of unCLIP's and Imagen's cascades, 256 → 1024, is a folder of our own
//! layout, which enlarges any picture by itself, too.

use super::run::{Alone, Line};
use super::stage::{Network, Stage, name_upscalers};
use super::system::{Condition, System};
use crate::catalog::{Defaults, UpsamplerFiles, read_upsampler};
use crate::device::Weights;
use crate::diffusion::SchedulerConfig;
use crate::error::Result;
use crate::kernels::hand_over::HandOver;
use crate::models::check::require;
use crate::models::network::DenoisingNetwork;
use crate::models::unet2d::Config;
use crate::settings::Settings;
use crate::weights::{Checkpoint, read_json};
use std::path::Path;

/// Reads a `UNet2DModel`'s folder and checks every tensor.
fn load_network(folder: &Path, scheduler: &SchedulerConfig, variant: Option<&str>) -> Result<Network> {
    let path = folder.join("config.json");
    let unet: Config = read_json(&path)?;
    unet.validate(&path)?;
    require(&path, "in_channels", unet.enlarges(), || {
        format!("{} channels; a super-resolution network takes 6", unet.in_channels)
    })?;
    scheduler.fits(&path, unet.sample_channels(), unet.out_channels)?;
    let checkpoint = Checkpoint::open(folder, "diffusion_pytorch_model", variant)?;
    checkpoint.check(unet.smallest().weights(), |_| false)?;
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    Ok(Network::new(name, unet, Weights::new(checkpoint)))
}

/// A stage of such networks. It is led by the small picture, in which all that is kept of a picture is to be seen.
fn stage(
    networks: Vec<Network>,
    scheduler: SchedulerConfig,
    defaults: Defaults,
    scale: Option<usize>,
) -> Stage {
    Stage {
        name: "upscaler".into(),
        networks,
        scheduler,
        defaults,
        tokens: 0,
        classifier_free: false,
        timestep_scale: 1.0,
        keeps_estimate: true,
        handover: HandOver::Clamped,
        scale,
    }
}

/// Reads an upsampler's folder: `model_index.json` (`ancestral.Upsampler`), `config.json` and
/// `diffusion_pytorch_model.*` of a `UNet2DModel` that takes 6 channels, `scheduler/scheduler_config.json`.
///
/// Errors: files that are absent, broken, or of another network.
pub fn load_stage(folder: &Path, variant: Option<&str>) -> Result<Stage> {
    load(&read_upsampler(folder)?, variant)
}

fn load(files: &UpsamplerFiles, variant: Option<&str>) -> Result<Stage> {
    let scheduler = SchedulerConfig::read(&files.folder.join("scheduler/scheduler_config.json"))?;
    let network = load_network(&files.folder, &scheduler, variant)?;
    Ok(stage(vec![network], scheduler, files.defaults.clone(), Some(files.scale)))
}

/// Reads several, and how many of them usually run.
pub(crate) fn load_all(files: &[UpsamplerFiles], variant: Option<&str>) -> Result<(Vec<Stage>, usize)> {
    let usual = files.iter().take_while(|files| !files.optional).count();
    Ok((files.iter().map(|files| load(files, variant)).collect::<Result<_>>()?, usual))
}

/// Reads Karlo's super-resolution out of a pipeline's folder: `super_res_first`, unless it takes all steps
/// `super_res_last`, and `super_res_scheduler`.
///
/// Errors: files that are absent, broken, or of another network.
pub fn load_karlo(folder: &Path, one_for_all_steps: bool, variant: Option<&str>) -> Result<Stage> {
    load_karlo_with(folder, one_for_all_steps, variant, Defaults::of(7, 1.0, 0))
}

pub(crate) fn load_karlo_with(
    folder: &Path,
    one_for_all_steps: bool,
    variant: Option<&str>,
    defaults: Defaults,
) -> Result<Stage> {
    let scheduler = SchedulerConfig::read(&folder.join("super_res_scheduler/scheduler_config.json"))?;
    let parts = ["super_res_first", "super_res_last"].into_iter().take(if one_for_all_steps { 1 } else { 2 });
    let networks = parts.map(|part| load_network(&folder.join(part), &scheduler, variant));
    Ok(stage(networks.collect::<Result<_>>()?, scheduler, defaults, None))
}

/// Upsamplers alone.
pub(crate) struct Upsamplers {
    stages: Vec<Stage>,
    usual: usize,
}

impl Upsamplers {
    /// Reads their folders.
    pub fn load(files: &[UpsamplerFiles], variant: Option<&str>) -> Result<Self> {
        let (mut stages, usual) = load_all(files, variant)?;
        name_upscalers(&mut stages);
        Ok(Upsamplers { stages, usual })
    }
}

impl System for Upsamplers {
    fn stages(&self) -> &[Stage] {
        &self.stages
    }

    fn condition(&self) -> Condition {
        Condition::Nothing
    }

    fn line(&self, _: &Settings) -> Result<Line> {
        // The size the first one was trained for, over its scale.
        let first = &self.stages[0];
        let side = (first.network().sides().side / first.scale.unwrap_or(1)).max(1);
        let alone = Some(Alone { side, any: true });
        Ok(Line { usual: self.usual, alone, ..Line::all((0..self.stages.len()).collect()) })
    }
}
