//! The face of the library, as a program uses it: settings as data, runs that tell, stop and share an engine, errors that
//! can be matched, pictures in and out; and how much of it there is.

use crate::device::on_gpu;
use crate::told::Told;
use ancestral::guidance::{Direction, State};
use ancestral::image::{DynamicImage, GenericImageView, Rgb, RgbImage};
use ancestral::{
    Bundled, CancelToken, Device, DeviceChoice, Engine, Error, Event, LoadOptions, Mask, Part, PerStage,
    Photo, Picture, Precision, PriorKind, Problem, Rectangle, Resampling, Run, Sampler, Setting, Settings,
    Source, Start, Thresholding, UnClipSettings,
};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const RED: &str = "a red circle";
const BLUE: &str = "a blue square";

fn engine() -> Engine {
    on(DeviceChoice::Cpu, None)
}

fn on(device: DeviceChoice, precision: Option<Precision>) -> Engine {
    Engine::bundled(&LoadOptions { device, precision, ..LoadOptions::default() }).expect("the bundled model")
}

/// Two stages, as few steps as say anything.
fn few() -> Settings {
    Settings::new().steps([3, 1])
}

fn bytes(pictures: &[Picture]) -> Vec<Vec<u8>> {
    pictures.iter().map(Picture::to_bytes).collect()
}

fn draw(engine: &Engine, prompt: &str, settings: Settings) -> Vec<Vec<u8>> {
    bytes(&engine.generate(prompt, settings).expect("pictures"))
}

/// A fresh folder, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("ancestral-face-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Best effort: it lies among the temporary files.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn is_send_and_sync<T: Send + Sync>() {}
fn is_send<T: Send>() {}

/// What the types promise, and the ways to say things.
#[test]
fn settings_are_said_shortly() {
    is_send_and_sync::<Engine>();
    is_send_and_sync::<CancelToken>();
    is_send::<Settings>();
    is_send::<Run>();
    let settings = Settings::new().steps(25).guidance_scale(4.0).respacing("250");
    assert_eq!((settings.steps, settings.guidance_scale), ([25].into(), PerStage::from(4.0)));
    let settings =
        Settings::new().steps([25, 10]).guidance_scale([("decoder", 2.0)]).respacing(["20", "ddim5"]);
    assert_eq!(settings.guidance_scale.get(1, "decoder"), Some(&2.0));
    assert_eq!(Settings::new().steps(vec![1, 2]).steps, PerStage::from(&[1, 2][..]));
    let save = |picture: &Picture| picture.save("x.png");
    let _: &dyn Fn(&Picture) -> ancestral::Result<()> = &save;
    // The name of the first edition.
    let _: ancestral::GenerateConfig = Settings::new();
}

