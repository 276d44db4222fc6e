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
    fn equal_sides_are_seen() {
        assert!(all_equal(&[0.0, 0.0], &[-0.0]) && all_equal(&[f64::INFINITY], &[f64::INFINITY]));
        assert!(!all_equal(&[0.0, 1.0], &[0.0]) && !all_equal(&[0.0], &[1.0]));
        assert!(!all_equal(&[], &[1.0]) && !all_equal(&[f64::NAN], &[f64::NAN]));
    }
}
