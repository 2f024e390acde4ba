//! Identities between samplers, edge cases, messages. Stored numbers are checked in kernels-tests.

use std::path::Path;

use super::reference::{apply, quantile_abs};
use super::*;
use crate::error::{Error, Part};

/// A config with some of it changed.
fn with(mut config: SchedulerConfig, change: impl FnOnce(&mut SchedulerConfig)) -> SchedulerConfig {
    change(&mut config);
    config
}

fn config(json: &str) -> SchedulerConfig {
    SchedulerConfig::from_json(Path::new("s.json"), json).unwrap()
}

fn config_error(json: &str) -> (String, String) {
    match SchedulerConfig::from_json(Path::new("s.json"), json) {
        Err(Error::ModelFile { part: Part::Key(key), what, .. }) => (key, what),
        other => panic!("{other:?}"),
    }
}

fn unclipped_f64() -> SchedulerConfig {
    let linear = BetaSchedule::openai_linear(1000);
    with(SchedulerConfig::openai(linear, 1000, VarianceType::FixedSmall), |c| c.clip = Thresholding::None)
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-12 * a.abs().max(b.abs()).max(1.0)
}

/// Deterministic values in about [−2, 2].
fn values(n: usize, seed: u64) -> Vec<f32> {
    NoiseStream::new(seed).normal(n)
}

#[test]
fn without_clipping_ddpm_is_the_papers_algorithm_2() {
    let config = unclipped_f64();
    let schedule = config.schedule().unwrap();
    for step in steps(&config, &Sampler::Ddpm, 1000).unwrap() {
        let (t, c) = (step.timestep as usize, step.coefficients);
        let (beta, alpha_bar) = (schedule.betas[t], schedule.alpha_bars[t]);
        let alpha = 1.0 - beta;
        assert_eq!(c.next.x0, 0.0);
        assert!(close(c.next.x, 1.0 / alpha.sqrt()), "t = {t}: {}", c.next.x);
        assert!(
            close(c.next.eps, -beta / (1.0 - alpha_bar).sqrt() / alpha.sqrt()),
            "t = {t}: {}",
            c.next.eps
        );
    }
}

#[test]
fn the_papers_form_equals_the_posterior_form() {
    let plain = unclipped_f64();
    // a range nothing reaches keeps the posterior form but clips nothing
    let posterior = with(plain.clone(), |c| {
        c.clip = Thresholding::Range(1e30);
    });
    let (x, out, z) = (values(64, 1), values(64, 2), values(64, 3));
    let pairs = steps(&plain, &Sampler::Ddpm, 50).unwrap();
    for (a, b) in pairs.iter().zip(&steps(&posterior, &Sampler::Ddpm, 50).unwrap()) {
        assert!(a.coefficients.next.eps != 0.0 && b.coefficients.next.x0 != 0.0);
        let (a, b) = (apply(a, &x, &out, &[], &z, 1), apply(b, &x, &out, &[], &z, 1));
        assert!(a.x.iter().zip(&b.x).all(|(a, b)| (a - b).abs() < 1e-10));
    }
}

#[test]
fn unclipped_ddim_with_eta_1_is_ddpm() {
    let config = with(unclipped_f64(), |c| {
        c.spacing = Spacing::Leading;
    });
    let (x, out, z) = (values(32, 4), values(32, 5), values(32, 6));
    for rederive_epsilon in [false, true] {
        let config = with(config.clone(), |c| {
            c.rederive_epsilon = rederive_epsilon;
        });
        let ddim = steps(&config, &Sampler::Ddim { eta: 1.0 }, 20).unwrap();
        for (a, b) in ddim.iter().zip(&steps(&config, &Sampler::Ddpm, 20).unwrap()) {
            let (a, b) = (apply(a, &x, &out, &[], &z, 2), apply(b, &x, &out, &[], &z, 2));
            assert!(a.x.iter().zip(&b.x).all(|(a, b)| (a - b).abs() < 1e-10));
        }
    }
}

