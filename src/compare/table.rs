//! A table of counts on two sides, made ready once for every test on bins.
//!
//! **Expectation without drift**: given how many rows each bin holds on both sides together, chance
//! alone deals them out ([`Split`]). For a distance that is a sum over bins, `sum f(a, b)`, the
//! expectation is the sum of the bins' own; each is computed exactly, for bins of one row as well,
//! where the customary `(bins - 1)(1/n + 1/m)` is far too large. Bins that expect 200 rows or more on
//! both sides take the leading term of the distance around equal shares, which is within about half
//! a percent there. Bins with the same number of rows are worked out once.
//!
//! **Law of a sum over bins** (`matched`): the gamma law with the mean and the variance of the sum
//! over random deals; for dense bins it is chi-square. The variance is that of the bins one by one,
//! less what follows from the fixed number of rows (regression on the counts), plus
//! `2 unit^2 (1 - sum s^2)`, s the pooled shares, for bins that move together: with it, it is exact
//! for dense bins, few or many. Tables of fewer than 20 bins, some of them small, are regrouped first.
//!
//! **Which law** (`p_value`): chi-square's, as scipy has it, unless some cell expects fewer than 5 rows
//! and mean or variance of the statistic over random deals show that it does not hold: by more than a
//! tenth of the mean, or a quarter of the variance. Then the matched one.
//!
//! **Regrouping**: chi-square laws need about 5 expected rows in each cell. Bins that expect fewer
//! on the smaller side join one pool, smallest first, until the pool reaches 5 and no small bin is
//! left. If two bins remain, or are all there are, and one expects fewer than 5, p is Fisher's exact one. What the
//! rare levels do among themselves is then not tested; p is never that of a law that does not hold.

use statrs::function::erf::erfc;

#[cfg(test)]
use super::Answer;
use super::law::split::Split;
use super::law::{chi2, fisher};
use super::{Outcome, Reason, occupied, totals};

/// Expected counts under this are pooled.
const SMALL: f64 = 5.0;
/// From this expected count on, both sides, the leading term is enough.
const DENSE: f64 = 200.0;
/// Chi-square's law is taken for a statistic whose mean and variance over random deals exceed its own
/// by no more than these factors.
const NEAR_MEAN: f64 = 1.1;
const NEAR_VARIANCE: f64 = 1.25;
/// From this number of bins on a sum over small bins is smooth enough for its gamma law.
const MANY: f64 = 20.0;
/// Above this shape the gamma law is the normal one.
const LARGE: f64 = 1e10;

/// Pairs of counts in ascending order of their totals, bins empty on both sides left out.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Table {
    /// Rows of the reference and of the window, bin by bin.
    pub(super) bins: Vec<(f64, f64)>,
    /// Rows of the reference.
    pub(super) n: f64,
    /// Rows of the window.
    pub(super) m: f64,
}

impl Table {
    pub(super) fn new(reference: &[u64], window: &[u64]) -> Result<Self, Reason> {
        let (n, m) = totals(reference, window)?;
        let mut bins = occupied(reference, window);
        bins.sort_by(|a, b| (a.0 + a.1).total_cmp(&(b.0 + b.1)));
        Ok(Self { bins, n, m })
    }

    /// How many bins hold rows.
    pub(super) fn size(&self) -> f64 {
        self.bins.len() as f64
    }

    /// `1/n + 1/m`: the variance of a difference of two shares, per unit of their variance.
    pub(super) fn noise(&self) -> f64 {
        1.0 / self.n + 1.0 / self.m
    }

    pub(super) fn split(&self) -> Split {
        Split {
            n: self.n,
            m: self.m,
        }
    }

    /// Sum of a term over all bins.
    pub(super) fn sum(&self, f: impl Fn(f64, f64) -> f64) -> f64 {
        self.bins.iter().map(|&(a, b)| f(a, b)).sum()
    }

    /// Distinct totals with the number of bins that have them, ascending.
    pub(super) fn sizes(&self) -> Vec<(f64, f64)> {
        let mut sizes: Vec<(f64, f64)> = Vec::new();
        for &(a, b) in &self.bins {
            match sizes.last_mut() {
                Some((total, bins)) if a + b <= *total => *bins += 1.0,
                _ => sizes.push((a + b, 1.0)),
            }
        }
        sizes
    }

    /// Moments of `sum f` if nothing but chance tells the sides apart. `leading` is c in
    /// `f = c (p - q)^2 / s + ...` around equal shares, s the pooled share.
    pub(super) fn moments(&self, f: impl Fn(f64, f64) -> f64, leading: f64) -> Moments {
        self.moments_given(f, |_| true, leading)
    }

