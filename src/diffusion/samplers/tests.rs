//! What holds of every sampler, and what is refused. Numbers of diffusers are compared in kernels-tests.

use std::path::Path;

use super::*;
use crate::diffusion::reference::{Inputs, apply_remembering};
use crate::diffusion::step::{MEMORY, Row};
use crate::diffusion::{SchedulerConfig, Spacing, Step, Timesteps, Variance, steps, steps_from};
use crate::error::{Error, Part};

/// A config with some of it changed.
fn with(mut config: SchedulerConfig, change: impl FnOnce(&mut SchedulerConfig)) -> SchedulerConfig {
    change(&mut config);
    config
}

fn config(json: &str) -> SchedulerConfig {
    SchedulerConfig::from_json(Path::new("s.json"), json).unwrap()
}

/// DDPM's file, which every sampler takes.
fn file(prediction: &str) -> SchedulerConfig {
    config(&format!(
        r#"{{"_class_name": "DDPMScheduler", "prediction_type": "{prediction}", "clip_sample": false}}"#
    ))
}

fn solvers() -> impl Iterator<Item = Sampler> {
    Sampler::NAMES.iter().map(|name| Sampler::named(name, 0.0).unwrap())
}

/// Where calls lead from x if the network always says x̂0, without noise. What is remembered before the first is no number.
fn follow(list: &[Step], mut x: Vec<f32>, x0: &[f32]) -> Vec<f32> {
    let mut memory = vec![vec![f64::NAN; x.len()]; MEMORY];
    for step in list {
        let noise = vec![0.0; x.len()];
        let inputs = Inputs { x: &x, out: x0, variance: &[], noise: &noise, memory: &memory, images: 1 };
        let stepped = apply_remembering(step, inputs);
        x = stepped.x.iter().map(|v| *v as f32).collect();
        memory = stepped.memory;
    }
    x
}

#[test]
fn every_name_is_a_sampler_of_that_name() {
    for name in Sampler::NAMES {
        assert_eq!(Sampler::named(name, 0.0).unwrap().name(), *name);
    }
    assert_eq!(Sampler::named("dpm", 0.0), None);
    assert_eq!(Sampler::UnClip.name(), "ddpm");
}

#[test]
fn samplers_are_written_and_read() {
    for sampler in solvers() {
        let text = serde_json::to_string(&sampler).unwrap();
        assert_eq!(serde_json::from_str::<Sampler>(&text).unwrap(), sampler);
    }
}

/// A network that always says the same picture is followed to it, whatever is remembered.
#[test]
fn a_network_that_is_sure_is_believed() {
    let x0 = [0.3, -0.8, 0.05];
    for sampler in solvers() {
        let list = steps(&file("sample"), &sampler, 12).unwrap();
        let found = follow(&list, vec![1.2, -0.4, 0.7], &x0);
        // DEIS, PNDM and PLMS end at the noise of timestep 0, where DDPM's x̂0 is taken whole.
        for (found, x0) in found.iter().zip(&x0) {
            assert!((found - x0).abs() < 0.02, "{sampler:?}: {found} for {x0}");
        }
    }
}

/// A run that begins anywhere takes nothing of a memory before it has one, and ends where it should.
#[test]
fn runs_begin_anywhere_without_a_memory() {
    let x0 = [0.3, -0.8];
    for sampler in solvers() {
        for first in [0, 1, 5, 10, 11] {
            let list = steps_from(&file("sample"), &sampler, 12, first).unwrap();
            assert_eq!(list[0].coefficients.next.memory, [0.0; MEMORY], "{sampler:?} from {first}");
            assert_eq!((list[0].step, list.last().unwrap().step), (first, 11), "{sampler:?}");
            assert!(list.windows(2).all(|pair| pair[1].step - pair[0].step <= 1), "{sampler:?}");
            if first == 11 && matches!(sampler, Sampler::Pndm(_)) {
                // Its last step stays at timestep 0.
                continue;
            }
            let found = follow(&list, vec![0.9, -0.4], &x0);
            // DEIS, PNDM and PLMS end at the noise of timestep 0, √β_0 = 0.01 of an ε that is 2.3 here.
            assert!(
                found.iter().zip(&x0).all(|(a, b)| (a - b).abs() < 0.025),
                "{sampler:?} from {first}: {found:?}"
            );
        }
        assert!(steps_from(&file("sample"), &sampler, 12, 12).unwrap().is_empty(), "{sampler:?}");
    }
}

