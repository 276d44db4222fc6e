//! Fisher's exact test of a 2x2 table, two-sided: the probability, with all four margins fixed, of
//! every table that is no likelier than the one observed (R. A. Fisher 1934; the two-sided rule of
//! R and scipy).
//!
//! Hypergeometric probabilities are products of binomial ones in deviance form, so that the test
//! also holds for tables of 1e9 rows. They rise to one mode and fall after it: the tables that count
//! are those from the observed one outwards, and those on the other side of the mode from the first
//! that is no likelier, found by bisection. The work grows with the standard deviation; beyond
//! 100,000 rows of it the two tails are those of the normal law.

use std::f64::consts::SQRT_2;

use statrs::function::erf::erfc;

use super::split::Split;

/// Tables whose probability exceeds the observed one by less than this are ties.
const TIE: f64 = 1e-7;
/// Above this standard deviation of a cell the normal law is exact enough.
const WIDE: f64 = 1e5;

/// p-value of the table `[[hits, rows - hits], [other_hits, other_rows - other_hits]]`.
pub fn two_sided(hits: u64, rows: u64, other_hits: u64, other_rows: u64) -> f64 {
    let split = Split {
        n: rows as f64,
        m: other_rows as f64,
    };
    let (marked, b) = (hits as f64 + other_hits as f64, other_hits as f64);
    if rows == 0 || other_rows == 0 || marked <= 0.0 || marked >= split.rows() {
        return 1.0;
    }
    let (gap, deviation) = (
        (b - split.mean(marked)).abs(),
        split.variance(marked).sqrt(),
    );
    if deviation > WIDE {
        return erfc(gap / deviation / SQRT_2);
    }
    let (low, high) = split.range(marked);
    let mode = split.mode(marked);
    let limit = split.ln_probability(marked, b) + TIE;
    let likelier = |count: f64| split.ln_probability(marked, count) > limit;
    if !likelier(mode) {
        return 1.0;
    }
    let (mut sum, mut far, mut near);
    if b > mode {
        sum = split.upwards(marked, b);
        (far, near) = (low, mode);
    } else {
        sum = split.downwards(marked, b);
        (far, near) = (high, mode);
    }
    if !likelier(far) {
        // `far` never is likelier and `near` always is, until they are neighbours.
        while (far - near).abs() > 1.0 {
            let middle = f64::midpoint(far, near).floor();
            if middle <= far.min(near) {
                break; // beyond 2^53
            }
            *(if likelier(middle) {
                &mut near
            } else {
                &mut far
            }) = middle;
        }
        sum += if b > mode {
            split.downwards(marked, far)
        } else {
            split.upwards(marked, far)
        };
    }
    sum.min(1.0)
}

/// `ln` of the probability that k of `drawn` rows are among the `marked` of `total`, drawn without
/// replacement; k must be possible.
pub fn ln_hypergeometric(k: u64, drawn: u64, marked: u64, total: u64) -> f64 {
    let split = Split {
        n: total.saturating_sub(drawn) as f64,
        m: drawn as f64,
    };
    split.ln_probability(marked as f64, k as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lady_tastes_tea() {
        // 3 of 4 cups right: P = 1/70 + 16/70 on each side of the middle.
        assert!((two_sided(3, 4, 1, 4) - 34.0 / 70.0).abs() < 1e-13);
        assert!((two_sided(4, 4, 0, 4) - 2.0 / 70.0).abs() < 1e-14);
    }

    #[test]
    fn large_margins_keep_full_precision() {
        // 7 of 80,789,007 against 1 of 901: the exact rational number; scipy is off by 1e-8 here.
        let p = two_sided(7, 80_789_007, 1, 901);
        assert!((p / 8.921_558_576_596_444e-5 - 1.0).abs() < 1e-12, "{p:e}");
    }

    #[test]
    fn large_tables_are_quick_and_agree_with_chi_square() {
        // 5e8 of 1e9 against 5e8 + 50,000 of 1e9: z = 50,000 / sqrt(5e8) = 2.236068.
        let p = two_sided(500_000_000, 1_000_000_000, 500_050_000, 1_000_000_000);
        assert!((p - 0.025_347_3).abs() < 3e-6, "{p}");
        assert!((0.0..=1.0).contains(&two_sided(u64::MAX, u64::MAX, 1, 2)));
        assert!(two_sided(u64::MAX - 1, u64::MAX, 1, u64::MAX) < 1e-300);
    }

    #[test]
    fn a_skewed_table_counts_both_tails() {
        // 4 marked of 10, 3 drawn: P(0..=3) = 20, 60, 36, 4 of 120.
        for (b, p) in [(0, 24.0), (1, 120.0), (2, 60.0), (3, 4.0)] {
            assert!((two_sided(4 - b, 7, b, 3) - p / 120.0).abs() < 1e-13, "{b}");
        }
    }

    #[test]
    fn margins_without_choice_are_no_surprise() {
        for (a, n, b, m) in [(0, 5, 0, 9), (5, 5, 9, 9), (0, 0, 3, 9), (3, 9, 0, 0)] {
            assert!((two_sided(a, n, b, m) - 1.0).abs() < 1e-15);
        }
    }
}
