//! A picture of a prompt.
//!
//! ```sh
//! cargo run --release --example generate     # writes circle.png
//! ```

use ancestral::{Engine, LoadOptions, Result, Settings};
use std::path::Path;

/// Draws a picture and saves it in `out`.
pub fn run(out: &Path) -> Result<()> {
    // The weights are read once; an engine draws as often as it is asked, from several threads too if need be. Another
    // model: Engine::load("path/to/its/folder", &LoadOptions::default()).
    let engine = Engine::bundled(&LoadOptions::default())?;
    // The same seed gives the same picture. What is not said is the model's own: here its number of steps and its size.
    let settings = Settings::new().seed(3).guidance_scale(4.0);
    let pictures = engine.generate("a red circle to the left of a blue square", settings)?;
    pictures[0].save(out.join("circle.png"))
}

fn main() -> Result<()> {
    run(Path::new("."))
}
