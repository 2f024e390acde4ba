//! Cases of `matmul`, `product`, `conv2d`, its gradient and `elementwise`, and of the element-wise nodes that fuse into them.

use super::norms::ACTIVATIONS;
use super::{Case, Maker, case};
use ancestral::internals::graph::{Graph, Storage, Tensor};
use ancestral::internals::kernels::conv2d::{self, Window, conv2d};
use ancestral::internals::kernels::conv2d_gradient::conv2d_gradient;
use ancestral::internals::kernels::elementwise::{activate, add, mul, scale};
use ancestral::internals::kernels::epilogue::{Activation, Epilogue};
use ancestral::internals::kernels::matmul::{batched_matmul, matmul};
use ancestral::internals::kernels::product::product;
use ancestral::internals::kernels::product_slices::{self, product_slices};
use ancestral::internals::kernels::sum_slices::sum_slices;
use ancestral::internals::kernels::winograd_input::{tiles, winograd_input};
use ancestral::internals::kernels::winograd_output::winograd_output;

pub(super) fn cases() -> Vec<Case> {
    let mut cases = matmul_cases();
    cases.extend(product_cases());
    cases.extend(conv_cases());
    cases.extend(conv_gradient_cases());
    cases.extend(winograd_cases());
    cases.extend(slices_cases());
    cases.extend(elementwise_cases());
    for kernel in ["matmul", "conv2d"] {
        cases.extend(epilogue_cases(kernel));
    }
    cases
}

fn matmul_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let sizes = [
        (1, 1, 1),
        (1, 7, 5),
        (5, 1, 9),
        (33, 64, 1),
        (31, 63, 65),
        (32, 64, 64),
        (33, 66, 129),
        (77, 130, 48),
        (2, 1027, 3),
        (154, 96, 200),
        (70, 36, 68),
        (129, 260, 12),
        (2, 200, 36),
        (7, 33, 4),
        (70, 1060, 36),
    ];
    for (rows, inner, cols) in sizes {
        for bias in [false, true] {
            let name = format!("{rows}x{inner}x{cols}{}", if bias { "_bias" } else { "" });
            cases.push(case("matmul", name, |m| {
                let (x, w) = (m.elem(&[rows, inner]), m.weight(&[inner, cols]));
                let bias = bias.then(|| m.f32(&[cols]));
                matmul(&mut m.g, "matmul", &x, &w, bias.as_ref())
            }));
        }
    }
    for [batches, rows, inner, cols] in
        [[36, 14, 17, 21], [3, 32, 8, 16], [2, 1, 5, 70], [5, 41, 3, 2], [3, 67, 20, 72]]
    {
        cases.push(case("matmul", format!("{batches}_of_{rows}x{inner}x{cols}"), |m| {
            let (x, w) = (m.elem(&[batches, rows, inner]), m.weight(&[batches, inner, cols]));
            batched_matmul(&mut m.g, "matmul", &x, &w)
        }));
    }
    // More tiles of 32 rows than one grid axis holds.
    cases.push(case("matmul", "folded_grid", |m| {
        let (x, w) = (m.elem(&[32 * 65_536 + 1, 1]), m.weight(&[1, 1]));
        matmul(&mut m.g, "matmul", &x, &w, None)
    }));
    cases
}

fn product_cases() -> Vec<Case> {
    let sizes = [
        [1, 1, 1, 1],
        [2, 1, 7, 5],
        [1, 5, 1, 9],
        [3, 33, 20, 1],
        [2, 31, 63, 65],
        [2, 64, 32, 64],
        [1, 77, 130, 48],
        [5, 3, 41, 2],
        [1, 129, 260, 12],
    ];
    let mut cases: Vec<Case> = sizes
        .into_iter()
        .map(|[batches, rows, inner, cols]| {
            case("product", format!("{batches}_of_{rows}x{inner}x{cols}"), |m| {
                let (x, z) = (m.elem(&[batches, rows, inner]), m.elem(&[batches, inner, cols]));
                product(&mut m.g, "product", &x, &z, 0.5)
            })
        })
        .collect();
    // Both sides one tensor: its gradient is the sum of two.
    cases.push(case("product", "square", |m| {
        let x = m.elem(&[2, 13, 13]);
        product(&mut m.g, "product", &x, &x, 1.0 / 13.0)
    }));
    // More tiles than one grid axis holds.
    cases.push(case("product", "folded_grid", |m| {
        let (x, z) = (m.elem(&[65_537, 2, 1]), m.elem(&[65_537, 1, 3]));
        product(&mut m.g, "product", &x, &z, 1.0)
    }));
    cases
}

