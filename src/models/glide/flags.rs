//! GLIDE's options as [flags](Flags): its files hold tensors only.

use super::text::Config as TextConfig;
use super::unet::Config;
use crate::error::Result;
use crate::graph::Graph;
use crate::models::adm::NoiseSchedule;
use crate::models::adm::detect::{self, Shapes};
use crate::models::adm::flags::{Flags, Preset, WITHOUT_EFFECT, flags, put};
use crate::models::adm::presets::preset;
use crate::models::adm::values::{factors, list, multiples, number, optional, schedule, truth};
use crate::models::network::DenoisingNetwork;
use serde_json::Value;
use std::path::Path;

/// The published networks (December 2021), as glide-text2im's `model_creation.py` and notebooks make them.
pub const PRESETS: &[Preset] = &[
    preset("base", ""),
    preset("upsample", "--image_size 256 --num_res_blocks 2 --noise_schedule linear --super_res True"),
    preset("base_inpaint", "--inpaint True"),
    preset(
        "upsample_inpaint",
        "--image_size 256 --num_res_blocks 2 --noise_schedule linear --super_res True --inpaint True",
    ),
];

/// Channels of the first convolution: the sample and what is beside it.
const PLAIN: usize = 3;
const SUPER_RES: usize = 6;
const INPAINT: usize = 7;
const BOTH: usize = 10;

/// Pictures to enlarge are so many times smaller, until a stage before says otherwise.
const ENLARGES: usize = 4;

impl Config {
    fn set_super_res(&mut self, enlarges: bool) {
        self.unet.small_size = enlarges.then_some((self.unet.image_size / ENLARGES).max(1));
    }
}

impl Flags for Config {
    flags! {
        |config, value| {
            "image_size" => put(&mut config.unet.image_size, number(value)),
            "num_channels" => put(&mut config.unet.num_channels, number(value)),
            "channel_mult" => put(&mut config.unet.channel_mult, multiples(value, config.unet.image_size, false)),
            "num_res_blocks" => put(&mut config.unet.num_res_blocks, number(value)),
            "attention_resolutions" => put(&mut config.unet.attention_resolutions, factors(value, config.unet.image_size)),
            "num_heads" => put(&mut config.unet.num_heads, number(value)),
            "num_head_channels" => put(&mut config.unet.num_head_channels, optional(value)),
            "num_heads_upsample" => put(&mut config.unet.num_heads_upsample, optional(value)),
            "use_scale_shift_norm" => put(&mut config.unet.use_scale_shift_norm, truth(value)),
            "resblock_updown" => put(&mut config.unet.resblock_updown, truth(value)),
            "text_ctx" => put(&mut config.text.text_ctx, number(value)),
            "xf_width" => put(&mut config.text.xf_width, number(value)),
            "xf_layers" => put(&mut config.text.xf_layers, number(value)),
            "xf_heads" => put(&mut config.text.xf_heads, number(value)),
            "xf_final_ln" => put(&mut config.text.xf_final_ln, truth(value)),
            "xf_padding" => put(&mut config.text.xf_padding, truth(value)),
            "n_vocab" => put(&mut config.text.n_vocab, number(value)),
            "noise_schedule" => put(&mut config.unet.noise_schedule, schedule(value)),
            "diffusion_steps" => put(&mut config.unet.diffusion_steps, number(value)),
            "super_res" => Some(truth(value).map(|enlarges| config.set_super_res(enlarges))),
            "inpaint" => put(&mut config.inpaint, truth(value)),
        }
        unlisted {
            "attention_ds" => put(&mut config.unet.attention_resolutions, list(value)),
            // Remembering the text's states is how this program runs anyway.
            "cache_text_emb" => Some(Ok(())),
        }
    }

    const SIZED: &'static [(&'static str, &'static str)] =
        &[("channel_mult", ""), ("attention_resolutions", "32,16,8")];

