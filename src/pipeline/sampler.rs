//! The loop over a stage's steps: noise in, each step handed to the device while the one before it runs, the last sample
//! out; and the same backwards.

use super::denoiser::Denoiser;
use super::guidance::{Lead, steer};
use super::stepper::{Kind, Leads};
use crate::device::{DeviceTensor, Reading, Ticket, Work};
use crate::diffusion::inversion::SETTLED;
use crate::diffusion::repaint::{Keeping, Kept};
use crate::diffusion::{Noise, Step, channels_last, inverse};
use crate::error::{Error, Result};
use crate::kernels::fixed_point::FOUND;
use crate::models::network::Shape;
use crate::picture::Picture;
use crate::settings::guidance::Guide;
use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, sync_channel};

/// Steps under way at once: one that the device takes, and one behind it.
const UNDER_WAY: usize = 2;
/// The share of a step that is done when only its last, small programs are left.
const NEARLY: f32 = 0.99;
/// Steps for which noise is drawn ahead.
const AHEAD: usize = 2;
/// Largest root mean square by which a step of an inversion may miss its fixed point unsaid.
const FAR: f32 = 0.02;

/// What a step's callback learns.
pub struct StepDone<'a> {
    /// Steps done in this stage.
    pub done: f32,
    /// Steps of this stage.
    pub steps: usize,
    /// Reads the current estimate of the final pictures, x̂₀; only where a step has just been finished.
    pub estimate: Option<&'a mut dyn FnMut() -> Result<Vec<Picture>>>,
}

/// Called several times a step; returning false cancels.
pub type OnStep<'a> = dyn FnMut(StepDone<'_>) -> bool + 'a;

/// What leads a run where the network alone would not go.
#[derive(Default)]
pub struct Led<'a> {
    /// Classifier-free guidance: how far from the unconditional output over the conditional one; 1 is none.
    pub scale: f64,
    /// What steers by gradients.
    pub guides: &'a [Guide],
    /// What is kept of a picture.
    pub kept: Option<Kept>,
}

impl Led<'_> {
    /// Classifier-free guidance alone.
    pub fn classifier_free(scale: f64) -> Self {
        Led { scale, guides: &[], kept: None }
    }

    /// What leads its steps besides the network.
    fn leads(&self) -> Leads {
        Leads::of(!self.guides.is_empty(), self.kept.as_ref().map(|kept| kept.how))
    }
}

/// A stage's initial noise, channels last.
pub fn initial_noise(noise: &mut dyn Noise, shape: Shape) -> Vec<f32> {
    let Shape { pictures, height, width, channels, .. } = shape;
    channels_last(&noise.draw(pictures, channels, height, width), channels, height, width)
}

/// How often a run goes back: a step begins anew where it is not the first.
pub(super) fn jumps(steps: &[Step]) -> usize {
    steps.iter().skip(1).filter(|step| step.begins).count()
}

/// How often a run draws noise: for each step that adds some, each time it goes back, and each picture that is put in.
fn draws(steps: &[Step], puts: bool) -> usize {
    let of = |step: &Step| {
        let put = puts && step.alpha_bar_after < 1.0;
        usize::from(step.draws_noise) + usize::from(put)
    };
    jumps(steps) + steps.iter().map(of).sum::<usize>()
}

impl Denoiser {
    /// [`Denoiser::sample`]s from `start` `[N, H, W, C]`; returns x_0.
    ///
    /// Errors: as [`Denoiser::sample`]'s.
    pub fn sample_from(
        &mut self,
        steps: &[Step],
        led: &Led<'_>,
        noise: &mut dyn Noise,
        start: &[f32],
        on_step: &mut OnStep<'_>,
    ) -> Result<Vec<f32>> {
        let x = self.device().tensor(start.len(), false)?;
        x.write(start)?;
        self.sample(steps, led, noise, &x, on_step)?;
        x.read()
    }

    /// Takes the sample x `[N, H, W, C]`, in f32 on its device, through all steps, in place.
    ///
    /// Errors: a device that fails, or computes what is no number; a callback that cancels; a guidance's own.
    pub fn sample(
        &mut self,
        steps: &[Step],
        led: &Led<'_>,
        noise: &mut dyn Noise,
        x: &DeviceTensor,
        on_step: &mut OnStep<'_>,
    ) -> Result<()> {
        let shape = self.shape();
        let kept = led.kept.as_ref();
        let drawn = draws(steps, kept.is_some_and(|kept| kept.how != Keeping::Estimate));
        // Drawn while the device works, in the order in which it is used.
        std::thread::scope(|scope| {
            let (sender, noises) = sync_channel(AHEAD);
            scope.spawn(move || {
                for _ in 0..drawn {
                    if sender.send(initial_noise(noise, shape)).is_err() {
                        // The run ended early.
                        break;
                    }
                }
            });
            let progress = Progress::new(on_step, shape, steps.len());
            Sampling { work: self.device().work(), denoiser: self, steps, led, noises, progress }.run(x)
        })
    }

