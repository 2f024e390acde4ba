//! GLIDE (Nichol et al. 2021, arXiv:2112.10741) from OpenAI's files: a base network that draws 64×64 pictures of a
//! prompt, led by classifier-free guidance or by gradients, and an upsampler that reads the prompt, too.

use super::denoise::{Denoiser, Guided, Network, Shape};
use super::loaded::Loaded;
use super::start::{Place, Start, start};
use super::{Condition, Run, System, adm, initial_noise, lent, progress};
use crate::device::{Device, ProgramOptions, Weights};
use crate::diffusion::{SchedulerConfig, Step};
use crate::error::{Error, Result};
use crate::estimate::{NetworkCost, Target};
use crate::graph::Graph;
use crate::layout::{Defaults, GlideFiles};
use crate::models::adm::flags::{Origin, Overrides};
use crate::models::glide;
use crate::picture::Picture;
use crate::request::{
    GenerateConfig, Size, StageSide, guidance_scale, stage_count, stage_steps, stages_and_sizes,
};
use crate::text::{Gpt2Tokenizer, Tokens, caption};
use std::ops::Range;
use std::path::Path;

/// What the upsampler's first noise is multiplied by: less of it gives smoother pictures.
const UPSAMPLE_TEMP: f64 = 0.997;

/// A network with the process it was trained for.
pub struct Stage {
    /// The network's options.
    pub config: glide::Config,
    /// Where they come from.
    pub origin: Origin,
    /// How it was trained and is sampled.
    pub scheduler: SchedulerConfig,
    loaded: Loaded,
}

impl Stage {
    /// Reads a checkpoint, `.pt` or safetensors, of tensors in f16 and f32. `file` is a JSON file that may say its options
    /// under the checkpoint's name (`base.pt`) and `common`.
    ///
    /// Errors: a broken file, tensors of another network, options that do not fit them.
    pub fn load(weights: &Path, file: Option<&Path>, overrides: &Overrides) -> Result<Self> {
        let section = format!("{}.pt", weights.file_stem().unwrap_or_default().to_string_lossy());
        let (config, origin, weights) =
            adm::load_network::<glide::Config>(weights, (file, &section), overrides)?;
        let scheduler = adm::scheduler(&config.unet);
        Ok(Stage { config, origin, scheduler, loaded: Loaded::new(weights) })
    }

    /// What its file is called where it is published, without the ending.
    fn name(&self) -> String {
        let kind = if self.config.is_super_resolution() { "upsample" } else { "base" };
        if self.config.inpaint { format!("{kind}_inpaint") } else { kind.to_string() }
    }

    /// The weights, for programs a caller makes by itself.
    pub fn weights(&self) -> &Weights {
        &self.loaded.weights
    }

    /// The program for pictures of a size. Its inputs besides the sample: `tokens` and `mask` `[batch, text_ctx]` (see
    /// [`prompts`]); of an upsampler `low_res` `[N, h, w, 3]`; of a network that inpaints `image` `[N, H, W, 3]` and
    /// `keep` `[N, H, W, 1]`, 1 where the picture is kept.
    pub fn denoiser(
        &mut self,
        device: &Device,
        options: &ProgramOptions,
        shape: Shape,
    ) -> Result<&mut Denoiser> {
        let config = &self.config;
        self.loaded.denoiser(device, options, (shape, config.unet.size_multiple()), || network(config))
    }

    /// The sizes of a run that draws pictures of `width` by `height`.
    pub fn shape(&self, steps: &[Step], pictures: usize, (width, height): Size, scale: f64) -> Shape {
        Shape {
            pictures,
            height,
            width,
            channels: self.config.unet.in_channels(),
            tokens: self.config.text.text_ctx,
            guided: scale > 1.0,
            dynamic: Shape::is_dynamic(steps),
        }
    }
}

/// The network as a denoiser records it.
pub fn network(config: &glide::Config) -> Box<Network> {
    let config = config.clone();
    Box::new(move |g, shape, x, t| {
        let (small, image_size) = (config.unet.small_size.unwrap_or(1), config.unet.image_size);
        let side = |length: usize| (length * small / image_size).max(1);
        let small = [shape.pictures, side(shape.height), side(shape.width), shape.channels];
        config.record(g, (x, t), small)
    })
}

/// What a denoiser's `tokens` and `mask` are for `pictures` pictures of one prompt: `[batch, text_ctx]`, those of
/// `negative` first where there is guidance.
pub fn prompts(shape: Shape, negative: &Tokens, prompt: &Tokens) -> (Vec<f32>, Vec<f32>) {
    let halves: &[&Tokens] = if shape.guided { &[negative, prompt] } else { &[prompt] };
    let each = |values: &dyn Fn(&Tokens) -> Vec<f32>| -> Vec<f32> {
        halves.iter().flat_map(|half| values(half).repeat(shape.pictures)).collect()
    };
    let ids = each(&|tokens| tokens.ids.iter().map(|&id| id as f32).collect());
    let mask = each(&|tokens| tokens.mask.iter().map(|&text| f32::from(u8::from(text))).collect());
    (ids, mask)
}

