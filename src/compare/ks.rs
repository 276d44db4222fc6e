//! Two-sample Kolmogorov-Smirnov.
//!
//! **Question**: is there a value below which the window holds a different share of rows than the
//! reference? Any change of a continuous distribution shows, best one in the middle.
//!
//! **Formula**: `D = sup |F(x) - G(x)|` over all x, with F and G the empirical distribution
//! functions. The effect is D itself: 0.1 means that some threshold splits the two sides with shares
//! ten points apart.
//!
//! **p-value**: exact up to 10,000 rows on both sides ([`super::law::smirnov`]); above that, and on bins,
//! the one-sample law with n = round(m n / (m + n)), rounded half to even, at least 1
//! ([`super::law::kolmogorov`]). This is what `scipy.stats.ks_2samp` chooses. Source: Hodges 1958; Simard
//! and L'Ecuyer 2011.
//!
//! **Assumes** independent rows and a continuous distribution. With ties p is too large, never too
//! small. Infinities are values like any other; NaN must not come in (it is counted elsewhere).
//!
//! **Small samples**: with one row a side D is 0 or 1 and p is 1. **Not for** labels without an
//! order, nor for tails: a change of the last percent moves D by at most 0.01.

use super::law::{kolmogorov, smirnov};
use super::merge::Places;
use super::{Answer, Outcome, totals};

/// Up to this many rows on both sides p is exact.
const EXACT_ROWS: u64 = 10_000;

/// The test on all rows; both slices ascending.
///
/// # Errors
/// [`super::Reason::NoReference`] or [`super::Reason::TooFewRows`] for an empty side.
pub fn exact(reference_sorted: &[f64], window_sorted: &[f64]) -> Answer {
    Ok(of(&Places::of(reference_sorted, window_sorted)?))
}

pub(super) fn of(places: &Places<'_>) -> Outcome {
    let (m, n) = (places.reference.len() as u64, places.window.len() as u64);
    let g = smirnov::gcd(m, n);
    // A whole number, without rounding up to 2^53.
    let (above, below) = places.largest_gaps((n / g) as f64, (m / g) as f64);
    let h = above.max(below);
    // D = h / lcm(m, n), and lcm = m (n / g) may not fit 64 bits.
    let statistic = h / (m as f64 * (n / g) as f64);
    let p = if m.max(n) <= EXACT_ROWS {
        smirnov::sf(m, n, whole(h))
    } else {
        asymptotic(m as f64, n as f64, statistic)
    };
    Outcome::plain(statistic, Some(p))
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a whole number of at most 10,000 squared"
)]
fn whole(h: f64) -> u64 {
    h as u64
}

fn asymptotic(m: f64, n: f64, statistic: f64) -> f64 {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "below either count"
    )]
    let rows = (m * n / (m + n)).round_ties_even() as u64;
    kolmogorov::sf(rows, statistic)
}

