//! How files of LoRA name what they change: diffusers' old spelling, peft's, kohya's.

use crate::weights::checkpoint::Checkpoint;

/// Which network a part of a file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A denoising network.
    Unet,
    /// A text encoder.
    Text,
    /// The file does not say.
    Unsaid,
}

/// A layer, as a file names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Module {
    /// `mid_block.attentions.0.to_q`.
    Dotted(String),
    /// `mid_block_attentions_0_to_q`, as kohya's have it.
    Joined(String),
}

/// What a tensor is to its layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Down,
    Up,
    Alpha,
}

/// A tensor's name, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Key {
    pub kind: Kind,
    pub module: Module,
    pub role: Role,
}

/// What adapters of other kinds than LoRA are called, by a part of their tensors' names.
const OTHERS: [(&str, &str); 7] = [
    ("lora_magnitude_vector", "DoRA"),
    ("dora_scale", "DoRA"),
    ("hada_", "LoHa"),
    ("lokr_", "LoKr"),
    ("boft_", "BOFT"),
    ("oft_", "OFT"),
    ("lora_mid", "LoRA with a third factor (Tucker's)"),
];

/// The factors by the ends of their names, without `.weight`.
const FACTORS: [(&str, Role); 10] = [
    (".lora_A", Role::Down),
    (".lora_B", Role::Up),
    (".lora_down", Role::Down),
    (".lora_up", Role::Up),
    (".lora.down", Role::Down),
    (".lora.up", Role::Up),
    (".lora_linear_layer.down", Role::Down),
    (".lora_linear_layer.up", Role::Up),
    ("_lora.down", Role::Down),
    ("_lora.up", Role::Up),
];

/// The kind of adapter that a tensor belongs to, where it is another one than LoRA.
pub(super) fn other_kind(name: &str) -> Option<&'static str> {
    OTHERS.iter().find(|(part, _)| name.contains(part)).map(|(_, kind)| *kind)
}

fn factor(name: &str) -> Option<(&str, Role)> {
    let name = name.strip_suffix(".weight").unwrap_or(name);
    let of = |name: &'_ str| FACTORS.iter().find(|(end, _)| name.ends_with(end)).copied();
    if let Some((end, role)) = of(name) {
        return Some((&name[..name.len() - end.len()], role));
    }
    // The adapter's own name behind, as peft's `lora_A.default`.
    let (name, _) = name.rsplit_once('.').filter(|(_, own)| *own != "bias")?;
    let (end, role) = of(name).filter(|(end, _)| [".lora_A", ".lora_B"].contains(end))?;
    Some((&name[..name.len() - end.len()], role))
}

/// Reads a tensor's name; nothing where it is none of a LoRA.
pub(super) fn read_key(name: &str) -> Option<Key> {
    let (stem, role) = match name.strip_suffix(".alpha") {
        Some(stem) => {
            let stem = factor(stem).map_or(stem, |(stem, _)| stem);
            (stem.strip_suffix("_lora").unwrap_or(stem), Role::Alpha)
        }
        None => factor(name)?,
    };
    let stem = stem.strip_prefix("base_model.model.").unwrap_or(stem);
    let joined = [("lora_unet_", Kind::Unet), ("lora_te_", Kind::Text), ("lora_te1_", Kind::Text)];
    for (prefix, kind) in joined {
        if let Some(module) = stem.strip_prefix(prefix) {
            return Some(Key { kind, module: Module::Joined(module.into()), role });
        }
    }
    let said = [("unet.", Kind::Unet), ("text_encoder.", Kind::Text)];
    let said = said.into_iter().find_map(|(prefix, kind)| Some((stem.strip_prefix(prefix)?, kind)));
    let (module, kind) = said.unwrap_or((stem, Kind::Unsaid));
    let mut module = module.replace(".processor.", ".");
    if module.ends_with(".to_out") {
        module += ".0";
    }
    Some(Key { kind, module: Module::Dotted(module), role })
}

