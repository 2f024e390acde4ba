//! Cases of what tensors above a device's limits are split by: `join`, the parts of a group norm, parts of tables, strips
//! that begin inside an enlarged picture.

use super::norms::{ACTIVATIONS, FAR_MEAN};
use super::{Case, Maker, case};
use ancestral::internals::graph::{Storage, Tensor};
use ancestral::internals::kernels::conv2d::{self, Window, conv2d};
use ancestral::internals::kernels::embedding::embedding_of_part;
use ancestral::internals::kernels::epilogue::{Activation, Epilogue};
use ancestral::internals::kernels::group_affine::group_affine;
use ancestral::internals::kernels::group_apply::group_apply;
use ancestral::internals::kernels::group_gradient_apply::group_gradient_apply;
use ancestral::internals::kernels::group_lines::group_lines;
use ancestral::internals::kernels::group_moments::group_moments;
use ancestral::internals::kernels::group_norm::GroupNorm;
use ancestral::internals::kernels::group_slopes::group_slopes;
use ancestral::internals::kernels::join::{Columns, join};

pub(super) fn cases() -> Vec<Case> {
    let mut cases = join_cases();
    cases.extend(moments_cases());
    cases.extend(affine_cases());
    cases.extend(apply_cases());
    cases.extend(gradient_cases());
    cases.extend(table_cases());
    cases.extend(window_cases());
    cases
}

/// Rows; of each tensor its columns, the first that is taken, and how many.
type Runs<'a> = (&'a str, usize, &'a [[usize; 3]]);

fn join_cases() -> Vec<Case> {
    let shapes: [Runs<'_>; 7] = [
        ("one", 3, &[[7, 2, 4]]),
        ("all_of_one", 1, &[[130, 0, 130]]),
        ("two", 5, &[[3, 0, 3], [9, 4, 5]]),
        ("three_of_one_row", 1, &[[70, 69, 1], [100, 0, 100], [66, 0, 3]]),
        ("four", 4, &[[1, 0, 1], [5, 1, 3], [2, 1, 1], [64, 0, 64]]),
        ("flat", 1, &[[9_000, 8_000, 1_000], [20_000, 0, 20_000], [3, 0, 3]]),
        ("folded_grid", 3, &[[64 * 22_000, 1, 64 * 21_900], [5, 0, 5]]),
    ];
    let mut cases = Vec::new();
    for (kernel, storage) in [("join", Storage::Elem), ("join_f32", Storage::F32)] {
        for (name, rows, runs) in shapes {
            cases.push(case(kernel, name, |m| {
                let columns = |[cols, first, count]: &[usize; 3]| {
                    let tensor = m.normal(&[rows, *cols], storage, 0.0, 1.0);
                    Columns { tensor, cols: *cols, first: *first, count: *count }
                };
                let columns: Vec<Columns> = runs.iter().map(columns).collect();
                let cols = columns.iter().map(|run| run.count).sum();
                join(&mut m.g, "join", &columns, rows, &[rows, cols], storage)
            }));
        }
    }
    cases
}

/// Pictures, pixels, channels of both inputs, groups, mean.
const STRIPS: [(&str, [usize; 5], f64); 13] = [
    ("plain", [2, 35, 24, 0, 8], 0.0),
    ("one_pixel", [1, 1, 12, 0, 3], 0.0),
    ("wide_groups", [1, 40, 200, 0, 2], 0.0),
    ("skip", [2, 33, 20, 12, 8], 0.0),
    ("skip_inside_a_group", [3, 19, 5, 3, 2], 0.0),
    ("far_mean", [1, 256, 24, 0, 8], FAR_MEAN),
    ("several", [2, 300, 24, 0, 8], 0.0),
    ("several_of_single_channels", [1, 261, 36, 28, 64], 0.0),
    ("several_far_mean", [1, 700, 6, 6, 2], FAR_MEAN),
    ("quads_across_groups", [2, 140, 12, 24, 6], 0.0),
    ("one_group", [1, 133, 40, 0, 1], 0.0),
    ("two_runs_of_channels", [2, 23, 1408, 128, 32], 0.0),
    ("too_wide_for_runs", [1, 9, 2056, 0, 2], 0.0),
];

fn strips(m: &mut Maker, [n, pixels, a, b, _]: [usize; 5], mean: f64) -> (Tensor, Option<Tensor>) {
    let mut input = |channels| m.normal(&[n, pixels, channels], Storage::Elem, mean, 1.0);
    (input(a), (b > 0).then(|| input(b)))
}

fn moments_cases() -> Vec<Case> {
    let of = |(name, sizes, mean): (&str, [usize; 5], f64)| {
        case("group_moments", name, |m| {
            let (a, b) = strips(m, sizes, mean);
            group_moments(&mut m.g, "norm", (&a, b.as_ref()), sizes[4])
        })
    };
    STRIPS.map(of).into()
}

fn affine_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, [n, strips, channels, groups], emb, mean) in [
        ("one_strip", [2, 1, 24, 8], false, 0.0),
        ("strips_of_several_sizes", [2, 5, 24, 8], false, 0.0),
        ("emb", [3, 4, 66, 6], true, 0.0),
        ("a_channel_a_group", [1, 3, 7, 7], true, 0.0),
        ("far_mean", [1, 8, 64, 32], false, FAR_MEAN),
    ] {
        cases.push(case("group_affine", name, |m| {
            let mut values = Vec::new();
            for i in 0..n * strips * groups {
                let count = [70.0, 64.0, 6.0, 1.0][i / groups % 4];
                let mean = mean + m.rng.normal();
                values.extend([count, mean, count * (0.2 + m.rng.uniform())].map(|v| v as f32));
            }
            let moments = m.given(&[n, strips, groups, 3], Storage::F32, values);
            let emb = emb.then(|| m.elem(&[n, 2 * channels]));
            let norm = GroupNorm::new(&mut m.g, "norm", channels, groups, 1e-5);
            group_affine(&mut m.g, "norm", &moments, &norm, emb.as_ref())
        }));
    }
    cases
}

