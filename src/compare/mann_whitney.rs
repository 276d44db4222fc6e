//! Mann-Whitney U (Wilcoxon's rank sum).
//!
//! **Question**: is a row of the window more often above a row of the reference than below it?
//!
//! **Formula**: U counts the pairs in which the reference's row is the larger, equal ones by half;
//! without drift `n m / 2` is expected. The effect is `|2 U / (n m) - 1|`, the rank-biserial
//! correlation: 0 for none, 1 where one side lies above the other. Source: H. B. Mann and D. R. Whitney
//! 1947; it is `scipy.stats.mannwhitneyu`.
//!
//! **p-value**, two-sided: exact where one side has at most 8 rows and nothing is tied, else normal
//! with the correction for ties and 1/2 for continuity. (Exact counts beyond 2^24 pairs would take
//! too much memory; there p is normal too.)
//!
//! **Assumes** independent rows. Ties are provided for. Infinities are values like any other.
//!
//! **Small samples**: one row a side gives U 0, 1/2 or 1 and p 1. Constant and equal sides have
//! U = n m / 2 and p = 1. **Not for** changes of spread or shape: two sides with the same middle can
//! differ in everything else.

use super::law::chi2;
use super::merge::Places;
use super::{Answer, Outcome, totals};

/// Up to this many rows on the smaller side p is exact.
const EXACT_ROWS: usize = 8;

/// Up to this many pairs; half of them are counted.
const EXACT_PAIRS: usize = 1 << 24;

/// The test on all rows; both slices ascending.
///
/// # Errors
/// [`super::Reason::NoReference`] or [`super::Reason::TooFewRows`] for an empty side.
pub fn exact(reference_sorted: &[f64], window_sorted: &[f64]) -> Answer {
    Ok(of(&Places::of(reference_sorted, window_sorted)?))
}

pub(super) fn of(places: &Places<'_>) -> Outcome {
    let pairs = Pairs::of(places);
    let (n, m) = (places.reference.len(), places.window.len());
    let p = if pairs.cubes <= 0.0 && n.min(m) <= EXACT_ROWS && n.saturating_mul(m) <= EXACT_PAIRS {
        exact_tail(n, m, pairs.above)
    } else {
        pairs.tail()
    };
    pairs.outcome(pairs.middle(), p, None)
}

/// The test on counts of the same ordered bins. U of the rows lies in
/// `[statistic, statistic + error_bound]`: pairs in different bins are known, and each of the a b
/// pairs within a bin adds 0, 1/2 or 1, so that U lies between the sum over the former and that sum
/// plus all `a b`.
///
/// p and the effect take rows of a bin as tied. This is the test of the rows rounded to their bins,
/// whose level holds whatever the bins.
///
/// # Errors
/// [`super::Reason::DifferentBins`], [`super::Reason::NoReference`], [`super::Reason::TooFewRows`].
pub fn grid(reference: &[u64], window: &[u64]) -> Answer {
    totals(reference, window, 0.0)?;
    let mut pairs = Pairs::default();
    for (&a, &b) in reference.iter().zip(window) {
        pairs.add(a as f64, b as f64);
    }
    Ok(pairs.outcome(pairs.above, pairs.tail(), Some(pairs.equal)))
}

/// What pairs of one row each amount to, gathered value by value from below.
#[derive(Default)]
struct Pairs {
    n: f64,
    m: f64,
    /// Pairs whose larger row is the reference's.
    above: f64,
    equal: f64,
    /// Sum of [`cube`] over the values, t rows at each.
    cubes: f64,
}

/// `t^3 - t`.
fn cube(t: f64) -> f64 {
    t * (t * t - 1.0)
}

/// The sum of [`cube`] over the distinct values of one side.
fn own_ties(sorted: &[f64]) -> f64 {
    let ties = |pair: &[f64]| usize::from(pair[0] >= pair[1]);
    if sorted.windows(2).map(ties).sum::<usize>() == 0 {
        return 0.0; // most numbers: without the walk below
    }
    let values = sorted.chunk_by(|a, b| a >= b);
    values.map(|same| cube(same.len() as f64)).sum()
}

