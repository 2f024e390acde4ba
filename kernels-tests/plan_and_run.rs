//! What a plan says a run costs against what the run's programs did: dispatch for dispatch, for every system and every
//! kind of request.

use ancestral::cost::Target;
use ancestral::guidance::{Direction, State};
use ancestral::internals::device::ledger::counted;
use ancestral::{
    Bundled, Clip, DeviceChoice, Engine, Latent, LoadOptions, Mask, Picture, PriorKind, Resampling, Settings,
    UnClipSettings,
};
use std::path::{Path, PathBuf};

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

pub fn golden(name: &str) -> PathBuf {
    folder("kernels-tests/goldens").join(name)
}

fn options() -> LoadOptions {
    LoadOptions { device: DeviceChoice::Cpu, ..LoadOptions::default() }
}

/// A picture of slow waves.
pub fn waves(width: usize, height: usize) -> Picture {
    let at = |i: usize| ((i / 3 % width) as f32 / 7.0 + (i / 3 / width) as f32 / 5.0 + i as f32 % 3.0).sin();
    let values = (0..3 * width * height).map(at).collect();
    Picture { width, height, channels: 3, values, rounding: Default::default() }
}

/// Dispatches of every program and how often it runs, sorted.
type Programs = Vec<(usize, usize)>;

/// What a plan says, and what a run did.
fn planned_and_ran(engine: &Engine, prompt: &str, planned: &Settings, run: Settings) -> (Programs, Programs) {
    let plan = engine.plan(prompt, planned, &Target::of(engine.device())).expect("a plan");
    let parts = plan.networks.iter().flat_map(|network| &network.parts);
    let mut said: Programs = parts.map(|part| (part.dispatches, part.runs)).collect();
    let (drawn, ran) = counted(|| engine.generate(prompt, run));
    drawn.expect("pictures");
    let mut found: Programs = ran.iter().map(|ran| (ran.dispatches, ran.runs)).collect();
    said.sort_unstable();
    found.sort_unstable();
    (said, found)
}

/// Compares a plan with a first run of a model that was loaded for it, so that nothing is remembered.
#[track_caller]
fn same(what: &str, load: &dyn Fn() -> Engine, prompt: &str, settings: &dyn Fn(&Engine) -> Settings) {
    let engine = load();
    let asked = settings(&engine);
    let (planned, ran) = planned_and_ran(&engine, prompt, &asked, asked.clone());
    assert!(ran.iter().any(|(dispatches, runs)| dispatches * runs > 100), "{what}: little ran: {ran:?}");
    assert_eq!(ran, planned, "{what}: what ran, and what was planned");
}

/// The comparison sees a step, a guide and a picture that were not planned.
#[test]
fn other_runs_than_planned_are_seen() {
    let engine = imagen();
    let asked = Settings::new().steps([3, 2]);
    let clip = Clip::bundled().expect("the bundled CLIP");
    let guide = clip.guidance(engine.device()).text("a star", 1.0).build().expect("a guidance");
    for run in [asked.clone().steps([3, 3]), asked.clone().guide(1.0, guide), asked.clone().stages(1)] {
        let (planned, ran) = planned_and_ran(&engine, "a star", &asked, run);
        assert_ne!(planned, ran);
    }
}

fn imagen() -> Engine {
    Engine::bundled(&options()).expect("the bundled cascade")
}

fn unclip() -> Engine {
    Engine::bundled_as(Bundled::UnClip, &options()).expect("the bundled unCLIP")
}

fn adm() -> Engine {
    Engine::bundled_as(Bundled::Adm, &options()).expect("the bundled ADM")
}

fn half_mask(width: usize, height: usize) -> Mask {
    Mask::new(width, height, |x, _| 2 * x < width)
}

#[test]
fn a_cascade_s_plan_is_what_it_runs() {
    let steps = |s: Settings| s.steps([3, 2]);
    same("guided", &imagen, "a red circle", &|_| steps(Settings::new()));
    same("unguided, two pictures", &imagen, "a red circle", &|_| {
        steps(Settings::new().guidance_scale(1.0).count(2))
    });
    same("negative prompts", &imagen, "", &|_| {
        steps(Settings::new().prompts(["a star", "a heart"]).negative_prompts(["a ring", "a cross"]))
    });
    same("fewer stages", &imagen, "a star", &|_| Settings::new().stages(1).steps(2));
    same("continued", &imagen, "a star", &|_| steps(Settings::new().from_pictures([waves(32, 32)])));
    same("an optional stage alone", &imagen, "a star", &|_| {
        Settings::new().from_pictures([waves(256, 256)]).steps([("upscaler-2", 1)])
    });
    same("picture to picture", &imagen, "a star", &|_| {
        steps(Settings::new().init([waves(40, 30)]).strength(0.7))
    });
    same("under a mask", &imagen, "a star", &|_| {
        let resampling = Resampling { times: 2, jump: 1 };
        steps(Settings::new().inpaint([waves(64, 64)], half_mask(64, 64)).resampling(resampling))
    });
    same("a closure guides", &imagen, "a star", &|_| {
        let still = |at: &State<'_>| Ok(Direction::Score(vec![0.0; at.x.len()]));
        steps(Settings::new().guide(1.0, still))
    });
    same("CLIP guides", &imagen, "a star", &|engine| {
        let clip = Clip::bundled().expect("the bundled CLIP");
        let guide = clip.guidance(engine.device()).text("a star", 1.0).style(&waves(32, 32), 1.0);
        steps(Settings::new().guide(1.0, guide.build().expect("a guidance")))
    });
    same("text states are given", &imagen, "", &|engine| {
        let states = engine.encode_prompts(&["a star"], false).expect("states");
        // The empty prompt's states are the model's to find.
        steps(Settings::new().prompt_embeds(states, []))
    });
}

