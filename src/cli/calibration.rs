//! What `driftd baseline show` says of what was learned.

use std::time::Duration;

use serde_json::{Value, json};

use crate::decide::learned::{Calibration, FalseAlarmRate, FeatureCalibration};

/// Shifts for which delays are told, in standard deviations.
const SHIFTS: [f64; 3] = [0.2, 0.3, 0.5];
const MONTH_MS: f64 = 30.0 * 86_400_000.0;

/// What was learned for windows of this size, and what a monitor that allows one false alarm in 30
/// days would make of it with the default guard.
pub(super) fn describe(calibration: &Calibration, window_ms: i64) -> Value {
    let rate = FalseAlarmRate {
        max: 1.0,
        windows_per_period: MONTH_MS / window_ms as f64,
    };
    let thresholds = calibration.thresholds(rate, 2.0);
    let delays = SHIFTS.map(
        |shift| json!({"shift": shift, "windows": calibration.delay_of_shift(&thresholds, shift)}),
    );
    let mut rows = calibration.rows().to_vec();
    rows.sort_unstable();
    let rows = rows.first().zip(rows.get(rows.len() / 2)).zip(rows.last());
    json!({
        "window_ms": window_ms,
        "windows": calibration.windows,
        "rows": rows.map(|((least, median), most)| json!([least, median, most])),
        "false_alarms": {"max": 1, "per": "30d", "guard": 2},
        "threshold_fast": thresholds.fast,
        "threshold_slow": thresholds.slow,
        "fast_is_reachable": thresholds.fast_is_reachable(),
        "predicted_false_alarms": thresholds.predicted_per_period,
        "delays": delays,
        "features": calibration.features.iter().map(feature).collect::<Value>(),
    })
}

fn feature(feature: &FeatureCalibration) -> Value {
    json!({
        "name": feature.name,
        "season": feature.season(),
        "constant": feature.is_constant(),
        "rho": feature.rho(),
    })
}

/// For people. A delay of `none` is one that is never over, or not known: see
/// [`Calibration::delay_of_shift`].
pub(super) fn as_text(described: &Value) -> String {
    let size = described["window_ms"].as_u64().unwrap_or_default();
    let size = humantime::format_duration(Duration::from_millis(size));
    let number = |key: &str| described[key].as_f64().unwrap_or_default();
    let delays = described["delays"].as_array().into_iter().flatten();
    let delays: Vec<String> = delays
        .map(|delay| match &delay["windows"] {
            Value::Null => "none".to_owned(),
            windows => windows.to_string(),
        })
        .collect();
    let mut text = format!(
        "\nlearned from {} windows of {size}; for one false alarm in 30 days and guard 2:\n\
         thresholds            fast {:.2}{}, slow {:.2}\n\
         false alarms          {:.2} in 30 days, predicted\n\
         windows to an alarm   {} for a shift of 0.2 / 0.3 / 0.5 standard deviations\n",
        described["windows"],
        number("threshold_fast"),
        if described["fast_is_reachable"] == json!(true) {
            ""
        } else {
            " (out of reach)"
        },
        number("threshold_slow"),
        number("predicted_false_alarms"),
        delays.join(" / "),
    );
    let features = described["features"].as_array().into_iter().flatten();
    text.extend(features.filter_map(feature_line));
    text
}

/// Nothing for a feature of which there is nothing to say.
fn feature_line(feature: &Value) -> Option<String> {
    let name = feature["name"].as_str().unwrap_or_default();
    let what = match (feature["constant"].as_bool(), feature["season"].as_str()) {
        (Some(true), _) => "constant",
        (_, Some("hour_of_day")) => "follows the hour of the day (UTC)",
        (_, Some("day_of_week")) => "follows the day of the week (UTC)",
        (_, Some("hour_of_week")) => "follows the hour of the week (UTC)",
        _ => return None,
    };
    Some(format!("{name:<22}{what}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::learned::{FeatureWindows, calibrate};

    #[test]
    fn what_was_learned_is_told() {
        let row = |i: usize| vec![450 + (i as u64 * 7919) % 101, 500, 0];
        let numbers = FeatureWindows {
            name: "age".into(),
            counts: (0..60).map(row).collect(),
            own: vec![true; 3],
            ordered: 2,
        };
        let constant = FeatureWindows {
            name: "country".into(),
            counts: vec![vec![900, 0]; 60],
            own: vec![true; 2],
            ordered: 0,
        };
        let starts: Vec<i64> = (0..60).map(|day| day * 86_400_000).collect();
        let calibration = calibrate(&starts, &[numbers, constant], 1).unwrap();
        let told = describe(&calibration, 86_400_000);
        assert_eq!(
            (&told["windows"], &told["rows"][0]),
            (&json!(60), &json!(950))
        );
        assert!(told["threshold_slow"].as_f64().unwrap() > 1.0);
        let text = as_text(&told);
        assert!(text.contains("learned from 60 windows of 1day"), "{text}");
        assert!(text.contains("country               constant"), "{text}");
        assert!(!text.contains("age "), "{text}");
    }
}
