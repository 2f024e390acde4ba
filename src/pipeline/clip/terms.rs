//! What a guidance by CLIP is the score of: cosines with texts and contents, shares of structure and style.

use super::files::Image;
use super::model::FLOOR;
use crate::device::{Program, Work};
use crate::error::{Result, request};
use crate::graph::{Graph, Storage, Tensor};
use crate::kernels::elementwise::{add, as_elem, mul, scale};
use crate::kernels::layer_norm::l2_normalise;
use crate::kernels::product::gram;
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

impl Comparison {
    /// What its inputs are called, for a map.
    fn inputs(self, term: usize, map: usize) -> [String; 2] {
        ["", " weight"].map(|what| format!("{} {term}.{map}{what}", self.features.name()))
    }
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

/// Features of a kind.
fn features(g: &mut Graph, maps: &[Tensor], kind: Features) -> Vec<Tensor> {
    match kind {
        Features::Maps => maps.to_vec(),
        Features::Grams => maps.iter().map(|map| gram(g, "gram", map)).collect(),
    }
}

impl Terms {
    pub fn compares(&self, kind: Features) -> bool {
        self.comparisons.iter().any(|comparison| comparison.features == kind)
    }

    /// Whether vectors are compared at all.
    pub fn aims(&self) -> bool {
        !self.texts.is_empty() || !self.contents.is_empty()
    }

    /// Records the sum of all terms, `[N]`.
    pub fn scalar(&self, g: &mut Graph, x: &Tensor, t: &Tensor) -> Tensor {
        let (n, embed) = (x.dim(0), self.image.config.embed());
        let seen = self.image.config.forward(g, x, Some(t), !self.comparisons.is_empty());
        let mut terms = Vec::new();
        if self.aims() {
            let unit = l2_normalise(g, "unit", &seen.embeds, FLOOR);
            let aim = g.input("aim", &[n, embed], Storage::F32);
            let aim = as_elem(g, &aim);
            let products = mul(g, &unit, &aim);
            terms.push(sum_axis(g, "cosine", &products, [n, embed, 1], &[n, 1]));
        }
        for kind in [Features::Maps, Features::Grams].into_iter().filter(|kind| self.compares(*kind)) {
            let found = features(g, &seen.maps, kind);
            for (term, comparison) in self.comparisons.iter().enumerate() {
                for (j, found) in found.iter().enumerate().filter(|_| comparison.features == kind) {
                    let [features, weight] = comparison.inputs(term, j);
                    let example = g.input(&features, &found.shape, Storage::Elem);
                    let difference = add(g, found, &example);
                    let distance = squares(g, kind.name(), &difference);
                    let weight = g.input(&weight, &[n, 1], Storage::F32);
                    let weight = as_elem(g, &weight);
                    terms.push(mul(g, &distance, &weight));
                }
            }
        }
        let sum = terms.into_iter().reduce(|sum, term| add(g, &sum, &term));
        // There is a term: an empty guidance is not built.
        let sum = sum.unwrap_or_else(|| g.constant(&[n, 1], vec![0.0; n]));
        g.reshape(&sum, &[n])
    }

    /// Records what the examples are compared by.
    pub fn record_examples(&self, shape: [usize; 4]) -> Graph {
        let mut g = Graph::new();
        let x = g.input("x", &shape, Storage::F32);
        let t = g.input("t", &shape[..1], Storage::F32);
        let seen = self.image.config.forward(&mut g, &x, Some(&t), !self.comparisons.is_empty());
        if !self.contents.is_empty() {
            let unit = l2_normalise(&mut g, "unit", &seen.embeds, FLOOR);
            g.output("unit", &unit);
        }
        for kind in [Features::Maps, Features::Grams].into_iter().filter(|kind| self.compares(*kind)) {
            for (j, found) in features(&mut g, &seen.maps, kind).iter().enumerate() {
                let size = squares(&mut g, kind.name(), found);
                let opposite = scale(&mut g, found, -1.0);
                g.output(&format!("{} {j}", kind.name()), &opposite);
                g.output(&format!("{} {j} size", kind.name()), &size);
            }
        }
        g
    }

    /// The weighted sum of all vectors, by picture.
    pub fn aim(&self, pictures: usize, units: &[Vec<f32>]) -> Result<Vec<f32>> {
        let embed = self.image.config.embed();
        let mut aim = vec![0.0; pictures * embed];
        let mut follow = |vectors: &[f32], weight: f64| {
            let weight = (weight * self.logit_scale) as f32;
            aim.iter_mut().zip(vectors.iter().cycle()).for_each(|(aim, v)| *aim += weight * v);
        };
        for (vectors, weight) in &self.texts {
            let count = vectors.len() / embed;
            if count != 1 && count != pictures {
                return Err(request!(
                    Guide,
                    Mismatch,
                    "{count} texts for {pictures} pictures: give one for all, or one for each"
                ));
            }
            follow(vectors, *weight);
        }
        for (example, weight) in &self.contents {
            if let Some(unit) = units.get(*example) {
                follow(unit, *weight);
            }
        }
        Ok(aim)
    }

    /// Hands an example's features to the score, with the weights that make their differences shares of them.
    pub fn set_comparison(
        &self,
        work: &mut Work,
        [score, example]: [&Program; 2],
        (term, comparison): (usize, Comparison),
    ) -> Result<()> {
        let kind = comparison.features.name();
        let count =
            (0..).take_while(|j| example.graph().find_output(&format!("{kind} {j}")).is_some()).count();
        for j in 0..count {
            let [features, weight] = comparison.inputs(term, j);
            work.copy(&example.value(&format!("{kind} {j}")), &score.value(&features))?;
            let sizes = example.value(&format!("{kind} {j} size")).read()?;
            let share = -(comparison.weight * self.logit_scale / count as f64) as f32;
            let weights: Vec<f32> = sizes.iter().map(|size| share / size.max(LEAST)).collect();
            work.write(&score.value(&weight), &weights)?;
        }
        Ok(())
    }
}
