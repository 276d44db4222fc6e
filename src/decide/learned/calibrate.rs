//! From the counts of the baseline's windows to a calibration.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use super::fit::{Fit, Row, View};
use super::season::Season;
use super::{Error, FeatureWindows, MIN_WINDOWS, Pooling, Score};

/// Contiguous blocks of the baseline that are scored by fits without them.
const BLOCKS: usize = 6;

/// Windows beside a block that the fit leaves out too, as they resemble it.
const GAP: usize = 3;

/// Windows that each value of a season needs.
const LEAST_OF_SEASON: usize = 4;

/// All that live windows are judged by. Stored with the baseline.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// Windows of the baseline that hold rows.
    pub windows: usize,
    /// Seed of the bootstrap paths.
    pub seed: u64,
    /// The features in the order in which counts and scores are given.
    pub features: Vec<FeatureCalibration>,
    /// Rows of each of those windows; none in a calibration that an earlier driftd stored.
    #[serde(default)]
    rows: Vec<u64>,
    /// When each of them begins.
    #[serde(default)]
    starts_ms: Vec<i64>,
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
    /// Scores of the baseline's windows, each by a fit that has not seen it.
    pub cross_fitted: Vec<Option<Score>>,
}

impl FeatureCalibration {
    fn of(feature: &FeatureWindows, kept: &[(usize, i64)]) -> Self {
        let pooling = Pooling::of(feature);
        let row = |&(window, start_ms): &(usize, i64)| {
            let counts = pooling.apply(&feature.counts[window])?;
            Some(Row { start_ms, counts })
        };
        let rows: Vec<Row> = kept.iter().filter_map(row).collect();
        let ordered = feature.ordered;
        let season = choose_season(&rows);
        let view = View { ordered, season };
        Self {
            name: feature.name.clone(),
            fit: Fit::of(rows.iter(), view),
            cross_fitted: cross_fit(&rows, view, Fit::score),
            pooling,
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

    /// What its shares follow.
    pub fn season(&self) -> Season {
        self.fit.as_ref().map_or(Season::None, |fit| fit.season)
    }
}

/// Something of every window, by a fit without it and those beside it.
fn cross_fit<T>(rows: &[Row], view: View, of: impl Fn(&Fit, &Row) -> Option<T>) -> Vec<Option<T>> {
    let mut answers = Vec::with_capacity(rows.len());
    for block in 0..BLOCKS {
        // As even as possible, the longer blocks first.
        let (size, longer) = (rows.len() / BLOCKS, rows.len() % BLOCKS);
        let start = block * size + block.min(longer);
        let end = start + size + usize::from(block < longer);
        let (before, after) = (start.saturating_sub(GAP), (end + GAP).min(rows.len()));
        let fit = Fit::of(rows[..before].iter().chain(&rows[after..]), view);
        let answer = |row| fit.as_ref().and_then(|fit| of(fit, row));
        answers.extend(rows[start..end].iter().map(answer));
    }
    answers
}

/// The season whose shares foretell windows best that the fit has not seen: one with more values
/// has to be better by more than the standard error of the difference.
fn choose_season(rows: &[Row]) -> Season {
    let foretold = |season| {
        let view = View { ordered: 0, season };
        cross_fit(rows, view, |fit, row| Some(fit.ln_likelihood(row)))
    };
    let starts = || rows.iter().map(|row| row.start_ms);
    let (mut best, mut best_foretold) = (Season::None, None);
    let mut values = 1;
    for season in Season::CANDIDATES {
        let mut occurrences = season.occurrences(starts());
        occurrences.retain(|&windows| windows > 0);
        let told_apart = occurrences.len() > values;
        if !told_apart || occurrences.iter().any(|&windows| windows < LEAST_OF_SEASON) {
            continue;
        }
        let before = best_foretold.take().unwrap_or_else(|| foretold(best));
        let after = foretold(season);
        if is_better(&before, &after) {
            (best, best_foretold, values) = (season, Some(after), occurrences.len());
        } else {
            best_foretold = Some(before);
        }
    }
    best
}

fn is_better(before: &[Option<f64>], after: &[Option<f64>]) -> bool {
    let gains: Vec<f64> = before
        .iter()
        .zip(after)
        .filter_map(|(before, after)| Some((*after)? - (*before)?))
        .collect();
    let count = gains.len() as f64;
    let mean = gains.iter().sum::<f64>() / count;
    let squares: f64 = gains.iter().map(|gain| (gain - mean).powi(2)).sum();
    count > 1.0 && mean > (squares / (count - 1.0) / count).sqrt()
}

/// Learns what is normal from the baseline's windows, which begin at these times, in order.
/// Windows without rows of any feature are left out.
///
/// # Errors
/// [`Error::TooFewWindows`] under 30 windows with rows; [`Error::Shape`], [`Error::Duplicate`] for
/// counts that do not fit together.
pub fn calibrate(
    starts_ms: &[i64],
    features: &[FeatureWindows],
    seed: u64,
) -> Result<Calibration, Error> {
    check(starts_ms.len(), features)?;
    let rows = |window: usize| {
        let rows = features
            .iter()
            .map(|feature| feature.counts[window].iter().sum::<u64>());
        rows.max().unwrap_or(0)
    };
    let kept: Vec<(usize, i64)> = starts_ms
        .iter()
        .copied()
        .enumerate()
        .filter(|(window, _)| rows(*window) > 0)
        .collect();
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
        rows: kept.iter().map(|(window, _)| rows(*window)).collect(),
        starts_ms: kept.iter().map(|(_, start)| *start).collect(),
    })
}

