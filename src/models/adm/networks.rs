//! The flags of the U-Net and of the classifier.

use super::classifier::{self, Pool};
use super::detect::{self, Shapes};
use super::flags::{Flags, Preset, WITHOUT_EFFECT, flags, put};
use super::presets;
use super::unet::Config;
use super::values::{factors, list, multiples, number, optional, pool, schedule, truth};
use crate::error::Result;
use crate::graph::Graph;
use crate::models::network::DenoisingNetwork;
use serde_json::Value;
use std::path::Path;

impl Flags for Config {
    flags! {
        |config, value| {
            "image_size" | "large_size" => put(&mut config.image_size, number(value)),
            "small_size" => put(&mut config.small_size, optional(value)),
            "num_channels" => put(&mut config.num_channels, number(value)),
            "channel_mult" => put(&mut config.channel_mult, multiples(value, config.image_size, config.small_size.is_some())),
            "num_res_blocks" => put(&mut config.num_res_blocks, number(value)),
            "attention_resolutions" => put(&mut config.attention_resolutions, factors(value, config.image_size)),
            "num_heads" => put(&mut config.num_heads, number(value)),
            "num_head_channels" => put(&mut config.num_head_channels, optional(value)),
            "num_heads_upsample" => put(&mut config.num_heads_upsample, optional(value)),
            "use_scale_shift_norm" => put(&mut config.use_scale_shift_norm, truth(value)),
            "resblock_updown" => put(&mut config.resblock_updown, truth(value)),
            "conv_resample" => put(&mut config.conv_resample, truth(value)),
            "use_new_attention_order" => put(&mut config.use_new_attention_order, truth(value)),
            "class_cond" => put(&mut config.class_cond, truth(value)),
            "num_classes" => put(&mut config.num_classes, number(value)),
            "learn_sigma" => put(&mut config.learn_sigma, truth(value)),
            "noise_schedule" => put(&mut config.noise_schedule, schedule(value)),
            "diffusion_steps" => put(&mut config.diffusion_steps, number(value)),
            "rescale_timesteps" => put(&mut config.rescale_timesteps, truth(value)),
            "rescale_learned_sigmas" => put(&mut config.rescale_learned_sigmas, truth(value)),
            "predict_xstart" => put(&mut config.predict_xstart, truth(value)),
            "sigma_small" => put(&mut config.sigma_small, truth(value)),
        }
        unlisted {
            "attention_resolutions_ds" => put(&mut config.attention_resolutions, list(value)),
        }
    }

    const SIZED: &'static [(&'static str, &'static str)] =
        &[("channel_mult", ""), ("attention_resolutions", "16,8")];

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
        self.smallest()
    }
}

impl Flags for classifier::Config {
    flags! {
        |config, value| {
            "image_size" => put(&mut config.image_size, number(value)),
            "classifier_width" => put(&mut config.classifier_width, number(value)),
            "channel_mult" => put(&mut config.channel_mult, multiples(value, config.image_size, false)),
            "classifier_depth" => put(&mut config.classifier_depth, number(value)),
            "classifier_attention_resolutions" => put(&mut config.classifier_attention_resolutions, factors(value, config.image_size)),
            "num_head_channels" => put(&mut config.num_head_channels, number(value)),
            "classifier_pool" => put(&mut config.classifier_pool, pool(value)),
            "classifier_use_scale_shift_norm" => put(&mut config.classifier_use_scale_shift_norm, truth(value)),
            "classifier_resblock_updown" => put(&mut config.classifier_resblock_updown, truth(value)),
            "use_new_attention_order" => put(&mut config.use_new_attention_order, truth(value)),
            "num_classes" => put(&mut config.num_classes, number(value)),
        }
        unlisted {
            "classifier_attention_resolutions_ds" | "attention_resolutions_ds" => put(&mut config.classifier_attention_resolutions, list(value)),
        }
    }

    const SIZED: &'static [(&'static str, &'static str)] =
        &[("channel_mult", ""), ("classifier_attention_resolutions", "32,16,8")];

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
