//! The hyper-parameters of these networks are command-line flags, which the checkpoints do not hold. [`find`] finds them:
//! in a JSON file beside the weights, else in the [`presets`](super::presets) of the published checkpoints, else in the
//! tensors' shapes with guided-diffusion's defaults for the rest; and the user's word is above all of them.

use super::detect::{Shapes, first_difference};
use crate::error::{Error, Result, request};
use crate::graph::Graph;
use serde_json::Value;
use std::fmt;
use std::path::{Path, PathBuf};

/// A network whose hyper-parameters are flags.
pub trait Flags: Clone + Default + PartialEq {
    /// The flags, as users write them.
    const NAMES: &'static [&'static str];
    /// Flags whose defaults mean something else for each size of pictures, with these defaults.
    const SIZED: &'static [(&'static str, &'static str)];

    /// Sets one flag from JSON or from text as on the command line; none if there is no such flag.
    fn set(&mut self, flag: &str, value: &Value) -> Option<Result<(), String>>;
    /// What shapes tell; defaults for the rest.
    fn detect(shapes: &Shapes) -> Result<Self, String>;
    /// What shapes do not tell and matters to the forward or to sampling.
    fn assumed(&self) -> Vec<&'static str>;
    /// The checkpoints published of this kind.
    fn presets() -> &'static [Preset];
    /// Refuses what the forward cannot record; `path` is the file, for the message.
    fn validate(&self, path: &Path) -> Result<()>;
    /// The network alone.
    fn graph(&self) -> Graph;
}

/// A published checkpoint.
#[derive(Clone, Copy, Debug)]
pub struct Preset {
    /// Its file's name without `.pt`.
    pub name: &'static str,
    /// Flags that differ from guided-diffusion's defaults, as on the command line.
    pub flags: &'static str,
    /// The classifier that was trained for it, and the scale it was evaluated with.
    pub classifier: Option<(&'static str, f32)>,
}

impl Preset {
    /// The flags in full.
    #[track_caller]
    pub fn flags<F: Flags>(&self) -> F {
        let mut flags = F::default();
        let mut values = Vec::new();
        let mut words = self.flags.split_whitespace();
        while let (Some(flag), Some(value)) = (words.next(), words.next()) {
            values.push((flag.trim_start_matches("--"), Value::from(value)));
        }
        for &(flag, default) in F::SIZED {
            if !values.iter().any(|(given, _)| *given == flag) {
                values.push((flag, Value::from(default)));
            }
        }
        if let Err((flag, what)) = set_all(&mut flags, values, true) {
            panic!("preset {}: `{flag}`: {what}", self.name);
        }
        flags
    }
}

/// The one of these whose name is in this file's.
pub(super) fn called(presets: &'static [Preset], path: &Path) -> Option<&'static Preset> {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    presets.iter().filter(|preset| stem.contains(preset.name)).max_by_key(|preset| preset.name.len())
}

/// Where flags come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A file beside the weights.
    File(PathBuf),
    /// A published checkpoint, whose every tensor has the name and shape of this one's.
    Preset {
        /// Its name.
        name: &'static str,
        /// The file is called so; otherwise all published checkpoints of these shapes have the same flags.
        by_name: bool,
    },
    /// The shapes alone.
    Shapes {
        /// Flags that shapes do not tell and nobody said: guided-diffusion's defaults.
        assumed: Vec<&'static str>,
        /// A published checkpoint the file is called like, and why it is not that one.
        unlike: Option<String>,
    },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::File(path) => write!(f, "flags of {}", path.display()),
            Origin::Preset { name, by_name: true } => write!(f, "preset {name}"),
            Origin::Preset { name, by_name: false } => write!(f, "preset {name}, whose shapes these are"),
            Origin::Shapes { assumed, unlike } => {
                write!(f, "no preset")?;
                if let Some(unlike) = unlike {
                    write!(f, " ({unlike})")?;
                }
                write!(f, ": taken from the shapes")?;
                if !assumed.is_empty() {
                    write!(f, ", with the published code's defaults for {}", assumed.join(", "))?;
                }
                Ok(())
            }
        }
    }
}

/// Flags of one network, the user's: `("num_heads", "4")`.
pub type Overrides = [(String, String)];

