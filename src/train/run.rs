//! A training run: batches made ahead, steps, checkpoints that appear whole or not at all, the model that comes of it.

use super::optimiser::Optimiser;
use super::parameters::Tensors;
use super::plot::{self, Curve};
use super::task::{Batch, Batches, Maker, Model};
use super::trainer::{Graphs, Options, Report, Trainer};
use crate::device::Device;
use crate::error::{Error, Result, request};
use crate::files::write_whole;
use crate::kernels::Precision;
use crate::train::objective::denoising;
use safetensors::tensor::{Dtype, TensorView};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::sync_channel;
use std::time::Instant;

/// A run's settings.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Where its files go; a run that lies there goes on.
    pub out: PathBuf,
    /// How batches are made.
    pub batches: Batches,
    /// How weights are moved.
    pub optimiser: Optimiser,
    /// Batches of a step.
    pub accumulation: usize,
    /// Most bytes of activations.
    pub budget: Option<u64>,
    /// Faster arithmetic that rounds more.
    pub mixed: bool,
    /// Weights begin anew, from the seed.
    pub from_nothing: bool,
    /// Steps from one checkpoint to the next.
    pub save_every: u64,
}

/// What a run says after each step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// Steps taken.
    pub step: u64,
    /// Of how many.
    pub steps: u64,
    /// The step's loss.
    pub loss: f64,
    /// The norm of its gradients before clipping.
    pub norm: f64,
    /// Pictures a second since the run began here.
    pub rate: f64,
}

/// What a run takes, before it begins.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TrainingCost {
    /// Numbers that are trained.
    pub parameters: u64,
    /// Bytes of weights, as they are and turned for the pass back, of moments and average, of gradients that are added up over
    /// several batches, and of a batch.
    pub state: u64,
    /// Bytes of activations and gradients alive at once.
    pub activations: u64,
    /// Arithmetic of a step.
    pub flops: f64,
}

impl TrainingCost {
    /// All bytes.
    pub fn bytes(&self) -> u64 {
        self.state + self.activations
    }
}

/// What a step of [`train`] will take, from the model's configs alone.
///
/// # Errors
/// As [`train`]'s of the model and the settings.
pub fn training_cost(model: &Path, settings: &Settings) -> Result<TrainingCost> {
    let model = Model::load(model)?;
    let Batches { batch, side, bound, .. } = settings.batches;
    let side = if side == 0 { model.side() } else { side };
    let record = |g: &mut _| denoising(g, model.network(), model.shape(batch, side), bound);
    let graphs = Graphs::new(&options(settings), record, |_| true)?;
    let parameters: u64 = graphs.parameters.iter().map(|p| p.tensor.len() as u64).sum();
    let update = graphs.update.as_ref().map_or(0.0, |graph| graph.cost().flops);
    // What the optimiser alone has of each parameter: moments and average.
    let own = if graphs.update.is_some() { 3 * 4 * parameters } else { 0 };
    Ok(TrainingCost {
        parameters,
        state: graphs.batch.given_bytes(Precision::F32) + own,
        activations: graphs.activations,
        flops: graphs.batch.cost().flops * settings.accumulation as f64 + update,
    })
}

fn options(settings: &Settings) -> Options {
    Options {
        optimiser: settings.optimiser,
        accumulation: settings.accumulation,
        budget: settings.budget,
        mixed: settings.mixed,
        ..Options::default()
    }
}

/// The state's file.
const STATE: &str = "training.safetensors";
/// The losses' picture.
const PLOT: &str = "loss.png";
/// The log's.
const LOG: &str = "loss.csv";
/// The model's folder.
const MODEL: &str = "model";
/// A network's weights.
const WEIGHTS: &str = "diffusion_pytorch_model.safetensors";

