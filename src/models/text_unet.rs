//! The U-Net that reads a text as a denoising network: DeepFloyd IF's stages, unCLIP's decoder.

use super::network::{DenoisingNetwork, Shape, Sides};
use super::unet::{Config, Inputs};
use crate::graph::{Graph, Storage, Tensor};
use crate::kernels::elementwise::{add, scale};
use crate::kernels::resample::{Resample, resample};

/// A U-Net, and how the picture that it enlarges is noised: √ᾱ and √(1−ᾱ) of its noise level.
#[derive(Clone, Debug)]
pub struct TextUNet {
    /// The network's config.
    pub unet: Config,
    /// Factors of the enlarged picture and of the noise; of a network that enlarges.
    pub augmentation: (f64, f64),
}

impl TextUNet {
    /// A network that enlarges nothing, or what it enlarges unnoised.
    pub fn new(unet: Config) -> Self {
        TextUNet { unet, augmentation: (1.0, 0.0) }
    }
}

/// Noise-conditioning augmentation (Saharia et al. 2022, arXiv:2205.11487): the picture `[N, h, w, C]` enlarged to the size
/// of z `[N, H, W, C]` (bilinear, corners aligned), and noised once by it.
pub fn augment(g: &mut Graph, low_res: &Tensor, z: &Tensor, (of_picture, of_noise): (f64, f64)) -> Tensor {
    let mode = Resample::Bilinear { align_corners: true };
    let up = resample(g, "low_res", low_res, z.dim(1), z.dim(2), mode);
    let up = scale(g, &up, of_picture as f32);
    let noise = scale(g, z, of_noise as f32);
    add(g, &up, &noise)
}

impl DenoisingNetwork for TextUNet {
    fn sides(&self) -> Sides {
        Sides { side: self.unet.sample_size, multiple: self.unet.size_multiple() }
    }

    /// The network's input less the picture beside it.
    fn sample_channels(&self) -> usize {
        if self.enlarges() { self.unet.in_channels / 2 } else { self.unet.in_channels }
    }

    fn enlarges(&self) -> bool {
        self.unet.is_super_resolution()
    }

    /// Inputs besides the sample: the text states `context` `[batch, tokens, T]`; of a network that enlarges `low_res`
    /// `[N, h, w, C]`, its noise `low_res_noise` `[N, H, W, C]` and `noise_level` `[batch]`; of unCLIP's decoder the
    /// embedding that joins the time's, `class_labels` `[batch, E]`, and what is added to the text's scores, `mask`
    /// `[batch, tokens]`.
    fn record(&self, g: &mut Graph, shape: Shape, x: &Tensor, t: &Tensor) -> Tensor {
        let (unet, batch) = (&self.unet, t.dim(0));
        let context = g.input("context", &[batch, shape.tokens, unet.context_channels()], Storage::Elem);
        let enlarged = self.enlarges().then(|| {
            let low_res = g.input("low_res", &shape.small(), Storage::Elem);
            let z = g.input("low_res_noise", &shape.sample(), Storage::Elem);
            (augment(g, &low_res, &z, self.augmentation), g.input("noise_level", &[batch], Storage::F32))
        });
        let given = unet.takes_embedding().then(|| {
            let labels = g.input("class_labels", &[batch, unet.time_channels()], Storage::F32);
            (labels, g.input("mask", &[batch, shape.tokens], Storage::F32))
        });
        let inputs = Inputs {
            x,
            low_res: enlarged.as_ref().map(|(low_res, _)| low_res),
            t,
            context: &context,
            mask: given.as_ref().map(|(_, mask)| mask),
            noise_level: enlarged.as_ref().map(|(_, level)| level),
            class_labels: given.as_ref().map(|(labels, _)| labels),
        };
        unet.forward(g, &inputs)
    }
}
