//! What flags must say before a forward may be recorded; as in [`check`](crate::models::check).

use super::classifier::{self, Pool};
use super::trunk::{GROUPS, Heads, Trunk};
use super::unet::Config;
use crate::error::Result;
use crate::kernels::attention::MAX_HEAD_DIM;
use crate::models::check::{MAX_CHANNELS, MAX_LAYERS, MAX_LEVELS, MAX_SIDE, range, require};
use std::path::Path;

/// Most classes.
const MAX_CLASSES: usize = 1 << 20;
/// Most steps of a training.
const MAX_STEPS: usize = 1_000_000;

/// What the networks call their flags.
struct Names {
    channels: &'static str,
    blocks: &'static str,
    attention: &'static str,
}

impl Trunk<'_> {
    fn validate(&self, path: &Path, names: &Names, image_size: usize) -> Result<()> {
        let levels = self.levels();
        require(path, "channel_mult", (1..=MAX_LEVELS).contains(&levels), || {
            format!("{levels} levels; 1 to {MAX_LEVELS} are supported")
        })?;
        range(path, names.channels, self.num_channels, MAX_CHANNELS)?;
        require(path, names.channels, self.num_channels.is_multiple_of(2), || {
            format!("{} channels: sines and cosines of the time need an even number", self.num_channels)
        })?;
        for (level, mult) in self.channel_mult.iter().enumerate() {
            let width = self.width(level);
            let fits = width > 0 && width <= MAX_CHANNELS && width.is_multiple_of(GROUPS);
            require(path, "channel_mult", fits, || {
                format!(
                    "{mult} times {} channels are not a multiple of {GROUPS} up to {MAX_CHANNELS}",
                    self.num_channels
                )
            })?;
        }
        range(path, names.blocks, self.num_res_blocks, MAX_LAYERS)?;
        for &factor in self.attention {
            require(path, names.attention, factor.is_power_of_two(), || {
                format!(
                    "attention where the picture is {factor} times smaller; levels are 1, 2, 4, … times smaller"
                )
            })?;
        }
        range(path, "image_size", image_size, MAX_SIDE)?;
        let multiple = 1 << (levels - 1);
        require(path, "image_size", image_size.is_multiple_of(multiple), || {
            format!("{image_size} is no multiple of {multiple}, which this many levels need")
        })
    }

    /// Whether heads fit the levels with attention; the middle, as wide as the last level, has it always.
    fn heads(&self, path: &Path, heads: Heads) -> Result<()> {
        let last = self.levels() - 1;
        for level in (0..=last).filter(|&level| level == last || self.attends(level)) {
            let (key, value) = match heads {
                Heads::Count(count) => ("num_heads", count),
                Heads::Channels(columns) => ("num_head_channels", columns),
            };
            let width = self.width(level);
            let fits = value > 0
                && width.is_multiple_of(value)
                && (1..=MAX_HEAD_DIM).contains(&heads.columns(width));
            require(path, key, fits, || {
                format!("{value} does not divide {width} channels into heads (of at most {MAX_HEAD_DIM})")
            })?;
        }
        Ok(())
    }
}

impl Config {
    /// Refuses what the forward cannot record; `path` is the file, for the message.
    pub fn validate(&self, path: &Path) -> Result<()> {
        let names =
            Names { channels: "num_channels", blocks: "num_res_blocks", attention: "attention_resolutions" };
        let trunk = self.trunk();
        trunk.validate(path, &names, self.image_size)?;
        trunk.heads(path, trunk.heads)?;
        trunk.heads(path, self.heads_up())?;
        if let Some(side) = self.small_size {
            range(path, "small_size", side, MAX_SIDE)?;
        }
        range(path, "num_classes", self.num_classes, MAX_CLASSES)?;
        range(path, "diffusion_steps", self.diffusion_steps, MAX_STEPS)
    }
}

