//! A table of counts on two sides, made ready once for every test on bins.
//!
//! **Bins that are alike** (as many rows on either side) may be one entry that counts several times:
//! a window with millions of unseen labels is a table as short as its list of distinct counts.
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
//! and mean or variance of the statistic over random deals show that it does not hold: the mean is off by
//! more than a tenth, or the variance larger by more than a quarter. Then the matched one.
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

/// Some bins that hold the same rows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Bin {
    /// Rows of the reference in each.
    pub(super) a: f64,
    /// Rows of the window in each.
    pub(super) b: f64,
    /// How many bins they are.
    pub(super) times: f64,
}

impl Bin {
    /// Rows of both sides in each.
    pub(super) fn total(self) -> f64 {
        self.a + self.b
    }
}

/// Expected counts under this are pooled.
const SMALL: f64 = 5.0;
/// From this expected count on, both sides, the leading term is enough.
const DENSE: f64 = 200.0;
/// Chi-square's law is taken for a statistic whose mean over random deals is within this factor of its
/// own, and whose variance exceeds its own by no more than the other.
const NEAR_MEAN: f64 = 1.1;
const NEAR_VARIANCE: f64 = 1.25;
/// From this number of bins on a sum over small bins is smooth enough for its gamma law.
const MANY: f64 = 20.0;
/// Above this shape the gamma law is the normal one.
const LARGE: f64 = 1e10;

/// Bins in ascending order of their totals, those that are empty on both sides left out.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Table {
    /// The bins.
    pub(super) bins: Vec<Bin>,
    /// Rows of the reference.
    pub(super) n: f64,
    /// Rows of the window.
    pub(super) m: f64,
}

impl Table {
    pub(super) fn new(reference: &[u64], window: &[u64]) -> Result<Self, Reason> {
        Self::with_others(reference, window, &[])
    }

    /// The same, with bins that only the window has rows in: rows of each, and how many there are.
    pub(super) fn with_others(
        reference: &[u64],
        window: &[u64],
        others: &[(u64, u64)],
    ) -> Result<Self, Reason> {
        let more: f64 = others
            .iter()
            .map(|&(rows, times)| rows as f64 * times as f64)
            .sum();
        let (n, m) = totals(reference, window, more)?;
        let once = |(a, b)| Bin { a, b, times: 1.0 };
        let mut bins: Vec<Bin> = occupied(reference, window).map(once).collect();
        bins.extend(others.iter().map(|&(rows, times)| Bin {
            a: 0.0,
            b: rows as f64,
            times: times as f64,
        }));
        bins.sort_by(|left, right| left.total().total_cmp(&right.total()));
        Ok(Self { bins, n, m })
    }

    /// How many bins hold rows.
    pub(super) fn size(&self) -> f64 {
        self.bins.iter().map(|bin| bin.times).sum()
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
        self.bins
            .iter()
            .map(|bin| bin.times * f(bin.a, bin.b))
            .sum()
    }

