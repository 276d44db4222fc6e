//! The rule at work: a baseline with enough training windows, a stream that drifts and comes back, and the
//! same results however often the daemon dies on the way.

use std::fs;

use serde_json::json;

use crate::harness::daemon::{Daemon, driftd};
use crate::harness::stage::{Knobs, Stage, mock_topic};
use crate::harness::traffic::{Dice, PARTITIONS, Record, START_MS, WINDOW_MS, produce};
use crate::harness::until;

const ROWS: i64 = 240;
const TRAINING_WINDOWS: i64 = 40;
const QUIET: i64 = 10;
const DRIFTED: i64 = 6;
const WINDOWS: i64 = 22;

/// Normal, to twelve uniform numbers.
fn noise(dice: &mut Dice) -> f64 {
    (0..12).map(|_| dice.unit()).sum::<f64>() - 6.0
}

fn rows(dice: &mut Dice, window: i64, shift: f64) -> Vec<serde_json::Value> {
    let row = |row: i64| {
        let at = START_MS + window * WINDOW_MS + row * WINDOW_MS / ROWS;
        let age = 40.0 + 5.0 * (shift + noise(dice));
        let country = if dice.unit() < 0.5 { "DE" } else { "FR" };
        json!({"at": at, "age": age, "income": 100.0 + noise(dice), "country": country})
    };
    (0..ROWS).map(row).collect()
}

async fn stage(knobs: &Knobs) -> Stage {
    let stage = Stage::on(crate::harness::postgres::fresh().await, knobs);
    let config = fs::read_to_string(&stage.config).unwrap();
    let (head, _) = config.split_once("[[monitors]]").unwrap();
    let (topic, max) = (&knobs.topic, 0.02 * 30.0 * 86_400_000.0 / WINDOW_MS as f64);
    let monitor = format!(
        r#"
[[monitors]]
name = "ages"
topic = "{topic}"
model = "credit"
version = "1"
timestamp = "at"
features = ["age", "income", "country"]
window = "{WINDOW_MS}ms"
false_alarms = {{ max = {max}, per = "30d" }}
lateness = {{ out_of_orderness = "0s", allowed = "0s", idle_after = "1h" }}
alert = {{ resolve_after = 1 }}
"#
    );
    fs::write(&stage.config, format!("{head}{monitor}")).unwrap();
    let mut dice = Dice::new(11);
    let training = (0..TRAINING_WINDOWS).flat_map(|window| rows(&mut dice, window - 100, 0.0));
    let training: String = training.map(|row| format!("{row}\n")).collect();
    let file = stage.config.with_file_name("training.ndjson");
    fs::write(&file, training).unwrap();
    let (file, config) = (file.to_str().unwrap(), stage.config.to_str().unwrap());
    let imported = driftd(&[
        "baseline",
        "import",
        "--config",
        config,
        "--model",
        "credit",
        "--version",
        "1",
        "--from",
        file,
        "--time",
        "at",
    ]);
    assert!(
        imported.status.success(),
        "{}",
        String::from_utf8_lossy(&imported.stderr)
    );
    stage
}

fn log() -> Vec<Record> {
    let mut dice = Dice::new(12);
    let window = |window: i64| {
        let drifted = (QUIET..QUIET + DRIFTED).contains(&window);
        rows(&mut dice, window, if drifted { 0.8 } else { 0.0 })
    };
    let record = |(at, row): (usize, serde_json::Value)| Record {
        partition: i32::try_from(at).unwrap() % PARTITIONS,
        record_ms: row["at"].as_i64().unwrap(),
        payload: Some(row.to_string()),
    };
    (0..WINDOWS)
        .flat_map(window)
        .enumerate()
        .map(record)
        .collect()
}

/// All but the last window, which nothing closes.
const JUDGED: usize = 21;

async fn undisturbed(stage: &Stage, knobs: &Knobs) {
    produce(&knobs.brokers, &knobs.topic, &log());
    let mut daemon = Daemon::start(&stage.config);
    stage.judged(JUDGED).await;
    assert!(daemon.terminate().await.success());
}

