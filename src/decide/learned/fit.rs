//! Reference, design effect and tail of one feature, learned from some windows; scores others.

use serde::{Deserialize, Serialize};

use super::FeatureWindows;
use crate::compare::law::{chi2, normal};

/// Levels that expect fewer rows per window than this share one bin.
const SMALL: f64 = 5.0;

/// y is not told apart beyond this.
const LARGEST_Y: f64 = 400.0;

/// The least mean excess of a tail: smaller ones come from histories of ties.
const LEAST_EXCESS: f64 = 0.3;

/// Tail probabilities are not told apart below exp of this.
const LEAST_LN_P: f64 = -60.0;

/// The z of that probability: no z is larger.
pub const LARGEST_Z: f64 = 10.649_592_384_805_446;

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

/// What the windows of a fit say of one feature.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Fit {
    /// Windows with rows in the fit.
    pub(super) windows: usize,
    /// Expected share of each final bin.
    pub(super) p: Vec<f64>,
    /// Design effect per further row of a window.
    pub(super) rho: f64,
    /// Scores of the fit's windows, ascending.
    pub(super) y: Vec<f64>,
    /// Their 80 % quantile.
    pub(super) u: f64,
    /// Mean excess over it.
    pub(super) s: f64,
    /// The one bin that holds every row of the fit, if there is one.
    pub(super) constant: Option<usize>,
}

impl Fit {
    /// From pooled counts; windows without rows are ignored.
    pub(super) fn of<'a>(windows: impl Iterator<Item = &'a Vec<f64>>) -> Option<Self> {
        let rows: Vec<&Vec<f64>> = windows
            .filter(|row| row.iter().sum::<f64>() > 0.0)
            .collect();
        let first = rows.first()?;
        if rows.len() < 2 {
            return None;
        }
        let mut totals = vec![0.0; first.len()];
        rows.iter()
            .for_each(|row| totals.iter_mut().zip(*row).for_each(|(sum, c)| *sum += c));
        let (total, bins) = (totals.iter().sum::<f64>(), totals.len() as f64);
        let p = totals
            .iter()
            .map(|c| (c + 0.5) / (total + 0.5 * bins))
            .collect();
        let mut fit = Self {
            windows: rows.len(),
            p,
            rho: 0.0,
            y: Vec::new(),
            u: 0.0,
            s: LEAST_EXCESS,
            constant: totals.iter().position(|&c| c >= total),
        };
        fit.learn_spread(&rows);
        fit.learn_tail(&rows);
        Some(fit)
    }

    fn learn_spread(&mut self, rows: &[&Vec<f64>]) {
        let dof = self.dof();
        if dof <= 0.0 {
            return;
        }
        let correction = self.within();
        let excess: f64 = rows
            .iter()
            .map(|row| self.x2(row) * correction / dof - 1.0)
            .sum();
        let further: f64 = rows.iter().map(|row| row.iter().sum::<f64>() - 1.0).sum();
        self.rho = if further > 0.0 {
            (excess / further).max(0.0)
        } else {
            0.0
        };
    }

    fn learn_tail(&mut self, rows: &[&Vec<f64>]) {
        let correction = self.within();
        self.y = rows.iter().map(|row| self.y_of(row, correction)).collect();
        self.y.sort_by(f64::total_cmp);
        let tail = Tail::of(&self.y);
        self.u = tail.start;
        self.s = tail.mean_excess.unwrap_or(0.0).max(LEAST_EXCESS);
    }

    fn dof(&self) -> f64 {
        self.p.len() as f64 - 1.0
    }

    /// Windows of the fit are nearer to its shares than others are.
    fn within(&self) -> f64 {
        1.0 / (1.0 - 1.0 / self.windows as f64)
    }

    fn beside(&self) -> f64 {
        1.0 / (1.0 + 1.0 / self.windows as f64)
    }

    fn x2(&self, row: &[f64]) -> f64 {
        let rows: f64 = row.iter().sum();
        let terms = row
            .iter()
            .zip(&self.p)
            .map(|(c, p)| (c - rows * p).powi(2) / (rows * p));
        terms.sum()
    }

    fn y_of(&self, row: &[f64], correction: f64) -> f64 {
        let rows: f64 = row.iter().sum();
        let spread = 1.0 + (rows - 1.0) * self.rho;
        (-chi2::ln_sf(self.x2(row) * correction / spread, self.dof())).min(LARGEST_Y)
    }

    /// z of a window that is not in the fit; `None` without rows.
    pub(super) fn z(&self, row: &[f64]) -> Option<f64> {
        let rows: f64 = row.iter().sum();
        if rows <= 0.0 || row.len() != self.p.len() {
            return None;
        }
        if self.constant.is_some_and(|bin| row[bin] >= rows) {
            return Some(0.0);
        }
        let y = self.y_of(row, self.beside());
        let ln_p = if y > self.u {
            0.2_f64.ln() - (y - self.u) / self.s
        } else {
            let rank = self.y.partition_point(|&seen| seen <= y) as f64;
            (1.0 - rank / (self.windows as f64 + 1.0))
                .clamp(1e-6, 1.0 - 1e-6)
                .ln()
        };
        Some(normal::upper_quantile(ln_p.max(LEAST_LN_P)).max(-4.0))
    }
}

