//! GLIDE (Nichol et al. 2021, arXiv:2112.10741) from OpenAI's files: a base network that draws 64×64 pictures of a
//! prompt, led by classifier-free guidance or by gradients, and an upsampler that reads the prompt, too.

use super::denoise::{Denoiser, Guided, Network, Shape};
use super::imagen::initial_noise;
use super::{Condition, Run, System, adm, lent, progress};
use crate::device::{Device, ProgramOptions, Weights};
use crate::diffusion::{SchedulerConfig, Step};
use crate::error::{Error, Result};
use crate::estimate::{NetworkCost, Target};
use crate::graph::Graph;
use crate::layout::{Defaults, GlideFiles};
use crate::models::adm::flags::{Origin, Overrides};
use crate::models::glide;
use crate::picture::Picture;
use crate::request::{GenerateConfig, Size, StageSide, stage_count, stage_steps, stages_and_sizes};
use crate::text::{Gpt2Tokenizer, Tokens, caption};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

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
    weights: Arc<Weights>,
    denoiser: Option<Denoiser>,
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
        Ok(Stage { config, origin, scheduler, weights, denoiser: None })
    }

    /// What its file is called where it is published, without the ending.
    fn name(&self) -> String {
        let kind = if self.config.is_super_resolution() { "upsample" } else { "base" };
        if self.config.inpaint { format!("{kind}_inpaint") } else { kind.to_string() }
    }

    /// The weights, for programs a caller makes by itself.
    pub fn weights(&self) -> &Weights {
        &self.weights
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
        let (config, weights) = (&self.config, &self.weights);
        Denoiser::reuse(&mut self.denoiser, shape, config.unet.size_multiple(), || {
            Denoiser::new(device, weights, options, shape, network(config))
        })
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
fn network(config: &glide::Config) -> Box<Network> {
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

/// Base and upsampler, what each needs by default, and their twins that know a part of the picture.
pub(crate) struct Glide {
    tokenizer: Gpt2Tokenizer,
    stages: Vec<(Stage, Defaults)>,
    inpainting: Vec<(Stage, Defaults)>,
}

impl Glide {
    /// Reads every checkpoint and the tokenizer's tables.
    pub(crate) fn load(files: &GlideFiles) -> Result<Self> {
        let (mut stages, mut inpainting) = (Vec::new(), Vec::new());
        for file in &files.networks {
            let stage = Stage::load(&file.weights, file.flags.as_deref(), &file.overrides)?;
            let list = if stage.config.inpaint { &mut inpainting } else { &mut stages };
            if list.iter().any(|(other, _): &(Stage, Defaults)| other.name() == stage.name()) {
                let what = format!("is a second network of the kind of {}.pt; give one", stage.name());
                return Err(Error::file(&file.weights, what));
            }
            let defaults = Defaults::glide(stage.config.is_super_resolution());
            list.push((stage, defaults));
        }
        for list in [&mut stages, &mut inpainting] {
            list.sort_by_key(|(stage, _)| stage.config.is_super_resolution());
            if let [(base, _), (upsampler, _)] = &mut list[..] {
                upsampler.config.unet.small_size = Some(base.config.unet.image_size);
            }
        }
        let tokenizer = Gpt2Tokenizer::load(&files.tokenizer)?;
        for (stage, _) in stages.iter().chain(&inpainting) {
            let (wants, has) = (stage.config.text.n_vocab, tokenizer.vocab_size());
            if wants != has {
                let what =
                    format!("holds a tokenizer of {has} tokens, the network's token_embedding has {wants}");
                return Err(Error::file(&files.tokenizer, what));
            }
        }
        Ok(Glide { tokenizer, stages, inpainting })
    }

    /// The stages that draw pictures.
    fn drawing(&self) -> Result<&[(Stage, Defaults)]> {
        if self.stages.is_empty() {
            let what = "these are GLIDE's networks for inpainting, which redraw a part of a picture; to draw one from a \
                        prompt alone give base.pt (and upsample.pt)";
            return Err(Error::Request(what.into()));
        }
        Ok(&self.stages)
    }

    /// Which stages run, and the widths and heights of the pictures that each stage makes.
    fn sizes(&self, cfg: &GenerateConfig<'_>) -> Result<(Range<usize>, Vec<Size>)> {
        let stages = self.drawing()?;
        let count = stage_count(cfg, stages.len())?;
        let side = |(s, _): &(Stage, Defaults)| StageSide {
            side: s.config.unet.image_size,
            multiple: s.config.unet.size_multiple(),
        };
        let alone = stages[0].0.config.unet.small_size;
        stages_and_sizes(cfg, stages[..count].iter().map(side).collect(), alone)
    }
}

fn guidance_scale(defaults: &Defaults, cfg: &GenerateConfig<'_>, index: usize) -> f64 {
    cfg.guidance_scale.get(index).copied().unwrap_or(defaults.guidance_scale)
}

impl System for Glide {
    fn stages(&self) -> usize {
        self.stages.len().max(1)
    }

    fn condition(&self) -> Condition {
        Condition::Prompt
    }

    fn takes_upsample_temp(&self) -> bool {
        true
    }

    fn notes(&self) -> Vec<String> {
        let all = self.stages.iter().chain(&self.inpainting);
        all.map(|(stage, _)| format!("{}: {}", stage.name(), stage.origin)).collect()
    }

    fn draw(&mut self, run: Run<'_, '_>) -> Result<Vec<Picture>> {
        let Run { device, options, prompt, cfg, noise } = run;
        let (runs, sizes) = self.sizes(cfg)?;
        let count = runs.end;
        let stages = self.stages[..count].iter().enumerate();
        let lists = stages.map(|(i, (stage, defaults))| stage_steps(&stage.scheduler, defaults, cfg, i));
        let lists = lists.collect::<Result<Vec<Vec<Step>>>>()?;
        let clean = |text: &str| if cfg.clean_caption { caption::clean(text) } else { text.to_string() };
        let (negative, prompt) = (clean(&cfg.negative_prompt), clean(prompt));
        let mut picture: Vec<f32> = cfg.from.iter().flat_map(|p| &p.values).copied().collect();
        for i in runs.clone() {
            let (stage, defaults) = &mut self.stages[i];
            let (size, steps, enlarges) = (sizes[i], &lists[i], stage.config.is_super_resolution());
            let text_ctx = stage.config.text.text_ctx;
            let encode = |text: &str| self.tokenizer.encode(text, text_ctx);
            let (negative, prompt) = (encode(&negative)?, encode(&prompt)?);
            if i == runs.start && (prompt.truncated || negative.truncated) {
                log::warn!("the prompt is longer than {text_ctx} tokens; its end is not seen");
            }
            let scale = guidance_scale(defaults, cfg, i);
            let shape = stage.shape(steps, cfg.count, size, scale);
            let mut start = initial_noise(noise, shape);
            let denoiser = stage.denoiser(device, options, shape)?;
            let (ids, mask) = prompts(shape, &negative, &prompt);
            denoiser.write("tokens", &ids);
            denoiser.write("mask", &mask);
            if enlarges {
                denoiser.write("low_res", &through_bytes(&picture));
                let factor = cfg.upsample_temp.unwrap_or(UPSAMPLE_TEMP) as f32;
                start.iter_mut().for_each(|z| *z *= factor);
            }
            let by_gradients = if i == 0 && !enlarges { lent(&mut cfg.guides) } else { Vec::new() };
            let mut guided = Guided { scale, by_gradients };
            let mut on_step = progress(cfg.on_progress.as_mut(), (i, count), size);
            picture = denoiser.sample(steps, &mut guided, noise, start, &mut on_step)?;
            drop(on_step);
            if i + 1 < count {
                if let Some(on_stage) = &mut cfg.on_stage {
                    on_stage(i, &Picture::split(&picture, size.1, size.0, 3));
                }
                stage.denoiser = None;
                stage.weights.release_if_large();
            }
        }
        let (width, height) = sizes[count - 1];
        Ok(Picture::split(&picture, height, width, 3))
    }

    fn plan(&self, cfg: &GenerateConfig<'_>, on: &Target) -> Result<Vec<NetworkCost>> {
        let (runs, sizes) = self.sizes(cfg)?;
        let mut networks = Vec::new();
        for i in runs {
            let (stage, defaults) = &self.stages[i];
            let steps = stage_steps(&stage.scheduler, defaults, cfg, i)?;
            let shape = stage.shape(&steps, cfg.count, sizes[i], guidance_scale(defaults, cfg, i));
            let name = format!("stage {} U-Net", i + 1);
            networks.push(NetworkCost::of_denoiser(&name, shape, steps.len(), &network(&stage.config), on));
        }
        Ok(networks)
    }

    fn networks(&self) -> Vec<(String, Graph, &Weights)> {
        let all = self.stages.iter().chain(&self.inpainting);
        all.map(|(stage, _)| (stage.name(), stage.config.graph(), stage.weights())).collect()
    }
}
