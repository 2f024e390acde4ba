//! Trajectories: every step by itself from the stored sample, then all of them from the first.

use crate::golden::case::{Case, Checked, Tensor, Tensors, need, text};
use crate::golden::report::{Limit, Report};
use ancestral::internals::diffusion::{Sampler, SchedulerConfig, Step, Variance, steps};
use ancestral::internals::models::network::Shape;
use ancestral::internals::pipeline::denoiser::Denoiser;
use ancestral::internals::pipeline::sampler::Led;
use ancestral::{Noise, Picture, Thresholding};
use std::collections::VecDeque;

/// A stored run.
pub struct Run {
    /// The golden file's name without its ending.
    pub name: String,
    /// The stored tensors.
    pub tensors: Tensors,
    /// The steps by the scheduler.
    pub steps: Vec<Step>,
    /// Their sampler.
    pub sampler: Sampler,
    /// Guidance scale; 1 is none.
    pub guidance_scale: f64,
    /// Sizes.
    pub shape: Shape,
    spreads: Vec<f64>,
    forward: f64,
}

/// Noise that was stored: each draw is the next tensor.
pub struct Stored(VecDeque<Vec<f32>>);

impl Stored {
    /// These draws.
    pub fn new(draws: impl IntoIterator<Item = Vec<f32>>) -> Self {
        Stored(draws.into_iter().collect())
    }

    /// One's draws after another's.
    pub fn joined(parts: impl IntoIterator<Item = Stored>) -> Self {
        Stored(parts.into_iter().flat_map(|part| part.0).collect())
    }
}

impl Noise for Stored {
    fn draw(&mut self, pictures: usize, channels: usize, height: usize, width: usize) -> Vec<f32> {
        let len = pictures * channels * height * width;
        // More draws than the reference made: NaN turns every check red.
        self.0.pop_front().unwrap_or_else(|| vec![f32::NAN; len])
    }

    fn uniform(&mut self, pictures: usize, count: usize) -> Vec<f32> {
        self.draw(pictures, count, 1, 1)
    }
}

impl Run {
    /// A golden file with `x` and `timesteps`, under the scheduler with the sampler that `what` names.
    pub fn new(
        case: &Case,
        (file, what): (&str, &str),
        scheduler: &SchedulerConfig,
        guidance_scale: f64,
    ) -> Checked<Run> {
        let tensors = case.read(file)?;
        let name = file.trim_end_matches(".safetensors");
        let count = need(&tensors, "timesteps")?.values.len();
        let mut scheduler = scheduler.clone();
        if let Some(eta) = eta(what) {
            scheduler.sampler = Sampler::Ddim { eta };
        }
        let tokens = tensors.get("prompt_embeds").map_or(0, |embeds| embeds.shape[1]);
        let spreads = (case.spreads(name, count)?, case.spread("forward")?);
        Run::of(name, tensors, &scheduler, (guidance_scale, tokens), spreads)
    }

    /// The tensors of a run whose network reads so many tokens, with the spreads of its x and of one forward.
    pub fn of(
        name: &str,
        tensors: Tensors,
        scheduler: &SchedulerConfig,
        (guidance_scale, tokens): (f64, usize),
        (spreads, forward): (Vec<f64>, f64),
    ) -> Checked<Run> {
        let name = name.to_string();
        let x = need(&tensors, "x")?;
        let count = need(&tensors, "timesteps")?.values.len();
        let [pictures, channels, height, width] = x.at(0).picture()?;
        if x.shape[0] != count + 1 {
            return Err(format!("{name}: {} samples for {count} steps", x.shape[0]));
        }
        let sampler = scheduler.sampler;
        let steps = steps(scheduler, &sampler, count).map_err(text)?;
        let guided = guidance_scale > 1.0 && tokens > 0;
        let dynamic = steps.iter().any(|step| matches!(step.coefficients.clip, Thresholding::Dynamic { .. }));
        let enlarges = tensors.get("low_res").map(Tensor::picture).transpose()?.map(|[_, _, h, w]| (h, w));
        let shape = Shape { pictures, height, width, channels, enlarges, tokens, guided, dynamic };
        Ok(Run { name, tensors, steps, sampler, guidance_scale, shape, spreads, forward })
    }

