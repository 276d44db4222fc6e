//! `retraining_triggers`: everything that asked for retraining, also what a guard stopped.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use sqlx::PgExecutor;

use super::{Error, Result, monitors};
use crate::monitor::Retraining;

/// What asks for retraining, with the policy it comes under.
#[derive(Debug, Clone)]
pub struct NewTrigger<'a> {
    /// `episode`, `schedule`, `age` or `volume`.
    pub kind: &'a str,
    /// The model to retrain.
    pub model: &'a str,
    /// The version to start from; `None`: the promoted one, else the newest.
    pub version: Option<&'a str>,
    /// Whose policy it is.
    pub monitor: &'a str,
    /// The moment that was due.
    pub slot: Option<DateTime<Utc>>,
    /// The episode that fired.
    pub episode_id: Option<i64>,
    /// What holds: an age or a volume of data asks once for it.
    pub condition: Option<&'a str>,
    /// What people read under "why"; an object.
    pub reason: Value,
    /// The monitor's policy, as it is stored: guards, and what the job is to say.
    pub policy: &'a Retraining,
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

/// Fires a trigger through all guards. The same slot, episode or condition again finds the answer that
/// it was given, except that an episode or condition which was stopped is looked at anew, and an episode
/// whose job has failed.
///
/// # Errors
/// When Postgres refuses it.
pub async fn fire(
    executor: impl PgExecutor<'_>,
    trigger: &NewTrigger<'_>,
    at: DateTime<Utc>,
) -> Result<Fired> {
    let policy = monitors::json(trigger.policy)?;
    sqlx::query_as!(
        Fired,
        r#"-- fire a retraining trigger
        select trigger_id as "trigger_id!", outcome as "outcome!", guard, job_id,
               detail as "detail!", created_at as "created_at!"
        from driftd.trigger_retraining(
            kind => $1, model => $2, version => $3, monitor => $4, slot => $5, episode_id => $6,
            condition => $7, reason => $8, policy => $9, guard => $10, detail => $11, at => $12)"#,
        trigger.kind,
        trigger.model,
        trigger.version,
        trigger.monitor,
        trigger.slot,
        trigger.episode_id,
        trigger.condition,
        trigger.reason,
        policy,
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

/// What an age or a volume of data is measured by.
#[derive(Debug, Clone, PartialEq)]
pub struct Standing {
    /// The version in service, else the newest.
    pub version: Option<String>,
    /// When it was registered.
    pub registered_at: Option<DateTime<Utc>>,
    /// The model's last job.
    pub last_job_id: Option<i64>,
    /// Kinds of what has asked for the model's open job.
    pub open_kinds: Vec<String>,
    /// Rows that this monitor judged since that job was enqueued, or ever.
    pub new_rows: i64,
}

/// Where a monitor's model stands. Rows are those of its windows, each row once also where windows
/// overlap.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn standing(
    executor: impl PgExecutor<'_>,
    model: &str,
    monitor: &str,
) -> Result<Standing> {
    sqlx::query_as!(
        Standing,
        r#"-- how old a model is, and how much came since
        with last_job as (
            select job_id, created_at, reasons, finished_at is null as is_open
            from driftd.retraining_jobs where model = $1 and parent_job_id is null
            order by job_id desc limit 1
        ), current as (
            select version, created_at from driftd.model_versions where model = $1
            order by stage = 'promoted' desc, created_at desc limit 1
        )
        select (select version from current) as version,
            (select created_at from current) as registered_at,
            (select job_id from last_job) as last_job_id,
            array(select distinct r ->> 'kind' from last_job, jsonb_array_elements(reasons) r
                where is_open) as "open_kinds!: Vec<String>",
            (select coalesce(round(sum(w.rows
                    * coalesce((m.settings #>> '{input,window,every_ms}')::float8
                        / (m.settings #>> '{input,window,size_ms}')::float8, 1))), 0)::bigint
                from driftd.windows w join driftd.monitors m using (monitor_id)
                where m.monitor = $2 and w.judged_at > coalesce(
                    (select created_at from last_job), '-infinity')) as "new_rows!""#,
        model,
        monitor,
    )
    .fetch_one(executor)
    .await
    .map_err(Error::doing("ask how old a model is"))
}
