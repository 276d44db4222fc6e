//! Two-sample Cramér-von Mises.
//!
//! **Question**: do the two distribution functions differ, taken over all rows rather than at the one
//! worst place, as Kolmogorov-Smirnov does?
//!
//! **Formula**: with midranks r, `U = n sum (r(x_i) - i)^2 + m sum (r(y_j) - j)^2` over both sides in
//! ascending order, `T = U / (n m N) - (4 n m - 1) / (6 N)`, `N = n + m`: without ties `n m / N` times
//! the mean over all rows of `(F - G)^2`. Source: T. W. Anderson 1962; W. J. Conover 1999; it is
//! `scipy.stats.cramervonmises_2samp`.
//!
//! U and what is taken off it are each 1e10 times their difference for large sides. So T is summed
//! in another form, which is the same number and whose terms are never negative. Over the distinct
//! values, with a rows of the reference and b of the window there (`s = a + b`), i and j rows below,
//! `D = i m - j n` and `e = a m - b n`:
//!
//! `n m N^2 T = sum s (D + (s + 1) e / (2 s))^2 + (1 - 1/s^2) ((a^3 + b^3) (m - n)^2 / 12 + n m s (a - b)^2 / 4)`
//!
//! **Effect**: the root of the mean over all rows of `(F - G)^2`, F and G up to and with the row's
//! value, less what that is expected to be if the pooled rows were dealt out at random: with t rows
//! up to a value that is `t (N - t) / (n m (N - 1))`. 0.58 where no value is shared and one side lies
//! above the other.
//!
//! **p-value**: exact while neither side has more than 20 rows (Xiao, Gordon and Yakovlev 2007: all
//! orders counted as lattice paths), else the limiting law ([`super::law::quadratic`]) of T brought
//! to that law's mean and variance. scipy takes the law's distribution function from 1, which leaves
//! an error of 1e-8 to 1e-5 where T is above 5; here the tail keeps its precision.
//!
//! **Assumes** independent rows and no ties. With many ties and sides of different sizes T is too
//! large and p too small, here as in scipy: the form above shows how, by `(m - n)^2`. The effect
//! does not suffer from this. Infinities are values like any other.
//!
//! **Small samples**: one row on either side is too few (as in scipy). Two sides that hold one and
//! the same value have T = 0 and p = 1 (scipy has T = 17.8 for 500 rows against 300). **Not for**
//! tails, nor for whole numbers with few levels on sides of different sizes.

use super::law::quadratic;
use super::merge::{all_equal, not_empty, ties};
use super::{Answer, Outcome, Reason, totals};

/// Up to this many rows on both sides p is exact.
const EXACT_ROWS: usize = 20;

/// The test on all rows; both slices ascending.
///
/// # Errors
/// [`Reason::NoReference`], or [`Reason::TooFewRows`] for fewer than two rows on a side.
pub fn exact(reference_sorted: &[f64], window_sorted: &[f64]) -> Answer {
    not_empty(reference_sorted, window_sorted)?;
    let (n, m) = (reference_sorted.len(), window_sorted.len());
    if n.min(m) < 2 {
        return Err(Reason::TooFewRows);
    }
    let sizes = Sizes::of(n as f64, m as f64);
    if all_equal(reference_sorted, window_sorted) {
        return Ok(sizes.outcome(0.0, 1.0, 0.0, None));
    }
    let (mut sum, mut beyond) = (0.0, 0.0);
    for tie in ties(reference_sorted, window_sorted) {
        let group = Group {
            below: tie.reference_below as f64,
            other_below: tie.window_below as f64,
            a: tie.reference as f64,
            b: tie.window as f64,
        };
        sum += group.tied(&sizes);
        beyond += group.beyond_chance(&sizes);
    }
    let p = if n.max(m) <= EXACT_ROWS {
        exact_tail(n, m, sum)
    } else {
        sizes.tail(sizes.statistic(sum))
    };
    Ok(sizes.outcome(sizes.statistic(sum), p, beyond, None))
}

