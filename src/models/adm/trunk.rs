//! What U-Net and classifier have in common: the way down, the middle, their blocks.

use crate::graph::{Graph, Tensor};
use crate::kernels::conv2d::Window;
use crate::kernels::epilogue::Activation;
use crate::kernels::resample::{Resample, resample};
use crate::kernels::timestep_embedding::timestep_embedding;
use crate::models::attention::{Projections, SelfAttention};
use crate::models::blocks::{
    Resize, ResnetNames, ResnetOptions, conv, downsample, halve, resnet_block, upsample,
};
use crate::models::embeddings::mlp;

/// Groups of every norm.
pub(super) const GROUPS: usize = 32;
/// Added to the variance of every norm.
pub(super) const EPS: f32 = 1e-5;

/// How an attention block's channels are divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heads {
    /// Into so many heads.
    Count(usize),
    /// Into heads of so many columns.
    Channels(usize),
}

impl Heads {
    /// `num_head_channels`, unless it is unset.
    pub(super) fn of(count: usize, channels: Option<usize>) -> Heads {
        channels.map_or(Heads::Count(count), Heads::Channels)
    }

    /// Columns of a head of so many channels.
    pub(super) fn columns(self, channels: usize) -> usize {
        match self {
            Heads::Count(count) => channels / count.max(1),
            Heads::Channels(columns) => columns,
        }
    }
}

/// The way down and the middle, which U-Net and classifier have in common, and what their blocks are like.
#[derive(Clone, Debug)]
pub(super) struct Trunk<'a> {
    pub(super) num_channels: usize,
    pub(super) channel_mult: &'a [f64],
    pub(super) num_res_blocks: usize,
    /// Factors by which a level is smaller than the picture where it has attention.
    pub(super) attention: &'a [usize],
    pub(super) heads: Heads,
    pub(super) scale_shift: bool,
    pub(super) resblock_updown: bool,
    pub(super) conv_resample: bool,
    pub(super) new_attention_order: bool,
    /// Text states `[N, L, T]` that every attention block attends to, too (GLIDE).
    pub(super) context: Option<&'a Tensor>,
}

impl Trunk<'_> {
    pub(super) fn levels(&self) -> usize {
        self.channel_mult.len()
    }

    /// Channels of a level.
    pub(super) fn width(&self, level: usize) -> usize {
        // Rounded: a detected 320 / 192 does not give back 320 exactly.
        (self.channel_mult[level] * self.num_channels as f64).round() as usize
    }

    /// Whether the residual blocks of a level are followed by attention.
    pub(super) fn attends(&self, level: usize) -> bool {
        self.attention.contains(&(1 << level))
    }

    pub(super) fn resnet(&self) -> ResnetOptions {
        ResnetOptions {
            names: ResnetNames::OPENAI,
            groups: GROUPS,
            eps: EPS,
            act: Activation::Silu,
            scale_shift: self.scale_shift,
            output_scale: 1.0,
        }
    }

    pub(super) fn attention(&self, g: &mut Graph, name: &str, x: &Tensor, heads: Heads) -> Tensor {
        let projections = Projections::Fused { per_head: !self.new_attention_order };
        let head_dim = heads.columns(x.channels());
        let block =
            SelfAttention { projections, head_dim, groups: Some(GROUPS), eps: EPS, output_scale: 1.0 };
        block.forward_with(g, name, x, self.context)
    }

    /// t `[N]` → `[N, 4 · num_channels]`, not activated.
    pub(super) fn time_embedding(&self, g: &mut Graph, t: &Tensor) -> Tensor {
        let t = timestep_embedding(g, t, self.num_channels, true, 0.0);
        let emb = mlp(g, ["time_embed.0", "time_embed.2"], &t, 4 * self.num_channels, Activation::Silu);
        g.tap("time_embed", &emb);
        emb
    }

    /// A residual block of a level, with attention where the level has it.
    pub(super) fn block(
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

    pub(super) fn down(&self, g: &mut Graph, name: &str, x: &Tensor, emb: &Tensor) -> Tensor {
        match (self.resblock_updown, self.conv_resample) {
            (true, _) => resnet_block(g, name, (x, None), emb, x.channels(), Resize::Down, &self.resnet()),
            (false, true) => downsample(g, &format!("{name}.op"), x, 1),
            (false, false) => halve(g, name, x),
        }
    }

    pub(super) fn up(&self, g: &mut Graph, name: &str, x: &Tensor, emb: &Tensor) -> Tensor {
        match (self.resblock_updown, self.conv_resample) {
            (true, _) => resnet_block(g, name, (x, None), emb, x.channels(), Resize::Up, &self.resnet()),
            (false, true) => upsample(g, &format!("{name}.conv"), x),
            (false, false) => resample(g, name, x, 2 * x.dim(1), 2 * x.dim(2), Resample::Nearest),
        }
    }

    /// The way down: x `[N', H, W, C]` (a picture of as many pixels beside it), activated embedding `[N, E]` → the
    /// outputs of `input_blocks`; item n of the batch reads x[n % N'].
    pub(super) fn input_blocks(
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

    pub(super) fn middle_block(&self, g: &mut Graph, x: &Tensor, emb: &Tensor) -> Tensor {
        let h = g.scope("middle_block", |g| {
            let h = resnet_block(g, "0", (x, None), emb, x.channels(), Resize::None, &self.resnet());
            let h = self.attention(g, "1", &h, self.heads);
            resnet_block(g, "2", (&h, None), emb, x.channels(), Resize::None, &self.resnet())
        });
        g.tap("middle_block", &h);
        h
    }
}
