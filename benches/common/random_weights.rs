//! Checkpoints of random numbers.

use ancestral::internals::graph::Graph;
use half::f16;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Result, Write};
use std::path::Path;

/// Uniform numbers from −1 to 1 (xorshift).
pub fn numbers(seed: u64) -> impl Iterator<Item = f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    })
}

/// Writes a file of f16 weights for what a graph reads, one tensor after another; its tensors' bytes. Each repeats numbers that
/// are drawn once, in chunks that begin at other places.
pub fn random_weights(path: &Path, graph: &Graph) -> Result<u64> {
    const DRAWN: usize = 65_521;
    let shapes: BTreeMap<&str, &[usize]> = graph.weights().collect();
    let (mut header, mut bytes) = (serde_json::Map::new(), 0u64);
    for (name, shape) in &shapes {
        let end = bytes + 2 * shape.iter().product::<usize>() as u64;
        let about = serde_json::json!({ "dtype": "F16", "shape": shape, "data_offsets": [bytes, end] });
        header.insert(name.to_string(), about);
        bytes = end;
    }
    let mut header = serde_json::Value::Object(header).to_string();
    header.extend(std::iter::repeat_n(' ', header.len().next_multiple_of(8) - header.len()));
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    let drawn: Vec<f32> = numbers(1).take(DRAWN).collect();
    for (i, (name, shape)) in shapes.iter().enumerate() {
        // A variance that keeps what flows through; about 1 for norms' factors.
        let inputs = shape[1..].iter().product::<usize>();
        let range = if shape.len() > 1 { (3.0 / inputs as f32).sqrt() } else { 0.1 };
        let mean = if shape.len() > 1 || name.ends_with("bias") { 0.0 } else { 1.0 };
        let values = drawn.iter().flat_map(|v| f16::from_f32(mean + range * v).to_le_bytes());
        let values: Vec<u8> = values.collect();
        let (mut left, mut from) = (2 * shape.iter().product::<usize>(), 2 * (97 * i % DRAWN));
        while left > 0 {
            let chunk = left.min(values.len() - from);
            file.write_all(&values[from..from + chunk])?;
            left -= chunk;
            from = (from + 2 * 7919) % values.len();
        }
    }
    file.flush()?;
    Ok(bytes)
}
