//! The loop closed by the commands that users have: a stream drifts, a worker trains on the suggested
//! offsets, driftd makes the new version's baseline from them and promotes it, and its rows are compared
//! with that, while the daemon runs on.

use std::fs;
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::harness::daemon::{BINARY, Daemon};
use crate::harness::stage::{Knobs, Stage, mock_topic};
use crate::harness::traffic::{Dice, PARTITIONS, Record, START_MS, WINDOW_MS, produce};
use crate::harness::until;

const ROWS: i64 = 240;

/// One window of a version's rows around a mean.
fn window(dice: &mut Dice, number: i64, version: &str, mean: f64) -> Vec<Record> {
    let row = |row: i64, dice: &mut Dice| {
        let event_ms = START_MS + number * WINDOW_MS + row * 2000;
        let noise: f64 = (0..12).map(|_| dice.unit()).sum::<f64>() - 6.0;
        let country = if dice.unit() < 0.5 { "DE" } else { "FR" };
        let payload =
            json!({"at": event_ms, "v": version, "age": mean + noise, "country": country});
        Record {
            partition: i32::try_from(row).unwrap() % PARTITIONS,
            record_ms: event_ms,
            payload: Some(payload.to_string()),
        }
    };
    (0..ROWS).map(|number| row(number, dice)).collect()
}

/// A monitor of messages that name their version, and the baseline of version 1: ages around 40.
async fn stage(knobs: &Knobs) -> Stage {
    let stage = Stage::on(crate::harness::postgres::fresh().await, knobs);
    let config = fs::read_to_string(&stage.config).unwrap();
    let (head, _) = config.split_once("[[monitors]]").unwrap();
    let topic = &knobs.topic;
    // One window in ten thousand: which rows are the baseline's depends on the name of the topic.
    let max = 1e-4 * 30.0 * 86_400_000.0 / WINDOW_MS as f64;
    let monitor = format!(
        r#"
[[monitors]]
name = "loop"
topic = "{topic}"
model = "credit"
version = {{ path = "v" }}
timestamp = "at"
features = ["age", "country"]
window = "{WINDOW_MS}ms"
false_alarms = {{ max = {max}, per = "30d" }}
min_rows = 50
lateness = {{ out_of_orderness = "0s", allowed = "0s", idle_after = "1h" }}
tests = {{ ks = {{ effect = 0.1 }} }}
[monitors.retraining]
cooldown = "0s"
promotion = {{ policy = "automatic" }}
"#
    );
    fs::write(&stage.config, format!("{head}{monitor}")).unwrap();
    let mut dice = Dice::new(7);
    let rows = window(&mut dice, 0, "1", 40.0);
    let line = |record: Record| {
        let row: Value = serde_json::from_str(&record.payload.unwrap()).unwrap();
        json!({"age": row["age"], "country": row["country"]}).to_string() + "\n"
    };
    let file = stage.config.with_file_name("training.ndjson");
    fs::write(&file, rows.into_iter().map(line).collect::<String>()).unwrap();
    let imported = on(
        &stage,
        &[
            "baseline",
            "import",
            "--model",
            "credit",
            "--version",
            "1",
            "--from",
            file.to_str().unwrap(),
        ],
    );
    assert!(
        imported.status.success(),
        "{}",
        String::from_utf8_lossy(&imported.stderr)
    );
    stage
}

fn on(stage: &Stage, args: &[&str]) -> Output {
    let mut command = Command::new(BINARY);
    command.args(args).arg("--config").arg(&stage.config);
    command.output().unwrap()
}

/// Counts what it was given and names a version: all that this test needs of a trainer.
const TRAINER: &str = r#"
rows=$(wc -l < "$DRIFTD_DATA_FILE")
echo "rows $rows" >&2
printf '{"version": "2", "baseline": true, "metrics": {"rows": %s}, "artifact_uri": "file:///m2"}' "$rows" > "$DRIFTD_RESULT_FILE"
"#;

/// A worker trains version 2 on what the job suggests.
async fn work(stage: &Stage) {
    let config = stage.config.to_str().unwrap().to_owned();
    let worker = tokio::task::spawn_blocking(move || {
        let args = [
            "worker", "--once", "--fetch", "--model", "credit", "--config", &config, "--", "sh",
            "-c", TRAINER,
        ];
        Command::new(BINARY).args(args).output().unwrap()
    });
    let worked = worker.await.unwrap();
    let said = String::from_utf8_lossy(&worked.stderr);
    assert!(worked.status.success(), "{said}");
}

