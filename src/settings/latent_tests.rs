//! Latents' arithmetic against formulas written another way.

use super::{DrawnEmbedding, Latent};
use crate::diffusion::vectors::{slerp, text_diff};

/// Numbers that look like an embedding's.
fn vector(seed: u64, len: usize) -> Vec<f32> {
    crate::diffusion::NoiseStream::new(seed).normal(len)
}

fn norm(v: &[f32]) -> f64 {
    v.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt()
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>() / norm(a) / norm(b)
}

#[track_caller]
fn assert_near(a: &[f32], b: &[f64], tolerance: f64) {
    let off = a.iter().zip(b).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max);
    assert!(a.len() == b.len() && off <= tolerance, "{off}");
}

/// Shoemake's formula with the arc cosine, of the directions, times the length between.
fn shoemake(a_all: &[f32], b_all: &[f32], t: f64) -> Vec<f64> {
    let angle = cosine(a_all, b_all).acos();
    let (first, second) = (((1.0 - t) * angle).sin() / angle.sin(), (t * angle).sin() / angle.sin());
    let length = (1.0 - t) * norm(a_all) + t * norm(b_all);
    let at = |(a, b): (&f32, &f32)| {
        length * (first * f64::from(*a) / norm(a_all) + second * f64::from(*b) / norm(b_all))
    };
    a_all.iter().zip(b_all).map(at).collect()
}

#[test]
fn slerp_is_shoemakes() {
    for (seed, scale) in [(1, 1.0), (3, 0.01), (5, 40.0)] {
        let (a, b) = (vector(seed, 768), vector(seed + 1, 768));
        let b: Vec<f32> = b.iter().map(|v| scale * v).collect();
        for t in [0.1, 0.25, 0.5, 0.8, 0.999] {
            assert_near(&slerp(&a, &b, t), &shoemake(&a, &b, t), 1e-5 * norm(&a).max(norm(&b)));
        }
    }
    // A quarter of the way through a right angle, from length 2 to length 4.
    let (sin, cos) = (std::f64::consts::FRAC_PI_8.sin(), std::f64::consts::FRAC_PI_8.cos());
    assert_near(&slerp(&[2.0, 0.0], &[0.0, 4.0], 0.25), &[2.5 * cos, 2.5 * sin], 1e-6);
}

#[test]
fn slerp_keeps_its_ends_to_the_bit() {
    let (a, b) = (vector(7, 50), vector(8, 50));
    assert!(slerp(&a, &b, 0.0) == a && slerp(&a, &b, 1.0) == b);
    let latent = |v: &[f32]| Latent { embedding: v.to_vec(), noise: Some(v[..12].to_vec()) };
    let (one, two) = (latent(&a), latent(&b));
    assert!(Latent::slerp(&one, &two, 0.0) == one && Latent::slerp(&one, &two, 1.0) == two);
    assert!(one.towards(&b, 0.0) == one);
    let half = Latent::slerp(&one, &two, 0.5);
    assert!(half.embedding == slerp(&a, &b, 0.5) && half.noise == Some(slerp(&a[..12], &b[..12], 0.5)));
    let bare = Latent { noise: None, ..two };
    assert_eq!(Latent::slerp(&one, &bare, 0.5).noise, None);
}

#[test]
fn slerp_goes_at_an_even_pace_and_back_the_same_way() {
    let (a, b) = (vector(9, 512), vector(10, 512));
    let angle = cosine(&a, &b).acos();
    for t in [0.2, 0.6] {
        let c = slerp(&a, &b, t);
        assert!((cosine(&a, &c).acos() - t * angle).abs() < 1e-6);
        assert!((norm(&c) - ((1.0 - t) * norm(&a) + t * norm(&b))).abs() < 1e-5);
        let back: Vec<f64> = slerp(&b, &a, 1.0 - t).into_iter().map(f64::from).collect();
        assert_near(&c, &back, 1e-5);
    }
}

