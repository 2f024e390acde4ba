//! Sizes that are measured: those that occur in IF-I-XL, ADM-64, IF-II, T5-XXL and the bundled model. No values.

use super::{Case, Maker, sized};
use ancestral::internals::diffusion::numbers;
use ancestral::internals::graph::Tensor;
use ancestral::internals::kernels::activation_gradient::activation_gradient;
use ancestral::internals::kernels::attention::{KeyValue, Options, attention};
use ancestral::internals::kernels::concat::concat;
use ancestral::internals::kernels::conv2d::{Window, conv2d};
use ancestral::internals::kernels::elementwise::activate;
use ancestral::internals::kernels::embedding::embedding;
use ancestral::internals::kernels::epilogue::Activation;
use ancestral::internals::kernels::group_norm::{GroupNorm, group_norm};
use ancestral::internals::kernels::group_norm_gradient::group_norm_gradient;
use ancestral::internals::kernels::layer_norm::layer_norm;
use ancestral::internals::kernels::layer_norm_gradient::layer_norm_gradient;
use ancestral::internals::kernels::matmul::matmul;
use ancestral::internals::kernels::quantile::quantile;
use ancestral::internals::kernels::renoise;
use ancestral::internals::kernels::resample::{Resample, resample};
use ancestral::internals::kernels::softmax::log_softmax;
use ancestral::internals::kernels::steer::{FACTORS, steer};
use ancestral::internals::kernels::step::{Lead, StepInputs, step};
use ancestral::internals::kernels::timestep_embedding::timestep_embedding;

pub(super) fn cases() -> Vec<Case> {
    [heavy(), light()].into_iter().flatten().collect()
}

fn conv_case(place: &str, side: usize, c_in: usize, c_out: usize, kernel: usize) -> Case {
    sized("conv2d", place, |m| {
        let x = m.elem(&[1, side, side, c_in]);
        let w = m.weight(&[kernel, kernel, c_in, c_out]);
        conv2d(&mut m.g, "conv", (&x, None), &w, None, Window::same(kernel))
    })
}

fn matmul_case(place: &str, rows: usize, inner: usize, cols: usize) -> Case {
    sized("matmul", place, |m| {
        let x = m.elem(&[rows, inner]);
        let w = m.weight(&[inner, cols]);
        matmul(&mut m.g, "matmul", &x, &w, None)
    })
}

fn attention_case(place: &str, pixels: usize, text: usize, heads: usize, head_dim: usize) -> Case {
    sized("attention", place, |m| {
        let channels = heads * head_dim;
        let q = m.elem(&[1, pixels, channels]);
        let rows = |m: &mut Maker, len: usize| KeyValue {
            key: (&m.elem(&[1, len, channels])).into(),
            value: (&m.elem(&[1, len, channels])).into(),
        };
        let (text, pixels) = (rows(m, text), rows(m, pixels));
        let scale = 1.0 / (head_dim as f32).sqrt();
        let options = Options { heads, head_dim, scale, bias: None, mask: None, causal: false };
        attention(&mut m.g, "attention", &(&q).into(), Some(&text), Some(&pixels), &options)
    })
}

fn norm_case(place: &str, side: usize, channels: usize) -> Case {
    sized("group_norm", place, |m| {
        let x = m.elem(&[1, side, side, channels]);
        let norm = GroupNorm { weight: m.f32(&[channels]), bias: m.f32(&[channels]), groups: 32, eps: 1e-5 };
        group_norm(&mut m.g, "norm", (&x, None), &norm, None, Activation::Silu)
    })
}

fn norm_gradient_case(place: &str, side: usize, channels: usize) -> Case {
    sized("group_norm_gradient", place, |m| {
        let (x, dy) = (m.elem(&[1, side, side, channels]), m.elem(&[1, side, side, channels]));
        let norm = GroupNorm { weight: m.f32(&[channels]), bias: m.f32(&[channels]), groups: 32, eps: 1e-5 };
        group_norm_gradient(&mut m.g, "norm", (&x, None), &norm, None, Activation::Silu, &dy)
    })
}

