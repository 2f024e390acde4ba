//! Settings of a run that draws, whatever it draws from.

use super::output::{self, Bars, check_outputs};
use super::parse::{parse_clip, parse_size, parse_thresholding};
use super::prior::Prior;
use ancestral::diffusion::{Sampler, Thresholding};
use ancestral::{Error, GenerateConfig};
use clap::{Args, ValueEnum};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// What a run gives, and how it is sampled.
#[derive(Args)]
pub struct Drawing {
    /// Where the PNG goes; several pictures are numbered NAME-0.png, NAME-1.png, …
    #[arg(short, long, value_name = "FILE", default_value = "ancestral.png")]
    pub output: PathBuf,
    /// Seed of the noise: the same seed gives the same picture
    #[arg(short, long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Pictures to draw, with seeds N, N+1, …
    #[arg(short, long, value_name = "N", default_value_t = 1)]
    pub count: usize,
    /// Print nothing but errors
    #[arg(short, long)]
    pub quiet: bool,
    /// The class to draw, by name or number, where the model has classes; repeat it for one of each picture
    #[arg(long, value_name = "CLASS")]
    class: Vec<String>,
    /// Width and height of the model's final picture, e.g. 256x256
    #[arg(long, value_name = "WxH", value_parser = parse_size)]
    size: Option<(usize, usize)>,
    /// Run this many stages: fewer stop early, more take a model's optional upsampler, e.g. to 1024x1024 [default: all but
    /// that]
    #[arg(long, value_name = "N")]
    stages: Option<usize>,
    /// Denoising steps, by stage if separated by commas
    #[arg(help_heading = "Sampling", long, value_name = "N", value_delimiter = ',')]
    steps: Vec<usize>,
    /// Timesteps in OpenAI's notation instead of --steps: 250, or 20,10,5 by sections, or ddim25; repeat it by stage
    #[arg(help_heading = "Sampling", long, value_name = "TEXT", conflicts_with = "steps")]
    respacing: Vec<String>,
    /// How strongly prompt or class are followed, by stage if separated by commas; 1 is not at all beyond the model's own,
    /// with a classifier 0
    #[arg(help_heading = "Sampling", short, long, value_name = "X", value_delimiter = ',')]
    guidance_scale: Vec<f64>,
    /// What the picture should not show
    #[arg(help_heading = "Sampling", long, value_name = "TEXT", default_value = "")]
    negative_prompt: String,
    /// Sampler of every stage [default: the model's]
    #[arg(help_heading = "Sampling", long, value_enum)]
    sampler: Option<SamplerName>,
    /// DDIM's randomness: 0 none, 1 as much as DDPM
    #[arg(help_heading = "Sampling", long, value_name = "X", default_value_t = 0.0)]
    eta: f64,
    /// Clip the estimate's values to so much around 0, or none
    #[arg(help_heading = "Sampling", long, value_name = "X", value_parser = parse_clip, conflicts_with = "thresholding")]
    clip: Option<Thresholding>,
    /// Dynamic thresholding: quantile of the estimate's values and largest threshold, e.g. 0.95,1.5
    #[arg(help_heading = "Sampling", long, value_name = "Q,MAX", value_parser = parse_thresholding)]
    thresholding: Option<(f64, f64)>,
    /// Clean the prompt as DeepFloyd IF does: markup, addresses, hashtags
    #[arg(help_heading = "Sampling", long)]
    clean_caption: bool,
    /// GLIDE: factor of the upsampler's first noise; 1 is sharper, less is smoother [default: 0.997]
    #[arg(help_heading = "Sampling", long, value_name = "X")]
    upsample_temp: Option<f64>,
    #[command(flatten)]
    prior: Prior,
}

#[derive(Clone, Copy, ValueEnum)]
enum SamplerName {
    /// Ancestral sampling
    Ddpm,
    /// Fewer steps, deterministic unless --eta says otherwise
    Ddim,
}

/// The size and the number of stages asked for, where they were.
pub fn sized(
    cfg: GenerateConfig<'_>,
    size: Option<(usize, usize)>,
    stages: Option<usize>,
) -> GenerateConfig<'_> {
    let cfg = size.into_iter().fold(cfg, |cfg, (width, height)| cfg.size(width, height));
    stages.into_iter().fold(cfg, GenerateConfig::stages)
}

impl Drawing {
    /// Refuses outputs that cannot be written, before minutes are spent on them.
    pub fn check_outputs(&self) -> Result<(), Error> {
        check_outputs(&self.output, self.count)
    }

    /// The settings, with progress bars.
    pub fn config<'a>(&self) -> GenerateConfig<'a> {
        let mut bars = Bars::new(self.quiet);
        let mut cfg = GenerateConfig::new()
            .seed(self.seed)
            .count(self.count)
            .steps(self.steps.clone())
            .respacing(self.respacing.clone())
            .classes(self.class.clone())
            .guidance_scale(self.guidance_scale.clone())
            .negative_prompt(self.negative_prompt.clone())
            .clean_caption(self.clean_caption)
            .on_progress(move |progress| bars.show(&progress));
        cfg = sized(self.prior.apply(cfg), self.size, self.stages);
        cfg = match self.sampler {
            Some(SamplerName::Ddpm) => cfg.sampler(Sampler::Ddpm),
            Some(SamplerName::Ddim) => cfg.sampler(Sampler::Ddim { eta: self.eta, rederive_epsilon: false }),
            None => cfg,
        };
        cfg = self.upsample_temp.into_iter().fold(cfg, GenerateConfig::upsample_temp);
        let thresholding = self.thresholding.map(|(ratio, max)| Thresholding::Dynamic { ratio, max });
        thresholding.or(self.clip).into_iter().fold(cfg, GenerateConfig::thresholding)
    }

    /// Writes the results to their files, and says where they are and how long it took since `started`.
    pub fn save<T>(
        &self,
        results: &[T],
        save: impl Fn(&T, &Path) -> Result<(), Error>,
        started: Instant,
    ) -> Result<(), Error> {
        output::save(results, save, &self.output, (self.quiet, started))
    }
}
