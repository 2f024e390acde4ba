//! Presets, detection and overrides, against each other.

use super::classifier::Pool;
use super::detect::{Shapes, first_difference};
use super::flags::{Flags, Origin, find};
use super::*;
use crate::graph::Graph;
use std::path::{Path, PathBuf};

fn shapes_of(graph: &Graph) -> Shapes {
    graph.weights().map(|(name, shape)| (name.to_string(), shape.to_vec())).collect()
}

/// What shapes do not tell, from the other.
fn unet_like(detected: Config, other: &Config) -> Config {
    let Config { image_size, small_size, num_heads, num_head_channels, num_heads_upsample, .. } = *other;
    let Config { use_new_attention_order, noise_schedule, diffusion_steps, rescale_timesteps, .. } = *other;
    Config {
        image_size,
        small_size: detected.small_size.and(small_size),
        num_heads,
        num_head_channels,
        num_heads_upsample,
        use_new_attention_order,
        noise_schedule,
        diffusion_steps,
        rescale_timesteps,
        rescale_learned_sigmas: other.rescale_learned_sigmas,
        ..detected
    }
}

#[test]
fn shapes_tell_what_they_can() {
    for preset in presets::UNETS {
        let config: Config = preset.flags();
        config.validate(Path::new(preset.name)).unwrap();
        let detected = Config::detect(&shapes_of(&config.graph())).unwrap();
        assert_eq!(unet_like(detected, &config), config, "{}", preset.name);
    }
    for preset in presets::CLASSIFIERS {
        let config: classifier::Config = preset.flags();
        config.validate(Path::new(preset.name)).unwrap();
        assert_eq!(classifier::Config::detect(&shapes_of(&config.graph())), Ok(config), "{}", preset.name);
    }
    // What no published checkpoint has.
    let base = Config { num_channels: 96, channel_mult: vec![1.0, 5.0 / 3.0], ..Config::default() };
    for config in [
        Config { conv_resample: false, ..base.clone() },
        Config { channel_mult: vec![1.0], attention_resolutions: vec![1], ..base.clone() },
        Config { num_res_blocks: 1, attention_resolutions: vec![2], resblock_updown: true, ..base.clone() },
        Config { attention_resolutions: vec![1, 2], learn_sigma: true, small_size: Some(64), ..base },
    ] {
        config.validate(Path::new("x")).unwrap();
        let shapes = shapes_of(&config.graph());
        let detected = Config::detect(&shapes).unwrap();
        assert_eq!(first_difference(&detected.graph(), &shapes), None, "{config:?}");
        let same = |mut c: Config| {
            // Of no effect, and not in the shapes, in networks of this kind.
            c.attention_resolutions.retain(|f| *f < 1 << c.channel_mult.len());
            c
        };
        assert_eq!(same(unet_like(detected, &config)), same(config));
    }
    for pool in [Pool::Attention, Pool::Adaptive] {
        for updown in [true, false] {
            let config = classifier::Config {
                image_size: 32,
                classifier_width: 64,
                channel_mult: vec![1.0, 1.0, 2.0],
                classifier_attention_resolutions: vec![2, 4],
                classifier_pool: pool,
                classifier_resblock_updown: updown,
                num_classes: 7,
                ..Default::default()
            };
            let mut detected = classifier::Config::detect(&shapes_of(&config.graph())).unwrap();
            if pool == Pool::Adaptive {
                detected.image_size = 32;
            }
            assert_eq!(detected, config);
        }
    }
}

#[test]
fn presets_are_found_by_name_and_by_shapes() {
    fn check<F: Flags + std::fmt::Debug>() {
        for preset in F::presets() {
            let config: F = preset.flags();
            let shapes = shapes_of(&config.graph());
            let path = PathBuf::from(format!("weights/ema_{}_copy.pt", preset.name));
            let (found, origin) = find::<F>(&path, &shapes, (None, "diffusion"), &[]).unwrap();
            assert_eq!((&found, origin), (&config, Origin::Preset { name: preset.name, by_name: true }));
            let (found, origin) =
                find::<F>(Path::new("model.pt"), &shapes, (None, "diffusion"), &[]).unwrap();
            assert_eq!(found, config, "{}", preset.name);
            assert!(matches!(origin, Origin::Preset { by_name: false, .. }), "{origin}");
        }
    }
    check::<Config>();
    check::<classifier::Config>();
    for preset in presets::UNETS {
        let classifier = preset.classifier.map(|(name, _)| name);
        assert!(classifier.is_none_or(|name| presets::by_name(name).is_some()), "{}", preset.name);
    }
}