/// A convolution's sizes; most cases leave them at [`PLAIN`].
#[derive(Clone, Copy)]
struct Conv {
    batch: usize,
    height: usize,
    width: usize,
    /// Channels of the first and the second input; 0 leaves the second out.
    input: [usize; 2],
    out: usize,
    kernel: [usize; 2],
    window: Window,
    bias: bool,
}

fn plain() -> Conv {
    Conv {
        batch: 2,
        height: 9,
        width: 7,
        input: [5, 0],
        out: 6,
        kernel: [3, 3],
        window: Window::same(3),
        bias: true,
    }
}

fn record_conv(m: &mut Maker, s: &Conv) -> Tensor {
    let [a, b] = s.input;
    let x = m.elem(&[s.batch, s.height, s.width, a]);
    let skip = (b > 0).then(|| m.elem(&[s.batch, s.height, s.width, b]));
    let w = m.weight(&[s.kernel[0], s.kernel[1], a + b, s.out]);
    let bias = s.bias.then(|| m.f32(&[s.out]));
    conv2d(&mut m.g, "conv", (&x, skip.as_ref()), &w, bias.as_ref(), s.window)
}

fn conv_cases() -> Vec<Case> {
    let asymmetric = Window { stride: 2, pad: [0, 0, 1, 1], up: 1, repeat: 1 };
    let twice = Window { up: 2, ..Window::same(3) };
    let twice_again = Window { repeat: 2, ..twice };
    let again = Window { repeat: 3, ..Window::same(3) };
    let rows = [
        ("3_channels", Conv { input: [3, 0], out: 8, ..plain() }),
        ("6_channels", Conv { input: [6, 0], out: 3, ..plain() }),
        ("1_channel", Conv { input: [1, 0], out: 1, bias: false, ..plain() }),
        ("whole_tiles", Conv { height: 8, width: 8, input: [16, 0], out: 64, ..plain() }),
        ("ragged_tiles", Conv { height: 11, width: 13, input: [18, 0], out: 67, ..plain() }),
        ("one_pixel", Conv { height: 1, width: 1, input: [16, 0], out: 33, ..plain() }),
        ("one_row", Conv { height: 1, width: 19, ..plain() }),
        ("one_column", Conv { height: 19, width: 1, ..plain() }),
        ("1x1", Conv { kernel: [1, 1], window: Window::same(1), ..plain() }),
        ("5x5", Conv { kernel: [5, 5], window: Window::same(5), ..plain() }),
        ("3x1", Conv { kernel: [3, 1], window: Window { pad: [1, 0, 1, 0], ..Window::same(3) }, ..plain() }),
        (
            "patches_4x4",
            Conv {
                height: 12,
                width: 16,
                input: [3, 0],
                kernel: [4, 4],
                window: Window::strided(4, 0),
                bias: false,
                ..plain()
            },
        ),
        ("stride_2", Conv { height: 11, width: 8, window: Window::strided(2, 1), ..plain() }),
        ("stride_2_asymmetric", Conv { height: 9, width: 10, window: asymmetric, ..plain() }),
        ("stride_3_no_padding", Conv { window: Window::strided(3, 0), ..plain() }),
        (
            "padding_wider_than_kernel",
            Conv { window: Window { pad: [4, 0, 1, 5], ..Window::same(3) }, ..plain() },
        ),
        ("up_2", Conv { window: twice, ..plain() }),
        ("up_2_one_pixel", Conv { height: 1, width: 1, window: twice, ..plain() }),
        (
            "up_3_stride_2",
            Conv { window: Window { up: 3, stride: 2, pad: [1, 0, 0, 1], repeat: 1 }, ..plain() },
        ),
        ("skip", Conv { input: [5, 3], ..plain() }),
        ("skip_1x1", Conv { input: [7, 6], out: 10, kernel: [1, 1], window: Window::same(1), ..plain() }),
        ("skip_stride_2_no_bias", Conv { input: [4, 9], window: asymmetric, bias: false, ..plain() }),
        ("large_skip", Conv { height: 17, width: 14, input: [11, 8], out: 21, ..plain() }),
        ("large_up_2", Conv { height: 9, width: 7, input: [9, 3], out: 12, window: twice, ..plain() }),
        ("repeated", Conv { height: 10, width: 12, input: [8, 5], out: 9, window: again, ..plain() }),
        ("quads", Conv { height: 11, width: 9, input: [12, 0], out: 68, bias: false, ..plain() }),
        ("quads_skip", Conv { height: 7, width: 11, input: [8, 20], out: 36, ..plain() }),
        (
            "quads_stride_2",
            Conv { height: 10, width: 13, input: [4, 8], out: 12, window: asymmetric, ..plain() },
        ),
        ("quads_up_2_repeated", Conv { height: 5, input: [4, 0], out: 4, window: twice_again, ..plain() }),
        ("quads_1x1", Conv { input: [16, 0], out: 132, kernel: [1, 1], window: Window::same(1), ..plain() }),
        ("deep_skip", Conv { height: 8, width: 8, input: [88, 36], out: 20, batch: 1, ..plain() }),
        ("skip_up_2", Conv { input: [2, 3], out: 70, window: twice, batch: 3, ..plain() }),
    ];
    rows.into_iter().map(|(name, s)| case("conv2d", name, |m| record_conv(m, &s))).collect()
}

