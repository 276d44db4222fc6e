//! Wasserstein-1 distance (earth mover's).
//!
//! **Question**: how far, on average, would the reference's values have to be moved to become the
//! window's?
//!
//! **Formula**: `W1 = integral |F(x) - G(x)| dx` over all x, in the feature's own unit. The effect is W1
//! over the baseline's standard deviation: 0.1 is what a shift of a tenth of that deviation gives.
//! Source: S. Vallender 1974; `scipy.stats.wasserstein_distance`.
//!
//! **p-value**: none. Its law depends on the distribution; the effect alone decides, and without drift
//! it is about 1.2 / sqrt(rows of the window) for a normal feature, more with heavy tails.
//!
//! **Edges**: equal sides give 0, whatever the scale; unequal sides of a baseline that does not vary
//! have no scale ([`Reason::NoVariance`]). Infinities match infinities of the same sign; where their
//! shares differ the distance is infinite ([`Reason::NotFinite`]), as where it leaves the range of
//! floats. **Not for** features whose standard deviation is ruled by a few rows: one row at 1e12
//! moves the distance and hides all else in the effect.
//!
//! [`normed`] is the same test with the effect for its statistic. Other packages put a floor under the
//! deviation (Evidently: 0.001), so that features in small units never drift; here there is none.

use std::ops::Range;

use super::merge::Places;
use super::{Answer, Outcome, Reason};

/// The distance on all rows; both slices ascending; `scale` is the baseline's standard deviation.
///
/// # Errors
/// [`Reason::NoReference`], [`Reason::TooFewRows`], [`Reason::NoVariance`], [`Reason::NotFinite`].
pub fn exact(reference_sorted: &[f64], window_sorted: &[f64], scale: f64) -> Answer {
    of(&Places::of(reference_sorted, window_sorted)?, scale)
}

pub(super) fn of(places: &Places<'_>, scale: f64) -> Answer {
    outcome(area(places)?, None, scale)
}

/// Either answer with the distance, and the bound, in standard deviations of the reference; `scale` is
/// the one it was made with, of divisor n. Where the sides agree it is 0, whatever the scale. A grid of a
/// reference that does not vary, in which they may agree or not, has no answer.
///
/// # Errors
/// Those of the answer, [`Reason::NoVariance`], [`Reason::NotFinite`].
pub fn normed(answer: Answer, scale: f64) -> Answer {
    let plain = answer?;
    let error_bound = match plain.error_bound {
        Some(bound) if bound <= 0.0 => Some(0.0),
        Some(bound) if scale > 0.0 => Some(finite(bound / scale)?),
        Some(_) => return Err(Reason::NoVariance),
        None => None,
    };
    Ok(Outcome {
        statistic: plain.effect,
        error_bound,
        ..plain
    })
}

/// The finite middle of a sorted side, and how many infinities stand on either end.
pub(super) struct Finite<'a> {
    pub(super) values: &'a [f64],
    pub(super) below: usize,
    above: usize,
}

impl<'a> Finite<'a> {
    fn of(sorted: &'a [f64]) -> Self {
        let below = sorted.partition_point(|&value| value == f64::NEG_INFINITY);
        let end = sorted
            .partition_point(|&value| value < f64::INFINITY)
            .max(below);
        Self {
            values: &sorted[below..end],
            below,
            above: sorted.len() - end,
        }
    }

    /// Both sides, where the shares of their infinities are equal.
    pub(super) fn matched(reference: &'a [f64], window: &'a [f64]) -> Result<(Self, Self), Reason> {
        let (left, right) = (Self::of(reference), Self::of(window));
        let (n, m) = (reference.len() as u128, window.len() as u128);
        if left.below as u128 * m != right.below as u128 * n
            || left.above as u128 * m != right.above as u128 * n
        {
            return Err(Reason::NotFinite);
        }
        Ok((left, right))
    }

    pub(super) fn largest(&self) -> f64 {
        let ends = [self.values.first(), self.values.last()];
        ends.into_iter()
            .flatten()
            .fold(0.0, |most, value| value.abs().max(most))
    }
}

