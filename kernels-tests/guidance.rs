//! What a guidance does to a run: each kind of direction against its formula, sums, refusals.

use crate::device::on_gpu;
use crate::plan_and_run::{golden, waves};
use ancestral::guidance::{Direction, State};
use ancestral::internals::diffusion::{Sampler, SchedulerConfig, Variance, steps};
use ancestral::{
    Clip, Device, DeviceChoice, Engine, Error, LoadOptions, Picture, Problem, Setting, Settings,
};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

fn model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels-tests/goldens/ddpm/pipeline")
}

fn engine() -> Engine {
    let options = LoadOptions { device: DeviceChoice::Cpu, ..Default::default() };
    Engine::load(model(), &options).expect("the golden's model")
}

const DDIM: Sampler = Sampler::Ddim { eta: 0.0 };

fn draw(cfg: Settings) -> Vec<f32> {
    let pictures: Vec<Picture> = engine().generate("", cfg.seed(3).count(2)).expect("pictures");
    pictures.into_iter().flat_map(|picture| picture.values).collect()
}

/// A direction that is another at every element.
fn pattern(len: usize) -> Vec<f32> {
    (0..len).map(|i| 0.02 * (i % 7) as f32 - 0.05).collect()
}

#[track_caller]
fn assert_near(found: &[f32], expected: impl Iterator<Item = f32>, what: &str) {
    let worst = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst < 2e-5, "{what}: off by {worst}");
}

#[test]
fn guidance_shifts_the_mean() {
    let plain = draw(Settings::new().steps([1]));
    let shifted = draw(Settings::new().steps([1]).guide(1.0, |at: &State<'_>| {
        assert_eq!((at.shape[0], at.x0.len()), (2, at.x.len()));
        Ok(Direction::Mean(pattern(at.x.len())))
    }));
    assert_near(&shifted, plain.iter().zip(pattern(plain.len())).map(|(a, b)| a + b), "mean");
}

/// The last step of DDIM ends at x̂₀, which follows ε: x̂₀ = (x − √(1−ᾱ) ε)/√ᾱ.
#[test]
fn guidance_shifts_epsilon_and_so_does_a_score_in_ddim() {
    let plain = draw(Settings::new().steps([1]).sampler(DDIM));
    let alpha_bar = Arc::new(Mutex::new(0.0));
    let seen = alpha_bar.clone();
    let by_epsilon = draw(Settings::new().steps([1]).sampler(DDIM).guide(2.0, move |at: &State<'_>| {
        *seen.lock().expect("unpoisoned") = at.alpha_bar;
        Ok(Direction::Epsilon(pattern(at.x.len())))
    }));
    let alpha_bar = *alpha_bar.lock().expect("unpoisoned");
    let factor = (-2.0 * (1.0 - alpha_bar).sqrt() / alpha_bar.sqrt()) as f32;
    let expected = plain.iter().zip(pattern(plain.len())).map(|(a, b)| a + factor * b);
    assert_near(&by_epsilon, expected, "epsilon");
    let by_score = draw(Settings::new().steps([1]).sampler(DDIM).guide(2.0, |at: &State<'_>| {
        let by = -1.0 / (1.0 - at.alpha_bar).sqrt() as f32;
        Ok(Direction::Score(pattern(at.x.len()).into_iter().map(|v| by * v).collect()))
    }));
    assert_near(&by_score, by_epsilon.into_iter(), "score");
}

