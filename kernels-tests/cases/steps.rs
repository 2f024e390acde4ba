//! Cases of `quantile` and `step`: every kind of clipping, variance and guidance; ties and edges of the rank.

use super::{Case, Maker, case};
use ancestral::internals::diffusion::{
    Coefficients, Row, ScoreShifts, Step, Thresholding, Variance, coefficients, numbers,
};
use ancestral::internals::graph::{Storage, Tensor};
use ancestral::internals::kernels::quantile::quantile;
use ancestral::internals::kernels::step::{StepInputs, step};

pub(super) fn cases() -> Vec<Case> {
    let mut cases = step_cases();
    cases.extend(quantile_cases());
    cases
}

/// Every kind of clipping.
pub const CLIPS: [(&str, Thresholding); 4] = [
    ("free", Thresholding::None),
    ("range", Thresholding::Range(1.0)),
    ("dynamic", Thresholding::Dynamic { ratio: 0.95, max: 1.5 }),
    ("dynamic_to_1", Thresholding::Dynamic { ratio: 0.9, max: 1.0 }),
];

/// Every kind of variance.
pub const VARIANCES: [(&str, Variance); 4] = [
    ("fixed", Variance::Fixed { sigma: 0.3 }),
    ("none", Variance::Fixed { sigma: 0.0 }),
    ("learned_range", Variance::LearnedRange { log_min: -5.0, log_max: -3.5 }),
    ("learned", Variance::Learned),
];

/// The numbers of a step in the middle of a run, with every term of the mean.
pub fn a_step(clip: Thresholding, variance: Variance) -> Step {
    let coefficients = Coefficients {
        x0_x: 1.25,
        x0_out: -0.75,
        eps_x: 0.1,
        eps_out: 0.9,
        next: Row::of(0.6, 0.35, -0.2),
        memory: Default::default(),
        memory_len: 0,
        clip,
        variance,
    };
    Step {
        step: 0,
        timestep: 500.0,
        coefficients,
        draws_noise: true,
        adds_noise: true,
        alpha_bar: 0.5,
        start_scale: 1.0,
        score_shifts: ScoreShifts::Mean,
    }
}

/// What is read besides a step's numbers, and how the pictures lie.
struct Pictures {
    x: [usize; 4],
    /// The output holds an unconditional and a conditional half.
    guidance: Option<f64>,
    /// Gradients steer the step.
    steered: bool,
    /// Parts of a picture are kept.
    kept: bool,
}

/// A network's output for pictures `x`; variance channels lie within (0, 1), which every kind of variance takes.
fn output(m: &mut Maker, p: &Pictures, variance: bool) -> Tensor {
    let [n, h, w, c] = p.x;
    let (batch, channels) = (if p.guidance.is_some() { 2 * n } else { n }, if variance { 2 * c } else { c });
    let values = (0..batch * h * w * channels)
        .map(|i| if i % channels < c { m.rng.normal() as f32 } else { m.rng.uniform() as f32 })
        .collect();
    m.given(&[batch, h, w, channels], Storage::Elem, values)
}

/// A picture with none, all and some of each pixel kept.
fn known(m: &mut Maker, [n, h, w, c]: [usize; 4]) -> Tensor {
    let pixel = |i: usize| (0..=c).map(move |channel| (i, channel));
    let values = (0..n * h * w).flat_map(pixel);
    let values = values.map(|(i, channel)| {
        let value = m.rng.normal() as f32;
        if channel == c { [0.0, 1.0, 0.3][i % 3] } else { value }
    });
    let values = values.collect();
    m.given(&[n, h, w, c + 1], Storage::F32, values)
}

fn record_step(m: &mut Maker, p: &Pictures, s: &Step) -> Tensor {
    let c = &s.coefficients;
    let (x, noise) = (m.f32(&p.x), m.f32(&p.x));
    let out = output(m, p, !matches!(c.variance, Variance::Fixed { .. }));
    let numbers =
        m.given(&[numbers::COUNT], Storage::F32, coefficients(s, p.guidance.unwrap_or(1.0)).to_vec());
    // Below 1, between 1 and the largest, above it.
    let thresholds: Vec<f32> = (0..p.x[0]).map(|i| [0.4, 1.2, 2.5][i % 3]).collect();
    let dynamic = matches!(c.clip, Thresholding::Dynamic { .. });
    let quantile = dynamic.then(|| m.given(&[p.x[0]], Storage::F32, thresholds));
    let [n, h, w, ch] = p.x;
    let steer = p.steered.then(|| m.f32(&[3, n, h, w, ch]));
    let known = p.kept.then(|| known(m, p.x));
    let inputs = StepInputs {
        known: known.as_ref(),
        out: &out,
        noise: &noise,
        coefficients: &numbers,
        quantile: quantile.as_ref(),
        steer: steer.as_ref(),
    };
    step(&mut m.g, &x, &inputs)
}

