//! Cases of `group_norm`, `layer_norm` and their gradients, and of `batch_norm`: one and two inputs, groups from 1 to C,
//! HW = 1, means far from zero.

use super::{Case, Maker, case};
use ancestral::internals::graph::{Source, Storage, Tensor};
use ancestral::internals::kernels::batch_norm::batch_norm;
use ancestral::internals::kernels::elementwise::{activate, add, mul, scale};
use ancestral::internals::kernels::epilogue::Activation;
use ancestral::internals::kernels::group_norm::{GroupNorm, group_norm};
use ancestral::internals::kernels::group_norm_gradient::group_norm_gradient;
use ancestral::internals::kernels::layer_norm::{l2_normalise, layer_norm, rms_norm};
use ancestral::internals::kernels::layer_norm_gradient::layer_norm_gradient;

pub(super) fn cases() -> Vec<Case> {
    let mut cases = group_cases();
    cases.extend(group_gradient_cases());
    cases.extend(layer_cases());
    cases.extend(layer_gradient_cases());
    cases.extend(batch_cases());
    cases
}

#[derive(Clone, Copy)]
struct Group {
    batch: usize,
    height: usize,
    width: usize,
    /// Channels of the first and the second input; 0 leaves the second out.
    channels: [usize; 2],
    groups: usize,
    /// With a time embedding's scale and shift.
    emb: bool,
    act: Activation,
    /// Mean of the input; its standard deviation is 1.
    mean: f64,
    eps: f32,
}

const PLAIN: Group = Group {
    batch: 2,
    height: 5,
    width: 7,
    channels: [24, 0],
    groups: 8,
    emb: false,
    act: Activation::Identity,
    mean: 0.0,
    eps: 1e-5,
};

fn record_group(m: &mut Maker, s: &Group, gradient: bool) -> Tensor {
    let [a, b] = s.channels;
    let mut input = |channels| m.normal(&[s.batch, s.height, s.width, channels], Storage::Elem, s.mean, 1.0);
    let (x, skip) = (input(a), (b > 0).then(|| input(b)));
    let emb = s.emb.then(|| m.elem(&[s.batch, 2 * (a + b)]));
    let norm = GroupNorm::new(&mut m.g, "norm", a + b, s.groups, s.eps);
    if !gradient {
        return group_norm(&mut m.g, "norm", (&x, skip.as_ref()), &norm, emb.as_ref(), s.act);
    }
    let dy = m.elem(&[s.batch, s.height, s.width, a + b]);
    group_norm_gradient(&mut m.g, "norm", (&x, skip.as_ref()), &norm, emb.as_ref(), s.act, &dy)
}

/// A mean this many standard deviations from zero: a variance of one pass over f32 squares has lost four digits, one
/// of two passes has not. `harness::one_pass_variance_is_refused` holds the tolerance to that.
pub const FAR_MEAN: f64 = 40.0;

/// By name, for the norm and for its gradient.
fn group_shapes() -> Vec<(String, Group)> {
    let mut shapes = Vec::new();
    let mut add = |name: String, s: Group| shapes.push((name, s));
    for (channels, groups) in [(1, 1), (3, 1), (3, 3), (6, 2), (32, 32), (64, 32), (48, 16), (320, 32)] {
        add(format!("{channels}_in_{groups}"), Group { channels: [channels, 0], groups, ..PLAIN });
    }
    for act in ACTIVATIONS {
        add(format!("{act:?}").to_lowercase(), Group { act, ..PLAIN });
    }
    add("one_pixel".into(), Group { height: 1, width: 1, ..PLAIN });
    add(
        "one_element_in_a_group".into(),
        Group { height: 1, width: 1, channels: [12, 0], groups: 12, ..PLAIN },
    );
    add("many_pixels".into(), Group { height: 33, width: 65, channels: [12, 0], groups: 4, ..PLAIN });
    add("emb".into(), Group { emb: true, ..PLAIN });
    add("emb_silu".into(), Group { emb: true, act: Activation::Silu, batch: 3, ..PLAIN });
    add("skip".into(), Group { channels: [20, 12], groups: 8, ..PLAIN });
    add("skip_inside_a_group".into(), Group { channels: [5, 3], groups: 2, ..PLAIN });
    add("skip_emb_gelu".into(), Group { channels: [11, 13], emb: true, act: Activation::Gelu, ..PLAIN });
    add("far_mean".into(), Group { height: 16, width: 16, mean: FAR_MEAN, ..PLAIN });
    add("large_eps".into(), Group { eps: 0.5, ..PLAIN });
    shapes
}