/// Written down and read again they are the same, but for functions, which no text holds.
#[test]
fn settings_go_through_json() {
    let picture = Picture::from(DynamicImage::from(RgbImage::from_pixel(4, 3, Rgb([9, 90, 200]))));
    let mask = Mask::new(4, 3, |x, _| x > 1);
    let all = Settings::new()
        .prompts([RED, BLUE])
        .negative_prompts(["", "blue"])
        .seeds([3, 9])
        .count(2)
        .size(256, 256)
        .stages(2)
        .steps(PerStage::from([7]).named("upscaler", 2))
        .respacing(["20", "ddim5"])
        .guidance_scale([("base", 3.5)])
        .sampler(Sampler::Ddim { eta: 0.25 })
        .eta(0.5)
        .thresholding(Thresholding::Dynamic { ratio: 0.9, max: 1.5 })
        .inpaint([picture.clone()], mask)
        .strength(0.7)
        .resampling(Resampling { times: 2, jump: 4 })
        .clean_caption(true)
        .system(UnClipSettings { prior: Some(PriorKind::Autoregressive), candidates: 3, inversion: Some(2) });
    let sources = [
        all.clone().image([picture.clone()]),
        all.clone().from_pictures([picture]),
        all.clone().classes([4]),
    ];
    for settings in sources.into_iter().chain([all.clone(), Settings::new()]) {
        let text = serde_json::to_string(&settings).expect("JSON");
        let again: Settings = serde_json::from_str(&text).expect("settings");
        // Debug shows every setting.
        assert_eq!(format!("{settings:?}"), format!("{again:?}"));
        assert_eq!(text, serde_json::to_string(&again).expect("JSON"));
    }
    // What a text leaves out is unset.
    let some: Settings = serde_json::from_str(r#"{"count": 2}"#).expect("settings");
    assert_eq!(format!("{some:?}"), format!("{:?}", Settings::new().count(2)));
    // Functions are left out, and stay in clones.
    let calls = Told::new();
    let told = calls.clone();
    let with = all.on_progress(move |_| {
        told.push(());
        false
    });
    let text = serde_json::to_string(&with).expect("JSON");
    let without: Settings = serde_json::from_str(&text).expect("settings");
    assert!(format!("{with:?}").contains("a function") && !format!("{without:?}").contains("a function"));
    let mut clone = with.clone();
    (clone.source, clone.start) = (Source::Prompt, Start::Noise);
    (clone.steps, clone.respacing, clone.guidance_scale) =
        (3.into(), PerStage::default(), PerStage::default());
    (clone.system, clone.eta, clone.strength) = (None, None, None);
    assert!(matches!(engine().generate(RED, clone), Err(Error::Cancelled)));
    assert_eq!(calls.take().len(), 1, "the clone's is the same function");
}

#[test]
fn stages_by_name_are_stages_by_place() {
    let engine = engine();
    assert_eq!(engine.stage_names()[..2], ["base", "upscaler"]);
    let by_place = draw(&engine, RED, Settings::new().steps([4, 2]).guidance_scale([3.0, 1.0]));
    let by_name = Settings::new().steps([("upscaler", 2), ("base", 4)]).guidance_scale([("base", 3.0)]);
    assert_eq!(draw(&engine, RED, by_name), by_place);
    // They say something.
    assert_ne!(draw(&engine, RED, Settings::new().steps([("upscaler", 3), ("base", 4)])), by_place);
    assert!(matches!(
        engine.generate(RED, Settings::new().steps([("decoder", 2)])),
        Err(Error::Request { setting: Setting::Steps, problem: Problem::Mismatch, .. })
    ));
}

/// Each picture of a batch is that of a run of its own, whatever is with it.
#[test]
fn a_batch_draws_what_single_runs_draw() {
    let engine = engine();
    let (prompts, negatives, seeds) =
        ([RED, BLUE, "a yellow star"], ["", "a red background", "blue"], [5, 5, 11]);
    let batch = few().prompts(prompts).negative_prompts(negatives).seeds(seeds);
    let together = draw(&engine, "", batch);
    for (i, together) in together.iter().enumerate() {
        let alone = draw(&engine, prompts[i], few().negative_prompt(negatives[i]).seed(seeds[i]));
        assert_eq!(&alone[0], together, "picture {i}");
    }
    // A negative prompt says something.
    assert_ne!(draw(&engine, prompts[2], few().seed(11))[0], together[2]);
}

/// States of prompts draw what the prompts do; prompts that were encoded are not encoded again.
#[test]
fn prompts_are_encoded_once() {
    let engine = engine();
    let started = Instant::now();
    let embeds = engine.encode_prompts(&[RED, BLUE], false).expect("states");
    let first = started.elapsed();
    let by_prompts = draw(&engine, "", few().prompts([RED, BLUE]).seeds([1, 2]));
    // Also by way of a text, as from another machine.
    let text = serde_json::to_string(&embeds).expect("JSON");
    let embeds: Vec<_> = serde_json::from_str(&text).expect("states");
    let by_embeds = few().prompt_embeds(embeds.clone(), []).seeds([1, 2]);
    assert_eq!(draw(&engine, "", by_embeds), by_prompts);
    // And what takes the place of the empty prompt.
    let negative = engine.encode_prompts(&["blue"], false).expect("states");
    let by_embeds = few().prompt_embeds(embeds.clone(), negative).seeds([1, 2]);
    let by_prompts = few().prompts([RED, BLUE]).negative_prompt("blue").seeds([1, 2]);
    assert_eq!(draw(&engine, "", by_embeds), draw(&engine, "", by_prompts));
    // Clones of an engine remember together. Ten times what is known takes less than once what was not.
    let clone = engine.clone();
    let started = Instant::now();
    (0..10).for_each(|_| assert_eq!(clone.encode_prompts(&[RED, BLUE], false).expect("states"), embeds));
    let again = started.elapsed();
    println!("two prompts: {first:?}, ten times again {again:?}");
    assert!(again < first, "{again:?} for ten times what is known, {first:?} for once");
}

#[test]
fn events_tell_the_whole_run() {
    let engine = engine();
    let run = Run::with_estimates(&engine, RED, few().count(2).seed(4), 2);
    let (mut steps, mut estimates, mut stages, mut pictures) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for event in run {
        match event.expect("no error") {
            Event::Step { stage, stages, size, done, steps: all } => {
                steps.push((stage, stages, size, done, all))
            }
            Event::Estimate { stage, pictures } => estimates.push((stage, pictures)),
            Event::Stage { stage, pictures } => stages.push((stage, pictures)),
            Event::Picture { index, picture } => {
                assert_eq!(index, pictures.len());
                pictures.push(picture);
            }
            other => panic!("{other:?}"),
        }
    }
    // Whole steps of both stages, in order, and more than those.
    let whole: Vec<_> =
        steps.iter().filter(|step| step.3.fract() == 0.0 && step.3 > 0.0).map(|s| (s.0, s.3)).collect();
    let mut once = whole.clone();
    once.dedup();
    assert_eq!(once, [(0, 1.0), (0, 2.0), (0, 3.0), (1, 1.0)]);
    assert!(steps.len() > whole.len(), "steps say how far they are");
    assert!(
        steps
            .iter()
            .all(|step| step.1 == 2 && step.2 == [(32, 32), (256, 256)][step.0] && step.4 == [3, 1][step.0])
    );
    let of: Vec<_> =
        estimates.iter().map(|(stage, pictures)| (*stage, pictures.len(), pictures[0].width)).collect();
    assert_eq!(of, [(0, 2, 32)], "after every second step, where there is one");
    assert!(stages.len() == 1 && stages[0].0 == 0 && stages[0].1.len() == 2);
    assert_eq!(bytes(&pictures), draw(&engine, RED, few().count(2).seed(4)));
    // From the stage that was kept on.
    let on = few().from_pictures(stages.remove(0).1).seed(4);
    assert_eq!(engine.generate(RED, on).expect("pictures").len(), 2);
    // What is refused is told, and then no more.
    let mut refused = engine.start(RED, few().steps(0));
    assert!(matches!(refused.next(), Some(Err(Error::Request { setting: Setting::Steps, .. }))));
    assert!(refused.next().is_none() && refused.next().is_none());
    assert_eq!(bytes(&engine.start(RED, few()).pictures().expect("pictures")), draw(&engine, RED, few()));
}

/// Far longer than a test may take, were it not stopped.
fn long() -> Settings {
    Settings::new().steps([1000, 1])
}

/// A run that is stopped, by whatever, ends soon, and the engine draws on as if nothing had been.
#[test]
fn stopped_runs_leave_no_trace() {
    const SOON: Duration = Duration::from_secs(10);
    let engine = engine();
    let right = draw(&engine, RED, few());
    // By a token, from another thread.
    let token = CancelToken::new();
    let mut run = engine.start(BLUE, long().cancel(&token));
    run.next().expect("an event").expect("no error");
    let started = Instant::now();
    token.cancel();
    assert!(
        matches!(run.pictures(), Err(Error::Cancelled)) && started.elapsed() < SOON && token.is_cancelled()
    );
    assert_eq!(draw(&engine, RED, few()), right);
    // By the run itself.
    let mut run = engine.start(BLUE, long());
    run.next().expect("an event").expect("no error");
    run.cancel();
    assert!(matches!(run.last(), Some(Err(Error::Cancelled))));
    // A run that is over, or stopped by itself, leaves a token that others have, too.
    let shared = CancelToken::new();
    assert_eq!(bytes(&engine.start(RED, few().cancel(&shared)).pictures().expect("pictures")), right);
    let run = engine.start(BLUE, long().cancel(&shared));
    run.cancel();
    drop(run);
    assert!(!shared.is_cancelled());
    // By dropping it: the thread is gone when that returns.
    let dropped = Told::new();
    let told = dropped.clone();
    let mut run = engine.start(
        BLUE,
        long().on_progress(move |_| {
            told.push(());
            true
        }),
    );
    run.next().expect("an event").expect("no error");
    let started = Instant::now();
    drop(run);
    assert!(started.elapsed() < SOON);
    dropped.take();
    std::thread::sleep(Duration::from_millis(100));
    assert!(dropped.take().is_empty(), "it goes on");
    assert_eq!(draw(&engine, RED, few()), right);
    // By a callback; and a token that was used stops the next one, too.
    let stopped = engine.generate(BLUE, long().on_progress(|at| at.done < 1.0));
    assert!(matches!(stopped, Err(Error::Cancelled)));
    assert!(matches!(engine.generate(RED, few().cancel(&token)), Err(Error::Cancelled)));
    // By a guidance that fails.
    let fails = |_: &State<'_>| Err::<Direction, _>(Error::Cancelled);
    assert!(matches!(engine.generate(BLUE, few().guide(1.0, fails)), Err(Error::Cancelled)));
    assert_eq!(draw(&engine, RED, few()), right);
}

#[test]
fn threads_draw_with_one_engine_at_once() {
    let engine = engine();
    let prompts = [RED, BLUE, "a green heart"];
    let alone: Vec<_> = prompts.iter().map(|prompt| draw(&engine, prompt, few().seed(2))).collect();
    // One that has drawn before, and a fresh one.
    for engine in [engine, self::engine()] {
        let together: Vec<_> = std::thread::scope(|scope| {
            let engine = &engine;
            let threads = prompts.map(|prompt| scope.spawn(move || draw(engine, prompt, few().seed(2))));
            threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
        });
        assert!(together == alone);
    }
}

/// A program that is kept for the next run is for its device and its storage, not for others.
#[test]
fn programs_are_not_taken_for_another_device_or_precision() {
    on_gpu(programs_are_for_one_device);
}

fn programs_are_for_one_device(gpu: &Device) {
    use ancestral::internals::device::{ProgramOptions, Variants};
    use ancestral::internals::pipeline::imagen::load_stage;
    use ancestral::internals::pipeline::stage::At;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/scenes/stage_1");
    let stage = load_stage(&folder, None, 0).expect("a stage");
    let (network, shape) = (&stage.networks[0], stage.shape(1, (32, 32), &[], 1.0));
    let f32 = ProgramOptions { precision: Precision::F32, ..Default::default() };
    let other = ProgramOptions { variants: Variants::Rule, ..f32 };
    for (device, options) in [(&Device::Cpu, &f32), (gpu, &f32), (gpu, &other), (&Device::Cpu, &f32)] {
        let at = At { device, options };
        let denoiser = network.denoiser(at, shape, 2).expect("a program");
        assert!(denoiser.is_for(device, options, shape));
        for (device, options) in [(&Device::Cpu, &f32), (gpu, &f32), (gpu, &other)] {
            let same = device.name() == at.device.name() && options == at.options;
            assert_eq!(denoiser.is_for(device, options, shape), same);
        }
        network.put_back(denoiser);
    }
}

/// Storage on a GPU is what was asked for.
#[test]
fn f32_can_be_asked_of_a_gpu() {
    on_gpu(f32_is_what_was_asked_for);
}

fn f32_is_what_was_asked_for(gpu: &Device) {
    let Device::Gpu(gpu) = gpu else { unreachable!("it is a GPU") };
    let small = || few().stages(1);
    let on = |precision| on(DeviceChoice::Existing(gpu.clone()), precision);
    let (cpu, f32) =
        (engine().generate(RED, small()).unwrap(), on(Some(Precision::F32)).generate(RED, small()).unwrap());
    let off = |a: &[Picture], b: &[Picture]| {
        let pairs = a[0].values.iter().zip(&b[0].values);
        pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    };
    assert!(off(&cpu, &f32) < 1e-3, "{}", off(&cpu, &f32));
    if gpu.has_f16() {
        let f16 = on(Some(Precision::F16)).generate(RED, small()).unwrap();
        assert!(off(&cpu, &f16) > off(&cpu, &f32), "f16 is not f32");
    }
}

/// Whatever becomes of a call, the caller's settings are as they were.
#[test]
fn settings_are_no_scratch_paper() {
    let options = LoadOptions { device: DeviceChoice::Cpu, ..LoadOptions::default() };
    let engine = Engine::bundled_as(Bundled::UnClip, &options).expect("the bundled unCLIP");
    let circle = Picture::from(DynamicImage::from(RgbImage::from_fn(32, 32, |x, y| {
        let inside = (x as f32 - 15.5).hypot(y as f32 - 15.5) < 7.0;
        Rgb(if inside { [220, 40, 40] } else { [245, 245, 245] })
    })));
    let settings =
        Settings::new().seed(3).stages(1).steps(4).guidance_scale(2.0).thresholding(Thresholding::Range(1.0));
    let before = serde_json::to_string(&settings).expect("JSON");
    let stopped = || settings.clone().on_progress(|at| at.done < 1.0);
    assert!(matches!(engine.invert(std::slice::from_ref(&circle), stopped()), Err(Error::Cancelled)));
    assert!(engine.invert(&[], settings.clone()).is_err());
    assert!(engine.generate_from_noise(RED, &settings.clone().steps([9; 9]), &mut NoNoise).is_err());
    let found = engine.invert(std::slice::from_ref(&circle), settings.clone()).expect("a noise");
    assert_eq!(before, serde_json::to_string(&settings).expect("JSON"));
    // What was said for the inversion is what is drawn by.
    let back = settings.clone().thresholding(Thresholding::None).latents(found.clone());
    let again = engine.generate("", back).expect("a picture").remove(0);
    let off = again.values.iter().zip(&circle.values).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
    let off = off / circle.values.len() as f64;
    assert!(off < 0.01, "mean square {off}");
    // A stopped one has not changed what comes after.
    let fresh = Engine::bundled_as(Bundled::UnClip, &options).expect("the bundled unCLIP");
    assert_eq!(fresh.invert(std::slice::from_ref(&circle), settings).expect("a noise"), found);
}

/// A source that a refused run never asks.
struct NoNoise;

impl ancestral::Noise for NoNoise {
    fn draw(&mut self, _: usize, _: usize, _: usize, _: usize) -> Vec<f32> {
        unreachable!("it is refused before")
    }

    fn uniform(&mut self, _: usize, _: usize) -> Vec<f32> {
        unreachable!("it is refused before")
    }
}

/// DDIM's η goes to every stage that samples by DDIM, by itself or because it was told to, and to no other.
#[test]
fn eta_is_ddims() {
    let engine = engine();
    // The bundled second stage is sampled by DDIM, the first is not.
    let (usual, with) =
        (draw(&engine, RED, few().steps([2, 3])), draw(&engine, RED, few().steps([2, 3]).eta(1.0)));
    assert_ne!(usual, with);
    assert_eq!(usual, draw(&engine, RED, few().steps([2, 3]).eta(0.0)));
    let first = || few().stages(1).steps(4);
    match engine.generate(RED, first().eta(0.5)) {
        Err(Error::Request { setting: Setting::Eta, problem: Problem::Unsupported, what }) => {
            assert!(what.contains("DDIM"), "{what}");
        }
        other => panic!("{other:?}"),
    }
    let ddim = |eta| draw(&engine, RED, first().sampler(Sampler::Ddim { eta: 0.0 }).eta(eta));
    assert_ne!(ddim(0.5), ddim(0.0));
    let said = draw(&engine, RED, first().sampler(Sampler::Ddim { eta: 0.5 }));
    assert_eq!(ddim(0.5), said);
}

#[test]
fn pictures_go_in_and_out() {
    let folder = Folder::new("pictures");
    let image = RgbImage::from_fn(7, 5, |x, y| Rgb([(x * 30) as u8, (y * 50) as u8, (x * y * 6) as u8]));
    let picture = Picture::from(DynamicImage::from(image.clone()));
    assert_eq!((picture.width, picture.height, picture.channels), (7, 5, 3));
    assert_eq!(picture.to_bytes(), image.as_raw()[..]);
    assert_eq!(DynamicImage::from(&picture), DynamicImage::from(image.clone()));
    assert_eq!(Picture::decode(&picture.to_png().expect("a PNG")).expect("a picture"), picture);
    picture.save(folder.0.join("x.png")).expect("it is written");
    assert_eq!(Picture::open(folder.0.join("x.png")).expect("a picture"), picture);
    let jpeg = Photo::decode(&picture.to_jpeg(95).expect("a JPEG")).expect("a photo");
    assert_eq!((jpeg.width(), jpeg.height()), (7, 5));
    let photo = Photo::from(DynamicImage::from(image));
    assert_eq!(Photo::decode(&photo.to_png().expect("a PNG")).expect("a photo").pixels, photo.pixels);
    assert_eq!(photo.picture(), picture);
    // Other depths and grey ones.
    let deep = photo.pixels.to_rgb16();
    let again = Photo::decode(&Photo::from(DynamicImage::from(deep.clone())).to_png().unwrap()).unwrap();
    assert_eq!(again.pixels, DynamicImage::from(deep));
    let grey = Picture { channels: 1, values: vec![-1.0; 35], ..picture.clone() };
    assert_eq!(DynamicImage::from(&grey).get_pixel(3, 3).0, [0, 0, 0, 255]);
    assert_eq!(Picture::decode(&grey.to_png().unwrap()).unwrap().values, vec![-1.0; 105]);
    let text = serde_json::to_string(&picture).expect("JSON");
    assert_eq!(serde_json::from_str::<Picture>(&text).expect("a picture"), picture);
    assert!(matches!(Picture::decode(b"no picture"), Err(Error::Io { .. })));
    let broken = Picture { width: 8, ..picture };
    let malformed = |error| {
        matches!(error, Error::Request { setting: Setting::Picture, problem: Problem::Malformed, .. })
    };
    assert!(malformed(broken.to_png().unwrap_err()) && malformed(broken.save("never.png").unwrap_err()));
}

/// Threads that write one file leave one of theirs, whole, and nothing beside it.
#[test]
fn a_picture_that_several_threads_write_is_whole() {
    let folder = Folder::new("writers");
    let path = folder.0.join("one.png");
    let picture = |grey: u8| Picture::from(DynamicImage::from(RgbImage::from_pixel(64, 64, Rgb([grey; 3]))));
    std::thread::scope(|scope| {
        for grey in [0, 85, 170, 255] {
            let path = &path;
            scope.spawn(move || {
                let picture = picture(grey);
                for _ in 0..100 {
                    picture.save(path).expect("it is written");
                    ancestral::check_output(path).expect("it can be");
                    let read = Picture::open(path).expect("it is whole");
                    assert!(read.values.iter().all(|value| *value == read.values[0]));
                }
            });
        }
    });
    assert_eq!(fs::read_dir(&folder.0).expect("a folder").count(), 1, "nothing is left beside it");
}

/// One of each kind that costs little to provoke.
#[test]
fn errors_can_be_matched() {
    let folder = Folder::new("errors");
    let (engine, options) = (engine(), LoadOptions { device: DeviceChoice::Cpu, ..LoadOptions::default() });
    let kind = |setting, problem, settings: Settings| match engine.generate(RED, settings) {
        Err(Error::Request { setting: found, problem: what, .. }) => {
            assert_eq!((found, what), (setting, problem))
        }
        other => panic!("{setting:?}: {other:?}"),
    };
    kind(Setting::Count, Problem::OutOfRange, few().count(0));
    kind(Setting::Seeds, Problem::Mismatch, few().count(2).seeds([1]));
    kind(Setting::Prompt, Problem::Conflict, few().prompts([BLUE]));
    kind(Setting::Classes, Problem::Unsupported, Settings::new().classes(["red"]));
    kind(Setting::Size, Problem::Mismatch, few().size(250, 256));
    kind(Setting::Stages, Problem::OutOfRange, few().stages(9));
    let black = few().inpaint([Picture::from(DynamicImage::new_rgb8(4, 4))], Mask::new(4, 4, |_, _| false));
    kind(Setting::Mask, Problem::Malformed, black);
    let guide = |_: &State<'_>| Ok(Direction::Score(Vec::new()));
    kind(Setting::Guide, Problem::Mismatch, few().guide(1.0, guide));
    // Files: which, and which part of it.
    let absent = folder.0.join("absent");
    let model_file = |error, path: &Path, part: Part| match error {
        Err(Error::ModelFile { path: found, part: of, what }) => {
            assert_eq!((found.as_path(), of), (path, part), "{what}");
        }
        other => panic!("{:?}", other.err()),
    };
    model_file(Engine::load(&absent, &options).map(drop), &absent, Part::Whole);
    let cascade = folder.0.join("cascade.json");
    fs::write(&cascade, r#"{"stages": []}"#).expect("it is written");
    model_file(Engine::load(&folder.0, &options).map(drop), &cascade, Part::Key("stages".into()));
    let nowhere = LoadOptions { device: DeviceChoice::parse("no such adapter"), ..options };
    assert!(matches!(Engine::bundled(&nowhere), Err(Error::Device { .. })));
    let stopped = engine.generate(RED, few().on_progress(|_| false));
    assert!(matches!(stopped, Err(Error::Cancelled)));
    let picture = Picture::from(DynamicImage::new_rgb8(2, 2));
    for path in [folder.0.join("absent/x.png"), folder.0.clone()] {
        match picture.save(&path) {
            Err(Error::Io { path: found, .. }) => assert_eq!(found, path),
            other => panic!("{other:?}"),
        }
    }
    let outside = Rectangle { x: 9, y: 9, width: 2, height: 2 };
    assert!(matches!(
        Mask::rectangles(&[outside], (4, 4)),
        Err(Error::Request { setting: Setting::Mask, .. })
    ));
    // A buffer beyond all devices.
    let small = ancestral::cost::Target {
        precision: Precision::F32,
        limits: ancestral::DeviceLimits { memory: Some(1 << 20), ..ancestral::DeviceLimits::webgpu() },
    };
    assert!(!engine.plan(RED, &few(), &small).expect("a plan").fits());
    // They are errors as any other, and go to other threads.
    let boxed: Box<dyn std::error::Error + Send + Sync> = Box::new(Error::Cancelled);
    assert_eq!(boxed.to_string(), "cancelled");
}

/// What a part of lib.rs re-exports, by where it is from: the path's modules and the name.
fn exported(text: &str) -> Vec<(Vec<String>, String)> {
    let mut found = Vec::new();
    for statement in text.split("pub use ").skip(1) {
        let statement: String = statement.split(';').next().expect("it ends").split_whitespace().collect();
        let (path, names) = match statement.split_once('{') {
            Some((path, names)) => (path.trim_end_matches("::"), names.trim_end_matches('}')),
            None => statement.rsplit_once("::").unwrap_or(("", &statement)),
        };
        let parts = path.split("::").filter(|part| !part.is_empty() && *part != "crate");
        let path: Vec<String> = parts.map(Into::into).collect();
        let names = names.split(',').filter(|name| !name.is_empty());
        found.extend(names.map(|name| (path.clone(), name.to_string())));
    }
    found
}

/// What lib.rs shows: the face, and what graphs are recorded with, which only those need who write some.
fn shown() -> [Vec<(Vec<String>, String)>; 2] {
    let text = source("lib.rs");
    let face = text.split("#[doc(hidden)]").next().expect("the face comes before what is hidden");
    let (before, rest) = face.split_once("pub mod record {").expect("what is recorded with");
    let (record, after) = rest.split_once("\n    }\n").expect("it ends");
    let mut face = [exported(before), exported(after)].concat();
    face.push((Vec::new(), "GenerateConfig".into()));
    [face, exported(record)]
}

fn source(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(path)).expect("a file of src")
}

/// All source under a module, which is a folder or a file; a module that is re-exported from further below is looked for in
/// the one above it.
fn under(path: &[String]) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let at = path.iter().fold(root, |at, part| at.join(part));
    if !at.is_dir() {
        return fs::read_to_string(at.with_extension("rs"))
            .unwrap_or_else(|_| under(&path[..path.len() - 1]));
    }
    let mut text = String::new();
    let mut rest = vec![at];
    while let Some(folder) = rest.pop() {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                rest.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                text.push_str(&fs::read_to_string(path).expect("a file"));
            }
        }
    }
    text
}

