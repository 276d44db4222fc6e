//! When a policy enqueues a job without anybody asking, what stops it, and what the job says.

use std::time::Duration;

use chrono::{NaiveTime, TimeDelta};
use driftd::monitor::Monitor;
use driftd::monitor::retraining::{Approval, Budget, CatchUp, QuietHours, Select, SuggestedData};
use driftd::retrain::Scheduler;
use driftd::store::jobs::{self, JobState};
use driftd::store::{models, monitors};
use serde_json::json;
use sqlx::{AssertSqlSafe, PgPool};

use crate::harness::monitors::{periodic, streaming};
use crate::harness::postgres;
use crate::harness::queue::{at, claim, request};

/// Kind, outcome and guard of every trigger, oldest first.
async fn triggers(pool: &PgPool) -> Vec<(String, String, Option<String>)> {
    let sql = "select kind, outcome, guard from driftd.retraining_triggers order by trigger_id";
    sqlx::query_as(sql).fetch_all(pool).await.unwrap()
}

async fn tick(pool: &PgPool, monitors: &[Monitor], now: &str) {
    let mut scheduler = Scheduler::new(monitors).unwrap();
    scheduler.tick(pool, at(now)).await.unwrap();
}

async fn complete(pool: &PgPool, version: &str) {
    let lease = claim(pool).await.unwrap();
    let result = json!({ "version": version });
    jobs::complete(pool, &lease, &result).await.unwrap();
}

async fn run(pool: &PgPool, sql: &str) {
    let sql = AssertSqlSafe(sql.to_owned());
    sqlx::raw_sql(sql).execute(pool).await.unwrap();
}

fn told(kind: &str, outcome: &str, guard: Option<&str>) -> (String, String, Option<String>) {
    (kind.into(), outcome.into(), guard.map(str::to_owned))
}

#[tokio::test]
async fn a_version_that_is_too_old_is_retrained_once() {
    let db = postgres::fresh().await;
    let pool = &db.pool;
    let mut monitor = periodic("aging", "0 0 1 1 *");
    monitor.retraining.schedule = None;
    monitor.retraining.max_age = Some(Duration::from_secs(30 * 86_400));
    let monitors = [monitor];
    models::register(pool, "aging-model").await.unwrap();
    models::register_version(pool, "aging-model", "1", None)
        .await
        .unwrap();
    run(
        pool,
        "update driftd.model_versions set created_at = '2026-01-01'",
    )
    .await;

    tick(pool, &monitors, "2026-01-30T00:00:00Z").await;
    assert!(triggers(pool).await.is_empty(), "29 days");
    for minute in 0..3 {
        tick(pool, &monitors, &format!("2026-01-31T00:0{minute}:00Z")).await;
    }
    assert_eq!(triggers(pool).await, [told("age", "enqueued", None)]);
    let job = &jobs::list(pool, None, &JobState::OPEN, 10).await.unwrap()[0];
    assert_eq!(job.reasons[0]["max_age_seconds"], 30 * 86_400);
    assert_eq!(
        (job.reasons[0]["version"].as_str(), job.version.as_deref()),
        (Some("1"), Some("1"))
    );

    // A job that fails leaves the model old: it asks again.
    let lease = claim(pool).await.unwrap();
    jobs::fail(pool, &lease, "no data", false).await.unwrap();
    tick(pool, &monitors, "2026-02-01T00:00:00Z").await;
    assert_eq!(triggers(pool).await.len(), 2);
    complete(pool, "2").await;
    // Version 2 is new, but not in service; the old one is.
    tick(pool, &monitors, "2026-02-02T00:00:00Z").await;
    assert_eq!(triggers(pool).await.len(), 3);
    complete(pool, "3").await;
    models::promote(pool, "aging-model", "3", "jane", None)
        .await
        .unwrap();
    tick(pool, &monitors, "2026-02-03T00:00:00Z").await;
    assert_eq!(
        triggers(pool).await.len(),
        3,
        "the version in service is young"
    );
}

/// Windows with rows that were judged just now.
async fn judged(pool: &PgPool, monitor: &Monitor, days: std::ops::Range<i64>, rows: i64) {
    let mut transaction = pool.begin().await.unwrap();
    let registered = monitors::register(&mut transaction, monitor).await.unwrap();
    let sql =
        "insert into driftd.windows (monitor_id, version, window_start, window_end, rows, late,
            verdict, decided_by, training_windows, features, drifted_features, drifted_share, offsets)
        select $1, '1', at, at + interval '1 day', $4, 0, 'stable', 'tests', 0, 1, 0, 0,
            jsonb_build_array(jsonb_build_object('partition', 0, 'first_offset', day * 100,
                'next_offset', day * 100 + $4))
        from generate_series($2::bigint, $3::bigint - 1) day
            cross join lateral (select '2026-01-01'::timestamptz + day * interval '1 day') t (at)";
    sqlx::query(sql)
        .bind(registered.monitor_id)
        .bind(days.start)
        .bind(days.end)
        .bind(rows)
        .execute(&mut *transaction)
        .await
        .unwrap();
    transaction.commit().await.unwrap();
}

