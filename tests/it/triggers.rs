//! What asks for retraining, and what stops it.

use std::sync::Arc;
use std::time::Duration;

use driftd::monitor::Monitor;
use driftd::monitor::retraining::Severity;
use driftd::retrain::trigger::{Drift, Trigger};
use driftd::store::triggers::Fired;
use driftd::store::{jobs, models, monitors};
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio::sync::Barrier;

use crate::harness::monitors::streaming;
use crate::harness::postgres;
use crate::harness::queue::{at, claim, request};

async fn episode(pool: &PgPool, monitor: &Monitor) -> i64 {
    let mut transaction = pool.begin().await.unwrap();
    let registered = monitors::register(&mut transaction, monitor).await.unwrap();
    let sql = "insert into driftd.alert_episodes \
               (monitor_id, monitor, model, version, state, severity, first_window, last_window) \
               values ($1, $2, $3, '1', 'firing', 'warning', now(), now()) returning episode_id";
    let episode = sqlx::query_scalar(sql)
        .bind(registered.monitor_id)
        .bind(&monitor.name)
        .bind(&monitor.model)
        .fetch_one(&mut *transaction)
        .await
        .unwrap();
    transaction.commit().await.unwrap();
    episode
}

async fn fire_episode(
    pool: &PgPool,
    monitor: &Monitor,
    episode_id: i64,
    now: &str,
) -> Option<Fired> {
    let trigger = Trigger::Episode {
        monitor,
        episode_id,
        version: "1",
        drift: Drift {
            share: 0.5,
            severity: Severity::Critical,
            features: &["age".to_owned()],
            windows: 1,
        },
        reason: json!({"features": ["age"]}),
    };
    let mut connection = pool.acquire().await.unwrap();
    trigger.fire(&mut connection, at(now)).await.unwrap()
}

#[tokio::test]
async fn an_episode_counts_once_and_joins_the_open_job() {
    let db = postgres::fresh().await;
    let monitor = streaming("rides");
    let job_id = request(&db.pool, "rides-model").await.job_id;
    let episode = episode(&db.pool, &monitor).await;
    for _ in 0..2 {
        let now = "2026-01-01T00:00:00Z";
        let fired = fire_episode(&db.pool, &monitor, episode, now)
            .await
            .unwrap();
        assert_eq!(
            (fired.outcome.as_str(), fired.guard.as_deref()),
            ("joined", Some("open_job"))
        );
        assert_eq!(fired.job_id, job_id);
    }
    let job = jobs::get(&db.pool, job_id.unwrap()).await.unwrap().unwrap();
    let kinds: Vec<&Value> = job
        .reasons
        .as_array()
        .unwrap()
        .iter()
        .map(|r| &r["kind"])
        .collect();
    assert_eq!(kinds, ["request", "episode"]);
    assert_eq!(job.reasons[1]["features"], json!(["age"]));
}

#[tokio::test]
async fn an_episode_stopped_by_the_cooldown_comes_through_when_it_is_over() {
    let db = postgres::fresh().await;
    let mut monitor = streaming("rides");
    monitor.retraining.cooldown = Duration::from_secs(3600);
    let first = episode(&db.pool, &monitor).await;
    let fired = fire_episode(&db.pool, &monitor, first, "2026-01-01T00:00:00Z")
        .await
        .unwrap();
    assert_eq!(fired.outcome, "enqueued");
    let lease = claim(&db.pool).await.unwrap();
    jobs::complete(&db.pool, &lease, &json!({"version": "2"}))
        .await
        .unwrap();
    sqlx::query("update driftd.alert_episodes set state = 'resolved'")
        .execute(&db.pool)
        .await
        .unwrap();

    let second = episode(&db.pool, &monitor).await;
    let soon = fire_episode(&db.pool, &monitor, second, "2026-01-01T00:59:59Z")
        .await
        .unwrap();
    assert_eq!(
        (soon.outcome.as_str(), soon.guard.as_deref()),
        ("stopped", Some("cooldown"))
    );
    assert_eq!(
        at(soon.detail["until"].as_str().unwrap()),
        at("2026-01-01T01:00:00Z")
    );
    let later = fire_episode(&db.pool, &monitor, second, "2026-01-01T01:00:00Z")
        .await
        .unwrap();
    assert_eq!(
        (later.outcome.as_str(), later.trigger_id),
        ("enqueued", soon.trigger_id)
    );
}

#[tokio::test]
async fn the_monitors_own_guards_are_recorded_and_no_policy_is_no_record() {
    let db = postgres::fresh().await;
    let mut monitor = streaming("rides");
    let episode = episode(&db.pool, &monitor).await;
    let now = "2026-01-01T00:00:00Z";
    monitor.retraining.min_drifted_share = 0.9;
    let fired = fire_episode(&db.pool, &monitor, episode, now)
        .await
        .unwrap();
    assert_eq!(fired.guard.as_deref(), Some("drifted_share"));
    assert_eq!(fired.detail, json!({"share": 0.5, "needed": 0.9}));
    monitor.retraining.on_drift = false;
    assert_eq!(fire_episode(&db.pool, &monitor, episode, now).await, None);
}

#[tokio::test]
async fn triggers_at_once_make_one_job() {
    let db = postgres::fresh().await;
    models::register(&db.pool, "m").await.unwrap();
    let start = Arc::new(Barrier::new(4));
    let mut requests = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let (pool, start) = (db.another_pool().await, start.clone());
        requests.spawn(async move {
            start.wait().await;
            request(&pool, "m").await.outcome
        });
    }
    let mut outcomes = requests.join_all().await;
    outcomes.sort();
    assert_eq!(outcomes, ["enqueued", "joined", "joined", "joined"]);
    let job = jobs::get(&db.pool, 1).await.unwrap().unwrap();
    assert_eq!(job.reasons.as_array().unwrap().len(), 4);
}
