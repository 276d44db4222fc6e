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

/// Both sides, and where the window's values stand among the reference's: made once for all tests that
/// ask no more than that.
pub(super) struct Places<'a> {
    pub(super) reference: &'a [f64],
    pub(super) window: &'a [f64],
    /// The distinct values of the window, ascending.
    pub(super) ties: Vec<Tie>,
}

impl<'a> Places<'a> {
    /// Looks up every value of the window; both slices ascending.
    ///
    /// # Errors
    /// [`Reason::NoReference`] or [`Reason::TooFewRows`] for an empty side.
    pub(super) fn of(reference: &'a [f64], window: &'a [f64]) -> Result<Self, Reason> {
        not_empty(reference, window)?;
        let below = rows_below(reference, window);
        let mut ties: Vec<Tie> = Vec::with_capacity(window.len());
        for (row, (&value, &reference_below)) in window.iter().zip(&below).enumerate() {
            match ties.last_mut() {
                Some(last) if last.value >= value => last.window += 1,
                _ => {
                    let rest = reference[reference_below..].iter();
                    ties.push(Tie {
                        value,
                        reference_below,
                        window_below: row,
                        reference: rest.take_while(|other| **other <= value).count(),
                        window: 1,
                    });
                }
            }
        }
        Ok(Self {
            reference,
            window,
            ties,
        })
    }

    /// The largest `i up - j down` and the largest `j down - i up` over all values, i and j the rows of
    /// the reference and of the window up to it, and 0 for all rows. Between two values of the window j
    /// stands still and i grows, so that both are next to one of them.
    pub(super) fn largest_gaps(&self, up: f64, down: f64) -> (f64, f64) {
        let (mut above, mut below) = (0.0_f64, 0.0_f64);
        for tie in &self.ties {
            let before = tie.reference_below as f64 * up - tie.window_below as f64 * down;
            let here = before + tie.reference as f64 * up - tie.window as f64 * down;
            above = larger(above, larger(before, here));
            below = larger(below, larger(-before, -here));
        }
        (above, below)
    }
}

/// Rows of the window that are looked up in the same stretch of the reference.
const TOGETHER: usize = 8;

/// How many rows of the reference are less than each row of the window. The stretch that a few rows of the
/// window lie in is found in leaps from the last one, and they are looked up in it: searches of which none
/// waits for the other.
fn rows_below(reference: &[f64], window: &[f64]) -> Vec<usize> {
    let mut below = Vec::with_capacity(window.len());
    let mut from = 0;
    for rows in window.chunks(TOGETHER) {
        let last = rows[rows.len() - 1];
        let (mut end, mut step) = (from, 1);
        while reference.get(end + step - 1).is_some_and(|row| *row < last) {
            end += step;
            step *= 2;
        }
        let stretch = &reference[from..(end + step).min(reference.len())];
        let up_to = |row: &f64| from + stretch.partition_point(|other| other < row);
        below.extend(rows.iter().map(up_to));
        from = end;
    }
    below
}

/// The larger of two numbers, neither of them NaN, in one instruction.
fn larger(a: f64, b: f64) -> f64 {
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
    fn places_are_the_ties_of_the_window() {
        for (n, m) in [
            (1, 1),
            (2, 9),
            (7, 7),
            (40, 3),
            (1, 30),
            (33, 64),
            (500, 20),
        ] {
            let mut reference: Vec<f64> = (0..n).map(|i| f64::from(i * i % 7 + i / 3)).collect();
            let mut window: Vec<f64> = (0..m).map(|i| f64::from(i * 5 % 11 - 2)).collect();
            reference.sort_by(f64::total_cmp);
            window.sort_by(f64::total_cmp);
            let all: Vec<Tie> = ties(&reference, &window).collect();
            let places = Places::of(&reference, &window).unwrap();
            let of_window: Vec<Tie> = all.iter().filter(|tie| tie.window > 0).copied().collect();
            assert_eq!(places.ties, of_window, "{n} {m}");
            let gaps = all.iter().map(|tie| {
                let (i, j) = (
                    tie.reference_below + tie.reference,
                    tie.window_below + tie.window,
                );
                (i * window.len()) as f64 - (j * reference.len()) as f64
            });
            let (up, down) = (window.len() as f64, reference.len() as f64);
            let (above, below) = places.largest_gaps(up, down);
            assert_eq!(
                (above, below),
                gaps.fold((0.0, 0.0), |(a, b): (f64, f64), gap| (
                    a.max(gap),
                    b.max(-gap)
                ))
            );
        }
        assert_eq!(
            Places::of(&[1.0], &[f64::NAN, f64::NAN])
                .unwrap()
                .ties
                .len(),
            2
        );
    }

    #[test]
    fn equal_sides_are_seen() {
        assert!(all_equal(&[0.0, 0.0], &[-0.0]) && all_equal(&[f64::INFINITY], &[f64::INFINITY]));
        assert!(!all_equal(&[0.0, 1.0], &[0.0]) && !all_equal(&[0.0], &[1.0]));
        assert!(!all_equal(&[], &[1.0]) && !all_equal(&[f64::NAN], &[f64::NAN]));
    }
}
