//! Which bins or levels a score comes from.
//!
//! Most tests on bins are sums over bins, so that each bin's part of the sum is what it contributes:
//! PSI `(q - p) ln(q / p)`, Jensen-Shannon `p log(p / a) + q log(q / a)`, Kullback-Leibler
//! `p ln(p / q) - p + q` (the same sum, no term negative), Hellinger `(sqrt p - sqrt q)^2`, chi-square and
//! its kin `(p - q)^2 / a` with a the mean of both shares. For tests on the number line and for total
//! variation it is `|p - q|` on the coarse bins. A rate comes from what was found instead of values,
//! or from the labels that the baseline never held.
//!
//! `contribution` is the share of the sum, so that those of all bins add up to 1.

use serde::Serialize;

use super::Test;
use crate::profile::coarse;
use crate::profile::{Feature, FeatureLayout, Profile, Quality, Values};

/// A bin, level or pair of features, and how much of a score comes from it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Contribution {
    /// What people call it.
    pub bin: String,
    /// Its share of the baseline; `None` where it is no bin.
    pub reference_share: Option<f64>,
    /// Its share of the window.
    pub window_share: Option<f64>,
    /// Its share of the score, 0 to 1.
    pub contribution: f64,
}

/// One side of a feature: its profile and the rows it was made from.
#[derive(Debug, Clone, Copy)]
pub struct Side<'a> {
    /// The profile.
    pub feature: &'a Feature,
    /// Rows, absent values included.
    pub rows: u64,
}

impl<'a> Side<'a> {
    /// The feature at a position of a profile.
    pub fn of(profile: &'a Profile, i: usize) -> Self {
        Self {
            feature: &profile.features[i],
            rows: profile.rows,
        }
    }
}

/// The bins that contribute most to a test of a feature, at most `most`, largest first.
pub fn of_feature(
    test: Test,
    layout: &FeatureLayout,
    reference: Side<'_>,
    window: Side<'_>,
    most: usize,
) -> Vec<Contribution> {
    match test {
        Test::NullRate | Test::MissingRate | Test::TypeErrors => {
            of_quality(test, reference, window, most)
        }
        Test::UnseenRate => strangers(window, most),
        Test::OutOfRange => beyond(layout, window),
        Test::Rule => of_bins(test, layout, reference, window, 0, most),
        // The bin for absent values, the last one, has tests of its own.
        _ => of_bins(test, layout, reference, window, 1, most),
    }
}

fn of_bins(
    test: Test,
    layout: &FeatureLayout,
    reference: Side<'_>,
    window: Side<'_>,
    without_last: usize,
    most: usize,
) -> Vec<Contribution> {
    let counts = |side: Side<'_>| {
        let mut counts = coarse::of_feature(layout, side.feature);
        counts.truncate(counts.len().saturating_sub(without_last));
        counts
    };
    let (p, q) = (shares(&counts(reference)), shares(&counts(window)));
    let names = coarse::names(layout);
    let bins = names.into_iter().zip(p.into_iter().zip(q));
    largest(
        bins.map(|(bin, (p, q))| (bin, p, q, term(test, p, q))),
        most,
    )
}

fn shares(counts: &[u64]) -> Vec<f64> {
    let rows = counts.iter().sum::<u64>().max(1) as f64;
    counts.iter().map(|count| *count as f64 / rows).collect()
}

/// What a bin with these shares adds to the test's sum; never negative.
fn term(test: Test, p: f64, q: f64) -> f64 {
    let middle = f64::midpoint(p, q);
    if middle <= 0.0 {
        return 0.0;
    }
    // Shares of 0 are taken as a millionth: they shall lead the list, not be infinite.
    let (some_p, some_q) = (p.max(1e-6), q.max(1e-6));
    let against = |share: f64, other: f64| {
        if share > 0.0 {
            share * (share / other).ln()
        } else {
            0.0
        }
    };
    let term = match test {
        Test::Psi => (some_q - some_p) * (some_q / some_p).ln(),
        Test::Js => against(p, middle) + against(q, middle),
        Test::Kl => against(p, some_q) - p + some_q,
        Test::Hellinger => (p.sqrt() - q.sqrt()).powi(2),
        Test::Chi2 | Test::Chi2Yates | Test::G | Test::Fisher | Test::CramersV | Test::Rule => {
            (p - q).powi(2) / middle
        }
        _ => (p - q).abs(),
    };
    term.max(0.0)
}

