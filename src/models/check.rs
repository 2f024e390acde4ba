//! What a config must say before its forward may be recorded, with a clear message for each thing: no file may reach
//! an assertion of the recording. Sizes are bounded well above every published model; after this check the shapes of
//! the checkpoint's tensors are compared, before anything of their size is allocated.

use super::network::DenoisingNetwork;
use super::unet::{self, CROSS_DOWN, CROSS_UP, MID, RESNET_DOWN, RESNET_UP};
use super::unet2d::{self, DOWN, UP};
use crate::error::{Error, Result};
use crate::kernels::attention::MAX_HEAD_DIM;
use crate::kernels::epilogue::Activation;
use std::path::Path;

pub(super) const MAX_CHANNELS: usize = 65_536;
pub(super) const MAX_LEVELS: usize = 8;
pub(super) const MAX_LAYERS: usize = 64;
pub(super) const MAX_SIDE: usize = 8_192;
const MAX_KERNEL: usize = 15;

/// Refuses a config with the key and the reason.
pub(crate) fn require(path: &Path, key: &str, holds: bool, what: impl Fn() -> String) -> Result<()> {
    if holds { Ok(()) } else { Err(Error::config(path, key, what())) }
}

/// Whole numbers from 1 to `most`.
pub(super) fn range(path: &Path, key: &str, value: usize, most: usize) -> Result<()> {
    require(path, key, (1..=most).contains(&value), || {
        format!("{value} is out of range; 1 to {most} are supported")
    })
}

/// A divisor of residual sums or the like.
fn factor(path: &Path, key: &str, value: f32) -> Result<()> {
    require(path, key, value.is_normal(), || {
        format!("{value} cannot be divided by; give a number other than 0")
    })
}

/// Added to a variance.
pub(crate) fn epsilon(path: &Path, key: &str, value: f32) -> Result<()> {
    require(path, key, (0.0..1.0).contains(&value), || {
        format!("{value} is out of range; give a small number above 0")
    })
}

fn activation(path: &Path, key: &str, name: Option<&str>) -> Result<()> {
    require(path, key, name.is_none_or(|n| Activation::from_name(n).is_some()), || {
        format!("activation `{}` is unknown", name.unwrap_or_default())
    })
}

fn one_of(path: &Path, key: &str, value: Option<&str>, allowed: &[&str]) -> Result<()> {
    require(path, key, value.is_none_or(|v| allowed.contains(&v)), || {
        format!("`{}` is not supported; {} are", value.unwrap_or_default(), allowed.join(" and "))
    })
}

/// What the levels of both U-Nets have in common.
struct Levels<'a> {
    path: &'a Path,
    channels: &'a [usize],
    groups: usize,
    eps: f32,
    freq_shift: f64,
    sample_size: usize,
    size_multiple: usize,
}

impl Levels<'_> {
    fn check(&self) -> Result<()> {
        let (path, groups) = (self.path, self.groups);
        require(path, "norm_num_groups", groups > 0, || "must be at least 1".into())?;
        for &c in self.channels {
            range(path, "block_out_channels", c, MAX_CHANNELS)?;
            require(path, "block_out_channels", c % groups == 0, || {
                format!("{c} channels do not divide into norm_num_groups = {groups} groups")
            })?;
        }
        let first = self.channels[0];
        require(path, "block_out_channels", first.is_multiple_of(2), || {
            format!("{first} channels at the first level: sines and cosines of the time need an even number")
        })?;
        // The frequencies' exponents are divided by half the channels less the shift.
        require(path, "freq_shift", (0.0..first as f64 / 2.0).contains(&self.freq_shift), || {
            format!("{} is out of range; 0 and 1 are usual", self.freq_shift)
        })?;
        epsilon(path, "norm_eps", self.eps)?;
        range(path, "sample_size", self.sample_size, MAX_SIDE)?;
        let multiple = self.size_multiple;
        require(path, "sample_size", self.sample_size.is_multiple_of(multiple), || {
            format!("{} is no multiple of {multiple}, which this many levels need", self.sample_size)
        })
    }
}

/// First of all: how many levels there are, which everything else counts on.
fn levels(path: &Path, channels: &[usize]) -> Result<()> {
    require(path, "block_out_channels", (1..=MAX_LEVELS).contains(&channels.len()), || {
        format!("{} levels; 1 to {MAX_LEVELS} are supported", channels.len())
    })
}

