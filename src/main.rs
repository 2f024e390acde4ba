//! The command line; nothing else.

use ancestral::clip::{Clip, ClipGuidance};
use ancestral::device::{DeviceLimits, list_adapters};
use ancestral::diffusion::{Clip as Clipping, Sampler};
use ancestral::edit::{Mask, Photo, Rectangle};
use ancestral::engine::{Bundled, Condition};
use ancestral::estimate::{Target, plan_network};
use ancestral::kernels::Precision;
use ancestral::picture::check_output;
use ancestral::systems::repaint::Resampling;
use ancestral::{Device, DeviceChoice, Engine, Error, GenerateConfig, LoadOptions, Picture, Progress};
use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

/// Text-to-image diffusion on any GPU.
#[derive(Parser)]
#[command(version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Draw a picture of a prompt or of a class
    Generate(Box<Generate>),
    /// Change part of a picture: what a mask says is drawn anew, as a prompt says
    Edit(Box<Edit>),
    /// Say what a run will cost, and which limit of the device is in its way, before anything is uploaded
    Plan(Box<PlanArgs>),
    /// Measure which kernels are fastest for a run, ahead of it; kept on disk for this adapter and driver
    Tune(Box<Tune>),
    /// Compare a model's networks on two devices, node by node
    Bisect(Bisect),
    /// List the devices a model can run on
    Devices,
}

