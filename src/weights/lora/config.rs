//! What a file says of its scales besides tensors: in its header (`lora_adapter_metadata`, `network_alphas`), or in peft's
//! `adapter_config.json` beside it.

use super::names::{Kind, Module, Role, read_key};
use crate::error::{Error, Result};
use crate::files::read_json;
use crate::weights::checkpoint::Checkpoint;
use serde_json::{Map, Value};
use std::path::Path;

/// The settings of a file's adapters.
#[derive(Debug, Default)]
pub(super) struct Configs {
    /// peft's, each key with its network's name before it.
    peft: Map<String, Value>,
    /// Alphas by layer.
    alphas: Vec<(Kind, Module, f32)>,
}

impl Configs {
    /// Errors: settings that are broken, or of another kind of adapter.
    pub fn of(file: &Checkpoint) -> Result<Configs> {
        let path = file.path();
        let header = file.metadata();
        let object = |key: &str| -> Result<Map<String, Value>> {
            let Some(text) = header.get(key) else { return Ok(Map::new()) };
            serde_json::from_str(text).map_err(|error| Error::config(path, key, error.to_string()))
        };
        let mut peft = object("lora_adapter_metadata")?;
        let config = path.with_file_name("adapter_config.json");
        if peft.is_empty()
            && path.file_name() == Some("adapter_model.safetensors".as_ref())
            && config.exists()
        {
            peft = read_json(&config)?;
        }
        refuse_dora(path, &peft)?;
        let alpha = |(name, value): (String, Value)| {
            // A factor's name stands for its layer, too.
            let key = read_key(&name)
                .filter(|key| key.role == Role::Alpha)
                .or(read_key(&format!("{name}.alpha")))?;
            Some((key.kind, key.module, value.as_f64()? as f32))
        };
        Ok(Configs { peft, alphas: object("network_alphas")?.into_iter().filter_map(alpha).collect() })
    }

    /// What a layer's product is scaled by: 1 where nothing says an alpha.
    pub fn scale(&self, kind: Kind, module: &Module, rank: usize) -> f32 {
        let rank = rank as f32;
        let named = self.alphas.iter().find(|(of, layer, _)| *of == kind && layer == module);
        if let Some((_, _, alpha)) = named {
            return alpha / rank;
        }
        let prefix = match kind {
            Kind::Unet => "unet.",
            Kind::Text => "text_encoder.",
            Kind::Unsaid => "",
        };
        let said = |key: &str| self.peft.get(&format!("{prefix}{key}"));
        let patterns = said("alpha_pattern").and_then(Value::as_object);
        let own = patterns.and_then(|all| all.iter().find(|(pattern, _)| module.matches(pattern)));
        let alpha = own.map(|(_, alpha)| alpha).or(said("lora_alpha")).and_then(Value::as_f64);
        let by = if said("use_rslora") == Some(&Value::Bool(true)) { rank.sqrt() } else { rank };
        alpha.map_or(1.0, |alpha| alpha as f32 / by)
    }
}

fn refuse_dora(path: &Path, peft: &Map<String, Value>) -> Result<()> {
    let dora = peft.iter().find(|(key, value)| key.ends_with("use_dora") && **value == Value::Bool(true));
    let refused =
        |(key, _): (&String, _)| Error::config(path, key, "is of DoRA, which is not read; only LoRA is");
    dora.map_or(Ok(()), |dora| Err(refused(dora)))
}
