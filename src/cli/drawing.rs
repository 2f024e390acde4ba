//! Settings of a run that draws, whatever it draws from.

use super::output::{Bars, Output};
use super::parse::{StageValue, parse_clip, parse_sampler, parse_size, parse_thresholding, per_stage};
use ancestral::{Error, GlideSettings, PriorKind, Sampler, Settings, Thresholding, UnClipSettings};
use clap::{Args, ValueEnum};

/// How large, and how far.
#[derive(Args)]
pub struct Extent {
    /// Width and height of the model's final picture, e.g. 256x256
    #[arg(long, value_name = "WxH", value_parser = parse_size)]
    size: Option<(usize, usize)>,
    /// Run this many stages: fewer stop early, more take a model's optional upsampler, e.g. to 1024x1024 [default: all but
    /// that]
    #[arg(long, value_name = "N")]
    stages: Option<usize>,
}

impl Extent {
    /// The settings with these.
    pub fn apply(&self, settings: Settings) -> Settings {
        let settings = self.size.into_iter().fold(settings, |s, (width, height)| s.size(width, height));
        self.stages.into_iter().fold(settings, Settings::stages)
    }
}

/// Which prior draws an unCLIP's embeddings, and how often it tries.
#[derive(Args)]
pub struct Prior {
    /// unCLIP: what draws the embedding [default: diffusion, where the model has it]
    #[arg(help_heading = "Sampling", long, value_enum)]
    prior: Option<PriorName>,
    /// unCLIP: embeddings to draw for each picture, of which the one nearest to the prompt's is kept
    #[arg(help_heading = "Sampling", long, value_name = "N", default_value_t = 1)]
    candidates: usize,
}

#[derive(Clone, Copy, ValueEnum)]
enum PriorName {
    /// By denoising it
    Diffusion,
    /// Token by token: its principal components
    Autoregressive,
}

impl Prior {
    /// The settings with these, where any is given.
    pub fn apply(&self, settings: Settings) -> Settings {
        let prior = self.prior.map(|prior| match prior {
            PriorName::Diffusion => PriorKind::Diffusion,
            PriorName::Autoregressive => PriorKind::Autoregressive,
        });
        match (prior, self.candidates) {
            (None, 1) => settings,
            (prior, candidates) => {
                settings.system(UnClipSettings { prior, candidates, ..Default::default() })
            }
        }
    }
}

/// What a run gives, and how it is sampled.
#[derive(Args)]
pub struct Drawing {
    #[command(flatten)]
    pub output: Output,
    /// Pictures to draw, with seeds N, N+1, … [default: 1, or as many as there are prompts or classes]
    #[arg(short, long, value_name = "N")]
    count: Option<usize>,
    /// The class to draw, by name or number, where the model has classes; repeat it for one of each picture
    #[arg(long, value_name = "CLASS")]
    pub class: Vec<String>,
    #[command(flatten)]
    extent: Extent,
    /// Denoising steps, by stage if separated by commas, or by its name: 25,10 or decoder=25
    #[arg(help_heading = "Sampling", long, value_name = "N", value_delimiter = ',')]
    steps: Vec<StageValue<usize>>,
    /// Timesteps in OpenAI's notation instead of --steps: 250, or 20,10,5 by sections, or ddim25; repeat it by stage
    #[arg(help_heading = "Sampling", long, value_name = "TEXT", conflicts_with = "steps")]
    respacing: Vec<StageValue<String>>,
    /// How strongly prompt or class are followed, by stage as --steps; 1 is not at all beyond the model's own, with a
    /// classifier 0
    #[arg(help_heading = "Sampling", short, long, value_name = "X", value_delimiter = ',')]
    guidance_scale: Vec<StageValue<f64>>,
    /// What the picture should not show; repeat it for one of each picture
    #[arg(help_heading = "Sampling", long, value_name = "TEXT")]
    negative_prompt: Vec<String>,
    /// Sampler of every stage: ddpm (ancestral); ddim (deterministic unless --eta says otherwise); or a solver, for few
    /// steps: dpmsolver++, sde-dpmsolver++, unipc, deis, pndm, plms, heun, euler, euler-ancestral [default: the model's]
    #[arg(help_heading = "Sampling", long, value_name = "NAME", value_parser = parse_sampler)]
    sampler: Option<Sampler>,
    /// DDIM's randomness, where the model or --sampler takes DDIM: 0 none, 1 as much as DDPM [default: the model's]
    #[arg(help_heading = "Sampling", long, value_name = "X")]
    eta: Option<f64>,
    /// Clip the estimate's values to so much around 0, or none
    #[arg(help_heading = "Sampling", long, value_name = "X", value_parser = parse_clip, conflicts_with = "thresholding")]
    clip: Option<Thresholding>,
    /// Dynamic thresholding: quantile of the estimate's values and largest threshold, e.g. 0.95,1.5
    #[arg(help_heading = "Sampling", long, value_name = "Q,MAX", value_parser = parse_thresholding)]
    thresholding: Option<Thresholding>,
    /// Clean the prompt as DeepFloyd IF does: markup, addresses, hashtags
    #[arg(help_heading = "Sampling", long)]
    clean_caption: bool,
    /// GLIDE: factor of the upsampler's first noise; 1 is sharper, less is smoother [default: 0.997]
    #[arg(help_heading = "Sampling", long, value_name = "X", conflicts_with_all = ["prior", "candidates"])]
    upsample_temp: Option<f64>,
    #[command(flatten)]
    prior: Prior,
}

impl Drawing {
    /// How many pictures are drawn of so many prompts.
    pub fn count(&self, prompts: usize) -> usize {
        self.count.unwrap_or(prompts.max(self.class.len()).max(1))
    }

    /// Refuses outputs that cannot be written, before minutes are spent on them.
    pub fn check_outputs(&self, prompts: usize) -> Result<(), Error> {
        self.output.check(self.count(prompts))
    }

    /// The settings, with progress bars.
    pub fn settings(&self) -> Settings {
        let mut bars = Bars::new(self.output.quiet);
        let mut settings = Settings::new()
            .seed(self.output.seed)
            .steps(per_stage(&self.steps))
            .respacing(per_stage(&self.respacing))
            .guidance_scale(per_stage(&self.guidance_scale))
            .negative_prompts(self.negative_prompt.clone())
            .clean_caption(self.clean_caption)
            .on_progress(move |progress| bars.show(&progress));
        settings = self.prior.apply(self.extent.apply(settings));
        if let Some(factor) = self.upsample_temp {
            settings = settings.system(GlideSettings { upsample_temp: Some(factor) });
        }
        settings = self.sampler.into_iter().fold(settings, Settings::sampler);
        settings = self.eta.into_iter().fold(settings, Settings::eta);
        self.thresholding.or(self.clip).into_iter().fold(settings, Settings::thresholding)
    }
}
