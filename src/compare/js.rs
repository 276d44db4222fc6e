//! Jensen-Shannon distance.
//!
//! **Question**: how well could somebody tell, from the bin of one row, which side it came from?
//!
//! **Formula**: `JSD = 1/2 sum p log2(p / a) + 1/2 sum q log2(q / a)`, a = (p + q)/2; the statistic is
//! the distance `sqrt(JSD)`, from 0 to 1 (disjoint). Source: J. Lin 1991; D. Endres and J. Schindelin
//! 2003 (the root is a metric); `scipy.spatial.distance.jensenshannon(p, q, 2)`. Bins empty on both
//! sides add nothing.
//!
//! **Law and effect**: without drift `8 ln 2 JSD / (1/n + 1/m)` is about chi-square with B - 1 degrees of
//! freedom. p is computed so after pooling bins that expect under 5 rows, as the chi-square test does
//! (Fisher's exact test where two bins are left and one expects under 5).
//! The effect is the root of JSD less its expectation `(B - 1)(1/n + 1/m) / (8 ln 2)`, at least 0.
//!
//! **Small samples**: with one row in the window the plain distance is large without any drift (0.7 on
//! four even bins); the effect is not. **Assumes** independent rows. **Not for** telling a shift from a
//! spread: order of bins plays no part.

use std::f64::consts::LN_2;

use super::chi2::{pooled, tail};
use super::law::deviance::deviance;
use super::{Answer, Outcome, occupied, totals};

/// The distance on counts of the same bins.
///
/// # Errors
/// [`super::Reason::DifferentBins`], [`super::Reason::NoReference`],
/// [`super::Reason::TooFewRows`].
pub fn counts(reference: &[u64], window: &[u64]) -> Answer {
    let (n, m) = totals(reference, window)?;
    let bins = occupied(reference, window);
    let value = divergence(&bins, n, m);
    let noise = (1.0 / n + 1.0 / m) / (8.0 * LN_2);
    let table = pooled(&bins, n, m);
    let p = tail(&table, divergence(&table, n, m) / noise, n, m);
    let effect = (value - (bins.len() as f64 - 1.0) * noise).max(0.0).sqrt();
    Ok(Outcome {
        statistic: value.sqrt(),
        p_value: Some(p),
        expected: None,
        effect,
        error_bound: None,
    })
}

/// In bits. The deviances' linear terms cancel over the two sides, and only small terms are added.
fn divergence(bins: &[(f64, f64)], n: f64, m: f64) -> f64 {
    let terms = bins.iter().map(|&(a, b)| {
        let (p, q) = (a / n, b / m);
        let middle = (p + q) / 2.0;
        deviance(p, middle) + deviance(q, middle)
    });
    (terms.sum::<f64>() / (2.0 * LN_2)).clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::super::Reason;
    use super::*;

    #[test]
    fn edges_have_written_answers() {
        assert_eq!(counts(&[0], &[1]), Err(Reason::NoReference));
        assert_eq!(counts(&[1], &[0]), Err(Reason::TooFewRows));
        assert_eq!(counts(&[1], &[]), Err(Reason::DifferentBins));
        let constant = counts(&[500, 0], &[300, 0]).unwrap();
        assert_eq!(
            (constant.statistic, constant.p_value, constant.effect),
            (0.0, Some(1.0), 0.0)
        );
    }

    #[test]
    fn disjoint_is_one() {
        let outcome = counts(&[500, 0, 0], &[0, 100, 200]).unwrap();
        assert!((outcome.statistic - 1.0).abs() < 1e-12 && outcome.p_value.unwrap() < 1e-20);
        assert!(outcome.effect > 0.99);
    }

    #[test]
    fn one_row_is_far_but_without_effect_beyond_noise() {
        let outcome = counts(&[250; 4], &[1, 0, 0, 0]).unwrap();
        assert!(outcome.statistic > 0.6 && outcome.effect < 0.3 && outcome.p_value.unwrap() > 0.1);
    }

    #[test]
    fn huge_counts_stay_finite() {
        assert!(
            counts(&[u64::MAX, 1], &[1, u64::MAX])
                .unwrap()
                .statistic
                .is_finite()
        );
    }
}
