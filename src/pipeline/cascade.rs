//! The one loop over a run's stages: noise, start, conditions, steps, hand over.

use super::denoiser::distinct;
use super::run::{Run, StageRun};
use super::sampler::{Led, OnStep, StepDone, initial_noise};
use super::stage::{At, Size, Stage};
use super::system::{Conditioner, System};
use crate::device::DeviceTensor;
use crate::diffusion::Noise;
use crate::diffusion::repaint::Kept;
use crate::error::{Result, request};
use crate::models::network::Shape;
use crate::picture::Picture;
use crate::settings::guidance::Guide;
use crate::settings::{DrawnEmbedding, Progress, Settings};

/// Draws the pictures of a run.
///
/// Errors: prompts that cannot be read; a device that fails; a callback or a token that cancels.
pub fn draw(
    system: &dyn System,
    at: At<'_>,
    run: &Run,
    settings: &Settings,
    noise: &mut dyn Noise,
) -> Result<Vec<Picture>> {
    let mut conditioner = system.begin(at, run, settings)?;
    let given: Vec<f32> =
        settings.given_pictures().iter().flat_map(|picture| &picture.values).copied().collect();
    let size = run.begins_at.unwrap_or_default();
    let upload = |given: &[f32]| {
        let values = at.device.tensor(given.len(), false)?;
        values.write(given).map(|()| Drawn { values, size })
    };
    let mut pictures = (!given.is_empty()).then(|| upload(&given)).transpose()?;
    for (i, stage) in run.stages.iter().enumerate() {
        let mut on_step = progress(settings, stage, run.count);
        let Some(of) = stage.stage.filter(|_| !stage.embedding).map(|of| &system.stages()[of]) else {
            // An embedding is no picture to show.
            let mut blind = |step: StepDone<'_>| on_step(StepDone { estimate: None, ..step });
            conditioner.embed(stage, noise, &mut blind)?;
            continue;
        };
        let mut drawing = Drawing { at, settings, stage, of, conditioner: &mut *conditioner };
        let drawn = drawing.draw(pictures.as_ref(), noise, &mut *on_step)?;
        if i + 1 < run.stages.len()
            && let Some(on_stage) = &settings.on_stage
        {
            let finished = finished(system, &drawn, stage.shape)?;
            on_stage.with(|call| call(stage.place, &finished));
        }
        pictures = Some(drawn);
    }
    match (run.stages.last(), &pictures) {
        (Some(last), Some(pictures)) => finished(system, pictures, last.shape),
        _ => Ok(Vec::new()),
    }
}

/// A stage's pictures `[N, h, w, C]` on the device, with width and height.
struct Drawn {
    values: DeviceTensor,
    size: Size,
}

/// Draws the embeddings of a run alone.
///
/// Errors: as [`draw`]'s; a run that draws none.
pub fn embed(
    system: &dyn System,
    at: At<'_>,
    run: &Run,
    settings: &Settings,
    noise: &mut dyn Noise,
) -> Result<Vec<DrawnEmbedding>> {
    let Some(stage) = run.stages.first().filter(|stage| stage.embedding) else {
        return Err(request!(
            Prior,
            Unsupported,
            "no prior draws where embeddings or pictures are given, or the model has none"
        ));
    };
    let mut on_step = progress(settings, stage, run.count);
    system.begin(at, run, settings)?.embed(stage, noise, &mut on_step)
}

/// A stage's pictures as the caller gets them.
fn finished(system: &dyn System, drawn: &Drawn, shape: Shape) -> Result<Vec<Picture>> {
    let (width, height) = drawn.size;
    let mut pictures = Picture::split(&drawn.values.read()?, height, width, shape.channels);
    pictures.iter_mut().for_each(|picture| picture.rounding = system.byte_rounding());
    Ok(pictures)
}

/// A stage's steps as the caller's progress.
pub(crate) fn progress<'a>(settings: &'a Settings, stage: &StageRun, stages: usize) -> Box<OnStep<'a>> {
    let (stage, size) = (stage.place, stage.size());
    Box::new(move |step| {
        let goes_on = !settings.cancel.as_ref().is_some_and(|token| token.is_cancelled());
        let Some(on_progress) = &settings.on_progress else { return goes_on };
        let StepDone { done, steps, estimate } = step;
        on_progress.with(|call| call(Progress { stage, stages, size, done, steps, estimate })) && goes_on
    })
}

/// One stage at work.
struct Drawing<'a> {
    at: At<'a>,
    settings: &'a Settings,
    stage: &'a StageRun,
    of: &'a Stage,
    conditioner: &'a mut dyn Conditioner,
}

