//! The single layers: one kernel each.

use super::{Checked, Layer};
use ancestral::internals::diffusion::{
    Coefficients, Row, ScoreShifts, Step, Thresholding, Variance, coefficients,
};
use ancestral::internals::graph::Storage;
use ancestral::internals::kernels::attention::{KeyValue, Options, attention};
use ancestral::internals::kernels::conv2d::{Window, conv2d};
use ancestral::internals::kernels::elementwise::{activate, mul};
use ancestral::internals::kernels::epilogue::Activation;
use ancestral::internals::kernels::group_norm::{GroupNorm, group_norm};
use ancestral::internals::kernels::layer_norm::{layer_norm, rms_norm};
use ancestral::internals::kernels::matmul::matmul;
use ancestral::internals::kernels::quantile::quantile;
use ancestral::internals::kernels::resample::{Resample, resample};
use ancestral::internals::kernels::step::{StepInputs, step};
use ancestral::internals::kernels::timestep_embedding::timestep_embedding;

/// Records the layer if the family is one of these.
pub(super) fn record(layer: &mut Layer<'_>, family: &str) -> Checked<bool> {
    match family {
        "conv2d" => {
            let padding = layer.entry.count("padding")?;
            let stride = layer.entry.count("stride")?;
            convolution(layer, Window::strided(stride, padding))?;
        }
        "conv2d_asym" => convolution(layer, Window { stride: 2, pad: [0, 0, 1, 1], up: 1, repeat: 1 })?,
        "group_norm" => group(layer)?,
        "layer_norm" => {
            let x = layer.input("x")?;
            let eps = layer.entry.eps();
            let y = layer_norm(&mut layer.g, "", &x, eps);
            layer.expect("y", &y)?;
        }
        "rms_norm_t5" => {
            let x = layer.input("x")?;
            let eps = layer.entry.eps();
            let y = rms_norm(&mut layer.g, "w", &x, eps);
            layer.expect("y", &y)?;
        }
        "activations" => activations(layer)?,
        "upsample" => upsample(layer)?,
        "avg_pool2" => resized(layer, "y", Halve)?,
        "diffusers_downsample" => {
            resized(layer, "down", Halve)?;
            resized(layer, "up", Double)?;
        }
        "timestep_embedding" => timesteps(layer)?,
        "sdpa" => attend(layer)?,
        "t5_gated_ff" => gated(layer)?,
        "dynamic_threshold" => threshold(layer)?,
        _ => return Ok(false),
    }
    Ok(true)
}

fn convolution(layer: &mut Layer<'_>, window: Window) -> Checked {
    let x = layer.picture("x")?;
    let (shape, _) = layer.entry.get("weight")?;
    let w = layer.g.filter("weight", shape[0], shape[1], shape[2]);
    let bias = layer.entry.has("bias").then(|| layer.g.vector("bias", &shape[..1]));
    let y = conv2d(&mut layer.g, "conv", (&x, None), &w, bias.as_ref(), window);
    layer.expect("y", &y)
}

fn group(layer: &mut Layer<'_>) -> Checked {
    let (groups, eps) = (layer.entry.count("groups")?, layer.entry.eps());
    for name in ["x", "x_shifted"] {
        if layer.entry.has(name) {
            let x = layer.picture(name)?;
            let norm = GroupNorm::new(&mut layer.g, "", x.channels(), groups, eps);
            let y = group_norm(&mut layer.g, "norm", (&x, None), &norm, None, Activation::Identity);
            layer.expect("y", &y)?;
        }
    }
    Ok(())
}

fn activations(layer: &mut Layer<'_>) -> Checked {
    let x = layer.input("x")?;
    for name in ["silu", "gelu", "gelu_new", "quick_gelu", "relu"] {
        if layer.entry.has(name) {
            let act = Activation::from_name(name).ok_or_else(|| format!("no activation is called {name}"))?;
            let y = activate(&mut layer.g, &x, act);
            layer.expect(name, &y)?;
        }
    }
    Ok(())
}

fn upsample(layer: &mut Layer<'_>) -> Checked {
    let x = layer.picture("x")?;
    let modes = [
        ("nearest", Resample::Nearest),
        ("bilinear", Resample::Bilinear { align_corners: false }),
        ("bilinear_align", Resample::Bilinear { align_corners: true }),
        ("bicubic", Resample::Bicubic { antialias: false }),
        ("bicubic_antialias", Resample::Bicubic { antialias: true }),
    ];
    for (name, mode) in modes {
        if layer.entry.has(name) {
            let (shape, _) = layer.entry.get(name)?;
            let y = resample(&mut layer.g, name, &x, shape[2], shape[3], mode);
            layer.expect(name, &y)?;
        }
    }
    Ok(())
}

enum Resize {
    Halve,
    Double,
}
use Resize::{Double, Halve};

fn resized(layer: &mut Layer<'_>, golden: &str, resize: Resize) -> Checked {
    let x = layer.picture("x")?;
    let (h, w) = (x.dim(1), x.dim(2));
    let y = match resize {
        Halve => resample(&mut layer.g, "down", &x, h / 2, w / 2, Resample::Area),
        Double => resample(&mut layer.g, "up", &x, 2 * h, 2 * w, Resample::Nearest),
    };
    layer.expect(golden, &y)
}

