//! Group norm on the CPU: moments of blocks of pixels, put together to the groups', and an affine map for each channel.

#![expect(
    clippy::needless_range_loop,
    reason = "plain loops over arrays of vectors are unrolled early enough"
)]

use super::group_norm::Params;
use crate::kernels::epilogue::Activation;
use crate::kernels::simd::{read, store, wide, write};
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

/// Floats of x that a thread takes at a time, few enough to stay in its caches between passes.
const BLOCK: usize = 16_384;
/// A picture is cut into so many blocks at least, where it has the pixels. The moments are put together from the blocks', which
/// therefore follow from a picture's shape alone.
const LEAST: usize = 4;

/// The pictures of a norm's two inputs in blocks of pixels, those of a picture one after another.
pub(crate) struct Blocks<'a> {
    p: Params,
    /// As the kernel binds them: a, b, weight, bias, emb.
    inputs: &'a [&'a [f32]],
    pictures: usize,
    /// Pixels of a block; the last one of a picture may have fewer.
    block: usize,
    /// Blocks of a picture.
    pub blocks: usize,
}

impl<'a> Blocks<'a> {
    /// `len` is the number of elements of both inputs together.
    pub(crate) fn new(p: Params, inputs: &'a [&'a [f32]], len: usize) -> Self {
        let (channels, pixels) = ((p.in_a + p.in_b) as usize, p.pixels as usize);
        let block = (BLOCK / channels).clamp(1, pixels.div_ceil(LEAST).max(1));
        Blocks { p, inputs, pictures: len / (pixels * channels), block, blocks: pixels.div_ceil(block) }
    }

    /// Block `i` of each input.
    pub(crate) fn cut(&self, i: usize) -> (&'a [f32], &'a [f32]) {
        let (in_a, in_b, pixels) = (self.p.in_a as usize, self.p.in_b as usize, self.p.pixels as usize);
        let (picture, first) = (i / self.blocks * pixels, i % self.blocks * self.block);
        let (start, end) = (picture + first, picture + pixels.min(first + self.block));
        (&self.inputs[0][start * in_a..end * in_a], &self.inputs[1][start * in_b..end * in_b])
    }

    /// The blocks of y `[N, HW, C]`.
    pub(crate) fn of<'y>(&self, y: &'y mut [f32]) -> Vec<&'y mut [f32]> {
        let channels = (self.p.in_a + self.p.in_b) as usize;
        let pictures = y.chunks_mut(self.p.pixels as usize * channels);
        pictures.flat_map(|y| y.chunks_mut(self.block * channels)).collect()
    }

    /// What the norm does to each picture's channels.
    pub(crate) fn affine(&self) -> Vec<Affine> {
        let moments = self.moments().into_iter().enumerate();
        moments.map(|(n, groups)| Affine::new(&self.p, &groups, self.inputs, n)).collect()
    }

    /// The moments of each picture's groups.
    pub(crate) fn moments(&self) -> Vec<Vec<Moments>> {
        let (in_a, in_b, groups) = (self.p.in_a as usize, self.p.in_b as usize, self.p.groups as usize);
        let of_blocks: Vec<Vec<Moments>> = (0..self.pictures * self.blocks)
            .into_par_iter()
            .map(|i| {
                let (a, b) = self.cut(i);
                let mut moments = Arch::new().dispatch(ChannelMoments { x: a, channels: in_a });
                moments.extend(Arch::new().dispatch(ChannelMoments { x: b, channels: in_b }));
                moments
                    .chunks_exact((in_a + in_b) / groups)
                    .map(|group| Moments::together(group.iter()))
                    .collect()
            })
            .collect();
        // In the order of the blocks, so that the same numbers come out whichever thread was first.
        let of_picture = |of_blocks: &[Vec<Moments>]| {
            let group = |g: usize| Moments::together(of_blocks.iter().map(move |block| &block[g]));
            (0..groups).map(group).collect()
        };
        of_blocks.chunks_exact(self.blocks).map(of_picture).collect()
    }

    /// Block `i`, normalised, scaled and shifted, and its activation, into y.
    pub(crate) fn normalise(&self, affine: &[Affine], i: usize, y: &mut [f32], act: Activation) {
        let (a, b) = self.cut(i);
        let affine = &affine[i / self.blocks];
        let (in_a, in_b) = (self.p.in_a as usize, self.p.in_b as usize);
        // Some pixels at a time, all of it while they are in the first cache.
        let pixels = (2048 / (in_a + in_b)).max(1);
        for (i, y) in y.chunks_mut(pixels * (in_a + in_b)).enumerate() {
            let count = y.len() / (in_a + in_b);
            let x = |x: &'a [f32], channels: usize| &x[i * pixels * channels..][..count * channels];
            Arch::new().dispatch(Map { affine, x: x(a, in_a), channels: in_a, first: 0, y });
            Arch::new().dispatch(Map { affine, x: x(b, in_b), channels: in_b, first: in_a, y });
            wide(
                #[inline(always)]
                || act.apply_all(y),
            );
        }
    }
}

