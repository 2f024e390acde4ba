//! `ancestral train`: runs that are killed end as those that are not; what is wrong is said.

use super::{Folder, golden};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

fn ancestral() -> Command {
    Command::new(env!("CARGO_BIN_EXE_ancestral"))
}

/// A run of a tiny DDPM on a folder of pictures.
fn train(data: &Path, out: &Path, more: &[&str]) -> Command {
    let mut command = ancestral();
    command.arg("train").arg(golden("ddpm")).args(["--device", "cpu", "--quiet"]);
    command.arg("--data").arg(data).arg("--out").arg(out);
    command.args(["--steps", "12", "--batch", "2", "--save-every", "1", "--flip"]).args(more);
    command
}

fn pictures(folder: &Path) {
    let out = ancestral().args(["scenes", "--count", "5", "--size", "24", "--out"]).arg(folder).output();
    assert!(out.expect("it runs").status.success());
}

fn weights(out: &Path) -> Vec<u8> {
    std::fs::read(out.join("model/unet/diffusion_pytorch_model.safetensors")).expect("a model")
}

/// As many kills as `ANCESTRAL_KILLS` says, or a few: each run goes on from what the one before left.
#[test]
fn killed_runs_end_in_the_same_bits() {
    let scratch = Folder::new();
    let (data, whole, killed) = (scratch.0.join("data"), scratch.0.join("whole"), scratch.0.join("killed"));
    pictures(&data);
    assert!(train(&data, &whole, &[]).status().expect("it runs").success());
    let expected = weights(&whole);
    let log = std::fs::read_to_string(whole.join("loss.csv")).expect("a log");
    let kills = std::env::var("ANCESTRAL_KILLS").map_or(12, |n| n.parse().expect("a number"));
    let (mut random, mut landed, mut ended) = (1u64, 0, 0);
    for _ in 0..kills {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let mut child: Child = train(&data, &killed, &[]).stderr(Stdio::null()).spawn().expect("it runs");
        std::thread::sleep(Duration::from_millis((random >> 33) % 400));
        let done = child.try_wait().expect("a child").is_some();
        child.kill().expect("it can be killed");
        child.wait().expect("it ends");
        landed += usize::from(!done);
        if killed.join("model/unet/diffusion_pytorch_model.safetensors").exists() {
            assert_eq!(weights(&killed), expected, "after {landed} kills");
            ended += 1;
            std::fs::remove_dir_all(&killed).expect("it can be begun anew");
        }
    }
    assert!(landed > 0, "no kill came in time");
    assert!(train(&data, &killed, &[]).status().expect("it runs").success());
    assert_eq!(weights(&killed), expected);
    assert_eq!(std::fs::read_to_string(killed.join("loss.csv")).expect("a log"), log);
    println!("{landed} kills, {ended} runs ended among them");
}

#[test]
fn what_is_wrong_is_said() {
    let scratch = Folder::new();
    let (data, out) = (scratch.0.join("data"), scratch.0.join("out"));
    pictures(&data);
    let said = |data: &Path, more: &[&str]| {
        let output = train(data, &out, more).output().expect("it runs");
        assert!(!output.status.success(), "{more:?} is taken");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let empty = scratch.0.join("empty");
    std::fs::create_dir_all(&empty).expect("a folder");
    assert!(said(&empty, &[]).contains("no picture in it"));
    assert!(said(&scratch.0.join("absent"), &[]).contains("absent"));
    assert!(said(&data, &["--size", "13"]).contains("multiples of"));
    assert!(said(&data, &["--bound"]).contains("variance"));
    assert!(train(&data, &out, &[]).status().expect("it runs").success());
    let said = said(&data, &["--rate", "0.5"]);
    assert!(said.contains("rate 0.0001, not 0.5"), "{said}");
    std::fs::write(data.join("00001.png"), b"no picture").expect("written");
    let other = scratch.0.join("other");
    let broken = train(&data, &other, &[]).output().expect("it runs");
    let said = String::from_utf8_lossy(&broken.stderr);
    assert!(!broken.status.success() && said.contains("00001.png"), "{said}");
}
