//! Rare levels that share one bin.

use serde::{Deserialize, Serialize};

use super::FeatureWindows;

/// Levels that expect fewer rows per window than this share one bin.
const SMALL: f64 = 5.0;

/// Which raw bins share one bin, so that live counts are pooled as the baseline's were. The shared
/// bin comes last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pooling {
    /// Number of raw bins.
    pub bins: usize,
    /// Raw bins that share one, ascending.
    pub shared: Vec<usize>,
}

impl Pooling {
    /// By the mean counts over the windows that hold rows.
    pub(super) fn of(feature: &FeatureWindows) -> Self {
        let filled: Vec<_> = feature
            .counts
            .iter()
            .filter(|row| row.iter().any(|&c| c > 0))
            .collect();
        let mean = |bin: usize| {
            filled.iter().map(|row| row[bin] as f64).sum::<f64>() / (filled.len().max(1) as f64)
        };
        let small = |&bin: &usize| !feature.own[bin] && mean(bin) < SMALL;
        let bins = feature.own.len();
        Self {
            bins,
            shared: (0..bins).filter(small).collect(),
        }
    }

    /// Counts on the final bins; `None` if these are not counts of this feature's bins.
    pub fn apply(&self, counts: &[u64]) -> Option<Vec<f64>> {
        if counts.len() != self.bins {
            return None;
        }
        let mut shared = 0.0;
        let mut pooled = Vec::with_capacity(counts.len());
        for (bin, &count) in counts.iter().enumerate() {
            if self.shared.binary_search(&bin).is_ok() {
                shared += count as f64;
            } else {
                pooled.push(count as f64);
            }
        }
        if !self.shared.is_empty() {
            pooled.push(shared);
        }
        Some(pooled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_levels_share_the_last_bin_and_own_bins_do_not() {
        let feature = FeatureWindows {
            name: "level".into(),
            counts: vec![vec![90, 4, 5, 3, 0, 0], vec![80, 4, 5, 3, 0, 1], vec![0; 6]],
            own: vec![false, false, false, false, true, true],
            ordered: 0,
        };
        let pooling = Pooling::of(&feature);
        assert_eq!(pooling.shared, [1, 3]);
        assert_eq!(
            pooling.apply(&[1, 2, 3, 4, 5, 6]),
            Some(vec![1.0, 3.0, 5.0, 6.0, 6.0])
        );
        assert_eq!(pooling.apply(&[1, 2, 3]), None);
    }
}
