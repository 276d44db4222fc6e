//! Versions of models: how they come into service, and where each comes from.

use clap::Parser;
use driftd::cli;
use driftd::monitor::retraining::{Goal, Promotion, PromotionPolicy};
use driftd::monitor::{Monitor, Retraining};
use driftd::store::jobs::{self, Lease};
use driftd::store::models::{self, ModelVersion};
use driftd::store::triggers::{self, NewTrigger};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, PgPool};

use crate::harness::postgres;
use crate::harness::queue::{at, claim, request};

/// A command line of its own, for the arguments of one command.
#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    args: cli::models::Args,
}

async fn models_says(pool: &PgPool, line: &str) -> anyhow::Result<String> {
    let words = std::iter::once("models").chain(line.split_whitespace());
    let parsed = Line::try_parse_from(words).unwrap();
    cli::models::answer(parsed.args, pool).await
}

async fn version(pool: &PgPool, version: &str) -> ModelVersion {
    let all = models::list(pool, Some("m")).await.unwrap();
    all.into_iter().find(|one| one.version == version).unwrap()
}

/// A job under this promotion policy, claimed.
async fn job(pool: &PgPool, promotion: Promotion, slot: &str) -> Lease {
    let policy = Retraining {
        promotion,
        ..Retraining::default()
    };
    let trigger = NewTrigger {
        kind: "schedule",
        model: "m",
        version: None,
        monitor: "m",
        slot: Some(at(slot)),
        episode_id: None,
        condition: None,
        reason: json!({}),
        policy: &Retraining {
            cooldown: std::time::Duration::ZERO,
            ..policy
        },
        guard: None,
        detail: json!({}),
    };
    let fired = triggers::fire(pool, &trigger, at(slot)).await.unwrap();
    assert_eq!(fired.outcome, "enqueued");
    claim(pool).await.unwrap()
}

fn if_better(goal: Goal) -> Promotion {
    Promotion {
        policy: PromotionPolicy::IfBetter,
        metric: Some("auc".into()),
        goal,
        min_gain: 0.01,
    }
}

/// A version, the policy of its job, what it reports, and what becomes of it.
type Case = (i32, Promotion, Value, &'static str, &'static str);

fn cases() -> [Case; 7] {
    let automatic = Promotion {
        policy: PromotionPolicy::Automatic,
        ..Promotion::default()
    };
    [
        (
            2,
            Promotion::default(),
            json!({"auc": 0.9}),
            "candidate",
            "waits for driftd models promote",
        ),
        (
            3,
            if_better(Goal::Maximize),
            json!({"auc": 0.7}),
            "candidate",
            "version 1 has no auc to compare with",
        ),
        (
            4,
            automatic,
            json!({"auc": 0.7}),
            "promoted",
            "promoted by policy",
        ),
        (
            5,
            if_better(Goal::Maximize),
            json!({}),
            "candidate",
            "reports no auc",
        ),
        (
            6,
            if_better(Goal::Maximize),
            json!({"auc": 0.71}),
            "candidate",
            "auc of 0.71 does not beat 0.7 of version 4",
        ),
        (
            7,
            if_better(Goal::Maximize),
            json!({"auc": 0.72}),
            "promoted",
            "auc of 0.72 beats 0.7 of version 4",
        ),
        (
            8,
            if_better(Goal::Minimize),
            json!({"auc": 0.7}),
            "promoted",
            "auc of 0.7 beats 0.72 of version 7",
        ),
    ]
}

#[tokio::test]
async fn a_version_is_promoted_as_its_policy_says() {
    let db = postgres::fresh().await;
    let pool = &db.pool;
    models::register(pool, "m").await.unwrap();
    models::register_version(pool, "m", "1", None)
        .await
        .unwrap();
    assert_eq!(
        version(pool, "1").await.stage,
        "promoted",
        "the first one is in service"
    );
    for (number, promotion, metrics, stage, why) in cases() {
        let lease = job(pool, promotion, &format!("2026-01-0{number}T00:00:00Z")).await;
        let result = json!({"version": number.to_string(), "metrics": metrics});
        jobs::complete(pool, &lease, &result).await.unwrap();
        let made = version(pool, &number.to_string()).await;
        assert_eq!(
            (made.stage.as_str(), made.stage_reason.as_deref()),
            (stage, Some(why))
        );
    }
    let stages: Vec<String> = models::list(pool, Some("m"))
        .await
        .unwrap()
        .into_iter()
        .rev()
        .map(|one| one.stage)
        .collect();
    assert_eq!(
        stages,
        [
            "superseded",
            "candidate",
            "candidate",
            "superseded",
            "candidate",
            "candidate",
            "superseded",
            "promoted"
        ]
    );
    assert_eq!(
        version(pool, "8").await.parent_version.as_deref(),
        Some("7")
    );
    let told: i64 =
        sqlx::query_scalar("select count(*) from driftd.outbox where kind = 'version_promoted'")
            .fetch_one(pool)
            .await
            .unwrap();
    assert_eq!(told, 4, "1, 4, 7 and 8");
}

