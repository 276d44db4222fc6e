//! Chi-square test of homogeneity.
//!
//! **Question**: do the window's rows fall into the bins (levels, or bins of a grid) in the same
//! shares as the reference's?
//!
//! **Formula**: `X2 = sum (observed - expected)^2 / expected` over the 2 x K table of the bins that at
//! least one side has rows in, expected = row total x column total / total. Source: K. Pearson 1900;
//! the number of `scipy.stats.chi2_contingency(correction=False)`, or with Yates' correction
//! (`chi2_yates`, which takes 1/2 off each difference of a 2 x 2 table; F. Yates 1934) that of
//! `correction=True`. The correction changes nothing where there are more than two bins.
//!
//! **p-value**: chi-square with K - 1 degrees of freedom, which is scipy's p, where that law holds:
//! where every cell expects 5 rows or more, or else where mean and variance of X2 over random deals
//! of the pooled rows are nearly chi-square's own (`table`). Where they are not, the gamma law with
//! that mean and variance, with the small bins regrouped first if there are fewer than 20 bins. Two
//! bins of which one expects fewer than 5: Fisher's exact p. Yates' p is scipy's throughout.
//!
//! **Expectation**: `(K - 1) N / (N - 1)` over random deals of the pooled rows, exact for every table.
//! None is given for Yates' statistic.
//!
//! **Effect**: Cramér's V of the two sides at equal weight, without its bias: head of `cramers_v`.
//!
//! **Small samples**: one row is an answer, with p from Fisher's test. One bin on both sides:
//! statistic 0, p 1.
//!
//! **Assumes** independent rows. **Not for** numeric columns where the order of bins matters (use
//! Kolmogorov-Smirnov), nor on millions of rows without a look at the effect: every change is
//! significant there.

use super::cramers_v::balanced;
use super::law::chi2;
use super::table::{Moments, Table};
use super::{Answer, Outcome};

/// The test on counts of the same bins.
///
/// # Errors
/// [`super::Reason::DifferentBins`], [`super::Reason::NoReference`],
/// [`super::Reason::TooFewRows`].
pub fn homogeneity(reference: &[u64], window: &[u64]) -> Answer {
    of(&Table::new(reference, window)?)
}

/// The same of a table.
pub(super) fn of(table: &Table) -> Answer {
    Ok(Outcome {
        statistic: pearson(table),
        p_value: Some(table.p_value(with_chance)),
        expected: Some(expected(table)),
        effect: balanced(table),
        error_bound: None,
    })
}

/// The test with Yates' correction, which matters where two bins hold rows.
#[cfg(test)]
pub(super) fn yates(reference: &[u64], window: &[u64]) -> Answer {
    of_two(&Table::new(reference, window)?)
}

/// The test with the correction, of a table.
pub(super) fn of_two(table: &Table) -> Answer {
    if table.pair().is_none() {
        return of(table);
    }
    Ok(Outcome {
        statistic: corrected(table),
        p_value: Some(chi2::sf(corrected(table), 1.0)),
        expected: None,
        effect: balanced(table),
        error_bound: None,
    })
}

/// In shares rather than counts: `n m sum (p - q)^2 / bin total`.
pub(super) fn pearson(table: &Table) -> f64 {
    let (n, m) = (table.n, table.m);
    let sum = table.sum(|a, b| {
        let difference = a / n - b / m;
        difference * difference / (a + b)
    });
    sum * n * m
}

/// [`pearson`] with its moments without drift.
pub(super) fn with_chance(table: &Table) -> (f64, Moments) {
    let (n, m) = (table.n, table.m);
    let term = move |a: f64, b: f64| {
        let difference = a / n - b / m;
        n * m * difference * difference / (a + b)
    };
    let moments = table.moments(term, 1.0 / table.noise());
    (pearson(table), moments)
}

/// Of [`pearson`] without drift.
pub(super) fn expected(table: &Table) -> f64 {
    let rows = table.n + table.m;
    (table.size() - 1.0) * rows / (rows - 1.0).max(1.0)
}

/// All four cells of a 2 x 2 table are equally far from what they expect: `|p - q| n m / (n + m)`.
fn corrected(table: &Table) -> f64 {
    let (n, m, rows) = (table.n, table.m, table.n + table.m);
    table.sum(|a, b| {
        let distance = (a / n - b / m).abs() * n * (m / rows);
        let left = distance - distance.min(0.5);
        left * left * rows * (1.0 / n + 1.0 / m) / (a + b)
    })
}

#[cfg(test)]
mod tests {
    use super::super::Reason;
    use super::*;

    #[test]
    fn edges_have_written_answers() {
        for test in [homogeneity, yates] {
            assert_eq!(test(&[], &[]), Err(Reason::NoReference));
            assert_eq!(test(&[0, 0], &[3, 0]), Err(Reason::NoReference));
            assert_eq!(test(&[3, 0], &[0, 0]), Err(Reason::TooFewRows));
            assert_eq!(test(&[3], &[3, 0]), Err(Reason::DifferentBins));
            let constant = test(&[500, 0], &[300, 0]).unwrap();
            assert_eq!(
                (constant.statistic, constant.p_value, constant.effect),
                (0.0, Some(1.0), 0.0)
            );
        }
    }

    #[test]
    fn one_row_is_no_evidence() {
        let outcome = homogeneity(&[500, 300, 200], &[0, 1, 0]).unwrap();
        assert!(outcome.p_value.unwrap() > 0.3 && outcome.effect < 0.5);
        let outcome = homogeneity(&[1], &[1]).unwrap();
        assert!(outcome.p_value == Some(1.0) && outcome.expected == Some(0.0));
    }

    #[test]
    fn disjoint_sides_have_effect_near_one_whatever_their_sizes() {
        for rows in [100, 10_000, 1_000_000] {
            let outcome = homogeneity(&[rows, 0], &[0, 100]).unwrap();
            assert!(outcome.effect > 0.99 && outcome.p_value.unwrap() < 1e-20);
        }
    }

    #[test]
    fn levels_of_one_row_say_nothing() {
        // 100 levels with one row each: X2 is N - 1 at most, and they say nothing.
        let mut reference = vec![1_u64; 50];
        let mut window = vec![0_u64; 50];
        reference.extend([0; 50]);
        window.extend([1; 50]);
        let outcome = homogeneity(&reference, &window).unwrap();
        assert!((outcome.statistic - 100.0).abs() < 1e-9 && outcome.p_value.unwrap() > 0.4);
        assert!((outcome.expected.unwrap() - 100.0).abs() < 1e-9 && outcome.effect < 1e-6);
    }

    #[test]
    fn yates_takes_half_a_row_off() {
        // Expected 25.5: 30 and 21, 4.5 off, 4 with the correction.
        let (plain, corrected) = (
            homogeneity(&[30, 20], &[21, 29]).unwrap().statistic,
            yates(&[30, 20], &[21, 29]).unwrap().statistic,
        );
        assert!((corrected / plain - (4.0_f64 / 4.5).powi(2)).abs() < 1e-12);
        let three = [[30, 20, 9], [21, 29, 7]];
        assert_eq!(
            yates(&three[0], &three[1]),
            homogeneity(&three[0], &three[1])
        );
    }

    #[test]
    fn huge_counts_stay_finite() {
        let outcome = homogeneity(&[u64::MAX, 1], &[1, u64::MAX]).unwrap();
        assert!(outcome.statistic.is_finite() && outcome.p_value == Some(0.0));
    }
}