impl Module {
    /// The weight that a model has for it.
    pub fn weight_in(&self, checkpoint: &Checkpoint) -> Option<String> {
        match self {
            Module::Dotted(name) => {
                let mut spellings = vec![name.clone()];
                // Old spellings of attention's layers in CLIP.
                let old =
                    [("to_q", "q_proj"), ("to_k", "k_proj"), ("to_v", "v_proj"), ("to_out.0", "out_proj")];
                let present = |(old, layer)| Some(format!("{}{layer}", name.strip_suffix(old)?));
                spellings.extend(old.into_iter().find_map(present));
                // Newer files of CLIP leave this out.
                spellings.extend(spellings.clone().into_iter().map(|name| format!("text_model.{name}")));
                let weights = spellings.into_iter().map(|name| format!("{name}.weight"));
                weights.into_iter().find(|name| checkpoint.shape(name).is_some())
            }
            Module::Joined(name) => {
                let is = |weight: &&str| {
                    weight.strip_suffix(".weight").is_some_and(|module| {
                        module.len() == name.len()
                            && module
                                .bytes()
                                .zip(name.bytes())
                                .all(|(a, b)| a == b || (a == b'.' && b == b'_'))
                    })
                };
                checkpoint.names().find(is).map(str::to_string)
            }
        }
    }

    /// Whether a pattern of peft's, a layer's name or its end, means it.
    pub fn matches(&self, pattern: &str) -> bool {
        let pattern = pattern.trim_start_matches('^').trim_end_matches('$');
        match self {
            Module::Dotted(name) => {
                name.strip_suffix(pattern).is_some_and(|before| before.is_empty() || before.ends_with('.'))
            }
            Module::Joined(name) => *name == pattern.replace('.', "_"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_are_understood() {
        let dotted = |name: &str| Module::Dotted(name.into());
        let joined = |name: &str| Module::Joined(name.into());
        let cases = [
            (
                "unet.mid_block.attentions.0.processor.to_q_lora.down.weight",
                Kind::Unet,
                dotted("mid_block.attentions.0.to_q"),
                Role::Down,
            ),
            (
                "unet.mid_block.attentions.0.processor.add_k_proj_lora.up.weight",
                Kind::Unet,
                dotted("mid_block.attentions.0.add_k_proj"),
                Role::Up,
            ),
            (
                "mid_block.attentions.0.processor.to_out_lora.up.weight",
                Kind::Unsaid,
                dotted("mid_block.attentions.0.to_out.0"),
                Role::Up,
            ),
            (
                "unet.mid_block.attentions.0.to_out.0.lora_A.weight",
                Kind::Unet,
                dotted("mid_block.attentions.0.to_out.0"),
                Role::Down,
            ),
            ("unet.conv_in.lora.down.weight", Kind::Unet, dotted("conv_in"), Role::Down),
            ("base_model.model.conv_in.lora_B.default.weight", Kind::Unsaid, dotted("conv_in"), Role::Up),
            (
                "lora_unet_mid_block_attentions_0_to_q.lora_down.weight",
                Kind::Unet,
                joined("mid_block_attentions_0_to_q"),
                Role::Down,
            ),
            (
                "lora_te_text_model_encoder_layers_0_mlp_fc1.alpha",
                Kind::Text,
                joined("text_model_encoder_layers_0_mlp_fc1"),
                Role::Alpha,
            ),
            (
                "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_linear_layer.up.weight",
                Kind::Text,
                dotted("text_model.encoder.layers.0.self_attn.q_proj"),
                Role::Up,
            ),
            (
                "unet.mid_block.attentions.0.processor.to_q_lora.down.weight.alpha",
                Kind::Unet,
                dotted("mid_block.attentions.0.to_q"),
                Role::Alpha,
            ),
            (
                "unet.mid_block.attentions.0.to_q_lora.alpha",
                Kind::Unet,
                dotted("mid_block.attentions.0.to_q"),
                Role::Alpha,
            ),
        ];
        for (name, kind, module, role) in cases {
            assert_eq!(read_key(name), Some(Key { kind, module, role }), "{name}");
        }
        for name in ["", "unet.conv_in.weight", "unet.conv_in.lora_A.bias", "x.lora_C.weight", ".", "lora"] {
            assert_eq!(read_key(name), None, "{name}");
        }
        assert_eq!(other_kind("unet.conv_in.lora_magnitude_vector"), Some("DoRA"));
        assert_eq!(other_kind("lora_unet_conv_in.hada_w1_a"), Some("LoHa"));
    }

    #[test]
    fn patterns_name_layers_or_their_ends() {
        let module = Module::Dotted("mid_block.attentions.0.to_q".into());
        assert!(module.matches("to_q") && module.matches("^mid_block.attentions.0.to_q"));
        assert!(!module.matches("o_q") && !module.matches("to_k"));
        assert!(Module::Joined("mid_block_to_q".into()).matches("mid_block.to_q"));
    }
}
