//! One job from claim to end: two futures side by side, one that speaks to the orchestrator and one
//! that keeps the lease. Whoever is done first decides; a request under way is waited for before its
//! run is cancelled, so that a run that is just being started is cancelled too.

use std::pin::pin;

use serde_json::{Map, Value, json};
use sqlx::PgPool;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::http::Sender;
use super::run::{End, Run};
use super::template::Values;
use super::{Handover, PATIENCE, TICK};
use crate::clock::Clock;
use crate::store::jobs::{self, Heartbeat, Job, JobEvent, JobState, Lease};
use crate::store::{self, Error, SqlState};
use crate::telemetry::metrics;

/// Who returns a job whose lease has run out, as its events name it.
const DRIFTD: &str = "driftd";

/// Why the lease is no longer kept.
#[derive(Debug)]
enum Released {
    /// Somebody took the job back.
    Cancelled,
    /// Another worker has it, or may have.
    Lost,
    /// It has ended: the run itself completed or failed it.
    Ended,
    /// The database refuses for good.
    Broken(Error),
}

/// Hands one job over and follows its run to the end, or until `stop`: then the job is left as it is,
/// for another replica to take over.
///
/// # Errors
/// When the database cannot be asked at first, or refuses for good.
pub(super) async fn follow(
    pool: &PgPool,
    handover: &Handover,
    sender: &Sender<'_>,
    clock: &Clock,
    lease: Lease,
    taken_over: bool,
    stop: &CancellationToken,
) -> store::Result<()> {
    let limit = store::patience(pool, 0);
    let read = read(pool, lease.job_id);
    let Some((job, document, events)) =
        store::within(limit, "read a job to hand over", read).await?
    else {
        return Ok(());
    };
    let (progress, told) = watch::channel(Value::Null);
    let known = first_attempt(&events, lease.attempt);
    let first = match handover.status {
        Some(_) => known,
        None => lease.attempt, // the run proves itself by the lease of its own attempt
    };
    let values = values(handover, &job, document, &lease, first);
    let mut run = Run::new(handover, sender, clock, values, &job, progress);
    if taken_over {
        run.resume(job.progress.as_ref());
    } else if first < lease.attempt {
        run.be_unsure();
    } else {
        run.succeed_to(known..first);
    }
    tracing::info!(
        handover.name = handover.name,
        model.id = job.model,
        job.id = job.job_id,
        job.attempt = lease.attempt,
        run.key = run.key(),
        taken_over,
        "handing a job over"
    );
    let followed = to_the_end(pool, &mut run, &lease, told);
    let outcome = match stop.run_until_cancelled(followed).await {
        Some(outcome) => outcome?,
        None => {
            let leave = jobs::leave(pool, &lease);
            store::within(limit, "leave a job behind", leave).await?;
            "left"
        }
    };
    metrics::handover_runs(&handover.name, outcome, 1);
    tracing::info!(
        handover.name = handover.name,
        job.id = job.job_id,
        run.id = run.id(),
        outcome,
        "a hand-over has ended"
    );
    Ok(())
}

/// The job, what its trainer is given of it, and what happened to it.
async fn read(pool: &PgPool, job_id: i64) -> store::Result<Option<(Job, Value, Vec<JobEvent>)>> {
    let job = jobs::get(pool, job_id).await?;
    let (Some(job), Some(document)) = (job, jobs::document(pool, job_id).await?) else {
        return Ok(None);
    };
    Ok(Some((job, document, jobs::events(pool, job_id).await?)))
}

/// The attempt after which the run is named: the first one since a run was last known to have ended.
/// A lease that ran out says nothing of the run, so the attempt after it asks for the same one.
fn first_attempt(events: &[JobEvent], attempt: i32) -> i32 {
    let told = events.iter().filter(|event| {
        event.from_state == Some(JobState::Running)
            && event.to_state == JobState::Queued
            && event.actor != DRIFTD
            && event.attempt < attempt
    });
    told.map(|event| event.attempt + 1).max().unwrap_or(1)
}

fn values(handover: &Handover, job: &Job, document: Value, lease: &Lease, first: i32) -> Values {
    let key = format!("driftd-job-{}-{first}", job.job_id);
    Values::from([
        ("job_id", json!(job.job_id)),
        ("attempt", json!(lease.attempt)),
        ("lease_token", json!(lease.token)),
        ("model", json!(job.model)),
        ("version", json!(job.version)),
        ("baseline_id", json!(job.baseline_id)),
        ("idempotency_key", json!(key)),
        ("run_id", json!(key)),
        ("handover", json!(handover.name)),
        ("job", document),
        ("parameters", job.parameters.clone()),
        ("training_data", job.training_data.clone()),
        ("reasons", job.reasons.clone()),
    ])
}

async fn to_the_end(
    pool: &PgPool,
    run: &mut Run<'_>,
    lease: &Lease,
    told: watch::Receiver<Value>,
) -> store::Result<&'static str> {
    let halt = CancellationToken::new();
    let every = run.handover().lease / 4;
    // Nothing is asked for without a lease that holds now.
    let progress = told.borrow().clone();
    let first = beat(pool, lease, &progress).await;
    let released = match first {
        Some(released) => Some(released),
        None => {
            let mut work = pin!(run.work(&halt));
            let mut beats = pin!(keep(pool, lease, told, every));
            tokio::select! {
                biased;
                end = &mut work => return settle(pool, lease, end).await,
                released = &mut beats => {
                    halt.cancel();
                    work.await; // its request, if one is under way
                    Some(released)
                }
            }
        }
    };
    match released {
        Some(Released::Cancelled) => {
            if run.cancel().await {
                let let_go = jobs::let_go(pool, lease);
                store::within(store::patience(pool, 0), "let a job go", let_go).await?;
            }
            Ok("cancelled")
        }
        Some(Released::Ended) => ended(pool, lease).await,
        Some(Released::Broken(error)) => Err(error),
        Some(Released::Lost) | None => Ok("lost"),
    }
}

