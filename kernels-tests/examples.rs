//! The examples, run: each leaves the files that it says. What they call `main` is for `cargo run --example`.

#[expect(dead_code, reason = "its `main`")]
#[path = "../examples/batch.rs"]
mod batch;
#[expect(dead_code, reason = "its `main`")]
#[path = "../examples/edit.rs"]
mod edit;
#[expect(dead_code, reason = "its `main`")]
#[path = "../examples/generate.rs"]
mod generate;
#[expect(dead_code, reason = "its `main`")]
#[path = "../examples/guidance.rs"]
mod guidance;
#[expect(dead_code, reason = "its `main`")]
#[path = "../examples/progress_and_cancel.rs"]
mod progress_and_cancel;

use ancestral::{Picture, Result};
use std::path::Path;

/// Runs an example in a folder of its own: the pictures it leaves, by name.
fn pictures(name: &str, run: fn(&Path) -> Result<()>) -> Vec<(String, Picture)> {
    let folder = std::env::temp_dir().join(format!("ancestral-example-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    run(&folder).unwrap();
    let mut pictures = Vec::new();
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        pictures
            .push((path.file_name().unwrap().to_str().unwrap().to_string(), Picture::open(&path).unwrap()));
    }
    std::fs::remove_dir_all(folder).unwrap();
    pictures.sort_by(|a, b| a.0.cmp(&b.0));
    pictures
}

fn names(pictures: &[(String, Picture)]) -> Vec<&str> {
    pictures.iter().map(|(name, _)| name.as_str()).collect()
}

/// Mean of blue less mean of red.
fn blueness(picture: &Picture) -> f32 {
    picture.values.chunks_exact(3).map(|pixel| pixel[2] - pixel[0]).sum::<f32>() * 3.0
        / picture.values.len() as f32
}

#[test]
fn generate_draws_a_picture() {
    let pictures = pictures("generate", generate::run);
    assert_eq!(names(&pictures), ["circle.png"]);
    assert_eq!((pictures[0].1.width, pictures[0].1.height), (256, 256));
}

#[test]
fn progress_and_cancel_tells_and_stops() {
    let pictures = pictures("progress", progress_and_cancel::run);
    assert_eq!(names(&pictures), ["heart.png", "so-far-0.png"]);
    assert_eq!([&pictures[0], &pictures[1]].map(|(_, picture)| picture.width), [256, 32]);
}

#[test]
fn guidance_makes_it_blue() {
    let pictures = pictures("guidance", guidance::run);
    assert_eq!(names(&pictures), ["blue.png", "plain.png"]);
    let [blue, plain] = [&pictures[0].1, &pictures[1].1].map(blueness);
    println!("blue less red: {plain:.2}, steered {blue:.2}");
    assert!(blue > plain + 0.3, "{plain} to {blue}");
}

#[test]
fn edit_changes_its_part() {
    let pictures = pictures("edit", edit::run);
    assert_eq!(names(&pictures), ["before.png", "edited.png"]);
    let (before, after) = (&pictures[0].1, &pictures[1].1);
    let mut changed = 0;
    for (i, (a, b)) in before.values.chunks_exact(3).zip(after.values.chunks_exact(3)).enumerate() {
        let inside = (60..180).contains(&(i % 300)) && (50..160).contains(&(i / 300));
        assert!(inside || a == b, "pixel {i} outside");
        changed += usize::from(a != b);
    }
    assert!(changed > 6_000, "{changed} of 13200 pixels");
}

#[test]
fn batch_draws_each_and_again() {
    let pictures = pictures("batch", batch::run);
    let batch = (0..3).map(|i| format!("batch-{i}.png"));
    let expected: Vec<String> =
        (0..6).map(|i| format!("again-{}-{}.png", i / 3, i % 3)).chain(batch).collect();
    assert_eq!(names(&pictures), expected);
    for (i, (name, picture)) in pictures.iter().enumerate() {
        assert!(pictures[i + 1..].iter().all(|(_, other)| other != picture), "{name} is drawn twice");
    }
}
