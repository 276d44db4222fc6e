//! `driftd models`: versions, which one is in service, and where each comes from.

use anyhow::bail;
use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use sqlx::PgPool;

use super::{Output, columns, or_dash, pretty, time, write};
use crate::baseline::short;
use crate::store::models::{self, Lineage, ModelVersion, StageEvent, Unknown};

/// List model versions, promote and retire them, and trace where they come from.
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
    /// List versions, newest first, and rows of versions that nobody registered.
    List {
        /// Of this model only.
        #[arg(long)]
        model: Option<String>,
    },
    /// Show one version: what it is, and every stage it has been in.
    Show(Version),
    /// Put a version into service; retraining starts from it.
    Promote(Change),
    /// Say that a version is not to be used any more.
    Retire(Change),
    /// Print where a version comes from, as a tree: job, reasons, windows, features, baselines, data.
    Trace(Version),
}

#[derive(Debug, clap::Args)]
#[command(disable_version_flag = true)]
struct Version {
    /// The version.
    version: String,
    /// The model; needed where several have such a version.
    #[arg(long)]
    model: Option<String>,
}

#[derive(Debug, clap::Args)]
#[command(disable_version_flag = true)]
struct Change {
    #[command(flatten)]
    version: Version,
    /// Why; shown with the version.
    #[arg(long)]
    reason: Option<String>,
    /// Who says so.
    #[arg(long, env = "USER", default_value = "command line")]
    by: String,
}

/// Runs the command and writes what it found to standard output.
///
/// # Errors
/// When the database cannot be asked, refuses, or there is no such version.
pub async fn run(args: Args, pool: &PgPool) -> anyhow::Result<()> {
    write(&answer(args, pool).await?)
}

/// Runs the command and returns what it found.
///
/// # Errors
/// When the database cannot be asked, refuses, or there is no such version.
pub async fn answer(args: Args, pool: &PgPool) -> anyhow::Result<String> {
    let as_json = args.output == Output::Json;
    match args.command {
        Command::List { model } => {
            let versions = models::list(pool, model.as_deref()).await?;
            let unknown = models::unknown(pool, model.as_deref()).await?;
            match as_json {
                true => pretty(&json!({"versions": versions, "unregistered": unknown})),
                false => Ok(table(&versions) + &unregistered(&unknown)),
            }
        }
        Command::Show(which) => {
            let found = find(pool, &which).await?;
            let events = models::events(pool, &found.model, &found.version).await?;
            match as_json {
                true => pretty(&json!({"version": found, "events": events})),
                false => Ok(details(&found, &events)),
            }
        }
        Command::Promote(change) => {
            let found = find(pool, &change.version).await?;
            let reason = change.reason.as_deref();
            models::promote(pool, &found.model, &found.version, &change.by, reason).await?;
            said(&found, "promoted", as_json)
        }
        Command::Retire(change) => {
            let found = find(pool, &change.version).await?;
            let reason = change.reason.as_deref();
            models::retire(pool, &found.model, &found.version, &change.by, reason).await?;
            said(&found, "retired", as_json)
        }
        Command::Trace(which) => {
            let found = find(pool, &which).await?;
            let chain = chain(pool, &found).await?;
            match as_json {
                true => pretty(&json!(chain)),
                false => Ok(tree(&chain)),
            }
        }
    }
}

fn said(version: &ModelVersion, stage: &str, as_json: bool) -> anyhow::Result<String> {
    let (model, version) = (&version.model, &version.version);
    match as_json {
        true => pretty(&json!({"model": model, "version": version, "stage": stage})),
        false => Ok(format!("{stage} version {version} of {model}\n")),
    }
}

/// The one version that is meant.
async fn find(pool: &PgPool, which: &Version) -> anyhow::Result<ModelVersion> {
    let all = models::list(pool, which.model.as_deref()).await?;
    let mut found: Vec<ModelVersion> = all
        .into_iter()
        .filter(|one| one.version == which.version)
        .collect();
    match (found.pop(), found.pop()) {
        (Some(one), None) => Ok(one),
        (None, _) => bail!(
            "there is no version {}{}; see `driftd models list`",
            which.version,
            which
                .model
                .as_ref()
                .map_or_else(String::new, |model| format!(" of model {model}"))
        ),
        (Some(one), Some(other)) => bail!(
            "models {} and {} both have a version {}; name one with --model",
            other.model,
            one.model,
            which.version
        ),
    }
}

fn table(versions: &[ModelVersion]) -> String {
    if versions.is_empty() {
        return "no versions\n".to_owned();
    }
    let head = [
        "MODEL",
        "VERSION",
        "STAGE",
        "PARENT",
        "JOB",
        "BASELINE",
        "METRICS",
        "REGISTERED",
    ];
    let mut rows = vec![head.map(str::to_owned)];
    rows.extend(versions.iter().map(|one| {
        [
            one.model.clone(),
            one.version.clone(),
            one.stage.clone(),
            or_dash(one.parent_version.as_deref()),
            one.job_id
                .map_or_else(|| "-".to_owned(), |job| job.to_string()),
            or_dash(one.baseline_id.as_deref().map(short)),
            numbers(&one.metrics),
            time(one.created_at),
        ]
    }));
    columns(&rows)
}

