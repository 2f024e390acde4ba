//! What a run costs, stage by stage as it is resolved; and what a network costs of which there is a config alone.

use super::cost::{NetworkCost, RunCost, Target};
use super::resolve::stage_sizes;
use super::run::Run;
use super::system::System;
use super::text::{MAX_TOKENS, T5Text};
use crate::diffusion::{Coefficients, Row, ScoreShifts, Step, Thresholding, Variance};
use crate::error::{Error, Result, Setting, request};
use crate::graph::Graph;
use crate::models::network::{DenoisingNetwork, Shape};
use crate::models::text_unet::TextUNet;
use crate::models::{ar_prior, prior, t5, unet, unet2d};
use crate::settings::Settings;
use crate::weights::read_json;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;

/// Tokens of a picture's embedding that unCLIP's decoder attends to where nothing says otherwise.
const PICTURE_TOKENS: usize = 4;
/// Most steps a schedule has.
const MAX_STEPS: usize = 1_000_000;

/// What a run costs on `on`: every program that drawing runs, in its order.
///
/// Errors: a guidance without a gradient.
pub fn plan(system: &dyn System, run: &Run, settings: &Settings, on: &Target) -> Result<RunCost> {
    let mut networks = Vec::new();
    for (i, stage) in run.stages.iter().enumerate() {
        networks.extend(system.costs_before(run, i, settings, on));
        let Some(of) = stage.stage.map(|of| &system.stages()[of]) else { continue };
        let mut guides = system.own_guides(run, stage, settings)?;
        let own = guides.len();
        for guide in settings.guides.iter().filter(|guide| stage.steered && guide.weight != 0.0) {
            let graphs =
                guide.guidance.with(|guidance| guidance.graphs(stage.shape.sample(), stage.moves()))?;
            guides.extend(graphs.into_iter().map(|(runs, graph)| ("guidance".to_string(), runs, graph)));
        }
        let callers = settings.guides.iter().filter(|guide| stage.steered && guide.weight != 0.0).count();
        let led = (stage.keeps, (stage.steered || own > 0).then_some(own + callers));
        let mut taken = 0;
        let parts: Vec<_> = of.parts(stage.steps.len()).collect();
        for (k, (network, count)) in parts.iter().enumerate() {
            let name = match (parts.len(), k) {
                (1, _) | (_, 0) => stage.name.clone(),
                _ => format!("{}, last step", stage.name),
            };
            let steps = (stage.shape, &stage.steps[taken..taken + count]);
            networks.push(NetworkCost::of_denoiser(&name, steps, led, network.network(), on));
            taken += count;
        }
        let of_guides = |(name, runs, graph): (String, usize, Graph)| {
            NetworkCost::of_guidance(&name, stage.shape, (runs, graph), on)
        };
        networks.extend(guides.into_iter().map(of_guides));
    }
    Ok(RunCost::new(networks, on.limits.clone()))
}

/// The class of a network's config.
#[derive(Deserialize)]
struct Class {
    #[serde(rename = "_class_name")]
    class_name: Option<String>,
    model_type: Option<String>,
}

/// Plans one network from its `config.json` alone. `layout` may name a listing of its tensors, `{"name": [shape], …}`,
/// which is then compared with what the config says.
///
/// Errors: files that are broken, of an unknown kind or of different networks; sizes the network cannot take.
/// Unset settings are 50 steps and, where the network takes text, guidance with dynamic thresholding.
pub fn plan_network(
    config: &Path,
    layout: Option<&Path>,
    settings: &Settings,
    on: &Target,
) -> Result<RunCost> {
    settings.check()?;
    settings.steps.check(Setting::Steps, "numbers of steps", &["U-Net".into()])?;
    let at = Alone {
        config,
        layout,
        settings,
        on,
        guided: settings.guidance_scale.get(0, "").is_none_or(|s| *s > 1.0),
    };
    let class: Class = read_json(config)?;
    let network = match (class.class_name.as_deref(), class.model_type.as_deref()) {
        (Some("UNet2DConditionModel"), _) => {
            let unet: unet::Config = read_json(config)?;
            unet.validate(config)?;
            let (tokens, dynamic) = match unet.takes_embedding() {
                true => (MAX_TOKENS + PICTURE_TOKENS, false),
                false => (MAX_TOKENS, true),
            };
            at.denoiser(
                "U-Net",
                &TextUNet::new(unet),
                Shape { tokens, guided: at.guided, dynamic, ..Shape::default() },
            )?
        }
        (Some("UNet2DModel"), _) => {
            let unet: unet2d::Config = read_json(config)?;
            unet.validate(config)?;
            at.denoiser("U-Net", &unet, Shape::default())?
        }
        (Some("PriorTransformer"), _) => {
            let prior: prior::Config = read_json(config)?;
            prior.validate(config)?;
            at.has_no_size()?;
            at.denoiser(
                "prior",
                &prior,
                Shape { tokens: prior.num_embeddings, guided: at.guided, ..Shape::default() },
            )?
        }
        (Some("AutoregressivePrior"), _) => {
            let prior: ar_prior::Config = read_json(config)?;
            prior.validate(config)?;
            at.has_no_size()?;
            check_layout(layout, &prior.whole())?;
            NetworkCost::of_tokens(&prior, settings.pictures(), if at.guided { 2 } else { 1 }, at.guided, on)
        }
        (_, Some("t5")) => {
            let encoder: t5::Config = read_json(config)?;
            encoder.validate(config)?;
            check_layout(layout, &t5::graph(&encoder, 1, 2))?;
            NetworkCost::of_text(T5Text::graph(&encoder, 2), on)
        }
        (name, kind) => {
            let found = name.or(kind).unwrap_or("no class");
            let what = format!(
                "`{found}` cannot be planned; UNet2DConditionModel, UNet2DModel, PriorTransformer, AutoregressivePrior and, as \
                 `model_type`, t5 can"
            );
            return Err(Error::config(config, "_class_name", what));
        }
    };
    Ok(RunCost::new(vec![network], on.limits.clone()))
}

