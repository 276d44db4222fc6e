//! Exact distribution of the two-sample Kolmogorov-Smirnov statistic.
//!
//! Question: of all orders in which m + n rows can stand when nothing distinguishes the samples, in
//! how many do the two empirical distribution functions come as far apart as observed? Each order
//! is a lattice path from (0, 0) to (m, n); far apart means touching |i/m - j/n| >= d.
//!
//! - n = m: by reflection, `P = 2 (r_1 - r_2 + r_3 - ...)`, `r_k = C(2n, n - kh) / C(2n, n)`, h = nd
//!   (Gnedenko and Korolyuk 1951).
//! - n != m: let every step of the path go one way with probability m / (m + n), whatever came before: all
//!   paths to (m, n) are equally likely then, too. The probability t(i, j) of being at (i, j) after a touch of
//!   the boundary obeys `t(i, j) = a t(i-1, j) + b t(i, j-1)`, and beyond the boundary it is the binomial
//!   probability of the place (Hodges 1958 with probabilities in place of counts). The boundary looks
//!   the same from either end, so that half the way is walked: P is the sum over the places on the middle
//!   diagonal of the ways there times the ways on, touched before or after. Nothing is ever
//!   subtracted from what is nearly the same, so that tiny probabilities keep their relative precision.
//!   Walked by anti-diagonals, which a compiler can vectorise, and only between the boundaries: about
//!   `d m n` steps of two multiplications and a sum.
//!
//! Ties make the true probability smaller: the answer is then an upper bound, as in every package.

use super::deviance::ln_binomial;

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

/// For m < n.
fn unequal(m: u64, n: u64, h: u64) -> f64 {
    if is_beyond_reach(m, n, h) {
        0.0
    } else if m >= MANY && roughly(m, n, h) > LIKELY {
        1.0 - inside(m, n, h)
    } else {
        touching(m, n, h)
    }
}

/// The probability of a path that touches the boundary nowhere.
fn inside(m: u64, n: u64, h: u64) -> f64 {
    let mut walk = Walk::new(m, n, h, Beyond::Nothing);
    walk.touched[1] = 1.0;
    let Some((first, second)) = walk.walk_from_both_ends() else {
        return 0.0;
    };
    let ways: f64 = first
        .iter()
        .zip(second.iter().rev())
        .map(|(a, b)| a * b)
        .sum();
    (ways / walk.probability(m, m + n)).clamp(0.0, 1.0)
}

/// The probability of a path that touches the boundary somewhere.
fn touching(m: u64, n: u64, h: u64) -> f64 {
    let mut walk = Walk::new(m, n, h, Beyond::AllPaths);
    let Some((first, second)) = walk.walk_from_both_ends() else {
        return 1.0;
    };
    let (there, on) = ((m + n) / 2, m + n - (m + n) / 2);
    let high = m - walk.low;
    let low = high + 1 - first.len() as u64;
    let mut sum = 0.0;
    for ((i, before), after) in (low..=high).zip(&first).zip(second.iter().rev()) {
        let all_before = walk.probability(i, there);
        let all_after = walk.probability(m - i, on);
        sum += before * all_after + (all_before - before).max(0.0) * after;
    }
    let outside = |from: u64, to: &dyn Fn(u64) -> Option<u64>| {
        let (mut i, mut sum) = (from, 0.0);
        loop {
            let both = walk.probability(i, there) * walk.probability(m - i, on);
            sum += both;
            match to(i) {
                Some(next) if both > NEGLIGIBLE * sum => i = next,
                _ => return sum,
            }
        }
    };
    if low > 0 {
        sum += outside(low - 1, &|i| i.checked_sub(1));
    }
    if high < m.min(there) {
        sum += outside(high + 1, &|i| (i < m.min(there)).then_some(i + 1));
    }
    (sum / walk.probability(m, m + n)).clamp(0.0, 1.0)
}

/// P to some tens of percent, where m is not small.
fn roughly(m: u64, n: u64, h: u64) -> f64 {
    let (m, n, d) = (m as f64, n as f64, distance(m, n, h));
    2.0 * (-2.0 * d * d * m * (n / (m + n))).exp()
}

