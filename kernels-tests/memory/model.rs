//! A model of DeepFloyd's layout: T5-XXL's widths with two blocks, and two blocks of IF-I-XL's first width; numbers of no
//! meaning.

use ancestral::internals::models::network::DenoisingNetwork;
use ancestral::internals::models::text_unet::TextUNet;
use ancestral::internals::models::{t5, unet};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// Numbers that repeat in all tensors; a prime.
const NUMBERS: usize = 65_537;

/// A folder with its files, which goes when it is dropped.
pub struct Model(PathBuf);

impl Drop for Model {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Model {
    /// Writes it.
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("ancestral-memory-{}-{number}", std::process::id());
        let model = Model(std::env::temp_dir().join(name));
        let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels-tests/goldens");
        let golden = goldens.join("if_stage1/pipeline");
        model.copy(&golden, &["model_index.json", "scheduler/scheduler_config.json"]);
        for name in ["spiece.model", "added_tokens.json", "special_tokens_map.json", "tokenizer_config.json"]
        {
            model.copy(&golden, &[&format!("tokenizer/{name}")]);
        }
        let mut text = read(&golden.join("text_encoder/config.json"));
        for (key, value) in
            [("d_model", 4096), ("d_ff", 10240), ("num_heads", 64), ("d_kv", 64), ("num_layers", 2)]
        {
            text[key] = json!(value);
        }
        let config: t5::Config = model.write_config("text_encoder", &text);
        model.write_tensors("text_encoder/model.safetensors", t5::graph(&config, 1, 2).weights());
        let mut picture = read(&goldens.join("layouts/IF-I-XL.config.json"));
        for (key, value) in [
            ("sample_size", json!(16)),
            ("layers_per_block", json!(1)),
            ("block_out_channels", json!([704, 704])),
            ("cross_attention_dim", json!(704)),
            ("down_block_types", json!(["ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"])),
            ("up_block_types", json!(["SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"])),
        ] {
            picture[key] = value;
        }
        let config: unet::Config = model.write_config("unet", &picture);
        let graph = TextUNet::new(config).smallest();
        model.write_tensors("unet/diffusion_pytorch_model.safetensors", graph.weights());
        model
    }

    /// Where it lies.
    pub fn folder(&self) -> &Path {
        &self.0
    }

    fn path(&self, name: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("it can be made");
        path
    }

    fn copy(&self, from: &Path, names: &[&str]) {
        for name in names {
            fs::copy(from.join(name), self.path(name)).expect("it is there");
        }
    }

    fn write_config<C: serde::de::DeserializeOwned>(&self, part: &str, config: &Value) -> C {
        fs::write(self.path(&format!("{part}/config.json")), config.to_string()).expect("it can be written");
        serde_json::from_value(config.clone()).expect("a config")
    }

    /// A file of f16 tensors: matrices of small numbers, norms of ones.
    fn write_tensors<'g>(&self, name: &str, weights: impl Iterator<Item = (&'g str, &'g [usize])>) {
        let tensors: BTreeMap<&str, &[usize]> = weights.collect();
        let (mut header, mut end) = (Map::new(), 0);
        for (name, shape) in &tensors {
            let begin = end;
            end += 2 * shape.iter().product::<usize>();
            let about = json!({ "dtype": "F16", "shape": shape, "data_offsets": [begin, end] });
            header.insert((*name).into(), about);
        }
        let mut header = Value::Object(header).to_string();
        header.push_str(&" ".repeat(header.len().next_multiple_of(8) - header.len()));
        let mut file = BufWriter::new(File::create(self.path(name)).expect("it can be made"));
        file.write_all(&(header.len() as u64).to_le_bytes()).expect("room");
        file.write_all(header.as_bytes()).expect("room");
        let numbers = numbers();
        for (i, (name, shape)) in tensors.iter().enumerate() {
            let mut rest = 2 * shape.iter().product::<usize>();
            if shape.len() == 1 && name.ends_with("weight") {
                let ones = [0x00, 0x3c].repeat(rest / 2);
                file.write_all(&ones).expect("room");
                continue;
            }
            let mut at = 2 * (i * 7919 % NUMBERS);
            while rest > 0 {
                let piece = &numbers[at..numbers.len().min(at + rest)];
                file.write_all(piece).expect("room");
                (rest, at) = (rest - piece.len(), 0);
            }
        }
        file.flush().expect("room");
    }
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).expect("it is there")).expect("JSON")
}

/// Numbers below 1/32 in f16, evenly spread, as bytes.
fn numbers() -> Vec<u8> {
    let mut state = 1u32;
    let number = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let sign = (state >> 16 & 1) << 15;
        // An exponent of -9 to -6 and any fraction.
        let bits = sign | (6 + (state >> 17 & 3)) << 10 | state >> 22;
        (bits as u16).to_le_bytes()
    };
    (0..NUMBERS).flat_map(number).collect()
}
