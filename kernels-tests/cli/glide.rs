//! GLIDE from the command line: folder and files, stages, the tokenizer's tables, inpainting.

use super::{Folder, copy_tree, refused, stderr, succeeds};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const PROMPT: &str = "a red fox stands near the river";

/// The golden's folder: four networks, their options in `config.json`, `tokenizer/`.
fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels-tests/goldens/glide")
}

/// A copy of it with only these networks.
fn with(networks: &[&str]) -> Folder {
    let folder = Folder::new();
    copy_tree(&golden().join("tokenizer"), &folder.0.join("tokenizer"));
    for name in networks.iter().chain(&["config.json"]) {
        fs::copy(golden().join(name), folder.0.join(name)).unwrap();
    }
    folder
}

fn draw(place: &Folder, model: &[&Path], file: &str, more: &[&str]) -> (Vec<u8>, Output) {
    let mut args = vec![PROMPT, "--respacing", "3", "--seed", "4", "--output", file];
    for path in model {
        args.extend(["--model", path.to_str().unwrap()]);
    }
    args.extend(more);
    let output = succeeds(place, &args);
    (fs::read(place.0.join(file)).unwrap(), output)
}

#[test]
fn folders_and_files_draw_the_same() {
    let (place, folder) = (Folder::new(), golden());
    let both = ["--respacing", "fast27"];
    let (one, output) = draw(&place, &[&folder], "one.png", &both);
    let said = stderr(&output);
    for part in ["base: flags of", "upsample: flags of", "base_inpaint: flags of"] {
        assert!(said.contains(part), "{said}");
    }
    let picture = image::open(place.0.join("one.png")).unwrap();
    assert_eq!((picture.width(), picture.height()), (32, 32));
    // In any order, and without the twins.
    let (base, upsample) = (folder.join("base.pt"), folder.join("upsample.pt"));
    let tables = folder.join("tokenizer");
    assert!(tables.is_dir());
    assert_eq!(draw(&place, &[&upsample, &base], "two.png", &both).0, one);
    // What a run is asked for counts.
    for (i, other) in [
        ["--negative-prompt", "a boat"],
        ["--upsample-temp", "0.5"],
        ["--guidance-scale", "5"],
        ["--sampler", "ddpm"],
        ["--size", "48x32"],
    ]
    .iter()
    .enumerate()
    {
        let file = format!("other-{i}.png");
        assert_ne!(draw(&place, &[&folder], &file, &[&both[..], other].concat()).0, one, "{other:?}");
    }
    let (_, output) = draw(&place, &[&base], "base.png", &[]);
    assert!(!stderr(&output).contains("upsample"));
    let small = image::open(place.0.join("base.png")).unwrap();
    assert_eq!((small.width(), small.height()), (16, 16));
    // The upsampler alone goes on from it; its side is a quarter, until a base says otherwise.
    let small = image::imageops::resize(&small.into_rgb8(), 8, 8, image::imageops::FilterType::Nearest);
    small.save(place.0.join("small.png")).unwrap();
    draw(&place, &[&upsample], "large.png", &["--from", "small.png"]);
    let large = image::open(place.0.join("large.png")).unwrap();
    assert_eq!((large.width(), large.height()), (32, 32));
}

