//! Guided diffusion, ADM (Dhariwal & Nichol 2021, arXiv:2105.05233): U-Nets with or without classes, a noisy classifier
//! that steers them, and upsamplers, from OpenAI's files; improved diffusion (Nichol & Dhariwal 2021,
//! arXiv:2102.09672) is the same with other flags.

use super::denoiser::Denoiser;
use super::guidance::{GraphGuidance, MEMORY_BUDGET, Scalar, score_graph};
use super::run::{Alone, Line, Run, StageRun};
use super::stage::{At, Network, Stage, name_upscalers};
use super::system::{Condition, Conditioner, System};
use crate::catalog::{AdmFile, AdmFiles, Defaults};
use crate::device::{Device, Weights};
use crate::diffusion::{BetaSchedule, PredictionType, SchedulerConfig, VarianceType};
use crate::error::{Error, Result, request};
use crate::graph::{Graph, Storage};
use crate::kernels::hand_over::HandOver;
use crate::kernels::pick::pick;
use crate::kernels::softmax::log_softmax;
use crate::models::adm::flags::{Flags, Origin, Overrides, find};
use crate::models::adm::{self, NoiseSchedule, classifier, detect};
use crate::picture::ByteRounding;
use crate::settings::guidance::Guide;
use crate::settings::{Settings, Source};
use crate::weights::Checkpoint;
use std::path::Path;
use std::sync::{Arc, OnceLock};

/// Opens a checkpoint, finds out its flags and checks every tensor against them.
pub(super) fn load_network<F: Flags>(
    weights: &Path,
    file: (Option<&Path>, &str),
    overrides: &Overrides,
) -> Result<(F, Origin, Arc<Weights>)> {
    let checkpoint = Checkpoint::open_file(weights)?;
    let (flags, origin) = find::<F>(weights, &detect::shapes(&checkpoint), file, overrides)?;
    checkpoint.check(flags.graph().weights(), |_| false)?;
    Ok((flags, origin, Arc::new(Weights::new(checkpoint))))
}

/// Reads a checkpoint, `.pt` or safetensors. `file` is a JSON file of flags and its section, if there is one. With
/// `rescale_timesteps` the network is told the time in thousandths of its training.
///
/// Errors: a broken file, tensors of another network, flags that do not fit them.
pub fn load_stage(
    weights: &Path,
    file: (Option<&Path>, &str),
    overrides: &Overrides,
) -> Result<(Stage, adm::Config, Origin)> {
    let (unet, origin, weights) = load_network::<adm::Config>(weights, file, overrides)?;
    let network = Network::new("unet", unet.clone(), weights);
    let mut stage = Stage::new("base", network, scheduler(&unet), Defaults::of(250, 1.0, 0));
    if unet.rescale_timesteps {
        stage.timestep_scale = 1000.0 / unet.diffusion_steps as f64;
    }
    stage.handover = HandOver::Bytes;
    Ok((stage, unet, origin))
}

/// The process that the flags describe.
pub fn scheduler(unet: &adm::Config) -> SchedulerConfig {
    let betas = match unet.noise_schedule {
        NoiseSchedule::Linear => BetaSchedule::openai_linear(unet.diffusion_steps),
        NoiseSchedule::Cosine => BetaSchedule::SquaredCosCapV2,
    };
    let variance = match (unet.learn_sigma, unet.sigma_small) {
        (true, _) => VarianceType::LearnedRange,
        (false, true) => VarianceType::FixedSmall,
        (false, false) => VarianceType::FixedLarge,
    };
    let mut scheduler = SchedulerConfig::openai(betas, unet.diffusion_steps, variance);
    if unet.predict_xstart {
        scheduler.prediction_type = PredictionType::Sample;
    }
    scheduler
}

/// A classifier of noisy pictures.
pub struct Classifier {
    /// The network's flags.
    pub config: classifier::Config,
    /// Where they come from.
    pub origin: Origin,
    weights: Arc<Weights>,
}

impl Classifier {
    /// Reads a checkpoint; see [`load_stage`].
    pub fn load(weights: &Path, file: (Option<&Path>, &str), overrides: &Overrides) -> Result<Self> {
        let (config, origin, weights) = load_network::<classifier::Config>(weights, file, overrides)?;
        Ok(Classifier { config, origin, weights })
    }

