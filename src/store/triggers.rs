//! `retraining_triggers`: everything that asked for retraining, also what a guard stopped.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use sqlx::PgExecutor;

use super::{Error, Result};

/// What asks for retraining, with the policy it comes under.
#[derive(Debug, Clone)]
pub struct NewTrigger<'a> {
    /// `episode`, `schedule` or `request`.
    pub kind: &'a str,
    /// The model to retrain.
    pub model: &'a str,
    /// The version to start from; `None`: the model's newest.
    pub version: Option<&'a str>,
    /// Whose policy it is.
    pub monitor: &'a str,
    /// The moment that was due.
    pub slot: Option<DateTime<Utc>>,
    /// The episode that fired.
    pub episode_id: Option<i64>,
    /// What people read under "why"; an object.
    pub reason: Value,
    /// No new job for this long after the model's last one.
    pub cooldown_seconds: f64,
    /// A job fails for good after so many attempts.
    pub max_attempts: i32,
    /// For the trainer.
    pub parameters: &'a Value,
    /// Data suggested for training; an object.
    pub training_data: &'a Value,
    /// The name of a guard of the caller's own that has stopped it.
    pub guard: Option<&'a str>,
    /// What that guard saw; an object.
    pub detail: Value,
}

/// What became of a trigger.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Fired {
    /// Key.
    pub trigger_id: i64,
    /// `enqueued`, `joined` or `stopped`.
    pub outcome: String,
    /// What kept it from becoming a job of its own.
    pub guard: Option<String>,
    /// The job it enqueued or joined.
    pub job_id: Option<i64>,
    /// What the guard saw.
    pub detail: Value,
    /// The clock's time at which this was decided.
    pub created_at: DateTime<Utc>,
}

/// Fires a trigger through all guards. The same slot or episode again finds the answer that it
/// was given, except that an episode which was stopped is looked at anew.
///
/// # Errors
/// When Postgres refuses it.
pub async fn fire(
    executor: impl PgExecutor<'_>,
    trigger: &NewTrigger<'_>,
    at: DateTime<Utc>,
) -> Result<Fired> {
    sqlx::query_as!(
        Fired,
        r#"-- fire a retraining trigger
        select trigger_id as "trigger_id!", outcome as "outcome!", guard, job_id,
               detail as "detail!", created_at as "created_at!"
        from driftd.trigger_retraining(
            kind => $1, model => $2, version => $3, monitor => $4, slot => $5, episode_id => $6,
            reason => $7, cooldown => make_interval(secs => $8), max_attempts => $9,
            parameters => $10, training_data => $11, guard => $12, detail => $13, at => $14)"#,
        trigger.kind,
        trigger.model,
        trigger.version,
        trigger.monitor,
        trigger.slot,
        trigger.episode_id,
        trigger.reason,
        trigger.cooldown_seconds,
        trigger.max_attempts,
        trigger.parameters,
        trigger.training_data,
        trigger.guard,
        trigger.detail,
        at,
    )
    .fetch_one(executor)
    .await
    .map_err(Error::doing("fire a retraining trigger"))
}

/// Asks for retraining by hand.
///
/// # Errors
/// [`Error::Refused`] when the model is not known.
pub async fn request(
    executor: impl PgExecutor<'_>,
    model: &str,
    reason: Option<&str>,
    by: &str,
) -> Result<Fired> {
    sqlx::query_as!(
        Fired,
        r#"-- request retraining
        select trigger_id as "trigger_id!", outcome as "outcome!", guard, job_id,
               detail as "detail!", created_at as "created_at!"
        from driftd.request_retraining($1, $2, $3)"#,
        model,
        reason,
        by,
    )
    .fetch_one(executor)
    .await
    .map_err(Error::doing("request retraining"))
}

/// The last slot of a monitor's schedule that was fired.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn last_slot(
    executor: impl PgExecutor<'_>,
    monitor: &str,
) -> Result<Option<DateTime<Utc>>> {
    sqlx::query_scalar!(
        r#"-- the last slot fired
        select max(slot) from driftd.retraining_triggers
        where monitor = $1 and kind = 'schedule'"#,
        monitor,
    )
    .fetch_one(executor)
    .await
    .map_err(Error::doing("read a monitor's last slot"))
}
