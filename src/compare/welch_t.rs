//! Welch's t.
//!
//! **Question**: have the two sides different means, whatever their spreads?
//!
//! **Formula**: `t = (mean - mean') / sqrt(v/n + v'/m)` with variances v of divisor n - 1, and
//! `(v/n + v'/m)^2 / ((v/n)^2 / (n - 1) + (v'/m)^2 / (m - 1))` degrees of freedom. The effect is the
//! difference of the means in standard deviations of the reference (Glass's delta, not negative).
//! Source: B. L. Welch 1947; it is `scipy.stats.ttest_ind` with `equal_var=False`.
//!
//! **p-value**: two-sided, Student's law ([`super::law::student`]).
//!
//! **Assumes** independent rows and means that are nearly normal, which takes more rows the heavier
//! the tails. Ties do not matter.
//!
//! **Small samples and edges**: a side of one row has no variance ([`Reason::TooFewRows`]). Where the
//! reference does not vary the effect has the window's scale; where neither side does there is none
//! ([`Reason::NoVariance`]), unless the means are equal: then t = 0 and p = 1. Infinite values have no mean
//! ([`Reason::NotFinite`]); huge and tiny ones are scaled first. **Not for** heavy tails: one row at
//! 1e12 widens the variance until nothing is significant.

use super::law::student;
use super::merge::not_empty;
use super::{Answer, Outcome, Reason};

/// Rows, mean and variance of one side.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Moments {
    /// Number of rows.
    pub rows: u64,
    /// Their mean.
    pub mean: f64,
    /// Their variance, with divisor rows - 1.
    pub variance: f64,
}

/// The test on all rows; both slices ascending.
///
/// # Errors
/// [`Reason::NoReference`], [`Reason::TooFewRows`], [`Reason::NoVariance`], [`Reason::NotFinite`].
pub fn exact(reference_sorted: &[f64], window_sorted: &[f64]) -> Answer {
    not_empty(reference_sorted, window_sorted)?;
    let ends = [
        reference_sorted.first(),
        reference_sorted.last(),
        window_sorted.first(),
        window_sorted.last(),
    ];
    let largest = ends
        .into_iter()
        .flatten()
        .fold(0.0, |most: f64, value| most.max(value.abs()));
    if !largest.is_finite() {
        return Err(Reason::NotFinite);
    }
    // t does not change if both sides are moved and scaled alike. Around a middle value nothing
    // cancels; near 1 no square leaves the range of floats.
    let unit = safe_unit(largest);
    let middle = reference_sorted[reference_sorted.len() / 2] * unit;
    let side = |sorted: &[f64]| {
        let values = sorted.iter().map(|value| value * unit - middle);
        side_of(values, sorted.len())
    };
    moments(side(reference_sorted), side(window_sorted))
}

/// A power of two that brings the largest value to between 1/2 and 2, as far as floats allow.
fn safe_unit(largest: f64) -> f64 {
    if largest > 0.0 {
        2.0_f64.powf((-largest.log2().round()).clamp(-1000.0, 1000.0))
    } else {
        1.0
    }
}

/// Mean and variance in two passes.
fn side_of(values: impl Iterator<Item = f64> + Clone, rows: usize) -> Moments {
    let n = rows as f64;
    let first = values.clone().sum::<f64>() / n;
    let (mut constant, mut start) = (true, None);
    let (mut sum, mut squares) = (0.0, 0.0);
    for value in values {
        let gap = value - first;
        sum += gap;
        squares += gap * gap;
        constant &= value.to_bits() == start.get_or_insert(value).to_bits();
    }
    let variance = if constant {
        0.0
    } else {
        (squares - sum / n * sum).max(0.0) / (n - 1.0)
    };
    Moments {
        rows: rows as u64,
        mean: match start {
            Some(value) if constant => value,
            _ => first + sum / n,
        },
        variance,
    }
}

/// The test from what a profile keeps.
///
/// # Errors
/// As [`exact`]; a mean or variance that is not finite is [`Reason::NotFinite`].
pub fn moments(reference: Moments, window: Moments) -> Answer {
    if reference.rows == 0 {
        return Err(Reason::NoReference);
    }
    if reference.rows < 2 || window.rows < 2 {
        return Err(Reason::TooFewRows);
    }
    let gap = reference.mean - window.mean;
    let (left, right) = (reference.error(), window.error());
    if !(gap.is_finite() && left.is_finite() && right.is_finite() && left.min(right) >= 0.0) {
        return Err(Reason::NotFinite);
    }
    if gap.abs() <= 0.0 {
        return Ok(outcome(0.0, 1.0, 0.0));
    }
    let error = left + right;
    if error <= 0.0 {
        return Err(Reason::NoVariance);
    }
    let scale = match reference.variance {
        none if none <= 0.0 => window.variance,
        variance => variance,
    };
    let (statistic, effect) = (gap / error.sqrt(), gap.abs() / scale.sqrt());
    if !(statistic.is_finite() && effect.is_finite()) {
        return Err(Reason::NotFinite);
    }
    // The shares of the two sides in the error: no square of a variance is taken.
    let (share, other) = (left / error, right / error);
    let freedom = 1.0
        / (share * share / (reference.rows - 1) as f64 + other * other / (window.rows - 1) as f64);
    Ok(outcome(
        statistic,
        student::two_sided(statistic, freedom),
        effect,
    ))
}

