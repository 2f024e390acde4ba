//! The noisy classifier (`EncoderUNetModel`): the U-Net's way down and middle, pooled.

use super::trunk::{EPS, GROUPS, Heads, Trunk};
use crate::graph::{Graph, Storage, Tensor};
use crate::kernels::conv2d::Window;
use crate::kernels::elementwise::activate;
use crate::kernels::epilogue::Activation;
use crate::kernels::group_norm::{GroupNorm, group_norm};
use crate::models::attention::tokens;
use crate::models::blocks::conv;
use crate::models::embeddings::{PoolLayers, attention_pool_2d, token_mean};

/// How the last block's pixels become logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pool {
    /// Attention of their mean to all; the picture's size is fixed.
    Attention,
    /// Their mean, then a linear layer.
    Adaptive,
}

impl Pool {
    /// `attention` or `adaptive`.
    pub fn from_name(name: &str) -> Option<Pool> {
        match name {
            "attention" => Some(Pool::Attention),
            "adaptive" => Some(Pool::Adaptive),
            _ => None,
        }
    }
}

/// The classifier's flags, named as on the command line.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Side of the pictures.
    pub image_size: usize,
    /// Channels that `channel_mult` multiplies.
    pub classifier_width: usize,
    /// Channels by level.
    pub channel_mult: Vec<f64>,
    /// Residual blocks of a level.
    pub classifier_depth: usize,
    /// Where attention is: factors by which a level is smaller than the picture.
    pub classifier_attention_resolutions: Vec<usize>,
    /// Columns of a head.
    pub num_head_channels: usize,
    /// Pooling.
    pub classifier_pool: Pool,
    /// The embedding scales and shifts after the second norm of a block, instead of being added before it.
    pub classifier_use_scale_shift_norm: bool,
    /// Residual blocks change the size.
    pub classifier_resblock_updown: bool,
    /// Queries, keys and values of all heads lie apart in the file; the published classifiers' lie head by head.
    pub use_new_attention_order: bool,
    /// How many classes.
    pub num_classes: usize,
}

impl Default for Config {
    /// guided-diffusion's defaults.
    fn default() -> Self {
        Config {
            image_size: 64,
            classifier_width: 128,
            channel_mult: vec![1.0, 2.0, 3.0, 4.0],
            classifier_depth: 2,
            classifier_attention_resolutions: vec![2, 4, 8],
            num_head_channels: 64,
            classifier_pool: Pool::Attention,
            classifier_use_scale_shift_norm: true,
            classifier_resblock_updown: true,
            use_new_attention_order: false,
            num_classes: 1000,
        }
    }
}

impl Config {
    pub(super) fn trunk(&self) -> Trunk<'_> {
        Trunk {
            num_channels: self.classifier_width,
            channel_mult: &self.channel_mult,
            num_res_blocks: self.classifier_depth,
            attention: &self.classifier_attention_resolutions,
            heads: Heads::Channels(self.num_head_channels),
            scale_shift: self.classifier_use_scale_shift_norm,
            resblock_updown: self.classifier_resblock_updown,
            conv_resample: true,
            new_attention_order: self.use_new_attention_order,
            context: None,
        }
    }

    /// Whether pictures must have `image_size` pixels a side: attention pooling has a position for each.
    pub fn fixed_size(&self) -> bool {
        self.classifier_pool == Pool::Attention
    }

    /// Heights and widths must be multiples of this; with attention pooling they are `image_size`.
    pub fn size_multiple(&self) -> usize {
        1 << (self.channel_mult.len() - 1)
    }

    /// x `[N, H, W, 3]`, t `[N]` → logits `[N, num_classes]`.
    pub fn forward(&self, g: &mut Graph, x: &Tensor, t: &Tensor) -> Tensor {
        let trunk = self.trunk();
        let emb = trunk.time_embedding(g, t);
        let emb = activate(g, &emb, Activation::Silu);
        let blocks = trunk.input_blocks(g, (x, None), &emb);
        let h = trunk.middle_block(g, &blocks[blocks.len() - 1], &emb);
        let norm = GroupNorm::new(g, "out.0", h.channels(), GROUPS, EPS);
        let h = group_norm(g, "out.0", (&h, None), &norm, None, Activation::Silu);
        g.tap("out.0", &h);
        match self.classifier_pool {
            Pool::Attention => {
                let head = self.num_head_channels;
                attention_pool_2d(g, "out.2", &h, PoolLayers::Fused, head, self.num_classes)
            }
            Pool::Adaptive => {
                let (n, channels) = (h.dim(0), h.channels());
                let pixels = tokens(g, &h);
                let mean = token_mean(g, &pixels);
                let mean = g.reshape(&mean, &[n, 1, 1, channels]);
                let logits = conv(g, "out.3", (&mean, None), self.num_classes, 1, Window::same(1));
                g.reshape(&logits, &[n, self.num_classes])
            }
        }
    }

    /// The network alone, to list its weights or to compare devices. Inputs `x` and `t`; output `logits`.
    pub fn graph(&self) -> Graph {
        let mut g = Graph::new();
        let x = g.input("x", &[1, self.image_size, self.image_size, 3], Storage::Elem);
        let t = g.input("t", &[1], Storage::F32);
        let logits = self.forward(&mut g, &x, &t);
        g.output("logits", &logits);
        g
    }
}