#[tokio::test]
async fn enough_new_data_retrains_and_the_job_names_it() {
    let db = postgres::fresh().await;
    let pool = &db.pool;
    let mut monitor = streaming("rides");
    monitor.retraining.new_rows = Some(300);
    monitor.retraining.data = SuggestedData {
        select: Select::Sliding,
        span: Some(Duration::from_secs(2 * 86_400)),
        table: Some("features.{model}".into()),
        path: Some("s3://rides/{version}/{date}/{from}".into()),
        baseline_share: 0.25,
    };
    let monitors = [monitor];
    models::register(pool, "rides-model").await.unwrap();
    models::register_version(pool, "rides-model", "1", None)
        .await
        .unwrap();
    judged(pool, &monitors[0], 0..2, 100).await;
    tick(pool, &monitors, "2026-01-05T00:00:00Z").await;
    assert!(triggers(pool).await.is_empty(), "200 of 300 rows");
    judged(pool, &monitors[0], 2..4, 60).await;
    tick(pool, &monitors, "2026-01-05T01:00:00Z").await;
    tick(pool, &monitors, "2026-01-05T02:00:00Z").await;
    assert_eq!(triggers(pool).await, [told("volume", "enqueued", None)]);
    let job = &jobs::list(pool, None, &JobState::OPEN, 10).await.unwrap()[0];
    assert_eq!(job.reasons[0]["rows"], 320);
    let expected = json!({
        "topic": "inputs", "select": "sliding", "rows": 120,
        "from": "2026-01-03T00:00:00+00:00", "to": "2026-01-05T00:00:00+00:00",
        "offsets": [{"partition": 0, "first_offset": 200, "next_offset": 360}],
        "split": {"key": "rides-model/2026-01-05T00:00:00Z", "baseline_share": 0.25},
        "table": "features.rides-model", "path": "s3://rides/1/2026-01-05/2026-01-03T00:00:00Z",
    });
    assert_eq!(job.training_data, expected);
}

#[tokio::test]
async fn guards_stop_what_comes_by_itself_and_no_request() {
    let db = postgres::fresh().await;
    let pool = &db.pool;
    let mut monitor = periodic("nightly", "30 22 * * *");
    monitor.retraining.time_zone = "Europe/Berlin".parse().unwrap();
    let time = |hour| NaiveTime::from_hms_opt(hour, 0, 0).unwrap();
    monitor.retraining.quiet_hours = vec![QuietHours {
        from: time(23), // 22:30 UTC is 23:30 in Berlin
        to: time(6),
    }];
    let monitors = [monitor.clone()];
    tick(pool, &monitors, "2026-01-01T12:00:00Z").await;
    tick(pool, &monitors, "2026-01-01T22:30:00Z").await;
    assert_eq!(
        triggers(pool).await,
        [told("schedule", "stopped", Some("quiet_hours"))]
    );
    assert_eq!(request(pool, "nightly-model").await.outcome, "enqueued");
    complete(pool, "1").await;

    monitor.retraining.quiet_hours.clear();
    monitor.retraining.budget = Some(Budget {
        jobs: 2,
        per: Duration::from_secs(30 * 86_400),
    });
    let monitors = [monitor];
    run(
        pool,
        "update driftd.retraining_jobs set created_at = '2026-01-01T23:00:00Z'",
    )
    .await;
    tick(pool, &monitors, "2026-01-02T22:30:00Z").await;
    complete(pool, "2").await;
    tick(pool, &monitors, "2026-01-03T22:30:00Z").await;
    let all = triggers(pool).await;
    assert_eq!(
        all[2..],
        [
            told("schedule", "enqueued", None),
            told("schedule", "stopped", Some("budget"))
        ]
    );
    tick(pool, &monitors, "2026-02-05T22:30:00Z").await;
    assert_eq!(
        triggers(pool).await[4],
        told("schedule", "enqueued", None),
        "the period is over"
    );
}

