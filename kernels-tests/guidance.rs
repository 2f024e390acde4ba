//! What a guidance does to a run: each kind of direction against its formula, sums, refusals.

use ancestral::diffusion::{Sampler, SchedulerConfig, Variance, steps};
use ancestral::guidance::{Direction, State};
use ancestral::{DeviceChoice, Engine, Error, GenerateConfig, LoadOptions, Picture};
use std::cell::RefCell;
use std::path::{Path, PathBuf};

fn model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels-tests/goldens/ddpm/pipeline")
}

fn engine() -> Engine {
    let options = LoadOptions { device: DeviceChoice::Cpu, ..Default::default() };
    Engine::load(model(), &options).expect("the golden's model")
}

const DDIM: Sampler = Sampler::Ddim { eta: 0.0, rederive_epsilon: false };

fn draw(cfg: GenerateConfig<'_>) -> Vec<f32> {
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
    let plain = draw(GenerateConfig::new().steps([1]));
    let shifted = draw(GenerateConfig::new().steps([1]).guide(1.0, |at: &State<'_>| {
        assert_eq!((at.shape[0], at.x0.len()), (2, at.x.len()));
        Ok(Direction::Mean(pattern(at.x.len())))
    }));
    assert_near(&shifted, plain.iter().zip(pattern(plain.len())).map(|(a, b)| a + b), "mean");
}

/// The last step of DDIM ends at x̂₀, which follows ε: x̂₀ = (x − √(1−ᾱ) ε)/√ᾱ.
#[test]
fn guidance_shifts_epsilon_and_so_does_a_score_in_ddim() {
    let plain = draw(GenerateConfig::new().steps([1]).sampler(DDIM));
    let alpha_bar = RefCell::new(0.0);
    let by_epsilon = draw(GenerateConfig::new().steps([1]).sampler(DDIM).guide(2.0, |at: &State<'_>| {
        *alpha_bar.borrow_mut() = at.alpha_bar;
        Ok(Direction::Epsilon(pattern(at.x.len())))
    }));
    let alpha_bar = *alpha_bar.borrow();
    let factor = (-2.0 * (1.0 - alpha_bar).sqrt() / alpha_bar.sqrt()) as f32;
    let expected = plain.iter().zip(pattern(plain.len())).map(|(a, b)| a + factor * b);
    assert_near(&by_epsilon, expected, "epsilon");
    let by_score = draw(GenerateConfig::new().steps([1]).sampler(DDIM).guide(2.0, |at: &State<'_>| {
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
    let run = |direction: &dyn Fn(f32, usize) -> Direction| {
        let at_step = RefCell::new(0);
        draw(GenerateConfig::new().steps([4]).sampler(Sampler::Ddpm).guide(1.0, |at: &State<'_>| {
            let i = at_step.replace_with(|i| *i + 1);
            let Variance::Fixed { sigma } = list[i].coefficients.variance else { panic!("a fixed variance") };
            Ok(direction((sigma * sigma) as f32, at.x.len()))
        }))
    };
    let by_score = run(&|_, len| Direction::Score(pattern(len)));
    let by_mean =
        run(&|variance, len| Direction::Mean(pattern(len).into_iter().map(|v| v * variance).collect()));
    assert_near(&by_score, by_mean.into_iter(), "variance times score");
    assert_ne!(by_score, draw(GenerateConfig::new().steps([4]).sampler(Sampler::Ddpm)));
}

#[test]
fn guidances_add_up_by_their_weights() {
    let score = |at: &State<'_>| Ok(Direction::Score(at.x0.iter().map(|v| -1.0 - v).collect()));
    let mean = |at: &State<'_>| Ok(Direction::Mean(pattern(at.x.len())));
    let together =
        draw(GenerateConfig::new().steps([5]).guide(0.5, score).guide(2.0, mean).guide(0.5, score));
    let one = draw(GenerateConfig::new().steps([5]).guide(1.0, score).guide(2.0, mean));
    assert_near(&together, one.into_iter(), "halves");
    let nothing = draw(GenerateConfig::new().steps([5]).guide(0.0, score));
    assert_near(&nothing, draw(GenerateConfig::new().steps([5])).into_iter(), "a weight of 0");
}

#[test]
fn guidance_that_fails_ends_the_run() {
    let mut engine = engine();
    let short = |_: &State<'_>| Ok(Direction::Mean(vec![0.0; 3]));
    let error =
        engine.generate("", GenerateConfig::new().steps([2]).guide(1.0, short)).expect_err("too short");
    assert!(error.to_string().contains("gave 3 values for a sample of"), "{error}");
    let failing = |_: &State<'_>| Err(Error::Request("no direction".into()));
    let error =
        engine.generate("", GenerateConfig::new().steps([2]).guide(1.0, failing)).expect_err("it fails");
    assert!(error.to_string().contains("no direction"), "{error}");
    let nan = |at: &State<'_>| Ok(Direction::Mean(vec![f32::NAN; at.x.len()]));
    let error = engine.generate("", GenerateConfig::new().steps([2]).guide(1.0, nan)).expect_err("NaN");
    assert!(error.to_string().contains("NaN"), "{error}");
}