/// The conv, product, norm and attention shapes of the models.
fn heavy() -> Vec<Case> {
    vec![
        conv_case("if_i_xl_64x64_704", 64, 704, 704, 3),
        conv_case("if_i_xl_32x32_1408", 32, 1408, 1408, 3),
        conv_case("if_i_xl_8x8_2816", 8, 2816, 2816, 3),
        conv_case("if_ii_256x256_128", 256, 128, 128, 3),
        conv_case("adm64_64x64_192", 64, 192, 192, 3),
        conv_case("adm64_16x16_576", 16, 576, 576, 3),
        conv_case("bundled_32x32_64", 32, 64, 64, 3),
        conv_case("bundled_256x256_16", 256, 16, 16, 3),
        conv_case("square_128_64x64", 64, 128, 128, 3),
        matmul_case("if_i_xl_to_q_1024x1408", 1024, 1408, 1408),
        matmul_case("t5_xxl_wi_77x4096x10240", 77, 4096, 10_240),
        matmul_case("time_emb_1x2816x5632", 1, 2816, 5632),
        matmul_case("square_1024", 1024, 1024, 1024),
        norm_case("if_i_xl_64x64_704", 64, 704),
        norm_case("adm64_64x64_192", 64, 192),
        norm_case("adm_classifier64_32x32_256", 32, 256),
        norm_case("bundled_256x256_32", 256, 32),
        norm_gradient_case("adm64_64x64_192", 64, 192),
        norm_gradient_case("adm_classifier64_32x32_256", 32, 256),
        attention_case("if_i_xl_32x32_22x64", 1024, 77, 22, 64),
        attention_case("if_i_xl_8x8_44x64", 64, 77, 44, 64),
        attention_case("adm64_32x32_6x64", 1024, 1, 6, 64),
        attention_case("bundled_16x16_4x32", 256, 77, 4, 32),
    ]
}

/// The memory-bound kernels.
fn light() -> Vec<Case> {
    vec![
        sized("layer_norm", "t5_xxl_77x4096", |m| {
            let x = m.elem(&[77, 4096]);
            layer_norm(&mut m.g, "norm", &x, 1e-5)
        }),
        sized("elementwise", "gelu_1x5632", |m| {
            let x = m.elem(&[1, 5632]);
            activate(&mut m.g, &x, Activation::Gelu)
        }),
        sized("activation_gradient", "silu_4096x192", |m| {
            let (x, dy) = (m.elem(&[4096, 192]), m.elem(&[4096, 192]));
            activation_gradient(&mut m.g, "act", &x, &dy, Activation::Silu)
        }),
        sized("layer_norm_gradient", "clip_l14_257x1024", |m| {
            let (x, dy) = (m.elem(&[257, 1024]), m.elem(&[257, 1024]));
            let weight = m.f32(&[1024]);
            layer_norm_gradient(&mut m.g, "norm", &x, &weight, &dy, false, 1e-5)
        }),
        sized("softmax", "imagenet_4x1000", |m| {
            let x = m.elem(&[4, 1000]);
            log_softmax(&mut m.g, "log_softmax", &x)
        }),
        sized("resample", "bilinear_64_to_256", |m| {
            let x = m.elem(&[1, 64, 64, 3]);
            resample(&mut m.g, "up", &x, 256, 256, Resample::Bilinear { align_corners: true })
        }),
        sized("embedding", "t5_xxl_77x4096", |m| {
            let ids = m.f32(&[77]);
            let table = m.weight(&[512, 4096]);
            embedding(&mut m.g, "shared", &ids, &table)
        }),
        sized("timestep_embedding", "if_i_xl_704", |m| {
            let t = m.f32(&[2]);
            timestep_embedding(&mut m.g, &t, 704, true, 0.0)
        }),
        sized("concat", "if_ii_256x256", |m| {
            let a = m.f32(&[1, 256, 256, 3]);
            let b = m.f32(&[1, 256, 256, 3]);
            concat(&mut m.g, "input", &a, Some(&b), 2)
        }),
        sized("quantile", "256x256", |m| {
            let (x, out, numbers) = step_inputs(m);
            quantile(&mut m.g, &x, &out, &numbers, None);
            numbers
        }),
        sized("step", "256x256", |m| {
            let (x, out, numbers) = step_inputs(m);
            let (noise, fault) = (m.f32(&[1, 256, 256, 3]), m.f32(&[1]));
            let inputs = StepInputs::plain(&out, &noise, &numbers, &fault);
            step(&mut m.g, &x, &inputs)
        }),
        sized("steer", "256x256", |m| {
            let (direction, factors) = (m.f32(&[1, 256, 256, 3]), m.f32(&[FACTORS]));
            let lead = m.f32(&[Lead::len_for(&[1, 256, 256, 3], true, false)]);
            steer(&mut m.g, &direction, &factors, &lead);
            lead
        }),
        sized("renoise", "256x256", |m| {
            let (x, z) = (m.f32(&[1, 256, 256, 3]), m.f32(&[1, 256, 256, 3]));
            let (known, numbers) = (m.f32(&[1, 256, 256, 4]), m.f32(&[renoise::NUMBERS]));
            renoise::renoise(&mut m.g, &x, &known, &z, &numbers);
            x
        }),
    ]
}

fn step_inputs(m: &mut Maker) -> (Tensor, Tensor, Tensor) {
    (m.f32(&[1, 256, 256, 3]), m.elem(&[2, 256, 256, 6]), m.f32(&[numbers::COUNT + 1]))
}
