//! Imagen (Saharia et al. 2022, arXiv:2205.11487): a frozen T5 encoder, a base stage and super-resolution stages, from
//! DeepFloyd IF's diffusers folders.

use super::cost::{NetworkCost, Target};
use super::denoiser::Denoiser;
use super::run::{Line, Run, StageRun};
use super::stage::{At, Network, Stage, name_upscalers};
use super::system::{Abilities, Condition, Conditioner, System};
use super::text::{Halves, MAX_TOKENS, Remembered, T5Text, Texts, t5_caption};
use super::upsampler;
use crate::catalog::{Defaults, ImagenFiles};
use crate::device::Weights;
use crate::diffusion::{SchedulerConfig, add_noise};
use crate::error::{Error, Result};
use crate::models::check::require;
use crate::models::network::DenoisingNetwork;
use crate::models::text_unet::TextUNet;
use crate::models::unet;
use crate::settings::{PromptEmbeds, Settings};
use crate::weights::{Checkpoint, read_json};
use std::path::Path;

/// Reads `unet/`, `scheduler/` and, of a stage that enlarges, `image_noising_scheduler/` of a pipeline's folder, and
/// checks every tensor. A stage that enlarges noises its pictures by `noise_level`.
///
/// Errors: files that are absent, broken, or of another network; a noise level the stage was not trained with.
pub fn load_stage(folder: &Path, variant: Option<&str>, noise_level: usize) -> Result<Stage> {
    load(folder, variant, &Defaults::of(50, 1.0, noise_level)).map(|(stage, _)| stage)
}

/// [`load_stage`] with settings of its own; and the channels of the text it reads.
fn load(folder: &Path, variant: Option<&str>, defaults: &Defaults) -> Result<(Stage, usize)> {
    let unet_folder = folder.join("unet");
    let path = unet_folder.join("config.json");
    let unet: unet::Config = read_json(&path)?;
    unet.validate(&path)?;
    require(&path, "class_embed_type", !unet.takes_embedding(), || {
        "`identity` is of unCLIP's decoder; a stage of IF has `timestep` or none".into()
    })?;
    let checkpoint = Checkpoint::open(&unet_folder, "diffusion_pytorch_model", variant)?;
    let mut network = TextUNet::new(unet);
    checkpoint.check(network.smallest().weights(), |_| false)?;
    let scheduler = SchedulerConfig::read(&folder.join("scheduler/scheduler_config.json"))?;
    scheduler.fits(&path, 3, network.unet.out_channels)?;
    if network.enlarges() {
        let noising = folder.join("image_noising_scheduler/scheduler_config.json");
        let noising = if noising.exists() { SchedulerConfig::read(&noising)? } else { scheduler.clone() };
        network.augmentation = add_noise(&noising, defaults.noise_level)?;
    }
    let channels = network.unet.context_channels();
    let network = Network::new("unet", network, Weights::new(checkpoint));
    let stage = Stage::new("base", network, scheduler, defaults.clone());
    Ok((Stage { tokens: MAX_TOKENS, classifier_free: true, ..stage }, channels))
}

/// A cascade with its text encoder.
pub(crate) struct Imagen {
    text: T5Text,
    remembered: Remembered,
    /// Those that read the prompt, then those that only enlarge.
    stages: Vec<Stage>,
    /// So many run unless more are asked for.
    usual: usize,
}

impl Imagen {
    /// Reads every stage's folder; the text encoder is the first one's.
    pub fn load(files: &ImagenFiles, variant: Option<&str>) -> Result<Self> {
        let (upsamplers, usual) = upsampler::load_all(&files.upsamplers, variant)?;
        let files = &files.stages;
        let text = T5Text::load(&files[0].folder, variant)?;
        let mut stages: Vec<Stage> = Vec::new();
        for file in files {
            let (mut stage, wants) = load(&file.folder, variant, &file.defaults)?;
            let is = match (stages.is_empty(), stage.network().enlarges()) {
                (true, true) => {
                    Some("is a super-resolution stage, which enlarges a picture; a base stage goes before it")
                }
                (false, false) => Some("is a base stage; only super-resolution stages may follow the first"),
                _ => None,
            };
            if let Some(what) = is {
                return Err(Error::file(&file.folder, what));
            }
            let has = text.config.d_model;
            if wants != has {
                let what = format!("wants text states of {wants} channels, the text encoder makes {has}");
                return Err(Error::config(file.folder.join("unet/config.json"), "encoder_hid_dim", what));
            }
            stage.networks[0].name = format!("stage {} unet", stages.len() + 1);
            stages.push(stage);
        }
        let usual = stages.len() + usual;
        stages.extend(upsamplers);
        name_upscalers(stages.iter_mut().skip(1));
        Ok(Imagen { text, remembered: Remembered::default(), stages, usual })
    }

    fn reads(&self, stage: &StageRun) -> bool {
        stage.stage.is_some_and(|i| self.stages[i].tokens > 0)
    }
}

impl System for Imagen {
    fn stages(&self) -> &[Stage] {
        &self.stages
    }

    fn condition(&self) -> Condition {
        Condition::Prompt
    }

    fn abilities(&self) -> Abilities {
        Abilities { takes_embeds: true, ..Abilities::default() }
    }

    fn line(&self, _: &Settings) -> Result<Line> {
        Ok(Line { usual: self.usual, ..Line::all((0..self.stages.len()).collect()) })
    }

    fn begin<'a>(
        &'a self,
        at: At<'a>,
        run: &'a Run,
        settings: &'a Settings,
    ) -> Result<Box<dyn Conditioner + 'a>> {
        if !run.stages.iter().any(|stage| self.reads(stage)) {
            return Ok(Box::new(Prompted(None)));
        }
        let texts = Texts::of(run, settings, |text| t5_caption(text, settings.clean_caption));
        let sizes = (MAX_TOKENS, self.text.config.d_model);
        let halves = texts.states(settings, &self.remembered, sizes, |texts| self.text.encode(at, texts))?;
        Ok(Box::new(Prompted(Some(halves))))
    }

    fn encode(&self, at: At<'_>, prompts: &[&str], clean: bool) -> Result<Vec<PromptEmbeds>> {
        let texts: Vec<String> = prompts.iter().map(|text| t5_caption(text, clean)).collect();
        self.remembered.states(&texts, |texts| self.text.encode(at, texts))
    }

    fn text_weights(&self) -> Option<&Weights> {
        Some(self.text.weights())
    }

    fn costs_before(&self, run: &Run, i: usize, settings: &Settings, on: &Target) -> Vec<NetworkCost> {
        let texts = Texts::of(run, settings, |text| t5_caption(text, settings.clean_caption)).count();
        let first = i == 0 && self.reads(&run.stages[i]) && texts > 0;
        first.then(|| NetworkCost::of_text(T5Text::graph(&self.text.config, texts), on)).into_iter().collect()
    }
}

/// The states of a run's prompts, where any stage reads them.
struct Prompted(Option<Halves>);

impl Conditioner for Prompted {
    fn condition(&mut self, stage: &StageRun, denoiser: &mut Denoiser) -> Result<()> {
        if let Some(halves) = self.0.as_ref().filter(|_| denoiser.takes("context")) {
            denoiser.write("context", &halves.of(stage.shape, |embeds| &embeds.states));
        }
        Ok(())
    }
}
