//! Short words for the queue of retraining jobs.

use chrono::{DateTime, Utc};
use driftd::store::jobs::{self, Lease};
use driftd::store::models;
use driftd::store::triggers::{self, Fired};
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
