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
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::settings::Kafka;
use crate::store::jobs::{self, Claimed, Heartbeat, Lease};
use crate::store::{self, Error, SqlState};

mod fetch;
mod lines;
mod process;
mod settle;

use lines::{Lines, Told};
use process::Running;

/// Who listens is told of jobs on this channel.
const CHANNEL: &str = "driftd_jobs";
/// Exit code of a command that says: trying again does not help.
const DO_NOT_RETRY: i32 = 65;
/// How often Postgres is asked again for what cannot wait for the next look.
const AGAIN: Duration = Duration::from_secs(1);
/// The longest wait for a Postgres that is away, however seldom jobs are looked for.
const AWAY: Duration = Duration::from_secs(5);

/// Why a job is given up.
const CANCELLED: &str = "it was cancelled";
/// Why an attempt is given back.
const STOPPED: &str = "the worker was stopped";

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

impl Outcome {
    fn failed(error: impl Into<String>, retry: bool) -> Self {
        let error = error.into();
        Self::Failed { error, retry }
    }
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
                let _ = tokio::time::timeout(options.poll.min(AWAY), stop.cancelled()).await;
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
    // Without an ear Postgres is away: soon again, however long the poll is.
    let look = if listener.is_some() {
        poll
    } else {
        poll.min(AWAY)
    };
    let heard = async {
        match listener {
            // Not `recv`, which connects again without a word of what it has missed.
            Some(listener) => listener.try_recv().await.is_ok(),
            None => std::future::pending().await,
        }
    };
    let lost = tokio::select! {
        heard = heard => !heard,
        () = tokio::time::sleep(look) => false,
        () = stop.cancelled() => false,
    };
    if lost {
        *listener = None;
        let _ = tokio::time::timeout(poll.min(AWAY), stop.cancelled()).await;
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
    let fetched = fetch::fetched(pool, options, claimed, directory.path(), stop).await;
    let (outcome, digest) = match fetched {
        Err(outcome) => (outcome, None),
        Ok(digest) => {
            let ran = run_command(pool, options, claimed, directory.path(), stop);
            (ran.await?, digest)
        }
    };
    let outcome = match outcome {
        Outcome::Result(result) => {
            settle::settle(pool, options, lease, result, digest.as_deref(), stop).await
        }
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

/// Starts the command, and waits until it ends, or has to.
async fn run_command(
    pool: &PgPool,
    options: &Options,
    claimed: &Claimed,
    directory: &Path,
    stop: &CancellationToken,
) -> anyhow::Result<Outcome> {
    let lease = &claimed.lease;
    match Running::start(&options.command, claimed, directory) {
        Ok(running) => {
            let result = directory.join(process::RESULT);
            attempt(pool, options, lease, running, &result, stop).await
        }
        Err(error) => {
            // Every job would fare so: back with this one, and no further ones.
            let outcome = Outcome::failed(format!("{error:#}"), true);
            tell(pool, options, lease, &outcome).await?;
            Err(error)
        }
    }
}

/// Waits until the command ends, or has to.
async fn attempt(
    pool: &PgPool,
    options: &Options,
    lease: &Lease,
    mut running: Running,
    result: &Path,
    stop: &CancellationToken,
) -> anyhow::Result<Outcome> {
    let mut lines = Lines::of(&mut running, options.quiet);
    let mut beat = tokio::time::interval(options.lease / 3);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut held = Held::new(options.lease);
    let outcome = loop {
        tokio::select! {
            status = running.wait() => {
                running.kill_rest();
                lines.rest(pool, options, lease).await;
                return Ok(judged(&status?, &lines, result));
            }
            told = lines.next() => match told {
                Some(Told::Progress(value)) => held.progress = Some(value),
                Some(Told::Value { step, value }) => match report(pool, options, lease, step, value).await {
                    Some("prune") => break Outcome::Pruned(value),
                    Some("cancelled") => break Outcome::GivenUp(CANCELLED),
                    _ => {}
                },
                Some(Told::Line) | None => {}
            },
            _ = beat.tick() => {
                if let Some(why) = held.beat(pool, lease).await {
                    break Outcome::GivenUp(why);
                }
                lines.keep(pool, options, lease).await;
            }
            () = stop.cancelled() => break Outcome::failed(STOPPED, true),
        }
    };
    end(&mut running, &mut lines, pool, options, lease).await;
    Ok(outcome)
}

/// How long the lease may hold, as far as this side knows.
struct Held {
    lease: Duration,
    until: Instant,
    /// What the command said of how far it is, until it is told.
    progress: Option<Value>,
}

impl Held {
    fn new(lease: Duration) -> Self {
        let until = Instant::now() + lease;
        let progress = None;
        Self {
            lease,
            until,
            progress,
        }
    }

    /// Extends the lease; says why the job has to be given up.
    async fn beat(&mut self, pool: &PgPool, lease: &Lease) -> Option<&'static str> {
        let begun = Instant::now();
        let asked = jobs::heartbeat(pool, lease, self.progress.as_ref());
        match store::within(self.lease / 3, "extend a job's lease", asked).await {
            Ok(Heartbeat::Running) => {
                self.until = begun + self.lease;
                self.progress = None;
                None
            }
            Ok(Heartbeat::Cancelled) => Some(CANCELLED),
            Err(Error::Refused { .. }) => Some("its lease is lost"),
            Err(_) if Instant::now() >= self.until => {
                Some("its lease ran out while Postgres was away")
            }
            Err(error) => {
                if !error.is_transient() {
                    // What Postgres cannot hold, such as NUL in a text, must not cost the lease.
                    self.progress = None;
                }
                let error = error.chain();
                tracing::warn!(job.id = lease.job_id, error, "a heartbeat failed");
                None
            }
        }
    }
}

/// Ends the command and all that it has started; what it prints meanwhile is heard.
async fn end(
    running: &mut Running,
    lines: &mut Lines,
    pool: &PgPool,
    options: &Options,
    lease: &Lease,
) {
    let mut ended = std::pin::pin!(running.end(options.grace));
    loop {
        tokio::select! {
            () = &mut ended => break,
            _ = lines.next() => {}
        }
    }
    lines.rest(pool, options, lease).await;
}

/// What a trial's value is answered; `None`: it does not matter.
async fn report(
    pool: &PgPool,
    options: &Options,
    lease: &Lease,
    step: i64,
    value: f64,
) -> Option<&'static str> {
    let told = jobs::report_trial(pool, lease, step, value);
    match store::within(options.lease / 3, "say what a trial is worth", told).await {
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
        return Outcome::failed(error, retry);
    }
    let name = process::RESULT;
    let wrong = |why| Outcome::failed(format!("the command ended well, but {name} {why}"), false);
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
            Outcome::Result(result) => complete(pool, lease, result).await,
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
                tokio::time::sleep(AGAIN).await;
            }
            other => return other,
        }
    }
}

/// A result that is refused, or that Postgres cannot hold, ends the attempt: it has nothing better to say.
async fn complete(pool: &PgPool, lease: &Lease, result: &Value) -> store::Result<()> {
    let error = match jobs::complete(pool, lease, result).await {
        Err(Error::Refused {
            state: SqlState::BadArgument,
            message,
        }) => format!("its result was refused: {message}"),
        Err(error @ Error::Query { .. }) if !error.is_transient() => {
            format!("its result cannot be kept: {}", error.chain())
        }
        other => return other,
    };
    tracing::warn!(job.id = lease.job_id, error, "refused");
    jobs::fail(pool, lease, &error, false).await.map(|_| ())
}