/// The gradients of convolutions whose windows lie apart, and of some whose windows do not.
fn conv_gradient_cases() -> Vec<Case> {
    let asymmetric = Window { stride: 2, pad: [0, 0, 1, 1], up: 1, repeat: 1 };
    let strided = |stride, pad| Window { up: 1, ..Window::strided(stride, pad) };
    let rows = [
        ("stride_1", plain()),
        ("1_channel", Conv { input: [1, 0], out: 1, window: strided(2, 1), ..plain() }),
        ("stride_2", Conv { height: 11, width: 8, window: strided(2, 1), ..plain() }),
        ("stride_2_asymmetric", Conv { height: 9, width: 10, window: asymmetric, ..plain() }),
        ("stride_2_one_pixel", Conv { height: 1, width: 1, window: strided(2, 1), ..plain() }),
        ("stride_2_1x1", Conv { kernel: [1, 1], window: strided(2, 0), ..plain() }),
        ("stride_3_no_padding", Conv { window: strided(3, 0), ..plain() }),
        ("rows_that_nothing_reads", Conv { height: 10, width: 12, window: strided(4, 0), ..plain() }),
        (
            "patches_4x4",
            Conv { height: 12, width: 16, input: [3, 0], kernel: [4, 4], window: strided(4, 0), ..plain() },
        ),
        (
            "padding_wider_than_kernel",
            Conv { window: Window { pad: [4, 0, 1, 5], ..Window::same(3) }, ..plain() },
        ),
        (
            "up_3_stride_2",
            Conv { window: Window { up: 3, stride: 2, pad: [1, 0, 0, 1], repeat: 1 }, ..plain() },
        ),
        ("skip", Conv { input: [5, 3], window: strided(2, 1), ..plain() }),
        ("5x3", Conv { kernel: [5, 3], window: strided(2, 2), ..plain() }),
        (
            "ragged_tiles",
            Conv { height: 21, width: 13, input: [67, 0], out: 18, window: strided(2, 1), ..plain() },
        ),
        (
            "whole_tiles",
            Conv { height: 16, width: 16, input: [64, 0], out: 16, window: strided(2, 1), ..plain() },
        ),
    ];
    let record = |m: &mut Maker, s: &Conv| {
        // The convolution's uniform, from its own record function.
        let (mut g, [a, b]) = (Graph::new(), s.input);
        let x = g.input("x", &[s.batch, s.height, s.width, a + b], Storage::Elem);
        let w = g.input("w", &[s.kernel[0], s.kernel[1], a + b, s.out], Storage::Weight);
        let y = conv2d(&mut g, "conv", (&x, None), &w, None, s.window);
        let of = bytemuck::pod_read_unaligned(&g.nodes[0].params);
        let (dy, w) = (m.elem(&y.shape), m.weight(&[s.kernel[0], s.kernel[1], s.out, a + b]));
        conv2d_gradient(&mut m.g, "conv", &dy, &w, &of)
    };
    rows.into_iter().map(|(name, s)| case("conv2d_gradient", name, |m| record(m, &s))).collect()
}

