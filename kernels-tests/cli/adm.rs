//! Guided diffusion from the command line: checkpoints as they are published, flags, classes, guidance.

use super::{Folder, refused, stderr, succeeds};
use std::fs;
use std::path::{Path, PathBuf};

/// The golden's folder: `diffusion.pt`, `classifier.pt`, `upsampler.pt`, and their flags in `config.json`.
fn adm() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels-tests/goldens/adm")
}

/// Flags of `diffusion.pt` that its shapes do not tell.
const FLAGS: &str =
    "--image_size 16 --num_head_channels 16 --use_new_attention_order True --noise_schedule cosine";

#[track_caller]
fn asked(args: &[&str], parts: &[&str]) -> String {
    let model = adm();
    let base = ["--model", model.to_str().unwrap(), "--respacing", "2"];
    refused(&[&base[..], args].concat(), parts)
}

#[test]
fn classes_and_guidance() {
    asked(&[], &["draws a class", "--class", "0"]);
    asked(&["--class", "10"], &["class 10 is out of range", "0 to 9"]);
    asked(&["--class", "tench"], &["no class is called `tench`"]);
    asked(&["--class", "1", "--class", "2", "--count", "1"], &["2 classes for 1 pictures"]);
    asked(&["--class", "1", "--size", "24x24"], &["24x24", "classifier takes 16x16", "--guidance-scale 0"]);
    asked(&["--class", "1", "--guidance-scale", "1,2"], &["2 guidance scales"]);
    asked(&["--class", "1", "--clip", "-1"], &["clipping to -1"]);
    asked(&["--class", "1", "--classifier", "no.pt"], &["no.pt"]);
    let upsampler = adm().join("upsampler.pt");
    asked(
        &["--class", "1", "--classifier", upsampler.to_str().unwrap()],
        &["upsampler.pt", "no network of guided-diffusion"],
    );
    let line = refused(&["a", "--class", "1", "--steps", "1"], &["follows a prompt", "--class"]);
    assert!(!line.contains("panicked"), "{line}");
}

#[test]
fn respacings_and_flags() {
    let model = adm();
    let base = ["--model", model.to_str().unwrap(), "--class", "1"];
    let with = |args: &[&str], parts: &[&str]| refused(&[&base[..], args].concat(), parts);
    with(&["--respacing", "ddim999"], &["ddim999", "no whole stride"]);
    with(&["--respacing", "2000"], &["2000", "cannot give"]);
    with(&["--respacing", "fast"], &["fast"]);
    with(&["--respacing", "2", "--respacing", "2"], &["2 respacings", "1 stage"]);
    with(&["--respacing", "2", "--steps", "2"], &["--respacing", "--steps"]);
    with(&["--flags", "--num_heads"], &["num_heads", "has no value"]);
    with(&["--flags", "--colour red"], &["colour", "there is no such flag"]);
    with(&["--flags", "--num_channels 64"], &["does not fit the model", "time_embed"]);
    with(&["--flags", "a=1", "--flags", "b=2"], &["flags for 2 models, 1 given"]);
    refused(&["a red circle", "--flags", "num_heads=2"], &["--flags", "guided diffusion"]);
}

/// The published way, one file and flags, draws what the folder with its `config.json` does, and says what it took.
#[test]
fn single_files_draw_what_the_folder_draws() {
    let place = Folder::new();
    let (folder, file) = (adm(), adm().join("diffusion.pt"));
    let common = ["--class", "3", "--respacing", "3", "--seed", "5", "--guidance-scale", "1"];
    let from_folder = ["--model", folder.to_str().unwrap(), "-o", "a.png"];
    let output = succeeds(&place, &[&from_folder[..], &common].concat());
    assert!(
        stderr(&output).contains("stage 1: flags of") && stderr(&output).contains("classifier: flags of")
    );
    let classifier = adm().join("classifier.pt");
    let of_classifier = " --classifier_num_head_channels 16";
    let from_file = [
        "--model",
        file.to_str().unwrap(),
        "--flags",
        &format!("{FLAGS}{of_classifier}"),
        "--classifier",
        classifier.to_str().unwrap(),
        "-o",
        "b.png",
    ];
    let output = succeeds(&place, &[&from_file[..], &common].concat());
    assert!(stderr(&output).contains("no preset"), "{}", stderr(&output));
    let read = |name: &str| fs::read(place.0.join(name)).unwrap();
    assert_eq!(read("a.png"), read("b.png"));
    // Guidance, its weight and the class all count.
    for (name, args) in [("c.png", ["3", "0"]), ("d.png", ["3", "8"]), ("e.png", ["4", "1"])] {
        let other = ["--class", args[0], "--guidance-scale", args[1], "--respacing", "3", "--seed", "5"];
        succeeds(&place, &[&["--model", folder.to_str().unwrap(), "-o", name][..], &other].concat());
        assert_ne!(read(name), read("a.png"), "{args:?}");
    }
}

/// A base stage and an upsampler of its size, as files; the upsampler alone goes on from a picture.
#[test]
fn an_upsampler_enlarges() {
    let place = Folder::new();
    let upsampler = adm().join("upsampler.pt");
    let flags = "--large_size 16 --small_size 4 --num_heads 4 --num_head_channels -1";
    let small = image::RgbImage::from_fn(4, 4, |x, y| image::Rgb([60 * x as u8, 60 * y as u8, 128]));
    small.save(place.0.join("small.png")).unwrap();
    let args = ["--model", upsampler.to_str().unwrap(), "--flags", flags, "--class", "2", "--respacing", "2"];
    let output = succeeds(&place, &[&args[..], &["--from", "small.png", "-o", "large.png"]].concat());
    assert!(stderr(&output).contains("stage 1/1 16x16") || stderr(&output).contains("took"));
    let large = image::open(place.0.join("large.png")).unwrap();
    assert_eq!((large.width(), large.height()), (16, 16));
    refused(&args, &["an upsampler enlarges a picture", "--from"]);
    let base = adm().join("diffusion.pt");
    let both = ["--model", base.to_str().unwrap(), "--model", upsampler.to_str().unwrap()];
    let flags = ["--flags", FLAGS, "--flags", flags, "--class", "1"];
    refused(&[&both[..], &flags].concat(), &["enlarges pictures of 4 pixels", "makes 16"]);
    let twice = ["--model", base.to_str().unwrap(), "--model", base.to_str().unwrap()];
    refused(&[&twice[..], &["--flags", FLAGS, "--flags", FLAGS, "--class", "1"]].concat(), &["no upsampler"]);
}
