//! The program as a person runs it: bad files and bad requests, and the pictures of odd ones. On the CPU device, with
//! the tiny pipelines of the goldens.
//!
//! Every bad input must end in an exit code other than 0 and one `error:` line that names the thing and the remedy;
//! without a panic, a partial file, or a change to an output file that was there before.

mod adm;
mod clip;
mod configs;
mod edit;
mod glide;
mod latents;
mod lora;
mod pictures;
mod plans;
mod requests;
mod scenes;
mod stages;
mod tensors;
mod train;
mod unclip;
mod upsampler;

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};

/// What stands in an output file before each bad run.
const BEFORE: &[u8] = b"the picture of last week";

/// A fresh folder, removed at the end of its test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("ancestral-cli-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    /// The names in the folder, sorted.
    fn names(&self) -> Vec<OsString> {
        let mut names: Vec<_> =
            fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Best effort: a folder left behind in the temporary files harms nobody.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A pipeline of the goldens: `if_stage1`, `if_stage2`, `ddpm`.
fn golden(name: &str) -> PathBuf {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels-tests/goldens").join(name).join("pipeline");
    assert!(path.join("model_index.json").exists(), "the golden {} is missing", path.display());
    path
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (from, to) = (entry.as_ref().unwrap().path(), to.join(entry.as_ref().unwrap().file_name()));
        if from.is_dir() {
            copy_tree(&from, &to);
        } else {
            fs::copy(&from, &to).unwrap();
        }
    }
}

/// A copy of a golden pipeline to break.
fn copy(name: &str) -> Folder {
    let folder = Folder::new();
    copy_tree(&golden(name), &folder.0);
    folder
}

/// `ancestral generate` on the CPU, in `folder`.
fn generate(folder: &Folder) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ancestral"));
    command.current_dir(&folder.0).arg("generate").env_remove("RUST_LOG");
    command
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The one `error:` line of a run that must fail, which must hold `parts`.
#[track_caller]
fn error_of(output: &Output, parts: &[&str]) -> String {
    let stderr = stderr(output);
    assert!(output.status.code().is_some_and(|code| code != 0), "{:?}: {stderr}", output.status);
    assert!(!stderr.contains("panicked") && !stderr.contains("RUST_BACKTRACE"), "{stderr}");
    let errors: Vec<&str> = stderr.lines().filter(|line| line.starts_with("error:")).collect();
    assert_eq!(errors.len(), 1, "one error line is wanted: {stderr}");
    for part in parts {
        assert!(stderr.contains(part), "`{part}` is not in: {stderr}");
    }
    assert!(errors[0].len() < 5_000, "{stderr}");
    errors[0].to_string()
}

/// Runs `generate` with `args` where it must fail: the error line, an output file left as it was, nothing else written.
#[track_caller]
fn refused<S: AsRef<OsStr>>(args: &[S], parts: &[&str]) -> String {
    let place = Folder::new();
    fs::write(place.0.join("out.png"), BEFORE).unwrap();
    let output =
        generate(&place).args(["--device", "cpu", "--output", "out.png"]).args(args).output().unwrap();
    let line = error_of(&output, parts);
    assert_eq!(fs::read(place.0.join("out.png")).unwrap(), BEFORE, "the output was touched: {line}");
    assert_eq!(place.names(), ["out.png"], "something was left behind: {line}");
    line
}

/// [`refused`] for a model folder.
#[track_caller]
fn refused_model(model: &Path, parts: &[&str]) -> String {
    let model = model.to_str().unwrap();
    refused(&["a red circle", "--model", model, "--size", "16x16", "--steps", "2"], parts)
}

/// Runs `generate` with `args` where it must succeed.
#[track_caller]
fn succeeds<S: AsRef<OsStr>>(place: &Folder, args: &[S]) -> Output {
    let output = generate(place).args(["--device", "cpu"]).args(args).output().unwrap();
    assert!(output.status.success(), "{:?}: {}", output.status, stderr(&output));
    output
}

/// The check itself: a good run is not taken for a refusal.
#[test]
#[should_panic(expected = "device: CPU")]
fn a_good_run_is_no_refusal() {
    refused(&["x", "--model", golden("if_stage1").to_str().unwrap(), "--steps", "1"], &[]);
}

/// The binary alone, in a folder of its own with no model anywhere near and no cache, draws the first picture: the default
/// model is a part of it.
#[test]
#[cfg(feature = "bundled")]
fn the_binary_alone_draws() {
    let place = Folder::new();
    let alone = |name: &str| {
        fs::create_dir_all(place.0.join(name)).unwrap();
        place.0.join(name)
    };
    let program = alone("bin").join("ancestral");
    fs::copy(env!("CARGO_BIN_EXE_ancestral"), &program).unwrap();
    let run = |cache: &Path, more: &[&str]| {
        let mut command = Command::new(&program);
        for name in ["ANCESTRAL_MODELS", "ANCESTRAL_CACHE_DIR", "RUST_LOG"] {
            command.env_remove(name);
        }
        command.env("HOME", alone("home")).env("XDG_DATA_HOME", alone("data")).env("XDG_CACHE_HOME", cache);
        command.env("TMPDIR", alone("tmp")).current_dir(alone("here"));
        let picture = place.0.join("here/ancestral.png");
        let _ = fs::remove_file(&picture);
        let args = ["generate", "a red circle", "--device", "cpu"];
        let more = if more.is_empty() { &["--steps", "3,1"] } else { more };
        let output = command.args(args).args(more).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        fs::read(&picture).unwrap()
    };
    let first = run(&alone("cache"), &[]);
    let models = |at: &str| fs::read_dir(place.0.join(at)).map_or(0, |entries| entries.count());
    if cfg!(target_os = "linux") {
        assert_eq!((models("cache/ancestral/models"), models("tmp")), (1, 0), "unpacked into the cache");
    }
    assert_eq!(run(&alone("cache"), &[]), first, "from what was unpacked");
    // The upsampler that it names beside itself is there, too.
    let large = run(&alone("cache"), &["--stages", "3", "--steps", "2,1,1"]);
    assert_eq!(image::load_from_memory(&large).unwrap().width(), 1024);
    // What the folder of models gives.
    let usual = Folder::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_ancestral"));
    command.env("ANCESTRAL_MODELS", root.join("models")).current_dir(&usual.0);
    command.args(["generate", "a red circle", "--steps", "3,1", "--device", "cpu"]);
    assert!(command.output().unwrap().status.success());
    assert_eq!(fs::read(usual.0.join("ancestral.png")).unwrap(), first);
    // Where there can be no cache, among the temporary files.
    fs::write(place.0.join("file"), "no folder").unwrap();
    assert_eq!(run(&place.0.join("file"), &[]), first);
    if cfg!(target_os = "linux") {
        assert_eq!(models("tmp/ancestral/models"), 1);
    }
}

/// The library needs nothing of what the command does.
#[test]
fn the_library_alone_needs_no_command_line() {
    let tree = |features: &[&str]| {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["tree", "--offline", "--edges", "normal", "--prefix", "none"]).args(features);
        let output = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let needs = |tree: &str, name: &str| tree.lines().any(|line| line.split(' ').next() == Some(name));
    let (all, library) = (tree(&[]), tree(&["--no-default-features"]));
    for name in ["clap", "indicatif", "env_logger"] {
        assert!(needs(&all, name) && !needs(&library, name), "{name}");
    }
    assert!(needs(&library, "wgpu"));
}