/// Trains the model of a folder ([`Model::load`]) until all steps are done, or `watch` says false: then the run is saved
/// and can go on. Writes into the run's folder its state, the losses by step as CSV, and `model`, the folder that
/// [`Engine::load`](crate::Engine::load) reads, with the averaged weights.
///
/// # Errors
/// A model or data that cannot be read; a run of other settings; a disk or device that fails. What was saved stays.
pub fn train(
    model: &Path,
    device: &Device,
    settings: &Settings,
    watch: &mut dyn FnMut(Progress) -> bool,
) -> Result<()> {
    let model = Model::load(model)?;
    let mut settings = settings.clone();
    if settings.batches.side == 0 {
        settings.batches.side = model.side();
    }
    let (settings, out) = (&settings, &settings.out);
    std::fs::create_dir_all(out).map_err(|error| Error::io(out, format!("cannot be made: {error}")))?;
    let Batches { batch, side, bound, seed, .. } = settings.batches;
    if batch == 0 || settings.accumulation == 0 {
        return Err(request!(Count, OutOfRange, "a batch of no picture"));
    }
    let maker = Maker::new(&model, &settings.batches, device)?;
    let shape = model.shape(batch, side);
    let from_nothing = settings.from_nothing.then_some(seed);
    let record = |g: &mut _| denoising(g, model.network(), shape, bound);
    let mut trainer =
        Trainer::new(device, model.weights(), options(settings), record, |_| true, from_nothing)?;
    let state = out.join(STATE);
    let (mut log, mut done) = (String::from("step,loss,norm,rate\n"), 0);
    if state.exists() {
        let (tensors, kept) = read_state(&state)?;
        if let Some(what) = differs(&kept, settings) {
            return Err(Error::io(
                out,
                format!("holds a run that was begun with {what}; give that, or another folder"),
            ));
        }
        trainer.resume(&tensors)?;
        done = kept.get("batches").and_then(|text| text.parse().ok()).unwrap_or(0);
        // What was logged after the state was saved is done once more.
        let lines = std::fs::read_to_string(out.join(LOG)).unwrap_or_default();
        let logged = |line: &&str| line.split(',').next().and_then(|step| step.parse::<u64>().ok());
        let kept = lines.lines().filter(|line| logged(line).is_some_and(|step| step <= trainer.steps()));
        log.extend(kept.map(|line| format!("{line}\n")));
    }
    let save = |trainer: &Trainer, done: u64, log: &str| -> Result<()> {
        // The log first: its lines beyond the state's step are done once more, missing ones would be lost.
        let path = out.join(LOG);
        write_whole(&path, log.as_bytes())
            .map_err(|error| Error::io(&path, format!("cannot be written: {error}")))?;
        let loss = |line: &str| line.split(',').nth(1)?.parse().ok();
        let losses: Vec<f64> = log.lines().filter_map(loss).collect();
        plot::write(&out.join(PLOT), &[Curve { values: &losses, colour: [31, 90, 180] }])?;
        write_state(&state, &trainer.state()?, settings, done)
    };
    let stopped = std::thread::scope(|scope| -> Result<bool> {
        // Batches are made ahead of the steps.
        let (give, take) = sync_channel::<Result<Batch>>(2);
        scope.spawn(move || {
            let mut maker = maker;
            for number in done.. {
                if give.send(maker.batch(number)).is_err() {
                    return;
                }
            }
        });
        let (started, mut seen, mut loss) = (Instant::now(), 0, 0.0);
        while trainer.steps() < settings.optimiser.steps {
            let Ok(batch) = take.recv() else { break };
            let Report { loss: part, norm, .. } = trainer.batch(&batch?)?;
            (done, seen, loss) = (done + 1, seen + settings.batches.batch, loss + part);
            let Some(norm) = norm else { continue };
            let step = trainer.steps();
            let loss = std::mem::take(&mut loss) / settings.accumulation as f64;
            let rate = settings.optimiser.rate_at(step.saturating_sub(1));
            log.push_str(&format!("{step},{loss:.6},{norm:.5},{rate:.3e}\n"));
            let progress = Progress {
                step,
                steps: settings.optimiser.steps,
                loss,
                norm,
                rate: seen as f64 / started.elapsed().as_secs_f64(),
            };
            let goes_on = watch(progress);
            if !goes_on || step % settings.save_every.max(1) == 0 {
                save(&trainer, done, &log)?;
            }
            if !goes_on {
                return Ok(true);
            }
        }
        drop(take);
        Ok(false)
    })?;
    if stopped {
        return Ok(());
    }
    save(&trainer, done, &log)?;
    export(&model, &trainer.averages()?, &out.join(MODEL))
}

