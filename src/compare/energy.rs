//! Energy distance.
//!
//! **Question**: how far are the two distributions from each other, large gaps between the distribution
//! functions counting more than wide ones? Wasserstein's sibling with a square under the integral.
//!
//! **Formula**: `sqrt(2 integral (F - G)^2 dx)`, in the root of the feature's unit. Source: G. Szekely and
//! M. Rizzo 2013; it is `scipy.stats.energy_distance`.
//!
//! **Effect**: `sqrt((D^2 - chance) / sd)`, with sd the reference's standard deviation: in no unit. Chance
//! is what D^2 is expected to be if the rows of both sides were dealt out at random: where t of N rows
//! are at or below x, `(F - G)^2` is `t (N - t) / (n m (N - 1))` on average. 0 where D^2 is below it. A
//! shift of a tenth of a standard deviation of a normal feature gives about 0.075.
//!
//! **p-value**: none. Its law depends on the distribution.
//!
//! **Edges**: as [`super::wasserstein`]. Equal sides give 0, whatever the scale; unequal sides of a
//! reference that does not vary have no scale ([`Reason::NoVariance`]). Infinities match infinities of the
//! same sign; where their shares differ the distance is infinite ([`Reason::NotFinite`]). **Not for**
//! features whose standard deviation is ruled by a few rows.

use super::merge::{not_empty, ties};
use super::wasserstein::{BinSum, Finite, bins, safe_unit};
use super::{Answer, Outcome, Reason};

/// The distance on all rows; both slices ascending; `scale` is the reference's standard deviation.
///
/// # Errors
/// [`Reason::NoReference`], [`Reason::TooFewRows`], [`Reason::NoVariance`], [`Reason::NotFinite`].
pub fn exact(reference_sorted: &[f64], window_sorted: &[f64], scale: f64) -> Answer {
    not_empty(reference_sorted, window_sorted)?;
    let (left, right) = Finite::matched(reference_sorted, window_sorted)?;
    let (n, m) = (reference_sorted.len() as f64, window_sorted.len() as f64);
    let unit = safe_unit(left.largest().max(right.largest()));
    let (mut square, mut chance) = (0.0, 0.0);
    let mut last = None;
    for tie in ties(left.values, right.values) {
        if let Some(at) = last {
            let f = (left.below + tie.reference_below) as f64;
            let g = (right.below + tie.window_below) as f64;
            let width = tie.value * unit - at * unit;
            square += width * (f / n - g / m).powi(2);
            chance += width * by_chance(f + g, n, m);
        }
        last = Some(tie.value);
    }
    outcome(square / unit, square / unit, chance / unit, scale)
}

/// Expectation of `(F - G)^2` where t of the pooled rows are.
fn by_chance(t: f64, n: f64, m: f64) -> f64 {
    t / n * ((n + m - t) / m) / (n + m - 1.0)
}

/// From `integral (F - G)^2 dx`, its bounds and its expectation.
fn outcome(least: f64, most: f64, chance: f64, scale: f64) -> Answer {
    let statistic = finite((2.0 * least).sqrt())?;
    let effect = if statistic <= 0.0 {
        0.0
    } else if scale > 0.0 {
        finite(((2.0 * (least - chance)).max(0.0) / scale).sqrt())?
    } else {
        return Err(Reason::NoVariance);
    };
    let bound = finite((2.0 * most).sqrt() - statistic)?;
    Ok(Outcome {
        statistic,
        p_value: None,
        expected: None,
        effect,
        error_bound: (most > least).then_some(bound),
    })
}

fn finite(value: f64) -> Result<f64, Reason> {
    if value.is_finite() {
        Ok(value.max(0.0))
    } else {
        Err(Reason::NotFinite)
    }
}

