//! LoRA by the command.

use super::{Folder, golden, refused, succeeds};
use std::fs;
use std::path::Path;

#[test]
fn a_lora_and_its_scale_are_options() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels-tests/goldens/if_lora/lora.safetensors");
    let (file, model) = (file.to_str().unwrap(), golden("if_stage1"));
    let model = ["a red circle", "--model", model.to_str().unwrap(), "--size", "16x16", "--steps", "2"];
    let place = Folder::new();
    let draw = |loras: &[&str]| {
        let loras: Vec<&str> = loras.iter().flat_map(|lora| ["--lora", lora]).collect();
        succeeds(&place, &[&model[..], &loras, &["--output", "out.png"]].concat());
        fs::read(place.0.join("out.png")).unwrap()
    };
    let (none, whole) = (draw(&[]), draw(&[file]));
    assert_ne!(whole, none);
    let scaled = |scale: &str| format!("{file}:{scale}");
    assert_eq!(draw(&[&scaled("1")]), whole);
    assert_eq!(draw(&[&scaled("0"), &scaled("-0.0")]), none);
    assert_ne!(draw(&[&scaled("0.5")]), whole);
    // The whole may be a file's name.
    fs::copy(file, place.0.join("lora:2")).unwrap();
    assert_eq!(draw(&["lora:2"]), whole);

    refused(&[&model[..], &["--lora", "absent.safetensors:0.5"]].concat(), &["absent.safetensors"]);
    refused(&[&model[..], &["--lora", &scaled("inf")]].concat(), &["--lora", "a scale of inf"]);
    let other = golden("ddpm");
    refused(&["--model", other.to_str().unwrap(), "--lora", file], &["lora.safetensors", "fits nothing in"]);
}