/// The area between F and G, over the finite values. From one value of the window to the next G stands still,
/// and F rises by one row at a time.
fn area(places: &Places<'_>) -> Result<f64, Reason> {
    let (reference, window) = (places.reference, places.window);
    let (left, right) = Finite::matched(reference, window)?;
    let (n, m) = (reference.len() as f64, window.len() as f64);
    let unit = safe_unit(left.largest().max(right.largest()));
    let ends = [left.values.first(), right.values.first()];
    let mut from = ends
        .into_iter()
        .flatten()
        .fold(f64::INFINITY, |a, b| a.min(*b));
    // n m (F - G) is a whole number.
    let share = 1.0 / (n * m);
    let (mut area, mut i, mut beside) = (0.0, left.below, right.below as f64 * n);
    let mut stretch = |rows: Range<usize>, to: f64, beside: f64| {
        let mut gap = rows.start as f64 * m - beside;
        for row in &reference[rows] {
            area += (row * unit - from * unit) * (gap.abs() * share);
            gap += m;
            from = *row;
        }
        area += (to * unit - from * unit) * (gap.abs() * share);
        from = to;
    };
    for tie in places.ties.iter().filter(|tie| tie.value.is_finite()) {
        stretch(i..tie.reference_below, tie.value, beside);
        i = tie.reference_below + tie.reference;
        beside = (tie.window_below + tie.window) as f64 * n;
    }
    let end = left.below + left.values.len();
    if let Some(last) = left.values.last().filter(|_| i < end) {
        stretch(i..end, *last, beside);
    }
    finite(area / unit)
}

/// A power of two by which values are multiplied so that their differences stay in range.
pub(super) fn safe_unit(largest: f64) -> f64 {
    if largest > 1e300 {
        2.0_f64.powi(-64)
    } else {
        1.0
    }
}

fn finite(value: f64) -> Result<f64, Reason> {
    if value.is_finite() {
        Ok(value.max(0.0))
    } else {
        Err(Reason::NotFinite)
    }
}

fn outcome(statistic: f64, error_bound: Option<f64>, scale: f64) -> Answer {
    let effect = if statistic <= 0.0 {
        0.0
    } else if scale > 0.0 {
        finite(statistic / scale)?
    } else {
        return Err(Reason::NoVariance);
    };
    Ok(Outcome {
        statistic,
        p_value: None,
        expected: None,
        effect,
        error_bound,
    })
}

/// What a grid keeps of the rows in one bin.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct BinSum {
    /// Rows in the bin.
    pub count: u64,
    /// Sum of their values.
    pub sum: f64,
}

/// The distance from counts and sums per bin: below the first cut, `[cut, next cut)`, from the last
/// cut on, so `cuts.len() + 1` bins; `range` is the least and greatest finite value of both sides.
///
/// W1 lies in `[statistic, statistic + error_bound]`. **Proof**, bin by bin, for a bin [a, b) that
/// holds the share r of the reference with mean s, and w of the window with mean v; F - G is e at a
/// and f = e + r - w at b; H and K are the distribution functions within the bin:
///
/// - `F - G = e + r H - w K`, and the integral of H over the bin is b - s, that of K is b - v. So
///   the signed area `A = e (b - a) + r (b - s) - w (b - v)` is known exactly, and the area of
///   |F - G| is at least |A|. The statistic is the sum of |A|.
/// - The positive part of F - G is at most that of e + r H (as K >= 0) and at most that of
///   f + w (1 - K) (as F <= F(b)). The area of the positive part of `e + r H` is, for e >= 0, its
///   area `e (b - a) + r (b - s)`; for e < 0, it lies under its chord `(e + r) H`, with the area
///   `max(0, e + r)(b - s)`. The same for `f + w (1 - K)`, where 1 - K has the area v - a. The
///   smaller of the two is P; by exchanging the sides, N bounds the negative part.
/// - The area of |F - G| is positive + negative, A is positive - negative, so it is at most
///   `min(2 P - A, 2 N + A)`. Where F - G cannot change its sign in the bin, this is |A| itself.
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
    let (mut low, mut high) = (0.0, 0.0);
    for bin in &bins {
        low += bin.signed_area().abs();
        high += bin.most();
    }
    let statistic = finite(low / unit)?;
    outcome(
        statistic,
        Some(finite((high - low).max(0.0) / unit)?),
        scale,
    )
}

/// The bins of a grid in order, values multiplied by the unit that is given back.
pub(super) fn bins(
    cuts: &[f64],
    reference: &[BinSum],
    window: &[BinSum],
    range: (f64, f64),
) -> Result<(Vec<Bin>, f64), Reason> {
    if reference.len() != window.len() || reference.len() != cuts.len() + 1 {
        return Err(Reason::DifferentBins);
    }
    let rows = |bins: &[BinSum]| bins.iter().map(|bin| bin.count as f64).sum::<f64>();
    let (n, m) = (rows(reference), rows(window));
    if n <= 0.0 {
        return Err(Reason::NoReference);
    }
    if m <= 0.0 {
        return Err(Reason::TooFewRows);
    }
    let largest = cuts
        .iter()
        .fold(range.0.abs().max(range.1.abs()), |most, cut| {
            most.max(cut.abs())
        });
    if !(largest.is_finite() && range.0 <= range.1) {
        return Err(Reason::NotFinite);
    }
    let (unit, mut start) = (safe_unit(largest), 0.0);
    let bins = reference.iter().zip(window).enumerate();
    let bins = bins.map(|(index, (left, right))| {
        let edges = edges(cuts, range, index).map(|edge| edge * unit);
        let bin = Bin {
            edges,
            start,
            reference: Part::of(left, n, edges, unit),
            window: Part::of(right, m, edges, unit),
        };
        start = bin.end();
        bin
    });
    Ok((bins.collect(), unit))
}