/// Extends the lease until it is ours no longer; at once when there is something new to tell.
async fn keep(
    pool: &PgPool,
    lease: &Lease,
    mut told: watch::Receiver<Value>,
    every: std::time::Duration,
) -> Released {
    loop {
        let _ = tokio::time::timeout(every, told.changed()).await;
        let progress = told.borrow_and_update().clone();
        if let Some(released) = beat(pool, lease, &progress).await {
            return released;
        }
    }
}

/// One heartbeat, tried again while Postgres cannot be reached.
async fn beat(pool: &PgPool, lease: &Lease, progress: &Value) -> Option<Released> {
    let progress = (!progress.is_null()).then_some(progress);
    loop {
        let limit = store::patience(pool, 0);
        let beat = jobs::heartbeat(pool, lease, progress);
        match store::within(limit, "extend a job's lease", beat).await {
            Ok(Heartbeat::Running) => return None,
            Ok(Heartbeat::Cancelled) => return Some(Released::Cancelled),
            Err(Error::Refused { state, .. }) => {
                return Some(match state {
                    SqlState::WrongState => Released::Ended,
                    _ => Released::Lost,
                });
            }
            Err(error) if error.is_transient() => {
                tracing::warn!(
                    job.id = lease.job_id, error = %error.chain(),
                    "the lease of a job that was handed over cannot be extended"
                );
                tokio::time::sleep(TICK).await;
            }
            Err(error) => return Some(Released::Broken(error)),
        }
    }
}

async fn ended(pool: &PgPool, lease: &Lease) -> store::Result<&'static str> {
    let get = jobs::get(pool, lease.job_id);
    let job = store::within(store::patience(pool, 0), "read a job", get).await?;
    Ok(match job.map(|job| job.state) {
        Some(JobState::Succeeded) => "succeeded",
        Some(JobState::Failed) => "failed",
        _ => "lost",
    })
}

/// Tells the database how it ended, as often as it takes.
async fn settle(pool: &PgPool, lease: &Lease, mut end: End) -> store::Result<&'static str> {
    let mut failures = 0_u32;
    loop {
        let limit = store::patience(pool, failures);
        let (told, outcome) = match &end {
            End::Succeeded(result) => {
                let result = Value::Object(result.clone());
                let complete = jobs::complete(pool, lease, &result);
                (
                    store::within(limit, "complete a job", complete).await,
                    "succeeded",
                )
            }
            End::Failed { error, retry } => {
                let fail = jobs::fail(pool, lease, error, *retry);
                let failed = store::within(limit, "fail a job's attempt", fail).await;
                (failed.map(drop), "failed")
            }
            End::Halted => return Ok("lost"),
        };
        match told {
            Ok(()) => {
                tell(lease, &end);
                return Ok(outcome);
            }
            Err(Error::Refused {
                state: SqlState::BadArgument,
                message,
            }) if outcome == "succeeded" => {
                let error = format!("the run succeeded, but its result cannot be used: {message}");
                end = End::Failed {
                    error,
                    retry: false,
                };
            }
            Err(Error::Refused {
                state: SqlState::WrongState,
                ..
            }) => return ended(pool, lease).await,
            Err(Error::Refused { .. }) => return Ok("lost"),
            Err(error) if error.is_transient() => {
                failures += 1;
                tracing::warn!(job.id = lease.job_id, error = %error.chain(), "a job's end cannot be told");
                tokio::time::sleep(PATIENCE.min(TICK * 2_u32.saturating_pow(failures.min(5))))
                    .await;
            }
            Err(error) => return Err(error),
        }
    }
}

fn tell(lease: &Lease, end: &End) {
    if let End::Failed { error, retry } = end {
        tracing::warn!(
            job.id = lease.job_id,
            job.attempt = lease.attempt,
            error,
            retry,
            "a hand-over failed"
        );
    }
}

/// What is kept of a run with the job.
pub(super) fn result(
    handover: &Handover,
    run_id: &str,
    own: Option<&Map<String, Value>>,
) -> Map<String, Value> {
    let mut result = Map::new();
    result.insert("handover".to_owned(), json!(handover.name));
    result.insert("run_id".to_owned(), json!(run_id));
    result.extend(own.cloned().unwrap_or_default());
    result
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;

    fn event(to_state: JobState, attempt: i32, actor: &str) -> JobEvent {
        let running = to_state != JobState::Running;
        JobEvent {
            from_state: Some(if running {
                JobState::Running
            } else {
                JobState::Queued
            }),
            to_state,
            attempt,
            actor: actor.to_owned(),
            error: None,
            created_at: DateTime::UNIX_EPOCH,
        }
    }

    #[test]
    fn a_run_is_named_after_the_first_attempt_since_one_was_known_to_have_ended() {
        use JobState::{Queued, Running};
        let mut events = vec![event(Running, 1, "handover:a")];
        assert_eq!(first_attempt(&events, 1), 1);
        events.extend([event(Queued, 1, "driftd"), event(Running, 2, "handover:a")]);
        assert_eq!(first_attempt(&events, 2), 1, "a lease ran out");
        events.extend([
            event(Queued, 2, "handover:a"),
            event(Running, 3, "handover:a"),
        ]);
        assert_eq!(first_attempt(&events, 3), 3, "the run failed");
        events.extend([event(Queued, 3, "driftd"), event(Running, 4, "handover:a")]);
        assert_eq!(first_attempt(&events, 4), 3, "a lease ran out again");
    }
}