#[test]
fn who_is_not_a_preset_is_told_so() {
    let config = Config { num_classes: 10, ..presets::by_name("64x64_diffusion").unwrap().flags() };
    let shapes = shapes_of(&config.graph());
    let path = Path::new("64x64_diffusion.pt");
    let said = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
        pairs.iter().map(|(f, v)| (f.to_string(), v.to_string())).collect()
    };
    let (found, origin) = find::<Config>(path, &shapes, (None, "diffusion"), &[]).unwrap();
    assert_eq!((found.num_classes, found.num_heads, found.num_head_channels), (10, 4, None));
    let text = origin.to_string();
    for part in ["no preset", "64x64_diffusion", "label_emb.weight", "num_heads", "noise_schedule"] {
        assert!(text.contains(part), "{part} is not in: {text}");
    }
    // The user's word fits the preset to the file.
    let ten = said(&[("num_classes", "10"), ("noise_schedule", "linear"), ("num_heads_upsample", "-1")]);
    let (found, origin) = find::<Config>(path, &shapes, (None, "diffusion"), &ten).unwrap();
    assert_eq!(found, Config { noise_schedule: NoiseSchedule::Linear, ..config.clone() });
    assert!(matches!(origin, Origin::Preset { by_name: true, .. }));
    // Without a preset the user says all.
    let all = said(&[("num_head_channels", "64"), ("attention_resolutions", "32,16,8"), ("dropout", "0.1")]);
    let (found, origin) = find::<Config>(Path::new("x.pt"), &shapes, (None, "diffusion"), &all).unwrap();
    assert_eq!(found.num_head_channels, Some(64));
    assert!(!origin.to_string().contains("num_heads"), "{origin}");
    for (flag, value, part) in [
        ("heads", "4", "no such flag"),
        ("num_heads", "many", "`many` is not a number"),
        ("num_heads", "7", "7 does not divide"),
        ("class_cond", "perhaps", "neither True nor False"),
        ("attention_resolutions", "128", "128 is no side"),
        ("channel_mult", "1,x", "`x` is not a number"),
    ] {
        let error = find::<Config>(path, &shapes, (None, "diffusion"), &said(&[(flag, value)])).unwrap_err();
        assert!(error.to_string().contains(part) && error.to_string().contains(flag), "{error}");
    }
}

#[test]
fn other_checkpoints_are_refused() {
    let good = shapes_of(&Config::default().graph());
    let refused = |change: &dyn Fn(&mut Shapes)| {
        let mut shapes = good.clone();
        change(&mut shapes);
        (Config::detect(&shapes).unwrap_err(), classifier::Config::detect(&shapes).unwrap_err())
    };
    assert!(refused(&|s| s.clear()).0.contains("no network of guided-diffusion"));
    refused(&|s| {
        s.insert("time_embed.0.weight".into(), vec![0, 0]);
    });
    refused(&|s| {
        s.insert("input_blocks.0.0.weight".into(), vec![usize::MAX]);
    });
    refused(&|s| {
        s.insert("input_blocks.999999999999.0.weight".into(), vec![1]);
    });
    // Absurd sizes are refused before anything is recorded.
    let mut shapes = good.clone();
    shapes.insert("time_embed.0.weight".into(), vec![usize::MAX, 1 << 40]);
    assert!(find::<Config>(Path::new("x"), &shapes, (None, "diffusion"), &[]).is_err());
}

#[test]
fn a_file_beside_the_weights() {
    let folder = std::env::temp_dir().join(format!("ancestral-flags-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let (file, weights) = (folder.join("config.json"), folder.join("64x64_diffusion.pt"));
    let config: Config = presets::by_name("64x64_diffusion").unwrap().flags();
    let shapes = shapes_of(&config.graph());
    let write = |text: &str| std::fs::write(&file, text).unwrap();
    write(
        r#"{"note": "x", "diffusion": {"num_head_channels": 32, "attention_resolutions": "32,16,8",
        "image_size": 64, "colour": "blue", "class_cond": true, "noise_schedule": "cosine"}}"#,
    );
    let find = |section| find::<Config>(&weights, &shapes, (Some(&file), section), &[]);
    let (found, origin) = find("diffusion").unwrap();
    assert_eq!((found.num_head_channels, &found.channel_mult), (Some(32), &config.channel_mult));
    assert_eq!((found.attention_resolutions, origin), (vec![2, 4, 8], Origin::File(file.clone())));
    // A file that does not speak of the network leaves it to the presets.
    assert!(matches!(find("upsampler").unwrap().1, Origin::Preset { .. }));
    for (text, part) in [
        (r#"{"diffusion": 3}"#, "expected an object"),
        (r#"{"diffusion": {"num_heads": [4]}}"#, "`num_heads`"),
        (r#"{"diffusion": {"num_heads": 1e99}}"#, "`num_heads`"),
        (r#"{"diffusion": {"noise_schedule": "sine"}}"#, "`sine` is unknown"),
        ("[]", "not the JSON"),
    ] {
        write(text);
        let message = find("diffusion").unwrap_err().to_string();
        assert!(message.contains(part) && message.contains("config.json"), "{message}");
    }
    std::fs::remove_dir_all(folder).unwrap();
}
