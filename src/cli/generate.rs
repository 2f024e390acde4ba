//! `ancestral generate`.

use super::drawing::Drawing;
use super::model::Model;
use super::output::{note, outputs, suffixed};
use super::remedy::refuse;
use super::steering::Steering;
use ancestral::{Condition, Error, Picture, Problem, Setting, Settings};
use clap::Args;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

#[derive(Args)]
#[command(allow_negative_numbers = true)]
pub struct Generate {
    /// What to draw, a class's name where the model has classes; several draw a picture each. Leave it out for an
    /// unconditional model
    prompt: Vec<String>,
    #[command(flatten)]
    drawing: Drawing,
    /// Go on from an earlier stage's picture, which the stages after it enlarge; one for each picture to draw. An upsampler
    /// by itself takes any whose sides, enlarged, the network divides (the bundled one: even sides)
    #[arg(help_heading = "Pictures to begin with", long, value_name = "PNG")]
    from: Vec<PathBuf>,
    /// Image variation (Karlo's): a PNG or JPEG to draw others of; one for all, or one for each picture to draw
    #[arg(help_heading = "Pictures to begin with", long, value_name = "PICTURE", conflicts_with_all = ["from", "class"])]
    image: Vec<PathBuf>,
    /// Picture to picture: a PNG or JPEG to begin at instead of noise
    #[arg(help_heading = "Pictures to begin with", long, value_name = "PICTURE", conflicts_with = "from")]
    init: Option<PathBuf>,
    /// How far --init is noised, and so changed: 0 to 1, where nothing of it is left [default: 0.8]
    #[arg(help_heading = "Pictures to begin with", long, value_name = "X", requires = "init")]
    strength: Option<f64>,
    #[command(flatten)]
    steering: Steering,
    #[command(flatten)]
    model: Model,
}

/// The last stage that was finished.
type Finished = Arc<Mutex<Option<(usize, Vec<Picture>)>>>;

/// Draws and saves the pictures.
pub fn run(args: &Generate) -> Result<(), Error> {
    let started = Instant::now();
    let Generate { prompt, drawing, from, image, init, strength, steering, model } = args;
    drawing.check_outputs(prompt.len())?;
    let engine = model.load(drawing.output.quiet)?;
    if engine.condition() == Condition::Prompt && prompt.is_empty() && image.is_empty() {
        let what = "this model draws what a prompt says: ancestral generate \"a red circle\"";
        return refuse(Setting::Prompt, Problem::Missing, what);
    }
    let ignores = matches!(engine.condition(), Condition::Nothing | Condition::Picture) || !image.is_empty();
    let unread = ignores && !steering.reads_prompt();
    if !prompt.is_empty() && unread && !drawing.output.quiet {
        note("note: this model draws without a prompt; yours changes nothing");
    }
    let steers = steering.load(model)?;
    let guidance = steers.map(|steers| steers.guidance(&engine, prompt, drawing.output.seed)).transpose()?;
    // A model that reads no prompt takes it for a class, or not at all; where CLIP reads it, it is for CLIP.
    let follows = engine.condition() == Condition::Prompt || !steering.reads_prompt();
    let read: &[String] = if follows && !ignores { prompt } else { &[] };
    let mut settings = drawing.settings().count(drawing.count(prompt.len()));
    if !from.is_empty() {
        settings = settings.from_pictures(open_all(from)?);
    }
    settings = match (&drawing.class[..], image.is_empty()) {
        ([], true) if read.len() > 1 => settings.prompts(read),
        ([], true) => settings,
        ([], false) => settings.image(open_all(image)?),
        (classes, _) => settings.classes(classes),
    };
    if let Some(path) = init {
        settings = settings.init([Picture::open(path)?]);
    }
    settings = strength.iter().copied().fold(settings, Settings::strength);
    let finished = Finished::default();
    let kept = finished.clone();
    settings = settings.on_stage(move |stage, pictures| {
        *kept.lock().unwrap_or_else(PoisonError::into_inner) = Some((stage, pictures.to_vec()));
    });
    settings = guidance.into_iter().fold(settings, |settings, guidance| settings.guide(1.0, guidance));
    let said = if read.len() == 1 { read[0].as_str() } else { "" };
    let drawn = engine.generate(said, settings);
    let pictures = drawn.inspect_err(|_| keep_stage(&finished, &drawing.output.path))?;
    drawing.output.save(&pictures, |picture, path| picture.save(path), started)
}

fn open_all(paths: &[PathBuf]) -> Result<Vec<Picture>, Error> {
    paths.iter().map(Picture::open).collect()
}

/// Saves what an earlier stage finished where a later one failed, and says how to go on.
fn keep_stage(finished: &Finished, output: &Path) {
    let Some((stage, pictures)) = finished.lock().unwrap_or_else(PoisonError::into_inner).take() else {
        return;
    };
    let path = suffixed(output, format!("-stage{}", stage + 1));
    let paths = outputs(&path, pictures.len());
    let saved = pictures.iter().zip(&paths).all(|(picture, path)| picture.save(path).is_ok());
    if saved {
        let from = paths.iter().map(|p| format!(" --from {}", p.display())).collect::<String>();
        note(format_args!("stage {} was finished and is kept; go on from it with{from}", stage + 1));
    }
}
