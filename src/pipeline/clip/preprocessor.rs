//! Pictures as CLIP was trained to see them: resized byte by byte as Pillow does it, their middle cut out.

use crate::error::{Error, Result, request};
use crate::models::check::require;
use crate::models::clip::{DEVIATIONS, MEANS};
use crate::picture::{ByteRounding, Picture};
use crate::weights::read_json;
use serde::Deserialize;
use std::ops::Range;
use std::path::Path;

/// Largest side that a picture may be resized to.
const MAX_SIDE: usize = 4_096;
/// Pillow's number of bicubic resampling.
const BICUBIC: u32 = 3;
/// Bits of a weight's fraction.
const FRACTION: u32 = 22;

/// How a picture becomes an encoder's square (transformers' `CLIPImageProcessor`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preprocessor {
    /// The shorter side before the cut.
    pub shortest_edge: usize,
    /// Side of the square that is cut out of the middle.
    pub crop: usize,
}

/// `feature_extractor/preprocessor_config.json`.
#[derive(Deserialize)]
#[serde(default)]
struct File {
    size: Option<Length>,
    crop_size: Option<Length>,
    do_resize: bool,
    do_center_crop: bool,
    do_normalize: bool,
    do_rescale: bool,
    resample: u32,
    image_mean: Vec<f64>,
    image_std: Vec<f64>,
}

impl Default for File {
    /// What a file leaves out.
    fn default() -> Self {
        File {
            size: None,
            crop_size: None,
            do_resize: true,
            do_center_crop: true,
            do_normalize: true,
            do_rescale: true,
            resample: BICUBIC,
            image_mean: MEANS.to_vec(),
            image_std: DEVIATIONS.to_vec(),
        }
    }
}

/// A length: old files have a number, newer ones say of what.
#[derive(Clone, Copy, Deserialize)]
#[serde(untagged)]
enum Length {
    Plain(usize),
    ShortestEdge { shortest_edge: usize },
    Square { height: usize, width: usize },
}

impl Length {
    fn side(self) -> Option<usize> {
        match self {
            Length::Plain(side) | Length::ShortestEdge { shortest_edge: side } => Some(side),
            Length::Square { height, width } => (height == width).then_some(height),
        }
    }
}

impl Preprocessor {
    /// A square without anything around it that is cut away.
    pub fn square(side: usize) -> Self {
        Preprocessor { shortest_edge: side, crop: side }
    }

    /// Reads a `preprocessor_config.json` for an encoder of pictures of `side` pixels.
    ///
    /// # Errors
    /// It is broken, or says other than CLIP's own: bicubic, cut, normalised with CLIP's means.
    pub fn read(path: &Path, side: usize) -> Result<Self> {
        let file: File = read_json(path)?;
        let length = |key: &str, given: Option<Length>| -> Result<usize> {
            let Some(given) = given else { return Ok(side) };
            let found = given.side().filter(|found| (1..=MAX_SIDE).contains(found));
            found.ok_or_else(|| {
                Error::config(path, key, format!("expected one side of 1 to {MAX_SIDE} pixels"))
            })
        };
        let shortest_edge = length("size", file.size)?;
        let crop = length("crop_size", file.crop_size)?;
        require(path, "crop_size", crop == side, || {
            format!("{crop} pixels; the picture encoder sees {side}")
        })?;
        require(path, "size", shortest_edge >= crop, || {
            format!("{shortest_edge} pixels are less than the {crop} that are cut out")
        })?;
        for (key, on) in [
            ("do_resize", file.do_resize),
            ("do_center_crop", file.do_center_crop),
            ("do_rescale", file.do_rescale),
            ("do_normalize", file.do_normalize),
        ] {
            require(path, key, on, || "false is not supported".into())?;
        }
        require(path, "resample", file.resample == BICUBIC, || {
            format!("{} is not supported; {BICUBIC} (bicubic) is", file.resample)
        })?;
        for (key, found, own) in
            [("image_mean", &file.image_mean, MEANS), ("image_std", &file.image_std, DEVIATIONS)]
        {
            let same = found.len() == own.len() && found.iter().zip(own).all(|(a, b)| (a - b).abs() < 1e-6);
            require(path, key, same, || format!("{found:?} is not supported; CLIP's {own:?} is"))?;
        }
        Ok(Preprocessor { shortest_edge, crop })
    }

    /// The square that the encoder sees, in colour and in whole bytes.
    ///
    /// # Errors
    /// A picture of neither 1 nor 3 channels, or without pixels.
    pub fn apply(&self, picture: &Picture) -> Result<Picture> {
        let (width, height, channels) = (picture.width, picture.height, picture.channels);
        let (short, long) = (width.min(height), width.max(height));
        let whole = short > 0 && picture.values.len() == width * height * channels;
        let colours = if whole { picture.clone().with_channels(3) } else { None };
        let colours = colours.ok_or_else(|| {
            request!(Picture, Malformed, "a picture of {width}x{height} pixels and {channels} channels: CLIP sees pictures in colour or grey")
        })?;
        // The longer side loses its fraction.
        let other = self.shortest_edge * long / short;
        let size = if width <= height { (self.shortest_edge, other) } else { (other, self.shortest_edge) };
        let middle = |side: usize| (side - self.crop) / 2..(side - self.crop) / 2 + self.crop;
        let columns = taps(width, size.0, middle(size.0));
        let bytes = resize(&colours.to_bytes(), width, &columns, &taps(height, size.1, middle(size.1)));
        let values = bytes.into_iter().map(|byte| f32::from(byte) / 127.5 - 1.0).collect();
        let (width, height, rounding) = (self.crop, self.crop, ByteRounding::Nearest);
        Ok(Picture { width, height, channels: 3, values, rounding })
    }
}

