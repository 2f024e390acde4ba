//! Cases of `attention` and its gradients: head sizes, lengths about the tiles of 16 to 64 queries and the blocks of 64
//! to 256 keys, two sets of keys, what is added to the scores.

use super::{Case, Maker, case};
use ancestral::internals::graph::{Graph, Source, Storage, Tensor};
use ancestral::internals::kernels::attention::{KeyValue, Options, Params, Rows, attention};
use ancestral::internals::kernels::attention_bias_gradient::attention_bias_gradient;
use ancestral::internals::kernels::attention_key_gradient::attention_key_gradient;
use ancestral::internals::kernels::attention_query_gradient::{
    Params as SetParams, attention_query_gradient,
};
use ancestral::internals::kernels::attention_statistics::attention_statistics;

/// What a case is made of; most leave it at [`PLAIN`].
#[derive(Clone, Copy)]
struct Shape {
    batch: usize,
    queries: usize,
    /// Keys of the first and the second set; 0 leaves the set out.
    keys: [usize; 2],
    heads: usize,
    dim: usize,
    bias: bool,
    /// What is added to the scores of every third of the first keys.
    mask: Option<f32>,
    causal: bool,
    /// Standard deviation of the queries.
    spread: f64,
}

const PLAIN: Shape = Shape {
    batch: 2,
    queries: 17,
    keys: [0, 17],
    heads: 2,
    dim: 8,
    bias: false,
    mask: None,
    causal: false,
    spread: 1.0,
};

fn key_value(m: &mut Maker, s: &Shape, keys: usize) -> Option<KeyValue> {
    let shape = [s.batch, keys, s.heads * s.dim];
    (keys > 0).then(|| KeyValue { key: (&m.elem(&shape)).into(), value: (&m.elem(&shape)).into() })
}

fn scale(dim: usize) -> f32 {
    1.0 / (dim as f32).sqrt()
}

/// `[batch, keys]`: `value` at every third key and at the last ones of the last picture.
fn mask(m: &mut Maker, batch: usize, keys: usize, value: f32) -> Tensor {
    let last = (batch - 1) * keys + keys / 2;
    let values = (0..batch * keys).map(|i| if i % 3 == 1 || i > last { value } else { 0.0 }).collect();
    m.given(&[batch, keys], Storage::F32, values)
}

