//! Windows that are added to the baseline of a version that a job has made: which, when, and once.

use std::collections::BTreeSet;

use driftd::store::baselines;
use sqlx::{AssertSqlSafe, Executor, PgPool};

use crate::harness::postgres::{self, TestDb};
use crate::harness::until;

/// A version in service since noon that job 1 has made, two monitors, and a day of hourly windows of the
/// first. An alert lasted from 14:00 to 16:00. Each window answers with its own hour.
const DAY: &str = "
    insert into driftd.models (model) values ('m');
    insert into driftd.monitors (monitor, revision, model, topic, definition, definition_digest, settings)
        values ('a', 1, 'm', 't', '{}', 'x', '{}'), ('b', 1, 'm', 't', '{}', 'x', '{}');
    insert into driftd.retraining_jobs (model, reasons, max_attempts) values ('m', '[]', 1);
    insert into driftd.baselines (baseline_id, model, version, training_data_digest, training_data_files, rows,
            features, profile)
        values ('old', 'm', '2', 'd', '{}', 10, '[]', '\\x01'), ('foreign', 'm', '2', 'd', '{}', 10, '[]', '\\x01');
    insert into driftd.baseline_windows (baseline_id, slot_ms, slots) values ('old', 60000, '\\x02');
    insert into driftd.model_versions (model, version, baseline_id, stage, job_id, stage_at)
        values ('m', '2', 'old', 'promoted', 1, '2026-01-01 12:00');
    insert into driftd.windows (monitor_id, version, window_start, window_end, rows, late, verdict, decided_by,
            training_windows, features, drifted_features, drifted_share, offsets, baseline_id, judged_at, answers)
        select 1, '2', at, at + interval '1 h', 90, 0,
            case hour when 14 then 'drifted' when 16 then 'drifted' when 18 then 'incomplete'
                when 19 then 'too_few_rows' else 'stable' end::driftd.verdict,
            case hour when 20 then 'rule' else 'tests' end, 3, 2, 0, 0, '[]',
            case hour when 21 then 'foreign' else 'old' end, at + interval '1 h',
            case when hour not in (18, 22) then convert_to(hour::text, 'UTF8') end
        from generate_series(0, 23) hour
            cross join lateral (select '2026-01-01'::timestamptz + hour * interval '1 h') t (at);
    insert into driftd.alert_episodes (monitor_id, monitor, model, version, state, severity, first_window,
            last_window, resolved_at)
        values (1, 'a', 'm', '2', 'resolved', 'warning', '2026-01-01 14:00', '2026-01-01 16:00', now())";

async fn day() -> TestDb {
    let db = postgres::fresh().await;
    db.pool.execute(DAY).await.unwrap();
    db
}

async fn run(pool: &PgPool, sql: &str) {
    let sql = AssertSqlSafe(sql.to_owned());
    sqlx::raw_sql(sql).execute(pool).await.unwrap();
}

async fn extend(pool: &PgPool, monitor: i64, missing: i32) -> Option<String> {
    baselines::extend(pool, monitor, "2", missing)
        .await
        .unwrap()
}

/// What was added of a monitor.
async fn added(pool: &PgPool, baseline: &str, monitor: i64) -> Vec<String> {
    let added = baselines::added(pool, baseline, monitor).await.unwrap();
    added
        .into_iter()
        .map(|bytes| String::from_utf8(bytes).unwrap())
        .collect()
}

#[tokio::test]
async fn quiet_windows_after_the_promotion_are_added_and_no_others() {
    let db = day().await;
    let pool = &db.pool;
    // 11:00 is judged at noon. Left out: 14 to 16 (the alert, with 15 that is stable), 18 (a gap), 19 (few
    // rows), 20 (the rule), 21 (another baseline), 22 (by the clock).
    assert_eq!(extend(pool, 1, 6).await, None, "there are five");
    let new = extend(pool, 1, 5).await.unwrap();
    assert_eq!(added(pool, &new, 1).await, ["11", "12", "13", "17", "23"]);
    let sql = "select (v.baseline_id, b.extends_baseline_id, b.rows, s.slots, b.training_data_digest)::text
        from driftd.model_versions v join driftd.baselines b using (baseline_id)
            join driftd.baseline_windows s using (baseline_id)";
    let there: String = sqlx::query_scalar(sql).fetch_one(pool).await.unwrap();
    assert_eq!(there, format!("({new},old,10,\"\\\\x02\",d)"));
}