fn block_types(path: &Path, key: &str, types: &[String], levels: usize, allowed: &[&str]) -> Result<()> {
    require(path, key, types.len() == levels, || format!("{} entries for {levels} levels", types.len()))?;
    types.iter().try_for_each(|t| {
        require(path, key, allowed.contains(&t.as_str()), || {
            format!("block type `{t}` is unknown; {} are supported", allowed.join(", "))
        })
    })
}

fn heads(path: &Path, head: usize, channels: usize) -> Result<()> {
    let fits = head > 0 && head <= MAX_HEAD_DIM && channels.is_multiple_of(head);
    require(path, "attention_head_dim", fits, || {
        format!("heads of {head} do not divide {channels} channels (at most {MAX_HEAD_DIM})")
    })
}

impl unet::Config {
    /// Refuses what the forward cannot record; `path` is the config's file, for the message.
    pub fn validate(&self, path: &Path) -> Result<()> {
        levels(path, &self.block_out_channels)?;
        Levels {
            path,
            channels: &self.block_out_channels,
            groups: self.norm_num_groups,
            eps: self.norm_eps,
            freq_shift: self.freq_shift,
            sample_size: self.sample_size,
            size_multiple: self.size_multiple(),
        }
        .check()?;
        self.validate_levels(path)?;
        one_of(path, "class_embed_type", self.class_embed_type.as_deref(), &["timestep", "identity"])?;
        let (kind, inputs) = match self.is_super_resolution() {
            true => ("a super-resolution stage", 6),
            false => ("a base stage", 3),
        };
        require(path, "in_channels", self.in_channels == inputs, || {
            format!("{} channels; {kind} takes {inputs}", self.in_channels)
        })?;
        require(path, "out_channels", matches!(self.out_channels, 3 | 6), || {
            format!("{} channels; 3 are supported, or 6 with a learned variance", self.out_channels)
        })?;
        if let Some(dim) = self.time_embedding_dim {
            range(path, "time_embedding_dim", dim, MAX_CHANNELS)?;
        }
        for (key, side) in
            [("conv_in_kernel", self.conv_in_kernel), ("conv_out_kernel", self.conv_out_kernel)]
        {
            require(path, key, side % 2 == 1 && side <= MAX_KERNEL, || {
                format!("must be odd, at most {MAX_KERNEL}")
            })?;
        }
        factor(path, "mid_block_scale_factor", self.mid_block_scale_factor)?;
        factor(path, "resnet_out_scale_factor", self.resnet_out_scale_factor)?;
        let shift = Some(self.resnet_time_scale_shift.as_str());
        one_of(path, "resnet_time_scale_shift", shift, &["default", "scale_shift"])?;
        activation(path, "act_fn", Some(&self.act_fn))?;
        activation(path, "time_embedding_act_fn", self.time_embedding_act_fn.as_deref())?;
        require(path, "center_input_sample", !self.center_input_sample, || "true is not supported".into())?;
        self.validate_text(path)
    }

    fn validate_levels(&self, path: &Path) -> Result<()> {
        let levels = self.block_out_channels.len();
        block_types(path, "down_block_types", &self.down_block_types, levels, &[RESNET_DOWN, CROSS_DOWN])?;
        block_types(path, "up_block_types", &self.up_block_types, levels, &[RESNET_UP, CROSS_UP])?;
        if let Some(mid) = &self.mid_block_type {
            require(path, "mid_block_type", mid == MID, || {
                format!("`{mid}` is unknown; {MID} is supported")
            })?;
        }
        let lists = [
            ("layers_per_block", self.layers_per_block.covers(levels)),
            ("attention_head_dim", self.attention_head_dim.covers(levels)),
            ("only_cross_attention", self.only_cross_attention.covers(levels)),
        ];
        for (key, covers) in lists {
            require(path, key, covers, || format!("a list needs one entry for each of the {levels} levels"))?;
        }
        for (level, &c) in self.block_out_channels.iter().enumerate() {
            range(path, "layers_per_block", self.layers_per_block.at(level), MAX_LAYERS)?;
            let up = levels - 1 - level;
            let middle = level + 1 == levels && self.mid_block_type.is_some();
            if self.down_block_types[level] == CROSS_DOWN || middle {
                heads(path, self.attention_head_dim.at(level), c)?;
            }
            if self.up_block_types[up] == CROSS_UP {
                heads(path, self.attention_head_dim.at(up), c)?;
            }
        }
        Ok(())
    }

