//! OpenAI's guided-diffusion: forwards of the U-Net in both orders of queries, keys and values, of the classifier and of
//! the super-resolution network.

use crate::golden::case::{Case, Checked, Tensors, need, own_goldens, text};
use crate::golden::forward::{self, Outputs};
use crate::golden::report::{Limit, Report};
use ancestral::device::{Device, Weights};
use ancestral::graph::{Graph, Repack, Storage};
use ancestral::models::adm::flags::{Flags, Origin, find};
use ancestral::models::adm::{Config, Inputs, classifier, detect};
use ancestral::weights::Checkpoint;
use std::path::PathBuf;

/// Everything a case stores.
pub fn check(case: &Case, device: &Device, report: &mut Report) -> Checked {
    check_changed(case, device, report, &[])
}

/// The same with flags changed, as `section.flag`.
fn check_changed(case: &Case, device: &Device, report: &mut Report, changes: &[(&str, &str)]) -> Checked {
    let limit = Limit::once(case.spread("U-Net")?);
    for (file, _) in case.goldens() {
        let golden = case.read(&file)?;
        if golden.contains_key("unet.emb") {
            check_unet(case, &golden, device, report, (limit, changes))?;
            let (config, weights, _) = network::<classifier::Config>(case, "classifier", changes)?;
            let found = logits(&config, &weights, &golden, device)?;
            let expected = need(&golden, "classifier.logits")?;
            report.golden("classifier.logits", found.get("logits").unwrap_or_default(), expected, limit);
        } else if golden.contains_key("low_res") {
            let (config, weights, origin) = network::<Config>(case, "upsampler", changes)?;
            report.equal("the upsampler has no preset", &matches!(origin, Origin::Preset { .. }), &false);
            let found = unet(&config, &weights, &golden, device)?;
            let expected = need(&golden, "out")?;
            report.golden("upsampler", found.get("out").unwrap_or_default(), expected, limit);
        }
    }
    Ok(())
}

/// The checkpoint of that name, `.pt` or safetensors; if both are there, the same bit for bit.
fn checkpoint(case: &Case, name: &str) -> Checked<Checkpoint> {
    let paths = ["pt", "safetensors"].map(|ending| case.dir.join(format!("{name}.{ending}")));
    let open = |path: &PathBuf| Checkpoint::open_file(path).map_err(text);
    let mut all = paths.iter().filter(|path| path.exists()).map(open).collect::<Checked<Vec<_>>>()?;
    if let [pt, safe] = &all[..] {
        if !pt.names().eq(safe.names()) {
            return Err(format!("{name}.pt and {name}.safetensors name other tensors"));
        }
        for tensor in pt.names() {
            let bits = |checkpoint: &Checkpoint| -> Checked<Vec<u32>> {
                let values = checkpoint.read(tensor, Repack::None).map_err(text)?;
                Ok(values.iter().map(|value| value.to_bits()).collect())
            };
            if pt.shape(tensor) != safe.shape(tensor) || bits(pt)? != bits(safe)? {
                return Err(format!("`{tensor}` is another in {name}.pt and {name}.safetensors"));
            }
        }
    }
    all.truncate(1);
    all.pop().ok_or_else(|| format!("{}: neither {name}.pt nor {name}.safetensors", case.dir.display()))
}

/// A network of a case, with changes of its flags.
fn network<F: Flags>(case: &Case, name: &str, changes: &[(&str, &str)]) -> Checked<(F, Weights, Origin)> {
    let checkpoint = checkpoint(case, name)?;
    let path = checkpoint.path().to_path_buf();
    let mine = |(key, value): &(&str, &str)| {
        Some((key.strip_prefix(name)?.strip_prefix('.')?.to_string(), value.to_string()))
    };
    let changes: Vec<(String, String)> = changes.iter().filter_map(mine).collect();
    let file = case.dir.join("config.json");
    let shapes = detect::shapes(&checkpoint);
    let (config, origin) = find::<F>(&path, &shapes, (Some(&file), name), &changes).map_err(text)?;
    checkpoint.check(config.graph().weights(), |_| false).map_err(text)?;
    Ok((config, Weights::new(checkpoint), origin))
}