/// How many public functions and constants a type's own blocks have, or functions a trait has.
fn members(text: &str, name: &str) -> usize {
    let mut count = 0;
    for (at, _) in text.match_indices("\nimpl").chain(text.match_indices("\npub trait ")) {
        let rest = &text[at + 1..];
        let head = &rest[..rest.find('{').unwrap_or(rest.len())];
        let is_trait = head.starts_with("pub trait ");
        // After the parameters of `impl<T>`.
        let mut of = head.trim_start_matches("pub trait ").trim_start_matches("impl");
        if of.starts_with('<') {
            let mut depth = 0;
            let end = of.find(|c| {
                depth += i32::from(c == '<') - i32::from(c == '>');
                depth == 0
            });
            of = &of[end.map_or(0, |end| end + 1)..];
        }
        let of: String = of.trim_start().chars().take_while(|c| c.is_alphanumeric()).collect();
        if of != name || !is_trait && head.contains(" for ") {
            continue;
        }
        let body = &rest[..rest.find("\n}").unwrap_or(rest.len())];
        let is_member = |line: &str| match is_trait {
            true => line.starts_with("    fn "),
            false => ["fn ", "const ", "const fn ", "unsafe fn "]
                .iter()
                .any(|what| line.strip_prefix("    pub ").is_some_and(|rest| rest.starts_with(what))),
        };
        let lines: Vec<&str> = body.lines().collect();
        let hidden = |i: usize| i > 0 && lines[i - 1].trim() == "#[doc(hidden)]";
        count += (0..lines.len()).filter(|&i| is_member(lines[i]) && !hidden(i)).count();
    }
    count
}

