//! `driftd worker`: claims jobs and runs a command for each.
//!
//! The command is told the job as JSON on standard input, in a file and in variables; what it prints is
//! kept with the job; its exit code and a result file decide what becomes of it. Meanwhile the lease is
//! extended. Where the job is cancelled or the lease is lost, the command's whole process group is ended:
//! another worker may have the job by then.
//!
//! It needs no more of the database than a trainer in another language does: the role `driftd_trainer`.

use std::ffi::OsString;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sqlx::PgPool;
use sqlx::postgres::PgListener;
use tokio_util::sync::CancellationToken;

use crate::settings::Kafka;
use crate::store::jobs::{self, Claimed, Heartbeat, Lease};
use crate::store::{self, Error, SqlState, builds};

mod fetch;
mod lines;
mod process;

use lines::{Lines, Told};
use process::Running;

/// Who listens is told of jobs on this channel.
const CHANNEL: &str = "driftd_jobs";
/// Exit code of a command that says: trying again does not help.
const DO_NOT_RETRY: i32 = 65;
/// How often a baseline that was asked for is looked after.
const BUILD_LOOK: Duration = Duration::from_secs(1);

/// How a worker works.
#[derive(Debug, Clone)]
pub struct Options {
    /// Its name, for people.
    pub name: String,
    /// Jobs of this model only.
    pub model: Option<String>,
    /// How long a heartbeat extends a lease.
    pub lease: Duration,
    /// How often new jobs are looked for, beside being told.
    pub poll: Duration,
    /// How long a command that was told to end may take.
    pub grace: Duration,
    /// End when nothing is to be done.
    pub once: bool,
    /// Do not repeat on standard error what the command prints.
    pub quiet: bool,
    /// Where the log is, if the command is to be given the suggested data as a file.
    pub fetch: Option<Kafka>,
    /// The program and its arguments.
    pub command: Vec<OsString>,
}

