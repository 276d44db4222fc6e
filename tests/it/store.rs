//! The schema and the functions over it.

use driftd::embedded::postgres as embedded;
use driftd::monitor::Monitor;
use driftd::store::failures::{self, Failure, Kind};
use driftd::store::monitors::Registered;
use driftd::store::{self, Error, models, monitors, outbox, rejected};
use secrecy::SecretString;
use serde_json::json;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use crate::harness::monitors::streaming;
use crate::harness::postgres;

#[tokio::test]
async fn an_empty_database_is_migrated_once_also_by_many_at_once() {
    let db = postgres::empty().await;
    let before = store::check_schema(&db.pool).await.unwrap_err();
    assert!(
        matches!(before, Error::NotMigrated { missing } if missing > 3),
        "{before}"
    );
    let other = db.another_pool().await;
    let (one, two) = tokio::join!(store::migrate(&db.pool), store::migrate(&other));
    let applied = [one.unwrap(), two.unwrap()];
    // Whoever came second counted before the first had finished, and found nothing left to do.
    assert!(applied.iter().any(|n| *n > 3), "{applied:?}");
    store::check_schema(&db.pool).await.unwrap();
    assert_eq!(store::migrate(&db.pool).await.unwrap(), 0);
}

#[tokio::test]
async fn a_schema_from_the_future_is_refused() {
    let db = postgres::fresh().await;
    let future = "insert into driftd._sqlx_migrations \
                  values (20991231000000, 'from the future', now(), true, '', 0)";
    sqlx::query(future).execute(&db.pool).await.unwrap();
    for refused in [
        store::check_schema(&db.pool).await.unwrap_err(),
        store::migrate(&db.pool).await.unwrap_err(),
    ] {
        assert!(matches!(
            refused,
            Error::SchemaNewer {
                database: 20_991_231_000_000,
                ..
            }
        ));
    }
}

#[tokio::test]
async fn a_url_that_cannot_be_used_is_not_repeated() {
    let url = SecretString::from("postgres://user:hunter2@:x/".to_owned());
    let error = store::connect(&url, 1).await.unwrap_err();
    assert!(matches!(error, Error::Url));
    assert!(!format!("{error} {error:?}").contains("hunter2"));
}

#[tokio::test]
async fn a_postgres_that_is_not_there_is_waited_for_until_told_to_stop() {
    let url = SecretString::from("postgres://driftd@localhost/x?host=/nowhere".to_owned());
    let error = store::connect(&url, 1).await.unwrap_err();
    assert!(error.is_transient(), "{}", error.chain());
    let stop = CancellationToken::new();
    let pool = store::lazy(&url, 1).unwrap();
    let (waited, ()) = tokio::join!(store::wait_for(&pool, &stop, |_| {}), async {
        tokio::task::yield_now().await;
        stop.cancel();
    });
    assert!(!waited.unwrap());
}

#[tokio::test]
async fn a_database_that_does_not_exist_is_told_at_once() {
    let url = SecretString::from(postgres::server().url_of("no_such_database"));
    let stop = CancellationToken::new();
    let pool = store::lazy(&url, 1).unwrap();
    let error = store::wait_for(&pool, &stop, |_| {}).await.unwrap_err();
    assert!(
        error.chain().contains("no_such_database"),
        "{}",
        error.chain()
    );
}

