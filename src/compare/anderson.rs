//! Two-sample Anderson-Darling, midrank version.
//!
//! **Question**: as Cramér-von Mises, with the tails counting as much as the middle: `(F - G)^2` is
//! weighted by `1 / (H (1 - H))`, H the distribution function of all rows.
//!
//! **Formula**: over the distinct values, l rows at each, B below plus l / 2, and M of the reference
//! counted likewise: `A = (N - 1)/N (1/n + 1/m) sum l/N (N M - n B)^2 / (B (N - B) - N l / 4)`. The
//! statistic is `(A - 1) / sigma`, with sigma the exact standard deviation without ties and without
//! drift. Source: F. W. Scholz and M. A. Stephens 1987; it is `scipy.stats.anderson_ksamp` with
//! `variant="midrank"`.
//!
//! **Effect**: `sqrt((A - 1) N / (n m))`, 0 where A is below its expectation 1: the root of the
//! weighted mean square of F - G, less what chance alone gives.
//!
//! **p-value**: between 0.325 and 6.546 the parabola through the logarithms of a published table that
//! scipy uses. Beyond, scipy answers 0.25 and 0.001 whatever the statistic. An adjustment over 30
//! features needs to tell 1e-3 from 1e-9, so here p goes on as the tail of the limiting law
//! ([`super::law::quadratic`]) at `1 + sigma_inf * statistic`, but never below 0.25 on the near side
//! nor above 0.001 on the far one. It falls throughout and contradicts scipy nowhere.
//!
//! **Assumes** independent rows. The statistic provides for ties; its law, here as in scipy, is that without
//! them, so that on features of few values p is too small far out: with Poisson counts of mean 1, 10,000
//! rows against 1,000, it was under 0.0008 in 4 windows of 500 without drift. Infinities are values like any other.
//!
//! **Small samples**: sigma needs four rows on both sides together ([`Reason::TooFewRows`]); far tails
//! of a dozen rows are those of the limiting law, and smaller than any order of rows can have. Two
//! sides that hold one and the same value have the statistic 0 and p = 1. **Not for** features where a
//! new extreme value now and then is no news.

use super::law::quadratic;
use super::merge::{all_equal, not_empty, ties};
use super::{Answer, Outcome, Reason, totals};

/// Least squares of ln p by the statistic over the seven points of the table for two samples
/// (Scholz and Stephens, table 2): constant, slope, curvature.
const TABLE: [f64; 3] = [
    -1.077_770_279_820_484,
    -1.008_226_564_465_251_5,
    0.018_198_094_574_111_47,
];

/// First and last statistic of the table.
const TABLE_ENDS: [f64; 2] = [0.325, 6.546];

/// The test on all rows; both slices ascending.
///
/// # Errors
/// [`Reason::NoReference`], or [`Reason::TooFewRows`] for an empty window or fewer than four rows.
pub fn exact(reference_sorted: &[f64], window_sorted: &[f64]) -> Answer {
    not_empty(reference_sorted, window_sorted)?;
    let (n, m) = (reference_sorted.len() as f64, window_sorted.len() as f64);
    if n + m < 4.0 {
        return Err(Reason::TooFewRows);
    }
    if all_equal(reference_sorted, window_sorted) {
        return Ok(nothing());
    }
    let groups =
        ties(reference_sorted, window_sorted).map(|tie| (tie.reference as f64, tie.window as f64));
    Ok(outcome(squares(n, m, groups), n, m))
}

/// The test on counts of the same ordered bins, the rows of a bin taken as tied.
///
/// A test of its own, of whether the bins have the same shares: its level holds whatever the bins,
/// since ties are provided for. It comes without an `error_bound`, because the weight is unbounded
/// at the ends of the range, where a bin can hide any value of the statistic of the rows.
///
/// # Errors
/// [`Reason::DifferentBins`], [`Reason::NoReference`], [`Reason::TooFewRows`] as above.
pub fn grid(reference: &[u64], window: &[u64]) -> Answer {
    let (n, m) = totals(reference, window, 0.0)?;
    if n + m < 4.0 {
        return Err(Reason::TooFewRows);
    }
    let occupied: Vec<(f64, f64)> = super::occupied(reference, window).collect();
    if occupied.len() < 2 {
        return Ok(nothing());
    }
    Ok(outcome(squares(n, m, occupied.into_iter()), n, m))
}

