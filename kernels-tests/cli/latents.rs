//! `ancestral vary`, `blend`, `morph` and `reconstruct`: files, sheets, and what is refused.

use super::{BEFORE, Folder, error_of, golden, stderr};
use std::fs;
use std::process::{Command, Output};

/// A picture file in `place`.
fn picture(place: &Folder, name: &str, (width, height): (u32, u32), shade: u8) {
    let colour = |x: u32, y: u32| image::Rgb([(x * 7) as u8, (y * 5) as u8, shade]);
    image::RgbImage::from_fn(width, height, colour).save(place.0.join(name)).unwrap();
}

fn place() -> Folder {
    let place = Folder::new();
    picture(&place, "a.png", (37, 50), 90);
    picture(&place, "b.png", (16, 16), 10);
    place
}

fn ancestral(place: &Folder, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ancestral"));
    command.current_dir(&place.0).args(args).args(["--device", "cpu", "-o", "out.png"]);
    if !args.contains(&"--model") {
        command.arg("--model").arg(golden("unclip_variation"));
    }
    command.args(["--denoising-steps", "3,2"]).env_remove("RUST_LOG").output().unwrap()
}

/// The written files, in order, as pictures' sizes.
#[track_caller]
fn written(place: &Folder, args: &[&str]) -> Vec<(String, (u32, u32))> {
    let output = ancestral(place, args);
    assert!(output.status.success(), "{args:?}: {}", stderr(&output));
    let lines = String::from_utf8_lossy(&output.stdout).into_owned();
    let size = |name: &str| image::image_dimensions(place.0.join(name)).unwrap();
    lines.lines().map(|name| (name.to_string(), size(name))).collect()
}

#[track_caller]
fn refused(args: &[&str], parts: &[&str]) {
    let place = place();
    let names = place.names();
    fs::write(place.0.join("out.png"), BEFORE).unwrap();
    let line = error_of(&ancestral(&place, args), parts);
    assert_eq!(fs::read(place.0.join("out.png")).unwrap(), BEFORE, "the output was touched: {line}");
    assert_eq!(place.names().len(), names.len() + 1, "something was left behind: {line}");
}

#[test]
fn each_command_writes_its_pictures() {
    let place = place();
    let read = |name: &str| fs::read(place.0.join(name)).unwrap();
    assert_eq!(written(&place, &["vary", "a.png"]), [("out.png".to_string(), (32, 32))]);
    let new = read("out.png");
    written(&place, &["vary", "a.png", "--layout", "keep", "--count", "2"]);
    let (kept, other) = (read("out-0.png"), read("out-1.png"));
    assert!(kept != new && kept != other);
    written(&place, &["vary", "a.png", "--layout", "keep", "--eta", "0"]);
    let itself = read("out.png");
    assert_ne!(itself, kept);
    let names: Vec<String> =
        written(&place, &["blend", "a.png", "b.png", "--steps", "3"]).into_iter().map(|w| w.0).collect();
    assert_eq!(names, ["out-0.png", "out-1.png", "out-2.png"]);
    // It begins at the picture as the model draws it.
    assert_eq!(read("out-0.png"), itself);
    written(&place, &["vary", "b.png", "--layout", "keep", "--eta", "0"]);
    assert_eq!(read("out-2.png"), read("out.png"));
    // One is the end of the way, several begin at its beginning.
    written(&place, &["morph", "a.png", "a red fox", "a boat", "--strength", "0.5"]);
    let end = read("out.png");
    written(&place, &["morph", "a.png", "a red fox", "a boat", "--strength", "0.5", "--steps", "2"]);
    assert!(read("out-0.png") == itself && read("out-1.png") == end && end != itself);
}

