//! Unseen levels.
//!
//! **Question**: does the window hold more rows of levels that the reference never held than chance
//! gives? With many levels chance gives quite some: a reference of 10,000 rows of 1,000 zipf levels
//! leaves one or two of a hundred rows of any fresh window unseen, so that Fisher's test of 0 rows
//! of n against k of m finds drift in every window.
//!
//! **Law**: let the pooled rows be dealt out at random, t of them of a level. All t fall into the window,
//! and the level is unseen, with probability `q = C(N - t, n) / C(N, n) = m/N (m-1)/(N-1) ...`, t
//! factors. The unseen rows `U = sum t [level is unseen]` have expectation `sum t q`, exactly. Levels
//! are nearly independent: the variance is `sum t^2 q (1 - q)` less `n / (m N)` times
//! `(sum t^2 q)^2 - sum t^4 q^2` for the fixed number of rows, exact if every level has one row; the
//! third cumulant is about `sum t^3 q (1 - q)(1 - 2q)`.
//!
//! **p-value**: upper tail of a shifted and stretched Poisson law with these three cumulants, but
//! stretched by no less than one row; Poisson because a few rare levels is what it is
//! mostly about. Simulated without drift for 10 to 100,000 levels, flat and zipf, and 1:10 to 100:1
//! rows: `tests::levels_of_the_test` prints the table. Drift the other way is not asked for.
//!
//! **Formula**: statistic = unseen rows / rows of the window; `expected` the same of the expectation;
//! the effect is what goes beyond it, at least 0 (0.01 = one row in a hundred).
//!
//! **Strangers**: the unseen labels have to be known with their rows. Where only a sample of the labels
//! is kept, each of them stands for `unseen / rows of the sample` labels like it. Unseen rows of which
//! no label is known count as levels of one row, which finds least.
//!
//! Tests on bins want the unseen labels as bins of their own (`bins`): one bin for all of them, chosen
//! because the reference has none of it, is no bin that chance deals rows into, and every test on it
//! finds drift in every window of a long-tailed feature.
//!
//! **Edges**: a level of the layout that the reference holds no row of is unseen as well. Where nothing
//! is unseen and nothing could have been but by a chance under 1e-9 (booleans), there is nothing to
//! test: no p-value, so that the feature does not count when p-values are adjusted. All levels
//! different on both sides, as of identifiers: effect 0, p 1; they carry no information.
//! **Assumes** independent rows. **Not for** growth that is normal (new products every day) without a
//! limit on the effect.

use std::collections::BTreeMap;

use super::law::poisson;
use super::law::split::Split;
use super::{Answer, Outcome, Reason};

/// Levels that are unseen with less than this probability add nothing.
const NEGLIGIBLE: f64 = 1e-300;
/// Expected unseen rows under which there was nothing to test.
const IMPOSSIBLE: f64 = 1e-9;

/// Rows of the reference's levels on both sides, rows of each unseen label that is known, and all
/// unseen rows.
///
/// # Errors
/// [`Reason::DifferentBins`], [`Reason::NoReference`], [`Reason::TooFewRows`].
pub fn levels(
    reference_counts: &[u64],
    window_counts: &[u64],
    strangers: &[u64],
    unseen: u64,
) -> Answer {
    if reference_counts.len() != window_counts.len() {
        return Err(Reason::DifferentBins);
    }
    let sum = |counts: &[u64]| counts.iter().map(|&count| count as f64).sum::<f64>();
    let n = sum(reference_counts);
    let m = sum(window_counts) + unseen as f64;
    if n <= 0.0 {
        return Err(Reason::NoReference);
    }
    if m <= 0.0 {
        return Err(Reason::TooFewRows);
    }
    let pairs = reference_counts.iter().zip(window_counts);
    let mut levels: Vec<(f64, f64)> = pairs
        .clone()
        .map(|(&a, &b)| (a as f64 + b as f64, 1.0))
        .filter(|level| level.0 > 0.0)
        .collect();
    let empty = pairs.filter(|(a, _)| **a == 0).map(|(_, b)| *b as f64);
    let rows = unseen as f64 + empty.sum::<f64>();
    levels.extend(weighed(strangers, unseen));
    levels.sort_by(|a, b| a.0.total_cmp(&b.0));
    let chance = Cumulants::of(&levels, n, m);
    let p = (rows > 0.0 || chance.mean > IMPOSSIBLE).then(|| chance.tail(rows));
    Ok(Outcome {
        statistic: rows / m,
        p_value: p,
        expected: Some(chance.mean / m),
        effect: ((rows - chance.mean) / m).max(0.0),
        error_bound: None,
    })
}