#[tokio::test]
async fn only_a_version_in_service_that_a_job_has_made_is_extended() {
    let db = day().await;
    let pool = &db.pool;
    for (change, back) in [
        ("stage = 'superseded'", "stage = 'promoted'"),
        ("job_id = null", "job_id = 1"),
        (
            "stage_at = '2026-01-01 17:00'",
            "stage_at = '2026-01-01 12:00'",
        ),
        ("baseline_id = 'foreign'", "baseline_id = 'old'"),
    ] {
        run(pool, &format!("update driftd.model_versions set {change}")).await;
        assert_eq!(extend(pool, 1, 5).await, None, "{change}");
        run(pool, &format!("update driftd.model_versions set {back}")).await;
    }
    let firing = "update driftd.alert_episodes set state = 'firing', resolved_at = null";
    run(pool, firing).await;
    assert_eq!(extend(pool, 1, 4).await, None, "the alert goes on");
    let new = extend(pool, 1, 3).await.unwrap();
    assert_eq!(added(pool, &new, 1).await, ["11", "12", "13"]);
}

/// Two replicas have judged the version side by side, and a third has not heard of the new baseline.
#[tokio::test]
async fn a_baseline_is_extended_once_however_many_ask() {
    let db = day().await;
    let mut first = db.pool.begin().await.unwrap();
    let new = baselines::extend(&mut *first, 1, "2", 5).await.unwrap();
    let pool = db.another_pool().await;
    let mut second = tokio::task::JoinSet::new();
    second.spawn(async move { extend(&pool, 1, 5).await });
    until("the second waits", async || {
        let sql = "select exists (select from pg_locks l join pg_stat_activity a using (pid) \
            where not l.granted and a.datname = current_database())";
        sqlx::query_scalar(sql).fetch_one(&db.pool).await.unwrap()
    })
    .await;
    first.commit().await.unwrap();
    assert_eq!(second.join_next().await.unwrap().unwrap(), None);
    assert_eq!(extend(&db.pool, 1, 5).await, None);
    let sql = "select baseline_id from driftd.model_versions";
    let there: Option<String> = sqlx::query_scalar(sql).fetch_one(&db.pool).await.unwrap();
    assert_eq!(there, new);
}

/// A second monitor of the model has windows of another size: each has its own.
#[tokio::test]
async fn every_monitor_of_a_version_adds_its_own_windows() {
    let db = day().await;
    let pool = &db.pool;
    let copy = "insert into driftd.windows (monitor_id, version, window_start, window_end, rows, late, verdict,
            decided_by, training_windows, features, drifted_features, drifted_share, offsets, baseline_id,
            judged_at, answers)
        select 2, version, window_start, window_end, rows, late, verdict, decided_by, 0, 2, 0, 0, '[]',
            baseline_id, judged_at, answers from driftd.windows";
    run(pool, copy).await;
    let of_one = extend(pool, 1, 5).await.unwrap();
    // Its windows were judged by the baseline before, and it has had no alert.
    let of_both = extend(pool, 2, 6).await.unwrap();
    assert_eq!(
        added(pool, &of_both, 1).await,
        added(pool, &of_one, 1).await
    );
    assert_eq!(
        added(pool, &of_both, 2).await,
        ["11", "12", "13", "15", "17", "23"]
    );
    let chain: BTreeSet<String> = baselines::chain(pool, &of_both)
        .await
        .unwrap()
        .into_iter()
        .collect();
    assert_eq!(chain, BTreeSet::from([of_both, of_one, "old".to_owned()]));
}