#[test]
fn prediction_types_agree_on_the_same_sample() {
    let base = with(unclipped_f64(), |c| {
        c.clip = Thresholding::Range(3.0);
    });
    let of = |prediction_type| {
        let config = with(base.clone(), |c| {
            c.prediction_type = prediction_type;
        });
        steps(&config, &Sampler::Ddim { eta: 0.3 }, 10).unwrap()
    };
    let all = [of(PredictionType::Epsilon), of(PredictionType::Sample), of(PredictionType::VPrediction)];
    for i in 0..10 {
        let alpha_bar = base.schedule().unwrap().alpha_bars[all[0][i].timestep as usize];
        let (x0, epsilon, noise) = (0.7f64, -1.1f64, 0.4f32);
        let (signal, sigma) = (alpha_bar.sqrt(), (1.0 - alpha_bar).sqrt());
        let x = signal * x0 + sigma * epsilon;
        for (steps, out) in all.iter().zip([epsilon, x0, signal * epsilon - sigma * x0]) {
            let stepped = apply(&steps[i], &[x as f32], &[out as f32], &[], &[noise], 1);
            // x and out are stored as float32, which 1/√ᾱ (up to 160) magnifies
            assert!((stepped.x0[0] - x0).abs() < 2e-5, "{i}: {}", stepped.x0[0]);
        }
    }
}

#[test]
fn variances_are_what_their_names_say() {
    let of = |variance: &str| {
        let json = format!(r#"{{"_class_name": "DDPMScheduler", "variance_type": "{variance}"}}"#);
        steps(&config(&json), &Sampler::Ddpm, 10).unwrap()[3].coefficients.variance
    };
    let Variance::LearnedRange { log_min, log_max } = of("learned_range") else { panic!() };
    for (name, log) in [
        ("fixed_small", log_min),
        ("fixed_small_log", log_min),
        ("fixed_large", log_max),
        ("fixed_large_log", log_max),
    ] {
        let Variance::Fixed { sigma } = of(name) else { panic!("{name}") };
        assert!((sigma - (0.5 * log).exp()).abs() < 1e-6, "{name}");
    }
    assert_eq!(of("learned"), Variance::Learned);
}

#[test]
fn the_last_step_adds_no_noise() {
    let ddpm = config(r#"{"_class_name": "DDPMScheduler", "variance_type": "learned_range"}"#);
    let list = steps(&ddpm, &Sampler::Ddpm, 10).unwrap();
    let draws: Vec<bool> = list.iter().map(|step| step.draws_noise).collect();
    assert_eq!(draws, [true, true, true, true, true, true, true, true, true, false]);
    assert_eq!(list[9].coefficients.variance, Variance::Fixed { sigma: 0.0 });
    assert_eq!(list[9].coefficients.next.x0, 1.0);
    // OpenAI's loops move the generator on all the same, also in DDIM without noise
    let glide = SchedulerConfig::openai(BetaSchedule::openai_linear(1000), 1000, VarianceType::LearnedRange);
    let ddim = Sampler::Ddim { eta: 0.0 };
    let fast = steps(&glide, &ddim, Timesteps::Respaced("fast27".into())).unwrap();
    assert_eq!((fast.len(), fast[0].timestep), (27, 997.0));
    assert!(fast.iter().all(|s| s.draws_noise && s.coefficients.variance == Variance::Fixed { sigma: 0.0 }));
}

#[test]
fn zero_terminal_snr_needs_a_prediction_that_survives_it() {
    let json = |prediction: &str| {
        format!(
            r#"{{"_class_name": "DDIMScheduler", "rescale_betas_zero_snr": true,
                "timestep_spacing": "trailing", "prediction_type": "{prediction}"}}"#
        )
    };
    let v = with(config(&json("v_prediction")), |c| {
        c.rederive_epsilon = true;
    });
    assert_eq!(v.schedule().unwrap().alpha_bars[999], 0.0);
    for sampler in [Sampler::Ddpm, Sampler::Ddim { eta: 1.0 }] {
        let first = steps(&v, &sampler, 10).unwrap()[0];
        let stepped = apply(&first, &values(16, 1), &values(16, 2), &[], &values(16, 3), 1);
        assert!(stepped.x.iter().all(|x| x.is_finite()));
    }
    let error = steps(&config(&json("epsilon")), &v.sampler, 10).unwrap_err().to_string();
    assert!(error.contains("timestep 999 has alpha_bar 0"), "{error}");
}

