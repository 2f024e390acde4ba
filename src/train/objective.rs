//! What is minimised: L_simple of ε, x₀ and v, the variational bound beside it, cross-entropy; and the numbers of a
//! timestep that they read.

use crate::diffusion::PredictionType;
use crate::diffusion::process::Process;
use crate::error::Result;
use crate::graph::{Graph, Storage, Tensor};
use crate::kernels::add_f32::add_f32;
use crate::kernels::diffuse::{self, diffuse};
use crate::kernels::elementwise::scale;
use crate::kernels::pick::pick;
use crate::kernels::softmax::log_softmax;
use crate::kernels::squared_error::squared_error;
use crate::kernels::variational_bound::{self, variational_bound};
use crate::kernels::widen::widen;
use crate::models::network::{DenoisingNetwork, Shape};

/// A trained process as training reads it: of each timestep β and ᾱ, and what the network predicts.
#[derive(Clone, Debug)]
pub struct Noising {
    beta: Vec<f64>,
    alpha_bar: Vec<f64>,
    prediction: PredictionType,
}

/// How much a timestep counts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Weighting {
    /// All alike: L_simple (Ho et al. 2020, arXiv:2006.11239).
    Simple,
    /// min(SNR, γ) of the error of x̂₀, as a factor of the prediction's error (Hang et al. 2023, arXiv:2303.09556).
    MinSnr(f64),
    /// min(SNR, γ) + 1 of the error of x̂₀: the error of v, capped where there is little noise. (The noisiest steps, where a
    /// picture of few flat shapes gets its composition, count as v's error has them.)
    MinSnrPlusOne(f64),
}

impl Noising {
    /// Of a process. Errors: a schedule that is none.
    pub fn new(process: &Process) -> Result<Self> {
        let schedule = process.schedule()?;
        Ok(Noising {
            beta: schedule.betas,
            alpha_bar: schedule.alpha_bars,
            prediction: process.prediction_type,
        })
    }

    /// T.
    pub fn timesteps(&self) -> usize {
        self.beta.len()
    }

    /// ᾱ of a timestep.
    pub fn alpha_bar(&self, t: usize) -> f64 {
        self.alpha_bar[t]
    }

    /// ᾱ / (1 − ᾱ) of a timestep.
    pub fn signal_to_noise(&self, t: usize) -> f64 {
        self.alpha_bar[t] / (1.0 - self.alpha_bar[t])
    }

    /// The bound's term of x_T of a value of x₀, in bits: KL(q(x_T | x₀), N(0, 1)).
    pub fn prior(&self, x0: f64) -> f64 {
        let last = self.alpha_bar[self.timesteps() - 1];
        let variance = 1.0 - last;
        0.5 * (variance + last * x0 * x0 - 1.0 - variance.ln()) / std::f64::consts::LN_2
    }

    /// What x₀ and the noise are multiplied by in x_t, then in what the network predicts.
    pub fn numbers(&self, t: usize) -> [f32; diffuse::NUMBERS] {
        let (signal, noise) = (self.alpha_bar[t].sqrt(), (1.0 - self.alpha_bar[t]).sqrt());
        let goal = match self.prediction {
            PredictionType::Epsilon => [0.0, 1.0],
            PredictionType::Sample => [1.0, 0.0],
            PredictionType::VPrediction => [-noise, signal],
        };
        [signal, noise, goal[0], goal[1]].map(|v| v as f32)
    }

    /// The weight of a timestep.
    pub fn weight(&self, t: usize, weighting: Weighting) -> f64 {
        let snr = self.signal_to_noise(t);
        let of_x0 = match weighting {
            Weighting::Simple => return 1.0,
            Weighting::MinSnr(gamma) => snr.min(gamma),
            Weighting::MinSnrPlusOne(gamma) => snr.min(gamma) + 1.0,
        };
        match self.prediction {
            PredictionType::Epsilon => of_x0 / snr,
            PredictionType::Sample => of_x0,
            PredictionType::VPrediction => of_x0 / (snr + 1.0),
        }
    }

