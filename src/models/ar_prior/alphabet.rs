//! What the tokens of an autoregressive prior stand for: buckets of principal components, and of the dot product that is
//! asked for.

use crate::error::{Error, Result};
use crate::graph::Repack;
use crate::models::pca::Pca;
use crate::weights::Checkpoint;

/// Buckets of equal width.
#[derive(Clone, Debug, PartialEq)]
struct Buckets {
    low: Vec<f32>,
    width: Vec<f32>,
}

impl Buckets {
    fn read(checkpoint: &Checkpoint, names: [&str; 2]) -> Result<Self> {
        let [low, width] = names.map(|name| checkpoint.read(name, Repack::None));
        let (low, width) = (low?, width?);
        let broken = |name, what| Err(Error::tensor(checkpoint.path(), name, what));
        if let Some(value) = low.iter().find(|value| !value.is_finite()) {
            return broken(names[0], format!("holds {value}: these weights are broken, export them again"));
        }
        if let Some(value) = width.iter().find(|value| !(value.is_finite() && **value > 0.0)) {
            return broken(
                names[1],
                format!("a bucket {value} wide: these weights are broken, export them again"),
            );
        }
        Ok(Buckets { low, width })
    }

    /// The middle of bucket `index` of number `k`.
    fn value(&self, k: usize, index: usize) -> f32 {
        (f64::from(self.low[k]) + (index as f64 + 0.5) * f64::from(self.width[k])) as f32
    }
}

/// What the tokens stand for.
#[derive(Clone, Debug, PartialEq)]
pub struct Alphabet {
    /// The axes along which the components lie.
    pub pca: Pca,
    components: Buckets,
    dot: Buckets,
}

impl Alphabet {
    /// Reads a checkpoint's tensors beside the network's.
    ///
    /// Errors: tensors that are absent, or hold what makes no sense.
    pub fn read(checkpoint: &Checkpoint) -> Result<Self> {
        Ok(Alphabet {
            pca: Pca::read(checkpoint)?,
            components: Buckets::read(checkpoint, ["bucket_low", "bucket_width"])?,
            dot: Buckets::read(checkpoint, ["dot_low", "dot_width"])?,
        })
    }

    /// The embedding `[E]` whose components lie in these buckets, one for each.
    pub fn embedding(&self, buckets: &[usize]) -> Vec<f32> {
        let values = buckets.iter().enumerate().map(|(k, index)| self.components.value(k, *index));
        self.pca.reconstruct(&values.collect::<Vec<_>>())
    }

    /// The dot product of a caption's and a picture's embeddings, normalised, that a bucket stands for.
    pub fn dot(&self, bucket: usize) -> f32 {
        self.dot.value(0, bucket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_stand_for_their_middles() {
        let alphabet = Alphabet {
            pca: Pca { mean: vec![0.5, 1.0, -2.0], components: vec![0.0, 1.0, 0.0, 1.0, 0.0, 0.0] },
            components: Buckets { low: vec![-1.0, 2.0], width: vec![0.5, 0.25] },
            dot: Buckets { low: vec![0.25], width: vec![0.125] },
        };
        // -1 + 3.5 · 0.5 along the second column, 2 + 0.5 · 0.25 along the first.
        assert_eq!(alphabet.embedding(&[3, 0]), [0.5 + 2.125, 1.0 + 0.75, -2.0]);
        assert_eq!(alphabet.dot(2), 0.5625);
    }
}