#[tokio::test]
async fn without_a_baseline_nothing_that_is_watched_is_promoted_by_itself() {
    let db = postgres::fresh().await;
    let pool = &db.pool;
    let mut monitor: Monitor = crate::harness::monitors::streaming("m");
    monitor.model = "m".into();
    let mut transaction = pool.begin().await.unwrap();
    driftd::store::monitors::register(&mut transaction, &monitor)
        .await
        .unwrap();
    transaction.commit().await.unwrap();
    let automatic = Promotion {
        policy: PromotionPolicy::Automatic,
        ..Promotion::default()
    };
    let lease = job(pool, automatic, "2026-01-01T00:00:00Z").await;
    jobs::complete(pool, &lease, &json!({"version": "1"}))
        .await
        .unwrap();
    let made = version(pool, "1").await;
    assert_eq!(made.stage, "candidate");
    assert!(made.stage_reason.unwrap().starts_with("has no baseline"));
}

#[tokio::test]
async fn versions_are_promoted_and_retired_by_hand() {
    let db = postgres::fresh().await;
    let pool = &db.pool;
    models::register(pool, "m").await.unwrap();
    for name in ["1", "2"] {
        models::register_version(pool, "m", name, None)
            .await
            .unwrap();
    }
    let refused = models_says(pool, "retire 1").await.unwrap_err().to_string();
    assert!(
        refused.contains("is in service; promote another version first"),
        "{refused}"
    );
    let said = models_says(pool, "promote 2 --by jane --reason faster")
        .await
        .unwrap();
    assert_eq!(said, "promoted version 2 of m\n");
    assert_eq!(
        models_says(pool, "retire 1 --by jane").await.unwrap(),
        "retired version 1 of m\n"
    );
    let refused = models_says(pool, "promote 1")
        .await
        .unwrap_err()
        .to_string();
    assert!(
        refused.contains("version 1 of model m is retired"),
        "{refused}"
    );
    let missing = models_says(pool, "promote 3")
        .await
        .unwrap_err()
        .to_string();
    assert!(missing.contains("there is no version 3"), "{missing}");
    let shown: Value =
        serde_json::from_str(&models_says(pool, "show 2 --output json").await.unwrap()).unwrap();
    let events = shown["events"].as_array().unwrap();
    assert_eq!(
        (
            &events[1]["to_stage"],
            &events[1]["actor"],
            &events[1]["reason"]
        ),
        (&json!("promoted"), &json!("jane"), &json!("faster"))
    );
    models::register(pool, "other").await.unwrap();
    models::register_version(pool, "other", "2", None)
        .await
        .unwrap();
    let ambiguous = models_says(pool, "show 2").await.unwrap_err().to_string();
    assert!(ambiguous.contains("name one with --model"), "{ambiguous}");
    let listed = models_says(pool, "list --model m").await.unwrap();
    assert!(
        listed
            .lines()
            .nth(1)
            .unwrap()
            .starts_with("m      2        promoted"),
        "{listed}"
    );
}

/// A database in which version 2 came of a drift of version 1.
async fn with_history(pool: &PgPool) {
    request(pool, "m").await;
    let sql = "
        update driftd.retraining_jobs set state = 'cancelled', finished_at = now();
        insert into driftd.monitors (monitor, revision, model, topic, definition, definition_digest, settings)
            values ('flights', 1, 'm', 'flights', '{}', 'x', '{}');
        insert into driftd.baselines (baseline_id, model, version, training_data_digest,
                training_data_files, rows, features, profile)
            values (repeat('b', 64), 'm', '1', repeat('d', 64), '{jan.parquet}', 1000, '[]', '');
        insert into driftd.model_versions (model, version, baseline_id, training_data_digest, stage)
            values ('m', '1', repeat('b', 64), repeat('d', 64), 'promoted');
        insert into driftd.windows (monitor_id, version, window_start, window_end, baseline_id, rows, late,
                verdict, decided_by, training_windows, features, drifted_features, drifted_share, offsets)
            values (1, '1', '2026-01-01', '2026-01-02', repeat('b', 64), 90, 0, 'stable', 'rule', 90, 2, 0, 0,
                    '[{\"partition\": 3, \"first_offset\": 100, \"next_offset\": 200}]'),
                (1, '1', '2026-01-02', '2026-01-03', repeat('b', 64), 80, 0, 'drifted', 'rule', 90, 2, 1, 0.5,
                    '[{\"partition\": 3, \"first_offset\": 200, \"next_offset\": 300}]');
        insert into driftd.alert_episodes (monitor_id, monitor, model, version, state, severity, first_window,
                fired_window, last_window, drifted_windows, top_features)
            values (1, 'flights', 'm', '1', 'firing', 'warning', '2026-01-02', '2026-01-02', '2026-01-02', 1,
                '[{\"feature\": \"distance\", \"score\": 0.25}]');
        select driftd.trigger_retraining(kind => 'episode', model => 'm', monitor => 'flights', version => '1',
            episode_id => 1, reason => '{\"window_start\": \"2026-01-02T00:00:00Z\", \"window_end\": \"2026-01-03T00:00:00Z\"}')";
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
        .execute(pool)
        .await
        .unwrap();
    let lease = claim(pool).await.unwrap();
    let result = json!({
        "version": "2", "artifact_uri": "s3://models/2", "metrics": {"auc": 0.75},
        "training_data": {"sha256": "e".repeat(64), "rows": 80, "topic": "flights"},
    });
    jobs::complete(pool, &lease, &result).await.unwrap();
}

