//! Drawing a picture's embedding token by token: the autoregressive prior of a folder.
//!
//! Two programs, each recorded once. The first runs the tokens that stand before the components, once a prompt; its keys
//! and values are copied into the second's cache, for every picture. The second runs one token for each picture: it sees
//! the cache as far as its mask says, and its own keys and values are kept there for the tokens to come. Logits are read
//! back, and the CPU draws from them in f64.

use crate::device::{Device, DeviceTensor, Program, ProgramOptions, Weights};
use crate::error::{Error, Result};
use crate::kernels::Precision;
use crate::models::ar_prior::{Alphabet, Config, TokenSampling, cache_name, guide, pick};
use crate::pipeline::memory::is_released;
use crate::pipeline::sampler::{OnStep, StepDone, finite};
use crate::pipeline::stage::At;
use crate::pipeline::text::Halves;
use crate::settings::PromptEmbeds;
use crate::weights::{Checkpoint, read_json};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// `prior_ar/` of a pipeline's folder.
pub struct AutoregressivePrior {
    /// Its config.
    pub config: Config,
    /// What its tokens stand for.
    pub alphabet: Alphabet,
    weights: Weights,
    idle: Mutex<Vec<TokenDecoder>>,
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
        Ok(AutoregressivePrior {
            config,
            alphabet,
            weights: Weights::new(checkpoint),
            idle: Mutex::default(),
        })
    }

    /// The weights, for programs a caller makes by itself.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// The programs for so many pictures at once of captions; guided by the unconditional ones where there are any.
    ///
    /// Errors: weights that cannot be read; a device that fails.
    pub fn decoder(&self, at: At<'_>, pictures: usize, captions: [usize; 2]) -> Result<TokenDecoder> {
        TokenDecoder::new(at, (&self.config, &self.weights), pictures, captions)
    }

    /// [`TokenDecoder::draw`]s every picture's buckets `[pictures][K]`, where `uniforms` is `[pictures, K]`.
    ///
    /// Errors: a device that fails; a callback that cancels.
    pub fn draw(
        &self,
        at: At<'_>,
        captions: &Halves,
        sampling: TokenSampling,
        uniforms: &[f32],
        on_step: &mut OnStep<'_>,
    ) -> Result<Vec<Vec<usize>>> {
        let pictures = uniforms.len() / self.config.num_components;
        let guided = sampling.guidance_scale > 1.0;
        let counts = [if guided { captions.negative.len() } else { 0 }, captions.prompts.len()];
        let kept = {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            let kept = idle.iter().position(|made| made.is_for(at.device, pictures, counts));
            let kept = kept.map(|i| idle.swap_remove(i));
            // The old programs go before new ones come: two at once may not fit.
            if kept.is_none() {
                idle.clear();
            }
            kept
        };
        let mut decoder = kept.map_or_else(|| self.decoder(at, pictures, counts), Ok)?;
        let drawn = decoder.draw(captions, sampling, uniforms, on_step)?;
        if is_released(self.weights.bytes(), decoder.cache_bytes() as u64) {
            drop(decoder);
            self.weights.release_if_large();
        } else {
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(decoder);
        }
        Ok(drawn)
    }
}

/// The two programs of a run, with the cache of keys and values.
pub struct TokenDecoder {
    device: Device,
    config: Config,
    pictures: usize,
    /// Captions of what is not drawn, and of what is.
    captions: [usize; 2],
    prefix: Program,
    step: Program,
    /// The prefix's keys and values of a caption, and where every picture's rows of the cache begin with them.
    fill: Vec<(DeviceTensor, DeviceTensor)>,
    /// A token's keys and values for a row, and the row of the cache.
    append: Vec<(DeviceTensor, DeviceTensor)>,
    /// The captions' masks, a row for every row of a step.
    mask: Vec<f32>,
    /// Tokens that the cache holds.
    cached: usize,
}

impl TokenDecoder {
    fn new(
        at: At<'_>,
        (config, weights): (&Config, &Weights),
        pictures: usize,
        captions: [usize; 2],
    ) -> Result<Self> {
        // A draw hangs on small differences of logits, and so few tokens cost nothing: only weights may be f16.
        let precision = Precision { elem_f16: false, ..at.options.precision };
        let options = ProgramOptions { precision, ..*at.options };
        let rows = captions_of_rows(pictures, captions);
        let prefix = at.device.program(config.prefix_graph(captions.iter().sum()), weights, &options)?;
        let step = at.device.program(config.step_graph(rows.len()), weights, &options)?;
        let (columns, seen) = (2 * config.width(), config.prefix_tokens());
        let (mut fill, mut append) = (Vec::new(), Vec::new());
        for i in 0..config.num_layers {
            let name = cache_name(i);
            let (first, own) = (prefix.value(&name), step.output(&name));
            let cache = step.input(&name);
            for (row, caption) in rows.iter().enumerate() {
                let all = config.tokens() * columns;
                let row_of_cache = cache.part(row * all, all);
                let len = seen * columns;
                fill.push((first.part(caption * len, len), row_of_cache.part(0, len)));
                append.push((own.part(row * columns, columns), row_of_cache));
            }
        }
        let (device, config, mask) = (at.device.clone(), config.clone(), Vec::new());
        Ok(TokenDecoder { device, config, pictures, captions, prefix, step, fill, append, mask, cached: 0 })
    }

