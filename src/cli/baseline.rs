//! `driftd baseline`: import and show training distributions.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use chrono_tz::Tz;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use sqlx::PgPool;

use super::{Output, training, write};
use crate::baseline::import::{self, Imported, Request};
use crate::baseline::windows::Slots;
use crate::baseline::{Baseline, SAMPLE_ROWS, save::save, short};
use crate::monitor::{Kind, TimeUnit};
use crate::settings::Limits;
use crate::store::baselines::{self, Stored};

/// Import and show training distributions.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
    /// A table for people, JSON for programs.
    #[arg(long, value_enum, default_value_t = Output::Table, global = true)]
    output: Output,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Make the baseline of a model version from its training data.
    #[command(disable_version_flag = true)]
    Import(Box<Import>),
    /// List baselines, newest first.
    List {
        /// Of this model only.
        #[arg(long)]
        model: Option<String>,
    },
    /// Show one baseline.
    Show {
        /// Its id, or the start of it.
        baseline: String,
        /// Windows for which it says what can be promised and found.
        #[arg(long, value_name = "DURATION", value_parser = window, default_value = "1d")]
        window: Duration,
        /// Time zone of their days, as the monitor has it.
        #[arg(long, value_name = "NAME", value_parser = time_zone, default_value = "UTC")]
        time_zone: Tz,
    },
}

/// What to import.
#[derive(Debug, clap::Args)]
pub struct Import {
    /// The model.
    #[arg(long)]
    model: String,
    /// Its version, as the messages name it.
    #[arg(long)]
    version: String,
    /// Training files, all with the same columns: .parquet, .csv, .ndjson (.jsonl, .json), .arrow
    /// (.feather, .ipc).
    #[arg(long, required = true, num_args = 1.., value_name = "FILE")]
    from: Vec<PathBuf>,
    /// The column with the event time: driftd learns by it what is normal from window to window.
    #[arg(long, value_name = "COLUMN")]
    time: Option<String>,
    /// Unit of numbers in that column: s, ms, us or ns.
    #[arg(long, default_value = "ms", value_parser = time_unit)]
    time_unit: TimeUnit,
    /// A window size of monitors. Rows are kept in slots of time that windows of any size come from; this
    /// makes sure that they add up to windows of this one.
    #[arg(long, value_name = "DURATION", value_parser = window)]
    window: Option<Duration>,
    /// Time zone of monitors: makes sure that slots add up to its days, wherever they begin.
    #[arg(long, value_name = "NAME", value_parser = time_zone, requires = "time")]
    time_zone: Option<Tz>,
    /// Columns that become features; all but the time column if not said.
    #[arg(long, value_delimiter = ',', value_name = "COLUMNS")]
    features: Vec<String>,
    /// Columns that do not.
    #[arg(long, value_delimiter = ',', value_name = "COLUMNS")]
    exclude: Vec<String>,
    /// Kinds that are inferred wrongly: COLUMN=numeric|categorical|boolean|timestamp|embedding.
    #[arg(long = "kind", value_delimiter = ',', value_name = "COLUMN=KIND", value_parser = kind)]
    kinds: Vec<(String, Kind)>,
}

fn time_unit(text: &str) -> Result<TimeUnit, String> {
    serde_json::from_value(json!(text)).map_err(|_| "expected s, ms, us or ns".into())
}

fn window(text: &str) -> Result<Duration, String> {
    let parsed = humantime::parse_duration(text).ok();
    parsed
        .filter(|window| window.as_millis() > 0)
        .ok_or_else(|| "expected a duration such as 15m, 6h or 1d".into())
}

fn time_zone(text: &str) -> Result<Tz, String> {
    text.parse()
        .map_err(|_| crate::settings::expected_zone(text))
}

fn kind(text: &str) -> Result<(String, Kind), String> {
    let expected =
        || "expected COLUMN=numeric, categorical, boolean, timestamp or embedding".to_owned();
    let (column, kind) = text.rsplit_once('=').ok_or_else(expected)?;
    let kind = serde_json::from_value(json!(kind)).map_err(|_| expected())?;
    Ok((column.to_owned(), kind))
}

