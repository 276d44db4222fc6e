//! Walks two ascending sides together, one distinct value at a time.
//!
//! Every test on ranks or on distribution functions asks the same of its rows: at this value, how
//! many rows of each side stand below, and how many stand right here?

use super::Reason;

/// The rows of both sides at one distinct value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Tie {
    /// The value.
    pub(super) value: f64,
    /// Rows of the reference below it.
    pub(super) reference_below: usize,
    /// Rows of the window below it.
    pub(super) window_below: usize,
    /// Rows of the reference that have it.
    pub(super) reference: usize,
    /// Rows of the window that have it.
    pub(super) window: usize,
}

/// The distinct values of two ascending sides, in order.
pub(super) struct Ties<'a> {
    reference: &'a [f64],
    window: &'a [f64],
    i: usize,
    j: usize,
}

/// The walk from the least value on.
pub(super) fn ties<'a>(reference: &'a [f64], window: &'a [f64]) -> Ties<'a> {
    Ties {
        reference,
        window,
        i: 0,
        j: 0,
    }
}

impl Iterator for Ties<'_> {
    type Item = Tie;

    fn next(&mut self) -> Option<Tie> {
        let (below, other_below) = (self.i, self.j);
        let value = match (self.reference.get(self.i), self.window.get(self.j)) {
            (Some(&a), Some(&b)) => a.min(b),
            (Some(&a), None) | (None, Some(&a)) => a,
            (None, None) => return None,
        };
        while self.i < self.reference.len() && self.reference[self.i] <= value {
            self.i += 1;
        }
        while self.j < self.window.len() && self.window[self.j] <= value {
            self.j += 1;
        }
        let (reference, window) = (self.i - below, self.j - other_below);
        // NaN is promised never to come in; if it does, the walk ends and does not hang.
        (reference + window > 0).then_some(Tie {
            value,
            reference_below: below,
            window_below: other_below,
            reference,
            window,
        })
    }
}

/// Stretches that [`sweep`] walks at the same time.
const LANES: usize = 4;

/// Folds `visit` over all rows of both sides in ascending order, from each row to the next.
///
/// `visit(so_far, from, to, gap)` is told the two values, and by `gap` what has been gathered up to
/// `from`: every row of the reference adds `steps.0`, every one of the window takes off `steps.1`. Where
/// values are tied, from = to, and the gap there is none of a distribution function.
///
/// Which side the next row comes from cannot be guessed, and waiting for it is what costs time. So
/// the walk has no branch on it, and is cut into stretches of equal length that go on side by side;
/// `join` puts their results together.
pub(super) fn sweep<T: Copy>(
    (reference, window): (&[f64], &[f64]),
    steps: (f64, f64),
    start: T,
    visit: impl Fn(T, f64, f64, f64) -> T,
    join: impl Fn(T, T) -> T,
) -> T {
    let all = reference.len() + window.len();
    let each = all / LANES;
    let mut lanes: [Lane<T>; LANES] =
        std::array::from_fn(|k| Lane::at(reference, window, k * each, steps, start));
    for _ in 0..each {
        for lane in &mut lanes {
            lane.step(reference, window, steps, &visit);
        }
    }
    // The last stretch also has the few rows that are left over.
    for _ in each * LANES..all {
        lanes[LANES - 1].step(reference, window, steps, &visit);
    }
    lanes.iter().map(|lane| lane.so_far).fold(start, join)
}

/// A place in the walk.
struct Lane<T> {
    i: usize,
    j: usize,
    from: f64,
    gap: f64,
    so_far: T,
}

impl<T: Copy> Lane<T> {
    /// The place after so many rows, the reference's first where values are tied.
    fn at(reference: &[f64], window: &[f64], rows: usize, steps: (f64, f64), so_far: T) -> Self {
        let (mut i, mut end) = (rows.saturating_sub(window.len()), rows.min(reference.len()));
        while i < end {
            let middle = usize::midpoint(i, end);
            if reference[middle] <= window[rows - 1 - middle] {
                i = middle + 1;
            } else {
                end = middle;
            }
        }
        let j = rows - i;
        let before = [
            i.checked_sub(1).map(|i| reference[i]),
            j.checked_sub(1).map(|j| window[j]),
        ];
        let first = reference.first().into_iter().chain(window.first());
        let from = before.into_iter().flatten().reduce(f64::max);
        Self {
            i,
            j,
            from: from.unwrap_or(first.copied().fold(f64::INFINITY, f64::min)),
            gap: i as f64 * steps.0 - j as f64 * steps.1,
            so_far,
        }
    }

