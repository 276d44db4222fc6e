//! Values of the window beyond the range of the reference's own.
//!
//! **Question**: does the window reach where the reference never was, more often than a fresh window of
//! the same distribution would?
//!
//! **Formula**: the share of the window's values below the least or above the greatest value of the
//! reference. Without drift `2 / (n + 1)` is expected, n rows in the reference: its values cut the line
//! into n + 1 gaps, and a new value is as likely to fall in one as in another. The effect is what goes
//! beyond that.
//!
//! **p-value**, one-sided: exact. Let K of m values lie outside. All orders of the n + m values are
//! equally likely, so the number that fall in the two outer gaps has the same law as the number in the
//! two topmost gaps, and K is distributed as the number of values above the reference's second
//! largest. That is k or more exactly if at most one of the k + 1 largest of all values is the
//! reference's: `P(K >= k) = (C(m, k+1) + n C(m, k)) / C(n + m, k + 1)`. Source: the law of exceedances,
//! E. J. Gumbel and H. von Schelling 1950.
//!
//! **Assumes** independent rows. With ties p is too large, never too small: break them at random and
//! the law holds, while values at the very ends of the range, which are not counted, may then go out,
//! so that K as counted is at most the K of the law. The reference's range must be that of all its
//! rows. Infinities are values like any other.
//!
//! **Small samples**: any; with one row in the reference every other value is outside, and p is 1.
//! **Not for** changes inside the range.

use super::law::fisher;
use super::{Answer, Outcome, Reason};

/// The test on counts of values; `window_outside` of the window's `window_rows` are beyond the range.
///
/// # Errors
/// [`Reason::NoReference`] or [`Reason::TooFewRows`] for an empty side.
pub fn counts(reference_rows: u64, window_rows: u64, window_outside: u64) -> Answer {
    if reference_rows == 0 {
        return Err(Reason::NoReference);
    }
    if window_rows == 0 {
        return Err(Reason::TooFewRows);
    }
    let outside = window_outside.min(window_rows);
    let share = outside as f64 / window_rows as f64;
    let expected = 2.0 / (reference_rows as f64 + 1.0);
    Ok(Outcome {
        statistic: share,
        p_value: Some(tail(reference_rows, window_rows, outside)),
        expected: Some(expected),
        effect: (share - expected).max(0.0),
        error_bound: None,
    })
}

/// `P(K >= k)`: none or one of the k + 1 largest is the reference's.
fn tail(n: u64, m: u64, k: u64) -> f64 {
    const MOST: u64 = 1 << 62; // nobody has more rows; their sum must fit
    let (n, m, k) = (n.min(MOST), m.min(MOST), k.min(MOST));
    if k == 0 || n == 1 {
        return 1.0;
    }
    let of = |mine: u64| fisher::ln_hypergeometric(mine, k + 1, n, n + m).exp();
    let none = if k < m { of(0) } else { 0.0 };
    (none + of(1)).clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edges_have_written_answers() {
        assert_eq!(counts(0, 0, 0), Err(Reason::NoReference));
        assert_eq!(counts(5, 0, 0), Err(Reason::TooFewRows));
        let all = counts(5, 3, 9).unwrap(); // more outside than there are is all of them
        assert_eq!(all, counts(5, 3, 3).unwrap());
        let none = counts(1_000_000, 1_000_000, 0).unwrap();
        assert!(none.effect.abs() < 1e-300 && none.p_value == Some(1.0));
        assert_eq!(counts(1, 7, 7).unwrap().p_value, Some(1.0));
        assert!(counts(1, 7, 7).unwrap().effect.abs() < 1e-15);
        // 1 against 2: outside unless in the middle of three, which is one order in three.
        assert!((counts(2, 1, 1).unwrap().p_value.unwrap() - 2.0 / 3.0).abs() < 1e-14);
    }

    #[test]
    fn huge_counts_are_bearable() {
        let far = counts(1 << 40, 1 << 30, 1 << 30).unwrap();
        assert!(far.p_value.unwrap().abs() < 1e-300 && (far.effect - 1.0).abs() < 1e-9);
        let near = counts(1_000_000_000, 1_000_000_000, 2)
            .unwrap()
            .p_value
            .unwrap();
        assert!((near - 0.5).abs() < 1e-6, "{near}"); // 1/8 + 3/8
        assert!(counts(u64::MAX, u64::MAX, u64::MAX).is_ok());
    }

    /// Every order of n + m values, the law by counting.
    #[test]
    fn the_law_is_that_of_all_orders() {
        for (n, m) in [
            (1_u32, 3_u32),
            (2, 4),
            (3, 3),
            (4, 2),
            (5, 5),
            (3, 8),
            (6, 1),
        ] {
            let mut seen = vec![0_u32; m as usize + 1];
            for order in 0..1_u32 << (n + m) {
                if order.count_ones() == n {
                    // Bits that are set are the reference's; zeros beyond its ends are outside.
                    let above = order.leading_zeros() - (32 - n - m);
                    let outside = above + order.trailing_zeros();
                    seen[outside as usize] += 1;
                }
            }
            let all = f64::from(seen.iter().sum::<u32>());
            for k in 0..=m {
                let at_least = f64::from(seen[k as usize..].iter().sum::<u32>());
                let p = tail(n.into(), m.into(), k.into());
                assert!((p - at_least / all).abs() < 1e-13, "{n} {m} {k}: {p}");
            }
            let mean: f64 = (0..=m)
                .map(|k| f64::from(k * seen[k as usize]))
                .sum::<f64>()
                / all;
            let expected = counts(n.into(), m.into(), 0).unwrap().expected.unwrap();
            assert!((mean / f64::from(m) - expected).abs() < 1e-13);
        }
    }

    #[test]
    fn ties_make_p_too_large_never_too_small() {
        // Five levels, every way to give them to 3 and 3 rows; a value counts as outside if strictly so.
        let mut seen = [0_u32; 4];
        for code in 0..5_u32.pow(6) {
            let level = |i: u32| code / 5_u32.pow(i) % 5;
            let (least, most) = ((0..3).map(level).min(), (0..3).map(level).max());
            let outside = (3..6)
                .filter(|&i| Some(level(i)) < least || Some(level(i)) > most)
                .count();
            seen[outside] += 1;
        }
        let all = f64::from(seen.iter().sum::<u32>());
        for k in 1..=3 {
            let truth = f64::from(seen[k..].iter().sum::<u32>()) / all;
            assert!(truth < tail(3, 3, k as u64), "{k}");
        }
    }
}
