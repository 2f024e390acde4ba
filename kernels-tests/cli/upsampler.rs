//! Upsamplers of our layout: alone, after an Imagen and after an unCLIP, where they are asked for, and what is refused.

use super::{Folder, copy, copy_tree, error_of, golden, refused, stderr, succeeds};
use crate::told::Told;
use ancestral::{DeviceChoice, Engine, Error, LoadOptions, Noise, Picture, SeededNoise, Settings};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const PROMPT: &str = "a red fox stands near the river";

fn upsampler() -> PathBuf {
    golden("upsampler")
}

fn imagen() -> [PathBuf; 2] {
    ["if_stage1", "if_stage2"].map(golden)
}

fn load(models: &[PathBuf]) -> Engine {
    let options = LoadOptions { device: DeviceChoice::Cpu, ..Default::default() };
    Engine::load_cascade(models, &options).unwrap()
}

/// Noise of a seed, or what was drawn before; it keeps what it gives.
struct Recorded {
    fresh: SeededNoise,
    given: Vec<Vec<f32>>,
    drawn: Vec<Vec<f32>>,
}

impl Noise for Recorded {
    fn draw(&mut self, pictures: usize, channels: usize, height: usize, width: usize) -> Vec<f32> {
        let next = match self.given.pop() {
            Some(next) => next,
            None => self.fresh.draw(pictures, channels, height, width),
        };
        self.drawn.push(next.clone());
        next
    }

    fn uniform(&mut self, pictures: usize, count: usize) -> Vec<f32> {
        self.fresh.uniform(pictures, count)
    }
}

fn recorded(given: Vec<Vec<f32>>) -> Recorded {
    Recorded { fresh: SeededNoise::new(3, 2), given, drawn: Vec::new() }
}

/// In a cascade it draws what it draws alone of the same pictures and the same noise.
#[test]
fn a_cascades_last_stage_is_the_upsampler_alone() {
    let [one, two] = imagen();
    let cascades = [(vec![one, two], vec![2, 2]), (vec![golden("unclip")], vec![2, 2, 2])];
    for (mut models, steps) in cascades {
        models.push(upsampler());
        let engine = load(&models);
        assert_eq!(engine.stage_names().len(), steps.len() + 1);
        let (finished, seen) = (Told::new(), Told::new());
        let (kept, told) = (finished.clone(), seen.clone());
        let mut noise = recorded(Vec::new());
        let mut cfg = Settings::new().count(2).steps(steps.clone());
        assert_eq!(engine.picture_size(PROMPT, &cfg).unwrap(), (128, 128));
        cfg = cfg.on_stage(move |stage, pictures| kept.push((stage, pictures.to_vec()))).on_progress(
            move |p| {
                told.push((p.stage, p.stages, p.size));
                true
            },
        );
        let pictures = engine.generate_from_noise(PROMPT, &cfg, &mut noise).unwrap();
        let (mut finished, seen) = (finished.take(), seen.take());
        assert_eq!(seen.last(), Some(&(steps.len(), steps.len() + 1, (128, 128))));
        // Every stage but the last is kept; the prior has no picture.
        let stages: Vec<usize> = finished.iter().map(|(stage, _)| *stage).collect();
        assert_eq!(stages, (usize::from(models.len() == 2)..steps.len()).collect::<Vec<_>>());
        let (_, small) = finished.pop().unwrap();
        assert_eq!((small[0].width, pictures[0].width), (32, 128));
        let again = |models: &[PathBuf]| {
            let start = noise.drawn.last().cloned().into_iter().collect();
            let cfg = Settings::new().count(2).from_pictures(small.clone());
            load(models).generate_from_noise(PROMPT, &cfg, &mut recorded(start)).unwrap()
        };
        for models in [&models[..], &[upsampler()]] {
            let found = again(models);
            assert!(found.iter().zip(&pictures).all(|(a, b)| a.values == b.values), "{models:?}");
        }
    }
}

