//! GLIDE (Nichol et al. 2021, arXiv:2112.10741) from OpenAI's files: a base network that draws 64×64 pictures of a
//! prompt, led by classifier-free guidance or by gradients, and an upsampler that reads the prompt, too.

use super::adm;
use super::denoiser::Denoiser;
use super::run::{Alone, Line, Run, StageRun};
use super::stage::{At, Network, Stage};
use super::system::{Abilities, Condition, Conditioner, System};
use super::text::halves;
use crate::catalog::{Defaults, GlideFiles};
use crate::error::{Error, Problem, Result, Setting};
use crate::kernels::hand_over::HandOver;
use crate::models::adm::flags::{Origin, Overrides};
use crate::models::glide;
use crate::models::network::Shape;
use crate::settings::Settings;
use crate::text::{Gpt2Tokenizer, Tokens, caption};
use std::path::Path;

/// What the upsampler's first noise is multiplied by: less of it gives smoother pictures.
const UPSAMPLE_TEMP: f64 = 0.997;

/// Reads a checkpoint, `.pt` or safetensors, of tensors in f16 and f32. `file` is a JSON file that may say its options
/// under the checkpoint's name (`base.pt`) and `common`. `enlarges` is the side of the pictures it enlarges, if that is
/// another than it says.
///
/// Errors: a broken file, tensors of another network, options that do not fit them.
pub fn load_stage(
    weights: &Path,
    file: Option<&Path>,
    overrides: &Overrides,
) -> Result<(Stage, glide::Config, Origin)> {
    let section = format!("{}.pt", weights.file_stem().unwrap_or_default().to_string_lossy());
    let (config, origin, weights) = adm::load_network::<glide::Config>(weights, (file, &section), overrides)?;
    let (kind, name) = if config.is_super_resolution() { ("upsample", "upscaler") } else { ("base", "base") };
    // What its file is called where it is published.
    let file_name = if config.inpaint { format!("{kind}_inpaint") } else { kind.to_string() };
    let defaults = Defaults::glide(config.is_super_resolution(), config.inpaint);
    let network = Network::new(file_name, config.clone(), weights);
    let mut stage = Stage::new(name, network, adm::scheduler(&config.unet), defaults);
    stage.tokens = config.text.text_ctx;
    stage.classifier_free = true;
    stage.keeps_estimate = config.inpaint;
    stage.handover = HandOver::Nearest;
    Ok((stage, config, origin))
}

/// What a denoiser's `tokens` and `mask` are: `[batch, text_ctx]`, those of `negative` first where there is guidance; one
/// of each for all pictures, or one for each.
pub fn prompts(shape: Shape, negative: &[Tokens], prompts: &[Tokens]) -> (Vec<f32>, Vec<f32>) {
    let ids = |tokens: &Tokens| tokens.ids.iter().map(|&id| id as f32).collect();
    let mask = |tokens: &Tokens| tokens.mask.iter().map(|&text| f32::from(u8::from(text))).collect();
    (halves(shape, negative, prompts, ids), halves(shape, negative, prompts, mask))
}

/// A base network, an upsampler, and their twins that see a picture of which parts are kept; some of the four.
pub(crate) struct Glide {
    tokenizer: Gpt2Tokenizer,
    stages: Vec<Stage>,
    configs: Vec<glide::Config>,
    origins: Vec<Origin>,
}

impl Glide {
    /// Reads every checkpoint and the tokenizer's tables.
    pub fn load(files: &GlideFiles) -> Result<Self> {
        let tokenizer = Gpt2Tokenizer::load(&files.tokenizer)?;
        let (mut stages, mut configs, mut origins) = (Vec::<Stage>::new(), Vec::new(), Vec::new());
        for file in &files.networks {
            let (stage, config, origin) = load_stage(&file.weights, file.flags.as_deref(), &file.overrides)?;
            let name = &stage.networks[0].name;
            if stages.iter().any(|other| other.networks[0].name == *name) {
                let what = format!("is a second network of the kind of {name}.pt; give one");
                return Err(Error::file(&file.weights, what));
            }
            let (wants, has) = (config.text.n_vocab, tokenizer.vocab_size());
            if wants != has {
                let what = format!(
                    "holds a tokenizer of {has} tokens; the token_embedding of {name}.pt has {wants}"
                );
                return Err(Error::file(&files.tokenizer, what));
            }
            stages.push(stage);
            configs.push(config);
            origins.push(origin);
        }
        Ok(Glide { tokenizer, stages, configs, origins })
    }

