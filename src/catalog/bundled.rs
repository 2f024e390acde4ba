//! Models that come with the program: beside it, in the user's data folder, or in the program itself.

use crate::error::{Result, request};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Models that come with the program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Bundled {
    /// A cascade that draws simple scenes by a prompt.
    #[default]
    Imagen,
    /// An unconditional model of single objects and a noisy classifier that steers it.
    Adm,
    /// A prior and a decoder that draw the same scenes by CLIP's embeddings, and so vary and mix pictures.
    UnClip,
}

/// A bundled model's folder.
pub(crate) fn bundled_model(which: Bundled) -> Result<PathBuf> {
    match which {
        Bundled::Imagen => {
            bundled_folder("scenes", "cascade.json").or_else(|error| embedded::scenes().unwrap_or(Err(error)))
        }
        Bundled::Adm => bundled_folder("adm-scenes", "config.json"),
        Bundled::UnClip => bundled_folder("unclip-scenes", "model_index.json"),
    }
}

/// A folder that comes with the program and holds `file`: in `$ANCESTRAL_MODELS`, in `models` here or beside the program, or
/// in the user's data folder.
pub(crate) fn bundled_folder(folder: &str, file: &str) -> Result<PathBuf> {
    let mut places: Vec<PathBuf> =
        std::env::var_os("ANCESTRAL_MODELS").map(PathBuf::from).into_iter().collect();
    places.push("models".into());
    if let Ok(program) = std::env::current_exe() {
        places.extend(program.ancestors().skip(1).take(4).map(|p| p.join("models")));
    }
    places.extend(dirs::data_dir().map(|data| data.join("ancestral/models")));
    let found = places.iter().map(|p| p.join(folder)).find(|p| p.join(file).exists());
    found.ok_or_else(|| {
        request!(Model, Missing, "the bundled model `{folder}` is not found: it lies in the repository's models folder, which ANCESTRAL_MODELS may \
             name")
    })
}

/// The default model as a part of the program.
#[cfg(feature = "bundled")]
mod embedded {
    use crate::error::{Error, Result};
    use crate::files::write_whole;
    use std::path::{Path, PathBuf};

    macro_rules! files {
        ($($name:literal),* $(,)?) => {
            &[$(($name, include_bytes!(concat!("../../models/", $name)))),*]
        };
    }

    /// The cascade, and the upsampler that it names beside itself.
    const SCENES: &[(&str, &[u8])] = files![
        "scenes/cascade.json",
        "scenes/stage_1/model_index.json",
        "scenes/stage_1/scheduler/scheduler_config.json",
        "scenes/stage_1/text_encoder/config.json",
        "scenes/stage_1/text_encoder/model.safetensors",
        "scenes/stage_1/tokenizer/special_tokens_map.json",
        "scenes/stage_1/tokenizer/spiece.model",
        "scenes/stage_1/tokenizer/tokenizer_config.json",
        "scenes/stage_1/unet/config.json",
        "scenes/stage_1/unet/diffusion_pytorch_model.safetensors",
        "scenes/stage_2/image_noising_scheduler/scheduler_config.json",
        "scenes/stage_2/model_index.json",
        "scenes/stage_2/scheduler/scheduler_config.json",
        "scenes/stage_2/unet/config.json",
        "scenes/stage_2/unet/diffusion_pytorch_model.safetensors",
        "upsampler-scenes/config.json",
        "upsampler-scenes/diffusion_pytorch_model.safetensors",
        "upsampler-scenes/model_index.json",
        "upsampler-scenes/scheduler/scheduler_config.json",
    ];

    /// Its folder in the user's cache (or, where that cannot be written, among the temporary files), unpacked when it is
    /// first asked for, so that its weights are mapped like any other model's.
    pub fn scenes() -> Option<Result<PathBuf>> {
        let own = std::env::var_os("ANCESTRAL_CACHE_DIR").map(PathBuf::from);
        let cache = own.or_else(|| dirs::cache_dir().map(|cache| cache.join("ancestral")));
        let temporary = std::env::temp_dir().join("ancestral");
        let name = format!("scenes-{:016x}", fingerprint());
        let mut found = None;
        for folder in cache.into_iter().chain([temporary]) {
            let unpacked = unpack(&folder.join("models").join(&name));
            if unpacked.is_ok() {
                return Some(unpacked);
            }
            found.get_or_insert(unpacked);
        }
        found
    }

    fn unpack(folder: &Path) -> Result<PathBuf> {
        for (name, bytes) in SCENES {
            let path = folder.join(name);
            // The folder of temporary files is open to others.
            if std::fs::read(&path).is_ok_and(|found| found == *bytes) {
                continue;
            }
            let parent = path.parent().unwrap_or(folder);
            std::fs::create_dir_all(parent).map_err(|error| Error::io(parent, error))?;
            write_whole(&path, bytes).map_err(|error| Error::io(&path, error))?;
        }
        Ok(folder.join("scenes"))
    }

    /// Tells one build's model from another's (FNV-1a).
    fn fingerprint() -> u64 {
        let all = SCENES.iter().flat_map(|(_, bytes)| bytes.iter().step_by(31).chain(bytes.last()));
        all.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
    }
}

#[cfg(not(feature = "bundled"))]
mod embedded {
    use crate::error::Result;
    use std::path::PathBuf;

    /// This program was built without it.
    pub fn scenes() -> Option<Result<PathBuf>> {
        None
    }
}
