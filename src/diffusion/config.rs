//! What a checkpoint's `scheduler_config.json` says (diffusers), or an OpenAI command line.

use std::path::Path;

use serde_json::Value;

use super::json::Json;
use super::process::{PredictionType, Process, Thresholding, VarianceType};
use super::samplers::Sampler;
use super::schedule::{Arithmetic, BetaSchedule, Schedule, Spacing, space_timesteps};
use crate::error::{Error, Result, request};
use crate::files::read_json;

/// More training timesteps than any model has; a file that claims more is broken.
const MOST_TIMESTEPS: u64 = 1_000_000;

/// Which timesteps are visited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Timesteps {
    /// This many, spaced as the configuration says.
    Count(usize),
    /// These, descending.
    Custom(Vec<usize>),
    /// OpenAI's respacing string, see [`space_timesteps`].
    Respaced(String),
}

impl From<usize> for Timesteps {
    fn from(count: usize) -> Self {
        Timesteps::Count(count)
    }
}

impl Timesteps {
    /// The timesteps, descending; at least one, all below `config.num_train_timesteps`.
    ///
    /// Errors ([`Error::Request`]) when that cannot be.
    pub fn resolve(&self, config: &SchedulerConfig) -> Result<Vec<usize>> {
        let total = config.num_train_timesteps;
        match self {
            Timesteps::Count(count) => config.spacing.timesteps(total, *count, config.steps_offset),
            Timesteps::Respaced(respacing) => {
                Ok(space_timesteps(total, respacing)?.into_iter().rev().collect())
            }
            Timesteps::Custom(list) => {
                let descending = list.windows(2).all(|pair| pair[0] > pair[1]);
                match list.first() {
                    Some(&first) if first < total && descending => Ok(list.clone()),
                    _ => Err(request!(
                        Steps,
                        Malformed,
                        "custom timesteps must be at least one, strictly descending and below {total}; found {list:?}"
                    )),
                }
            }
        }
    }
}

/// A trained process and how it is sampled.
#[derive(Debug, Clone, PartialEq)]
pub struct SchedulerConfig {
    /// T.
    pub num_train_timesteps: usize,
    /// How β grows.
    pub beta_schedule: BetaSchedule,
    /// `rescale_betas_zero_snr`.
    pub rescale_betas_zero_snr: bool,
    /// float32 for diffusers, float64 for OpenAI's checkpoints.
    pub arithmetic: Arithmetic,
    /// What the network predicts.
    pub prediction_type: PredictionType,
    /// The ancestral step's variance.
    pub variance_type: VarianceType,
    /// What happens to x̂0 before it is used.
    pub clip: Thresholding,
    /// How a number of steps becomes timesteps.
    pub spacing: Spacing,
    /// A file says so; otherwise it is what its sampler usually takes, and another one takes its own.
    pub spacing_said: bool,
    /// Added to every timestep of the leading spacing.
    pub steps_offset: usize,
    /// DDIM: ᾱ after the last step is 1 (else ᾱ_0).
    pub set_alpha_to_one: bool,
    /// The sampler the file names.
    pub sampler: Sampler,
    /// DDIM derives ε again from the clipped x̂0 (`use_clipped_model_output`): OpenAI's code does, diffusers' pipelines do
    /// not.
    pub rederive_epsilon: bool,
    /// OpenAI's loops draw noise in every step, used or not; a shared generator moves on accordingly.
    pub always_draws: bool,
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
        let class = json.class()?;
        let unclip = class.spacing == Spacing::Fractional;
        let num_train_timesteps = json.unsigned("num_train_timesteps", 1000, 1..=MOST_TIMESTEPS)?;
        let config = SchedulerConfig {
            num_train_timesteps,
            beta_schedule: match unclip {
                true => json.cosine()?,
                false => json.beta_schedule(class)?,
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
            sampler: (class.sampler)(&json)?,
            rederive_epsilon: false,
            always_draws: false,
        };
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
        SchedulerConfig {
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
            sampler: Sampler::Ddpm,
            rederive_epsilon: true,
            always_draws: true,
        }
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

    /// What a sampler's rule reads of it.
    pub(super) fn process(&self) -> Process {
        Process {
            num_train_timesteps: self.num_train_timesteps,
            variance_type: self.variance_type,
            clip: self.clip,
            spacing: self.spacing,
            set_alpha_to_one: self.set_alpha_to_one,
            rederive_epsilon: self.rederive_epsilon,
        }
    }

    /// β and ᾱ of the trained process. Errors: see [`Schedule::new`].
    pub fn schedule(&self) -> Result<Schedule> {
        let zero_snr = self.rescale_betas_zero_snr;
        Schedule::new(&self.beta_schedule, self.num_train_timesteps, self.arithmetic, zero_snr)
    }
}
