//! What passes between the host and a GPU in a step, once a run is under way: submissions, waits, bytes.

use crate::device::on_gpu;
use crate::plan_and_run::{golden, waves};
use ancestral::guidance::{Direction, GuidanceBuilder, State};
use ancestral::internals::device::Device;
use ancestral::internals::device::ledger::{Traffic, traffic};
use ancestral::internals::diffusion::numbers::COUNT;
use ancestral::{
    Bundled, Clip, DeviceChoice, Engine, LoadOptions, Mask, PriorKind, Resampling, Sampler, Settings,
    UnClipSettings,
};
use std::sync::{Arc, Mutex};

fn options(device: &Device) -> LoadOptions {
    let Device::Gpu(gpu) = device else { panic!("a GPU") };
    LoadOptions { device: DeviceChoice::Existing(gpu.clone()), ..LoadOptions::default() }
}

/// A stage, its size, the steps that are done, and what passed so far.
type Told = (usize, (usize, usize), f32, Traffic);

/// A stage's steps under way.
#[derive(Debug)]
struct Steady {
    stage: usize,
    /// Bytes of a picture's noise.
    noise: u64,
    steps: Vec<Traffic>,
}

/// What passed from each step that was done to the next, by stage: each stage's steps but the first two, which make programs and
/// fill the pipe, and the last, which empties it.
fn steady(engine: &Engine, prompt: &str, settings: Settings) -> Vec<Steady> {
    steady_in(settings, |settings| drop(engine.generate(prompt, settings).expect("pictures")))
}

/// The same of any run.
fn steady_in(settings: Settings, run: impl Fn(Settings)) -> Vec<Steady> {
    let done: Arc<Mutex<Vec<Told>>> = Arc::default();
    let noted = done.clone();
    // Programs are made and measured by a first run.
    run(settings.clone());
    let settings = settings.on_progress(move |progress| {
        if progress.done > 0.0 && progress.done.fract() == 0.0 {
            let mut noted = noted.lock().expect("no panic");
            // While the next step is handed over the same is told again.
            if !noted.iter().any(|(stage, _, done, _)| (*stage, *done) == (progress.stage, progress.done)) {
                noted.push((progress.stage, progress.size, progress.done, traffic()));
            }
        }
        true
    });
    run(settings);
    let done = done.lock().expect("no panic");
    let mut stages: Vec<Steady> = Vec::new();
    for (stage, (width, height), _, at) in done.iter() {
        match stages.iter_mut().find(|of| of.stage == *stage) {
            Some(of) => of.steps.push(*at),
            None => stages.push(Steady {
                stage: *stage,
                noise: 4 * 3 * (width * height) as u64,
                steps: vec![*at],
            }),
        }
    }
    for Steady { steps, .. } in &mut stages {
        let between: Vec<Traffic> = steps.windows(2).map(|pair| pair[1] - pair[0]).collect();
        *steps = between.iter().skip(1).take(between.len().saturating_sub(3)).copied().collect();
    }
    stages
}

/// Bytes of a step's numbers.
const NUMBERS: u64 = 4 * COUNT as u64;

/// Holds every step of every stage to its numbers, so many pictures' noise and so many bytes besides; two submissions, and the
/// flag that is read.
#[track_caller]
fn hold(what: &str, stages: &[Steady], noises: u64, besides: u64) {
    assert!(!stages.is_empty(), "{what}: no stage ran");
    for Steady { stage, noise, steps } in stages {
        assert!(steps.len() >= 2, "{what}: {} steps to look at", steps.len());
        let most = NUMBERS + noises * noise + besides;
        for (i, step) in steps.iter().enumerate() {
            let what = format!("{what}, stage {stage}, step {i}: {step:?}");
            assert!(step.submissions <= 2, "{what}");
            assert!(step.waits <= step.submissions, "{what}");
            assert_eq!(step.read_back, 4, "{what}");
            assert!(step.uploaded <= most, "{what}, more than {most} bytes");
            assert!(step.uploaded >= NUMBERS, "{what}");
        }
    }
}