impl Pairs {
    /// Of rows: what the window's values add to the ties that the reference has by itself.
    fn of(places: &Places<'_>) -> Self {
        let n = places.reference.len() as f64;
        let mut pairs = Self {
            n,
            m: places.window.len() as f64,
            cubes: own_ties(places.reference),
            ..Self::default()
        };
        for tie in &places.ties {
            let (below, a, b) = (
                tie.reference_below as f64,
                tie.reference as f64,
                tie.window as f64,
            );
            pairs.above += b * (n - below - a);
            pairs.equal += a * b;
            pairs.cubes += cube(a + b) - cube(a);
        }
        pairs
    }

    fn add(&mut self, a: f64, b: f64) {
        self.above += a * self.m;
        self.equal += a * b;
        self.n += a;
        self.m += b;
        self.cubes += cube(a + b);
    }

    /// U.
    fn middle(&self) -> f64 {
        self.above + self.equal / 2.0
    }

    /// The two-sided normal tail.
    fn tail(&self) -> f64 {
        let (n, m, all) = (self.n, self.m, self.n + self.m);
        let ties = self.cubes / all / (all - 1.0).max(1.0);
        let variance = n / 12.0 * m * (all + 1.0 - ties);
        let z = (self.middle() - n * m / 2.0).abs() - 0.5;
        if z <= 0.0 || variance <= 0.0 {
            1.0
        } else {
            chi2::sf(z / variance * z, 1.0)
        }
    }

    fn outcome(&self, statistic: f64, p: f64, error_bound: Option<f64>) -> Outcome {
        let all = self.n * self.m;
        Outcome {
            statistic,
            p_value: Some(p),
            expected: Some(all / 2.0),
            effect: (2.0 * (self.middle() / all) - 1.0).abs().min(1.0),
            error_bound,
        }
    }
}

