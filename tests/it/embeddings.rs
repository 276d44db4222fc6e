//! Embeddings from a training file and a stream to the scores of their norms, and to the vectors in
//! the stored samples.

use std::fs;

use arrow::array::{Array, AsArray};
use driftd::baseline::Baseline;
use driftd::profile::encoding;
use driftd::store::baselines;
use serde_json::{Value, json};

use crate::harness::daemon::{Daemon, driftd};
use crate::harness::postgres;
use crate::harness::reference::ks;
use crate::harness::stage::{Knobs, Stage, mock_topic};
use crate::harness::traffic::{Dice, PARTITIONS, Record, START_MS, WINDOW_MS, produce};

const DIMENSION: usize = 8;
const ROWS: i64 = 150;

/// The vectors of one window, longer by a factor.
fn vectors(dice: &mut Dice, factor: f64) -> Vec<Vec<f64>> {
    let mut vector = || {
        let numbers = (0..DIMENSION).map(|_| (dice.unit() - 0.5) * factor);
        numbers.collect::<Vec<f64>>()
    };
    (0..ROWS).map(|_| vector()).collect()
}

fn norms(vectors: &[Vec<f64>]) -> Vec<f64> {
    let norm = |vector: &Vec<f64>| vector.iter().map(|value| value * value).sum::<f64>().sqrt();
    let mut norms: Vec<f64> = vectors.iter().map(norm).collect();
    norms.sort_by(f64::total_cmp);
    norms
}

fn record(partition: i32, event_ms: i64, vector: &Value) -> Record {
    let payload = json!({"at": event_ms, "id": "x", "data": {"vector": vector}});
    Record {
        partition,
        record_ms: event_ms,
        payload: Some(payload.to_string()),
    }
}

/// Each window's vectors, then what is none: too short, with a null, null, no field.
fn messages(windows: &[Vec<Vec<f64>>]) -> Vec<Record> {
    let mut log = Vec::new();
    for (window, vectors) in (0..).zip(windows) {
        let odd = [
            json!([1.0]),
            json!(vec![Value::Null; DIMENSION]),
            Value::Null,
        ];
        let all = vectors.iter().map(|vector| json!(vector)).chain(odd);
        for (row, vector) in (0..).zip(all) {
            let event_ms = START_MS + window * WINDOW_MS + row * 1000;
            let partition = i32::try_from(row).unwrap() % PARTITIONS;
            log.push(record(partition, event_ms, &vector));
        }
        let event_ms = START_MS + window * WINDOW_MS + WINDOW_MS / 2;
        let payload = Some(format!("{{\"at\": {event_ms}, \"data\": {{}}}}"));
        log.push(Record {
            partition: 0,
            record_ms: event_ms,
            payload,
        });
    }
    let end = START_MS + i64::try_from(windows.len() + 1).unwrap() * WINDOW_MS;
    let last = json!(vec![0.25; DIMENSION]);
    log.extend((0..PARTITIONS).map(|partition| record(partition, end, &last)));
    log
}

/// A monitor of the vectors, and their baseline from a file of one object a line.
async fn stage(knobs: &Knobs, training: &[Vec<f64>]) -> Stage {
    let stage = Stage::on(postgres::fresh().await, knobs);
    let config = fs::read_to_string(&stage.config).unwrap();
    let listed = config
        .lines()
        .find(|line| line.starts_with("features"))
        .unwrap();
    let config = config.replace(
        listed,
        "features = [{ name = \"vector\", path = \"data.vector\" }]",
    );
    fs::write(&stage.config, config).unwrap();
    let file = stage.config.with_file_name("training.ndjson");
    let lines = training
        .iter()
        .map(|vector| json!({"vector": vector}).to_string() + "\n");
    fs::write(&file, lines.collect::<String>()).unwrap();
    let [config, file] = [&stage.config, &file].map(|path| path.to_str().unwrap());
    let model = [
        "--model",
        "credit",
        "--version",
        "1",
        "--kind",
        "vector=embedding",
    ];
    let import = ["baseline", "import", "--config", config, "--from", file];
    let imported = driftd(&[import.as_slice(), &model].concat());
    let said = String::from_utf8_lossy(&imported.stderr);
    assert!(imported.status.success(), "{said}");
    stage
}

