//! What a trainer may not say a job's result is: refused with the reason, and the job is as it was.

use driftd::store::jobs::{self, JobState, Lease};
use driftd::store::{Error, SqlState, models};
use serde_json::{Value, json};
use sqlx::{Executor, PgPool};

use crate::harness::postgres::{self, TestDb};
use crate::harness::queue::{claim, request};
use crate::harness::until;

/// SHA-256 digests.
const OLD: &str = "0000000000000000000000000000000000000000000000000000000000000001";
const NEW: &str = "0000000000000000000000000000000000000000000000000000000000000002";

async fn baseline(pool: &PgPool, id: &str, model: &str, version: &str, features: Value) {
    let sql = "insert into driftd.baselines (baseline_id, model, version, training_data_digest, \
        training_data_files, rows, features, profile) values ($1, $2, $3, $4, '{}', 10, $5, '')";
    let digest = if version == "1" { OLD } else { NEW };
    let insert = sqlx::query(sql)
        .bind(id)
        .bind(model)
        .bind(version)
        .bind(digest);
    insert.bind(features).execute(pool).await.unwrap();
}

/// A job that is running, to retrain version 1, which has a baseline of two features.
async fn scene() -> (TestDb, Lease) {
    let db = postgres::fresh().await;
    let pool = &db.pool;
    models::register(pool, "m").await.unwrap();
    models::register(pool, "other").await.unwrap();
    let features =
        json!([{"name": "age", "kind": "numeric"}, {"name": "city", "kind": "categorical"}]);
    baseline(pool, "old", "m", "1", features.clone()).await;
    models::register_version(pool, "m", "1", Some("old"))
        .await
        .unwrap();
    request(pool, "m").await;
    baseline(pool, "same", "m", "2", features.clone()).await;
    baseline(
        pool,
        "fewer",
        "m",
        "2",
        json!([{"name": "age", "kind": "numeric"}]),
    )
    .await;
    let changed =
        json!([{"name": "age", "kind": "categorical"}, {"name": "city", "kind": "categorical"}]);
    baseline(pool, "changed", "m", "2", changed).await;
    baseline(pool, "foreign", "other", "2", features).await;
    let lease = claim(pool).await.unwrap();
    (db, lease)
}

/// Results that are wrong by themselves, and what is said of them.
fn wrong_forms() -> Vec<(Value, &'static str)> {
    vec![
        (json!([]), "the result of a job is a JSON object, not array"),
        (
            json!(null),
            "the result of a job is a JSON object, not null",
        ),
        (
            json!({}),
            "the result of job 1 names no version; a completed job has made a version of the model: {\"version\": \"...\"}",
        ),
        (
            json!({"version": ""}),
            "the result of job 1 names no version",
        ),
        (
            json!({"version": 2}),
            "result.version is number, not string",
        ),
        (
            json!({"version": "1"}),
            "version 1 of model m exists already; every job makes a version of its own",
        ),
        (
            json!({"version": "2", "metrics": {"auc": "0.9"}}),
            "result.metrics.auc is \"0.9\", not a number",
        ),
        (
            json!({"version": "2", "metrics": [1]}),
            "result.metrics is array, not object",
        ),
        (
            json!({"version": "2", "parameters": 1}),
            "result.parameters is number, not object",
        ),
        (
            json!({"version": "2", "training_data": {"sha256": "abc"}}),
            "result.training_data.sha256 is \"abc\", not 64 hexadecimal digits",
        ),
        (
            json!({"version": "2", "training_data": {"rows": 0}}),
            "result.training_data.rows is 0, not a number of rows",
        ),
        (
            json!({"version": "2", "training_data": {"rows": "7"}}),
            "result.training_data.rows is \"7\", not a number of rows",
        ),
    ]
}

/// Results whose baseline cannot be the version's.
fn wrong_baselines() -> Vec<(Value, String)> {
    let lacks = "lacks features of the version that job 1 retrains:";
    vec![
        (
            json!({"version": "2", "baseline_id": "no"}),
            "there is no baseline no; import it first".to_owned(),
        ),
        (
            json!({"version": "2", "baseline_id": "foreign"}),
            "baseline foreign is of version 2 of model other, not of version 2 of model m"
                .to_owned(),
        ),
        (
            json!({"version": "3", "baseline_id": "same"}),
            "baseline same is of version 2 of model m, not of version 3 of model m".to_owned(),
        ),
        (
            json!({"version": "2", "baseline_id": "same", "training_data": {"sha256": OLD}}),
            format!("the training data has digest {OLD}, baseline same was made from {NEW}"),
        ),
        (
            json!({"version": "2", "baseline_id": "fewer"}),
            format!("baseline fewer {lacks} city (categorical)"),
        ),
        (
            json!({"version": "2", "baseline_id": "changed"}),
            format!("baseline changed {lacks} age (numeric)"),
        ),
    ]
}