/// Ancestral samplers add the step's variance times the score to the mean.
#[test]
fn guidance_by_a_score_is_scaled_by_the_variance() {
    let scheduler =
        SchedulerConfig::read(&model().join("scheduler/scheduler_config.json")).expect("a scheduler");
    let list = steps(&scheduler, &Sampler::Ddpm, 4).expect("steps");
    let run = |direction: fn(f32, usize) -> Direction| {
        let mut left = list.clone().into_iter();
        draw(Settings::new().steps([4]).sampler(Sampler::Ddpm).guide(1.0, move |at: &State<'_>| {
            let step = left.next().expect("a step");
            let Variance::Fixed { sigma } = step.coefficients.variance else { panic!("a fixed variance") };
            Ok(direction((sigma * sigma) as f32, at.x.len()))
        }))
    };
    let by_score = run(|_, len| Direction::Score(pattern(len)));
    let by_mean =
        run(|variance, len| Direction::Mean(pattern(len).into_iter().map(|v| v * variance).collect()));
    assert_near(&by_score, by_mean.into_iter(), "variance times score");
    assert_ne!(by_score, draw(Settings::new().steps([4]).sampler(Sampler::Ddpm)));
}

#[test]
fn guidances_add_up_by_their_weights() {
    let score = |at: &State<'_>| Ok(Direction::Score(at.x0.iter().map(|v| -1.0 - v).collect()));
    let mean = |at: &State<'_>| Ok(Direction::Mean(pattern(at.x.len())));
    let together = draw(Settings::new().steps([5]).guide(0.5, score).guide(2.0, mean).guide(0.5, score));
    let one = draw(Settings::new().steps([5]).guide(1.0, score).guide(2.0, mean));
    assert_near(&together, one.into_iter(), "halves");
    let nothing = draw(Settings::new().steps([5]).guide(0.0, score));
    assert_near(&nothing, draw(Settings::new().steps([5])).into_iter(), "a weight of 0");
}

#[test]
fn guidance_that_fails_ends_the_run() {
    let engine = engine();
    let short = |_: &State<'_>| Ok(Direction::Mean(vec![0.0; 3]));
    let error = engine.generate("", Settings::new().steps([2]).guide(1.0, short)).expect_err("too short");
    assert!(error.to_string().contains("gave 3 values for a sample of"), "{error}");
    let failing = |_: &State<'_>| {
        let (setting, problem) = (Setting::Guide, Problem::Unsupported);
        Err(Error::Request { setting, problem, what: "no direction".into() })
    };
    let error = engine.generate("", Settings::new().steps([2]).guide(1.0, failing)).expect_err("it fails");
    assert!(error.to_string().contains("no direction"), "{error}");
    let nan = |at: &State<'_>| Ok(Direction::Mean(vec![f32::NAN; at.x.len()]));
    let error = engine.generate("", Settings::new().steps([2]).guide(1.0, nan)).expect_err("NaN");
    assert!(error.to_string().contains("NaN"), "{error}");
}

/// What a guidance computes once for all runs is not taken for computed where a run ends before its work is handed over.
#[test]
fn a_cancelled_run_leaves_a_guidance_as_it_was() {
    on_gpu(|device| {
        let Device::Gpu(gpu) = device else { panic!("a GPU") };
        let options = LoadOptions { device: DeviceChoice::Existing(gpu.clone()), ..LoadOptions::default() };
        let engine = Engine::load(model(), &options).expect("the golden's model");
        let clip = Clip::load(golden("sdg/transformers")).expect("a CLIP that sees no noise");
        let settings = || {
            let guidance = clip.guidance(device).content(&waves(32, 32), 1.0).style(&waves(40, 24), 1.0);
            Settings::new().seed(3).steps([2]).guide(1.0, guidance.build().expect("a guidance"))
        };
        let expected = engine.generate("", settings()).expect("a picture");
        let mut cancelled = 0;
        for call in 0..12 {
            let (again, mut left) = (settings(), call);
            let stopped = again.clone().on_progress(move |_| {
                left -= 1;
                left >= 0
            });
            cancelled += usize::from(matches!(engine.generate("", stopped), Err(Error::Cancelled)));
            let found = engine.generate("", again).expect("a picture");
            assert!(found[0].values == expected[0].values, "cancelled at call {call}");
        }
        assert!(cancelled >= 6, "{cancelled} runs were cancelled");
    });
}