fn check_unet(
    case: &Case,
    golden: &Tensors,
    device: &Device,
    report: &mut Report,
    (limit, changes): (Limit, &[(&str, &str)]),
) -> Checked {
    let (config, weights, origin) = network::<Config>(case, "diffusion", changes)?;
    report.equal("flags of the file", &matches!(origin, Origin::File(_)), &true);
    for (name, expected) in golden.iter().filter(|(name, _)| name.starts_with("unet.")) {
        let mut config = config.clone();
        let words = &case.manifest["goldens"]["forward.safetensors"]["tensors"][name]["words"];
        if name.contains("order") {
            config.use_new_attention_order = name.contains("new_order");
        }
        if let Some((_, count)) = words.as_str().unwrap_or_default().split_once("num_heads=") {
            let count: String = count.chars().take_while(char::is_ascii_digit).collect();
            config.num_heads = count.parse().map_err(|_| format!("`{name}`: no number of heads"))?;
            config.num_head_channels = None;
        }
        let found = unet(&config, &weights, golden, device)?;
        let tap = if name == "unet.emb" { "emb" } else { "out" };
        report.golden(name, found.get(tap).unwrap_or_default(), expected, limit);
    }
    Ok(())
}

fn unet(config: &Config, weights: &Weights, golden: &Tensors, device: &Device) -> Checked<Outputs> {
    let (sample, timestep) = (need(golden, "x")?, need(golden, "t")?);
    let [n, c, h, w] = sample.picture()?;
    let mut g = Graph::new();
    let x = g.input("x", &[n, h, w, c], Storage::Elem);
    let t = g.input("t", &[n], Storage::F32);
    let mut values = vec![("x", sample.channels_last()), ("t", timestep.values.clone())];
    let y = config.classes().map(|_| g.input("y", &[n], Storage::F32));
    if y.is_some() {
        values.push(("y", need(golden, "y")?.values.clone()));
    }
    let low_res = match config.small_size {
        Some(_) => {
            let low = need(golden, "low_res")?;
            let [n, c, h, w] = low.picture()?;
            values.push(("low_res", low.channels_last()));
            Some(g.input("low_res", &[n, h, w, c], Storage::Elem))
        }
        None => None,
    };
    let inputs = Inputs { x: &x, low_res: low_res.as_ref(), t: &t, y: y.as_ref() };
    let out = config.forward(&mut g, &inputs);
    g.output("out", &out);
    let values: Vec<(&str, &[f32])> = values.iter().map(|(name, v)| (*name, v.as_slice())).collect();
    forward::run(device, weights, g, &values)
}

fn logits(
    config: &classifier::Config,
    weights: &Weights,
    golden: &Tensors,
    device: &Device,
) -> Checked<Outputs> {
    let (sample, timestep) = (need(golden, "x")?, need(golden, "t")?);
    let [n, c, h, w] = sample.picture()?;
    let mut g = Graph::new();
    let x = g.input("x", &[n, h, w, c], Storage::Elem);
    let t = g.input("t", &[n], Storage::F32);
    let logits = config.forward(&mut g, &x, &t);
    g.output("logits", &logits);
    forward::run(device, weights, g, &[("x", &sample.channels_last()), ("t", &timestep.values)])
}

/// Another flag is another network, and no check passes a moved golden.
#[test]
fn golden_adm_wrong_flags_are_seen() {
    let case = Case::open(&own_goldens().join("adm")).expect("a case");
    let run = |changes: &[(&str, &str)]| {
        let mut report = Report::new(format!("{changes:?}"));
        let checked = check_changed(&case, &Device::Cpu, &mut report, changes);
        report.finish(checked).2
    };
    assert!(run(&[]).is_empty());
    for change in [
        ("diffusion.num_head_channels", "8"),
        ("diffusion.attention_resolutions_ds", "1"),
        ("diffusion.use_scale_shift_norm", "False"),
        ("classifier.num_head_channels", "32"),
        ("classifier.use_new_attention_order", "True"),
        ("classifier.classifier_pool", "adaptive"),
        ("upsampler.num_heads", "2"),
        ("upsampler.use_new_attention_order", "True"),
    ] {
        let found = run(&[change]);
        assert!(!found.is_empty(), "{change:?} passes");
        println!("{change:?}: {}", found[0]);
    }
    let mut report = Report::new("planted".into());
    report.planted = true;
    check(&case, &Device::Cpu, &mut report).expect("the checks run");
    let (checks, failures) = report.counts();
    assert!(checks >= 6 && failures == checks, "{failures} of {checks} checks fail");
}
