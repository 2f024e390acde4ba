//! The picture's encoder as a residual network: three convolutions at the start, average pooling before every stride,
//! attention pooling at the end. Semantic Diffusion Guidance tells it the timestep: after each batch norm but the
//! shortcuts', y (1 + scale) + shift.

use super::seen::Seen;
use crate::graph::{Graph, Tensor};
use crate::kernels::batch_norm::batch_norm;
use crate::kernels::conv2d::{Window, conv2d};
use crate::kernels::cut::columns;
use crate::kernels::elementwise::{activate, add, mul};
use crate::kernels::epilogue::Activation;
use crate::kernels::matmul::matmul;
use crate::kernels::timestep_embedding::timestep_embedding;
use crate::models::attention::tokens;
use crate::models::blocks::{halve, linear};
use crate::models::embeddings::{PoolLayers, attention_pool_2d, mlp};

/// Sizes of a residual network.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Side of a picture, a multiple of 32.
    pub image_size: usize,
    /// Channels after the first three convolutions.
    pub width: usize,
    /// Bottlenecks of each level.
    pub layers: [usize; 4],
    /// Columns of the answer.
    pub embed: usize,
    /// What tells it the timestep, where it sees noise.
    pub time: Option<Time>,
}

/// Sizes of the timestep's embedding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Time {
    /// Sines and cosines of the timestep: 128.
    pub channels: usize,
    /// Columns of the two layers behind them: 512.
    pub embed: usize,
}

/// Columns of a head of the attention pooling.
pub const HEAD: usize = 64;
/// A bottleneck gives so many times the channels of its 3×3 convolution.
pub const EXPANSION: usize = 4;
/// Added to the batch norms' variance.
const EPS: f32 = 1e-5;

/// Scales, with 1 added, and shifts of all batch norms in their order, and how many columns are used.
struct Modulation {
    all: Tensor,
    used: usize,
}

impl Modulation {
    /// The next norm's.
    fn apply(&mut self, g: &mut Graph, x: &Tensor) -> Tensor {
        let channels = x.channels();
        let scale = columns(g, "scale", &self.all, self.used, channels);
        let shift = columns(g, "shift", &self.all, self.used + channels, channels);
        self.used += 2 * channels;
        let y = mul(g, x, &scale);
        add(g, &y, &shift)
    }
}

impl Config {
    /// Channels of the 3×3 convolutions of a level.
    fn planes(&self, level: usize) -> usize {
        self.width << level
    }

    /// Channels of the last level.
    pub fn channels(&self) -> usize {
        EXPANSION * self.planes(3)
    }

    /// Channels of every batch norm that the timestep modulates, in order.
    pub fn modulated(&self) -> Vec<usize> {
        let mut all = vec![self.width / 2, self.width / 2, self.width];
        for (level, blocks) in self.layers.iter().enumerate() {
            let planes = self.planes(level);
            (0..*blocks).for_each(|_| all.extend([planes, planes, EXPANSION * planes]));
        }
        all
    }

    fn modulation(&self, g: &mut Graph, time: &Time, t: &Tensor) -> Modulation {
        let sines = timestep_embedding(g, t, time.channels, true, 0.0);
        let emb = mlp(g, ["time_embed.0", "time_embed.2"], &sines, time.embed, Activation::Relu);
        let emb = activate(g, &emb, Activation::Relu);
        let norms = self.modulated();
        let all = linear(g, "emb_layers.1", &emb, 2 * norms.iter().sum::<usize>());
        let ones = norms.iter().flat_map(|c| [vec![1.0; *c], vec![0.0; *c]].concat()).collect();
        let ones = g.constant(&[1, all.channels()], ones);
        Modulation { all: add(g, &all, &ones), used: 0 }
    }

