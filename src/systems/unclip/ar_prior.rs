//! Drawing a picture's embedding token by token: the autoregressive prior of a folder.
//!
//! Two programs, each recorded once. The first runs the tokens that stand before the components, once a prompt; its keys
//! and values are copied into the second's cache, for every picture. The second runs one token for each picture: it sees
//! the cache as far as its mask says, and its own keys and values are kept there for the tokens to come. Logits are read
//! back, and the CPU draws from them in f64.

use super::Captions;
use crate::device::{Device, Program, ProgramOptions, Transfer, Weights};
use crate::error::{Error, Result};
use crate::kernels::Precision;
use crate::models::ar_prior::{Alphabet, Config, cache_name};
use crate::systems::denoise::{OnStep, StepDone};
use crate::weights::{Checkpoint, read_json};
use std::path::Path;

/// A cache of more bytes is given back when its pictures are drawn.
pub(crate) const LARGE_CACHE: usize = 1 << 28;

/// How tokens are drawn from logits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenSampling {
    /// Classifier-free guidance: how far from the unconditional logits over the conditional ones; 1 is none.
    pub guidance_scale: f64,
    /// What the logits are divided by, after guidance: below 1 likely tokens become likelier.
    pub temperature: f64,
}

impl Default for TokenSampling {
    /// As strongly guided as Karlo's diffusion prior.
    fn default() -> Self {
        TokenSampling { guidance_scale: 4.0, temperature: 1.0 }
    }
}

/// `prior_ar/` of a pipeline's folder.
pub struct AutoregressivePrior {
    /// Its config.
    pub config: Config,
    /// What its tokens stand for.
    pub alphabet: Alphabet,
    weights: Weights,
    decoder: Option<TokenDecoder>,
}

impl AutoregressivePrior {
    /// Reads the network and what its tokens stand for.
    ///
    /// Errors: files that are absent, broken, or of another network.
    pub fn load(folder: &Path, variant: Option<&str>) -> Result<Self> {
        let folder = folder.join("prior_ar");
        let path = folder.join("config.json");
        let config: Config = read_json(&path)?;
        config.validate(&path)?;
        let checkpoint = Checkpoint::open(&folder, "diffusion_pytorch_model", variant)?;
        checkpoint.check(config.whole().weights(), |_| false)?;
        let alphabet = Alphabet::read(&checkpoint)?;
        Ok(AutoregressivePrior { config, alphabet, weights: Weights::new(checkpoint), decoder: None })
    }

    /// The weights, for programs a caller makes by itself.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// The programs for so many pictures at once, `guided` by the unconditional logits or not.
    ///
    /// Errors: weights that cannot be read; a device that fails.
    pub fn decoder(
        &self,
        device: &Device,
        options: &ProgramOptions,
        pictures: usize,
        guided: bool,
    ) -> Result<TokenDecoder> {
        TokenDecoder::new(device, options, (&self.config, &self.weights), pictures, guided)
    }

    /// [`TokenDecoder::draw`]s every picture's buckets `[pictures][K]`, where `uniforms` is `[pictures, K]`.
    ///
    /// Errors: a device that fails; a callback that cancels.
    pub fn draw(
        &mut self,
        (device, options): (&Device, &ProgramOptions),
        captions: &Captions,
        sampling: TokenSampling,
        uniforms: &[f32],
        on_step: &mut OnStep<'_>,
    ) -> Result<Vec<Vec<usize>>> {
        let (pictures, guided) = (uniforms.len() / self.config.num_components, sampling.guidance_scale > 1.0);
        // The old programs go before the new ones come, as two at once may not fit; so do those of a run that fails, of
        // which the next one would see what it left in the cache.
        let kept = self.decoder.take().filter(|made| (made.pictures, made.guided) == (pictures, guided));
        let mut decoder = match kept {
            Some(kept) => kept,
            None => self.decoder(device, options, pictures, guided)?,
        };
        let drawn = decoder.draw(captions, sampling, uniforms, on_step)?;
        if self.weights.is_large() || decoder.cache_bytes() > LARGE_CACHE {
            drop(decoder);
            self.weights.release_if_large();
        } else {
            self.decoder = Some(decoder);
        }
        Ok(drawn)
    }
}

/// The two programs of a run, with the cache of keys and values.
pub struct TokenDecoder {
    config: Config,
    pictures: usize,
    guided: bool,
    prefix: Program,
    step: Program,
    /// The prefix's keys and values to every picture's rows of the cache.
    fill: Vec<Transfer>,
    /// A token's keys and values to the cache's first place.
    append: Vec<Transfer>,
    /// The caption's masks `[1 or 2, L]`.
    mask: Vec<f32>,
    /// Tokens that the cache holds.
    cached: usize,
}

