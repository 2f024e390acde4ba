//! Steering a run by a function of one's own: here one that wants everything blue.
//!
//! ```sh
//! cargo run --release --example guidance     # writes plain.png and blue.png
//! ```

use ancestral::guidance::{Direction, State};
use ancestral::{Engine, LoadOptions, Result, Settings};
use std::path::Path;

/// Draws a picture as the model would, and steered; saves both in `out`.
pub fn run(out: &Path) -> Result<()> {
    let engine = Engine::bundled(&LoadOptions::default())?;
    // One stage: 32 by 32 pixels.
    let settings = Settings::new().seed(5).steps(20).stages(1);

    // Asked once a step, with the picture as the model expects it to become: values from -1 to 1, row by row, channels
    // last. The answer says which way each value should go; as a score it is the slope of what is wanted. Here every
    // blue value is drawn up to 1, and the red and green ones down to -1.
    let bluer = |at: &State<'_>| {
        let channels = at.shape[3];
        let wanted = |i: usize| if i % channels == 2 { 1.0 } else { -1.0 };
        Ok(Direction::Score(at.x0.iter().enumerate().map(|(i, value)| wanted(i) - value).collect()))
    };
    let prompt = "a yellow star on a white background";
    engine.generate(prompt, settings.clone())?[0].save(out.join("plain.png"))?;
    // How strongly is the weight; several guides add up.
    engine.generate(prompt, settings.guide(0.25, bluer))?[0].save(out.join("blue.png"))
}

fn main() -> Result<()> {
    run(Path::new("."))
}