#[test]
fn no_row_takes_more_of_the_memory_than_there_is() {
    for sampler in solvers() {
        for prediction in ["epsilon", "sample", "v_prediction"] {
            for step in steps(&file(prediction), &sampler, 20).unwrap() {
                let c = step.coefficients;
                let used = c.memory_len;
                assert!(used <= MEMORY && c.memory[used..].iter().all(|row| *row == Row::default()));
                let rows = std::iter::once(&c.next).chain(&c.memory);
                assert!(
                    rows.into_iter().all(|row| row.memory[used..].iter().all(|w| *w == 0.0)),
                    "{sampler:?}"
                );
                assert!((0.0..=1.0).contains(&step.alpha_bar), "{sampler:?}");
            }
        }
    }
}

/// Own timesteps that are the spaced ones make the same steps.
#[test]
fn own_timesteps_may_be_the_spaced_ones() {
    for name in ["dpmsolver++", "unipc", "deis", "euler", "euler-ancestral", "heun"] {
        let sampler = Sampler::named(name, 0.0).unwrap();
        let file = with(file("epsilon"), |c| {
            c.spacing = Spacing::Leading;
            c.spacing_said = true;
        });
        let spaced = steps(&file, &sampler, 10).unwrap();
        let mut list: Vec<usize> = spaced.iter().map(|step| step.timestep as usize).collect();
        list.dedup();
        assert_eq!(steps(&file, &sampler, Timesteps::Custom(list)).unwrap(), spaced, "{name}");
    }
}

