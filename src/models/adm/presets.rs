//! The published checkpoints' flags, as their repositories' READMEs give them.

use super::flags::{Preset, called};
use std::path::Path;

/// The U-Net of this file's name.
pub fn named(path: &Path) -> Option<&'static Preset> {
    called(UNETS, path)
}

/// The published checkpoint of that name, of any kind.
pub fn by_name(name: &str) -> Option<&'static Preset> {
    UNETS.iter().chain(CLASSIFIERS).find(|preset| preset.name == name)
}

pub(in crate::models) const fn preset(name: &'static str, flags: &'static str) -> Preset {
    Preset { name, flags, classifier: None }
}

const fn guided(name: &'static str, flags: &'static str, classifier: &'static str, scale: f32) -> Preset {
    Preset { name, flags, classifier: Some((classifier, scale)) }
}

const LSUN: &str = "--attention_resolutions 32,16,8 --class_cond False --diffusion_steps 1000 --image_size 256 \
    --learn_sigma True --noise_schedule linear --num_channels 256 --num_head_channels 64 --num_res_blocks 2 \
    --resblock_updown True --use_scale_shift_norm True";
const IMPROVED_LSUN: &str = "--image_size 256 --num_channels 128 --num_res_blocks 2 --num_heads 1 --learn_sigma True \
    --use_scale_shift_norm False --attention_resolutions 16 --diffusion_steps 1000 --noise_schedule linear \
    --rescale_learned_sigmas False --rescale_timesteps False";
// improved-diffusion rescales timesteps and learned sigmas unless told not to.
const IMPROVED_IMAGENET64: &str = "--image_size 64 --num_channels 128 --num_res_blocks 3 --learn_sigma True \
    --diffusion_steps 4000 --noise_schedule cosine --rescale_learned_sigmas True --rescale_timesteps True";
const IMPROVED_CIFAR10: &str = "--image_size 32 --num_channels 128 --num_res_blocks 3 --learn_sigma True \
    --diffusion_steps 4000 --noise_schedule cosine --rescale_learned_sigmas True --rescale_timesteps True";

/// U-Nets: guided-diffusion's of July 2021, then improved-diffusion's of March 2021.
pub const UNETS: &[Preset] = &[
    guided(
        "64x64_diffusion",
        "--attention_resolutions 32,16,8 --class_cond True --diffusion_steps 1000 --image_size 64 \
         --learn_sigma True --noise_schedule cosine --num_channels 192 --num_head_channels 64 --num_res_blocks 3 \
         --resblock_updown True --use_new_attention_order True --use_scale_shift_norm True",
        "64x64_classifier",
        1.0,
    ),
    guided(
        "128x128_diffusion",
        "--attention_resolutions 32,16,8 --class_cond True --diffusion_steps 1000 --image_size 128 \
         --learn_sigma True --noise_schedule linear --num_channels 256 --num_heads 4 --num_res_blocks 2 \
         --resblock_updown True --use_scale_shift_norm True",
        "128x128_classifier",
        0.5,
    ),
    guided(
        "256x256_diffusion",
        "--attention_resolutions 32,16,8 --class_cond True --diffusion_steps 1000 --image_size 256 \
         --learn_sigma True --noise_schedule linear --num_channels 256 --num_head_channels 64 --num_res_blocks 2 \
         --resblock_updown True --use_scale_shift_norm True",
        "256x256_classifier",
        1.0,
    ),
    guided("256x256_diffusion_uncond", LSUN, "256x256_classifier", 10.0),
    guided(
        "512x512_diffusion",
        "--attention_resolutions 32,16,8 --class_cond True --diffusion_steps 1000 --image_size 512 \
         --learn_sigma True --noise_schedule linear --num_channels 256 --num_head_channels 64 --num_res_blocks 2 \
         --resblock_updown True --use_scale_shift_norm True",
        "512x512_classifier",
        4.0,
    ),
    preset(
        "64_256_upsampler",
        "--attention_resolutions 32,16,8 --class_cond True --diffusion_steps 1000 --large_size 256 --small_size 64 \
         --learn_sigma True --noise_schedule linear --num_channels 192 --num_heads 4 --num_res_blocks 2 \
         --resblock_updown True --use_scale_shift_norm True",
    ),
    preset(
        "128_512_upsampler",
        "--attention_resolutions 32,16 --class_cond True --diffusion_steps 1000 --large_size 512 --small_size 128 \
         --learn_sigma True --noise_schedule linear --num_channels 192 --num_head_channels 64 --num_res_blocks 2 \
         --resblock_updown True --use_scale_shift_norm True",
    ),
    preset("lsun_bedroom", LSUN),
    preset("lsun_cat", LSUN),
    preset("lsun_horse", LSUN),
    preset("lsun_horse_nodropout", LSUN),
    // Choi et al. 2021 (ILVR), by the flags that Semantic Diffusion Guidance's README gives it.
    preset(
        "ffhq_10m",
        "--attention_resolutions 16 --class_cond False --diffusion_steps 1000 --image_size 256 --learn_sigma True \
         --noise_schedule linear --num_channels 128 --num_head_channels 64 --num_res_blocks 1 \
         --resblock_updown True --use_scale_shift_norm True",
    ),
    preset("imagenet64_uncond_100M_1500K", IMPROVED_IMAGENET64),
    preset("imagenet64_uncond_vlb_100M_1500K", IMPROVED_IMAGENET64),
    preset("cifar10_uncond_50M_500K", IMPROVED_CIFAR10),
    preset("cifar10_uncond_vlb_50M_500K", IMPROVED_CIFAR10),
    preset(
        "imagenet64_cond_270M_250K",
        "--image_size 64 --num_channels 192 --num_res_blocks 3 --learn_sigma True --class_cond True \
         --diffusion_steps 4000 --noise_schedule cosine --rescale_learned_sigmas False --rescale_timesteps False",
    ),
    preset(
        "upsample_cond_500K",
        "--large_size 256 --small_size 64 --num_channels 192 --num_res_blocks 2 --learn_sigma True \
         --class_cond True --attention_resolutions 16,8 --diffusion_steps 4000 --noise_schedule linear \
         --rescale_learned_sigmas False --rescale_timesteps False",
    ),
    preset("lsun_uncond_100M_1200K_bs128", IMPROVED_LSUN),
    preset("lsun_uncond_100M_2400K_bs64", IMPROVED_LSUN),
];

/// Noisy classifiers.
pub const CLASSIFIERS: &[Preset] = &[
    preset("64x64_classifier", "--image_size 64 --classifier_depth 4"),
    preset("128x128_classifier", "--image_size 128"),
    preset("256x256_classifier", "--image_size 256"),
    preset("512x512_classifier", "--image_size 512"),
];
