//! What is trained on: folders of pictures with captions or classes, and drawn scenes. An example follows from the seed and its
//! number in the run alone, so that a run can be taken up anywhere.

use super::scenes::{Draws, Wish, loosen, render, sample_scene};
use crate::error::{Error, Result};
use crate::picture::Picture;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Where examples come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    /// A folder: pictures named in its `metadata.jsonl` (`file_name`, `text`), as Hugging Face's image folders have it; or
    /// pictures with a text file of the same name beside each; or subfolders, each a class; or pictures alone.
    Folder(PathBuf),
    /// Drawn scenes with their captions, as the bundled models learn them.
    Scenes,
}

/// A picture and what belongs to it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Example {
    /// `[side, side, 3]` in [−1, 1].
    pub picture: Vec<f32>,
    /// What it shows; empty where nothing says it.
    pub caption: String,
    /// Its class.
    pub class: usize,
}

/// A picture's file and what belongs to it.
#[derive(Clone, Debug, PartialEq)]
struct Entry {
    path: PathBuf,
    caption: String,
    class: usize,
}

/// Data that was found.
#[derive(Clone, Debug)]
pub struct Examples {
    entries: Vec<Entry>,
    classes: Vec<String>,
    side: usize,
    flip: bool,
    seed: u64,
    /// The order of an epoch, and which.
    order: (u64, Vec<u32>),
}

/// Whether a file's name is a picture's.
fn is_picture(path: &Path) -> bool {
    const ENDINGS: [&str; 3] = ["png", "jpg", "jpeg"];
    let ending = path.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase);
    ending.is_some_and(|ending| ENDINGS.contains(&ending.as_str()))
}

/// What a folder holds, sorted by its names' bytes.
fn listed(folder: &Path) -> Result<Vec<PathBuf>> {
    let cannot = |error: std::io::Error| Error::io(folder, format!("cannot be read: {error}"));
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(cannot)? {
        paths.push(entry.map_err(cannot)?.path());
    }
    paths.sort_by(|a, b| a.as_os_str().as_encoded_bytes().cmp(b.as_os_str().as_encoded_bytes()));
    Ok(paths)
}

/// The pictures that `metadata.jsonl` names.
fn from_metadata(folder: &Path, path: &Path) -> Result<Vec<Entry>> {
    let text =
        std::fs::read_to_string(path).map_err(|error| Error::io(path, format!("cannot be read: {error}")))?;
    let mut entries = Vec::new();
    for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let wrong = |what: &str| Error::file(path, format!("line {}: {what}", i + 1));
        let line: Value = serde_json::from_str(line).map_err(|error| wrong(&error.to_string()))?;
        let name = line["file_name"].as_str().ok_or_else(|| wrong("has no `file_name`"))?;
        let caption = ["text", "caption"].iter().find_map(|key| line[*key].as_str()).unwrap_or_default();
        entries.push(Entry { path: folder.join(name), caption: caption.to_string(), class: 0 });
    }
    entries.sort_by(|a, b| a.path.as_os_str().as_encoded_bytes().cmp(b.path.as_os_str().as_encoded_bytes()));
    Ok(entries)
}

