//! Exact distribution of the two-sample Kolmogorov-Smirnov statistic.
//!
//! Question: of all orders in which m + n rows can stand when nothing distinguishes the samples, in
//! how many do the two empirical distribution functions come as far apart as observed? Each order
//! is a lattice path from (0, 0) to (m, n); far apart means touching |i/m - j/n| >= d.
//!
//! - n = m: by reflection, `P = 2 (r_1 - r_2 + r_3 - ...)`, `r_k = C(2n, n - kh) / C(2n, n)`, h = nd
//!   (Gnedenko and Korolyuk 1951).
//! - n != m: the share u(i, j) of paths to (i, j) that have touched the boundary obeys
//!   `u(i, j) = (i u(i-1, j) + j u(i, j-1)) / (i + j)`, u = 1 beyond it (Hodges 1958, with shares
//!   in place of counts, as T. Viehmann 2021 suggests). Nothing is ever subtracted, so that tiny
//!   probabilities keep their relative precision. Walked by anti-diagonals, which a compiler can
//!   vectorise, and only between the boundaries: about `2 d m n` steps.
//!
//! Ties make the true probability smaller: the answer is then an upper bound, as in every package.

/// Greatest common divisor.
pub fn gcd(mut a: u64, mut b: u64) -> u64 {
    while b > 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// `P(D >= h / lcm(m, n))` for samples of m and n rows; m, n >= 1.
pub fn sf(m: u64, n: u64, h: u64) -> f64 {
    if h == 0 || m == 0 || n == 0 {
        1.0
    } else if m == n {
        equal(n, h)
    } else {
        unequal(m.min(n), m.max(n), h)
    }
}

fn equal(n: u64, h: u64) -> f64 {
    let (mut sum, mut ratio, mut sign) = (0.0, 1.0, 1.0);
    let mut reached = 0;
    while reached + h <= n && ratio > 0.0 {
        for k in reached..reached + h {
            ratio *= (n - k) as f64 / (n + k + 1) as f64;
        }
        reached += h;
        sum += sign * ratio;
        sign = -sign;
    }
    (2.0_f64 * sum).clamp(0.0, 1.0)
}

fn unequal(m: u64, n: u64, h: u64) -> f64 {
    let g = gcd(m, n);
    let (mg, ng) = (m / g, n / g);
    let length = usize::try_from(m).unwrap_or(usize::MAX).saturating_add(2);
    // Entry i + 1 belongs to column i; 1 wherever the boundary has been touched.
    let (mut last, mut next) = (vec![1.0_f64; length], vec![1.0_f64; length]);
    last[1] = 0.0;
    let column = |i: u64| usize::try_from(i).unwrap_or(usize::MAX);
    for s in 1..=m + n {
        // Columns i with |i n - (s - i) m| < h g, inside the rectangle.
        let touched = if s * mg >= h {
            (s * mg - h) / (mg + ng) + 1
        } else {
            0
        };
        let low = touched.max(s.saturating_sub(n));
        let high = ((s * mg + h - 1) / (mg + ng)).min(m).min(s);
        if low > high {
            return 1.0;
        }
        let (first, end) = (column(low), column(high) + 1);
        next[first] = 1.0;
        let cells = next[first + 1..=end].iter_mut();
        let before = last[first..end].iter().zip(&last[first + 1..=end]);
        for (i, (cell, (left, below))) in (low..=high).zip(cells.zip(before)) {
            *cell = (left * i as f64 + below * (s - i) as f64) / s as f64;
        }
        std::mem::swap(&mut last, &mut next);
    }
    last[length - 1].clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_cases_count_by_hand() {
        // 1 against 1: both orders have D = 1. 2 against 1: D = 1 in 2 of 3 orders, 1/2 in one.
        assert!((sf(1, 1, 1) - 1.0).abs() < 1e-15);
        assert!((sf(2, 1, 2) - 2.0 / 3.0).abs() < 1e-15);
        assert!((sf(2, 1, 1) - 1.0).abs() < 1e-15);
        // 2 against 2: D = 1 in 2 of 6 orders.
        assert!((sf(2, 2, 2) - 1.0 / 3.0).abs() < 1e-15);
    }

    #[test]
    fn both_ways_agree_where_the_sizes_are_equal() {
        for h in 1..=30 {
            let (reflected, walked) = (equal(30, h), unequal(30, 30, h));
            assert!((reflected - walked).abs() < 1e-13 * walked.max(1e-3), "{h}");
        }
    }

    #[test]
    fn the_order_of_sizes_does_not_matter() {
        for h in [1, 20, 60, 77] {
            assert_eq!(sf(7, 11, h).to_bits(), sf(11, 7, h).to_bits());
        }
    }

    #[test]
    fn disjoint_samples_have_one_order_each_way() {
        // C(12, 5) = 792 orders of 5 and 7, 2 of them with D = 1.
        assert!((sf(5, 7, 35) / (2.0 / 792.0) - 1.0).abs() < 1e-14);
    }

    #[test]
    fn empty_samples_are_no_surprise() {
        assert!((sf(0, 5, 3) - 1.0).abs() < 1e-15 && (sf(5, 5, 0) - 1.0).abs() < 1e-15);
    }
}
