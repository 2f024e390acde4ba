//! Cases of what works on rows and columns: `softmax` and its gradient, `activation_gradient`, `sum_axis`, `cut`, `pick`,
//! `reciprocal`, `transpose`.

use super::norms::ACTIVATIONS;
use super::{Case, Maker, case};
use ancestral::internals::graph::{Storage, Tensor};
use ancestral::internals::kernels::activation_gradient::activation_gradient;
use ancestral::internals::kernels::cut::{columns, cut, place};
use ancestral::internals::kernels::elementwise::{activate, add, mul, scale};
use ancestral::internals::kernels::epilogue::Activation;
use ancestral::internals::kernels::hand_over::{HandOver, hand_over};
use ancestral::internals::kernels::pick::{pick, scatter};
use ancestral::internals::kernels::reciprocal::reciprocal;
use ancestral::internals::kernels::softmax::{log_softmax, softmax};
use ancestral::internals::kernels::softmax_gradient::softmax_gradient;
use ancestral::internals::kernels::sum_axis::{mean_rows, spread_axis, sum_axis, sum_rows};
use ancestral::internals::kernels::transpose::transpose;

pub(super) fn cases() -> Vec<Case> {
    let mut cases = softmax_cases();
    cases.extend(activation_cases());
    cases.extend(sum_cases());
    cases.extend(cut_cases());
    cases.extend(pick_cases());
    cases.extend(reciprocal_cases());
    cases.extend(transpose_cases());
    cases.extend(hand_over_cases());
    cases
}

fn reciprocal_cases() -> Vec<Case> {
    let given = |name, values: Vec<f32>, least| {
        case("reciprocal", name, |m: &mut Maker| {
            let x = m.given(&[values.len(), 1], Storage::Elem, values);
            reciprocal(&mut m.g, "reciprocal", &x, least)
        })
    };
    vec![
        given("each", (1..=70).map(|i| i as f32 * 0.75).collect(), 1e-20),
        given("one", vec![3.0], 1e-20),
        // At zero, and on both sides of the least.
        given("least", vec![0.0, -1.0, 0.25, 0.5, 0.75, 6e4], 0.5),
    ]
}

fn hand_over_cases() -> Vec<Case> {
    let kinds = [
        ("as_is", HandOver::AsIs),
        ("clamped", HandOver::Clamped),
        ("nearest", HandOver::Nearest),
        ("bytes", HandOver::Bytes),
    ];
    let of = |(name, how)| {
        case("hand_over", name, |m: &mut Maker| {
            let x = m.f32(&[2, 9, 11, 3]);
            hand_over(&mut m.g, &x, how)
        })
    };
    kinds.into_iter().map(of).collect()
}

fn softmax_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let shapes: [&[usize]; 7] = [&[1, 1], &[1, 5], &[3, 63], &[2, 3, 64], &[7, 65], &[4, 1000], &[77, 8]];
    for logarithm in [false, true] {
        let kind = if logarithm { "log_" } else { "" };
        let of = move |m: &mut Maker, x: &Tensor| {
            if logarithm { log_softmax(&mut m.g, "p", x) } else { softmax(&mut m.g, "p", x) }
        };
        for shape in shapes {
            let size = shape.iter().map(usize::to_string).collect::<Vec<_>>().join("x");
            cases.push(case("softmax", format!("{kind}{size}"), |m| {
                let x = m.normal(shape, Storage::Elem, 0.5, 3.0);
                of(m, &x)
            }));
            cases.push(case("softmax_gradient", format!("{kind}{size}"), |m| {
                let channels = shape[shape.len() - 1];
                let s = probabilities(m, shape, channels, logarithm);
                let dy = m.elem(shape);
                softmax_gradient(&mut m.g, "p", &s, &dy, logarithm)
            }));
        }
        // e^x alone would be infinite, or 0 in all of a row.
        for (name, mean) in [("large", 200.0), ("small", -200.0)] {
            cases.push(case("softmax", format!("{kind}{name}"), |m| {
                let x = m.normal(&[5, 33], Storage::Elem, mean, 4.0);
                of(m, &x)
            }));
        }
        // What a mask leaves of the rest.
        cases.push(case("softmax", format!("{kind}one_far_above"), |m| {
            let x = (0..60).map(|i| if i % 20 == 7 { 60.0 } else { -0.5 * (i % 20) as f32 }).collect();
            let x = m.given(&[3, 20], Storage::Elem, x);
            of(m, &x)
        }));
        cases.push(case("softmax", format!("{kind}folded_grid"), |m| {
            let x = m.elem(&[65_537, 3]);
            of(m, &x)
        }));
        cases.push(case("softmax_gradient", format!("{kind}folded_grid"), |m| {
            let s = probabilities(m, &[65_537, 3], 3, logarithm);
            let dy = m.elem(&[65_537, 3]);
            softmax_gradient(&mut m.g, "p", &s, &dy, logarithm)
        }));
    }
    cases
}