/// Runs the command and writes what came of it to standard output.
///
/// # Errors
/// A file, a column or the database stands in the way; the text says which and what would be
/// right.
pub async fn run(args: Args, pool: &PgPool, limits: &Limits) -> anyhow::Result<()> {
    let text = match args.command {
        Command::Import(import) => run_import(*import, pool, args.output, limits).await?,
        Command::List { model } => list(pool, model.as_deref(), args.output).await?,
        Command::Show {
            baseline,
            window,
            time_zone,
        } => show(pool, &baseline, (window, time_zone), args.output).await?,
    };
    write(&text)
}

async fn run_import(
    import: Import,
    pool: &PgPool,
    output: Output,
    limits: &Limits,
) -> anyhow::Result<String> {
    let request = Request {
        model: import.model,
        version: import.version,
        files: import.from,
        time_column: import.time,
        time_unit: import.time_unit,
        window_ms: import
            .window
            .map(|window| i64::try_from(window.as_millis()).context("--window is too long"))
            .transpose()?,
        time_zone: import.time_zone.unwrap_or(Tz::UTC),
        features: import.features,
        exclude: import.exclude,
        kinds: import.kinds.into_iter().collect(),
        max_levels: limits.max_levels,
        max_label_bytes: limits.message.label_bytes,
        sample_rows: SAMPLE_ROWS,
    };
    let bar = progress_bar();
    let made = {
        let bar = bar.clone();
        let request = request.clone();
        tokio::task::spawn_blocking(move || import::import(&request, |rows| bar.inc(rows)))
            .await??
    };
    bar.finish_and_clear();
    let window_ms = request.window_ms.unwrap_or(training::USUAL_WINDOW_MS);
    let described = {
        let (made, zone) = (made.clone(), request.time_zone);
        tokio::task::spawn_blocking(move || describe(&made, window_ms, zone)).await?
    };
    let saved = save(pool, made).await?;
    Ok(match output {
        Output::Json => {
            let mut value = json!(saved);
            value["training"] = json!(described);
            format!("{value:#}\n")
        }
        Output::Table => format!(
            "{} baseline {} of {} version {}: {} rows, {} features\n{}",
            if saved.new {
                "imported"
            } else {
                "already there:"
            },
            short(&saved.baseline_id),
            request.model,
            request.version,
            saved.rows,
            saved.features,
            described
                .as_ref()
                .map_or_else(without_time, training::as_text),
        ),
    })
}

/// What the training windows say; that nothing can be said is no reason not to keep the baseline.
fn describe(made: &Imported, window_ms: i64, time_zone: Tz) -> Option<Value> {
    let slots = made.slots.as_ref()?;
    let (layout, rows) = (&made.baseline.layout, made.baseline.profile.rows);
    training::describe(slots, layout, rows, window_ms, time_zone).ok()
}

fn without_time() -> String {
    "without --time there are no training windows: the tests decide\n".into()
}

/// Rows read, over all passes, with their rate. Nothing where standard error is no terminal.
fn progress_bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{spinner} {human_pos} rows read, {per_sec}");
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = style {
        bar.set_style(style);
    }
    bar
}

async fn list(pool: &PgPool, model: Option<&str>, output: Output) -> anyhow::Result<String> {
    let all = baselines::list(pool, model).await?;
    if output == Output::Json {
        return Ok(format!("{:#}\n", json!(all)));
    }
    let mut text = format!(
        "{:<12}  {:<24} {:<10} {:>12} {:>8}  {:<23}  slots\n",
        "baseline", "model", "version", "rows", "features", "data"
    );
    for one in all {
        let range = match (one.time_from, one.time_to) {
            (Some(from), Some(to)) => format!("{} - {}", from.format("%F"), to.format("%F")),
            _ => String::new(),
        };
        text += &format!(
            "{:<12}  {:<24} {:<10} {:>12} {:>8}  {:<23}  {}\n",
            short(&one.baseline_id),
            one.model,
            one.version,
            one.rows,
            one.features,
            range,
            one.slot_ms.map_or(String::new(), duration)
        );
    }
    Ok(text)
}