/// Which model, and how its files are read.
#[derive(Args)]
struct Choice {
    /// Which bundled model
    #[arg(help_heading = "Model", long, value_enum, default_value = "imagen", conflicts_with = "model")]
    system: SystemName,
    /// Guided diffusion: checkpoint of the classifier [default: the one beside the model]
    #[arg(help_heading = "Model", long, value_name = "FILE")]
    classifier: Option<PathBuf>,
    /// Guided diffusion and GLIDE: flags of the model, as on OpenAI's command lines, which go before those found out; repeat it
    /// for each model, e.g. --flags "--num_heads 4 --noise_schedule linear"
    #[arg(help_heading = "Model", long, value_name = "FLAGS", allow_hyphen_values = true)]
    flags: Vec<String>,
    /// Which files of the model to read, e.g. fp16
    #[arg(help_heading = "Model", long, value_name = "NAME")]
    variant: Option<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum SystemName {
    /// Draws simple scenes by a prompt
    Imagen,
    /// Draws single objects, steered by a classifier: --class "red circle"
    Adm,
}

/// A run measures what it does not know by itself; this does it ahead, with one step of each stage. Small kernels are
/// chosen by rule. A variant is taken only if its result is right on this adapter.
#[derive(Args)]
struct Tune {
    /// Model folder, or OpenAI's checkpoint (guided diffusion, GLIDE); repeat it for super-resolution stages [default: a bundled model]
    #[arg(short, long, value_name = "PATH")]
    model: Vec<PathBuf>,
    /// gpu, or part of an adapter's name, e.g. llvmpipe
    #[arg(short, long, value_name = "NAME", default_value = "auto")]
    device: String,
    /// Pictures drawn at once
    #[arg(short, long, value_name = "N", default_value_t = 1)]
    count: usize,
    /// Width and height of the final picture, e.g. 256x256
    #[arg(long, value_name = "WxH", value_parser = parse_size)]
    size: Option<(usize, usize)>,
    /// Stop after this many stages
    #[arg(long, value_name = "N")]
    stages: Option<usize>,
    #[command(flatten)]
    choice: Choice,
    /// Measure anew what was measured before
    #[arg(long)]
    again: bool,
}

#[derive(Args)]
#[command(allow_negative_numbers = true)]
struct Generate {
    /// What to draw, a class's name where the model has classes; leave it out for an unconditional model
    prompt: Option<String>,
    /// Where the PNG goes; several pictures are numbered NAME-0.png, NAME-1.png, …
    #[arg(short, long, value_name = "FILE", default_value = "ancestral.png")]
    output: PathBuf,
    /// Model folder, or OpenAI's checkpoint (guided diffusion, GLIDE); repeat it for super-resolution stages [default: a bundled model]
    #[arg(help_heading = "Model", short, long, value_name = "PATH")]
    model: Vec<PathBuf>,
    /// auto (a hardware GPU, else the CPU), gpu, cpu, or part of an adapter's name, e.g. llvmpipe
    #[arg(help_heading = "Model", short, long, value_name = "NAME", default_value = "auto")]
    device: String,
    /// Seed of the noise: the same seed gives the same picture
    #[arg(short, long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Pictures to draw, with seeds N, N+1, …
    #[arg(short, long, value_name = "N", default_value_t = 1)]
    count: usize,
    /// Print nothing but errors
    #[arg(short, long)]
    quiet: bool,
    /// Denoising steps, by stage if separated by commas
    #[arg(help_heading = "Sampling", long, value_name = "N", value_delimiter = ',')]
    steps: Vec<usize>,
    /// The class to draw, by name or number, where the model has classes; repeat it for one of each picture
    #[arg(long, value_name = "CLASS")]
    class: Vec<String>,
    /// Timesteps in OpenAI's notation instead of --steps: 250, or 20,10,5 by sections, or ddim25; repeat it by stage
    #[arg(help_heading = "Sampling", long, value_name = "TEXT", conflicts_with = "steps")]
    respacing: Vec<String>,
    /// How strongly prompt or class are followed, by stage if separated by commas; 1 is not at all beyond the model's own,
    /// with a classifier 0
    #[arg(help_heading = "Sampling", short, long, value_name = "X", value_delimiter = ',')]
    guidance_scale: Vec<f64>,
    /// What the picture should not show
    #[arg(help_heading = "Sampling", long, value_name = "TEXT", default_value = "")]
    negative_prompt: String,
    /// Width and height of the final picture, e.g. 256x256
    #[arg(long, value_name = "WxH", value_parser = parse_size)]
    size: Option<(usize, usize)>,
    /// Stop after this many stages
    #[arg(long, value_name = "N")]
    stages: Option<usize>,
    /// Go on from an earlier stage's picture, which the stages after it enlarge; one for each picture to draw
    #[arg(help_heading = "Pictures to begin with", long, value_name = "PNG")]
    from: Vec<PathBuf>,
    /// Picture to picture: a PNG or JPEG to begin at instead of noise
    #[arg(help_heading = "Pictures to begin with", long, value_name = "PICTURE", conflicts_with = "from")]
    init: Option<PathBuf>,
    /// How far --init is noised, and so changed: 0 to 1, where nothing of it is left [default: 0.8]
    #[arg(help_heading = "Pictures to begin with", long, value_name = "X", requires = "init")]
    strength: Option<f64>,
    /// Sampler of every stage [default: the model's]
    #[arg(help_heading = "Sampling", long, value_enum)]
    sampler: Option<SamplerName>,
    /// DDIM's randomness: 0 none, 1 as much as DDPM
    #[arg(help_heading = "Sampling", long, value_name = "X", default_value_t = 0.0)]
    eta: f64,
    /// Clip the estimate's values to so much around 0, or none
    #[arg(help_heading = "Sampling", long, value_name = "X", value_parser = parse_clip, conflicts_with = "thresholding")]
    clip: Option<Clipping>,
    /// Dynamic thresholding: quantile of the estimate's values and largest threshold, e.g. 0.95,1.5
    #[arg(help_heading = "Sampling", long, value_name = "Q,MAX", value_parser = parse_thresholding)]
    thresholding: Option<(f64, f64)>,
    /// Clean the prompt as DeepFloyd IF does: markup, addresses, hashtags
    #[arg(help_heading = "Sampling", long)]
    clean_caption: bool,
    /// GLIDE: factor of the upsampler's first noise; 1 is sharper, less is smoother [default: 0.997]
    #[arg(help_heading = "Sampling", long, value_name = "X")]
    upsample_temp: Option<f64>,
    #[command(flatten)]
    steering: Steering,
    #[command(flatten)]
    choice: Choice,
}

/// What CLIP steers by. Weights compare: all are of cosines or shares, times CLIP's logit scale, as GLIDE's are.
#[derive(Args)]
#[command(next_help_heading = "CLIP guidance (GLIDE, Semantic Diffusion Guidance)")]
struct Steering {
    /// How strongly CLIP steers towards the prompt, whatever the model follows by itself; GLIDE's notebook takes 3
    #[arg(long, value_name = "W")]
    clip_guidance: Option<f64>,
    /// A picture, PNG or JPEG, that CLIP steers towards
    #[arg(long, value_name = "PICTURE")]
    like: Option<PathBuf>,
    /// How strongly towards what --like shows [default: 1 where --like is given alone]
    #[arg(long, value_name = "W", requires = "like")]
    content: Option<f64>,
    /// How strongly towards showing at each place what --like shows there
    #[arg(long, value_name = "W", requires = "like")]
    structure: Option<f64>,
    /// How strongly towards the style of --like
    #[arg(long, value_name = "W", requires = "like")]
    style: Option<f64>,
    /// Which CLIP: GLIDE's folder or files, OpenAI's ViT-B-32.pt or RN50.pt, a folder of transformers; of Semantic
    /// Diffusion Guidance its picture encoder, and OpenAI's RN50x16.pt for texts [default: beside the model, or bundled]
    #[arg(long, value_name = "PATH")]
    clip_model: Vec<PathBuf>,
}

impl Steering {
    fn is_on(&self) -> bool {
        self.clip_guidance.is_some() || self.like.is_some()
    }