/// What became of jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Done {
    /// Completed.
    pub completed: u64,
    /// Failed, for good or to be tried again.
    pub failed: u64,
    /// Cancelled, or lost to another worker.
    pub given_up: u64,
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq)]
enum Outcome {
    /// The command says that the job is done, with this result.
    Result(Value),
    /// A search has better trials.
    Pruned(f64),
    /// It failed.
    Failed { error: String, retry: bool },
    /// The job is not ours any more: nothing is said.
    GivenUp(&'static str),
}

/// Claims and runs jobs until told to stop, one at a time.
///
/// # Errors
/// The database refuses for good, or the command cannot be started.
pub async fn run(
    pool: &PgPool,
    options: &Options,
    stop: &CancellationToken,
) -> anyhow::Result<Done> {
    let mut done = Done::default();
    let mut listener = None;
    while !stop.is_cancelled() {
        match claim(pool, options).await {
            Ok(Some(claimed)) => work(pool, options, &claimed, stop, &mut done).await?,
            Ok(None) if options.once => break,
            Ok(None) => wait(pool, &mut listener, options.poll, stop).await,
            Err(error) if error.is_transient() && !options.once => {
                tracing::warn!(error = error.chain(), "the worker waits for Postgres");
                let _ = tokio::time::timeout(options.poll, stop.cancelled()).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(done)
}

async fn claim(pool: &PgPool, options: &Options) -> store::Result<Option<Claimed>> {
    let (name, model) = (&options.name, options.model.as_deref());
    jobs::claim_document(pool, name, model, options.lease.as_secs_f64()).await
}

/// Waits for a job that is new, or for the next look: a notice may be lost, and a backoff ends unheard.
async fn wait(
    pool: &PgPool,
    listener: &mut Option<PgListener>,
    poll: Duration,
    stop: &CancellationToken,
) {
    if listener.is_none() {
        *listener = listen(pool).await;
        if listener.is_some() {
            return; // a job may have come before the ear was open
        }
    }
    let heard = async {
        match listener {
            Some(listener) => listener.recv().await.is_ok(),
            None => std::future::pending().await,
        }
    };
    let lost = tokio::select! {
        heard = heard => !heard,
        () = tokio::time::sleep(poll) => false,
        () = stop.cancelled() => false,
    };
    if lost {
        *listener = None;
        let _ = tokio::time::timeout(poll, stop.cancelled()).await;
    }
}

async fn listen(pool: &PgPool) -> Option<PgListener> {
    let mut listener = PgListener::connect_with(pool).await.ok()?;
    listener.listen(CHANNEL).await.ok()?;
    Some(listener)
}

/// One attempt, from its claim to its end.
async fn work(
    pool: &PgPool,
    options: &Options,
    claimed: &Claimed,
    stop: &CancellationToken,
    done: &mut Done,
) -> anyhow::Result<()> {
    let lease = &claimed.lease;
    let model = claimed.document["model"].as_str().unwrap_or_default();
    tracing::info!(
        job.id = lease.job_id,
        job.attempt = lease.attempt,
        model.id = model,
        "claimed"
    );
    let directory = tempfile::tempdir()?;
    let outcome = match fetched(pool, options, claimed, directory.path()).await {
        None => attempt(pool, options, claimed, directory.path(), stop).await?,
        Some(outcome) => outcome,
    };
    let outcome = match outcome {
        Outcome::Result(result) => settle(pool, options, lease, result).await,
        other => other,
    };
    let told = tell(pool, options, lease, &outcome).await;
    match (&outcome, told) {
        (Outcome::GivenUp(why), _) => {
            done.given_up += 1;
            tracing::warn!(job.id = lease.job_id, why, "gave a job up");
        }
        (_, Err(Error::Refused { message, .. })) => {
            done.given_up += 1;
            tracing::warn!(
                job.id = lease.job_id,
                why = message,
                "what became of a job is not wanted any more"
            );
        }
        (_, Err(error)) => {
            done.given_up += 1;
            tracing::error!(
                job.id = lease.job_id,
                error = error.chain(),
                "cannot tell what became of a job; its lease will run out"
            );
        }
        (Outcome::Failed { error, .. }, Ok(())) => {
            done.failed += 1;
            tracing::warn!(job.id = lease.job_id, error, "an attempt failed");
        }
        (_, Ok(())) => {
            done.completed += 1;
            tracing::info!(job.id = lease.job_id, "completed");
        }
    }
    Ok(())
}

/// Reads the suggested parts of the log into a file, where that is wanted; `None`: all is well.
async fn fetched(
    pool: &PgPool,
    options: &Options,
    claimed: &Claimed,
    directory: &Path,
) -> Option<Outcome> {
    let kafka = options.fetch.clone()?;
    let (data, path) = (
        claimed.document["training_data"].clone(),
        directory.join(process::DATA),
    );
    let reading = tokio::task::spawn_blocking(move || fetch::fetch(&kafka, &data, &path));
    match beating(pool, options, &claimed.lease, reading).await {
        Err(why) => Some(Outcome::GivenUp(why)),
        Ok(Ok(Ok(messages))) => {
            tracing::info!(
                job.id = claimed.lease.job_id,
                messages,
                "fetched the suggested data"
            );
            None
        }
        Ok(Ok(Err(error))) => Some(Outcome::Failed {
            error: format!(
                "the suggested data cannot be fetched: {:#}",
                anyhow::Error::from(error)
            ),
            retry: true,
        }),
        Ok(Err(panic)) => Some(Outcome::Failed {
            error: format!("fetching the suggested data: {panic}"),
            retry: false,
        }),
    }
}

/// Does something else than running the command, and extends the lease meanwhile; why not, if the job is
/// not ours any more.
async fn beating<T>(
    pool: &PgPool,
    options: &Options,
    lease: &Lease,
    work: impl Future<Output = T>,
) -> Result<T, &'static str> {
    let mut beat = tokio::time::interval(options.lease / 3);
    tokio::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return Ok(done),
            _ = beat.tick() => match jobs::heartbeat(pool, lease, None).await {
                Ok(Heartbeat::Cancelled) => return Err("it was cancelled"),
                Err(Error::Refused { .. }) => return Err("its lease is lost"),
                Ok(Heartbeat::Running) | Err(_) => {}
            },
        }
    }
}

/// Runs the command until it ends, or has to.
async fn attempt(
    pool: &PgPool,
    options: &Options,
    claimed: &Claimed,
    directory: &Path,
    stop: &CancellationToken,
) -> anyhow::Result<Outcome> {
    let lease = &claimed.lease;
    let mut running = Running::start(&options.command, claimed, directory)?;
    let mut lines = Lines::of(&mut running, options.quiet);
    let mut beat = tokio::time::interval(options.lease / 3);
    let mut held_until = Instant::now() + options.lease;
    let mut progress = None;
    loop {
        tokio::select! {
            status = running.wait() => {
                running.kill_rest();
                lines.rest(pool, lease).await;
                return Ok(judged(&status?, &lines, &directory.join(process::RESULT)));
            }
            told = lines.next() => match told {
                Some(Told::Progress(value)) => progress = Some(value),
                Some(Told::Value { step, value }) => match report(pool, lease, step, value).await {
                    Some("prune") => {
                        end(&mut running, &mut lines, pool, options, lease).await;
                        return Ok(Outcome::Pruned(value));
                    }
                    Some("cancelled") => {
                        end(&mut running, &mut lines, pool, options, lease).await;
                        return Ok(Outcome::GivenUp("it was cancelled"));
                    }
                    _ => {}
                },
                Some(Told::Line) | None => {}
            },
            _ = beat.tick() => {
                lines.keep(pool, lease).await;
                let begun = Instant::now();
                let why = match jobs::heartbeat(pool, lease, progress.as_ref()).await {
                    Ok(Heartbeat::Running) => {
                        held_until = begun + options.lease;
                        progress = None;
                        None
                    }
                    Ok(Heartbeat::Cancelled) => Some("it was cancelled"),
                    Err(Error::Refused { .. }) => Some("its lease is lost"),
                    Err(_) if Instant::now() >= held_until => Some("its lease ran out while Postgres was away"),
                    Err(error) => {
                        tracing::warn!(job.id = lease.job_id, error = error.chain(), "a heartbeat failed");
                        None
                    }
                };
                if let Some(why) = why {
                    end(&mut running, &mut lines, pool, options, lease).await;
                    return Ok(Outcome::GivenUp(why));
                }
            }
            () = stop.cancelled() => {
                end(&mut running, &mut lines, pool, options, lease).await;
                return Ok(Outcome::Failed { error: "the worker was stopped".to_owned(), retry: true });
            }
        }
    }
}

/// Ends the command and all that it has started.
async fn end(
    running: &mut Running,
    lines: &mut Lines,
    pool: &PgPool,
    options: &Options,
    lease: &Lease,
) {
    running.end(options.grace).await;
    lines.rest(pool, lease).await;
}

/// What a trial's value is answered; `None`: it does not matter.
async fn report(pool: &PgPool, lease: &Lease, step: i64, value: f64) -> Option<&'static str> {
    match jobs::report_trial(pool, lease, step, value).await {
        Ok(answer) if answer == "prune" => Some("prune"),
        Ok(answer) if answer == "cancelled" => Some("cancelled"),
        Ok(_) => None,
        Err(error) => {
            tracing::warn!(
                job.id = lease.job_id,
                error = error.chain(),
                "a trial's value is not kept"
            );
            None
        }
    }
}

