//! Requests that make no sense, outputs that cannot be written.

use super::{BEFORE, Folder, error_of, generate, golden, refused, refused_model, stderr, succeeds};
use std::fs;

/// Arguments after a good model.
#[track_caller]
fn asked(args: &[&str], parts: &[&str]) -> String {
    let model = golden("if_stage1");
    let base = ["a red circle", "--model", model.to_str().unwrap()];
    refused(&[&base[..], args].concat(), parts)
}

#[test]
fn numbers() {
    asked(&["--steps", "0"], &["0 steps", "1 or more"]);
    asked(&["--steps", "1001"], &["1001", "1 to 1000"]);
    asked(&["--steps", "1000000000000000000000"], &["--steps", "number too large"]);
    asked(&["--steps", "many"], &["--steps", "invalid digit"]);
    asked(&["--steps", "-3"], &["--steps", "invalid digit"]);
    asked(&["--size", "0x0"], &["0x0", "--size"]);
    asked(&["--size", "1000000x1000000"], &["1000000x1000000", "--size"]);
    asked(&["--size", "8192x8192", "--count", "2"], &["8192x8192", "--count"]);
    asked(&["--size", "17x16"], &["17x16", "multiples of 4"]);
    asked(&["--size", "16x16x16"], &["WIDTHxHEIGHT"]);
    asked(&["--size", "99999999999999999999x1"], &["not a number"]);
    asked(&["--count", "0"], &["0 pictures", "give 1 to 256"]);
    asked(&["--count", "1000000000000"], &["1000000000000 pictures", "give 1 to 256"]);
    asked(&["--guidance-scale", "NaN"], &["guidance scale of NaN", "1 is none"]);
    asked(&["--guidance-scale", "inf"], &["guidance scale of inf"]);
    asked(&["--guidance-scale", "-1"], &["guidance scale of -1"]);
    asked(&["--steps", "2,2"], &["2 numbers of steps", "this model has 1 stage"]);
    asked(&["--guidance-scale", "2,2"], &["2 guidance scales", "this model has 1 stage"]);
    asked(&["--stages", "0"], &["0 stages", "this model has 1"]);
    asked(&["--stages", "2"], &["2 stages", "this model has 1"]);
    asked(&["--thresholding", "NaN,1"], &["quantile", "NaN"]);
    asked(&["--thresholding", "0.5"], &["largest threshold"]);
    asked(&["--sampler", "fastest"], &["fastest", "ddpm, ddim", "dpmsolver++", "unipc"]);
    asked(&["--sampler", "ddim", "--eta", "NaN"], &["eta", "0 to 1"]);
    asked(&["--seed", "-1"], &["--seed"]);
    asked(&["--variant", "int4"], &["int4", "ask for no variant"]);
    asked(&["--colour", "red"], &["--colour"]);
}

#[test]
fn a_later_stage_is_checked_before_the_first_runs() {
    let (one, two) = (golden("if_stage1"), golden("if_stage2"));
    let models = ["x", "--model", one.to_str().unwrap(), "--model", two.to_str().unwrap()];
    let line = refused(&[&models[..], &["--steps", "2,2000"]].concat(), &["2000", "1 to 1000"]);
    assert!(!line.contains("panicked"));
    refused(&[&models[..], &["--size", "36x40"]].concat(), &["36x40", "multiples of 8"]);
    refused(&[&models[..], &["--stages", "3"]].concat(), &["this model has 2"]);
}