    /// The sample before the first of `steps`, DDIM's with η = 0 and no clipping, that ends at pictures `[N, H, W, C]`;
    /// see [`inversion`](crate::diffusion::inversion). Each step is solved by up to `evaluations` of the network.
    ///
    /// Errors: steps that cannot be inverted, a device that fails, a callback that cancels.
    pub fn invert(
        &mut self,
        steps: &[Step],
        guidance_scale: f64,
        evaluations: usize,
        pictures: &[f32],
        on_step: &mut OnStep<'_>,
    ) -> Result<Vec<f32>> {
        let inverses = steps.iter().rev().map(inverse).collect::<Result<Vec<_>>>()?;
        let mut work = self.device().work();
        self.stepper.begin(&mut work, 0, Leads::default())?;
        self.stepper.set_end(&mut work, pictures)?;
        let mut worst: f32 = 0.0;
        for (i, inverse) in inverses.iter().enumerate() {
            self.stepper.set(&mut work, inverse, guidance_scale)?;
            self.stepper.begin_search(&mut work)?;
            let mut off = f32::INFINITY;
            for k in 0..evaluations {
                if off <= SETTLED {
                    break;
                }
                let mut monitor = |share| {
                    let done = i as f32 + (k as f32 + share) / evaluations as f32;
                    on_step(StepDone { done, steps: inverses.len(), estimate: None })
                };
                self.see(&mut work, &inverses[i..], &mut monitor)?;
                self.stepper.advance(&mut work, Kind::of(inverse), &mut monitor)?;
                let found = self.stepper.search(&mut work)?;
                work.finish()?;
                off = found.values()?.chunks_exact(FOUND).map(|of| of[0]).fold(0.0, farther);
            }
            worst = farther(worst, off);
            if !worst.is_finite() {
                return Err(not_a_number("the picture's noise"));
            }
            if !on_step(StepDone { done: (i + 1) as f32, steps: inverses.len(), estimate: None }) {
                return Err(Error::Cancelled);
            }
        }
        if evaluations > 1 && worst > FAR {
            log::warn!(
                "the noise that makes this picture is not found (a step is off by {worst:.2}): take a smaller guidance scale, \
                 or more evaluations"
            );
        }
        self.stepper.answer()?.read()
    }
}

/// The larger of two errors; what is no number is the largest.
fn farther(a: f32, b: f32) -> f32 {
    if a.is_nan() || b.is_nan() { f32::NAN } else { a.max(b) }
}

/// A run of a denoiser.
struct Sampling<'a> {
    work: Work,
    denoiser: &'a mut Denoiser,
    steps: &'a [Step],
    led: &'a Led<'a>,
    noises: Receiver<Vec<f32>>,
    progress: Progress<'a, 'a>,
}

impl Sampling<'_> {
    fn run(mut self, x: &DeviceTensor) -> Result<()> {
        self.begin(x)?;
        for i in 0..self.steps.len() {
            if i > 0 && self.steps[i].begins {
                self.go_back(self.steps[i - 1].alpha_bar_after, self.steps[i].alpha_bar)?;
            }
            self.step(i)?;
            let reading = self.work.read_later(&self.denoiser.stepper.fault)?;
            let ticket = self.work.submit()?;
            let step = Stepped { i, ticket, reading, estimate: self.denoiser.estimate().clone() };
            self.progress.taken(step)?;
        }
        self.work.copy(&self.denoiser.stepper.x, x)?;
        self.work.submit()?;
        self.progress.finish(0)
    }

    fn begin(&mut self, x: &DeviceTensor) -> Result<()> {
        let (work, stepper) = (&mut self.work, &mut self.denoiser.stepper);
        let memory = self.steps.iter().map(|step| step.coefficients.memory_len).max().unwrap_or(0);
        stepper.begin(work, memory, self.led.leads())?;
        work.copy(x, &stepper.x)?;
        match &self.led.kept {
            Some(kept) if kept.how == Keeping::Estimate => stepper.set_known(work, &kept.known()),
            Some(kept) => stepper.set_put(work, &kept.known()),
            None => Ok(()),
        }
    }

    /// Noise that was drawn ahead.
    fn noise(&mut self) -> Result<()> {
        let drawn =
            self.noises.recv().map_err(|_| Error::device("the noise ended early; please report it"))?;
        self.denoiser.stepper.set_noise(&mut self.work, &drawn)
    }

    /// Takes step i: the network, what leads it, the sampler's step, and what is kept of a picture.
    fn step(&mut self, i: usize) -> Result<()> {
        let (step, leads) = (&self.steps[i], self.led.leads());
        let kind = Kind::of(step).led(leads);
        if step.draws_noise {
            self.noise()?;
        }
        self.denoiser.stepper.set(&mut self.work, step, self.led.scale)?;
        let progress = &mut self.progress;
        let seen = self.denoiser.see(&mut self.work, &self.steps[i..], &mut |share| progress.hears(share));
        progress.told(seen)?;
        // The share of the step that guidance takes is not known; the bar waits at its end.
        if leads.steered {
            let held =
                self.denoiser.stepper.advance(&mut self.work, kind.hold(), &mut |_| progress.hears(NEARLY));
            progress.told(held)?;
            let lead = Lead { guides: self.led.guides, step, shape: self.denoiser.shape() };
            let device = self.denoiser.device().clone();
            let steered = steer(&lead, &device, &mut self.denoiser.stepper, &mut self.work, &mut |_| {
                progress.hears(NEARLY)
            });
            progress.told(steered)?;
        }
        let taken = self.denoiser.stepper.advance(&mut self.work, kind, &mut |_| progress.hears(NEARLY));
        progress.told(taken)?;
        match &self.led.kept {
            Some(kept) if kept.how != Keeping::Estimate => self.put(step.alpha_bar_after),
            _ => Ok(()),
        }
    }

    /// Puts the picture, noised to ᾱ, where it is kept.
    fn put(&mut self, alpha_bar: f64) -> Result<()> {
        if alpha_bar < 1.0 {
            self.noise()?;
        }
        let numbers = [1.0, 0.0, alpha_bar.sqrt(), (1.0 - alpha_bar).sqrt()];
        self.denoiser.stepper.renoise(&mut self.work, numbers, true)
    }

    /// Noises the sample from ᾱ `from` to `to`; what was remembered there is of no use here.
    fn go_back(&mut self, from: f64, to: f64) -> Result<()> {
        self.noise()?;
        let numbers = [(to / from).sqrt(), (1.0 - to / from).max(0.0).sqrt(), 0.0, 0.0];
        self.denoiser.stepper.renoise(&mut self.work, numbers, false)?;
        self.denoiser.stepper.forget(&mut self.work)
    }
}

