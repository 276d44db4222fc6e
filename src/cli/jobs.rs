//! `driftd jobs`: look at the queue of retraining jobs, ask for one, approve it, take it back.

use anyhow::bail;
use serde_json::{Value, json};
use sqlx::PgPool;

use super::{Output, columns, or_dash, pretty, time, write};
use crate::store::jobs::{self, Job, JobEvent, JobState};
use crate::store::trials::{self, TrialRow};
use crate::store::triggers::{self, Fired};

/// Look at retraining jobs, ask for one, approve it, try it again, take it back.
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
    /// List jobs: open ones as they will be claimed, then ended ones, newest first.
    List {
        /// Of this model only.
        #[arg(long)]
        model: Option<String>,
        /// Ended jobs too.
        #[arg(long)]
        all: bool,
        /// At most so many.
        #[arg(long, default_value_t = 50)]
        limit: u32,
    },
    /// Show one job: why, on what, and everything that happened to it.
    Show {
        /// Its number.
        job: i64,
    },
    /// Ask for a model to be retrained. Joins the model's open job if there is one.
    Request {
        /// The model.
        #[arg(long)]
        model: String,
        /// Why; shown with the job.
        #[arg(long)]
        reason: Option<String>,
        /// Who asks.
        #[arg(long, env = "USER", default_value = "command line")]
        by: String,
    },
    /// Let a job that waits for an approval into the queue.
    Approve(Named),
    /// Put a job that failed or was cancelled into the queue again.
    Retry(Named),
    /// Take an open job back, and its trials. A running trainer learns of it by its next heartbeat.
    Cancel(Named),
    /// Print what a job's trainers printed.
    Logs {
        /// Its number.
        job: i64,
        /// At most so many lines, the last ones.
        #[arg(long, default_value_t = 1000)]
        lines: u32,
    },
}

#[derive(Debug, clap::Args)]
struct Named {
    /// Its number.
    job: i64,
    /// Who says so.
    #[arg(long, env = "USER", default_value = "command line")]
    by: String,
}

/// Runs the command and writes what it found to standard output.
///
/// # Errors
/// When the database cannot be asked, refuses, or there is no such job.
pub async fn run(args: Args, pool: &PgPool) -> anyhow::Result<()> {
    write(&answer(args, pool).await?)
}

/// Runs the command and returns what it found.
///
/// # Errors
/// When the database cannot be asked, refuses, or there is no such job.
pub async fn answer(args: Args, pool: &PgPool) -> anyhow::Result<String> {
    Ok(match args.command {
        Command::List { model, all, limit } => {
            let states = if all { &[][..] } else { &JobState::OPEN };
            let jobs = jobs::list(pool, model.as_deref(), states, limit.into()).await?;
            match args.output {
                Output::Json => pretty(&json!(jobs))?,
                Output::Table => table(&jobs),
            }
        }
        Command::Show { job } => show(pool, job, args.output).await?,
        Command::Request { model, reason, by } => {
            let fired = triggers::request(pool, &model, reason.as_deref(), &by).await?;
            match args.output {
                Output::Json => pretty(&json!(fired))?,
                Output::Table => outcome(&fired),
            }
        }
        Command::Approve(Named { job, by }) => {
            let state = jobs::approve(pool, job, &by).await?;
            changed(job, &state, args.output)?
        }
        Command::Retry(Named { job, by }) => {
            let state = jobs::retry(pool, job, &by).await?;
            changed(job, &state, args.output)?
        }
        Command::Cancel(Named { job, by }) => {
            jobs::cancel(pool, job, &by).await?;
            changed(job, "cancelled", args.output)?
        }
        Command::Logs { job, lines } => {
            let lines = jobs::last_lines(pool, job, lines.into()).await?;
            match args.output {
                Output::Json => pretty(&json!(lines))?,
                Output::Table => lines.iter().map(|line| line.line.clone() + "\n").collect(),
            }
        }
    })
}

async fn show(pool: &PgPool, job_id: i64, output: Output) -> anyhow::Result<String> {
    let Some(job) = jobs::get(pool, job_id).await? else {
        bail!("there is no job {job_id}");
    };
    let events = jobs::events(pool, job_id).await?;
    let trials = trials::of(&mut *pool.acquire().await?, job_id).await?;
    match output {
        Output::Json => pretty(&json!({"job": job, "events": events, "trials": trials})),
        Output::Table => Ok(details(&job, &events) + &tried(&trials)),
    }
}