#[tokio::test]
async fn slots_of_a_downtime_are_caught_up_with_as_the_policy_says() {
    for (catch_up, expected) in [
        (
            CatchUp::None,
            vec![told("schedule", "stopped", Some("missed"))],
        ),
        (CatchUp::Last, vec![told("schedule", "enqueued", None)]),
        (
            CatchUp::All,
            vec![
                told("schedule", "enqueued", None),
                told("schedule", "joined", Some("open_job")),
                told("schedule", "joined", Some("open_job")),
            ],
        ),
    ] {
        let db = postgres::fresh().await;
        let mut monitor = periodic("daily", "0 3 * * *");
        monitor.retraining.schedule.as_mut().unwrap().catch_up = catch_up;
        let monitors = [monitor];
        tick(&db.pool, &monitors, "2026-01-01T12:00:00Z").await;
        tick(&db.pool, &monitors, "2026-01-04T12:00:00Z").await;
        tick(&db.pool, &monitors, "2026-01-04T12:00:01Z").await;
        assert_eq!(triggers(&db.pool).await, expected, "{catch_up:?}");
        // In time, all are the same.
        if claim(&db.pool).await.is_some() {
            run(
                &db.pool,
                "update driftd.retraining_jobs set state = 'cancelled', finished_at = now()",
            )
            .await;
        }
        let mut scheduler = Scheduler::new(&monitors).unwrap();
        let slot = at("2026-01-05T03:00:00Z");
        scheduler
            .tick(&db.pool, slot - TimeDelta::seconds(1))
            .await
            .unwrap();
        scheduler.tick(&db.pool, slot).await.unwrap();
        let last = triggers(&db.pool).await.pop().unwrap();
        assert_eq!(last, told("schedule", "enqueued", None), "{catch_up:?}");
    }
}

#[tokio::test]
async fn a_job_waits_for_an_approval_where_the_policy_wants_one() {
    let db = postgres::fresh().await;
    let pool = &db.pool;
    let mut monitor = streaming("rides");
    monitor.retraining.approval = Approval::Required;
    monitor.retraining.priority = 7;
    judged(pool, &monitor, 0..1, 10).await;
    let job_id = request(pool, "rides-model").await.job_id.unwrap();
    let job = jobs::get(pool, job_id).await.unwrap().unwrap();
    assert_eq!((job.state, job.priority), (JobState::AwaitingApproval, 7));
    assert_eq!(claim(pool).await, None);
    let told: Vec<String> = sqlx::query_scalar("select kind from driftd.outbox order by outbox_id")
        .fetch_all(pool)
        .await
        .unwrap();
    assert!(
        told.contains(&"job_awaiting_approval".to_owned()),
        "{told:?}"
    );
    assert_eq!(jobs::approve(pool, job_id, "jane").await.unwrap(), "queued");
    assert_eq!(jobs::approve(pool, job_id, "jane").await.unwrap(), "queued");
    assert_eq!(claim(pool).await.unwrap().job_id, job_id);
    let events = jobs::events(pool, job_id).await.unwrap();
    assert_eq!(
        (events[1].to_state, events[1].actor.as_str()),
        (JobState::Queued, "jane")
    );
    jobs::cancel(pool, job_id, "jane").await.unwrap();
    let refused = jobs::approve(pool, job_id, "jane")
        .await
        .unwrap_err()
        .to_string();
    assert!(
        refused.contains("does not wait for an approval"),
        "{refused}"
    );
    assert_eq!(jobs::retry(pool, job_id, "jane").await.unwrap(), "queued");
}

/// A drift that fires while a job is open stands in that job's reasons, however many there are.
#[tokio::test]
async fn no_drift_is_left_out_of_an_open_job() {
    let db = postgres::fresh().await;
    let pool = &db.pool;
    request(pool, "m").await;
    run(
        pool,
        "insert into driftd.monitors (monitor, revision, model, topic, definition, definition_digest, settings)
            values ('m', 1, 'm', 't', '{}', 'x', '{}');
        insert into driftd.alert_episodes (monitor_id, monitor, model, version, state, severity,
                first_window, last_window)
            select 1, 'm', 'm', v::text, 'firing', 'warning', now(), now() from generate_series(1, 30) v;
        select driftd.trigger_retraining(kind => 'schedule', model => 'm', monitor => 'm',
            slot => now() + n * interval '1 s') from generate_series(1, 30) n;
        select driftd.trigger_retraining(kind => 'episode', model => 'm', monitor => 'm',
            version => episode_id::text, episode_id => episode_id) from driftd.alert_episodes",
    )
    .await;
    let job = &jobs::list(pool, None, &JobState::OPEN, 10).await.unwrap()[0];
    let of = |kind: &str| {
        let reasons = job.reasons.as_array().unwrap().iter();
        reasons.filter(|reason| reason["kind"] == kind).count()
    };
    assert_eq!((of("request"), of("schedule"), of("episode")), (1, 19, 30));
    assert_eq!(
        triggers(pool).await.len(),
        61,
        "none is lost from the record"
    );
}
