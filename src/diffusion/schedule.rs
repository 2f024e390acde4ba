//! β schedules, their cumulative products ᾱ, and the timesteps a sampler visits.

use crate::error::{Error, Problem, Result, Setting, request};

/// The arithmetic a schedule's scalars are computed in.
///
/// It matters: cosine schedules of 1000 steps differ by 1.3e-5 (relative) at the last ᾱ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arithmetic {
    /// Every scalar operation is rounded to float32, as diffusers does with its tensors.
    Float32,
    /// float64 throughout, as OpenAI's guided-diffusion and glide-text2im.
    Float64,
}

impl Arithmetic {
    /// The result of one operation as this arithmetic stores it.
    ///
    /// A float64 `+ − × ÷ √` of float32 values, rounded once more, is exactly the float32 operation.
    pub fn round(self, value: f64) -> f64 {
        match self {
            Arithmetic::Float32 => f64::from(value as f32),
            Arithmetic::Float64 => value,
        }
    }
}

/// How β_t grows with t. Names are those of diffusers' `beta_schedule`.
#[derive(Debug, Clone, PartialEq)]
pub enum BetaSchedule {
    /// `linspace(beta_start, beta_end, T)` (Ho et al. 2020, arXiv:2006.11239).
    Linear {
        /// β_0.
        beta_start: f64,
        /// β_{T−1}.
        beta_end: f64,
    },
    /// `linspace(√beta_start, √beta_end, T)²` (latent diffusion).
    ScaledLinear {
        /// β_0.
        beta_start: f64,
        /// β_{T−1}.
        beta_end: f64,
    },
    /// β_t = min(1 − f(t+1)/f(t), 0.999), f = cos²((t/T + 0.008)/1.008 · π/2) (Nichol & Dhariwal 2021).
    SquaredCosCapV2,
    /// β_t = min(1 − f((t+1)/T)/f(t/T), 0.999), f = exp(−12 t) (Heun's alone).
    Exp,
    /// sigmoid(linspace(−6, 6, T)) between `beta_start` and `beta_end` (GeoDiff).
    Sigmoid {
        /// The value β starts from.
        beta_start: f64,
        /// The value β tends to.
        beta_end: f64,
    },
    /// The β as the file lists them (`trained_betas`).
    Trained(Vec<f64>),
}

impl BetaSchedule {
    /// OpenAI's "linear": 1e-4 … 0.02 for T = 1000, scaled by 1000/T otherwise.
    pub fn openai_linear(num_train_timesteps: usize) -> Self {
        let scale = 1000.0 / num_train_timesteps as f64;
        BetaSchedule::Linear { beta_start: scale * 0.0001, beta_end: scale * 0.02 }
    }
}

/// β_t and ᾱ_t = Π_{s≤t} (1 − β_s) for t = 0 … T−1.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    /// β_t.
    pub betas: Vec<f64>,
    /// ᾱ_t.
    pub alpha_bars: Vec<f64>,
    /// The arithmetic of both, and of what is derived from them.
    pub arithmetic: Arithmetic,
}

impl Schedule {
    /// The schedule of `num_train_timesteps` steps; with `zero_snr` its last ᾱ is brought to 0
    /// (`rescale_betas_zero_snr`, arXiv:2305.08891 algorithm 1).
    ///
    /// Errors ([`Error::Request`], no file is known here) when a β is not in (0, 1) (the last may be 1), or
    /// when ᾱ runs out of the precision's range: 1 at the start, 0 before the last step.
    pub fn new(
        schedule: &BetaSchedule,
        num_train_timesteps: usize,
        arithmetic: Arithmetic,
        zero_snr: bool,
    ) -> Result<Self> {
        let mut betas = raw_betas(schedule, num_train_timesteps, arithmetic);
        check_betas(&betas, num_train_timesteps)?;
        if zero_snr {
            betas = rescale_zero_terminal_snr(&betas, arithmetic);
        }
        let alpha_bars = cumulative_alphas(&betas, arithmetic);
        check_alpha_bars(&alpha_bars)?;
        Ok(Schedule { betas, alpha_bars, arithmetic })
    }
}

