//! The blocks of the networks, recorded by the code the models record them with.

use super::{Checked, Layer, permute};
use ancestral::internals::graph::{Source, Storage, Tensor};
use ancestral::internals::kernels::attention::{KeyValue, Options, attention};
use ancestral::internals::kernels::elementwise::activate;
use ancestral::internals::kernels::embedding::embedding;
use ancestral::internals::kernels::epilogue::Activation;
use ancestral::internals::models::attention::{AddedKv, CrossNorm, Projections, SelfAttention};
use ancestral::internals::models::blocks::{
    Resize, ResnetNames, ResnetOptions, linear_no_bias, resnet_block,
};
use ancestral::internals::models::embeddings::{text_embedding, timestep_mlp};
use ancestral::internals::models::t5;

/// Records the block if the family is one of these. Weights are the entry's `w.*`.
pub(super) fn record(layer: &mut Layer<'_>, family: &str) -> Checked<bool> {
    match family {
        "resnet_block" => resnet(layer)?,
        "attention_self_2d" => self_attention(layer)?,
        "attention_added_kv" => added_kv(layer)?,
        "timestep_mlp" => {
            let x = layer.input("x")?;
            let (dim, act) = (layer.entry.get("y")?.0[1], act(layer)?);
            let y = timestep_mlp(&mut layer.g, "w", &x, dim, act);
            layer.expect("y", &y)?;
        }
        "text_time_embedding" => {
            let x = layer.input("x")?;
            let (dim, heads) = (layer.entry.get("y")?.0[1], layer.entry.count("heads")?);
            let y = text_embedding(&mut layer.g, "w", &x, heads, dim);
            layer.expect("y", &y)?;
        }
        "t5_relative_bias" => relative_bias(layer)?,
        _ => return Ok(false),
    }
    Ok(true)
}

fn act(layer: &Layer<'_>) -> Checked<Activation> {
    let name = layer.entry.text("act");
    Activation::from_name(name).ok_or_else(|| format!("no activation is called `{name}`"))
}

fn resnet(layer: &mut Layer<'_>) -> Checked {
    let x = layer.picture("x")?;
    let temb = layer.input("temb")?;
    let act = act(layer)?;
    let emb = if layer.entry.flag("skip_time_act") { temb } else { activate(&mut layer.g, &temb, act) };
    let options = ResnetOptions {
        names: ResnetNames::DIFFUSERS,
        groups: layer.entry.count("groups")?,
        eps: layer.entry.eps(),
        act,
        scale_shift: layer.entry.text("time_embedding_norm") == "scale_shift",
        output_scale: layer.entry.number("output_scale_factor").unwrap_or(1.0) as f32,
    };
    let resize = match (layer.entry.flag("down"), layer.entry.flag("up")) {
        (true, _) => Resize::Down,
        (_, true) => Resize::Up,
        _ => Resize::None,
    };
    let out = layer.entry.get("y")?.0[1];
    let y = resnet_block(&mut layer.g, "w", (&x, None), &emb, out, resize, &options);
    layer.expect("y", &y)
}

fn self_attention(layer: &mut Layer<'_>) -> Checked {
    let x = layer.picture("x")?;
    let block = SelfAttention {
        projections: Projections::Separate,
        head_dim: layer.entry.count("dim_head")?,
        groups: Some(layer.entry.count("groups")?),
        eps: layer.entry.eps(),
        output_scale: layer.entry.number("rescale_output_factor").unwrap_or(1.0) as f32,
    };
    let y = block.forward(&mut layer.g, "w", &x);
    layer.expect("y", &y)
}

/// An additive mask of `hidden` where the stored `keep` is 0.
fn mask(layer: &mut Layer<'_>, hidden: f32) -> Checked<Tensor> {
    let (shape, keep) = layer.entry.get("keep")?;
    let values = keep.iter().map(|&keep| if keep != 0.0 { 0.0 } else { hidden }).collect();
    Ok(layer.given(&shape, Storage::F32, values))
}

fn added_kv(layer: &mut Layer<'_>) -> Checked {
    let x = layer.picture("x")?;
    let context = layer.input("encoder_hidden_states")?;
    let mask = if layer.entry.has("keep") { Some(mask(layer, -10_000.0)?) } else { None };
    let block = AddedKv {
        head_dim: layer.entry.count("dim_head")?,
        groups: layer.entry.count("group_norm_groups")?,
        cross_norm: match layer.entry.text("cross_attention_norm") {
            "group_norm" => CrossNorm::Group,
            "layer_norm" => CrossNorm::Layer,
            _ => CrossNorm::None,
        },
        only_cross: layer.entry.flag("only_cross_attention"),
    };
    let y = block.forward(&mut layer.g, "w", &x, &context, mask.as_ref());
    layer.expect("y", &y)
}

/// The buckets that the T5 encoder would look up for `len` tokens.
fn buckets(layer: &Layer<'_>, heads: usize, len: usize) -> Checked<Vec<f32>> {
    let config = serde_json::json!({
        "vocab_size": 8, "d_model": 8, "d_kv": 8, "d_ff": 8, "num_layers": 1, "num_heads": heads,
        "relative_attention_num_buckets": layer.entry.count("num_buckets")?,
        "relative_attention_max_distance": layer.entry.count("max_distance")?,
    });
    let config: t5::Config = serde_json::from_value(config).map_err(|error| error.to_string())?;
    let graph = t5::graph(&config, 1, len);
    let mut constants = graph.tensors.iter().filter_map(|tensor| match &tensor.source {
        Source::Constant(values) if values.len() == len * len => Some(values.clone()),
        _ => None,
    });
    constants.next().ok_or_else(|| "the T5 encoder has no table of buckets".into())
}

/// T5's attention with its position bias: the buckets, the bias they look up, the layer without norm and residual.
fn relative_bias(layer: &mut Layer<'_>) -> Checked {
    let x = layer.input("x")?;
    let (len, channels) = (x.dim(1), x.channels());
    let (shape, _) = layer.entry.get("w.relative_attention_bias.weight")?;
    let (rows, heads) = (shape[0], shape[1]);
    let numbers = buckets(layer, heads, len)?;
    if numbers != layer.entry.get("buckets")?.1 {
        return Err("the T5 encoder's buckets differ from transformers'".into());
    }
    let mask = mask(layer, f32::MIN)?;
    let g = &mut layer.g;
    let (bias, y) = g.scope("w", |g| {
        let numbers = g.constant(&[len * len], numbers);
        let table = g.table("relative_attention_bias.weight", rows, heads);
        let bias = embedding(g, "bias", &numbers, &table);
        let [q, k, v] = ["q", "k", "v"].map(|name| linear_no_bias(g, name, &x, channels));
        let tokens = KeyValue { key: (&k).into(), value: (&v).into() };
        let options = Options {
            heads,
            head_dim: channels / heads,
            scale: 1.0,
            bias: Some(&bias),
            mask: Some(&mask),
            causal: false,
        };
        let h = attention(g, "attention", &(&q).into(), Some(&tokens), None, &options);
        (bias.clone(), linear_no_bias(g, "o", &h, channels))
    });
    let golden = layer.entry.get("bias")?;
    layer.expect_values("bias", &bias, permute(&golden, &[0, 2, 3, 1]))?;
    layer.expect("y", &y)
}
