//! Configs of CLIP's networks: from tensors' shapes, GLIDE's `clip/config.yaml`, transformers' `config.json`.
//!
//! Errors are texts without the file's name, which the caller knows.

use super::resnet::{self, HEAD, Time};
use super::text::{self, End};
use super::transformer::{Layout, Transformer};
use super::{ImageEncoder, vision};
use crate::kernels::attention::MAX_HEAD_DIM;
use crate::kernels::epilogue::Activation;
use crate::models::adm::detect::Shapes;
use serde::Deserialize;
use std::collections::BTreeMap;

/// Largest dimension that is taken for one: a vocabulary has some ten thousand rows.
const MAX_DIM: usize = 1 << 20;
/// Most blocks of a stack.
const MAX_BLOCKS: usize = 512;
/// Largest side of a picture.
const MAX_SIDE: usize = 4096;
/// Columns of a head where nothing says otherwise: OpenAI's models.
const HEAD_STATE: usize = 64;
/// Added to the variance of all layer norms.
const EPS: f32 = 1e-5;
/// Factor of cosines where a checkpoint has none: what OpenAI's training ended at.
pub const LOGIT_SCALE: f64 = 100.0;
/// The most a checkpoint's may be.
const MAX_LOGIT_SCALE: f64 = 1e4;

type Found<T> = Result<T, String>;

fn within(what: &str, value: usize, most: usize) -> Found<usize> {
    let fits = (1..=most).contains(&value);
    fits.then_some(value).ok_or_else(|| format!("{what} is {value}, expected 1 to {most}"))
}

fn dims<const RANK: usize>(shapes: &Shapes, name: &str) -> Found<[usize; RANK]> {
    let found = shapes.get(name).ok_or_else(|| format!("no tensor `{name}`"))?;
    let dims: [usize; RANK] = found
        .as_slice()
        .try_into()
        .map_err(|_| format!("`{name}` is {found:?}, expected {RANK} dimensions"))?;
    dims.iter().try_for_each(|dim| within(&format!("a dimension of `{name}`"), *dim, MAX_DIM).map(|_| ()))?;
    Ok(dims)
}

/// How many blocks `prefix` numbers, by the largest number.
fn blocks(shapes: &Shapes, prefix: &str) -> Found<usize> {
    let number = |name: &String| name.strip_prefix(prefix)?.split('.').next()?.parse::<usize>().ok();
    let last = shapes.keys().filter_map(number).max().ok_or_else(|| format!("no tensor `{prefix}0…`"))?;
    within(&format!("the number of blocks `{prefix}…`"), last.saturating_add(1), MAX_BLOCKS)
}

/// Side of the square that a class token and `rows − 1` others are.
fn side(name: &str, rows: usize) -> Found<usize> {
    let side = (rows - 1).isqrt();
    let square = side > 0 && side * side + 1 == rows;
    square.then_some(side).ok_or_else(|| format!("`{name}` has {rows} rows, expected a square and one"))
}

fn heads(width: usize, heads: usize) -> Found<usize> {
    let fits = heads > 0 && width.is_multiple_of(heads) && width / heads <= MAX_HEAD_DIM;
    fits.then_some(heads).ok_or_else(|| {
        format!("{heads} heads do not divide {width} channels (a head has at most {MAX_HEAD_DIM})")
    })
}

fn heads_of(width: usize, each: usize) -> Found<usize> {
    if each == 0 || !width.is_multiple_of(each) {
        return Err(format!("{width} channels are no heads of {each}"));
    }
    heads(width, width / each)
}

/// `clip/config.yaml` of glide-text2im: keys and values, a line each.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GlideFile(BTreeMap<String, String>);

impl GlideFile {
    /// Reads `key: value` lines; comments and empty lines are passed over.
    pub fn parse(text: &str) -> Found<Self> {
        let mut values = BTreeMap::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default().trim();
            if line.is_empty() || line == "---" {
                continue;
            }
            let (key, value) = line
                .split_once(':')
                .ok_or_else(|| format!("line {}: `{line}`, expected `key: value`", number + 1))?;
            let value = value.trim().trim_matches(['"', '\'']);
            values.insert(key.trim().to_string(), value.to_string());
        }
        Ok(GlideFile(values))
    }

    fn number<T: std::str::FromStr>(&self, key: &str) -> Found<Option<T>> {
        let parse = |text: &String| text.parse().map_err(|_| format!("`{key}`: `{text}` is not a number"));
        self.0.get(key).map(parse).transpose()
    }

    /// An error if the file says another number than the tensors' shapes.
    fn agrees(&self, key: &str, found: usize) -> Found<()> {
        match self.number::<usize>(key)? {
            Some(said) if said != found => {
                Err(format!("`{key}` is {said}, but the tensors' shapes say {found}"))
            }
            _ => Ok(()),
        }
    }

    fn heads(&self, kind: &str, width: usize) -> Found<usize> {
        let each = self.number(&format!("n_head_state_{kind}"))?.unwrap_or(HEAD_STATE);
        let heads = heads_of(width, each)?;
        self.agrees(&format!("n_head_{kind}"), heads)?;
        Ok(heads)
    }

    /// The factor of cosines.
    pub fn logit_scale(&self) -> Found<f64> {
        logit_scale(self.number("logit_scale")?.unwrap_or(LOGIT_SCALE))
    }

    /// β's growth, by its name.
    pub fn beta_schedule(&self) -> &str {
        self.0.get("beta_schedule").map_or("squaredcos_cap_v2", String::as_str)
    }
}

