//! The hyper-parameters of these networks are command-line flags, which the checkpoints do not hold. [`find`] finds them:
//! in a JSON file beside the weights, else in the [`presets`] of the published checkpoints, else in the
//! tensors' shapes with guided-diffusion's defaults for the rest; and the user's word is above all of them.

use super::Config;
use super::classifier::{self, Pool};
use super::detect::{self, Shapes, first_difference};
use super::presets::{self, Preset};
use super::values::{factors, list, multiples, number, optional, pool, schedule, truth};
use crate::error::{Error, Result};
use crate::graph::Graph;
use serde_json::Value;
use std::fmt;
use std::path::{Path, PathBuf};

/// How the betas grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoiseSchedule {
    /// 1e-4 to 0.02 in a thousand steps, scaled for other numbers of them.
    Linear,
    /// Squared cosine (arXiv:2102.09672).
    Cosine,
}

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
        .map_err(|(flag, what)| Error::Request(format!("{section} flag `{flag}`: {what}")))?;
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
    if let Some(preset) = presets::called(F::presets(), weights) {
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

impl Flags for Config {
    const NAMES: &'static [&'static str] = &[
        "image_size",
        "large_size",
        "small_size",
        "num_channels",
        "channel_mult",
        "num_res_blocks",
        "attention_resolutions",
        "num_heads",
        "num_head_channels",
        "num_heads_upsample",
        "use_scale_shift_norm",
        "resblock_updown",
        "conv_resample",
        "use_new_attention_order",
        "class_cond",
        "num_classes",
        "learn_sigma",
        "noise_schedule",
        "diffusion_steps",
        "rescale_timesteps",
        "rescale_learned_sigmas",
        "predict_xstart",
        "sigma_small",
    ];
    const SIZED: &'static [(&'static str, &'static str)] =
        &[("channel_mult", ""), ("attention_resolutions", "16,8")];

    fn set(&mut self, flag: &str, value: &Value) -> Option<Result<(), String>> {
        match flag {
            "image_size" | "large_size" => put(&mut self.image_size, number(value)),
            "small_size" => put(&mut self.small_size, optional(value)),
            "num_channels" => put(&mut self.num_channels, number(value)),
            "channel_mult" => {
                put(&mut self.channel_mult, multiples(value, self.image_size, self.small_size.is_some()))
            }
            "num_res_blocks" => put(&mut self.num_res_blocks, number(value)),
            "attention_resolutions" => put(&mut self.attention_resolutions, factors(value, self.image_size)),
            "attention_resolutions_ds" => put(&mut self.attention_resolutions, list(value)),
            "num_heads" => put(&mut self.num_heads, number(value)),
            "num_head_channels" => put(&mut self.num_head_channels, optional(value)),
            "num_heads_upsample" => put(&mut self.num_heads_upsample, optional(value)),
            "use_scale_shift_norm" => put(&mut self.use_scale_shift_norm, truth(value)),
            "resblock_updown" => put(&mut self.resblock_updown, truth(value)),
            "conv_resample" => put(&mut self.conv_resample, truth(value)),
            "use_new_attention_order" => put(&mut self.use_new_attention_order, truth(value)),
            "class_cond" => put(&mut self.class_cond, truth(value)),
            "num_classes" => put(&mut self.num_classes, number(value)),
            "learn_sigma" => put(&mut self.learn_sigma, truth(value)),
            "noise_schedule" => put(&mut self.noise_schedule, schedule(value)),
            "diffusion_steps" => put(&mut self.diffusion_steps, number(value)),
            "rescale_timesteps" => put(&mut self.rescale_timesteps, truth(value)),
            "rescale_learned_sigmas" => put(&mut self.rescale_learned_sigmas, truth(value)),
            "predict_xstart" => put(&mut self.predict_xstart, truth(value)),
            "sigma_small" => put(&mut self.sigma_small, truth(value)),
            _ => WITHOUT_EFFECT.contains(&flag).then_some(Ok(())),
        }
    }

    fn detect(shapes: &Shapes) -> Result<Self, String> {
        detect::unet(shapes)
    }

    fn assumed(&self) -> Vec<&'static str> {
        let always = [
            "use_new_attention_order",
            "noise_schedule",
            "diffusion_steps",
            "rescale_timesteps",
            "predict_xstart",
        ];
        let mut assumed = match self.small_size {
            Some(_) => vec!["large_size", "small_size"],
            None => vec!["image_size"],
        };
        assumed.extend(self.num_head_channels.is_none().then_some("num_heads"));
        assumed.extend(always);
        assumed.extend((!self.learn_sigma).then_some("sigma_small"));
        assumed
    }

    fn presets() -> &'static [Preset] {
        presets::UNETS
    }

    fn validate(&self, path: &Path) -> Result<()> {
        self.validate(path)
    }

    fn graph(&self) -> Graph {
        self.graph()
    }
}

impl Flags for classifier::Config {
    const NAMES: &'static [&'static str] = &[
        "image_size",
        "classifier_width",
        "channel_mult",
        "classifier_depth",
        "classifier_attention_resolutions",
        "num_head_channels",
        "classifier_pool",
        "classifier_use_scale_shift_norm",
        "classifier_resblock_updown",
        "use_new_attention_order",
        "num_classes",
    ];
    const SIZED: &'static [(&'static str, &'static str)] =
        &[("channel_mult", ""), ("classifier_attention_resolutions", "32,16,8")];

    fn set(&mut self, flag: &str, value: &Value) -> Option<Result<(), String>> {
        let attention = &mut self.classifier_attention_resolutions;
        match flag {
            "image_size" => put(&mut self.image_size, number(value)),
            "classifier_width" => put(&mut self.classifier_width, number(value)),
            "channel_mult" => put(&mut self.channel_mult, multiples(value, self.image_size, false)),
            "classifier_depth" => put(&mut self.classifier_depth, number(value)),
            "classifier_attention_resolutions" => put(attention, factors(value, self.image_size)),
            "classifier_attention_resolutions_ds" | "attention_resolutions_ds" => put(attention, list(value)),
            "num_head_channels" => put(&mut self.num_head_channels, number(value)),
            "classifier_pool" => put(&mut self.classifier_pool, pool(value)),
            "classifier_use_scale_shift_norm" => put(&mut self.classifier_use_scale_shift_norm, truth(value)),
            "classifier_resblock_updown" => put(&mut self.classifier_resblock_updown, truth(value)),
            "use_new_attention_order" => put(&mut self.use_new_attention_order, truth(value)),
            "num_classes" => put(&mut self.num_classes, number(value)),
            _ => WITHOUT_EFFECT.contains(&flag).then_some(Ok(())),
        }
    }

    fn detect(shapes: &Shapes) -> Result<Self, String> {
        detect::classifier(shapes)
    }

    fn assumed(&self) -> Vec<&'static str> {
        let mut assumed = vec!["num_head_channels", "use_new_attention_order"];
        // Attention pooling has a position for every pixel.
        assumed.extend((self.classifier_pool == Pool::Adaptive).then_some("image_size"));
        assumed
    }

    fn presets() -> &'static [Preset] {
        presets::CLASSIFIERS
    }

    fn validate(&self, path: &Path) -> Result<()> {
        self.validate(path)
    }

    fn graph(&self) -> Graph {
        self.graph()
    }
}