#[test]
fn a_cascade_of_published_folders_plans_what_it_runs() {
    let load = || {
        let folders = ["if_stage1/pipeline", "if_stage2/pipeline"].map(golden);
        Engine::load_cascade(&folders, &options()).expect("the cascade")
    };
    same("both stages", &load, "a fox", &|_| Settings::new().steps([2, 2]));
}

#[test]
fn classes_and_classifiers_are_planned() {
    let steps = |s: Settings| s.steps(3);
    same("unconditional", &adm, "", &|_| steps(Settings::new()));
    same("steered", &adm, "", &|_| steps(Settings::new().classes(["red circle"]).guidance_scale(2.0)));
    same("not steered", &adm, "red circle", &|_| steps(Settings::new().guidance_scale(0.0)));
    same("under a mask, steered", &adm, "red circle", &|_| {
        steps(Settings::new().guidance_scale(2.0).inpaint([waves(32, 32)], half_mask(32, 32)))
    });
    let ddpm = || Engine::load(golden("ddpm/pipeline"), &options()).expect("DDPM");
    same("DDPM", &ddpm, "", &|_| steps(Settings::new().count(2)));
    same("DDPM from a picture", &ddpm, "", &|_| steps(Settings::new().init([waves(16, 16)])));
}

#[test]
fn glide_is_planned() {
    let load = || Engine::load(golden("glide"), &options()).expect("GLIDE");
    let spaced = |s: Settings| s.respacing(["4", "fast27"]);
    same("guided", &load, "a vase", &|_| spaced(Settings::new()));
    same("twins under a mask", &load, "a vase", &|_| {
        Settings::new().respacing(["4", "3"]).inpaint([waves(64, 64)], half_mask(64, 64))
    });
    same("the base alone, unguided", &load, "a vase", &|_| {
        spaced(Settings::new().stages(1).guidance_scale(1.0))
    });
}

#[test]
fn unclip_is_planned() {
    let steps = |s: Settings| s.steps([("prior", 3), ("decoder", 3), ("upscaler", 2)]);
    let drawn = |s: Settings| s.steps([3, 2]);
    same("a diffusion prior", &unclip, "a star", &|_| steps(Settings::new()));
    same("candidates", &unclip, "a star", &|_| {
        steps(Settings::new().count(2).system(UnClipSettings { candidates: 2, ..Default::default() }))
    });
    same("an autoregressive prior", &unclip, "a star", &|_| {
        let prior = Some(PriorKind::Autoregressive);
        steps(Settings::new().system(UnClipSettings { prior, ..Default::default() }))
    });
    same("an optional stage", &unclip, "a star", &|_| Settings::new().steps([2, 2, 2, 1]).stages(4));
    same("continued", &unclip, "a star", &|engine| {
        let (width, height) = engine.picture_size("", &Settings::new().stages(2)).expect("a size");
        steps(Settings::new().from_pictures([waves(width, height)]))
    });
    same("a picture's variation", &unclip, "", &|_| drawn(Settings::new().image([waves(50, 40)]).count(2)));
    same("latents", &unclip, "", &|engine| {
        let latents: Vec<Latent> = engine.embed(&[waves(50, 40)]).expect("embeddings");
        drawn(Settings::new().latents(latents))
    });
    same(
        "Karlo's folders",
        &|| Engine::load(golden("unclip/pipeline"), &options()).expect("Karlo"),
        "a frog",
        &|_| Settings::new().steps([3, 2, 3]),
    );
}

#[test]
fn an_upsampler_alone_is_planned() {
    let load = || Engine::load(folder("models/upsampler-scenes"), &options()).expect("the upsampler");
    same("any picture", &load, "", &|_| Settings::new().from_pictures([waves(32, 48)]).steps(2));
}