fn apply_cases() -> Vec<Case> {
    let of = |m: &mut Maker, sizes: [usize; 5], mean: f64, act: Activation| {
        let ((a, b), affine) = (strips(m, sizes, mean), map(m, sizes, mean));
        group_apply(&mut m.g, "norm", (&a, b.as_ref()), &affine, act)
    };
    let mut cases: Vec<Case> = STRIPS
        .iter()
        .map(|(name, sizes, mean)| case("group_apply", name, |m| of(m, *sizes, *mean, Activation::Identity)))
        .collect();
    cases.extend(ACTIVATIONS.iter().skip(1).map(|act| {
        let name = format!("{act:?}").to_lowercase();
        case("group_apply", name, |m| of(m, [2, 9, 11, 13, 4], 0.0, *act))
    }));
    cases
}

/// Mean, gain and offset of each channel, means about that of x.
fn map(m: &mut Maker, [n, _, in_a, in_b, _]: [usize; 5], mean: f64) -> Tensor {
    let values = (0..n * 3 * (in_a + in_b)).map(|i| {
        let centre = if i / (in_a + in_b) % 3 == 0 { mean } else { 0.5 };
        (centre + m.rng.normal()) as f32
    });
    let values = values.collect();
    m.given(&[n, 3, in_a + in_b], Storage::F32, values)
}

/// The parts of a group norm's gradient: whole quads.
fn gradient_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let whole = |[_, _, a, b, _]: [usize; 5]| a % 4 == 0 && b % 4 == 0 && a + b < 2048;
    for (i, (name, sizes, mean)) in STRIPS.into_iter().filter(|(_, sizes, _)| whole(*sizes)).enumerate() {
        let ([n, pixels, in_a, in_b, groups], act) = (sizes, ACTIVATIONS[i % ACTIVATIONS.len()]);
        let dy = |m: &mut Maker| m.elem(&[n, pixels, in_a + in_b]);
        cases.push(case("group_slopes", name, |m| {
            let ((a, b), affine, dy) = (strips(m, sizes, mean), map(m, sizes, mean), dy(m));
            group_slopes(&mut m.g, "norm", (&a, b.as_ref()), &affine, &dy, (groups, act))
        }));
        for op in 0..3 {
            cases.push(case("group_gradient_apply", format!("{name}_{op}"), |m| {
                let ((a, b), affine, dy) = (strips(m, sizes, mean), map(m, sizes, mean), dy(m));
                let lines = m.f32(&[n, groups, 2]);
                let operand = if op > 0 { m.elem(&[n * pixels, in_a + in_b]) } else { m.g.empty() };
                let epilogue = Epilogue { operand_op: op, scale: 0.5, ..Default::default() };
                let x = (&a, b.as_ref());
                group_gradient_apply(&mut m.g, "norm", x, [&affine, &lines, &dy], act, (&epilogue, &operand))
            }));
        }
    }
    for (name, [n, strips, groups], mean) in
        [("one_strip", [2, 1, 8], 0.0), ("many", [2, 300, 3], 0.0), ("far_mean", [1, 8, 32], FAR_MEAN)]
    {
        cases.push(case("group_lines", name, |m| {
            let mut values = Vec::new();
            for i in 0..n * strips * groups {
                let count = [70.0, 64.0, 6.0, 1.0][i / groups % 4];
                let mean = mean + m.rng.normal();
                values.extend([count, mean, count * (0.2 + m.rng.uniform())].map(|v| v as f32));
            }
            let moments = m.given(&[n, strips, groups, 3], Storage::F32, values);
            let slopes = m.f32(&[n, strips, groups, 2]);
            group_lines(&mut m.g, "norm", &slopes, &moments, 1e-5)
        }));
    }
    cases
}

/// Ids before, in and behind a part of a table.
fn table_cases() -> Vec<Case> {
    let ids = [0.0, 3.0, 4.0, 6.0, 7.0, 9.0, 10.0, 1e9];
    [("first_part", 0), ("middle_part", 4), ("last_part", 7)]
        .map(|(name, first)| {
            case("embedding", name, |m| {
                let ids = m.given(&[8], Storage::F32, ids.to_vec());
                let table = m.weight(&[3, 70]);
                embedding_of_part(&mut m.g, "tokens", &ids, &table, first, 10)
            })
        })
        .into()
}

/// Strips of an enlarging convolution: the first pixel that is read is the second copy of a row.
fn window_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, input, out) in [("plain", 5, 7), ("quads", 8, 20), ("deep", 40, 24)] {
        cases.push(case("conv2d", format!("up_2_from_inside_{name}"), |m| {
            let (x, w) = (m.elem(&[2, 6, 9, input]), m.weight(&[3, 3, input, out]));
            let bias = m.f32(&[out]);
            let window = Window { up: 2, pad: [0, 1, 0, 1], stride: 1, repeat: 1 };
            let y = conv2d(&mut m.g, "conv", (&x, None), &w, Some(&bias), window);
            let node = m.g.nodes.last_mut().expect("just recorded");
            let mut p: conv2d::Params = bytemuck::pod_read_unaligned(&node.params);
            p.pad_top = p.pad_top.wrapping_sub(1);
            node.params = bytemuck::bytes_of(&p).to_vec();
            y
        }));
    }
    cases
}