#[test]
fn slerp_of_alike_opposite_and_zero_vectors() {
    let a = vector(11, 64);
    let a64: Vec<f64> = a.iter().map(|v| f64::from(*v)).collect();
    assert_near(&slerp(&a, &a, 0.3), &a64, 1e-6);
    // Nearly alike: as the straight line.
    let near: Vec<f32> = a.iter().zip(vector(12, 64)).map(|(a, d)| a + 1e-5 * d).collect();
    let line: Vec<f64> =
        a.iter().zip(&near).map(|(a, b)| 0.4 * f64::from(*a) + 0.6 * f64::from(*b)).collect();
    assert_near(&slerp(&a, &near, 0.6), &line, 1e-6);
    // Opposite: half of the way is at right angles to both, and no shorter.
    let opposite: Vec<f32> = a.iter().map(|v| -2.0 * v).collect();
    let half = slerp(&a, &opposite, 0.5);
    assert!(cosine(&a, &half).abs() < 1e-6 && (norm(&half) - 1.5 * norm(&a)).abs() < 1e-4);
    assert_eq!(half, slerp(&a, &opposite, 0.5));
    // Zero: the other's direction.
    let zero = [0.0; 64];
    let quarter: Vec<f64> = a64.iter().map(|v| 0.25 * v).collect();
    assert_near(&slerp(&zero, &a, 0.25), &quarter, 1e-6);
    let rest: Vec<f64> = a64.iter().map(|v| 0.75 * v).collect();
    assert_near(&slerp(&a, &zero, 0.25), &rest, 1e-6);
    assert_eq!(slerp(&zero, &zero, 0.5), zero);
    // Far from 1, where squares would not fit.
    let large: Vec<f32> = a.iter().map(|v| v * 1e30).collect();
    assert!(slerp(&large, &opposite, 0.4).iter().all(|v| v.is_finite()));
}

#[test]
fn text_diffs_are_between_directions_and_turn_without_lengthening() {
    let (from, to, z) = (vector(13, 96), vector(14, 96), vector(15, 96));
    let direction = text_diff(&from, &to).expect("a direction");
    assert!((norm(&direction) - 1.0).abs() < 1e-6);
    // However long the captions' embeddings are.
    let longer: Vec<f32> = to.iter().map(|v| 3.0 * v).collect();
    let same: Vec<f64> = direction.iter().map(|v| f64::from(*v)).collect();
    assert_near(&text_diff(&from, &longer).expect("a direction"), &same, 1e-6);
    let expected: Vec<f64> =
        from.iter().zip(&to).map(|(f, t)| f64::from(*t) / norm(&to) - f64::from(*f) / norm(&from)).collect();
    let length = expected.iter().map(|v| v * v).sum::<f64>().sqrt();
    assert_near(&direction, &expected.iter().map(|v| v / length).collect::<Vec<_>>(), 1e-6);
    assert!(text_diff(&from, &from).is_err() && text_diff(&from, &[0.0; 96]).is_err());
    let latent = Latent { embedding: z.clone(), noise: Some(vec![1.0; 12]) };
    let moved = latent.towards(&direction, 0.4);
    assert!((norm(&moved.embedding) - norm(&z)).abs() < 1e-4 && moved.noise == latent.noise);
    let angle = cosine(&z, &direction).acos();
    assert!((cosine(&moved.embedding, &direction).acos() - 0.6 * angle).abs() < 1e-6);
}

#[test]
fn the_best_candidate_is_kept() {
    let candidates = [(1.0, 0.2), (2.0, 0.7), (3.0, -0.9), (4.0, 0.7)];
    let best = DrawnEmbedding::best(candidates.map(|(v, score)| (vec![v], score)).to_vec());
    assert_eq!((best.embedding.clone(), best.candidate, best.score()), (vec![2.0], 1, 0.7));
    assert_eq!(best.scores, [0.2, 0.7, -0.9, 0.7]);
    assert_eq!(DrawnEmbedding::best(vec![(vec![5.0], -1.0)]).embedding, [5.0]);
}