fn unregistered(unknown: &[Unknown]) -> String {
    let line = |one: &Unknown| {
        format!(
            "{} rows of model {} are of versions without a baseline (windows from {} to {})\n",
            one.rows,
            one.model,
            time(one.first_window),
            time(one.last_window)
        )
    };
    unknown.iter().map(line).collect()
}

fn numbers(metrics: &Value) -> String {
    let all = metrics.as_object().into_iter().flatten();
    let all: Vec<String> = all.map(|(name, value)| format!("{name} {value}")).collect();
    or_dash(
        Some(all.join(", "))
            .filter(|text| !text.is_empty())
            .as_deref(),
    )
}

fn details(one: &ModelVersion, events: &[StageEvent]) -> String {
    let mut rows: Vec<[String; 2]> = Vec::new();
    let mut row = |name: &str, value: String| rows.push([format!("{name}:"), value]);
    row("model", one.model.clone());
    row("version", one.version.clone());
    row("stage", one.stage.clone());
    row("because", or_dash(one.stage_reason.as_deref()));
    row("parent", or_dash(one.parent_version.as_deref()));
    row(
        "job",
        one.job_id
            .map_or_else(|| "-".to_owned(), |job| job.to_string()),
    );
    row("artifact", or_dash(one.artifact_uri.as_deref()));
    row("baseline", or_dash(one.baseline_id.as_deref()));
    row("training data", one.training_data.to_string());
    row("digest", or_dash(one.training_data_digest.as_deref()));
    row("metrics", numbers(&one.metrics));
    row("parameters", one.parameters.to_string());
    row("code", or_dash(one.code.as_deref()));
    for event in events {
        let from = event
            .from_stage
            .as_deref()
            .map_or(String::new(), |from| format!("{from} -> "));
        let why = event
            .reason
            .as_deref()
            .map_or(String::new(), |why| format!(": {why}"));
        row(
            &time(event.created_at),
            format!("{from}{} by {}{why}", event.to_stage, event.actor),
        );
    }
    columns(&rows)
}

/// A version and those it was retrained from, newest first.
async fn chain(pool: &PgPool, from: &ModelVersion) -> anyhow::Result<Vec<Lineage>> {
    let mut chain: Vec<Lineage> = Vec::new();
    let mut next = Some(from.version.clone());
    while let Some(version) = next.take() {
        // A version names an earlier one as its parent; what a person wrote into the table may not.
        let again = chain.iter().any(|one| one.version == version);
        let Some(one) = models::lineage(pool, &from.model, &version)
            .await?
            .filter(|_| !again)
        else {
            break;
        };
        next = one.parent_version.clone();
        chain.push(one);
    }
    Ok(chain)
}

/// Lines of a tree, each one step further in than what it explains.
#[derive(Default)]
struct Tree {
    text: String,
}

impl Tree {
    fn line(&mut self, depth: usize, text: &str) {
        let indent = match depth {
            0 => String::new(),
            depth => format!("{}└─ ", "   ".repeat(depth - 1)),
        };
        self.text += &format!("{indent}{text}\n");
    }
}

fn tree(chain: &[Lineage]) -> String {
    let mut tree = Tree::default();
    for (depth, one) in chain.iter().enumerate() {
        let depth = depth * 2;
        version_lines(&mut tree, depth, one);
        if one.job_id.is_some() {
            job_lines(&mut tree, depth + 1, one);
        }
    }
    tree.text
}

fn version_lines(tree: &mut Tree, depth: usize, one: &Lineage) {
    let metrics = numbers(&one.metrics);
    tree.line(
        depth,
        &format!(
            "version {} of {}, {}, registered {}{}",
            one.version,
            one.model,
            one.stage,
            time(one.created_at),
            if metrics == "-" {
                String::new()
            } else {
                format!(", {metrics}")
            }
        ),
    );
    if let Some(uri) = &one.artifact_uri {
        tree.line(depth + 1, &format!("artifact {uri}"));
    }
    let digest = one.training_data_digest.as_deref().map(short);
    let told = data(&one.training_data);
    if digest.is_some() || !told.is_empty() {
        let digest = digest.map_or(String::new(), |digest| format!(" sha256 {digest}"));
        tree.line(depth + 1, &format!("training data{digest}{told}"));
    }
    if let Some(id) = &one.baseline_id {
        let rows = one
            .baseline_rows
            .map_or(String::new(), |rows| format!(", {rows} rows"));
        let range = range(one.baseline_from, one.baseline_to);
        tree.line(depth + 1, &format!("baseline {}{rows}{range}", short(id)));
        let added = one.added_windows.iter().filter_map(Value::as_array);
        for of in added.flatten() {
            let monitor = of["monitor"].as_str().unwrap_or_default();
            let (first, last) = (moment(&of["first_window"]), moment(&of["last_window"]));
            let text = format!(
                "{} windows of monitor {monitor} were added, from {first} to {last}",
                of["windows"]
            );
            tree.line(depth + 2, &text);
        }
        if let Some(id) = &one.extends_baseline_id {
            tree.line(depth + 2, &format!("it extends baseline {}", short(id)));
        }
    }
}

