//! `ancestral plan`: of folders, of configs with and without a listing of tensors, and what it refuses.

use super::{Folder, error_of, golden, stderr};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn layouts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels-tests/goldens/layouts")
}

fn config(name: &str) -> String {
    layouts().join(format!("{name}.config.json")).to_str().unwrap().to_string()
}

/// A column of a layout's table as the listing the command takes.
fn listing(folder: &Folder, table: &str, column: usize) -> PathBuf {
    let text = fs::read_to_string(layouts().join(format!("{table}.txt"))).unwrap();
    let tensors: BTreeMap<&str, Vec<usize>> = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            (words[0], words[1 + column].split('x').map(|n| n.parse().unwrap()).collect())
        })
        .collect();
    let path = folder.0.join(format!("{table}.{column}.json"));
    fs::write(&path, serde_json::to_string(&tensors).unwrap()).unwrap();
    path
}

fn plan(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ancestral"))
        .arg("plan")
        .args(args)
        .env_remove("RUST_LOG")
        .output()
        .unwrap()
}

#[track_caller]
fn planned(args: &[&str], fits: bool, parts: &[&str]) -> String {
    let output = plan(args);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(if fits { 0 } else { 1 }), "{text}{}", stderr(&output));
    for part in parts.iter().chain(&[if fits { "it all fits" } else { "it does not fit" }]) {
        assert!(text.contains(part), "`{part}` is not in: {text}");
    }
    text
}

/// The columns of the line of a part: runs, dispatches.
#[track_caller]
fn counts(text: &str, part: &str) -> (usize, usize) {
    let line = text.lines().find(|line| line.trim_start().starts_with(part)).expect(part);
    let words: Vec<&str> = line.split_whitespace().collect();
    (words[1].parse().unwrap(), words[2].parse().unwrap())
}

#[test]
fn folders() {
    let (one, two) = (golden("if_stage1"), golden("if_stage2"));
    let (one, two) = (one.to_str().unwrap(), two.to_str().unwrap());
    let text = planned(
        &[one, two, "--device", "cpu", "--steps", "7,3", "--count", "2"],
        true,
        &[
            "text encoder",
            "base: 16x16, batch 4 (guided), 7 steps",
            "upscaler: 32x32, batch 4 (guided), 3 steps",
            "CPU",
        ],
    );
    assert_eq!(counts(&text, "step").0, 7);
    let first = planned(&[one, two, "--device", "webgpu", "--stages", "1"], true, &["WebGPU", "100 steps"]);
    assert!(first.contains("base: ") && !first.contains("upscaler"), "{first}");
    let ddpm = golden("ddpm");
    planned(&[ddpm.to_str().unwrap(), "--device", "webgpu", "--steps", "10"], true, &["batch 1, 10 steps"]);
    planned(&["--device", "cpu"], true, &["32x32", "256x256"]);
}

#[test]
fn layouts_need_no_download() {
    let folder = Folder::new();
    let medium = listing(&folder, "IF-I.unet", 2);
    let args = ["--config", &config("IF-I-M"), "--layout", medium.to_str().unwrap(), "--device", "webgpu"];
    let text = planned(&args, true, &["64x64, batch 2 (guided), 50 steps", "weights 1.5 GB"]);
    let (runs, dispatches) = counts(&text, "step");
    assert!(runs == 50 && dispatches > 100, "{text}");
    let halves = planned(&[&args[..], &["--precision", "f16"]].concat(), true, &["weights 743.9 MB"]);
    assert_eq!(counts(&halves, "step"), (50, dispatches));
    planned(&[&args[..], &["--guidance-scale", "1"]].concat(), true, &["batch 1, 50 steps"]);
    // 4.3 billion parameters: tensors above a binding are in pieces, but there may be less memory.
    let args = |memory| {
        ["--config", &config("IF-I-XL"), "--device", "webgpu", "--memory", memory].map(str::to_string)
    };
    planned(&args("8").each_ref().map(String::as_str), false, &["DOES NOT FIT: the run needs", "has 8.0 GB"]);
    planned(&args("18").each_ref().map(String::as_str), true, &["weights 17.2 GB"]);
    // A sample is given and read as a whole.
    let args = ["--config", &config("dalle2.upsampler"), "--device", "webgpu", "--count", "12"];
    planned(
        &args,
        false,
        &["DOES NOT FIT: `x` of shape [12, 1024, 1024, 3]", "cannot be cut; a shader binds at most"],
    );
}

