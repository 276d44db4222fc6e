//! The two limbs on windows as they come.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Calibration, Thresholds, accumulate};

/// The sums of the slow limb, carried from window to window. By feature name, so that they survive
/// a changed list of features: a new one starts at 0, one that has left is forgotten.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Limbs {
    c: BTreeMap<String, f64>,
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
    pub z: Option<f64>,
    /// Sum of the slow limb with this window, before an alarm set it to 0.
    pub c: f64,
    /// Whether z or C is over its threshold: what makes a feature count as drifted.
    pub over: bool,
}

impl Limbs {
    /// Takes one window's z, one per feature of the calibration (missing ones count as `None`).
    pub fn step(
        &mut self,
        calibration: &Calibration,
        thresholds: &Thresholds,
        z: &[Option<f64>],
    ) -> Alarm {
        let mut limb = None;
        let mut features = Vec::with_capacity(calibration.features.len());
        for (index, feature) in calibration.features.iter().enumerate() {
            let z = z.get(index).copied().flatten().filter(|z| !z.is_nan());
            let before = self.c.get(&feature.name).copied().unwrap_or(0.0);
            let c = z.map_or(before, |z| accumulate(before, z));
            let fast = z.is_some_and(|z| z > thresholds.fast);
            let slow = z.is_some() && c > thresholds.slow;
            limb = match limb {
                _ if fast => Some(Limb::Fast),
                None if slow => Some(Limb::Slow),
                other => other,
            };
            features.push(FeatureScore {
                name: feature.name.clone(),
                z,
                c,
                over: fast || slow,
            });
        }
        let alarmed = limb.is_some();
        let kept = features
            .iter()
            .map(|f| (f.name.clone(), if alarmed { 0.0 } else { f.c }));
        self.c = kept.collect();
        Alarm { limb, features }
    }
}

impl Alarm {
    /// Features by how far they are out, worst first: by z where the fast limb alarmed, else by C.
    pub fn ranking(&self) -> Vec<&FeatureScore> {
        let key = |feature: &FeatureScore| match self.limb {
            Some(Limb::Fast) => feature.z.unwrap_or(f64::NEG_INFINITY),
            _ => feature.c,
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
            .map(|window| limbs.step(self, thresholds, &self.baseline_z(window)))
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
        };
        calibrate(&names.iter().map(feature).collect::<Vec<_>>(), 1).unwrap()
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
        let mut step = |z| limbs.step(&calibration, &LIMITS, &[Some(z), Some(0.0)]);
        assert_eq!((step(3.0).limb, step(3.0).limb), (None, None));
        let alarm = step(3.0);
        assert_eq!(alarm.limb, Some(Limb::Slow));
        assert_eq!(
            alarm.features.iter().map(|f| f.over).collect::<Vec<_>>(),
            [true, false]
        );
        assert_eq!(alarm.ranking()[0].name, "a");
        assert!(step(0.0).features[0].c.abs() < 1e-300);
    }

    #[test]
    fn the_fast_limb_goes_before_the_slow_one() {
        let calibration = calibration(&["a", "b"]);
        let mut limbs = Limbs::default();
        limbs.step(&calibration, &LIMITS, &[Some(4.0), None]);
        let alarm = limbs.step(&calibration, &LIMITS, &[Some(4.0), Some(7.0)]);
        assert_eq!(alarm.limb, Some(Limb::Fast));
        assert!(alarm.features.iter().all(|feature| feature.over));
        assert_eq!(alarm.ranking()[0].name, "b");
    }

    #[test]
    fn windows_without_rows_change_nothing() {
        let calibration = calibration(&["a"]);
        let mut limbs = Limbs::default();
        limbs.step(&calibration, &LIMITS, &[Some(4.0)]);
        let before = limbs.clone();
        for empty in [&[None][..], &[], &[Some(f64::NAN)]] {
            assert_eq!(limbs.step(&calibration, &LIMITS, empty).limb, None);
            assert_eq!(limbs, before);
        }
    }

    #[test]
    fn sums_survive_a_changed_list_and_storage() {
        let mut limbs = Limbs::default();
        limbs.step(&calibration(&["a", "b"]), &LIMITS, &[Some(3.0), Some(2.0)]);
        let stored = serde_json::to_string(&limbs).unwrap();
        let mut limbs: Limbs = serde_json::from_str(&stored).unwrap();
        let alarm = limbs.step(&calibration(&["c", "b"]), &LIMITS, &[Some(1.0), Some(2.0)]);
        assert!((alarm.features[1].c - 2.5).abs() < 1e-12);
        assert!((alarm.features[0].c - 0.25).abs() < 1e-12);
    }
}
