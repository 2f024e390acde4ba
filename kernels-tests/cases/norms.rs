//! Cases of `group_norm` and `layer_norm`: one and two inputs, groups from 1 to C, HW = 1, means far from zero.

use super::{Case, Maker, case};
use ancestral::graph::{Storage, Tensor};
use ancestral::kernels::epilogue::Activation;
use ancestral::kernels::group_norm::{GroupNorm, group_norm};
use ancestral::kernels::layer_norm::{layer_norm, rms_norm};

pub(super) fn cases() -> Vec<Case> {
    let mut cases = group_cases();
    cases.extend(layer_cases());
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

fn record_group(m: &mut Maker, s: &Group) -> Tensor {
    let [a, b] = s.channels;
    let mut input = |channels| m.normal(&[s.batch, s.height, s.width, channels], Storage::Elem, s.mean, 1.0);
    let (x, skip) = (input(a), (b > 0).then(|| input(b)));
    let emb = s.emb.then(|| m.elem(&[s.batch, 2 * (a + b)]));
    let norm = GroupNorm::new(&mut m.g, "norm", a + b, s.groups, s.eps);
    group_norm(&mut m.g, "norm", (&x, skip.as_ref()), &norm, emb.as_ref(), s.act)
}

/// A mean this many standard deviations from zero: a variance of one pass over f32 squares has lost four digits, one
/// of two passes has not. `harness::one_pass_variance_is_refused` holds the tolerance to that.
pub const FAR_MEAN: f64 = 40.0;

fn group_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |name: String, s: Group| cases.push(case("group_norm", name, |m| record_group(m, &s)));
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
    // More rows than one grid axis holds, and one workgroup past the last row.
    cases.push(case("layer_norm", "folded_grid", |m| {
        let x = m.elem(&[65_537, 3]);
        rms_norm(&mut m.g, "n", &x, 1e-6)
    }));
    cases
}
