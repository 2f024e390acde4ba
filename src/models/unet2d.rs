//! The unconditional U-Net of the DDPM folders and of Karlo's super-resolution (diffusers' `UNet2DModel`; Ho et al. 2020,
//! arXiv:2006.11239).

use super::attention::{Projections, SelfAttention};
use super::blocks::{Resize, ResnetNames, ResnetOptions, conv, downsample, resnet_block, upsample};
use super::embeddings::timestep_mlp;
use super::network::{DenoisingNetwork, Shape, Sides};
use crate::graph::{Graph, Storage, Tensor};
use crate::kernels::conv2d::Window;
use crate::kernels::elementwise::activate;
use crate::kernels::epilogue::Activation;
use crate::kernels::group_norm::{GroupNorm, group_norm};
use crate::kernels::resample::{Resample, resample};
use crate::kernels::timestep_embedding::timestep_embedding;
use serde::Deserialize;

/// `unet/config.json` (or the root's `config.json`) of class `UNet2DModel`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Side of the pictures it was trained on.
    pub sample_size: usize,
    /// Channels in: 3, or 1 of grey pictures; 6 with a picture to enlarge beside the sample.
    pub in_channels: usize,
    /// Channels out: the sample's, or twice as many with a learned variance.
    pub out_channels: usize,
    /// Channels by level.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks of a level.
    pub layers_per_block: usize,
    /// Kinds of the levels on the way down.
    pub down_block_types: Vec<String>,
    /// Kinds of the levels on the way up.
    pub up_block_types: Vec<String>,
    /// Columns of a head; none is a single head.
    pub attention_head_dim: Option<usize>,
    /// Groups of the attention blocks' norms, if they differ.
    pub attn_norm_num_groups: Option<usize>,
    /// The middle has attention.
    pub add_attention: bool,
    /// `conv` or `resnet`, in levels with attention.
    pub downsample_type: String,
    /// `conv` or `resnet`, in levels with attention.
    pub upsample_type: String,
    /// Zeros around the strided convolutions; 0 means one row and column at the bottom right.
    pub downsample_padding: usize,
    /// `default` or `scale_shift`.
    pub resnet_time_scale_shift: String,
    /// Divides the middle's residual sums.
    pub mid_block_scale_factor: f32,
    /// Activation.
    pub act_fn: String,
    /// Groups of the norms.
    pub norm_num_groups: usize,
    /// Added to the norms' variance.
    pub norm_eps: f32,
    /// Cosines before sines.
    pub flip_sin_to_cos: bool,
    /// See [`timestep_embedding`].
    pub freq_shift: f64,
    /// Channels of the time embedding; unset is four times the first level's.
    pub time_embedding_dim: Option<usize>,
    /// `positional`.
    pub time_embedding_type: String,
    /// The sample is mapped to 2x − 1 first; not supported.
    pub center_input_sample: bool,
    /// Class conditioning; not supported here.
    pub class_embed_type: Option<String>,
}

impl Default for Config {
    /// diffusers' defaults.
    fn default() -> Self {
        let types = |first: &str, rest: &str, attention_last: bool| {
            let mut types = vec![rest.to_string(); 4];
            types[if attention_last { 3 } else { 0 }] = first.to_string();
            types
        };
        Config {
            sample_size: 32,
            in_channels: 3,
            out_channels: 3,
            block_out_channels: vec![224, 448, 672, 896],
            layers_per_block: 2,
            down_block_types: types("DownBlock2D", "AttnDownBlock2D", false),
            up_block_types: types("UpBlock2D", "AttnUpBlock2D", true),
            attention_head_dim: Some(8),
            attn_norm_num_groups: None,
            add_attention: true,
            downsample_type: "conv".into(),
            upsample_type: "conv".into(),
            downsample_padding: 1,
            resnet_time_scale_shift: "default".into(),
            mid_block_scale_factor: 1.0,
            act_fn: "silu".into(),
            norm_num_groups: 32,
            norm_eps: 1e-5,
            flip_sin_to_cos: true,
            freq_shift: 0.0,
            time_embedding_dim: None,
            time_embedding_type: "positional".into(),
            center_input_sample: false,
            class_embed_type: None,
        }
    }
}

pub(super) const DOWN: [&str; 3] = ["DownBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D"];
pub(super) const UP: [&str; 3] = ["UpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"];

impl Config {
    /// Heights and widths must be multiples of this.
    pub fn size_multiple(&self) -> usize {
        1 << (self.block_out_channels.len() - 1)
    }

    fn scale_shift(&self) -> bool {
        self.resnet_time_scale_shift == "scale_shift"
    }

    fn resnet(&self, output_scale: f32) -> ResnetOptions {
        ResnetOptions {
            names: ResnetNames::DIFFUSERS,
            groups: self.norm_num_groups,
            eps: self.norm_eps,
            act: Activation::from_name(&self.act_fn).unwrap_or_default(),
            scale_shift: self.scale_shift(),
            output_scale,
        }
    }

    fn attention(&self, channels: usize, groups: Option<usize>, output_scale: f32) -> SelfAttention {
        let head_dim = self.attention_head_dim.unwrap_or(channels);
        SelfAttention {
            projections: Projections::Separate,
            head_dim,
            groups,
            eps: self.norm_eps,
            output_scale,
        }
    }