/// What a command that has ended by itself says.
fn judged(status: &std::process::ExitStatus, lines: &Lines, result: &Path) -> Outcome {
    if !status.success() {
        let error = format!("the command ended with {status}{}", lines.last_words());
        let retry = status.code() != Some(DO_NOT_RETRY);
        return Outcome::Failed { error, retry };
    }
    let name = process::RESULT;
    let wrong = |why: String| Outcome::Failed {
        error: format!("the command ended well, but {name} {why}"),
        retry: false,
    };
    let text = match std::fs::read_to_string(result) {
        Ok(text) => text,
        Err(error) => return wrong(format!("cannot be read: {error}")),
    };
    match serde_json::from_str::<Value>(&text) {
        Ok(value) if value.is_object() => Outcome::Result(value),
        Ok(_) => wrong("is no JSON object".to_owned()),
        Err(error) => wrong(format!("is no JSON: {error}")),
    }
}

/// A result that asks for a baseline gets it first.
async fn settle(pool: &PgPool, options: &Options, lease: &Lease, mut result: Value) -> Outcome {
    let wanted = result
        .as_object_mut()
        .and_then(|all| all.remove("baseline"));
    let source = match wanted {
        None | Some(Value::Null | Value::Bool(false)) => return Outcome::Result(result),
        Some(Value::Bool(true)) => json!({}),
        Some(source) => source,
    };
    let version = result["version"].as_str().unwrap_or_default();
    let building = built(pool, lease, version, &source);
    let built = match beating(pool, options, lease, building).await {
        Ok(built) => built,
        Err(why) => return Outcome::GivenUp(why),
    };
    match built {
        Ok(Ok(build)) => {
            result["baseline_id"] = build["baseline_id"].clone();
            if result["training_data"]["sha256"].is_null()
                && (result["training_data"].is_object() || result["training_data"].is_null())
            {
                result["training_data"]["sha256"] = build["sha256"].clone();
                if result["training_data"]["rows"].is_null() {
                    result["training_data"]["rows"] = build["rows"].clone();
                }
            }
            Outcome::Result(result)
        }
        Ok(Err(error)) => Outcome::Failed {
            error: format!("its baseline could not be made: {error}"),
            retry: false,
        },
        Err(Error::Refused {
            state: SqlState::StaleLease | SqlState::WrongState,
            ..
        }) => Outcome::GivenUp("its lease is lost"),
        Err(error) => Outcome::Failed {
            error: format!("its baseline could not be asked for: {}", error.chain()),
            retry: error.is_transient(),
        },
    }
}