/// Rows that add up to 1, or their logarithms.
fn probabilities(m: &mut Maker, shape: &[usize], channels: usize, logarithm: bool) -> Tensor {
    // A row of one is 1 exactly, and what is 0 then must be.
    let spread = if channels == 1 { 0.0 } else { 1.0 };
    let mut values = m.rng.normals(shape.iter().product(), 0.0, spread);
    for row in values.chunks_mut(channels) {
        let sum: f32 = row.iter().map(|v| v.exp()).sum();
        for v in row {
            *v = if logarithm { *v - sum.ln() } else { v.exp() / sum };
        }
    }
    m.given(shape, Storage::Elem, values)
}

fn activation_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut push = |name: &str, record: &dyn Fn(&mut Maker) -> Tensor| {
        cases.push(case("activation_gradient", name, record));
    };
    for act in ACTIVATIONS {
        push(&format!("{act:?}").to_lowercase(), &|m| {
            let (x, dy) = (m.normal(&[2, 9, 13], Storage::Elem, 0.0, 3.0), m.elem(&[2, 9, 13]));
            activation_gradient(&mut m.g, "act", &x, &dy, act)
        });
        // Where powers of x overflow, and at 0.
        push(&format!("{act:?}_far").to_lowercase(), &|m| {
            let x = vec![-6e4, -300.0, -40.0, -5.0, -0.0, 0.0, 1e-3, 5.0, 40.0, 300.0, 6e4];
            let (x, dy) = (m.given(&[11], Storage::Elem, x), m.elem(&[11]));
            activation_gradient(&mut m.g, "act", &x, &dy, act)
        });
    }
    push("quads", &|m| {
        let (x, dy) = (m.elem(&[2, 35, 12]), m.elem(&[2, 35, 12]));
        let d = activation_gradient(&mut m.g, "act", &x, &dy, Activation::Silu);
        let other = m.elem(&[2, 12]);
        mul(&mut m.g, &d, &other)
    });
    push("one", &|m| {
        let (x, dy) = (m.elem(&[1, 1]), m.elem(&[1, 1]));
        activation_gradient(&mut m.g, "act", &x, &dy, Activation::Silu)
    });
    push("then_add", &|m| {
        let (x, dy, other) = (m.elem(&[5, 21]), m.elem(&[5, 21]), m.elem(&[5, 21]));
        let d = activation_gradient(&mut m.g, "act", &x, &dy, Activation::Gelu);
        add(&mut m.g, &d, &other)
    });
    push("then_mul_row_per_picture_scale", &|m| {
        let (x, dy, other) = (m.elem(&[2, 5, 21]), m.elem(&[2, 5, 21]), m.elem(&[2, 21]));
        let d = activation_gradient(&mut m.g, "act", &x, &dy, Activation::Silu);
        let d = mul(&mut m.g, &d, &other);
        scale(&mut m.g, &d, 0.5)
    });
    push("then_act", &|m| {
        let (x, dy) = (m.elem(&[3, 70]), m.elem(&[3, 70]));
        let d = activation_gradient(&mut m.g, "act", &x, &dy, Activation::QuickGelu);
        activate(&mut m.g, &d, Activation::Relu)
    });
    cases
}