/// Rows on both sides.
struct Sizes {
    n: f64,
    m: f64,
    all: f64,
}

impl Sizes {
    fn of(n: f64, m: f64) -> Self {
        Self { n, m, all: n + m }
    }

    /// T from `n m N^2 T`.
    fn statistic(&self, sum: f64) -> f64 {
        sum / self.n / self.m / self.all / self.all
    }

    fn expected(&self) -> f64 {
        (1.0 + 1.0 / self.all) / 6.0
    }

    /// The limiting law has the mean 1/6 and the variance 1/45.
    fn tail(&self, statistic: f64) -> f64 {
        let (r, s) = (self.n / self.m, self.m / self.n);
        // (N + 1)(4 n m N - 3 (n^2 + m^2) - 2 n m) / (4 n m N^2), 45 times the variance of T.
        let variance = (1.0 + 1.0 / self.all) * (1.0 - (3.0 * (r + s) + 2.0) / (4.0 * self.all));
        quadratic::cramer_von_mises(1.0 / 6.0 + (statistic - self.expected()) / variance.sqrt())
    }

    /// `beyond` is `N sum of (F - G)^2` over all rows, less its expectation.
    fn outcome(&self, statistic: f64, p: f64, beyond: f64, error_bound: Option<f64>) -> Outcome {
        Outcome {
            statistic,
            p_value: Some(p),
            expected: Some(self.expected()),
            effect: (beyond / self.all).max(0.0).sqrt(),
            error_bound,
        }
    }
}

/// The rows at one value, or in one bin.
struct Group {
    below: f64,
    other_below: f64,
    a: f64,
    b: f64,
}

impl Group {
    /// D and e of the module's formula.
    fn gaps(&self, sizes: &Sizes) -> (f64, f64) {
        (
            self.below * sizes.m - self.other_below * sizes.n,
            self.a * sizes.m - self.b * sizes.n,
        )
    }

    /// What the rows add to `n m N^2 T` if they are all equal.
    fn tied(&self, sizes: &Sizes) -> f64 {
        let (a, b, s) = (self.a, self.b, self.a + self.b);
        if s <= 0.0 {
            return 0.0;
        }
        let (gap, step) = self.gaps(sizes);
        let middle = gap + (s + 1.0) * step / (2.0 * s);
        let cubes = (a * a * a + b * b * b) * (sizes.m - sizes.n).powi(2) / 12.0;
        let uneven = sizes.n * sizes.m * s * (a - b).powi(2) / 4.0;
        s * middle * middle + (1.0 - 1.0 / s / s) * (cubes + uneven)
    }

    /// `(F - G)^2` at the end of the rows, less its expectation, once for each of them.
    fn beyond_chance(&self, sizes: &Sizes) -> f64 {
        let t = self.below + self.other_below + self.a + self.b;
        let (n, m) = (sizes.n, sizes.m);
        let gap = (self.below + self.a) / n - (self.other_below + self.b) / m;
        let chance = t / n * ((sizes.all - t) / m) / (sizes.all - 1.0);
        (self.a + self.b) * (gap * gap - chance)
    }

    /// The least and the most that the rows can add to `n m N^2 T` if nothing but their number is
    /// known. See [`grid`] for the proof.
    fn range(&self, sizes: &Sizes) -> (f64, f64) {
        let (a, b, n, m) = (self.a, self.b, sizes.n, sizes.m);
        let tied = self.tied(sizes);
        let own = n * a * (a * a - 1.0) / 12.0 + m * b * (b * b - 1.0) / 12.0;
        if a <= 0.0 || b <= 0.0 {
            return ((tied - sizes.all * own).max(0.0), tied);
        }
        let (gap, step) = self.gaps(sizes);
        let (slope, most) = (2.0 * gap + step, a * b / 2.0);
        let curve = n / a + m / b;
        let pairs = (slope / (2.0 * curve)).clamp(-most, most);
        let low = pairs * (pairs * curve - slope) - own;
        let high = slope.abs() * most + a * b * (n * b + m * a) / 4.0;
        ((tied + sizes.all * low).max(0.0), tied + sizes.all * high)
    }
}

