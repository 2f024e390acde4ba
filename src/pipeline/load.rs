//! The systems: which one draws what a catalog found. A new one is a file beside this, and its name here.

use super::adapters::merge;
use super::adm::Adm;
use super::ddpm::Ddpm;
use super::glide::Glide;
use super::imagen::Imagen;
use super::system::System;
use super::unclip::UnClip;
use super::upsampler::Upsamplers;
use crate::catalog::{LoadOptions, Model};
use crate::error::Result;
use crate::weights::Kind;
use std::path::PathBuf;
use std::sync::Arc;

/// Reads the model that lies in folders or files, and holds its parts against each other. No weight is read before a run
/// needs it.
///
/// Errors name the file and what is wrong with it: absent, cut short, of another shape, of an unknown kind; adapters that do not fit it.
pub fn load(paths: &[PathBuf], options: &LoadOptions) -> Result<Arc<dyn System>> {
    let variant = options.variant.as_deref();
    let system: Arc<dyn System> = match Model::find(paths, options)? {
        Model::Ddpm(folder, defaults) => Arc::new(Ddpm::load(&folder, defaults)?),
        Model::Imagen(files) => Arc::new(Imagen::load(&files, variant)?),
        Model::Adm(files) => Arc::new(Adm::load(&files)?),
        Model::Glide(files) => Arc::new(Glide::load(&files)?),
        Model::UnClip(files) => Arc::new(UnClip::load(&files, variant)?),
        Model::Upsampler(files) => Arc::new(Upsamplers::load(&files, variant)?),
    };
    let stages = system.stages().iter().flat_map(|stage| &stage.networks);
    let networks = stages.map(|network| (Kind::Unet, &**network.weights()));
    let text = system.text_weights().map(|weights| (Kind::Text, weights));
    merge(&options.loras, &networks.chain(text).collect::<Vec<_>>())?;
    Ok(system)
}
