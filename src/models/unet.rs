//! The conditional U-Net of DeepFloyd IF's stages and of Karlo's decoder (diffusers' `UNet2DConditionModel` with added
//! keys and values), and Imagen's Efficient U-Net as a config of the same blocks.

use super::attention::{AddedKv, CrossNorm};
use super::blocks::{Resize, ResnetNames, ResnetOptions, conv, linear, resnet_block};
use super::embeddings::{text_embedding, timestep_mlp};
use crate::graph::{Graph, Tensor};
use crate::kernels::conv2d::Window;
use crate::kernels::elementwise::{activate, add, scale};
use crate::kernels::epilogue::Activation;
use crate::kernels::group_norm::{GroupNorm, group_norm};
use crate::kernels::timestep_embedding::timestep_embedding;
use serde::Deserialize;

/// One value for all levels, or one for each.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(untagged)]
pub enum PerLevel<T> {
    /// The same everywhere.
    All(T),
    /// By level, the highest resolution first.
    Each(Vec<T>),
}

impl<T: Copy> PerLevel<T> {
    /// The value at `level`.
    pub fn at(&self, level: usize) -> T {
        match self {
            PerLevel::All(value) => *value,
            PerLevel::Each(values) => values[level],
        }
    }

    pub(super) fn covers(&self, levels: usize) -> bool {
        !matches!(self, PerLevel::Each(values) if values.len() != levels)
    }
}

/// `unet/config.json` of class `UNet2DConditionModel`; keys that IF's and Karlo's layouts leave alone are not listed.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Side of the pictures it was trained on.
    pub sample_size: usize,
    /// 3, or 6 with a low-resolution picture beside the sample.
    pub in_channels: usize,
    /// 3, or 6 with a learned variance.
    pub out_channels: usize,
    /// Channels by level.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks by level.
    pub layers_per_block: PerLevel<usize>,
    /// Kinds of the levels on the way down.
    pub down_block_types: Vec<String>,
    /// Kind of the middle; none leaves it out.
    pub mid_block_type: Option<String>,
    /// Kinds of the levels on the way up.
    pub up_block_types: Vec<String>,
    /// Columns of an attention head, by level on the way down and by block on the way up (which is the other order).
    pub attention_head_dim: PerLevel<usize>,
    /// Channels of the projected text.
    pub cross_attention_dim: usize,
    /// `group_norm`, `layer_norm` or none: norm of the text in each attention block.
    pub cross_attention_norm: Option<String>,
    /// Channels of the text encoder's states.
    pub encoder_hid_dim: Option<usize>,
    /// `text_proj`, also where `encoder_hid_dim` stands alone.
    pub encoder_hid_dim_type: Option<String>,
    /// `text`: pooled text joins the time embedding.
    pub addition_embed_type: Option<String>,
    /// Heads of that pooling.
    pub addition_embed_type_num_heads: usize,
    /// `timestep`: a noise level joins the time embedding. `identity`: what joins it comes as an embedding.
    pub class_embed_type: Option<String>,
    /// Pixels attend to the text only, by level.
    pub only_cross_attention: PerLevel<bool>,
    /// The same in the middle; unset follows a single `only_cross_attention`.
    pub mid_block_only_cross_attention: Option<bool>,
    /// Divides the middle's residual sums.
    pub mid_block_scale_factor: f32,
    /// Divides the other residual sums.
    pub resnet_out_scale_factor: f32,
    /// The time embedding is activated once, not in each block.
    pub resnet_skip_time_act: bool,
    /// `default` or `scale_shift`.
    pub resnet_time_scale_shift: String,
    /// Activation of the whole embedding, once.
    pub time_embedding_act_fn: Option<String>,
    /// Channels of the time embedding; unset is four times the first level's.
    pub time_embedding_dim: Option<usize>,
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
    /// The sample is mapped to 2x − 1 first; not supported.
    pub center_input_sample: bool,
    /// Side of the first convolution's kernel.
    pub conv_in_kernel: usize,
    /// Side of the last convolution's kernel.
    pub conv_out_kernel: usize,
    /// Efficient U-Net: each level halves the size before its blocks, the first one too.
    pub downsample_first: bool,
    /// Efficient U-Net: skip connections are scaled by 1/√2.
    pub scale_skips: bool,
}