fn picture(place: &Folder, name: &str, width: u32, height: u32) -> String {
    let colour = |x: u32, y: u32| image::Rgb([(x * 7) as u8, (y * 5) as u8, 90]);
    let path = place.0.join(name);
    image::RgbImage::from_fn(width, height, colour).save(&path).unwrap();
    path.to_str().unwrap().to_string()
}

fn size(place: &Folder, name: &str) -> (u32, u32) {
    let picture = image::open(place.0.join(name)).unwrap();
    (picture.width(), picture.height())
}

#[test]
fn alone_it_enlarges_pictures_of_any_size() {
    let (place, folder) = (Folder::new(), upsampler());
    let model = folder.to_str().unwrap();
    let small = picture(&place, "small.png", 21, 10);
    succeeds(&place, &["--model", model, "--from", &small, "--output", "large.png"]);
    assert_eq!(size(&place, "large.png"), (84, 40));
    // Twice, one after the other.
    let twice = ["--model", model, "--model", model, "--steps", "1,2", "--from", &small];
    succeeds(&place, &[&twice[..], &["--output", "larger.png"]].concat());
    assert_eq!(size(&place, "larger.png"), (336, 160));
    succeeds(&place, &[&twice[..], &["--stages", "1", "--output", "once.png"]].concat());
    assert_eq!(size(&place, "once.png"), (84, 40));
    let asked = |args: &[&str], parts: &[&str]| refused(&[&["--model", model], args].concat(), parts);
    asked(&[], &["an upsampler enlarges a picture", "--from"]);
    asked(&["--from", &small, "--count", "2"], &["1 pictures to go on from for 2"]);
    asked(&["--from", &small, "--size", "80x40"], &["21x10 pixels to go on from", "20x10"]);
    asked(&["--from", &small, "--steps", "2,2"], &["2 numbers of steps", "1 stage"]);
    asked(&["--from", &small, "--stages", "2"], &["2 stages"]);
    let many: Vec<&str> = std::iter::repeat_n(["--model", model], 5).flatten().collect();
    refused(&[&many[..], &["--from", &small]].concat(), &["a side may have 1 to 8192"]);
    let many: Vec<&str> = std::iter::repeat_n(["--model", model], 9).flatten().collect();
    refused(&[&many[..], &["--from", &small]].concat(), &["9 upsamplers; give at most 8"]);
}

/// There is no picture to give to `tune`; it needs none.
#[test]
fn alone_it_is_tuned() {
    let folder = Folder::new();
    let mut command = Command::new(env!("CARGO_BIN_EXE_ancestral"));
    command.args(["tune", "--device", "llvmpipe", "--size", "32x16", "--model"]).arg(upsampler());
    let output = command.env("ANCESTRAL_CACHE_DIR", &folder.0).env_remove("RUST_LOG").output().unwrap();
    if stderr(&output).contains("no adapter's name holds") {
        let required = std::env::var("ANCESTRAL_REQUIRE_GPU").is_ok_and(|value| value == "1");
        assert!(!required, "{}", stderr(&output));
        return;
    }
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && said.contains("sizes measured"), "{said}{}", stderr(&output));
}

/// A network with more levels needs more of a size than four pixels.
#[test]
fn sizes_that_do_not_fit_are_refused() {
    let [one, two] = imagen();
    let place = Folder::new();
    let small = picture(&place, "small.png", 21, 10);
    let names: Vec<&str> =
        [&one, &two, &upsampler()].map(|path| path.to_str().unwrap().to_string().leak() as &str).into();
    let cascade: Vec<&str> = names.iter().flat_map(|name| ["--model", *name]).collect();
    let asked = |args: &[&str], parts: &[&str]| refused(&[&[PROMPT], &cascade[..], args].concat(), parts);
    asked(&["--size", "100x128"], &["100x128", "multiples of"]);
    asked(&["--from", &small], &["21x10 pixels to go on from", "or 32x32"]);
    asked(&["--stages", "4"], &["4 stages", "3"]);
    asked(&["--steps", "1,1,1,1"], &["4 numbers of steps", "3 stages"]);
    // Order.
    let (up, one) = (names[2], names[0]);
    refused(&[PROMPT, "--model", up, "--model", one], &["upsamplers are the last stages"]);
    let ddpm = golden("ddpm");
    refused(&["--model", ddpm.to_str().unwrap(), "--model", up], &["DDPMPipeline", "run alone"]);
}

