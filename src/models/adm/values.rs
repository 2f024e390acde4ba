//! Values of flags: from JSON, or from text as on OpenAI's command lines.

use super::classifier::Pool;
use super::unet::NoiseSchedule;
use serde_json::Value;
use std::str::FromStr;

/// A JSON scalar as on the command line.
pub(in crate::models) fn text(value: &Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text.trim().to_string()),
        Value::Number(_) | Value::Bool(_) => Ok(value.to_string()),
        other => Err(format!("{other} is no single value")),
    }
}

/// A number.
pub(in crate::models) fn number<T: FromStr>(value: &Value) -> Result<T, String> {
    let text = text(value)?;
    text.parse().map_err(|_| format!("`{text}` is not a number as expected here"))
}

/// `True`, `false`, `1`, ….
pub(in crate::models) fn truth(value: &Value) -> Result<bool, String> {
    let text = text(value)?;
    match text.to_lowercase().as_str() {
        "true" | "t" | "yes" | "y" | "1" => Ok(true),
        "false" | "f" | "no" | "n" | "0" => Ok(false),
        _ => Err(format!("`{text}` is neither True nor False")),
    }
}

/// A number, or nothing: null or -1.
pub(in crate::models) fn optional(value: &Value) -> Result<Option<usize>, String> {
    match value {
        Value::Null => Ok(None),
        value if text(value)? == "-1" => Ok(None),
        value => number(value).map(Some),
    }
}

/// A JSON list or numbers with commas between them.
pub(in crate::models) fn list<T: FromStr>(value: &Value) -> Result<Vec<T>, String> {
    match value {
        Value::Array(values) => values.iter().map(number).collect(),
        value => {
            let text = text(value)?;
            text.split(',').filter(|part| !part.is_empty()).map(|part| number(&Value::from(part))).collect()
        }
    }
}

/// Sides of levels as factors by which they are smaller than the picture.
pub(in crate::models) fn factors(value: &Value, image_size: usize) -> Result<Vec<usize>, String> {
    list::<usize>(value)?
        .into_iter()
        .map(|side| match image_size.checked_div(side) {
            Some(factor @ 1..) => Ok(factor),
            _ => Err(format!("{side} is no side of a level of pictures of {image_size} pixels")),
        })
        .collect()
}

/// `channel_mult`; an empty one stands for the default of the size.
pub(in crate::models) fn multiples(
    value: &Value,
    image_size: usize,
    enlarges: bool,
) -> Result<Vec<f64>, String> {
    let given: Vec<f64> = list(value)?;
    if !given.is_empty() {
        return Ok(given);
    }
    match (image_size, enlarges) {
        (512, false) => Ok(vec![0.5, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0]),
        (256 | 512, _) => Ok(vec![1.0, 1.0, 2.0, 2.0, 4.0, 4.0]),
        (128, _) => Ok(vec![1.0, 1.0, 2.0, 3.0, 4.0]),
        (64, _) => Ok(vec![1.0, 2.0, 3.0, 4.0]),
        (32, _) => Ok(vec![1.0, 2.0, 2.0, 2.0]),
        _ => Err(format!("there is no default for pictures of {image_size} pixels: say it")),
    }
}

pub(in crate::models) fn schedule(value: &Value) -> Result<NoiseSchedule, String> {
    match text(value)?.as_str() {
        "linear" => Ok(NoiseSchedule::Linear),
        "cosine" | "squaredcos_cap_v2" => Ok(NoiseSchedule::Cosine),
        other => Err(format!("`{other}` is unknown; there are linear and cosine (squaredcos_cap_v2)")),
    }
}

pub(in crate::models) fn pool(value: &Value) -> Result<Pool, String> {
    let name = text(value)?;
    Pool::from_name(&name).ok_or_else(|| format!("`{name}` is not supported; attention and adaptive are"))
}
