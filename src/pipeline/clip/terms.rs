//! What a guidance by CLIP is the score of: cosines with texts and contents, shares of structure and style.

use super::files::Image;
use super::model::FLOOR;
use crate::error::{Result, request};
use crate::graph::{Graph, Storage, Tensor};
use crate::kernels::elementwise::{add, as_elem, mul, scale};
use crate::kernels::layer_norm::l2_normalise;
use crate::kernels::product::gram;
use crate::kernels::reciprocal::reciprocal;
use crate::kernels::sum_axis::{sum_axis, sum_rows};

/// Of two features or Gram matrices, what is compared with less than this is compared with this.
const LEAST: f32 = 1e-20;

/// Which of a picture's features are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Features {
    /// Themselves, place by place.
    Maps,
    /// Their Gram matrices.
    Grams,
}

impl Features {
    fn name(self) -> &'static str {
        match self {
            Features::Maps => "map",
            Features::Grams => "gram",
        }
    }
}

/// A comparison with an example's features.
#[derive(Clone, Copy, Debug)]
pub(super) struct Comparison {
    pub features: Features,
    /// Which example.
    pub example: usize,
    pub weight: f64,
}

/// What an example's features of a map, with the opposite sign, and 1/Σ² of them are called.
fn named(kind: Features, example: usize, map: usize) -> [String; 2] {
    ["", " share"].map(|what| format!("{} {example}.{map}{what}", kind.name()))
}

/// What an example's unit vector is called.
fn unit_of(example: usize) -> String {
    format!("unit {example}")
}

/// What the score is of.
pub(super) struct Terms {
    pub image: Image,
    pub logit_scale: f64,
    /// Unit vectors, one or one for each picture, and their weight.
    pub texts: Vec<(Vec<f32>, f64)>,
    /// Numbers of examples, and their weight.
    pub contents: Vec<(usize, f64)>,
    pub comparisons: Vec<Comparison>,
}

/// Σ x² by picture: x `[N, A, C]` → `[N, 1]`.
fn squares(g: &mut Graph, label: &str, x: &Tensor) -> Tensor {
    let (n, channels) = (x.dim(0), x.channels());
    let squares = mul(g, x, x);
    let by_channel = sum_rows(g, label, &squares, x.dim(1));
    sum_axis(g, label, &by_channel, [n, channels, 1], &[n, 1])
}

/// Each example once, with the sum of its weights.
fn summed(weighted: impl Iterator<Item = (usize, f64)>) -> Vec<(usize, f64)> {
    let mut sums: Vec<(usize, f64)> = Vec::new();
    for (example, weight) in weighted {
        match sums.iter_mut().find(|(of, _)| *of == example) {
            Some((_, sum)) => *sum += weight,
            None => sums.push((example, weight)),
        }
    }
    sums
}

/// Features of a kind.
fn features(g: &mut Graph, maps: &[Tensor], kind: Features) -> Vec<Tensor> {
    match kind {
        Features::Maps => maps.to_vec(),
        Features::Grams => maps.iter().map(|map| gram(g, "gram", map)).collect(),
    }
}

impl Terms {
    /// Examples that are compared by features of a kind, and their weights.
    fn compared(&self, kind: Features) -> impl Iterator<Item = (usize, f64)> {
        let of_kind = self.comparisons.iter().filter(move |comparison| comparison.features == kind);
        of_kind.map(|comparison| (comparison.example, comparison.weight))
    }

    fn compares(&self, kind: Features) -> bool {
        self.compared(kind).next().is_some()
    }