fn job_lines(tree: &mut Tree, depth: usize, one: &Lineage) {
    let job = one.job_id.unwrap_or_default();
    let worker = one.worker.as_deref().unwrap_or("-");
    tree.line(
        depth,
        &format!(
            "job {job}, attempt {} by {worker}",
            one.attempt.unwrap_or_default()
        ),
    );
    if let Some(suggested) = &one.suggested_data {
        tree.line(depth + 1, &format!("suggested data{}", data(suggested)));
    }
    for reason in one
        .reasons
        .iter()
        .flat_map(|all| all.as_array().into_iter().flatten())
    {
        tree.line(depth + 1, &format!("because of {}", why(reason)));
    }
    for episode in one
        .drift
        .iter()
        .flat_map(|all| all.as_array().into_iter().flatten())
    {
        episode_lines(tree, depth + 1, episode);
    }
    if let Some(id) = &one.parent_baseline_id {
        let digest = one.parent_digest.as_deref().map_or("-", short);
        tree.line(
            depth + 1,
            &format!(
                "compared with baseline {} of training data sha256 {digest}",
                short(id)
            ),
        );
    }
}

fn episode_lines(tree: &mut Tree, depth: usize, episode: &Value) {
    let text = |name: &str| episode[name].as_str().unwrap_or("-");
    tree.line(
        depth,
        &format!(
            "episode {} of monitor {}, {}: {} drifted windows of version {} from {} to {}",
            episode["episode_id"],
            text("monitor"),
            text("severity"),
            episode["drifted_windows"],
            text("version"),
            moment(&episode["first_window"]),
            moment(&episode["last_window"]),
        ),
    );
    let features = episode["features"].as_array().into_iter().flatten();
    for feature in features.take(5) {
        let name = feature["feature"].as_str().unwrap_or("-");
        tree.line(
            depth + 1,
            &format!("feature {name}, score {}", rounded(&feature["score"])),
        );
    }
}

fn why(reason: &Value) -> String {
    let kind = reason["kind"].as_str().unwrap_or("-");
    let detail = match kind {
        "episode" => format!(
            " {} in the window from {}",
            reason["episode_id"],
            moment(&reason["window_start"])
        ),
        "schedule" => format!(" at {}", moment(&reason["slot"])),
        "request" => reason["text"]
            .as_str()
            .map_or(String::new(), |text| format!(": {text}")),
        "search" => format!(
            ": trial {} of {} was best",
            reason["best_trial"], reason["trials"]
        ),
        _ => String::new(),
    };
    format!("{kind}{detail}")
}

fn data(value: &Value) -> String {
    let mut parts = Vec::new();
    if let Some(topic) = value["topic"].as_str() {
        parts.push(format!("topic {topic}"));
    }
    for one in value["offsets"].as_array().into_iter().flatten() {
        parts.push(format!(
            "partition {} offsets {} to {}",
            one["partition"], one["first_offset"], one["next_offset"]
        ));
    }
    for uri in value["uris"].as_array().into_iter().flatten() {
        parts.extend(uri.as_str().map(str::to_owned));
    }
    for name in ["table", "path"] {
        parts.extend(value[name].as_str().map(|text| format!("{name} {text}")));
    }
    if let Some(rows) = value["rows"].as_i64() {
        parts.push(format!("{rows} rows"));
    }
    if let (Some(_), Some(_)) = (value["from"].as_str(), value["to"].as_str()) {
        parts.push(format!(
            "{} to {}",
            moment(&value["from"]),
            moment(&value["to"])
        ));
    }
    match parts.is_empty() {
        true => String::new(),
        false => format!(": {}", parts.join(", ")),
    }
}

fn range(from: Option<DateTime<Utc>>, to: Option<DateTime<Utc>>) -> String {
    match (from, to) {
        (Some(from), Some(to)) => format!(", {} to {}", time(from), time(to)),
        _ => String::new(),
    }
}

/// A time as JSON has it, as people read it.
fn moment(value: &Value) -> String {
    let text = value.as_str().unwrap_or("-");
    text.parse().map_or_else(|_| text.to_owned(), time)
}

fn rounded(value: &Value) -> String {
    value
        .as_f64()
        .map_or_else(|| "-".to_owned(), |number| format!("{number:.3}"))
}
