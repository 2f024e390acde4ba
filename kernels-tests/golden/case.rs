//! A case: a folder with a manifest, the goldens it names, and a pipeline.

use ancestral::Error;
use ancestral::internals::files::finite;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Names a folder of cases, or one case, to take instead of `kernels-tests/goldens`.
const FOLDER: &str = "ANCESTRAL_GOLDENS";

/// The goldens of samplers alone.
pub const SAMPLERS: &str = "samplers.safetensors";

/// What a check says when it cannot be done.
pub type Checked<T = ()> = Result<T, String>;

/// [`Error`] as text.
pub fn text(error: Error) -> String {
    error.to_string()
}

/// Which checks a case takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Single layers and formulas.
    Units,
    /// An unconditional pipeline.
    Ddpm,
    /// IF's base stage.
    IfStage1,
    /// IF's super-resolution stage.
    IfStage2,
    /// OpenAI's guided diffusion.
    Adm,
    /// Semantic Diffusion Guidance.
    Sdg,
    /// GLIDE.
    Glide,
    /// Autoregressive priors.
    ArPrior,
    /// Karlo from a prompt.
    UnClip,
    /// Karlo from a picture.
    UnClipVariation,
    /// An unguided upsampler of our layout.
    Upsampler,
    /// Samplers alone, on stored outputs of a network.
    Samplers,
    /// Gradients of weights and runs of an optimiser, from other cases' checkpoints.
    Train,
}

/// A tensor of a golden file.
#[derive(Clone, Debug, Default)]
pub struct Tensor {
    /// Row-major shape.
    pub shape: Vec<usize>,
    /// Values, whatever the file's type.
    pub values: Vec<f32>,
    dtype: &'static str,
}

impl Tensor {
    /// Entry `i` of the outermost dimension.
    pub fn at(&self, i: usize) -> Tensor {
        let size = self.shape[1..].iter().product::<usize>();
        let values = self.values[i * size..(i + 1) * size].to_vec();
        Tensor { shape: self.shape[1..].to_vec(), values, dtype: self.dtype }
    }

    /// Values with channels last: pictures are stored `[N, C, H, W]`.
    pub fn channels_last(&self) -> Vec<f32> {
        match self.shape[..] {
            [_, c, h, w] => ancestral::internals::diffusion::channels_last(&self.values, c, h, w),
            _ => self.values.clone(),
        }
    }

    /// `[N, C, H, W]`.
    pub fn picture(&self) -> Checked<[usize; 4]> {
        self.shape[..].try_into().map_err(|_| format!("a shape of {:?} is no [N, C, H, W]", self.shape))
    }
}

/// The tensors of a golden file.
pub type Tensors = BTreeMap<String, Tensor>;

/// A tensor that must be there.
pub fn need<'a>(tensors: &'a Tensors, name: &str) -> Checked<&'a Tensor> {
    tensors.get(name).ok_or_else(|| format!("the golden file has no `{name}`"))
}

/// A case's folder.
pub struct Case {
    /// The folder's name.
    pub name: String,
    /// The folder.
    pub dir: PathBuf,
    /// `manifest.json`.
    pub manifest: Value,
    /// The folder with `model_index.json`.
    pub pipeline: PathBuf,
}

impl Case {
    /// Reads the manifest.
    pub fn open(dir: &Path) -> Checked<Case> {
        let path = dir.join("manifest.json");
        let manifest = std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        // Python writes numbers that JSON has not.
        let manifest: Value = serde_json::from_slice(&finite(manifest))
            .map_err(|error| format!("{}: {error}", path.display()))?;
        let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
        // Of another case's pipeline, where the manifest says so.
        let other: &Value = &manifest["pipeline"];
        let mut places: Vec<PathBuf> = other.as_str().map(|path| dir.join(path)).into_iter().collect();
        places.extend([dir.join("pipeline"), dir.to_path_buf()]);
        places.extend(folders(dir));
        let has_index = |place: &&PathBuf| place.join("model_index.json").exists();
        let pipeline = places.iter().find(has_index).unwrap_or(&places[0]).clone();
        Ok(Case { name, dir: dir.to_path_buf(), manifest, pipeline })
    }

    /// What it is, by its files and not its name; an error says why it is passed over.
    pub fn kind(&self) -> Checked<Kind> {
        if self.dir.join("units.json").exists() {
            return Ok(Kind::Units);
        }
        if self.manifest["entries"].is_array() && self.dir.join(SAMPLERS).exists() {
            return Ok(Kind::Samplers);
        }
        if self.manifest["case"] == "train" && self.manifest["entries"].is_array() {
            return Ok(Kind::Train);
        }
        if self.manifest["encoders"].is_object() {
            return Ok(Kind::Sdg);
        }
        if self.manifest["priors"].is_object() {
            return Ok(Kind::ArPrior);
        }
        let index = std::fs::read(self.pipeline.join("model_index.json")).unwrap_or_default();
        let index: Value = serde_json::from_slice(&index).unwrap_or_default();
        match index["_class_name"].as_str() {
            Some("DDPMPipeline" | "DDIMPipeline") => Ok(Kind::Ddpm),
            Some("IFPipeline") => Ok(Kind::IfStage1),
            Some("IFSuperResolutionPipeline") => Ok(Kind::IfStage2),
            Some("UnCLIPPipeline") => Ok(Kind::UnClip),
            Some("UnCLIPImageVariationPipeline") => Ok(Kind::UnClipVariation),
            Some("ancestral.Upsampler") => Ok(Kind::Upsampler),
            Some(class) => Err(format!("`{class}` is not built yet")),
            None if self.manifest["run"]["respacing"].is_object() => Ok(Kind::Adm),
            None if self.manifest["run"]["base_respacing"].is_string() => Ok(Kind::Glide),
            None => {
                Err(format!("{} is not built yet", self.manifest["what"].as_str().unwrap_or("this kind")))
            }
        }
    }