    /// What the [bound](variational_bound) reads of a timestep, with a weight.
    pub fn bound(&self, t: usize, weight: f64) -> [f32; variational_bound::NUMBERS] {
        let (beta, after) = (self.beta[t], self.alpha_bar[t]);
        let before = |t: usize| if t == 0 { 1.0 } else { self.alpha_bar[t - 1] };
        let (signal, noise) = (after.sqrt(), (1.0 - after).sqrt());
        let [x0_x, x0_out] = match self.prediction {
            PredictionType::Epsilon => [1.0 / signal, -noise / signal],
            PredictionType::Sample => [0.0, 1.0],
            PredictionType::VPrediction => [signal, -noise],
        };
        // The first variance is 0: the second's stands for it.
        let log = t.max(1).min(self.timesteps() - 1);
        let variance = self.beta[log] * (1.0 - before(log)) / (1.0 - self.alpha_bar[log]);
        [
            x0_x,
            x0_out,
            beta * before(t).sqrt() / (1.0 - after),
            (1.0 - before(t)) * (1.0 - beta).sqrt() / (1.0 - after),
            variance.ln(),
            beta.ln(),
            f64::from(u8::from(t == 0)),
            weight,
        ]
        .map(|v| v as f32)
    }
}

/// A denoising network's losses of a batch. Inputs beside the network's own: x₀ as `x0`, `noise`, both `[N, H, W, C]`;
/// `numbers` `[N, 4]`, timesteps `t` and `weights` `[N]`; where the bound is asked for, `bound` `[N, 8]`.
pub fn denoising(g: &mut Graph, network: &dyn DenoisingNetwork, shape: Shape, bound: bool) -> Tensor {
    let seen = see(g, network, shape);
    let losses = seen.error(g);
    if !bound {
        return losses;
    }
    let bound = seen.bound(g, shape.pictures);
    add_f32(g, "hybrid", &losses, &bound)
}

/// The squared errors and the bound's terms of a batch, each `[N]`; inputs as [`denoising`]'s.
pub fn denoising_parts(g: &mut Graph, network: &dyn DenoisingNetwork, shape: Shape) -> (Tensor, Tensor) {
    let seen = see(g, network, shape);
    (seen.error(g), seen.bound(g, shape.pictures))
}

/// A network's answer to noised pictures.
struct Seen {
    x0: Tensor,
    x_t: Tensor,
    goal: Tensor,
    out: Tensor,
    weights: Tensor,
}

impl Seen {
    fn error(&self, g: &mut Graph) -> Tensor {
        squared_error(g, "squared_error", &self.out, &self.goal, &self.weights)
    }

    fn bound(&self, g: &mut Graph, n: usize) -> Tensor {
        let numbers = g.input("bound", &[n, variational_bound::NUMBERS], Storage::F32);
        variational_bound(g, "variational_bound", &self.out, &self.x0, &self.x_t, &numbers)
    }
}

fn see(g: &mut Graph, network: &dyn DenoisingNetwork, shape: Shape) -> Seen {
    let n = shape.pictures;
    let x0 = g.input("x0", &shape.sample(), Storage::F32);
    let noise = g.input("noise", &shape.sample(), Storage::F32);
    let numbers = g.input("numbers", &[n, diffuse::NUMBERS], Storage::F32);
    let t = g.input("t", &[n], Storage::F32);
    let weights = g.input("weights", &[n], Storage::F32);
    let [x_t, goal] = diffuse(g, "diffuse", &x0, &noise, &numbers);
    let out = network.record(g, shape, &x_t, &t);
    Seen { x0, x_t, goal, out, weights }
}

/// Cross-entropy of logits `[N, classes]` with the classes' numbers `[N]`, over N: their mean is the sum.
pub fn cross_entropy(g: &mut Graph, logits: &Tensor, classes: &Tensor) -> Tensor {
    let log_p = log_softmax(g, "log_softmax", logits);
    let of_class = pick(g, "class", &log_p, classes);
    let losses = scale(g, &of_class, -1.0 / classes.len() as f32);
    widen(g, "cross_entropy", &losses)
}