fn step_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (clip_name, clip) in CLIPS {
        for (variance_name, variance) in VARIANCES {
            for (guided, guidance) in [("", None), ("_guided", Some(7.0))] {
                let name = format!("{clip_name}_{variance_name}{guided}");
                let p = Pictures { x: [3, 5, 7, 3], guidance, steered: false, kept: false };
                cases.push(case("step", name, |m| record_step(m, &p, &a_step(clip, variance))));
            }
        }
    }
    for (name, variance) in VARIANCES {
        let p = Pictures { x: [2, 5, 3, 3], guidance: None, steered: true, kept: false };
        let name = format!("steered_{name}");
        cases.push(case("step", name, |m| record_step(m, &p, &a_step(Thresholding::Range(1.0), variance))));
    }
    for (name, clip) in CLIPS {
        let p = Pictures { x: [3, 5, 3, 3], guidance: Some(3.0), steered: name == "range", kept: true };
        cases.push(case("step", format!("kept_{name}"), |m| {
            record_step(m, &p, &a_step(clip, Variance::LearnedRange { log_min: -5.0, log_max: -3.5 }))
        }));
    }
    let last = Step { adds_noise: false, ..a_step(Thresholding::Range(1.0), Variance::Fixed { sigma: 0.3 }) };
    let p = Pictures { x: [2, 4, 4, 3], guidance: Some(1.0), steered: false, kept: false };
    cases.push(case("step", "no_noise", |m| record_step(m, &p, &last)));
    let p = Pictures { x: [1, 1, 1, 1], guidance: Some(0.0), steered: false, kept: false };
    cases.push(case("step", "one_element", |m| {
        record_step(m, &p, &a_step(Thresholding::None, Variance::Fixed { sigma: 1.0 }))
    }));
    cases
}

fn quantile_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for ratio in [0.0, 0.5, 0.9, 0.95, 0.995, 1.0] {
        let clip = Thresholding::Dynamic { ratio, max: 2.0 };
        for guidance in [None, Some(4.0)] {
            let name = format!("{ratio}{}", if guidance.is_some() { "_guided" } else { "" });
            let p = Pictures { x: [3, 9, 11, 3], guidance, steered: false, kept: false };
            cases.push(case("quantile", name, |m| record_quantile(m, &p, clip, None)));
        }
        // x̂₀ is 1.25 x where the output is zero: equal magnitudes, few values, one value.
        let p = Pictures { x: [2, 4, 5, 3], guidance: None, steered: false, kept: false };
        cases.push(case("quantile", format!("{ratio}_all_equal"), |m| {
            record_quantile(m, &p, clip, Some(|_| -0.7))
        }));
        cases.push(case("quantile", format!("{ratio}_ties"), |m| {
            record_quantile(m, &p, clip, Some(|i| [1.0, -1.0, 0.5, 2.0, 0.0][i % 5]))
        }));
        cases.push(case("quantile", format!("{ratio}_zeros"), |m| {
            record_quantile(m, &p, clip, Some(|_| 0.0))
        }));
        let p = Pictures { x: [2, 1, 1, 1], guidance: None, steered: false, kept: false };
        cases.push(case("quantile", format!("{ratio}_one_element"), |m| record_quantile(m, &p, clip, None)));
    }
    let p = Pictures { x: [3, 7, 5, 3], guidance: Some(4.0), steered: false, kept: true };
    cases.push(case("quantile", "kept", |m| {
        record_quantile(m, &p, Thresholding::Dynamic { ratio: 0.9, max: 1.5 }, None)
    }));
    let p = Pictures { x: [1, 64, 64, 3], guidance: Some(7.0), steered: false, kept: false };
    cases.push(case("quantile", "64x64", |m| {
        record_quantile(m, &p, Thresholding::Dynamic { ratio: 0.95, max: 1.5 }, None)
    }));
    cases
}

/// `x` gives the picture's elements, with an output of zeros; else both are random, with variance channels to skip.
fn record_quantile(m: &mut Maker, p: &Pictures, clip: Thresholding, x: Option<fn(usize) -> f32>) -> Tensor {
    let len: usize = p.x.iter().product();
    let (x, out) = match x {
        Some(at) => {
            let x = m.given(&p.x, Storage::F32, (0..len).map(at).collect());
            (x, m.given(&p.x, Storage::Elem, vec![0.0; len]))
        }
        None => (m.f32(&p.x), output(m, p, true)),
    };
    let step = a_step(clip, Variance::Fixed { sigma: 0.0 });
    let numbers =
        m.given(&[numbers::COUNT], Storage::F32, coefficients(&step, p.guidance.unwrap_or(1.0)).to_vec());
    let known = p.kept.then(|| known(m, p.x));
    quantile(&mut m.g, &x, &out, &numbers, known.as_ref())
}
