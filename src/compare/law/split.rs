//! How the rows of one bin fall on two sides by chance.
//!
//! Two sides of n and m rows are pooled, and N = n + m rows dealt out again at random. Of the t rows
//! of one bin the second side then gets b, and b is hypergeometric:
//! `P(b) = C(t, b) C(N - t, m - b) / C(N, m)`. This is the permutation law of any table of counts,
//! given its margins. It holds for every size: no expected count has to be large. A distance that
//! is a sum over bins has the sum of the bins' expectations as its own, since expectations add
//! whether or not the bins are independent.
//!
//! | what | how |
//! |---|---|
//! | expectation of any f(a, b) | ratios of neighbouring probabilities from the mode outwards, and the sum of the weights divides |
//! | the same of a smooth f | every s-th count alone (trapezoid rule): the count is a sum of independent trials, so that its characteristic function is at most `exp(-variance (1 - cos(2 pi / s)))` at what this overlooks; s keeps that under 1e-17 |
//! | mean absolute deviation | closed form: `N E(b - mean)+ = v (n - t + v) P(v)`, v the first count above the mean (De Moivre's identity; N. Johnson 1957) |
//! | tails | from the first count out, by the same ratios; the normal law where the deviation exceeds 2,000 rows |
//!
//! Counts beyond 2^53 are no longer whole numbers: sums stop there after one term.

use std::f64::consts::SQRT_2;

use statrs::function::erf::erfc;

use super::deviance::ln_binomial;

/// Weights under this part of the largest add nothing.
const NEGLIGIBLE: f64 = 1e-18;
/// What a stride overlooks, as the exponent of its bound.
const OVERLOOKED: f64 = 40.0;
/// The widest stride.
const STRIDES: u32 = 8;
/// Above this standard deviation tails are those of the normal law.
const WIDE: f64 = 2_000.0;

/// The sizes of the two sides.
#[derive(Debug, Clone, Copy)]
pub struct Split {
    /// Rows of the first side.
    pub n: f64,
    /// Rows of the second side.
    pub m: f64,
}

impl Split {
    /// Rows of both sides.
    pub fn rows(&self) -> f64 {
        self.n + self.m
    }

    /// Mean of b for a bin of `t` rows.
    pub fn mean(&self, t: f64) -> f64 {
        t * (self.m / self.rows())
    }

    /// Variance of b for a bin of `t` rows.
    pub fn variance(&self, t: f64) -> f64 {
        let rows = self.rows();
        if rows <= 1.0 {
            return 0.0;
        }
        t * (self.m / rows) * (self.n / rows) * ((rows - t) / (rows - 1.0)).max(0.0)
    }

    /// `E |b - mean|`.
    pub fn mean_gap(&self, t: f64) -> f64 {
        let above = self.mean(t).floor() + 1.0;
        if above > t.min(self.m) {
            return 0.0;
        }
        let rest = self.n - t + above;
        2.0 * above * rest.max(0.0) / self.rows() * self.ln_probability(t, above).exp()
    }

    /// `ln P(b)` for a bin of `t` rows.
    pub fn ln_probability(&self, t: f64, b: f64) -> f64 {
        let rows = self.rows();
        let (p, q) = (self.m / rows, self.n / rows);
        let others = ln_binomial(self.m - b, rows - t, p, q);
        ln_binomial(b, t, p, q) + others - ln_binomial(self.m, rows, p, q)
    }

    /// `E f(t - b, b)` for a bin of `t` rows. The work grows with the root of the smaller expected
    /// count.
    pub fn expectation<const K: usize>(
        &self,
        t: f64,
        f: impl Fn(f64, f64) -> [f64; K],
    ) -> [f64; K] {
        let (low, high) = self.range(t);
        let mode = self.mode(t);
        let (mut sum, mut weights) = (f(t - mode, mode), 1.0);
        let mut add = |b: f64, weight: f64| {
            weights += weight;
            for (sum, value) in sum.iter_mut().zip(f(t - b, b)) {
                *sum += weight * value;
            }
        };
        let (mut b, mut weight) = (mode, 1.0);
        while b < high && b + 1.0 > b && weight > NEGLIGIBLE {
            weight *= self.ratio_up(t, b);
            b += 1.0;
            add(b, weight);
        }
        (b, weight) = (mode, 1.0);
        while b > low && b - 1.0 < b && weight > NEGLIGIBLE {
            b -= 1.0;
            weight /= self.ratio_up(t, b);
            add(b, weight);
        }
        sum.map(|sum| sum / weights)
    }