impl Drawing<'_> {
    /// The stage's pictures, of those of the stage before.
    fn draw(
        &mut self,
        before: Option<&Drawn>,
        noise: &mut dyn Noise,
        on_step: &mut OnStep<'_>,
    ) -> Result<Drawn> {
        let (stage, of, shape) = (self.stage, self.of, self.stage.shape);
        let mut z = initial_noise(noise, shape);
        self.conditioner.first_noise(stage, &mut z);
        let (start, kept) = self.start(before, z)?;
        let x = self.at.device.tensor(start.len(), false)?;
        x.write(&start)?;
        let mut guides: Vec<Guide> = self.conditioner.guide(stage).into_iter().collect();
        if stage.steered {
            guides.extend(self.settings.guides.iter().cloned());
        }
        let led = Led { scale: stage.guidance_scale, guides: &guides, kept };
        let total = stage.moves();
        let (mut taken, mut done) = (0, 0.0);
        for (network, steps) in of.parts(stage.steps.len()) {
            let mut denoiser =
                network.denoiser(self.at, shape, distinct(&stage.steps[taken..taken + steps]).len())?;
            self.conditioner.condition(stage, &mut denoiser)?;
            if let Some(before) = before.filter(|_| shape.enlarges.is_some()) {
                let mut work = self.at.device.work();
                denoiser.enlarge(&mut work, &before.values, of.handover)?;
                work.submit()?;
            }
            if denoiser.takes("low_res_noise") {
                denoiser.write("low_res_noise", &initial_noise(noise, shape));
                denoiser.write("noise_level", &vec![of.defaults.noise_level as f32; shape.batch()]);
            }
            if let Some(kept) = led.kept.as_ref().filter(|_| denoiser.takes("keep")) {
                denoiser.write("image", &kept.picture);
                denoiser.write("keep", &kept.keep);
            }
            let mut of_all = |step: StepDone<'_>| {
                on_step(StepDone { done: done + step.done, steps: total, estimate: step.estimate })
            };
            denoiser.sample(&stage.steps[taken..taken + steps], &led, noise, &x, &mut of_all)?;
            network.put_back(denoiser);
            taken += steps;
            done += steps as f32;
        }
        Ok(Drawn { values: x, size: stage.size() })
    }

    /// Where the stage begins, from its first noise `z`: the sample before its first step `[N, H, W, C]`, and what is kept
    /// of the picture it begins with.
    ///
    /// Errors: a picture for a model whose pictures have neither 1 nor 3 channels.
    fn start(&self, before: Option<&Drawn>, z: Vec<f32>) -> Result<(Vec<f32>, Option<Kept>)> {
        let Shape { pictures, height, width, .. } = self.stage.shape;
        if self.settings.start.pictures().is_empty() {
            let mut x = z;
            self.stage.scale_first_noise(&mut x);
            return Ok((x, None));
        }
        let picture = self.fitted((width, height))?;
        let mut x = z;
        if self.settings.begun_share() >= 1.0 {
            self.stage.scale_first_noise(&mut x);
        } else if let Some(first) = self.stage.steps.first() {
            let (signal, deviation) = (first.alpha_bar.sqrt() as f32, (1.0 - first.alpha_bar).sqrt() as f32);
            let changed = before.map(|before| self.changed(&picture, before)).transpose()?;
            x.iter_mut()
                .zip(changed.as_ref().unwrap_or(&picture))
                .for_each(|(z, x0)| *z = signal * x0 + deviation * *z);
        }
        let mask = self.settings.start.mask().zip(self.stage.keeps);
        let kept =
            mask.map(|(mask, how)| Kept { picture, keep: mask.keep_at(width, height).repeat(pictures), how });
        Ok((x, kept))
    }

    /// The pictures the run begins at, `[N, H, W, C]`, at a size.
    fn fitted(&self, (width, height): Size) -> Result<Vec<f32>> {
        let (shape, given) = (self.stage.shape, self.settings.start.pictures());
        let mut values = Vec::with_capacity(shape.pictures * height * width * shape.channels);
        for picture in given {
            let picture = picture.fitted(width, height).with_channels(shape.channels).ok_or_else(|| {
                request!(
                    Init,
                    Unsupported,
                    "this model's pictures have {} channels; none can be given to it",
                    shape.channels
                )
            })?;
            values.extend(picture.values);
        }
        Ok(if given.len() == 1 { values.repeat(shape.pictures) } else { values })
    }

    /// The picture the stage begins at, `[N, H, W, C]`, with what the stage before changed in it: that stage's result less
    /// the picture at its size, enlarged.
    fn changed(&self, picture: &[f32], before: &Drawn) -> Result<Vec<f32>> {
        let Drawn { values, size } = before;
        let (shape, was, before) = (self.stage.shape, self.fitted(*size)?, values.read()?);
        // Halved, since enlarging clamps to [-1, 1].
        let change: Vec<f32> = before.iter().zip(&was).map(|(made, was)| (made - was) / 2.0).collect();
        let change = Picture::split(&change, size.1, size.0, shape.channels);
        let enlarged = change.iter().flat_map(|change| change.resized(shape.width, shape.height).values);
        Ok(picture.iter().zip(enlarged).map(|(v, change)| (v + 2.0 * change).clamp(-1.0, 1.0)).collect())
    }
}
