//! What trainers in other languages rely on: `examples/trainer.py`, and the schemas of what they are told
//! and of what they say.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use driftd::monitor::Monitor;
use driftd::monitor::retraining::Severity;
use driftd::retrain::split::Split;
use driftd::retrain::trials;
use driftd::retrain::trigger::{Drift, Trigger};
use driftd::store::jobs::{self, JobState};
use driftd::store::{Error, SqlState, models, monitors};
use jsonschema::Validator;
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::harness::monitors::streaming;
use crate::harness::postgres;
use crate::harness::queue::{at, claim, request, search};
use crate::harness::until;
use crate::harness::worker::trainer_url;

fn schema(text: &str) -> Validator {
    let schema = serde_json::from_str(text).unwrap();
    let options = jsonschema::options().should_validate_formats(true);
    options.build(&schema).unwrap()
}

fn assert_valid(schema: &Validator, document: &Value) {
    let wrong: Vec<String> = schema
        .iter_errors(document)
        .map(|error| error.to_string())
        .collect();
    assert!(wrong.is_empty(), "{wrong:?}: {document}");
}

/// One job of each kind of trigger.
async fn fire_all(pool: &PgPool) {
    request(pool, "asked").await;
    let names: Vec<Monitor> = ["drift", "clock", "old", "rows"].map(streaming).into();
    let mut connection = pool.begin().await.unwrap();
    let registered = monitors::register(&mut connection, &names[0])
        .await
        .unwrap();
    let sql = "insert into driftd.alert_episodes \
        (monitor_id, monitor, model, version, state, severity, first_window, last_window) \
        values ($1, 'drift', 'drift-model', '1', 'firing', 'warning', now(), now()) returning episode_id";
    let episode: i64 = sqlx::query_scalar(sql)
        .bind(registered.monitor_id)
        .fetch_one(&mut *connection)
        .await
        .unwrap();
    let now = at("2026-01-01T00:00:00Z");
    let features = ["age".to_owned()];
    let drift = Drift {
        share: 0.5,
        severity: Severity::Critical,
        features: &features,
        windows: 1,
    };
    let reason = json!({"features": ["age"], "window_start": "2025-12-31T00:00:00Z", "window_end": "2026-01-01T00:00:00Z"});
    for trigger in [
        Trigger::Episode {
            monitor: &names[0],
            episode_id: episode,
            version: "1",
            drift,
            reason,
        },
        Trigger::Schedule {
            monitor: &names[1],
            slot: now,
            missed: false,
        },
        Trigger::Age {
            monitor: &names[2],
            condition: "c",
            reason: json!({"age_seconds": 7}),
        },
        Trigger::Volume {
            monitor: &names[3],
            condition: "c",
            reason: json!({"rows": 7}),
        },
    ] {
        let fired = trigger.fire(&mut connection, now).await.unwrap().unwrap();
        assert_eq!(fired.outcome, "enqueued");
    }
    connection.commit().await.unwrap();
}

#[tokio::test]
async fn what_a_trainer_is_told_is_by_its_schema() {
    let db = postgres::fresh().await;
    let schema = schema(include_str!("../../docs/schemas/job.v1.json"));
    fire_all(&db.pool).await;
    let space = json!({"method": "random", "trials": 1, "parallel": 1,
        "space": {"rate": {"type": "float", "low": 0.0, "high": 1.0}},
        "objective": {"name": "auc", "goal": "maximize"}});
    search(&db.pool, "searched", &space, 3).await;
    let mut kinds = Vec::new();
    for _ in 0..8 {
        trials::plan(&db.pool).await.unwrap();
        let claimed = jobs::claim_document(&db.pool, "w", None, 60.0)
            .await
            .unwrap();
        let Some(claimed) = claimed else { break };
        assert_valid(&schema, &claimed.document);
        let document = &claimed.document;
        let last = document["reasons"].as_array().unwrap().last().unwrap();
        let trial = document["trial"].is_object();
        kinds.push(
            if trial {
                "trial"
            } else {
                last["kind"].as_str().unwrap()
            }
            .to_owned(),
        );
        let result = json!({"version": "2", "objective": 0.5});
        jobs::complete(&db.pool, &claimed.lease, &result)
            .await
            .unwrap();
    }
    kinds.sort();
    assert_eq!(
        kinds,
        [
            "age", "episode", "request", "schedule", "search", "trial", "volume"
        ]
    );
}