/// D = h / lcm, and lcm = m n / gcd.
fn distance(m: u64, n: u64, h: u64) -> f64 {
    h as f64 * gcd(m, n) as f64 / (m as f64 * n as f64)
}

/// Whether P is below all that a float can hold: that a sample of m of all rows has d m n / (m + n)
/// rows too many among the first k has, for each k, a probability of at most
/// `exp(-2 d^2 m n^2 / (m + n)^2)` (Hoeffding 1963).
fn is_beyond_reach(m: u64, n: u64, h: u64) -> bool {
    let (all, share) = ((m + n) as f64, n as f64 / (m + n) as f64);
    let d = distance(m, n, h);
    2.0 * d * d * m as f64 * share * share - (2.0 * all).ln() > 745.0
}

/// From this probability on, one less its complement loses no digits that matter.
const LIKELY: f64 = 0.05;
/// Rows of the smaller side from which [`roughly`] holds.
const MANY: u64 = 100;
/// Terms under this part of the sum add nothing.
const NEGLIGIBLE: f64 = 1e-18;
/// Probabilities on the boundary are worked out afresh after so many steps.
const FRESH: u64 = 512;

fn at(column: u64) -> usize {
    usize::try_from(column).unwrap_or(usize::MAX)
}

/// What counts of the places beyond the boundary.
#[derive(Clone, Copy, PartialEq)]
enum Beyond {
    /// Every path that leads there: it has touched the boundary.
    AllPaths,
    /// Nothing: paths that touch the boundary are lost.
    Nothing,
}

/// The walk along anti-diagonals: after `steps` steps, i of which went along the shorter side.
struct Walk {
    m: u64,
    n: u64,
    /// Where the columns begin that are within the boundary, and where those beyond it do.
    lower: Line,
    upper: Line,
    a: f64,
    b: f64,
    steps: u64,
    /// The columns between the boundaries.
    low: u64,
    high: u64,
    below: Edge,
    above: Edge,
    /// Entry i + 1: the probability of column i after a touch; right between the boundaries, and one beyond.
    touched: Vec<f64>,
    next: Vec<f64>,
    beyond: Beyond,
}

impl Walk {
    fn new(m: u64, n: u64, h: u64, beyond: Beyond) -> Self {
        let (g, all) = (gcd(m, n), (m + n) as f64);
        let length = at(m).saturating_add(3);
        Self {
            m,
            n,
            lower: Line::new(m / g, n / g, -signed(h)),
            upper: Line::new(m / g, n / g, signed(h) - 1),
            a: m as f64 / all,
            b: n as f64 / all,
            steps: 0,
            low: 0,
            high: 0,
            below: Edge::default(),
            above: Edge::default(),
            touched: vec![0.0; length],
            next: vec![0.0; length],
            beyond,
        }
    }

    /// The binomial probability of a column.
    fn probability(&self, column: u64, steps: u64) -> f64 {
        ln_binomial(column as f64, steps as f64, self.a, self.b).exp()
    }

    /// Walks to the middle; what is between the boundaries there, seen from either end. `None` where no column
    /// is. The middle is one step farther from one end than from the other where the number of steps is odd.
    fn walk_from_both_ends(&mut self) -> Option<(Vec<f64>, Vec<f64>)> {
        let (all, all_steps) = (self.m + self.n, |walk: &mut Self, steps: u64| {
            (0..steps / 2).all(|_| walk.two_steps()) && (steps.is_multiple_of(2) || walk.step())
        });
        let between = |walk: &Self| walk.touched[at(walk.low) + 1..=at(walk.high) + 1].to_vec();
        if !all_steps(self, all / 2) {
            return None;
        }
        let first = between(self);
        all_steps(self, all % 2).then(|| (first, between(self)))
    }

    /// One step further, no more than half the way and one; false where no column is left between the
    /// boundaries.
    fn step(&mut self) -> bool {
        let Some((low, high)) = self.next_columns() else {
            return false;
        };
        let (first, end) = (at(low), at(high) + 1);
        let cells = self.next[first + 1..=end].iter_mut();
        let before = self.touched[first..end]
            .iter()
            .zip(&self.touched[first + 1..=end]);
        let (a, b) = (self.a, self.b);
        for (cell, (left, here)) in cells.zip(before) {
            *cell = a * left + b * here;
        }
        self.arrive(low, high);
        true
    }