    /// x `[N, H, W, in]`, or the sample with the picture to enlarge (of the sample's size) beside it, and t `[N]` →
    /// `[N, H, W, out]`.
    pub fn forward(&self, g: &mut Graph, (x, low_res): (&Tensor, Option<&Tensor>), t: &Tensor) -> Tensor {
        let (first, levels) = (self.block_out_channels[0], self.block_out_channels.len());
        let act = Activation::from_name(&self.act_fn).unwrap_or_default();
        let dim = self.time_embedding_dim.unwrap_or(4 * first);
        let t = timestep_embedding(g, t, first, self.flip_sin_to_cos, self.freq_shift);
        g.tap("time_proj", &t);
        // This layout's time MLP and last activation are SiLU whatever act_fn says.
        let emb = timestep_mlp(g, "time_embedding", &t, dim, Activation::Silu);
        g.tap("time_embedding", &emb);
        let emb = activate(g, &emb, act);

        let mut h = conv(g, "conv_in", (x, low_res), first, 3, Window::same(3));
        g.tap("conv_in", &h);
        let mut skips = vec![h.clone()];
        for level in 0..levels {
            let name = format!("down_blocks.{level}");
            h = g.scope(&name, |g| self.down(g, level, &h, &emb, &mut skips));
            g.tap(&name, &h);
        }
        h = g.scope("mid_block", |g| self.mid(g, &h, &emb));
        g.tap("mid_block", &h);
        for i in 0..levels {
            let name = format!("up_blocks.{i}");
            h = g.scope(&name, |g| self.up(g, i, &h, &emb, &mut skips));
            g.tap(&name, &h);
        }
        let norm = GroupNorm::new(g, "conv_norm_out", first, self.norm_num_groups, self.norm_eps);
        let h = group_norm(g, "conv_norm_out", (&h, None), &norm, None, Activation::Silu);
        g.tap("conv_norm_out", &h);
        conv(g, "conv_out", (&h, None), self.out_channels, 3, Window::same(3))
    }

    fn down(&self, g: &mut Graph, level: usize, x: &Tensor, emb: &Tensor, skips: &mut Vec<Tensor>) -> Tensor {
        let (out, kind) = (self.block_out_channels[level], self.down_block_types[level].as_str());
        let options = self.resnet(1.0);
        let mut h = x.clone();
        for i in 0..self.layers_per_block {
            h = resnet_block(g, &format!("resnets.{i}"), (&h, None), emb, out, Resize::None, &options);
            if kind == DOWN[1] {
                let groups = Some(self.norm_num_groups);
                h = self.attention(out, groups, 1.0).forward(g, &format!("attentions.{i}"), &h);
            }
            skips.push(h.clone());
        }
        if level + 1 < self.block_out_channels.len() {
            h = if kind == DOWN[2] || (kind == DOWN[1] && self.downsample_type == "resnet") {
                resnet_block(g, "downsamplers.0", (&h, None), emb, out, Resize::Down, &options)
            } else {
                downsample(g, "downsamplers.0.conv", &h, self.downsample_padding)
            };
            skips.push(h.clone());
        }
        h
    }

    fn mid(&self, g: &mut Graph, x: &Tensor, emb: &Tensor) -> Tensor {
        let options = self.resnet(self.mid_block_scale_factor);
        let channels = x.channels();
        let mut h = resnet_block(g, "resnets.0", (x, None), emb, channels, Resize::None, &options);
        if self.add_attention {
            // With scale and shift the middle's attention has no norm, unless its groups are named.
            let groups = self.attn_norm_num_groups.or((!self.scale_shift()).then_some(self.norm_num_groups));
            h = self.attention(channels, groups, self.mid_block_scale_factor).forward(g, "attentions.0", &h);
        }
        resnet_block(g, "resnets.1", (&h, None), emb, channels, Resize::None, &options)
    }

    fn up(&self, g: &mut Graph, i: usize, x: &Tensor, emb: &Tensor, skips: &mut Vec<Tensor>) -> Tensor {
        let level = self.block_out_channels.len() - 1 - i;
        let (out, kind) = (self.block_out_channels[level], self.up_block_types[i].as_str());
        let options = self.resnet(1.0);
        let mut h = x.clone();
        for j in 0..=self.layers_per_block {
            let skip = skips.pop();
            h = resnet_block(
                g,
                &format!("resnets.{j}"),
                (&h, skip.as_ref()),
                emb,
                out,
                Resize::None,
                &options,
            );
            if kind == UP[1] {
                let groups = Some(self.norm_num_groups);
                h = self.attention(out, groups, 1.0).forward(g, &format!("attentions.{j}"), &h);
            }
        }
        if level == 0 {
            return h;
        }
        if kind == UP[2] || (kind == UP[1] && self.upsample_type == "resnet") {
            resnet_block(g, "upsamplers.0", (&h, None), emb, out, Resize::Up, &options)
        } else {
            upsample(g, "upsamplers.0.conv", &h)
        }
    }
}

/// Unguided super-resolution's picture `[N, h, w, 3]` at the size of the sample: bicubic over all of the pixels that become
/// one (Karlo's).
pub fn enlarge(g: &mut Graph, low_res: &Tensor, (height, width): (usize, usize)) -> Tensor {
    resample(g, "low_res", low_res, height, width, Resample::Bicubic { antialias: true })
}

impl DenoisingNetwork for Config {
    fn sides(&self) -> Sides {
        Sides { side: self.sample_size, multiple: self.size_multiple() }
    }

    fn sample_channels(&self) -> usize {
        if self.enlarges() { self.in_channels / 2 } else { self.in_channels }
    }

    fn enlarges(&self) -> bool {
        self.in_channels == 6
    }

    /// Input besides the sample: `low_res` `[N, h, w, 3]` in [-1, 1], of a network that enlarges.
    fn record(&self, g: &mut Graph, shape: Shape, x: &Tensor, t: &Tensor) -> Tensor {
        let low_res = self.enlarges().then(|| {
            let low_res = g.input("low_res", &shape.small(), Storage::Elem);
            enlarge(g, &low_res, (shape.height, shape.width))
        });
        self.forward(g, (x, low_res.as_ref()), t)
    }
}