fn check_betas(betas: &[f64], expected: usize) -> Result<()> {
    if betas.len() != expected || expected == 0 {
        let found = betas.len();
        return Err(request!(
            Model,
            Malformed,
            "the schedule has {found} betas but num_train_timesteps is {expected}; \
             both must agree and be at least 1"
        ));
    }
    // written so that NaN fails too; a last beta of 1 is zero terminal SNR
    let bad = |(t, &beta): (usize, &f64)| !(beta > 0.0 && (beta < 1.0 || (beta == 1.0 && t + 1 == expected)));
    match betas.iter().enumerate().position(bad) {
        None => Ok(()),
        Some(t) => Err(request!(
            Model,
            Malformed,
            "beta of timestep {t} is {}; every beta must be above 0 and below 1 (the last one at most 1)",
            betas[t]
        )),
    }
}

fn check_alpha_bars(alpha_bars: &[f64]) -> Result<()> {
    let last = alpha_bars.len() - 1;
    let bad = |(t, &bar): (usize, &f64)| !((bar > 0.0 || (bar == 0.0 && t == last)) && bar < 1.0);
    match alpha_bars.iter().enumerate().position(bad) {
        None => Ok(()),
        Some(t) => Err(request!(
            Model,
            Malformed,
            "alpha_bar of timestep {t} is {}; the betas must bring it from below 1 to above 0 \
             (0 at the last one only)",
            alpha_bars[t]
        )),
    }
}

fn raw_betas(schedule: &BetaSchedule, count: usize, arithmetic: Arithmetic) -> Vec<f64> {
    let q = |value: f64| arithmetic.round(value);
    match schedule {
        BetaSchedule::Linear { beta_start, beta_end } => linspace(*beta_start, *beta_end, count, arithmetic),
        BetaSchedule::ScaledLinear { beta_start, beta_end } => {
            let roots = linspace(beta_start.sqrt(), beta_end.sqrt(), count, arithmetic);
            roots.into_iter().map(|root| q(root * root)).collect()
        }
        BetaSchedule::SquaredCosCapV2 => {
            let alpha_bar = |t: f64| ((t + 0.008) / 1.008 * std::f64::consts::PI / 2.0).cos().powi(2);
            betas_for(count, arithmetic, alpha_bar)
        }
        BetaSchedule::Exp => betas_for(count, arithmetic, |t| (t * -12.0).exp()),
        BetaSchedule::Sigmoid { beta_start, beta_end } => {
            let (range, start) = (q(beta_end - beta_start), q(*beta_start));
            let sigmoid = |x: f64| q(1.0 / q(1.0 + q((-x).exp())));
            let x = linspace(-6.0, 6.0, count, arithmetic);
            x.into_iter().map(|x| q(q(sigmoid(x) * range) + start)).collect()
        }
        BetaSchedule::Trained(betas) => betas.iter().map(|&beta| q(beta)).collect(),
    }
}

/// The betas that give this ᾱ(t/T), the last ones held.
fn betas_for(count: usize, arithmetic: Arithmetic, alpha_bar: impl Fn(f64) -> f64) -> Vec<f64> {
    let at = |i: usize| alpha_bar(i as f64 / count as f64);
    (0..count).map(|i| arithmetic.round((1.0 - at(i + 1) / at(i)).min(0.999))).collect()
}

