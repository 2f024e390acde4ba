//! The U-Net with its transformer.

use super::text::Config as TextConfig;
use crate::error::Result;
use crate::graph::{Graph, Storage, Tensor};
use crate::kernels::concat::concat;
use crate::kernels::elementwise::{add, mul};
use crate::models::adm::{self, NoiseSchedule};
use crate::models::blocks::widen;
use crate::models::network::{DenoisingNetwork, Shape, Sides};
use std::path::Path;

/// A network's options, named as glide-text2im's.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The U-Net; with `small_size` it enlarges pictures (`super_res`).
    pub unet: adm::Config,
    /// The text transformer.
    pub text: TextConfig,
    /// It is given the known part of a picture.
    pub inpaint: bool,
}

impl Default for Config {
    /// glide-text2im's options of the base model.
    fn default() -> Self {
        let unet = adm::Config {
            num_channels: 192,
            num_res_blocks: 3,
            attention_resolutions: vec![2, 4, 8],
            num_heads: 1,
            num_head_channels: Some(64),
            resblock_updown: true,
            learn_sigma: true,
            noise_schedule: NoiseSchedule::Cosine,
            ..adm::Config::default()
        };
        Config { unet, text: TextConfig::default(), inpaint: false }
    }
}

/// What a network takes. Item n of the batch reads pictures n % N' where there are N' of them.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// The sample `[N', H, W, 3]`.
    pub x: &'a Tensor,
    /// Timesteps `[N]`.
    pub t: &'a Tensor,
    /// Ids of the prompts' tokens `[N, text_ctx]`.
    pub tokens: &'a Tensor,
    /// 1 where they are text, 0 where they are padding, `[N, text_ctx]`.
    pub mask: &'a Tensor,
    /// Super-resolution: the picture to enlarge `[N', h, w, 3]`, of any size.
    pub low_res: Option<&'a Tensor>,
    /// Inpainting: the picture whose part is known `[N', H, W, 3]`, and that part `[N', H, W, 1]`, 1 where it is kept.
    pub image: Option<(&'a Tensor, &'a Tensor)>,
}

impl Config {
    /// Whether it enlarges a picture.
    pub fn is_super_resolution(&self) -> bool {
        self.unet.small_size.is_some()
    }

    /// Refuses what the forward cannot record; `path` is the file, for the message.
    pub fn validate(&self, path: &Path) -> Result<()> {
        self.unet.validate(path)?;
        self.text.validate(path)
    }

    /// [`Inputs`] → `[N, H, W, 6]`: noise and variance.
    #[track_caller]
    pub fn forward(&self, g: &mut Graph, inputs: &Inputs<'_>) -> Tensor {
        assert_eq!(inputs.low_res.is_some(), self.is_super_resolution(), "a picture to enlarge");
        assert_eq!(inputs.image.is_some(), self.inpaint, "a picture whose part is known");
        let (states, pooled) = self.text(g, inputs.tokens, inputs.mask);
        let time = self.unet.time_embedding(g, inputs.t);
        let emb = add(g, &time, &pooled);
        let beside = self.beside(g, inputs);
        self.unet.blocks(g, (inputs.x, beside.as_ref()), &emb, Some(&states))
    }

    /// Ids and mask `[N, text_ctx]` → states `[N, text_ctx, xf_width]`, and what they add to the time's embedding
    /// `[N, 4 · num_channels]`.
    pub fn text(&self, g: &mut Graph, tokens: &Tensor, mask: &Tensor) -> (Tensor, Tensor) {
        self.text.forward(g, (tokens, mask), 4 * self.unet.num_channels)
    }

    /// What goes in beside the sample: the known part of a picture, where it is known, the picture to enlarge.
    fn beside(&self, g: &mut Graph, inputs: &Inputs<'_>) -> Option<Tensor> {
        let size = (inputs.x.dim(1), inputs.x.dim(2));
        let low_res = inputs.low_res.map(|low| adm::enlarge(g, low, size));
        let known = inputs.image.map(|(image, keep)| {
            let wide = widen(g, "keep", keep, image.channels());
            let part = mul(g, image, &wide);
            concat(g, "known", &part, Some(keep), keep.dim(0))
        });
        match (known, low_res) {
            (Some(known), Some(low)) => Some(concat(g, "beside", &known, Some(&low), low.dim(0))),
            (known, low) => known.or(low),
        }
    }
}

impl DenoisingNetwork for Config {
    fn sides(&self) -> Sides {
        self.unet.sides()
    }

    fn sample_channels(&self) -> usize {
        self.unet.in_channels()
    }

    fn enlarges(&self) -> bool {
        self.is_super_resolution()
    }

    /// Inputs besides the sample: `tokens` and `mask` `[batch, text_ctx]`; of an upsampler `low_res` `[N, h, w, 3]`; of a
    /// network that inpaints `image` `[N, H, W, 3]` and `keep` `[N, H, W, 1]`, 1 where the picture is kept.
    fn record(&self, g: &mut Graph, shape: Shape, x: &Tensor, t: &Tensor) -> Tensor {
        let ids = [t.dim(0), self.text.text_ctx];
        let tokens = g.input("tokens", &ids, Storage::F32);
        let mask = g.input("mask", &ids, Storage::F32);
        let low_res = self.enlarges().then(|| g.input("low_res", &shape.small(), Storage::Elem));
        let known = self.inpaint.then(|| {
            let [n, h, w] = [x.dim(0), x.dim(1), x.dim(2)];
            (g.input("image", &[n, h, w, 3], Storage::Elem), g.input("keep", &[n, h, w, 1], Storage::Elem))
        });
        let image = known.as_ref().map(|(image, keep)| (image, keep));
        self.forward(g, &Inputs { x, t, tokens: &tokens, mask: &mask, low_res: low_res.as_ref(), image })
    }
}