    /// The same for an f that is smooth where neither count is near 0; to about 1e-14.
    pub fn smooth_expectation<const K: usize>(
        &self,
        t: f64,
        f: impl Fn(f64, f64) -> [f64; K],
    ) -> [f64; K] {
        let stride = self.stride(t);
        if stride <= 1 {
            return self.expectation(t, f);
        }
        let (low, high) = self.range(t);
        let (mode, step) = (self.mode(t), f64::from(stride));
        let (mut sum, mut weights) = (f(t - mode, mode), 1.0);
        let mut add = |b: f64, weight: f64| {
            weights += weight;
            for (sum, value) in sum.iter_mut().zip(f(t - b, b)) {
                *sum += weight * value;
            }
        };
        let (mut b, mut weight) = (mode, 1.0);
        while b + step <= high && weight > NEGLIGIBLE {
            weight *= self.ratio_over(t, b, stride);
            b += step;
            add(b, weight);
        }
        (b, weight) = (mode, 1.0);
        while b - step >= low && weight > NEGLIGIBLE {
            b -= step;
            weight /= self.ratio_over(t, b, stride);
            add(b, weight);
        }
        sum.map(|sum| sum / weights)
    }

    /// How far apart counts may be for the trapezoid rule; 1 where 0 rows on a side are not out of reach.
    fn stride(&self, t: f64) -> u32 {
        let (mean, variance) = (self.mean(t), self.variance(t));
        if mean.min(t - mean) < OVERLOOKED {
            return 1;
        }
        let overlooks = |stride: &u32| {
            let angle = 2.0 * std::f64::consts::PI / f64::from(*stride);
            variance * (1.0 - angle.cos()) < OVERLOOKED
        };
        (2..=STRIDES).find(overlooks).unwrap_or(STRIDES + 1) - 1
    }

    /// `P(b + stride) / P(b)`.
    fn ratio_over(&self, t: f64, b: f64, stride: u32) -> f64 {
        let (mut up, mut down) = (1.0, 1.0);
        for step in 0..stride {
            let b = b + f64::from(step);
            up *= (t - b) * (self.m - b);
            down *= (b + 1.0) * (self.n - t + b + 1.0);
        }
        up / down
    }

    /// The least and the largest b for a bin of `t` rows.
    pub fn range(&self, t: f64) -> (f64, f64) {
        let low = (t - self.n).max(0.0);
        (low, t.min(self.m).max(low))
    }

    /// The likeliest b for a bin of `t` rows.
    pub fn mode(&self, t: f64) -> f64 {
        let (low, high) = self.range(t);
        let mode = (t + 1.0) * ((self.m + 1.0) / (self.rows() + 2.0));
        mode.floor().clamp(low, high)
    }

    /// `P(b + 1) / P(b)`.
    fn ratio_up(&self, t: f64, b: f64) -> f64 {
        (t - b) / (b + 1.0) * ((self.m - b) / (self.n - t + b + 1.0))
    }

    /// `P(|b - mean| >= gap)`, gap > 0.
    pub fn beyond(&self, t: f64, gap: f64) -> f64 {
        let (mean, deviation) = (self.mean(t), self.variance(t).sqrt());
        if deviation > WIDE {
            return erfc(gap / deviation / SQRT_2);
        }
        // A gap that a table reached must count as reached, whatever its rounding.
        let gap = gap * (1.0 - 1e-12);
        let (low, high) = self.range(t);
        let (first, last) = ((mean + gap).ceil(), (mean - gap).floor());
        let mut sum = 0.0;
        if first <= high {
            sum += self.upwards(t, first.max(low));
        }
        if last >= low {
            sum += self.downwards(t, last.min(high));
        }
        sum.min(1.0)
    }

    /// The same to a few parts in a hundred, by the normal law from a deviation of 10 rows on.
    pub fn roughly_beyond(&self, t: f64, gap: f64) -> f64 {
        let variance = self.variance(t);
        if variance > 100.0 {
            erfc(gap / (2.0 * variance).sqrt())
        } else {
            self.beyond(t, gap)
        }
    }

