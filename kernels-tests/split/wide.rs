//! The widths of the largest published networks, cut to a few blocks, under WebGPU's default limits.

use super::{check_split, compare_all, lowered, outputs, random_weights};
use crate::device::{has_f16, on_gpu, skip};
use crate::harness::F32;
use ancestral::internals::device::{Device, DeviceLimits, ProgramOptions, Variants};
use ancestral::internals::graph::split::split;
use ancestral::internals::graph::{Graph, Storage, fuse::fuse};
use ancestral::internals::kernels::Precision;
use ancestral::internals::kernels::conv2d::Window;
use ancestral::internals::kernels::cut::columns;
use ancestral::internals::kernels::epilogue::Activation;
use ancestral::internals::kernels::group_norm::{GroupNorm, group_norm};
use ancestral::internals::models::attention::{AddedKv, CrossNorm};
use ancestral::internals::models::blocks::{Resize, ResnetNames, ResnetOptions, conv, linear, resnet_block};
use ancestral::internals::models::t5;

/// A graph on a GPU that has WebGPU's default limits and no more, and whole on the CPU device.
fn compare_with_the_whole(name: &str, graph: &Graph, weight_f16: bool) {
    on_gpu(|device| {
        let precision = Precision { elem_f16: false, weight_f16: weight_f16 && has_f16(device) };
        let limits = DeviceLimits::webgpu();
        let most = limits.largest_tensor();
        let mut pieces = graph.clone();
        fuse(&mut pieces);
        let (whole, all) = (pieces.nodes.len(), pieces.tensors.len());
        let large = pieces.tensors.iter().filter(|t| t.bytes(precision) > most).count();
        split(&mut pieces, most, precision).unwrap_or_else(|error| panic!("{name}: {error}"));
        check_split(&pieces, most, precision);
        assert!(large > 0 && pieces.nodes.len() > whole, "{name}: nothing is split");
        let Some(small) = lowered(device, most, limits.buffer.expect("a GPU has one")) else {
            return skip("the adapter is not found again");
        };
        let options = ProgramOptions { variants: Variants::Rule, precision, ..Default::default() };
        let (weights, _scratch) = random_weights(name, graph);
        let [expected, found] = [&Device::Cpu, &small].map(|device| {
            outputs(device, graph.clone(), &weights, &options).unwrap_or_else(|e| panic!("{name}: {e}"))
        });
        let worst = compare_all(name, &expected, &found, F32).unwrap_or_else(|error| panic!("{error}"));
        let nodes = pieces.nodes.len();
        println!("{name}: {large} of {all} tensors too large, {whole} nodes as {nodes}, NMSE {worst:.1e}");
    });
}

const BLOCK: ResnetOptions = ResnetOptions {
    names: ResnetNames::DIFFUSERS,
    groups: 32,
    eps: 1e-5,
    act: Activation::Silu,
    scale_shift: true,
    output_scale: 1.0,
};

/// IF-I-XL's widest blocks: filters of 272 and 136 MiB in f16, the projection of T5's states, attention to them.
#[test]
fn if_i_xls_widths_fit_every_adapter() {
    const WIDTH: usize = 2816;
    let mut g = Graph::new();
    let x = g.input("x", &[2, 4, 4, WIDTH], Storage::Elem);
    let skip = g.input("skip", &[2, 4, 4, WIDTH], Storage::Elem);
    let emb = g.input("emb", &[2, WIDTH], Storage::Elem);
    let states = g.input("states", &[2, 9, 4096], Storage::Elem);
    let context = linear(&mut g, "encoder_hid_proj", &states, WIDTH);
    let y = resnet_block(&mut g, "resnets.0", (&x, Some(&skip)), &emb, WIDTH, Resize::None, &BLOCK);
    let attention = AddedKv { head_dim: 64, groups: 32, cross_norm: CrossNorm::Group, only_cross: false };
    let y = attention.forward(&mut g, "attentions.0", &y, &context, None);
    g.output("y", &y);
    compare_with_the_whole("IF-I-XL", &g, true);
}

/// T5-XXL's table of 251 MiB in f16, and a block of its attention.
#[test]
fn t5_xxls_widths_fit_every_adapter() {
    let config = t5::Config {
        vocab_size: 32_128,
        d_model: 4096,
        d_kv: 64,
        d_ff: 64,
        num_layers: 1,
        num_heads: 64,
        layer_norm_epsilon: 1e-6,
        relative_attention_num_buckets: 32,
        relative_attention_max_distance: 128,
        feed_forward_proj: "gated-gelu".into(),
    };
    compare_with_the_whole("T5-XXL", &t5::graph(&config, 2, 9), true);
}

/// DALL·E 2's second upsampler at its first level's width, on a picture as large as it takes for a level's tensor to be too
/// large: a block on the way down, one on the way up, the last norm over what both levels make.
#[test]
fn dalle_2s_upsamplers_widths_fit_every_adapter() {
    const WIDTH: usize = 192;
    let mut g = Graph::new();
    let x = g.input("x", &[1, 416, 424, 6], Storage::F32);
    let emb = g.input("emb", &[1, 64], Storage::Elem);
    let first = conv(&mut g, "conv_in", (&x, None), WIDTH, 3, Window::same(3));
    let down = resnet_block(&mut g, "down", (&first, None), &emb, WIDTH, Resize::Down, &BLOCK);
    let up = resnet_block(&mut g, "up", (&down, None), &emb, WIDTH, Resize::Up, &BLOCK);
    let norm = GroupNorm::new(&mut g, "conv_norm_out", 2 * WIDTH, 32, 1e-5);
    let y = group_norm(&mut g, "conv_norm_out", (&up, Some(&first)), &norm, None, Activation::Silu);
    let y = conv(&mut g, "conv_out", (&y, None), 3, 3, Window::same(3));
    g.output("y", &y);
    // The first channel of what is between them, too.
    let first = columns(&mut g, "first", &up, 0, 1);
    g.output("up", &first);
    compare_with_the_whole("DALL·E 2's upsampler", &g, false);
}
