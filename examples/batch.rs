//! Several pictures at once, each with its prompt, its negative prompt and its seed; and prompts that are encoded once for
//! many runs.
//!
//! ```sh
//! cargo run --release --example batch     # writes batch-*.png and again-*.png
//! ```

use ancestral::{Engine, LoadOptions, Result, Settings};
use std::path::Path;

/// Draws pictures in batches and saves them in `out`.
pub fn run(out: &Path) -> Result<()> {
    let engine = Engine::bundled(&LoadOptions::default())?;
    let prompts = ["a red circle", "a blue square", "a yellow star"];
    // By a stage's name or by its place: [("base", 8), ("upscaler", 2)] is [8, 2].
    let settings = Settings::new().steps([("base", 8), ("upscaler", 2)]);

    // One of each for each picture. Picture i is the one that a run of its own with its prompt and seed gives. A single
    // prompt, seed or negative prompt counts for all.
    let batch = settings
        .clone()
        .prompts(prompts)
        .negative_prompts(["a blue background", "", "a red background"])
        .seeds([7, 8, 9]);
    for (i, picture) in engine.generate("", batch)?.iter().enumerate() {
        picture.save(out.join(format!("batch-{i}.png")))?;
    }

    // What the networks see of the prompts. It is plain data, which serde writes down: another machine may encode.
    let embeds = engine.encode_prompts(&prompts, false)?;
    for seed in 0..2 {
        let settings = settings.clone().prompt_embeds(embeds.clone(), []).seeds([seed; 3]);
        for (i, picture) in engine.generate("", settings)?.iter().enumerate() {
            picture.save(out.join(format!("again-{seed}-{i}.png")))?;
        }
    }
    Ok(())
}

fn main() -> Result<()> {
    run(Path::new("."))
}