fn record(m: &mut Maker, s: &Shape) -> Tensor {
    let q = m.normal(&[s.batch, s.queries, s.heads * s.dim], Storage::Elem, 0.0, s.spread);
    let (first, second) = (key_value(m, s, s.keys[0]), key_value(m, s, s.keys[1]));
    let bias = s.bias.then(|| m.elem(&[s.queries, s.keys[0] + s.keys[1], s.heads]));
    let mask = s.mask.map(|value| mask(m, s.batch, s.keys[0], value));
    let options = Options {
        heads: s.heads,
        head_dim: s.dim,
        scale: scale(s.dim),
        bias: bias.as_ref(),
        mask: mask.as_ref(),
        causal: s.causal,
    };
    attention(&mut m.g, "attention", &(&q).into(), first.as_ref(), second.as_ref(), &options)
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |name: String, s: Shape| cases.push(case("attention", name, |m| record(m, &s)));
    for dim in [1, 4, 6, 15, 17, 24, 40, 63, 64, 65, 100, 128, 129, 160, 500, 512] {
        add(format!("head_{dim}"), Shape { dim, ..PLAIN });
    }
    for length in [1, 7, 15, 16, 17, 31, 33, 63, 64, 65, 77, 129, 300] {
        add(format!("length_{length}"), Shape { queries: length, keys: [0, length], ..PLAIN });
    }
    add("one_query_many_keys".into(), Shape { queries: 1, keys: [0, 300], ..PLAIN });
    add("many_queries_one_key".into(), Shape { queries: 300, keys: [1, 0], ..PLAIN });
    add("text_and_pixels".into(), Shape { queries: 64, keys: [77, 64], heads: 3, ..PLAIN });
    add("text_only".into(), Shape { keys: [77, 0], ..PLAIN });
    add("sets_split_a_tile".into(), Shape { keys: [5, 9], ..PLAIN });
    add("one_key_in_each_set".into(), Shape { keys: [1, 1], ..PLAIN });
    add("causal".into(), Shape { queries: 33, keys: [0, 33], causal: true, ..PLAIN });
    add("causal_first_set".into(), Shape { queries: 20, keys: [20, 0], causal: true, ..PLAIN });
    add(
        "causal_masked".into(),
        Shape { queries: 33, keys: [33, 0], causal: true, mask: Some(-10000.0), ..PLAIN },
    );
    add("bias".into(), Shape { queries: 19, keys: [19, 0], heads: 5, bias: true, ..PLAIN });
    add("bias_two_sets".into(), Shape { queries: 7, keys: [12, 21], heads: 3, bias: true, ..PLAIN });
    add("mask".into(), Shape { keys: [77, 17], mask: Some(-10000.0), ..PLAIN });
    add("mask_finfo_min".into(), Shape { keys: [33, 0], bias: true, mask: Some(f32::MIN), ..PLAIN });
    add("mask_infinite".into(), Shape { keys: [33, 2], mask: Some(f32::NEG_INFINITY), ..PLAIN });
    for keys in [8, 127, 128, 255, 256, 257, 513] {
        add(format!("keys_{keys}"), Shape { keys: [0, keys], dim: 20, ..PLAIN });
    }
    add("sets_split_a_block".into(), Shape { queries: 70, keys: [77, 300], heads: 3, dim: 64, ..PLAIN });
    add("wide_sets".into(), Shape { queries: 9, keys: [130, 131], dim: 200, ..PLAIN });
    add(
        "all_at_once".into(),
        Shape {
            queries: 150,
            keys: [150, 123],
            dim: 36,
            bias: true,
            mask: Some(-10000.0),
            causal: true,
            ..PLAIN
        },
    );
    add("causal_blocks".into(), Shape { queries: 290, keys: [0, 290], causal: true, ..PLAIN });
    add("bias_blocks".into(), Shape { queries: 66, keys: [140, 150], bias: true, ..PLAIN });
    // Whole tiles of masked keys come before the first visible one.
    add("big_logits".into(), Shape { queries: 40, keys: [0, 77], spread: 60.0, ..PLAIN });
    add("equal_logits".into(), Shape { keys: [0, 77], spread: 0.0, ..PLAIN });
    cases.extend(gradient_cases());
    cases.push(case("attention", "masked_at_first", masked_at_first));
    cases.push(case("attention", "all_masked", all_masked));
    cases.push(case("attention", "packed_qkv", packed));
    cases.push(case("attention", "shared_by_queries", shared_keys));
    cases
}

/// The first 40 keys, more than two tiles, are masked for every query.
fn masked_at_first(m: &mut Maker) -> Tensor {
    let s = Shape { keys: [50, 0], ..PLAIN };
    let q = m.elem(&[s.batch, s.queries, s.heads * s.dim]);
    let kv = key_value(m, &s, 50);
    let values = (0..s.batch * 50).map(|i| if i % 50 < 40 { f32::MIN } else { 0.0 }).collect();
    let mask = m.given(&[s.batch, 50], Storage::F32, values);
    let options =
        Options { heads: s.heads, head_dim: s.dim, scale: 0.5, bias: None, mask: Some(&mask), causal: false };
    attention(&mut m.g, "attention", &(&q).into(), kv.as_ref(), None, &options)
}

/// Every key is masked, over two blocks of keys, with the lowest number: all are seen alike.
fn all_masked(m: &mut Maker) -> Tensor {
    let s = Shape { keys: [270, 0], ..PLAIN };
    let q = m.elem(&[s.batch, s.queries, s.heads * s.dim]);
    let kv = key_value(m, &s, 270);
    let mask = m.given(&[s.batch, 270], Storage::F32, vec![f32::MIN; s.batch * 270]);
    let options =
        Options { heads: s.heads, head_dim: s.dim, scale: 0.5, bias: None, mask: Some(&mask), causal: false };
    attention(&mut m.g, "attention", &(&q).into(), kv.as_ref(), None, &options)
}