fn sum_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for [outer, count, inner] in
        [[1, 1, 1], [1, 5, 1], [3, 4, 7], [2, 33, 65], [1, 2, 130], [70, 3, 1], [2, 1000, 3], [1, 3, 9000]]
    {
        cases.push(case("sum_axis", format!("{outer}x{count}x{inner}"), |m| {
            let x = m.elem(&[outer, count, inner]);
            sum_axis(&mut m.g, "sum", &x, [outer, count, inner], &[outer, inner])
        }));
        cases.push(case("sum_axis", format!("spread_{outer}x{count}x{inner}"), |m| {
            let x = m.elem(&[outer, inner]);
            spread_axis(&mut m.g, "spread", &x, count, inner, 0.25)
        }));
    }
    cases.push(case("sum_axis", "rows", |m| {
        let x = m.elem(&[2, 3, 4, 6]);
        sum_rows(&mut m.g, "sum", &x, 12)
    }));
    cases.push(case("sum_axis", "mean", |m| {
        let x = m.elem(&[3, 49, 20]);
        mean_rows(&mut m.g, "mean", &x, 49)
    }));
    cases.push(case("sum_axis", "folded_grid", |m| {
        let x = m.elem(&[2, 64 * 65_535 + 5]);
        sum_axis(&mut m.g, "sum", &x, [1, 2, 64 * 65_535 + 5], &[64 * 65_535 + 5])
    }));
    cases
}

fn cut_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let shape = [2, 5, 3, 7];
    for (name, axis, first, count) in [
        ("first_columns", 3, 0, 2),
        ("middle_columns", 3, 2, 4),
        ("last_column", 3, 6, 1),
        ("all_columns", 3, 0, 7),
        ("rows", 1, 1, 3),
        ("last_picture", 0, 1, 1),
    ] {
        cases.push(case("cut", name, |m| {
            let x = m.elem(&shape);
            cut(&mut m.g, "cut", &x, axis, first, count)
        }));
        cases.push(case("cut", format!("place_{name}"), |m| {
            let mut part = shape;
            part[axis] = count;
            let x = m.elem(&part);
            place(&mut m.g, "place", &x, axis, first, shape[axis])
        }));
    }
    cases.push(case("cut", "quads", |m| {
        let x = m.elem(&[9, 76]);
        columns(&mut m.g, "cut", &x, 8, 60)
    }));
    cases.push(case("cut", "place_quads", |m| {
        let x = m.elem(&[9, 12]);
        place(&mut m.g, "place", &x, 1, 4, 68)
    }));
    cases.push(case("cut", "columns", |m| {
        let x = m.elem(&[77, 130]);
        columns(&mut m.g, "cut", &x, 65, 64)
    }));
    cases.push(case("cut", "folded_grid", |m| {
        let x = m.elem(&[3, 1]);
        place(&mut m.g, "place", &x, 1, 64 * 22_000, 64 * 22_000 + 1)
    }));
    cases
}

fn pick_cases() -> Vec<Case> {
    let indices = [0.0, 9.0, 5.0, 9.0, 0.0, 1.0];
    let mut cases = Vec::new();
    for (name, shape, cols, index) in [
        ("edges", &[6][..], 10, indices.to_vec()),
        ("tokens", &[2, 3][..], 10, indices.to_vec()),
        ("one_column", &[3][..], 1, vec![0.0; 3]),
        // No class, but the kernel must not read past the row for it: taken as the last column.
        ("beyond_the_row", &[3][..], 4, vec![4.0, 1e9, 3.0]),
        ("classes", &[70][..], 1000, (0..70).map(|i| (i * 137 % 1000) as f32).collect()),
    ] {
        cases.push(case("pick", name, |m| {
            let x = m.elem(&[shape, &[cols]].concat());
            let index = m.given(shape, Storage::F32, index.clone());
            pick(&mut m.g, "pick", &x, &index)
        }));
        cases.push(case("pick", format!("scatter_{name}"), |m| {
            let x = m.elem(shape);
            let index = m.given(shape, Storage::F32, index.clone());
            scatter(&mut m.g, "scatter", &x, &index, cols)
        }));
    }
    cases
}

fn transpose_cases() -> Vec<Case> {
    let sizes =
        [[1, 1, 1], [1, 1, 9], [1, 9, 1], [2, 8, 8], [3, 7, 13], [1, 64, 33], [2, 65, 128], [65_537, 2, 3]];
    let transposed = |[batch, rows, cols]: [usize; 3]| {
        case("transpose", format!("{batch}x{rows}x{cols}"), |m| {
            let x = m.elem(&[batch, rows, cols]);
            transpose(&mut m.g, "transpose", &x)
        })
    };
    sizes.into_iter().map(transposed).collect()
}