    fn x(&self, i: usize) -> Tensor {
        self.tensors["x"].at(i)
    }

    /// Stored noise of step `i`; zeros where the run stored none.
    fn noise(&self, i: usize) -> Vec<f32> {
        let stored = self.tensors.get("noise").map(|noise| noise.at(i).channels_last());
        stored.unwrap_or_else(|| vec![0.0; self.x(i).values.len()])
    }

    /// The draws of a whole run in their order, of one picture or of all: the start, `between`, the steps'.
    pub fn draws(&self, picture: Option<usize>, between: Option<&Tensor>) -> Stored {
        let of = |tensor: Tensor| picture.map_or_else(|| tensor.values.clone(), |i| tensor.at(i).values);
        let mut draws = VecDeque::from([of(self.x(0))]);
        draws.extend(between.map(|tensor| of(tensor.clone())));
        for (i, _) in self.steps.iter().enumerate().filter(|(_, step)| step.draws_noise) {
            draws.extend(self.tensors.get("noise").map(|noise| of(noise.at(i))));
        }
        Stored(draws)
    }

    /// Timesteps, every step from the stored samples, and the run from the first of them.
    pub fn check(&self, denoiser: &mut Denoiser, report: &mut Report) -> Checked {
        self.check_with_last(denoiser, None, report)
    }

    /// [`Run::check`] where the last step may be another network's.
    pub fn check_with_last(
        &self,
        denoiser: &mut Denoiser,
        mut last: Option<&mut Denoiser>,
        report: &mut Report,
    ) -> Checked {
        let end = self.steps.len() - 1;
        let found: Vec<f32> = self.steps.iter().map(|step| step.timestep as f32).collect();
        report.equal(&format!("{} timesteps", self.name), &found, &self.tensors["timesteps"].values);
        if self.steps.iter().any(|step| step.coefficients.memory_len > 0) {
            return self.check_remembering(denoiser, report);
        }
        for i in 0..=end {
            let denoiser = last.as_deref_mut().filter(|_| i == end).unwrap_or(&mut *denoiser);
            self.check_step(i, denoiser, report)?;
        }
        let mut x = self.x(0).channels_last();
        for (i, step) in self.steps.iter().enumerate() {
            let denoiser = last.as_deref_mut().filter(|_| i == end).unwrap_or(&mut *denoiser);
            denoiser.write("x", &x);
            denoiser.step(step, self.guidance_scale, &self.noise(i), &mut |_| true).map_err(text)?;
            x = denoiser.sample_now().read().map_err(text)?;
            let what = format!("{} free x[{}]", self.name, i + 1);
            report.golden(&what, &x, &self.x(i + 1), Limit::run(self.spreads[i + 1]));
        }
        Ok(())
    }

    /// The run from the first sample up to each of the others, since none of them says what was remembered there.
    fn check_remembering(&self, denoiser: &mut Denoiser, report: &mut Report) -> Checked {
        let led = Led::classifier_free(self.guidance_scale);
        for i in 0..self.steps.len() {
            let mut noise = Stored::new((0..=i).map(|i| self.noise(i)));
            let start = self.x(0).channels_last();
            let steps = &self.steps[..=i];
            let x = denoiser.sample_from(steps, &led, &mut noise, &start, &mut |_| true).map_err(text)?;
            let what = format!("{} free x[{}]", self.name, i + 1);
            report.golden(&what, &x, &self.x(i + 1), Limit::run(self.spreads[i + 1]));
        }
        Ok(())
    }