    /// The networks of a run, by their place in the list: base and upsampler. Where a part of a picture is kept, those
    /// that were trained for it go first; elsewhere they are not asked.
    fn pair(&self, keeps: bool) -> Option<Vec<usize>> {
        let find = |enlarges: bool, inpaint: bool| {
            let is = |c: &glide::Config| c.is_super_resolution() == enlarges && c.inpaint == inpaint;
            self.configs.iter().position(is)
        };
        let of = |enlarges| match keeps {
            true => find(enlarges, true).or_else(|| find(enlarges, false)),
            false => find(enlarges, false),
        };
        let only_twins =
            find(false, false).is_none() && (find(false, true).is_some() || find(true, false).is_none());
        (keeps || !only_twins).then(|| [of(false), of(true)].into_iter().flatten().collect())
    }

    fn tokens(&self, texts: &[String], clean: bool, length: usize) -> Result<Vec<Tokens>> {
        let encode = |text: &String| match clean {
            true => self.tokenizer.encode(&caption::clean(text), length),
            false => self.tokenizer.encode(text, length),
        };
        texts.iter().map(encode).collect()
    }
}

impl System for Glide {
    fn stages(&self) -> &[Stage] {
        &self.stages
    }

    fn condition(&self) -> Condition {
        Condition::Prompt
    }

    fn abilities(&self) -> Abilities {
        Abilities { scales_first_noise: true, ..Abilities::default() }
    }

    fn notes(&self) -> Vec<String> {
        let named = self.stages.iter().zip(&self.origins);
        named.map(|(stage, origin)| format!("{}: {origin}", stage.networks[0].name)).collect()
    }

    fn line(&self, settings: &Settings) -> Result<Line> {
        let Some(pair) = self.pair(settings.start.mask().is_some()) else {
            let what = "GLIDE's networks for inpainting draw a part of a picture anew: that takes a picture and a mask; to \
                        draw from a prompt alone takes base.pt (and upsample.pt)";
            return Err(Error::request(Setting::Mask, Problem::Missing, what));
        };
        let alone = self.configs[pair[0]].unet.small_size.map(|side| Alone { side, any: false });
        Ok(Line { alone, ..Line::all(pair) })
    }

    fn begin<'a>(
        &'a self,
        _: At<'a>,
        run: &'a Run,
        settings: &'a Settings,
    ) -> Result<Box<dyn Conditioner + 'a>> {
        let mut tokens = Vec::new();
        for stage in &run.stages {
            let of = |texts| self.tokens(texts, settings.clean_caption, stage.shape.tokens);
            tokens.push((stage.place, of(&run.negative)?, of(&run.prompts)?));
        }
        let mut all = tokens.iter().flat_map(|(_, negative, prompts)| negative.iter().chain(prompts));
        if let Some(cut) = all.find(|tokens| tokens.truncated) {
            log::warn!("the prompt is longer than {} tokens; its end is not seen", cut.ids.len());
        }
        let factor = settings.glide().upsample_temp.unwrap_or(UPSAMPLE_TEMP) as f32;
        Ok(Box::new(Prompted { tokens, factor }))
    }
}

/// A run's prompts as tokens.
struct Prompted {
    /// By a stage's place: of what is not drawn, and of what is.
    tokens: Vec<(usize, Vec<Tokens>, Vec<Tokens>)>,
    /// Of an upsampler's first noise.
    factor: f32,
}

impl Conditioner for Prompted {
    fn condition(&mut self, stage: &StageRun, denoiser: &mut Denoiser) -> Result<()> {
        if let Some((_, negative, positive)) = self.tokens.iter().find(|(place, ..)| *place == stage.place) {
            let (ids, mask) = prompts(stage.shape, negative, positive);
            denoiser.write("tokens", &ids);
            denoiser.write("mask", &mask);
        }
        Ok(())
    }

    fn first_noise(&mut self, stage: &StageRun, z: &mut [f32]) {
        if stage.shape.enlarges.is_some() {
            z.iter_mut().for_each(|z| *z *= self.factor);
        }
    }
}