impl classifier::Config {
    /// Refuses what the forward cannot record; `path` is the file, for the message.
    pub fn validate(&self, path: &Path) -> Result<()> {
        let names = Names {
            channels: "classifier_width",
            blocks: "classifier_depth",
            attention: "classifier_attention_resolutions",
        };
        let trunk = self.trunk();
        trunk.validate(path, &names, self.image_size)?;
        trunk.heads(path, trunk.heads)?;
        let pixels = (self.image_size / self.size_multiple()).pow(2);
        require(path, "image_size", self.classifier_pool == Pool::Adaptive || pixels <= MAX_SIDE, || {
            format!("attention to {pixels} pixels; {MAX_SIDE} are supported")
        })?;
        range(path, "num_classes", self.num_classes, MAX_CLASSES)
    }
}

#[cfg(test)]
pub(in crate::models) mod tests {
    use super::super::flags::Flags;
    use super::*;
    use serde_json::{Value, json};

    /// Every pair of flags set to nonsense is refused or recorded.
    pub(in crate::models) fn refused_or_recorded<F: Flags>(base: &F) {
        let nonsense = json!([
            0,
            1,
            2,
            3,
            5,
            7,
            32,
            33,
            512,
            1_000_000_007,
            u64::MAX,
            -1,
            0.5,
            1e300,
            true,
            false,
            null,
            "",
            "a",
            "cosine",
            "adaptive",
            "8,4,2",
            [],
            [0],
            [1],
            [1, 2],
            [0.5, 1],
            [1e300],
            [-1],
            [1, 1, 1, 1, 1, 1, 1, 1, 1],
            {}
        ]);
        let values = nonsense.as_array().unwrap();
        let path = Path::new("flags");
        let (mut refused, mut recorded) = (0, 0);
        let mut attempt = |changes: &[(&str, &Value)]| {
            let mut flags = base.clone();
            let set = changes.iter().all(|(flag, value)| flags.set(flag, value).unwrap().is_ok());
            if set && flags.validate(path).is_ok() {
                recorded += usize::from(flags.graph().weights().count() > 0);
            } else {
                refused += 1;
            }
        };
        for (i, flag) in F::NAMES.iter().enumerate() {
            values.iter().for_each(|value| attempt(&[(flag, value)]));
            for (j, value) in values.iter().enumerate() {
                let other = F::NAMES[(i + j) % F::NAMES.len()];
                attempt(&[(flag, value), (other, &values[(7 * i + j) % values.len()])]);
            }
        }
        assert!(refused > 100 && recorded > 50, "{refused} refused, {recorded} recorded");
    }

    #[test]
    fn no_flags_reach_an_assertion() {
        let base = Config {
            image_size: 16,
            num_channels: 32,
            channel_mult: vec![1.0, 2.0],
            num_res_blocks: 1,
            attention_resolutions: vec![2],
            ..Config::default()
        };
        refused_or_recorded(&base);
        let base = classifier::Config {
            image_size: 16,
            classifier_width: 32,
            channel_mult: vec![1.0, 2.0],
            classifier_depth: 1,
            classifier_attention_resolutions: vec![2],
            num_head_channels: 16,
            ..classifier::Config::default()
        };
        refused_or_recorded(&base);
    }

    #[test]
    fn messages_name_flag_and_reason() {
        let refused = |config: Config, parts: &[&str]| {
            let message = config.validate(Path::new("x.pt")).unwrap_err().to_string();
            for part in ["x.pt"].iter().chain(parts) {
                assert!(message.contains(part), "{part} is not in: {message}");
            }
        };
        refused(Config { num_heads: 3, ..Config::default() }, &["num_heads", "3 does not divide 512"]);
        refused(Config { image_size: 60, ..Config::default() }, &["image_size", "no multiple of 8"]);
        refused(Config { channel_mult: vec![0.3], ..Config::default() }, &["channel_mult", "0.3 times 128"]);
        refused(Config { attention_resolutions: vec![3], ..Config::default() }, &["3 times smaller"]);
    }
}