/// The two ends of a convolution by Winograd: what they read of the convolution's uniform.
fn winograd_cases() -> Vec<Case> {
    let sizes = |pictures: u32, [height, width]: [u32; 2], [in_a, in_b]: [u32; 2], up: u32, repeat: u32| {
        conv2d::Params {
            height,
            width,
            in_a,
            in_b,
            out_height: height * up,
            out_width: width * up,
            cols: 7,
            rows: pictures * repeat * height * up * width * up,
            up,
            pictures,
            has_bias: 1,
            epilogue: Epilogue { scale: 0.5, ..Default::default() },
            ..Default::default()
        }
    };
    let rows = [
        ("one_pixel", sizes(1, [1, 1], [3, 0], 1, 1)),
        ("ragged", sizes(2, [9, 6], [5, 0], 1, 1)),
        ("whole_tiles_skip", sizes(1, [8, 4], [4, 9], 1, 1)),
        ("up_2_repeated", sizes(2, [3, 7], [6, 1], 2, 2)),
    ];
    rows.into_iter()
        .flat_map(|(name, of)| {
            let first = case("winograd_input", name, |m| {
                let shape = |channels: u32| [of.pictures, of.height, of.width, channels].map(|n| n as usize);
                let a = m.elem(&shape(of.in_a));
                let b = if of.in_b > 0 { m.elem(&shape(of.in_b)) } else { m.g.empty() };
                winograd_input(&mut m.g, "windows", (&a, &b), &of)
            });
            let last = case("winograd_output", name, |m| {
                let [.., tiles] = tiles(&of);
                let planes = m.elem(&[36, tiles as usize, of.cols as usize]);
                let (bias, operand) = (m.f32(&[of.cols as usize]), m.g.empty());
                winograd_output(&mut m.g, "tiles", &planes, (&bias, &operand), &of)
            });
            [first, last]
        })
        .collect()
}

/// The two passes of a product in slices, with a last slice of every length.
fn slices_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, rows, [in_a, in_b], kernel, cols, depth) in [
        ("1x1", [5, 13], [52, 0], 1, 68, 16),
        ("3x3_skip", [6, 5], [8, 4], 3, 12, 48),
        ("uneven", [9, 8], [4, 8], 3, 4, 80),
    ] {
        let [height, width] = rows;
        let inner = kernel * kernel * (in_a + in_b);
        let p = product_slices::Params {
            height,
            width,
            in_a,
            in_b,
            out_height: height,
            out_width: width,
            cols,
            rows: 2 * height * width,
            kernel_height: kernel,
            kernel_width: kernel,
            stride: 1,
            up: 1,
            pad_top: kernel / 2,
            pad_left: kernel / 2,
            pictures: 2,
            slices: inner.div_ceil(depth),
            depth,
        };
        cases.push(case("product_slices", name, |m| {
            let shape = |channels: u32| [2, height, width, channels].map(|n| n as usize);
            let a = m.elem(&shape(in_a));
            let b = if in_b > 0 { m.elem(&shape(in_b)) } else { m.g.empty() };
            let w = m.weight(&[kernel, kernel, in_a + in_b, cols].map(|n| n as usize));
            product_slices(&mut m.g, "slices", [&a, &b, &w], &p)
        }));
    }
    for (name, shape, bias) in [("two", [2, 7, 12], true), ("many", [19, 33, 4], false)] {
        cases.push(case("sum_slices", name, |m| {
            let x = m.f32(&shape);
            let bias = bias.then(|| m.f32(&shape[2..]));
            let operand = m.elem(&[1, shape[2]]);
            let epilogue = Epilogue { act: 1, operand_op: 1, operand_rows: shape[1] as u32, scale: 0.5 };
            sum_slices(&mut m.g, "sum", &x, (bias.as_ref(), &operand), &epilogue, &shape[1..])
        }));
    }
    cases
}

