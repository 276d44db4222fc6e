//! What `driftd baseline` says of the training windows: what can be promised and found from them, and
//! what was learned of each feature.

use chrono_tz::Tz;
use serde_json::{Value, json};

use crate::baseline::windows::Slots;
use crate::decide::rule::{self, Calendar, MIN_WINDOWS, Rule};
use crate::profile::{Bins, Layout};
use crate::window::Spec;

const DAY_MS: i64 = 86_400_000;
const MONTH_MS: f64 = 30.0 * 86_400_000.0;

/// Windows for which a description is made where the user names none.
pub(super) const USUAL_WINDOW_MS: i64 = DAY_MS;

/// What training windows of this size say, at one false alarm in 30 days. `rows` are those of the
/// training data.
pub(super) fn describe(
    slots: &Slots,
    layout: &Layout,
    rows: u64,
    window_ms: i64,
    time_zone: Tz,
) -> anyhow::Result<Value> {
    let windows = slots.windows(&Spec::tumbling(window_ms, time_zone))?;
    let hazard = (window_ms as f64 / MONTH_MS).min(0.5);
    let calendar = Calendar {
        every_ms: window_ms,
        time_zone,
    };
    let limits = vec![rule::usual_limits(); layout.features.len() + 2];
    let per_window: Vec<u64> = windows.iter().map(|window| window.rows).collect();
    let mut described = json!({
        "window_ms": window_ms,
        "time_zone": time_zone.name(),
        "slot_ms": slots.slot_ms,
        "windows": windows.len(),
        "rows_per_window": least_median_most(per_window),
        "false_alarms": {"max": 1, "per": "30d"},
    });
    match Rule::learn(slots.asking.clone(), calendar, &windows, hazard, limits) {
        Ok(rule) => {
            let learned = rule.describe();
            described["decides"] = json!("rule");
            described["least_false_alarms_per_30d"] =
                json!(learned.least_false_alarms * MONTH_MS / window_ms as f64);
            described["replayed_drifted_windows"] = json!(rule.replayed());
            described["shifts"] = json!(learned.shifts);
            let features = learned.features.iter().map(|one| {
                let feature = &layout.features[one.feature];
                json!({
                    "name": feature.name,
                    "seasons": one.seasons,
                    "constant": one.constant,
                    "trends": one.trends,
                    "grows": one.grows,
                    "id": is_id(&feature.bins, rows),
                })
            });
            described["features"] = features.collect();
        }
        Err(too_few) => {
            described["decides"] = json!("tests");
            described["reason"] = json!(too_few.to_string());
        }
    }
    Ok(described)
}

/// Labels of which half or more occur once: names of rows, not of groups of rows.
fn is_id(bins: &Bins, rows: u64) -> bool {
    match bins {
        Bins::Levels(levels) => levels.names().len() as f64 > 0.5 * rows as f64,
        Bins::Grid(_) => false,
    }
}

fn least_median_most(mut rows: Vec<u64>) -> Value {
    rows.sort_unstable();
    let found = rows.first().zip(rows.get(rows.len() / 2)).zip(rows.last());
    found.map_or(Value::Null, |((least, median), most)| {
        json!([least, median, most])
    })
}

/// For people.
pub(super) fn as_text(described: &Value) -> String {
    let size = described["window_ms"].as_i64().unwrap_or_default();
    let size = super::baseline::duration(size);
    let size = match described["time_zone"].as_str() {
        None | Some("UTC") => size,
        Some(zone) => format!("{size} in {zone}"),
    };
    let windows = &described["windows"];
    if described["decides"] == json!("tests") {
        return format!(
            "\n{windows} training windows of {size}: the tests decide; the rule needs {MIN_WINDOWS}\n"
        );
    }
    let mut text = format!("\n{windows} training windows of {size}: the rule decides\n");
    let rows: Vec<String> = described["rows_per_window"]
        .as_array()
        .into_iter()
        .flatten()
        .map(Value::to_string)
        .collect();
    text += &format!("{:<22}{}\n", "rows per window", rows.join(" / "));
    let least = described["least_false_alarms_per_30d"]
        .as_f64()
        .unwrap_or_default();
    text += &format!(
        "{:<22}{least:.2} in 30 days can be promised\n",
        "false alarms"
    );
    let drifted = &described["replayed_drifted_windows"];
    text += &format!(
        "{:<22}{drifted} windows drifted at 1 in 30 days\n",
        "replay"
    );
    for shift in described["shifts"].as_array().into_iter().flatten() {
        let deviations = shift["deviations"].as_f64().unwrap_or_default();
        let within = shift["within"].as_str().unwrap_or_default();
        text += &format!(
            "{:<22}{deviations:.2} standard deviations\n",
            format!("found within a {within}")
        );
    }
    let features = described["features"].as_array().into_iter().flatten();
    text.extend(features.filter_map(feature_line));
    text
}

/// Nothing for a feature of which there is nothing to say.
fn feature_line(feature: &Value) -> Option<String> {
    let name = feature["name"].as_str().unwrap_or_default();
    let is = |key: &str| feature[key] == json!(true);
    let seasons: Vec<&str> = feature["seasons"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let mut said = Vec::new();
    if !seasons.is_empty() {
        said.push(format!("follows the {}", seasons.join(" and the ")));
    }
    if is("constant") {
        said.push("is nearly constant".into());
    }
    match (is("grows"), is("trends")) {
        (true, _) => said.push("only grows or falls (a counter or a time?): it will drift".into()),
        (false, true) => said.push("trends: it will drift".into()),
        _ => {}
    }
    if is("id") {
        said.push("has about as many labels as rows (an id?): leave it out".into());
    }
    (!said.is_empty()).then(|| format!("{name:<22}{}\n", said.join("; ")))
}