/// Nothing varies.
fn nothing() -> Outcome {
    Outcome {
        expected: Some(0.0),
        ..Outcome::plain(0.0, Some(1.0))
    }
}

/// A of the module, from the rows of both sides at each value.
fn squares(n: f64, m: f64, groups: impl Iterator<Item = (f64, f64)>) -> f64 {
    let all = n + m;
    let (mut below, mut other_below, mut sum) = (0.0, 0.0, 0.0);
    for (a, b) in groups {
        let l = a + b;
        let middle = below + other_below + l / 2.0;
        // (N M - n B) / N, and B (N - B) - N l / 4 over N.
        let gap = (m * (below + a / 2.0) - n * (other_below + b / 2.0)) / all;
        let spread = middle * ((all - middle) / all) - l / 4.0;
        if spread > 0.0 {
            sum += l * (gap * (gap / spread));
        }
        below += a;
        other_below += b;
    }
    (all - 1.0) / all * (1.0 / n + 1.0 / m) * sum
}

fn outcome(squares: f64, n: f64, m: f64) -> Outcome {
    let statistic = (squares - 1.0) / deviation(n, m);
    Outcome {
        statistic,
        p_value: Some(tail(statistic)),
        expected: Some(0.0),
        effect: ((squares - 1.0) * (1.0 / n + 1.0 / m)).max(0.0).sqrt(),
        error_bound: None,
    }
}

/// sigma of A for two samples (Scholz and Stephens, equation 4), each power of N divided out.
fn deviation(n: f64, m: f64) -> f64 {
    let all = n + m;
    let (harmonic, double) = sums(all);
    let (h, g, sizes) = (harmonic, double, 1.0 / n + 1.0 / m);
    let a = 4.0 * g - 6.0 + (10.0 - 6.0 * g) * sizes;
    let b =
        8.0 * g - 16.0 + 16.0 * h + (2.0 * g - 14.0 * h - 4.0) * sizes - 8.0 * h + 4.0 * g - 6.0;
    let c = 4.0 * (6.0 * h + 2.0 * g - 2.0)
        + 2.0 * (4.0 * h - 4.0 * g + 6.0)
        + (2.0 * h - 6.0) * sizes
        + 4.0 * h;
    let d = 4.0 * (2.0 * h + 6.0) - 8.0 * h;
    let cubic = a + (b + (c + d / all) / all) / all;
    let falling = (1.0 - 1.0 / all) * (1.0 - 2.0 / all) * (1.0 - 3.0 / all);
    (cubic / falling).sqrt()
}

/// `h = sum of 1/i for i < N` and `g = sum over i < j < N of 1 / ((N - i) j)`, i from 1. With the
/// harmonic numbers `H = sum of 1/i` and `K = sum of 1/i^2` up to N, g is `K - 2 h / N - 1 / N^2`, since
/// the sum of `H_(N-j) / j` over j < N is `H^2 - K`. Beyond a thousand rows by Euler and Maclaurin.
fn sums(all: f64) -> (f64, f64) {
    const DIRECT: f64 = 1000.0;
    const EULER: f64 = 0.577_215_664_901_532_9;
    let (inverse, square) = (1.0 / all, 1.0 / all / all);
    let (mut h, mut squares) = (0.0, square);
    if all > DIRECT {
        h = all.ln() + EULER - inverse / 2.0 - square / 12.0 + square * square / 120.0;
        squares = std::f64::consts::PI.powi(2) / 6.0 - inverse + square / 2.0
            - square * inverse / 6.0
            + square * square * inverse / 30.0;
    } else {
        let mut i = 1.0;
        while i < all {
            h += 1.0 / i;
            squares += 1.0 / i / i;
            i += 1.0;
        }
    }
    (h, squares - 2.0 * h * inverse - square)
}