fn timesteps(layer: &mut Layer<'_>) -> Checked {
    let (shape, t) = layer.entry.get("t")?;
    let t = layer.given(&shape, Storage::F32, t);
    let channels = layer.entry.count("dim")?;
    let shift = layer.entry.number("downscale_freq_shift").unwrap_or(0.0);
    let cos_first = layer.entry.flag("flip_sin_to_cos");
    let y = timestep_embedding(&mut layer.g, &t, channels, cos_first, shift);
    layer.expect("y", &y)
}

/// q, k, v `[N, heads, L, D]` and a bias `[N, heads, LQ, LK]`: a run for each picture, because our bias is one for all.
fn attend(layer: &mut Layer<'_>) -> Checked {
    let golden = ["q", "k", "v", "bias", "y"].map(|name| layer.entry.get(name));
    let [q, k, v, bias, y] = golden;
    let (q, k, v, bias, y) = (q?, k?, v?, bias?, y?);
    let &[n, heads, queries, dim] = &q.0[..] else { return Err("q is not [N, heads, L, D]".into()) };
    let keys = k.0[2];
    for i in 0..n {
        let part = |golden: &(Vec<usize>, Vec<f32>), axes: &[usize]| {
            let size = golden.1.len() / golden.0[0];
            let i = i.min(golden.0[0] - 1);
            super::permute(&(golden.0[1..].to_vec(), golden.1[i * size..][..size].to_vec()), axes)
        };
        // [heads, L, D] to [L, heads, D]
        let mut rows =
            |golden, len| layer.given(&[1, len, heads * dim], Storage::Elem, part(golden, &[1, 0, 2]));
        let (q, k, v) = (rows(&q, queries), rows(&k, keys), rows(&v, keys));
        let bias = layer.given(&[queries, keys, heads], Storage::Elem, part(&bias, &[1, 2, 0]));
        let tokens = KeyValue { key: (&k).into(), value: (&v).into() };
        let options = Options {
            heads,
            head_dim: dim,
            scale: 1.0 / (dim as f32).sqrt(),
            bias: Some(&bias),
            mask: None,
            causal: layer.entry.flag("causal"),
        };
        let found = attention(&mut layer.g, "attention", &(&q).into(), Some(&tokens), None, &options);
        layer.expect_values("y", &found, part(&y, &[1, 0, 2]))?;
    }
    Ok(())
}

fn gated(layer: &mut Layer<'_>) -> Checked {
    let x = layer.input("x")?;
    let hidden = layer.entry.get("w.wi_0.weight")?.0[0];
    let g = &mut layer.g;
    let y = g.scope("w", |g| {
        let (wi_0, wi_1) =
            (g.matrix("wi_0.weight", hidden, x.channels()), g.matrix("wi_1.weight", hidden, x.channels()));
        let linear = matmul(g, "wi_1", &x, &wi_1, None);
        let gate = matmul(g, "wi_0", &x, &wi_0, None);
        let gate = activate(g, &gate, Activation::GeluTanh);
        let h = mul(g, &gate, &linear);
        let wo = g.matrix("wo.weight", x.channels(), hidden);
        matmul(g, "wo", &h, &wo, None)
    });
    layer.expect("y", &y)
}

/// A step whose x̂₀ is x itself.
fn threshold(layer: &mut Layer<'_>) -> Checked {
    let x = layer.picture_in("x", Storage::F32)?;
    let number = |key: &str| layer.entry.number(key).ok_or_else(|| format!("no number `{key}`"));
    let clip = Thresholding::Dynamic { ratio: number("ratio")?, max: number("sample_max_value")? };
    let kept = Coefficients {
        x0_x: 1.0,
        x0_out: 0.0,
        eps_x: 0.0,
        eps_out: 0.0,
        next: Row::of(0.0, 1.0, 0.0),
        memory: Default::default(),
        memory_len: 0,
        clip,
        variance: Variance::Fixed { sigma: 0.0 },
    };
    let numbers = coefficients(
        &Step {
            step: 0,
            begins: true,
            timestep: 0.0,
            coefficients: kept,
            draws_noise: false,
            adds_noise: false,
            alpha_bar: 0.5,
            alpha_bar_after: 1.0,
            start_scale: 1.0,
            score_shifts: ScoreShifts::Mean,
        },
        1.0,
    );
    let numbers = [&numbers[..], &vec![0.0; x.dim(0)]].concat();
    let numbers = layer.given(&[numbers.len()], Storage::F32, numbers);
    let fault = layer.given(&[1], Storage::F32, vec![0.0]);
    let out = layer.given(&x.shape, Storage::Elem, vec![0.0; x.len()]);
    let noise = layer.given(&x.shape, Storage::F32, vec![0.0; x.len()]);
    quantile(&mut layer.g, &x, &out, &numbers, None);
    let inputs = StepInputs::plain(&out, &noise, &numbers, &fault);
    let x0 = step(&mut layer.g, &x, &inputs);
    // The next sample and the clipped x̂₀ are the same here.
    let (shape, values) = layer.entry.get("y")?;
    let values = super::permute(&(shape, values), &super::TO_NHWC);
    layer.expect_values("y", &x, values.clone())?;
    layer.expect_values("y", &x0, values)
}
