//! Weights from a file to a device: GB of the device's copy a second, by the file's type, the device's and the layout.
//!
//! `cargo bench --bench loading` measures on the CPU device, or on the adapter that `ANCESTRAL_TEST_DEVICE` names. The file
//! is in the system's cache; a row is the best of several uploads of one tensor by an otherwise empty program.

use ancestral::internals::device::{ProgramOptions, Weights};
use ancestral::internals::graph::{Graph, Storage};
use ancestral::internals::kernels::elementwise::scale;
use ancestral::internals::weights::Checkpoint;
use ancestral::{Device, DeviceChoice, Precision};
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Uploads of which the best counts.
const RUNS: usize = 5;
/// As much as software Vulkan binds in f32.
const ROWS: usize = 8192;
const COLUMNS: usize = 4096;

fn device() -> Device {
    let choice = std::env::var("ANCESTRAL_TEST_DEVICE").map_or(DeviceChoice::Cpu, DeviceChoice::Named);
    Device::open(&choice).expect("the device opens")
}

/// A folder that goes when the bench is done.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A file of one tensor under the shapes of a matrix and of a filter.
fn write(path: &Path, dtype: Dtype, size: usize) {
    let bytes: Vec<u8> = (0..ROWS * COLUMNS * size).map(|i| (i % 251) as u8 & 0x3b).collect();
    let view = |shape: Vec<usize>| TensorView::new(dtype, shape, &bytes).expect("the bytes are the shape's");
    let tensors =
        [("matrix", view(vec![ROWS, COLUMNS])), ("filter", view(vec![ROWS / 4, COLUMNS / 4, 4, 4]))];
    serialize_to_file(tensors, None, path).expect("a file");
}

fn main() {
    let device = device();
    println!("{}", device.name());
    let folder = Folder(std::env::temp_dir().join(format!("ancestral-loading-{}", std::process::id())));
    std::fs::create_dir_all(&folder.0).expect("it can be made");
    let types = [("f16", Dtype::F16, 2), ("f32", Dtype::F32, 4)];
    for (name, dtype, size) in types {
        write(&folder.0.join(name), dtype, size);
    }
    let stored = match &device {
        Device::Gpu(gpu) if gpu.has_f16() => vec![Precision::F16, Precision::F32],
        _ => vec![Precision::F32],
    };
    for (file, ..) in types {
        for &precision in &stored {
            let half = precision.weight_f16;
            for layout in ["as it is", "transposed", "filter"] {
                let bytes = (ROWS * COLUMNS * if half { 2 } else { 4 }) as f64;
                let mut best = f64::INFINITY;
                for _ in 0..RUNS {
                    let checkpoint = Checkpoint::open_file(&folder.0.join(file)).expect("a checkpoint");
                    let weights = Weights::new(checkpoint);
                    let mut g = Graph::new();
                    let x = g.input("x", &[4], Storage::F32);
                    let y = scale(&mut g, &x, 2.0);
                    g.output("y", &y);
                    match layout {
                        "as it is" => drop(g.table("matrix", ROWS, COLUMNS)),
                        "transposed" => drop(g.matrix("matrix", ROWS, COLUMNS)),
                        _ => drop(g.filter("filter", ROWS / 4, COLUMNS / 4, 4)),
                    }
                    let options = ProgramOptions { precision, ..Default::default() };
                    let start = Instant::now();
                    drop(device.program(g, &weights, &options).expect("it fits"));
                    best = best.min(start.elapsed().as_secs_f64());
                }
                let to = if half { "f16" } else { "f32" };
                println!("{file} -> {to}, {layout:<10} {:>6.2} GB/s", bytes / best / 1e9);
            }
        }
    }
}
