//! Cases of what training adds: gradients of weights, losses, the optimiser.

use super::norms::ACTIVATIONS;
use super::{Case, Maker, case};
use ancestral::internals::graph::{Storage, Tensor};
use ancestral::internals::kernels::accumulate::accumulate;
use ancestral::internals::kernels::adamw::{Moments, Moved, adamw};
use ancestral::internals::kernels::add_f32::add_f32;
use ancestral::internals::kernels::column_sums::parts_of;
use ancestral::internals::kernels::conv2d::{Window, compute_directly, conv2d};
use ancestral::internals::kernels::diffuse::{self, diffuse};
use ancestral::internals::kernels::embedding_gradient::embedding_gradient;
use ancestral::internals::kernels::epilogue::Activation;
use ancestral::internals::kernels::group_norm::GroupNorm;
use ancestral::internals::kernels::group_norm_affine_gradient::group_norm_affine_gradient;
use ancestral::internals::kernels::group_norm_sums::group_norm_sums;
use ancestral::internals::kernels::matmul::matmul;
use ancestral::internals::kernels::optimiser_control::{CONTROL, HEAD, ROW, STATE, optimiser_control};
use ancestral::internals::kernels::squared_error::squared_error;
use ancestral::internals::kernels::sum_parts::sum_parts;
use ancestral::internals::kernels::sum_squares::{parts, sum_squares};
use ancestral::internals::kernels::variational_bound::variational_bound;
use ancestral::internals::kernels::weight_transpose::weight_transpose;
use ancestral::internals::kernels::widen::widen;
use ancestral::internals::kernels::{Backward, Kernel};

pub(super) fn cases() -> Vec<Case> {
    let mut cases = filter_cases();
    cases.extend(sum_cases());
    cases.extend(norm_cases());
    cases.extend(table_cases());
    cases.extend(loss_cases());
    cases.extend(optimiser_cases());
    cases
}

/// What the last node's kernel records of the gradient of input `i`, in place of the node.
fn gradient_of(m: &mut Maker, kernel: &Kernel, i: usize) -> Tensor {
    let node = m.g.nodes.pop().expect("a forward");
    let dy = m.elem(&m.g.info(node.output()).shape.clone());
    let wants: Vec<bool> = (0..node.inputs.len()).map(|input| input == i).collect();
    let record = kernel.gradient.expect("it has a gradient");
    let of = Backward { node: &node, dy: &dy, wants: &wants };
    record(&mut m.g, &of).expect("defined")[i].clone().expect("asked for")
}

/// A convolution's pictures, as `[N, H, W, A]`, channels of a second input, filters.
type Convolution = ([usize; 4], usize, (usize, usize), Window);

