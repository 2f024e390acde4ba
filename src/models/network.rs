//! What every denoising network is: sizes, and a forward that records it with its inputs by name.

use crate::graph::{Graph, Storage, Tensor};

/// Sizes of a denoising network's run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Shape {
    /// Pictures at once.
    pub pictures: usize,
    /// Rows of a picture.
    pub height: usize,
    /// Pixels in a row.
    pub width: usize,
    /// Channels of the sample.
    pub channels: usize,
    /// Rows and columns of the pictures that are enlarged, where the network enlarges any.
    pub enlarges: Option<(usize, usize)>,
    /// Tokens of a prompt; 0 without text.
    pub tokens: usize,
    /// The network runs on an unconditional and a conditional half.
    pub guided: bool,
    /// The sampler thresholds dynamically.
    pub dynamic: bool,
}

impl Shape {
    /// Items of the network's batch.
    pub fn batch(&self) -> usize {
        if self.guided { 2 * self.pictures } else { self.pictures }
    }

    /// `[pictures, height, width, channels]`.
    pub fn sample(&self) -> [usize; 4] {
        [self.pictures, self.height, self.width, self.channels]
    }

    /// `[pictures, h, w, channels]` of the pictures that are enlarged; the sample's where the shape says none.
    pub fn small(&self) -> [usize; 4] {
        let (height, width) = self.enlarges.unwrap_or((self.height, self.width));
        [self.pictures, height, width, self.channels]
    }
}

/// The pictures a network was trained on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sides {
    /// Their side.
    pub side: usize,
    /// Heights and widths are multiples of this.
    pub multiple: usize,
}

/// A network that a sampler's step follows. Its config says what it is made of; recorded, it takes the sample x
/// `[N, H, W, C]` and timesteps t `[batch]`, and whatever else conditions it by inputs of its own names.
pub trait DenoisingNetwork: Send + Sync {
    /// The pictures it was trained on.
    fn sides(&self) -> Sides;

    /// Channels of its sample.
    fn sample_channels(&self) -> usize;

    /// Whether it enlarges a picture.
    fn enlarges(&self) -> bool {
        false
    }

    /// Records the output `[batch, H, W, OC]`. Items of the batch do not see each other. It may be recorded several times,
    /// with shapes that differ in their number of pictures only.
    fn record(&self, g: &mut Graph, shape: Shape, x: &Tensor, t: &Tensor) -> Tensor;

    /// The network alone, to list its weights or to compare devices: as small as it may be while every weight counts (at
    /// one pixel a convolution's corners meet zeros only). Output `out`.
    fn smallest(&self) -> Graph {
        let unit = self.sides().multiple;
        let shape = Shape {
            pictures: 1,
            height: 2 * unit,
            width: 3 * unit,
            channels: self.sample_channels(),
            enlarges: self.enlarges().then_some((unit, unit)),
            tokens: 2,
            guided: false,
            dynamic: false,
        };
        let mut g = Graph::new();
        let x = g.input("x", &shape.sample(), Storage::F32);
        let t = g.input("t", &[1], Storage::F32);
        let out = self.record(&mut g, shape, &x, &t);
        g.output("out", &out);
        g
    }
}