    /// The same over deals in which `given` holds of the window's count of every bin; `f` is not
    /// asked of others.
    pub(super) fn moments_given(
        &self,
        f: impl Fn(f64, f64) -> f64,
        given: impl Fn(f64) -> bool,
        leading: f64,
    ) -> Moments {
        let (split, rows, unit) = (self.split(), self.n + self.m, leading * self.noise());
        let [mut mean, mut own, mut slope, mut free, mut even] = [0.0; 5];
        for (total, bins) in self.sizes() {
            let share = total / rows;
            even += bins * share * share;
            free += bins * split.variance(total);
            if self.expected(total) >= DENSE {
                mean += bins * unit * (rows - total).max(0.0) / (rows - 1.0);
                own += bins * 2.0 * (unit * (1.0 - share)).powi(2);
                continue;
            }
            let centre = split.mean(total);
            let [chance, first, second, link] = split.expectation(total, |a, b| {
                let value = if given(b) { f(a, b) } else { 0.0 };
                let chance = f64::from(given(b));
                [chance, value, value * value, value * (b - centre)]
            });
            let chance = chance.max(f64::MIN_POSITIVE);
            let first = first / chance;
            mean += bins * first;
            own += bins * (second / chance - first * first).max(0.0);
            slope += bins * link / chance;
        }
        let fixed = if free > 0.0 {
            slope * slope / free
        } else {
            0.0
        };
        let together = 2.0 * unit * unit * (1.0 - even).max(0.0);
        let variance = (own - fixed).max(0.0) + together;
        Moments { mean, variance }
    }

    /// Expected rows on the smaller side for a bin of `total` rows.
    fn expected(&self, total: f64) -> f64 {
        total * (self.n.min(self.m) / (self.n + self.m))
    }

    /// Whether some cell expects fewer than 5 rows.
    pub(super) fn is_sparse(&self) -> bool {
        self.bins
            .first()
            .is_some_and(|&(a, b)| self.expected(a + b) < SMALL)
    }

    /// The table with its small bins in one.
    pub(super) fn regrouped(&self) -> Self {
        let (mut pool, mut joined) = ((0.0, 0.0), 0);
        while self.bins.len() - joined > 1 {
            let (a, b) = self.bins[joined];
            let full = joined == 0 || self.expected(pool.0 + pool.1) >= SMALL;
            if full && self.expected(a + b) >= SMALL {
                break;
            }
            pool = (pool.0 + a, pool.1 + b);
            joined += 1;
        }
        let mut bins = self.bins.clone();
        if joined > 0 {
            bins.splice(..joined, [pool]);
            bins.sort_by(|a, b| (a.0 + a.1).total_cmp(&(b.0 + b.1)));
        }
        Self { bins, ..*self }
    }

    /// p of a sum over bins that follows chi-square with one degree of freedom less than there are
    /// bins when all counts are large. Chi-square's where mean and variance are nearly its own, else
    /// [`Table::matched`].
    pub(super) fn p_value(&self, sum: impl Fn(&Self) -> (f64, Moments)) -> f64 {
        if let Some(p) = self.exact() {
            return p;
        }
        let (value, moments) = sum(self);
        let freedom = self.size() - 1.0;
        let alike = moments.mean <= freedom * NEAR_MEAN
            && moments.variance <= 2.0 * freedom * NEAR_VARIANCE;
        if alike || !self.is_sparse() {
            chi2::sf(value, freedom)
        } else {
            self.matched(sum)
        }
    }

    /// p of a sum over bins by the gamma law that has its mean and variance. Tables with few and
    /// small bins are regrouped first.
    pub(super) fn matched(&self, sum: impl Fn(&Self) -> (f64, Moments)) -> f64 {
        let tail = |table: &Self| {
            let (value, moments) = sum(table);
            gamma_tail(value, moments.mean, moments.variance)
        };
        if !self.is_sparse() || self.size() >= MANY {
            return tail(self);
        }
        let table = self.regrouped();
        table.exact().unwrap_or_else(|| tail(&table))
    }

    /// The root of a sum over bins: a distance, with what chance alone gives of it. `leading` as in
    /// [`Table::moments`].
    pub(super) fn root(&self, sum: impl Fn(&Self) -> (f64, Moments), leading: f64) -> Outcome {
        let (value, Moments { mean, .. }) = sum(self);
        Outcome {
            statistic: value.sqrt(),
            expected: Some(expected_root(mean, leading * self.noise())),
            effect: (value - mean).max(0.0).sqrt(),
            p_value: Some(self.matched(sum)),
            error_bound: None,
        }
    }

    /// Fisher's p of two bins of which one is small.
    fn exact(&self) -> Option<f64> {
        match self.bins[..] {
            [first, second] if self.is_sparse() => Some(exact(first, second)),
            _ => None,
        }
    }
}

/// Of a sum over bins, without drift.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moments {
    pub(super) mean: f64,
    pub(super) variance: f64,
}

/// `P(X >= value)` for the gamma law with this mean and variance.
pub(super) fn gamma_tail(value: f64, mean: f64, variance: f64) -> f64 {
    if value <= 0.0 || mean <= 0.0 || variance <= 0.0 {
        return 1.0;
    }
    let scale = variance / mean;
    if mean / scale > LARGE {
        return 0.5 * erfc((value - mean) / (2.0 * variance).sqrt());
    }
    chi2::sf(2.0 * value / scale, 2.0 * mean / scale)
}

