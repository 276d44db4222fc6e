//! The clock's part of retraining, and the delivery of what it enqueued.

use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use driftd::clock::Clock;
use driftd::monitor::Monitor;
use driftd::notify;
use driftd::retrain::Scheduler;
use driftd::store::jobs::{self, JobState};
use serde_json::{Value, json};
use sqlx::PgPool;
use sqlx::postgres::PgListener;
use tokio_util::sync::CancellationToken;

use crate::harness::monitors::{periodic, streaming};
use crate::harness::postgres;
use crate::harness::queue::{at, request};

async fn slots(pool: &PgPool) -> Vec<DateTime<Utc>> {
    let sql = "select slot from driftd.retraining_triggers where kind = 'schedule' order by slot";
    sqlx::query_scalar(sql).fetch_all(pool).await.unwrap()
}

#[tokio::test]
async fn a_slot_fires_once_over_two_schedulers() {
    let db = postgres::fresh().await;
    let other = db.another_pool().await;
    let monitors = [periodic("nightly", "0 3 * * *")];
    let mut one = Scheduler::new(&monitors).unwrap();
    let mut two = Scheduler::new(&monitors).unwrap();
    let before = at("2026-01-01T02:00:00Z");
    let next = one.tick(&db.pool, before).await.unwrap();
    assert_eq!(next, Some(at("2026-01-01T03:00:00Z")));
    two.tick(&other, before).await.unwrap();
    assert!(slots(&db.pool).await.is_empty(), "nothing is due yet");

    let due = at("2026-01-01T03:00:00Z");
    let (first, second) = tokio::join!(one.tick(&db.pool, due), two.tick(&other, due));
    assert_eq!(first.unwrap(), Some(at("2026-01-02T03:00:00Z")));
    assert_eq!(second.unwrap(), Some(at("2026-01-02T03:00:00Z")));
    assert_eq!(slots(&db.pool).await, [due]);
    let job = &jobs::list(&db.pool, Some("nightly-model"), &JobState::OPEN, 10)
        .await
        .unwrap()[0];
    assert_eq!(job.reasons.as_array().unwrap().len(), 1);
    assert_eq!(job.reasons[0]["cron"], "0 3 * * *");
    assert_eq!((job.created_at, job.max_attempts), (due, 2));
    assert_eq!(job.parameters, json!({"learning_rate": 0.1}));
    one.tick(&db.pool, due + TimeDelta::seconds(1))
        .await
        .unwrap();
    assert_eq!(slots(&db.pool).await.len(), 1);
}

#[tokio::test]
async fn after_a_downtime_only_the_last_missed_slot_fires() {
    let db = postgres::fresh().await;
    let monitors = [periodic("hourly", "0 * * * *")];
    let started = at("2026-01-01T00:30:00Z");
    Scheduler::new(&monitors)
        .unwrap()
        .tick(&db.pool, started)
        .await
        .unwrap();
    // Down before the first slot; up again half a day later.
    let up = at("2026-01-01T12:10:00Z");
    let mut restarted = Scheduler::new(&monitors).unwrap();
    restarted.tick(&db.pool, up).await.unwrap();
    assert_eq!(slots(&db.pool).await, [at("2026-01-01T12:00:00Z")]);
    let next = restarted.tick(&db.pool, up).await.unwrap();
    assert_eq!(next, Some(at("2026-01-01T13:00:00Z")));
}

#[tokio::test]
async fn a_schedule_that_is_new_or_changed_does_not_fire_for_the_past() {
    let db = postgres::fresh().await;
    let noon = at("2026-01-01T12:00:30Z");
    let nightly = [periodic("m", "0 3 * * *")];
    Scheduler::new(&nightly)
        .unwrap()
        .tick(&db.pool, at("2025-12-01T00:00:00Z"))
        .await
        .unwrap();
    let hourly = [periodic("m", "0 9 * * *")];
    Scheduler::new(&hourly)
        .unwrap()
        .tick(&db.pool, noon)
        .await
        .unwrap();
    assert!(slots(&db.pool).await.is_empty());
    // Taken out and put in again: new once more.
    let none = [streaming("m")];
    Scheduler::new(&none)
        .unwrap()
        .tick(&db.pool, noon)
        .await
        .unwrap();
    let next_day = at("2026-01-02T12:00:00Z");
    Scheduler::new(&hourly)
        .unwrap()
        .tick(&db.pool, next_day)
        .await
        .unwrap();
    assert!(slots(&db.pool).await.is_empty());
}

#[tokio::test]
async fn the_scheduler_task_follows_its_clock_and_stops_when_told() {
    let db = postgres::fresh().await;
    let monitors: Arc<[Monitor]> = Arc::new([periodic("quick", "*/2 * * * * *")]);
    let clock = Arc::new(Clock::Manual(AtomicI64::new(1_000_000_000_000)));
    let stop = CancellationToken::new();
    let mut listener = PgListener::connect_with(&db.pool).await.unwrap();
    listener.listen("driftd_jobs").await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(driftd::retrain::run(
        db.pool.clone(),
        monitors,
        clock.clone(),
        stop.clone(),
    ));
    // Each look moves the clock on: the task's first one stands before the first slot.
    let notified = async {
        loop {
            if let Clock::Manual(ms) = &*clock {
                ms.fetch_add(2000, std::sync::atomic::Ordering::SeqCst);
            }
            let wait = tokio::time::timeout(Duration::from_millis(300), listener.recv()).await;
            if let Ok(notification) = wait {
                return notification.unwrap();
            }
        }
    };
    let notified = tokio::time::timeout(Duration::from_secs(60), notified)
        .await
        .unwrap();
    let payload: Value = serde_json::from_str(notified.payload()).unwrap();
    assert_eq!(
        payload,
        json!({"job_id": 1, "model": "quick-model", "state": "queued"})
    );
    stop.cancel();
    tasks.join_next().await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn an_enqueued_job_is_told_to_who_listens_once() {
    let db = postgres::fresh().await;
    let mut listener = PgListener::connect_with(&db.pool).await.unwrap();
    listener.listen(notify::CHANNEL).await.unwrap();
    request(&db.pool, "m").await;
    request(&db.pool, "m").await; // joins: no second message
    let clock = Clock::default();
    let (one, two) = tokio::join!(
        notify::deliver(&db.pool, &clock),
        notify::deliver(&db.pool, &clock)
    );
    assert_eq!(one.unwrap() + two.unwrap(), 1);
    let heard: Value = serde_json::from_str(listener.recv().await.unwrap().payload()).unwrap();
    assert_eq!(
        (&heard["key"], &heard["kind"]),
        (&json!("job:1"), &json!("job_enqueued"))
    );
    assert_eq!(heard["payload"]["model"], "m");
    assert_eq!(notify::deliver(&db.pool, &clock).await.unwrap(), 0);
}