#[test]
fn devices_and_models() {
    let place = Folder::new();
    let model = golden("if_stage1");
    let output =
        generate(&place).args(["x", "--device", "nosuchgpu", "--model"]).arg(model).output().unwrap();
    error_of(&output, &["no adapter's name holds `nosuchgpu`", "--device"]);
    assert!(place.names().is_empty());
    refused_model(
        &place.0.join("absent"),
        &["absent", "does not exist", "give the folder of a model", "64x64_diffusion.pt"],
    );
    refused_model(&place.0, &["holds no model_index.json", "give the root folder of a model"]);
    fs::write(place.0.join("file"), "x").unwrap();
    refused_model(&place.0.join("file"), &["file", "no safetensors file"]);
    fs::write(place.0.join("model_index.json"), r#"{"_class_name": "FluxPipeline"}"#).unwrap();
    refused_model(&place.0, &["`FluxPipeline`", "IFPipeline"]);
    refused_model(&golden("if_stage2"), &["super-resolution stage", "--model BASE --model THIS"]);
    let (one, ddpm) = (golden("if_stage1"), golden("ddpm"));
    let [one, ddpm] = [one.to_str().unwrap(), ddpm.to_str().unwrap()];
    refused(&["x", "--model", one, "--model", one], &["only super-resolution stages may follow"]);
    refused(&["x", "--model", one, "--model", ddpm], &["`DDPMPipeline`"]);
    refused(&["x", "--model", one, "--model", "absent"], &["absent", "does not exist"]);
    refused(&["--model", one], &["prompt", "ancestral generate"]);
    refused(&["--model", ddpm, "--stages", "2"], &["2 stages"]);
    refused(&["--model", ddpm, "--size", "18x16"], &["multiples of 4"]);
}

/// Runs a good request with an `--output` that cannot be written.
#[track_caller]
fn unwritable(place: &Folder, output: &str, parts: &[&str]) {
    let model = golden("if_stage1");
    let mut command = generate(place);
    command.args([
        "x",
        "--device",
        "cpu",
        "--steps",
        "1",
        "--model",
        model.to_str().unwrap(),
        "--output",
        output,
    ]);
    let before = place.names();
    error_of(&command.output().unwrap(), parts);
    assert_eq!(place.names(), before, "something was left behind");
}

#[test]
fn outputs() {
    let place = Folder::new();
    fs::create_dir(place.0.join("folder")).unwrap();
    fs::write(place.0.join("file"), "x").unwrap();
    unwritable(&place, "folder", &["folder", "is a folder", "--output"]);
    unwritable(&place, ".", &["is a folder", "--output"]);
    unwritable(&place, "..", &["is a folder", "--output"]);
    unwritable(&place, "", &["--output"]);
    unwritable(&place, "absent/out.png", &["absent/out.png", "its folder does not exist", "--output"]);
    unwritable(&place, "file/out.png", &["file/out.png", "--output"]);
    unwritable(&place, &format!("{}.png", "long".repeat(100)), &["--output"]);
    let model = golden("if_stage1");
    fs::create_dir(place.0.join("out-1.png")).unwrap();
    let args = ["x", "--steps", "1", "--count", "2", "--device", "cpu", "--output", "out.png", "--model"];
    let output = generate(&place).args(args).arg(&model).output().unwrap();
    error_of(&output, &["out-1.png", "is a folder"]);
    assert_eq!(place.names(), ["file", "folder", "out-1.png"]);
}

/// A place that even root may not write to, and devices that are full.
#[test]
#[cfg(target_os = "linux")]
fn outputs_of_linux() {
    let place = Folder::new();
    unwritable(&place, "/proc/out.png", &["/proc/out.png", "cannot be written", "--output"]);
    unwritable(&place, "/dev/full", &["/dev/full", "cannot be written", "No space left", "--output"]);
    std::os::unix::fs::symlink("/dev/full", place.0.join("full.png")).unwrap();
    unwritable(&place, "full.png", &["full.png", "No space left", "--output"]);
    assert!(place.0.join("full.png").is_symlink());
    // A device is written to, not replaced by a file.
    let model = golden("if_stage1");
    succeeds(&place, &["x", "--steps", "1", "--output", "/dev/null", "--model", model.to_str().unwrap()]);
    assert!(!fs::metadata("/dev/null").unwrap().is_file());
}

/// A disk that fills up while the picture is written: no file may grow beyond 512 bytes.
#[test]
#[cfg(unix)]
fn a_disk_that_fills_up() {
    let place = Folder::new();
    fs::write(place.0.join("out.png"), BEFORE).unwrap();
    let model = golden("if_stage1");
    let script = r#"trap '' XFSZ; ulimit -f 1 || exit 77; exec "$0" generate x --device cpu --steps 1 --size 64x64 \
        --output out.png --model "$1""#;
    let mut shell = std::process::Command::new("sh");
    shell
        .args(["-c", script, env!("CARGO_BIN_EXE_ancestral"), model.to_str().unwrap()])
        .current_dir(&place.0);
    let output = shell.output().unwrap();
    if output.status.code() == Some(77) {
        crate::skipped::skip("this shell cannot limit the size of files");
        return;
    }
    error_of(&output, &["out.png", "cannot be written", "--output"]);
    assert_eq!(fs::read(place.0.join("out.png")).unwrap(), BEFORE);
    assert_eq!(place.names(), ["out.png"]);
}

/// Whoever read the output has gone, or its device is full: the picture is there all the same.
#[test]
#[cfg(target_os = "linux")]
fn nobody_listens() {
    let place = Folder::new();
    let model = golden("if_stage1");
    let full = || fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut command = generate(&place);
    command
        .args(["x", "--device", "cpu", "--steps", "1", "--model"])
        .arg(&model)
        .stdout(full())
        .stderr(full());
    assert!(command.status().unwrap().success());
    assert_eq!(place.names(), ["ancestral.png"]);
    let mut devices = std::process::Command::new(env!("CARGO_BIN_EXE_ancestral"));
    let output = devices.arg("devices").stdout(full()).stderr(std::process::Stdio::piped()).output().unwrap();
    assert!(!stderr(&output).contains("panicked"), "{}", stderr(&output));
}

/// Bytes that are no UTF-8, as a prompt and as a file's name.
#[test]
#[cfg(unix)]
fn arguments_that_are_not_text() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let model = golden("if_stage1");
    let prompt = OsStr::from_bytes(b"a \xff\xfe circle");
    refused(&[prompt, "--model".as_ref(), model.as_os_str()], &["prompt", "not valid UTF-8"]);
    let place = Folder::new();
    let name = OsStr::from_bytes(b"\xff.png");
    let mut args =
        vec![OsStr::new("x"), "--steps".as_ref(), "1".as_ref(), "--model".as_ref(), model.as_os_str()];
    args.extend([OsStr::new("--count"), "2".as_ref(), "--output".as_ref(), name]);
    succeeds(&place, &args);
    assert_eq!(place.names(), [OsStr::from_bytes(b"\xff-0.png"), OsStr::from_bytes(b"\xff-1.png")]);
}