/// A step that was handed over.
struct Stepped {
    /// Which.
    i: usize,
    ticket: Ticket,
    /// Whether anything was no number by then.
    reading: Reading,
    estimate: DeviceTensor,
}

/// What a run's callback is told, in the order of the steps, as the device is done with them.
struct Progress<'a, 'b> {
    on_step: &'a mut OnStep<'b>,
    shape: Shape,
    /// Steps in all, and those that are done.
    total: usize,
    done: usize,
    under_way: VecDeque<Stepped>,
    /// What went wrong where it could only be said that the run ends.
    error: Option<Error>,
}

impl<'a, 'b> Progress<'a, 'b> {
    fn new(on_step: &'a mut OnStep<'b>, shape: Shape, total: usize) -> Self {
        Progress { on_step, shape, total, done: 0, under_way: VecDeque::new(), error: None }
    }

    /// A step was handed over: the one before the last is waited for.
    fn taken(&mut self, step: Stepped) -> Result<()> {
        self.under_way.push_back(step);
        self.finish(UNDER_WAY - 1)
    }

    /// Tells of the steps that are done, and waits until no more than so many are under way.
    fn finish(&mut self, most: usize) -> Result<()> {
        while let Some(step) = self.under_way.front() {
            if self.under_way.len() <= most && !step.ticket.is_done()? {
                break;
            }
            step.ticket.wait()?;
            let Some(step) = self.under_way.pop_front() else { break };
            if step.reading.values()?.iter().any(|fault| *fault != 0.0) {
                return Err(not_a_number(&format!("step {} of {}", step.i + 1, self.total)));
            }
            self.done += 1;
            let Shape { height, width, channels, .. } = self.shape;
            let mut estimate = || Ok(Picture::split(&step.estimate.read()?, height, width, channels));
            let done = StepDone { done: self.done as f32, steps: self.total, estimate: Some(&mut estimate) };
            if !(self.on_step)(done) {
                return Err(Error::Cancelled);
            }
        }
        Ok(())
    }

    /// Hears of the share of a step that is done; false ends the run.
    fn hears(&mut self, share: f32) -> bool {
        if let Err(error) = self.finish(UNDER_WAY) {
            self.error = Some(error);
            return false;
        }
        // The steps before it come first.
        let share = if self.under_way.is_empty() { share } else { 0.0 };
        let done = self.done as f32 + share;
        (self.on_step)(StepDone { done, steps: self.total, estimate: None })
    }

    /// The outcome of work that was heard of: what ended it, if this did.
    fn told(&mut self, outcome: Result<()>) -> Result<()> {
        self.error.take().map_or(outcome, Err)
    }
}

/// Refuses what is no number.
pub(super) fn finite(values: Vec<f32>, what: &str) -> Result<Vec<f32>> {
    if values.iter().all(|v| v.is_finite()) { Ok(values) } else { Err(not_a_number(what)) }
}

fn not_a_number(what: &str) -> Error {
    Error::device(format!(
        "{what} came out as NaN or infinity: these weights are broken, f16 does not hold their values, or the device's \
         arithmetic is at fault"
    ))
}