pub(super) fn duration(ms: i64) -> String {
    humantime::format_duration(Duration::from_millis(ms.unsigned_abs())).to_string()
}

/// The one baseline whose id starts so.
pub(super) async fn find(pool: &PgPool, prefix: &str) -> anyhow::Result<Stored> {
    let mut found = baselines::find(pool, prefix).await?;
    match (found.pop(), found.is_empty()) {
        (Some(one), true) => Ok(one),
        (None, _) => bail!("no baseline starts with `{prefix}`; see `driftd baseline list`"),
        _ => bail!("more than one baseline starts with `{prefix}`; give more of it"),
    }
}

async fn show(
    pool: &PgPool,
    prefix: &str,
    (window, time_zone): (Duration, Tz),
    output: Output,
) -> anyhow::Result<String> {
    let one = find(pool, prefix).await?;
    let mut value = json!({
        "baseline_id": one.baseline_id, "model": one.model, "version": one.version,
        "rows": one.rows, "time_column": one.time_column, "time_from": one.time_from,
        "time_to": one.time_to, "training_data_digest": one.training_data_digest,
        "training_data_files": one.training_data_files, "created_at": one.created_at,
        "stored_bytes": one.profile.len(), "features": one.features,
    });
    let mut extends = baselines::chain(pool, &one.baseline_id).await?;
    extends.retain(|id| *id != one.baseline_id);
    if !extends.is_empty() {
        value["extends"] = json!(extends);
    }
    let slots = baselines::windows(pool, &one.baseline_id).await?;
    let window_ms = i64::try_from(window.as_millis()).context("--window is too long")?;
    // Learning takes a while.
    let work = tokio::task::spawn_blocking(move || {
        let Some(slots) = slots else {
            return Ok(Value::Null);
        };
        let baseline = Baseline::of_stored(one)?;
        let (layout, rows) = (&baseline.layout, baseline.profile.rows);
        training::describe(&Slots::decode(&slots)?, layout, rows, window_ms, time_zone)
    });
    value["training"] = work.await??;
    if output == Output::Json {
        return Ok(format!("{value:#}\n"));
    }
    let learned = match &value["training"] {
        Value::Null => without_time(),
        training => training::as_text(training),
    };
    Ok(as_text(&value) + &learned)
}

/// A baseline for people: what it is, then a line for each feature.
fn as_text(value: &Value) -> String {
    let mut text = String::new();
    for key in [
        "baseline_id",
        "model",
        "version",
        "rows",
        "time_from",
        "time_to",
        "training_data_digest",
        "training_data_files",
        "created_at",
        "stored_bytes",
        "extends",
    ] {
        if value.get(key).is_none() {
            continue; // it extends none
        }
        let shown = value[key]
            .as_str()
            .map_or_else(|| value[key].to_string(), str::to_owned);
        text += &format!("{key:<22}{shown}\n");
    }
    text += &format!(
        "\n{:<20}{:<14}{:>10}{:>12}  values\n",
        "feature", "kind", "nulls", "bins"
    );
    let features = value["features"].as_array();
    text.extend(features.into_iter().flatten().map(feature_line));
    text
}

fn feature_line(feature: &Value) -> String {
    let bins = feature
        .get("cuts")
        .or_else(|| feature.get("levels"))
        .cloned();
    let values = match feature.get("mean") {
        Some(mean) => format!(
            "mean {mean}, deviation {}, {} to {}",
            feature["deviation"], feature["least"], feature["greatest"]
        ),
        None => format!("{}", feature["most_frequent"]),
    };
    let values = match feature["dimension"].as_u64() {
        Some(dimension) => format!("{dimension} numbers; norm: {values}"),
        None => values,
    };
    format!(
        "{:<20}{:<14}{:>10}{:>12}  {values}\n",
        feature["name"].as_str().unwrap_or_default(),
        feature["kind"].as_str().unwrap_or_default(),
        feature["nulls"].to_string(),
        bins.unwrap_or_default().to_string(),
    )
}