impl Default for Config {
    /// diffusers' defaults where IF's files may leave a key out.
    fn default() -> Self {
        Config {
            sample_size: 64,
            in_channels: 3,
            out_channels: 6,
            block_out_channels: vec![320, 640, 1280, 1280],
            layers_per_block: PerLevel::All(2),
            down_block_types: Vec::new(),
            mid_block_type: Some(MID.into()),
            up_block_types: Vec::new(),
            attention_head_dim: PerLevel::All(8),
            cross_attention_dim: 1280,
            cross_attention_norm: None,
            encoder_hid_dim: None,
            encoder_hid_dim_type: None,
            addition_embed_type: None,
            addition_embed_type_num_heads: 64,
            class_embed_type: None,
            only_cross_attention: PerLevel::All(false),
            mid_block_only_cross_attention: None,
            mid_block_scale_factor: 1.0,
            resnet_out_scale_factor: 1.0,
            resnet_skip_time_act: false,
            resnet_time_scale_shift: "default".into(),
            time_embedding_act_fn: None,
            time_embedding_dim: None,
            act_fn: "silu".into(),
            norm_num_groups: 32,
            norm_eps: 1e-5,
            flip_sin_to_cos: true,
            freq_shift: 0.0,
            center_input_sample: false,
            conv_in_kernel: 3,
            conv_out_kernel: 3,
            downsample_first: false,
            scale_skips: false,
        }
    }
}

pub(super) const RESNET_DOWN: &str = "ResnetDownsampleBlock2D";
pub(super) const CROSS_DOWN: &str = "SimpleCrossAttnDownBlock2D";
pub(super) const RESNET_UP: &str = "ResnetUpsampleBlock2D";
pub(super) const CROSS_UP: &str = "SimpleCrossAttnUpBlock2D";
pub(super) const MID: &str = "UNetMidBlock2DSimpleCrossAttn";

impl Config {
    /// Whether it enlarges a picture, whose noise level it is told.
    pub fn is_super_resolution(&self) -> bool {
        self.class_embed_type.as_deref() == Some("timestep")
    }

    /// Whether an embedding is given to it that joins the time's (unCLIP's decoder).
    pub fn takes_embedding(&self) -> bool {
        self.class_embed_type.as_deref() == Some("identity")
    }

    /// Channels of the time embedding.
    pub fn time_channels(&self) -> usize {
        self.time_embedding_dim.unwrap_or(4 * self.block_out_channels[0])
    }

    /// Channels of the text states the network takes.
    pub fn context_channels(&self) -> usize {
        self.encoder_hid_dim.unwrap_or(self.cross_attention_dim)
    }

    /// Heights and widths must be multiples of this.
    pub fn size_multiple(&self) -> usize {
        let halvings = self.block_out_channels.len() - usize::from(!self.downsample_first);
        1 << halvings
    }

    fn act(&self) -> Activation {
        Activation::from_name(&self.act_fn).unwrap_or_default()
    }

    fn resnet(&self, output_scale: f32) -> ResnetOptions {
        ResnetOptions {
            names: ResnetNames::DIFFUSERS,
            groups: self.norm_num_groups,
            eps: self.norm_eps,
            act: self.act(),
            scale_shift: self.resnet_time_scale_shift == "scale_shift",
            output_scale,
        }
    }

    fn attention(&self, head_dim: usize, only_cross: bool) -> AddedKv {
        AddedKv {
            head_dim,
            groups: self.norm_num_groups,
            cross_norm: match self.cross_attention_norm.as_deref() {
                Some("group_norm") => CrossNorm::Group,
                Some("layer_norm") => CrossNorm::Layer,
                _ => CrossNorm::None,
            },
            only_cross,
        }
    }