/// What a person has to look through: the names of the face, and the functions that they have. Fields and variants are
/// not counted, nor what the documentation hides for it speaks of the machine's own types.
#[test]
fn the_face_stays_small() {
    // 19 of the first are the settings of samplers.
    // Training and the scenes' folder are 18 of the face.
    const MOST: [usize; 2] = [256, 80];
    for ((names, most), what) in shown().into_iter().zip(MOST).zip(["face", "recording of graphs"]) {
        let mut of = BTreeMap::new();
        for (path, name) in names {
            let members = if path.is_empty() { 0 } else { members(&under(&path), &name) };
            of.insert(name, 1 + members);
        }
        let all: usize = of.values().sum();
        let mut largest: Vec<_> = of.iter().map(|(name, count)| (*count, name.as_str())).collect();
        largest.sort_by(|a, b| b.cmp(a));
        println!("{what}: {all} public items: {} names, {} functions: {largest:?}", of.len(), all - of.len());
        // The count sees what is there.
        let counts = |name: &str| of.get(name).copied();
        assert!(
            counts("Engine").is_none_or(|n| n > 15) && counts("Settings").is_none_or(|n| n > 25),
            "{of:?}"
        );
        assert!([counts("Guidance"), counts("Graph").map(|n| n.min(3))].contains(&Some(3)), "{of:?}");
        assert!(all <= most, "{what}: {all} public items, at most {most} are wanted: {largest:?}");
    }
}
