//! The learned score against `tests/reference/learned.json`: five features of the public flights,
//! computed by a separate program.

use serde::Deserialize;

use super::{Calibration, FalseAlarmRate, FeatureWindows, Limb, Limbs, Thresholds, calibrate};

#[derive(Deserialize)]
struct Golden {
    baseline_windows: usize,
    features: Vec<Feature>,
    thresholds: Vec<Limits>,
}

#[derive(Deserialize)]
struct Feature {
    name: String,
    own: Vec<bool>,
    counts: Vec<Vec<u64>>,
    p: Vec<f64>,
    rho: f64,
    y: Vec<f64>,
    u: f64,
    s: f64,
    cross_fitted: Vec<f64>,
    live: Vec<f64>,
}

#[derive(Deserialize)]
struct Limits {
    guard: f64,
    t: f64,
    h: f64,
    alarms: Vec<(usize, Limb, String)>,
}

const RATE: FalseAlarmRate = FalseAlarmRate {
    max: 1.0,
    windows_per_period: 30.0,
};

fn golden() -> (Golden, Calibration) {
    let golden: Golden =
        serde_json::from_str(include_str!("../../../tests/reference/learned.json")).unwrap();
    let windows = golden.features.iter().map(|feature| FeatureWindows {
        name: feature.name.clone(),
        counts: feature.counts[..golden.baseline_windows].to_vec(),
        own: feature.own.clone(),
    });
    let calibration = calibrate(&windows.collect::<Vec<_>>(), 7).unwrap();
    (golden, calibration)
}

#[track_caller]
fn near(what: &str, got: f64, want: f64) {
    assert!(
        (got - want).abs() <= 1e-8 * want.abs().max(1e-4),
        "{what}: {got} is not {want}"
    );
}

fn all_near(what: &str, got: &[f64], want: &[f64]) {
    assert_eq!(got.len(), want.len(), "{what}");
    got.iter()
        .zip(want)
        .for_each(|(got, want)| near(what, *got, *want));
}

#[test]
fn fits() {
    let (golden, calibration) = golden();
    for (feature, learned) in golden.features.iter().zip(&calibration.features) {
        let fit = learned.fit.as_ref().unwrap();
        all_near("p", &fit.p, &feature.p);
        near("rho", fit.rho, feature.rho);
        all_near("y", &fit.y, &feature.y);
        near("u", fit.u, feature.u);
        near("s", fit.s, feature.s);
    }
}

#[test]
fn scores() {
    let (golden, calibration) = golden();
    for (index, feature) in golden.features.iter().enumerate() {
        let learned = &calibration.features[index];
        let cross: Vec<f64> = learned.cross_fitted.iter().map(|z| z.unwrap()).collect();
        all_near(&feature.name, &cross, &feature.cross_fitted);
        let live = &feature.counts[golden.baseline_windows..];
        let live: Vec<f64> = live
            .iter()
            .map(|c| calibration.z(index, c).unwrap())
            .collect();
        all_near(&feature.name, &live, &feature.live);
    }
}

/// h hangs on the random paths, and its rate has a plateau here (15.3 to 16.3 for guard 2): other
/// generators agree within 7 %.
#[test]
fn thresholds() {
    let (golden, calibration) = golden();
    for limits in &golden.thresholds {
        let learned = calibration.thresholds(RATE, limits.guard);
        near("t", learned.fast, limits.t);
        let off = learned.slow / limits.h - 1.0;
        assert!(off.abs() < 0.07, "h {} is not {}", learned.slow, limits.h);
        let predicted = learned.predicted_per_period * limits.guard;
        assert!((0.4..1.2).contains(&predicted), "{predicted}");
        assert_eq!(learned, calibration.thresholds(RATE, limits.guard));
    }
}

#[test]
fn alarms_of_baseline_and_live_windows() {
    let (golden, calibration) = golden();
    for limits in &golden.thresholds {
        let (fast, slow) = (limits.t, limits.h);
        let thresholds = Thresholds {
            fast,
            slow,
            hazard: 0.0,
            predicted_per_period: 0.0,
        };
        let mut limbs = Limbs::default();
        let mut alarms = Vec::new();
        for window in 0..golden.features[0].counts.len() {
            let z: Vec<_> = if window < golden.baseline_windows {
                calibration.baseline_z(window)
            } else {
                let counts = golden
                    .features
                    .iter()
                    .map(|f| &f.counts[window])
                    .enumerate();
                counts
                    .map(|(index, counts)| calibration.z(index, counts))
                    .collect()
            };
            let alarm = limbs.step(&calibration, &thresholds, &z);
            if let Some(limb) = alarm.limb {
                assert!(alarm.ranking()[0].over);
                alarms.push((window, limb, alarm.ranking()[0].name.clone()));
            }
        }
        assert_eq!(alarms, limits.alarms);
    }
}

#[test]
fn a_calibration_survives_storage() {
    let (_, calibration) = golden();
    let stored = serde_json::to_string(&calibration).unwrap();
    let read: Calibration = serde_json::from_str(&stored).unwrap();
    let (before, after) = (
        calibration.thresholds(RATE, 2.0),
        read.thresholds(RATE, 2.0),
    );
    assert!((before.fast - after.fast).abs() < 1e-9 && (before.slow - after.slow).abs() < 0.2);
}