#[tokio::test]
async fn a_version_is_traced_to_the_data_that_its_parent_was_trained_on() {
    let db = postgres::fresh().await;
    with_history(&db.pool).await;
    let tree = models_says(&db.pool, "trace 2").await.unwrap();
    let registered = |line: &str| line.split(", registered").next().unwrap().to_owned();
    let lines: Vec<String> = tree.lines().map(registered).collect();
    let expected = [
        "version 2 of m, candidate",
        "└─ artifact s3://models/2",
        "└─ training data sha256 eeeeeeeeeeee: topic flights, 80 rows",
        "└─ job 2, attempt 1 by worker",
        "   └─ suggested data: topic flights, partition 3 offsets 200 to 300, 80 rows, 2026-01-02 00:00:00 to 2026-01-03 00:00:00",
        "   └─ because of episode 1 in the window from 2026-01-02 00:00:00",
        "   └─ episode 1 of monitor flights, warning: 1 drifted windows of version 1 from 2026-01-02 00:00:00 to 2026-01-02 00:00:00",
        "      └─ feature distance, score 0.250",
        "   └─ compared with baseline bbbbbbbbbbbb of training data sha256 dddddddddddd",
        "   └─ version 1 of m, promoted",
        "      └─ training data sha256 dddddddddddd",
        "      └─ baseline bbbbbbbbbbbb, 1000 rows",
    ];
    assert_eq!(lines, expected, "{tree}");
    let chain: Value = serde_json::from_str(
        &models_says(&db.pool, "trace 2 --output json")
            .await
            .unwrap(),
    )
    .unwrap();
    assert_eq!(chain[0]["drift"][0]["episode_id"], 1);
    assert_eq!(chain[1]["version"], "1");
}

#[tokio::test]
async fn a_message_is_traced_to_what_was_said_of_it() {
    let db = postgres::fresh().await;
    with_history(&db.pool).await;
    let sql = "select jsonb_agg(jsonb_build_object('version', version, 'verdict', verdict,
            'window', window_start::date, 'baseline', left(baseline_id, 4), 'digest', left(baseline_digest, 4)))
        from driftd.prediction_lineage
        where topic = 'flights' and partition = 3 and first_offset <= $1 and next_offset > $1";
    let found: Value = sqlx::query_scalar(sql)
        .bind(250_i64)
        .fetch_one(&db.pool)
        .await
        .unwrap();
    assert_eq!(
        found,
        json!([{"version": "1", "verdict": "drifted", "window": "2026-01-02",
        "baseline": "bbbb", "digest": "dddd"}])
    );
    let beyond: Option<Value> = sqlx::query_scalar(sql)
        .bind(300_i64)
        .fetch_one(&db.pool)
        .await
        .unwrap();
    assert_eq!(beyond, None);
}

#[tokio::test]
async fn rows_of_versions_without_a_baseline_are_shown() {
    let db = postgres::fresh().await;
    with_history(&db.pool).await;
    assert_eq!(models::unknown(&db.pool, None).await.unwrap(), []);
    let sql = "update driftd.windows set baseline_id = null, version = '(other)' where verdict = 'stable'";
    sqlx::query(sql).execute(&db.pool).await.unwrap();
    let listed = models_says(&db.pool, "list").await.unwrap();
    assert!(
        listed.ends_with(
            "90 rows of model m are of versions without a baseline (windows from \
        2026-01-01 00:00:00 to 2026-01-01 00:00:00)\n"
        ),
        "{listed}"
    );
}
