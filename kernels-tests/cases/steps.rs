//! Cases of the sampler's kernels: every kind of clipping, variance and guidance; ties and edges of the rank.

use super::{Case, Maker, case};
use ancestral::internals::diffusion::{
    Coefficients, Row, ScoreShifts, Step, Thresholding, Variance, coefficients, numbers,
};
use ancestral::internals::graph::{Storage, Tensor};
use ancestral::internals::kernels::fixed_point::{FOUND, MEMORY, SearchState, fixed_point};
use ancestral::internals::kernels::quantile::{self, quantile};
use ancestral::internals::kernels::quantile_counts::{BINS, quantile_counts};
use ancestral::internals::kernels::quantile_digits::quantile_digits;
use ancestral::internals::kernels::quantile_merge::quantile_merge;
use ancestral::internals::kernels::renoise;
use ancestral::internals::kernels::steer::{FACTORS, steer};
use ancestral::internals::kernels::step::{Lead, StepInputs, step};

pub(super) fn cases() -> Vec<Case> {
    let mut cases = step_cases();
    cases.extend(quantile_cases());
    cases.extend(quantile_part_cases());
    cases.extend(renoise_cases());
    cases.extend(steer_cases());
    cases.extend(fixed_point_cases());
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
        begins: true,
        timestep: 500.0,
        coefficients,
        draws_noise: true,
        adds_noise: true,
        alpha_bar: 0.5,
        alpha_bar_after: 1.0,
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

/// What becomes of a step.
#[derive(Clone, Copy, Default)]
struct Taken {
    /// Tensors that the sampler remembers.
    memory: usize,
    /// Only x̂₀ is wanted.
    held: bool,
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
fn known(m: &mut Maker, [n, h, w, c]: [usize; 4]) -> Vec<f32> {
    let pixel = |i: usize| (0..=c).map(move |channel| (i, channel));
    let values = (0..n * h * w).flat_map(pixel);
    let values = values.map(|(i, channel)| {
        let value = m.rng.normal() as f32;
        if channel == c { [0.0, 1.0, 0.3][i % 3] } else { value }
    });
    values.collect()
}

/// What leads a step.
fn lead(m: &mut Maker, p: &Pictures) -> Option<Tensor> {
    let len = p.x.iter().product::<usize>();
    let mut values = if p.steered { m.rng.normals(4 * len, 0.0, 1.0) } else { Vec::new() };
    if p.kept {
        values.extend(known(m, p.x));
    }
    (!values.is_empty()).then(|| m.given(&[values.len()], Storage::F32, values))
}

/// The step's numbers, with thresholds below 1, between 1 and the largest, above it.
fn numbers(m: &mut Maker, p: &Pictures, s: &Step) -> Tensor {
    let thresholds = (0..p.x[0]).map(|i| [0.4, 1.2, 2.5][i % 3]);
    let values = coefficients(s, p.guidance.unwrap_or(1.0)).into_iter().chain(thresholds).collect();
    m.given(&[numbers::COUNT + p.x[0]], Storage::F32, values)
}

fn record_step(m: &mut Maker, p: &Pictures, s: &Step, taken: Taken) -> Tensor {
    let c = &s.coefficients;
    let (x, noise) = (m.f32(&p.x), m.f32(&p.x));
    let out = output(m, p, !matches!(c.variance, Variance::Fixed { .. }));
    let numbers = numbers(m, p, s);
    let [n, h, w, ch] = p.x;
    let memory = (taken.memory > 0).then(|| m.f32(&[taken.memory, n, h, w, ch]));
    let fault = m.given(&[1], Storage::F32, vec![0.0]);
    let tensor = lead(m, p);
    let inputs = StepInputs {
        lead: tensor.as_ref().map(|tensor| Lead { tensor, steered: p.steered, kept: p.kept }),
        memory: memory.as_ref(),
        held: taken.held,
        ..StepInputs::plain(&out, &noise, &numbers, &fault)
    };
    let x0 = step(&mut m.g, &x, &inputs);
    m.g.output("x0", &x0);
    m.g.output("fault", &fault);
    if let Some(memory) = &memory {
        m.g.output("memory", memory);
    }
    x
}

fn step_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (clip_name, clip) in CLIPS {
        for (variance_name, variance) in VARIANCES {
            for (guided, guidance) in [("", None), ("_guided", Some(7.0))] {
                let name = format!("{clip_name}_{variance_name}{guided}");
                let p = Pictures { x: [3, 5, 7, 3], guidance, steered: false, kept: false };
                cases.push(case("step", name, |m| {
                    record_step(m, &p, &a_step(clip, variance), Taken::default())
                }));
            }
        }
    }
    for (name, variance) in VARIANCES {
        let p = Pictures { x: [2, 5, 3, 3], guidance: None, steered: true, kept: false };
        let name = format!("steered_{name}");
        cases.push(case("step", name, |m| {
            record_step(m, &p, &a_step(Thresholding::Range(1.0), variance), Taken::default())
        }));
    }
    for (name, clip) in CLIPS {
        let p = Pictures { x: [3, 5, 3, 3], guidance: Some(3.0), steered: name == "range", kept: true };
        cases.push(case("step", format!("kept_{name}"), |m| {
            record_step(
                m,
                &p,
                &a_step(clip, Variance::LearnedRange { log_min: -5.0, log_max: -3.5 }),
                Taken::default(),
            )
        }));
    }
    let last = Step { adds_noise: false, ..a_step(Thresholding::Range(1.0), Variance::Fixed { sigma: 0.3 }) };
    let p = Pictures { x: [2, 4, 4, 3], guidance: Some(1.0), steered: false, kept: false };
    cases.push(case("step", "no_noise", |m| record_step(m, &p, &last, Taken::default())));
    let p = Pictures { x: [1, 1, 1, 1], guidance: Some(0.0), steered: false, kept: false };
    cases.push(case("step", "one_element", |m| {
        record_step(m, &p, &a_step(Thresholding::None, Variance::Fixed { sigma: 1.0 }), Taken::default())
    }));
    for memory in 1..=numbers::MEMORY {
        for (name, steered, held) in [("", false, false), ("_steered", true, false), ("_held", true, true)] {
            let p = Pictures { x: [2, 5, 3, 3], guidance: Some(2.0), steered, kept: held };
            let s = remembering(a_step(Thresholding::Range(1.0), VARIANCES[2].1), memory);
            let taken = Taken { memory: if held { 0 } else { memory }, held };
            cases.push(case("step", format!("memory_{memory}{name}"), |m| record_step(m, &p, &s, taken)));
        }
    }
    // More elements than one task of the CPU device takes.
    let p = Pictures { x: [2, 37, 41, 3], guidance: None, steered: true, kept: true };
    let s = remembering(a_step(Thresholding::None, VARIANCES[0].1), 3);
    cases.push(case("step", "large", |m| record_step(m, &p, &s, Taken { memory: 3, held: false })));
    cases
}

/// The step of a sampler that remembers so many tensors, each a mixture of all there is.
fn remembering(mut s: Step, memory: usize) -> Step {
    let takes = |r: usize| {
        let at = |k: usize| ((3 * r + 2 * k) % 7) as f64 / 4.0 - 0.75;
        let mut of_memory = [0.0; numbers::MEMORY];
        of_memory.iter_mut().take(memory).enumerate().for_each(|(k, takes)| *takes = at(k + 3));
        Row { x: at(0), x0: at(1), eps: at(2), memory: of_memory }
    };
    let c = &mut s.coefficients;
    (c.next.memory, c.memory_len) = (takes(0).memory, memory);
    c.memory.iter_mut().take(memory).enumerate().for_each(|(k, row)| *row = takes(k + 1));
    s
}

fn steer_cases() -> Vec<Case> {
    let shapes =
        [("plain", [2, 5, 3, 3], false), ("with_known", [3, 7, 5, 1], true), ("one", [1, 1, 1, 1], false)];
    let mut cases = Vec::new();
    for (name, x, kept) in shapes {
        for (what, keep) in [("begins", 0.0), ("adds", 1.0)] {
            let p = Pictures { x, guidance: None, steered: true, kept };
            cases.push(case("steer", format!("{name}_{what}"), |m| {
                let direction = m.f32(&x);
                let factors = vec![0.5, -1.25, 0.0, 2.0, keep, 9.0, 9.0, 9.0];
                let factors = m.given(&[FACTORS], Storage::F32, factors);
                let lead = lead(m, &p).expect("it is steered");
                steer(&mut m.g, &direction, &factors, &lead);
                lead
            }));
        }
    }
    cases
}

fn renoise_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, numbers) in [
        ("back", [0.9, 0.4, 7.0, 7.0, 0.0, 7.0, 7.0, 7.0]),
        ("put", [1.0, 0.0, 0.8, 0.6, 1.0, 7.0, 7.0, 7.0]),
        ("both", [0.7, -0.5, 0.8, 0.6, 1.0, 7.0, 7.0, 7.0]),
    ] {
        for x in [[2, 5, 3, 3], [1, 1, 1, 1]] {
            cases.push(case("renoise", format!("{name}_{}", x[1]), |m| {
                let known = known(m, x);
                let [n, h, w, c] = x;
                let known = m.given(&[n, h, w, c + 1], Storage::F32, known);
                let (z, numbers) = (m.f32(&x), m.given(&[renoise::NUMBERS], Storage::F32, numbers.to_vec()));
                let x = m.f32(&x);
                renoise::renoise(&mut m.g, &x, &known, &z, &numbers);
                x
            }));
        }
    }
    cases
}

