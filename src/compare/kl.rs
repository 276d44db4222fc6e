//! Kullback-Leibler divergence of the window from the reference.
//!
//! **Question**: how many nats does a code made for the window waste on rows of the reference?
//!
//! **Formula**: `KL = sum p ln(p / q)`, p the reference's shares and q the window's, natural
//! logarithm, nothing smoothed: `scipy.stats.entropy(p, q)`. Source: S. Kullback and R. Leibler 1951.
//! A bin that the reference has rows in and the window has none makes it infinite, which is
//! [`Reason::NotFinite`]; a level that only the window holds adds nothing. Who needs a number on
//! every window wants `psi` (smoothed, symmetric) or `js` (bounded).
//!
//! **Expectation and effect**: over those random deals of the pooled rows that leave KL finite, bin by
//! bin (`table`); about `(B - 1)(1/n + 1/m) / 2` for dense bins. Bins are treated as independent
//! given that, so that with many bins that expect few rows it is somewhat too large. The effect is
//! KL less its expectation, at least 0.
//!
//! **p-value**: for dense bins `2 KL / (1/n + 1/m)` is chi-square with B - 1 degrees of freedom. p is
//! that of the gamma law with the mean and variance that KL has over those deals (`table`).
//!
//! **Small samples**: a window with fewer rows than the reference has levels has no answer. **Assumes**
//! independent rows. **Not for** categories with rare levels.

use super::law::deviance::deviance;
use super::table::{Moments, Table};
use super::{Answer, Outcome, Reason};

/// The divergence on counts of the same bins.
#[cfg(test)]
pub(super) fn counts(reference: &[u64], window: &[u64]) -> Answer {
    of(&Table::new(reference, window)?)
}

/// The divergence of a table.
pub(super) fn of(table: &Table) -> Answer {
    if table.bins.iter().any(|bin| bin.b <= 0.0 && bin.a > 0.0) {
        return Err(Reason::NotFinite);
    }
    let (statistic, chance) = divergence(table);
    Ok(Outcome {
        statistic,
        p_value: Some(table.matched((statistic, chance), divergence)),
        expected: Some(chance.mean),
        effect: (statistic - chance.mean).max(0.0),
        error_bound: None,
    })
}

/// Chance is that of the deals in which the window gets a row of every bin.
fn divergence(table: &Table) -> (f64, Moments) {
    let term = term(table);
    let chance = table.moments_given(&term, |b| b > 0.0, 0.5);
    (table.sum(&term).max(0.0), chance)
}

/// What one bin adds, with the linear terms that cancel over all bins.
fn term(table: &Table) -> impl Fn(f64, f64) -> f64 + use<> {
    let (n, m) = (table.n, table.m);
    move |a, b| deviance(a / n, b / m)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::table::written_edges;

    #[test]
    fn edges_have_written_answers() {
        written_edges(counts);
        assert_eq!(counts(&[5, 5], &[10, 0]), Err(Reason::NotFinite));
        assert_eq!(counts(&[9, 0], &[0, 9]), Err(Reason::NotFinite));
    }

    #[test]
    fn by_hand() {
        let outcome = counts(&[90, 10], &[50, 50]).unwrap();
        let want = 0.9 * 1.8_f64.ln() + 0.1 * 0.2_f64.ln();
        assert!((outcome.statistic - want).abs() < 1e-14);
        assert!(outcome.p_value.unwrap() < 1e-6);
    }

    #[test]
    fn a_level_of_the_window_alone_is_finite() {
        let outcome = counts(&[100, 0], &[50, 50]).unwrap();
        assert!((outcome.statistic - std::f64::consts::LN_2).abs() < 1e-14);
    }

    #[test]
    fn one_row_and_huge_counts() {
        assert!(counts(&[5], &[1]).unwrap().statistic.abs() < 1e-300);
        let huge = counts(&[u64::MAX, 1], &[1, u64::MAX]).unwrap();
        assert!(huge.statistic > 40.0 && huge.statistic.is_finite());
    }
}