#[test]
fn a_plain_step_uploads_its_numbers_and_its_noise() {
    on_gpu(|device| {
        let engine = Engine::bundled(&options(device)).expect("the bundled cascade");
        let noise = 4 * 3 * 32 * 32;
        let steps = || Settings::new().stages(1).steps(8);
        let ancestral = steady(&engine, "a star", steps().sampler(Sampler::Ddpm));
        hold("DDPM", &ancestral, 1, 0);
        let plain = steady(&engine, "a star", steps().sampler(Sampler::Ddim { eta: 0.0 }));
        hold("DDIM", &plain, 0, 0);
        let two = steady(&engine, "a star", steps().sampler(Sampler::Ddpm).count(2));
        hold("two pictures", &two, 2, 0);
        // A host that asks for each estimate pays for it, and sees it.
        let asked = Arc::new(Mutex::new(0));
        let seen = asked.clone();
        let asking = steps().on_progress(move |mut progress| {
            *seen.lock().expect("no panic") += usize::from(progress.estimate().expect("it reads").is_some());
            true
        });
        let before = traffic();
        engine.generate("a star", asking).expect("pictures");
        assert_eq!(*asked.lock().expect("no panic"), 8);
        assert!((traffic() - before).read_back >= 8 * noise, "{:?}", traffic() - before);
    });
}

#[test]
fn a_cascade_of_folders_passes_no_more() {
    on_gpu(|device| {
        let folders = ["if_stage1/pipeline", "if_stage2/pipeline"].map(golden);
        let engine = Engine::load_cascade(&folders, &options(device)).expect("the cascade");
        let stages = steady(&engine, "a fox", Settings::new().steps([8, 8]));
        hold("IF", &stages, 1, 0);
        let ddpm = Engine::load(golden("ddpm/pipeline"), &options(device)).expect("DDPM");
        hold("DDPM", &steady(&ddpm, "", Settings::new().steps(8)), 1, 0);
        let glide = Engine::load(golden("glide"), &options(device)).expect("GLIDE");
        hold("GLIDE", &steady(&glide, "a fox", Settings::new().steps([8, 8])), 1, 0);
    });
}

#[test]
fn unclip_passes_no_more() {
    on_gpu(|device| {
        let engine = Engine::bundled_as(Bundled::UnClip, &options(device)).expect("the bundled unCLIP");
        let prior = UnClipSettings { prior: Some(PriorKind::Diffusion), ..UnClipSettings::default() };
        let settings = Settings::new().system(prior).steps([8, 8, 8]);
        // The prior's first: its sample is an embedding, of 4 bytes for each of its numbers.
        let embedding = 4 * 1024;
        let stages = steady(&engine, "a star", settings);
        hold("unCLIP", &stages, 1, embedding);
        assert!(stages.len() >= 3, "{}", stages.len());
    });
}

/// Steered on the device: by a classifier, by CLIP, by both; what the guide reads besides the sample is its timestep.
#[test]
fn steering_stays_on_the_device() {
    on_gpu(|device| {
        let engine = Engine::bundled_as(Bundled::Adm, &options(device)).expect("the bundled ADM");
        let guided = || Settings::new().steps(8).sampler(Sampler::Ddpm);
        // Its timestep, and the factors by which its direction is taken.
        let guide = 4 + 32;
        let by_class = guided().classes(["red circle"]).guidance_scale(2.0);
        hold("a classifier", &steady(&engine, "", by_class.clone()), 1, guide);
        let clip = Clip::bundled().expect("the bundled CLIP");
        let text = || clip.guidance(engine.device()).text("a star", 1.0).build().expect("a guidance");
        let both = by_class.guide(1.0, text());
        hold("both", &steady(&engine, "", both), 1, 2 * guide);
        let plain = guided().guidance_scale(0.0).guide(1.0, text());
        hold("CLIP", &steady(&engine, "", plain), 1, guide);
        // A closure is asked on the host, at its price.
        let still = |at: &State<'_>| Ok(Direction::Score(vec![0.0; at.x.len()]));
        let on_host = steady(&engine, "", guided().guidance_scale(0.0).guide(1.0, still));
        let [host] = &on_host[..] else { panic!("one stage") };
        let read: u64 = host.steps.iter().map(|step| step.read_back).sum();
        assert!(read >= (host.steps.len() as u64 - 1) * 2 * host.noise, "{host:?}");
    });
}