    /// x `[N', H, W, in]`, t `[N]`, context `[N, L, T]`, noise level `[N]` (super-resolution) → `[N, H, W, out]`.
    pub fn forward(&self, g: &mut Graph, inputs: &Inputs<'_>) -> Tensor {
        let emb = self.embedding(g, inputs); // [N, E], activated
        let context = match self.encoder_hid_dim {
            Some(_) => linear(g, "encoder_hid_proj", inputs.context, self.cross_attention_dim),
            None => inputs.context.clone(),
        }; // [N, L, cross_attention_dim]
        g.tap("encoder_hid_proj", &context);
        let context = Context { states: context, mask: inputs.mask.cloned() };
        let first = self.block_out_channels[0];
        let mut h = conv(
            g,
            "conv_in",
            (inputs.x, inputs.low_res),
            first,
            self.conv_in_kernel,
            Window { repeat: inputs.t.dim(0) / inputs.x.dim(0), ..Window::same(self.conv_in_kernel) },
        );
        g.tap("conv_in", &h);

        let mut skips = if self.downsample_first { Vec::new() } else { vec![h.clone()] };
        for level in 0..self.block_out_channels.len() {
            let name = format!("down_blocks.{level}");
            h = g.scope(&name, |g| self.down(g, level, &h, &emb, &context, &mut skips));
            g.tap(&name, &h);
        }
        if self.mid_block_type.is_some() {
            h = g.scope("mid_block", |g| self.mid(g, &h, &emb, &context));
            g.tap("mid_block", &h);
        }
        for i in 0..self.block_out_channels.len() {
            let name = format!("up_blocks.{i}");
            h = g.scope(&name, |g| self.up(g, i, &h, &emb, &context, &mut skips));
            g.tap(&name, &h);
        }

        let norm = GroupNorm::new(g, "conv_norm_out", first, self.norm_num_groups, self.norm_eps);
        let h = group_norm(g, "conv_norm_out", (&h, None), &norm, None, self.act());
        g.tap("conv_norm_out", &h);
        conv(
            g,
            "conv_out",
            (&h, None),
            self.out_channels,
            self.conv_out_kernel,
            Window::same(self.conv_out_kernel),
        )
    }

    /// Timestep, noise level or given embedding, and pooled text, summed and activated as the residual blocks take it.
    fn embedding(&self, g: &mut Graph, inputs: &Inputs<'_>) -> Tensor {
        let (first, act) = (self.block_out_channels[0], self.act());
        let dim = self.time_channels();
        let t = timestep_embedding(g, inputs.t, first, self.flip_sin_to_cos, self.freq_shift);
        g.tap("time_proj", &t);
        let mut emb = timestep_mlp(g, "time_embedding", &t, dim, act);
        g.tap("time_embedding", &emb);
        if let Some(level) = inputs.noise_level {
            let level = timestep_embedding(g, level, first, self.flip_sin_to_cos, self.freq_shift);
            g.tap("time_proj", &level);
            let level = timestep_mlp(g, "class_embedding", &level, dim, act);
            g.tap("class_embedding", &level);
            emb = add(g, &emb, &level);
        }
        if let Some(labels) = inputs.class_labels {
            emb = add(g, &emb, labels);
        }
        if self.addition_embed_type.is_some() {
            let heads = self.addition_embed_type_num_heads;
            let text = text_embedding(g, "add_embedding", inputs.context, heads, dim);
            g.tap("add_embedding", &text);
            emb = add(g, &emb, &text);
        }
        if let Some(act) = self.time_embedding_act_fn.as_deref().and_then(Activation::from_name) {
            emb = activate(g, &emb, act);
        }
        if self.resnet_skip_time_act { emb } else { activate(g, &emb, act) }
    }

