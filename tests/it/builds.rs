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

/// A job over two days of a drift that the rule saw begin within them: at noon of the first.
async fn drifted(policy: &str) -> TestDb {
    let db = postgres::fresh().await;
    let sql = format!(
        "insert into driftd.models (model) values ('m');
        insert into driftd.monitors (monitor, revision, model, topic, definition, definition_digest, settings)
            values ('m', 1, 'm', 't', '{{}}', 'x', '{{}}');
        insert into driftd.model_versions (model, version, stage) values ('m', '1', 'promoted');
        insert into driftd.windows (monitor_id, version, window_start, window_end, rows, late, verdict,
                decided_by, features, drifted_features, drifted_share, offsets)
            select 1, '1', at, at + interval '12 h', 90, 0, 'stable', 'rule', 2, 0, 0,
                '[{{\"partition\": 3, \"first_offset\": 100, \"next_offset\": 200}}]'
            from generate_series('2026-01-01'::timestamptz, '2026-01-02 12:00', '12 h') at;
        insert into driftd.drift_scores (monitor_id, version, segment, window_start, feature, test, rows_window,
                rows_reference, nulls, unseen, drifted, drifted_since, question)
            values (1, '1', 'all', '2026-01-02', 'age', 'rule', 90, 90, 0, 0, true, '2026-01-01 12:00', 'location'),
                (1, '1', 'all', '2026-01-02', 'city', 'rule', 90, 90, 0, 0, true, '2026-01-02', 'shape');
        insert into driftd.alert_episodes (monitor_id, monitor, model, version, state, severity,
                first_window, last_window)
            values (1, 'm', 'm', '1', 'firing', 'warning', '2026-01-02', '2026-01-02 12:00'),
                (1, 'm', 'm', '2', 'firing', 'warning', '2026-01-09', '2026-01-09');
        select driftd.trigger_retraining(kind => 'episode', model => 'm', monitor => 'm', version => '1',
            episode_id => e, policy => '{policy}', reason =>
            '{{\"window_start\": \"2026-01-02T12:00:00Z\", \"window_end\": \"2026-01-03T00:00:00Z\"}}')
        from generate_series(1, 2) e"
    );
    let sql = sqlx::AssertSqlSafe(sql);
    sqlx::raw_sql(sql).execute(&db.pool).await.unwrap();
    db
}

#[tokio::test]
async fn a_baseline_begins_at_the_onset_of_the_drift() {
    let two_days = "{\"data\": {\"select\": \"sliding\", \"span_seconds\": 172800}}";
    let last = "{\"data\": {\"select\": \"last\", \"baseline_share\": 0}}";
    for (policy, source, from, share) in [
        (two_days, json!({}), "2026-01-01T12:00:00+00:00", Some(0.2)),
        (
            two_days,
            json!({"from": "2026-01-01T00:00:00Z", "split": null}),
            "2026-01-01T00:00:00Z",
            None,
        ),
        // Of what begins later, all.
        (last, json!({}), "2026-01-02T12:00:00+00:00", None),
    ] {
        let db = drifted(policy).await;
        let lease = claim(&db.pool).await.unwrap();
        builds::request(&db.pool, &lease, "2", &source)
            .await
            .unwrap();
        let asked = take(&db.pool).await.unwrap().source;
        assert_eq!(asked["from"], from, "{policy}: {asked}");
        assert_eq!(asked["to"], "2026-01-03T00:00:00+00:00");
        assert_eq!(asked["split"]["baseline_share"].as_f64(), share, "{asked}");
    }
}
