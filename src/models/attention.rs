//! Attention blocks of the U-Nets: pixels to pixels, and pixels to text and pixels.

use super::blocks::{linear, linears, pointwise};
use crate::graph::{Graph, Tensor};
use crate::kernels::attention::{KeyValue, Options, Rows, attention};
use crate::kernels::cut::place;
use crate::kernels::elementwise::{add, scale};
use crate::kernels::epilogue::Activation;
use crate::kernels::group_norm::{GroupNorm, group_norm};
use crate::kernels::layer_norm::layer_norm;
use std::ops::Range;

/// Added to the variance of the attention blocks' group norm over pixels, whatever `norm_eps` says.
const ADDED_KV_EPS: f32 = 1e-5;
/// Groups of the norm over the text states, whatever `norm_num_groups` says.
const CROSS_NORM_GROUPS: usize = 32;

pub(super) fn options(channels: usize, head_dim: usize) -> Options<'static> {
    let scale = 1.0 / (head_dim as f32).sqrt();
    Options { heads: channels / head_dim, head_dim, scale, bias: None, mask: None, causal: false }
}

/// Pictures `[N, H, W, C]` as tokens `[N, HW, C]`.
pub(super) fn tokens(g: &Graph, x: &Tensor) -> Tensor {
    g.reshape(x, &[x.dim(0), x.rows() / x.dim(0), x.channels()])
}

pub(super) fn rows(tensor: &Tensor, offset: usize) -> Rows {
    Rows { tensor: tensor.clone(), offset }
}

/// Tokens a `[N, A, C]`, then b `[N, B, C]`.
pub(super) fn join(g: &mut Graph, label: &str, a: &Tensor, b: &Tensor) -> Tensor {
    let all = a.dim(1) + b.dim(1);
    let first = place(g, label, a, 1, 0, all);
    let second = place(g, label, b, 1, a.dim(1), all);
    add(g, &first, &second)
}

/// Queries, keys and values of the same rows, as one product.
fn query_key_value(g: &mut Graph, x: &Tensor) -> (Rows, KeyValue) {
    let channels = x.channels();
    let all = linears(g, "to_qkv", &["to_q", "to_k", "to_v"], x, channels);
    (rows(&all, 0), KeyValue { key: rows(&all, channels), value: rows(&all, 2 * channels) })
}

/// How OpenAI's layers of several parts (query, key and value of a head, then the next head's) are put right: all
/// queries, all keys, all values.
pub(super) fn part_by_part(parts: usize, heads: usize, columns: usize) -> Vec<Range<usize>> {
    let row = |part: usize, head: usize| (parts * head + part) * columns;
    let order = (0..parts).flat_map(|part| (0..heads).map(move |head| row(part, head)));
    order.map(|first| first..first + columns).collect()
}

/// [`query_key_value`] from the one layer `qkv`; its rows in the file may lie head by head, query, key and value of
/// each, and are sorted at load.
fn fused_query_key_value(g: &mut Graph, x: &Tensor, head_dim: usize, per_head: bool) -> (Rows, KeyValue) {
    let channels = x.channels();
    let all = pointwise(g, "qkv", x, 3 * channels, &fused_order(3, channels, head_dim, per_head));
    (rows(&all, 0), KeyValue { key: rows(&all, channels), value: rows(&all, 2 * channels) })
}

/// Keys and values of the text states, for `channels` of the pixels, from the one layer `encoder_kv` (GLIDE).
fn fused_key_value(
    g: &mut Graph,
    states: &Tensor,
    channels: usize,
    head_dim: usize,
    per_head: bool,
) -> KeyValue {
    let order = fused_order(2, channels, head_dim, per_head);
    let both = pointwise(g, "encoder_kv", states, 2 * channels, &order);
    KeyValue { key: rows(&both, 0), value: rows(&both, channels) }
}

/// The rows of a fused layer in the order that attention reads; none to sort where they lie so.
fn fused_order(parts: usize, channels: usize, head_dim: usize, per_head: bool) -> Vec<Range<usize>> {
    let heads = if per_head { channels / head_dim } else { 1 };
    if heads == 1 { Vec::new() } else { part_by_part(parts, heads, head_dim) }
}

/// What a checkpoint calls the layers of a self-attention block, and how queries, keys and values lie in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Projections {
    /// `group_norm`, `to_q`, `to_k`, `to_v`, `to_out.0` (diffusers).
    Separate,
    /// `norm`, `qkv`, `proj_out`, the last two convolutions of one tap (OpenAI).
    Fused {
        /// The rows of `qkv` are query, key and value of one head after another, instead of all queries, all keys and
        /// all values.
        per_head: bool,
    },
}