fn elementwise_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut push =
        |name: &str, record: &dyn Fn(&mut Maker) -> Tensor| cases.push(case("elementwise", name, record));
    for act in ACTIVATIONS {
        push(&format!("{act:?}").to_lowercase(), &|m| {
            // Far out, where e^-x overflows and erf is flat, and about zero.
            let mut values: Vec<f32> = (-60..=60).map(|i| i as f32 * 0.15).collect();
            values.extend([-1e4, -200.0, -88.7, -20.0, 0.0, 20.0, 88.7, 200.0, 1e4]);
            let x = m.given(&[values.len()], Storage::Elem, values);
            activate(&mut m.g, &x, act)
        });
    }
    let pair = |m: &mut Maker, x: &[usize], other: &[usize]| (m.elem(x), m.elem(other));
    push("add", &|m| {
        let (x, y) = pair(m, &[3, 5, 7], &[3, 5, 7]);
        add(&mut m.g, &x, &y)
    });
    push("add_quads", &|m| {
        let (x, y) = pair(m, &[2, 35, 12], &[2, 12]);
        add(&mut m.g, &x, &y)
    });
    push("mul", &|m| {
        let (x, y) = pair(m, &[15, 1], &[15, 1]);
        mul(&mut m.g, &x, &y)
    });
    push("add_to_itself", &|m| {
        let x = m.elem(&[65]);
        add(&mut m.g, &x, &x)
    });
    push("add_row_per_picture", &|m| {
        let (x, y) = pair(m, &[2, 5, 3, 7], &[2, 7]);
        add(&mut m.g, &x, &y)
    });
    push("mul_one_row", &|m| {
        let (x, y) = pair(m, &[4, 9, 6], &[1, 6]);
        mul(&mut m.g, &x, &y)
    });
    push("scale", &|m| {
        let x = m.elem(&[1]);
        scale(&mut m.g, &x, -2.5)
    });
    push("act_add_scale", &|m| {
        let (x, y) = pair(m, &[2, 9, 11], &[2, 11]);
        let h = activate(&mut m.g, &x, Activation::Silu);
        let h = add(&mut m.g, &h, &y);
        scale(&mut m.g, &h, 1.0 / 1.414)
    });
    // More workgroups than one grid axis holds.
    push("folded_grid", &|m| {
        let (x, y) = pair(m, &[64 * 65_536 + 3, 1], &[1, 1]);
        add(&mut m.g, &x, &y)
    });
    cases
}

/// What follows a product or a convolution and must join it: every activation, operands of the output's size and one
/// row for many, before and after, scale.
fn epilogue_cases(kernel: &'static str) -> Vec<Case> {
    let product = move |m: &mut Maker| {
        let bias = m.f32(&[13]);
        if kernel == "matmul" {
            let (x, w) = (m.elem(&[2, 3, 6, 10]), m.weight(&[10, 13]));
            return matmul(&mut m.g, "product", &x, &w, Some(&bias));
        }
        let (x, w) = (m.elem(&[2, 3, 6, 10]), m.weight(&[3, 3, 10, 13]));
        conv2d(&mut m.g, "product", (&x, None), &w, Some(&bias), Window::same(3))
    };
    let mut cases = Vec::new();
    let mut push = |name: &str, then: &dyn Fn(&mut Maker, Tensor) -> Tensor| {
        cases.push(case(kernel, name, |m| {
            let y = product(m);
            then(m, y)
        }));
    };
    for act in ACTIVATIONS {
        push(&format!("then_{act:?}").to_lowercase(), &|m, y| activate(&mut m.g, &y, act));
    }
    push("then_add", &|m, y| {
        let other = m.elem(&y.shape);
        add(&mut m.g, &y, &other)
    });
    push("then_added_to", &|m, y| {
        let other = m.elem(&y.shape);
        add(&mut m.g, &other, &y)
    });
    push("then_add_row_per_picture", &|m, y| {
        let other = m.elem(&[2, 13]);
        add(&mut m.g, &y, &other)
    });
    push("then_mul_one_row", &|m, y| {
        let other = m.elem(&[1, 13]);
        mul(&mut m.g, &y, &other)
    });
    push("then_act_mul_scale", &|m, y| {
        let other = m.elem(&y.shape);
        let h = activate(&mut m.g, &y, Activation::GeluTanh);
        let h = mul(&mut m.g, &h, &other);
        scale(&mut m.g, &h, 0.25)
    });
    push("then_residual_reshaped", &|m, y| {
        let h = m.g.reshape(&y, &[2, 18, 13]);
        let other = m.elem(&[2, 18, 13]);
        let h = add(&mut m.g, &h, &other);
        scale(&mut m.g, &h, 2.0)
    });
    cases
}
