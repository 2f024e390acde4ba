//! Requests that must give pictures: odd prompts, seeds, several at once, cascades.

use super::{Folder, golden, stderr, succeeds};
use std::fs;
use std::path::Path;
use std::process::Command;

fn size_of(path: &Path) -> (u32, u32) {
    let picture = image::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).to_rgb8();
    // A sensible picture is not of one colour.
    let first = *picture.get_pixel(0, 0);
    assert!(picture.pixels().any(|pixel| *pixel != first), "{} is of one colour", path.display());
    picture.dimensions()
}

/// The bytes of the picture that `args` give.
#[track_caller]
fn draw(args: &[&str]) -> Vec<u8> {
    let (place, model) = (Folder::new(), golden("if_stage1"));
    let base = ["--model", model.to_str().unwrap(), "--steps", "2", "--size", "16x16", "-o", "out.png"];
    let output = succeeds(&place, &[&base[..], args].concat());
    assert_eq!(String::from_utf8_lossy(&output.stdout), "out.png\n");
    assert_eq!(place.names(), ["out.png"]);
    assert_eq!(size_of(&place.0.join("out.png")), (16, 16));
    fs::read(place.0.join("out.png")).unwrap()
}

#[test]
fn any_prompt() {
    let long = "a red circle, ".repeat(8_000);
    let prompts = [
        "",
        " \t\n ",
        &long[..100_000],
        &"x".repeat(100_000),
        "🦊🏳️‍🌈👩‍👩‍👧‍👦 ﬁ ½ ｆｕｌｌ Å",
        "日本語のプロンプト مرحبا Ελληνικά עברית",
        "\u{202e}\u{200b}\u{feff}e\u{301}\u{301}\u{301}\u{1}\u{7f}\u{10ffff}",
        "</s><pad><unk><extra_id_0>",
        "the history of tax law in eleven volumes",
        "'; DROP TABLE prompts; -- %s %n {} \\",
    ];
    let mut seen = Vec::new();
    for prompt in prompts {
        for clean in [&[][..], &["--clean-caption"]] {
            seen.push(draw(&[&[prompt][..], clean].concat()));
        }
    }
    seen.sort();
    seen.dedup();
    assert!(seen.len() > 8, "only {} different pictures", seen.len());
    draw(&["--negative-prompt", "🦊", "--", "-a prompt that begins with a dash"]);
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    let seed = |n: &str| draw(&["a red circle", "--seed", n]);
    let first = seed("7");
    assert_eq!(first, seed("7"));
    assert_ne!(first, seed("8"));
    assert_eq!(seed("18446744073709551615").len(), seed("18446744073709551615").len());
}

#[test]
fn a_picture_of_several_is_the_picture_of_its_own_seed() {
    let (place, model) = (Folder::new(), golden("if_stage1"));
    let base = ["a red circle", "--model", model.to_str().unwrap(), "--steps", "2", "--size", "16x16"];
    let output = succeeds(&place, &[&base[..], &["--seed", "5", "--count", "3", "-o", "many.png"]].concat());
    assert_eq!(String::from_utf8_lossy(&output.stdout), "many-0.png\nmany-1.png\nmany-2.png\n");
    for i in 0..3 {
        let several = fs::read(place.0.join(format!("many-{i}.png"))).unwrap();
        assert_eq!(several, draw(&["a red circle", "--seed", &(5 + i).to_string()]), "picture {i}");
    }
}

#[test]
fn cascades_and_unconditional_models() {
    let place = Folder::new();
    let (one, two, ddpm) = (golden("if_stage1"), golden("if_stage2"), golden("ddpm"));
    let models = ["x", "--model", one.to_str().unwrap(), "--model", two.to_str().unwrap(), "--steps", "2,2"];
    succeeds(&place, &[&models[..], &["-o", "both.png"]].concat());
    succeeds(&place, &[&models[..], &["-o", "first.png", "--stages", "1"]].concat());
    succeeds(&place, &[&models[..], &["-o", "wide.png", "--size", "48x40"]].concat());
    succeeds(&place, &["--model", ddpm.to_str().unwrap(), "--steps", "2", "-o", "ddpm.png"]);
    let noted = succeeds(&place, &["x", "--model", ddpm.to_str().unwrap(), "--steps", "2", "-o", "ddpm.png"]);
    assert!(stderr(&noted).contains("without a prompt"), "{}", stderr(&noted));
    let side = |name: &str| size_of(&place.0.join(name));
    assert_eq!(
        ["both.png", "first.png", "wide.png", "ddpm.png"].map(side),
        [(32, 32), (16, 16), (48, 40), (16, 16)]
    );
}

#[test]
#[cfg(unix)]
fn a_link_is_followed() {
    let (place, model) = (Folder::new(), golden("if_stage1"));
    fs::create_dir(place.0.join("there")).unwrap();
    fs::write(place.0.join("there/real.png"), "old").unwrap();
    std::os::unix::fs::symlink("there/real.png", place.0.join("out.png")).unwrap();
    succeeds(&place, &["x", "--model", model.to_str().unwrap(), "--steps", "1", "-o", "out.png"]);
    assert!(place.0.join("out.png").is_symlink());
    assert_eq!(size_of(&place.0.join("there/real.png")), (16, 16));
}

#[test]
fn quiet_is_quiet() {
    let (place, model) = (Folder::new(), golden("if_stage1"));
    let output = succeeds(&place, &["x", "--model", model.to_str().unwrap(), "--steps", "1", "--quiet"]);
    assert_eq!(stderr(&output), "");
    assert_eq!(place.names(), ["ancestral.png"]);
}

#[test]
fn help_names_the_options() {
    let help = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_ancestral")).args(args).output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    };
    let text = help(&["generate", "--help"]);
    for option in ["--output", "--seed", "--steps", "--guidance-scale", "--model", "--device", "--count"] {
        assert!(text.contains(option), "{option} is not in: {text}");
    }
    assert!(help(&["--help"]).contains("generate"));
    assert!(help(&["--version"]).contains(env!("CARGO_PKG_VERSION")));
}