    /// The CLIP that steers, if one does.
    fn clip(&self, model: &[PathBuf]) -> Result<Option<Clip>, Error> {
        if !self.is_on() {
            let refused = Error::Request(
                "`--clip-model` is for `--clip-guidance` or `--like`; give one of them".into(),
            );
            return if self.clip_model.is_empty() { Ok(None) } else { Err(refused) };
        }
        match (self.clip_model.as_slice(), model.first()) {
            ([], None) => Clip::bundled(),
            ([], Some(model)) => {
                let beside = model.parent().filter(|folder| !folder.as_os_str().is_empty());
                let folder = if model.is_dir() { model } else { beside.unwrap_or(Path::new(".")) };
                Clip::load(folder).map_err(|error| {
                    Error::Request(format!(
                        "no CLIP beside the model: {error}. Give one by `--clip-model PATH`"
                    ))
                })
            }
            (paths, _) => Clip::load_parts(paths),
        }
        .map(Some)
    }

    /// What the model is told of a prompt: nothing where it would take it for a class, or would not read it, and CLIP does.
    fn told<'a>(&self, prompt: &'a str, condition: Condition) -> &'a str {
        let follows = condition == Condition::Prompt || self.clip_guidance.is_none();
        if follows { prompt } else { "" }
    }

    /// What steers towards a prompt and the example.
    fn guidance(&self, clip: &Clip, device: &Device, prompt: &str, seed: u64) -> Result<ClipGuidance, Error> {
        let mut guidance = clip.guidance(device).seed(seed);
        if let Some(weight) = self.clip_guidance {
            if prompt.trim().is_empty() {
                let what = "`--clip-guidance` steers towards a prompt: ancestral generate \"a red circle\"";
                return Err(Error::Request(what.into()));
            }
            guidance = guidance.text(prompt, weight);
        }
        if let Some(path) = &self.like {
            let like = Picture::open(path)?;
            let alone = (self.structure.is_none() && self.style.is_none()).then_some(1.0);
            if let Some(weight) = self.content.or(alone) {
                guidance = guidance.content(&like, weight);
            }
            if let Some(weight) = self.structure {
                guidance = guidance.structure(&like, weight);
            }
            if let Some(weight) = self.style {
                guidance = guidance.style(&like, weight);
            }
        }
        guidance.build()
    }
}

