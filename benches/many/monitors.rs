//! What driftd is told: models with their baselines, and a file of monitors.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use driftd::baseline::import::{Request, import};
use driftd::baseline::save::save;
use driftd::clock::Clock;
use driftd::monitor::TimeUnit;
use sqlx::PgPool;

use crate::load::WINDOW_MS;
use crate::rows::Rows;

const MODELS: usize = 25;
/// Windows of training data: enough for the rule.
const TRAINING_WINDOWS: usize = 24;

/// The name of a monitor, which is that of its topic too.
pub(crate) fn name(monitor: usize) -> String {
    format!("many-{monitor:04}")
}

/// Stores a baseline of the same rows for each model.
pub(crate) async fn import_baselines(
    pool: &PgPool,
    features: usize,
    training_rows: usize,
    dir: &Path,
) -> anyhow::Result<()> {
    let file = dir.join("training.ndjson");
    fs::write(&file, training(features, training_rows)?)?;
    for model in 0..MODELS {
        let request = Request {
            model: format!("model-{model}"),
            version: "1".into(),
            files: vec![file.clone()],
            time_column: Some("at".into()),
            time_unit: TimeUnit::Ms,
            window_ms: Some(WINDOW_MS),
            time_zone: chrono_tz::UTC,
            features: Vec::new(),
            exclude: vec!["at".into()],
            kinds: Default::default(),
            max_levels: 1000,
            max_label_bytes: 256,
            sample_rows: training_rows,
        };
        save(pool, import(&request, |_| ())?).await?;
    }
    Ok(())
}

fn training(features: usize, training_rows: usize) -> anyhow::Result<Vec<u8>> {
    let rows = Rows::new(features);
    let now = Clock::System.now_ms();
    let present = now - now % WINDOW_MS;
    let span_ms = i64::try_from(TRAINING_WINDOWS)? * WINDOW_MS;
    let first_ms = present - 30 * span_ms;
    let (mut text, mut all) = (Vec::new(), Vec::new());
    for i in 0..training_rows {
        let after_ms = span_ms * i64::try_from(i)? / i64::try_from(training_rows)?;
        rows.write(i, first_ms + after_ms, &mut text);
        all.extend_from_slice(&text);
        all.push(b'\n');
    }
    Ok(all)
}

/// The settings. The training data have too few windows for fewer false alarms, and fewer rows in each
/// than the topics; nobody is there to retrain.
pub(crate) fn settings(servers: &str, postgres: &str, monitors: usize) -> String {
    let mut text = format!(
        "[kafka]\nbrokers = \"{servers}\"\ngroup = \"many\"\n[postgres]\nurl = \"{postgres}\"\n\
         [defaults]\nversion = \"1\"\ntimestamp = \"at\"\nwindow = \"{WINDOW_MS}ms\"\n\
         false_alarms = {{ max = 1, per = \"1d\" }}\n\
         questions = {{ rows = {{ decides = false }} }}\nretraining = {{ on_drift = false }}\n"
    );
    for monitor in 0..monitors {
        let (name, model) = (name(monitor), monitor % MODELS);
        let _ = write!(
            text,
            "[[monitors]]\nname = \"{name}\"\ntopic = \"{name}\"\nmodel = \"model-{model}\"\n"
        );
    }
    text
}