    /// Records the sum of all terms, `[N]`. Of examples it has inputs, each by the name of what
    /// [another graph](Terms::record_example) makes.
    pub fn scalar(&self, g: &mut Graph, x: &Tensor, t: &Tensor) -> Tensor {
        let n = x.dim(0);
        let seen = self.image.config.forward(g, x, Some(t), !self.comparisons.is_empty());
        let mut terms = Vec::new();
        if let Some(aim) = self.record_aim(g, n) {
            let unit = l2_normalise(g, "unit", &seen.embeds, FLOOR);
            let products = mul(g, &unit, &aim);
            terms.push(sum_axis(g, "cosine", &products, [n, aim.channels(), 1], &[n, 1]));
        }
        for kind in [Features::Maps, Features::Grams].into_iter().filter(|kind| self.compares(*kind)) {
            let found = features(g, &seen.maps, kind);
            for (example, weight) in summed(self.compared(kind)) {
                let factor = -(weight * self.logit_scale / found.len() as f64) as f32;
                for (j, found) in found.iter().enumerate() {
                    let [features, share] = named(kind, example, j);
                    let example = g.input(&features, &found.shape, Storage::Elem);
                    let difference = add(g, found, &example);
                    let distance = squares(g, kind.name(), &difference);
                    let share = g.input(&share, &[n, 1], Storage::F32);
                    let share = as_elem(g, &share);
                    let distance = mul(g, &distance, &share);
                    terms.push(scale(g, &distance, factor));
                }
            }
        }
        let sum = terms.into_iter().reduce(|sum, term| add(g, &sum, &term));
        // There is a term: an empty guidance is not built.
        let sum = sum.unwrap_or_else(|| g.constant(&[n, 1], vec![0.0; n]));
        g.reshape(&sum, &[n])
    }

    /// The weighted sum of all vectors `[N, E]`: of texts as one input, of examples each its own.
    fn record_aim(&self, g: &mut Graph, n: usize) -> Option<Tensor> {
        let shape = [n, self.image.config.embed()];
        let mut aims = Vec::new();
        if !self.texts.is_empty() {
            let aim = g.input("aim", &shape, Storage::F32);
            aims.push(as_elem(g, &aim));
        }
        for (example, weight) in summed(self.contents.iter().copied()) {
            let unit = g.input(&unit_of(example), &shape, Storage::Elem);
            aims.push(scale(g, &unit, (weight * self.logit_scale) as f32));
        }
        aims.into_iter().reduce(|sum, aim| add(g, &sum, &aim))
    }

    /// Records what an example is compared by.
    pub fn record_example(&self, shape: [usize; 4], example: usize) -> Graph {
        let mut g = Graph::new();
        let x = g.input("x", &shape, Storage::F32);
        let t = g.input("t", &shape[..1], Storage::F32);
        let is_compared = |kind| self.compared(kind).any(|(of, _)| of == example);
        let kinds = [Features::Maps, Features::Grams].into_iter().filter(|kind| is_compared(*kind));
        let kinds: Vec<Features> = kinds.collect();
        let seen = self.image.config.forward(&mut g, &x, Some(&t), !kinds.is_empty());
        if self.contents.iter().any(|(of, _)| *of == example) {
            let unit = l2_normalise(&mut g, "unit", &seen.embeds, FLOOR);
            g.output(&unit_of(example), &unit);
        }
        for kind in kinds {
            for (j, found) in features(&mut g, &seen.maps, kind).iter().enumerate() {
                let [features, share] = named(kind, example, j);
                let size = squares(&mut g, kind.name(), found);
                let reciprocal = reciprocal(&mut g, kind.name(), &size, LEAST);
                let opposite = scale(&mut g, found, -1.0);
                g.output(&features, &opposite);
                g.output(&share, &reciprocal);
            }
        }
        g
    }

    /// The weighted sum of the texts' vectors, by picture.
    pub fn aim(&self, pictures: usize) -> Result<Vec<f32>> {
        let embed = self.image.config.embed();
        let mut aim = vec![0.0; pictures * embed];
        for (vectors, weight) in &self.texts {
            let count = vectors.len() / embed;
            if count != 1 && count != pictures {
                return Err(request!(
                    Guide,
                    Mismatch,
                    "{count} texts for {pictures} pictures: give one for all, or one for each"
                ));
            }
            let weight = (weight * self.logit_scale) as f32;
            aim.iter_mut().zip(vectors.iter().cycle()).for_each(|(aim, v)| *aim += weight * v);
        }
        Ok(aim)
    }
}