/// Outside the mask every pixel stays as it was. A picture may have any size: the model sees a part of it around the mask,
/// scaled to its own size. Several masks, each with its prompt, are edits of one picture one after another.
#[derive(Args)]
#[command(allow_negative_numbers = true)]
struct Edit {
    /// The picture to change, a PNG or JPEG
    picture: PathBuf,
    /// What to draw where the mask is white; one for each mask, none where the model follows none
    prompt: Vec<String>,
    /// What is drawn anew: a picture of the same size, white where it is, black elsewhere; or rectangles of pixels,
    /// X,Y,WIDTH,HEIGHT+X,Y,WIDTH,HEIGHT; repeat it for edits one after another
    #[arg(long, value_name = "FILE|X,Y,W,H", required = true, allow_hyphen_values = true)]
    mask: Vec<String>,
    /// Where the PNG goes; several results are numbered NAME-0.png, NAME-1.png, …
    #[arg(short, long, value_name = "FILE", default_value = "ancestral.png")]
    output: PathBuf,
    /// Model folder, or checkpoint; repeat it for super-resolution stages [default: a bundled model]
    #[arg(short, long, value_name = "PATH")]
    model: Vec<PathBuf>,
    /// auto (a hardware GPU, else the CPU), gpu, cpu, or part of an adapter's name, e.g. llvmpipe
    #[arg(short, long, value_name = "NAME", default_value = "auto")]
    device: String,
    /// Seed of the noise: the same seed gives the same picture
    #[arg(short, long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Results, with seeds N, N+1, …
    #[arg(short, long, value_name = "N", default_value_t = 1)]
    count: usize,
    /// Denoising steps, by stage if separated by commas
    #[arg(long, value_name = "N", value_delimiter = ',')]
    steps: Vec<usize>,
    /// How strongly the prompt is followed, by stage if separated by commas
    #[arg(short, long, value_name = "X", value_delimiter = ',')]
    guidance_scale: Vec<f64>,
    /// What the picture should not show
    #[arg(long, value_name = "TEXT", default_value = "")]
    negative_prompt: String,
    /// GLIDE: factor of the upsampler's first noise; 1 is sharper, less is smoother [default: 0.997]
    #[arg(long, value_name = "X")]
    upsample_temp: Option<f64>,
    /// How much of what was there is forgotten, above 0 to 1, where nothing of it is left [default: 1]
    #[arg(long, value_name = "X")]
    strength: Option<f64>,
    /// Models without inpainting: times that each stretch of steps is gone through, and steps of a stretch
    #[arg(long, value_name = "TIMES,STEPS", value_parser = parse_resampling, default_value = "3,5")]
    resampling: Resampling,
    /// Print nothing but errors
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    steering: Steering,
    #[command(flatten)]
    choice: Choice,
}

/// Dispatches, arithmetic, traffic and memory of a run, from configs and tensor names alone.
///
/// Each network has up to three parts: `once` (what depends on the prompt only), `times` (time embeddings of all steps
/// in as few passes as fit) and `step`. A dispatch is a node of the fused graph, which a device may cut into several
/// where that measures faster. `moved` counts each node's inputs and
/// output once; `fewest` each weight, input and output of the part once, as if nothing between them left the chip.
/// `activations` is what the plan's buffers take, `at least` the largest set of activations alive at once.
///
/// Exits with 1 where something does not fit.
#[derive(Args)]
#[command(allow_negative_numbers = true)]
struct PlanArgs {
    /// Model folder, or OpenAI's checkpoint (guided diffusion, GLIDE); several for super-resolution stages [default: a bundled model]
    #[arg(value_name = "FOLDER", conflicts_with_all = ["config", "layout"])]
    model: Vec<PathBuf>,
    /// A network's config.json, to plan it without a model folder
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Names and shapes of that network's tensors, {"name": [2, 3], …}, to compare the config with
    #[arg(long, value_name = "FILE", requires = "config")]
    layout: Option<PathBuf>,
    /// Whose limits: webgpu (what every adapter has), auto, gpu, cpu, or part of an adapter's name
    #[arg(short, long, value_name = "NAME", default_value = "auto")]
    device: String,
    /// Storage of activations and weights [default: what serves the device best]
    #[arg(long, value_enum)]
    precision: Option<PrecisionName>,
    /// Memory of the device in GB, where it is known: wgpu does not say
    #[arg(long, value_name = "GB", value_parser = parse_memory)]
    memory: Option<u64>,
    /// Pictures at once
    #[arg(short, long, value_name = "N", default_value_t = 1)]
    count: usize,
    /// Denoising steps, by stage if separated by commas [default: the model's; 50 with --config]
    #[arg(long, value_name = "N", value_delimiter = ',')]
    steps: Vec<usize>,
    /// Guidance scale, by stage if separated by commas; 1 runs the conditional half only
    #[arg(short, long, value_name = "X", value_delimiter = ',')]
    guidance_scale: Vec<f64>,
    /// Width and height of the final picture, e.g. 256x256
    #[arg(long, value_name = "WxH", value_parser = parse_size)]
    size: Option<(usize, usize)>,
    /// Stop after this many stages
    #[arg(long, value_name = "N")]
    stages: Option<usize>,
    #[command(flatten)]
    choice: Choice,
}