/// `P(T >= observed)` over all orders of n + m rows; `sum` is `n m N^2 T`.
///
/// An order is a path of n + m steps from (0, 0) to (n, m), and `n m N^2 T` is the sum of
/// `(i m - j n)^2` over the points that it enters. Paths are counted point by point, by the sums they
/// have reached; those that have reached the observed one, and those that no longer can, need no more
/// sorting.
fn exact_tail(n: usize, m: usize, sum: f64) -> f64 {
    let g = super::law::smirnov::gcd(n as u64, m as u64) as f64;
    // Rounded down, as scipy does: with ties the observed value may lie between two that orders have.
    let limit = (sum / (g * g) * (1.0 + 1e-12)).floor();
    if limit <= 0.0 {
        return 1.0;
    }
    let point = |i: usize, j: usize| ((i as f64 * m as f64 - j as f64 * n as f64) / g).powi(2);
    let ahead = most_ahead(n, m, point);
    let (mut columns, mut reached) = (vec![Vec::new(); n + 1], vec![0.0; n + 1]);
    let mut paths = vec![0.0; n + 1];
    (columns[0], paths[0]) = (vec![(0.0, 1.0)], 1.0);
    for j in 0..=m {
        for i in 0..=n {
            let mut here = if i > 0 {
                reached[i] += reached[i - 1];
                paths[i] += paths[i - 1];
                joined(&columns[i - 1], &columns[i])
            } else {
                std::mem::take(&mut columns[0])
            };
            let here_too = point(i, j);
            here.iter_mut().for_each(|(value, _)| *value += here_too);
            let open = here.partition_point(|&(value, _)| value < limit);
            reached[i] += here.drain(open..).map(|(_, count)| count).sum::<f64>();
            let hopeless = limit - ahead[j * (n + 1) + i];
            here.drain(..here.partition_point(|&(value, _)| value < hopeless));
            columns[i] = here;
        }
    }
    (reached[n] / paths[n]).clamp(0.0, 1.0)
}

/// The most that a path can still gather after each point, row by row of j.
fn most_ahead(n: usize, m: usize, point: impl Fn(usize, usize) -> f64) -> Vec<f64> {
    let mut ahead = vec![0.0_f64; (n + 1) * (m + 1)];
    for j in (0..=m).rev() {
        for i in (0..=n).rev() {
            let at = |i: usize, j: usize| point(i, j) + ahead[j * (n + 1) + i];
            let right = if i < n { at(i + 1, j) } else { 0.0 };
            let up = if j < m { at(i, j + 1) } else { 0.0 };
            ahead[j * (n + 1) + i] = right.max(up);
        }
    }
    ahead
}

/// Two ascending tables of (value, count) as one.
fn joined(left: &[(f64, f64)], right: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let mut all = Vec::with_capacity(left.len() + right.len());
    let (mut i, mut j) = (0, 0);
    while let (Some(a), Some(b)) = (left.get(i), right.get(j)) {
        let order = a.0.total_cmp(&b.0);
        let (mine, other) = (order.is_le(), order.is_ge());
        let count = if mine { a.1 } else { 0.0 } + if other { b.1 } else { 0.0 };
        all.push((if mine { a.0 } else { b.0 }, count));
        i += usize::from(mine);
        j += usize::from(other);
    }
    all.extend_from_slice(&left[i..]);
    all.extend_from_slice(&right[j..]);
    all
}