    /// The weights, for programs a caller makes by itself.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// Its gradient as a guidance; [set](GraphGuidance::set) `class`.
    pub fn guidance(&self, device: &Device) -> GraphGuidance {
        GraphGuidance::new(device, self.weights.clone(), log_probability(&self.config))
    }
}

/// A classifier's log p(class | x_t, t) of every picture; the numbers of the classes are the input `class` `[N]`.
pub fn log_probability(config: &classifier::Config) -> Arc<Scalar> {
    let config = config.clone();
    Arc::new(move |g, x, t| {
        let class = g.input("class", &x.shape[..1], Storage::F32);
        let logits = config.forward(g, x, t);
        let log_p = log_softmax(g, "log_softmax", &logits);
        pick(g, "class", &log_p, &class)
    })
}

/// A base stage, upsamplers after it, and what steers the base.
pub(crate) struct Adm {
    stages: Vec<Stage>,
    unets: Vec<adm::Config>,
    origins: Vec<Origin>,
    classifier: Option<Classifier>,
    /// The classifier's gradient, whose clones share programs.
    guidance: OnceLock<GraphGuidance>,
    names: adm::classes::Classes,
}

impl Adm {
    /// Reads every checkpoint.
    pub fn load(files: &AdmFiles) -> Result<Self> {
        let (mut stages, mut unets, mut origins) = (Vec::new(), Vec::<adm::Config>::new(), Vec::new());
        for (i, file) in files.stages.iter().enumerate() {
            let (mut stage, unet, origin) =
                load_stage(&file.weights, (file.flags.as_deref(), "diffusion"), &file.overrides)?;
            if i > 0 && unet.small_size.is_none() {
                let what = "is no upsampler; only upsamplers may follow the first model";
                return Err(Error::file(&file.weights, what));
            }
            stage.networks[0].name = format!("stage {} unet", i + 1);
            stages.push(Stage { defaults: file.defaults.clone(), ..stage });
            unets.push(unet);
            origins.push(origin);
        }
        let enlarging = usize::from(unets[0].small_size.is_none());
        name_upscalers(stages.iter_mut().skip(enlarging));
        let load = |file: &AdmFile| {
            Classifier::load(&file.weights, (file.flags.as_deref(), "classifier"), &file.overrides)
        };
        let classifier = files.classifier.as_ref().map(load).transpose()?;
        let count = unets.iter().find_map(adm::Config::classes);
        if let (Some(classifier), Some(file)) = (&classifier, &files.classifier) {
            let (found, side) = (classifier.config.num_classes, unets[0].image_size);
            if count.is_some_and(|count| count != found) {
                let what = format!("tells {found} classes apart, the U-Net {}", count.unwrap_or_default());
                return Err(Error::file(&file.weights, what));
            }
            if classifier.config.image_size != side {
                let of = classifier.config.image_size;
                let what = format!("is for pictures of {of}x{of} pixels, the U-Net for {side}x{side}");
                return Err(Error::file(&file.weights, what));
            }
        }
        let count = count.or(classifier.as_ref().map(|c| c.config.num_classes)).unwrap_or(0);
        let names = adm::classes::Classes::new(files.names.clone(), count)?;
        Ok(Adm { stages, unets, origins, classifier, guidance: OnceLock::new(), names })
    }

    /// The number of every picture's class, where the caller says one.
    fn classes(&self, run: &Run, settings: &Settings) -> Result<Option<Vec<f32>>> {
        // A prompt names a class where there are classes; elsewhere nothing reads it.
        let unsaid =
            !matches!(settings.source, Source::Classes(_)) && run.prompts.iter().all(String::is_empty);
        if unsaid || self.names.is_empty() {
            return Ok(None);
        }
        let numbers = run.prompts.iter().map(|name| Ok(self.names.number(name)? as f32));
        let numbers = numbers.collect::<Result<Vec<f32>>>()?;
        Ok(Some(if numbers.len() == 1 { numbers.repeat(run.pictures) } else { numbers }))
    }

    /// How strongly the classifier steers a stage, if it does.
    fn scale(&self, run: &Run, stage: &StageRun, settings: &Settings) -> Result<f64> {
        let steers = stage.first && self.classifier.is_some() && self.classes(run, settings)?.is_some();
        Ok(if steers { stage.guidance_scale } else { 0.0 })
    }
}

