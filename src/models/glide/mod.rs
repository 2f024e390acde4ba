//! GLIDE (Nichol et al. 2021, arXiv:2112.10741): the U-Net of [`adm`](super::adm) with a transformer of the prompt's
//! tokens inside, whose states every attention block sees; alone, for pictures to enlarge, and for pictures of which a
//! part is known.

mod flags;
mod text;
mod unet;

pub use flags::PRESETS;
pub use text::Config as TextConfig;
pub use unet::{Config, Inputs};