/// Expected distance whose square has this expectation, in units in which the square of a dense
/// table has expectation `dof x unit`: the mean of a chi variable with as many degrees of freedom,
/// `root (1 - 1/(4 dof) + ...)`.
pub(super) fn expected_root(square: f64, unit: f64) -> f64 {
    if square <= 0.0 || unit <= 0.0 {
        return 0.0;
    }
    let dof = (square / unit).max(1e-3);
    square.sqrt() * chi_mean_ratio(dof)
}

/// `E sqrt(X) / sqrt(E X)` for X chi-square: `sqrt(2/dof) Gamma((dof + 1)/2) / Gamma(dof/2)`.
fn chi_mean_ratio(dof: f64) -> f64 {
    if dof > 1e4 {
        return 1.0 - 1.0 / (4.0 * dof);
    }
    let gamma = |x: f64| statrs::function::gamma::ln_gamma(x);
    (0.5 * (2.0 / dof).ln() + gamma(f64::midpoint(dof, 1.0)) - gamma(dof / 2.0)).exp()
}

fn exact(first: (f64, f64), second: (f64, f64)) -> f64 {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "sums of counts"
    )]
    let count = |value: f64| value as u64;
    let (a, b) = (count(first.0), count(first.1));
    fisher::two_sided(
        a,
        a.saturating_add(count(second.0)),
        b,
        b.saturating_add(count(second.1)),
    )
}

/// What every test on bins answers where there is nothing to compare, or nothing that differs.
#[cfg(test)]
pub(super) fn written_edges(counts: fn(&[u64], &[u64]) -> Answer) {
    assert_eq!(counts(&[], &[]), Err(Reason::NoReference));
    assert_eq!(counts(&[0], &[1]), Err(Reason::NoReference));
    assert_eq!(counts(&[1], &[0]), Err(Reason::TooFewRows));
    assert_eq!(counts(&[1, 2], &[0, 0]), Err(Reason::TooFewRows));
    assert_eq!(counts(&[1], &[]), Err(Reason::DifferentBins));
    assert_eq!(counts(&[1, 2], &[1]), Err(Reason::DifferentBins));
    let constant = counts(&[500, 0], &[300, 0]).unwrap();
    assert_eq!(
        (constant.statistic, constant.p_value, constant.effect),
        (0.0, Some(1.0), 0.0)
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(bins: &[(f64, f64)]) -> Table {
        let (n, m) = bins
            .iter()
            .fold((0.0, 0.0), |sum, bin| (sum.0 + bin.0, sum.1 + bin.1));
        let mut bins = bins.to_vec();
        bins.sort_by(|a, b| (a.0 + a.1).total_cmp(&(b.0 + b.1)));
        Table { bins, n, m }
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
        assert_eq!(
            table(&bins).regrouped().bins,
            vec![(7.0, 7.0), (30.0, 25.0), (100.0, 100.0)]
        );
        let one = table(&bins[..1]);
        assert_eq!(one.regrouped(), one);
    }

    #[test]
    fn a_pool_that_stays_small_takes_the_next_bin() {
        let bins = [(1.0, 1.0), (1.0, 2.0), (10.0, 10.0), (20.0, 20.0)];
        assert_eq!(
            table(&bins).regrouped().bins,
            vec![(12.0, 13.0), (20.0, 20.0)]
        );
    }

    /// Of `sum (a - b)^2 / t` at n = m: exact for t small, the leading term for t large, and both
    /// must agree with `(K - 1) N / (N - 1)`, the known expectation of X2.
    #[test]
    fn expectations_hold_for_sparse_and_dense_bins_alike() {
        for rows in [1.0, 2.0, 20.0, 399.0, 401.0, 5_000.0] {
            let table = table(&[(rows, rows), (3.0 * rows, rows), (2.0, 1.0), (0.0, 1.0)]);
            let (n, m) = (table.n, table.m);
            let term = |a: f64, b: f64| (a / n - b / m).powi(2) / (a + b) * (n + m);
            let want = (table.size() - 1.0) * table.noise() * (n + m) / (n + m - 1.0);
            let got = table.moments(term, 1.0).mean;
            assert!((got / want - 1.0).abs() < 1e-9, "{rows}: {got} {want}");
        }
    }

    #[test]
    fn roots_of_chi_square() {
        // E |Z| = sqrt(2 / pi), and no more than the root of the expectation.
        let want = (2.0 / std::f64::consts::PI).sqrt();
        assert!((expected_root(1.0, 1.0) - want).abs() < 1e-12);
        assert!((expected_root(4e8, 1.0) - 2e4).abs() < 1e-4);
        assert!(expected_root(0.0, 1.0).abs() < 1e-300);
    }
}