/// Start and end of a bin; the outermost ones reach as far as there are values.
fn edges(cuts: &[f64], (least, greatest): (f64, f64), index: usize) -> [f64; 2] {
    let end = cuts
        .get(index)
        .copied()
        .unwrap_or_else(|| cuts.last().map_or(greatest, |last| last.max(greatest)));
    let start = if index == 0 {
        least.min(end)
    } else {
        cuts[index - 1]
    };
    [start, end]
}

/// The rows of one side in one bin.
#[derive(Clone, Copy)]
struct Part {
    share: f64,
    mean: f64,
}

impl Part {
    fn of(bin: &BinSum, rows: f64, [start, end]: [f64; 2], unit: f64) -> Self {
        let mean = if bin.count == 0 {
            start
        } else {
            bin.sum * unit / bin.count as f64
        };
        Self {
            share: bin.count as f64 / rows,
            mean: mean.max(start).min(end),
        }
    }
}

/// One bin of both sides.
pub(super) struct Bin {
    edges: [f64; 2],
    /// F - G at the start.
    start: f64,
    reference: Part,
    window: Part,
}

impl Bin {
    fn end(&self) -> f64 {
        self.start + self.reference.share - self.window.share
    }

    pub(super) fn width(&self) -> f64 {
        self.edges[1] - self.edges[0]
    }

    /// The largest |F - G| that there can be.
    pub(super) fn highest(&self) -> f64 {
        (self.start + self.reference.share).max(self.window.share - self.start)
    }

    pub(super) fn signed_area(&self) -> f64 {
        let [a, b] = self.edges;
        self.start * (b - a) + self.reference.share * (b - self.reference.mean)
            - self.window.share * (b - self.window.mean)
    }

    /// The largest area that |F - G| can have.
    pub(super) fn most(&self) -> f64 {
        let area = self.signed_area();
        let positive = self.positive(self.reference, self.window, 1.0);
        let negative = self.positive(self.window, self.reference, -1.0);
        (2.0 * positive - area)
            .min(2.0 * negative + area)
            .max(area.abs())
    }

    /// The largest area that the part of `sign (F - G)` above 0 can have.
    fn positive(&self, rising: Part, falling: Part, sign: f64) -> f64 {
        let [a, b] = self.edges;
        let bound = |level: f64, share: f64, area: f64| {
            if level >= 0.0 {
                level * (b - a) + share * area
            } else {
                (level + share).max(0.0) * area
            }
        };
        bound(sign * self.start, rising.share, b - rising.mean).min(bound(
            sign * self.end(),
            falling.share,
            falling.mean - a,
        ))
    }
}

