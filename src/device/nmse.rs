//! How far two results are apart.

/// Σ(a-b)² / Σa²; NaN where either holds one.
pub fn nmse(a: &[f32], b: &[f32]) -> f64 {
    let square = |v: f64| v * v;
    let error: f64 = a.iter().zip(b).map(|(a, b)| square(f64::from(*a) - f64::from(*b))).sum();
    let size: f64 = a.iter().map(|a| square(f64::from(*a))).sum();
    if error == 0.0 { 0.0 } else { error / size }
}