    fn detect(shapes: &Shapes) -> Result<Self, String> {
        let [text_ctx, xf_width] = *detect::shape(shapes, "positional_embedding")?;
        let [n_vocab, _] = *detect::shape(shapes, "token_embedding.weight")?;
        let text = TextConfig {
            text_ctx,
            xf_width,
            xf_layers: detect::count(shapes, "transformer.resblocks.")?,
            xf_final_ln: shapes.contains_key("final_ln.weight"),
            xf_padding: shapes.contains_key("padding_embedding"),
            n_vocab,
            ..TextConfig::default()
        };
        let [_, channels, _, _] = *detect::shape(shapes, "input_blocks.0.0.weight")?;
        let (enlarges, inpaint) = match channels {
            PLAIN => (false, false),
            SUPER_RES => (true, false),
            INPAINT => (false, true),
            BOTH => (true, true),
            other => {
                return Err(format!(
                    "the first convolution takes {other} channels; GLIDE's take {PLAIN}, {SUPER_RES} (with a picture \
                     to enlarge), {INPAINT} (with the known part of a picture) or {BOTH} (with both)"
                ));
            }
        };
        let mut unet = detect::unet(shapes)?;
        let usual = Config::default().unet;
        unet.num_heads = usual.num_heads;
        unet.num_head_channels = usual.num_head_channels;
        unet.image_size = if enlarges { 256 } else { 64 };
        unet.noise_schedule = if enlarges { NoiseSchedule::Linear } else { NoiseSchedule::Cosine };
        let mut config = Config { unet, text, inpaint };
        config.set_super_res(enlarges);
        Ok(config)
    }

    fn assumed(&self) -> Vec<&'static str> {
        vec!["image_size", "num_head_channels", "xf_heads", "noise_schedule", "diffusion_steps"]
    }

    fn presets() -> &'static [Preset] {
        PRESETS
    }

    fn validate(&self, path: &Path) -> Result<()> {
        self.validate(path)
    }

    fn graph(&self) -> Graph {
        self.smallest()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::adm::check::tests::refused_or_recorded;
    use crate::models::adm::flags::{Origin, find};

    fn shapes_of(graph: &Graph) -> Shapes {
        graph.weights().map(|(name, shape)| (name.to_string(), shape.to_vec())).collect()
    }

    #[test]
    fn presets_are_found_by_name_and_by_shapes() {
        for preset in PRESETS {
            let config: Config = preset.flags();
            let shapes = shapes_of(&config.graph());
            assert_eq!(Config::detect(&shapes), Ok(config.clone()), "{}", preset.name);
            for (file, by_name) in [(preset.name, true), ("model", false)] {
                let path = format!("{file}.pt");
                let (found, origin) = find::<Config>(Path::new(&path), &shapes, (None, ""), &[]).unwrap();
                assert_eq!((found, origin), (config.clone(), Origin::Preset { name: preset.name, by_name }));
            }
        }
    }

    #[test]
    fn other_sizes_are_found_by_shapes() {
        let mut config = Config::default();
        config.unet = crate::models::adm::Config {
            num_channels: 32,
            channel_mult: vec![1.0, 2.0],
            num_res_blocks: 1,
            attention_resolutions: vec![2],
            num_head_channels: Some(16),
            ..config.unet
        };
        config.text = TextConfig { xf_layers: 3, xf_padding: false, xf_final_ln: false, ..config.text };
        let shapes = shapes_of(&config.graph());
        let said = [("num_head_channels".to_string(), "16".to_string())];
        let (found, origin) = find::<Config>(Path::new("base.pt"), &shapes, (None, ""), &said).unwrap();
        assert_eq!(found, config);
        let text = origin.to_string();
        assert!(text.contains("called like base, but") && text.contains("xf_heads"), "{text}");
        // What the usual heads do not divide is refused by name.
        config.unet.channel_mult = vec![1.0, 1.0];
        let shapes = shapes_of(&config.graph());
        let error = find::<Config>(Path::new("base.pt"), &shapes, (None, ""), &[]).unwrap_err().to_string();
        assert!(error.contains("num_head_channels") && error.contains("64 does not divide 32"), "{error}");
    }

    #[test]
    fn other_tensors_are_refused() {
        let mut shapes = shapes_of(&Config::default().graph());
        shapes.insert("input_blocks.0.0.weight".into(), vec![192, 5, 3, 3]);
        assert!(Config::detect(&shapes).unwrap_err().contains("takes 5 channels"));
        shapes.remove("positional_embedding");
        assert!(Config::detect(&shapes).unwrap_err().contains("positional_embedding"));
        assert!(Config::detect(&Shapes::new()).is_err());
    }

    #[test]
    fn no_flags_reach_an_assertion() {
        let mut base = Config::default();
        base.unet.channel_mult = vec![1.0, 2.0];
        base.unet.num_channels = 32;
        base.unet.num_res_blocks = 1;
        base.unet.num_head_channels = Some(16);
        base.unet.image_size = 16;
        base.text = TextConfig { text_ctx: 4, xf_width: 32, xf_layers: 1, n_vocab: 9, ..base.text };
        refused_or_recorded(&base);
    }
}