#[test]
fn impossible_requests_are_refused_with_the_numbers() {
    let ddpm = config(r#"{"_class_name": "DDPMScheduler", "steps_offset": 1}"#);
    let message = |timesteps: Timesteps| steps(&ddpm, &Sampler::Ddpm, timesteps).unwrap_err().to_string();
    assert!(message(0.into()).contains("0 sampling steps"));
    assert!(message(1001.into()).contains("1 to 1000"));
    assert!(message(1000.into()).contains("steps_offset 1"));
    for custom in [vec![], vec![5, 5], vec![3, 4], vec![1000, 2]] {
        assert!(message(Timesteps::Custom(custom)).contains("strictly descending and below 1000"));
    }
    for eta in [-0.1, f64::NAN, 3.0] {
        let ddim = Sampler::Ddim { eta };
        assert!(steps(&ddpm, &ddim, 10).unwrap_err().to_string().contains("eta"), "{eta}");
    }
    let unclip = config(r#"{"_class_name": "UnCLIPScheduler"}"#);
    assert!(steps(&unclip, &Sampler::UnClip, 1).unwrap_err().to_string().contains("at least 2"));
    assert!(add_noise(&ddpm, 1000).unwrap_err().to_string().contains("0 to 999"));
}

#[test]
fn configuration_errors_name_key_value_and_choices() {
    let ddpm = |setting: &str| config_error(&format!(r#"{{"_class_name": "DDPMScheduler", {setting}}}"#));
    for (setting, key, part) in [
        (
            r#""beta_schedule": "exp""#,
            "beta_schedule",
            "\"exp\" is not supported; supported: linear, scaled_linear",
        ),
        (r#""variance_type": 3"#, "variance_type", "3 is not supported"),
        (r#""prediction_type": "x""#, "prediction_type", "epsilon, sample, v_prediction"),
        (r#""timestep_spacing": "x""#, "timestep_spacing", "leading, linspace, trailing"),
        (r#""num_train_timesteps": 0"#, "num_train_timesteps", "from 1 to"),
        (r#""num_train_timesteps": 1e300"#, "num_train_timesteps", "whole number"),
        (r#""clip_sample": "yes""#, "clip_sample", "true or false"),
        (r#""clip_sample_range": -1"#, "clip_sample_range", "above 0"),
        (r#""beta_start": "a""#, "beta_start", "a number"),
        (r#""beta_end": 7"#, "beta_schedule", "beta of timestep"),
        (r#""beta_start": 1e-12"#, "beta_schedule", "alpha_bar of timestep 0"),
        (r#""trained_betas": [0.1]"#, "trained_betas", "has 1 betas"),
        (r#""trained_betas": {}"#, "trained_betas", "list of numbers"),
        (
            r#""thresholding": true, "dynamic_thresholding_ratio": 2"#,
            "dynamic_thresholding_ratio",
            "from 0 to 1",
        ),
    ] {
        let (found, what) = ddpm(setting);
        assert!(found == key && what.contains(part), "{setting}: {found}: {what}");
    }
    assert!(
        config_error(r#"{"_class_name": "EDMEulerScheduler"}"#).1.contains("DDPMScheduler, DDIMScheduler")
    );
    assert_eq!(config_error("{}").0, "_class_name");
    assert_eq!(
        config_error(r#"{"_class_name": "UnCLIPScheduler", "variance_type": "learned"}"#).0,
        "variance_type"
    );
    assert!(matches!(SchedulerConfig::from_json(Path::new("x"), "[1"), Err(Error::ModelFile { .. })));
    assert!(matches!(SchedulerConfig::from_json(Path::new("x"), "[1]"), Err(Error::ModelFile { .. })));
}

#[test]
fn old_and_foreign_keys_are_understood() {
    let old = config(
        r#"{"_class_name": "DDPMScheduler", "beta_end": 0.02, "beta_schedule": "linear", "beta_start": 0.0001,
            "clip_sample": true, "num_train_timesteps": 1000, "timestep_values": null, "trained_betas": null,
            "variance_type": "fixed_large", "tensor_format": "pt"}"#,
    );
    assert_eq!((old.variance_type, old.clip), (VarianceType::FixedLarge, Thresholding::Range(1.0)));
    let sample = config(r#"{"_class_name": "DDPMScheduler", "predict_epsilon": false}"#);
    assert_eq!(sample.prediction_type, PredictionType::Sample);
}

#[test]
fn respacing_strings_are_openais() {
    assert_eq!(space_timesteps(300, "10,15,20").unwrap().len(), 45);
    assert_eq!(space_timesteps(1000, "ddim10").unwrap(), (0..1000).step_by(100).collect::<Vec<_>>());
    assert_eq!(space_timesteps(1000, "3").unwrap(), [0, 500, 999]);
    assert_eq!(space_timesteps(4, "").unwrap(), [0, 1, 2, 3]);
    assert_eq!(space_timesteps(4, "1").unwrap(), [0]);
    let fast = space_timesteps(1000, "fast27").unwrap();
    assert_eq!((fast.len(), fast[26], fast[25], fast[9], fast[10]), (27, 997, 800, 199, 200));
    for bad in ["ddim", "ddim0", "ddim999", "x", "1,,2", "-1", "0", "2000", "501,1", "99999999999999999999"] {
        let error = space_timesteps(1000, bad).unwrap_err().to_string();
        assert!(error.contains(bad) && error.contains("\"150\""), "{error}");
    }
    assert!(space_timesteps(20, "fast27").is_err());
}

#[test]
fn quantiles_and_thresholds() {
    assert_eq!(quantile_abs(&[-4.0, 1.0, 2.0, 3.0], 0.5), 2.5);
    assert_eq!(quantile_abs(&[-4.0, 1.0], 1.0), 4.0);
    assert_eq!((quantile_abs(&[7.0], 0.9), quantile_abs(&[], 0.9)), (7.0, 0.0));
    assert!(quantile_abs(&[1.0, f32::NAN], 0.1).is_nan());
    let json = r#"{"_class_name": "DDPMScheduler", "prediction_type": "sample", "thresholding": true,
        "dynamic_thresholding_ratio": 1.0, "sample_max_value": 3.0}"#;
    let step = steps(&config(json), &Sampler::Ddpm, 10).unwrap()[9];
    // each image has its own s: 2, and 5 held at 3; below 1 nothing is divided
    let out = [2.0, -1.0, 5.0, 1.5, 0.5, -0.25];
    let found = apply(&step, &out, &out, &[], &[], 3);
    assert_eq!(found.x0, [1.0, -0.5, 1.0, 0.5, 0.5, -0.25]);
    // NaN stays visible, and in its own image
    let found = apply(&step, &[0.0; 4], &[f32::NAN, 1.0, 0.5, 1.0], &[], &[], 2);
    assert!(found.x0[..2].iter().all(|x| x.is_nan()) && found.x0[2..] == [0.5, 1.0]);
}

#[test]
fn mt19937_gives_its_published_numbers() {
    // the 10000th output of the default seed, as the C++ standard requires
    let mut stream = NoiseStream::new(5489);
    let last = (0..10_000).map(|_| stream.random()).last();
    assert_eq!(last, Some(4_123_659_995));
}