/// `torch.linspace` in float32 (from both ends towards the middle, each value one fused multiply-add),
/// `numpy.linspace` in float64.
fn linspace(start: f64, end: f64, count: usize, arithmetic: Arithmetic) -> Vec<f64> {
    if count == 1 {
        return vec![arithmetic.round(start)];
    }
    let last = count - 1;
    match arithmetic {
        Arithmetic::Float32 => {
            let (start, end) = (start as f32, end as f32);
            let step = (end - start) / last as f32;
            let value = |i: usize| match i < count / 2 {
                true => step.mul_add(i as f32, start),
                false => step.mul_add(-((last - i) as f32), end),
            };
            (0..count).map(|i| f64::from(value(i))).collect()
        }
        Arithmetic::Float64 => {
            let step = (end - start) / last as f64;
            (0..count).map(|i| if i == last { end } else { start + step * i as f64 }).collect()
        }
    }
}

/// `cumprod(1 − β)`. torch's CPU kernel keeps the running product in float64 and stores float32.
fn cumulative_alphas(betas: &[f64], arithmetic: Arithmetic) -> Vec<f64> {
    let mut product = 1.0;
    let step = |&beta: &f64| {
        product *= arithmetic.round(1.0 - beta);
        arithmetic.round(product)
    };
    betas.iter().map(step).collect()
}

/// torch's square roots come from MKL, up to 1 ulp from the correctly rounded ones here; ᾱ agree to 1e-6.
fn rescale_zero_terminal_snr(betas: &[f64], arithmetic: Arithmetic) -> Vec<f64> {
    let q = |value: f64| arithmetic.round(value);
    let roots: Vec<f64> = cumulative_alphas(betas, arithmetic).iter().map(|bar| q(bar.sqrt())).collect();
    let (first, last) = (roots[0], roots[roots.len() - 1]);
    let scale = q(first / q(first - last));
    let bars: Vec<f64> = roots.iter().map(|root| q(q(root - last) * scale)).map(|r| q(r * r)).collect();
    let alpha = |t: usize| if t == 0 { bars[0] } else { q(bars[t] / bars[t - 1]) };
    (0..bars.len()).map(|t| q(1.0 - alpha(t))).collect()
}

/// How `n` of T timesteps are chosen (arXiv:2305.08891 table 2; `timestep_spacing` of diffusers).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spacing {
    /// i · (T / n), whole division, plus `steps_offset`: 10 of 1000 start at 900.
    Leading,
    /// n points from 0 to T−1, both included.
    Linspace,
    /// T, T − T/n, … rounded, minus 1: includes T−1.
    Trailing,
    /// UnCLIP's i · (T−1)/(n−1), rounded half to even.
    Fractional,
}

impl Spacing {
    /// `num_steps` timesteps of `num_train_timesteps`, descending.
    ///
    /// Errors ([`Error::Request`]) when there are none, or more than the model was trained with.
    pub fn timesteps(
        self,
        num_train_timesteps: usize,
        num_steps: usize,
        steps_offset: usize,
    ) -> Result<Vec<usize>> {
        let (total, n) = (num_train_timesteps, num_steps);
        if n == 0 || n > total {
            return Err(request!(
                Steps,
                OutOfRange,
                "{n} sampling steps asked for; this model takes 1 to {total} (its num_train_timesteps)"
            ));
        }
        let mut ascending: Vec<usize> = match self {
            Spacing::Leading => (0..n).map(|i| i * (total / n) + steps_offset).collect(),
            Spacing::Linspace if n == 1 => vec![0],
            Spacing::Fractional if n == 1 => {
                let what = "UnCLIP samplers need at least 2 steps (their stride is (T - 1) / (steps - 1)); \
                            ask for 2 or more";
                return Err(Error::request(Setting::Steps, Problem::OutOfRange, what));
            }
            Spacing::Linspace | Spacing::Fractional => {
                let stride = (total - 1) as f64 / (n - 1) as f64;
                (0..n).map(|i| (i as f64 * stride).round_ties_even() as usize).collect()
            }
            Spacing::Trailing => trailing(total, total as f64 / n as f64, n),
        };
        ascending.reverse();
        if ascending[0] >= total {
            return Err(request!(
                Steps,
                OutOfRange,
                "{n} steps with steps_offset {steps_offset} start at timestep {}, beyond the \
                 model's last, {}; ask for fewer steps",
                ascending[0],
                total - 1
            ));
        }
        Ok(ascending)
    }
}