    fn down(
        &self,
        g: &mut Graph,
        level: usize,
        x: &Tensor,
        emb: &Tensor,
        context: &Context,
        skips: &mut Vec<Tensor>,
    ) -> Tensor {
        let (out, last) = (self.block_out_channels[level], level + 1 == self.block_out_channels.len());
        let options = self.resnet(self.resnet_out_scale_factor);
        let mut h = x.clone();
        if self.downsample_first {
            h = resnet_block(g, "downsamplers.0", (&h, None), emb, h.channels(), Resize::Down, &options);
        }
        for i in 0..self.layers_per_block.at(level) {
            h = resnet_block(g, &format!("resnets.{i}"), (&h, None), emb, out, Resize::None, &options);
            if self.down_block_types[level] == CROSS_DOWN {
                let head_dim = self.attention_head_dim.at(level);
                let attention = self.attention(head_dim, self.only_cross_attention.at(level));
                h = attention.forward(
                    g,
                    &format!("attentions.{i}"),
                    &h,
                    &context.states,
                    context.mask.as_ref(),
                );
            }
            skips.push(h.clone());
        }
        if !last && !self.downsample_first {
            h = resnet_block(g, "downsamplers.0", (&h, None), emb, out, Resize::Down, &options);
            skips.push(h.clone());
        }
        h
    }

    fn mid(&self, g: &mut Graph, x: &Tensor, emb: &Tensor, context: &Context) -> Tensor {
        let last = self.block_out_channels.len() - 1;
        let options = self.resnet(self.mid_block_scale_factor);
        let only_cross = self.mid_block_only_cross_attention.unwrap_or(match self.only_cross_attention {
            PerLevel::All(value) => value,
            PerLevel::Each(_) => false,
        });
        let channels = x.channels();
        let h = resnet_block(g, "resnets.0", (x, None), emb, channels, Resize::None, &options);
        let attention = self.attention(self.attention_head_dim.at(last), only_cross);
        let h = attention.forward(g, "attentions.0", &h, &context.states, context.mask.as_ref());
        resnet_block(g, "resnets.1", (&h, None), emb, channels, Resize::None, &options)
    }

    fn up(
        &self,
        g: &mut Graph,
        i: usize,
        x: &Tensor,
        emb: &Tensor,
        context: &Context,
        skips: &mut Vec<Tensor>,
    ) -> Tensor {
        let level = self.block_out_channels.len() - 1 - i;
        let out = self.block_out_channels[level];
        let options = self.resnet(self.resnet_out_scale_factor);
        let mut h = x.clone();
        // Level by level the way up takes what the way down left; the extra block takes the level's input.
        let blocks = self.layers_per_block.at(level) + usize::from(!self.downsample_first);
        for j in 0..blocks {
            let mut skip = skips.pop();
            if self.scale_skips {
                skip = skip.map(|skip| scale(g, &skip, std::f32::consts::FRAC_1_SQRT_2));
            }
            h = resnet_block(
                g,
                &format!("resnets.{j}"),
                (&h, skip.as_ref()),
                emb,
                out,
                Resize::None,
                &options,
            );
            if self.up_block_types[i] == CROSS_UP {
                // Not the level's: diffusers reads this list forwards on the way up, and it alone.
                let head_dim = self.attention_head_dim.at(i);
                let attention = self.attention(head_dim, self.only_cross_attention.at(level));
                h = attention.forward(
                    g,
                    &format!("attentions.{j}"),
                    &h,
                    &context.states,
                    context.mask.as_ref(),
                );
            }
        }
        if level > 0 || self.downsample_first {
            h = resnet_block(g, "upsamplers.0", (&h, None), emb, out, Resize::Up, &options);
        }
        h
    }
}

/// What the network takes.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// The sample `[N', H, W, in]`; item n of the batch reads sample n % N'.
    pub x: &'a Tensor,
    /// Super-resolution: the picture to enlarge, whose channels follow the sample's, if it is not in `x` already.
    pub low_res: Option<&'a Tensor>,
    /// Timesteps `[N]`.
    pub t: &'a Tensor,
    /// Text states `[N, L, T]`.
    pub context: &'a Tensor,
    /// Added to the scores of the text's keys `[N, L]`, f32.
    pub mask: Option<&'a Tensor>,
    /// Noise level of the low-resolution picture `[N]`.
    pub noise_level: Option<&'a Tensor>,
    /// An embedding that joins the time's `[N, E]`.
    pub class_labels: Option<&'a Tensor>,
}

/// The text as attention takes it.
struct Context {
    /// `[N, L, cross_attention_dim]`.
    states: Tensor,
    /// Added to the scores of its keys `[N, L]`.
    mask: Option<Tensor>,
}