#[derive(Clone, Copy, ValueEnum)]
enum PrecisionName {
    /// 4 bytes an element
    F32,
    /// 2 bytes an element, but for what needs f32's range
    F16,
}

fn parse_memory(text: &str) -> Result<u64, String> {
    match parse::<f64>(text)? {
        gigabytes if gigabytes > 0.0 && gigabytes < 1e6 => Ok((gigabytes * 1e9) as u64),
        _ => Err("give gigabytes, e.g. 8".into()),
    }
}

#[derive(Args)]
struct Bisect {
    /// Model folder, or OpenAI's checkpoint (guided diffusion, GLIDE) [default: a bundled model]
    #[arg(short, long, value_name = "PATH")]
    model: Vec<PathBuf>,
    #[command(flatten)]
    choice: Choice,
    /// Device to compare with the CPU
    #[arg(short, long, value_name = "NAME", default_value = "gpu")]
    device: String,
    /// Largest normalised mean square error taken for agreement
    #[arg(long, value_name = "X", default_value_t = 1e-8)]
    tolerance: f64,
}

#[derive(Clone, Copy, ValueEnum)]
enum SamplerName {
    /// Ancestral sampling
    Ddpm,
    /// Fewer steps, deterministic unless --eta says otherwise
    Ddim,
}

fn parse_size(text: &str) -> Result<(usize, usize), String> {
    let parts: Vec<&str> = text.split('x').collect();
    match parts[..] {
        [w, h] => Ok((parse(w)?, parse(h)?)),
        [side] => Ok((parse(side)?, parse(side)?)),
        _ => Err("give WIDTHxHEIGHT, e.g. 256x256".into()),
    }
}

fn parse_clip(text: &str) -> Result<Clipping, String> {
    if text.eq_ignore_ascii_case("none") { Ok(Clipping::None) } else { parse(text).map(Clipping::Range) }
}

fn parse_thresholding(text: &str) -> Result<(f64, f64), String> {
    match text.split(',').collect::<Vec<_>>()[..] {
        [quantile, max] => Ok((parse(quantile)?, parse(max)?)),
        _ => Err("give a quantile and a largest threshold, e.g. 0.95,1.5".into()),
    }
}

fn parse_resampling(text: &str) -> Result<Resampling, String> {
    match text.split(',').collect::<Vec<_>>()[..] {
        [times, jump] => Ok(Resampling { times: parse(times)?, jump: parse(jump)? }),
        _ => Err("give times and steps, e.g. 3,5".into()),
    }
}

fn parse<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.trim().parse().map_err(|_| format!("`{text}` is not a number"))
}

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn,wgpu=error,naga=error"))
        .init();
    let cli = Cli::try_parse().unwrap_or_else(|error| {
        if error.kind() == ErrorKind::InvalidUtf8 {
            note("error: the prompt, or another argument that is text, is not valid UTF-8; check the terminal's encoding");
            std::process::exit(2);
        }
        error.exit()
    });
    let result = match cli.command {
        Command::Generate(args) => generate(*args),
        Command::Edit(args) => edit(*args),
        Command::Tune(args) => tune(*args),
        Command::Plan(args) => match plan(&args) {
            Ok(true) => Ok(()),
            Ok(false) => return ExitCode::FAILURE,
            Err(error) => Err(error),
        },
        Command::Bisect(args) => bisect(&args),
        Command::Devices => {
            say(list_adapters().join("\n"));
            Ok(())
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            note(format_args!("error: {}", one_line(&error)));
            ExitCode::FAILURE
        }
    }
}

/// Loads the model and says what was taken for granted of its files.
fn load(model: &[PathBuf], choice: &Choice, device: DeviceChoice, quiet: bool) -> Result<Engine, Error> {
    let options = LoadOptions {
        device,
        variant: choice.variant.clone(),
        precision: None,
        classifier: choice.classifier.clone(),
        flags: choice.flags.clone(),
    };
    let engine = match (model.is_empty(), choice.system) {
        (false, _) => Engine::load_cascade(model, &options),
        (true, SystemName::Imagen) => Engine::bundled_as(Bundled::Imagen, &options),
        (true, SystemName::Adm) => Engine::bundled_as(Bundled::Adm, &options),
    }?;
    engine.notes().iter().filter(|_| !quiet).for_each(note);
    Ok(engine)
}

