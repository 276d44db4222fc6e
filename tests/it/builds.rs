//! Baselines that are being built: whose they are while replicas come and go.

use driftd::store::builds::{self, Build};
use driftd::store::models;
use serde_json::json;
use sqlx::PgPool;

use crate::harness::postgres::{self, TestDb};
use crate::harness::queue::{claim, request};

/// A builder that was last heard of so long ago is dead.
const STALE_SECONDS: f64 = 120.0;

/// A trainer has asked for one baseline.
async fn asked() -> TestDb {
    let db = postgres::fresh().await;
    let pool = &db.pool;
    models::register(pool, "m").await.unwrap();
    models::register_version(pool, "m", "1", None)
        .await
        .unwrap();
    request(pool, "m").await;
    let lease = claim(pool).await.unwrap();
    builds::request(pool, &lease, "2", &json!({"files": ["rows.csv"]}))
        .await
        .unwrap();
    db
}

async fn take(pool: &PgPool) -> Option<Build> {
    builds::take(pool, STALE_SECONDS).await.unwrap()
}

/// What time would do: no test sleeps.
async fn pass(pool: &PgPool, seconds: f64) {
    let sql = "update driftd.baseline_builds set taken_at = taken_at - make_interval(secs => $1)";
    sqlx::query(sql).bind(seconds).execute(pool).await.unwrap();
}

async fn heard_at(pool: &PgPool) -> chrono::DateTime<chrono::Utc> {
    let sql = "select taken_at from driftd.baseline_builds";
    sqlx::query_scalar(sql).fetch_one(pool).await.unwrap()
}

async fn state(pool: &PgPool) -> (String, Option<String>) {
    let sql = "select state, error from driftd.baseline_builds";
    sqlx::query_as(sql).fetch_one(pool).await.unwrap()
}

#[tokio::test]
async fn a_long_build_stays_with_the_builder_that_is_heard_of() {
    let db = asked().await;
    let pool = &db.pool;
    let build = take(pool).await.unwrap();
    let mut known = build.heard_at;
    for _ in 0..20 {
        pass(pool, 100.0).await;
        known = heard_at(pool).await;
        assert_eq!(take(pool).await, None, "another replica leaves it alone");
        let said = builds::still_building(pool, build.build_id, known).await;
        known = said.unwrap().expect("nobody has taken over");
    }
    let ended = builds::end(pool, build.build_id, known, Err("no rows")).await;
    assert!(ended.unwrap());
    assert_eq!(state(pool).await, ("failed".into(), Some("no rows".into())));
}

#[tokio::test]
async fn a_build_whose_builder_is_silent_goes_to_another_and_stays_there() {
    let db = asked().await;
    let pool = &db.pool;
    let first = take(pool).await.unwrap();
    pass(pool, STALE_SECONDS + 1.0).await;
    let second = take(pool).await.expect("the first has been silent");
    assert_eq!(second.build_id, first.build_id);
    assert!(second.heard_at > first.heard_at);
    let said = builds::still_building(pool, first.build_id, first.heard_at).await;
    assert_eq!(
        said.unwrap(),
        None,
        "the first hears that it is not its own"
    );
    let ended = builds::end(pool, first.build_id, first.heard_at, Err("late")).await;
    assert!(!ended.unwrap(), "nor does its end count");
    assert_eq!(state(pool).await, ("building".into(), None));
    let said = builds::still_building(pool, second.build_id, second.heard_at).await;
    let heard = said.unwrap().unwrap();
    assert!(
        builds::end(pool, second.build_id, heard, Err("no rows"))
            .await
            .unwrap()
    );
}
