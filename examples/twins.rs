//! Compares the PyTorch files of a folder, those below it too, with the safetensors files of the same names beside them:
//! names, types, shapes and values.
//!
//! ```sh
//! cargo run --release --example twins -- /path/to/checkpoints
//! ```

use ancestral::internals::graph::Repack;
use ancestral::internals::weights::Checkpoint;
use std::error::Error;
use std::path::Path;
use std::time::Instant;

type Outcome = Result<(), Box<dyn Error>>;

fn main() -> Outcome {
    let folder = std::env::args().nth(1).ok_or("give a folder")?;
    walk(Path::new(&folder))
}

fn walk(folder: &Path) -> Outcome {
    let mut files = std::fs::read_dir(folder)?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>, Box<dyn Error>>>()?;
    files.sort();
    for path in files {
        if path.is_dir() {
            walk(&path)?;
        } else if path.extension().is_some_and(|end| end == "pt") {
            let start = Instant::now();
            let file = Checkpoint::open_file(&path)?;
            let (count, time, twin) =
                (file.names().count(), start.elapsed(), path.with_extension("safetensors"));
            if twin.exists() {
                same(&file, &Checkpoint::open_file(&twin)?)?;
            }
            println!("{}: {count} tensors, {time:?}, twin {}", path.display(), twin.exists());
        }
    }
    Ok(())
}

fn same(file: &Checkpoint, twin: &Checkpoint) -> Outcome {
    if !file.names().eq(twin.names()) {
        return Err(format!("{}: other names than its twin's", file.path().display()).into());
    }
    for name in file.names() {
        let alike = file.dtype(name) == twin.dtype(name) && file.shape(name) == twin.shape(name);
        // Integers are not read.
        let values = |of: &Checkpoint| of.read(name, Repack::None).ok();
        let bits =
            |of: &Checkpoint| values(of).map(|all| all.into_iter().map(f32::to_bits).collect::<Vec<_>>());
        if !alike || bits(file) != bits(twin) {
            return Err(format!("{}: `{name}` is not its twin's", file.path().display()).into());
        }
    }
    Ok(())
}