/// Queries, keys and values side by side in one tensor, and text keys and values in another: columns by offset.
fn packed(m: &mut Maker) -> Tensor {
    let (heads, dim) = (3, 10);
    let width = heads * dim;
    let (qkv, kv) = (m.elem(&[2, 21, 3 * width + 2]), m.elem(&[2, 9, 2 * width + 1]));
    let rows = |t: &Tensor, offset: usize| Rows { tensor: t.clone(), offset };
    let text = KeyValue { key: rows(&kv, 1), value: rows(&kv, width + 1) };
    let pixels = KeyValue { key: rows(&qkv, width + 2), value: rows(&qkv, 2 * width + 2) };
    let options = Options { heads, head_dim: dim, scale: scale(dim), bias: None, mask: None, causal: false };
    attention(&mut m.g, "attention", &rows(&qkv, 2), Some(&text), Some(&pixels), &options)
}

/// One tensor is queries, keys and values: the mean by equal scores, as attention pooling records it.
fn shared_keys(m: &mut Maker) -> Tensor {
    let x = m.elem(&[2, 18, 12]);
    let kv = KeyValue { key: (&x).into(), value: (&x).into() };
    let options = Options { heads: 2, head_dim: 6, scale: 1.0, bias: None, mask: None, causal: false };
    attention(&mut m.g, "attention", &(&x).into(), None, Some(&kv), &options)
}

/// What the nodes of attention's gradient read: its uniform, its inputs, its output and that one's gradient.
struct Backward {
    of: Params,
    inputs: Vec<Tensor>,
    y: Tensor,
    dy: Tensor,
}

/// What the first node of a graph makes of a case's inputs, by its kernel's definition.
fn defined(g: &Graph, inputs: &[(String, Vec<f32>)]) -> Vec<f32> {
    let node = &g.nodes[0];
    let values = node.inputs.iter().map(|id| match &g.info(*id).source {
        Source::Input(name) => &inputs.iter().find(|(n, _)| n == name).expect("given").1,
        Source::Constant(values) => values,
        other => panic!("{other:?} before the first node"),
    });
    let values: Vec<Vec<f64>> = values.map(|v| v.iter().map(|v| f64::from(*v)).collect()).collect();
    let values: Vec<&[f64]> = values.iter().map(Vec::as_slice).collect();
    let mut y = vec![0.0; g.info(node.output()).len()];
    (node.kernel.reference)(&node.params, &values, &mut [&mut y]);
    y.into_iter().map(|v| v as f32).collect()
}

/// Records attention, takes it back, and gives its output as an input.
fn backward(m: &mut Maker, record: impl FnOnce(&mut Maker) -> Tensor) -> Backward {
    let output = record(m);
    let y = defined(&m.g, &m.inputs);
    let node = m.g.nodes.pop().expect("attention");
    assert_eq!(output.id.index() + 1, m.g.tensors.len(), "attention's output comes last");
    m.g.tensors.pop();
    let inputs = node.inputs.iter().map(|id| m.g.tensor(*id)).collect();
    let y = m.given(&output.shape, Storage::Elem, y);
    let dy = m.elem(&output.shape);
    Backward { of: bytemuck::pod_read_unaligned(&node.params), inputs, y, dy }
}

fn statistics(g: &mut Graph, b: &Backward) -> Tensor {
    let [q, k1, _, k2, _, bias, mask] = &b.inputs[..] else { panic!("attention's inputs") };
    attention_statistics(g, "statistics", [q, k1, k2, bias, mask, &b.y, &b.dy], &b.of)
}

/// Records the gradient of queries, of a set of keys, or of the bias.
type Record = fn(&mut Graph, &str, [&Tensor; 7], &SetParams) -> Tensor;

/// The gradient of queries, of one set of keys or of the bias, with the statistics as an input.
fn part(m: &mut Maker, b: &Backward, record: Record, second: bool) -> Tensor {
    let mut g = m.g.clone();
    let stats = statistics(&mut g, b);
    let values = defined(&g, &m.inputs);
    let stats = m.given(&stats.shape, Storage::F32, values);
    let set = if second { 3 } else { 1 };
    let of = [&b.inputs[0], &b.inputs[set], &b.inputs[set + 1], &b.inputs[5], &b.inputs[6], &b.dy, &stats];
    let p = SetParams::of(&b.of, second);
    record(&mut m.g, "gradient", of, &p)
}

