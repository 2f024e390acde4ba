//! Tests, or parts of them, that are skipped: said and counted.

use std::io::Write;

/// Names a file that gets a line for each test, or part of one, that is skipped.
const SKIPPED: &str = "ANCESTRAL_SKIPPED";

/// Prints past the test runner's capture.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Says that the present test, or part of it, is skipped, and counts it.
pub fn skip(why: &str) {
    let thread = std::thread::current();
    let line = format!("skipped: {}: {why}", thread.name().unwrap_or("a test"));
    say(&line);
    if let Some(path) = std::env::var_os(SKIPPED) {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&path);
        // One write, so that lines of several processes stay whole.
        let written = file.and_then(|mut file| file.write_all(format!("{line}\n").as_bytes()));
        written.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}