/// The test on counts of the same ordered bins: below the first cut, `[cut, next cut)`, from the
/// last cut on.
///
/// D at the cuts is a lower bound of the true D, which may stand inside a bin. **The bound**: let
/// F - G be e at the start of a bin that holds the shares r of the reference and w of the window.
/// Inside the bin F grows from F0 to at most F0 + r and G from G0 to at most G0 + w, so that
/// `e - w <= F - G <= e + r` there. Hence `D <= max over bins of max(e + r, w - e)`, and
/// `error_bound` is that minus D at the cuts. It is at most the largest share in a bin: 1/256 for a
/// window like the reference on 256 quantile bins without ties.
///
/// p is the asymptotic one of D at the cuts: with a bin's width lost, it is too large rather than
/// too small.
///
/// # Errors
/// [`super::Reason::DifferentBins`], [`super::Reason::NoReference`], [`super::Reason::TooFewRows`].
pub fn grid(reference: &[u64], window: &[u64]) -> Answer {
    let (m, n) = totals(reference, window, 0.0)?;
    let (mut below, mut other_below) = (0_u64, 0_u64);
    let (mut at_cuts, mut anywhere) = (0.0_f64, 0.0_f64);
    for (&left, &right) in reference.iter().zip(window) {
        let start = below as f64 / m - other_below as f64 / n;
        anywhere = anywhere
            .max(start + left as f64 / m)
            .max(right as f64 / n - start);
        (below, other_below) = (
            below.saturating_add(left),
            other_below.saturating_add(right),
        );
        at_cuts = at_cuts.max((below as f64 / m - other_below as f64 / n).abs());
    }
    let p = asymptotic(m, n, at_cuts);
    let error_bound = Some((anywhere.min(1.0) - at_cuts).max(0.0));
    Ok(Outcome {
        error_bound,
        ..Outcome::plain(at_cuts, Some(p))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::Reason;
    use proptest::prelude::*;

    #[test]
    fn edges_have_written_answers() {
        assert_eq!(exact(&[], &[]), Err(Reason::NoReference));
        assert_eq!(exact(&[1.0], &[]), Err(Reason::TooFewRows));
        assert_eq!(
            exact(&[7.0; 500], &[7.0; 300]),
            Ok(Outcome::plain(0.0, Some(1.0)))
        );
        assert_eq!(exact(&[0.0], &[1.0]), Ok(Outcome::plain(1.0, Some(1.0))));
        assert_eq!(exact(&[0.0], &[-0.0]), Ok(Outcome::plain(0.0, Some(1.0))));
        assert_eq!(grid(&[], &[]), Err(Reason::NoReference));
        assert_eq!(grid(&[1], &[0]), Err(Reason::TooFewRows));
        assert_eq!(grid(&[1], &[1, 2]), Err(Reason::DifferentBins));
    }

    #[test]
    fn infinities_and_huge_values_are_ordinary() {
        let side = [f64::NEG_INFINITY, -1e308, 0.0, 1e308, f64::INFINITY];
        assert_eq!(exact(&side, &side), Ok(Outcome::plain(0.0, Some(1.0))));
        let other = [-1e308, 0.0, 1e308, f64::INFINITY, f64::INFINITY];
        let outcome = exact(&side, &other).unwrap();
        assert!((outcome.statistic - 0.2).abs() < 1e-15);
    }

    #[test]
    fn one_bin_says_nothing_and_the_bound_says_so() {
        let outcome = grid(&[0, 10, 0], &[0, 20, 0]).unwrap();
        assert!(outcome.statistic.abs() < 1e-15 && outcome.p_value == Some(1.0));
        assert!((outcome.error_bound.unwrap() - 1.0).abs() < 1e-15);
    }

    #[test]
    fn huge_counts_do_not_overflow() {
        assert!(grid(&[u64::MAX, u64::MAX], &[u64::MAX, 1]).is_ok());
    }

    proptest! {
        #[test]
        fn the_grid_brackets_the_exact_statistic(
            mut reference in prop::collection::vec(-5.0..5.0_f64, 1..80),
            mut window in prop::collection::vec(-6.0..4.0_f64, 1..80),
            mut cuts in prop::collection::vec(-4.0..4.0_f64, 1..12),
        ) {
            reference.sort_by(f64::total_cmp);
            window.sort_by(f64::total_cmp);
            cuts.sort_by(f64::total_cmp);
            let count = |values: &[f64]| {
                let mut counts = vec![0; cuts.len() + 1];
                values.iter().for_each(|v| counts[cuts.partition_point(|cut| cut <= v)] += 1);
                counts
            };
            let truth = exact(&reference, &window).unwrap().statistic;
            let bins = grid(&count(&reference), &count(&window)).unwrap();
            prop_assert!(bins.statistic <= truth + 1e-12);
            prop_assert!(truth <= bins.statistic + bins.error_bound.unwrap() + 1e-12);
        }
    }
}