/// A factor of cosines that makes sense.
pub fn logit_scale(value: f64) -> Found<f64> {
    let fits = value > 0.0 && value <= MAX_LOGIT_SCALE;
    fits.then_some(value).ok_or_else(|| format!("the logit scale is {value}, expected a number above 0"))
}

/// GLIDE's noised picture encoder, if this is one.
pub fn glide_image(shapes: &Shapes, file: &GlideFile) -> Option<Found<ImageEncoder>> {
    shapes.contains_key("blocks.input.patch_proj").then(|| {
        let [width, _, patch_size, _] = dims(shapes, "blocks.input.patch_proj")?;
        let [rows, _] = dims(shapes, "blocks.input.w_pos")?;
        let [timesteps, _] = dims(shapes, "blocks.input.w_t")?;
        let [embed, _] = dims(shapes, "blocks.output.f.w")?;
        let transformer = glide(shapes, file, "image", width)?;
        let image_size =
            within("the picture's side", side("blocks.input.w_pos", rows)? * patch_size, MAX_SIDE)?;
        for (key, found) in [
            ("image_size", image_size),
            ("patch_size", patch_size),
            ("n_timesteps", timesteps),
            ("n_embd", embed),
        ] {
            file.agrees(key, found)?;
        }
        let timesteps = Some(timesteps);
        let config = vision::Config { transformer, image_size, patch_size, embed, timesteps };
        Ok(ImageEncoder::Transformer(config))
    })
}

/// GLIDE's text encoder, if this is one.
pub fn glide_text(shapes: &Shapes, file: &GlideFile) -> Option<Found<text::Config>> {
    shapes.contains_key("blocks.input.w_voc").then(|| {
        let [vocab_size, width] = dims(shapes, "blocks.input.w_voc")?;
        let [context, _] = dims(shapes, "blocks.input.w_pos")?;
        let [embed, _] = dims(shapes, "blocks.output.f.w")?;
        let transformer = glide(shapes, file, "text", width)?;
        for (key, found) in [("n_vocab", vocab_size), ("max_text_len", context), ("n_embd", embed)] {
            file.agrees(key, found)?;
        }
        Ok(text::Config { transformer, vocab_size, context, embed, end: End::Length })
    })
}

fn glide(shapes: &Shapes, file: &GlideFile, kind: &str, width: usize) -> Found<Transformer> {
    let layers = blocks(shapes, "blocks.block_")?;
    file.agrees(&format!("n_xf_blocks_{kind}"), layers)?;
    let [feed_forward, _] = dims(shapes, "blocks.block_0.f_mlp.f_1.w")?;
    let heads = file.heads(kind, width)?;
    let (layout, act) = (Layout::Glide, Activation::Gelu);
    Ok(Transformer { layout, width, layers, heads, feed_forward, act, eps: EPS })
}

/// The picture encoder of OpenAI's CLIP, if this holds one.
pub fn openai_image(shapes: &Shapes) -> Option<Found<ImageEncoder>> {
    if shapes.contains_key("visual.layer1.0.conv1.weight") {
        let levels = ["visual.layer1.", "visual.layer2.", "visual.layer3.", "visual.layer4."];
        return Some(resnet(shapes, levels, "visual.attnpool", None));
    }
    shapes.contains_key("visual.class_embedding").then(|| {
        let [width, _, patch_size, _] = dims(shapes, "visual.conv1.weight")?;
        let [rows, _] = dims(shapes, "visual.positional_embedding")?;
        let [_, embed] = dims(shapes, "visual.proj")?;
        let transformer = openai(shapes, "visual.transformer.resblocks.", width)?;
        let image_size =
            within("the picture's side", side("visual.positional_embedding", rows)? * patch_size, MAX_SIDE)?;
        let config = vision::Config { transformer, image_size, patch_size, embed, timesteps: None };
        Ok(ImageEncoder::Transformer(config))
    })
}

