//! The networks of OpenAI's guided-diffusion (Dhariwal & Nichol 2021, arXiv:2105.05233) and improved-diffusion (Nichol &
//! Dhariwal 2021, arXiv:2102.09672): the U-Net, its super-resolution kin and the noisy classifier.
//!
//! Their checkpoints hold tensors only; what else a network is made of was said on the command line. [`flags`] has those
//! flags and finds them: in a file beside the weights, in the [`presets`] of the published checkpoints, in the tensors'
//! shapes ([`detect`]), from the user.

pub(in crate::models) mod check;
pub mod classes;
pub mod classifier;
pub mod detect;
pub mod flags;
pub mod presets;
#[cfg(test)]
mod tests;
mod unet;
pub(in crate::models) mod values;

pub(super) use unet::enlarge;
pub use unet::{Config, Inputs};

use super::attention::{Projections, SelfAttention};
use super::blocks::{Resize, ResnetNames, ResnetOptions, conv, downsample, halve, resnet_block, upsample};
use super::embeddings::mlp;
use crate::graph::{Graph, Tensor};
use crate::kernels::conv2d::Window;
use crate::kernels::epilogue::Activation;
use crate::kernels::resample::{Resample, resample};
use crate::kernels::timestep_embedding::timestep_embedding;

/// Groups of every norm.
const GROUPS: usize = 32;
/// Added to the variance of every norm.
const EPS: f32 = 1e-5;

/// How an attention block's channels are divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heads {
    /// Into so many heads.
    Count(usize),
    /// Into heads of so many columns.
    Channels(usize),
}

impl Heads {
    /// `num_head_channels`, unless it is unset.
    fn of(count: usize, channels: Option<usize>) -> Heads {
        channels.map_or(Heads::Count(count), Heads::Channels)
    }

    /// Columns of a head of so many channels.
    fn columns(self, channels: usize) -> usize {
        match self {
            Heads::Count(count) => channels / count.max(1),
            Heads::Channels(columns) => columns,
        }
    }
}

/// The way down and the middle, which U-Net and classifier have in common, and what their blocks are like.
#[derive(Clone, Debug)]
struct Trunk<'a> {
    num_channels: usize,
    channel_mult: &'a [f64],
    num_res_blocks: usize,
    /// Factors by which a level is smaller than the picture where it has attention.
    attention: &'a [usize],
    heads: Heads,
    scale_shift: bool,
    resblock_updown: bool,
    conv_resample: bool,
    new_attention_order: bool,
    /// Text states `[N, L, T]` that every attention block attends to, too (GLIDE).
    context: Option<&'a Tensor>,
}

impl Trunk<'_> {
    fn levels(&self) -> usize {
        self.channel_mult.len()
    }

    /// Channels of a level.
    fn width(&self, level: usize) -> usize {
        // Rounded: a detected 320 / 192 does not give back 320 exactly.
        (self.channel_mult[level] * self.num_channels as f64).round() as usize
    }

    /// Whether the residual blocks of a level are followed by attention.
    fn attends(&self, level: usize) -> bool {
        self.attention.contains(&(1 << level))
    }

    fn resnet(&self) -> ResnetOptions {
        ResnetOptions {
            names: ResnetNames::OPENAI,
            groups: GROUPS,
            eps: EPS,
            act: Activation::Silu,
            scale_shift: self.scale_shift,
            output_scale: 1.0,
        }
    }

    fn attention(&self, g: &mut Graph, name: &str, x: &Tensor, heads: Heads) -> Tensor {
        let projections = Projections::Fused { per_head: !self.new_attention_order };
        let head_dim = heads.columns(x.channels());
        let block =
            SelfAttention { projections, head_dim, groups: Some(GROUPS), eps: EPS, output_scale: 1.0 };
        block.forward_with(g, name, x, self.context)
    }

    /// t `[N]` → `[N, 4 · num_channels]`, not activated.
    fn time_embedding(&self, g: &mut Graph, t: &Tensor) -> Tensor {
        let t = timestep_embedding(g, t, self.num_channels, true, 0.0);
        let emb = mlp(g, ["time_embed.0", "time_embed.2"], &t, 4 * self.num_channels, Activation::Silu);
        g.tap("time_embed", &emb);
        emb
    }

    /// A residual block of a level, with attention where the level has it.
    fn block(
        &self,
        g: &mut Graph,
        (x, skip): (&Tensor, Option<&Tensor>),
        emb: &Tensor,
        level: usize,
        heads: Heads,
    ) -> Tensor {
        let h = resnet_block(g, "0", (x, skip), emb, self.width(level), Resize::None, &self.resnet());
        if self.attends(level) { self.attention(g, "1", &h, heads) } else { h }
    }

    fn down(&self, g: &mut Graph, name: &str, x: &Tensor, emb: &Tensor) -> Tensor {
        match (self.resblock_updown, self.conv_resample) {
            (true, _) => resnet_block(g, name, (x, None), emb, x.channels(), Resize::Down, &self.resnet()),
            (false, true) => downsample(g, &format!("{name}.op"), x, 1),
            (false, false) => halve(g, name, x),
        }
    }

    fn up(&self, g: &mut Graph, name: &str, x: &Tensor, emb: &Tensor) -> Tensor {
        match (self.resblock_updown, self.conv_resample) {
            (true, _) => resnet_block(g, name, (x, None), emb, x.channels(), Resize::Up, &self.resnet()),
            (false, true) => upsample(g, &format!("{name}.conv"), x),
            (false, false) => resample(g, name, x, 2 * x.dim(1), 2 * x.dim(2), Resample::Nearest),
        }
    }

    /// The way down: x `[N', H, W, C]` (a picture of as many pixels beside it), activated embedding `[N, E]` → the
    /// outputs of `input_blocks`; item n of the batch reads x[n % N'].
    fn input_blocks(
        &self,
        g: &mut Graph,
        (x, beside): (&Tensor, Option<&Tensor>),
        emb: &Tensor,
    ) -> Vec<Tensor> {
        let window = Window { repeat: emb.dim(0) / x.dim(0), ..Window::same(3) };
        let first = conv(g, "input_blocks.0.0", (x, beside), self.width(0), 3, window);
        g.tap("input_blocks.0", &first);
        let mut outputs = vec![first.clone()];
        let mut h = first;
        for level in 0..self.levels() {
            for block in 0..=self.num_res_blocks {
                let last = block == self.num_res_blocks;
                if last && level + 1 == self.levels() {
                    break;
                }
                let name = format!("input_blocks.{}", outputs.len());
                h = g.scope(&name, |g| match last {
                    false => self.block(g, (&h, None), emb, level, self.heads),
                    true => self.down(g, "0", &h, emb),
                });
                g.tap(&name, &h);
                outputs.push(h.clone());
            }
        }
        outputs
    }

    fn middle_block(&self, g: &mut Graph, x: &Tensor, emb: &Tensor) -> Tensor {
        let h = g.scope("middle_block", |g| {
            let h = resnet_block(g, "0", (x, None), emb, x.channels(), Resize::None, &self.resnet());
            let h = self.attention(g, "1", &h, self.heads);
            resnet_block(g, "2", (&h, None), emb, x.channels(), Resize::None, &self.resnet())
        });
        g.tap("middle_block", &h);
        h
    }
}
