//! From the counts of the baseline's windows to a calibration.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use super::fit::{Fit, Pooling};
use super::{Error, FeatureWindows, MIN_WINDOWS};

/// Contiguous blocks of the baseline that are scored by fits without them.
const BLOCKS: usize = 6;

/// Windows beside a block that the fit leaves out too, as they resemble it.
const GAP: usize = 3;

/// All that live windows are judged by. Stored with the baseline.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// Windows of the baseline that hold rows.
    pub windows: usize,
    /// Seed of the bootstrap paths.
    pub seed: u64,
    /// The features in the order in which counts and scores are given.
    pub features: Vec<FeatureCalibration>,
}

/// What was learned of one feature.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FeatureCalibration {
    /// The feature.
    pub name: String,
    /// Which of its bins share one.
    pub pooling: Pooling,
    /// The fit of all windows; `None` if fewer than two windows hold rows of it.
    pub(super) fit: Option<Fit>,
    /// z of the baseline's windows, each by a fit that has not seen it.
    pub cross_fitted: Vec<Option<f64>>,
}

impl FeatureCalibration {
    fn of(feature: &FeatureWindows, kept: &[usize]) -> Self {
        let pooling = Pooling::of(feature);
        let rows: Vec<Vec<f64>> = kept
            .iter()
            .filter_map(|&window| pooling.apply(&feature.counts[window]))
            .collect();
        let cross_fitted = cross_fit(&rows);
        Self {
            name: feature.name.clone(),
            pooling,
            fit: Fit::of(rows.iter()),
            cross_fitted,
        }
    }

    /// Whether every row of the baseline is in one bin.
    pub fn is_constant(&self) -> bool {
        self.fit.as_ref().is_some_and(|fit| fit.constant.is_some())
    }

    /// Share by which rows of one window resemble each other: `1 / rho` is about the number of
    /// independent rows that a large window is worth. 0 means that rows are independent.
    pub fn rho(&self) -> f64 {
        self.fit.as_ref().map_or(0.0, |fit| fit.rho)
    }
}

fn cross_fit(rows: &[Vec<f64>]) -> Vec<Option<f64>> {
    let mut scores = Vec::with_capacity(rows.len());
    for block in 0..BLOCKS {
        // As even as possible, the longer blocks first.
        let (size, longer) = (rows.len() / BLOCKS, rows.len() % BLOCKS);
        let start = block * size + block.min(longer);
        let end = start + size + usize::from(block < longer);
        let (before, after) = (start.saturating_sub(GAP), (end + GAP).min(rows.len()));
        let fit = Fit::of(rows[..before].iter().chain(&rows[after..]));
        scores.extend(
            rows[start..end]
                .iter()
                .map(|row| fit.as_ref().and_then(|fit| fit.z(row))),
        );
    }
    scores
}

/// Learns what is normal from the baseline's windows. Windows without rows of any feature are left
/// out.
///
/// # Errors
/// [`Error::TooFewWindows`] under 30 windows with rows; [`Error::Shape`], [`Error::Duplicate`] for
/// counts that do not fit together.
pub fn calibrate(features: &[FeatureWindows], seed: u64) -> Result<Calibration, Error> {
    check(features)?;
    let count = features.first().map_or(0, |feature| feature.counts.len());
    let filled = |window: &usize| {
        features
            .iter()
            .any(|feature| feature.counts[*window].iter().any(|&count| count > 0))
    };
    let kept: Vec<usize> = (0..count).filter(filled).collect();
    if kept.len() < MIN_WINDOWS {
        return Err(Error::TooFewWindows { found: kept.len() });
    }
    let features = features
        .iter()
        .map(|feature| FeatureCalibration::of(feature, &kept))
        .collect();
    Ok(Calibration {
        windows: kept.len(),
        seed,
        features,
    })
}

fn check(features: &[FeatureWindows]) -> Result<(), Error> {
    let windows = features.first().map_or(0, |feature| feature.counts.len());
    let mut names = HashSet::new();
    for feature in features {
        let shape = |what, expected, found| Error::Shape {
            feature: feature.name.clone(),
            what,
            expected,
            found,
        };
        if !names.insert(&feature.name) {
            return Err(Error::Duplicate(feature.name.clone()));
        }
        if feature.counts.len() != windows {
            return Err(shape("windows", windows, feature.counts.len()));
        }
        if let Some(row) = feature
            .counts
            .iter()
            .find(|row| row.len() != feature.own.len())
        {
            return Err(shape("bins", feature.own.len(), row.len()));
        }
    }
    Ok(())
}

impl Calibration {
    /// z of a live window's counts of one feature; `None` without rows, for an unknown feature, or
    /// for counts of other bins.
    pub fn z(&self, feature: usize, counts: &[u64]) -> Option<f64> {
        let feature = self.features.get(feature)?;
        feature.fit.as_ref()?.z(&feature.pooling.apply(counts)?)
    }

    /// The cross-fitted z of one of the baseline's windows, one per feature.
    pub fn baseline_z(&self, window: usize) -> Vec<Option<f64>> {
        let z = |feature: &FeatureCalibration| feature.cross_fitted.get(window).copied().flatten();
        self.features.iter().map(z).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feature(name: &str, windows: usize) -> FeatureWindows {
        let row = |i: usize| vec![100 + (i * 7 % 13) as u64, 100 + (i * 5 % 11) as u64];
        FeatureWindows {
            name: name.into(),
            counts: (0..windows).map(row).collect(),
            own: vec![true; 2],
        }
    }

    #[test]
    fn few_windows_are_an_error_and_empty_ones_do_not_count() {
        assert_eq!(calibrate(&[], 1), Err(Error::TooFewWindows { found: 0 }));
        let mut short = feature("a", 30);
        assert!(calibrate(&[short.clone()], 1).is_ok());
        short.counts[4] = vec![0, 0];
        assert_eq!(
            calibrate(&[short], 1),
            Err(Error::TooFewWindows { found: 29 })
        );
    }

    #[test]
    fn shapes_are_checked() {
        let error = calibrate(&[feature("a", 40), feature("b", 41)], 1).unwrap_err();
        assert_eq!(
            error.to_string(),
            "feature `b`: expected 40 windows, found 41"
        );
        let mut odd = feature("a", 40);
        odd.counts[7].push(1);
        assert!(matches!(
            calibrate(&[odd], 1),
            Err(Error::Shape { what: "bins", .. })
        ));
        let twice = calibrate(&[feature("a", 40), feature("a", 40)], 1);
        assert_eq!(twice, Err(Error::Duplicate("a".into())));
    }

    #[test]
    fn a_window_without_rows_of_one_feature_has_no_z_there() {
        let mut gaps = feature("a", 40);
        gaps.counts[4] = vec![0, 0];
        let calibration = calibrate(&[gaps, feature("b", 40)], 1).unwrap();
        let z = calibration.baseline_z(4);
        assert!(z[0].is_none() && z[1].is_some() && calibration.windows == 40);
        assert!(calibration.z(0, &[0, 0]).is_none() && calibration.z(0, &[1]).is_none());
        assert!(calibration.z(2, &[1, 1]).is_none() && calibration.z(1, &[90, 110]).is_some());
    }

    #[test]
    fn a_feature_that_is_never_there_is_never_scored() {
        let never = FeatureWindows {
            counts: vec![vec![0, 0]; 40],
            ..feature("a", 40)
        };
        let calibration = calibrate(&[never, feature("b", 40)], 1).unwrap();
        assert!(calibration.z(0, &[5, 5]).is_none() && calibration.baseline_z(0)[0].is_none());
    }
}