/// Bytes `[h, width, 3]` at another size: first along the rows, rounded to bytes, then along the columns.
fn resize(bytes: &[u8], width: usize, columns: &[Tap], rows: &[Tap]) -> Vec<u8> {
    // Only the lines that some row is made of: a picture may be much taller than what is cut out of it.
    let top = rows.first().map_or(0, |(first, _)| *first);
    let end = rows.last().map_or(0, |(first, weights)| first + weights.len());
    let mut lines = Vec::new();
    for line in bytes.chunks_exact(width * 3).take(end).skip(top) {
        for (first, weights) in columns {
            lines.extend([0, 1, 2].map(|c| blend(weights, |i| line[(first + i) * 3 + c])));
        }
    }
    let (lines, length) = (&lines, columns.len() * 3);
    let row = |(first, weights): &Tap| -> Vec<u8> {
        (0..length).map(|x| blend(weights, |i| lines[(first - top + i) * length + x])).collect()
    };
    rows.iter().flat_map(row).collect()
}

/// The first pixel that another is made of, and the weights from there on, in whole numbers of 2^-22.
type Tap = (usize, Vec<i32>);

fn blend(weights: &[i32], byte: impl Fn(usize) -> u8) -> u8 {
    let products = weights.iter().enumerate().map(|(i, weight)| i64::from(*weight) * i64::from(byte(i)));
    let sum = products.sum::<i64>() + (1 << (FRACTION - 1));
    (sum >> FRACTION).clamp(0, 255) as u8
}

/// Some pixels of the `to` that a line of `from` becomes. Bicubic (Keys 1981, a = -0.5), stretched where there are fewer
/// after than before.
fn taps(from: usize, to: usize, some: Range<usize>) -> Vec<Tap> {
    let scale = from as f64 / to as f64;
    let stretch = scale.max(1.0);
    let keys = |d: f64| match d.abs() {
        d if d < 1.0 => (1.5 * d - 2.5) * d * d + 1.0,
        d if d < 2.0 => ((-0.5 * d + 2.5) * d - 4.0) * d + 2.0,
        _ => 0.0,
    };
    let tap = |at: usize| {
        let centre = (at as f64 + 0.5) * scale;
        let first = ((centre - 2.0 * stretch + 0.5).max(0.0)) as usize;
        let end = ((centre + 2.0 * stretch + 0.5) as usize).min(from);
        let weights: Vec<f64> = (first..end).map(|i| keys((i as f64 - centre + 0.5) / stretch)).collect();
        let total: f64 = weights.iter().sum();
        let one = f64::from(1 << FRACTION);
        (first, weights.iter().map(|weight| (weight / total * one).round() as i32).collect())
    };
    some.map(tap).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_one_colour_stays_so() {
        for (from, to) in [(7, 3), (3, 7), (100, 9), (5, 5), (1, 4)] {
            let bytes = resize(&[200; 3].repeat(from * 2), from, &taps(from, to, 0..to), &taps(2, 3, 0..3));
            assert_eq!(
                (bytes.len(), bytes.iter().all(|byte| *byte == 200)),
                (to * 3 * 3, true),
                "{from} {to}"
            );
        }
    }

    #[test]
    fn nonsense_is_refused() {
        let path = std::env::temp_dir().join(format!("ancestral-preprocessor-{}.json", std::process::id()));
        let says = |text: &str| {
            std::fs::write(&path, text).unwrap();
            Preprocessor::read(&path, 32).map_err(|error| error.to_string())
        };
        assert_eq!(says("{}"), Ok(Preprocessor::square(32)));
        let larger = Preprocessor { shortest_edge: 40, crop: 32 };
        assert_eq!(says(r#"{"size": {"shortest_edge": 40}, "crop_size": 32}"#), Ok(larger));
        for (text, part) in [
            (r#"{"size": 16}"#, "less than"),
            (r#"{"crop_size": {"height": 32, "width": 31}}"#, "one side"),
            (r#"{"crop_size": 64, "size": 64}"#, "sees 32"),
            (r#"{"size": 0}"#, "1 to 4096"),
            (r#"{"resample": 2}"#, "bicubic"),
            (r#"{"do_normalize": false}"#, "do_normalize"),
            (r#"{"image_mean": [0.5, 0.5, 0.5]}"#, "CLIP's"),
        ] {
            assert!(says(text).unwrap_err().contains(part), "{text}");
        }
        std::fs::remove_file(&path).unwrap();
        let (channels, values, rounding) = (3, vec![0.0; 15_000], ByteRounding::Nearest);
        let line = Picture { width: 5_000, height: 1, channels, values, rounding };
        let large = Preprocessor::square(MAX_SIDE).apply(&line).unwrap();
        assert_eq!((large.width, large.height), (MAX_SIDE, MAX_SIDE));
        assert!(Preprocessor::square(32).apply(&Picture { height: 0, ..line }).is_err());
    }
}