#[test]
fn refusals() {
    let folder = Folder::new();
    let small = listing(&folder, "IF-I.unet", 2);
    let (small, large) = (small.to_str().unwrap(), config("IF-I-XL"));
    let refused = |args: &[&str], parts: &[&str]| error_of(&plan(args), parts);
    refused(&["--config", &large, "--layout", small], &["tensor `", "the config says", "listed as"]);
    let extra = folder.0.join("extra.json");
    let mut listed: BTreeMap<String, Vec<usize>> =
        serde_json::from_str(&fs::read_to_string(small).unwrap()).unwrap();
    listed.insert("conv_mid.weight".into(), vec![1]);
    fs::write(&extra, serde_json::to_string(&listed).unwrap()).unwrap();
    let medium = config("IF-I-M");
    refused(
        &["--config", &medium, "--layout", extra.to_str().unwrap()],
        &["conv_mid.weight", "no such tensor"],
    );
    refused(&["--layout", small], &["--config"]);
    refused(&["--config", &large, "some/folder"], &["cannot be used with"]);
    refused(&["--config", small], &["no class", "UNet2DConditionModel"]);
    refused(&["--config", "nowhere.json"], &["nowhere.json"]);
    refused(&["nowhere"], &["nowhere", "does not exist"]);
    refused(&["--config", &large, "--size", "63x64"], &["63x64", "multiples of 8"]);
    refused(&["--config", &large, "--steps", "0"], &["0 steps"]);
    refused(&["--config", &large, "--steps", "5,5"], &["2 numbers of steps"]);
    refused(&["--config", &large, "--memory", "-1"], &["gigabytes"]);
    refused(&["--config", &large, "--device", "nosuchgpu"], &["nosuchgpu"]);
}

/// Budgets in people's units; a run that needs more is refused, with what mends it.
#[test]
fn memory_budgets() {
    let medium = config("IF-I-M");
    let args = ["--config", &medium, "--device", "webgpu", "--precision", "f16", "--memory"];
    for (given, budget, fits) in [
        ("100MiB", "104.9 MB", false),
        ("6GB", "6.0 GB", true),
        ("8", "8.0 GB", true),
        ("1.5 gib", "1.6 GB", true),
        ("2T", "2000.0 GB", true),
    ] {
        let budget = format!("within a budget of {budget}");
        planned(&[&args[..], &[given]].concat(), fits, &["kept for the next run: ", &budget]);
    }
    for text in ["", "GB", "-1", "0", "6 apples", "1e400", "nan", "inf", "6GB6", "1e300GB", "0x10"] {
        let given = format!("--memory={text}");
        error_of(&plan(&["--config", &medium, &given]), &["--memory", "800MiB"]);
    }
    let folder = Folder::new();
    let draw = |memory: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ancestral"));
        let args = ["generate", "a star", "--device", "cpu", "--stages", "1", "--steps", "1", "--quiet"];
        command.args(args).args(["--memory", memory, "--output"]).arg(folder.0.join("star.png"));
        command.env_remove("RUST_LOG").output().unwrap()
    };
    error_of(&draw("1MB"), &["the memory budget is 1.0 MB", "give a larger `--memory`"]);
    let drawn = draw("500MB");
    assert!(drawn.status.success(), "{}", stderr(&drawn));
}

/// Each node's share of a card, and the run's least time.
#[test]
fn plans_on_a_card() {
    let config =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels-tests/goldens/layouts/IF-I-M.config.json");
    let config = config.to_str().unwrap();
    let card = ["--device", "webgpu", "--multiprocessors", "100", "--peak", "10", "--bandwidth", "500"];
    let text =
        planned(&[&["--config", config], &card[..]].concat(), true, &["whole run on such a card: at least"]);
    let mut seen = 0;
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [nodes, workgroups, share, "%", gflop, _, _, least, "µs", ..] = words[..] else { continue };
        let number = |text: &str| text.parse::<f64>().unwrap();
        let (nodes, workgroups) = (number(nodes), number(workgroups));
        let at_work = workgroups / ((workgroups / 100.0).ceil() * 100.0);
        assert!((number(share) - 100.0 * at_work).abs() <= 0.51, "{line}");
        // Rounded: GFLOP to hundredths of all the nodes, and the time to tenths.
        let flops = (number(gflop) - 0.006) * 1e9 / nodes;
        assert!(number(least) + 0.06 >= nodes * flops / 1e13 / at_work * 1e6, "{line}");
        seen += 1;
    }
    assert!(seen > 40, "{seen} nodes in {text}");
    for bad in [["--peak", "0"], ["--bandwidth", "-1"], ["--multiprocessors", "0"]] {
        assert_eq!(plan(&[&["--config", config][..], &bad].concat()).status.code(), Some(2), "{bad:?}");
    }
}
