//! Both of an unCLIP's priors on the same prompts and seeds: scores and times of their embeddings, without any picture.
//!
//! Reads prompts, one a line, and prints prior, prompt, seed, score (the dot product of the embedding with the prompt's,
//! both of length 1) and seconds, separated by tabs:
//!
//! ```sh
//! cargo run --release --example priors < prompts.txt
//! ```

use ancestral::{Bundled, Engine, LoadOptions, Settings, UnClipSettings};
use std::io::{Result, stdin};
use std::time::Instant;

fn main() -> Result<()> {
    let engine =
        Engine::bundled_as(Bundled::UnClip, &LoadOptions::default()).map_err(std::io::Error::other)?;
    for (seed, prompt) in stdin().lines().enumerate() {
        let prompt = prompt?;
        for kind in engine.priors() {
            let cfg = Settings::new()
                .seed(seed as u64)
                .system(UnClipSettings { prior: Some(kind), ..Default::default() });
            let started = Instant::now();
            let drawn = engine.prior_embeddings(&prompt, cfg).map_err(std::io::Error::other)?;
            let seconds = started.elapsed().as_secs_f64();
            println!("{kind}\t{prompt}\t{seed}\t{:.4}\t{seconds:.4}", drawn[0].score());
        }
    }
    Ok(())
}
