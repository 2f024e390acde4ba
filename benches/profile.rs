//! Where the time of a network goes: seconds and GFLOP/s by shader, and the slowest nodes, of the bundled models.
//!
//! `cargo bench --bench profile` measures on the CPU device, or on the adapter that `ANCESTRAL_TEST_DEVICE` names, by its
//! clock where it has one.

use ancestral::internals::device::{Device, DeviceChoice, ProgramOptions};
use ancestral::internals::models::network::Shape;
use ancestral::internals::pipeline::adm::{Classifier, log_probability};
use ancestral::internals::pipeline::guidance::score_graph;
use ancestral::internals::pipeline::imagen::load_stage;
use ancestral::internals::pipeline::stage::At;
use std::path::{Path, PathBuf};

#[path = "common/profile.rs"]
mod common;

use common::profile;

fn models() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models")
}

fn main() {
    let choice = std::env::var("ANCESTRAL_TEST_DEVICE").map_or(DeviceChoice::Cpu, DeviceChoice::Named);
    let device = Device::open(&choice).expect("the device opens");
    println!("{}", device.name());
    let options = ProgramOptions::default();
    for (path, side, guided) in [("stage_1", 32, true), ("stage_2", 256, false)] {
        let stage = load_stage(&models().join("scenes").join(path), None, 20).expect("the bundled model");
        let shape = Shape { guided, dynamic: true, ..stage.shape(1, (side, side), &[], 1.0) };
        let enlarges = stage.network().enlarges().then_some((side / 8, side / 8));
        let at = At { device: &device, options: &options };
        let shape = Shape { enlarges, ..shape };
        let mut denoiser = stage.networks[0].denoiser(at, shape, 1).expect("it fits");
        profile(&format!("scenes {path}, a step"), denoiser.program());
    }
    let folder = models().join("adm-scenes");
    let flags = folder.join("config.json");
    let file = folder.join("classifier.safetensors");
    let classifier = Classifier::load(&file, (Some(&flags), "classifier"), &[]).expect("the bundled model");
    let side = classifier.config.image_size;
    let scalar = log_probability(&classifier.config);
    let graph = score_graph([1, side, side, 3], &*scalar, u64::MAX).expect("a gradient");
    let mut program = device.program(graph, classifier.weights(), &options).expect("it fits");
    profile("adm-scenes classifier and its gradient", &mut program);
}
