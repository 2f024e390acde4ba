//! The picture's encoder as a transformer over patches (Dosovitskiy et al. 2020, arXiv:2010.11929), with a class token
//! whose last state is the answer. In GLIDE's noised CLIP that token is one of a thousand: the timestep's.

use super::seen::Seen;
use super::transformer::{Layout, Transformer};
use crate::graph::{Graph, Tensor};
use crate::kernels::concat::concat;
use crate::kernels::conv2d::{Window, conv2d};
use crate::kernels::cut::{cut, place};
use crate::kernels::elementwise::add;
use crate::kernels::embedding::embedding;
use crate::models::attention::tokens;

/// Sizes of a transformer over patches.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Its blocks.
    pub transformer: Transformer,
    /// Side of a picture.
    pub image_size: usize,
    /// Side of a patch.
    pub patch_size: usize,
    /// Columns of the answer.
    pub embed: usize,
    /// Class tokens, one for each timestep, where it sees noise.
    pub timesteps: Option<usize>,
}

/// Maps that a forward gives at most.
const MAPS: usize = 4;

struct Names {
    class: &'static str,
    patches: &'static str,
    positions: &'static str,
    before: &'static str,
    block: &'static str,
    after: &'static str,
    projection: &'static str,
}

impl Layout {
    fn vision(self) -> Names {
        match self {
            Layout::Glide => Names {
                class: "blocks.input.w_t",
                patches: "blocks.input.patch_proj",
                positions: "blocks.input.w_pos",
                before: "blocks.input.ln",
                block: "blocks.block_",
                after: "blocks.output.ln",
                projection: "blocks.output.f.w",
            },
            Layout::OpenAi => Names {
                class: "visual.class_embedding",
                patches: "visual.conv1.weight",
                positions: "visual.positional_embedding",
                before: "visual.ln_pre",
                block: "visual.transformer.resblocks.",
                after: "visual.ln_post",
                projection: "visual.proj",
            },
            Layout::Transformers => Names {
                class: "vision_model.embeddings.class_embedding",
                patches: "vision_model.embeddings.patch_embedding.weight",
                positions: "vision_model.embeddings.position_embedding.weight",
                before: "vision_model.pre_layrnorm",
                block: "vision_model.encoder.layers.",
                after: "vision_model.post_layernorm",
                projection: "visual_projection.weight",
            },
        }
    }
}

impl Config {
    /// Patches of a picture.
    pub fn patches(&self) -> usize {
        (self.image_size / self.patch_size).pow(2)
    }

    /// Normalised pictures x `[N, S, S, 3]` and timesteps t `[N]`.
    #[track_caller]
    pub(super) fn forward(&self, g: &mut Graph, x: &Tensor, t: Option<&Tensor>, maps: bool) -> Seen {
        let (layout, width) = (self.transformer.layout, self.transformer.width);
        let (names, n, count) = (layout.vision(), x.dim(0), self.patches());
        let filters = g.filter(names.patches, width, 3, self.patch_size);
        let window = Window::strided(self.patch_size, 0);
        let patches = conv2d(g, names.patches, (x, None), &filters, None, window);
        let patches = tokens(g, &patches);
        let class = match (self.timesteps, t) {
            (Some(rows), Some(t)) => {
                let table = g.table(names.class, rows, width);
                embedding(g, names.class, t, &table)
            }
            (Some(_), None) => panic!("this encoder sees noise: it needs the timesteps"),
            (None, _) => {
                let class = g.vector(names.class, &[width]);
                let class = g.reshape(&class, &[1, 1, width]);
                concat(g, names.class, &class, None, n)
            }
        };
        let class = g.reshape(&class, &[n, 1, width]);
        let positions = g.vector(names.positions, &[count + 1, width]);
        let positions = g.reshape(&positions, &[1, count + 1, width]);
        let positions = concat(g, names.positions, &positions, None, n);
        let class = place(g, "class", &class, 1, 0, count + 1);
        let patches = place(g, "patches", &patches, 1, 1, count + 1);
        let class = add(g, &class, &positions);
        let h = add(g, &patches, &class);
        let mut h = layout.norm(g, names.before, &h, self.transformer.eps);
        g.tap("hidden.0", &h);
        let (layers, mut seen) = (self.transformer.layers, Vec::new());
        for i in 0..layers {
            h = self.transformer.block(g, &format!("{}{i}", names.block), &h, false);
            g.tap(&format!("hidden.{}", i + 1), &h);
            // The ends of quarters; of few blocks, each.
            let quarter = |blocks: usize| blocks * MAPS.min(layers) / layers;
            if maps && quarter(i + 1) > quarter(i) {
                seen.push(cut(g, "map", &h, 1, 1, count));
            }
        }
        let last = cut(g, "class", &h, 1, 0, 1);
        let last = layout.norm(g, names.after, &last, self.transformer.eps);
        let last = g.reshape(&last, &[n, width]);
        let embeds = layout.project(g, names.projection, &last, self.embed);
        Seen { embeds, maps: seen }
    }
}