/// A network without a model around it.
struct Alone<'a> {
    config: &'a Path,
    layout: Option<&'a Path>,
    settings: &'a Settings,
    on: &'a Target,
    guided: bool,
}

impl Alone<'_> {
    /// The cost of a network that denoises; `shape` says what is special of its run.
    fn denoiser(&self, name: &str, network: &dyn DenoisingNetwork, shape: Shape) -> Result<NetworkCost> {
        const STEPS: usize = 50;
        check_layout(self.layout, &network.smallest())?;
        let steps = self.settings.steps.get(0, "").copied().unwrap_or(STEPS);
        if steps == 0 || steps > MAX_STEPS {
            return Err(request!(Steps, OutOfRange, "{steps} steps: give 1 to {MAX_STEPS}"));
        }
        let (width, height) = stage_sizes(&[network.sides()], self.settings.size)?[0];
        let (pictures, channels) = (self.settings.pictures(), network.sample_channels());
        let enlarges = network.enlarges().then_some(((height / 4).max(1), (width / 4).max(1)));
        let shape = Shape { pictures, height, width, channels, enlarges, ..shape };
        let steps: Vec<Step> = (0..steps).rev().map(any_step).collect();
        Ok(NetworkCost::of_denoiser(name, (shape, &steps), (None, None), network, self.on))
    }

    fn has_no_size(&self) -> Result<()> {
        match self.settings.size {
            None => Ok(()),
            Some((w, h)) => Err(request!(
                Size,
                Unsupported,
                "{w}x{h} pixels for `{}`: a prior draws embeddings",
                self.config.display()
            )),
        }
    }
}

/// A step at a timestep; no cost follows from its numbers.
fn any_step(timestep: usize) -> Step {
    let coefficients = Coefficients {
        x0_x: 1.0,
        x0_out: 0.0,
        eps_x: 0.0,
        eps_out: 1.0,
        next: Row::of(1.0, 0.0, 0.0),
        memory: Default::default(),
        memory_len: 0,
        clip: Thresholding::None,
        variance: Variance::Fixed { sigma: 0.0 },
    };
    let (draws_noise, adds_noise, alpha_bar, score_shifts) = (true, true, 0.5, ScoreShifts::Mean);
    Step {
        step: 0,
        begins: false,
        timestep: timestep as f64,
        coefficients,
        draws_noise,
        adds_noise,
        alpha_bar,
        alpha_bar_after: 1.0,
        start_scale: 1.0,
        score_shifts,
    }
}

/// Compares a listing of names and shapes with what a graph reads.
fn check_layout(layout: Option<&Path>, wanted: &Graph) -> Result<()> {
    let Some(path) = layout else { return Ok(()) };
    let listed: BTreeMap<String, Vec<usize>> = read_json(path)?;
    let wanted: BTreeMap<&str, &[usize]> = wanted.weights().collect();
    for (name, shape) in &wanted {
        match listed.get(*name) {
            Some(found) if found == shape => {}
            found => {
                let found = found.map_or("not listed".into(), |f| format!("listed as {f:?}"));
                let what = format!("the config says {shape:?}, {found}: give the config of this layout");
                return Err(Error::tensor(path, name, what));
            }
        }
    }
    // A tied embedding is saved under a second name.
    let known = |name: &str| wanted.contains_key(name) || name == "encoder.embed_tokens.weight";
    match listed.keys().find(|name| !known(name)) {
        Some(name) => {
            let what =
                "is listed, but the config's network has no such tensor: give the config of this layout";
            Err(Error::tensor(path, name, what))
        }
        None => Ok(()),
    }
}