fn generate(args: Generate) -> Result<(), Error> {
    let started = Instant::now();
    let mut finished: Option<(usize, Vec<Picture>)> = None;
    // A count that makes no sense is refused by the engine, after these few.
    for path in outputs(&args.output, args.count.min(1_000)) {
        check_output(&path)?;
    }
    let device = DeviceChoice::parse(&args.device);
    let mut engine = load(&args.model, &args.choice, device.clone(), args.quiet)?;
    if engine.condition() == Condition::Prompt && args.prompt.is_none() {
        return Err(Error::Request(
            "this model draws what a prompt says: ancestral generate \"a red circle\"".into(),
        ));
    }
    let steered = args.steering.clip_guidance.is_some();
    if args.prompt.is_some() && engine.condition() == Condition::Nothing && !steered && !args.quiet {
        note("note: this model draws without a prompt; yours changes nothing");
    }
    if !args.quiet {
        note(format_args!("device: {}", engine.device().name()));
        if matches!(device, DeviceChoice::Auto) && matches!(engine.device(), ancestral::Device::Cpu) {
            note("        no hardware GPU answers; with one and its Vulkan driver this is much faster");
        }
    }
    let prompt = args.prompt.as_deref().unwrap_or_default();
    let clip = args.steering.clip(&args.model)?;
    let steer = |clip| args.steering.guidance(clip, engine.device(), prompt, args.seed);
    let guidance = clip.as_ref().map(steer).transpose()?;
    let prompt = args.steering.told(prompt, engine.condition());
    let mut cfg = GenerateConfig::new()
        .seed(args.seed)
        .count(args.count)
        .steps(args.steps)
        .respacing(args.respacing)
        .classes(args.class)
        .guidance_scale(args.guidance_scale)
        .negative_prompt(args.negative_prompt)
        .clean_caption(args.clean_caption);
    cfg = sized(cfg, args.size, args.stages);
    if let Some(path) = &args.init {
        cfg = cfg.init(vec![Picture::open(path)?]);
    }
    if let Some(strength) = args.strength {
        cfg = cfg.strength(strength);
    }
    cfg = match args.sampler {
        Some(SamplerName::Ddpm) => cfg.sampler(Sampler::Ddpm),
        Some(SamplerName::Ddim) => cfg.sampler(Sampler::Ddim { eta: args.eta, rederive_epsilon: false }),
        None => cfg,
    };
    cfg = args.upsample_temp.into_iter().fold(cfg, GenerateConfig::upsample_temp);
    if let Some((ratio, max)) = args.thresholding {
        cfg = cfg.thresholding(Clipping::Dynamic { ratio, max });
    }
    if let Some(clip) = args.clip {
        cfg = cfg.thresholding(clip);
    }
    let mut bars = Bars::new(args.quiet);
    cfg = cfg.on_progress(move |progress| bars.show(&progress));
    let from = args.from.iter().map(|path| Picture::open(path)).collect::<Result<Vec<_>, _>>()?;
    cfg = cfg.from_pictures(from).on_stage(|stage, pictures| finished = Some((stage, pictures.to_vec())));
    if let Some(guidance) = guidance {
        cfg = cfg.guide(1.0, guidance);
    }
    let drawn = engine.generate(prompt, cfg);
    let pictures = drawn.inspect_err(|_| keep_stage(finished, &args.output))?;
    for (picture, path) in pictures.iter().zip(outputs(&args.output, pictures.len())) {
        picture.save(&path)?;
        say(path.display());
    }
    if !args.quiet {
        note(format_args!("took {:.1} s", started.elapsed().as_secs_f64()));
    }
    Ok(())
}

/// The mask that an argument says, for a picture of this size.
fn mask(text: &str, size: (usize, usize)) -> Result<Mask, Error> {
    let rectangles: Result<Vec<Rectangle>, String> = text.split('+').map(str::parse).collect();
    match rectangles {
        Ok(rectangles) => Mask::rectangles(&rectangles, size),
        Err(_) if Path::new(text).exists() => Mask::open(Path::new(text), size),
        Err(_) => Err(Error::Request(format!(
            "the mask `{text}` is neither a file nor a rectangle; give a picture, or X,Y,WIDTH,HEIGHT in pixels"
        ))),
    }
}

