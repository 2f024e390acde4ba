//! `ancestral vary`, `blend`, `morph` and `reconstruct`: pictures by their CLIP embeddings and noises.

use super::drawing::Extent;
use super::model::UnClip;
use super::output::{Bars, Output, note};
use super::parse::{StageValue, per_stage};
use super::remedy::refuse;
use ancestral::{Engine, Error, Layout, MAX_COUNT, Picture, Problem, Setting, Settings, UnClipSettings};
use clap::{Args, ValueEnum};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// DDIM's η of a variation that keeps its layout.
const ETA: f64 = 0.5;
/// Most pictures in a row of a sheet.
const ROW: usize = 8;

/// CLIP says what a picture shows; the decoder draws others of which CLIP would say the same.
#[derive(Args)]
#[command(
    allow_negative_numbers = true,
    after_help = "Examples:\n  \
        ancestral vary photo.png --count 4 -o variation.png      four others, each with a layout of its own\n  \
        ancestral vary photo.png --layout keep --count 4 --sheet  what the embedding leaves open changes, the rest stays\n  \
        ancestral vary photo.png --layout keep --eta 0            the picture as the model draws it"
)]
pub struct Vary {
    /// The picture to draw others of, a PNG or JPEG of any size
    picture: PathBuf,
    /// Pictures to draw, with seeds N, N+1, …
    #[arg(short, long, value_name = "N", default_value_t = 1)]
    count: usize,
    #[command(flatten)]
    common: Common,
}

/// The way goes between the two embeddings and, as things keep their places, between the two noises.
#[derive(Args)]
#[command(
    allow_negative_numbers = true,
    after_help = "Examples:\n  \
        ancestral blend cat.png dog.png --steps 7 -o blend.png          seven pictures, blend-0.png to blend-6.png\n  \
        ancestral blend cat.png dog.png --steps 7 --sheet -o blend.png   side by side in one picture\n  \
        ancestral blend cat.png dog.png --layout new --seed 3            all from one seed's layout"
)]
pub struct Blend {
    /// The picture to begin at, a PNG or JPEG of any size
    from: PathBuf,
    /// The picture to end at
    to: PathBuf,
    /// Pictures to draw, the two themselves among them
    #[arg(long, value_name = "N", default_value_t = 7)]
    steps: usize,
    #[command(flatten)]
    common: Common,
}

/// The picture moves along the difference of the two captions, by which CLIP tells what one says from what the other says.
#[derive(Args)]
#[command(
    allow_negative_numbers = true,
    after_help = "Examples:\n  \
        ancestral morph scene.png \"a red circle\" \"a blue circle\"\n  \
        ancestral morph scene.png \"a red circle\" \"a blue circle\" --steps 5 --strength 0.5 --sheet"
)]
pub struct Morph {
    /// The picture to change, a PNG or JPEG of any size
    picture: PathBuf,
    /// What it shows, as far as that is to change
    from: String,
    /// What it is to show in its place
    to: String,
    /// How far it goes, above 0 to 1; beyond 0.5 little is left of the picture
    #[arg(long, value_name = "X", default_value_t = 0.4)]
    strength: f64,
    /// Pictures to draw; several go evenly from the picture itself to --strength
    #[arg(long, value_name = "N", default_value_t = 1)]
    steps: usize,
    #[command(flatten)]
    common: Common,
}

/// The first components of an embedding hold what a picture is of, the later ones its details.
#[derive(Args)]
#[command(
    allow_negative_numbers = true,
    after_help = "Example:\n  ancestral reconstruct photo.png --dimensions 1,4,16,40 --sheet"
)]
pub struct Reconstruct {
    /// The picture to draw again, a PNG or JPEG of any size
    picture: PathBuf,
    /// Principal components of its embedding to keep, for one picture each
    #[arg(long, value_name = "N,N,…", value_delimiter = ',', required = true)]
    dimensions: Vec<usize>,
    #[command(flatten)]
    common: Common,
}

/// Where things in the new picture are.
#[derive(Clone, Copy, ValueEnum)]
enum LayoutName {
    /// Where they are in the picture: the noise it comes from is found by DDIM inversion
    Keep,
    /// Where the seed's noise puts them
    New,
}

