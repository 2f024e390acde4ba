//! What the shapes of a checkpoint's tensors tell of the network they are of.

use super::classifier::{self, Pool};
use super::unet::Config;
use crate::graph::Graph;
use crate::models::check::MAX_LEVELS;
use crate::weights::Checkpoint;
use std::collections::{BTreeMap, BTreeSet};

/// Names and shapes of a checkpoint's tensors.
pub type Shapes = BTreeMap<String, Vec<usize>>;

/// Those of a checkpoint.
pub fn shapes(checkpoint: &Checkpoint) -> Shapes {
    let shape = |name: &str| Some((name.to_string(), checkpoint.shape(name)?.to_vec()));
    checkpoint.names().filter_map(shape).collect()
}

/// More blocks than any network that would be accepted.
const MAX_BLOCKS: usize = 1_000;

/// Where a network and a checkpoint part, if they do.
pub fn first_difference(graph: &Graph, shapes: &Shapes) -> Option<String> {
    let mut known = BTreeSet::new();
    for (name, shape) in graph.weights() {
        known.insert(name);
        match shapes.get(name) {
            Some(found) if found == shape => {}
            Some(found) => return Some(format!("`{name}` is {found:?}, not {shape:?}")),
            None => return Some(format!("`{name}` is missing")),
        }
    }
    let other = shapes.keys().find(|name| !known.contains(name.as_str()))?;
    Some(format!("`{other}` is none of its tensors"))
}

/// The way down as its tensors have it.
struct Encoder {
    num_channels: usize,
    channel_mult: Vec<f64>,
    num_res_blocks: usize,
    attention: Vec<usize>,
    scale_shift: bool,
    /// How levels are halved; none where there is one level.
    down: Option<Down>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Down {
    Resblock,
    Conv,
    Pool,
}

pub(in crate::models) fn shape<'a, const RANK: usize>(
    shapes: &'a Shapes,
    name: &str,
) -> Result<&'a [usize; RANK], String> {
    let found = shapes.get(name).ok_or_else(|| {
        format!("no tensor `{name}`: this is no network of guided-diffusion or improved-diffusion")
    })?;
    found.as_slice().try_into().map_err(|_| format!("`{name}` is {found:?}, expected {RANK} dimensions"))
}

/// How many blocks of a list there are, by the largest number.
pub(in crate::models) fn count(shapes: &Shapes, list: &str) -> Result<usize, String> {
    let number = |name: &String| name.strip_prefix(list)?.split('.').next()?.parse::<usize>().ok();
    let last = shapes.keys().filter_map(number).max().ok_or_else(|| format!("no tensor `{list}0…`"))?;
    if last < MAX_BLOCKS { Ok(last + 1) } else { Err(format!("`{list}{last}`: there are too many blocks")) }
}

/// The way down as so many levels of so many residual blocks, if it can be that.
fn encoder(shapes: &Shapes, levels: usize, blocks: usize) -> Result<Option<Encoder>, String> {
    if levels > MAX_LEVELS {
        return Ok(None);
    }
    let [emb, num_channels] = *shape(shapes, "time_embed.0.weight")?;
    if num_channels == 0 || emb == 0 {
        return Err("`time_embed.0.weight` is empty".into());
    }
    let width =
        |i: usize| shapes.get(&format!("input_blocks.{i}.0.out_layers.0.weight")).map(|s| s[..].to_vec());
    let attends = |i: usize| shapes.contains_key(&format!("input_blocks.{i}.1.qkv.weight"));
    let down_at = |i: usize| match width(i) {
        Some(_) => Down::Resblock,
        None if shapes.contains_key(&format!("input_blocks.{i}.0.op.weight")) => Down::Conv,
        None => Down::Pool,
    };
    let (mut channel_mult, mut attention, mut down) = (Vec::new(), Vec::new(), None);
    for level in 0..levels {
        let first = 1 + level * (blocks + 1);
        let Some([channels]) = width(first).as_deref().map(<[usize; 1]>::try_from).and_then(Result::ok)
        else {
            return Ok(None);
        };
        let (widths, attending) = (width(first), attends(first));
        if (first..first + blocks).any(|i| width(i) != widths || attends(i) != attending) {
            return Ok(None);
        }
        channel_mult.push(channels as f64 / num_channels as f64);
        attention.extend(attending.then_some(1 << level));
        let last = first + blocks;
        if level + 1 < levels {
            let kind = down_at(last);
            let grows = kind == Down::Resblock && (width(last) != widths || attends(last));
            if grows || *down.get_or_insert(kind) != kind {
                return Ok(None);
            }
        }
    }
    let [rows, _] = *shape(shapes, "input_blocks.1.0.emb_layers.1.weight")?;
    let [first_width] = *shape(shapes, "input_blocks.1.0.out_layers.0.weight")?;
    let scale_shift = rows == first_width.saturating_mul(2);
    Ok(Some(Encoder { num_channels, channel_mult, num_res_blocks: blocks, attention, scale_shift, down }))
}

