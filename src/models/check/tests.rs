//! Nonsense in configs is refused, or recorded without reaching an assertion.

use super::*;
use crate::device::{Device, ProgramOptions, Weights};
use crate::graph::{Graph, Storage, fuse::fuse, hoist::hoist};
use crate::models::network::Shape;
use crate::models::text_unet::TextUNet;
use crate::models::{prior, text_proj};

fn conditional() -> serde_json::Value {
    serde_json::json!({
        "sample_size": 16, "in_channels": 3, "out_channels": 6, "block_out_channels": [16, 32],
        "down_block_types": [RESNET_DOWN, CROSS_DOWN], "up_block_types": [CROSS_UP, RESNET_UP],
        "attention_head_dim": 8, "cross_attention_dim": 64, "cross_attention_norm": "group_norm",
        "encoder_hid_dim": 48, "addition_embed_type": "text", "addition_embed_type_num_heads": 4,
        "norm_num_groups": 8, "layers_per_block": 1
    })
}

fn unconditional() -> serde_json::Value {
    serde_json::json!({
        "sample_size": 16, "block_out_channels": [16, 32], "norm_num_groups": 8, "layers_per_block": 1,
        "down_block_types": [DOWN[0], DOWN[1]], "up_block_types": [UP[1], UP[0]], "attention_head_dim": 8
    })
}

/// What a file may say instead of each value.
fn nonsense() -> Vec<serde_json::Value> {
    let text = r#"[0, 1, 2, 3, 5, 7, 6, 33, 1000000007, 18446744073709551615, -1, 0.5, 1e-40, 1e300, true, false,
        null, "", "timestep", "identity", "prd", "linear", "group_norm", "gelu", "UpBlock2D", [], [0], [1], [3, 5], [16, 32], [8, 0], [64, 64],
        [1000000007, 16], [16, 16, 16, 16, 16, 16, 16, 16, 16], ["AttnUpBlock2D", "AttnUpBlock2D"],
        ["SimpleCrossAttnUpBlock2D", "SimpleCrossAttnUpBlock2D"], [true, false], [true], {}, {"a": 1}]"#;
    serde_json::from_str(text).unwrap()
}

/// Every config that `base` becomes when one or two of its keys hold nonsense is refused or recorded.
fn records<C: serde::de::DeserializeOwned>(
    base: &serde_json::Value,
    keys: &[&str],
    validate: impl Fn(&C) -> Result<()>,
    record: impl Fn(&C) -> usize,
) {
    let (mut refused, mut recorded) = (0, 0);
    let mut attempt = |changes: &[(&str, &serde_json::Value)]| {
        let mut config = base.clone();
        changes.iter().for_each(|(key, value)| config[*key] = (*value).clone());
        match serde_json::from_value::<C>(config).ok().filter(|c| validate(c).is_ok()) {
            Some(config) => recorded += usize::from(record(&config) > 0),
            None => refused += 1,
        }
    };
    attempt(&[]);
    let values = nonsense();
    for key in keys {
        values.iter().for_each(|value| attempt(&[(key, value)]));
    }
    // Pairs of keys, each time with other values: a full product would take minutes.
    let mut state = 1usize;
    for _ in 0..8_000 {
        let mut draw = |n: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % n
        };
        let (a, b) = (draw(keys.len()), draw(keys.len()));
        let (x, y) = (draw(values.len()), draw(values.len()));
        attempt(&[(keys[a], &values[x]), (keys[b], &values[y])]);
    }
    assert!(refused > 100 && recorded > 100, "{refused} refused, {recorded} recorded");
}

/// Records a guided forward and parts it by what varies, as a run does, once for the pictures of `shape` and once for
/// several times as many; what is made of it ends where the weights are missing.
fn record_forward(network: &dyn DenoisingNetwork, shape: Shape) {
    let channels = network.sample_channels();
    for times in [1, 7] {
        let pictures = times * shape.pictures;
        let shape = Shape { pictures, channels, guided: true, ..shape };
        let mut g = Graph::new();
        let x = g.input("x", &shape.sample(), Storage::F32);
        let t = g.input("t", &[shape.batch()], Storage::F32);
        let out = network.record(&mut g, shape, &x, &t);
        g.output("out", &out);
        let (once, rest) = hoist(&g, &["t", "x"]);
        let (times, mut step) = hoist(&rest, &["x"]);
        let (weights, options) = (Weights::none(), ProgramOptions::default());
        assert!([once, times].into_iter().all(|part| {
            let reads = part.weights().next().is_some();
            Device::Cpu.program(part, &weights, &options).is_err() == reads
        }));
        fuse(&mut step);
        assert!(Device::Cpu.program(step, &weights, &options).is_err());
    }
}