fn edit(args: Edit) -> Result<(), Error> {
    let started = Instant::now();
    for path in outputs(&args.output, args.count.min(1_000)) {
        check_output(&path)?;
    }
    let photo = Photo::open(&args.picture)?;
    let size = (photo.width(), photo.height());
    let masks = args.mask.iter().map(|text| mask(text, size)).collect::<Result<Vec<_>, _>>()?;
    let mut engine = load(&args.model, &args.choice, DeviceChoice::parse(&args.device), args.quiet)?;
    if !args.quiet {
        note(format_args!("device: {}", engine.device().name()));
    }
    let (count, mut prompts) = (args.mask.len(), args.prompt);
    if prompts.is_empty() && engine.condition() == Condition::Nothing {
        prompts = vec![String::new(); count];
    }
    if prompts.len() != count {
        let what = format!("{count} masks and {} prompts: give a prompt for each mask", prompts.len());
        return Err(Error::Request(what));
    }
    let clip = args.steering.clip(&args.model)?;
    let (condition, device) = (engine.condition(), engine.device().clone());
    let cfg = |prompt: &str, seed: u64, count: usize| {
        let mut bars = Bars::new(args.quiet);
        let mut cfg = GenerateConfig::new()
            .seed(seed)
            .count(count)
            .steps(args.steps.clone())
            .guidance_scale(args.guidance_scale.clone())
            .negative_prompt(args.negative_prompt.clone())
            .resampling(args.resampling)
            .on_progress(move |progress| bars.show(&progress));
        if let Some(clip) = &clip {
            cfg = cfg.guide(1.0, args.steering.guidance(clip, &device, prompt, seed)?);
        }
        let cfg = args.upsample_temp.into_iter().fold(cfg, GenerateConfig::upsample_temp);
        Ok::<_, Error>(args.strength.into_iter().fold(cfg, GenerateConfig::strength))
    };
    let told = |prompt| args.steering.told(prompt, condition);
    let first = cfg(&prompts[0], args.seed, args.count)?;
    let mut edited = engine.edit(&photo, &masks[0], told(&prompts[0]), first)?;
    for (mask, prompt) in masks.iter().zip(&prompts).skip(1) {
        for (i, photo) in edited.iter_mut().enumerate() {
            let cfg = cfg(prompt, args.seed.wrapping_add(i as u64), 1)?;
            *photo = engine.edit(photo, mask, told(prompt), cfg)?.remove(0);
        }
    }
    for (photo, path) in edited.iter().zip(outputs(&args.output, edited.len())) {
        photo.save(&path)?;
        say(path.display());
    }
    if !args.quiet {
        note(format_args!("took {:.1} s", started.elapsed().as_secs_f64()));
    }
    Ok(())
}

/// The size and the number of stages asked for, where they were.
fn sized<'a>(
    mut cfg: GenerateConfig<'a>,
    size: Option<(usize, usize)>,
    stages: Option<usize>,
) -> GenerateConfig<'a> {
    if let Some((width, height)) = size {
        cfg = cfg.size(width, height);
    }
    if let Some(stages) = stages {
        cfg = cfg.stages(stages);
    }
    cfg
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

fn tune(args: Tune) -> Result<(), Error> {
    let mut engine = load(&args.model, &args.choice, DeviceChoice::parse(&args.device), false)?;
    let Device::Gpu(gpu) = engine.device().clone() else {
        return Err(Error::Device(
            "the CPU device has nothing to measure; name a GPU: ancestral tune --device llvmpipe".into(),
        ));
    };
    note(format_args!("device: {}", gpu.name()));
    let cfg = sized(GenerateConfig::new().count(args.count), args.size, args.stages);
    let choices = engine.tune(cfg, args.again)?;
    say(format_args!("{} sizes measured, {} known", choices.measured, choices.known));
    match gpu.tuning_file() {
        Some(path) => say(path.display()),
        None => note("not kept: there is no cache folder; name one with ANCESTRAL_CACHE_DIR"),
    }
    Ok(())
}