fn group_cases() -> Vec<Case> {
    let mut cases: Vec<Case> = group_shapes()
        .into_iter()
        .map(|(name, s)| case("group_norm", name, |m| record_group(m, &s, false)))
        .collect();
    cases.push(case("group_norm", "tokens", |m| {
        let x = m.elem(&[2, 9, 64]);
        let norm = GroupNorm::new(&mut m.g, "norm_cross", 64, 32, 1e-5);
        group_norm(&mut m.g, "norm_cross", (&x, None), &norm, None, Activation::Identity)
    }));
    cases
}

/// Every activation.
pub const ACTIVATIONS: [Activation; 6] = [
    Activation::Identity,
    Activation::Silu,
    Activation::Gelu,
    Activation::GeluTanh,
    Activation::QuickGelu,
    Activation::Relu,
];

fn group_gradient_cases() -> Vec<Case> {
    let shapes = group_shapes().into_iter();
    let mut cases: Vec<Case> =
        shapes.map(|(name, s)| case("group_norm_gradient", name, |m| record_group(m, &s, true))).collect();
    let s = Group { act: Activation::Silu, ..PLAIN };
    let mut push = |name: &str, s: Group, then: &dyn Fn(&mut Maker, Tensor) -> Tensor| {
        cases.push(case("group_norm_gradient", name, |m| {
            let y = record_group(m, &s, true);
            then(m, y)
        }));
    };
    push("then_add", s, &|m, y| {
        let other = m.elem(&y.shape);
        add(&mut m.g, &y, &other)
    });
    push("then_mul_row_per_picture_scale", s, &|m, y| {
        let other = m.elem(&[s.batch, s.channels[0]]);
        let y = mul(&mut m.g, &y, &other);
        scale(&mut m.g, &y, -0.5)
    });
    let one_row = Group { channels: [5, 3], groups: 2, batch: 3, ..s };
    push("skip_then_add_one_row", one_row, &|m, y| {
        let other = m.elem(&[1, 8]);
        add(&mut m.g, &y, &other)
    });
    cases
}

fn layer_gradient_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let record = |m: &mut Maker, shape: &[usize], mean: f64, rms: bool, eps: f32| {
        let channels = shape[shape.len() - 1];
        let (x, dy) = (m.normal(shape, Storage::Elem, mean, 2.0), m.elem(shape));
        let weight = m.f32(&[channels]);
        layer_norm_gradient(&mut m.g, "n", &x, &weight, &dy, rms, eps)
    };
    // Of two elements, a layer norm's gradient is 0 but for eps.
    for (rows, channels) in [(1, 3), (1, 5), (1, 64), (3, 63), (7, 65), (77, 24), (5, 1030)] {
        for rms in [false, true] {
            let name = format!("{}_{rows}x{channels}", if rms { "rms" } else { "layer" });
            let shape = [rows, channels];
            cases.push(case("layer_norm_gradient", name, |m| record(m, &shape, 0.3, rms, 1e-5)));
        }
    }
    cases
        .push(case("layer_norm_gradient", "far_mean", |m| record(m, &[9, 300], 2.0 * FAR_MEAN, false, 1e-5)));
    cases.push(case("layer_norm_gradient", "large_eps", |m| record(m, &[2, 3, 20], 0.0, false, 0.5)));
    cases.push(case("layer_norm_gradient", "folded_grid", |m| record(m, &[65_537, 3], 0.0, true, 1e-3)));
    cases.push(case("layer_norm_gradient", "then_add_scale", |m| {
        let y = record(m, &[2, 9, 40], 0.0, false, 1e-5);
        let other = m.elem(&y.shape);
        let y = add(&mut m.g, &y, &other);
        scale(&mut m.g, &y, 3.0)
    }));
    cases.push(case("layer_norm_gradient", "then_mul_row_per_picture", |m| {
        let y = record(m, &[2, 9, 40], 0.0, true, 1e-5);
        let other = m.elem(&[2, 40]);
        mul(&mut m.g, &y, &other)
    }));
    cases
}

