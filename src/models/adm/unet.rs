//! The U-Net: unconditional, of classes, or of a picture to enlarge.

use super::trunk::{EPS, GROUPS, Heads, Trunk};
use crate::graph::{Graph, Storage, Tensor};
use crate::kernels::conv2d::Window;
use crate::kernels::elementwise::{activate, add};
use crate::kernels::embedding::embedding;
use crate::kernels::epilogue::Activation;
use crate::kernels::group_norm::{GroupNorm, group_norm};
use crate::kernels::resample::{Resample, resample};
use crate::models::blocks::conv;
use crate::models::network::{DenoisingNetwork, Shape, Sides};

/// How the betas grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoiseSchedule {
    /// 1e-4 to 0.02 in a thousand steps, scaled for other numbers of them.
    Linear,
    /// Squared cosine (arXiv:2102.09672).
    Cosine,
}

/// The flags of a U-Net and of the diffusion it was trained for, named as on the command line.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Side of the pictures it was trained on (`large_size` of a super-resolution network).
    pub image_size: usize,
    /// Super-resolution: side of the pictures it enlarges.
    pub small_size: Option<usize>,
    /// Channels that `channel_mult` multiplies.
    pub num_channels: usize,
    /// Channels by level.
    pub channel_mult: Vec<f64>,
    /// Residual blocks of a level.
    pub num_res_blocks: usize,
    /// Where attention is: factors by which a level is smaller than the picture. (On the command line these are the
    /// levels' sides: image_size / factor.)
    pub attention_resolutions: Vec<usize>,
    /// Heads of the attention blocks, unless `num_head_channels` says their size.
    pub num_heads: usize,
    /// Columns of a head.
    pub num_head_channels: Option<usize>,
    /// Heads on the way up, if there are others.
    pub num_heads_upsample: Option<usize>,
    /// The embedding scales and shifts after the second norm of a block, instead of being added before it.
    pub use_scale_shift_norm: bool,
    /// Residual blocks change the size.
    pub resblock_updown: bool,
    /// Without `resblock_updown`: convolutions change the size, instead of pooling and repeating.
    pub conv_resample: bool,
    /// Queries, keys and values of all heads lie apart in the file, instead of head by head.
    pub use_new_attention_order: bool,
    /// It is told the class.
    pub class_cond: bool,
    /// How many classes, if so.
    pub num_classes: usize,
    /// It predicts the variance, too: 6 channels out.
    pub learn_sigma: bool,
    /// Schedule of the betas.
    pub noise_schedule: NoiseSchedule,
    /// Timesteps of the training.
    pub diffusion_steps: usize,
    /// The network is told the time in thousandths of the training, whatever `diffusion_steps` is.
    pub rescale_timesteps: bool,
    /// Weight of the variance's loss in the training; of no effect on sampling.
    pub rescale_learned_sigmas: bool,
    /// It predicts x₀ instead of the noise.
    pub predict_xstart: bool,
    /// Without `learn_sigma`: the posterior's variance instead of beta.
    pub sigma_small: bool,
}

impl Default for Config {
    /// guided-diffusion's defaults.
    fn default() -> Self {
        Config {
            image_size: 64,
            small_size: None,
            num_channels: 128,
            channel_mult: vec![1.0, 2.0, 3.0, 4.0],
            num_res_blocks: 2,
            attention_resolutions: vec![4, 8],
            num_heads: 4,
            num_head_channels: None,
            num_heads_upsample: None,
            use_scale_shift_norm: true,
            resblock_updown: false,
            conv_resample: true,
            use_new_attention_order: false,
            class_cond: false,
            num_classes: 1000,
            learn_sigma: false,
            noise_schedule: NoiseSchedule::Linear,
            diffusion_steps: 1000,
            rescale_timesteps: false,
            rescale_learned_sigmas: false,
            predict_xstart: false,
            sigma_small: false,
        }
    }
}

/// What the network takes.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// The sample `[N', H, W, 3]`; item n of the batch reads sample n % N'.
    pub x: &'a Tensor,
    /// Super-resolution: the picture to enlarge `[N', h, w, 3]`, of any size.
    pub low_res: Option<&'a Tensor>,
    /// Timesteps `[N]`.
    pub t: &'a Tensor,
    /// Numbers of the classes `[N]`, if there are classes.
    pub y: Option<&'a Tensor>,
}

/// The picture to enlarge `[N, h, w, C]` at the size of the sample.
pub(in crate::models) fn enlarge(g: &mut Graph, low: &Tensor, (height, width): (usize, usize)) -> Tensor {
    resample(g, "low_res", low, height, width, Resample::Bilinear { align_corners: false })
}

