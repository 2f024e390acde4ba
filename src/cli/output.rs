//! Files, lines, progress bars.

use ancestral::Progress;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::Write;
use std::path::{Path, PathBuf};

/// `picture.png` → `picture-3.png`.
fn numbered(path: &Path, i: usize) -> PathBuf {
    suffixed(path, format!("-{i}"))
}

/// The path with `suffix` before its extension.
pub fn suffixed(path: &Path, suffix: String) -> PathBuf {
    let mut name = path.file_stem().unwrap_or_default().to_os_string();
    name.push(suffix);
    if let Some(extension) = path.extension() {
        name.push(".");
        name.push(extension);
    }
    path.with_file_name(name)
}

/// The files of `count` pictures.
pub fn outputs(path: &Path, count: usize) -> Vec<PathBuf> {
    if count == 1 { vec![path.to_path_buf()] } else { (0..count).map(|i| numbered(path, i)).collect() }
}

/// A line on standard output. Whoever reads it may have gone; that is no reason to fail.
pub fn say(line: impl std::fmt::Display) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// A line on standard error.
pub fn note(line: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// One progress bar per stage.
pub struct Bars {
    quiet: bool,
    current: Option<(usize, ProgressBar)>,
}

impl Bars {
    pub fn new(quiet: bool) -> Self {
        Bars { quiet, current: None }
    }

    pub fn show(&mut self, progress: &Progress<'_>) -> bool {
        // Ticks of a hundredth of a step, so that the bar moves within slow steps too.
        const TICKS: f32 = 100.0;
        if self.quiet {
            return true;
        }
        if self.current.as_ref().is_none_or(|(stage, _)| *stage != progress.stage) {
            let (width, height) = progress.size;
            let bar = ProgressBar::new(progress.steps as u64 * TICKS as u64);
            let template = "{prefix} [{bar:30}] {msg} {elapsed} (left: {eta})";
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style.progress_chars("=> "));
            }
            bar.set_prefix(format!("stage {}/{} {width}x{height}", progress.stage + 1, progress.stages));
            self.current = Some((progress.stage, bar));
        }
        if let Some((_, bar)) = &self.current {
            bar.set_message(format!("step {}/{}", progress.done.floor(), progress.steps));
            bar.set_position((progress.done * TICKS) as u64);
            if progress.done as usize == progress.steps {
                bar.finish();
            }
        }
        true
    }
}