fn change(path: &Path, key: &str, value: Value) {
    let mut json: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    json[key] = value;
    fs::remove_file(path).unwrap();
    fs::write(path, json.to_string()).unwrap();
}

/// An optional upsampler runs where it is asked for: by the number of stages, or by a picture that only it enlarges.
#[test]
fn optional_ones_wait_to_be_asked() {
    let all = Folder::new();
    let [one, two] = imagen();
    for (from, to) in [(&one, "scenes/one"), (&two, "scenes/two"), (&upsampler(), "up")] {
        copy_tree(from, &all.0.join(to));
    }
    let stages = json!({"stages": [
        {"path": "one", "steps": 2}, {"path": "two", "steps": 2},
        {"path": "../up", "steps": 2, "sampler": "ddim", "optional": true}
    ]});
    fs::write(all.0.join("scenes/cascade.json"), stages.to_string()).unwrap();
    copy_tree(&golden("unclip"), &all.0.join("unclip"));
    change(&all.0.join("unclip/model_index.json"), "upsampler", json!("../up"));
    for (model, few, count) in [("scenes", "2,2,2", "3"), ("unclip", "2,2,2,2", "4")] {
        let run =
            |args: &[&str]| succeeds(&all, &[&[PROMPT, "--model", model, "--steps", few], args].concat());
        run(&["--output", "usual.png"]);
        assert_eq!(size(&all, "usual.png"), (32, 32));
        run(&["--stages", count, "--output", "all.png"]);
        assert_eq!(size(&all, "all.png"), (128, 128));
        let gone_on = stderr(&run(&["--from", "usual.png", "--output", "on.png"]));
        assert_eq!(size(&all, "on.png"), (128, 128), "{gone_on}");
        // One that is named takes its place, and runs.
        run(&["--model", "up", "--output", "named.png"]);
        assert_eq!(fs::read(all.0.join("named.png")).unwrap(), fs::read(all.0.join("all.png")).unwrap());
    }
    // What it plans is what it runs.
    let plan = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ancestral"));
        let output =
            command.current_dir(&all.0).arg("plan").args(args).env_remove("RUST_LOG").output().unwrap();
        (String::from_utf8_lossy(&output.stdout).into_owned(), output)
    };
    for (args, there) in [
        (&["scenes", "--device", "webgpu"][..], false),
        (&["scenes", "--device", "webgpu", "--stages", "3"], true),
        (&["unclip", "up", "--device", "webgpu"], true),
        (&["up", "--device", "webgpu"], false),
    ] {
        let (text, output) = plan(args);
        assert_eq!(
            text.contains("upscaler-2: 128x128, batch 1"),
            there,
            "{args:?}: {text}{}",
            stderr(&output)
        );
    }
    assert!(plan(&["up", "--device", "webgpu"]).0.contains("upscaler: 64x64, batch 1, 3 steps"));
    assert!(plan(&["up", "--device", "webgpu", "--size", "1024x1024"]).0.contains("upscaler: 1024x1024"));
    error_of(&plan(&["up", "--size", "1022x1024"]).1, &["1022x1024", "multiples of 4"]);
}

