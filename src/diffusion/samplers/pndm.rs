//! PNDM and PLMS (Liu et al. 2022, arXiv:2202.09778): the network's output is a polynomial through the last four calls, each
//! step DDIM's with that output. A run begins with three steps of Runge and Kutta's method, four calls each, or with
//! outputs of lower orders (PLMS).

use super::class::Class;
use super::rule::epsilon;
use super::solver::{Asked, Call, remembered};
use crate::diffusion::json::Json;
use crate::diffusion::process::Process;
use crate::diffusion::process::{PredictionType, Thresholding};
use crate::diffusion::schedule::{Schedule, Spacing};
use crate::diffusion::step::{Row, Step};
use crate::diffusion::timesteps::Timesteps;
use crate::error::Result;
use serde::{Deserialize, Serialize};

/// Its diffusers scheduler.
pub(super) static CLASS: Class =
    Class { name: "PNDMScheduler", spacing: Spacing::Leading, rescales: false, ..Class::SOLVER };

/// Tensors of the memory: the last three outputs, newest first; the sample before a step of several calls; the weighted sum
/// of the outputs in one of Runge and Kutta's.
const SAMPLE: usize = 3;
const SUM: usize = 4;
/// Steps of Runge and Kutta's method.
const PRK: usize = 3;

/// Its settings, by the names of diffusers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pndm {
    /// PLMS.
    pub skip_prk_steps: bool,
    /// ᾱ after the last step is 1, else ᾱ_0.
    pub set_alpha_to_one: bool,
}

pub fn read(json: &Json<'_>) -> Result<Pndm> {
    Ok(Pndm {
        skip_prk_steps: json.boolean("skip_prk_steps", false)?,
        set_alpha_to_one: json.boolean("set_alpha_to_one", false)?,
    })
}

impl Pndm {
    /// The calls of a run.
    pub(super) fn steps(&self, asked: &Asked<'_>) -> Result<Vec<Step>> {
        let Asked { process: config, timesteps, first, .. } = *asked;
        let spacing = match asked.spacing(Spacing::Leading) {
            Spacing::Fractional => Spacing::Leading,
            spacing => spacing,
        };
        let list = timesteps.resolve(&Process { spacing, ..config.clone() })?;
        let stride = match timesteps {
            Timesteps::Count(count) => Some(config.num_train_timesteps / count),
            _ => None,
        };
        let schedule = config.schedule()?;
        let clips = config.clip != Thresholding::None;
        let v = config.prediction_type == PredictionType::VPrediction;
        let last = if self.set_alpha_to_one { 1.0 } else { schedule.alpha_bars[0] };
        let chain = Chain { list, stride, schedule, v, clips, last };
        // Runge and Kutta's three steps end at the fourth timestep.
        let prk = !self.skip_prk_steps && chain.list.len() > first + PRK;
        let calls = match prk {
            true => {
                let steps = (first..first + PRK).flat_map(|i| chain.runge_kutta(i));
                steps.chain((first + PRK..chain.list.len()).map(|i| chain.multistep(i, PRK))).collect()
            }
            false => chain.plms(first),
        };
        let remembers = if self.skip_prk_steps { SUM } else { SUM + 1 };
        let assembled = |call: Call| asked.assembled(call, (remembers, false, false));
        calls.into_iter().map(assembled).collect::<Result<Vec<Step>>>()
    }
}

/// The trained chain, and which of it is visited.
struct Chain {
    list: Vec<usize>,
    /// Timesteps from one to the next; none: to the next in the list.
    stride: Option<usize>,
    schedule: Schedule,
    /// The outputs are v, and are combined as such.
    v: bool,
    clips: bool,
    last: f64,
}

impl Chain {
    fn q(&self, value: f64) -> f64 {
        self.schedule.arithmetic.round(value)
    }

    /// ᾱ of a timestep, or after the last.
    fn bar(&self, t: Option<usize>) -> f64 {
        t.map_or(self.last, |t| self.schedule.alpha_bars[t])
    }

    fn roots(&self, t: usize) -> (f64, f64) {
        let bar = self.bar(Some(t));
        (self.q(bar.sqrt()), self.q(self.q(1.0 - bar).sqrt()))
    }