/// The spacing is the file's where it says one, else the sampler's own.
#[test]
fn a_spacing_that_is_said_is_kept() {
    let dpm = Sampler::DpmSolver(DpmSolver::default());
    let first = |file: &SchedulerConfig| steps(file, &dpm, 10).unwrap()[0].timestep;
    assert_eq!(first(&file("epsilon")), 999.0);
    let said = config(r#"{"_class_name": "DDPMScheduler", "timestep_spacing": "leading"}"#);
    assert_eq!(first(&said), 900.0);
    let unclip = config(r#"{"_class_name": "UnCLIPScheduler"}"#);
    assert_eq!(first(&unclip), 999.0);
}

/// Noise that begins a run of Euler's is as strong as the first level, but where its timesteps lead.
#[test]
fn runs_begin_at_their_first_level() {
    let of = |sampler: &Sampler, spacing| {
        let file = with(file("epsilon"), |c| {
            c.spacing = spacing;
            c.spacing_said = true;
        });
        steps(&file, sampler, 10).unwrap()[0]
    };
    for sampler in solvers() {
        let scaled = matches!(sampler, Sampler::Euler(_) | Sampler::EulerAncestral | Sampler::Heun(_));
        for spacing in [Spacing::Linspace, Spacing::Trailing, Spacing::Leading] {
            let step = of(&sampler, spacing);
            let level =
                if scaled && spacing != Spacing::Leading { (1.0 - step.alpha_bar).sqrt() } else { 1.0 };
            assert!((step.start_scale - level).abs() < 1e-7, "{sampler:?} {spacing:?}: {}", step.start_scale);
        }
    }
}

#[test]
fn noise_of_solvers_is_their_own() {
    let learned = config(r#"{"_class_name": "DDPMScheduler", "variance_type": "learned_range"}"#);
    for (name, draws) in [("sde-dpmsolver++", 6), ("euler-ancestral", 6), ("dpmsolver++", 0), ("heun", 0)] {
        let list = steps(&learned, &Sampler::named(name, 0.0).unwrap(), 6).unwrap();
        assert!(
            list.iter().all(|step| matches!(step.coefficients.variance, Variance::Fixed { .. })),
            "{name}"
        );
        assert_eq!(list.iter().filter(|step| step.draws_noise).count(), draws, "{name}");
        assert_eq!(list.iter().filter(|step| step.adds_noise).count(), draws.saturating_sub(1), "{name}");
    }
}

#[test]
fn karras_levels_lie_as_published() {
    let karras = config(r#"{"_class_name": "EulerDiscreteScheduler", "use_karras_sigmas": true}"#);
    let list = steps(&karras, &karras.sampler, 5).unwrap();
    let sigma = |step: &Step| (1.0 / step.alpha_bar - 1.0).sqrt();
    let (most, least) = (sigma(&list[0]).powf(1.0 / 7.0), sigma(&list[4]).powf(1.0 / 7.0));
    for (i, step) in list.iter().enumerate() {
        let expected = (most + i as f64 / 4.0 * (least - most)).powi(7);
        assert!((sigma(step) / expected - 1.0).abs() < 1e-5, "{i}");
    }
}

#[test]
fn settings_that_are_not_built_are_refused_by_their_names() {
    let error = |class: &str, setting: &str| {
        let json = format!(r#"{{"_class_name": "{class}", {setting}}}"#);
        match SchedulerConfig::from_json(Path::new("s.json"), &json) {
            Err(Error::ModelFile { part: Part::Key(key), what, .. }) => (key, what),
            other => panic!("{class} {setting}: {other:?}"),
        }
    };
    const DPM: &str = "DPMSolverMultistepScheduler";
    for (class, setting, key, part) in [
        (DPM, r#""solver_order": 4"#, "solver_order", "from 1 to 3"),
        (DPM, r#""algorithm_type": "x""#, "algorithm_type", "dpmsolver++, sde-dpmsolver++"),
        (DPM, r#""algorithm_type": "dpmsolver""#, "final_sigmas_type", "sigma_min"),
        (
            DPM,
            r#""algorithm_type": "sde-dpmsolver", "solver_order": 3, "final_sigmas_type": "sigma_min""#,
            "solver_order",
            "1, 2",
        ),
        (DPM, r#""use_flow_sigmas": true"#, "use_flow_sigmas", "not supported"),
        (DPM, r#""prediction_type": "flow_prediction""#, "prediction_type", "v_prediction"),
        (
            DPM,
            r#""use_karras_sigmas": true, "use_exponential_sigmas": true"#,
            "use_karras_sigmas",
            "one at most",
        ),
        ("UniPCMultistepScheduler", r#""use_beta_sigmas": true"#, "use_beta_sigmas", "not supported"),
        ("UniPCMultistepScheduler", r#""solver_p": {}"#, "solver_p", "not supported"),
        ("UniPCMultistepScheduler", r#""disable_corrector": [64]"#, "disable_corrector", "0 to 63"),
        ("DEISMultistepScheduler", r#""solver_type": "x""#, "solver_type", "logrho"),
        ("PNDMScheduler", r#""skip_prk_steps": 1"#, "skip_prk_steps", "true or false"),
        ("HeunDiscreteScheduler", r#""timestep_spacing": "x""#, "timestep_spacing", "linspace"),
        ("EulerDiscreteScheduler", r#""interpolation_type": "x""#, "interpolation_type", "log_linear"),
        (
            "EulerDiscreteScheduler",
            r#""timestep_type": "continuous", "prediction_type": "v_prediction""#,
            "timestep_type",
            "discrete",
        ),
        ("EulerDiscreteScheduler", r#""sigma_min": 0"#, "sigma_min", "above 0"),
    ] {
        let (found, what) = error(class, setting);
        assert!(found == key && what.contains(part), "{class} {setting}: {found}: {what}");
    }
}

#[test]
fn requests_that_do_not_go_together_are_refused() {
    let refused = |config: &SchedulerConfig, timesteps: Timesteps| {
        steps(config, &config.sampler, timesteps).unwrap_err().to_string()
    };
    let karras = config(r#"{"_class_name": "DPMSolverMultistepScheduler", "use_karras_sigmas": true}"#);
    assert!(refused(&karras, Timesteps::Custom(vec![900, 100])).contains("own timesteps"));
    let unipc = config(r#"{"_class_name": "UniPCMultistepScheduler", "lower_order_final": false}"#);
    assert!(refused(&unipc, 10.into()).contains("unipc cannot step"));
    for count in [0, 1000, 1001] {
        assert!(refused(&unipc, count.into()).contains("1 to 999"), "{count}");
    }
}