#[test]
fn no_conditional_config_reaches_an_assertion() {
    let keys = [
        "sample_size",
        "in_channels",
        "out_channels",
        "block_out_channels",
        "layers_per_block",
        "down_block_types",
        "mid_block_type",
        "up_block_types",
        "attention_head_dim",
        "cross_attention_dim",
        "cross_attention_norm",
        "encoder_hid_dim",
        "encoder_hid_dim_type",
        "addition_embed_type",
        "addition_embed_type_num_heads",
        "class_embed_type",
        "only_cross_attention",
        "mid_block_only_cross_attention",
        "mid_block_scale_factor",
        "resnet_out_scale_factor",
        "resnet_skip_time_act",
        "resnet_time_scale_shift",
        "time_embedding_act_fn",
        "time_embedding_dim",
        "act_fn",
        "norm_num_groups",
        "norm_eps",
        "flip_sin_to_cos",
        "freq_shift",
        "conv_in_kernel",
        "conv_out_kernel",
        "downsample_first",
        "scale_skips",
        "center_input_sample",
    ];
    records::<unet::Config>(
        &conditional(),
        &keys,
        |c| c.validate("config.json".as_ref()),
        |c| {
            let network = TextUNet::new(c.clone());
            let unit = c.size_multiple();
            let enlarges = network.enlarges().then_some((unit, unit + 1));
            let (height, width) = (2 * unit, 3 * unit);
            record_forward(
                &network,
                Shape { pictures: 2, height, width, enlarges, tokens: 77, ..Shape::default() },
            );
            network.smallest().weights().count()
        },
    );
}

#[test]
fn no_unconditional_config_reaches_an_assertion() {
    let keys = [
        "sample_size",
        "in_channels",
        "out_channels",
        "block_out_channels",
        "layers_per_block",
        "down_block_types",
        "up_block_types",
        "attention_head_dim",
        "attn_norm_num_groups",
        "add_attention",
        "downsample_type",
        "upsample_type",
        "downsample_padding",
        "resnet_time_scale_shift",
        "mid_block_scale_factor",
        "act_fn",
        "norm_num_groups",
        "norm_eps",
        "flip_sin_to_cos",
        "freq_shift",
        "time_embedding_dim",
        "time_embedding_type",
        "center_input_sample",
        "class_embed_type",
    ];
    records::<unet2d::Config>(
        &unconditional(),
        &keys,
        |c| c.validate("config.json".as_ref()),
        |c| c.smallest().weights().count(),
    );
}

#[test]
fn no_config_of_unclip_reaches_an_assertion() {
    let base = serde_json::json!({
        "num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 2, "embedding_dim": 12, "num_embeddings": 7
    });
    let keys = [
        "num_attention_heads",
        "attention_head_dim",
        "num_layers",
        "embedding_dim",
        "num_embeddings",
        "additional_embeddings",
        "time_embed_act_fn",
        "added_emb_type",
        "encoder_hid_proj_type",
        "embedding_proj_norm_type",
        "norm_in_type",
        "time_embed_dim",
        "embedding_proj_dim",
        "clip_embed_dim",
    ];
    records::<prior::Config>(
        &base,
        &keys,
        |c| c.validate("config.json".as_ref()),
        |c| {
            let tokens = c.num_embeddings;
            record_forward(c, Shape { pictures: 2, height: 1, width: 1, tokens, ..Shape::default() });
            c.smallest().weights().count()
        },
    );
    let base =
        serde_json::json!({ "time_embed_dim": 16, "cross_attention_dim": 24, "clip_embeddings_dim": 12 });
    let keys = ["time_embed_dim", "cross_attention_dim", "clip_embeddings_dim", "clip_extra_context_tokens"];
    records::<text_proj::Config>(
        &base,
        &keys,
        |c| c.validate("config.json".as_ref()),
        |c| c.graph(2, true, 7).weights().count(),
    );
}