/// Those for which the form alone decides.
fn results() -> Vec<Value> {
    let with = |name: &str, value: Value| json!({"version": "2", "objective": 0.5, name: value});
    let digest = "0".repeat(64);
    let mut results = vec![
        json!({}),
        json!([]),
        json!("x"),
        json!({"version": "2", "objective": 1}),
    ];
    for name in [
        "version",
        "artifact_uri",
        "code",
        "metrics",
        "parameters",
        "training_data",
        "objective",
        "pruned",
        "note",
    ] {
        for value in [json!("x"), json!(1), json!({}), json!(true), json!([])] {
            results.push(with(name, value));
        }
    }
    for name in [
        "artifact_uri",
        "baseline_id",
        "code",
        "metrics",
        "parameters",
        "training_data",
        "note",
    ] {
        results.push(with(name, Value::Null));
    }
    for data in [
        json!({"sha256": digest}),
        json!({"sha256": "x"}),
        json!({"sha256": null}),
        json!({"sha256": 7}),
        json!({"rows": 1}),
        json!({"rows": 0}),
        json!({"rows": -1}),
        json!({"rows": 1.5}),
        json!({"rows": "1"}),
        json!({"rows": null}),
        json!({"rows": []}),
        json!({"uris": 7}),
    ] {
        results.push(with("training_data", data));
    }
    for metrics in [
        json!({"a": 1}),
        json!({"a": null}),
        json!({"a": "1"}),
        json!({"a": 0.5, "b": []}),
    ] {
        results.push(with("metrics", metrics));
    }
    results
}

#[tokio::test]
async fn what_a_trainer_may_say_is_by_its_schema() {
    let db = postgres::fresh().await;
    let schema = schema(include_str!("../../docs/schemas/result.v1.json"));
    request(&db.pool, "m").await;
    let lease = claim(&db.pool).await.unwrap();
    for result in results() {
        let mut transaction = db.pool.begin().await.unwrap();
        let said = jobs::complete(&mut *transaction, &lease, &result).await;
        transaction.rollback().await.unwrap();
        let accepted = match said {
            Ok(()) => true,
            Err(Error::Refused {
                state: SqlState::BadArgument,
                ..
            }) => false,
            Err(other) => panic!("{result}: {}", other.chain()),
        };
        assert_eq!(accepted, schema.is_valid(&result), "{result}");
    }
}

/// A Python that has psycopg; where there is none, one is made beside what cargo builds.
fn python() -> Option<PathBuf> {
    let venv = Path::new(env!("CARGO_TARGET_TMPDIR")).join("venv");
    let own = venv.join("bin/python");
    let has = |python: &Path| {
        let mut import = Command::new(python);
        import.args(["-c", "import psycopg"]).stderr(Stdio::null());
        import.status().is_ok_and(|status| status.success())
    };
    let install = || {
        let made = Command::new("python3")
            .args(["-m", "venv"])
            .arg(&venv)
            .output()
            .ok()?;
        let pip = made.status.success().then(|| {
            Command::new(&own)
                .args(["-m", "pip", "install", "-q", "psycopg[binary]"])
                .output()
                .ok()
        })??;
        pip.status.success().then_some(())
    };
    [PathBuf::from("python3"), own.clone()]
        .into_iter()
        .find(|python| has(python))
        .or_else(|| {
            install()?;
            has(&own).then(|| own.clone())
        })
}

