//! Monitors as settings would make them.

use std::time::Duration;

use driftd::compare::adjust::Adjustment;
use driftd::monitor::retraining::CatchUp;
use driftd::monitor::{
    AlertPolicy, FalseAlarms, Features, Input, Judging, Monitor, OnGap, Retraining, Schedule,
    TimeUnit, Timestamp, VersionSource,
};
use driftd::window::Spec;
use serde_json::json;

/// A monitor with a schedule and no statistics.
pub(crate) fn periodic(name: &str, cron: &str) -> Monitor {
    Monitor {
        name: name.to_owned(),
        model: format!("{name}-model"),
        input: None,
        retraining: Retraining {
            schedule: Some(Schedule {
                cron: cron.to_owned(),
                time_zone: chrono_tz::UTC,
                catch_up: CatchUp::Last,
            }),
            cooldown: Duration::ZERO,
            max_attempts: 2,
            parameters: json!({"learning_rate": 0.1}),
            ..Retraining::default()
        },
    }
}

/// A monitor of a topic with daily windows, and no schedule.
pub(crate) fn streaming(name: &str) -> Monitor {
    let mut monitor = periodic(name, "0 0 * * *");
    monitor.retraining.schedule = None;
    let day = 86_400_000;
    monitor.input = Some(Input {
        topic: "inputs".to_owned(),
        version: VersionSource::Fixed("1".to_owned()),
        timestamp: Timestamp {
            path: Some("at".to_owned()),
            unit: TimeUnit::Ms,
        },
        features: Features::All,
        window: Spec {
            size_ms: day,
            every_ms: day,
            time_zone: chrono_tz::Tz::UTC,
            out_of_orderness_ms: 0,
            allowed_lateness_ms: 0,
            idle_after_ms: 60_000,
            max_future_ms: day,
        },
        judging: Judging {
            false_alarms: FalseAlarms {
                max: 1.0,
                per_ms: 30 * day,
            },
            questions: driftd::decide::rule::usual_limits(),
            tests: Vec::new(),
            adjustment: Adjustment::BenjaminiHochberg,
            min_rows: 100,
            alert: AlertPolicy {
                windows: 1,
                of: 1,
                resolve_after: 3,
                unknown_after_ms: 7 * day,
            },
        },
        sample_rows: 1000,
        on_gap: OnGap::Stop,
        keep_rejected_payload: false,
    });
    monitor
}
