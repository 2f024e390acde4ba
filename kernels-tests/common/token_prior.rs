//! A small autoregressive prior of random weights, for pipelines of the goldens that have none.

use ancestral::internals::diffusion::NoiseStream;
use ancestral::internals::models::ar_prior::Config;
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

/// Components that it draws.
pub const COMPONENTS: usize = 9;

/// Puts `prior_ar/` for embeddings of 48 columns and captions of 77 tokens, which the golden `unclip` has, into a
/// pipeline's folder, and its name into the index.
pub fn add_to(folder: &Path) {
    let config = json!({
        "_class_name": "AutoregressivePrior", "num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 16,
        "embedding_dim": 48, "text_states_dim": 48, "max_text_len": 77, "num_components": COMPONENTS,
        "num_buckets": 24, "num_dot_buckets": 8, "dot_default": 5
    });
    let part = folder.join("prior_ar");
    fs::create_dir_all(&part).unwrap();
    fs::write(part.join("config.json"), config.to_string()).unwrap();
    let config: Config = serde_json::from_value(config).unwrap();
    let mut noise = NoiseStream::new(11);
    let mut values = |name: &str, shape: &[usize]| -> Vec<f32> {
        let len = shape.iter().product();
        match name {
            // The first axes of the space.
            "pca_components" => (0..len).map(|i| f32::from(i / shape[1] == i % shape[1])).collect(),
            "bucket_width" | "dot_width" => vec![0.25; len],
            "bucket_low" => vec![-3.0; len],
            _ => {
                let size = 1.0 / shape.last().map_or(1.0, |inner| *inner as f32).sqrt();
                noise.normal(len).iter().map(|v| v * size).collect()
            }
        }
    };
    let mut tensors: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
    for (name, shape) in config.whole().weights() {
        if tensors.iter().all(|(other, ..)| other != name) {
            let bytes = values(name, shape).iter().flat_map(|v| v.to_le_bytes()).collect();
            tensors.push((name.to_string(), shape.to_vec(), bytes));
        }
    }
    let views = tensors
        .iter()
        .map(|(name, shape, bytes)| (name, TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap()));
    serialize_to_file(views, None, &part.join("diffusion_pytorch_model.safetensors")).unwrap();
    let index = folder.join("model_index.json");
    let mut parts: Value = serde_json::from_slice(&fs::read(&index).unwrap()).unwrap();
    parts["prior_ar"] = json!(["ancestral", "AutoregressivePrior"]);
    // Not written over: a copy may be read-only.
    fs::remove_file(&index).unwrap();
    fs::write(&index, parts.to_string()).unwrap();
}