    fn is_for(&self, device: &Device, pictures: usize, captions: [usize; 2]) -> bool {
        self.pictures == pictures && self.captions == captions && self.device.is(device)
    }

    fn cache_bytes(&self) -> usize {
        self.append.iter().map(|(_, row)| row.len() * size_of::<f32>()).sum()
    }

    /// A part of the captions' states, those of what is not drawn first.
    fn of<'a>(&self, captions: &'a Halves, part: impl Fn(&'a PromptEmbeds) -> &'a [f32]) -> Vec<f32> {
        let negative = captions.negative.iter().take(self.captions[0]);
        negative.chain(&captions.prompts).flat_map(|embeds| part(embeds).iter().copied()).collect()
    }

    /// The first component's logits `[rows, B]` for the captions of what is drawn and, where it is guided, first those of
    /// what is not; a row for every picture.
    ///
    /// Errors: a device that fails, or computes what is no number.
    pub fn begin(&mut self, captions: &Halves, monitor: &mut dyn FnMut(f32) -> bool) -> Result<Vec<f32>> {
        let [unsaid, said] = [self.config.dot_unsaid(), self.config.dot_default].map(|bucket| bucket as f32);
        let dots = [vec![unsaid; self.captions[0]], vec![said; self.captions[1]]].concat();
        let (seen, length) = (self.config.prefix_tokens(), self.config.max_text_len);
        let mask = self.of(captions, |embeds| &embeds.mask);
        let rows = captions_of_rows(self.pictures, self.captions);
        self.mask = rows.iter().flat_map(|caption| &mask[caption * length..][..length]).copied().collect();
        self.prefix.write("states", &self.of(captions, |embeds| &embeds.states));
        self.prefix.write("embeds", &self.of(captions, |embeds| &embeds.pooled));
        self.prefix.write("dots", &dots);
        self.prefix.write("mask", &self.config.mask(&mask, seen, seen));
        let mut work = self.device.work();
        self.prefix.enqueue(&mut work, monitor)?;
        for (from, to) in &self.fill {
            work.copy(from, to)?;
        }
        work.finish()?;
        self.cached = seen;
        let (logits, buckets) = (read_logits(&mut self.prefix)?, self.config.num_buckets);
        Ok(rows.iter().flat_map(|caption| &logits[caption * buckets..][..buckets]).copied().collect())
    }

    /// The next component's logits `[rows, B]`, as [`TokenDecoder::begin`] gives them, once every picture's bucket of the
    /// last one is drawn.
    ///
    /// Errors: a device that fails, or computes what is no number.
    #[track_caller]
    pub fn advance(&mut self, buckets: &[usize], monitor: &mut dyn FnMut(f32) -> bool) -> Result<Vec<f32>> {
        let (place, all) = (self.cached, self.config.tokens());
        assert!((self.config.prefix_tokens()..all).contains(&place), "token {place} of {all}");
        let rows = self.mask.len() / self.config.max_text_len;
        let tokens: Vec<f32> = buckets.iter().map(|bucket| *bucket as f32).collect();
        self.step.write("token", &tokens.repeat(rows / self.pictures));
        self.step.write("place", &vec![place as f32; rows]);
        self.step.write("mask", &self.config.mask(&self.mask, all, place));
        let mut work = self.device.work();
        self.step.enqueue(&mut work, monitor)?;
        let columns = 2 * self.config.width();
        for (own, cache) in &self.append {
            work.copy(own, &cache.part(place * columns, columns))?;
        }
        work.finish()?;
        self.cached += 1;
        read_logits(&mut self.step)
    }

    /// Draws every picture's buckets `[pictures][K]` for the captions of what is drawn, guided away from those of what is
    /// not. `uniforms` `[pictures, K]` are numbers from 0 to 1, 1 not among them: of each picture, one for each component.
    ///
    /// Errors: a device that fails, or computes what is no number; a callback that cancels.
    pub fn draw(
        &mut self,
        captions: &Halves,
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

/// Which caption every row of a step follows: of each half, its own of each picture, or the one there is.
fn captions_of_rows(pictures: usize, [negative, prompts]: [usize; 2]) -> Vec<usize> {
    let half =
        |first: usize, count: usize| (0..pictures).filter(move |_| count > 0).map(move |i| first + i % count);
    half(0, negative).chain(half(negative, prompts)).collect()
}

fn read_logits(program: &mut Program) -> Result<Vec<f32>> {
    finite(program.read("logits")?, "the prior's logits")
}
