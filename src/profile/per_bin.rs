//! What was counted per bin: a short list while few bins hold anything, a place for each bin beyond
//! that.
//!
//! A stretch of a quiet partition holds a handful of rows, and there are many such partitions: with
//! a place for each of 268 bins a number would take 6.4 KB however few values it has.

use std::ops::AddAssign;

/// Something counted per bin. The default value says that a bin holds nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct PerBin<T> {
    bins: usize,
    held: Held<T>,
}

/// Which of the two it is follows from how many bins hold something, so that equals have
/// equal forms.
#[derive(Debug, Clone, PartialEq)]
enum Held<T> {
    /// The bins that hold something, in ascending order.
    Few(Vec<(u32, T)>),
    /// Every bin.
    Each(Vec<T>),
}

impl<T: Copy + Default + PartialEq + AddAssign> PerBin<T> {
    /// So many bins that hold nothing.
    pub fn new(bins: usize) -> Self {
        Self {
            bins,
            held: Held::Few(Vec::new()),
        }
    }

    /// What some bins hold, in ascending order; `None`: they are not, or there is no such bin.
    pub(super) fn of_ascending(bins: usize, list: Vec<(u32, T)>) -> Option<Self> {
        let is_there = |(bin, _): &(u32, T)| (*bin as usize) < bins;
        if !list.is_sorted_by(|a, b| a.0 < b.0) || !list.last().is_none_or(is_there) {
            return None;
        }
        let mut per_bin = Self {
            bins,
            held: Held::Few(list),
        };
        per_bin.spread_out();
        Some(per_bin)
    }

    /// When more bins than this hold something, each gets a place: the list would soon take more
    /// memory, and a place in it has to be searched.
    fn few(&self) -> usize {
        self.bins / 4
    }

    /// Adds to one bin.
    ///
    /// # Panics
    /// If there is no such bin.
    #[inline]
    pub fn add(&mut self, bin: usize, more: T) {
        match &mut self.held {
            Held::Each(each) => each[bin] += more,
            Held::Few(_) => self.add_to_few(bin, more),
        }
    }

    #[inline(never)]
    fn add_to_few(&mut self, bin: usize, more: T) {
        assert!(bin < self.bins, "bin {bin} of {}", self.bins);
        let Held::Few(few) = &mut self.held else {
            return;
        };
        if more == T::default() {
            return;
        }
        let place = u32::try_from(bin).unwrap_or(u32::MAX); // there are far fewer bins
        match few.binary_search_by_key(&place, |(bin, _)| *bin) {
            Ok(at) => few[at].1 += more,
            Err(at) => few.insert(at, (place, more)),
        }
        self.spread_out();
    }

    /// Gives each bin a place where there are many.
    fn spread_out(&mut self) {
        if let Held::Few(few) = &self.held
            && few.len() > self.few()
        {
            self.held = Held::Each(self.to_vec());
        }
    }

    /// Adds what was counted in the same bins.
    pub fn merge(&mut self, other: &Self) {
        match (&mut self.held, &other.held) {
            (Held::Each(mine), Held::Each(other)) => {
                for (mine, other) in mine.iter_mut().zip(other) {
                    *mine += *other;
                }
            }
            _ => {
                for (bin, more) in other.occupied() {
                    self.add(bin, more);
                }
            }
        }
    }

    /// The bins that hold something, in ascending order.
    pub fn occupied(&self) -> impl Iterator<Item = (usize, T)> {
        let (few, each) = match &self.held {
            Held::Few(few) => (&few[..], &[][..]),
            Held::Each(each) => (&[][..], &each[..]),
        };
        let few = few.iter().map(|(bin, held)| (*bin as usize, *held));
        let each = each.iter().copied().enumerate();
        few.chain(each.filter(|(_, held)| *held != T::default()))
    }

    /// What each bin holds.
    pub fn to_vec(&self) -> Vec<T> {
        match &self.held {
            Held::Each(each) => each.clone(),
            Held::Few(few) => {
                let mut each = vec![T::default(); self.bins];
                for (bin, held) in few {
                    each[*bin as usize] = *held;
                }
                each
            }
        }
    }

    /// What one bin holds.
    pub fn get(&self, bin: usize) -> T {
        match &self.held {
            Held::Each(each) => each.get(bin).copied().unwrap_or_default(),
            Held::Few(few) => {
                let place = few.binary_search_by_key(&bin, |(bin, _)| *bin as usize);
                place.map_or_else(|_| T::default(), |at| few[at].1)
            }
        }
    }

    /// How many bins there are.
    pub fn bins(&self) -> usize {
        self.bins
    }

    /// Bytes held, about.
    pub(super) fn bytes(&self) -> usize {
        match &self.held {
            Held::Few(few) => few.capacity() * size_of::<(u32, T)>(),
            Held::Each(each) => each.capacity() * size_of::<T>(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BINS: usize = 40;

    fn added(bins: usize, items: &[(usize, u64)]) -> PerBin<u64> {
        let mut per_bin = PerBin::new(bins);
        for (bin, more) in items {
            per_bin.add(*bin, *more);
        }
        per_bin
    }

    #[test]
    fn few_bins_are_a_list_and_many_are_not() {
        let few = added(BINS, &[(7, 1), (3, 2), (7, 4)]);
        assert!(few.bytes() < BINS * 8, "{} bytes", few.bytes());
        assert_eq!(few.occupied().collect::<Vec<_>>(), [(3, 2), (7, 5)]);
        assert_eq!((few.get(3), few.get(4), few.bins()), (2, 0, BINS));
        let many: Vec<(usize, u64)> = (0..BINS).map(|bin| (bin, 1)).collect();
        assert_eq!(added(BINS, &many).bytes(), BINS * 8);
        assert_eq!(PerBin::<u64>::new(BINS).bytes(), 0);
    }

    #[test]
    #[should_panic(expected = "bin 40 of 40")]
    fn a_bin_that_is_not_there_is_refused() {
        added(BINS, &[(BINS, 1)]);
    }

    proptest! {
        /// However they come together, they are equal to counts in a place for each bin.
        #[test]
        fn any_sequence_of_adds_and_merges_equals_the_dense_form(
            bins in 1..80usize,
            parts in prop::collection::vec(prop::collection::vec((0..80usize, 0..9u64), 0..50), 0..6),
        ) {
            let mut merged = PerBin::new(bins);
            let mut at_once = PerBin::new(bins);
            let mut dense = vec![0; bins];
            for part in &parts {
                let part: Vec<(usize, u64)> =
                    part.iter().map(|(bin, more)| (bin % bins, *more)).collect();
                merged.merge(&added(bins, &part));
                for (bin, more) in part {
                    at_once.add(bin, more);
                    dense[bin] += more;
                }
            }
            prop_assert_eq!(merged.to_vec(), &dense[..]);
            prop_assert_eq!(&merged, &at_once);
            let held: Vec<(usize, u64)> = merged.occupied().collect();
            let expected: Vec<(usize, u64)> =
                dense.iter().copied().enumerate().filter(|(_, held)| *held > 0).collect();
            prop_assert_eq!(held, expected);
            for (bin, held) in dense.iter().enumerate() {
                prop_assert_eq!(merged.get(bin), *held);
            }
        }
    }
}
