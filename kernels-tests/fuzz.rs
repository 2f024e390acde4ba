//! The fuzz targets' corpora (`fuzz/corpus`) through the loaders they fuzz: no panic, in every test run.

#[path = "../fuzz/loaders.rs"]
mod loaders;

use std::fs;
use std::path::Path;

fn replay(target: &str, run: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut count = 0;
    for entry in fs::read_dir(&folder).unwrap() {
        let bytes = fs::read(entry.unwrap().path()).unwrap();
        run(&bytes);
        // Cut short, and with a byte changed, too.
        run(&bytes[..bytes.len() / 2]);
        let mut other = bytes;
        if let Some(byte) = other.last_mut() {
            *byte ^= 0x20;
        }
        run(&other);
        count += 1;
    }
    assert!(count > 0, "{} is empty", folder.display());
}

#[test]
fn corpora() {
    // One after the other: the targets write their inputs to the same place.
    replay("checkpoint", loaders::checkpoint);
    replay("pickle", loaders::pickle);
    replay("json", loaders::json);
    loaders::clean();
}