/// Version 2, as its lineage has it.
#[derive(Debug, sqlx::FromRow)]
struct Made {
    stage: String,
    trained: i64,
    baseline_rows: i64,
    training_data_digest: Option<String>,
    baseline_digest: Option<String>,
}

async fn check_version(stage: &Stage, topic: &str) {
    let pool = &stage.db.pool;
    let sql = "select stage, (metrics ->> 'rows')::bigint as trained, baseline_rows,
            training_data_digest, baseline_digest
        from driftd.model_lineage where version = '2'";
    let made: Made = sqlx::query_as(sql).fetch_one(pool).await.unwrap();
    assert_eq!(made.stage, "promoted");
    // The window that drifted: what is not trained on is the baseline.
    assert_eq!(made.trained + made.baseline_rows, ROWS);
    assert!((30..=70).contains(&made.baseline_rows), "{made:?}");
    assert!(made.training_data_digest.is_some() && made.baseline_digest.is_some());
    assert_ne!(made.training_data_digest, made.baseline_digest);
    let files: Vec<String> = sqlx::query_scalar(
        "select training_data_files[1] from driftd.baselines where version = '2'",
    )
    .fetch_all(pool)
    .await
    .unwrap();
    assert!(
        files[0].starts_with(&format!("kafka:{topic}/0:")),
        "{files:?}"
    );
}

/// Rows of version 2, of version 1 as it leaves, and of one that nobody knows.
fn later(dice: &mut Dice) -> Vec<Record> {
    let mut later = Vec::new();
    for number in 4..7 {
        later.extend(window(dice, number, "2", 46.0));
        later.extend(window(dice, number, "3", 46.0)); // nobody knows this version
    }
    later.extend(window(dice, 8, "1", 46.0));
    later
}

async fn check_verdicts(stage: &Stage) {
    let pool = &stage.db.pool;
    until("all windows with rows are judged", async || {
        let judged = "select count(*) from driftd.windows where rows > 0";
        stage.count(judged).await == 10
    })
    .await;
    let verdicts: Vec<(String, String, i64)> = sqlx::query_as(
        "select version, verdict::text, count(*) from driftd.windows where rows > 0
        group by version, verdict order by version, verdict",
    )
    .fetch_all(pool)
    .await
    .unwrap();
    let told =
        |version: &str, verdict: &str, windows| (version.to_owned(), verdict.to_owned(), windows);
    assert_eq!(
        verdicts,
        [
            told("(other)", "no_baseline", 3),
            told("1", "drifted", 2),
            told("1", "stable", 2),
            told("2", "stable", 3),
        ]
    );
    // A baseline of a fifth of the rows does not make a window of all rows a large one.
    let volume = "select count(*) from driftd.alert_episodes where kind = 'volume'";
    assert_eq!(stage.count(volume).await, 0);
}

#[tokio::test]
async fn a_drift_becomes_a_version_whose_rows_are_stable() {
    let topic = mock_topic();
    let knobs = Knobs::mock(&topic);
    let stage = stage(&knobs).await;
    // One baseline at a time is in memory.
    let settings = fs::read_to_string(&stage.config).unwrap();
    let limits = "[limits]\nmax_baseline_bytes = \"0B\"\n";
    fs::write(&stage.config, format!("{limits}{settings}")).unwrap();
    let mut dice = Dice::new(2026);
    let mut log = Vec::new();
    for (number, mean) in [(0, 40.0), (1, 40.0), (2, 46.0), (3, 46.0)] {
        log.extend(window(&mut dice, number, "1", mean));
    }
    produce(&knobs.brokers, &topic, &log);
    let mut daemon = Daemon::start(&stage.config);
    until("the drift has enqueued a job", async || {
        stage
            .count("select count(*) from driftd.retraining_jobs")
            .await
            == 1
    })
    .await;

    work(&stage).await;
    check_version(&stage, &topic).await;

    // Rows of version 2 are like those it was trained on, and unlike those of version 1's training.
    until("reading has begun anew", async || {
        stage
            .count("select min(epoch) from driftd.partition_progress")
            .await
            == 2
    })
    .await;
    produce(&knobs.brokers, &topic, &later(&mut dice));
    check_verdicts(&stage).await;
    let read = daemon.metric("driftd_baselines_read_total");
    assert!(read >= 3.0, "version 1, 2, and 1 once more, not {read}");
    assert!(daemon.terminate().await.success(), "{}", daemon.log());
    let trace = String::from_utf8(on(&stage, &["models", "trace", "2"]).stdout).unwrap();
    assert!(
        trace.contains("because of episode 1") && trace.contains("feature age"),
        "{trace}"
    );
}

