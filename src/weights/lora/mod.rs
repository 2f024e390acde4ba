//! Files of LoRA (Hu et al. 2021, arXiv:2106.09685): to a weight `W` of `[O, …]` is added `s · α / r · B A`, where `A`
//! (`down`) has `r` rows and `B` (`up`) `r` columns. Those of diffusers, peft and kohya's scripts, for matrices and for
//! convolutions.

mod config;
mod names;

pub use names::Kind;

use super::adapter::Change;
use super::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::graph::Repack;
use config::Configs;
use names::{Module, Role, other_kind, read_key};
use std::collections::BTreeMap;
use std::path::Path;

/// A file of LoRA.
#[derive(Debug)]
pub struct Lora {
    file: Checkpoint,
    layers: Vec<Layer>,
}

/// What a file adds to one layer.
#[derive(Debug)]
pub struct Layer {
    /// Which network it is for.
    pub kind: Kind,
    module: Module,
    /// The factors' names in the file.
    down: String,
    up: String,
    /// α / r, or α / √r.
    scale: f32,
}

/// The names that a layer's tensors have in the file.
#[derive(Default)]
struct Found {
    down: Option<String>,
    up: Option<String>,
    alpha: Option<String>,
}

impl Lora {
    /// Opens a file.
    ///
    /// Errors: it is broken, or of another kind of adapter, which is named; a tensor that is none of a LoRA's; a factor
    /// without the other one.
    pub fn open(path: &Path) -> Result<Lora> {
        let file = Checkpoint::open_file(path)?;
        let mut found: BTreeMap<(Kind, Module), Found> = BTreeMap::new();
        for name in file.names() {
            if let Some(kind) = other_kind(name) {
                let what = format!("is of {kind}, which is not read; only LoRA is");
                return Err(Error::tensor(path, name, what));
            }
            let Some(key) = read_key(name) else {
                let what = "is no part of a LoRA: neither a factor nor an alpha in any known spelling";
                return Err(Error::tensor(path, name, what));
            };
            let found = found.entry((key.kind, key.module)).or_default();
            let place = match key.role {
                Role::Down => &mut found.down,
                Role::Up => &mut found.up,
                Role::Alpha => &mut found.alpha,
            };
            if let Some(other) = place.replace(name.to_string()) {
                return Err(Error::tensor(path, name, format!("is said twice: `{other}` is the same")));
            }
        }
        if found.is_empty() {
            return Err(Error::file(path, "holds no tensors: expected a LoRA"));
        }
        let configs = Configs::of(&file)?;
        let layer = |((kind, module), found)| Layer::new(&file, &configs, (kind, module), found);
        let layers = found.into_iter().map(layer).collect::<Result<_>>()?;
        Ok(Lora { file, layers })
    }

    /// What it adds to the layers of one kind of network.
    pub fn layers(&self, kind: Kind) -> impl Iterator<Item = &Layer> {
        self.layers.iter().filter(move |layer| layer.kind == kind)
    }

    /// The model's weight that a layer of the file changes.
    ///
    /// Errors: the model has no such weight, or one of another shape.
    pub fn weight(&self, layer: &Layer, model: &Checkpoint) -> Result<String> {
        let wrong = |what: String| Error::tensor(self.file.path(), &layer.down, what);
        let weight = layer.module.weight_in(model).ok_or_else(|| {
            let model = model.path().display();
            wrong(format!("fits nothing in {model}: is the LoRA of another model?"))
        })?;
        let shape = model.shape(&weight).unwrap_or_default();
        let (down, up) = (self.shape(&layer.down), self.shape(&layer.up));
        // [O, I, …] by [r, I, …] and [O, r, 1, …]; of a 1×1 convolution the ones may be left out.
        let trimmed = |shape: &[usize]| {
            let ones = shape.iter().skip(2).rev().take_while(|n| **n == 1).count();
            shape[..shape.len() - ones].to_vec()
        };
        let fits = match (&trimmed(shape)[..], &trimmed(down)[..], &trimmed(up)[..]) {
            ([o, rest @ ..], [r, columns @ ..], [rows, rank]) => {
                o == rows && r == rank && rest == columns && !rest.is_empty()
            }
            _ => false,
        };
        if !fits {
            let what = format!("factors of shapes {down:?} and {up:?} do not fit `{weight}` of {shape:?}");
            return Err(wrong(format!("{what}: is the LoRA of another model?")));
        }
        Ok(weight)
    }

    /// What is added to a layer's weight at a scale.
    ///
    /// Errors: factors of a type that is no float's.
    pub fn change(&self, layer: &Layer, scale: f32) -> Result<Change> {
        let read = |name: &str| self.file.read(name, Repack::None);
        let rank = self.shape(&layer.down).first().copied().unwrap_or(0);
        Ok(Change { scale: scale * layer.scale, rank, down: read(&layer.down)?, up: read(&layer.up)? })
    }

    fn shape(&self, name: &str) -> &[usize] {
        self.file.shape(name).unwrap_or_default()
    }
}

impl Layer {
    fn new(
        file: &Checkpoint,
        configs: &Configs,
        (kind, module): (Kind, Module),
        found: Found,
    ) -> Result<Layer> {
        let (down, up) = match (found.down, found.up) {
            (Some(down), Some(up)) => (down, up),
            (Some(one), None) | (None, Some(one)) => {
                return Err(Error::tensor(file.path(), one, "has no counterpart: a LoRA has two factors"));
            }
            (None, None) => {
                let name = found.alpha.unwrap_or_default();
                return Err(Error::tensor(file.path(), name, "is the alpha of a layer without factors"));
            }
        };
        let rank = file.shape(&down).and_then(|shape| shape.first()).copied().unwrap_or(0);
        let scale = match found.alpha {
            Some(name) => {
                let alpha = file.read(&name, Repack::None)?;
                let [alpha] = alpha[..] else {
                    let what = format!("has {} values; an alpha is one", alpha.len());
                    return Err(Error::tensor(file.path(), name, what));
                };
                alpha / rank as f32
            }
            None => configs.scale(kind, &module, rank),
        };
        if !scale.is_finite() {
            return Err(Error::tensor(file.path(), down, format!("has a scale of {scale}")));
        }
        Ok(Layer { kind, module, down, up, scale })
    }
}
