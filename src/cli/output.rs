//! Files, lines, progress bars.

use ancestral::picture::check_output;
use ancestral::{Error, Progress};
use indicatif::{ProgressBar, ProgressStyle};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

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

/// Refuses outputs that cannot be written, before minutes are spent on them.
pub fn check_outputs(path: &Path, count: usize) -> Result<(), Error> {
    // A count that makes no sense is refused by the engine, after these few.
    outputs(path, count.min(1_000)).iter().try_for_each(|path| check_output(path))
}

/// Writes the results to their files, and says where they are and, unless quiet, how long it took since `started`.
pub fn save<T>(
    results: &[T],
    write: impl Fn(&T, &Path) -> Result<(), Error>,
    path: &Path,
    (quiet, started): (bool, Instant),
) -> Result<(), Error> {
    for (result, path) in results.iter().zip(outputs(path, results.len())) {
        write(result, &path)?;
        say(path.display());
    }
    if !quiet {
        note(format_args!("took {:.1} s", started.elapsed().as_secs_f64()));
    }
    Ok(())
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
        let ticks = (progress.done * TICKS) as u64;
        // A run after another begins again.
        let goes_on =
            |(stage, bar): &(usize, ProgressBar)| *stage == progress.stage && bar.position() <= ticks;
        if !self.current.as_ref().is_some_and(goes_on) {
            let size = match progress.size {
                (1, 1) => "embedding".to_string(),
                (width, height) => format!("{width}x{height}"),
            };
            let bar = ProgressBar::new(progress.steps as u64 * TICKS as u64);
            let template = "{prefix} [{bar:30}] {msg} {elapsed} (left: {eta})";
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style.progress_chars("=> "));
            }
            bar.set_prefix(format!("stage {}/{} {size}", progress.stage + 1, progress.stages));
            self.current = Some((progress.stage, bar));
        }
        if let Some((_, bar)) = &self.current {
            bar.set_message(format!("step {}/{}", progress.done.floor(), progress.steps));
            bar.set_position(ticks);
            if progress.done as usize == progress.steps {
                bar.finish();
            }
        }
        true
    }
}