/// The upper fifth of some values: where it starts and how far it reaches.
pub(super) struct Tail {
    pub(super) start: f64,
    /// `None` if no value is above the start.
    pub(super) mean_excess: Option<f64>,
}

impl Tail {
    /// Of ascending values; the quantile is interpolated as numpy's default does.
    pub(super) fn of(sorted: &[f64]) -> Self {
        let place = 0.8 * (sorted.len() as f64 - 1.0).max(0.0);
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "0 <= place < len"
        )]
        let at = place.floor() as usize;
        let value = |i: usize| sorted.get(i).or(sorted.last()).copied().unwrap_or(0.0);
        let start = interpolate(value(at), value(at + 1), place - place.floor());
        let above = sorted.iter().filter(|&&y| y > start);
        let (count, sum) = above.fold((0.0, 0.0), |(count, sum), y| (count + 1.0, sum + y - start));
        Self {
            start,
            mean_excess: (count > 0.0).then(|| sum / count),
        }
    }
}

/// From whichever end is nearer, so that equal ends give exactly that value.
fn interpolate(low: f64, high: f64, share: f64) -> f64 {
    if share < 0.5 {
        low + (high - low) * share
    } else {
        high - (high - low) * (1.0 - share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn largest_z_is_the_quantile_of_the_least_probability() {
        assert!((normal::upper_quantile(LEAST_LN_P) - LARGEST_Z).abs() < 1e-12);
    }

    #[test]
    fn small_levels_share_the_last_bin_and_own_bins_do_not() {
        let feature = FeatureWindows {
            name: "level".into(),
            counts: vec![vec![90, 4, 5, 3, 0, 0], vec![80, 4, 5, 3, 0, 1], vec![0; 6]],
            own: vec![false, false, false, false, true, true],
        };
        let pooling = Pooling::of(&feature);
        assert_eq!(pooling.shared, [1, 3]);
        assert_eq!(
            pooling.apply(&[1, 2, 3, 4, 5, 6]),
            Some(vec![1.0, 3.0, 5.0, 6.0, 6.0])
        );
        assert_eq!(pooling.apply(&[1, 2, 3]), None);
    }

    #[test]
    fn a_constant_feature_is_quiet_until_it_is_not() {
        let windows = vec![vec![1000.0, 0.0, 0.0]; 40];
        let fit = Fit::of(windows.iter()).unwrap();
        assert_eq!(fit.z(&[800.0, 0.0, 0.0]), Some(0.0));
        assert!(fit.z(&[700.0, 0.0, 100.0]).unwrap() > 10.0);
        assert_eq!(fit.z(&[0.0, 0.0, 0.0]), None);
    }

    #[test]
    fn one_bin_and_one_row_windows_give_numbers() {
        let fit = Fit::of(vec![vec![3.0]; 30].iter()).unwrap();
        assert_eq!(fit.z(&[5.0]), Some(0.0));
        let rows = [vec![1.0, 0.0], vec![0.0, 1.0]];
        let fit = Fit::of(rows.iter().cycle().take(40)).unwrap();
        assert!(fit.rho.abs() < 1e-15 && fit.z(&[1.0, 0.0]).unwrap().is_finite());
        assert!(Fit::of([vec![0.0, 0.0], vec![1.0, 2.0]].iter()).is_none());
    }

    #[test]
    fn quantile_and_excess() {
        let tail = Tail::of(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        assert!((tail.start - 5.0).abs() < 1e-15 && tail.mean_excess == Some(1.0));
        assert!(Tail::of(&[2.0; 9]).mean_excess.is_none());
        assert!(Tail::of(&[]).start.abs() < 1e-300);
    }
}
