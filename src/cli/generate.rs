//! `ancestral generate`.

use super::drawing::Drawing;
use super::model::Model;
use super::output::{note, outputs, suffixed};
use super::steering::Steering;
use ancestral::engine::Condition;
use ancestral::{Error, GenerateConfig, Picture};
use clap::Args;
use std::path::{Path, PathBuf};
use std::time::Instant;

#[derive(Args)]
#[command(allow_negative_numbers = true)]
pub struct Generate {
    /// What to draw, a class's name where the model has classes; leave it out for an unconditional model
    prompt: Option<String>,
    #[command(flatten)]
    drawing: Drawing,
    /// Go on from an earlier stage's picture, which the stages after it enlarge; one for each picture to draw. An upsampler
    /// by itself takes any whose sides, enlarged, the network divides (the bundled one: even sides)
    #[arg(help_heading = "Pictures to begin with", long, value_name = "PNG")]
    from: Vec<PathBuf>,
    /// Image variation (Karlo's): a PNG or JPEG to draw others of; one for all, or one for each picture to draw
    #[arg(help_heading = "Pictures to begin with", long, value_name = "PICTURE")]
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

/// Draws and saves the pictures.
pub fn run(args: Generate) -> Result<(), Error> {
    let started = Instant::now();
    let mut finished: Option<(usize, Vec<Picture>)> = None;
    let Generate { prompt, drawing, from, image, init, strength, steering, model } = args;
    drawing.check_outputs()?;
    let mut engine = model.load(drawing.quiet)?;
    if engine.condition() == Condition::Prompt && prompt.is_none() && image.is_empty() {
        return Err(Error::Request(
            "this model draws what a prompt says: ancestral generate \"a red circle\"".into(),
        ));
    }
    let ignores = matches!(engine.condition(), Condition::Nothing | Condition::Picture) || !image.is_empty();
    let unread = ignores && !steering.reads_prompt();
    if prompt.is_some() && unread && !drawing.quiet {
        note("note: this model draws without a prompt; yours changes nothing");
    }
    let prompt = prompt.unwrap_or_default();
    let steers = steering.load(&model)?;
    let guidance = steers.map(|steers| steers.guidance(&engine, &prompt, drawing.seed)).transpose()?;
    // A model that reads no prompt takes it for a class, or not at all; where CLIP reads it, it is for CLIP.
    let follows = engine.condition() == Condition::Prompt || !steering.reads_prompt();
    let mut cfg = drawing.config();
    if let Some(path) = &init {
        cfg = cfg.init(vec![Picture::open(path)?]);
    }
    cfg = strength.into_iter().fold(cfg, GenerateConfig::strength);
    let image = image.iter().map(|path| Picture::open(path)).collect::<Result<Vec<_>, _>>()?;
    cfg = cfg.image(image);
    let from = from.iter().map(|path| Picture::open(path)).collect::<Result<Vec<_>, _>>()?;
    cfg = cfg.from_pictures(from).on_stage(|stage, pictures| finished = Some((stage, pictures.to_vec())));
    cfg = guidance.into_iter().fold(cfg, |cfg, guidance| cfg.guide(1.0, guidance));
    let drawn = engine.generate(if follows { &prompt } else { "" }, cfg);
    let pictures = drawn.inspect_err(|_| keep_stage(finished, &drawing.output))?;
    drawing.save(&pictures, Picture::save, started)
}

/// Saves what an earlier stage finished where a later one failed, and says how to go on.
fn keep_stage(finished: Option<(usize, Vec<Picture>)>, output: &Path) {
    let Some((stage, pictures)) = finished else { return };
    let path = suffixed(output, format!("-stage{}", stage + 1));
    let paths = outputs(&path, pictures.len());
    let saved = pictures.iter().zip(&paths).all(|(picture, path)| picture.save(path).is_ok());
    if saved {
        let from = paths.iter().map(|p| format!(" --from {}", p.display())).collect::<String>();
        note(format_args!("stage {} was finished and is kept; go on from it with{from}", stage + 1));
    }
}
