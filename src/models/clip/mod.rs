//! CLIP (Radford et al. 2021, arXiv:2103.00020): a picture and a text as vectors whose cosine says how well they fit;
//! in three layouts of the same networks, and the two that see noisy pictures: GLIDE's transformer (Nichol et al. 2021,
//! arXiv:2112.10741) and the residual network of Semantic Diffusion Guidance (Liu et al. 2021, arXiv:2112.05744).
//!
//! - [`text`]: the text transformer. - [`vision`]: the picture's. - [`resnet`]: residual networks with attention
//!   pooling. - [`detect`]: their configs from tensors' shapes, from `clip/config.yaml` and from `config.json`.

pub mod detect;
pub mod resnet;
mod seen;
pub mod text;
mod transformer;
pub mod vision;

pub use seen::Seen;
pub use transformer::{Layout, Transformer};

use crate::graph::{Graph, Storage, Tensor};
use crate::kernels::elementwise::{add, as_elem, mul};
use crate::kernels::resample::{Resample, resample};

/// Means of red, green and blue in 0 to 1 that are subtracted from a picture. GLIDE's are the same times 255.
pub const MEANS: [f64; 3] = [0.48145466, 0.4578275, 0.40821073];
/// What the differences are divided by.
pub const DEVIATIONS: [f64; 3] = [0.26862954, 0.26130258, 0.27577711];

/// A picture's encoder.
#[derive(Clone, Debug, PartialEq)]
pub enum ImageEncoder {
    /// A transformer over patches.
    Transformer(vision::Config),
    /// A residual network with attention pooling.
    ResNet(resnet::Config),
}

impl ImageEncoder {
    /// Side of the pictures it sees; others are resized to it.
    pub fn image_size(&self) -> usize {
        match self {
            ImageEncoder::Transformer(config) => config.image_size,
            ImageEncoder::ResNet(config) => config.image_size,
        }
    }

    /// Columns of its answer.
    pub fn embed(&self) -> usize {
        match self {
            ImageEncoder::Transformer(config) => config.embed,
            ImageEncoder::ResNet(config) => config.embed,
        }
    }

    /// Whether it was trained on noisy pictures and is told the timestep.
    pub fn is_noised(&self) -> bool {
        match self {
            ImageEncoder::Transformer(config) => config.timesteps.is_some(),
            ImageEncoder::ResNet(config) => config.time.is_some(),
        }
    }

    /// x `[N, H, W, 3]` in -1 to 1 and, where it sees noise, timesteps t `[N]` → vectors and, if asked, maps. Pictures of
    /// another size are stretched or shrunk to the encoder's square: bilinear, corners not aligned.
    ///
    /// Panics where t is missing, or x is no colour picture.
    #[track_caller]
    pub fn forward(&self, g: &mut Graph, x: &Tensor, t: Option<&Tensor>, maps: bool) -> Seen {
        assert_eq!(x.channels(), 3, "CLIP sees colour pictures, not {:?}", x.shape);
        let side = self.image_size();
        let mut x = as_elem(g, x);
        if x.shape[1..3] != [side, side] {
            x = resample(g, "resize", &x, side, side, Resample::Bilinear { align_corners: false });
        }
        let x = normalise(g, &x);
        match self {
            ImageEncoder::Transformer(config) => config.forward(g, &x, t, maps),
            ImageEncoder::ResNet(config) => config.forward(g, &x, t, maps),
        }
    }

    /// The network alone, to list its weights or to compare devices. Inputs `x` and `t`; output `embeds`.
    pub fn graph(&self) -> Graph {
        let mut g = Graph::new();
        let side = self.image_size();
        let x = g.input("x", &[1, side, side, 3], Storage::F32);
        let t = self.is_noised().then(|| g.input("t", &[1], Storage::F32));
        let seen = self.forward(&mut g, &x, t.as_ref(), false);
        g.output("embeds", &seen.embeds);
        g
    }
}

/// ((x + 1) / 2 − mean) / deviation by channel.
fn normalise(g: &mut Graph, x: &Tensor) -> Tensor {
    let factors = DEVIATIONS.map(|d| (0.5 / d) as f32);
    let shifts = [0, 1, 2].map(|c| ((0.5 - MEANS[c]) / DEVIATIONS[c]) as f32);
    let (factors, shifts) = (g.constant(&[1, 3], factors.to_vec()), g.constant(&[1, 3], shifts.to_vec()));
    let y = mul(g, x, &factors);
    add(g, &y, &shifts)
}