    fn validate_text(&self, path: &Path) -> Result<()> {
        range(path, "cross_attention_dim", self.cross_attention_dim, MAX_CHANNELS)?;
        let norm = self.cross_attention_norm.as_deref();
        one_of(path, "cross_attention_norm", norm, &["group_norm", "layer_norm"])?;
        one_of(path, "encoder_hid_dim_type", self.encoder_hid_dim_type.as_deref(), &["text_proj"])?;
        one_of(path, "addition_embed_type", self.addition_embed_type.as_deref(), &["text"])?;
        let grouped = norm != Some("group_norm") || self.cross_attention_dim.is_multiple_of(32);
        require(path, "cross_attention_dim", grouped, || {
            "must be a multiple of 32 where cross_attention_norm is group_norm".into()
        })?;
        if let Some(dim) = self.encoder_hid_dim {
            range(path, "encoder_hid_dim", dim, MAX_CHANNELS)?;
        }
        let projects = self.encoder_hid_dim_type.is_none() || self.encoder_hid_dim.is_some();
        require(path, "encoder_hid_dim", projects, || {
            "is needed where encoder_hid_dim_type is text_proj".into()
        })?;
        let (heads, text) = (self.addition_embed_type_num_heads, self.context_channels());
        let pools = heads > 0 && text % heads == 0 && text / heads <= MAX_HEAD_DIM;
        require(path, "addition_embed_type_num_heads", self.addition_embed_type.is_none() || pools, || {
            format!(
                "{heads} heads do not divide the text's {text} channels (a head has at most {MAX_HEAD_DIM})"
            )
        })
    }
}

impl unet2d::Config {
    /// Refuses what the forward cannot record; `path` is the config's file, for the message.
    pub fn validate(&self, path: &Path) -> Result<()> {
        let count = self.block_out_channels.len();
        levels(path, &self.block_out_channels)?;
        Levels {
            path,
            channels: &self.block_out_channels,
            groups: self.norm_num_groups,
            eps: self.norm_eps,
            freq_shift: self.freq_shift,
            sample_size: self.sample_size,
            size_multiple: self.size_multiple(),
        }
        .check()?;
        block_types(path, "down_block_types", &self.down_block_types, count, &DOWN)?;
        block_types(path, "up_block_types", &self.up_block_types, count, &UP)?;
        self.validate_attention(path)?;
        require(path, "in_channels", matches!(self.in_channels, 1 | 3 | 6), || {
            format!(
                "{} channels; pictures of 3 (colour) or 1 (grey) are supported, or 6 with one to enlarge",
                self.in_channels
            )
        })?;
        let (channels, learned) = (self.sample_channels(), 2 * self.sample_channels());
        require(path, "out_channels", self.out_channels == channels || self.out_channels == learned, || {
            format!(
                "{} channels; {channels}, or {learned} with a learned variance, are supported",
                self.out_channels
            )
        })?;
        range(path, "layers_per_block", self.layers_per_block, MAX_LAYERS)?;
        if let Some(dim) = self.time_embedding_dim {
            range(path, "time_embedding_dim", dim, MAX_CHANNELS)?;
        }
        require(path, "downsample_padding", self.downsample_padding <= 1, || "must be 0 or 1".into())?;
        factor(path, "mid_block_scale_factor", self.mid_block_scale_factor)?;
        activation(path, "act_fn", Some(&self.act_fn))?;
        for (key, value, allowed) in [
            ("downsample_type", &self.downsample_type, ["conv", "resnet"]),
            ("upsample_type", &self.upsample_type, ["conv", "resnet"]),
            ("resnet_time_scale_shift", &self.resnet_time_scale_shift, ["default", "scale_shift"]),
        ] {
            one_of(path, key, Some(value), &allowed)?;
        }
        require(path, "time_embedding_type", self.time_embedding_type == "positional", || {
            format!("`{}` is not supported; `positional` is", self.time_embedding_type)
        })?;
        require(path, "center_input_sample", !self.center_input_sample, || "true is not supported".into())?;
        require(path, "class_embed_type", self.class_embed_type.is_none(), || {
            "class conditioning is not supported in this layout".into()
        })
    }

    fn validate_attention(&self, path: &Path) -> Result<()> {
        let last = self.block_out_channels.len() - 1;
        for (level, &c) in self.block_out_channels.iter().enumerate() {
            let middle = level == last && self.add_attention;
            if middle || self.down_block_types[level] == DOWN[1] || self.up_block_types[last - level] == UP[1]
            {
                heads(path, self.attention_head_dim.unwrap_or(c), c)?;
            }
            let divides = self.attn_norm_num_groups.is_none_or(|n| n > 0 && c % n == 0);
            require(path, "attn_norm_num_groups", !middle || divides, || {
                format!("does not divide {c} channels")
            })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
