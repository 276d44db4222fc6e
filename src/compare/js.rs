//! Jensen-Shannon distance.
//!
//! **Question**: how well could somebody tell, from the bin of one row, which side it came from?
//!
//! **Formula**: `JSD = 1/2 sum p log2(p / a) + 1/2 sum q log2(q / a)`, a = (p + q)/2; the statistic is
//! the distance `sqrt(JSD)`, from 0 to 1 (disjoint). Source: J. Lin 1991; D. Endres and J. Schindelin
//! 2003 (the root is a metric); `scipy.spatial.distance.jensenshannon(p, q, 2)`. Bins empty on both
//! sides add nothing.
//!
//! **Expectation and effect**: chance alone gives JSD its expectation over random deals of the pooled
//! rows (`table`), about `(B - 1)(1/n + 1/m) / (8 ln 2)` for dense bins. The effect is the root of
//! JSD less that, at least 0; `expected` is its root, less what a root of something that varies
//! loses (`table::expected_root`).
//!
//! **p-value**: for dense bins `8 ln 2 JSD / (1/n + 1/m)` is chi-square with B - 1 degrees of freedom.
//! p is that of the gamma law with the mean and variance that JSD has over random deals (`table`),
//! which is the same for dense bins and holds for sparse ones, where chi-square finds far too much.
//!
//! **Small samples**: with one row in the window the plain distance is large without any drift (0.7 on
//! four even bins); the effect is not. **Assumes** independent rows. **Not for** telling a shift from a
//! spread: order of bins plays no part.

use std::f64::consts::LN_2;

use super::Answer;
use super::law::deviance::deviance;
use super::table::{Moments, Table};

/// `JSD = LEADING sum (p - q)^2 / s + ...` around equal shares s.
const LEADING: f64 = 1.0 / (8.0 * LN_2);

/// The distance on counts of the same bins.
#[cfg(test)]
pub(super) fn counts(reference: &[u64], window: &[u64]) -> Answer {
    of(&Table::new(reference, window)?)
}

/// The distance of a table.
pub(super) fn of(table: &Table) -> Answer {
    Ok(table.root(divergence, LEADING))
}

/// In bits.
fn divergence(table: &Table) -> (f64, Moments) {
    let term = term(table);
    (
        table.sum(&term).clamp(0.0, 1.0),
        table.moments(&term, LEADING),
    )
}

/// What one bin adds. The deviances' linear terms cancel over the two sides, and only small terms
/// are added.
fn term(table: &Table) -> impl Fn(f64, f64) -> f64 + use<> {
    let (n, m) = (table.n, table.m);
    move |a, b| {
        let (p, q) = (a / n, b / m);
        let middle = f64::midpoint(p, q);
        (deviance(p, middle) + deviance(q, middle)) / (2.0 * LN_2)
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