impl Moments {
    /// Squared standard error of the mean.
    fn error(&self) -> f64 {
        self.variance / self.rows as f64
    }
}

fn outcome(statistic: f64, p: f64, effect: f64) -> Outcome {
    Outcome {
        statistic,
        p_value: Some(p),
        expected: Some(0.0),
        effect,
        error_bound: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edges_have_written_answers() {
        assert_eq!(exact(&[], &[1.0]), Err(Reason::NoReference));
        assert_eq!(exact(&[1.0, 2.0], &[]), Err(Reason::TooFewRows));
        assert_eq!(exact(&[1.0], &[1.0, 2.0]), Err(Reason::TooFewRows));
        assert_eq!(exact(&[1.0, 2.0], &[1.0]), Err(Reason::TooFewRows));
        assert_eq!(exact(&[0.1; 500], &[0.1; 300]), Ok(outcome(0.0, 1.0, 0.0)));
        assert_eq!(exact(&[7.0; 5], &[8.0; 3]), Err(Reason::NoVariance));
        let some = exact(&[7.0; 5], &[8.0, 9.0]).unwrap();
        assert!((some.statistic + 3.0).abs() < 1e-12, "scipy says so too");
        assert_eq!(exact(&[7.0; 5], &[6.0, 8.0]), Ok(outcome(0.0, 1.0, 0.0)));
        let constant_window = exact(&[0.0, 1.0, 2.0], &[9.0; 3]).unwrap();
        assert!((constant_window.effect - 8.0).abs() < 1e-12);
    }

    #[test]
    fn values_without_a_mean_have_no_answer() {
        let inf = f64::INFINITY;
        assert_eq!(exact(&[0.0, inf], &[0.0, inf]), Err(Reason::NotFinite));
        assert_eq!(exact(&[-inf, 0.0], &[0.0, 1.0]), Err(Reason::NotFinite));
        let bad = Moments {
            rows: 9,
            mean: f64::NAN,
            variance: 1.0,
        };
        assert_eq!(moments(bad, bad), Err(Reason::NotFinite));
        let negative = Moments {
            rows: 9,
            mean: 0.0,
            variance: -1.0,
        };
        assert_eq!(moments(negative, negative), Err(Reason::NotFinite));
    }

    #[test]
    fn scale_and_place_change_nothing() {
        let (left, right) = ([1.0, 2.0, 4.0, 4.0], [2.0, 5.0, 7.0]);
        let plain = exact(&left, &right).unwrap();
        for scale in [1e-310, 1e-200, 1e200, 2.5e307] {
            let side = |values: &[f64]| values.iter().map(|v| v * scale).collect::<Vec<_>>();
            let scaled = exact(&side(&left), &side(&right)).unwrap();
            assert!(
                (scaled.statistic / plain.statistic - 1.0).abs() < 1e-9,
                "{scale}"
            );
            assert!((scaled.effect / plain.effect - 1.0).abs() < 1e-9);
        }
        let side = |values: &[f64]| values.iter().map(|v| v + 1e15).collect::<Vec<_>>();
        let moved = exact(&side(&left), &side(&right)).unwrap();
        assert!((moved.statistic / plain.statistic - 1.0).abs() < 1e-12);
    }

    #[test]
    fn huge_differences_overflow_only_where_the_answer_does() {
        assert!(exact(&[-1e308, 1e308], &[1e308, 1.1e308]).is_ok());
        let tight = [f64::MIN_POSITIVE, 2.0 * f64::MIN_POSITIVE];
        // Beside 1e308 the reference does not vary, and the window gives the scale.
        assert!((exact(&tight, &[1e308, 1.1e308]).unwrap().statistic + 21.0).abs() < 1e-9);
    }

    #[test]
    fn moments_agree_with_rows() {
        let left = Moments {
            rows: 4,
            mean: 2.75,
            variance: 2.25,
        };
        let right = Moments {
            rows: 3,
            mean: 14.0 / 3.0,
            variance: 19.0 / 3.0,
        };
        let (kept, rows) = (
            moments(left, right).unwrap(),
            exact(&[1.0, 2.0, 4.0, 4.0], &[2.0, 5.0, 7.0]).unwrap(),
        );
        assert!((kept.statistic - rows.statistic).abs() < 1e-12);
        assert!((kept.p_value.unwrap() - rows.p_value.unwrap()).abs() < 1e-12);
    }
}