    /// Two steps at once: what stays between the boundaries comes from three columns, and what is next to one
    /// of them is worked out step by step.
    fn two_steps(&mut self) -> bool {
        let (a, b) = (self.a, self.b);
        let Some((low, high)) = self.next_columns() else {
            return false;
        };
        let (first, end) = (at(low), at(high) + 1);
        let one = |place: usize| a * self.touched[place - 1] + b * self.touched[place];
        let (lowest, highest) = (one(first + 1), one(end));
        let (under, over) = (self.under(low), self.over(high));
        let Some((next_low, next_high)) = self.next_columns() else {
            return false;
        };
        let inner = first + 2..at(high.min(next_high)) + 2;
        let (aa, ab, bb) = (a * a, 2.0 * a * b, b * b);
        if let Some(cells) = self.next.get_mut(inner.clone()) {
            let before = self.touched[inner.start - 2..].windows(3);
            for (cell, three) in cells.iter_mut().zip(before) {
                *cell = aa * three[0] + ab * three[1] + bb * three[2];
            }
        }
        if next_low == low {
            self.next[first + 1] = a * under + b * lowest;
        }
        if next_high > high {
            self.next[end + 1] = a * highest + b * over;
        }
        self.arrive(next_low, next_high);
        true
    }

    /// The columns between the boundaries after one more step.
    fn next_columns(&mut self) -> Option<(u64, u64)> {
        self.steps += 1;
        let (low, beyond) = (self.lower.step(), self.upper.step());
        let high = (beyond - 1).min(self.m).min(self.steps);
        (low <= high).then_some((low, high))
    }

    /// The cells in `next` are those of these columns now.
    fn arrive(&mut self, low: u64, high: u64) {
        self.next[at(low)] = self.under(low);
        self.next[at(high) + 2] = self.over(high);
        std::mem::swap(&mut self.touched, &mut self.next);
        (self.low, self.high) = (low, high);
    }

    /// The probability of the column below the first.
    fn under(&mut self, low: u64) -> f64 {
        let (a, b) = (self.a, self.b);
        match low.checked_sub(1) {
            Some(column) if self.beyond == Beyond::AllPaths => {
                self.below.at(column, self.steps, a, b)
            }
            _ => 0.0,
        }
    }

    /// The probability of the column above the last.
    fn over(&mut self, high: u64) -> f64 {
        if self.beyond == Beyond::AllPaths && high < self.m.min(self.steps) {
            self.above.at(high + 1, self.steps, self.a, self.b)
        } else {
            0.0
        }
    }
}

/// The first column after a boundary: `floor((s mg + offset) / (mg + ng)) + 1` after s steps, at least 0. These
/// are the columns i with `|i n - (s - i) m| < h g`, for offsets of -h and h - 1.
struct Line {
    column: i64,
    /// What is left of the division.
    rest: i64,
    along: i64,
    both: i64,
}

impl Line {
    fn new(mg: u64, ng: u64, offset: i64) -> Self {
        let (along, both) = (signed(mg), signed(mg + ng));
        Self {
            column: offset.div_euclid(both) + 1,
            rest: offset.rem_euclid(both),
            along,
            both,
        }
    }

