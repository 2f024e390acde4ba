//! A scheduler's settings as JSON, whose errors name file, key, value and what is supported.

use std::path::Path;

use serde_json::{Map, Value};

use super::process::{PredictionType, Thresholding, VarianceType};
use super::schedule::{BetaSchedule, Spacing};
use crate::error::{Error, Result};

/// The object.
pub struct Json<'a> {
    pub path: &'a Path,
    pub map: &'a Map<String, Value>,
}

impl Json<'_> {
    pub fn error(&self, key: &str, what: impl ToString) -> Error {
        Error::config(self.path, key, what)
    }

    /// The key's value; null counts as absent.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    pub fn boolean(&self, key: &str, default: bool) -> Result<bool> {
        let Some(value) = self.get(key) else { return Ok(default) };
        value.as_bool().ok_or_else(|| self.error(key, format!("expected true or false, found {value}")))
    }

    pub fn unsigned(&self, key: &str, default: usize, range: std::ops::RangeInclusive<u64>) -> Result<usize> {
        let Some(value) = self.get(key) else { return Ok(default) };
        let number = value.as_u64().filter(|number| range.contains(number)).map(|number| number as usize);
        let (low, high) = (range.start(), range.end());
        let what = || format!("expected a whole number from {low} to {high}, found {value}");
        number.ok_or_else(|| self.error(key, what()))
    }

    pub fn number(&self, key: &str, default: f64) -> Result<f64> {
        let Some(value) = self.get(key) else { return Ok(default) };
        value.as_f64().ok_or_else(|| self.error(key, format!("expected a number, found {value}")))
    }

    /// A number above 0 (what ranges and maxima must be).
    pub fn positive(&self, key: &str, default: f64) -> Result<f64> {
        let number = self.number(key, default)?;
        if number > 0.0 {
            Ok(number)
        } else {
            Err(self.error(key, format!("must be above 0, found {number}")))
        }
    }

    pub fn choice<T: Clone>(&self, key: &str, default: Option<T>, choices: &[(&str, T)]) -> Result<T> {
        let Some(value) = self.get(key) else {
            return default
                .ok_or_else(|| self.error(key, format!("is missing; supported: {}", names(choices))));
        };
        let found = choices.iter().find(|(name, _)| value.as_str() == Some(name));
        let what = || format!("{value} is not supported; supported: {}", names(choices));
        found.map(|(_, choice)| choice.clone()).ok_or_else(|| self.error(key, what()))
    }

    pub fn beta_key(&self) -> &'static str {
        if self.get("trained_betas").is_some() { "trained_betas" } else { "beta_schedule" }
    }

    /// UnCLIP's only schedule.
    pub fn cosine(&self) -> Result<BetaSchedule> {
        const COSINE: (&str, BetaSchedule) = ("squaredcos_cap_v2", BetaSchedule::SquaredCosCapV2);
        self.choice("beta_schedule", Some(COSINE.1), &[COSINE])
    }

    /// β of every class but UnCLIP's, whose usual first and last are these; `exp`: it knows that schedule.
    pub fn beta_schedule(&self, (start, end): (f64, f64), exp: bool) -> Result<BetaSchedule> {
        if self.get("trained_betas").is_some() {
            let betas = self.numbers("trained_betas")?;
            return Ok(BetaSchedule::Trained(betas));
        }
        let beta_start = self.number("beta_start", start)?;
        let beta_end = self.number("beta_end", end)?;
        let linear = BetaSchedule::Linear { beta_start, beta_end };
        let choices = [
            ("linear", linear.clone()),
            ("scaled_linear", BetaSchedule::ScaledLinear { beta_start, beta_end }),
            ("squaredcos_cap_v2", BetaSchedule::SquaredCosCapV2),
            ("sigmoid", BetaSchedule::Sigmoid { beta_start, beta_end }),
            ("exp", BetaSchedule::Exp),
        ];
        let choices = if exp { &choices[..] } else { &choices[..4] };
        self.choice("beta_schedule", Some(linear), choices)
    }

    fn numbers(&self, key: &str) -> Result<Vec<f64>> {
        let list = self.get(key).and_then(Value::as_array);
        let numbers = list.and_then(|list| list.iter().map(Value::as_f64).collect());
        numbers.ok_or_else(|| self.error(key, "expected a list of numbers, one for each training timestep"))
    }

    pub fn prediction_type(&self, unclip: bool) -> Result<PredictionType> {
        // files of diffusers before 0.9 say it with a boolean
        let old =
            !unclip && self.get("prediction_type").is_none() && !self.boolean("predict_epsilon", true)?;
        let default = if old { PredictionType::Sample } else { PredictionType::Epsilon };
        let choices = [
            ("epsilon", PredictionType::Epsilon),
            ("sample", PredictionType::Sample),
            ("v_prediction", PredictionType::VPrediction),
        ];
        self.choice("prediction_type", Some(default), if unclip { &choices[..2] } else { &choices })
    }

    pub fn variance_type(&self, unclip: bool) -> Result<VarianceType> {
        let choices = [
            ("fixed_small_log", VarianceType::FixedSmallLog),
            ("learned_range", VarianceType::LearnedRange),
            ("fixed_small", VarianceType::FixedSmall),
            ("fixed_large", VarianceType::FixedLarge),
            ("fixed_large_log", VarianceType::FixedLargeLog),
            ("learned", VarianceType::Learned),
        ];
        let default = if unclip { VarianceType::FixedSmallLog } else { VarianceType::FixedSmall };
        self.choice("variance_type", Some(default), if unclip { &choices[..2] } else { &choices })
    }

    /// `thresholding`, for samplers that clip in no other way.
    pub fn thresholding(&self) -> Result<Thresholding> {
        if !self.boolean("thresholding", false)? {
            return Ok(Thresholding::None);
        }
        let ratio = self.number("dynamic_thresholding_ratio", 0.995)?;
        if !(0.0..=1.0).contains(&ratio) {
            let what = format!("expected a quantile from 0 to 1, found {ratio}");
            return Err(self.error("dynamic_thresholding_ratio", what));
        }
        Ok(Thresholding::Dynamic { ratio, max: self.positive("sample_max_value", 1.0)? })
    }

    /// `clip_sample`, for samplers that threshold in no other way.
    pub fn clip_sample(&self, default: bool) -> Result<Thresholding> {
        match self.boolean("clip_sample", default)? {
            true => Ok(Thresholding::Range(self.positive("clip_sample_range", 1.0)?)),
            false => Ok(Thresholding::None),
        }
    }

    /// Refuses what is not built.
    pub fn refuse(&self, key: &str) -> Result<()> {
        match self.get(key) {
            None | Some(Value::Bool(false)) => Ok(()),
            Some(value) => Err(self.error(key, format!("{value} is not supported; supported: null, false"))),
        }
    }

    pub fn spacing(&self, default: Spacing) -> Result<Spacing> {
        let choices =
            [("leading", Spacing::Leading), ("linspace", Spacing::Linspace), ("trailing", Spacing::Trailing)];
        self.choice("timestep_spacing", Some(default), &choices)
    }
}

fn names<T>(choices: &[(&str, T)]) -> String {
    choices.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
}
