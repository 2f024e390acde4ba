//! The flags of the U-Net and of the classifier.

use super::classifier::{self, Pool};
use super::detect::{self, Shapes};
use super::flags::{Flags, Preset, WITHOUT_EFFECT, put};
use super::presets;
use super::unet::Config;
use super::values::{factors, list, multiples, number, optional, pool, schedule, truth};
use crate::error::Result;
use crate::graph::Graph;
use serde_json::Value;
use std::path::Path;

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