/// The distance from counts and sums per bin; arguments as in [`super::wasserstein::grid`].
///
/// D lies in `[statistic, statistic + error_bound]`. **Proof**, bin by bin, with the names of that
/// function: over a bin [a, b) the signed area A of F - G is known and the area of |F - G| is at most Q.
/// By Cauchy's inequality the integral of `(F - G)^2` is at least `A^2 / (b - a)`. And |F - G| is nowhere
/// more than `M = max(e + r, w - e)`, so that the integral is at most `M Q`, and at most `M^2 (b - a)`.
///
/// The effect is that of the lower bound, less chance as it is for rows spread evenly over their bins.
///
/// # Errors
/// As [`exact`], and [`Reason::DifferentBins`].
pub fn grid(
    cuts: &[f64],
    reference: &[BinSum],
    window: &[BinSum],
    range: (f64, f64),
    scale: f64,
) -> Answer {
    let (bins, unit) = bins(cuts, reference, window, range)?;
    let rows = |side: &[BinSum]| side.iter().map(|bin| bin.count as f64).sum::<f64>();
    let (n, m) = (rows(reference), rows(window));
    let (mut least, mut most, mut chance, mut before) = (0.0, 0.0, 0.0, 0.0);
    for (bin, counts) in bins.iter().zip(reference.iter().zip(window)) {
        let here = (counts.0.count as f64) + (counts.1.count as f64);
        let width = bin.width();
        if width > 0.0 {
            let (area, highest) = (bin.signed_area(), bin.highest());
            let low = area * (area / width);
            least += low;
            most += (highest * bin.most())
                .min(highest * highest * width)
                .max(low);
            chance += width * by_chance(before + here / 2.0, n, m);
        }
        before += here;
    }
    let answer = outcome(least / unit, most / unit, chance / unit, scale)?;
    Ok(Outcome {
        error_bound: answer.error_bound.or(Some(0.0)),
        ..answer
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::wasserstein::bin_up;
    use proptest::prelude::*;

    #[test]
    fn edges_have_written_answers() {
        assert_eq!(exact(&[], &[], 1.0), Err(Reason::NoReference));
        assert_eq!(exact(&[1.0], &[], 1.0), Err(Reason::TooFewRows));
        let same = exact(&[7.0; 5], &[7.0; 3], 0.0).unwrap();
        assert_eq!(same, Outcome::plain(0.0, None));
        assert_eq!(exact(&[7.0; 5], &[8.0; 3], 0.0), Err(Reason::NoVariance));
        assert_eq!(
            exact(&[7.0; 5], &[8.0; 3], f64::NAN),
            Err(Reason::NoVariance)
        );
        let apart = exact(&[0.0], &[1.0], 1.0).unwrap();
        assert!((apart.statistic - 2.0_f64.sqrt()).abs() < 1e-15);
        assert!(apart.effect.abs() < 1e-15); // one against one is always that far
        let two = exact(&[0.0, 1.0], &[0.0, 1.0], 0.5).unwrap();
        assert!(two.statistic.abs() < 1e-300);
    }

    #[test]
    fn infinities_match_or_are_infinitely_far() {
        let inf = f64::INFINITY;
        assert_eq!(exact(&[0.0, inf], &[1.0, 2.0], 1.0), Err(Reason::NotFinite));
        let matched = exact(&[-inf, 0.0, inf], &[-inf, 3.0, inf], 1.0).unwrap();
        assert!((matched.statistic - (6.0_f64 / 9.0).sqrt()).abs() < 1e-15);
        assert!(exact(&[inf], &[inf], 1.0).unwrap().statistic.abs() < 1e-300);
    }

    #[test]
    fn huge_values_overflow_only_where_the_answer_does() {
        let far = exact(&[-1e308; 9], &[1e308; 9], 1e308);
        assert_eq!(far, Err(Reason::NotFinite)); // 2e308 is no float, though its root is
        let near = exact(&[-1e308, 1e308], &[1e308, 1e308], 1e308).unwrap();
        assert!((near.statistic / 1e154 - 1.0).abs() < 1e-12);
    }

    #[test]
    fn a_grid_has_its_edges_too() {
        let empty = [BinSum::default(); 2];
        let full = [BinSum { count: 2, sum: 1.0 }, BinSum { count: 1, sum: 2.0 }];
        let ask = |left: &[BinSum], right: &[BinSum], range| grid(&[1.0], left, right, range, 1.0);
        assert_eq!(ask(&empty, &full, (0.0, 2.0)), Err(Reason::NoReference));
        assert_eq!(ask(&full, &empty, (0.0, 2.0)), Err(Reason::TooFewRows));
        assert_eq!(
            ask(&full[1..], &full, (0.0, 2.0)),
            Err(Reason::DifferentBins)
        );
        assert_eq!(ask(&full, &full, (0.0, f64::NAN)), Err(Reason::NotFinite));
        let same = ask(&full, &full, (0.0, 2.0)).unwrap();
        assert!(same.statistic.abs() < 1e-300 && same.error_bound.unwrap() > 0.0);
    }

    proptest! {
        #[test]
        fn the_grid_brackets_the_exact_distance(
            mut reference in prop::collection::vec(-5.0..5.0_f64, 1..60),
            mut window in prop::collection::vec(-6.0..4.0_f64, 1..60),
            mut cuts in prop::collection::vec(-4.0..4.0_f64, 0..12),
            step in prop::sample::select(vec![0.0, 0.5]),
        ) {
            let tied = |v: &mut f64| if step > 0.0 { *v = (*v / step).round() * step };
            reference.iter_mut().chain(window.iter_mut()).for_each(tied);
            for side in [&mut reference, &mut window, &mut cuts] {
                side.sort_by(f64::total_cmp);
            }
            let truth = exact(&reference, &window, 1.0).unwrap().statistic;
            let (left, right, range) = bin_up(&reference, &window, &cuts);
            let bins = grid(&cuts, &left, &right, range, 1.0).unwrap();
            prop_assert!(bins.statistic <= truth + 1e-7, "{} {truth}", bins.statistic);
            prop_assert!(truth <= bins.statistic + bins.error_bound.unwrap() + 1e-7);
        }
    }
}