impl System for Adm {
    fn stages(&self) -> &[Stage] {
        &self.stages
    }

    fn condition(&self) -> Condition {
        if self.names.is_empty() { Condition::Nothing } else { Condition::Class }
    }

    fn notes(&self) -> Vec<String> {
        let stages = self.origins.iter().enumerate();
        let mut notes: Vec<String> = stages.map(|(i, origin)| format!("stage {}: {origin}", i + 1)).collect();
        notes.extend(self.classifier.iter().map(|c| format!("classifier: {}", c.origin)));
        notes
    }

    /// Bytes are made as OpenAI's scripts make them.
    fn byte_rounding(&self) -> ByteRounding {
        ByteRounding::Down
    }

    fn line(&self, _: &Settings) -> Result<Line> {
        let alone = self.unets[0].small_size.map(|side| Alone { side, any: false });
        Ok(Line { alone, ..Line::all((0..self.stages.len()).collect()) })
    }

    fn check(&self, run: &Run, settings: &Settings) -> Result<()> {
        for pair in self.unets[..run.count].windows(2) {
            if pair[1].small_size != Some(pair[0].image_size) {
                return Err(request!(
                    Model,
                    Mismatch,
                    "the upsampler enlarges pictures of {} pixels a side; the stage before makes {}",
                    pair[1].small_size.unwrap_or_default(),
                    pair[0].image_size
                ));
            }
        }
        let told = run.stages.iter().any(|stage| stage.stage.is_some_and(|i| self.unets[i].class_cond));
        if self.classes(run, settings)?.is_none() && told {
            return Err(request!(Classes, Missing, "this model draws a class: {}", self.names.examples()));
        }
        // The classifier's own size is all that its pooling takes.
        let Some(first) = run.stages.first() else { return Ok(()) };
        match &self.classifier {
            Some(c) if self.scale(run, first, settings)? != 0.0 && c.config.fixed_size() => {
                let (side, (width, height)) = (c.config.image_size, first.size());
                if (width, height) == (side, side) {
                    return Ok(());
                }
                Err(request!(
                    Size,
                    Mismatch,
                    "{width}x{height} pixels: the classifier takes {side}x{side}, and steers at any guidance scale but 0"
                ))
            }
            _ => Ok(()),
        }
    }

    fn begin<'a>(
        &'a self,
        at: At<'a>,
        run: &'a Run,
        settings: &'a Settings,
    ) -> Result<Box<dyn Conditioner + 'a>> {
        let numbers = self.classes(run, settings)?.unwrap_or_default();
        let scale = run.stages.first().map_or(Ok(0.0), |first| self.scale(run, first, settings))?;
        let guidance = self.classifier.as_ref().filter(|_| scale != 0.0).map(|classifier| {
            let mut guidance = self.guidance.get_or_init(|| classifier.guidance(at.device)).clone();
            guidance.set("class", numbers.clone());
            Guide::new(scale, guidance)
        });
        Ok(Box::new(Classed { numbers, guidance }))
    }

    fn own_guides(
        &self,
        run: &Run,
        stage: &StageRun,
        settings: &Settings,
    ) -> Result<Vec<(String, usize, Graph)>> {
        match &self.classifier {
            Some(classifier) if self.scale(run, stage, settings)? != 0.0 => {
                let scalar = log_probability(&classifier.config);
                let graph = score_graph(stage.shape.sample(), &*scalar, MEMORY_BUDGET)?;
                Ok(vec![("classifier's gradient".into(), stage.moves(), graph)])
            }
            _ => Ok(Vec::new()),
        }
    }

    fn other_networks(&self) -> Vec<(String, Graph, &Weights)> {
        self.classifier.iter().map(|c| ("classifier".into(), c.config.graph(), c.weights())).collect()
    }
}

/// A run's classes, and what the classifier says of them.
struct Classed {
    numbers: Vec<f32>,
    guidance: Option<Guide>,
}

impl Conditioner for Classed {
    fn condition(&mut self, _: &StageRun, denoiser: &mut Denoiser) -> Result<()> {
        if denoiser.takes("y") {
            denoiser.write("y", &self.numbers);
        }
        Ok(())
    }

    fn guide(&mut self, stage: &StageRun) -> Option<Guide> {
        self.guidance.take_if(|_| stage.first)
    }
}