/// Bins and range of both sides, for tests of grids; everything ascending.
#[cfg(test)]
pub(super) fn bin_up(
    reference: &[f64],
    window: &[f64],
    cuts: &[f64],
) -> (Vec<BinSum>, Vec<BinSum>, (f64, f64)) {
    let sums = |values: &[f64]| {
        let mut bins = vec![BinSum::default(); cuts.len() + 1];
        for value in values {
            let bin = &mut bins[cuts.partition_point(|cut| cut <= value)];
            *bin = BinSum {
                count: bin.count + 1,
                sum: bin.sum + value,
            };
        }
        bins
    };
    let least = reference[0].min(window[0]);
    let greatest = reference[reference.len() - 1].max(window[window.len() - 1]);
    (sums(reference), sums(window), (least, greatest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn edges_have_written_answers() {
        assert_eq!(exact(&[], &[], 1.0), Err(Reason::NoReference));
        assert_eq!(exact(&[1.0], &[], 1.0), Err(Reason::TooFewRows));
        assert_eq!(
            exact(&[7.0; 5], &[7.0; 3], 0.0).unwrap().effect.to_bits(),
            0
        );
        assert_eq!(exact(&[7.0; 5], &[8.0; 3], 0.0), Err(Reason::NoVariance));
        assert_eq!(
            exact(&[7.0; 5], &[8.0; 3], f64::NAN),
            Err(Reason::NoVariance)
        );
        let apart = exact(&[0.0], &[3.0], 2.0).unwrap();
        assert_eq!(
            (apart.statistic, apart.effect, apart.p_value),
            (3.0, 1.5, None)
        );
    }

    #[test]
    fn infinities_match_or_are_infinitely_far() {
        let inf = f64::INFINITY;
        assert_eq!(exact(&[0.0, inf], &[1.0, 2.0], 1.0), Err(Reason::NotFinite));
        assert_eq!(
            exact(&[0.0, inf], &[-inf, 0.0], 1.0),
            Err(Reason::NotFinite)
        );
        let matched = exact(&[-inf, 0.0, inf], &[-inf, 3.0, inf], 1.0).unwrap();
        assert!((matched.statistic - 1.0).abs() < 1e-15);
        assert!(exact(&[inf], &[inf], 1.0).unwrap().statistic.abs() < 1e-300);
    }

    #[test]
    fn huge_values_overflow_only_where_the_answer_does() {
        let half = exact(&[-1e308, 1e308], &[1e308, 1e308], 1e308).unwrap();
        assert!((half.statistic / 1e308 - 1.0).abs() < 1e-12);
        assert_eq!(exact(&[-1e308], &[1e308], 1.0), Err(Reason::NotFinite));
        assert_eq!(exact(&[0.0], &[1e308], 1e-308), Err(Reason::NotFinite));
    }

    #[test]
    fn the_normed_distance_is_the_effect_and_has_no_floor() {
        let small = exact(&[0.0, 2e-9], &[4e-9, 4e-9], 1e-9);
        let outcome = normed(small, 1e-9).unwrap();
        assert!((outcome.statistic - 3.0).abs() < 1e-12 && outcome.error_bound.is_none());
        assert!((outcome.effect - outcome.statistic).abs() < 1e-300);
        let equal = normed(exact(&[7.0; 5], &[7.0; 3], 0.0), 0.0).unwrap();
        assert!(equal.statistic.abs() < 1e-300);
        let unequal = exact(&[7.0; 5], &[8.0; 3], 0.0);
        assert_eq!(normed(unequal, 0.0), Err(Reason::NoVariance));
        assert_eq!(normed(Err(Reason::NotFinite), 1.0), Err(Reason::NotFinite));
        let full = [BinSum { count: 2, sum: 1.0 }, BinSum { count: 1, sum: 2.0 }];
        let plain = grid(&[1.0], &full, &full, (0.0, 2.0), 4.0);
        let halved = normed(plain, 4.0).unwrap().error_bound.unwrap();
        assert!((halved * 4.0 - plain.unwrap().error_bound.unwrap()).abs() < 1e-12);
        let unscaled = grid(&[1.0], &full, &full, (0.0, 2.0), 0.0);
        assert_eq!(normed(unscaled, 0.0), Err(Reason::NoVariance));
    }

    #[test]
    fn a_grid_has_its_edges_too() {
        let empty = [BinSum::default(); 2];
        let full = [BinSum { count: 2, sum: 1.0 }, BinSum { count: 1, sum: 2.0 }];
        assert_eq!(
            grid(&[1.0], &empty, &full, (0.0, 2.0), 1.0),
            Err(Reason::NoReference)
        );
        assert_eq!(
            grid(&[1.0], &full, &empty, (0.0, 2.0), 1.0),
            Err(Reason::TooFewRows)
        );
        assert_eq!(
            grid(&[], &full, &full, (0.0, 2.0), 1.0),
            Err(Reason::DifferentBins)
        );
        assert_eq!(
            grid(&[1.0], &full, &full, (0.0, f64::NAN), 1.0),
            Err(Reason::NotFinite)
        );
        let same = grid(&[1.0], &full, &full, (0.0, 2.0), 0.0).unwrap();
        assert!(same.statistic.abs() < 1e-300 && same.error_bound.unwrap() > 0.0);
    }

    proptest! {
        #[test]
        fn the_grid_brackets_the_exact_distance(
            mut reference in prop::collection::vec(-5.0..5.0_f64, 1..60),
            mut window in prop::collection::vec(-6.0..4.0_f64, 1..60),
            mut cuts in prop::collection::vec(-4.0..4.0_f64, 0..12),
        ) {
            reference.sort_by(f64::total_cmp);
            window.sort_by(f64::total_cmp);
            cuts.sort_by(f64::total_cmp);
            let (left, right, range) = bin_up(&reference, &window, &cuts);
            let truth = exact(&reference, &window, 1.0).unwrap().statistic;
            let bins = grid(&cuts, &left, &right, range, 1.0).unwrap();
            prop_assert!(bins.statistic <= truth + 1e-9);
            prop_assert!(truth <= bins.statistic + bins.error_bound.unwrap() + 1e-9);
        }
    }
}