    #[inline]
    fn step(&mut self) -> u64 {
        self.rest += self.along;
        if self.rest >= self.both {
            self.rest -= self.both;
            self.column += 1;
        }
        self.column.max(0).cast_unsigned()
    }
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The binomial probability of a column that moves on by one at most from step to step.
#[derive(Debug, Default)]
struct Edge {
    column: u64,
    steps: u64,
    value: f64,
    fresh: u64,
}

impl Edge {
    fn at(&mut self, column: u64, steps: u64, a: f64, b: f64) -> f64 {
        let follows = self.steps + 1 == steps && self.fresh < FRESH && self.value > 1e-290;
        self.value = match (follows, column - self.column.min(column)) {
            (true, 0) => self.value * (b * steps as f64 / (steps - column) as f64),
            (true, 1) => self.value * (a * steps as f64 / column as f64),
            _ => {
                self.fresh = 0;
                ln_binomial(column as f64, steps as f64, a, b).exp()
            }
        };
        (self.column, self.steps) = (column, steps);
        self.fresh += 1;
        self.value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Shares of paths that have touched, one anti-diagonal after another to the very end: the way that the
    /// one above has to agree with.
    fn hodges(m: u64, n: u64, h: u64) -> f64 {
        let g = gcd(m, n);
        let (mg, ng) = (m / g, n / g);
        let mut last = vec![1.0_f64; at(m) + 2];
        let mut next = last.clone();
        last[1] = 0.0;
        for s in 1..=m + n {
            let touched = match s * mg >= h {
                true => (s * mg - h) / (mg + ng) + 1,
                false => 0,
            };
            let low = touched.max(s.saturating_sub(n));
            let high = ((s * mg + h - 1) / (mg + ng)).min(m).min(s);
            if low > high {
                return 1.0;
            }
            next[at(low)] = 1.0;
            for i in low..=high {
                let (left, below) = (last[at(i)], last[at(i) + 1]);
                next[at(i) + 1] = (left * i as f64 + below * (s - i) as f64) / s as f64;
            }
            std::mem::swap(&mut last, &mut next);
        }
        last[at(m) + 1]
    }

    #[test]
    fn half_the_way_and_all_of_it_agree() {
        let mut cases: Vec<(u64, u64, u64)> = Vec::new();
        for n in 2..=14 {
            for m in 1..n {
                cases.extend((1..=m * n / gcd(m, n)).map(|h| (m, n, h)));
            }
        }
        for (m, n) in [
            (100, 1_000),
            (97, 1_000),
            (400, 401),
            (3, 5_000),
            (211, 700),
        ] {
            let lcm = m * n / gcd(m, n);
            cases.extend(
                [1, 2, 5, 9, 20, 35, 60, 90, 99, 100]
                    .map(|percent| (m, n, (percent * lcm / 100).max(1))),
            );
        }
        for (m, n, h) in cases {
            let whole = hodges(m, n, h);
            let near =
                |found: f64, wanted: f64, scale: f64| (found - wanted).abs() <= 1e-11 * scale;
            for found in [unequal(m, n, h), touching(m, n, h)] {
                assert!(near(found, whole, whole), "{m} {n} {h}: {found} {whole}");
            }
            let found = inside(m, n, h);
            assert!(
                near(found, 1.0 - whole, 1.0),
                "{m} {n} {h}: {found} {whole}"
            );
        }
    }

    #[test]
    fn what_no_float_can_hold_is_zero() {
        assert!(unequal(9_000, 10_000, 9_000 * 10_000 / 1_000).abs() < 1e-320);
        let hardly = unequal(3_000, 4_000, 12_000 / 2);
        assert!((0.0..1e-250).contains(&hardly), "{hardly}");
    }

    #[test]
    fn small_cases_count_by_hand() {
        // 1 against 1: both orders have D = 1. 2 against 1: D = 1 in 2 of 3 orders, 1/2 in one.
        assert!((sf(1, 1, 1) - 1.0).abs() < 1e-13);
        assert!((sf(2, 1, 2) - 2.0 / 3.0).abs() < 1e-13);
        assert!((sf(2, 1, 1) - 1.0).abs() < 1e-13);
        // 2 against 2: D = 1 in 2 of 6 orders.
        assert!((sf(2, 2, 2) - 1.0 / 3.0).abs() < 1e-13);
    }

    #[test]
    fn both_ways_agree_where_the_sizes_are_equal() {
        for h in 1..=30 {
            let (reflected, walked) = (equal(30, h), hodges(30, 30, h));
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
        assert!((sf(5, 7, 35) / (2.0 / 792.0) - 1.0).abs() < 1e-13);
    }

    #[test]
    fn empty_samples_are_no_surprise() {
        assert!((sf(0, 5, 3) - 1.0).abs() < 1e-15 && (sf(5, 5, 0) - 1.0).abs() < 1e-15);
    }
}
