//! Values of arguments.

use ancestral::{PerStage, Resampling, Sampler, Thresholding};
use std::str::FromStr;

/// A number.
pub fn parse<T: FromStr>(text: &str) -> Result<T, String> {
    text.trim().parse().map_err(|_| format!("`{text}` is not a number"))
}

/// `256x192`, or `256` for both.
pub fn parse_size(text: &str) -> Result<(usize, usize), String> {
    let parts: Vec<&str> = text.split('x').collect();
    match parts[..] {
        [w, h] => Ok((parse(w)?, parse(h)?)),
        [side] => Ok((parse(side)?, parse(side)?)),
        _ => Err("give WIDTHxHEIGHT, e.g. 256x256".into()),
    }
}

/// A range, or `none`.
pub fn parse_clip(text: &str) -> Result<Thresholding, String> {
    if text.eq_ignore_ascii_case("none") {
        Ok(Thresholding::None)
    } else {
        parse(text).map(Thresholding::Range)
    }
}

/// A quantile and a largest threshold.
pub fn parse_thresholding(text: &str) -> Result<Thresholding, String> {
    match text.split(',').collect::<Vec<_>>()[..] {
        [quantile, max] => Ok(Thresholding::Dynamic { ratio: parse(quantile)?, max: parse(max)? }),
        _ => Err("give a quantile and a largest threshold, e.g. 0.95,1.5".into()),
    }
}

/// A sampler by its name; DDIM's randomness is another option's.
pub fn parse_sampler(text: &str) -> Result<Sampler, String> {
    Sampler::named(text, 0.0).ok_or_else(|| format!("give one of {}", Sampler::NAMES.join(", ")))
}

/// Times and steps.
pub fn parse_resampling(text: &str) -> Result<Resampling, String> {
    match text.split(',').collect::<Vec<_>>()[..] {
        [times, jump] => Ok(Resampling { times: parse(times)?, jump: parse(jump)? }),
        _ => Err("give times and steps, e.g. 3,5".into()),
    }
}

/// Gigabytes as bytes.
pub fn parse_memory(text: &str) -> Result<u64, String> {
    match parse::<f64>(text)? {
        gigabytes if gigabytes > 0.0 && gigabytes < 1e6 => Ok((gigabytes * 1e9) as u64),
        _ => Err("give gigabytes, e.g. 8".into()),
    }
}

/// A stage's value: `25`, the next stage's, or `decoder=25`.
#[derive(Clone, Debug)]
pub struct StageValue<T> {
    stage: Option<String>,
    value: T,
}

impl<T: FromStr> FromStr for StageValue<T> {
    type Err = T::Err;

    fn from_str(text: &str) -> Result<Self, T::Err> {
        let (stage, value) = match text.split_once('=') {
            Some((stage, value)) => (Some(stage.trim().to_string()), value),
            None => (None, text),
        };
        Ok(StageValue { stage, value: value.trim().parse()? })
    }
}

/// Values by place and by name.
pub fn per_stage<T: Clone>(values: &[StageValue<T>]) -> PerStage<T> {
    let places: Vec<T> = values.iter().filter(|v| v.stage.is_none()).map(|v| v.value.clone()).collect();
    let named = values.iter().filter_map(|v| Some((v.stage.clone()?, v.value.clone())));
    named.fold(places.into(), |all, (stage, value)| all.named(stage, value))
}
