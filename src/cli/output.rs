//! Files, lines, progress bars.

use ancestral::{Device, Error, Measuring, Progress, check_output};
use clap::Args;
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

/// Where pictures go, and of which seed they are.
#[derive(Args)]
pub struct Output {
    /// Where the PNG goes; several pictures are numbered NAME-0.png, NAME-1.png, …
    #[arg(id = "output", short, long, value_name = "FILE", default_value = "ancestral.png")]
    pub path: PathBuf,
    /// Seed of the noise: the same seed gives the same picture
    #[arg(short, long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Print nothing but errors
    #[arg(short, long)]
    pub quiet: bool,
}

impl Output {
    /// Refuses outputs that cannot be written, before minutes are spent on them.
    pub fn check(&self, count: usize) -> Result<(), Error> {
        // A count that makes no sense is refused by the engine, after these few.
        outputs(&self.path, count.min(1_000)).iter().try_for_each(|path| check_output(path))
    }

    /// Writes the results to their files, and says where they are and, unless quiet, how long it took since `started`.
    pub fn save<T>(
        &self,
        results: &[T],
        write: impl Fn(&T, &Path) -> Result<(), Error>,
        started: Instant,
    ) -> Result<(), Error> {
        for (result, path) in results.iter().zip(outputs(&self.path, results.len())) {
            write(result, &path)?;
            say(path.display());
        }
        if !self.quiet {
            note(format_args!("took {:.1} s", started.elapsed().as_secs_f64()));
        }
        Ok(())
    }
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

/// Shows a bar while kernels are measured on a device: the first run of a model takes longer for it.
pub fn show_measuring(device: &Device) {
    let Device::Gpu(gpu) = device else { return };
    let mut bar: Option<ProgressBar> = None;
    let show = move |measuring: Measuring<'_>| {
        if measuring.done == measuring.total {
            return bar.take().iter().for_each(ProgressBar::finish_and_clear);
        }
        let bar = bar.get_or_insert_with(|| {
            let bar = ProgressBar::new(0);
            match ProgressStyle::with_template("measuring kernels [{bar:30}] {pos}/{len} {msg}") {
                Ok(style) => bar.with_style(style.progress_chars("=> ")),
                Err(_) => bar,
            }
        });
        bar.set_length(measuring.total as u64);
        bar.set_position(measuring.done as u64);
        bar.set_message(measuring.size.split(' ').next().unwrap_or_default().to_string());
    };
    gpu.on_measuring(Some(Box::new(show)));
}