/// The windows of a version whose own data hold three: the tests judge them, and its quiet ones are added
/// to its baseline until the rule can.
#[tokio::test]
async fn a_version_with_too_few_windows_learns_from_those_after_its_promotion() {
    let topic = mock_topic();
    let knobs = Knobs::mock(&topic);
    let stage = stage(&knobs).await;
    let span = 5 * WINDOW_MS / 60_000;
    stage.rewrite(
        "cooldown = \"0s\"",
        &format!("cooldown = \"0s\"\nmin_windows = 3\ndata = {{ select = \"sliding\", span = \"{span}m\" }}"),
    );
    let mut dice = Dice::new(11);
    let mut log = Vec::new();
    for number in 0..8 {
        let mean = if number < 4 { 40.0 } else { 46.0 };
        log.extend(window(&mut dice, number, "1", mean));
    }
    produce(&knobs.brokers, &topic, &log);
    let mut daemon = Daemon::start(&stage.config);
    let jobs = "select count(*) from driftd.retraining_jobs";
    until("the third drifted window has enqueued a job", async || {
        stage.count(jobs).await == 1
    })
    .await;
    work(&stage).await;
    let first = check_first_baseline(&stage).await;
    taken_up(&stage, 2).await;

    let mut later = Vec::new();
    for number in 8..28 {
        let mean = if number == 12 { 52.0 } else { 46.0 };
        later.extend(window(&mut dice, number, "2", mean));
    }
    produce(&knobs.brokers, &topic, &later);
    let extended = "select count(*) from driftd.baselines where extends_baseline_id is not null";
    until("windows are added to the baseline", async || {
        stage.count(extended).await == 1
    })
    .await;
    check_extended(&stage, &first).await;
    taken_up(&stage, 3).await;

    let last: Vec<Record> = (28..32)
        .flat_map(|number| window(&mut dice, number, "2", 46.0))
        .collect();
    produce(&knobs.brokers, &topic, &last);
    check_judged_by_the_rule(&stage).await;
    assert!(daemon.terminate().await.success(), "{}", daemon.log());
    let trace = String::from_utf8(on(&stage, &["models", "trace", "2"]).stdout).unwrap();
    assert!(
        trace.contains("17 windows of monitor loop were added"),
        "{trace}"
    );
}

/// Reading has begun anew so often.
async fn taken_up(stage: &Stage, epoch: i64) {
    until("reading has begun anew", async || {
        stage
            .count("select min(epoch) from driftd.partition_progress")
            .await
            >= epoch
    })
    .await;
}

/// Of the three windows since the onset, though the model was trained on five.
async fn check_first_baseline(stage: &Stage) -> String {
    let sql = "select baseline_id, baseline_rows, (metrics ->> 'rows')::bigint as trained,
            (extract(epoch from baseline_from) * 1000)::bigint
        from driftd.model_lineage where version = '2'";
    let (id, rows, trained, from): (String, i64, i64, i64) =
        sqlx::query_as(sql).fetch_one(&stage.db.pool).await.unwrap();
    assert!(from >= START_MS + 4 * WINDOW_MS, "{from}");
    assert!((90..=210).contains(&rows), "{rows}");
    assert!((870..=1050).contains(&trained), "{trained}");
    id
}