/// Self-attention over pixels with a residual connection (`AttnDownBlock2D` and its kin, OpenAI's `AttentionBlock`).
#[derive(Clone, Copy, Debug)]
pub struct SelfAttention {
    /// Names and order of the projections.
    pub projections: Projections,
    /// Columns of a head.
    pub head_dim: usize,
    /// Groups of the norm; none where the block has no norm.
    pub groups: Option<usize>,
    /// Added to the norm's variance.
    pub eps: f32,
    /// The sum with the input is divided by this.
    pub output_scale: f32,
}

impl SelfAttention {
    /// x `[N, H, W, C]` → the same shape.
    pub fn forward(&self, g: &mut Graph, name: &str, x: &Tensor) -> Tensor {
        self.forward_with(g, name, x, None)
    }

    /// [`SelfAttention::forward`] where the pixels attend to the text states `[N, L, T]`, too, in one softmax, text first
    /// (GLIDE's `encoder_kv`; [`Projections::Fused`] only).
    #[track_caller]
    pub fn forward_with(&self, g: &mut Graph, name: &str, x: &Tensor, context: Option<&Tensor>) -> Tensor {
        g.scope(name, |g| {
            let channels = x.channels();
            let name = if self.projections == Projections::Separate { "group_norm" } else { "norm" };
            let h = match self.groups {
                Some(groups) => {
                    let norm = GroupNorm::new(g, name, channels, groups, self.eps);
                    group_norm(g, name, (x, None), &norm, None, Activation::Identity)
                }
                None => x.clone(),
            };
            let h = tokens(g, &h);
            let (q, pixels) = match self.projections {
                Projections::Separate => query_key_value(g, &h),
                Projections::Fused { per_head } => fused_query_key_value(g, &h, self.head_dim, per_head),
            };
            let text = context.map(|states| match self.projections {
                Projections::Fused { per_head } => {
                    fused_key_value(g, states, channels, self.head_dim, per_head)
                }
                Projections::Separate => panic!("{name}: self-attention of diffusers takes no text"),
            });
            let options = options(channels, self.head_dim);
            let h = attention(g, "attention", &q, text.as_ref(), Some(&pixels), &options);
            let h = match self.projections {
                Projections::Separate => linear(g, "to_out.0", &h, channels),
                Projections::Fused { .. } => pointwise(g, "proj_out", &h, channels, &[]),
            };
            let h = g.reshape(&h, &x.shape);
            let y = add(g, &h, x);
            if self.output_scale == 1.0 { y } else { scale(g, &y, 1.0 / self.output_scale) }
        })
    }
}

/// How the text states are normed before each attention block projects them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrossNorm {
    /// Not at all.
    None,
    /// 32 groups over channels, statistics over the tokens too.
    Group,
    /// Over channels.
    Layer,
}

/// Attention of pixels to the text states and, unless `only_cross`, to the pixels: one softmax over both, text first
/// (`AttnAddedKVProcessor` of DeepFloyd IF and Karlo). The residual is inside.
#[derive(Clone, Copy, Debug)]
pub struct AddedKv {
    /// Columns of a head.
    pub head_dim: usize,
    /// Groups of the norm over pixels.
    pub groups: usize,
    /// Norm of the text states.
    pub cross_norm: CrossNorm,
    /// Pixels attend to the text only.
    pub only_cross: bool,
}

impl AddedKv {
    /// x `[N, H, W, C]`, context `[N, L, T]`, mask `[N, L]` added to the text's scores → x's shape.
    pub fn forward(
        &self,
        g: &mut Graph,
        name: &str,
        x: &Tensor,
        context: &Tensor,
        mask: Option<&Tensor>,
    ) -> Tensor {
        g.scope(name, |g| {
            let channels = x.channels();
            let context = match self.cross_norm {
                CrossNorm::None => context.clone(),
                CrossNorm::Group => {
                    let norm =
                        GroupNorm::new(g, "norm_cross", context.channels(), CROSS_NORM_GROUPS, ADDED_KV_EPS);
                    group_norm(g, "norm_cross", (context, None), &norm, None, Activation::Identity)
                }
                CrossNorm::Layer => layer_norm(g, "norm_cross", context, ADDED_KV_EPS),
            };
            let norm = GroupNorm::new(g, "group_norm", channels, self.groups, ADDED_KV_EPS);
            let h = group_norm(g, "group_norm", (x, None), &norm, None, Activation::Identity);
            let h = tokens(g, &h);
            let text = linears(g, "add_kv_proj", &["add_k_proj", "add_v_proj"], &context, channels);
            let text = KeyValue { key: rows(&text, 0), value: rows(&text, channels) };
            let (q, pixels) = if self.only_cross {
                ((&linear(g, "to_q", &h, channels)).into(), None)
            } else {
                let (q, pixels) = query_key_value(g, &h);
                (q, Some(pixels))
            };
            let options = Options { mask, ..options(channels, self.head_dim) };
            let h = attention(g, "attention", &q, Some(&text), pixels.as_ref(), &options);
            let h = linear(g, "to_out.0", &h, channels);
            let h = g.reshape(&h, &x.shape);
            add(g, &h, x)
        })
    }
}
