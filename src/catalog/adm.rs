//! Checkpoints of guided diffusion.

use super::defaults::{Defaults, require_guidance, sampler};
use super::options::LoadOptions;
use crate::error::{Error, Result, request};
use crate::models::adm::flags::Flags;
use crate::models::adm::{classifier, presets};
use crate::weights::read_json;
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// A checkpoint of guided diffusion.
#[derive(Clone, Debug)]
pub(crate) struct AdmFile {
    pub weights: PathBuf,
    /// A JSON file with its flags.
    pub flags: Option<PathBuf>,
    /// Flags by the user.
    pub overrides: Vec<(String, String)>,
    pub defaults: Defaults,
}

/// A base model, upsamplers after it, and a classifier.
#[derive(Clone, Debug)]
pub(crate) struct AdmFiles {
    pub stages: Vec<AdmFile>,
    pub classifier: Option<AdmFile>,
    /// The classes' own names.
    pub names: Option<Vec<String>>,
}

/// What a folder's `config.json` says besides flags.
#[derive(Deserialize)]
struct AdmConfig {
    /// The classes' names.
    classes: Option<Vec<String>>,
    #[serde(default)]
    defaults: AdmDefaults,
}

#[derive(Default, Deserialize)]
struct AdmDefaults {
    /// A respacing, in OpenAI's notation.
    steps: Option<String>,
    sampler: Option<String>,
    eta: Option<f64>,
    guidance_scale: Option<f64>,
}

/// A folder whose `config.json` holds the flags of guided diffusion.
pub(super) fn is_adm_folder(folder: &Path) -> bool {
    let config = read_json::<serde_json::Map<String, serde_json::Value>>(&folder.join("config.json"));
    config.is_ok_and(|config| config.contains_key("diffusion"))
}

/// The files of guided diffusion: a folder with `config.json`, `diffusion.*` and maybe `classifier.*`, or single
/// checkpoints, of which the first one's classifier may lie beside it under its published name.
pub(super) fn find_adm(paths: &[PathBuf], options: &LoadOptions) -> Result<AdmFiles> {
    let (mut stages, mut classifier, mut names) = (Vec::new(), None, None);
    for (i, path) in paths.iter().enumerate() {
        let flags = options.flags.get(i).map(|text| parse_flags(text)).transpose()?.unwrap_or_default();
        let (of_classifier, overrides): (Vec<_>, Vec<_>) =
            flags.into_iter().partition(|(flag, _)| flag.starts_with("classifier_"));
        let mut stage =
            AdmFile { weights: path.clone(), flags: None, overrides, defaults: Defaults::of(250, 1.0, 0) };
        let mut beside = None;
        if path.is_dir() {
            let file = path.join("config.json");
            let config: AdmConfig = read_json(&file)?;
            stage.weights = checkpoint_of(path, "diffusion").ok_or_else(|| {
                Error::file(path, "holds no diffusion.safetensors and no diffusion.pt beside its config.json")
            })?;
            adm_defaults(&file, &config.defaults, &mut stage.defaults)?;
            names = names.or(config.classes);
            beside = checkpoint_of(path, "classifier").map(|weights| (weights, Some(file.clone())));
            stage.flags = Some(file);
        } else if let Some((name, scale)) = presets::named(path).and_then(|preset| preset.classifier) {
            stage.defaults.guidance_scale = f64::from(scale);
            let folder = path.parent().unwrap_or(Path::new("."));
            beside = checkpoint_of(folder, name).map(|weights| (weights, None));
        }
        if i == 0 {
            let given = options.classifier.clone().map(|weights| (weights, None));
            classifier = given.or(beside).map(|(weights, flags)| AdmFile {
                weights,
                flags,
                overrides: of_classifier.into_iter().map(classifier_flag).collect(),
                defaults: stage.defaults.clone(),
            });
        }
        stages.push(stage);
    }
    Ok(AdmFiles { stages, classifier, names })
}

/// The classifier's flags that are not called `classifier_…` on OpenAI's command lines are set with that before them.
fn classifier_flag((flag, value): (String, String)) -> (String, String) {
    let names = classifier::Config::NAMES;
    let short = flag.strip_prefix("classifier_").filter(|short| names.contains(short));
    match short.filter(|_| !names.contains(&flag.as_str())) {
        Some(short) => (short.to_string(), value),
        None => (flag, value),
    }
}

/// `stem.safetensors` or `stem.pt` in a folder.
pub(super) fn checkpoint_of(folder: &Path, stem: &str) -> Option<PathBuf> {
    ["safetensors", "pt"].iter().map(|ending| folder.join(format!("{stem}.{ending}"))).find(|p| p.is_file())
}

fn adm_defaults(path: &Path, said: &AdmDefaults, defaults: &mut Defaults) -> Result<()> {
    defaults.respacing = said.steps.clone();
    defaults.sampler = sampler(path, said.sampler.as_deref(), said.eta)?;
    defaults.guidance_scale = said.guidance_scale.unwrap_or(defaults.guidance_scale);
    require_guidance(path, "guidance_scale", defaults.guidance_scale)
}

/// Flags as OpenAI's command lines have them, `--num_channels 192 --learn_sigma True`, or as `num_channels=192`.
pub(super) fn parse_flags(text: &str) -> Result<Vec<(String, String)>> {
    let mut words = text.split_whitespace();
    let mut flags = Vec::new();
    while let Some(word) = words.next() {
        let name = word.trim_start_matches('-');
        let (name, value) = match name.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (name, words.next()),
        };
        let value = value.filter(|_| !name.is_empty()).ok_or_else(|| {
            request!(
                Flags,
                Malformed,
                "flag `{word}` has no value; as in OpenAI's: num_channels 192 learn_sigma True"
            )
        })?;
        flags.push((name.to_string(), value.to_string()));
    }
    Ok(flags)
}
