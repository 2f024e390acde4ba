//! A denoising network's weights, and the program that was last made of them.

use super::denoise::{Denoiser, Network, Shape};
use crate::device::{Device, ProgramOptions, Weights};
use crate::error::{Error, Result};
use std::sync::Arc;

pub(crate) struct Loaded {
    pub weights: Arc<Weights>,
    denoiser: Option<Denoiser>,
}

impl Loaded {
    /// Of weights that are known to be the network's.
    pub fn new(weights: Arc<Weights>) -> Self {
        Loaded { weights, denoiser: None }
    }

    /// The last denoiser if it was made for `shape`, else a new one in its place. A network's denoisers are all made for
    /// the device its first one was made for.
    ///
    /// Errors: sizes that are not multiples of `multiple`; a device that fails.
    pub fn denoiser(
        &mut self,
        device: &Device,
        options: &ProgramOptions,
        (shape, multiple): (Shape, usize),
        network: impl FnOnce() -> Box<Network>,
    ) -> Result<&mut Denoiser> {
        let Shape { height, width, .. } = shape;
        let fits = |side: usize| side > 0 && side.is_multiple_of(multiple);
        if !fits(height) || !fits(width) {
            let what = format!("{width}x{height} pixels: this network needs multiples of {multiple}");
            return Err(Error::Request(what));
        }
        // The old program goes before the new one comes: two at once may not fit.
        let kept = self.denoiser.take().filter(|denoiser| denoiser.shape() == shape);
        Ok(self.denoiser.insert(match kept {
            Some(kept) => kept,
            None => Denoiser::new(device, &self.weights, options, shape, network())?,
        }))
    }

    /// Gives memory back where a picture took much of it. The program holds its weights, so it goes with them.
    pub fn release_if_large(&mut self) {
        const LARGE_ACTIVATIONS: u64 = 1 << 28;
        let activations = self.denoiser.as_ref().map_or(0, |denoiser| denoiser.memory().0);
        if self.weights.is_large() || activations > LARGE_ACTIVATIONS {
            self.denoiser = None;
            self.weights.release_if_large();
        }
    }
}
