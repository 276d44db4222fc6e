//! `driftd status`: how the monitors are, and what has stopped.

use chrono::{DateTime, Utc};
use serde_json::json;
use sqlx::PgPool;

use super::{Output, columns, or_dash, pretty, time, write};
use crate::store::failures::{self, Stored as Failure};
use crate::store::monitors::{self, Status};

/// Show how monitors are: their last window and verdict, how far they have read, and what has stopped.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A table for people, JSON for programs.
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

/// Writes what it found to standard output.
///
/// # Errors
/// When the database cannot be asked.
pub async fn run(args: Args, pool: &PgPool) -> anyhow::Result<()> {
    write(&answer(args, pool).await?)
}

/// Returns what it found.
///
/// # Errors
/// When the database cannot be asked.
pub async fn answer(args: Args, pool: &PgPool) -> anyhow::Result<String> {
    let monitors = monitors::status(pool).await?;
    let failures = failures::list(pool).await?;
    match args.output {
        Output::Json => pretty(&json!({"monitors": monitors, "failures": failures})),
        Output::Table => Ok(monitors_table(&monitors) + &failures_table(&failures)),
    }
}

fn monitors_table(monitors: &[Status]) -> String {
    if monitors.is_empty() {
        return "no monitors\n".to_owned();
    }
    let head = [
        "MONITOR",
        "STATE",
        "VERSION",
        "LAST WINDOW",
        "VERDICT",
        "BEHIND",
        "WAITING",
        "ROWS/DAY",
    ];
    let mut rows = vec![head.map(str::to_owned)];
    rows.extend(monitors.iter().map(|one| {
        [
            one.monitor.clone(),
            one.state.clone(),
            or_dash(one.version.as_deref()),
            time_or_dash(one.last_window_start),
            or_dash(one.last_verdict.as_deref()),
            one.watermark_age_seconds
                .map_or_else(|| "-".to_owned(), duration),
            one.rows_waiting.to_string(),
            one.rows_per_day
                .map_or_else(|| "-".to_owned(), |rows| format!("{rows:.0}")),
        ]
    }));
    columns(&rows)
}

fn failures_table(failures: &[Failure]) -> String {
    if failures.is_empty() {
        return String::new();
    }
    let head = [
        "FAILED",
        "NAME",
        "VERSION",
        "SINCE",
        "ATTEMPTS",
        "TRIED AGAIN",
        "REASON",
    ];
    let mut rows = vec![head.map(str::to_owned)];
    rows.extend(failures.iter().map(|one| {
        [
            one.kind.clone(),
            one.name.clone(),
            or_dash(Some(one.version.as_str()).filter(|version| !version.is_empty())),
            time(one.since),
            one.attempts.to_string(),
            time_or_dash(one.retry_at),
            one.reason.clone(),
        ]
    }));
    format!("\n{}", columns(&rows))
}

fn time_or_dash(at: Option<DateTime<Utc>>) -> String {
    at.map_or_else(|| "-".to_owned(), time)
}

/// In the largest unit of which there is one.
fn duration(seconds: f64) -> String {
    let units = [(86_400.0, "d"), (3600.0, "h"), (60.0, "min")];
    let unit = units.into_iter().find(|(unit, _)| seconds >= *unit);
    let (unit, name) = unit.unwrap_or((1.0, "s"));
    format!("{:.0} {name}", (seconds / unit).floor())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_told_in_one_unit() {
        let told = [-3.0, 0.4, 59.9, 60.0, 7199.0, 200_000.0].map(duration);
        assert_eq!(told, ["-3 s", "0 s", "59 s", "1 min", "1 h", "2 d"]);
    }

    #[test]
    fn what_has_stopped_stands_below_the_monitors() {
        let monitor = Status {
            monitor: "credit".into(),
            model: "credit".into(),
            state: "failed".into(),
            failure: Some("damaged".into()),
            version: Some("1".into()),
            last_window_start: DateTime::from_timestamp_millis(0),
            last_verdict: Some("stable".into()),
            watermark: DateTime::from_timestamp_millis(0),
            watermark_age_seconds: Some(120.0),
            rows_waiting: 7,
            rows_per_day: Some(23.6),
        };
        let failure = Failure {
            kind: "windows".into(),
            name: "credit".into(),
            version: "1".into(),
            replica: "host/1".into(),
            reason: "damaged".into(),
            since: DateTime::default(),
            attempts: 2,
            retry_at: None,
            told_at: DateTime::default(),
        };
        let text = monitors_table(&[monitor]) + &failures_table(&[failure]);
        assert_eq!(
            text,
            "MONITOR  STATE   VERSION  LAST WINDOW          VERDICT  BEHIND  WAITING  ROWS/DAY\n\
             credit   failed  1        1970-01-01 00:00:00  stable   2 min   7        24\n\n\
             FAILED   NAME    VERSION  SINCE                ATTEMPTS  TRIED AGAIN  REASON\n\
             windows  credit  1        1970-01-01 00:00:00  2         -            damaged\n"
        );
        assert_eq!(monitors_table(&[]) + &failures_table(&[]), "no monitors\n");
    }
}