/// What a search has found of a picture: the smallest error, and evaluations.
const BEGINS: [f32; FOUND] = [0.0, 0.0];
const IMPROVES: [f32; FOUND] = [9.0, 1.0];
const GOT_WORSE: [f32; FOUND] = [0.01, 2.0];
const SETTLED: [f32; FOUND] = [5e-6, 3.0];

fn fixed_point_cases() -> Vec<Case> {
    let of = |name: &str, [h, w, c]: [usize; 3], found: &[[f32; FOUND]]| {
        case("fixed_point", name, |m| {
            let n = found.len();
            let (first, x, answer) = (m.f32(&[n, h, w, c]), m.f32(&[n, h, w, c]), m.f32(&[n, h, w, c]));
            let memory = m.f32(&[n, MEMORY, h, w, c]);
            let found = m.given(&[n, FOUND], Storage::F32, found.concat());
            let state = SearchState { answer: &answer, memory: &memory, found: &found };
            fixed_point(&mut m.g, &first, &x, &state, 1e-5);
            m.g.output("answer", &answer);
            m.g.output("memory", &memory);
            m.g.output("found", &found);
            x
        })
    };
    vec![
        of("begins", [5, 7, 3], &[BEGINS]),
        of("improves", [5, 7, 3], &[IMPROVES]),
        of("got_worse", [5, 7, 3], &[GOT_WORSE]),
        of("settled", [5, 7, 3], &[SETTLED]),
        of("each_its_own", [9, 11, 3], &[SETTLED, BEGINS, GOT_WORSE, IMPROVES, BEGINS]),
        of("one_element", [1, 1, 1], &[IMPROVES, BEGINS]),
        of("64x64", [64, 64, 3], &[IMPROVES, GOT_WORSE]),
        // Nothing changed since the evaluation before: no line goes through one point.
        case("fixed_point", "stands_still", |m| {
            let x = m.given(&[1, 2, 2, 1], Storage::F32, vec![1.5; 4]);
            let first = m.f32(&[1, 2, 2, 1]);
            let answer = m.f32(&[1, 2, 2, 1]);
            let memory = [[1.0; 4], [0.5; 4], [1.5; 4], [0.5; 4]].concat();
            let memory = m.given(&[1, MEMORY, 2, 2, 1], Storage::F32, memory);
            let found = m.given(&[1, FOUND], Storage::F32, IMPROVES.to_vec());
            let state = SearchState { answer: &answer, memory: &memory, found: &found };
            fixed_point(&mut m.g, &first, &x, &state, 1e-5);
            m.g.output("answer", &answer);
            x
        }),
    ]
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
    let p = Pictures { x: [2, 7, 5, 3], guidance: None, steered: true, kept: true };
    cases.push(case("quantile", "kept_and_steered", |m| {
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
    let numbers = numbers(m, p, &step);
    let tensor = lead(m, p);
    let lead = tensor.as_ref().map(|tensor| Lead { tensor, steered: p.steered, kept: p.kept });
    quantile(&mut m.g, &x, &out, &numbers, lead.as_ref());
    // Of the numbers only those behind the step's change.
    numbers
}

/// Multiples of 1/16, of which any device computes x̂₀ without rounding.
fn exact(m: &mut Maker, len: usize) -> Vec<f32> {
    (0..len).map(|_| ((m.rng.uniform() * 512.0).floor() - 256.0) as f32 / 16.0).collect()
}

/// Numbers of a step that asks for a quantile of x̂₀ = x / 4 + out / 2.
fn exact_numbers(m: &mut Maker, pictures: usize, ratio: f32) -> Tensor {
    let mut values = vec![0.0; numbers::COUNT + pictures];
    values[numbers::GUIDANCE] = 2.0;
    (values[numbers::X0_X], values[numbers::X0_OUT]) = (0.25, 0.5);
    values[numbers::QUANTILE] = ratio;
    m.given(&[numbers::COUNT + pictures], Storage::F32, values)
}

/// Counts of the elements' first bits, by `parts` parts of each picture: what a pass of a quantile begins with.
fn counts(values: &[f32], item: usize, parts: usize) -> Vec<f32> {
    let mut counts = Vec::new();
    for picture in values.chunks_exact(item) {
        for part in 0..parts {
            let [start, end] = [part, part + 1].map(|part| (part * item.div_ceil(parts)).min(item));
            let mut bins = vec![0.0; BINS];
            picture[start..end].iter().for_each(|v| bins[(v.to_bits() >> 20) as usize] += 1.0);
            counts.extend(bins);
        }
    }
    counts
}

/// Pictures, elements, parts.
const QUANTILES: [(&str, [usize; 3]); 4] =
    [("plain", [2, 900, 3]), ("one_part", [1, 50, 1]), ("one_element", [2, 1, 1]), ("uneven", [1, 4099, 7])];

fn quantile_part_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, x, guided) in
        [("plain", [2, 40, 40, 3], false), ("guided", [3, 9, 11, 3], true), ("one", [1, 1, 1, 1], false)]
    {
        cases.push(case("quantile_counts", name, |m| {
            let len = x.iter().product::<usize>();
            let [values, outs] = [len, if guided { 2 * len } else { len }].map(|len| exact(m, len));
            let (out, doubled) = (outs, [x[0] * if guided { 2 } else { 1 }, x[1], x[2], x[3]]);
            let (x, out) = (m.given(&x, Storage::F32, values), m.given(&doubled, Storage::Elem, out));
            let numbers = exact_numbers(m, x.dim(0), 0.9);
            quantile(&mut m.g, &x, &out, &numbers, None);
            let node = m.g.nodes.pop().expect("just recorded");
            let p: quantile::Params = bytemuck::pod_read_unaligned(&node.params);
            let lead = m.g.empty();
            let (magnitudes, counts) = quantile_counts(&mut m.g, "counts", [&x, &out, &lead, &numbers], &p);
            m.g.output("magnitudes", &magnitudes);
            counts
        }));
    }
    for (name, [pictures, item, parts]) in QUANTILES {
        for ratio in [0.0, 0.5, 0.95, 1.0] {
            // What one pass needs of those before it is computed as the definition does.
            let mut pass = |kernel: &'static str, passes: usize| {
                cases.push(case(kernel, format!("{name}_{ratio}_{passes}"), |m| {
                    let values: Vec<f32> = m.rng.normals(pictures * item, 0.0, 1.0);
                    let mut values: Vec<f32> = values.iter().map(|v| v.abs()).collect();
                    // Ties.
                    values.iter_mut().step_by(3).for_each(|v| *v = 1.0 + (*v * 4.0).floor() / 8_388_608.0);
                    let counted = counts(&values, item, parts);
                    let magnitudes = m.given(&[pictures, item], Storage::F32, values);
                    let mut before = m.given(&[pictures, parts, BINS], Storage::F32, counted);
                    let numbers = exact_numbers(m, pictures, ratio);
                    for _ in 1..passes {
                        before = digits_of(m, &magnitudes, &before, &numbers);
                    }
                    if kernel == "quantile_digits" {
                        return quantile_digits(&mut m.g, "digits", &magnitudes, &before, &numbers);
                    }
                    quantile_merge(&mut m.g, "merge", &before, &numbers, item);
                    numbers
                }));
            };
            pass("quantile_digits", 1);
            pass("quantile_digits", 2);
            pass("quantile_merge", 3);
        }
    }
    cases
}

/// What a pass of digits gives, as an input.
fn digits_of(m: &mut Maker, magnitudes: &Tensor, before: &Tensor, numbers: &Tensor) -> Tensor {
    let y = quantile_digits(&mut m.g, "digits", magnitudes, before, numbers);
    let node = m.g.nodes.pop().expect("just recorded");
    let inputs: Vec<Vec<f32>> = node.inputs.iter().map(|id| m.values(*id)).collect();
    let inputs: Vec<&[f32]> = inputs.iter().map(Vec::as_slice).collect();
    let mut values = vec![0.0; y.len()];
    (node.kernel.cpu)(&node.params, &inputs, &mut [&mut values]);
    m.given(&y.shape, Storage::F32, values)
}