/// Count, mean, and sum of the squared distances from it.
#[derive(Clone, Copy)]
pub(crate) struct Moments {
    pub count: f64,
    pub mean: f64,
    pub squares: f64,
}

impl Moments {
    /// Of all the numbers that `parts` describe.
    pub(crate) fn together<'a>(parts: impl Iterator<Item = &'a Moments> + Clone) -> Moments {
        let count: f64 = parts.clone().map(|m| m.count).sum();
        let mean = parts.clone().map(|m| m.count * m.mean).sum::<f64>() / count;
        let squares = parts.map(|m| m.squares + m.count * (m.mean - mean).powi(2)).sum();
        Moments { count, mean, squares }
    }
}

/// Finds the moments of each channel of x `[pixels, channels]`.
struct ChannelMoments<'a> {
    x: &'a [f32],
    channels: usize,
}

impl WithSimd for ChannelMoments<'_> {
    type Output = Vec<Moments>;

    /// One pass over sums of distances from a value near the mean and of their squares: the mean of an eighth of the pixels,
    /// whose distance from the mean of all is at most √7 standard deviations.
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Vec<Moments> {
        let mut moments = Vec::with_capacity(self.channels);
        let mut first = 0;
        // Some vectors of channels at a time, with the sums in registers.
        while first < self.channels {
            first += if self.channels - first >= 4 * S::F32_LANES {
                self.strip::<S, 4>(simd, first, S::F32_LANES, &mut moments)
            } else {
                self.strip::<S, 1>(simd, first, S::F32_LANES.min(self.channels - first), &mut moments)
            };
        }
        moments
    }
}

impl ChannelMoments<'_> {
    /// Those of `V` vectors of `count` channels each from `first` on; says how many channels they are.
    #[inline(always)]
    fn strip<S: Simd, const V: usize>(
        &self,
        simd: S,
        first: usize,
        count: usize,
        moments: &mut Vec<Moments>,
    ) -> usize {
        let (channels, pixels) = (self.channels, self.x.len() / self.channels);
        let x = &self.x[..pixels * channels];
        assert!(first + V * count <= channels, "moments of channels that are not there");
        let zero = [simd.splat_f32s(0.0); V];
        let (mut near, mut sums, mut squares) = (zero, zero, zero);
        let some = pixels.div_ceil(8);
        for pixel in 0..some {
            for v in 0..V {
                // SAFETY: each pixel has these channels, as just asserted.
                let x = unsafe { read(simd, x.as_ptr().add(pixel * channels + first + v * count), count) };
                near[v] = simd.add_f32s(near[v], x);
            }
        }
        for v in 0..V {
            near[v] = simd.mul_f32s(near[v], simd.splat_f32s(1.0 / some as f32));
        }
        for pixel in 0..pixels {
            for v in 0..V {
                // SAFETY: each pixel has these channels, as just asserted.
                let x = unsafe { read(simd, x.as_ptr().add(pixel * channels + first + v * count), count) };
                let distance = simd.sub_f32s(x, near[v]);
                sums[v] = simd.add_f32s(sums[v], distance);
                squares[v] = simd.mul_add_e_f32s(distance, distance, squares[v]);
            }
        }
        let pixels = pixels as f64;
        for v in 0..V {
            let mut values = [[0.0; LANES]; 3];
            for (values, vector) in values.iter_mut().zip([near[v], sums[v], squares[v]]) {
                store(simd, &mut values[..count], vector);
            }
            let [near, sums, squares] = values;
            for c in 0..count {
                let (near, sum, squares) = (f64::from(near[c]), f64::from(sums[c]), f64::from(squares[c]));
                let (mean, squares) = (near + sum / pixels, squares - sum * sum / pixels);
                moments.push(Moments { count: pixels, mean, squares });
            }
        }
        V * count
    }
}

