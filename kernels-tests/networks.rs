//! Whole networks, recorded from the configs among the goldens, without running them: every tensor is stored as the
//! shaders that read it expect. A mistake there is silent in f32 and wrong in f16.

use crate::shaders::check_storage;
use ancestral::Clip;
use ancestral::internals::graph::{Graph, fuse::fuse};
use ancestral::internals::models::adm::{self, presets};
use ancestral::internals::models::network::DenoisingNetwork;
use ancestral::internals::models::text_unet::TextUNet;
use ancestral::internals::models::{ar_prior, prior, t5, text_proj, unet, unet2d};
use serde::de::DeserializeOwned;
use std::path::Path;

fn config<T: DeserializeOwned>(path: &str) -> T {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels-tests/goldens").join(path);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// As recorded and as fused.
fn check(what: &str, mut graph: Graph) {
    assert!(!graph.nodes.is_empty(), "{what} is empty");
    check_storage(&graph).unwrap_or_else(|error| panic!("{what}: {error}"));
    fuse(&mut graph);
    check_storage(&graph).unwrap_or_else(|error| panic!("{what}, fused: {error}"));
}

#[test]
fn text_encoder() {
    check("T5", t5::graph(&config::<t5::Config>("if_stage1/pipeline/text_encoder/config.json"), 2, 7));
}

#[test]
fn imagen_networks() {
    for stage in ["if_stage1", "if_stage2"] {
        let config: unet::Config = config(&format!("{stage}/pipeline/unet/config.json"));
        check(stage, TextUNet::new(config).smallest());
    }
}

#[test]
fn ddpm_networks() {
    for case in ["ddpm", "ddpm_resnet"] {
        let config: unet2d::Config = config(&format!("{case}/pipeline/unet/config.json"));
        check(case, config.smallest());
    }
}

#[test]
fn unclip_networks() {
    let path = |part: &str| format!("unclip/pipeline/{part}/config.json");
    check("prior", config::<prior::Config>(&path("prior")).smallest());
    let tokens: ar_prior::Config = config("ar_prior/odd/prior_ar/config.json");
    check("prior_ar", tokens.whole());
    check("prior_ar, its prefix", tokens.prefix_graph(2));
    check("prior_ar, a step", tokens.step_graph(4));
    check("text_proj", config::<text_proj::Config>(&path("text_proj")).graph(2, true, 7));
    check("decoder", TextUNet::new(config::<unet::Config>(&path("decoder"))).smallest());
    check("super_res_first", config::<unet2d::Config>(&path("super_res_first")).smallest());
}

#[test]
fn guided_diffusion_networks() {
    for preset in presets::UNETS {
        check(preset.name, preset.flags::<adm::Config>().smallest());
    }
    for preset in presets::CLASSIFIERS {
        check(preset.name, preset.flags::<adm::classifier::Config>().graph());
    }
}

/// Encoders of every layout.
#[test]
fn clip_networks() {
    let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels-tests/goldens");
    for path in ["glide", "sdg/vit.pt", "sdg/resnet.pt", "sdg/transformers", "sdg/sdg.pt"] {
        let clip = Clip::load(goldens.join(path)).unwrap_or_else(|error| panic!("{error}"));
        check(path, clip.image_encoder().expect("a picture encoder").graph());
        if let Some(text) = clip.text_encoder() {
            check(path, text.graph(text.context, &[3, 5]));
        }
    }
}