/// The flags of a U-Net that shapes tell; defaults for the rest.
pub(in crate::models) fn unet(shapes: &Shapes) -> Result<Config, String> {
    let [_, channels, _, _] = *shape(shapes, "input_blocks.0.0.weight")?;
    let [out, _, _, _] = *shape(shapes, "out.2.weight")?;
    let (down, up) = (count(shapes, "input_blocks.")?, count(shapes, "output_blocks.")?);
    // A level's last block on the way up carries what enlarges it; where nothing with weights does, the way down has
    // gaps.
    let enlarges = |j: &usize| {
        let has = |part: &str| shapes.contains_key(&format!("output_blocks.{j}.{part}.weight"));
        ["1.in_layers.0", "2.in_layers.0", "1.conv", "2.conv"].into_iter().any(has)
    };
    let gap = |i: &usize| !shapes.contains_key(&format!("input_blocks.{i}.0.in_layers.0.weight"));
    let blocks = (0..up).find(enlarges).or_else(|| (1..down).find(gap).map(|i| i - 1)).unwrap_or(down - 1);
    let found = match down % (blocks + 1) {
        0 if blocks > 0 => encoder(shapes, down / (blocks + 1), blocks)?,
        _ => None,
    };
    let found =
        found.ok_or("the blocks are not those of a U-Net of guided-diffusion or improved-diffusion")?;
    let mut config = Config {
        num_channels: found.num_channels,
        channel_mult: found.channel_mult,
        num_res_blocks: found.num_res_blocks,
        attention_resolutions: found.attention,
        use_scale_shift_norm: found.scale_shift,
        resblock_updown: found.down == Some(Down::Resblock),
        conv_resample: found.down != Some(Down::Pool),
        learn_sigma: out == 6,
        ..Config::default()
    };
    if channels == 6 {
        (config.image_size, config.small_size) = (256, Some(64));
    }
    if shapes.contains_key("label_emb.weight") {
        let [classes, _] = *shape(shapes, "label_emb.weight")?;
        (config.class_cond, config.num_classes) = (true, classes);
    }
    Ok(config)
}

/// The flags of a classifier that shapes tell; defaults for the rest.
pub(super) fn classifier(shapes: &Shapes) -> Result<classifier::Config, String> {
    let (pool, head) = match shapes.contains_key("out.2.positional_embedding") {
        true => (Pool::Attention, shape::<3>(shapes, "out.2.c_proj.weight")?[0]),
        false => (Pool::Adaptive, shape::<4>(shapes, "out.3.weight")?[0]),
    };
    let down = count(shapes, "input_blocks.")?;
    // Residual blocks that halve a level look like others: what fits is asked for. The usual depth first.
    let mut depths: Vec<usize> = (1..down).filter(|n| down.is_multiple_of(n + 1)).collect();
    depths.sort_by_key(|&n| (n != classifier::Config::default().classifier_depth, n));
    let mut found = None;
    for depth in depths {
        found = found.or(encoder(shapes, down / (depth + 1), depth)?);
    }
    let found = found.ok_or("the blocks are not those of a classifier of guided-diffusion")?;
    let levels = found.channel_mult.len();
    let mut config = classifier::Config {
        classifier_width: found.num_channels,
        channel_mult: found.channel_mult,
        classifier_depth: found.num_res_blocks,
        classifier_attention_resolutions: found.attention,
        classifier_pool: pool,
        classifier_use_scale_shift_norm: found.scale_shift,
        classifier_resblock_updown: found.down != Some(Down::Conv),
        num_classes: head,
        ..classifier::Config::default()
    };
    if pool == Pool::Attention {
        let [_, positions] = *shape(shapes, "out.2.positional_embedding")?;
        let side = positions.saturating_sub(1).isqrt();
        if side == 0 || side.checked_mul(side) != positions.checked_sub(1) {
            return Err(format!(
                "`out.2.positional_embedding` has {positions} positions, not one and a square"
            ));
        }
        config.image_size = side.saturating_mul(1 << (levels - 1));
    }
    Ok(config)
}
