//! Fisher's exact test of two levels.
//!
//! **Question**: does one of the two levels have another share in the window than in the reference?
//! Exact for every number of rows.
//!
//! **Formula**: the statistic is the odds ratio of the 2 x 2 table, first occupied level against the
//! second, reference against window: `a d / (b c)`. Where a cell is empty 1/2 is added to all four
//! (J. Haldane 1956, F. Anscombe 1956), so that it is finite; scipy then says 0 or infinity. The
//! effect is the absolute difference of the two shares of a level (0.01 = one row in a hundred).
//!
//! **p-value**: two-sided, the chance of all tables with the same margins that are no likelier than
//! this one (R. A. Fisher 1934); `scipy.stats.fisher_exact`.
//!
//! **Edges**: more than two levels with rows on either side: [`Reason::NotTwoLevels`]. One level on
//! both sides: statistic 1, p 1, effect 0. Booleans are two levels. **Assumes** independent rows.
//! **Not for** tests at a given level on tiny tables without a look at the steps in which p can come:
//! it is too large rather than too small.

use super::law::fisher;
use super::{Answer, Outcome, Reason, totals};

/// The test on counts of the same levels.
#[cfg(test)]
pub(super) fn two_levels(reference: &[u64], window: &[u64]) -> Answer {
    with_others(reference, window, &[])
}

/// The test on counts of the same levels, and of `others` that only the window has rows of: rows of each, and
/// how many there are. At most two of all may hold rows.
///
/// # Errors
/// [`Reason::DifferentBins`], [`Reason::NoReference`], [`Reason::TooFewRows`],
/// [`Reason::NotTwoLevels`].
pub(super) fn with_others(reference: &[u64], window: &[u64], others: &[(u64, u64)]) -> Answer {
    let more = others
        .iter()
        .map(|&(rows, times)| rows as f64 * times as f64);
    let (n, m) = totals(reference, window, more.sum())?;
    let pairs = reference.iter().zip(window).map(|(&a, &b)| (a, b));
    let others = others.iter().flat_map(|&(rows, times)| {
        std::iter::repeat_n((0, rows), usize::try_from(times).unwrap_or(usize::MAX))
    });
    let mut held = pairs.chain(others).filter(|&(a, b)| a > 0 || b > 0);
    let (first, second, more) = (held.next(), held.next(), held.next());
    if more.is_some() {
        return Err(Reason::NotTwoLevels);
    }
    let (Some((a, b)), Some((c, d))) = (first, second) else {
        return Ok(Outcome {
            effect: 0.0,
            ..Outcome::plain(1.0, Some(1.0))
        });
    };
    let p = fisher::two_sided(a, a.saturating_add(c), b, b.saturating_add(d));
    Ok(Outcome {
        effect: (a as f64 / n - b as f64 / m).abs(),
        ..Outcome::plain(odds_ratio(a, b, c, d), Some(p))
    })
}

/// Of `[[a, b], [c, d]]`: always finite, and above 0.
fn odds_ratio(a: u64, b: u64, c: u64, d: u64) -> f64 {
    let more = if [a, b, c, d].contains(&0) { 0.5 } else { 0.0 };
    let cell = |count: u64| count as f64 + more;
    cell(a) / cell(b) * (cell(d) / cell(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edges_have_written_answers() {
        assert_eq!(two_levels(&[0], &[1]), Err(Reason::NoReference));
        assert_eq!(two_levels(&[1], &[0]), Err(Reason::TooFewRows));
        assert_eq!(two_levels(&[1], &[]), Err(Reason::DifferentBins));
        assert_eq!(
            two_levels(&[1, 1, 0], &[0, 0, 1]),
            Err(Reason::NotTwoLevels)
        );
        let one = two_levels(&[0, 5, 0], &[0, 3, 0]).unwrap();
        assert_eq!(
            (one.statistic, one.p_value, one.effect),
            (1.0, Some(1.0), 0.0)
        );
    }

    #[test]
    fn a_lady_tastes_tea() {
        let outcome = two_levels(&[3, 0, 1], &[1, 0, 3]).unwrap();
        assert!((outcome.statistic - 9.0).abs() < 1e-14);
        assert!((outcome.p_value.unwrap() - 34.0 / 70.0).abs() < 1e-13);
        assert!((outcome.effect - 0.5).abs() < 1e-15);
    }

    #[test]
    fn disjoint_one_row_and_huge_are_finite() {
        // 500.5 x 300.5 / (0.5 x 0.5)
        let disjoint = two_levels(&[500, 0], &[0, 300]).unwrap();
        assert!((disjoint.statistic / (500.5 * 300.5 * 4.0) - 1.0).abs() < 1e-14);
        assert!(disjoint.p_value.unwrap() < 1e-100 && (disjoint.effect - 1.0).abs() < 1e-15);
        let one = two_levels(&[9, 0], &[0, 1]).unwrap();
        assert!((one.p_value.unwrap() - 0.1).abs() < 1e-13);
        let huge = two_levels(&[u64::MAX, 1], &[1, u64::MAX]).unwrap();
        assert!(huge.statistic.is_finite() && huge.p_value.unwrap() < 1e-300);
    }
}