#[test]
fn files_that_make_no_sense() {
    let (place, png) = (Folder::new(), Folder::new());
    let small = picture(&png, "small.png", 8, 8);
    for (file, key, value, part) in [
        ("model_index.json", "num_inference_steps", json!(0), "0 steps"),
        ("model_index.json", "num_inference_steps", json!("few"), "invalid type"),
        ("model_index.json", "scale", json!(1), "give 2 to 16"),
        ("model_index.json", "scale", json!(1_000_000), "give 2 to 16"),
        ("model_index.json", "_class_name", json!("ancestral.Upscaler"), "ancestral.Upsampler"),
        ("config.json", "in_channels", json!(3), "takes 6"),
        ("config.json", "block_out_channels", json!([8, 16]), "entries for 2 levels"),
        ("config.json", "block_out_channels", json!([8, 8, 32]), "expected shape"),
        ("config.json", "out_channels", json!(6), "6"),
        ("config.json", "sample_size", json!(1_000_000), "out of range"),
        ("scheduler/scheduler_config.json", "prediction_type", json!("flow"), "flow"),
    ] {
        let folder = Folder::new();
        copy_tree(&upsampler(), &folder.0);
        change(&folder.0.join(file), key, value.clone());
        refused(&["--model", folder.0.to_str().unwrap(), "--from", &small], &[part]);
    }
    for part in ["config.json", "diffusion_pytorch_model.safetensors", "scheduler/scheduler_config.json"] {
        let folder = Folder::new();
        copy_tree(&upsampler(), &folder.0);
        fs::remove_file(folder.0.join(part)).unwrap();
        refused(&["--model", folder.0.to_str().unwrap(), "--from", &small], &[part]);
    }
    let folder = Folder::new();
    copy_tree(&upsampler(), &folder.0);
    let weights = folder.0.join("diffusion_pytorch_model.safetensors");
    let bytes = fs::read(&weights).unwrap();
    fs::remove_file(&weights).unwrap();
    fs::write(&weights, &bytes[..bytes.len() / 2]).unwrap();
    refused(&["--model", folder.0.to_str().unwrap(), "--from", &small], &["diffusion_pytorch_model"]);
    // In a cascade.
    copy_tree(&golden("if_stage1"), &place.0.join("one"));
    copy_tree(&upsampler(), &place.0.join("up"));
    for (stages, part) in [
        (json!([{"path": "up"}]), "upsamplers only"),
        (json!([{"path": "one"}, {"path": "up"}, {"path": "one"}]), "upsamplers are the last stages"),
        (json!([{"path": "one"}, {"path": "up", "guidance_scale": 2.0}]), "unguided"),
        (json!([{"path": "one"}, {"path": "up", "noise_level": 20}]), "unguided"),
        (json!([{"path": "one"}, {"path": "up", "steps": 0}]), "0 steps"),
        (
            json!([{"path": "one"}, {"path": "up", "optional": true}, {"path": "up"}]),
            "is not optional itself",
        ),
    ] {
        fs::write(place.0.join("cascade.json"), json!({ "stages": stages }).to_string()).unwrap();
        refused(&[PROMPT, "--model", place.0.to_str().unwrap()], &[part]);
    }
    let folder = copy("unclip");
    for (name, part) in
        [("../../up", "neither inside"), ("prior", "PriorTransformer"), ("nowhere", "nowhere")]
    {
        change(&folder.0.join("model_index.json"), "upsampler", json!(name));
        refused(&[PROMPT, "--model", folder.0.to_str().unwrap()], &[part]);
    }
}

/// Nothing that is finished is lost where the upsampler ends early.
#[test]
fn finished_stages_are_kept() {
    let engine = load(&[golden("unclip"), upsampler()]);
    let finished = Told::new();
    let kept = finished.clone();
    let cfg = Settings::new().steps([2, 2, 2]);
    let stopped = cfg.on_stage(move |stage, pictures: &[Picture]| kept.push((stage, pictures[0].width)));
    let stopped = engine.generate(PROMPT, stopped.on_progress(|progress| progress.stage < 3));
    assert!(matches!(stopped, Err(Error::Cancelled)));
    assert_eq!(finished.take(), [(1, 16), (2, 32)]);
}