    fn check_step(&self, i: usize, denoiser: &mut Denoiser, report: &mut Report) -> Checked {
        let (x, step) = (self.x(i).channels_last(), &self.steps[i]);
        denoiser.write("x", &x);
        denoiser.step(step, self.guidance_scale, &self.noise(i), &mut |_| true).map_err(text)?;
        let out = denoiser.program().read("out").map_err(text)?;
        let [x, x0] = [denoiser.sample_now(), denoiser.estimate()].map(|value| value.read().map_err(text));
        let (x, x0) = (x?, x0?);
        let at = |what: &str| format!("{} step {i} {what}", self.name);
        let spread = self.spreads[i + 1];
        report.golden(&at("x"), &x, &self.x(i + 1), Limit::once(spread));
        // The manifest states x's spread. What x is made of gets the larger of the forward's and of x's own, both taken
        // back or forth through the step's factors; u + w (c - u) counts errors of the halves |1 - w| and w times.
        let c = &step.coefficients;
        let gain = if self.shape.guided { 2.0 * self.guidance_scale - 1.0 } else { 1.0 };
        let of_out = (c.next.x0 * c.x0_out + c.next.eps * c.eps_out).abs();
        let guided = (self.forward * gain).max(spread / of_out);
        let stored = |name: &str| self.tensors.get(name).filter(|all| i < all.shape[0]).map(|all| all.at(i));
        // Of the first steps only.
        if let Some(golden) = stored("net_out") {
            report.golden(&at("net_out"), &out, &golden, Limit::once(guided / gain));
        }
        let limit = Limit::once(guided);
        // An unguided network's own output says the same.
        if stored("model_output").is_some() || stored("net_out").is_none() {
            report.held(&at("model_output"), &self.guide(&out), stored("model_output").as_ref(), limit);
        }
        let limit = Limit::once((guided * c.x0_out.abs()).max(spread));
        report.held(&at("pred_x0"), &x0, stored("pred_x0").as_ref(), limit);
        Ok(())
    }

    /// What the scheduler gets: the guided prediction, with the conditional half's variance channels.
    fn guide(&self, out: &[f32]) -> Vec<f32> {
        if !self.shape.guided {
            return out.to_vec();
        }
        let (u, c) = out.split_at(out.len() / 2);
        let pixels = self.shape.pictures * self.shape.height * self.shape.width;
        let (channels, of_x) = (c.len() / pixels, self.shape.channels);
        let w = self.guidance_scale as f32;
        u.iter()
            .zip(c)
            .enumerate()
            .map(|(i, (u, c))| if i % channels < of_x { u + w * (c - u) } else { *c })
            .collect()
    }

    /// What a whole system drew, against the last sample and the pictures' bytes. `picture` chooses one.
    pub fn check_pictures(&self, what: &str, found: &[Picture], picture: Option<usize>, report: &mut Report) {
        let spread = self.spreads[self.steps.len()];
        let item = |values: Vec<f32>| {
            let size = values.len() / self.shape.pictures;
            picture.map_or_else(|| values.clone(), |i| values[i * size..(i + 1) * size].to_vec())
        };
        let last = item(self.x(self.steps.len()).channels_last());
        let values: Vec<f32> = found.iter().flat_map(|picture| picture.values.clone()).collect();
        report.compare(&format!("{} {what}", self.name), &values, &last, Limit::run(spread));
        // Of a run of several stages only the last one's pictures become bytes.
        if let Some(golden) = self.tensors.get("image_u8") {
            let bytes: Vec<f32> = found.iter().flat_map(Picture::to_bytes).map(f32::from).collect();
            let what = format!("{} {what} bytes", self.name);
            report.compare(&what, &bytes, &item(golden.values.clone()), Limit::bytes(spread));
        }
    }

    /// How far its last sample may be off where it ran on its own.
    pub fn limit(&self) -> Limit {
        Limit::run(self.spreads[self.steps.len()])
    }

    /// Whether σ of any step comes from the network.
    pub fn learns_variance(&self) -> bool {
        self.steps.iter().any(|step| !matches!(step.coefficients.variance, Variance::Fixed { .. }))
    }
}

/// "DDIM, 10 steps, eta 0.7, …" names DDIM's η.
pub fn eta(what: &str) -> Option<f64> {
    let rest = what.split_once("eta ")?.1;
    rest.split([',', ' ']).next()?.parse().ok()
}
