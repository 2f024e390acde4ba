//! Going on from a finished stage, and tuning ahead.

use super::{Folder, error_of, generate, golden, refused, stderr, succeeds};
use crate::told::Told;
use ancestral::{DeviceChoice, Engine, Error, LoadOptions, Picture, Settings};
use std::fs;
use std::process::{Command, Output};

fn cascade() -> [String; 2] {
    ["if_stage1", "if_stage2"].map(|name| golden(name).to_str().unwrap().to_string())
}

#[test]
fn a_finished_stage_can_be_gone_on_from() {
    let [one, two] = cascade();
    let place = Folder::new();
    let models = ["x", "--model", &one, "--model", &two, "--steps", "2,2"];
    succeeds(&place, &[&models[..], &["--stages", "1", "--output", "low.png"]].concat());
    succeeds(&place, &[&models[..], &["--from", "low.png", "--output", "high.png"]].concat());
    let size = |name: &str| {
        let picture = Picture::open(place.0.join(name)).unwrap();
        (picture.width, picture.height)
    };
    assert!(size("high.png").0 > size("low.png").0);

    let from = |name: &str| place.0.join(name).to_str().unwrap().to_string();
    let with = |more: &[&str], parts: &[&str]| refused(&[&models[..], more].concat(), parts);
    with(&["--from", &from("high.png")], &["to go on from", "the stages before the last make"]);
    with(&["--from", &from("low.png"), "--count", "2"], &["1 pictures to go on from for 2"]);
    with(&["--from", &from("low.png"), "--stages", "1"], &["no stage that enlarges", "--from"]);
    with(&["--from", &from("absent.png")], &["absent.png"]);
    fs::write(place.0.join("broken.png"), b"\x89PNG\r\n\x1a\nand no more").unwrap();
    with(&["--from", &from("broken.png")], &["broken.png", "cannot be read as a PNG"]);
    let ddpm = golden("ddpm");
    refused(&["--model", ddpm.to_str().unwrap(), "--from", &from("low.png")], &["no stage that enlarges"]);
}

/// Where a later stage ends early, the caller has the earlier one's pictures, and goes on from them.
#[test]
fn nothing_finished_is_lost() {
    let options = LoadOptions { device: DeviceChoice::Cpu, ..Default::default() };
    let engine = Engine::load_cascade(&cascade(), &options).unwrap();
    let finished: Told<(usize, Vec<Picture>)> = Told::new();
    let kept = finished.clone();
    let cfg = Settings::new().count(2).steps([2, 2]);
    let stopped = cfg
        .on_stage(move |stage, pictures| kept.push((stage, pictures.to_vec())))
        .on_progress(|progress| progress.stage == 0);
    assert!(matches!(engine.generate("x", stopped), Err(Error::Cancelled)));
    let (stage, pictures) = finished.take().pop().expect("the first stage was finished");
    assert_eq!((stage, pictures.len()), (0, 2));
    let seen = Told::new();
    let told = seen.clone();
    let going_on = Settings::new().count(2).steps([2, 2]).from_pictures(pictures);
    let drawn = engine.generate(
        "x",
        going_on.on_progress(move |p| {
            told.push(p.stage);
            true
        }),
    );
    assert_eq!(drawn.unwrap().len(), 2);
    let seen = seen.take();
    assert!(!seen.is_empty() && seen.iter().all(|stage| *stage == 1), "{seen:?}");
}

fn tune(folder: &Folder, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ancestral"));
    command.current_dir(env!("CARGO_MANIFEST_DIR")).arg("tune").args(args);
    command.env("ANCESTRAL_CACHE_DIR", &folder.0).env_remove("RUST_LOG").output().unwrap()
}

#[test]
fn tuning_is_kept_and_a_bad_file_is_ignored() {
    let folder = Folder::new();
    error_of(&tune(&folder, &["--device", "cpu"]), &["nothing to measure", "ancestral tune --device"]);
    let args = ["--device", "llvmpipe", "--stages", "1"];
    let first = tune(&folder, &args);
    if stderr(&first).contains("no adapter's name holds") {
        let required = std::env::var("ANCESTRAL_REQUIRE_GPU").is_ok_and(|value| value == "1");
        assert!(!required, "{}", stderr(&first));
        return;
    }
    let said = |output: &Output| String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(first.status.success() && !said(&first).starts_with("0 sizes"), "{}", stderr(&first));
    assert!(said(&tune(&folder, &args)).starts_with("0 sizes measured"));
    let file = fs::read_dir(&folder.0).unwrap().map(|e| e.unwrap().path()).find(|p| p.extension().is_some());
    let file = file.expect("a tuning file");
    let good = fs::read_to_string(&file).unwrap();
    let stale = good.replace(env!("CARGO_PKG_VERSION"), "0.0.0");
    let unknown = good.replace("subgroup", "nosuchshader").replace("winograd", "nosuchshader");
    for (bad, word) in
        [("{", "is not a tuning file"), (&stale, "is of another version"), (&unknown, "measured anew")]
    {
        fs::write(&file, bad).unwrap();
        let output = tune(&folder, &args);
        assert!(output.status.success() && stderr(&output).contains(word), "{word}: {}", stderr(&output));
        assert!(!said(&output).starts_with("0 sizes"), "{word}: {}", said(&output));
    }
    // Without a folder to write to it still draws.
    let place = Folder::new();
    let run = generate(&place)
        .args(["a red circle", "--stages", "1", "--steps", "1", "--device", "llvmpipe", "--model"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/models/scenes"))
        .env("ANCESTRAL_CACHE_DIR", "/proc/none")
        .output()
        .unwrap();
    assert!(run.status.success(), "{}", stderr(&run));
}