/// The window's unseen labels as bins of their own for tests on bins: rows of each, and how many there
/// are; the reference has 0 in all of them. Of a sample of the labels, as many as hold all unseen rows;
/// where none is known, bins of one row. The list is no longer than the distinct counts of the labels
/// that are known.
pub(super) fn bins(strangers: &[u64], unseen: u64) -> Vec<(u64, u64)> {
    let known: u128 = strangers.iter().map(|&rows| u128::from(rows)).sum();
    let known = u64::try_from(known).unwrap_or(u64::MAX);
    let Some(copies) = unseen.checked_div(known) else {
        return if unseen > 0 {
            vec![(1, unseen)]
        } else {
            Vec::new()
        };
    };
    let mut bins: BTreeMap<u64, u64> = BTreeMap::new();
    let mut left = unseen - copies * known;
    for &rows in strangers.iter().filter(|rows| **rows > 0) {
        let more = rows.min(left);
        left -= more;
        if copies > 0 {
            *bins.entry(rows).or_default() += copies;
        }
        if more > 0 {
            *bins.entry(more).or_default() += 1;
        }
    }
    bins.into_iter().collect()
}

/// The unseen labels' rows, and how many labels each of them stands for.
fn weighed(strangers: &[u64], unseen: u64) -> Vec<(f64, f64)> {
    let known: f64 = strangers.iter().map(|&rows| rows as f64).sum();
    if known <= 0.0 {
        return vec![(1.0, unseen as f64)];
    }
    let weight = unseen as f64 / known;
    let labels = strangers.iter().filter(|rows| **rows > 0);
    labels.map(|&rows| (rows as f64, weight)).collect()
}

/// Probability that all t rows of a level fall into the window.
fn all_in_window(n: f64, m: f64, t: f64) -> f64 {
    if t > m {
        return 0.0;
    }
    Split { n, m }.ln_probability(t, t).exp()
}

/// Of the number of unseen rows if nothing but chance tells the sides apart.
#[derive(Debug)]
struct Cumulants {
    mean: f64,
    variance: f64,
    third: f64,
}

impl Cumulants {
    /// `levels`: rows on both sides and weight, in ascending order of rows.
    fn of(levels: &[(f64, f64)], n: f64, m: f64) -> Self {
        let total = n + m;
        let (mut q, mut factors) = (1.0, 0.0);
        let [mut mean, mut own, mut third, mut square, mut fourth] = [0.0; 5];
        for &(t, weight) in levels {
            if t - factors > 64.0 {
                (q, factors) = (all_in_window(n, m, t), t);
            }
            while factors < t && q > NEGLIGIBLE {
                q *= ((m - factors) / (total - factors)).max(0.0);
                factors += 1.0;
            }
            if q <= NEGLIGIBLE {
                break;
            }
            mean += weight * t * q;
            own += weight * t * t * q * (1.0 - q);
            third += weight * t * t * t * q * (1.0 - q) * (1.0 - 2.0 * q);
            square += weight * t * t * q;
            fourth += weight * (t * t * q) * (t * t * q);
        }
        let fixed = n / (m * total) * (square * square - fourth);
        Self {
            mean,
            variance: (own - fixed).max(0.0),
            third,
        }
    }

