//! What is fuzzed: a file's bytes to the loaders, as a user would meet them. Whatever the bytes, each comes back with a
//! value or an error. `kernels-tests/fuzz.rs` runs the corpora through the same functions.

#[path = "../src/weights/tests/archive.rs"]
mod archive;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use ancestral::internals::diffusion::SchedulerConfig;
use ancestral::internals::graph::Repack;
use ancestral::internals::models::network::DenoisingNetwork;
use ancestral::internals::models::text_unet::TextUNet;
use ancestral::internals::models::{ar_prior, clip, prior, t5, text_proj, unet, unet2d};
use ancestral::internals::pipeline::clip::Preprocessor;
use ancestral::internals::weights::{Checkpoint, read_json};
use ancestral::{DeviceChoice, Engine, LoadOptions};

/// A folder of this process, in memory where the system has such.
static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
    let memory = Path::new("/dev/shm");
    let base = if memory.is_dir() { memory.to_path_buf() } else { std::env::temp_dir() };
    let folder = base.join(format!("ancestral-fuzz-{}", std::process::id()));
    fs::create_dir_all(folder.join("model")).expect("a folder for the inputs");
    folder
});

fn write(name: &str, data: &[u8]) -> PathBuf {
    let path = FOLDER.join(name);
    // The earlier input may still be mapped: a new file, never the old one cut short.
    let _ = fs::remove_file(&path);
    fs::write(&path, data).expect("the input is written");
    path
}

/// Removes the folder of the inputs.
pub fn clean() {
    let _ = fs::remove_dir_all(&*FOLDER);
}

/// A weights file: safetensors or PyTorch's, told by its content. What is listed must be readable.
pub fn checkpoint(data: &[u8]) {
    let Ok(checkpoint) = Checkpoint::open_file(&write("weights", data)) else { return };
    for name in checkpoint.names().take(64) {
        let shape = checkpoint.shape(name).expect("a listed tensor has a shape");
        let count =
            shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).expect("a listed shape has a size");
        if count <= 1 << 16
            && let Ok(values) = checkpoint.read(name, Repack::None)
        {
            assert_eq!(values.len(), count, "{name} has another number of values than its shape says");
        }
    }
}

/// The pickle of a PyTorch file, in a sound archive with two storages.
pub fn pickle(data: &[u8]) {
    let entries =
        [("archive/data.pkl", data), ("archive/data/0", &[0x3c; 64][..]), ("archive/data/1", &[0; 16])];
    checkpoint(&archive::zip(&entries, true));
}

/// A model folder's JSON files; the first byte says which.
pub fn json(data: &[u8]) {
    let Some((&kind, text)) = data.split_first() else { return };
    let config = |name| write(name, text);
    match kind {
        b'u' => {
            let path = config("config.json");
            if let Ok(config) = read_json::<unet::Config>(&path)
                && config.validate(&path).is_ok()
            {
                TextUNet::new(config).smallest();
            }
        }
        b'l' => {
            if let Ok(config) = read_json::<clip::detect::TransformersFile>(&config("config.json")) {
                if let Some(Ok(image)) = config.image() {
                    image.graph();
                }
                if let Some(Ok(text)) = config.text() {
                    text.graph(1, &[0]);
                }
            }
        }
        b'g' => {
            if let Ok(file) = clip::detect::GlideFile::parse(&String::from_utf8_lossy(text)) {
                let _ = file.logit_scale();
            }
        }
        b'd' => {
            let path = config("config.json");
            if let Ok(config) = read_json::<unet2d::Config>(&path)
                && config.validate(&path).is_ok()
            {
                config.smallest();
            }
        }
        b't' => {
            let path = config("config.json");
            if let Ok(config) = read_json::<t5::Config>(&path)
                && config.validate(&path).is_ok()
            {
                t5::graph(&config, 1, 2);
            }
        }
        b'p' => {
            let path = config("config.json");
            if let Ok(config) = read_json::<prior::Config>(&path)
                && config.validate(&path).is_ok()
            {
                config.smallest();
            }
        }
        b'a' => {
            let path = config("config.json");
            if let Ok(config) = read_json::<ar_prior::Config>(&path)
                && config.validate(&path).is_ok()
            {
                config.whole();
                config.prefix_graph(2);
                config.step_graph(2);
            }
        }
        b'e' => {
            let path = config("config.json");
            if let Ok(config) = read_json::<text_proj::Config>(&path)
                && config.validate(&path).is_ok()
            {
                config.graph(1, true, 1);
            }
        }
        b'v' => {
            let _ = Preprocessor::read(&config("preprocessor_config.json"), 32);
        }
        b's' => {
            let path = config("scheduler_config.json");
            if let Ok(scheduler) = SchedulerConfig::read(&path) {
                let _ = scheduler.fits(&path, 3, 6);
                let _ = scheduler.schedule();
            }
        }
        b'i' => {
            let index = config("model/model.safetensors.index.json");
            let _ = Checkpoint::open(&FOLDER.join("model"), "model", None);
            let _ = fs::remove_file(index);
        }
        b'm' | b'c' => {
            let name = if kind == b'm' { "model/model_index.json" } else { "model/cascade.json" };
            let file = config(name);
            let options = LoadOptions { device: DeviceChoice::Cpu, ..LoadOptions::default() };
            let _ = Engine::load(FOLDER.join("model"), &options);
            let _ = fs::remove_file(file);
        }
        _ => {}
    }
}