impl TokenDecoder {
    fn new(
        device: &Device,
        options: &ProgramOptions,
        (config, weights): (&Config, &Weights),
        pictures: usize,
        guided: bool,
    ) -> Result<Self> {
        // A draw hangs on small differences of logits, and so few tokens cost nothing: only weights may be f16.
        let precision = Precision { elem_f16: false, ..options.precision };
        let options = ProgramOptions { precision, ..*options };
        let halves = if guided { 2 } else { 1 };
        let rows = halves * pictures;
        let prefix = device.program(config.prefix_graph(halves), weights, &options)?;
        let step = device.program(config.step_graph(rows), weights, &options)?;
        let (columns, seen) = (2 * config.width(), config.prefix_tokens());
        let (mut fill, mut append) = (Vec::new(), Vec::new());
        for i in 0..config.num_layers {
            let name = cache_name(i);
            let ends = (prefix.graph().find_output(&name), step.graph().find_output(&name));
            let ((Some(first), Some(own)), Some(to)) = (ends, step.graph().find_input(&name)) else {
                continue;
            };
            for row in 0..rows {
                let (at, len) = (row * config.tokens() * columns, seen * columns);
                fill.push(Transfer { from: first, first: row / pictures * len, to, at, len });
                append.push(Transfer { from: own, first: row * columns, to, at, len: columns });
            }
        }
        let (config, mask) = (config.clone(), Vec::new());
        Ok(TokenDecoder { config, pictures, guided, prefix, step, fill, append, mask, cached: 0 })
    }

    fn cache_bytes(&self) -> usize {
        let bytes = size_of::<f32>();
        self.append.iter().map(|row| self.config.tokens() * row.len * bytes).sum()
    }

    /// The first component's logits `[rows, B]` for the second of two captions and, where it is guided, first those for
    /// the first one; a row for every picture.
    ///
    /// Errors: a device that fails, or computes what is no number.
    pub fn begin(&mut self, captions: &Captions, monitor: &mut dyn FnMut(f32) -> bool) -> Result<Vec<f32>> {
        let halves = if self.guided { 2 } else { 1 };
        let of = |values: &[f32]| values[values.len() / 2 * (2 - halves)..].to_vec();
        let dots = [self.config.dot_unsaid(), self.config.dot_default].map(|bucket| bucket as f32);
        let seen = self.config.prefix_tokens();
        self.mask = of(&captions.mask);
        self.prefix.write("states", &of(&captions.states));
        self.prefix.write("embeds", &of(&captions.embeds));
        self.prefix.write("dots", &of(&dots));
        self.prefix.write("mask", &self.config.mask(&self.mask, seen, seen));
        self.prefix.run(monitor)?;
        self.step.copy_from(&self.prefix, &self.fill);
        self.cached = seen;
        let logits = read_logits(&mut self.prefix)?;
        Ok(logits.chunks_exact(self.config.num_buckets).flat_map(|row| row.repeat(self.pictures)).collect())
    }

    /// The next component's logits `[rows, B]`, as [`TokenDecoder::begin`] gives them, once every picture's bucket of the
    /// last one is drawn.
    ///
    /// Errors: a device that fails, or computes what is no number.
    #[track_caller]
    pub fn advance(&mut self, buckets: &[usize], monitor: &mut dyn FnMut(f32) -> bool) -> Result<Vec<f32>> {
        let (place, all) = (self.cached, self.config.tokens());
        assert!((self.config.prefix_tokens()..all).contains(&place), "token {place} of {all}");
        let halves = self.mask.len() / self.config.max_text_len;
        let tokens: Vec<f32> = buckets.iter().map(|bucket| *bucket as f32).collect();
        let mask = self.config.mask(&self.mask, all, place);
        let mask: Vec<f32> = mask.chunks_exact(all).flat_map(|row| row.repeat(self.pictures)).collect();
        self.step.write("token", &tokens.repeat(halves));
        self.step.write("place", &vec![place as f32; halves * self.pictures]);
        self.step.write("mask", &mask);
        self.step.run(monitor)?;
        let columns = 2 * self.config.width();
        let here: Vec<Transfer> =
            self.append.iter().map(|c| Transfer { at: c.at + place * columns, ..*c }).collect();
        self.step.keep(&here);
        self.cached += 1;
        read_logits(&mut self.step)
    }

