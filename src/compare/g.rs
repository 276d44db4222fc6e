//! Likelihood-ratio (G) test of homogeneity.
//!
//! **Question**: the one of the chi-square test, by the ratio of likelihoods.
//!
//! **Formula**: `G = 2 sum observed ln(observed / expected)` over the 2 x K table of the bins that at
//! least one side has rows in, no Yates correction. Source: S. Wilks 1938;
//! `scipy.stats.chi2_contingency(lambda_="log-likelihood", correction=False)`. Each cell adds its
//! deviance `o ln(o/e) + e - o`, whose linear terms cancel over the table.
//!
//! **p-value**: as that of the chi-square test ([`super::chi2`]): scipy's where its law holds, else
//! by the gamma law with G's own mean and variance over random deals (`table`).
//!
//! **Expectation**: of G over random deals of the pooled rows (`table`). **Effect**: balanced V without
//! bias (`cramers_v`).
//!
//! **Small samples**: where all cells expect at least 5 rows, but many of them little more, scipy's p
//! is too small: with 1,000 levels of 10 rows each it is under 0.05 in 15 windows of 100 without
//! drift. `chi2` and `js` keep their level there. **Assumes** independent rows. **Not for**
//! anything that `chi2` is not for.

use super::cramers_v::balanced;
use super::law::deviance::deviance;
use super::table::{Moments, Table};
use super::{Answer, Outcome};

/// The test on counts of the same bins.
#[cfg(test)]
pub(super) fn homogeneity(reference: &[u64], window: &[u64]) -> Answer {
    of(&Table::new(reference, window)?)
}

/// The test of a table.
pub(super) fn of(table: &Table) -> Answer {
    let (statistic, chance) = with_chance(table);
    Ok(Outcome {
        statistic,
        p_value: Some(table.p_value(with_chance)),
        expected: Some(chance.mean),
        effect: balanced(table),
        error_bound: None,
    })
}

fn with_chance(table: &Table) -> (f64, Moments) {
    let term = term(table);
    // Around equal shares G is X2, which is `sum (p - q)^2 / s` over `1/n + 1/m`.
    let chance = table.moments(&term, 1.0 / table.noise());
    (table.sum(&term).max(0.0), chance)
}

/// What the two cells of one bin add.
fn term(table: &Table) -> impl Fn(f64, f64) -> f64 + use<> {
    let rows = table.n + table.m;
    let (p, q) = (table.n / rows, table.m / rows);
    move |a, b| 2.0 * (deviance(a, (a + b) * p) + deviance(b, (a + b) * q))
}

#[cfg(test)]
mod tests {
    use super::super::Reason;
    use super::*;

    #[test]
    fn edges_have_written_answers() {
        assert_eq!(homogeneity(&[0], &[1]), Err(Reason::NoReference));
        assert_eq!(homogeneity(&[1], &[0]), Err(Reason::TooFewRows));
        assert_eq!(homogeneity(&[1], &[]), Err(Reason::DifferentBins));
        let constant = homogeneity(&[500, 0], &[300, 0]).unwrap();
        assert_eq!(
            (constant.statistic, constant.p_value, constant.effect),
            (0.0, Some(1.0), 0.0)
        );
    }

    #[test]
    fn disjoint_sides_by_hand() {
        // Every cell expects half: G = 2 N ln 2.
        let outcome = homogeneity(&[300, 0], &[0, 300]).unwrap();
        let want = 1200.0 * std::f64::consts::LN_2;
        assert!((outcome.statistic / want - 1.0).abs() < 1e-13);
        assert!(outcome.p_value.unwrap() < 1e-100 && outcome.effect > 0.99);
    }

    #[test]
    fn one_row_and_huge() {
        let one = homogeneity(&[250; 4], &[1, 0, 0, 0]).unwrap();
        assert!(one.p_value.unwrap() > 0.1 && one.effect < 0.3);
        let huge = homogeneity(&[u64::MAX, 1], &[1, u64::MAX]).unwrap();
        assert!(huge.statistic.is_finite() && huge.p_value == Some(0.0));
    }
}
