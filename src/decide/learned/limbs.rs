//! The two limbs on windows as they come.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Calibration, Score, Sums, Thresholds};

/// The sums of the slow limb, carried from window to window. By feature name, so that they survive
/// a changed list of features: a new one starts at 0, one that has left is forgotten.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Limbs {
    c: BTreeMap<String, Sums>,
}

/// Which limb alarmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Limb {
    /// This window alone is too far out.
    Fast,
    /// The last windows together are.
    Slow,
}

/// What one window says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Alarm {
    /// The limb that alarmed, the fast one if both did; `None` for a window without alarm.
    pub limb: Option<Limb>,
    /// One entry per feature of the calibration, in its order.
    pub features: Vec<FeatureScore>,
}

/// What one window says of one feature.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FeatureScore {
    /// The feature.
    pub name: String,
    /// Score of this window; `None` without rows.
    pub score: Option<Score>,
    /// Sums of the slow limb with this window, before an alarm set them to 0.
    pub sums: Sums,
    /// Whether z or a sum is over its threshold: what makes a feature count as drifted.
    pub over: bool,
}

impl FeatureScore {
    /// z of this window.
    pub fn z(&self) -> Option<f64> {
        self.score.map(|score| score.z)
    }
}

impl Limbs {
    /// Takes one window's scores, one per feature of the calibration (missing ones count as `None`).
    pub fn step(
        &mut self,
        calibration: &Calibration,
        thresholds: &Thresholds,
        scores: &[Option<Score>],
    ) -> Alarm {
        let mut limb = None;
        let mut features = Vec::with_capacity(calibration.features.len());
        for (index, feature) in calibration.features.iter().enumerate() {
            let score = scores
                .get(index)
                .copied()
                .flatten()
                .filter(|score| !score.z.is_nan());
            let before = self.c.get(&feature.name).copied().unwrap_or_default();
            let sums = score.map_or(before, |score| before.with(score, f64::INFINITY));
            let fast = score.is_some_and(|score| score.z > thresholds.fast);
            let slow = score.is_some() && sums.largest() > thresholds.slow;
            limb = match limb {
                _ if fast => Some(Limb::Fast),
                None if slow => Some(Limb::Slow),
                other => other,
            };
            features.push(FeatureScore {
                name: feature.name.clone(),
                score,
                sums,
                over: fast || slow,
            });
        }
        let alarmed = limb.is_some();
        let kept = |f: &FeatureScore| if alarmed { Sums::default() } else { f.sums };
        self.c = features.iter().map(|f| (f.name.clone(), kept(f))).collect();
        Alarm { limb, features }
    }
}

impl Alarm {
    /// Features by how far they are out, worst first: by z where the fast limb alarmed, else by
    /// their largest sum.
    pub fn ranking(&self) -> Vec<&FeatureScore> {
        let key = |feature: &FeatureScore| match self.limb {
            Some(Limb::Fast) => feature.z().unwrap_or(f64::NEG_INFINITY),
            _ => feature.sums.largest(),
        };
        let mut ranking: Vec<&FeatureScore> = self.features.iter().collect();
        ranking.sort_by(|a, b| key(b).total_cmp(&key(a)));
        ranking
    }
}