    /// The golden files the manifest names, with what it says of them.
    pub fn goldens(&self) -> Vec<(String, String)> {
        let named = self.manifest["goldens"].as_object().cloned().unwrap_or_default();
        let what = |about: &Value| about["what"].as_str().unwrap_or_default().to_string();
        let tensors = named.iter().filter(|(file, _)| file.ends_with(".safetensors"));
        tensors.map(|(file, about)| (file.clone(), what(about))).collect()
    }

    /// Whether the manifest names a golden file.
    pub fn holds(&self, file: &str) -> bool {
        self.manifest["goldens"][file].is_object()
    }

    /// Reads a golden file and proves it to be what the manifest says.
    pub fn read(&self, file: &str) -> Checked<Tensors> {
        let path = self.dir.join(file);
        let tensors = read(&path)?;
        let named = self.manifest["goldens"][file]["tensors"].as_object().cloned().unwrap_or_default();
        for (name, about) in &named {
            let tensor = tensors.get(name).ok_or_else(|| format!("{file}: `{name}` is missing"))?;
            let shape: Vec<u64> = tensor.shape.iter().map(|n| *n as u64).collect();
            let says: Vec<u64> =
                about["shape"].as_array().into_iter().flatten().filter_map(Value::as_u64).collect();
            if shape != says || about["dtype"].as_str().is_some_and(|dtype| dtype != tensor.dtype) {
                let dtype = &about["dtype"];
                return Err(format!(
                    "{file}: `{name}` is {} {shape:?}, the manifest says {dtype} {says:?}",
                    tensor.dtype
                ));
            }
        }
        Ok(tensors)
    }

    /// A number of the manifest's tolerance notes.
    pub fn spread(&self, part: &str) -> Checked<f64> {
        let key = format!("{part}: max |fp32 - fp64|");
        self.manifest["tolerance_notes"][&key]
            .as_f64()
            .ok_or_else(|| format!("the manifest's tolerance_notes have no `{key}`"))
    }

    /// The spread of every x of a run, the start's first.
    pub fn spreads(&self, part: &str, steps: usize) -> Checked<Vec<f64>> {
        let key = format!("{part}: max |fp32 - fp64| per step");
        let list = &self.manifest["tolerance_notes"][&key];
        let list: Vec<f64> = list.as_array().into_iter().flatten().filter_map(Value::as_f64).collect();
        if list.len() == steps + 1 {
            return Ok(list);
        }
        Err(format!("the manifest's `{key}` has {} numbers for {steps} steps", list.len()))
    }
}

/// The subfolders of a folder, sorted.
pub fn folders(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    found.sort();
    found
}

/// The project's own goldens.
pub fn own_goldens() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels-tests/goldens")
}

/// Whether the caller chose the cases.
pub fn chosen() -> bool {
    std::env::var_os(FOLDER).is_some()
}

/// All cases, each with its kind or why it is passed over.
pub fn cases() -> Checked<Vec<(Case, Checked<Kind>)>> {
    let root = std::env::var_os(FOLDER).map_or_else(own_goldens, PathBuf::from);
    let mut dirs = vec![root.clone()];
    dirs.extend(folders(&root));
    dirs.retain(|dir| dir.join("manifest.json").exists());
    if dirs.is_empty() {
        return Err(format!("{}: no folder with a manifest.json", root.display()));
    }
    dirs.iter()
        .map(|dir| {
            let case = Case::open(dir)?;
            let kind = case.kind();
            Ok((case, kind))
        })
        .collect()
}

/// Reads a safetensors file, numbers of any type as f32.
pub fn read(path: &Path) -> Checked<Tensors> {
    let fail = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let bytes = std::fs::read(path).map_err(|error| fail(&error))?;
    let file = SafeTensors::deserialize(&bytes).map_err(|error| fail(&error))?;
    let convert = |(name, view): (String, safetensors::tensor::TensorView<'_>)| {
        let data = view.data();
        let (dtype, values) = match view.dtype() {
            Dtype::F32 => ("float32", data.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()),
            Dtype::F64 => {
                ("float64", data.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b) as f32).collect())
            }
            Dtype::I64 => {
                ("int64", data.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b) as f32).collect())
            }
            Dtype::I32 => {
                ("int32", data.as_chunks().0.iter().map(|b| i32::from_le_bytes(*b) as f32).collect())
            }
            Dtype::U8 => ("uint8", data.iter().map(|b| f32::from(*b)).collect()),
            Dtype::BOOL => ("bool", data.iter().map(|b| f32::from(*b)).collect()),
            other => return Err(fail(&format!("`{name}` has the unexpected type {other:?}"))),
        };
        Ok((name, Tensor { shape: view.shape().to_vec(), values, dtype }))
    };
    file.tensors().into_iter().map(convert).collect()
}
