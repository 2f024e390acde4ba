//! Drawing a token from its logits.

/// How tokens are drawn from logits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenSampling {
    /// Classifier-free guidance: how far from the unconditional logits over the conditional ones; 1 is none.
    pub guidance_scale: f64,
    /// What the logits are divided by, after guidance: below 1 likely tokens become likelier.
    pub temperature: f64,
}

impl Default for TokenSampling {
    /// As strongly guided as Karlo's diffusion prior.
    fn default() -> Self {
        TokenSampling { guidance_scale: 4.0, temperature: 1.0 }
    }
}

/// Classifier-free guidance on logits: u + s (c - u).
pub(crate) fn guide(negative: Option<&[f32]>, positive: &[f32], scale: f64) -> Vec<f64> {
    let positive = positive.iter().map(|c| f64::from(*c));
    match negative {
        Some(negative) => {
            negative.iter().map(|u| f64::from(*u)).zip(positive).map(|(u, c)| u + scale * (c - u)).collect()
        }
        None => positive.collect(),
    }
}

/// The outcome that a number from 0 to 1 falls on, where each takes a share of that stretch as the softmax of the logits
/// over the temperature says, in their order.
pub(crate) fn pick(logits: &[f64], temperature: f64, uniform: f32) -> usize {
    let top = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = logits.iter().map(|logit| ((logit - top) / temperature).exp()).collect();
    let mut left = f64::from(uniform) * weights.iter().sum::<f64>();
    let past = |weight: &f64| {
        left -= weight;
        left < 0.0
    };
    // Rounding may leave the last outcome short of its end.
    let last = weights.iter().rposition(|weight| *weight > 0.0).unwrap_or_default();
    weights.iter().position(past).unwrap_or(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_take_their_shares() {
        let logits: Vec<f64> = [0.5f64, 0.125, 0.0, 0.375].iter().map(|p| p.ln() + 3.0).collect();
        let at = |uniform| pick(&logits, 1.0, uniform);
        assert_eq!([0.0, 0.499, 0.501, 0.624, 0.626, 0.9999999].map(at), [0, 0, 1, 1, 3, 3]);
        // Of half the temperature, as the squares: 16, 1, 0, 9 of 26.
        assert_eq!([0.61, 0.62, 0.65, 0.66].map(|uniform| pick(&logits, 0.5, uniform)), [0, 1, 1, 3]);
        assert_eq!(pick(&[-1e30, 7.0, -1e30], 1.0, 0.0), 1);
        assert_eq!(pick(&[0.0], 0.01, 0.99), 0);
    }

    #[test]
    fn guidance_goes_beyond_the_conditional() {
        assert_eq!(guide(Some(&[1.0, 0.0]), &[2.0, -1.0], 3.0), [4.0, -3.0]);
        assert_eq!(guide(None, &[2.0, -1.0], 3.0), [2.0, -1.0]);
    }
}