/// Pictures as an upsampler gets them: by way of their bytes, to the nearest.
pub fn through_bytes(values: &[f32]) -> Vec<f32> {
    values.iter().map(|v| ((v + 1.0) * 127.5).round_ties_even() / 127.5 - 1.0).collect()
}

/// A base network, an upsampler, and their twins that see a picture of which parts are kept; some of the four.
pub(crate) struct Glide {
    tokenizer: Gpt2Tokenizer,
    networks: Vec<(Stage, Defaults)>,
}

/// A prompt and what takes the place of no prompt, as a stage's tokens.
struct Prompts {
    negative: Tokens,
    prompt: Tokens,
}

impl Glide {
    /// Reads every checkpoint and the tokenizer's tables.
    pub(crate) fn load(files: &GlideFiles) -> Result<Self> {
        let mut networks: Vec<(Stage, Defaults)> = Vec::new();
        for file in &files.networks {
            let stage = Stage::load(&file.weights, file.flags.as_deref(), &file.overrides)?;
            if networks.iter().any(|(other, _)| other.name() == stage.name()) {
                let what = format!("is a second network of the kind of {}.pt; give one", stage.name());
                return Err(Error::file(&file.weights, what));
            }
            let defaults = Defaults::glide(stage.config.is_super_resolution(), stage.config.inpaint);
            networks.push((stage, defaults));
        }
        let base = networks.iter().find(|(stage, _)| !stage.config.is_super_resolution());
        if let Some(side) = base.map(|(stage, _)| stage.config.unet.image_size) {
            networks.iter_mut().for_each(|(stage, _)| stage.config.enlarge_from(side));
        }
        let tokenizer = Gpt2Tokenizer::load(&files.tokenizer)?;
        for (stage, _) in &networks {
            let (wants, has) = (stage.config.text.n_vocab, tokenizer.vocab_size());
            if wants != has {
                let what = format!(
                    "holds a tokenizer of {has} tokens; the token_embedding of {}.pt has {wants}",
                    stage.name()
                );
                return Err(Error::file(&files.tokenizer, what));
            }
        }
        Ok(Glide { tokenizer, networks })
    }

    /// The networks of a run, by their place in the list: base and upsampler. Where a part of a picture is kept, those
    /// that were trained for it go first; elsewhere they are not asked.
    fn line(&self, keeps: bool) -> Result<Vec<usize>> {
        let find = |enlarges: bool, inpaint: bool| {
            let is = |(s, _): &(Stage, Defaults)| {
                s.config.is_super_resolution() == enlarges && s.config.inpaint == inpaint
            };
            self.networks.iter().position(is)
        };
        let of = |enlarges| match keeps {
            true => find(enlarges, true).or_else(|| find(enlarges, false)),
            false => find(enlarges, false),
        };
        if !keeps
            && find(false, false).is_none()
            && (find(false, true).is_some() || find(true, false).is_none())
        {
            let what = "GLIDE's networks for inpainting draw a part of a picture anew: give a picture and a mask \
                        (`ancestral edit`), or, to draw from a prompt alone, base.pt (and upsample.pt)";
            return Err(Error::Request(what.into()));
        }
        Ok([of(false), of(true)].into_iter().flatten().collect())
    }

    /// The networks of a run, which of them run, and the widths and heights of the pictures that each makes.
    fn runs(&self, cfg: &GenerateConfig<'_>, keeps: bool) -> Result<(Vec<usize>, Range<usize>, Vec<Size>)> {
        let line = self.line(keeps)?;
        let count = stage_count(cfg, line.len())?;
        let side = |&n: &usize| {
            let unet = &self.networks[n].0.config.unet;
            StageSide { side: unet.image_size, multiple: unet.size_multiple() }
        };
        let alone = self.networks[line[0]].0.config.unet.small_size;
        let (runs, sizes) = stages_and_sizes(cfg, line[..count].iter().map(side).collect(), alone)?;
        Ok((line, runs, sizes))
    }

    fn tokens(&self, cfg: &GenerateConfig<'_>, prompt: &str, length: usize) -> Result<Prompts> {
        let encode = |text: &str| match cfg.clean_caption {
            true => self.tokenizer.encode(&caption::clean(text), length),
            false => self.tokenizer.encode(text, length),
        };
        Ok(Prompts { negative: encode(&cfg.negative_prompt)?, prompt: encode(prompt)? })
    }
}