    /// The timestep where step `i` ends.
    fn after(&self, i: usize) -> Option<usize> {
        match self.stride {
            Some(stride) => self.list[i].checked_sub(stride),
            None => self.list.get(i + 1).copied(),
        }
    }

    /// The network's output at a timestep.
    fn output(&self, t: usize) -> Row {
        let (signal, noise) = self.roots(t);
        match self.v {
            true => (Row::X * signal - Row::X0) * (1.0 / noise),
            false if self.clips => epsilon(signal, noise),
            false => Row::EPS,
        }
    }

    /// The sample at `to` from that at `from` and an output: formula 9 of the paper.
    fn transfer(&self, sample: Row, output: Row, from: usize, to: Option<usize>) -> Row {
        let q = |value: f64| self.q(value);
        let (bar, bar_to) = (self.bar(Some(from)), self.bar(to));
        let (noise, noise_to) = (q(1.0 - bar), q(1.0 - bar_to));
        let (signal, sigma) = self.roots(from);
        let output = if self.v { output * signal + sample * sigma } else { output };
        let below = q(q(bar * q(noise_to.sqrt())) + q(q(q(bar * noise) * bar_to).sqrt()));
        sample * q(q(bar_to / bar).sqrt()) - output * (q(bar_to - bar) / below)
    }

    fn call(&self, step: usize, t: usize, next: Row, memory: &[Row]) -> Call {
        let (signal, noise) = self.roots(t);
        let memory = remembered(memory);
        Call { step, time: t as f64, signal, noise, next, memory, sigma: 0.0 }
    }

    /// The four calls of step `i` by Runge and Kutta's method.
    fn runge_kutta(&self, i: usize) -> Vec<Call> {
        let (from, to) = (self.list[i], self.list[i + 1]);
        let half = self.stride.unwrap_or(from - to) / 2;
        let middle = to + half;
        let [e1, e2, e3, sample, sum] = [0, 1, 2, SAMPLE, SUM].map(Row::slot);
        let (third, sixth) = (self.q(1.0 / 3.0), self.q(1.0 / 6.0));
        let call = |t: usize, (start, output): (Row, Row), to: usize, memory: &[Row]| {
            self.call(i, t, self.transfer(start, output, from, Some(to)), memory)
        };
        let first = self.output(from);
        let at_middle = self.output(middle);
        let kept = [e1, e2, e3, sample, sum + at_middle * third];
        let mean = sum + self.output(to) * sixth;
        vec![
            call(from, (Row::X, first), from.saturating_sub(half), &[first, e1, e2, Row::X, first * sixth]),
            call(middle, (sample, at_middle), middle, &kept),
            call(middle, (sample, at_middle), to, &kept),
            call(to, (sample, mean), to, &[e1, e2, e3]),
        ]
    }

    /// Step `i`, with so many outputs remembered.
    fn multistep(&self, i: usize, outputs: usize) -> Call {
        let t = self.list[i];
        let e = self.output(t);
        let [e1, e2, e3] = [0, 1, 2].map(Row::slot);
        let output = match outputs {
            0 => e,
            1 => (e * 3.0 - e1) * 0.5,
            2 => (e * 23.0 - e1 * 16.0 + e2 * 5.0) * (1.0 / 12.0),
            _ => (e * 55.0 - e1 * 59.0 + e2 * 37.0 - e3 * 9.0) * (1.0 / 24.0),
        };
        self.call(i, t, self.transfer(Row::X, output, t, self.after(i)), &[e, e1, e2, Row::X])
    }

    /// A run without Runge and Kutta's steps: the first step is taken twice, the second time by the mean of the outputs at
    /// its two ends.
    fn plms(&self, first: usize) -> Vec<Call> {
        let mut calls: Vec<Call> = (first..self.list.len()).take(1).map(|i| self.multistep(i, 0)).collect();
        if let Some(&to) = self.list.get(first + 1) {
            let mean = (self.output(to) + Row::slot(0)) * 0.5;
            let from = self.stride.map_or(self.list[first], |stride| to + stride);
            let next = self.transfer(Row::slot(SAMPLE), mean, from, Some(to));
            calls.push(self.call(first, to, next, &[Row::slot(0)]));
        }
        calls.extend((first + 1..self.list.len()).map(|i| self.multistep(i, i - first)));
        calls
    }
}