fn filter_cases() -> Vec<Case> {
    let window = |stride, pad, up, repeat| Window { stride, pad, up, repeat };
    let convolutions: [(&str, Convolution); 14] = [
        ("3x3", ([2, 7, 9, 5], 0, (3, 6), Window::same(3))),
        ("two_inputs", ([2, 6, 5, 20], 13, (3, 33), Window::same(3))),
        ("1x1", ([3, 5, 4, 7], 0, (1, 9), Window::same(1))),
        ("stride_2", ([2, 9, 8, 6], 0, (3, 5), window(2, [1; 4], 1, 1))),
        ("padded_right_and_below", ([2, 8, 8, 6], 0, (3, 5), window(2, [0, 0, 1, 1], 1, 1))),
        ("enlarged", ([2, 5, 4, 6], 0, (3, 8), window(1, [1; 4], 2, 1))),
        ("repeated", ([2, 5, 4, 3], 0, (3, 8), window(1, [1; 4], 1, 2))),
        ("patches", ([2, 12, 8, 3], 0, (4, 8), window(4, [0; 4], 1, 1))),
        // More outputs than a block of the CPU device has, and slices on a GPU.
        ("many_pixels", ([2, 41, 43, 4], 0, (3, 6), Window::same(3))),
        ("panels", ([1, 17, 16, 34], 0, (3, 64), Window::same(3))),
        // Winograd's tiles on the CPU device, in several groups of blocks; the last ones tap by tap.
        ("tiles", ([3, 30, 31, 40], 21, (3, 50), Window::same(3))),
        ("tiles_enlarged_repeated", ([2, 10, 9, 18], 0, (3, 33), window(1, [1; 4], 2, 2))),
        ("directly", ([3, 30, 31, 40], 21, (3, 50), Window::same(3))),
        ("directly_enlarged_stride_3", ([2, 13, 11, 18], 9, (3, 33), window(3, [2, 1, 0, 2], 2, 2))),
    ];
    let mut cases: Vec<Case> = convolutions
        .into_iter()
        .map(|(name, (shape, in_b, (side, out), window))| {
            case("filter_gradient", name, |m| {
                let a = m.elem(&shape);
                let b = (in_b > 0).then(|| m.elem(&[shape[0], shape[1], shape[2], in_b]));
                let w = m.weight(&[side, side, shape[3] + in_b, out]);
                conv2d(&mut m.g, "conv", (&a, b.as_ref()), &w, None, window);
                if name.starts_with("directly") {
                    compute_directly(&mut m.g);
                }
                gradient_of(m, &ancestral::internals::kernels::conv2d::KERNEL, 2)
            })
        })
        .collect();
    let products =
        [("product", [37, 19, 21]), ("long", [2500, 12, 7]), ("row", [1, 40, 3]), ("wide", [9, 70, 130])];
    cases.extend(products.map(|(name, [rows, inner, cols])| {
        case("filter_gradient", name, |m| {
            let (x, w) = (m.elem(&[rows, inner]), m.weight(&[inner, cols]));
            matmul(&mut m.g, "product", &x, &w, None);
            gradient_of(m, &ancestral::internals::kernels::matmul::KERNEL, 1)
        })
    }));
    let turned = [("square", [1, 16, 16], false), ("taps", [9, 21, 35], true), ("row", [2, 1, 50], false)];
    cases.extend(turned.map(|(name, shape, reversed)| {
        case("weight_transpose", name, |m| {
            let x = m.weight(&shape);
            weight_transpose(&mut m.g, "turn", &x, reversed)
        })
    }));
    cases
}

fn sum_cases() -> Vec<Case> {
    let mut cases = vec![
        case("sum_parts", "parts", |m| {
            let x = m.f32(&[7, 9, 13]);
            sum_parts(&mut m.g, "sum", &x, &[9, 13])
        }),
        case("sum_parts", "one", |m| {
            let x = m.f32(&[1, 70]);
            sum_parts(&mut m.g, "sum", &x, &[70])
        }),
        case("add_f32", "two", |m| {
            let (a, b) = (m.f32(&[5, 29]), m.f32(&[5, 29]));
            add_f32(&mut m.g, "add", &a, &b)
        }),
        case("widen", "activations", |m| {
            let x = m.elem(&[3, 50]);
            widen(&mut m.g, "widen", &x)
        }),
    ];
    cases.push(case("accumulate", "adds", |m| {
        let (x, y) = (m.f32(&[3, 41]), m.f32(&[3, 41]));
        accumulate(&mut m.g, "accumulate", &x, &y);
        y
    }));
    for (name, rows, cols, divided, factor) in [
        ("one_part", 40, 5, 1, false),
        ("times", 37, 20, 1, true),
        ("parts", 1030, 33, 7, false),
        ("parts_times", 700, 16, 3, true),
        ("empty_part", 5, 3, 4, false),
    ] {
        cases.push(case("column_sums", name, |m| {
            let x = m.elem(&[rows, cols]);
            let factor = factor.then(|| m.elem(&[rows, cols]));
            parts_of(&mut m.g, "sum", &x, factor.as_ref(), divided)
        }));
    }
    cases
}

fn norm(m: &mut Maker, channels: usize, groups: usize) -> GroupNorm {
    let weight = m.normal(&[channels], Storage::F32, 1.0, 0.3);
    GroupNorm { weight, bias: m.f32(&[channels]), groups, eps: 1e-5 }
}