    /// `P(b) + P(b + 1) + ...`, b within the range.
    pub fn upwards(&self, t: f64, mut b: f64) -> f64 {
        let high = self.range(t).1;
        let (mut sum, mut weight) = (1.0, 1.0);
        let start = self.ln_probability(t, b);
        while b < high && b + 1.0 > b && weight > NEGLIGIBLE * sum {
            weight *= self.ratio_up(t, b);
            b += 1.0;
            sum += weight;
        }
        sum * start.exp()
    }

    /// `P(b) + P(b - 1) + ...`, b within the range.
    pub fn downwards(&self, t: f64, mut b: f64) -> f64 {
        let low = self.range(t).0;
        let (mut sum, mut weight) = (1.0, 1.0);
        let start = self.ln_probability(t, b);
        while b > low && b - 1.0 < b && weight > NEGLIGIBLE * sum {
            b -= 1.0;
            weight /= self.ratio_up(t, b);
            sum += weight;
        }
        sum * start.exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CASES: [(f64, f64, f64); 8] = [
        (10.0, 7.0, 5.0),
        (100.0, 10.0, 3.0),
        (100.0, 10.0, 109.0),
        (5.0, 5.0, 10.0),
        (1.0, 1.0, 1.0),
        (1.0, 0.0, 1.0),
        (1e4, 1e3, 700.0),
        (30.0, 400.0, 425.0),
    ];

    fn near(got: f64, want: f64) {
        assert!(
            (got - want).abs() <= 1e-9 * want.abs() + 1e-12,
            "{got} {want}"
        );
    }

    #[test]
    fn moments_agree_with_their_closed_forms() {
        for (n, m, t) in CASES {
            let split = Split { n, m };
            let mean = split.mean(t);
            let [one, first, second, gap] =
                split.expectation(t, |_, b| [1.0, b, (b - mean).powi(2), (b - mean).abs()]);
            near(one, 1.0);
            near(first, mean);
            near(second, split.variance(t));
            near(gap, split.mean_gap(t));
        }
    }

    #[test]
    fn a_stride_changes_nothing_of_a_smooth_expectation() {
        for (n, m, t) in [
            (1e4, 1e3, 1_100.0),
            (1e4, 1e3, 500.0),
            (1e4, 1e3, 5_000.0),
            (1e3, 1e3, 390.0),
            (1e6, 200.0, 300_000.0),
            (30.0, 400.0, 425.0),
            (1e9, 1e3, 1e8),
        ] {
            let split = Split { n, m };
            let f = |a: f64, b: f64| {
                let (p, q) = ((a + 0.5) / n, (b + 0.5) / m);
                let psi = (q - p) * (q / p).ln();
                [1.0, b, psi, psi * psi, psi * b]
            };
            let (all, some) = (split.expectation(t, f), split.smooth_expectation(t, f));
            for (want, got) in all.into_iter().zip(some) {
                assert!(
                    (got / want - 1.0).abs() < 1e-12,
                    "{n} {m} {t}: {got} {want}"
                );
            }
        }
        assert_eq!(Split { n: 1e4, m: 1e3 }.stride(1_100.0), 6);
    }

    #[test]
    fn tails_agree_with_sums() {
        for (n, m, t) in CASES {
            let split = Split { n, m };
            let mean = split.mean(t);
            for gap in [0.4, 1.0, 2.5, 8.0, 20.0] {
                let far = |_, b: f64| [f64::from((b - mean).abs() >= gap * (1.0 - 1e-12))];
                let [want] = split.expectation(t, far);
                near(split.beyond(t, gap), want);
            }
        }
    }

    #[test]
    fn tails_keep_their_precision_far_out() {
        // 5 of 5 rows of the bin among 10 of 1,010: 10 9 8 7 6 / (1010 1009 1008 1007 1006).
        let split = Split { n: 1e3, m: 10.0 };
        let want = 30_240.0 / (1010.0 * 1009.0 * 1008.0 * 1007.0 * 1006.0);
        assert!((split.beyond(5.0, 4.9) / want - 1.0).abs() < 1e-11);
    }

    #[test]
    fn huge_sides_neither_hang_nor_overflow() {
        let huge = u64::MAX as f64;
        let split = Split { n: huge, m: huge };
        assert!((split.beyond(huge, 1.0) - 1.0).abs() < 1e-3);
        assert!(split.beyond(huge, 1e18) < 1e-300 && split.mean_gap(huge).is_finite());
    }
}
