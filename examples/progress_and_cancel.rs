//! What happens while a picture is drawn, what it looks like so far, and how to stop.
//!
//! ```sh
//! cargo run --release --example progress_and_cancel     # writes so-far-*.png and heart.png
//! ```

use ancestral::{CancelToken, Engine, Error, Event, LoadOptions, Result, Run, Settings};
use std::path::Path;

/// Draws a picture, saves it and its estimates in `out`, and stops a second run.
pub fn run(out: &Path) -> Result<()> {
    let engine = Engine::bundled(&LoadOptions::default())?;
    let prompt = "a green heart";
    // Of the two stages; fewer than usual.
    let settings = Settings::new().seed(3).steps([8, 2]);

    // A run on a thread of its own is an iterator over its events, here with an estimate after every fourth step. Without
    // estimates: engine.start(prompt, settings). Dropped before its end, it stops.
    for event in Run::with_estimates(&engine, prompt, settings.clone(), 4) {
        match event? {
            Event::Step { stage, stages, done, steps, .. } => {
                println!("stage {} of {stages}: {done:.1} of {steps} steps", stage + 1);
            }
            Event::Estimate { stage, pictures } => {
                pictures[0].save(out.join(format!("so-far-{stage}.png")))?
            }
            Event::Stage { stage, pictures } => {
                println!("stage {} is done, {} pixels wide", stage + 1, pictures[0].width);
            }
            Event::Picture { picture, .. } => picture.save(out.join("heart.png"))?,
            // Later versions may tell more.
            _ => {}
        }
    }

    // A token stops a run from anywhere, a button or another thread; here from the run's own progress.
    let token = CancelToken::new();
    let button = token.clone();
    let settings = settings.cancel(&token).on_progress(move |at| {
        if at.done >= 3.0 {
            button.cancel();
        }
        true
    });
    match engine.generate(prompt, settings) {
        Err(Error::Cancelled) => println!("stopped, as it was asked to"),
        other => println!("{} pictures", other?.len()),
    }
    Ok(())
}

fn main() -> Result<()> {
    run(Path::new("."))
}