fn norm_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut sums = |name: String, [pixels, in_a, in_b, groups]: [usize; 4], emb: bool, act: Activation| {
        cases.push(case("group_norm_sums", name, |m| {
            let a = m.elem(&[2, pixels, in_a]);
            let b = (in_b > 0).then(|| m.elem(&[2, pixels, in_b]));
            let norm = norm(m, in_a + in_b, groups);
            let emb = emb.then(|| m.elem(&[2, 2 * (in_a + in_b)]));
            let dy = m.elem(&[2, pixels, in_a + in_b]);
            group_norm_sums(&mut m.g, "sums", (&a, b.as_ref()), &norm, emb.as_ref(), act, &dy)
        }));
    };
    for act in ACTIVATIONS {
        sums(format!("{act:?}"), [35, 12, 0, 3], true, act);
    }
    sums("plain".into(), [21, 8, 0, 8], false, Activation::Identity);
    sums("two_inputs".into(), [49, 20, 12, 4], true, Activation::Silu);
    sums("many_pixels".into(), [1300, 32, 0, 8], false, Activation::Silu);
    for (name, emb) in [("with_time", true), ("alone", false)] {
        cases.push(case("group_norm_affine_gradient", name, |m| {
            let sums = m.f32(&[3, 2, 70]);
            let norm = norm(m, 70, 10);
            let emb = emb.then(|| m.elem(&[3, 140]));
            let [dweight, dbias, demb] =
                group_norm_affine_gradient(&mut m.g, "affine", &sums, &norm, emb.as_ref());
            m.g.output("dbias", &dbias);
            if emb.is_some() {
                m.g.output("demb", &demb);
            }
            dweight
        }));
    }
    cases
}

fn table_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, ids, entries, channels) in
        [("tokens", vec![3.0, 0.0, 3.0, 9.0, 1e6, 3.0], 10, 5), ("one", vec![0.0; 70], 1, 3)]
    {
        cases.push(case("embedding_gradient", name, |m| {
            let count = ids.len();
            let ids = m.given(&[count], Storage::F32, ids);
            let dy = m.elem(&[count, channels]);
            embedding_gradient(&mut m.g, "rows", &ids, &dy, entries)
        }));
    }
    cases
}

/// Pixels as bytes stand for them, the lowest and highest among them.
fn bytes(m: &mut Maker, len: usize) -> Vec<f32> {
    (0..len)
        .map(|i| {
            if i % 5 < 2 {
                [-1.0, 1.0][i % 5]
            } else {
                ((m.rng.uniform() * 255.0) as u8) as f32 / 127.5 - 1.0
            }
        })
        .collect()
}

fn loss_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, n) in [("three", 3), ("one", 1)] {
        cases.push(case("diffuse", name, |m| {
            let (x0, noise, numbers) =
                (m.f32(&[n, 5, 4, 3]), m.f32(&[n, 5, 4, 3]), m.f32(&[n, diffuse::NUMBERS]));
            let [x_t, goal] = diffuse(&mut m.g, "diffuse", &x0, &noise, &numbers);
            m.g.output("goal", &goal);
            x_t
        }));
    }
    for (name, all, backward) in
        [("all", 3, false), ("first", 6, false), ("all", 3, true), ("first", 6, true)]
    {
        let kernel = if backward { "squared_error_gradient" } else { "squared_error" };
        cases.push(case(kernel, name, |m| {
            let (out, goal) = (m.elem(&[3, 7, 9, all]), m.f32(&[3, 7, 9, 3]));
            let w = m.normal(&[3], Storage::F32, 1.0, 0.3);
            let y = squared_error(&mut m.g, "error", &out, &goal, &w);
            if backward { loss_gradient(m, &ancestral::internals::kernels::squared_error::KERNEL) } else { y }
        }));
    }
    for (name, learned, backward) in
        [("learned", true, false), ("fixed", false, false), ("learned", true, true), ("fixed", false, true)]
    {
        let kernel = if backward { "variational_bound_gradient" } else { "variational_bound" };
        cases.push(case(kernel, name, |m| {
            let (n, len) = (3, 3 * 6 * 5 * 3);
            let out = m.elem(&[n, 6, 5, if learned { 6 } else { 3 }]);
            let x0 = bytes(m, len);
            let x0 = m.given(&[n, 6, 5, 3], Storage::F32, x0);
            let x_t = m.f32(&[n, 6, 5, 3]);
            // The first timestep, and two in the middle of a schedule.
            let numbers = [
                [1.001, -0.04, 0.98, 0.02, -3.0, -2.2, 1.0, 0.5],
                [1.1, -0.5, 0.3, 0.7, -4.5, -3.9, 0.0, 1.0],
                [2.0, -1.7, 0.1, 0.9, -3.1, -3.0, 0.0, 2.0],
            ];
            let numbers = m.given(&[n, 8], Storage::F32, numbers.concat());
            let y = variational_bound(&mut m.g, "bound", &out, &x0, &x_t, &numbers);
            if backward {
                loss_gradient(m, &ancestral::internals::kernels::variational_bound::KERNEL)
            } else {
                y
            }
        }));
    }
    cases
}