#[test]
fn what_is_missing_is_named() {
    let asked = |folder: &Folder, more: &[&str], parts: &[&str]| {
        refused(&[&[PROMPT, "--model", folder.0.to_str().unwrap()], more].concat(), parts)
    };
    let whole = with(&["base.pt", "upsample.pt"]);
    asked(&whole, &["--steps", "1,1,1"], &["3 numbers of steps", "2 stages"]);
    asked(&whole, &["--upsample-temp", "-1"], &["temperature of -1"]);
    asked(&whole, &["--size", "33x32"], &["33x32", "multiples of"]);
    asked(&whole, &["--class", "1"], &["follows a prompt"]);
    asked(&whole, &["--classifier", "x.pt"], &["--classifier", "GLIDE"]);
    asked(&whole, &["--flags", "colour=red"], &["colour", "no such flag", "xf_heads"]);
    let adm = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels-tests/goldens/adm");
    let adm = ["--model", adm.to_str().unwrap(), "--class", "1", "--respacing", "2"];
    refused(&[&adm[..], &["--upsample-temp", "1"]].concat(), &["only GLIDE", "--upsample-temp"]);
    let base = golden().join("base.pt");
    let twice = ["--model", base.to_str().unwrap(), "--model", base.to_str().unwrap()];
    refused(&[&[PROMPT][..], &twice].concat(), &["second network", "base.pt"]);
    let inpainting = with(&["base_inpaint.pt", "upsample_inpaint.pt"]);
    asked(&inpainting, &[], &["inpainting", "ancestral edit", "base.pt"]);
    let enlarging = with(&["upsample.pt"]);
    asked(&enlarging, &[], &["an upsampler enlarges a picture", "--from"]);
    fs::remove_dir_all(whole.0.join("tokenizer")).unwrap();
    asked(&whole, &[], &["encoder.json.gz", "vocab.bpe.gz", "glide_text2im/tokenizer"]);
    let tables = golden().join("tokenizer");
    fs::copy(tables.join("vocab.bpe.gz"), whole.0.join("vocab.bpe.gz")).unwrap();
    asked(&whole, &[], &["holds no encoder.json"]);
    // A smaller vocabulary than the network's.
    let encoder = fs::read_to_string(tables.join("encoder.json")).unwrap();
    fs::write(whole.0.join("encoder.json"), encoder.replace(", \"<|endoftext|>\": 756", "")).unwrap();
    asked(&whole, &[], &["756 tokens", "base.pt has 757"]);
    let bytes = fs::read(golden().join("base.pt")).unwrap();
    fs::write(whole.0.join("base.pt"), &bytes[..bytes.len() / 2]).unwrap();
    asked(&whole, &[], &["base.pt"]);
    fs::write(whole.0.join("base.pt"), b"no checkpoint").unwrap();
    asked(&whole, &[], &["base.pt"]);
}

#[test]
fn without_options_heads_are_missed() {
    let folder = with(&["base.pt"]);
    fs::remove_file(folder.0.join("config.json")).unwrap();
    let model = folder.0.to_str().unwrap();
    refused(&[PROMPT, "--model", model], &["num_head_channels", "64 does not divide 32"]);
    let place = Folder::new();
    let flags = "--num_head_channels 16 --xf_heads 4 --image_size 16";
    let args = [PROMPT, "--model", model, "--flags", flags, "--respacing", "2", "-o", "a.png"];
    let output = succeeds(&place, &args);
    assert!(stderr(&output).contains("no preset (called like base, but"), "{}", stderr(&output));
    let from_flags = fs::read(place.0.join("a.png")).unwrap();
    let golden = golden().join("base.pt");
    succeeds(&place, &[PROMPT, "--model", golden.to_str().unwrap(), "--respacing", "2", "-o", "b.png"]);
    assert_eq!(from_flags, fs::read(place.0.join("b.png")).unwrap());
}

#[test]
fn parts_of_pictures() {
    let place = Folder::new();
    let photo = image::RgbImage::from_fn(40, 30, |x, y| image::Rgb([6 * x as u8, 8 * y as u8, 90]));
    photo.save(place.0.join("photo.png")).unwrap();
    let edit = |folder: &Path, file: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_ancestral"))
            .current_dir(&place.0)
            .args(["edit", "photo.png", PROMPT, "--mask", "10,8,12,10", "--steps", "2,2", "--output", file])
            .args(["--device", "cpu", "--model", folder.to_str().unwrap()])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        let edited = image::open(place.0.join(file)).unwrap().into_rgb8();
        let inside = |x: u32, y: u32| (10..22).contains(&x) && (8..18).contains(&y);
        for (x, y, pixel) in edited.enumerate_pixels() {
            assert!(inside(x, y) || pixel == photo.get_pixel(x, y), "{x}, {y}");
        }
        assert_ne!(edited, photo);
        edited
    };
    let twins = with(&["base_inpaint.pt", "upsample_inpaint.pt"]);
    let all = edit(&golden(), "all.png");
    assert_eq!(all, edit(&twins.0, "twins.png"));
    // Without its twins it keeps what is around by itself.
    let plain = with(&["base.pt", "upsample.pt"]);
    assert_ne!(all, edit(&plain.0, "plain.png"));
}

#[test]
fn plans() {
    let plan = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_ancestral")).arg("plan").args(args).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let golden = golden();
    let text = plan(&[golden.to_str().unwrap(), "--device", "webgpu", "--count", "2"]);
    for part in ["base: 16x16, batch 4 (guided), 100 steps", "upscaler: 32x32, batch 2, 27 steps"] {
        assert!(text.contains(part), "`{part}` is not in: {text}");
    }
}