/// What is held out is the same for driftd, in SQL and in Python.
#[tokio::test]
async fn every_language_splits_the_rows_alike() {
    let (key, topic, share) = ("modèle/7", "flights.v2", 0.2);
    let split: Split =
        serde_json::from_value(json!({"key": key, "baseline_share": share})).unwrap();
    let places = || (0..3).flat_map(|partition| (0..200).map(move |offset| (partition, offset)));
    let found: Vec<bool> = places()
        .map(|(partition, offset)| split.is_baseline(topic, partition, offset))
        .collect();
    assert!(found.contains(&true) && found.contains(&false));

    let db = postgres::fresh().await;
    let sql = "select ('x' || left(encode(sha256(convert_to(concat_ws(':', $1, $2, p, o), 'UTF8')), 'hex'), 8)
            )::bit(32)::bigint < $3 * 4294967296
        from generate_series(0, 2) p, generate_series(0, 199) o order by p, o";
    let in_sql = sqlx::query_scalar(sql).bind(key).bind(topic).bind(share);
    let in_sql: Vec<bool> = in_sql.fetch_all(&db.pool).await.unwrap();
    assert_eq!(in_sql, found);

    let Some(python) = python() else { return };
    let script = "import sys; sys.path.insert(0, 'examples'); import trainer
split = {'key': sys.argv[1], 'baseline_share': float(sys.argv[3])}
print(''.join('01'[trainer.is_baseline(split, sys.argv[2], p, o)] for p in range(3) for o in range(200)))";
    let mut command = Command::new(python);
    command
        .args(["-B", "-c", script, key, topic, &share.to_string()])
        .current_dir(env!("CARGO_MANIFEST_DIR"));
    let said = command.output().unwrap();
    let in_python: Vec<bool> = said
        .stdout
        .trim_ascii()
        .iter()
        .map(|c| *c == b'1')
        .collect();
    assert_eq!(
        in_python,
        found,
        "{}",
        String::from_utf8_lossy(&said.stderr)
    );
}

#[tokio::test]
async fn the_trainer_in_python_completes_a_job_and_gives_a_cancelled_one_up() {
    let Some(python) = python() else {
        let required = std::env::var_os("DRIFTD_REQUIRE_PYTHON").is_some_and(|value| value == "1");
        assert!(!required, "python3 with psycopg is required here");
        let _ = std::io::stderr().write_all(b"skipped trainer: no python3 with psycopg\n");
        return;
    };
    let db = postgres::fresh().await;
    let url = trainer_url(&db).await;
    models::register(&db.pool, "m").await.unwrap();
    models::register_version(&db.pool, "m", "1", None)
        .await
        .unwrap();
    let trainer = |options: &[&str]| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/trainer.py");
        let mut command = Command::new(&python);
        command
            .arg(script)
            .arg(&url)
            .args(options)
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        command.spawn().unwrap()
    };
    request(&db.pool, "m").await;
    assert!(trainer(&["--once"]).wait().unwrap().success());
    let job = jobs::get(&db.pool, 1).await.unwrap().unwrap();
    assert_eq!(job.state, JobState::Succeeded, "{:?}", job.error);
    assert_eq!(job.result.unwrap()["version"], "m-job1");
    assert_eq!(job.progress.unwrap()["epoch"], 2);
    assert_eq!(jobs::last_lines(&db.pool, 1, 10).await.unwrap().len(), 3);

    request(&db.pool, "m").await;
    let endless = "update driftd.retraining_jobs set parameters = \
        '{\"epochs\": 100000, \"seconds_per_epoch\": 0.05}' where job_id = 2";
    sqlx::query(endless).execute(&db.pool).await.unwrap();
    let running = trainer(&["--once"]);
    until("it trains", async || {
        let job = jobs::get(&db.pool, 2).await.unwrap().unwrap();
        job.progress.is_some()
    })
    .await;
    jobs::cancel(&db.pool, 2, "jane").await.unwrap();
    let said = running.wait_with_output().unwrap();
    assert!(said.status.success());
    assert_eq!(
        String::from_utf8_lossy(&said.stdout),
        "gave job 2 up: it was cancelled\n"
    );
}