/// The gradient of the loss that was recorded last, at the network's output: its dy stays f32.
fn loss_gradient(m: &mut Maker, kernel: &Kernel) -> Tensor {
    let node = m.g.nodes.pop().expect("a loss");
    let dy = m.f32(&m.g.info(node.output()).shape.clone());
    let wants: Vec<bool> = (0..node.inputs.len()).map(|input| input == 0).collect();
    let record = kernel.gradient.expect("it has a gradient");
    record(&mut m.g, &Backward { node: &node, dy: &dy, wants: &wants }).expect("defined")[0]
        .clone()
        .expect("asked for")
}

fn optimiser_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, len) in [("small", 70), ("parts", 4096 * 5 + 77)] {
        cases.push(case("sum_squares", name, |m| {
            let x = m.f32(&[len]);
            let squares = m.f32(&[parts(len) + 3]);
            sum_squares(&mut m.g, "squares", &x, &squares, 2);
            squares
        }));
    }
    let schedule = |first: f32, most: f32, interval: f32| {
        let mut numbers = vec![first, most, interval, 65536.0];
        numbers.extend((0..3 * ROW).map(|i| i as f32 * 0.25 + 0.125));
        numbers
    };
    for (name, state, squares, numbers) in [
        ("clipped", [4.0, 1.0, 4.0, 0.0], vec![3.0; 80], schedule(3.0, 1.0, 0.0)),
        ("not_clipped", [3.0, 1.0, 3.0, 0.0], vec![1e-3; 80], schedule(3.0, 1.0, 0.0)),
        ("free", [9.0, 1.0, 4.0, 2.0], vec![3.0; 8], schedule(3.0, 0.0, 0.0)),
        ("scale_grows", [5.0, 1024.0, 9.0, 1.0], vec![1e6; 70], schedule(5.0, 1.0, 10.0)),
        ("scale_is_largest", [5.0, 65536.0, 9.0, 1.0], vec![1e6; 70], schedule(5.0, 1.0, 10.0)),
    ] {
        cases.push(case("optimiser_control", name, |m| {
            let squares = m.given(&[squares.len()], Storage::F32, squares);
            let schedule = m.given(&[HEAD + 3 * ROW], Storage::F32, numbers);
            let state = m.given(&[STATE], Storage::F32, state.to_vec());
            let control = m.f32(&[CONTROL]);
            let factors = m.f32(&[75]);
            optimiser_control(&mut m.g, &squares, &schedule, [&state, &control, &factors]);
            m.g.output("state", &state);
            m.g.output("factors", &factors);
            control
        }));
    }
    let moments = Moments { beta1: 0.9, beta2: 0.99, eps: 1e-8 };
    for (name, taken, decays) in
        [("taken", 1.0, true), ("without_decay", 1.0, false), ("left_out", 0.0, true)]
    {
        cases.push(case("adamw", name, |m| {
            let gradient = m.f32(&[3, 31]);
            let control = vec![taken, 0.5, 2e-3, 4.0, 1e-2, 0.9, 1.5, 2.0];
            let control = m.given(&[CONTROL], Storage::F32, control);
            let tensor = |m: &mut Maker| m.f32(&[3, 31]);
            let (weight, first) = (tensor(m), tensor(m));
            let second = m.rng.normals(93, 0.0, 1.0).into_iter().map(f32::abs).collect();
            let second = m.given(&[3, 31], Storage::F32, second);
            let average = tensor(m);
            let of = Moved { weight, first, second, average };
            adamw(&mut m.g, "adamw", &gradient, &control, &of, moments, decays);
            for (name, tensor) in [("first", &of.first), ("second", &of.second), ("average", &of.average)] {
                m.g.output(name, tensor);
            }
            of.weight
        }));
    }
    cases
}