/// `round(arange(first, 0, −stride)) − 1`, ascending, `most` at most; `arange` steps by the difference of its first two
/// values. (diffusers goes on to timestep −1 where rounding of T/n gives `arange` a value more, as for 499 of 1000.)
pub(super) fn trailing(first: usize, stride: f64, most: usize) -> Vec<usize> {
    let start = first as f64;
    let step = (start - stride) - start;
    let descending = (0..most).map(|i| (start + i as f64 * step).round_ties_even());
    let mut ascending: Vec<usize> = descending.filter(|&t| t > 0.0).map(|t| t as usize - 1).collect();
    ascending.reverse();
    ascending
}

/// OpenAI's `space_timesteps` (guided-diffusion `respace.py`): which of T timesteps a respacing keeps,
/// ascending.
///
/// `"150"`: 150 evenly, fractional stride. `"20,10,5"`: that many of each equal section. `"ddim50"`: an
/// integer stride that gives exactly 50. `"fast27"`: GLIDE's 27. `""`: all.
/// Errors ([`Error::Request`]) for anything else and for counts that do not fit.
pub fn space_timesteps(num_train_timesteps: usize, respacing: &str) -> Result<Vec<usize>> {
    let total = num_train_timesteps;
    let refuse = |why: String| {
        request!(
            Respacing,
            Malformed,
            "timestep respacing `{respacing}` of {total} steps: {why}; \
             write \"150\", \"20,10,5\", \"ddim50\" or \"fast27\""
        )
    };
    let count =
        |text: &str| text.trim().parse::<usize>().map_err(|_| refuse(format!("`{text}` is no number")));
    if total == 0 {
        return Err(refuse("there are no timesteps".into()));
    }
    if respacing.is_empty() {
        return Ok((0..total).collect());
    }
    if let Some(wanted) = respacing.strip_prefix("ddim") {
        let wanted = count(wanted)?;
        let stride = (1..total.max(2)).find(|&stride| total.div_ceil(stride) == wanted);
        let stride = stride.ok_or_else(|| refuse(format!("no whole stride gives {wanted} steps")))?;
        return Ok((0..total).step_by(stride).collect());
    }
    if respacing == "fast27" {
        if total < 50 {
            return Err(refuse("it needs at least 50 timesteps".into()));
        }
        // GLIDE moves the noisiest step inwards: "help reduce DDIM artifacts from noisiest timesteps"
        let mut kept = space_timesteps(total, "10,10,3,2,2")?;
        kept.retain(|&t| t != total - 1);
        kept.push(total - 3);
        kept.sort_unstable();
        return Ok(kept);
    }
    let counts = respacing.split(',').map(count).collect::<Result<Vec<usize>>>()?;
    let kept = space_sections(total, &counts).map_err(refuse)?;
    if kept.is_empty() { Err(refuse("it keeps no step".into())) } else { Ok(kept) }
}

fn space_sections(total: usize, counts: &[usize]) -> Result<Vec<usize>, String> {
    let (size_per, extra) = (total / counts.len(), total % counts.len());
    let mut kept = Vec::new();
    let mut start = 0;
    for (i, &count) in counts.iter().enumerate() {
        let size = size_per + usize::from(i < extra);
        if size < count {
            return Err(format!("a section of {size} steps cannot give {count}"));
        }
        let stride = if count <= 1 { 1.0 } else { (size - 1) as f64 / (count - 1) as f64 };
        // added up as the original does: i·stride rounds differently
        let mut position = 0.0f64;
        for _ in 0..count {
            kept.push(start + position.round_ties_even() as usize);
            position += stride;
        }
        start += size;
    }
    kept.dedup();
    Ok(kept)
}
