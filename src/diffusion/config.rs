//! What a checkpoint's `scheduler_config.json` says (diffusers), or an OpenAI command line.

use std::ops::{Deref, DerefMut};
use std::path::Path;

use serde_json::Value;

use super::json::Json;
use super::process::{PredictionType, Process, Thresholding, VarianceType};
use super::samplers::{CLASSES, Class, ReadSampler, Sampler};
use super::schedule::{Arithmetic, BetaSchedule, Spacing, space_timesteps};
use super::timesteps::Timesteps;
use crate::error::{Error, Result};
use crate::files::read_json;

/// More training timesteps than any model has; a file that claims more is broken.
const MOST_TIMESTEPS: u64 = 1_000_000;

/// A trained process and how it is sampled.
#[derive(Debug, Clone, PartialEq)]
pub struct SchedulerConfig {
    /// The process, whose members are the config's, too.
    pub process: Process,
    /// The sampler the file names.
    pub sampler: Sampler,
}

impl Deref for SchedulerConfig {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

impl DerefMut for SchedulerConfig {
    fn deref_mut(&mut self) -> &mut Process {
        &mut self.process
    }
}

impl SchedulerConfig {
    /// Reads `scheduler_config.json`. Unknown keys are ignored, as diffusers does.
    ///
    /// Errors: [`Error::File`] when it cannot be read or is no JSON object, [`Error::Config`] naming the key
    /// when a value has the wrong type or is none of those supported.
    pub fn read(path: &Path) -> Result<Self> {
        Self::from_value(path, read_json(path)?)
    }

    /// [`SchedulerConfig::read`] of a text; `path` is for messages.
    pub fn from_json(path: &Path, text: &str) -> Result<Self> {
        Self::from_value(path, serde_json::from_str(text).map_err(|error| Error::file(path, error))?)
    }

    fn from_value(path: &Path, value: Value) -> Result<Self> {
        let Value::Object(map) = value else {
            return Err(Error::file(
                path,
                "expected a JSON object with `_class_name` and the scheduler's settings",
            ));
        };
        let json = Json { path, map: &map };
        let (class, sampler) = class(&json)?;
        let unclip = class.spacing == Spacing::Fractional;
        let num_train_timesteps = json.unsigned("num_train_timesteps", 1000, 1..=MOST_TIMESTEPS)?;
        let process = Process {
            num_train_timesteps,
            beta_schedule: match unclip {
                true => json.cosine()?,
                false => json.beta_schedule(class.betas, class.exp)?,
            },
            rescale_betas_zero_snr: class.rescales && json.boolean("rescale_betas_zero_snr", false)?,
            arithmetic: Arithmetic::Float32,
            prediction_type: json.prediction_type(unclip)?,
            variance_type: json.variance_type(unclip)?,
            clip: (class.clip)(&json)?,
            spacing: if unclip { Spacing::Fractional } else { json.spacing(class.spacing)? },
            spacing_said: !unclip && json.get("timestep_spacing").is_some(),
            steps_offset: json.unsigned("steps_offset", 0, 0..=MOST_TIMESTEPS)?,
            set_alpha_to_one: json.boolean("set_alpha_to_one", true)?,
            rederive_epsilon: false,
            always_draws: false,
        };
        let config = SchedulerConfig { process, sampler: sampler(&json)? };
        // found here, a nonsensical beta is named with its file
        config.schedule().map_err(|error| json.error(json.beta_key(), error))?;
        Ok(config)
    }

    /// Refuses a network without the channels that the variance is read from; `path` is its config's file.
    pub fn fits(&self, path: &Path, in_channels: usize, out_channels: usize) -> Result<()> {
        let learned = matches!(self.variance_type, VarianceType::Learned | VarianceType::LearnedRange);
        if learned && out_channels < 2 * in_channels {
            let what = format!(
                "{out_channels} channels; the scheduler's learned variance needs {}",
                2 * in_channels
            );
            return Err(Error::config(path, "out_channels", what));
        }
        Ok(())
    }

    /// OpenAI's Gaussian diffusion (guided-diffusion, glide-text2im): ε prediction, x̂0 clipped to [−1, 1],
    /// float64. Its timesteps are chosen with [`super::Timesteps::Respaced`].
    pub fn openai(
        beta_schedule: BetaSchedule,
        num_train_timesteps: usize,
        variance_type: VarianceType,
    ) -> Self {
        let process = Process {
            num_train_timesteps,
            beta_schedule,
            rescale_betas_zero_snr: false,
            arithmetic: Arithmetic::Float64,
            prediction_type: PredictionType::Epsilon,
            variance_type,
            clip: Thresholding::Range(1.0),
            spacing: Spacing::Fractional,
            spacing_said: false,
            steps_offset: 0,
            set_alpha_to_one: true,
            rederive_epsilon: true,
            always_draws: true,
        };
        SchedulerConfig { process, sampler: Sampler::Ddpm }
    }

    /// How so many steps are chosen: by [`SchedulerConfig::spacing`], or as OpenAI's loops do, which take a whole stride
    /// for DDIM where one gives exactly that many.
    pub fn timesteps(&self, sampler: &Sampler, count: usize) -> Timesteps {
        if self.arithmetic == Arithmetic::Float32 || sampler.is_solver() {
            return Timesteps::Count(count);
        }
        let stride = format!("ddim{count}");
        let whole = matches!(sampler, Sampler::Ddim { .. })
            && space_timesteps(self.num_train_timesteps, &stride).is_ok();
        Timesteps::Respaced(if whole { stride } else { count.to_string() })
    }
}

/// The class that a file names, and how it says the sampler.
fn class(json: &Json<'_>) -> Result<(&'static Class, ReadSampler)> {
    let choices: Vec<_> = CLASSES.iter().map(|(class, read)| (class.name, (*class, *read))).collect();
    json.choice("_class_name", None, &choices)
}
