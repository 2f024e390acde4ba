//! Vectors' arithmetic, in f64: products, and the ways between directions.

use crate::error::{Error, Problem, Result, Setting};

/// Σ a · b.
pub(crate) fn dot<T: Copy + Into<f64>>(a: &[T], b: &[T]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (*a).into() * (*b).into()).sum()
}

/// The dot product of two vectors, both brought to length 1; 0 where one has none.
pub(crate) fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let lengths = (dot(a, a) * dot(b, b)).sqrt();
    if lengths > 0.0 { dot(a, b) / lengths } else { 0.0 }
}

fn wide(v: &[f32]) -> Vec<f64> {
    v.iter().map(|v| f64::from(*v)).collect()
}

/// A vector's length.
pub(crate) fn length(v: &[f32]) -> f64 {
    dot(v, v).sqrt()
}

/// v of length 1; none where it has none.
fn unit(v: &[f64]) -> Option<Vec<f64>> {
    // Scaled first, so that no square is too large or too small.
    let most = v.iter().fold(0.0f64, |most, v| most.max(v.abs()));
    let scaled: Vec<f64> = v.iter().map(|v| v / most).collect();
    let length = dot(&scaled, &scaled).sqrt();
    (most > 0.0 && length.is_finite()).then(|| scaled.iter().map(|v| v / length).collect())
}

/// A unit vector at right angles to one: the axis it is least along, less its part of that.
fn perpendicular(u: &[f64]) -> Option<Vec<f64>> {
    let axis = (0..u.len()).min_by(|&i, &j| u[i].abs().total_cmp(&u[j].abs()))?;
    let at = |i: usize| if i == axis { 1.0 } else { 0.0 };
    unit(&u.iter().enumerate().map(|(i, v)| at(i) - u[axis] * v).collect::<Vec<_>>())
}

/// From a to b along the great circle between their directions, `t` of the way; the length goes evenly from one's to the
/// other's. t = 0 and t = 1 give the ends themselves. Between opposite directions, where all ways are as short, one of
/// them is taken, always the same; a vector of length 0 has no direction, and so takes the other's.
///
/// # Panics
/// Where the vectors have not as many elements.
#[track_caller]
pub fn slerp(a: &[f32], b: &[f32], t: f64) -> Vec<f32> {
    assert_eq!(a.len(), b.len(), "slerp between {} and {} elements", a.len(), b.len());
    if t == 0.0 || t == 1.0 {
        return if t == 0.0 { a } else { b }.to_vec();
    }
    let (from, to) = (unit(&wide(a)), unit(&wide(b)));
    let length = (1.0 - t) * length(a) + t * length(b);
    let (Some(u), Some(v)) = (from.clone().or(to.clone()), to.or(from)) else { return a.to_vec() };
    // The half-angle's tangent keeps its digits at both ends, unlike the cosine.
    let apart = |sign: f64| u.iter().zip(&v).map(|(u, v)| (u + sign * v).powi(2)).sum::<f64>().sqrt();
    let angle = 2.0 * apart(-1.0).atan2(apart(1.0));
    // What of v is at right angles to u, by which u turns towards v.
    let along = dot(&u, &v);
    let across: Vec<f64> = u.iter().zip(&v).map(|(u, v)| v - along * u).collect();
    const OPPOSITE: f64 = 1e-7;
    let across = match std::f64::consts::PI - angle < OPPOSITE {
        true => perpendicular(&u),
        false => unit(&across),
    };
    let Some(across) = across else { return u.iter().map(|u| (length * u) as f32).collect() };
    let (sin, cos) = (t * angle).sin_cos();
    u.iter().zip(&across).map(|(u, w)| (length * (cos * u + sin * w)) as f32).collect()
}

/// The direction from one caption's embedding to another's, of length 1: normalised as CLIP compares them, then their
/// difference.
///
/// Errors ([`Error::Request`]): embeddings between which there is no direction.
///
/// # Panics
/// Where they have not as many elements.
#[track_caller]
pub fn text_diff(from: &[f32], to: &[f32]) -> Result<Vec<f32>> {
    assert_eq!(from.len(), to.len(), "a difference of {} and {} elements", from.len(), to.len());
    let what = "the two captions mean the same to CLIP: there is no way between them";
    let same = || Error::request(Setting::Captions, Problem::Malformed, what);
    let (from, to) = (unit(&wide(from)).ok_or_else(same)?, unit(&wide(to)).ok_or_else(same)?);
    let difference: Vec<f64> = to.iter().zip(&from).map(|(to, from)| to - from).collect();
    const ALIKE: f64 = 1e-6;
    let direction = unit(&difference).filter(|_| dot(&difference, &difference).sqrt() > ALIKE);
    Ok(direction.ok_or_else(same)?.iter().map(|v| *v as f32).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_of_directions() {
        assert!((cosine(&[3.0, 4.0], &[30.0, 40.0]) - 1.0).abs() < 1e-12);
        assert!((cosine(&[1.0, 0.0], &[2.0, 2.0]) - 0.5f64.sqrt()).abs() < 1e-12);
        assert_eq!(cosine(&[0.0, 0.0], &[1.0, 1.0]), 0.0);
    }
}