fn tail(statistic: f64) -> f64 {
    // The law has the mean 1 and the variance 2 sum of 1/(j (j + 1))^2 = 2 pi^2 / 3 - 6.
    let spread = (2.0 * std::f64::consts::PI.powi(2) / 3.0 - 6.0).sqrt();
    let law = || quadratic::anderson_darling(1.0 + spread * statistic);
    if statistic < TABLE_ENDS[0] {
        law().max(0.25)
    } else if statistic > TABLE_ENDS[1] {
        law().min(0.001)
    } else {
        (TABLE[0] + statistic * (TABLE[1] + statistic * TABLE[2])).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edges_have_written_answers() {
        assert_eq!(exact(&[], &[1.0]), Err(Reason::NoReference));
        assert_eq!(exact(&[1.0], &[]), Err(Reason::TooFewRows));
        assert_eq!(exact(&[1.0], &[2.0]), Err(Reason::TooFewRows));
        assert_eq!(exact(&[1.0, 2.0], &[2.0]), Err(Reason::TooFewRows));
        assert_eq!(exact(&[7.0; 500], &[7.0; 300]), Ok(nothing()));
        assert_eq!(grid(&[1, 2], &[1]), Err(Reason::DifferentBins));
        assert_eq!(grid(&[0, 0], &[1, 5]), Err(Reason::NoReference));
        assert_eq!(grid(&[1, 0], &[0, 1]), Err(Reason::TooFewRows));
        assert_eq!(grid(&[0, 9], &[0, 5]), Ok(nothing()));
        assert!(exact(&[0.0, 1.0], &[2.0, 3.0]).unwrap().effect > 0.0);
        assert!(exact(&[1.0, 2.0, 3.0], &[2.5]).unwrap().p_value > Some(0.2));
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
    fn bins_that_hold_one_value_each_lose_nothing() {
        let (left, right) = ([1.0, 2.0, 2.0, 3.0, 9.0], [2.0, 3.0, 3.0, 9.0]);
        let bins = grid(&[1, 2, 0, 1, 1], &[0, 1, 0, 2, 1]).unwrap();
        assert_eq!(exact(&left, &right), Ok(bins));
    }

    #[test]
    fn p_falls_throughout_and_keeps_to_its_side_of_the_table() {
        let mut last = 1.0;
        for step in -200..20_000 {
            let statistic = f64::from(step) * 0.01;
            let p = tail(statistic);
            assert!(p <= last && p >= 0.0, "{statistic}: {p} after {last}");
            assert!(p <= 0.001 || statistic <= TABLE_ENDS[1]);
            assert!(p >= 0.25 || statistic >= TABLE_ENDS[0]);
            last = p;
        }
    }

    #[test]
    fn the_sums_are_what_they_are_short_for() {
        let direct = |all: u32| {
            let (mut partial, mut g) = (0.0, 0.0);
            for j in 2..all {
                partial += 1.0 / f64::from(all + 1 - j);
                g += partial / f64::from(j);
            }
            (partial + 1.0, g)
        };
        for all in [4, 5, 20, 999, 1000, 1001, 5000] {
            let ((h, g), (long_h, long_g)) = (sums(f64::from(all)), direct(all));
            assert!(
                (h - long_h).abs() < 1e-13 && (g - long_g).abs() < 1e-13,
                "{all}"
            );
        }
    }

    #[test]
    fn a_hundred_thousand_levels_and_huge_counts_are_bearable() {
        let counts = vec![3; 100_000];
        assert!(grid(&counts, &counts).unwrap().effect.abs() < 1e-300);
        let far = grid(&[u64::MAX, 0], &[0, u64::MAX]).unwrap();
        assert!(far.statistic.is_finite() && far.p_value.unwrap() < 1e-300);
    }
}