/// The test on counts of the same ordered bins. T of the rows, as [`exact`] has it, lies in
/// `[statistic, statistic + error_bound]`.
///
/// **Proof**, bin by bin, for a bin with a rows of the reference and b of the window, after i and j
/// rows. What the rows add to U depends only on how they stand within the bin, and what is taken off
/// U does not depend on it at all. Let v be, for each of the a rows, the window's rows of the bin
/// below it plus half of those that equal it, and w the same for the b rows. Every pair counts once:
/// `sum v = S` and `sum w = a b - S`, with `0 <= v <= b` and `0 <= w <= a`. Then
///
/// `U_bin = n sum (j + v)^2 + m sum (i + w)^2 + E`, where E is what ties add within one side, at least
/// 0 and at most `n a (a^2 - 1) / 12 + m b (b^2 - 1) / 12` (all equal).
///
/// - By Cauchy's inequality `sum v^2 >= S^2 / a` and `sum w^2 >= (a b - S)^2 / b`. Put in, with E = 0,
///   this is a parabola in S, and its least value for S in `[0, a b]` is a lower bound.
/// - From `v <= b` and `w <= a`: `sum v^2 <= b S` and `sum w^2 <= a (a b - S)`. Put in, with the
///   largest E, this is a line in S, and the larger of its two ends is an upper bound.
///
/// Both are written as differences from the bin whose rows are all equal, for which the module has
/// the sum, and where S = a b / 2. That sum has no negative terms, so no bin adds less than 0.
///
/// p is that of the lower bound: too large rather than too small. The effect is that of the rows
/// rounded to the ends of their bins.
///
/// # Errors
/// [`Reason::DifferentBins`], [`Reason::NoReference`], or [`Reason::TooFewRows`] as above.
pub fn grid(reference: &[u64], window: &[u64]) -> Answer {
    let (n, m) = totals(reference, window, 0.0)?;
    if n.min(m) < 2.0 {
        return Err(Reason::TooFewRows);
    }
    let sizes = Sizes::of(n, m);
    let (mut low, mut high, mut beyond) = (0.0, 0.0, 0.0);
    let (mut below, mut other_below) = (0.0, 0.0);
    for (&a, &b) in reference.iter().zip(window) {
        let (a, b) = (a as f64, b as f64);
        let group = Group {
            below,
            other_below,
            a,
            b,
        };
        let (least, most) = group.range(&sizes);
        low += least;
        high += most;
        beyond += group.beyond_chance(&sizes);
        below += a;
        other_below += b;
    }
    let (low, high) = (sizes.statistic(low), sizes.statistic(high));
    Ok(sizes.outcome(low, sizes.tail(low), beyond, Some((high - low).max(0.0))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::merge::cut_up;
    use proptest::prelude::*;

    #[test]
    fn edges_have_written_answers() {
        assert_eq!(exact(&[], &[1.0]), Err(Reason::NoReference));
        assert_eq!(exact(&[1.0], &[]), Err(Reason::TooFewRows));
        assert_eq!(exact(&[1.0], &[1.0, 2.0]), Err(Reason::TooFewRows));
        assert_eq!(exact(&[1.0, 2.0], &[1.0]), Err(Reason::TooFewRows));
        assert_eq!(grid(&[], &[]), Err(Reason::NoReference));
        assert_eq!(grid(&[3], &[1]), Err(Reason::TooFewRows));
        assert_eq!(grid(&[1], &[1, 2]), Err(Reason::DifferentBins));
        let same = exact(&[7.0; 500], &[7.0; 300]).unwrap();
        assert!(same.statistic.abs() < 1e-300 && same.p_value == Some(1.0));
        assert!(same.effect.abs() < 1e-300);
        let two = exact(&[0.0, 1.0], &[2.0, 3.0]).unwrap();
        assert!((two.statistic - 0.375).abs() < 1e-15);
        assert!((two.p_value.unwrap() - 1.0 / 3.0).abs() < 1e-15);
    }

    #[test]
    fn infinities_and_huge_values_are_ordinary() {
        let side = [f64::NEG_INFINITY, -1e308, 0.0, 1e308, f64::INFINITY];
        let plain = [1.0, 2.0, 3.0, 4.0, 5.0];
        let shifted = [-1e308, 0.0, 1e308, f64::INFINITY, f64::INFINITY];
        assert_eq!(
            exact(&side, &shifted),
            exact(&plain, &[2.0, 3.0, 4.0, 5.0, 5.0])
        );
    }

    #[test]
    fn disjoint_sides_are_as_far_as_can_be() {
        let low: Vec<f64> = (0..1000).map(f64::from).collect();
        let high: Vec<f64> = (2000..2500).map(f64::from).collect();
        let outcome = exact(&low, &high).unwrap();
        assert!((outcome.effect - (1.0_f64 / 3.0).sqrt()).abs() < 0.01);
        assert!(outcome.p_value.unwrap() < 1e-100 && outcome.p_value.unwrap() > 0.0);
    }

    #[test]
    fn equal_distributions_of_few_levels_have_no_effect() {
        let levels =
            |rows: usize| -> Vec<f64> { (0..rows).map(|i| (3 * i / rows) as f64).collect() };
        let outcome = exact(&levels(5000), &levels(3000)).unwrap();
        assert!(outcome.effect < 1e-3, "{}", outcome.effect);
    }

    #[test]
    fn a_hundred_thousand_levels_and_huge_counts_are_bearable() {
        let counts = vec![3; 100_000];
        assert!(grid(&counts, &counts).unwrap().effect.abs() < 1e-300);
        assert!(grid(&[u64::MAX, u64::MAX], &[u64::MAX, 1]).unwrap().effect > 0.0);
    }

    proptest! {
        #[test]
        fn the_grid_brackets_the_exact_statistic(
            mut reference in prop::collection::vec(-50..50_i32, 2..80),
            mut window in prop::collection::vec(-60..40_i32, 2..80),
            cuts in prop::collection::vec(-40..40_i32, 1..12),
            per in prop::sample::select(vec![1, 7, 1000]),
        ) {
            // Whole numbers tie often; spread by a row's own fraction they hardly do.
            let spread = |values: &mut Vec<i32>| {
                values.sort_unstable();
                let mut side: Vec<f64> = values
                    .iter()
                    .enumerate()
                    .map(|(i, &v)| f64::from(v) + (i * 7919 % per) as f64 / per as f64)
                    .collect();
                side.sort_by(f64::total_cmp);
                side
            };
            let (reference, window) = (spread(&mut reference), spread(&mut window));
            prop_assume!(!all_equal(&reference, &window));
            let truth = exact(&reference, &window).unwrap().statistic;
            let (left, right) = cut_up(&reference, &window, &cuts);
            let bins = grid(&left, &right).unwrap();
            prop_assert!(bins.statistic <= truth + 1e-9, "{} {}", bins.statistic, truth);
            prop_assert!(truth <= bins.statistic + bins.error_bound.unwrap() + 1e-9);
        }

        #[test]
        fn the_sum_is_the_statistic_of_the_literature(
            mut reference in prop::collection::vec(-9..9_i32, 2..60),
            mut window in prop::collection::vec(-9..9_i32, 2..60),
        ) {
            reference.sort_unstable();
            window.sort_unstable();
            let side = |values: &[i32]| values.iter().map(|&v| f64::from(v)).collect::<Vec<_>>();
            let (reference, window) = (side(&reference), side(&window));
            prop_assume!(!all_equal(&reference, &window));
            let rank = |x: f64| {
                let count = |side: &[f64]| {
                    (side.partition_point(|&v| v < x) + side.partition_point(|&v| v <= x)) as f64
                };
                (count(&reference) + count(&window) + 1.0) / 2.0
            };
            let squares = |side: &[f64]| -> f64 {
                side.iter().enumerate().map(|(i, &x)| (rank(x) - i as f64 - 1.0).powi(2)).sum()
            };
            let (n, m) = (reference.len() as f64, window.len() as f64);
            let u = n * squares(&reference) + m * squares(&window);
            let t = u / (n * m * (n + m)) - (4.0 * n * m - 1.0) / (6.0 * (n + m));
            prop_assert!((exact(&reference, &window).unwrap().statistic - t).abs() < 1e-9);
        }
    }
}