/// The settings that a run's numbers depend on, as its state keeps them.
fn written(settings: &Settings) -> Vec<(String, String)> {
    let (b, o) = (&settings.batches, &settings.optimiser);
    let kept: [(&str, &dyn std::fmt::Debug); 20] = [
        ("data", &b.data),
        ("batch", &b.batch),
        ("side", &b.side),
        ("flip", &b.flip),
        ("caption dropout", &b.caption_dropout),
        ("weighting", &b.weighting),
        ("bound", &b.bound),
        ("seed", &b.seed),
        ("rate", &o.rate),
        ("schedule", &o.schedule),
        ("warmup", &o.warmup),
        ("steps", &o.steps),
        ("beta1", &o.beta1),
        ("beta2", &o.beta2),
        ("eps", &o.eps),
        ("weight decay", &o.decay),
        ("clip", &o.clip),
        ("average", &o.average),
        ("accumulation", &settings.accumulation),
        ("mixed", &settings.mixed),
    ];
    kept.into_iter().map(|(name, value)| (name.to_string(), format!("{value:?}"))).collect()
}

/// The first setting in which a run that was saved differs.
fn differs(kept: &HashMap<String, String>, settings: &Settings) -> Option<String> {
    written(settings).into_iter().find_map(|(name, now)| match kept.get(&name) {
        Some(before) if *before == now => None,
        Some(before) => Some(format!("{name} {before}, not {now}")),
        None => Some(format!("no {name}")),
    })
}

fn read_state(path: &Path) -> Result<(Tensors, HashMap<String, String>)> {
    let bytes = std::fs::read(path).map_err(|error| Error::io(path, format!("cannot be read: {error}")))?;
    let broken = |error: safetensors::SafeTensorError| Error::file(path, error);
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).map_err(broken)?;
    let tensors = safetensors::SafeTensors::deserialize(&bytes).map_err(broken)?;
    let values = |view: &TensorView<'_>| {
        view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
    };
    let named = tensors.tensors().into_iter();
    let tensors = named.map(|(name, view)| (name, (view.shape().to_vec(), values(&view)))).collect();
    Ok((tensors, header.metadata().clone().unwrap_or_default()))
}

fn write_state(path: &Path, tensors: &Tensors, settings: &Settings, batches: u64) -> Result<()> {
    let mut kept: HashMap<String, String> = written(settings).into_iter().collect();
    kept.insert("batches".into(), batches.to_string());
    write_tensors(path, tensors, Some(kept))
}

fn write_tensors(path: &Path, tensors: &Tensors, kept: Option<HashMap<String, String>>) -> Result<()> {
    let cannot = |error: safetensors::SafeTensorError| Error::file(path, error);
    let views = tensors.iter().map(|(name, (shape, values))| {
        let view = TensorView::new(Dtype::F32, shape.clone(), bytemuck::cast_slice(values))?;
        Ok((name.as_str(), view))
    });
    let views = views.collect::<Result<Vec<_>, safetensors::SafeTensorError>>().map_err(cannot)?;
    let bytes = safetensors::serialize(views, kept).map_err(cannot)?;
    write_whole(path, &bytes).map_err(|error| Error::io(path, format!("cannot be written: {error}")))
}

/// Copies a model's folder with other weights of its network.
fn export(model: &Model, weights: &Tensors, to: &Path) -> Result<()> {
    let network = model.folder.join(&model.network);
    copy(&model.folder, to, &|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // The weights that were, in whatever files.
        path.parent() == Some(&*network) && name.starts_with("diffusion_pytorch_model")
    })?;
    write_tensors(&to.join(&model.network).join(WEIGHTS), weights, None)
}

fn copy(from: &Path, to: &Path, but: &dyn Fn(&Path) -> bool) -> Result<()> {
    let cannot = |path: &Path| {
        let path = path.to_path_buf();
        move |error: std::io::Error| Error::io(&path, format!("cannot be copied: {error}"))
    };
    std::fs::create_dir_all(to).map_err(cannot(to))?;
    for entry in std::fs::read_dir(from).map_err(cannot(from))? {
        let path = entry.map_err(cannot(from))?.path();
        let target = to.join(path.file_name().unwrap_or_default());
        // A run's folder may lie inside the model's.
        if but(&path) || to.starts_with(&path) {
            continue;
        }
        if path.is_dir() {
            copy(&path, &target, but)?;
        } else {
            std::fs::copy(&path, &target).map_err(cannot(&path))?;
        }
    }
    Ok(())
}