    #[inline(always)]
    fn step(
        &mut self,
        reference: &[f64],
        window: &[f64],
        (up, down): (f64, f64),
        visit: &impl Fn(T, f64, f64, f64) -> T,
    ) {
        let left = reference.get(self.i).copied().unwrap_or(f64::INFINITY);
        let right = window.get(self.j).copied();
        let (right, open) = (right.unwrap_or(f64::INFINITY), right.is_some());
        // Where the reference is used up, left is infinite: not the smaller, or both are.
        let mine = ((left <= right) & (self.i < reference.len())) | !open;
        let to = left.min(right);
        self.so_far = visit(self.so_far, self.from, to, self.gap);
        self.gap += f64::from(u8::from(mine)) * (up + down) - down;
        self.i += usize::from(mine);
        self.j += usize::from(!mine);
        self.from = to;
    }
}

/// The larger of two numbers, neither of them NaN, in one instruction.
#[inline(always)]
pub(super) fn larger(a: f64, b: f64) -> f64 {
    if a > b { a } else { b }
}

/// Refuses an empty side, the reference first.
pub(super) fn not_empty(reference: &[f64], window: &[f64]) -> Result<(), Reason> {
    if reference.is_empty() {
        Err(Reason::NoReference)
    } else if window.is_empty() {
        Err(Reason::TooFewRows)
    } else {
        Ok(())
    }
}

/// Whether both sides, neither of them empty, hold one and the same value throughout.
pub(super) fn all_equal(reference: &[f64], window: &[f64]) -> bool {
    match (
        reference.first(),
        reference.last(),
        window.first(),
        window.last(),
    ) {
        (Some(a), Some(b), Some(c), Some(d)) => a >= b && c >= d && a >= c && a <= c,
        _ => false,
    }
}

/// Counts of both sides in bins that start at whole numbers, for tests of grids.
#[cfg(test)]
pub(super) fn cut_up(reference: &[f64], window: &[f64], cuts: &[i32]) -> (Vec<u64>, Vec<u64>) {
    let mut cuts: Vec<f64> = cuts.iter().map(|&cut| f64::from(cut)).collect();
    cuts.sort_by(f64::total_cmp);
    let count = |values: &[f64]| {
        let mut counts = vec![0; cuts.len() + 1];
        values
            .iter()
            .for_each(|v| counts[cuts.partition_point(|cut| cut <= v)] += 1);
        counts
    };
    (count(reference), count(window))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_counts_ties_on_both_sides() {
        let seen: Vec<_> = ties(&[-0.0, 1.0, 1.0], &[0.0, 1.0, 2.0])
            .map(|tie| {
                (
                    tie.reference_below,
                    tie.window_below,
                    tie.reference,
                    tie.window,
                )
            })
            .collect();
        assert_eq!(seen, [(0, 0, 1, 1), (1, 1, 2, 1), (3, 2, 0, 1)]);
    }

    #[test]
    fn a_walk_ends_whatever_comes_in() {
        assert_eq!(ties(&[], &[]).count(), 0);
        assert_eq!(ties(&[f64::NAN], &[f64::NAN]).count(), 0);
        assert_eq!(ties(&[1.0, f64::NAN], &[2.0]).count(), 2);
        assert_eq!(
            ties(&[f64::NEG_INFINITY, f64::INFINITY], &[f64::INFINITY]).count(),
            2
        );
    }

    #[test]
    fn a_sweep_passes_every_row_once_in_order() {
        for (n, m) in [
            (0, 1),
            (1, 1),
            (3, 0),
            (2, 9),
            (7, 7),
            (40, 3),
            (1, 30),
            (33, 64),
        ] {
            let reference: Vec<f64> = (0..n).map(|i| f64::from(i * i % 7 + i / 3)).collect();
            let window: Vec<f64> = (0..m).map(|i| f64::from(i * 5 % 11 - 2)).collect();
            let (mut reference, mut window) = (reference, window);
            reference.sort_by(f64::total_cmp);
            window.sort_by(f64::total_cmp);
            // Sum of width times the gap between distinct values, and the number of rows.
            let (area, rows) = sweep(
                (&reference, &window),
                (1.0, 2.0),
                (0.0, 0),
                |(area, rows), from, to, gap| (area + (to - from) * gap, rows + 1),
                |a, b| (a.0 + b.0, a.1 + b.1),
            );
            let (mut slow, mut last) = (0.0, None);
            for tie in ties(&reference, &window) {
                let gap = tie.reference_below as f64 - 2.0 * tie.window_below as f64;
                slow += last.map_or(0.0, |at: f64| (tie.value - at) * gap);
                last = Some(tie.value);
            }
            assert_eq!(rows, n + m);
            assert!((area - slow).abs() < 1e-9, "{n} {m}: {area} {slow}");
        }
    }

    #[test]
    fn equal_sides_are_seen() {
        assert!(all_equal(&[0.0, 0.0], &[-0.0]) && all_equal(&[f64::INFINITY], &[f64::INFINITY]));
        assert!(!all_equal(&[0.0, 1.0], &[0.0]) && !all_equal(&[0.0], &[1.0]));
        assert!(!all_equal(&[], &[1.0]) && !all_equal(&[f64::NAN], &[f64::NAN]));
    }
}
