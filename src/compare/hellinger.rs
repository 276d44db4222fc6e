//! Hellinger distance.
//!
//! **Question**: how little do the two sides' shares overlap?
//!
//! **Formula**: `H^2 = 1 - sum sqrt(p q) = 1/2 sum (sqrt p - sqrt q)^2`; the statistic is H, from 0 to
//! 1 (disjoint). Computed in the second form, which does not cancel. Source: E. Hellinger 1909.
//! Related to total variation by `H^2 <= TV <= H sqrt(2)`.
//!
//! **Expectation and effect**: chance alone gives H^2 its expectation over random deals of the pooled
//! rows (`table`), about `(B - 1)(1/n + 1/m) / 8` for dense bins. The effect is the root of H^2 less
//! that, at least 0; `expected` is its root, less what a root of something that varies loses.
//!
//! **p-value**: for dense bins `8 H^2 / (1/n + 1/m)` is chi-square with B - 1 degrees of freedom. p
//! is that of the gamma law with the mean and variance that H^2 has over random deals (`table`), which
//! is the same for dense bins and holds for sparse ones.
//!
//! **Small samples**: as `js`. **Assumes** independent rows. **Not for** rare levels that matter: the
//! root gives a level that appears from nothing much weight, by chance as well as by drift.

use super::Answer;
use super::table::{Moments, Table};

/// `H^2 = LEADING sum (p - q)^2 / s + ...` around equal shares s.
const LEADING: f64 = 0.125;

/// The distance on counts of the same bins.
#[cfg(test)]
pub(super) fn counts(reference: &[u64], window: &[u64]) -> Answer {
    of(&Table::new(reference, window)?)
}

/// The distance of a table.
pub(super) fn of(table: &Table) -> Answer {
    Ok(table.root(square, LEADING))
}

fn square(table: &Table) -> (f64, Moments) {
    let term = term(table);
    (
        table.sum(&term).clamp(0.0, 1.0),
        table.moments(&term, LEADING),
    )
}

/// What one bin adds.
fn term(table: &Table) -> impl Fn(f64, f64) -> f64 + use<> {
    let (n, m) = (table.n, table.m);
    move |a, b| {
        let difference = (a / n).sqrt() - (b / m).sqrt();
        0.5 * difference * difference
    }
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
    fn by_hand() {
        // 1 - sqrt(0.9 0.5) - sqrt(0.1 0.5)
        let outcome = counts(&[90, 10], &[50, 50]).unwrap();
        let want = (1.0 - 0.45_f64.sqrt() - 0.05_f64.sqrt()).sqrt();
        assert!((outcome.statistic - want).abs() < 1e-14);
    }

    #[test]
    fn disjoint_is_one() {
        let outcome = counts(&[500, 0, 0], &[0, 100, 200]).unwrap();
        assert!((outcome.statistic - 1.0).abs() < 1e-12 && outcome.effect > 0.99);
        assert!(outcome.p_value.unwrap() < 1e-20);
    }

    #[test]
    fn one_row_and_huge_counts() {
        let one = counts(&[250; 4], &[1, 0, 0, 0]).unwrap();
        assert!(one.statistic > 0.6 && one.effect < 0.3 && one.p_value.unwrap() > 0.1);
        let huge = counts(&[u64::MAX, 1], &[1, u64::MAX]).unwrap();
        assert!(huge.statistic.is_finite());
    }
}