impl System for Glide {
    fn stages(&self) -> usize {
        self.line(false).or_else(|_| self.line(true)).map_or(1, |line| line.len())
    }

    fn condition(&self) -> Condition {
        Condition::Prompt
    }

    fn sizes(&self, cfg: &GenerateConfig<'_>) -> Result<Vec<Size>> {
        let keeps = cfg.mask.is_some() || self.line(false).is_err();
        Ok(self.runs(cfg, keeps)?.2)
    }

    fn takes_upsample_temp(&self) -> bool {
        true
    }

    fn notes(&self) -> Vec<String> {
        self.networks.iter().map(|(stage, _)| format!("{}: {}", stage.name(), stage.origin)).collect()
    }

    fn draw(&mut self, run: Run<'_, '_>) -> Result<Vec<Picture>> {
        let Run { device, options, prompt, cfg, noise } = run;
        let (line, runs, sizes) = self.runs(cfg, cfg.mask.is_some())?;
        let count = runs.end;
        let mut lists: Vec<(Vec<Step>, Prompts)> = Vec::new();
        for (i, &n) in line[..count].iter().enumerate() {
            let (stage, defaults) = &self.networks[n];
            let steps = stage_steps(&stage.scheduler, defaults, cfg, i)?;
            lists.push((steps, self.tokens(cfg, prompt, stage.config.text.text_ctx)?));
        }
        if let Some((_, tokens)) = lists.iter().find(|(_, t)| t.prompt.truncated || t.negative.truncated) {
            log::warn!("the prompt is longer than {} tokens; its end is not seen", tokens.prompt.ids.len());
        }
        let mut picture: Vec<f32> = cfg.from.iter().flat_map(|p| &p.values).copied().collect();
        for i in runs {
            let (stage, defaults) = &mut self.networks[line[i]];
            let (size, (steps, tokens), enlarges) = (sizes[i], &lists[i], stage.config.is_super_resolution());
            let scale = guidance_scale(defaults, cfg, i);
            let shape = stage.shape(steps, cfg.count, size, scale);
            let mut z = initial_noise(noise, shape);
            if enlarges {
                let factor = cfg.upsample_temp.unwrap_or(UPSAMPLE_TEMP) as f32;
                z.iter_mut().for_each(|z| *z *= factor);
            }
            let before = (i > 0).then(|| (picture.as_slice(), sizes[i - 1]));
            let place = Place { stage: i, shape, steps, sees: stage.config.inpaint, before };
            let Start { steps, x, kept } = start(cfg, &place, z)?;
            let denoiser = stage.denoiser(device, options, shape)?;
            let (ids, mask) = prompts(shape, &tokens.negative, &tokens.prompt);
            denoiser.write("tokens", &ids);
            denoiser.write("mask", &mask);
            if enlarges {
                denoiser.write("low_res", &through_bytes(&picture));
            }
            if let Some(kept) = kept.as_ref().filter(|_| denoiser.takes("keep")) {
                denoiser.write("image", &kept.picture);
                denoiser.write("keep", &kept.keep);
            }
            let by_gradients = if i == 0 && !enlarges { lent(&mut cfg.guides) } else { Vec::new() };
            let mut guided = Guided { scale, by_gradients, kept };
            let mut on_step = progress(cfg.on_progress.as_mut(), (i, count), size);
            picture = denoiser.sample(&steps, &mut guided, noise, x, &mut on_step)?;
            drop(on_step);
            if i + 1 < count {
                if let Some(on_stage) = &mut cfg.on_stage {
                    on_stage(i, &Picture::split(&picture, size.1, size.0, 3));
                }
                stage.loaded.release_if_large();
            }
        }
        let (width, height) = sizes[count - 1];
        Ok(Picture::split(&picture, height, width, 3))
    }

    fn plan(&self, cfg: &GenerateConfig<'_>, on: &Target) -> Result<Vec<NetworkCost>> {
        let (line, runs, sizes) = self.runs(cfg, cfg.mask.is_some())?;
        let mut networks = Vec::new();
        for i in runs {
            let (stage, defaults) = &self.networks[line[i]];
            let steps = stage_steps(&stage.scheduler, defaults, cfg, i)?;
            let shape = stage.shape(&steps, cfg.count, sizes[i], guidance_scale(defaults, cfg, i));
            let name = format!("stage {} U-Net", i + 1);
            networks.push(NetworkCost::of_denoiser(&name, shape, steps.len(), &network(&stage.config), on));
        }
        Ok(networks)
    }

    fn networks(&self) -> Vec<(String, Graph, &Weights)> {
        let stages = self.networks.iter().map(|(stage, _)| stage);
        stages.map(|stage| (stage.name(), stage.config.graph(), stage.weights())).collect()
    }
}