    /// `P(unseen >= rows)`.
    fn tail(&self, rows: f64) -> f64 {
        let variance = self.variance.max(self.mean.min(1.0));
        if variance <= 0.0 {
            return if rows > 0.0 { 0.0 } else { 1.0 };
        }
        let stretch = (self.third / variance).max(1.0);
        let poisson_mean = variance / (stretch * stretch);
        let shift = self.mean - stretch * poisson_mean;
        poisson::at_least((rows - shift) / stretch, poisson_mean)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edges_have_written_answers() {
        assert_eq!(levels(&[], &[], &[], 0), Err(Reason::NoReference));
        assert_eq!(levels(&[0], &[0], &[5], 5), Err(Reason::NoReference));
        assert_eq!(levels(&[5], &[0], &[], 0), Err(Reason::TooFewRows));
        assert_eq!(levels(&[5], &[], &[], 5), Err(Reason::DifferentBins));
        let booleans = levels(&[500, 300], &[200, 100], &[], 0).unwrap();
        assert_eq!(
            (booleans.statistic, booleans.p_value, booleans.effect),
            (0.0, None, 0.0)
        );
        let constant = levels(&[500], &[300], &[], 0).unwrap();
        assert!(constant.p_value.is_none() && constant.expected.unwrap() < 1e-30);
    }

    #[test]
    fn a_new_level_of_booleans_is_drift() {
        let outcome = levels(&[5_000, 3_000], &[200, 90], &[10], 10).unwrap();
        // All ten rows of one level in the window: C(290 + 10, 10) / C(8300, 10), about (m/N)^10.
        assert!(outcome.p_value.unwrap() < 1e-4, "{outcome:?}");
        assert!((outcome.effect - 10.0 / 300.0).abs() < 1e-9);
        let nothing_else = levels(&[500], &[0], &[300], 300).unwrap();
        assert!(nothing_else.p_value.unwrap() < 1e-9 && nothing_else.effect > 0.99);
    }

    #[test]
    fn one_row() {
        // A single new row among ten: each row is it with chance 1/10.
        let outcome = levels(&[9], &[0], &[1], 1).unwrap();
        assert!((outcome.expected.unwrap() - 0.1).abs() < 1e-12);
        assert!((outcome.p_value.unwrap() - 0.1).abs() < 0.01, "{outcome:?}");
    }

    #[test]
    fn identifiers_say_nothing() {
        let outcome = levels(&[1; 1000], &[0; 1000], &[1; 256], 5_000).unwrap();
        assert!((outcome.statistic - 1.0).abs() < 1e-12 && outcome.effect < 1e-12);
        assert!(outcome.p_value.unwrap() > 0.4, "{outcome:?}");
    }

    #[test]
    fn a_level_without_reference_rows_is_unseen() {
        let as_level = levels(&[500, 0], &[300, 20], &[], 0).unwrap();
        let as_stranger = levels(&[500], &[300], &[20], 20).unwrap();
        assert_eq!(as_level, as_stranger);
    }

    #[test]
    fn a_sample_of_the_labels_stands_for_all() {
        let all = levels(&[900, 5, 5], &[300, 1, 0], &[2; 100], 200).unwrap();
        let sample = levels(&[900, 5, 5], &[300, 1, 0], &[2; 10], 200).unwrap();
        assert!((all.expected.unwrap() - sample.expected.unwrap()).abs() < 1e-12);
        assert_eq!(bins(&[2, 0, 3], 9), [(2, 3), (3, 1)], "2, 3, 2, 2");
        assert_eq!(bins(&[2, 0, 3], 8), [(1, 1), (2, 2), (3, 1)], "2, 3, 2, 1");
        assert_eq!(bins(&[2, 3], 4), [(2, 2)], "2, 2");
        assert_eq!(bins(&[], 3), [(1, 3)]);
        assert_eq!(bins(&[0], 3), [(1, 3)]);
        assert!(bins(&[7], 0).is_empty() && bins(&[], 0).is_empty());
    }

    #[test]
    fn huge_counts_stay_finite() {
        let outcome = levels(&[u64::MAX], &[u64::MAX], &[u64::MAX], u64::MAX).unwrap();
        assert!(outcome.p_value.is_some_and(|p| (0.0..=1.0).contains(&p)));
    }
}
