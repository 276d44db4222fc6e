//! Days of a time zone on which clocks change: which rows they hold, and how long they are.

use chrono::{DateTime, TimeDelta, Utc};

use crate::harness::daemon::Daemon;
use crate::harness::oracle::{assert_same, check_invariants};
use crate::harness::reference::Watch;
use crate::harness::stage::{Knobs, Stage, mock_topic};
use crate::harness::traffic::{PARTITIONS, Record, produce};

const DAY_MS: i64 = 86_400_000;
const ROW_MS: i64 = 600_000;

const WATCHES: [Watch; 2] = [
    Watch {
        name: "days",
        size_ms: DAY_MS,
        every_ms: DAY_MS,
    },
    Watch {
        name: "pairs-of-days",
        size_ms: 2 * DAY_MS,
        every_ms: DAY_MS,
    },
];

fn at(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

fn row(number: i64, at: DateTime<Utc>) -> Record {
    let ms = at.timestamp_millis();
    Record {
        partition: i32::try_from(number).unwrap() % PARTITIONS,
        record_ms: ms,
        payload: Some(format!(
            "{{\"at\": {ms}, \"amount\": {}, \"age\": {}, \"score\": 0.5, \"country\": \"DE\"}}",
            40 + number % 20,
            20 + number % 50
        )),
    }
}

/// A row every ten minutes, and one in the last millisecond of each day; then one a partition that
/// closes the last day.
fn log(midnights: &[DateTime<Utc>]) -> Vec<Record> {
    let (first, last) = (midnights[0], midnights[midnights.len() - 1]);
    let steps = (last - first).num_milliseconds() / ROW_MS;
    let regular = (0..steps).map(|step| first + TimeDelta::milliseconds(step * ROW_MS));
    let edges = midnights[1..]
        .iter()
        .map(|end| *end - TimeDelta::milliseconds(1));
    let mut times: Vec<DateTime<Utc>> = regular.chain(edges).collect();
    times.sort_unstable();
    let closers = (0..PARTITIONS).map(|_| last + TimeDelta::minutes(2));
    (0..)
        .zip(times.into_iter().chain(closers))
        .map(|(number, at)| row(number, at))
        .collect()
}

async fn staged() -> (Stage, Knobs) {
    let knobs = Knobs {
        watches: &WATCHES,
        ..Knobs::mock(&mock_topic())
    };
    let stage = Stage::set(&knobs).await;
    stage.rewrite("min_rows", "time_zone = \"Europe/Berlin\"\nmin_rows");
    (stage, knobs)
}

async fn stop(mut daemon: Daemon) {
    let status = daemon.terminate().await;
    assert!(status.success(), "{}", daemon.log());
}

/// Start, hours and rows of each window of a monitor that was judged.
async fn windows(stage: &Stage, monitor: &str) -> Vec<(DateTime<Utc>, i64, i64)> {
    let sql =
        "select window_start, (extract(epoch from window_end - window_start) / 3600)::bigint, rows
        from driftd.windows join driftd.monitors using (monitor_id)
        where monitor = $1 and late = 0 and late_after_idle = 0 order by window_start";
    let found = sqlx::query_as(sql).bind(monitor).fetch_all(&stage.db.pool);
    found.await.unwrap()
}

/// Five days of which the third has so many hours. The daemon stops an hour before that ends, when 24 hours
/// of a longer day, or 22 of a shorter one, are read; another goes on.
async fn days_hold_their_rows(midnights: [&str; 6], hours: i64) {
    let midnights = midnights.map(at);
    let log = log(&midnights);
    let (stage, knobs) = staged().await;
    let pause = (midnights[3] - TimeDelta::hours(1)).timestamp_millis();
    let (before, after) = log.split_at(log.partition_point(|row| row.record_ms < pause));
    produce(&knobs.brokers, &knobs.topic, before);
    let daemon = Daemon::start(&stage.config);
    stage.saved(before.len()).await;
    // Two days; of the pairs the one that began before the first row, and the first.
    stage.judged(4).await;
    stop(daemon).await;
    stage.judged(4).await;
    let next = "select next_start, next_end from driftd.window_cursors
        join driftd.monitors using (monitor_id) where monitor = 'days'";
    let next: (DateTime<Utc>, DateTime<Utc>) = sqlx::query_as(next)
        .fetch_one(&stage.db.pool)
        .await
        .unwrap();
    assert_eq!(next, (midnights[2], midnights[3]));

    produce(&knobs.brokers, &knobs.topic, after);
    let daemon = Daemon::start(&stage.config);
    stage.judged(10).await;
    stop(daemon).await;
    check_invariants(&stage).await;

    let of = |hours: i64| hours * 6 + 1;
    let days = [24, 24, hours, 24, 24].map(|hours| (hours, of(hours)));
    let expected: Vec<_> = midnights
        .iter()
        .zip(days)
        .map(|(start, (h, rows))| (*start, h, rows))
        .collect();
    assert_eq!(windows(&stage, "days").await, expected);
    let pairs = windows(&stage, "pairs-of-days").await;
    assert_eq!(pairs[0], (midnights[0] - TimeDelta::days(1), 48, of(24)));
    let expected: Vec<_> = midnights
        .iter()
        .zip(days.windows(2))
        .map(|(start, pair)| (*start, pair[0].0 + pair[1].0, pair[0].1 + pair[1].1))
        .collect();
    assert_eq!(pairs[1..], expected);
    let zones = "select count(*) from driftd.monitor_health where time_zone = 'Europe/Berlin'";
    assert_eq!(stage.count(zones).await, 2);

    let (undisturbed, knobs) = staged().await;
    produce(&knobs.brokers, &knobs.topic, &log);
    let daemon = Daemon::start(&undisturbed.config);
    undisturbed.judged(10).await;
    stop(daemon).await;
    assert_same(&stage.results().await, &undisturbed.results().await);
}

#[tokio::test]
async fn a_day_of_23_hours_holds_its_rows() {
    let midnights = [
        "2026-03-26T23:00:00Z",
        "2026-03-27T23:00:00Z",
        "2026-03-28T23:00:00Z",
        "2026-03-29T22:00:00Z",
        "2026-03-30T22:00:00Z",
        "2026-03-31T22:00:00Z",
    ];
    days_hold_their_rows(midnights, 23).await;
}

#[tokio::test]
async fn a_day_of_25_hours_holds_its_rows() {
    let midnights = [
        "2026-10-22T22:00:00Z",
        "2026-10-23T22:00:00Z",
        "2026-10-24T22:00:00Z",
        "2026-10-25T23:00:00Z",
        "2026-10-26T23:00:00Z",
        "2026-10-27T23:00:00Z",
    ];
    days_hold_their_rows(midnights, 25).await;
}
