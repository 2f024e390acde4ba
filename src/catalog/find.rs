//! Which model folders or files hold, told apart by what lies in them.

use super::adm::{AdmFiles, find_adm, is_adm_folder};
use super::cascade::{
    ImagenFiles, StageFiles, UpsamplerFiles, add_upsamplers, read_cascade, split_upsamplers,
};
use super::defaults::Defaults;
use super::glide::{GlideFiles, find_glide, is_glide};
use super::index::{class_of, stage_defaults, unknown};
use super::options::LoadOptions;
use super::unclip::{UnClipFiles, find_unclip};
use crate::error::{Error, Problem, Result, Setting, request};
use std::path::PathBuf;

/// A model as its files say.
pub(crate) enum Model {
    Ddpm(PathBuf, Defaults),
    Imagen(ImagenFiles),
    Upsampler(Vec<UpsamplerFiles>),
    Adm(AdmFiles),
    Glide(GlideFiles),
    UnClip(Box<UnClipFiles>),
}

impl Model {
    /// Tells what the folders or files hold.
    pub(crate) fn find(paths: &[PathBuf], options: &LoadOptions) -> Result<Model> {
        let [first, ..] = paths else {
            return Err(request!(Model, Missing, "no model is given"));
        };
        let (glide, adm) = (is_glide(first), first.is_file() || is_adm_folder(first));
        if (glide || adm) && options.flags.len() > paths.len() {
            let (given, models) = (options.flags.len(), paths.len());
            return Err(request!(
                Flags,
                Mismatch,
                "flags for {given} models, {models} given: one text for each"
            ));
        }
        if glide {
            return Ok(Model::Glide(find_glide(paths, options)?));
        }
        if adm {
            return Ok(Model::Adm(find_adm(paths, options)?));
        }
        if options.classifier.is_some() || !options.flags.is_empty() {
            let setting = if options.classifier.is_some() { Setting::Classifier } else { Setting::Flags };
            let what = "classifiers and flags are for OpenAI's checkpoints (guided diffusion, GLIDE); this model has none";
            return Err(Error::request(setting, Problem::Unsupported, what));
        }
        let (paths, upsamplers) = split_upsamplers(paths)?;
        if paths.is_empty() {
            return Ok(Model::Upsampler(upsamplers));
        }
        let (alone, cascade) = (paths.len() == 1, first.join("cascade.json"));
        if alone && cascade.exists() {
            let mut files = read_cascade(first, &cascade)?;
            add_upsamplers(&mut files.upsamplers, upsamplers);
            return Ok(Model::Imagen(files));
        }
        let class = class_of(first)?;
        if alone
            && upsamplers.is_empty()
            && matches!(class.as_str(), "DDPMPipeline" | "DDIMPipeline" | "UNet2DModel")
        {
            let defaults = Defaults::of_pipeline(&class).ok_or_else(|| unknown(first, &class))?;
            return Ok(Model::Ddpm(first.clone(), defaults));
        }
        if class.starts_with("UnCLIP") {
            let mut files = find_unclip(paths)?;
            add_upsamplers(&mut files.upsamplers, upsamplers);
            return Ok(Model::UnClip(Box::new(files)));
        }
        let stages: Result<Vec<StageFiles>> = paths
            .iter()
            .map(|folder| Ok(StageFiles { folder: folder.clone(), defaults: stage_defaults(folder)? }))
            .collect();
        Ok(Model::Imagen(ImagenFiles { stages: stages?, upsamplers }))
    }
}
