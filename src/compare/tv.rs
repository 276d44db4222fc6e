//! Total variation distance.
//!
//! **Question**: what share of the window's rows would have to change bins to give the reference's
//! shares?
//!
//! **Formula**: `TV = 1/2 sum |p - q|`, from 0 to 1 (disjoint).
//!
//! **Expectation and effect**: over random deals of the pooled rows `E TV = 1/2 (1/n + 1/m) sum E |b -
//! mean|`, exact for every table, since a hypergeometric count's mean absolute deviation has a
//! closed form ([`super::law::split`]). The effect is TV less that, at least 0.
//!
//! **p-value**: TV has no law of its own that is right for few bins and for many. It is a sum of gaps
//! with known mean; their variance is that of the gaps one by one, plus at most
//! `(1 - 2/pi) sum over pairs r^2 s s'` for gaps that move together (r the correlation of the two
//! counts; exact for two bins), less what follows from the fixed number of rows (regression of the
//! gaps on the counts). A gamma law with this mean and variance gives p. It is near the normal law
//! for many bins, and near the half-normal one for two bins but with a longer tail, so that far out
//! p is too large rather than too small.
//!
//! **Small samples**: one row gives an answer, with an effect near 0. One bin: statistic 0, p 1.
//! **Assumes** independent rows. **Not for** rare levels: they hardly count.

use std::f64::consts::{FRAC_2_PI, PI};

use super::table::{Table, gamma_tail};
use super::{Answer, Outcome};

/// From this mean on the third moment of a count no longer matters.
const SYMMETRIC: f64 = 200.0;

/// The distance on counts of the same bins.
#[cfg(test)]
pub(super) fn counts(reference: &[u64], window: &[u64]) -> Answer {
    of(&Table::new(reference, window)?)
}

/// The distance of a table.
pub(super) fn of(table: &Table) -> Answer {
    let (n, m) = (table.n, table.m);
    let statistic = (0.5 * table.sum(|a, b| (a / n - b / m).abs())).min(1.0);
    // A row more in a bin of the window moves p - q there by 1/n + 1/m, the total being fixed.
    let unit = 0.5 * table.noise();
    let gaps = Gaps::of(table);
    Ok(Outcome {
        statistic,
        p_value: Some(gaps.tail(statistic / unit)),
        expected: Some(unit * gaps.mean),
        effect: (statistic - unit * gaps.mean).max(0.0),
        error_bound: None,
    })
}

/// Moments of `sum |b - mean|`, in rows of the window.
struct Gaps {
    mean: f64,
    variance: f64,
}

impl Gaps {
    fn of(table: &Table) -> Self {
        let (split, rows) = (table.split(), table.n + table.m);
        let (mut mean, mut own, mut linked, mut single) = (0.0, 0.0, 0.0, 0.0);
        let (mut slope, mut free) = (0.0, 0.0);
        for (total, bins) in table.sizes() {
            let (gap, variance) = (split.mean_gap(total), split.variance(total));
            mean += bins * gap;
            own += bins * (variance - gap * gap).max(0.0);
            let share = total / rows;
            if share < 1.0 {
                let link = variance.sqrt() * share / (1.0 - share);
                linked += bins * link;
                single += bins * link * link;
            }
            free += bins * variance;
            let centre = split.mean(total);
            if centre.min(total - centre) < SYMMETRIC {
                let skew = |_: f64, b: f64| [(b - centre) * (b - centre).abs()];
                let [skew] = split.expectation(total, skew);
                slope += bins * skew;
            }
        }
        let together = (FRAC_2_PI * (PI / 2.0 - 1.0)) * (linked * linked - single).max(0.0);
        let fixed = if free > 0.0 {
            slope * slope / free
        } else {
            0.0
        };
        Self {
            mean,
            variance: (own - fixed).max(0.0) + together,
        }
    }

    /// `P(sum of gaps >= gaps)` by the gamma law; at least as spread as one row is.
    fn tail(&self, gaps: f64) -> f64 {
        if self.mean <= 0.0 || gaps <= 0.0 {
            return 1.0;
        }
        let variance = self.variance.max(self.mean.min(1.0));
        gamma_tail(gaps, self.mean, variance)
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
        let outcome = counts(&[50, 30, 20], &[20, 30, 50]).unwrap();
        assert!((outcome.statistic - 0.3).abs() < 1e-15);
        assert!(outcome.p_value.unwrap() < 1e-3);
    }

    #[test]
    fn two_bins_move_together() {
        // b of 50 rows among 100 and 100 in two even bins: sd of a count 3.54, of both gaps 7.07.
        let table = Table::new(&[50, 50], &[50, 50]).unwrap();
        let gaps = Gaps::of(&table);
        let variance = 4.0 * table.split().variance(100.0);
        assert!((gaps.mean / (2.0 / PI * variance).sqrt() - 1.0).abs() < 0.01);
        assert!((gaps.variance / ((1.0 - 2.0 / PI) * variance) - 1.0).abs() < 0.03);
    }

    #[test]
    fn disjoint_one_row_and_huge() {
        let disjoint = counts(&[500, 0, 0], &[0, 100, 200]).unwrap();
        assert!((disjoint.statistic - 1.0).abs() < 1e-12 && disjoint.effect > 0.9);
        assert!(disjoint.p_value.unwrap() < 1e-20);
        let one = counts(&[250; 4], &[1, 0, 0, 0]).unwrap();
        assert!(one.effect < 0.01 && one.p_value.unwrap() > 0.1, "{one:?}");
        let huge = counts(&[u64::MAX, 1], &[1, u64::MAX]).unwrap();
        assert!((huge.statistic - 1.0).abs() < 1e-12 && huge.p_value.unwrap() < 1e-300);
    }

    #[test]
    fn levels_that_all_differ_say_nothing() {
        let reference: Vec<u64> = (0..300).map(|i| u64::from(i < 200)).collect();
        let window: Vec<u64> = (0..300).map(|i| u64::from(i >= 200)).collect();
        let outcome = counts(&reference, &window).unwrap();
        assert!((outcome.statistic - 1.0).abs() < 1e-9 && outcome.effect < 1e-9);
        assert!(outcome.p_value.unwrap() > 0.1);
    }
}