/// What the commands have in common.
#[derive(Args)]
struct Common {
    #[command(flatten)]
    output: Output,
    /// All pictures in one, side by side
    #[arg(long)]
    sheet: bool,
    /// Whether things stay where they are [default: new for vary and reconstruct, keep for blend and morph]
    #[arg(long, value_enum)]
    layout: Option<LayoutName>,
    /// DDIM's randomness in the decoder: 0 none, 1 as much as DDPM [default: 0; vary --layout keep: 0.5]
    #[arg(help_heading = "Sampling", long, value_name = "X")]
    eta: Option<f64>,
    /// Denoising steps, by stage if separated by commas: decoder, super-resolution, upsampler
    #[arg(help_heading = "Sampling", long, value_name = "N", value_delimiter = ',')]
    denoising_steps: Vec<StageValue<usize>>,
    /// How strongly the embedding is followed; 1 is not at all beyond the model's own [default: the model's, 1 where the
    /// layout is kept]
    #[arg(help_heading = "Sampling", short, long, value_name = "X")]
    guidance_scale: Option<f64>,
    /// Evaluations in each step of the inversion: the more, the nearer to the picture it leads back; 1 is plain DDIM
    /// [default: 5]
    #[arg(help_heading = "Sampling", long, value_name = "N")]
    inversion: Option<usize>,
    #[command(flatten)]
    extent: Extent,
    #[command(flatten)]
    model: UnClip,
}

impl Common {
    /// Draws `count` pictures of those at `paths` and saves them; what cannot be is refused before the model is loaded.
    fn run(
        &self,
        paths: &[&Path],
        (count, usual): (usize, Layout),
        draw: impl FnOnce(&Engine, &[Picture], Layout, Settings) -> Result<Vec<Picture>, Error>,
    ) -> Result<(), Error> {
        let started = Instant::now();
        if !(1..=MAX_COUNT).contains(&count) {
            let what = format!("{count} pictures at once: give 1 to {MAX_COUNT}");
            return refuse(Setting::Count, Problem::OutOfRange, what);
        }
        self.output.check(if self.sheet { 1 } else { count })?;
        let same = |path: &&&Path| {
            path.canonicalize()
                .ok()
                .is_some_and(|path| self.output.path.canonicalize().is_ok_and(|output| output == path))
        };
        if let Some(path) = paths.iter().find(same) {
            let path = path.display();
            let what = format!("{path} would be written over");
            return refuse(Setting::Output, Problem::Conflict, what);
        }
        let pictures = paths.iter().map(Picture::open).collect::<Result<Vec<_>, _>>()?;
        let engine = self.model.load(self.output.quiet)?;
        let layout = self.layout.map_or(usual, |layout| match layout {
            LayoutName::Keep => Layout::Kept,
            LayoutName::New => Layout::New,
        });
        let drawn = draw(&engine, &pictures, layout, self.settings())?;
        let results = if self.sheet { vec![Picture::sheet(&drawn, ROW)?] } else { drawn };
        self.output.save(&results, |picture, path| picture.save(path), started)
    }

    /// The settings, with progress bars.
    fn settings(&self) -> Settings {
        let mut bars = Bars::new(self.output.quiet);
        let settings = Settings::new()
            .seed(self.output.seed)
            .steps(per_stage(&self.denoising_steps))
            .guidance_scale(self.guidance_scale.into_iter().collect::<Vec<_>>())
            .system(UnClipSettings { inversion: self.inversion, ..Default::default() })
            .on_progress(move |progress| bars.show(&progress));
        self.eta.into_iter().fold(self.extent.apply(settings), Settings::eta)
    }
}

/// Draws others of a picture.
pub fn vary(args: &Vary) -> Result<(), Error> {
    let (count, common) = (args.count, &args.common);
    common.run(&[&args.picture], (count, Layout::New), |engine, pictures, layout, settings| {
        let eta = common.eta.unwrap_or(ETA);
        if layout == Layout::Kept && eta == 0.0 && count > 1 && !common.output.quiet {
            note("note: with an eta of 0 every picture is the same");
        }
        let settings = if layout == Layout::Kept { settings.eta(eta) } else { settings };
        engine.vary(&pictures[0], layout, settings.count(count))
    })
}

/// Draws pictures from one to another.
pub fn blend(args: &Blend) -> Result<(), Error> {
    args.common.run(
        &[&args.from, &args.to],
        (args.steps, Layout::Kept),
        |engine, pictures, layout, settings| {
            engine.blend([&pictures[0], &pictures[1]], args.steps, layout, settings)
        },
    )
}

/// Draws a picture moved along two captions.
pub fn morph(args: &Morph) -> Result<(), Error> {
    let Morph { steps, strength, from, to, .. } = args;
    let last = steps.saturating_sub(1).max(1) as f64;
    // One picture is the end of the way.
    let at = |i: usize| if *steps == 1 { *strength } else { strength * i as f64 / last };
    args.common.run(&[&args.picture], (*steps, Layout::Kept), |engine, pictures, layout, settings| {
        engine.morph(&pictures[0], [from, to], &(0..*steps).map(at).collect::<Vec<_>>(), layout, settings)
    })
}

/// Draws a picture of its embedding's first principal components.
pub fn reconstruct(args: &Reconstruct) -> Result<(), Error> {
    let count = args.dimensions.len();
    args.common.run(&[&args.picture], (count, Layout::New), |engine, pictures, layout, settings| {
        engine.reconstruct(&pictures[0], &args.dimensions, layout, settings)
    })
}