fn check(windows: usize, features: &[FeatureWindows]) -> Result<(), Error> {
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
    /// Score of a live window's counts of one feature; `None` without rows, for an unknown feature,
    /// or for counts of other bins.
    pub fn score(&self, feature: usize, start_ms: i64, counts: &[u64]) -> Option<Score> {
        let feature = self.features.get(feature)?;
        let counts = feature.pooling.apply(counts)?;
        feature.fit.as_ref()?.score(&Row { start_ms, counts })
    }

    /// The cross-fitted scores of one of the baseline's windows, one per feature.
    pub fn baseline_scores(&self, window: usize) -> Vec<Option<Score>> {
        let score =
            |feature: &FeatureCalibration| feature.cross_fitted.get(window).copied().flatten();
        self.features.iter().map(score).collect()
    }

    /// Rows of each window of the baseline; empty if an earlier driftd stored the calibration.
    pub fn rows(&self) -> &[u64] {
        &self.rows
    }

    /// When each of them begins; empty as above.
    pub fn starts_ms(&self) -> &[i64] {
        &self.starts_ms
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
            ordered: 0,
        }
    }

    const DAY_MS: i64 = 86_400_000;

    fn learn(features: &[FeatureWindows]) -> Result<Calibration, Error> {
        let windows = features.first().map_or(0, |feature| feature.counts.len());
        let starts: Vec<i64> = (0..).map(|day: i64| day * DAY_MS).take(windows).collect();
        calibrate(&starts, features, 1)
    }

    #[test]
    fn few_windows_are_an_error_and_empty_ones_do_not_count() {
        assert_eq!(learn(&[]), Err(Error::TooFewWindows { found: 0 }));
        let mut short = feature("a", 30);
        assert!(learn(&[short.clone()]).is_ok());
        short.counts[4] = vec![0, 0];
        assert_eq!(learn(&[short]), Err(Error::TooFewWindows { found: 29 }));
    }

    #[test]
    fn shapes_are_checked() {
        let error = learn(&[feature("a", 40), feature("b", 41)]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "feature `b`: expected 40 windows, found 41"
        );
        let mut odd = feature("a", 40);
        odd.counts[7].push(1);
        assert!(matches!(
            learn(&[odd]),
            Err(Error::Shape { what: "bins", .. })
        ));
        let twice = learn(&[feature("a", 40), feature("a", 40)]);
        assert_eq!(twice, Err(Error::Duplicate("a".into())));
    }

    #[test]
    fn a_window_without_rows_of_one_feature_has_no_z_there() {
        let mut gaps = feature("a", 40);
        gaps.counts[4] = vec![0, 0];
        let calibration = learn(&[gaps, feature("b", 40)]).unwrap();
        let scores = calibration.baseline_scores(4);
        assert!(scores[0].is_none() && scores[1].is_some() && calibration.windows == 40);
        let score = |feature, counts: &[u64]| calibration.score(feature, 0, counts);
        assert!(score(0, &[0, 0]).is_none() && score(0, &[1]).is_none());
        assert!(score(2, &[1, 1]).is_none() && score(1, &[90, 110]).is_some());
        assert_eq!(calibration.rows()[4], 102 + 109);
    }

    #[test]
    fn a_feature_that_is_never_there_is_never_scored() {
        let never = FeatureWindows {
            counts: vec![vec![0, 0]; 40],
            ..feature("a", 40)
        };
        let calibration = learn(&[never, feature("b", 40)]).unwrap();
        assert!(calibration.score(0, 0, &[5, 5]).is_none());
        assert!(calibration.baseline_scores(0)[0].is_none());
    }

    /// Shares that are `shifted` by so many rows of 1,000 where `high` says so.
    fn wobbling(windows: usize, shifted: u64, high: impl Fn(usize) -> bool) -> FeatureWindows {
        let row = |i: usize| {
            let more = (i as u64 * 7919) % 23 + if high(i) { shifted } else { 0 };
            vec![500 - more, 250, 250 + more, 0]
        };
        FeatureWindows {
            name: "a".into(),
            counts: (0..windows).map(row).collect(),
            own: vec![true; 4],
            ordered: 3,
        }
    }

    #[test]
    fn a_season_is_followed_where_there_is_one() {
        let weekend = |i: usize| (i + 3) % 7 >= 5; // the first window is on a Thursday
        let seasonal = learn(&[wobbling(90, 100, weekend)]).unwrap();
        assert_eq!(seasonal.features[0].season(), Season::DayOfWeek);
        let usual = [490, 250, 260, 0];
        let on = |day: i64| seasonal.score(0, day * DAY_MS, &usual).unwrap();
        assert!(on(700).z < 2.0, "{:?}", on(700)); // again a Thursday
        assert!(
            on(702).z > 5.0 && on(702).location.unwrap() < -5.0,
            "{:?}",
            on(702)
        );

        let plain = learn(&[wobbling(90, 0, weekend)]).unwrap();
        assert_eq!(plain.features[0].season(), Season::None);
    }

    #[test]
    fn a_season_needs_windows_of_each_of_its_values() {
        let weekend = |i: usize| (i + 3) % 7 >= 5;
        let short = learn(&[wobbling(30, 100, weekend)]).unwrap();
        assert_eq!(short.features[0].season(), Season::DayOfWeek);
        let every_third_day: Vec<i64> = (0..30).map(|i| i * 3 * DAY_MS / 11).collect();
        let spread_out = calibrate(&every_third_day, &[wobbling(30, 100, |i| i % 2 == 0)], 1);
        assert_eq!(spread_out.unwrap().features[0].season(), Season::None);
    }

    #[test]
    fn delays_of_a_shift_are_told_where_bins_are_in_order() {
        let rate = crate::decide::learned::FalseAlarmRate {
            max: 1.0,
            windows_per_period: 30.0,
        };
        let told = |features: &[FeatureWindows]| {
            let calibration = learn(features).unwrap();
            let thresholds = calibration.thresholds(rate, 2.0);
            let shifts = [0.0, 0.01, 0.02, 0.03, 0.04, 0.1, 1.0];
            shifts.map(|shift| calibration.delay_of_shift(&thresholds, shift))
        };
        let delays = told(&[wobbling(90, 0, |_| false)]);
        assert_eq!((delays[0], delays[6]), (None, Some(1)));
        assert!(
            delays
                .map(|delay| delay.unwrap_or(u64::MAX))
                .is_sorted_by(|a, b| a >= b)
        );
        assert_eq!(told(&[feature("a", 40)]), [None; 7]);
    }

    #[test]
    fn what_was_stored_before_there_were_contrasts_is_read() {
        let stored = include_str!("../../../tests/reference/calibration_v1.json");
        let calibration: Calibration = serde_json::from_str(stored).unwrap();
        assert!(calibration.rows().is_empty() && calibration.starts_ms().is_empty());
        let score = calibration.score(0, 0, &[110, 100]).unwrap();
        assert!(
            (score.z - 0.896_388_002_192_506_5).abs() < 1e-9 && score.location.is_none(),
            "{score:?}"
        );
        let again: Calibration =
            serde_json::from_value(serde_json::to_value(&calibration).unwrap()).unwrap();
        assert_eq!(again.score(0, 0, &[110, 100]), Some(score));
        assert_eq!(again.baseline_scores(7), calibration.baseline_scores(7));
    }

    proptest::proptest! {
        #[test]
        fn every_score_is_a_number_in_its_range(
            windows in proptest::collection::vec(
                proptest::collection::vec(proptest::prop_oneof![0_u64..5, 0_u64..2000, 0..=1_u64 << 55], 4),
                30..45,
            ),
            live in proptest::collection::vec(0..=1_u64 << 55, 4),
            ordered in 0_usize..=4,
        ) {
            let feature = FeatureWindows {
                name: "a".into(),
                counts: windows,
                own: vec![ordered > 0; 4],
                ordered,
            };
            // Too few windows may hold rows.
            if let Ok(calibration) = learn(&[feature]) {
                let scores = (0..calibration.windows).map(|window| calibration.baseline_scores(window)[0]);
                for score in scores.chain([calibration.score(0, 5 * DAY_MS, &live)]).flatten() {
                    let range = -super::super::LARGEST_Z..=super::super::LARGEST_Z;
                    proptest::prop_assert!(range.contains(&score.z), "{score:?}");
                    proptest::prop_assert!(score.location.is_none_or(|at| range.contains(&at)), "{score:?}");
                }
            }
        }
    }
}
