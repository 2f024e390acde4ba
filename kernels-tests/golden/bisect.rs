//! Both devices node by node: they agree, and a planted difference is named.

use crate::device::on_gpu;
use crate::golden::case::{own_goldens, text};
use crate::golden::scratch::Scratch;
use ancestral::internals::device::Device;
use ancestral::internals::kernels::Precision;
use ancestral::internals::pipeline::{bisect::bisect, ddpm::load_stage};
use ancestral::{DeviceChoice, Engine, LoadOptions};
use safetensors::SafeTensors;

const TOLERANCE: f64 = 1e-9;

#[test]
fn golden_devices_agree_node_by_node() {
    on_gpu(|gpu| {
        for case in ["ddpm", "ddpm_resnet", "if_stage1", "unclip", "unclip_variation"] {
            let options = LoadOptions { device: DeviceChoice::Cpu, ..LoadOptions::default() };
            let engine = Engine::load(own_goldens().join(case).join("pipeline"), &options).expect("it loads");
            for (network, parting) in engine.bisect(gpu, TOLERANCE).expect("both run") {
                assert!(parting.is_none(), "{case}, {network}: the devices part: {parting:?}");
            }
        }
    });
}

/// A copy of a DDPM with one weight changed.
fn spoiled(tensor: &str) -> Scratch {
    let scratch = Scratch::new("bisect").expect("a temporary folder");
    scratch.copy(&own_goldens().join("ddpm/pipeline")).expect("the pipeline copies");
    let path = scratch.path().join("unet/diffusion_pytorch_model.safetensors");
    let mut bytes = std::fs::read(&path).expect("the weights are there");
    let file = SafeTensors::deserialize(&bytes).expect("a sound file");
    let data = file.tensor(tensor).expect("a weight of that name").data();
    let at = data.as_ptr() as usize - bytes.as_ptr() as usize;
    let value = f32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
    bytes[at..at + 4].copy_from_slice(&(value + 0.1).to_le_bytes());
    std::fs::write(&path, bytes).expect("writable");
    scratch
}

fn names_the_node(other: &Device) {
    let ddpm = load_stage(&own_goldens().join("ddpm/pipeline")).expect("it loads");
    let graph = ddpm.network().smallest();
    let len = graph.info(graph.find_input("x").expect("an input")).len();
    let x: Vec<f32> = (0..len).map(|i| (i as f32 * 0.7).sin()).collect();
    let inputs: [(&str, &[f32]); 2] = [("x", &x), ("t", &[321.0])];
    for layer in
        ["conv_in", "mid_block.resnets.0.conv2", "up_blocks.2.resnets.1.conv1", "time_embedding.linear_2"]
    {
        let scratch = spoiled(&format!("{layer}.weight"));
        let wrong = load_stage(scratch.path()).expect("it loads");
        let [right, wrong] = [&ddpm, &wrong].map(|stage| &**stage.networks[0].weights());
        let sides = ((&Device::Cpu, right), (other, wrong));
        let parting = bisect(&graph, &inputs, sides, Precision::F32, TOLERANCE).map_err(text);
        let parting = parting.expect("both run").unwrap_or_else(|| panic!("{layer}: no difference is found"));
        assert!(parting.label.contains(layer), "{layer}: {parting:?} is named");
    }
}

#[test]
fn golden_bisect_names_a_planted_error_cpu() {
    names_the_node(&Device::Cpu);
}

#[test]
fn golden_bisect_names_a_planted_error_gpu() {
    on_gpu(names_the_node);
}