#[tokio::test]
async fn a_result_that_cannot_be_right_is_refused_with_the_reason() {
    let (db, lease) = scene().await;
    let before = jobs::get(&db.pool, lease.job_id).await.unwrap();
    let all = wrong_forms()
        .into_iter()
        .map(|(result, message)| (result, message.to_owned()));
    for (result, message) in all.chain(wrong_baselines()) {
        let refused = jobs::complete(&db.pool, &lease, &result).await.unwrap_err();
        let Error::Refused {
            state: SqlState::BadArgument,
            message: found,
        } = refused
        else {
            panic!("{result}: {}", refused.chain());
        };
        assert!(found.starts_with(&message), "{result}: {found}");
        assert!(!found.ends_with("; "), "{found}");
        assert_eq!(
            jobs::get(&db.pool, lease.job_id).await.unwrap(),
            before,
            "{result}"
        );
        assert_eq!(models::list(&db.pool, Some("m")).await.unwrap().len(), 1);
    }
    let right = json!({"version": "2", "baseline_id": "same",
        "training_data": {"sha256": NEW, "rows": null}, "metrics": null, "parameters": null});
    jobs::complete(&db.pool, &lease, &right).await.unwrap();
}

/// A baseline of rows that were held out has another digest than the training data.
#[tokio::test]
async fn a_version_and_a_baseline_that_was_held_out_name_their_own_data() {
    let (db, lease) = scene().await;
    let sql = "insert into driftd.baseline_builds (job_id, attempt, model, version, source, state, baseline_id)
        values ($1, 1, 'm', '2', '{\"split\": {\"key\": \"m/1\", \"baseline_share\": 0.2}}', 'ready', 'same')";
    let made = sqlx::query(sql).bind(lease.job_id).execute(&db.pool).await;
    made.unwrap();
    let result = json!({"version": "2", "baseline_id": "same", "training_data": {"sha256": OLD, "rows": 80}});
    jobs::complete(&db.pool, &lease, &result).await.unwrap();
    let sql = "select training_data_digest, baseline_digest from driftd.model_lineage where version = '2'";
    let digests: (String, String) = sqlx::query_as(sql).fetch_one(&db.pool).await.unwrap();
    assert_eq!(digests, (OLD.to_owned(), NEW.to_owned()));
}

#[tokio::test]
async fn a_version_that_another_job_made_is_refused() {
    let (db, lease) = scene().await;
    jobs::complete(&db.pool, &lease, &json!({"version": "2"}))
        .await
        .unwrap();
    request(&db.pool, "m").await;
    let next = claim(&db.pool).await.unwrap();
    let refused = jobs::complete(&db.pool, &next, &json!({"version": "2"}))
        .await
        .unwrap_err();
    let message =
        "version 2 of model m exists already; job 1 made it; every job makes a version of its own";
    assert_eq!(refused.to_string(), message);
}

#[tokio::test]
async fn a_source_of_a_baseline_that_cannot_be_read_is_refused() {
    let (db, lease) = scene().await;
    for source in [
        json!({"offsets": 7}),
        json!({"offsets": {}}),
        json!({"offsets": []}),
        json!({}),
        json!([]),
    ] {
        let sql = "select driftd.request_baseline($1, $2, $3, '2', $4)";
        let asked = sqlx::query(sql)
            .bind(lease.job_id)
            .bind(lease.attempt)
            .bind(lease.token);
        let asked = asked
            .bind(&source)
            .execute(&db.pool)
            .await
            .map_err(Error::doing("ask"));
        let refused = asked.unwrap_err();
        assert!(
            matches!(
                refused,
                Error::Refused {
                    state: SqlState::BadArgument,
                    ..
                }
            ),
            "{source}: {}",
            refused.chain()
        );
    }
}

/// A trigger locks the model and then the job it joins; a job whose version is promoted at once must not
/// take the two in the other order.
#[tokio::test]
async fn completing_and_triggering_do_not_wait_for_each_other_in_a_circle() {
    let (db, lease) = scene().await;
    let sql = "update driftd.retraining_jobs set promotion = '{\"policy\": \"automatic\"}'";
    db.pool.execute(sql).await.unwrap();
    let mut trigger = db.pool.begin().await.unwrap();
    let lock = "select from driftd.models where model = 'm' for no key update";
    trigger.execute(lock).await.unwrap();
    let pool = db.another_pool().await;
    let mut completing = tokio::task::JoinSet::new();
    completing.spawn(async move { jobs::complete(&pool, &lease, &json!({"version": "2"})).await });
    until("the completion waits", async || {
        let sql = "select exists (select from pg_locks l join pg_stat_activity a using (pid) \
            where not l.granted and a.datname = current_database())";
        sqlx::query_scalar(sql).fetch_one(&db.pool).await.unwrap()
    })
    .await;
    trigger
        .execute("select driftd.request_retraining('m')")
        .await
        .unwrap();
    trigger.commit().await.unwrap();
    completing.join_next().await.unwrap().unwrap().unwrap();
    let job = jobs::get(&db.pool, 1).await.unwrap().unwrap();
    assert_eq!(job.state, JobState::Succeeded);
    assert_eq!(job.reasons.as_array().unwrap().len(), 2);
}