async fn check_extended(stage: &Stage, first: &str) {
    let sql = "select extends_baseline_id, added_windows #>> '{0,monitor}',
            (added_windows #>> '{0,windows}')::bigint, added_windows #>> '{0,first_window}',
            added_windows #>> '{0,last_window}', jsonb_array_length(added_windows)
        from driftd.model_lineage where version = '2'";
    let said: (String, String, i64, String, String, i32) =
        sqlx::query_as(sql).fetch_one(&stage.db.pool).await.unwrap();
    let at = |number: i64| {
        let ms = START_MS + number * WINDOW_MS;
        let at = chrono::DateTime::from_timestamp_millis(ms).unwrap();
        at.format("%Y-%m-%dT%H:%M:%S+00:00").to_string()
    };
    let monitor = "loop".to_owned();
    assert_eq!(said, (first.to_owned(), monitor, 17, at(8), at(25), 1));
    let sql = "select count(*) from driftd.baseline_added_windows a join driftd.windows w
            using (monitor_id, window_start) where w.version = '2' and w.verdict <> 'stable'";
    assert_eq!(stage.count(sql).await, 0, "none that drifted");
}

async fn check_judged_by_the_rule(stage: &Stage) {
    let sql = "select count(*) from driftd.windows w join driftd.model_versions v using (version, baseline_id)
        where v.version = '2' and decided_by = 'rule' and training_windows = 20 and verdict = 'stable'";
    until("the rule judges", async || stage.count(sql).await >= 3).await;
    let sql =
        "select count(*) from driftd.windows where decided_by = 'rule' and verdict <> 'stable'";
    assert_eq!(stage.count(sql).await, 0);
}

/// Retention took the data before the job was worked on: a trainer hears which offset is gone and which is
/// still there, and the version in service is watched on. So it is beside a version whose baseline is damaged.
#[tokio::test]
async fn data_that_is_gone_and_a_damaged_baseline_stop_their_own_version_alone() {
    let topic = mock_topic();
    let knobs = Knobs::mock(&topic);
    let stage = stage(&knobs).await;
    let damaged = "with baseline as (insert into driftd.baselines (baseline_id, model, version,
                training_data_digest, training_data_files, rows, features, profile)
            values ('damaged', 'credit', '0', 'd', '{}', 1, '[]', '\\x01') returning model, version, baseline_id)
        insert into driftd.model_versions (model, version, baseline_id) select * from baseline";
    sqlx::query(damaged).execute(&stage.db.pool).await.unwrap();
    let mut dice = Dice::new(2027);
    let mut log = Vec::new();
    for (number, mean) in [(0, 40.0), (1, 46.0), (2, 46.0)] {
        log.extend(window(&mut dice, number, "1", mean));
    }
    produce(&knobs.brokers, &topic, &log);
    let mut daemon = Daemon::start(&stage.config);
    let jobs = "select count(*) from driftd.retraining_jobs";
    until("the drift has enqueued a job", async || {
        stage.count(jobs).await == 1
    })
    .await;

    // The mock broker keeps 5 MiB of a partition; driftd reads them before they go.
    let junk = || Record {
        partition: 0,
        record_ms: START_MS,
        payload: Some("x".repeat(900_000)),
    };
    for number in 1..=6 {
        produce(&knobs.brokers, &topic, &[junk()]);
        stage.saved(log.len() + number).await;
    }
    let gone = format!("partition 0 of topic {topic} no longer holds offset ");
    for (attempt, fetch) in [(1, false), (2, true)] {
        work_in_vain(&stage, fetch).await;
        let sql = "select state::text, attempt, error from driftd.retraining_jobs";
        let (state, tried, error): (String, i32, String) =
            sqlx::query_as(sql).fetch_one(&stage.db.pool).await.unwrap();
        assert_eq!((state.as_str(), tried), ("failed", attempt), "{error}");
        assert!(error.contains(&gone), "{error}");
        assert!(
            error.contains(": the first that is still there is "),
            "{error}"
        );
        sqlx::query("select driftd.retry_job(1)")
            .execute(&stage.db.pool)
            .await
            .unwrap();
    }

    // The rows of both versions go on, each with what is known of it.
    let mut later = window(&mut dice, 3, "1", 40.0);
    later.extend(window(&mut dice, 3, "0", 40.0));
    later.extend(window(&mut dice, 4, "1", 40.0));
    produce(&knobs.brokers, &topic, &later);
    let judged = "select count(*) from driftd.windows
        where window_start = to_timestamp(1364774400 + 3 * 600)
            and (version, verdict::text) in (('1', 'stable'), ('(other)', 'no_baseline'))";
    until("both are judged", async || stage.count(judged).await == 2).await;
    assert!(daemon.terminate().await.success(), "{}", daemon.log());
    let log = daemon.log();
    assert!(log.contains("the baseline cannot be used"), "{log}");
    let failed = "select count(*) from driftd.failures where kind = 'monitor'";
    assert_eq!(stage.count(failed).await, 1);
}

/// A worker whose command needs a baseline, and with `fetch` the data too.
async fn work_in_vain(stage: &Stage, fetch: bool) {
    let config = stage.config.to_str().unwrap().to_owned();
    let worker = tokio::task::spawn_blocking(move || {
        let script = r#"echo '{"version": "2", "baseline": true}' > "$DRIFTD_RESULT_FILE""#;
        let mut command = Command::new(BINARY);
        command.args(["worker", "--once", "--model", "credit", "--config", &config]);
        command.args(fetch.then_some("--fetch"));
        command.args(["--", "sh", "-c", script]).output().unwrap()
    });
    let worked = worker.await.unwrap();
    let said = String::from_utf8_lossy(&worked.stderr);
    assert!(worked.status.success(), "{said}");
}