#[tokio::test]
async fn a_drift_is_found_named_and_over_when_it_is_over() {
    let knobs = Knobs::mock(&mock_topic());
    let stage = stage(&knobs).await;
    undisturbed(&stage, &knobs).await;
    let pool = &stage.db.pool;
    let windows: Vec<(String, String, i32)> = sqlx::query_as(
        "select verdict::text, decided_by, training_windows from driftd.windows order by window_start",
    )
    .fetch_all(pool)
    .await
    .unwrap();
    let training = i32::try_from(TRAINING_WINDOWS).unwrap();
    assert!(
        windows
            .iter()
            .all(|w| (w.1.as_str(), w.2) == ("rule", training)),
        "{windows:?}"
    );
    let verdicts: Vec<&str> = windows.iter().map(|window| window.0.as_str()).collect();
    let drifted = QUIET..QUIET + DRIFTED;
    for (at, verdict) in (0..).zip(&verdicts) {
        let expected = if drifted.contains(&at) {
            "drifted"
        } else {
            "stable"
        };
        // A drift may be held for two windows after its end.
        assert!(
            *verdict == expected || (drifted.end..drifted.end + 2).contains(&at),
            "{verdicts:?}"
        );
    }
    check_rows(&stage).await;
    let episodes: Vec<(String, i32)> =
        sqlx::query_as("select state::text, drifted_windows from driftd.alert_episodes")
            .fetch_all(pool)
            .await
            .unwrap();
    assert_eq!(episodes.len(), 1, "{episodes:?}");
    assert_eq!(episodes[0].0, "resolved");
}

#[derive(Debug, sqlx::FromRow)]
struct Row {
    feature: String,
    question: String,
    p_value: f64,
    p_limit: f64,
    effect: f64,
    threshold: f64,
    training_effect: f64,
    expected_value: Option<f64>,
    found_value: Option<f64>,
    stretch_windows: i32,
    drifted: bool,
    sentence: Option<String>,
}

/// The last drifted window: one row of the rule per feature, for correlations and for the number of rows.
async fn check_rows(stage: &Stage) {
    let rows: Vec<Row> = sqlx::query_as(
        "select feature, question, p_value, p_limit, effect, threshold, training_effect,
            expected_value, found_value, stretch_windows, drifted, sentence from driftd.drift_history
        where test = 'rule' and window_start = $1 order by feature",
    )
    .bind(chrono::DateTime::from_timestamp_millis(START_MS + (QUIET + DRIFTED - 1) * WINDOW_MS))
    .fetch_all(&stage.db.pool)
    .await
    .unwrap();
    let features: Vec<&str> = rows.iter().map(|row| row.feature.as_str()).collect();
    assert_eq!(features, ["(joint)", "(rows)", "age", "country", "income"]);
    for row in &rows {
        assert_eq!(row.drifted, row.feature == "age", "{row:?}");
        assert_eq!(row.drifted, row.sentence.is_some(), "{row:?}");
    }
    let age = &rows[2];
    assert_eq!((age.question.as_str(), age.threshold), ("location", 0.02));
    assert!(
        age.p_value < age.p_limit && age.effect > age.threshold,
        "{age:?}"
    );
    assert!(age.effect > 0.2 && age.training_effect < 0.15, "{age:?}");
    assert!(age.stretch_windows > 1, "{age:?}");
    let (expected, found) = (age.expected_value.unwrap(), age.found_value.unwrap());
    assert!(
        (expected - 40.0).abs() < 0.5 && (found - 44.0).abs() < 0.7,
        "{age:?}"
    );
    let sentence = age.sentence.as_deref().unwrap();
    let (what, within) = sentence.split_once(" (KS ").unwrap();
    let numbers = format!("age: median {expected:.2} -> {found:.2} over the last ");
    assert!(what.starts_with(&numbers), "{sentence}, {numbers}");
    let (_, length) = what.split_once(" over the last ").unwrap();
    let (_, stretches) = within.split_once("; ").unwrap();
    let told = format!("stretches of {length} of the training data stay under 0.0");
    assert!(stretches.starts_with(&told), "{sentence}");
}

/// What the rule carries from window to window is in Postgres alone.
#[tokio::test]
async fn the_rule_says_the_same_however_often_the_daemon_dies() {
    let knobs = Knobs::mock(&mock_topic());
    let expected = {
        let stage = stage(&knobs).await;
        undisturbed(&stage, &knobs).await;
        stage.results().await
    };
    let knobs = Knobs::mock(&mock_topic());
    let stage = stage(&knobs).await;
    let log = log();
    // The parts end in the windows 12 and 17; the third time it is killed with windows in hand.
    for (part, judged) in [(0..3_000, 12), (3_000..4_100, 17), (4_100..log.len(), 18)] {
        produce(&knobs.brokers, &knobs.topic, &log[part]);
        let daemon = Daemon::start(&stage.config);
        until("more windows are judged", async || {
            stage.count("select count(*) from driftd.windows").await >= judged
        })
        .await;
        daemon.kill();
    }
    let daemon = Daemon::start(&stage.config);
    stage.judged(JUDGED).await;
    daemon.kill();
    let found = stage.results().await;
    let of = |lines: &[String], kind: &str| -> Vec<String> {
        lines
            .iter()
            .filter(|line| line.starts_with(kind))
            .cloned()
            .collect()
    };
    for kind in ["score ", "contribution ", "episode "] {
        assert!(!of(&expected, kind).is_empty(), "{kind}");
        assert_eq!(of(&found, kind), of(&expected, kind));
    }
}
