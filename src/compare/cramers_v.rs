//! Cramér's V.
//!
//! **Question**: how strongly is a row's bin associated with the side that it came from?
//!
//! **Formula**: `V = sqrt(X2 / N)` for a table of two sides, from 0 (same shares) to 1 (disjoint); the
//! number of `scipy.stats.contingency.association(method="cramer")` with empty bins left out. Source:
//! H. Cramér 1946. p is that of the chi-square test ([`super::chi2`]).
//!
//! **Expectation**: that of X2, `(K - 1) N / (N - 1)`, under the root, less what a root of something
//! that varies loses.
//!
//! **Effect**: V as it stands shrinks as the reference grows beside the window: the same change in a
//! window of 900 rows would be V = 0.3 against 900 rows of reference and 0.06 against 80,000. The
//! effect is therefore V of the two columns of shares at equal weight,
//! `V^2 = 1/2 sum (p - q)^2 / (p + q)`, less its expectation over random deals of the pooled rows
//! (`table`; about `(K - 1)(1/n + 1/m) / 4` for dense bins), at least 0, under the root.
//!
//! **Edges**: one bin on both sides: statistic 0, p 1 (scipy divides 0 by 0). **Assumes** independent
//! rows. **Not for** comparing features by the plain V, which depends on the sizes of both sides.

use super::chi2::{expected, pearson, with_chance};
use super::table::{Table, expected_root};
use super::{Answer, Outcome};

/// The association of counts of the same bins.
#[cfg(test)]
pub(super) fn counts(reference: &[u64], window: &[u64]) -> Answer {
    of(&Table::new(reference, window)?)
}

/// The association of a table.
pub(super) fn of(table: &Table) -> Answer {
    let rows = table.n + table.m;
    Ok(Outcome {
        statistic: (pearson(table) / rows).min(1.0).sqrt(),
        p_value: Some(table.p_value(with_chance)),
        expected: Some(expected_root(expected(table) / rows, 1.0 / rows).min(1.0)),
        effect: balanced(table),
        error_bound: None,
    })
}

/// V of both sides at equal weight, without its bias: the effect of all tests of this family.
pub(super) fn balanced(table: &Table) -> f64 {
    let (n, m) = (table.n, table.m);
    let term = |a: f64, b: f64| {
        let (p, q) = (a / n, b / m);
        0.5 * (p - q) * (p - q) / (p + q)
    };
    let square = table.sum(term) - table.moments(term, 0.25).mean;
    square.clamp(0.0, 1.0).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::table::written_edges;

    #[test]
    fn edges_have_written_answers() {
        written_edges(counts);
    }

    #[test]
    fn the_effect_does_not_depend_on_the_size_of_the_reference() {
        let effect = |rows: u64| {
            let outcome = counts(&[rows, rows], &[4_500, 5_500]).unwrap();
            (outcome.statistic, outcome.effect)
        };
        let ((near, small), (far, large)) = (effect(5_000), effect(5_000_000));
        assert!((small - large).abs() < 0.001 && (small - 0.05).abs() < 0.002);
        assert!(near > 10.0 * far);
    }

    #[test]
    fn disjoint_one_row_and_huge() {
        let disjoint = counts(&[500, 0], &[0, 300]).unwrap();
        assert!((disjoint.statistic - 1.0).abs() < 1e-12 && disjoint.effect > 0.99);
        let one = counts(&[250; 4], &[1, 0, 0, 0]).unwrap();
        assert!(one.statistic < 0.1 && one.effect < 0.3);
        let huge = counts(&[u64::MAX, 1], &[1, u64::MAX]).unwrap();
        assert!((huge.statistic - 1.0).abs() < 1e-12 && huge.effect.is_finite());
    }
}
