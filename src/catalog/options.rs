//! How a model is loaded.

use crate::device::DeviceChoice;
use crate::kernels::Precision;
use std::path::PathBuf;

/// How a model is loaded.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// Where it runs.
    pub device: DeviceChoice,
    /// Which files of a folder: `fp16`, or none for full precision.
    pub variant: Option<String>,
    /// Storage on a GPU; unset takes what serves the device best.
    pub precision: Option<Precision>,
    /// Guided diffusion: the classifier's checkpoint; unset takes the one beside the model, if there is one.
    pub classifier: Option<PathBuf>,
    /// Guided diffusion and GLIDE: flags of each model, as OpenAI's command lines have them, which go before all that is
    /// found out: `--attention_resolutions 32,16,8 --num_heads 4`.
    pub flags: Vec<String>,
}

impl LoadOptions {
    /// A hardware GPU if there is one, else the CPU; full precision files.
    pub fn new() -> Self {
        Self::default()
    }
}