impl Examples {
    /// Finds the data, and sees that every picture's file can be opened. Pictures are turned as their EXIF says, their shorter
    /// side is resized to `side`, and a square of it is cut out at random; half of them are flipped where `flip` says so.
    ///
    /// # Errors
    /// A folder or file that cannot be read, or holds no picture.
    pub fn find(data: &Data, side: usize, flip: bool, seed: u64) -> Result<Examples> {
        let none =
            Examples { entries: Vec::new(), classes: Vec::new(), side, flip, seed, order: (0, Vec::new()) };
        let Data::Folder(folder) = data else { return Ok(none) };
        let metadata = folder.join("metadata.jsonl");
        let (mut entries, mut classes) = (Vec::new(), Vec::new());
        if metadata.exists() {
            entries = from_metadata(folder, &metadata)?;
        } else {
            for path in listed(folder)? {
                if path.is_dir() {
                    let inside: Vec<PathBuf> =
                        listed(&path)?.into_iter().filter(|path| is_picture(path)).collect();
                    if !inside.is_empty() {
                        let class = classes.len();
                        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                        let entry = |path| Entry { path, caption: name.replace(['_', '-'], " "), class };
                        entries.extend(inside.into_iter().map(entry));
                        classes.push(name);
                    }
                } else if is_picture(&path) {
                    let text = path.with_extension("txt");
                    let caption = match text.exists() {
                        true => std::fs::read_to_string(&text)
                            .map_err(|error| Error::io(&text, format!("cannot be read: {error}")))?,
                        false => String::new(),
                    };
                    entries.push(Entry { path, caption: caption.trim().to_string(), class: 0 });
                }
            }
        }
        if entries.is_empty() {
            return Err(Error::file(folder, "no picture in it: PNG and JPEG are read"));
        }
        if u32::try_from(entries.len()).is_err() {
            return Err(Error::file(folder, "more pictures than can be counted"));
        }
        for entry in &entries {
            if !entry.path.is_file() {
                return Err(Error::file(&entry.path, "not found, but the data names it"));
            }
        }
        Ok(Examples { entries, classes, ..none })
    }

    /// How many there are; none where they are drawn.
    pub fn count(&self) -> Option<usize> {
        (!self.entries.is_empty()).then_some(self.entries.len())
    }

    /// The classes' names, in the order of their numbers.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// Example `index` of the run: every picture once an epoch, in an order of the epoch's own.
    ///
    /// # Errors
    /// A file that is no picture.
    pub fn example(&mut self, index: u64) -> Result<Example> {
        let mut draws = Draws::new(self.seed, index);
        let Some(count) = self.count() else {
            let scene = sample_scene(&mut draws, Wish::default());
            let caption = loosen(scene.worded(&mut draws), &mut draws);
            let picture = render(&[scene], self.side).into_iter().map(|v| 2.0 * v - 1.0).collect();
            return Ok(Example { picture, caption, class: 0 });
        };
        let (epoch, at) = (index / count as u64, (index % count as u64) as usize);
        if self.order.1.is_empty() || self.order.0 != epoch {
            let mut order: Vec<u32> = (0..count as u32).collect();
            let mut draws = Draws::new(self.seed ^ SHUFFLE, epoch);
            for i in (1..count).rev() {
                order.swap(i, draws.below(i + 1));
            }
            self.order = (epoch, order);
        }
        let entry = &self.entries[self.order.1[at] as usize];
        let picture = self.cut(&Picture::open(&entry.path)?, &mut draws);
        Ok(Example { picture, caption: entry.caption.clone(), class: entry.class })
    }

    /// A square of a picture.
    fn cut(&self, picture: &Picture, draws: &mut Draws) -> Vec<f32> {
        let (width, height, side) = (picture.width, picture.height, self.side);
        let scale = side as f64 / width.min(height).max(1) as f64;
        let wide = ((width as f64 * scale).round() as usize).max(side);
        let tall = ((height as f64 * scale).round() as usize).max(side);
        let resized =
            if (wide, tall) == (width, height) { picture.clone() } else { picture.resized(wide, tall) };
        let (left, top) = (draws.below(wide - side + 1), draws.below(tall - side + 1));
        let flips = self.flip && draws.chance(0.5);
        let mut cut = Vec::with_capacity(side * side * 3);
        for y in 0..side {
            for x in 0..side {
                let x = if flips { side - 1 - x } else { x };
                cut.extend_from_slice(&resized.values[((top + y) * wide + left + x) * 3..][..3]);
            }
        }
        cut
    }
}

/// Sets the order of epochs apart from the examples' own choices.
const SHUFFLE: u64 = 0x5eed_0bde;