/// The text encoder of OpenAI's CLIP, if this holds one.
pub fn openai_text(shapes: &Shapes) -> Option<Found<text::Config>> {
    shapes.contains_key("token_embedding.weight").then(|| {
        let [vocab_size, width] = dims(shapes, "token_embedding.weight")?;
        let [context, _] = dims(shapes, "positional_embedding")?;
        let [_, embed] = dims(shapes, "text_projection")?;
        let transformer = openai(shapes, "transformer.resblocks.", width)?;
        Ok(text::Config { transformer, vocab_size, context, embed, end: End::Largest })
    })
}

fn openai(shapes: &Shapes, prefix: &str, width: usize) -> Found<Transformer> {
    let layers = blocks(shapes, prefix)?;
    let [feed_forward, _] = dims(shapes, &format!("{prefix}0.mlp.c_fc.weight"))?;
    let heads = heads_of(width, HEAD_STATE)?;
    let (layout, act) = (Layout::OpenAi, Activation::QuickGelu);
    Ok(Transformer { layout, width, layers, heads, feed_forward, act, eps: EPS })
}

/// The noised residual network of Semantic Diffusion Guidance, if this is one.
pub fn sdg_image(shapes: &Shapes) -> Option<Found<ImageEncoder>> {
    shapes.contains_key("visual_frozen.0.weight").then(|| {
        let [embed, channels] = dims(shapes, "time_embed.0.weight")?;
        let even = channels.is_multiple_of(2);
        even.then_some(())
            .ok_or_else(|| format!("`time_embed.0.weight` takes {channels} sines and cosines"))?;
        let levels = ["visual_frozen.10.", "visual_frozen.11.", "visual_frozen.12.", "layer4."];
        resnet(shapes, levels, "attn_pool", Some(Time { channels, embed }))
    })
}

fn resnet(shapes: &Shapes, levels: [&str; 4], pool: &str, time: Option<Time>) -> Found<ImageEncoder> {
    let [width, ..] = dims::<4>(shapes, &format!("{}0.conv1.weight", levels[0]))?;
    let mut layers = [0; 4];
    for (count, prefix) in layers.iter_mut().zip(levels) {
        *count = blocks(shapes, prefix)?;
    }
    let positions = format!("{pool}.positional_embedding");
    let [rows, _] = dims(shapes, &positions)?;
    let [embed, _] = dims(shapes, &format!("{pool}.c_proj.weight"))?;
    let image_size = within("the picture's side", 32 * side(&positions, rows)?, MAX_SIDE)?;
    let config = resnet::Config { image_size, width, layers, embed, time };
    if !width.is_multiple_of(2) || !config.channels().is_multiple_of(HEAD) {
        return Err(format!(
            "a width of {width}: heads of {HEAD} do not divide {} channels",
            config.channels()
        ));
    }
    Ok(ImageEncoder::ResNet(config))
}

/// `config.json` of transformers' `CLIPModel`, or of one of its two encoders with projection.
#[derive(Clone, Debug, Deserialize)]
pub struct TransformersFile {
    #[serde(default)]
    architectures: Vec<String>,
    model_type: Option<String>,
    text_config: Option<Encoder>,
    vision_config: Option<Encoder>,
    projection_dim: Option<usize>,
    #[serde(flatten)]
    own: Encoder,
}

/// Either encoder's keys; what is missing is transformers' default.
#[derive(Clone, Debug, Default, Deserialize)]
struct Encoder {
    hidden_size: Option<usize>,
    intermediate_size: Option<usize>,
    num_hidden_layers: Option<usize>,
    num_attention_heads: Option<usize>,
    hidden_act: Option<String>,
    layer_norm_eps: Option<f32>,
    projection_dim: Option<usize>,
    vocab_size: Option<usize>,
    max_position_embeddings: Option<usize>,
    eos_token_id: Option<u32>,
    image_size: Option<usize>,
    patch_size: Option<usize>,
    num_channels: Option<usize>,
}

impl TransformersFile {
    /// Whether it says that it is of CLIP at all.
    pub fn is_clip(&self) -> bool {
        let by_type = self.model_type.as_deref().is_some_and(|t| t == "clip" || t.starts_with("clip_"));
        by_type || self.architectures.iter().any(|name| name.starts_with("CLIP"))
    }

    /// The picture encoder it describes, if it does.
    pub fn image(&self) -> Option<Found<ImageEncoder>> {
        let encoder = self.encoder(&self.vision_config, "clip_vision_model", "CLIPVision")?;
        Some(encoder.image(self.projection_dim))
    }

    /// The text encoder it describes, if it does.
    pub fn text(&self) -> Option<Found<text::Config>> {
        let encoder = self.encoder(&self.text_config, "clip_text_model", "CLIPText")?;
        Some(encoder.text(self.projection_dim))
    }

    fn encoder<'a>(&'a self, of: &'a Option<Encoder>, kind: &str, class: &str) -> Option<&'a Encoder> {
        let whole = self.model_type.as_deref() == Some("clip");
        let alone = self.model_type.as_deref() == Some(kind)
            || self.architectures.iter().any(|name| name.starts_with(class));
        of.as_ref().or((whole || alone).then_some(&self.own))
    }
}

