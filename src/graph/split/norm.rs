//! Group norms of pictures that are cut into strips.

use super::{Splitter, Unsplit};
use crate::graph::{Node, Storage, Tensor};
use crate::kernels::epilogue::Activation;
use crate::kernels::group_affine::group_affine;
use crate::kernels::group_moments::group_moments;
use crate::kernels::group_norm::{GroupNorm, Params};
use crate::kernels::join::{Columns, join};
use crate::kernels::{Kernel, group_apply};
use std::ops::Range;

impl Splitter<'_> {
    /// Whether one picture of a group norm's inputs, or of its output, is too large.
    pub(super) fn is_in_strips(&self, node: &Node) -> bool {
        let p = Params::read(&node.params);
        let most = p.pixels as usize * (p.in_a + p.in_b) as usize;
        most > self.room(Storage::Elem)
    }

    /// Appends a group norm as moments of strips, their sums, and the map that follows from them.
    pub(super) fn group_norm(&mut self, node: &Node) -> Result<(), Unsplit> {
        let p = Params::read(&node.params);
        let (pixels, groups) = (p.pixels as usize, p.groups as usize);
        let [in_a, in_b] = [p.in_a, p.in_b].map(|n| n as usize);
        let pictures = self.graph.info(node.output()).len() / (pixels * (in_a + in_b));
        let mut moments = Vec::new();
        for picture in 0..pictures {
            for strip in self.strips(node)? {
                let mut cut = |i: usize, channels: usize| {
                    let run = |pixel: usize| (picture * pixels + pixel) * channels;
                    let elements = run(strip.start)..run(strip.end);
                    let id = self.take(&node.label, node.inputs[i], std::slice::from_ref(&elements));
                    Tensor { id, shape: vec![1, strip.len(), channels] }
                };
                let a = cut(0, in_a);
                let b = (in_b > 0).then(|| cut(1, in_b));
                let label = format!("{} (moments)", node.label);
                let of = group_moments(self.graph, &label, (&a, b.as_ref()), groups);
                moments.push(Columns { cols: of.len(), first: 0, count: of.len(), tensor: of });
            }
        }
        let strips = moments.iter().map(|of| of.cols).sum::<usize>() / (pictures * groups * 3);
        let shape = [pictures, strips, groups, 3];
        let label = format!("{} (sums)", node.label);
        let moments = join(self.graph, &label, &moments, 1, &shape, Storage::F32);
        let [weight, bias, emb] = [2, 3, 4].map(|i| self.graph.tensor(node.inputs[i]));
        let norm = GroupNorm { weight, bias, groups, eps: p.eps };
        let affine = group_affine(self.graph, &label, &moments, &norm, (p.has_emb != 0).then_some(&emb));
        let act = Activation::from_number(p.act);
        let params = group_apply::Params::new(pictures, pixels, [in_a, in_b], act);
        let kernel: &'static Kernel = &group_apply::KERNEL;
        let inputs = vec![node.inputs[0], node.inputs[1], affine.id];
        self.place(Node { kernel, params: params.bytes(), inputs, ..node.clone() })
    }

    /// The strips of a picture, in pixels: as the larger input is cut, or all of it where both inputs fit.
    fn strips(&self, node: &Node) -> Result<Vec<Range<usize>>, Unsplit> {
        let p = Params::read(&node.params);
        let [in_a, in_b] = [p.in_a, p.in_b].map(|n| n as usize);
        let (id, channels) = if in_b > in_a { (node.inputs[1], in_b) } else { (node.inputs[0], in_a) };
        let item = p.pixels as usize * channels;
        if item <= self.room(Storage::Elem) {
            return Ok(std::iter::once(0..p.pixels as usize).collect());
        }
        let cuts = self.cuts(id)?.into_iter().take_while(|cut| cut.end <= item);
        Ok(cuts.map(|cut| cut.start / channels..cut.end / channels).collect())
    }
}
