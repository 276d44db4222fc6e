//! Chi-square test of homogeneity.
//!
//! **Question**: do the window's rows fall into the bins (levels, or bins of a grid) in the same
//! shares as the reference's?
//!
//! **Formula**: `X2 = sum (observed - expected)^2 / expected` over the 2 x K table, expected = row
//! total x column total / total, against chi-square with K - 1 degrees of freedom. No Yates
//! correction. Source: K. Pearson 1900; `scipy.stats.chi2_contingency(correction=False)`.
//!
//! **Effect**: Cramér's V of the two columns of shares at equal weight,
//! `V^2 = 1/2 sum (p - q)^2 / (p + q)`, less its expectation without drift
//! `(K - 1)(1/n + 1/m) / 4`, at least 0. From 0 (same shares) to 1 (disjoint). V of the table as it
//! stands would shrink as the reference grows beside the window: the same change in a window of 900
//! rows would be V = 0.3 against 900 rows of reference and 0.06 against 80,000.
//!
//! **Small samples**: bins empty on both sides are dropped. Bins whose expected count on the smaller
//! side is under 5 are pooled, smallest first, until the pool reaches 5 (`pooled`); if two bins are
//! left and one is still under 5, p is Fisher's exact one. The statistic is that of the pooled
//! table, the effect that of all bins. One bin on both sides: statistic 0, p 1.
//!
//! **Assumes** independent rows. **Not for** numeric columns where the order of bins matters (use
//! Kolmogorov-Smirnov), nor on millions of rows without a look at the effect: every change is
//! significant there.

use super::law::{chi2, fisher};
use super::{Answer, Outcome, occupied, totals};

/// Expected counts under this are pooled.
const SMALL: f64 = 5.0;

/// The test on counts of the same bins.
///
/// # Errors
/// [`super::Reason::DifferentBins`], [`super::Reason::NoReference`],
/// [`super::Reason::TooFewRows`].
pub fn homogeneity(reference: &[u64], window: &[u64]) -> Answer {
    let (n, m) = totals(reference, window)?;
    let bins = occupied(reference, window);
    let table = pooled(&bins, n, m);
    let statistic = pearson(&table, n, m);
    let p = tail(&table, statistic, n, m);
    let effect = balanced_v(&bins, n, m);
    Ok(Outcome {
        statistic,
        p_value: Some(p),
        expected: None,
        effect,
        error_bound: None,
    })
}

/// Upper tail of a statistic of the pooled table that follows chi-square when all counts are large:
/// Fisher's exact test where two bins are left and one expects too few.
pub(super) fn tail(table: &[(f64, f64)], statistic: f64, n: f64, m: f64) -> f64 {
    match table {
        [first, second] if expected(*first, n, m).min(expected(*second, n, m)) < SMALL => {
            exact(*first, *second)
        }
        _ => chi2::sf(statistic, table.len() as f64 - 1.0),
    }
}

/// Expected count of a bin on the smaller side.
fn expected(bin: (f64, f64), n: f64, m: f64) -> f64 {
    (bin.0 + bin.1) * n.min(m) / (n + m)
}

/// The table with its small bins in one: in order of their totals, bins join the pool while they
/// or the pool itself expect under 5 rows on the smaller side and more than one other bin is left.
pub(super) fn pooled(bins: &[(f64, f64)], n: f64, m: f64) -> Vec<(f64, f64)> {
    let mut table = bins.to_vec();
    table.sort_by(|a, b| (a.0 + a.1).total_cmp(&(b.0 + b.1)));
    let (mut pool, mut joined) = ((0.0, 0.0), 0);
    while table.len() - joined > 1
        && (expected(table[joined], n, m) < SMALL || (joined > 0 && expected(pool, n, m) < SMALL))
    {
        pool = (pool.0 + table[joined].0, pool.1 + table[joined].1);
        joined += 1;
    }
    if joined > 0 {
        table.splice(..joined, [pool]);
    }
    table
}

/// In shares rather than counts: `n m / (n + m) * sum (p - q)^2 / pooled share`.
fn pearson(table: &[(f64, f64)], n: f64, m: f64) -> f64 {
    let terms = table.iter().map(|&(a, b)| {
        let difference = a / n - b / m;
        difference * difference / (a + b)
    });
    terms.sum::<f64>() * n * m
}

fn balanced_v(bins: &[(f64, f64)], n: f64, m: f64) -> f64 {
    let terms = bins.iter().map(|&(a, b)| {
        let (p, q) = (a / n, b / m);
        (p - q) * (p - q) / (p + q)
    });
    let bias = (bins.len() as f64 - 1.0) * (1.0 / n + 1.0 / m) / 4.0;
    (terms.sum::<f64>() / 2.0 - bias).clamp(0.0, 1.0).sqrt()
}

fn exact(first: (f64, f64), second: (f64, f64)) -> f64 {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "sums of counts"
    )]
    let count = |value: f64| value as u64;
    let (a, b) = (count(first.0), count(first.1));
    fisher::two_sided(a, a + count(second.0), b, b + count(second.1))
}

#[cfg(test)]
mod tests {
    use super::super::Reason;
    use super::*;

    #[test]
    fn edges_have_written_answers() {
        assert_eq!(homogeneity(&[], &[]), Err(Reason::NoReference));
        assert_eq!(homogeneity(&[0, 0], &[3, 0]), Err(Reason::NoReference));
        assert_eq!(homogeneity(&[3, 0], &[0, 0]), Err(Reason::TooFewRows));
        assert_eq!(homogeneity(&[3], &[3, 0]), Err(Reason::DifferentBins));
        let constant = homogeneity(&[500, 0], &[300, 0]).unwrap();
        assert_eq!(
            (constant.statistic, constant.p_value, constant.effect),
            (0.0, Some(1.0), 0.0)
        );
    }

    #[test]
    fn one_row_is_no_evidence() {
        let outcome = homogeneity(&[500, 300, 200], &[0, 1, 0]).unwrap();
        assert!(outcome.p_value.unwrap() > 0.3 && outcome.effect < 0.5);
    }

    #[test]
    fn disjoint_sides_have_effect_near_one_whatever_their_sizes() {
        for rows in [100, 10_000, 1_000_000] {
            let outcome = homogeneity(&[rows, 0], &[0, 100]).unwrap();
            assert!(outcome.effect > 0.99 && outcome.p_value.unwrap() < 1e-20);
        }
    }

    #[test]
    fn small_bins_are_pooled_smallest_first() {
        let bins = [
            (100.0, 100.0),
            (1.0, 0.0),
            (2.0, 3.0),
            (30.0, 25.0),
            (4.0, 4.0),
        ];
        let (n, m) = (137.0, 132.0);
        assert_eq!(
            pooled(&bins, n, m),
            vec![(7.0, 7.0), (30.0, 25.0), (100.0, 100.0)]
        );
        assert_eq!(pooled(&bins[..1], 100.0, 100.0), vec![(100.0, 100.0)]);
    }

    #[test]
    fn huge_counts_stay_finite() {
        let outcome = homogeneity(&[u64::MAX, 1], &[1, u64::MAX]).unwrap();
        assert!(outcome.statistic.is_finite() && outcome.p_value == Some(0.0));
    }
}
