//! What was compared, how far off it was, and how far it may be.

use crate::golden::case::{Checked, Tensor};
use std::fmt::Write;

/// How far values may be from a golden.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limit {
    /// The largest difference of one value.
    pub max: f64,
    /// The mean of the differences.
    pub mean: f64,
}

impl Limit {
    /// Bit for bit.
    pub const EXACT: Limit = Limit { max: 0.0, mean: 0.0 };

    /// One forward or one step: ten times the spread of fp32 against fp64.
    pub fn once(spread: f64) -> Limit {
        Limit { max: 10.0 * spread, mean: 10.0 * spread }
    }

    /// A run of its own: ten times the spread in the mean, thirty times anywhere.
    pub fn run(spread: f64) -> Limit {
        Limit { max: 30.0 * spread, mean: 10.0 * spread }
    }

    /// For states whose spread nobody measured: that of an output, as a share of its size.
    pub fn sized_like(self, values: &[f32], output: &[f32]) -> Limit {
        let rms = |v: &[f32]| {
            let squares = v.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
            (squares / v.len().max(1) as f64).sqrt()
        };
        let factor = (rms(values) / rms(output)).max(1.0);
        Limit { max: factor * self.max, mean: factor * self.mean }
    }

    /// [`Limit::run`] for pictures' bytes: rounding to bytes moves a value by one at least, and by no more than its own
    /// difference in the mean.
    pub fn bytes(spread: f64) -> Limit {
        let limit = Limit::run(spread * 127.5);
        Limit { max: limit.max.ceil(), ..limit }
    }
}

/// One comparison.
struct Check {
    what: String,
    found: Limit,
    limit: Limit,
}

impl Check {
    /// The larger share of its limits; 0 where equality was asked and found.
    fn share(&self) -> f64 {
        let share = |found: f64, limit: f64| if found == 0.0 { 0.0 } else { found / limit };
        share(self.found.max, self.limit.max).max(share(self.found.mean, self.limit.mean))
    }
}

/// All comparisons of a case on a device.
#[derive(Default)]
pub struct Report {
    title: String,
    checks: Vec<Check>,
    failures: Vec<String>,
    skipped: Vec<String>,
    /// Negative control: every golden's last value is moved just beyond its limit.
    pub planted: bool,
}

impl Report {
    /// An empty report.
    pub fn new(title: String) -> Report {
        Report { title, ..Report::default() }
    }

    /// Compares values; another number of them, or one that is no number, fails.
    pub fn compare(&mut self, what: &str, found: &[f32], expected: &[f32], limit: Limit) {
        if found.len() != expected.len() || found.is_empty() {
            return self.fail(what, format!("{} values, {} expected", found.len(), expected.len()));
        }
        let planted = if self.planted { 1.01 * limit.max + 1e-3 * f64::from(limit.max == 0.0) } else { 0.0 };
        let last = found.len() - 1;
        let (mut max, mut sum, mut place) = (0.0f64, 0.0, 0);
        for (i, (a, b)) in found.iter().zip(expected).enumerate() {
            let signed = f64::from(*a) - f64::from(*b);
            let difference = if i == last { signed.abs() + planted } else { signed.abs() };
            sum += difference;
            if difference.is_nan() || difference > max {
                (max, place) = (difference, i);
                if max.is_nan() {
                    break;
                }
            }
        }
        let measured = Limit { max, mean: sum / found.len() as f64 };
        let passes = measured.max <= limit.max && measured.mean <= limit.mean;
        self.checks.push(Check { what: what.into(), found: measured, limit });
        if !passes {
            let (found, expected) = (found[place], expected[place]);
            self.fail(
                what,
                format!(
                    "largest difference {:.2e} (at most {:.2e}), mean {:.2e} (at most {:.2e}); [{place}] is \
                     {found}, expected {expected}",
                    measured.max, limit.max, measured.mean, limit.mean
                ),
            );
        }
    }

    /// [`Report::compare`] with a golden, whose pictures are stored channels first.
    pub fn golden(&mut self, what: &str, found: &[f32], golden: &Tensor, limit: Limit) {
        self.compare(what, found, &golden.channels_last(), limit);
    }

    /// [`Report::golden`] where the case stores it.
    pub fn held(&mut self, what: &str, found: &[f32], golden: Option<&Tensor>, limit: Limit) {
        match golden {
            Some(golden) => self.golden(what, found, golden, limit),
            None => self.skip(what),
        }
    }

    /// Notes what cannot be compared, since the case does not store it.
    pub fn skip(&mut self, what: &str) {
        self.skipped.push(what.into());
    }

    /// How many comparisons were skipped.
    pub fn skips(&self) -> usize {
        self.skipped.len()
    }

    /// Two things that must be the same.
    pub fn equal<T: PartialEq + std::fmt::Debug>(&mut self, what: &str, found: &T, expected: &T) {
        self.checks.push(Check { what: what.into(), found: Limit::EXACT, limit: Limit::EXACT });
        if found != expected {
            self.fail(what, format!("{found:?}, expected {expected:?}"));
        }
    }

    /// Notes a failure.
    pub fn fail(&mut self, what: &str, why: String) {
        self.failures.push(format!("{}: {what}: {why}", self.title));
    }

    /// How many comparisons there were and how many of them failed.
    pub fn counts(&self) -> (usize, usize) {
        (self.checks.iter().filter(|check| check.limit != Limit::EXACT).count(), self.failures.len())
    }

    /// The table of all comparisons, one line for the worst, and the failures.
    pub fn finish(self, checked: Checked) -> (String, String, Vec<String>) {
        let mut failures = self.failures;
        if let Err(why) = checked {
            failures.push(format!("{}: {why}", self.title));
        } else if self.checks.is_empty() {
            failures.push(format!("{}: nothing was compared", self.title));
        }
        let mut table = format!("{}\n", self.title);
        for what in &self.skipped {
            let _ = writeln!(table, "  {what:44} skipped: the case does not store it");
        }
        for check in &self.checks {
            let Check { what, found, limit } = check;
            let _ = writeln!(
                table,
                "  {what:44} max {:.1e} of {:.1e}  mean {:.1e} of {:.1e}",
                found.max, limit.max, found.mean, limit.mean
            );
        }
        // A byte is off by one or not at all: that says little about how close the limit is.
        let values = self.checks.iter().filter(|check| check.limit.max < 1.0);
        let worst = values.max_by(|a, b| a.share().total_cmp(&b.share()));
        let worst =
            worst.map_or(String::new(), |w| format!("worst {:.3} of its limit: {}", w.share(), w.what));
        let skipped = match &self.skipped[..] {
            [] => String::new(),
            [first, rest @ ..] => {
                format!("{} skipped ({first}{}), ", 1 + rest.len(), if rest.is_empty() { "" } else { ", …" })
            }
        };
        let (checks, failed) = (self.checks.len(), failures.len());
        let summary = format!("{}: {checks} checks, {failed} failures, {skipped}{worst}", self.title);
        (table, summary, failures)
    }
}