#[tokio::test]
async fn roles_may_do_what_they_are_for_and_nothing_else() {
    let db = postgres::fresh().await;
    let mut session = db.pool.acquire().await.unwrap();
    for (role, statement, allowed) in [
        (
            "driftd_trainer",
            "select * from driftd.claim_job('worker')",
            true,
        ),
        ("driftd_trainer", "select driftd.cancel_job(1)", false),
        (
            "driftd_trainer",
            "select driftd.trigger_retraining('request', 'm', '{}')",
            false,
        ),
        (
            "driftd_trainer",
            "select * from driftd.retraining_jobs",
            false,
        ),
        ("driftd_reader", "select * from driftd.monitor_health", true),
        ("driftd_reader", "select * from driftd.job_queue", true),
        ("driftd_reader", "select * from driftd.failures", true),
        (
            "driftd_reader",
            "select * from driftd.claim_job('worker')",
            false,
        ),
        (
            "driftd_reader",
            "select * from driftd.rejected_messages",
            false,
        ),
    ] {
        let set = sqlx::AssertSqlSafe(format!("set role {role}"));
        sqlx::query(set).execute(&mut *session).await.unwrap();
        let done = sqlx::query(statement).execute(&mut *session).await;
        assert_eq!(done.is_ok(), allowed, "{role}: {statement}: {done:?}");
        sqlx::query("reset role")
            .execute(&mut *session)
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn every_column_of_every_view_is_described() {
    let db = postgres::fresh().await;
    let missing: Vec<String> = sqlx::query_scalar(
        "select c.relname || '.' || a.attname from pg_class c \
         join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 \
         where c.relnamespace = 'driftd'::regnamespace and c.relkind = 'v' \
           and c.relname <> 'latest_drift' and col_description(c.oid, a.attnum) is null",
    )
    .fetch_all(&db.pool)
    .await
    .unwrap();
    assert!(missing.is_empty(), "{missing:?}");
}

async fn register(pool: &PgPool, monitor: &Monitor) -> Registered {
    let mut transaction = pool.begin().await.unwrap();
    let registered = monitors::register(&mut transaction, monitor).await.unwrap();
    transaction.commit().await.unwrap();
    registered
}

#[tokio::test]
async fn a_monitor_keeps_its_revision_until_windows_or_features_change() {
    let db = postgres::fresh().await;
    let mut monitor = streaming("rides");
    let first = register(&db.pool, &monitor).await;
    assert_eq!((first.revision, first.starts_at), (1, None));

    monitor.retraining.max_attempts = 7; // a policy: the same revision
    assert_eq!(register(&db.pool, &monitor).await, first);
    let stored = "select (settings #>> '{retraining,max_attempts}')::int from driftd.monitors";
    let stored: i32 = sqlx::query_scalar(stored)
        .fetch_one(&db.pool)
        .await
        .unwrap();
    assert_eq!(stored, 7);

    let seen = "insert into driftd.watermarks values ($1, 'inputs', 0, '2013-04-01T13:00:00Z'), \
                ($1, 'inputs', 1, '2013-04-02T01:00:00Z')";
    sqlx::query(seen)
        .bind(first.monitor_id)
        .execute(&db.pool)
        .await
        .unwrap();
    monitor.input.as_mut().unwrap().sample_rows = 5;
    let second = register(&db.pool, &monitor).await;
    assert_eq!(second.revision, 2);
    let start = second.starts_at.unwrap().to_rfc3339();
    assert_eq!(start, "2013-04-03T00:00:00+00:00");
    assert_eq!(register(&db.pool, &monitor).await, second);
}

#[tokio::test]
async fn replicas_that_start_together_agree_on_one_revision() {
    let db = postgres::fresh().await;
    let monitor = streaming("rides");
    let register = async || {
        let mut transaction = db.pool.begin().await.unwrap();
        let registered = monitors::register(&mut transaction, &monitor)
            .await
            .unwrap();
        transaction.commit().await.unwrap();
        registered
    };
    let (one, two, three) = tokio::join!(register(), register(), register());
    assert_eq!(one, two);
    assert_eq!(two, three);
}

#[tokio::test]
async fn a_rejected_message_is_kept_once_whatever_it_held() {
    let db = postgres::fresh().await;
    let message = |offset| rejected::Rejected {
        topic: "inputs".to_owned(),
        partition: 0,
        generation: 1,
        offset,
        monitor: String::new(),
        reason: "unparsable".to_owned(),
        detail: "found \0 at byte 3".to_owned(),
        digest: vec![0; 32],
        payload_bytes: 3,
        payload: (offset == 1).then(|| vec![0, 159, 146]),
    };
    assert_eq!(rejected::insert(&db.pool, &[]).await.unwrap(), 0);
    // What a checkpoint holds comes in one transaction, and no checkpoint comes twice.
    let mut transaction = db.pool.begin().await.unwrap();
    for (messages, new) in [([message(1), message(2)], 2), ([message(2), message(3)], 1)] {
        let inserted = rejected::insert(&mut *transaction, &messages).await;
        assert_eq!(inserted.unwrap(), new);
    }
    transaction.commit().await.unwrap();
}

#[tokio::test]
async fn a_version_is_registered_before_or_after_its_baseline() {
    let db = postgres::fresh().await;
    models::register(&db.pool, "m").await.unwrap();
    models::register(&db.pool, "m").await.unwrap();
    models::register_version(&db.pool, "m", "1", None)
        .await
        .unwrap();
    assert_eq!(models::baseline_id(&db.pool, "m", "1").await.unwrap(), None);
    sqlx::query(
        "insert into driftd.baselines (baseline_id, model, version, training_data_digest, \
         training_data_files, rows, features, profile) \
         values ('b', 'm', '1', 'd', '{}', 1, '[]', '')",
    )
    .execute(&db.pool)
    .await
    .unwrap();
    models::register_version(&db.pool, "m", "1", Some("b"))
        .await
        .unwrap();
    models::register_version(&db.pool, "m", "1", None)
        .await
        .unwrap();
    assert_eq!(
        models::baseline_id(&db.pool, "m", "1")
            .await
            .unwrap()
            .as_deref(),
        Some("b")
    );
    assert_eq!(models::list(&db.pool, Some("m")).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_message_taken_and_not_delivered_comes_back_later() {
    let db = postgres::fresh().await;
    assert!(
        outbox::insert(&db.pool, "k", "alert_fired", &json!({}))
            .await
            .unwrap()
    );
    assert!(
        !outbox::insert(&db.pool, "k", "alert_fired", &json!({}))
            .await
            .unwrap()
    );
    let taken = outbox::claim(&db.pool, 10).await.unwrap();
    assert_eq!(taken.len(), 1);
    assert!(
        outbox::claim(&db.pool, 10).await.unwrap().is_empty(),
        "not at once"
    );
    sqlx::query("update driftd.outbox set next_attempt_at = now()")
        .execute(&db.pool)
        .await
        .unwrap();
    let again = outbox::claim(&db.pool, 10).await.unwrap();
    assert_eq!(
        (again[0].outbox_id, again[0].attempts),
        (taken[0].outbox_id, 2)
    );
}

#[tokio::test]
async fn a_role_that_may_not_make_roles_migrates_all_the_same() {
    // A server of its own: roles belong to the whole server, and the others' are there already.
    let options = embedded::Options::default();
    let server = tokio::task::spawn_blocking(|| embedded::Postgres::start(options)).await;
    let server = server.unwrap().unwrap();
    let admin = store::connect(&SecretString::from(server.url()), 1)
        .await
        .unwrap();
    for statement in ["create role app login", "create database other owner app"] {
        sqlx::query(statement).execute(&admin).await.unwrap();
    }
    let other = server.url_of("other");
    let limited = SecretString::from(other.replace("driftd@", "app@"));
    let app = store::connect(&limited, 1).await.unwrap();
    assert!(store::migrate(&app).await.unwrap() > 3);

    let admin = store::connect(&SecretString::from(other), 1).await.unwrap();
    let roles = "select count(*) from pg_roles where rolname like 'driftd\\_%'";
    let roles: i64 = sqlx::query_scalar(roles).fetch_one(&admin).await.unwrap();
    assert_eq!(roles, 0);
    sqlx::query("create role driftd_reader")
        .execute(&admin)
        .await
        .unwrap();
    sqlx::query("select driftd.grant_roles()")
        .execute(&app)
        .await
        .unwrap();
    sqlx::query("set role driftd_reader")
        .execute(&admin)
        .await
        .unwrap();
    sqlx::query("select * from driftd.monitor_health")
        .execute(&admin)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_failure_is_news_once_per_reason_and_goes_when_it_is_cleared() {
    let db = postgres::fresh().await;
    let pool = &db.pool;
    let mut transaction = pool.begin().await.unwrap();
    let credit = streaming("credit");
    let registered = monitors::register(&mut transaction, &credit).await;
    registered.unwrap();
    transaction.commit().await.unwrap();
    let health = "select state || ': ' || coalesce(failure, '') from driftd.monitor_health";
    let health = async || -> String { sqlx::query_scalar(health).fetch_one(pool).await.unwrap() };
    assert_eq!(health().await, "running: ");

    let topic = credit.input.as_ref().unwrap().topic.clone();
    let failure = |kind, name: &str, version: &str, reason: &str| Failure {
        kind,
        name: name.into(),
        version: version.into(),
        replica: "host/1".into(),
        reason: reason.into(),
        retry_in: Some(failures::backoff(1)),
    };
    let gone = failure(Kind::Topic, &topic, "", "no such\ntopic");
    assert!(failures::report(pool, &gone).await.unwrap());
    assert!(!failures::report(pool, &gone).await.unwrap(), "no news");
    let denied = Failure {
        reason: "not authorized".into(),
        retry_in: None,
        ..gone.clone()
    };
    assert_eq!(health().await, "failed: no such topic");
    assert!(failures::report(pool, &denied).await.unwrap());
    let damaged = failure(Kind::Windows, "credit", "1", "damaged");
    assert!(failures::report(pool, &damaged).await.unwrap());
    let other = failure(Kind::Windows, "debit", "1", "damaged");
    assert!(failures::report(pool, &other).await.unwrap());

    assert_eq!(health().await, "failed: not authorized; damaged");
    let all = failures::list(pool).await.unwrap();
    let told = |one: &failures::Stored| (one.kind.clone(), one.attempts, one.retry_at.is_some());
    let told: Vec<_> = all.iter().map(told).collect();
    assert_eq!(told[0], ("topic".into(), 3, false));
    assert_eq!(told[1], ("windows".into(), 1, true));
    assert!(all[0].since < all[0].told_at);
    let mut counted = failures::count_by_kind(pool).await.unwrap();
    counted.sort();
    let expected = [("monitor", 0), ("topic", 1), ("windows", 2)];
    assert_eq!(counted, expected.map(|(kind, n)| (kind.to_owned(), n)));

    let status = monitors::status(pool).await.unwrap();
    let told = |one: &monitors::Status| (one.monitor.clone(), one.state.clone());
    let told: Vec<_> = status.iter().map(told).collect();
    assert_eq!(told, [("credit".to_owned(), "failed".to_owned())]);
    assert_eq!(
        status[0].failure.as_deref(),
        Some("not authorized; damaged")
    );

    let clear = async |kind, name, version| failures::clear(pool, kind, name, version).await;
    assert!(clear(Kind::Topic, &topic, "").await.unwrap());
    assert!(!clear(Kind::Topic, &topic, "").await.unwrap());
    assert!(clear(Kind::Windows, "credit", "1").await.unwrap());
    assert_eq!(health().await, "running: ");
}

/// A topic may have failed for one replica and not for another; one that has ended reports nothing.
#[tokio::test]
async fn a_topics_failure_is_cleared_by_who_reported_it_or_when_nobody_does_any_more() {
    let db = postgres::fresh().await;
    let pool = &db.pool;
    let gone = Failure {
        kind: Kind::Topic,
        name: "inputs".into(),
        version: String::new(),
        replica: "host/1".into(),
        reason: "no such topic".into(),
        retry_in: Some(failures::backoff(1)),
    };
    assert!(failures::report(pool, &gone).await.unwrap());
    let clear = async |replica| failures::clear_topic(pool, "inputs", replica).await;
    assert!(!clear("host/2").await.unwrap());
    assert!(clear("host/1").await.unwrap());
    assert!(failures::report(pool, &gone).await.unwrap());
    assert_eq!(failures::drop_stale(pool).await.unwrap(), 0);
    let past = "update driftd.failures set retry_at = now() - interval '3 minutes'";
    sqlx::query(past).execute(pool).await.unwrap();
    assert_eq!(failures::drop_stale(pool).await.unwrap(), 1);
}