fn gradient_cases() -> Vec<Case> {
    let (mut cases, mut biases) = (Vec::new(), Vec::new());
    // With one key the probability is 1 whatever the query, whose gradient is only rounding.
    let mut add = |name: String, record: &dyn Fn(&mut Maker) -> Tensor, sets: &[bool], one_key: bool| {
        cases.push(case("attention_statistics", &name, |m| {
            let b = backward(m, record);
            statistics(&mut m.g, &b)
        }));
        for &second in sets {
            let kernels = [("attention_query_gradient", false), ("attention_key_gradient", true)];
            for (kernel, keys) in kernels.into_iter().filter(|(_, keys)| *keys || !one_key) {
                let name = format!("{name}{}", if second { "" } else { "_first" });
                cases.push(case(kernel, name, |m| {
                    let b = backward(m, record);
                    let record = if keys { attention_key_gradient } else { attention_query_gradient };
                    part(m, &b, record, second)
                }));
            }
        }
    };
    let mut of = |name: &str, s: Shape| {
        let sets: Vec<bool> =
            [false, true].into_iter().filter(|second| s.keys[usize::from(*second)] > 0).collect();
        add(name.into(), &|m| record(m, &s), &sets, s.keys.iter().sum::<usize>() == 1);
    };
    for dim in [1, 6, 15, 17, 40, 63, 64, 65, 100, 128, 129, 200, 512] {
        of(&format!("head_{dim}"), Shape { dim, ..PLAIN });
    }
    for length in [1, 7, 16, 31, 33, 63, 64, 65, 77, 129, 300] {
        of(&format!("length_{length}"), Shape { queries: length, keys: [0, length], ..PLAIN });
    }
    of("one_query_many_keys", Shape { queries: 1, keys: [0, 300], ..PLAIN });
    of("many_queries_one_key", Shape { queries: 300, keys: [1, 0], ..PLAIN });
    of("text_and_pixels", Shape { queries: 64, keys: [77, 64], heads: 3, ..PLAIN });
    of("one_key_in_each_set", Shape { keys: [1, 1], ..PLAIN });
    of("causal", Shape { queries: 70, keys: [0, 70], causal: true, ..PLAIN });
    of("causal_two_sets", Shape { queries: 70, keys: [20, 50], causal: true, ..PLAIN });
    of("bias_two_sets", Shape { queries: 7, keys: [12, 21], heads: 3, bias: true, ..PLAIN });
    of("mask_two_sets", Shape { keys: [77, 17], mask: Some(-10000.0), ..PLAIN });
    of("mask_infinite", Shape { keys: [33, 2], mask: Some(f32::NEG_INFINITY), ..PLAIN });
    of(
        "all_at_once",
        Shape {
            queries: 150,
            keys: [150, 123],
            dim: 36,
            bias: true,
            mask: Some(-10000.0),
            causal: true,
            ..PLAIN
        },
    );
    of("big_logits", Shape { queries: 40, keys: [0, 77], spread: 20.0, ..PLAIN });
    of("equal_logits", Shape { keys: [0, 77], spread: 0.0, ..PLAIN });
    for (name, shape) in [
        ("bias", Shape { queries: 7, keys: [0, 21], heads: 3, bias: true, ..PLAIN }),
        ("causal", Shape { queries: 13, keys: [0, 13], bias: true, causal: true, ..PLAIN }),
        ("masked", Shape { queries: 9, keys: [12, 0], bias: true, mask: Some(-10000.0), ..PLAIN }),
    ] {
        biases.push(case("attention_bias_gradient", name, |m| {
            let b = backward(m, |m| record(m, &shape));
            part(m, &b, attention_bias_gradient, shape.keys[0] == 0)
        }));
    }
    add("all_masked".into(), &all_masked, &[false], false);
    add("packed_qkv".into(), &packed, &[false, true], false);
    add("shared_by_queries".into(), &shared_keys, &[true], false);
    cases.extend(biases);
    cases
}