fn largest(bins: impl Iterator<Item = (String, f64, f64, f64)>, most: usize) -> Vec<Contribution> {
    let mut bins: Vec<_> = bins.filter(|bin| bin.3 > 0.0).collect();
    let sum: f64 = bins.iter().map(|bin| bin.3).sum();
    bins.sort_by(|a, b| b.3.total_cmp(&a.3));
    bins.truncate(most);
    bins.into_iter()
        .map(|(bin, p, q, term)| Contribution {
            bin,
            reference_share: Some(p),
            window_share: Some(q),
            contribution: term / sum,
        })
        .collect()
}

/// One of the counts of [`Quality`].
type Count = fn(&Quality) -> u64;

/// What was found instead of values.
fn of_quality(test: Test, reference: Side<'_>, window: Side<'_>, most: usize) -> Vec<Contribution> {
    let share =
        |side: Side<'_>, of: Count| of(&side.feature.quality) as f64 / side.rows.max(1) as f64;
    let kinds: [(&str, Count); 6] = [
        ("(null)", |quality| quality.null),
        ("(missing)", |quality| quality.missing),
        ("(wrong type)", |quality| quality.wrong_type),
        ("(nan)", |quality| quality.nan),
        ("(+inf)", |quality| quality.pos_inf),
        ("(-inf)", |quality| quality.neg_inf),
    ];
    let wanted = |name: &str| match test {
        Test::MissingRate => name == "(missing)",
        Test::TypeErrors => name == "(wrong type)",
        _ => true,
    };
    let bins = kinds
        .into_iter()
        .filter(|(name, _)| wanted(name))
        .map(|(name, of)| {
            let (p, q) = (share(reference, of), share(window, of));
            (name.to_owned(), p, q, (p - q).abs())
        });
    largest(bins, most)
}

/// The labels that the baseline never held, with most rows first.
fn strangers(window: Side<'_>, most: usize) -> Vec<Contribution> {
    let Values::Categorical(values) = &window.feature.values else {
        return Vec::new();
    };
    let (rows, unseen) = (values.count().max(1) as f64, values.unseen.max(1) as f64);
    let heaviest = values.strangers.heaviest(most).into_iter();
    heaviest
        .map(|(label, count)| Contribution {
            bin: label.to_owned(),
            reference_share: Some(0.0),
            window_share: Some(count as f64 / rows),
            contribution: count as f64 / unseen,
        })
        .collect()
}

/// Below and above the baseline's range.
fn beyond(layout: &FeatureLayout, window: Side<'_>) -> Vec<Contribution> {
    let (Values::Numeric(values), crate::profile::Bins::Grid(grid)) =
        (&window.feature.values, &layout.bins)
    else {
        return Vec::new();
    };
    let rows = values.count().max(1) as f64;
    let [below, above] = values.beyond().map(|count| count as f64 / rows);
    let (least, greatest) = (grid.cuts.first(), grid.cuts.last());
    let ends = [
        (format!("< {}", least.unwrap_or(&0.0)), below),
        (
            format!("> {}", greatest.map_or(0.0, |cut| cut.next_down())),
            above,
        ),
    ];
    largest(
        ends.into_iter()
            .map(|(name, share)| (name, 0.0, share, share)),
        2,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_are_never_negative_nor_infinite() {
        for test in Test::ALL {
            for (p, q) in [(0.0, 0.0), (0.0, 0.3), (0.3, 0.0), (0.2, 0.7), (1.0, 1.0)] {
                let term = term(*test, p, q);
                assert!(term.is_finite() && term >= 0.0, "{test} {p} {q}: {term}");
            }
        }
    }

    #[test]
    fn contributions_are_sorted_shares_of_the_sum() {
        let bins = [("a", 0.5, 0.4), ("b", 0.3, 0.3), ("c", 0.2, 0.3)];
        let terms = |test| {
            let bins = bins.map(|(name, p, q)| (name.to_owned(), p, q, term(test, p, q)));
            largest(bins.into_iter(), 5)
        };
        let by_chi2 = terms(Test::Chi2);
        assert_eq!(by_chi2.len(), 2, "what did not change is left out");
        assert_eq!((&*by_chi2[0].bin, &*by_chi2[1].bin), ("c", "a"));
        let sum: f64 = by_chi2.iter().map(|one| one.contribution).sum();
        assert!((sum - 1.0).abs() < 1e-12);
        let by_difference = terms(Test::Tv);
        assert!((by_difference[0].contribution - 0.5).abs() < 1e-12);
    }
}
