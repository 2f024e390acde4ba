//! Scenes with their captions, written.

use super::{Folder, error_of};
use ancestral::Picture;
use serde_json::Value;
use std::fs;
use std::process::{Command, Output};

fn scenes(place: &Folder, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ancestral"));
    command.current_dir(&place.0).arg("scenes").args(args).output().unwrap()
}

#[test]
fn scenes_are_an_image_folder() {
    let place = Folder::new();
    let write = |args: &[&str]| {
        let output = scenes(&place, args);
        assert!(output.status.success(), "{}", super::stderr(&output));
    };
    write(&["--count", "12", "--out", "a", "--seed", "4", "--size", "40"]);
    write(&["--count", "5", "--out", "b/c", "--seed", "4", "--size", "40"]);
    let lines = |folder: &str| -> Vec<Value> {
        let text = fs::read_to_string(place.0.join(folder).join("metadata.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let (all, first) = (lines("a"), lines("b/c"));
    assert_eq!((all.len(), &all[..5]), (12, &first[..]), "the first scenes of a seed are the same");
    for (i, line) in all.iter().enumerate() {
        assert_eq!(line["file_name"], format!("{i:05}.png"));
        assert!(line["text"].as_str().is_some_and(|text| text.len() > 8), "{line}");
        let picture = Picture::open(place.0.join("a").join(line["file_name"].as_str().unwrap())).unwrap();
        assert_eq!((picture.width, picture.height), (40, 40));
    }
    let same = |name: &str| {
        fs::read(place.0.join("a").join(name)).unwrap() == fs::read(place.0.join("b/c").join(name)).unwrap()
    };
    assert!((0..5).all(|i| same(&format!("{i:05}.png"))));
    let refused = |args: &[&str], parts: &[&str]| error_of(&scenes(&place, args), parts);
    fs::write(place.0.join("file"), "no folder").unwrap();
    refused(&["--count", "1", "--out", "file"], &["file", "cannot be written"]);
    refused(&["--count", "1", "--out", "x", "--size", "0"], &["--size"]);
}