impl Calibration {
    /// What the limbs say of the baseline's own windows, by their cross-fitted scores.
    pub fn replay(&self, thresholds: &Thresholds) -> Vec<Alarm> {
        let mut limbs = Limbs::default();
        (0..self.windows)
            .map(|window| limbs.step(self, thresholds, &self.baseline_scores(window)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{FeatureWindows, calibrate};
    use super::*;

    fn calibration(names: &[&str]) -> Calibration {
        let feature = |name: &&str| FeatureWindows {
            name: (*name).into(),
            counts: (0..40).map(|i| vec![100 + i % 7, 100 + i % 5]).collect(),
            own: vec![true; 2],
            ordered: 0,
        };
        let features: Vec<FeatureWindows> = names.iter().map(feature).collect();
        calibrate(&(0..40).collect::<Vec<i64>>(), &features, 1).unwrap()
    }

    fn z(z: f64) -> Option<Score> {
        Some(Score { z, location: None })
    }

    const LIMITS: Thresholds = Thresholds {
        fast: 6.0,
        slow: 5.0,
        hazard: 0.01,
        predicted_per_period: 0.0,
    };

    #[test]
    fn the_slow_limb_adds_up_and_starts_again_after_its_alarm() {
        let calibration = calibration(&["a", "b"]);
        let mut limbs = Limbs::default();
        let mut step = |seen| limbs.step(&calibration, &LIMITS, &[z(seen), z(0.0)]);
        assert_eq!((step(3.0).limb, step(3.0).limb), (None, None));
        let alarm = step(3.0);
        assert_eq!(alarm.limb, Some(Limb::Slow));
        assert_eq!(
            alarm.features.iter().map(|f| f.over).collect::<Vec<_>>(),
            [true, false]
        );
        assert_eq!(alarm.ranking()[0].name, "a");
        assert!(step(0.0).features[0].sums.largest().abs() < 1e-300);
    }

    #[test]
    fn the_fast_limb_goes_before_the_slow_one() {
        let calibration = calibration(&["a", "b"]);
        let mut limbs = Limbs::default();
        limbs.step(&calibration, &LIMITS, &[z(4.0), None]);
        let alarm = limbs.step(&calibration, &LIMITS, &[z(4.0), z(7.0)]);
        assert_eq!(alarm.limb, Some(Limb::Fast));
        assert!(alarm.features.iter().all(|feature| feature.over));
        assert_eq!(alarm.ranking()[0].name, "b");
    }

    #[test]
    fn windows_without_rows_change_nothing() {
        let calibration = calibration(&["a"]);
        let mut limbs = Limbs::default();
        limbs.step(&calibration, &LIMITS, &[z(4.0)]);
        let before = limbs.clone();
        for empty in [&[None][..], &[], &[z(f64::NAN)]] {
            assert_eq!(limbs.step(&calibration, &LIMITS, empty).limb, None);
            assert_eq!(limbs, before);
        }
    }

    #[test]
    fn sums_survive_a_changed_list_and_storage() {
        let mut limbs = Limbs::default();
        limbs.step(&calibration(&["a", "b"]), &LIMITS, &[z(3.0), z(2.0)]);
        let stored = serde_json::to_string(&limbs).unwrap();
        let mut limbs: Limbs = serde_json::from_str(&stored).unwrap();
        let alarm = limbs.step(&calibration(&["c", "b"]), &LIMITS, &[z(1.0), z(2.0)]);
        assert!((alarm.features[1].sums.largest() - 2.5).abs() < 1e-12);
        assert!((alarm.features[0].sums.largest() - 0.25).abs() < 1e-12);
    }

    #[test]
    fn a_small_shift_that_stays_adds_up_in_its_direction_only() {
        let calibration = calibration(&["a"]);
        let run = |location: fn(usize) -> f64| {
            let mut limbs = Limbs::default();
            (0..20).position(|window| {
                let score = Score {
                    z: 0.5,
                    location: Some(location(window)),
                };
                limbs.step(&calibration, &LIMITS, &[Some(score)]).limb == Some(Limb::Slow)
            })
        };
        assert_eq!(run(|_| 1.25), Some(10)); // 5 / (1.25 - 0.75), and over it
        assert_eq!(run(|_| -1.25), Some(10));
        assert_eq!(
            run(|window| if window % 2 == 0 { 1.25 } else { -1.25 }),
            None
        );
    }

    #[test]
    fn sums_of_before_there_was_a_location_are_read() {
        let mut limbs: Limbs = serde_json::from_str(r#"{"c":{"a":4.5}}"#).unwrap();
        let alarm = limbs.step(&calibration(&["a"]), &LIMITS, &[z(2.0)]);
        assert!(alarm.limb == Some(Limb::Slow), "{alarm:?}");
    }
}