/// Floats of the widest vectors.
pub(crate) const LANES: usize = 16;

/// (x - mean) · gain + offset by channel, and 1 / (variance + eps).
pub(crate) struct Affine {
    pub mean: Vec<f32>,
    pub gain: Vec<f32>,
    pub offset: Vec<f32>,
    pub inverse_variance: Vec<f64>,
}

impl Affine {
    pub(crate) fn new(p: &Params, groups: &[Moments], inputs: &[&[f32]], n: usize) -> Self {
        let channels = (p.in_a + p.in_b) as usize;
        let mut affine =
            Affine { mean: Vec::new(), gain: Vec::new(), offset: Vec::new(), inverse_variance: Vec::new() };
        for c in 0..channels {
            let group = &groups[c / (channels / groups.len())];
            let inverse_variance = 1.0 / (group.squares / group.count + f64::from(p.eps));
            let mut gain = f64::from(inputs[2][c]) * inverse_variance.sqrt();
            let mut offset = f64::from(inputs[3][c]);
            if p.has_emb != 0 {
                let emb = &inputs[4][n * 2 * channels..][..2 * channels];
                gain *= 1.0 + f64::from(emb[c]);
                offset = offset * (1.0 + f64::from(emb[c])) + f64::from(emb[channels + c]);
            }
            let mean = group.mean as f32;
            affine.mean.push(mean);
            affine.gain.push(gain as f32);
            affine.inverse_variance.push(inverse_variance);
            // With what the mean lost in f32.
            affine.offset.push((offset - (group.mean - f64::from(mean)) * gain) as f32);
        }
        affine
    }
}

/// Writes the channels of x `[pixels, channels]`, mapped, into y from channel `first` on.
struct Map<'a> {
    affine: &'a Affine,
    x: &'a [f32],
    channels: usize,
    first: usize,
    y: &'a mut [f32],
}

impl WithSimd for Map<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (width, lanes) = (self.affine.mean.len(), S::F32_LANES);
        let to = self.first..self.first + self.channels;
        let affine = self.affine;
        let [mean, gain, offset] =
            [&affine.mean[to.clone()], &affine.gain[to.clone()], &affine.offset[to.clone()]];
        if self.channels == 0 {
            return;
        }
        for (x, y) in self.x.chunks_exact(self.channels).zip(self.y.chunks_exact_mut(width)) {
            let y = &mut y[to.clone()];
            for c in (0..self.channels).step_by(lanes) {
                let count = lanes.min(self.channels - c);
                // SAFETY: all of them have so many channels from c on.
                unsafe {
                    let mean = read(simd, mean.as_ptr().add(c), count);
                    let distance = simd.sub_f32s(read(simd, x.as_ptr().add(c), count), mean);
                    let gain = read(simd, gain.as_ptr().add(c), count);
                    let mapped =
                        simd.mul_add_e_f32s(distance, gain, read(simd, offset.as_ptr().add(c), count));
                    write(simd, y.as_mut_ptr().add(c), count, mapped);
                }
            }
        }
    }
}
