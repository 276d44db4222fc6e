//! L-infinity distance.
//!
//! **Question**: how far has the share of a single bin moved, where it moved most?
//!
//! **Formula**: `max |p - q|` over the bins, from 0 to 1.
//!
//! **p-value**: the sum over all bins of the chance that this bin alone moves so far, each exact given
//! how many rows it holds on both sides together (hypergeometric, [`super::law::split`]; the normal
//! law where its standard deviation exceeds 2,000 rows). A sum of chances is at least the chance of
//! any (Bonferroni), so that p is never too small; for two bins, which move as one, it is the chance
//! of one.
//!
//! **Expectation and effect**: the mean of the largest of as many independent gaps, from the same
//! chances: `integral of 1 - product (1 - chance(x)) dx`. Gaps of bins are linked a little, which makes
//! the true mean smaller by a few parts in a hundred at most. The effect is the distance less
//! that, at least 0.
//!
//! **Small samples**: one row gives an answer, with an effect near 0. One bin: statistic 0, p 1.
//! **Assumes** independent rows. **Not for** small changes in many bins: use `tv` or `js`.

use super::table::Table;
use super::{Answer, Outcome};

/// Steps in which the expectation is integrated.
const STEPS: u32 = 32;

/// The distance on counts of the same bins.
#[cfg(test)]
pub(super) fn counts(reference: &[u64], window: &[u64]) -> Answer {
    of(&Table::new(reference, window)?)
}

/// The distance of a table.
pub(super) fn of(table: &Table) -> Answer {
    let (n, m) = (table.n, table.m);
    let gaps = table.bins.iter().map(|bin| (bin.a / n - bin.b / m).abs());
    let statistic = gaps.fold(0.0, f64::max);
    let gaps = Gaps::of(table);
    let expected = table.noise() * gaps.expected_largest();
    Ok(Outcome {
        statistic,
        p_value: Some(gaps.union(statistic / table.noise())),
        expected: Some(expected),
        effect: (statistic - expected).max(0.0),
        error_bound: None,
    })
}

/// The bins' totals, largest first, with how often each occurs.
struct Gaps {
    split: super::law::split::Split,
    sizes: Vec<(f64, f64)>,
}

impl Gaps {
    fn of(table: &Table) -> Self {
        let mut sizes = table.sizes();
        sizes.reverse();
        if table.pair().is_some() {
            sizes.truncate(1);
            sizes.iter_mut().for_each(|(_, bins)| *bins = 1.0);
        }
        Self {
            split: table.split(),
            sizes,
        }
    }

    /// Sum over the bins of `P(|b - mean| >= gap)`, at most 1.
    fn union(&self, gap: f64) -> f64 {
        let mut sum = 0.0;
        for &(total, bins) in &self.sizes {
            if sum >= 1.0 {
                return 1.0;
            }
            // A bin with fewer rows cannot move so far, nor can those after it.
            if total < gap {
                break;
            }
            sum += bins * self.split.beyond(total, gap);
        }
        if gap <= 0.0 { 1.0 } else { sum.min(1.0) }
    }

    /// Of the largest `|b - mean|`, in rows.
    fn expected_largest(&self) -> f64 {
        let widest = self.widest();
        if widest <= 0.0 {
            return 0.0;
        }
        let mut end = widest;
        while self.any(end) > 1e-3 {
            end *= 1.5;
        }
        let step = end / f64::from(STEPS);
        let points = (0..STEPS).map(|i| self.any(step * (f64::from(i) + 0.5)));
        step * points.sum::<f64>()
    }

    fn widest(&self) -> f64 {
        let deviations = self
            .sizes
            .iter()
            .map(|&(total, _)| self.split.variance(total));
        deviations.fold(0.0, f64::max).sqrt()
    }

    /// `1 - product (1 - P(|b - mean| >= gap))`.
    fn any(&self, gap: f64) -> f64 {
        let mut ln_none = 0.0;
        for &(total, bins) in &self.sizes {
            if total < gap {
                break;
            }
            ln_none += bins * (-self.split.roughly_beyond(total, gap).min(1.0)).ln_1p();
            if ln_none < -40.0 {
                return 1.0;
            }
        }
        -ln_none.exp_m1()
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
    fn two_bins_are_one_exact_test() {
        // 4 of 4 against 0 of 4: 2 of the 70 deals are as far apart.
        let outcome = counts(&[4, 0], &[0, 4]).unwrap();
        assert!((outcome.p_value.unwrap() - 2.0 / 70.0).abs() < 1e-12);
        // Gaps 2, 1, 0 rows in 2, 32, 36 of the deals.
        assert!((outcome.expected.unwrap() - (4.0 + 32.0) / 70.0 / 2.0).abs() < 0.02);
    }

    #[test]
    fn disjoint_one_row_and_huge() {
        let disjoint = counts(&[500, 0, 0], &[0, 100, 200]).unwrap();
        assert!((disjoint.statistic - 1.0).abs() < 1e-12 && disjoint.effect > 0.9);
        assert!(disjoint.p_value.unwrap() < 1e-20);
        let one = counts(&[250; 4], &[1, 0, 0, 0]).unwrap();
        assert!(one.effect < 0.3 && one.p_value.unwrap() > 0.1, "{one:?}");
        let huge = counts(&[u64::MAX, 1], &[1, u64::MAX]).unwrap();
        assert!((huge.statistic - 1.0).abs() < 1e-12 && huge.p_value.unwrap() < 1e-300);
    }
}
