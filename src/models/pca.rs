//! The principal components of pictures' CLIP embeddings: what unCLIP's autoregressive prior draws (Ramesh et al. 2022,
//! arXiv:2204.06125, section 2.2), and what pictures look like of their first few (section 3.3 there).

use crate::error::{Error, Result};
use crate::graph::Repack;
use crate::weights::Checkpoint;

/// Most that a component's length, or the cosine of two, may differ from an orthonormal one's.
const ORTHONORMAL: f64 = 1e-2;

/// Mean and principal axes of embeddings of E columns.
#[derive(Clone, Debug, PartialEq)]
pub struct Pca {
    /// The embeddings' mean `[E]`.
    pub mean: Vec<f32>,
    /// The axes `[K, E]`: orthonormal rows, those along which embeddings vary most first.
    pub components: Vec<f32>,
}

impl Pca {
    /// The tensors a checkpoint holds of it: name and shape.
    pub fn tensors(components: usize, columns: usize) -> [(&'static str, Vec<usize>); 2] {
        [("pca_mean", vec![columns]), ("pca_components", vec![components, columns])]
    }

    /// Reads `pca_mean` and `pca_components` of a checkpoint.
    ///
    /// Errors: tensors that are absent or broken; axes that are not orthonormal.
    pub fn read(checkpoint: &Checkpoint) -> Result<Self> {
        let read = |name| checkpoint.read(name, Repack::None);
        let pca = Pca { mean: read("pca_mean")?, components: read("pca_components")? };
        let wrong = |what: &str| Error::tensor(checkpoint.path(), "pca_components", what);
        if pca.mean.is_empty() || !pca.components.len().is_multiple_of(pca.mean.len()) {
            return Err(wrong("its rows are not as long as `pca_mean`: these weights are broken"));
        }
        if !pca.mean.iter().all(|v| v.is_finite()) {
            let what = "its values are not numbers: these weights are broken, export them again";
            return Err(Error::tensor(checkpoint.path(), "pca_mean", what));
        }
        if !pca.is_orthonormal() {
            return Err(wrong("its rows are not orthonormal: these weights are broken, export them again"));
        }
        Ok(pca)
    }

    /// Columns of an embedding.
    pub fn columns(&self) -> usize {
        self.mean.len()
    }

    /// Axes.
    pub fn count(&self) -> usize {
        self.components.len() / self.mean.len().max(1)
    }

    fn is_orthonormal(&self) -> bool {
        let rows: Vec<&[f32]> = self.components.chunks_exact(self.columns()).collect();
        // All pairs of the largest published sizes would take seconds; neighbours show a broken file as well.
        let pairs = rows.iter().zip(rows.iter().skip(1));
        rows.iter().all(|row| (dot(row, row) - 1.0).abs() <= ORTHONORMAL)
            && pairs.map(|(a, b)| dot(a, b)).all(|cosine| cosine.abs() <= ORTHONORMAL)
    }

    /// An embedding's coordinate along each axis `[K]`.
    #[track_caller]
    pub fn project(&self, z: &[f32]) -> Vec<f32> {
        let columns = self.columns();
        assert_eq!(z.len(), columns, "an embedding of {} columns for axes of {columns}", z.len());
        let centred: Vec<f32> = z.iter().zip(&self.mean).map(|(z, mean)| z - mean).collect();
        self.components.chunks_exact(columns).map(|axis| dot(axis, &centred) as f32).collect()
    }

    /// The embedding `[E]` with these coordinates along the first axes, and the mean's along all others.
    #[track_caller]
    pub fn reconstruct(&self, coordinates: &[f32]) -> Vec<f32> {
        let (given, axes) = (coordinates.len(), self.count());
        assert!(given <= axes, "{given} coordinates along {axes} axes");
        let mut z: Vec<f64> = self.mean.iter().map(|mean| f64::from(*mean)).collect();
        for (c, axis) in coordinates.iter().zip(self.components.chunks_exact(self.columns())) {
            z.iter_mut().zip(axis).for_each(|(z, a)| *z += f64::from(*c) * f64::from(*a));
        }
        z.into_iter().map(|z| z as f32).collect()
    }
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three axes of five: rotations of the first two, and the last.
    fn axes() -> Pca {
        let (cos, sin) = (0.6, 0.8);
        let components = [[cos, sin, 0.0, 0.0, 0.0], [-sin, cos, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0, -1.0]];
        Pca { mean: vec![1.0, -1.0, 0.5, 0.0, 2.0], components: components.concat() }
    }

    #[test]
    fn coordinates_and_embeddings_are_inverse() {
        let pca = axes();
        assert_eq!((pca.columns(), pca.count()), (5, 3));
        let z = pca.reconstruct(&[0.5, -2.0, 3.0]);
        let expected = [1.0 + 0.3 + 1.6, -1.0 + 0.4 - 1.2, 0.5, 0.0, -1.0];
        assert!(z.iter().zip(expected).all(|(z, e)| (z - e).abs() < 1e-6), "{z:?}");
        let back = pca.project(&z);
        assert!(back.iter().zip([0.5, -2.0, 3.0]).all(|(c, e)| (c - e).abs() < 1e-6), "{back:?}");
    }

    #[test]
    fn what_no_axis_spans_stays_the_mean() {
        let pca = axes();
        let coordinates = pca.project(&[3.0, 1.0, 9.0, -9.0, 2.0]);
        let all = pca.reconstruct(&coordinates);
        assert!(all.iter().zip([3.0, 1.0, 0.5, 0.0, 2.0]).all(|(z, e)| (z - e).abs() < 1e-6), "{all:?}");
        assert_eq!(pca.reconstruct(&[]), pca.mean);
        // Fewer coordinates: the projection onto fewer axes.
        let one = pca.reconstruct(&coordinates[..1]);
        assert!((pca.project(&one)[0] - coordinates[0]).abs() < 1e-6 && pca.project(&one)[1].abs() < 1e-6);
    }

    #[test]
    fn broken_axes_are_told() {
        let mut pca = axes();
        assert!(pca.is_orthonormal());
        pca.components[0] = 0.9;
        assert!(!pca.is_orthonormal());
        pca.components[0] = f32::NAN;
        assert!(!pca.is_orthonormal());
    }
}
