//! Scenes as a folder of pictures with their captions.

use super::draw::render;
use super::draws::Draws;
use super::sample::{Wish, sample_scene};
use crate::error::{Error, Result};
use crate::files::write_whole;
use crate::picture::{ByteRounding, Picture};
use rayon::prelude::*;
use std::path::Path;

/// Writes `count` scenes of a seed's data as `00000.png`, … of `side`² pixels, and `metadata.jsonl`, which has a line of
/// `file_name` and `text` for each, as Hugging Face's image folders have it. What lies in the folder is kept, but for
/// these names.
///
/// Errors: files that cannot be written.
pub fn write_folder(folder: &Path, count: usize, seed: u64, side: usize) -> Result<()> {
    let cannot = |error: std::io::Error| Error::io(folder, format!("cannot be written: {error}"));
    std::fs::create_dir_all(folder).map_err(cannot)?;
    let width = count.saturating_sub(1).to_string().len().max(5);
    let write = |index: usize| {
        let mut draws = Draws::new(seed, index as u64);
        let scene = sample_scene(&mut draws, Wish::default());
        let text = scene.worded(&mut draws);
        let name = format!("{index:0width$}.png");
        let values = render(&[scene], side).into_iter().map(|value| 2.0 * value - 1.0).collect();
        let rounding = ByteRounding::Nearest;
        let picture = Picture { width: side, height: side, channels: 3, values, rounding };
        picture.save(folder.join(&name))?;
        Ok(format!("{}\n", serde_json::json!({ "file_name": name, "text": text })))
    };
    let lines = (0..count).into_par_iter().map(write).collect::<Result<Vec<String>>>()?;
    write_whole(&folder.join("metadata.jsonl"), lines.concat().as_bytes()).map_err(cannot)
}
