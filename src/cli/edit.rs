//! `ancestral edit`.

use super::drawing::Drawing;
use super::model::Model;
use super::parse::parse_resampling;
use super::remedy::refuse;
use super::steering::Steering;
use ancestral::{Condition, Error, Mask, Photo, Problem, Rectangle, Resampling, Setting, Settings};
use clap::Args;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Outside the mask every pixel stays as it was. A picture may have any size: the model sees a part of it around the mask,
/// scaled to its own size. Several masks, each with its prompt, are edits of one picture one after another.
#[derive(Args)]
#[command(allow_negative_numbers = true)]
pub struct Edit {
    /// The picture to change, a PNG or JPEG
    picture: PathBuf,
    /// What to draw where the mask is white; one for each mask, none where the model follows none
    prompt: Vec<String>,
    /// What is drawn anew: a picture of the same size, white where it is, black elsewhere; or rectangles of pixels,
    /// X,Y,WIDTH,HEIGHT+X,Y,WIDTH,HEIGHT; repeat it for edits one after another
    #[arg(long, value_name = "FILE|X,Y,W,H", required = true, allow_hyphen_values = true)]
    mask: Vec<String>,
    /// How much of what was there is forgotten, above 0 to 1, where nothing of it is left [default: 1]
    #[arg(long, value_name = "X")]
    strength: Option<f64>,
    /// Models without inpainting: times that each stretch of steps is gone through, and steps of a stretch
    #[arg(long, value_name = "TIMES,STEPS", value_parser = parse_resampling, default_value = "3,5")]
    resampling: Resampling,
    #[command(flatten)]
    drawing: Drawing,
    #[command(flatten)]
    steering: Steering,
    #[command(flatten)]
    model: Model,
}

/// Edits and saves the picture.
pub fn run(args: &Edit) -> Result<(), Error> {
    let started = Instant::now();
    let drawing = &args.drawing;
    drawing.check_outputs(1)?;
    let photo = Photo::open(&args.picture)?;
    let size = (photo.width(), photo.height());
    let masks = args.mask.iter().map(|text| mask(text, size)).collect::<Result<Vec<_>, _>>()?;
    let engine = args.model.load(drawing.output.quiet)?;
    let mut prompts = args.prompt.clone();
    let follows = engine.condition() == Condition::Prompt;
    if prompts.is_empty() && !follows {
        prompts = vec![String::new(); masks.len()];
    }
    if prompts.len() != masks.len() {
        let what =
            format!("masks given: {}, prompts: {}; give a prompt for each mask", masks.len(), prompts.len());
        return refuse(Setting::Prompt, Problem::Mismatch, what);
    }
    let steers = args.steering.load(&args.model)?;
    let edit = |photo: &Photo, at: usize, seed: u64, count: usize| {
        let prompt = &prompts[at..at + 1];
        let guidance = steers.as_ref().map(|steers| steers.guidance(&engine, prompt, seed)).transpose()?;
        let settings = drawing.settings().seed(seed).count(count).resampling(args.resampling);
        let settings = if drawing.class.is_empty() { settings } else { settings.classes(&drawing.class) };
        let settings = args.strength.into_iter().fold(settings, Settings::strength);
        let settings =
            guidance.into_iter().fold(settings, |settings, guidance| settings.guide(1.0, guidance));
        let read = drawing.class.is_empty() && (follows || !args.steering.reads_prompt());
        engine.edit(photo, &masks[at], if read { &prompt[0] } else { "" }, settings)
    };
    let mut edited = edit(&photo, 0, drawing.output.seed, drawing.count(1))?;
    for at in 1..masks.len() {
        for (i, photo) in edited.iter_mut().enumerate() {
            *photo = edit(photo, at, drawing.output.seed.wrapping_add(i as u64), 1)?.remove(0);
        }
    }
    drawing.output.save(&edited, |photo, path| photo.save(path), started)
}

/// The mask that an argument says, for a picture of this size.
fn mask(text: &str, size: (usize, usize)) -> Result<Mask, Error> {
    let rectangles: Result<Vec<Rectangle>, String> = text.split('+').map(str::parse).collect();
    match rectangles {
        Ok(rectangles) => Mask::rectangles(&rectangles, size),
        Err(_) if Path::new(text).exists() => Mask::open(Path::new(text), size),
        Err(_) => {
            let what = format!(
                "the mask `{text}` is neither a file nor a rectangle; give a picture, or X,Y,WIDTH,HEIGHT in pixels"
            );
            refuse(Setting::Mask, Problem::Malformed, what)
        }
    }
}
