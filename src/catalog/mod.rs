//! Which files make a model: the folders people have, told apart by their JSON; and the models that come with the program.

mod adm;
mod bundled;
mod cascade;
mod defaults;
mod find;
mod glide;
mod index;
mod options;
mod unclip;

pub(crate) use adm::{AdmFile, AdmFiles};
pub use bundled::Bundled;
pub(crate) use bundled::{bundled_folder, bundled_model};
pub(crate) use cascade::{ImagenFiles, UpsamplerFiles, read_upsampler};
pub(crate) use defaults::Defaults;
pub(crate) use find::Model;
pub(crate) use glide::GlideFiles;
pub use options::LoadOptions;
pub(crate) use unclip::UnClipFiles;