impl Encoder {
    fn transformer(&self, defaults: [usize; 3]) -> Found<Transformer> {
        let [hidden, feed_forward, heads_by_default] = defaults;
        let width = within("hidden_size", self.hidden_size.unwrap_or(hidden), MAX_DIM)?;
        let feed_forward =
            within("intermediate_size", self.intermediate_size.unwrap_or(feed_forward), MAX_DIM)?;
        let layers = within("num_hidden_layers", self.num_hidden_layers.unwrap_or(12), MAX_BLOCKS)?;
        let heads = heads(width, self.num_attention_heads.unwrap_or(heads_by_default))?;
        let name = self.hidden_act.as_deref().unwrap_or("quick_gelu");
        let act = Activation::from_name(name).ok_or_else(|| format!("`hidden_act`: `{name}` is unknown"))?;
        let eps = self.layer_norm_eps.unwrap_or(EPS);
        if !(0.0..1.0).contains(&eps) {
            return Err(format!("`layer_norm_eps` is {eps}, expected a small number"));
        }
        Ok(Transformer { layout: Layout::Transformers, width, layers, heads, feed_forward, act, eps })
    }

    fn embed(&self, of_both: Option<usize>) -> Found<usize> {
        within("projection_dim", of_both.or(self.projection_dim).unwrap_or(512), MAX_DIM)
    }

    fn image(&self, projection_dim: Option<usize>) -> Found<ImageEncoder> {
        let transformer = self.transformer([768, 3072, 12])?;
        let image_size = within("image_size", self.image_size.unwrap_or(224), MAX_SIDE)?;
        let patch_size = within("patch_size", self.patch_size.unwrap_or(32), image_size)?;
        let channels = self.num_channels.unwrap_or(3);
        if channels != 3 || !image_size.is_multiple_of(patch_size) {
            return Err(format!(
                "pictures of {image_size} pixels a side and {channels} channels in patches of {patch_size}: 3 \
                 channels and whole patches are supported"
            ));
        }
        let embed = self.embed(projection_dim)?;
        let config = vision::Config { transformer, image_size, patch_size, embed, timesteps: None };
        Ok(ImageEncoder::Transformer(config))
    }

    fn text(&self, projection_dim: Option<usize>) -> Found<text::Config> {
        let transformer = self.transformer([512, 2048, 8])?;
        let vocab_size = within("vocab_size", self.vocab_size.unwrap_or(49408), MAX_DIM)?;
        let context =
            within("max_position_embeddings", self.max_position_embeddings.unwrap_or(77), MAX_SIDE)?;
        // Configs from before the id was put right say 2, and mean the largest.
        let end = match self.eos_token_id {
            None | Some(2) => End::Largest,
            Some(id) => End::First(id),
        };
        Ok(text::Config { transformer, vocab_size, context, embed: self.embed(projection_dim)?, end })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yaml_lines_are_read() {
        let file = GlideFile::parse("# GLIDE\nlogit_scale: 50.0\n\nn_head_image: 12  # heads\n").unwrap();
        assert_eq!(file.logit_scale(), Ok(50.0));
        assert_eq!((file.heads("image", 768), file.beta_schedule()), (Ok(12), "squaredcos_cap_v2"));
        assert!(file.heads("image", 512).unwrap_err().contains("n_head_image"));
        assert!(GlideFile::parse("nothing").unwrap_err().contains("key: value"));
        assert!(GlideFile::parse("logit_scale: x").unwrap().logit_scale().is_err());
        assert!(GlideFile::parse("logit_scale: -1").unwrap().logit_scale().is_err());
    }

    #[test]
    fn shapes_that_make_no_network_are_refused() {
        let shapes = |list: &[(&str, &[usize])]| -> Shapes {
            list.iter().map(|(name, shape)| (name.to_string(), shape.to_vec())).collect()
        };
        let glide = shapes(&[("blocks.input.patch_proj", &[64, 3, 4, 4]), ("blocks.input.w_pos", &[18, 64])]);
        let none = GlideFile::default();
        assert!(glide_image(&glide, &none).unwrap().unwrap_err().contains("w_t"));
        assert!(glide_text(&glide, &none).is_none() && openai_image(&glide).is_none());
        let resnet = shapes(&[("visual.layer1.0.conv1.weight", &[0, 1 << 60, 1, 1])]);
        assert!(openai_image(&resnet).unwrap().unwrap_err().contains("dimension"));
        let many = shapes(&[("blocks.input.w_voc", &[9, 64]), ("blocks.block_18446744073709551615.x", &[1])]);
        assert!(glide_text(&many, &none).unwrap().is_err());
    }
}