fn batch_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut push = |name: &str, shape: &[usize], mean: f64, then: &dyn Fn(&mut Maker, Tensor) -> Tensor| {
        cases.push(case("batch_norm", name, |m| {
            let x = m.normal(shape, Storage::Elem, mean, 1.0);
            let y = batch_norm(&mut m.g, "bn", &x, 1e-5);
            // The variance is positive: the weights, drawn later, are not.
            for t in &mut m.g.tensors {
                if matches!(&t.source, Source::Weight { parts, .. } if parts[0].name == "bn.running_var") {
                    t.source = Source::Constant((0..t.len()).map(|c| 0.1 + 0.3 * (c % 7) as f32).collect());
                }
            }
            then(m, y)
        }));
    };
    push("picture", &[2, 5, 7, 24], 0.0, &|_, y| y);
    push("one_element", &[1, 1], 0.0, &|_, y| y);
    push("one_channel", &[3, 70, 1], 0.0, &|_, y| y);
    push("wide", &[3, 1030], 0.0, &|_, y| y);
    push("far_mean", &[3, 4, 4, 9], FAR_MEAN, &|_, y| y);
    push("then_relu", &[2, 3, 3, 13], 0.0, &|m, y| activate(&mut m.g, &y, Activation::Relu));
    push("then_add", &[2, 3, 3, 13], 0.0, &|m, y| {
        let other = m.elem(&[2, 3, 3, 13]);
        add(&mut m.g, &y, &other)
    });
    push("then_mul_row_per_picture", &[2, 3, 3, 13], 0.0, &|m, y| {
        let other = m.elem(&[2, 13]);
        mul(&mut m.g, &y, &other)
    });
    cases
}

fn layer_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (rows, channels) in [(1, 1), (1, 5), (1, 64), (3, 63), (7, 65), (77, 24), (5, 1030)] {
        for rms in [false, true] {
            let name = format!("{}_{rows}x{channels}", if rms { "rms" } else { "layer" });
            cases.push(case("layer_norm", name, |m| {
                let x = m.normal(&[rows, channels], Storage::Elem, 0.3, 2.0);
                if rms { rms_norm(&mut m.g, "n", &x, 1e-6) } else { layer_norm(&mut m.g, "n", &x, 1e-5) }
            }));
        }
    }
    cases.push(case("layer_norm", "far_mean", |m| {
        let x = m.normal(&[9, 300], Storage::Elem, FAR_MEAN, 1.0);
        layer_norm(&mut m.g, "n", &x, 1e-5)
    }));
    cases.push(case("layer_norm", "large_eps", |m| {
        let x = m.elem(&[2, 3, 20]);
        layer_norm(&mut m.g, "n", &x, 0.5)
    }));
    for (name, std, floor) in
        [("l2", 1.0, 1e-12), ("l2_short", 0.02, 1e-12), ("l2_long", 1e3, 1e-12), ("l2_zero", 0.0, 0.5)]
    {
        cases.push(case("layer_norm", name, |m| {
            let x = m.normal(&[3, 77], Storage::Elem, 0.0, std);
            l2_normalise(&mut m.g, "n", &x, floor)
        }));
    }
    // More rows than one grid axis holds, and one workgroup past the last row.
    cases.push(case("layer_norm", "folded_grid", |m| {
        let x = m.elem(&[65_537, 3]);
        rms_norm(&mut m.g, "n", &x, 1e-6)
    }));
    cases
}