/// DDIM's randomness goes to models that are sampled by DDIM, without `--sampler` too; elsewhere it is said what is missing.
#[test]
fn eta_by_itself() {
    asked(&["--eta", "0.5"], &["eta is DDIM's", "`--sampler ddim`", "leave `--eta` out"]);
    asked(&["--eta", "0.5", "--sampler", "ddpm"], &["eta is DDIM's", "`--sampler ddim`"]);
    let (place, model) = (Folder::new(), super::copy("ddpm"));
    let scheduler = model.0.join("scheduler/scheduler_config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&fs::read(&scheduler).unwrap()).unwrap();
    config["_class_name"] = "DDIMScheduler".into();
    fs::remove_file(&scheduler).unwrap();
    fs::write(&scheduler, config.to_string()).unwrap();
    let draw = |more: &[&str]| {
        let args = ["--model", model.0.to_str().unwrap(), "--steps", "3", "--output", "out.png"];
        succeeds(&place, &[&args[..], more].concat());
        fs::read(place.0.join("out.png")).unwrap()
    };
    let usual = draw(&[]);
    assert_eq!(draw(&["--eta", "0"]), usual);
    assert_ne!(draw(&["--eta", "0.5"]), usual);
    assert_eq!(draw(&["--eta", "0.5"]), draw(&["--eta", "0.5", "--sampler", "ddim"]));
}

/// Storage is a person's to choose, on any device.
#[test]
fn precision_can_be_chosen() {
    let (place, model) = (Folder::new(), golden("if_stage1"));
    let model = model.to_str().unwrap();
    let args = ["x", "--steps", "2", "--model", model];
    succeeds(&place, &[&args[..], &["--precision", "f32", "--output", "a.png"]].concat());
    succeeds(&place, &[&args[..], &["--output", "b.png"]].concat());
    let read = |name: &str| fs::read(place.0.join(name)).unwrap();
    assert_eq!(read("a.png"), read("b.png"), "the CPU computes in f32");
    asked(&["--precision", "f8"], &["--precision", "f32", "f16"]);
}