/// Twice the probability of a U as far from the middle or farther, at most 1.
///
/// The number of orders by U has the generating function `product of (1 - q^(large + i)) / (1 - q^i)`
/// over i up to the smaller side. Each i is one pass that subtracts and one that adds up, and leaves
/// the counts for i rows, none of them negative.
fn exact_tail(n: usize, m: usize, above: f64) -> f64 {
    let (small, large) = (n.min(m), n.max(m));
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a whole number up to n m, which is at most 2^24"
    )]
    let far = above.min((n * m) as f64 - above).max(0.0) as usize;
    let mut counts = vec![0.0_f64; far + 1];
    counts[0] = 1.0;
    let mut orders = 1.0;
    for i in 1..=small {
        for u in (large + i..=far).rev() {
            counts[u] -= counts[u - large - i];
        }
        for u in i..=far {
            counts[u] += counts[u - i];
        }
        orders *= (large + i) as f64 / i as f64;
    }
    (2.0 * (counts.iter().sum::<f64>() / orders)).clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::Reason;
    use crate::compare::merge::{cut_up, ties};
    use proptest::prelude::*;

    #[test]
    fn rows_are_counted_as_by_the_walk_over_all_values() {
        let side = |rows: u32, factor: f64, digits: f64| {
            let mut side: Vec<f64> = (0..rows)
                .map(|i| ((0.1 + factor * f64::from(i)).sin() * digits).round() / digits)
                .collect();
            side.sort_by(f64::total_cmp);
            side
        };
        for (n, m) in [(1, 1), (2, 5), (9, 4), (1_000, 37), (331, 1_000)] {
            for digits in [3.0, 20.0, 1e12] {
                let (left, right) = (side(n, 0.7, digits), side(m, 1.3, digits));
                let mut walked = Pairs::default();
                for tie in ties(&left, &right) {
                    walked.add(tie.reference as f64, tie.window as f64);
                }
                let counted = Pairs::of(&Places::of(&left, &right).unwrap());
                assert_eq!(
                    (counted.above, counted.equal, counted.cubes),
                    (walked.above, walked.equal, walked.cubes),
                    "{n} {m} {digits}"
                );
            }
        }
    }

    #[test]
    fn edges_have_written_answers() {
        assert_eq!(exact(&[], &[]), Err(Reason::NoReference));
        assert_eq!(exact(&[1.0], &[]), Err(Reason::TooFewRows));
        assert_eq!(grid(&[], &[]), Err(Reason::NoReference));
        assert_eq!(grid(&[1], &[0]), Err(Reason::TooFewRows));
        assert_eq!(grid(&[1], &[1, 2]), Err(Reason::DifferentBins));
        for (left, right, u) in [(0.0, 1.0, 0.0), (1.0, 0.0, 1.0), (1.0, 1.0, 0.5)] {
            let outcome = exact(&[left], &[right]).unwrap();
            assert!((outcome.statistic - u).abs() < 1e-15 && outcome.p_value == Some(1.0));
        }
        let same = exact(&[7.0; 500], &[7.0; 300]).unwrap();
        assert!((same.statistic - 75_000.0).abs() < 1e-9 && same.effect.abs() < 1e-15);
        assert_eq!(same.p_value, Some(1.0));
    }

    #[test]
    fn infinities_and_huge_values_are_ordinary() {
        let side = [f64::NEG_INFINITY, -1e308, 0.0, 1e308, f64::INFINITY];
        let other = [-1e308, 0.0, 1e308, f64::INFINITY, f64::INFINITY];
        assert_eq!(
            exact(&side, &other),
            exact(&[1.0, 2.0, 3.0, 4.0, 5.0], &[2.0, 3.0, 4.0, 5.0, 5.0])
        );
    }

    #[test]
    fn disjoint_sides_have_the_effect_one() {
        let outcome = exact(&[1.0, 2.0, 3.0, 4.0], &[10.0, 11.0, 12.0]).unwrap();
        assert!(outcome.statistic.abs() < 1e-15 && (outcome.effect - 1.0).abs() < 1e-15);
        assert!((outcome.p_value.unwrap() - 2.0 / 35.0).abs() < 1e-15);
    }

    #[test]
    fn all_orders_together_are_certain() {
        // U of 3 against 4 is 5 or less in 15 of 35 orders, and 7 or more in as many.
        assert!((exact_tail(3, 4, 5.0) - 30.0 / 35.0).abs() < 1e-15);
        assert!((exact_tail(3, 4, 6.0) - 1.0).abs() < 1e-15);
    }

    #[test]
    fn a_hundred_thousand_levels_and_huge_counts_are_bearable() {
        let counts = vec![3; 100_000];
        assert!(grid(&counts, &counts).unwrap().effect < 1e-12);
        let far = grid(&[u64::MAX, 0], &[0, u64::MAX]).unwrap();
        assert!((far.effect - 1.0).abs() < 1e-15 && far.p_value.unwrap() < 1e-300);
    }

    proptest! {
        #[test]
        fn the_grid_brackets_the_exact_statistic(
            mut reference in prop::collection::vec(-50..50_i32, 1..80),
            mut window in prop::collection::vec(-60..40_i32, 1..80),
            cuts in prop::collection::vec(-40..40_i32, 1..12),
        ) {
            reference.sort_unstable();
            window.sort_unstable();
            let side = |values: &[i32]| values.iter().map(|&v| f64::from(v) / 3.0).collect::<Vec<_>>();
            let (reference, window) = (side(&reference), side(&window));
            let truth = exact(&reference, &window).unwrap().statistic;
            let (left, right) = cut_up(&reference, &window, &cuts);
            let bins = grid(&left, &right).unwrap();
            prop_assert!(bins.statistic <= truth);
            prop_assert!(truth <= bins.statistic + bins.error_bound.unwrap());
        }
    }
}