#[test]
fn sheets_hold_all_pictures() {
    let place = place();
    let sheet = |args: &[&str]| written(&place, &[args, &["--sheet", "--stages", "1"]].concat());
    // Seven of 16 pixels in a row, a pixel between them; nine in two rows.
    assert_eq!(sheet(&["blend", "a.png", "b.png"]), [("out.png".to_string(), (7 * 17 - 1, 16))]);
    assert_eq!(sheet(&["vary", "a.png", "--count", "9"]), [("out.png".to_string(), (5 * 17 - 1, 33))]);
    let all = image::open(place.0.join("out.png")).unwrap().to_rgb8();
    assert_eq!(all.get_pixel(16, 5).0, [255; 3]);
    assert_eq!(all.get_pixel(80, 30).0, [255; 3], "what is beyond the last is white");
    written(&place, &["vary", "a.png", "--count", "9", "--stages", "1"]);
    let second = image::open(place.0.join("out-1.png")).unwrap().to_rgb8();
    assert!(second.enumerate_pixels().all(|(x, y, pixel)| all.get_pixel(17 + x, y) == pixel));
}

#[test]
fn what_makes_no_sense_is_refused() {
    let place = place();
    let broken = place.0.join("broken.png");
    fs::write(&broken, b"no picture").unwrap();
    let broken = broken.to_str().unwrap();
    refused(&["vary", "nowhere.png"], &["nowhere.png"]);
    refused(&["vary", broken], &["broken.png", "cannot be read"]);
    refused(&["vary", "a.png", "--count", "0"], &["0 pictures"]);
    refused(&["vary", "a.png", "--eta", "0.5"], &["layout"]);
    refused(&["vary", "a.png", "--layout", "keep", "--eta", "-1"], &["eta of -1"]);
    refused(&["vary", "a.png", "--layout", "keep", "--inversion", "0"], &["0 evaluations"]);
    refused(&["vary", "a.png", "--guidance-scale", "-3"], &["guidance scale of -3"]);
    refused(&["vary", "a.png", "--stages", "3"], &["3 stages"]);
    refused(&["vary", "a.png", "--size", "33x32"], &["33x32"]);
    refused(&["blend", "a.png", "a.png"], &["the same"]);
    refused(&["blend", "a.png", "b.png", "--steps", "1"], &["2 or more"]);
    refused(&["blend", "a.png", "b.png", "--steps", "100000"], &["100000 pictures"]);
    refused(&["morph", "a.png", "a fox", "a boat", "--steps", "99999999999"], &["99999999999 pictures"]);
    refused(&["morph", "a.png", "", "a boat"], &["empty"]);
    refused(&["morph", "a.png", "a boat", "a boat"], &["the same"]);
    refused(&["morph", "a.png", "a fox", "a boat", "--strength", "2"], &["strength of 2"]);
    refused(&["morph", "a.png", "a fox", "a boat", "--steps", "0"], &["0 pictures"]);
    refused(&["reconstruct", "a.png", "--dimensions", "4,16"], &["prior_ar"]);
    // A model without an encoder of pictures, and one that is no unCLIP.
    for (model, part) in [("unclip", "no encoder of pictures"), ("ddpm", "unCLIP")] {
        let model = golden(model);
        for args in
            [&["vary", "a.png"][..], &["blend", "a.png", "b.png"], &["morph", "a.png", "a fox", "a boat"]]
        {
            refused(&[args, &["--model", model.to_str().unwrap()]].concat(), &[part]);
        }
    }
    let all = ["vary", "a.png", "--output", "nowhere/out.png", "--device", "cpu"];
    let mut command = Command::new(env!("CARGO_BIN_EXE_ancestral"));
    let output = command.current_dir(&place.0).args(all).output().unwrap();
    error_of(&output, &["nowhere/out.png", "does not exist"]);
    let mut command = Command::new(env!("CARGO_BIN_EXE_ancestral"));
    let output = command.current_dir(&place.0).args(["vary", "a.png", "--output", "a.png"]).output().unwrap();
    error_of(&output, &["a.png would be written over"]);
}