/// `picture.png` → `picture-3.png`.
fn numbered(path: &Path, i: usize) -> PathBuf {
    suffixed(path, format!("-{i}"))
}

/// The path with `suffix` before its extension.
fn suffixed(path: &Path, suffix: String) -> PathBuf {
    let mut name = path.file_stem().unwrap_or_default().to_os_string();
    name.push(suffix);
    if let Some(extension) = path.extension() {
        name.push(".");
        name.push(extension);
    }
    path.with_file_name(name)
}

/// The files of `count` pictures.
fn outputs(path: &Path, count: usize) -> Vec<PathBuf> {
    if count == 1 { vec![path.to_path_buf()] } else { (0..count).map(|i| numbered(path, i)).collect() }
}

/// A line on standard output. Whoever reads it may have gone; that is no reason to fail.
fn say(line: impl std::fmt::Display) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// A line on standard error.
fn note(line: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// An error on one line: names from a file may hold line breaks and what else steers a terminal.
fn one_line(error: &Error) -> String {
    const LONGEST: usize = 4_000;
    let text: String = error.to_string().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// One progress bar per stage.
struct Bars {
    quiet: bool,
    current: Option<(usize, ProgressBar)>,
}

impl Bars {
    fn new(quiet: bool) -> Self {
        Bars { quiet, current: None }
    }

    fn show(&mut self, progress: &Progress<'_>) -> bool {
        // Ticks of a hundredth of a step, so that the bar moves within slow steps too.
        const TICKS: f32 = 100.0;
        if self.quiet {
            return true;
        }
        if self.current.as_ref().is_none_or(|(stage, _)| *stage != progress.stage) {
            let (width, height) = progress.size;
            let bar = ProgressBar::new(progress.steps as u64 * TICKS as u64);
            let template = "{prefix} [{bar:30}] {msg} {elapsed} (left: {eta})";
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style.progress_chars("=> "));
            }
            bar.set_prefix(format!("stage {}/{} {width}x{height}", progress.stage + 1, progress.stages));
            self.current = Some((progress.stage, bar));
        }
        if let Some((_, bar)) = &self.current {
            bar.set_message(format!("step {}/{}", progress.done.floor(), progress.steps));
            bar.set_position((progress.done * TICKS) as u64);
            if progress.done as usize == progress.steps {
                bar.finish();
            }
        }
        true
    }
}

/// Prints the plan; whether all of it fits.
fn plan(args: &PlanArgs) -> Result<bool, Error> {
    let webgpu = args.device.eq_ignore_ascii_case("webgpu");
    let mut target = match webgpu {
        true => Target { precision: Precision::F32, limits: DeviceLimits::webgpu() },
        false => Target::of(&Device::open(&DeviceChoice::parse(&args.device))?),
    };
    target.precision = match args.precision {
        Some(PrecisionName::F32) => Precision::F32,
        Some(PrecisionName::F16) => Precision::F16,
        None => target.precision,
    };
    target.limits.memory = args.memory.or(target.limits.memory);
    let mut cfg = GenerateConfig::new()
        .count(args.count)
        .steps(args.steps.clone())
        .guidance_scale(args.guidance_scale.clone());
    cfg = sized(cfg, args.size, args.stages);
    let cost = match &args.config {
        Some(config) => plan_network(config, args.layout.as_deref(), &cfg, &target)?,
        None => {
            // The configs and tensors' names are read here; no weight is, wherever it would run.
            load(&args.model, &args.choice, DeviceChoice::Cpu, false)?.plan(&cfg, &target)?
        }
    };
    say(&cost);
    Ok(cost.fits())
}

fn bisect(args: &Bisect) -> Result<(), Error> {
    let device = ancestral::Device::open(&DeviceChoice::parse(&args.device))?;
    let engine = load(&args.model, &args.choice, DeviceChoice::Cpu, false)?;
    say(format_args!("CPU against {}", device.name()));
    for (network, parting) in engine.bisect(&device, args.tolerance)? {
        match parting {
            Some(p) => say(format_args!(
                "{network}: parts at {} ({}), NMSE {:.2e}, after {} nodes",
                p.label, p.kernel, p.nmse, p.agreed
            )),
            None => say(format_args!("{network}: agrees")),
        }
    }
    Ok(())
}
