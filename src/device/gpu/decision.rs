//! Which of several ways to compute a node is taken, by samples of what each takes.

/// A gain below this share of the time is none, however steady the samples.
const LEAST_GAIN: f64 = 0.02;

/// The median of samples, and their spread: from the first quartile to the third.
fn typical(samples: &[f64]) -> (f64, f64) {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at =
        |share: usize| sorted.get((share * sorted.len() / 4).min(sorted.len().saturating_sub(1))).copied();
    let [first, median, third] = [1, 2, 3].map(|share| at(share).unwrap_or(f64::INFINITY));
    (median, third - first)
}

/// The way to take: the first, which is the rule's, unless another wins by more than the spread of either's samples; of those
/// that do, the fastest.
pub(super) fn decide(samples: &[Vec<f64>]) -> usize {
    let typical: Vec<(f64, f64)> = samples.iter().map(|samples| typical(samples)).collect();
    let Some((median, spread)) = typical.first().copied() else { return 0 };
    let wins = |(_, (least, noise)): &(usize, &(f64, f64))| {
        median - least > spread.max(*noise).max(LEAST_GAIN * median)
    };
    let winners = typical.iter().enumerate().skip(1).filter(wins);
    winners.min_by(|(_, a), (_, b)| a.0.total_cmp(&b.0)).map_or(0, |(i, _)| i)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clear_win_counts() {
        assert_eq!(decide(&[vec![10.0, 10.1, 9.9, 10.2], vec![8.0, 8.1, 7.9, 8.2]]), 1);
        let third = vec![7.0, 7.1, 7.0, 7.1];
        assert_eq!(decide(&[vec![10.0; 5], vec![8.0; 5], third]), 2, "the fastest of two winners");
        assert_eq!(decide(&[vec![30.0], vec![8.0, 8.1, 7.9]]), 1, "a rule's that was given up after one run");
    }

    #[test]
    fn a_win_within_the_spread_is_none() {
        // Medians 10 and 9, quartiles 4 apart: by the medians alone the second would be taken.
        let noisy = |median: f64| vec![median - 2.0, median - 2.0, median, median + 2.0, median + 2.0];
        assert_eq!(decide(&[noisy(10.0), noisy(9.0)]), 0);
        assert_eq!(decide(&[vec![10.0; 5], noisy(9.0)]), 0, "the noise of the challenger's counts");
        assert_eq!(decide(&[noisy(10.0), vec![9.0; 5]]), 0, "the noise of the rule's counts");
        assert_eq!(decide(&[noisy(10.0), noisy(5.0)]), 1, "beyond it");
        // What is steadily next to nothing is nothing either.
        assert_eq!(decide(&[vec![10.0; 5], vec![9.9; 5]]), 0);
    }

    #[test]
    fn one_slow_sample_changes_nothing() {
        let steady = vec![8.0, 8.0, 8.0, 8.0, 8.0, 8.0, 8.0, 900.0];
        assert_eq!(decide(&[vec![10.0; 8], steady.clone()]), 1);
        assert_eq!(decide(&[steady, vec![10.0; 8]]), 0);
    }

    #[test]
    fn alone_or_slower_nothing_is_changed() {
        assert_eq!(decide(&[vec![1.0, 1.1, 0.9]]), 0);
        assert_eq!(decide(&[vec![1.0, 1.1, 0.9], vec![2.0, 2.0, 2.0]]), 0);
        assert_eq!(decide(&[]), 0);
    }
}
