//! Values of arguments.

use ancestral::diffusion::Thresholding;
use ancestral::systems::repaint::Resampling;

/// A number.
pub fn parse<T: std::str::FromStr>(text: &str) -> Result<T, String> {
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
pub fn parse_thresholding(text: &str) -> Result<(f64, f64), String> {
    match text.split(',').collect::<Vec<_>>()[..] {
        [quantile, max] => Ok((parse(quantile)?, parse(max)?)),
        _ => Err("give a quantile and a largest threshold, e.g. 0.95,1.5".into()),
    }
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
