//! Imagen's Efficient U-Net (Saharia et al. 2022, arXiv:2205.11487, appendix B) as a config of the same blocks.
//!
//! Against the usual U-Net: most residual blocks sit at the low resolutions; skip connections are scaled by 1/√2;
//! each level halves the size before its blocks and doubles it after them. Nobody has published weights, so the
//! layout is ours: a `UNet2DConditionModel` config with `downsample_first` and `scale_skips`, which a folder's
//! `unet/config.json` may say as well.

use super::unet::{Config, PerLevel};

/// 64 → 256 pixels, appendix F: 128 channels times (1, 2, 4, 8), (2, 4, 8, 8) blocks, attention at the last level.
pub fn super_resolution_256() -> Config {
    Config { sample_size: 256, ..base() }
}

/// 256 → 1024 pixels: the same widths and blocks; the last level attends to the text only.
pub fn super_resolution_1024() -> Config {
    Config { sample_size: 1024, only_cross_attention: PerLevel::All(true), ..base() }
}

fn base() -> Config {
    let levels = 4;
    let types = |plain: &str, cross: &str, cross_at: usize| {
        (0..levels).map(|i| if i == cross_at { cross.to_string() } else { plain.to_string() }).collect()
    };
    Config {
        in_channels: 6,
        out_channels: 3,
        block_out_channels: vec![128, 256, 512, 1024],
        layers_per_block: PerLevel::Each(vec![2, 4, 8, 8]),
        down_block_types: types("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D", levels - 1),
        up_block_types: types("ResnetUpsampleBlock2D", "SimpleCrossAttnUpBlock2D", 0),
        attention_head_dim: PerLevel::All(64),
        cross_attention_dim: 1024,
        cross_attention_norm: Some("layer_norm".into()),
        encoder_hid_dim: Some(4096),
        encoder_hid_dim_type: Some("text_proj".into()),
        addition_embed_type: Some("text".into()),
        class_embed_type: Some("timestep".into()),
        resnet_time_scale_shift: "scale_shift".into(),
        downsample_first: true,
        scale_skips: true,
        ..Config::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::plan::{Limits, Plan};
    use crate::graph::{Graph, Source, Storage};
    use crate::models::unet::Inputs;

    fn record(config: &Config, side: usize) -> Graph {
        config.validate("efficient".as_ref()).unwrap();
        let mut g = Graph::new();
        let x = g.input("x", &[1, side, side, 6], Storage::Elem);
        let t = g.input("t", &[1], Storage::F32);
        let context = g.input("context", &[1, 77, 4096], Storage::Elem);
        let level = g.input("noise_level", &[1], Storage::F32);
        let inputs = Inputs {
            x: &x,
            low_res: None,
            t: &t,
            context: &context,
            mask: None,
            noise_level: Some(&level),
            class_labels: None,
        };
        let out = config.forward(&mut g, &inputs);
        assert_eq!(out.shape, [1, side, side, 3]);
        g.output("out", &out);
        g
    }

    #[test]
    fn downsampling_comes_first_and_upsampling_last() {
        let g = record(&super_resolution_256(), 256);
        let side_of = |label: &str| {
            let node = g.nodes.iter().find(|n| n.label == label).unwrap_or_else(|| panic!("no node {label}"));
            g.info(node.output()).shape[1]
        };
        assert_eq!(side_of("conv_in"), 256);
        for (level, side) in [128, 64, 32, 16].into_iter().enumerate() {
            assert_eq!(side_of(&format!("down_blocks.{level}.resnets.0.conv1")), side);
            assert_eq!(side_of(&format!("up_blocks.{}.resnets.0.conv1", 3 - level)), side);
            assert_eq!(side_of(&format!("up_blocks.{}.upsamplers.0.conv1", 3 - level)), 2 * side);
        }
        assert_eq!(side_of("conv_out"), 256);
        // Nearly all convolution weights sit at the two lowest resolutions.
        let low = |name: &str| {
            ["down_blocks.2", "down_blocks.3", "mid", "up_blocks.0", "up_blocks.1"]
                .iter()
                .any(|p| name.starts_with(p))
        };
        let count = |f: &dyn Fn(&str) -> bool| -> usize {
            let sized = g.tensors.iter().filter_map(|t| match &t.source {
                Source::Weight { parts, shape, .. } if shape.len() == 4 && f(&parts[0].name) => Some(t.len()),
                _ => None,
            });
            sized.sum()
        };
        let share = count(&low) as f64 / count(&|_| true) as f64;
        assert!(share > 0.9, "{share}");
    }

    #[test]
    fn a_megapixel_plans_within_four_gigabytes_of_f16() {
        let g = record(&super_resolution_1024(), 1024);
        let limits = Limits { align: 256, max_buffer: 1 << 31 };
        let bytes = |id| g.info(id).len() as u64 * 2;
        let plan = Plan::new(&g, limits, bytes, &[]).unwrap();
        let weights: usize =
            g.tensors.iter().filter(|t| matches!(t.source, Source::Weight { .. })).map(|t| t.len() * 2).sum();
        assert!(plan.bytes() + weights as u64 <= 4 << 30, "{} + {weights} bytes", plan.bytes());
        assert!(
            plan.bytes() as f64 <= 1.15 * plan.lower_bound as f64,
            "{} of {}",
            plan.bytes(),
            plan.lower_bound
        );
    }
}