    /// Distinct totals with the number of bins that have them, ascending.
    pub(super) fn sizes(&self) -> Vec<(f64, f64)> {
        let mut sizes: Vec<(f64, f64)> = Vec::new();
        for bin in &self.bins {
            match sizes.last_mut() {
                Some((total, bins)) if bin.total() <= *total => *bins += bin.times,
                _ => sizes.push((bin.total(), bin.times)),
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
            let [chance, first, second, link] = split.smooth_expectation(total, |a, b| {
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
            .is_some_and(|bin| self.expected(bin.total()) < SMALL)
    }

    /// The table with its small bins in one.
    pub(super) fn regrouped(&self) -> Self {
        let size = self.size();
        let mut pool = Bin {
            a: 0.0,
            b: 0.0,
            times: 1.0,
        };
        let (mut bins, mut joined) = (Vec::with_capacity(self.bins.len()), 0.0);
        for bin in &self.bins {
            let small = self.expected(bin.total()) < SMALL;
            let full = joined <= 0.0 || self.expected(pool.total()) >= SMALL;
            let wanted = match (small, full) {
                (true, _) => bin.times,
                (false, true) => 0.0,
                (false, false) => 1.0, // is large enough by itself
            };
            // At least one bin stays beside the pool.
            let times = wanted.min(size - 1.0 - joined).max(0.0);
            pool.a += times * bin.a;
            pool.b += times * bin.b;
            joined += times;
            let left = bin.times - times;
            bins.extend((left > 0.0).then_some(Bin {
                times: left,
                ..*bin
            }));
        }
        bins.extend((joined > 0.0).then_some(pool));
        bins.sort_by(|left, right| left.total().total_cmp(&right.total()));
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
        let alike = (freedom / NEAR_MEAN..=freedom * NEAR_MEAN).contains(&moments.mean)
            && moments.variance <= 2.0 * freedom * NEAR_VARIANCE;
        if alike || !self.is_sparse() {
            chi2::sf(value, freedom)
        } else {
            self.matched((value, moments), sum)
        }
    }

    /// p of a sum over bins by the gamma law that has its mean and variance; `whole` is the sum over
    /// this table. Tables with few and small bins are regrouped first.
    pub(super) fn matched(
        &self,
        whole: (f64, Moments),
        sum: impl Fn(&Self) -> (f64, Moments),
    ) -> f64 {
        let tail =
            |(value, moments): (f64, Moments)| gamma_tail(value, moments.mean, moments.variance);
        if !self.is_sparse() || self.size() >= MANY {
            return tail(whole);
        }
        let table = self.regrouped();
        table.exact().unwrap_or_else(|| tail(sum(&table)))
    }

    /// The root of a sum over bins: a distance, with what chance alone gives of it. `leading` as in
    /// [`Table::moments`].
    pub(super) fn root(&self, sum: impl Fn(&Self) -> (f64, Moments), leading: f64) -> Outcome {
        let (value, moments) = sum(self);
        let mean = moments.mean;
        Outcome {
            statistic: value.sqrt(),
            expected: Some(expected_root(mean, leading * self.noise())),
            effect: (value - mean).max(0.0).sqrt(),
            p_value: Some(self.matched((value, moments), sum)),
            error_bound: None,
        }
    }

    /// The only two bins that hold rows.
    pub(super) fn pair(&self) -> Option<(Bin, Bin)> {
        match self.bins[..] {
            [first, second] if self.size() <= 2.0 => Some((first, second)),
            _ => None,
        }
    }

    /// Fisher's p of two bins of which one is small.
    fn exact(&self) -> Option<f64> {
        let (first, second) = self.pair().filter(|_| self.is_sparse())?;
        Some(exact(first, second))
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

fn exact(first: Bin, second: Bin) -> f64 {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "sums of counts"
    )]
    let count = |value: f64| value as u64;
    let (a, b) = (count(first.a), count(first.b));
    fisher::two_sided(
        a,
        a.saturating_add(count(second.a)),
        b,
        b.saturating_add(count(second.b)),
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
        let once = |&(a, b): &(f64, f64)| Bin { a, b, times: 1.0 };
        let mut bins: Vec<Bin> = bins.iter().map(once).collect();
        bins.sort_by(|left, right| left.total().total_cmp(&right.total()));
        Table { bins, n, m }
    }

    fn pairs(table: &Table) -> Vec<(f64, f64)> {
        table.bins.iter().map(|bin| (bin.a, bin.b)).collect()
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
            pairs(&table(&bins).regrouped()),
            vec![(7.0, 7.0), (30.0, 25.0), (100.0, 100.0)]
        );
        let one = table(&bins[..1]);
        assert_eq!(one.regrouped(), one);
    }

    #[test]
    fn a_pool_that_stays_small_takes_the_next_bin() {
        let bins = [(1.0, 1.0), (1.0, 2.0), (10.0, 10.0), (20.0, 20.0)];
        assert_eq!(
            pairs(&table(&bins).regrouped()),
            vec![(12.0, 13.0), (20.0, 20.0)]
        );
    }

    /// Bins that are alike, as one entry and one by one, in every test on bins.
    #[test]
    fn bins_that_are_alike_may_be_one_entry() {
        type Named = (&'static str, fn(&Table) -> Answer);
        let tests: [Named; 9] = [
            ("psi", super::super::psi::of),
            ("js", super::super::js::of),
            ("kl", super::super::kl::of),
            ("hellinger", super::super::hellinger::of),
            ("tv", super::super::tv::of),
            ("linf", super::super::linf::of),
            ("chi2", super::super::chi2::of),
            ("g", super::super::g::of),
            ("cramers_v", super::super::cramers_v::of),
        ];
        let near = |a: f64, b: f64| (a - b).abs() <= 1e-12 * a.abs().max(1e-3);
        let close = |a: Option<f64>, b: Option<f64>| match (a, b) {
            (Some(a), Some(b)) => near(a, b),
            (a, b) => a == b,
        };
        for (reference, window, others) in [
            (vec![500, 300], vec![200, 90], vec![(10, 1)]),
            (
                vec![500, 300],
                vec![200, 90],
                vec![(1, 70), (2, 31), (9, 1)],
            ),
            (
                vec![50_000, 30, 4, 4],
                vec![900, 3, 1, 0],
                vec![(1, 1), (40, 25)],
            ),
            (vec![3, 2], vec![1, 0], vec![(1, 1)]),
            (vec![9], vec![0], vec![(1, 40)]),
            (
                vec![90_000],
                vec![5_000],
                vec![(3_000, 2), (2_999, 1), (3_000, 4)],
            ),
        ] {
            let short = Table::with_others(&reference, &window, &others).unwrap();
            let (mut left, mut right) = (reference.clone(), window.clone());
            for &(rows, times) in &others {
                left.extend((0..times).map(|_| 0));
                right.extend((0..times).map(|_| rows));
            }
            let long = Table::new(&left, &right).unwrap();
            for (name, test) in tests {
                let (Ok(one), Ok(other)) = (test(&short), test(&long)) else {
                    assert_eq!(test(&short), test(&long), "{name}");
                    continue;
                };
                let same = near(one.statistic, other.statistic)
                    && near(one.effect, other.effect)
                    && close(one.p_value, other.p_value)
                    && close(one.expected, other.expected);
                assert!(same, "{name} {others:?}: {one:?} {other:?}");
            }
        }
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