    /// Draws every picture's buckets `[pictures][K]` for the second of two captions, guided away from the first.
    /// `uniforms` `[pictures, K]` are numbers from 0 to 1, 1 not among them: of each picture, one for each component.
    ///
    /// Errors: a device that fails, or computes what is no number; a callback that cancels.
    pub fn draw(
        &mut self,
        captions: &Captions,
        sampling: TokenSampling,
        uniforms: &[f32],
        on_step: &mut OnStep<'_>,
    ) -> Result<Vec<Vec<usize>>> {
        let (steps, pictures) = (self.config.num_components, self.pictures);
        assert_eq!(uniforms.len(), pictures * steps, "numbers for {pictures} pictures of {steps} components");
        let mut drawn = vec![Vec::with_capacity(steps); pictures];
        let mut last = Vec::new();
        for k in 0..steps {
            let mut monitor = |share| on_step(StepDone { done: k as f32 + share, steps, estimate: None });
            let logits = match k {
                0 => self.begin(captions, &mut monitor)?,
                _ => self.advance(&last, &mut monitor)?,
            };
            let rows: Vec<&[f32]> = logits.chunks_exact(self.config.num_buckets).collect();
            let (negative, positive) = rows.split_at(rows.len() - pictures);
            last.clear();
            for (i, (of, positive)) in drawn.iter_mut().zip(positive).enumerate() {
                let logits = guide(negative.get(i).copied(), positive, sampling.guidance_scale);
                let bucket = pick(&logits, sampling.temperature, uniforms[i * steps + k]);
                of.push(bucket);
                last.push(bucket);
            }
            if !on_step(StepDone { done: (k + 1) as f32, steps, estimate: None }) {
                return Err(Error::Cancelled);
            }
        }
        Ok(drawn)
    }
}

fn read_logits(program: &mut Program) -> Result<Vec<f32>> {
    let logits = program.read("logits")?;
    if logits.iter().all(|v| v.is_finite()) {
        return Ok(logits);
    }
    let what = "the prior's logits came out as NaN or infinity; the weights or the device's arithmetic are at fault: try \
                `--device cpu`";
    Err(Error::Device(what.into()))
}

/// Classifier-free guidance on logits: u + s (c - u).
fn guide(negative: Option<&[f32]>, positive: &[f32], scale: f64) -> Vec<f64> {
    let positive = positive.iter().map(|c| f64::from(*c));
    match negative {
        Some(negative) => {
            negative.iter().map(|u| f64::from(*u)).zip(positive).map(|(u, c)| u + scale * (c - u)).collect()
        }
        None => positive.collect(),
    }
}

/// The outcome that a number from 0 to 1 falls on, where each takes a share of that stretch as the softmax of the logits
/// over the temperature says, in their order.
fn pick(logits: &[f64], temperature: f64, uniform: f32) -> usize {
    let top = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = logits.iter().map(|logit| ((logit - top) / temperature).exp()).collect();
    let mut left = f64::from(uniform) * weights.iter().sum::<f64>();
    let past = |weight: &f64| {
        left -= weight;
        left < 0.0
    };
    // Rounding may leave the last outcome short of its end.
    let last = weights.iter().rposition(|weight| *weight > 0.0).unwrap_or_default();
    weights.iter().position(past).unwrap_or(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_take_their_shares() {
        let logits: Vec<f64> = [0.5f64, 0.125, 0.0, 0.375].iter().map(|p| p.ln() + 3.0).collect();
        let at = |uniform| pick(&logits, 1.0, uniform);
        assert_eq!([0.0, 0.499, 0.501, 0.624, 0.626, 0.9999999].map(at), [0, 0, 1, 1, 3, 3]);
        // Of half the temperature, as the squares: 16, 1, 0, 9 of 26.
        assert_eq!([0.61, 0.62, 0.65, 0.66].map(|uniform| pick(&logits, 0.5, uniform)), [0, 1, 1, 3]);
        assert_eq!(pick(&[-1e30, 7.0, -1e30], 1.0, 0.0), 1);
        assert_eq!(pick(&[0.0], 0.01, 0.99), 0);
    }

    #[test]
    fn guidance_goes_beyond_the_conditional() {
        assert_eq!(guide(Some(&[1.0, 0.0]), &[2.0, -1.0], 3.0), [4.0, -3.0]);
        assert_eq!(guide(None, &[2.0, -1.0], 3.0), [2.0, -1.0]);
    }
}