/// The flags of the checkpoint `weights`, whose tensors have these shapes.
///
/// `file` is a JSON file beside the weights that may say them under the key `section` (`diffusion`, `classifier`,
/// `upsampler`, `base.pt`) or, for every section, under `common`, keys named as the flags; unknown keys are passed over. `user` overrides single flags.
///
/// # Errors
/// A value is none of its flag, a flag is unknown, or the tensors are of no network of this kind. Whether every tensor
/// fits is left to [`Checkpoint::check`](crate::weights::Checkpoint::check).
pub fn find<F: Flags>(
    weights: &Path,
    shapes: &Shapes,
    (file, section): (Option<&Path>, &str),
    user: &Overrides,
) -> Result<(F, Origin)> {
    let user: Vec<(&str, Value)> = user.iter().map(|(f, v)| (f.as_str(), Value::from(v.as_str()))).collect();
    let mut flags = F::detect(shapes).map_err(|what| Error::file(weights, what))?;
    let object = file.map(|file| said(file, section)).transpose()?.flatten();
    let origin = if let (Some(object), Some(file)) = (object, file) {
        let known = object.iter().map(|(flag, value)| (flag.as_str(), value.clone())).collect();
        set_all(&mut flags, known, false).map_err(|(flag, what)| Error::config(file, flag, what))?;
        Origin::File(file.to_path_buf())
    } else {
        match preset::<F>(weights, shapes, &user) {
            Ok((found, origin)) => {
                flags = found;
                origin
            }
            Err(unlike) => Origin::Shapes { assumed: Vec::new(), unlike },
        }
    };
    let said_by_user: Vec<&str> = user.iter().map(|(flag, _)| *flag).collect();
    set_all(&mut flags, user, true)
        .map_err(|(flag, what)| request!(Flags, Malformed, "{section} flag `{flag}`: {what}"))?;
    flags.validate(weights)?;
    let origin = match origin {
        Origin::Shapes { unlike, .. } => {
            let mut assumed = flags.assumed();
            assumed.retain(|flag| !said_by_user.contains(flag));
            Origin::Shapes { assumed, unlike }
        }
        known => known,
    };
    Ok((flags, origin))
}

/// The section of a file, if it has it, over what the file says of all of them under `common`.
fn said(file: &Path, section: &str) -> Result<Option<serde_json::Map<String, Value>>> {
    let mut all: serde_json::Map<String, Value> = crate::weights::read_json(file)?;
    let mut object = |section: &str| match all.remove(section) {
        None => Ok(None),
        Some(Value::Object(object)) => Ok(Some(object)),
        Some(other) => {
            Err(Error::config(file, section, format!("expected an object of flags, found {other}")))
        }
    };
    let Some(own) = object(section)? else { return Ok(None) };
    let mut flags = object("common")?.unwrap_or_default();
    flags.extend(own);
    Ok(Some(flags))
}

/// The published checkpoint that this is; or one that it is called like, and why it is not.
fn preset<F: Flags>(
    weights: &Path,
    shapes: &Shapes,
    user: &[(&str, Value)],
) -> Result<(F, Origin), Option<String>> {
    let fits = |preset: &Preset| -> Result<F, String> {
        let mut flags: F = preset.flags();
        set_all(&mut flags, user.to_vec(), true).map_err(|(flag, what)| format!("`{flag}`: {what}"))?;
        flags.validate(weights).map_err(|error| error.to_string())?;
        first_difference(&flags.graph(), shapes).map_or(Ok(flags), Err)
    };
    if let Some(preset) = called(F::presets(), weights) {
        let flags = fits(preset).map_err(|why| Some(format!("called like {}, but {why}", preset.name)))?;
        return Ok((flags, Origin::Preset { name: preset.name, by_name: true }));
    }
    let mut found: Option<(F, &'static str)> = None;
    for preset in F::presets() {
        let Ok(flags) = fits(preset) else { continue };
        match &found {
            Some((first, _)) if *first != flags => return Err(None),
            Some(_) => {}
            None => found = Some((flags, preset.name)),
        }
    }
    found.map(|(flags, name)| (flags, Origin::Preset { name, by_name: false })).ok_or(None)
}

/// Sets flags; the picture's size first, of which the levels' sides are shares.
pub(super) fn set_all<F: Flags>(
    flags: &mut F,
    mut values: Vec<(&str, Value)>,
    all_known: bool,
) -> Result<(), (String, String)> {
    values.sort_by_key(|(flag, _)| match *flag {
        "image_size" | "large_size" => 0,
        "small_size" => 1,
        _ => 2,
    });
    for (flag, value) in values {
        match flags.set(flag, &value) {
            Some(Err(what)) => return Err((flag.into(), what)),
            None if all_known => {
                return Err((
                    flag.into(),
                    format!("there is no such flag; there are {}", F::NAMES.join(", ")),
                ));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Flags of the training, of no effect here.
pub(in crate::models) const WITHOUT_EFFECT: [&str; 5] =
    ["dropout", "use_fp16", "classifier_use_fp16", "use_checkpoint", "use_kl"];

pub(in crate::models) fn put<T>(field: &mut T, value: Result<T, String>) -> Option<Result<(), String>> {
    Some(value.map(|value| *field = value))
}

/// The list of a network's flags and what sets each, as the two items of [`Flags`] that say them: one line a flag, so that
/// neither names one that the other does not know. Flags behind `unlisted` are set, and not listed.
macro_rules! flags {
    (
        |$config:ident, $value:ident| { $($($name:literal)|+ => $set:expr),* $(,)? }
        unlisted { $($($other:literal)|+ => $set_other:expr),* $(,)? }
    ) => {
        const NAMES: &'static [&'static str] = &[$($($name),+),*];

        fn set(&mut self, flag: &str, $value: &Value) -> Option<Result<(), String>> {
            let $config = self;
            match flag {
                $($($name)|+ => $set,)*
                $($($other)|+ => $set_other,)*
                _ => WITHOUT_EFFECT.contains(&flag).then_some(Ok(())),
            }
        }
    };
}
pub(in crate::models) use flags;