#[tokio::test]
async fn a_stream_of_embeddings_is_judged_by_its_norms() {
    let mut dice = Dice::new(384);
    let training: Vec<Vec<f64>> = (0..3).flat_map(|_| vectors(&mut dice, 1.0)).collect();
    let windows = [1.0, 1.3, 1.0].map(|factor| vectors(&mut dice, factor));
    let topic = mock_topic();
    let knobs = Knobs::mock(&topic);
    let stage = stage(&knobs, &training).await;
    let log = messages(&windows);
    produce(&knobs.brokers, &topic, &log);

    let mut daemon = Daemon::start(&stage.config);
    stage.saved(log.len()).await;
    stage.judged(3).await;
    assert!(daemon.terminate().await.success(), "{}", daemon.log());

    let sql = "select statistic, p_value, nulls, rows_window, drifted from driftd.drift_scores
        where feature = 'vector' and test = 'ks' order by window_start";
    let found: Vec<(f64, f64, i64, i64, bool)> =
        sqlx::query_as(sql).fetch_all(&stage.db.pool).await.unwrap();
    assert_eq!(found.len(), 3);
    for ((window, shift), found) in windows.iter().zip([false, true, false]).zip(found) {
        let (statistic, p_value, nulls, rows, drifted) = found;
        let expected = ks(&norms(&training), &norms(window));
        assert!(
            (statistic - expected.0).abs() < 1e-12,
            "{statistic} {}",
            expected.0
        );
        assert!(
            (p_value - expected.1.unwrap()).abs() <= 1e-9 * expected.1.unwrap(),
            "{p_value} {:?}",
            expected.1
        );
        assert_eq!((nulls, rows, drifted), (4, ROWS + 4, shift));
    }
    let sql = "select verdict::text from driftd.windows order by window_start";
    let verdicts: Vec<String> = sqlx::query_scalar(sql)
        .fetch_all(&stage.db.pool)
        .await
        .unwrap();
    assert_eq!(verdicts, ["stable", "drifted", "stable"]);
    check_samples(&stage, &training).await;
    check_shown(&stage).await;
}

/// The samples hold the vectors as they were.
async fn check_samples(stage: &Stage, training: &[Vec<f64>]) {
    let stored = baselines::find(&stage.db.pool, "").await.unwrap().remove(0);
    let mut baseline = Baseline::of_stored(stored).unwrap();
    let rows = baseline.profile.sample.settle().unwrap().unwrap();
    let row_numbers: &arrow::array::Int64Array = rows.column(2).as_primitive();
    let vectors = rows.column_by_name("vector").unwrap().as_fixed_size_list();
    assert_eq!(vectors.len(), training.len());
    for (row, offset) in row_numbers.values().iter().enumerate() {
        let vector = vectors.value(row);
        let vector: &arrow::array::Float64Array = vector.as_primitive();
        assert_eq!(
            vector.values()[..],
            training[usize::try_from(*offset).unwrap()]
        );
    }
    // Of the stream: the rows that no window that is judged holds.
    let sql = "select delta from driftd.profile_deltas where rows > 0
        order by window_start desc limit 1";
    let delta: Vec<u8> = sqlx::query_scalar(sql)
        .fetch_one(&stage.db.pool)
        .await
        .unwrap();
    let mut delta = encoding::decode(&delta, &baseline.layout).unwrap();
    let rows = delta.sample.settle().unwrap().unwrap();
    let vectors = rows.column_by_name("vector").unwrap().as_fixed_size_list();
    let last: &arrow::array::Float64Array = vectors.values().as_primitive();
    assert_eq!(last.values()[..DIMENSION], [0.25; DIMENSION]);
}

async fn check_shown(stage: &Stage) {
    let sql = "select baseline_id from driftd.baselines";
    let id: String = sqlx::query_scalar(sql)
        .fetch_one(&stage.db.pool)
        .await
        .unwrap();
    let config = stage.config.to_str().unwrap();
    let shown = driftd(&["baseline", "show", &id, "--config", config]);
    let text = String::from_utf8_lossy(&shown.stdout);
    let line = text
        .lines()
        .find(|line| line.starts_with("vector"))
        .unwrap();
    assert!(
        line.contains("embedding") && line.contains("8 numbers; norm: mean"),
        "{line}"
    );
}
