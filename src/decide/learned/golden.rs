//! The learned score against `tests/reference/learned.json`: five features of the public flights,
//! computed by a separate program.

use serde::Deserialize;

use super::fit::Contrast;
use super::{
    Calibration, FalseAlarmRate, FeatureWindows, Limb, Limbs, Score, Season, Thresholds, calibrate,
};

#[derive(Deserialize)]
struct Golden {
    baseline_windows: usize,
    starts_ms: Vec<i64>,
    features: Vec<Feature>,
    thresholds: Vec<Limits>,
}

#[derive(Deserialize)]
struct Feature {
    name: String,
    own: Vec<bool>,
    ordered: usize,
    season: Season,
    counts: Vec<Vec<u64>>,
    p: Vec<f64>,
    rho: f64,
    y: Vec<f64>,
    u: f64,
    s: f64,
    location: Option<Direction>,
    spread: Option<Direction>,
    cross_fitted: Vec<f64>,
    live: Vec<f64>,
    cross_fitted_location: Option<Vec<f64>>,
    live_location: Option<Vec<f64>>,
}

#[derive(Deserialize)]
struct Direction {
    rho: f64,
    y: Vec<f64>,
    u: f64,
    s: f64,
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
        ordered: feature.ordered,
    });
    let starts = &golden.starts_ms[..golden.baseline_windows];
    let calibration = calibrate(starts, &windows.collect::<Vec<_>>(), 7).unwrap();
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
        all_near("y", &fit.history.y, &feature.y);
        near("u", fit.history.u, feature.u);
        near("s", fit.history.s, feature.s);
        assert_eq!(fit.season, feature.season);
        contrast_is_near(fit.location.as_ref(), feature.location.as_ref());
        contrast_is_near(fit.spread.as_ref(), feature.spread.as_ref());
    }
}

#[track_caller]
fn contrast_is_near(got: Option<&Contrast>, want: Option<&Direction>) {
    assert_eq!(got.is_some(), want.is_some());
    let Some((got, want)) = got.zip(want) else {
        return;
    };
    near("rho of a contrast", got.rho, want.rho);
    all_near("y of a contrast", &got.history.y, &want.y);
    near("u of a contrast", got.history.u, want.u);
    near("s of a contrast", got.history.s, want.s);
}

#[test]
fn scores() {
    let (golden, calibration) = golden();
    for (index, feature) in golden.features.iter().enumerate() {
        let learned = &calibration.features[index];
        let cross: Vec<Score> = learned.cross_fitted.iter().map(|s| s.unwrap()).collect();
        let live = golden.baseline_windows..golden.starts_ms.len();
        let live: Vec<Score> = live
            .map(|window| scores_of(&golden, &calibration, window)[index].unwrap())
            .collect();
        for (got, z, location) in [
            (cross, &feature.cross_fitted, &feature.cross_fitted_location),
            (live, &feature.live, &feature.live_location),
        ] {
            let got_z: Vec<f64> = got.iter().map(|score| score.z).collect();
            all_near(&feature.name, &got_z, z);
            let got: Option<Vec<f64>> = got.iter().map(|score| score.location).collect();
            assert_eq!(got.is_some(), location.is_some());
            if let Some((got, want)) = got.zip(location.as_ref()) {
                all_near(&feature.name, &got, want);
            }
        }
    }
}

fn scores_of(golden: &Golden, calibration: &Calibration, window: usize) -> Vec<Option<Score>> {
    if window < golden.baseline_windows {
        return calibration.baseline_scores(window);
    }
    let start = golden.starts_ms[window];
    let features = golden.features.iter().enumerate();
    features
        .map(|(index, feature)| calibration.score(index, start, &feature.counts[window]))
        .collect()
}

/// h hangs on the random paths: other generators agree within 7 %.
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
            let scores = scores_of(&golden, &calibration, window);
            let alarm = limbs.step(&calibration, &thresholds, &scores);
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
