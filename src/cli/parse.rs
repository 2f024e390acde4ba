//! Values of arguments.

use ancestral::{PerStage, Resampling, Sampler, Thresholding};
use std::path::PathBuf;
use std::str::FromStr;

/// A number.
pub fn parse<T: FromStr>(text: &str) -> Result<T, String> {
    text.trim().parse().map_err(|_| format!("`{text}` is not a number"))
}

/// A number above 0.
pub fn positive(text: &str) -> Result<f64, String> {
    let number: f64 = parse(text)?;
    if number.is_finite() && number > 0.0 { Ok(number) } else { Err("give a number above 0".into()) }
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

/// `6GB`, `800MiB`, or gigabytes without a unit, as bytes.
pub fn parse_memory(text: &str) -> Result<u64, String> {
    const REMEDY: &str = "give a size such as 6GB or 800MiB; a bare number is gigabytes";
    let trimmed = text.trim();
    let (number, unit) = trimmed.split_at(trimmed.find(char::is_alphabetic).unwrap_or(trimmed.len()));
    let size = match unit.to_ascii_lowercase().as_str() {
        "b" => 1.0,
        "k" | "kb" => 1e3,
        "kib" => 1024.0,
        "m" | "mb" => 1e6,
        "mib" => f64::from(1 << 20),
        "" | "g" | "gb" => 1e9,
        "gib" => f64::from(1 << 30),
        "t" | "tb" => 1e12,
        "tib" => f64::from(1 << 20) * f64::from(1 << 20),
        _ => return Err(format!("`{unit}` is no unit of memory: {REMEDY}")),
    };
    match number.trim().parse::<f64>().map(|number| number * size) {
        Ok(bytes) if (1.0..1e15).contains(&bytes) => Ok(bytes as u64),
        Ok(_) => Err(format!("`{trimmed}` is out of range: {REMEDY}")),
        Err(_) => Err(format!("`{trimmed}` is not a size: {REMEDY}")),
    }
}

/// A file, and a scale after a colon.
pub fn parse_lora(text: &str) -> Result<(PathBuf, f32), String> {
    // The whole may be a file's name, colons and all.
    match text.rsplit_once(':').map(|(file, scale)| (file, scale.trim().parse::<f32>())) {
        Some((_, Ok(scale))) if !scale.is_finite() => Err(format!("a scale of {scale}: give a number")),
        Some((file, Ok(scale))) if !PathBuf::from(text).exists() => Ok((file.into(), scale)),
        _ => Ok((text.into(), 1.0)),
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