/// Semantic Diffusion Guidance: examples' features and their sizes are compared where they are. A CLIP that sees noise reads
/// each example anew at every step, with that step's noise; one that sees none reads it once.
#[test]
fn examples_stay_on_the_device() {
    on_gpu(|device| {
        let engine = Engine::load(golden("ddpm/pipeline"), &options(device)).expect("DDPM");
        let noised = Clip::bundled().expect("the bundled CLIP");
        let plain = Clip::load(golden("sdg/transformers")).expect("a CLIP that sees no noise");
        assert!(noised.timestep(0.5).is_some() && plain.timestep(0.5).is_none(), "one of each");
        let (a, b) = (waves(32, 32), waves(40, 24));
        // So many pictures, and examples that get noise.
        let held = |what: &str, guidance: GuidanceBuilder, count: u64, examples: u64| {
            let guidance = guidance.build().expect("a guidance");
            let settings = Settings::new().steps(6).count(count as usize).guide(1.0, guidance);
            let steps = steady(&engine, "", settings);
            // The factors by which the direction is taken, and a timestep for each picture and example.
            hold(what, &steps, count * (1 + examples), 32 + 4 * count * (1 + examples));
        };
        let of = |clip: &Clip| clip.guidance(device);
        held("content", of(&noised).content(&a, 1.0), 1, 1);
        held("structure", of(&noised).structure(&a, 1.0), 1, 1);
        held("style", of(&noised).style(&a, 1.0), 2, 1);
        let two = of(&noised).text("a star", 1.0).content(&a, 1.0).style(&a, 0.5).structure(&b, 0.5);
        held("two examples", two, 1, 2);
        held("without noise", of(&plain).content(&a, 1.0).structure(&a, 1.0).style(&b, 1.0), 2, 0);
    });
}

/// Inversion: all that is read of a picture is by how much the search is off, and how often it was looked at: eight bytes, once
/// the network has seen it, which the host waits for. Nothing is uploaded but numbers and timesteps.
#[test]
fn inversion_stays_on_the_device() {
    on_gpu(|device| {
        let engine = Engine::load(golden("unclip_variation/pipeline"), &options(device)).expect("unCLIP");
        for (count, evaluations) in [(1, 1), (1, 3), (2, 3)] {
            let pictures = vec![waves(16, 16); count];
            let by = UnClipSettings { inversion: Some(evaluations), ..UnClipSettings::default() };
            let stages = steady_in(Settings::new().system(by).steps(8), |settings| {
                drop(engine.invert(&pictures, settings).expect("latents"));
            });
            let [Steady { steps, .. }] = &stages[..] else { panic!("the decoder's stage: {stages:?}") };
            assert!(steps.len() >= 2, "{steps:?}");
            let (count, evaluations) = (count as u64, evaluations as u64);
            for step in steps {
                let what = format!("{count} by {evaluations} evaluations: {step:?}");
                let seen = step.read_back / (8 * count);
                assert!(step.read_back == seen * 8 * count && (1..=evaluations).contains(&seen), "{what}");
                assert!(step.submissions <= 2 * seen && step.waits <= step.submissions, "{what}");
                assert!(step.uploaded <= NUMBERS + evaluations * 4 * count, "{what}");
                assert!(step.uploaded >= NUMBERS, "{what}");
            }
        }
    });
}

#[test]
fn keeping_a_picture_stays_on_the_device() {
    on_gpu(|device| {
        let mask = Mask::new(32, 32, |x, _| 2 * x < 32);
        let engine = Engine::bundled(&options(device)).expect("the bundled cascade");
        let resampling = Resampling { times: 2, jump: 3 };
        let settings = Settings::new().stages(1).steps(9).sampler(Sampler::Ddpm);
        let repaint = settings.inpaint([waves(32, 32)], mask).resampling(resampling);
        // A step's noise, the kept part's, and where it goes back that too; numbers for each.
        hold("RePaint", &steady(&engine, "a star", repaint), 3, 2 * 32);
        let glide = Engine::load(golden("glide"), &options(device)).expect("GLIDE");
        let inpaints = Settings::new().stages(1).steps(8);
        let (width, height) = glide.picture_size("a fox", &inpaints).expect("a size");
        let mask = Mask::new(width, height, |x, _| 2 * x < width);
        let inpaint = inpaints.inpaint([waves(width, height)], mask);
        hold("GLIDE's inpainting", &steady(&glide, "a fox", inpaint), 1, 0);
    });
}

/// Whoever wants to may wait for work as for any other future.
#[test]
fn a_ticket_can_be_awaited() {
    on_gpu(|device| {
        let mut work = device.work();
        let value = device.tensor(5, false).expect("a tensor");
        work.write(&value, &[1.0, 2.0, 3.0, 4.0, 5.0]).expect("it writes");
        let copy = device.tensor(5, false).expect("a tensor");
        work.copy(&value, &copy).expect("it copies");
        // What is written from here on comes after the copy.
        work.write(&value, &[9.0; 5]).expect("it writes");
        let (before, after) =
            (work.read_later(&copy).expect("later"), work.read_later(&value).expect("later"));
        let ticket = work.submit().expect("handed over");
        pollster::block_on(ticket.clone()).expect("done");
        assert!(ticket.is_done().expect("it says"));
        assert_eq!(before.values().expect("mapped"), [1.0, 2.0, 3.0, 4.0, 5.0]);
        assert_eq!(after.values().expect("mapped"), [9.0; 5]);
    });
}