impl Config {
    pub(super) fn trunk(&self) -> Trunk<'_> {
        Trunk {
            num_channels: self.num_channels,
            channel_mult: &self.channel_mult,
            num_res_blocks: self.num_res_blocks,
            attention: &self.attention_resolutions,
            heads: Heads::of(self.num_heads, self.num_head_channels),
            scale_shift: self.use_scale_shift_norm,
            resblock_updown: self.resblock_updown,
            conv_resample: self.conv_resample,
            new_attention_order: self.use_new_attention_order,
            context: None,
        }
    }

    /// Heads on the way up.
    pub(super) fn heads_up(&self) -> Heads {
        Heads::of(self.num_heads_upsample.unwrap_or(self.num_heads), self.num_head_channels)
    }

    /// Heights and widths must be multiples of this.
    pub fn size_multiple(&self) -> usize {
        1 << (self.channel_mult.len() - 1)
    }

    /// Channels of the sample.
    pub fn in_channels(&self) -> usize {
        3
    }

    /// Channels out: noise, and with `learn_sigma` variance.
    pub fn out_channels(&self) -> usize {
        if self.learn_sigma { 6 } else { 3 }
    }

    /// How many classes it is told apart, if any.
    pub fn classes(&self) -> Option<usize> {
        self.class_cond.then_some(self.num_classes)
    }

    /// [`Inputs`] → `[N, H, W, out_channels]`.
    #[track_caller]
    pub fn forward(&self, g: &mut Graph, inputs: &Inputs<'_>) -> Tensor {
        assert_eq!(inputs.y.is_some(), self.class_cond, "classes are given where the network has them");
        assert_eq!(
            inputs.low_res.is_some(),
            self.small_size.is_some(),
            "a picture to enlarge goes with small_size"
        );
        let mut emb = self.time_embedding(g, inputs.t);
        if let Some(y) = inputs.y {
            let table = g.scope("label_emb", |g| g.table("weight", self.num_classes, 4 * self.num_channels));
            let label = embedding(g, "label_emb", y, &table);
            emb = add(g, &emb, &label);
        }
        let size = (inputs.x.dim(1), inputs.x.dim(2));
        let beside = inputs.low_res.map(|low| enlarge(g, low, size));
        self.blocks(g, (inputs.x, beside.as_ref()), &emb, None)
    }

    /// t `[N]` → `[N, 4 · num_channels]`, not activated.
    pub(in crate::models) fn time_embedding(&self, g: &mut Graph, t: &Tensor) -> Tensor {
        self.trunk().time_embedding(g, t)
    }

    /// All blocks: x `[N', H, W, 3]` (and what goes in beside it), embedding `[N, 4 · num_channels]` that is not activated
    /// yet, text states `[N, L, T]` where there is text → `[N, H, W, out_channels]`.
    pub(in crate::models) fn blocks(
        &self,
        g: &mut Graph,
        (x, beside): (&Tensor, Option<&Tensor>),
        emb: &Tensor,
        context: Option<&Tensor>,
    ) -> Tensor {
        let trunk = Trunk { context, ..self.trunk() };
        g.tap("emb", emb);
        let emb = activate(g, emb, Activation::Silu);
        let mut skips = trunk.input_blocks(g, (x, beside), &emb);
        let mut h = trunk.middle_block(g, &skips[skips.len() - 1], &emb);
        let mut count = 0;
        for level in (0..trunk.levels()).rev() {
            for block in 0..=self.num_res_blocks {
                let name = format!("output_blocks.{count}");
                let skip = skips.pop();
                h = g.scope(&name, |g| {
                    let h = trunk.block(g, (&h, skip.as_ref()), &emb, level, self.heads_up());
                    match level > 0 && block == self.num_res_blocks {
                        true => trunk.up(g, if trunk.attends(level) { "2" } else { "1" }, &h, &emb),
                        false => h,
                    }
                });
                g.tap(&name, &h);
                count += 1;
            }
        }
        let norm = GroupNorm::new(g, "out.0", h.channels(), GROUPS, EPS);
        let h = group_norm(g, "out.0", (&h, None), &norm, None, Activation::Silu);
        conv(g, "out.2", (&h, None), self.out_channels(), 3, Window::same(3))
    }
}

impl DenoisingNetwork for Config {
    fn sides(&self) -> Sides {
        Sides { side: self.image_size, multiple: self.size_multiple() }
    }

    fn sample_channels(&self) -> usize {
        self.in_channels()
    }

    fn enlarges(&self) -> bool {
        self.small_size.is_some()
    }

    /// Inputs besides the sample: `y`, the classes' numbers `[N]`, of a network that is told the class; `low_res`
    /// `[N, h, w, 3]` of an upsampler.
    fn record(&self, g: &mut Graph, shape: Shape, x: &Tensor, t: &Tensor) -> Tensor {
        let y = self.class_cond.then(|| g.input("y", &[shape.pictures], Storage::F32));
        let low_res = self.enlarges().then(|| g.input("low_res", &shape.small(), Storage::Elem));
        self.forward(g, &Inputs { x, low_res: low_res.as_ref(), t, y: y.as_ref() })
    }
}