/// The trials of a search, in their order.
fn tried(trials: &[TrialRow]) -> String {
    if trials.is_empty() {
        return String::new();
    }
    let mut rows = vec![["TRIAL", "STATE", "OBJECTIVE", "PARAMETERS"].map(str::to_owned)];
    rows.extend(trials.iter().map(|one| {
        let state = if one.pruned {
            "pruned"
        } else {
            one.state.as_str()
        };
        let objective = one.objective.or(one.last_value);
        [
            one.trial.to_string(),
            state.to_owned(),
            objective.map_or_else(|| "-".to_owned(), |value| value.to_string()),
            one.parameters.to_string(),
        ]
    }));
    format!("\n{}", columns(&rows))
}

fn changed(job: i64, state: &str, output: Output) -> anyhow::Result<String> {
    match output {
        Output::Json => pretty(&json!({"job_id": job, "state": state})),
        Output::Table => Ok(format!("job {job} is {state}\n")),
    }
}

fn outcome(fired: &Fired) -> String {
    let Fired {
        outcome,
        guard,
        job_id,
        ..
    } = fired;
    let guard = guard.as_deref().unwrap_or("-");
    match job_id {
        Some(job) if outcome == "joined" => format!("joined job {job}, which was open already\n"),
        Some(job) => format!("enqueued job {job}\n"),
        None => format!("no job: stopped by the guard {guard}\n"),
    }
}

/// The list, in columns as wide as they need to be.
fn table(jobs: &[Job]) -> String {
    if jobs.is_empty() {
        return "no jobs\n".to_owned();
    }
    let head = [
        "JOB", "STATE", "MODEL", "VERSION", "WHY", "ATTEMPT", "WORKER", "ENQUEUED",
    ];
    let mut rows = vec![head.map(str::to_owned)];
    rows.extend(jobs.iter().map(|job| {
        [
            job.job_id.to_string(),
            job.state.as_str().to_owned(),
            job.model.clone(),
            or_dash(job.version.as_deref()),
            why(&job.reasons).join(", "),
            format!("{}/{}", job.attempt, job.max_attempts),
            or_dash(job.worker.as_deref()),
            time(job.created_at),
        ]
    }));
    columns(&rows)
}

/// The kinds of what asked for a job, each once, first to last.
fn why(reasons: &Value) -> Vec<String> {
    let mut kinds: Vec<String> = Vec::new();
    for kind in reasons
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|r| r["kind"].as_str())
    {
        if !kinds.iter().any(|known| known == kind) {
            kinds.push(kind.to_owned());
        }
    }
    kinds
}

fn details(job: &Job, events: &[JobEvent]) -> String {
    let mut rows: Vec<[String; 2]> = Vec::new();
    let mut row = |name: &str, value: String| rows.push([format!("{name}:"), value]);
    row("job", job.job_id.to_string());
    row("state", job.state.as_str().to_owned());
    row("model", job.model.clone());
    row("version", or_dash(job.version.as_deref()));
    row("baseline", or_dash(job.baseline_id.as_deref()));
    row("monitor", or_dash(job.monitor.as_deref()));
    row(
        "attempt",
        format!("{} of {}", job.attempt, job.max_attempts),
    );
    row("worker", or_dash(job.worker.as_deref()));
    row("not before", time(job.run_after));
    row(
        "lease until",
        job.lease_expires_at.map_or_else(|| "-".to_owned(), time),
    );
    for reason in job.reasons.as_array().into_iter().flatten() {
        row("why", reason.to_string());
    }
    let json = [
        ("training data", Some(&job.training_data)),
        ("parameters", Some(&job.parameters)),
        ("search", job.search.as_ref()),
        ("promotion", Some(&job.promotion)),
        ("progress", job.progress.as_ref()),
        ("result", job.result.as_ref()),
    ];
    for (name, value) in json {
        row(name, value.map_or_else(|| "-".to_owned(), Value::to_string));
    }
    row("error", or_dash(job.error.as_deref()));
    for event in events {
        let from = event.from_state.map_or("", JobState::as_str);
        let arrow = if from.is_empty() { "" } else { " -> " };
        let to = event.to_state.as_str();
        let error = event
            .error
            .as_ref()
            .map(|error| format!(": {error}"))
            .unwrap_or_default();
        row(
            &time(event.created_at),
            format!("{from}{arrow}{to} by {}{error}", event.actor),
        );
    }
    columns(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_asked_twice_is_named_once() {
        let reasons = json!([{"kind": "schedule"}, {"kind": "episode"}, {"kind": "schedule"}]);
        assert_eq!(why(&reasons), ["schedule", "episode"]);
    }
}
