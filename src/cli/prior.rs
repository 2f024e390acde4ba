//! What draws an unCLIP's embeddings.

use ancestral::GenerateConfig;
use ancestral::engine::PriorKind;
use clap::{Args, ValueEnum};

/// Which prior, and how often it tries.
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
    /// The settings with these.
    pub fn apply<'a>(&self, cfg: GenerateConfig<'a>) -> GenerateConfig<'a> {
        let kind = self.prior.map(|prior| match prior {
            PriorName::Diffusion => PriorKind::Diffusion,
            PriorName::Autoregressive => PriorKind::Autoregressive,
        });
        kind.into_iter().fold(cfg.candidates(self.candidates), GenerateConfig::prior)
    }
}
