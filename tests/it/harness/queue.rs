//! Short words for the queue of retraining jobs.

use chrono::{DateTime, Utc};
use driftd::store::jobs::{self, Lease};
use driftd::store::models;
use driftd::store::triggers::{self, Fired};
use serde_json::{Value, json};
use sqlx::PgPool;

pub(crate) fn at(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

pub(crate) async fn request(pool: &PgPool, model: &str) -> Fired {
    models::register(pool, model).await.unwrap();
    triggers::request(pool, model, Some("for a test"), "tester")
        .await
        .unwrap()
}

pub(crate) async fn claim(pool: &PgPool) -> Option<Lease> {
    jobs::claim(pool, "worker", None, 60.0).await.unwrap()
}

/// Enqueues a job that searches first; every trial is given `{"given": 1}` where it names the space of a
/// grid.
pub(crate) async fn search(pool: &PgPool, model: &str, search: &Value, attempts: i32) -> i64 {
    let given = match search["method"] == "grid" {
        true => json!({"given": 1}),
        false => json!({}),
    };
    let policy = json!({"search": search, "max_attempts": attempts, "parameters": given});
    let sql = "select job_id from driftd.trigger_retraining(kind => 'request', model => $1, policy => $2)";
    let job = sqlx::query_scalar(sql).bind(model).bind(policy);
    job.fetch_one(pool).await.unwrap()
}
