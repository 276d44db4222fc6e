//! Population stability index.
//!
//! **Question**: the one of the chi-square test, on the scale that credit risk made customary
//! (0.1 "some shift", 0.2 or 0.25 "major shift").
//!
//! **Formula**: `PSI = sum (q - p) ln(q / p)` with `share = (count + 1/2) / (rows + B/2)` over the B
//! bins that at least one side has rows in: the symmetrised Kullback-Leibler divergence of smoothed
//! shares. The 1/2 (Jeffreys) keeps it finite where a bin is empty on one side.
//!
//! **Expectation and effect**: `expected` is the sum over bins of what chance gives when the pooled
//! rows are dealt out at random (`table`). For dense bins that is `(B - 1)(1/n + 1/m)`, which the
//! customary limits forget: with 256 bins and 900 rows PSI is about 0.25 without any drift. The
//! effect is PSI less its expectation, at least 0.
//!
//! **p-value**: without drift `PSI / (1/n + 1/m)` follows chi-square with B - 1 degrees of freedom
//! for dense bins (B. Yurdakul and J. Naranjo 2020). p is that of the gamma law with the mean and
//! variance that PSI has over random deals (`table`), which is the same for dense bins and holds for
//! sparse ones.
//!
//! **Small samples**: one row gives an answer, with an effect near 0. **Assumes** independent rows.
//! **Not for** comparing features with different numbers of bins by the plain statistic.

use super::table::{Moments, Table};
use super::{Answer, Outcome};

/// The index on counts of the same bins.
///
/// # Errors
/// [`super::Reason::DifferentBins`], [`super::Reason::NoReference`],
/// [`super::Reason::TooFewRows`].
pub fn counts(reference: &[u64], window: &[u64]) -> Answer {
    of(&Table::new(reference, window)?)
}

/// The same of a table.
pub(super) fn of(table: &Table) -> Answer {
    let (statistic, chance) = index(table);
    let expected = chance.mean;
    Ok(Outcome {
        statistic,
        p_value: Some(table.matched((statistic, chance), index)),
        expected: Some(expected),
        effect: (statistic - expected).max(0.0),
        error_bound: None,
    })
}

fn index(table: &Table) -> (f64, Moments) {
    let term = term(table);
    (table.sum(&term).max(0.0), table.moments(&term, 1.0))
}

/// What one bin adds.
fn term(table: &Table) -> impl Fn(f64, f64) -> f64 + use<> {
    let half = 0.5 * table.size();
    let (n, m) = (table.n + half, table.m + half);
    move |a, b| {
        let (p, q) = ((a + 0.5) / n, (b + 0.5) / m);
        (q - p) * (q / p).ln()
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
        // B = 2: shares 30.5/101 and 70.5/101 against 50.5/101 twice.
        let outcome = counts(&[30, 70], &[50, 50]).unwrap();
        let side = |p: f64, q: f64| (q - p) * (q / p).ln();
        let expected = side(30.5 / 101.0, 0.5) + side(70.5 / 101.0, 0.5);
        assert!((outcome.statistic - expected).abs() < 1e-15);
        assert!((outcome.expected.unwrap() - 0.02).abs() < 5e-4);
    }

    #[test]
    fn disjoint_and_single_rows_stay_finite() {
        let disjoint = counts(&[500, 0], &[0, 300]).unwrap();
        assert!(disjoint.effect > 5.0 && disjoint.effect.is_finite());
        let one = counts(&[500, 300], &[1, 0]).unwrap();
        assert!(one.p_value.unwrap() > 0.1 && one.effect < 0.1, "{one:?}");
        assert!(
            counts(&[u64::MAX, 0], &[0, u64::MAX])
                .unwrap()
                .statistic
                .is_finite()
        );
    }
}