    /// What the file calls the parts: the first three convolutions and norms, the levels, the pooling.
    fn names(&self) -> ([[&'static str; 2]; 3], [&'static str; 4], &'static str) {
        match self.time {
            None => (
                [
                    ["visual.conv1", "visual.bn1"],
                    ["visual.conv2", "visual.bn2"],
                    ["visual.conv3", "visual.bn3"],
                ],
                ["visual.layer1", "visual.layer2", "visual.layer3", "visual.layer4"],
                "visual.attnpool",
            ),
            Some(_) => (
                [
                    ["visual_frozen.0", "visual_frozen.1"],
                    ["visual_frozen.3", "visual_frozen.4"],
                    ["visual_frozen.6", "visual_frozen.7"],
                ],
                ["visual_frozen.10", "visual_frozen.11", "visual_frozen.12", "layer4"],
                "attn_pool",
            ),
        }
    }

    /// Normalised pictures x `[N, S, S, 3]` and timesteps t `[N]`.
    #[track_caller]
    pub(super) fn forward(&self, g: &mut Graph, x: &Tensor, t: Option<&Tensor>, maps: bool) -> Seen {
        let mut modulation = match (&self.time, t) {
            (Some(time), Some(t)) => Some(self.modulation(g, time, t)),
            (Some(_), None) => panic!("this encoder sees noise: it needs the timesteps"),
            (None, _) => None,
        };
        let (stem, levels, pool) = self.names();
        let (mut h, mut seen) = (x.clone(), Vec::new());
        for (i, [conv, norm]) in stem.into_iter().enumerate() {
            let (out, stride) = ([self.width / 2, self.width / 2, self.width][i], [2, 1, 1][i]);
            let filters = g.filter(&format!("{conv}.weight"), out, h.channels(), 3);
            h = conv2d(g, conv, (&h, None), &filters, None, Window::strided(stride, 1));
            h = normed(g, norm, &h, &mut modulation);
            h = activate(g, &h, Activation::Relu);
        }
        h = halve(g, "avgpool", &h);
        let mut keep = |g: &mut Graph, name: &str, h: &Tensor| {
            g.tap(name, h);
            if maps {
                seen.push(tokens(g, h));
            }
        };
        keep(g, "stem", &h);
        for (level, name) in levels.into_iter().enumerate() {
            for block in 0..self.layers[level] {
                let stride = if level > 0 && block == 0 { 2 } else { 1 };
                h = g.scope(format!("{name}.{block}"), |g| {
                    bottleneck(g, &h, self.planes(level), stride, &mut modulation)
                });
            }
            keep(g, name, &h);
        }
        let embeds = attention_pool_2d(g, pool, &h, PoolLayers::Separate, HEAD, self.embed);
        Seen { embeds, maps: seen }
    }
}

/// Batch norm `name`, and what the timestep does to it.
fn normed(g: &mut Graph, name: &str, x: &Tensor, modulation: &mut Option<Modulation>) -> Tensor {
    let y = batch_norm(g, name, x, EPS);
    match modulation {
        Some(modulation) => modulation.apply(g, &y),
        None => y,
    }
}

/// A convolution of one tap, without bias.
fn pointwise(g: &mut Graph, name: &str, x: &Tensor, out: usize) -> Tensor {
    let w = g.filter(&format!("{name}.weight"), out, x.channels(), 1);
    let w = g.reshape(&w, &[x.channels(), out]);
    matmul(g, name, x, &w, None)
}

/// x `[N, H, W, C]` → `[N, H / stride, W / stride, 4 planes]`.
fn bottleneck(
    g: &mut Graph,
    x: &Tensor,
    planes: usize,
    stride: usize,
    modulation: &mut Option<Modulation>,
) -> Tensor {
    let out = EXPANSION * planes;
    let h = pointwise(g, "conv1", x, planes);
    let h = normed(g, "bn1", &h, modulation);
    let h = activate(g, &h, Activation::Relu);
    let filters = g.filter("conv2.weight", planes, planes, 3);
    let h = conv2d(g, "conv2", (&h, None), &filters, None, Window::same(3));
    let h = normed(g, "bn2", &h, modulation);
    let mut h = activate(g, &h, Activation::Relu);
    let mut shortcut = x.clone();
    if stride > 1 {
        h = halve(g, "avgpool", &h);
        shortcut = halve(g, "downsample.-1", &shortcut);
    }
    let h = pointwise(g, "conv3", &h, out);
    let h = normed(g, "bn3", &h, modulation);
    if stride > 1 || x.channels() != out {
        shortcut = pointwise(g, "downsample.0", &shortcut, out);
        shortcut = batch_norm(g, "downsample.1", &shortcut, EPS);
    }
    let y = add(g, &h, &shortcut);
    activate(g, &y, Activation::Relu)
}
