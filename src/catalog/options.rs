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
    /// Bytes that weights and programs may take on the device; what was used least recently goes where more is needed.
    /// The budget is the device's: all engines on it share it, and the last one given holds. Unset leaves it as it is: on
    /// the CPU what is free at the time less a sixteenth, on a GPU seven eighths of its memory, or 6 GB where the driver
    /// does not say.
    pub memory: Option<u64>,
    /// Guided diffusion: the classifier's checkpoint; unset takes the one beside the model, if there is one.
    pub classifier: Option<PathBuf>,
    /// Guided diffusion and GLIDE: flags of each model, as OpenAI's command lines have them, which go before all that is
    /// found out: `--attention_resolutions 32,16,8 --num_heads 4`.
    pub flags: Vec<String>,
    /// Files of LoRA, each with the scale at which it is merged into the weights as they are read: diffusers', peft's or
    /// kohya's. A file's U-Net part goes to the first stage that it fits as a whole.
    pub loras: Vec<(PathBuf, f32)>,
}

impl LoadOptions {
    /// A hardware GPU if there is one, else the CPU; full precision files.
    pub fn new() -> Self {
        Self::default()
    }
}