/// Asks for a baseline and waits until it is there.
async fn built(
    pool: &PgPool,
    lease: &Lease,
    version: &str,
    source: &Value,
) -> store::Result<Result<Value, String>> {
    let build_id = builds::request(pool, lease, version, source).await?;
    loop {
        let state = builds::state(pool, lease, build_id).await?;
        match state["state"].as_str() {
            Some("ready") => return Ok(Ok(state)),
            Some("failed") => {
                let error = state["error"].as_str().unwrap_or("no reason given");
                return Ok(Err(error.to_owned()));
            }
            _ => tokio::time::sleep(BUILD_LOOK).await,
        }
    }
}

/// Tells the database how the attempt ended. While it cannot be reached this is tried again, as long as
/// the lease may hold.
async fn tell(
    pool: &PgPool,
    options: &Options,
    lease: &Lease,
    outcome: &Outcome,
) -> store::Result<()> {
    let give_up = Instant::now() + options.lease;
    loop {
        let told = match outcome {
            Outcome::Result(result) => match jobs::complete(pool, lease, result).await {
                // The job stays as it was; this attempt has nothing better to say.
                Err(Error::Refused {
                    state: SqlState::BadArgument,
                    message,
                }) => {
                    let error = format!("its result was refused: {message}");
                    let failed = jobs::fail(pool, lease, &error, false).await.map(|_| ());
                    tracing::warn!(job.id = lease.job_id, error, "refused");
                    failed
                }
                other => other,
            },
            Outcome::Pruned(value) => {
                let result = json!({"pruned": true, "objective": value});
                jobs::complete(pool, lease, &result).await
            }
            Outcome::Failed { error, retry } => {
                jobs::fail(pool, lease, error, *retry).await.map(|_| ())
            }
            Outcome::GivenUp(_) => Ok(()),
        };
        match told {
            Err(error) if error.is_transient() && Instant::now() < give_up => {
                tokio::time::sleep(BUILD_LOOK).await;
            }
            other => return other,
        }
    }
}
