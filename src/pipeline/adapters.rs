//! Files of LoRA and the networks that they are for.

use crate::device::{Weights, number};
use crate::error::{Result, request};
use crate::weights::{Adapters, Checkpoint, Kind, Layer, Lora};
use std::path::PathBuf;

/// Merges files, each at its scale, into networks, from the next reading of their weights on. What a file adds to a U-Net
/// goes to the first one that it fits as a whole, what it adds to a text encoder likewise.
///
/// Errors: files that are broken or no LoRA; the first tensor of a file that fits nothing in the model.
pub fn merge(files: &[(PathBuf, f32)], networks: &[(Kind, &Weights)]) -> Result<()> {
    let mut places: Vec<(Kind, &Checkpoint, Adapters)> = Vec::new();
    for (kind, weights) in networks {
        let Some(checkpoint) = weights.file() else { continue };
        // Networks may share their weights.
        if !places.iter().any(|(_, other, _)| std::ptr::eq(*other, checkpoint)) {
            places.push((*kind, checkpoint, Adapters::default()));
        }
    }
    for (path, scale) in files {
        if !scale.is_finite() {
            return Err(request!(Lora, OutOfRange, "{}: a scale of {scale}", path.display()));
        }
        let lora = Lora::open(path)?;
        for kind in [Kind::Unet, Kind::Text, Kind::Unsaid] {
            let layers: Vec<&Layer> = lora.layers(kind).collect();
            if layers.is_empty() {
                continue;
            }
            let (place, weights) = place(&lora, &layers, &places, kind)?;
            let (adapters, number) = (&mut places[place].2, number());
            for (layer, weight) in layers.into_iter().zip(weights) {
                adapters.add(weight, number, lora.change(layer, *scale)?);
            }
        }
    }
    for (_, checkpoint, adapters) in places.into_iter().filter(|(_, _, adapters)| !adapters.is_empty()) {
        if !checkpoint.adapt(adapters) {
            return Err(request!(Lora, Conflict, "adapters were merged into this model before"));
        }
    }
    Ok(())
}

/// Which network layers are for, and its weights that they change.
///
/// Errors: none of them; says what does not fit the one that they fit best.
fn place(
    lora: &Lora,
    layers: &[&Layer],
    places: &[(Kind, &Checkpoint, Adapters)],
    kind: Kind,
) -> Result<(usize, Vec<String>)> {
    let mut best = None;
    for (i, (_, checkpoint, _)) in
        places.iter().enumerate().filter(|(_, of)| kind == Kind::Unsaid || of.0 == kind)
    {
        let (mut weights, mut wrong) = (Vec::new(), None);
        for layer in layers {
            match lora.weight(layer, checkpoint) {
                Ok(weight) => weights.push(weight),
                Err(error) => wrong = wrong.or(Some(error)),
            }
        }
        match wrong {
            None => return Ok((i, weights)),
            Some(_) if best.as_ref().is_some_and(|(fits, _)| *fits >= weights.len()) => {}
            Some(error) => best = Some((weights.len(), error)),
        }
    }
    let none = || {
        let what = if kind == Kind::Text { "text encoder" } else { "network" };
        request!(Lora, Unsupported, "the LoRA changes a {what}, and this model has none that takes one")
    };
    Err(best.map_or_else(none, |(_, error)| error))
}
