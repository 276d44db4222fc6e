//! `retraining_jobs`: thin calls of the SQL functions that hold the rules, and reading.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use sqlx::PgExecutor;
use uuid::Uuid;

use super::{Error, Result};

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "driftd.job_state", rename_all = "snake_case")]
pub enum JobState {
    /// Waits for a person.
    AwaitingApproval,
    /// Waits for the trials of its search.
    Searching,
    /// Waits for a trainer.
    Queued,
    /// A trainer holds its lease.
    Running,
    /// Done.
    Succeeded,
    /// Failed for good.
    Failed,
    /// Taken back.
    Cancelled,
}

impl JobState {
    /// The open states: while a job is in one of them, its model gets no second job.
    pub const OPEN: [Self; 4] = [
        Self::AwaitingApproval,
        Self::Searching,
        Self::Queued,
        Self::Running,
    ];

    /// As in SQL and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AwaitingApproval => "awaiting_approval",
            Self::Searching => "searching",
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// One retraining job, as its table has it; the lease token is its worker's alone.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Job {
    /// Key.
    pub job_id: i64,
    /// The model to retrain.
    pub model: String,
    /// The version to start from.
    pub version: Option<String>,
    /// Whose policy enqueued it; `None`: asked for by hand.
    pub monitor: Option<String>,
    /// Why: an array of objects, first to last.
    pub reasons: Value,
    /// Where it stands.
    pub state: JobState,
    /// Higher is claimed first.
    pub priority: i32,
    /// Not claimed before.
    pub run_after: DateTime<Utc>,
    /// Claims so far.
    pub attempt: i32,
    /// It fails for good after so many.
    pub max_attempts: i32,
    /// Who has it or had it last.
    pub worker: Option<String>,
    /// When its lease runs out.
    pub lease_expires_at: Option<DateTime<Utc>>,
    /// What the version was trained on.
    pub baseline_id: Option<String>,
    /// Data suggested for training.
    pub training_data: Value,
    /// From the settings and the search, for the trainer.
    pub parameters: Value,
    /// The search for hyperparameters.
    pub search: Option<Value>,
    /// The job whose search it is a trial of.
    pub parent_job_id: Option<i64>,
    /// Its number there.
    pub trial: Option<i32>,
    /// What becomes of the version that it makes.
    pub promotion: Value,
    /// What the trainer said last.
    pub progress: Option<Value>,
    /// What the trainer made.
    pub result: Option<Value>,
    /// Why the last attempt failed.
    pub error: Option<String>,
    /// When it was enqueued.
    pub created_at: DateTime<Utc>,
    /// When the current or last attempt started.
    pub started_at: Option<DateTime<Utc>>,
    /// When it succeeded, failed or was cancelled.
    pub finished_at: Option<DateTime<Utc>>,
}

/// What a worker proves itself with: all three have to be current.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// The job.
    pub job_id: i64,
    /// Which claim of it.
    pub attempt: i32,
    /// Drawn at that claim.
    pub token: Uuid,
}

/// One transition of a job.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct JobEvent {
    /// `None`: it was enqueued.
    pub from_state: Option<JobState>,
    /// Where it went.
    pub to_state: JobState,
    /// Claims so far.
    pub attempt: i32,
    /// Who did it.
    pub actor: String,
    /// Why, where it went wrong.
    pub error: Option<String>,
    /// When.
    pub created_at: DateTime<Utc>,
}

/// A line that a trainer printed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LogLine {
    /// In which attempt.
    pub attempt: i32,
    /// The line.
    pub line: String,
    /// When it was kept.
    pub created_at: DateTime<Utc>,
}

/// What a heartbeat is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heartbeat {
    /// Go on.
    Running,
    /// Stop: somebody took the job back.
    Cancelled,
}

/// Claims the first job that is due, of any model or of one.
///
/// # Errors
/// [`Error::Refused`] when the lease's length or the worker's name cannot be used.
pub async fn claim(
    executor: impl PgExecutor<'_>,
    worker: &str,
    model: Option<&str>,
    lease_seconds: f64,
) -> Result<Option<Lease>> {
    let claimed = claim_document(executor, worker, model, lease_seconds).await?;
    Ok(claimed.map(|claimed| claimed.lease))
}

/// A job that was claimed, with what its trainer is given.
#[derive(Debug, Clone, PartialEq)]
pub struct Claimed {
    /// What proves that it is ours.
    pub lease: Lease,
    /// By `docs/schemas/job.v1.json`.
    pub document: Value,
}

/// Claims as [`claim`] does, with the job's document.
///
/// # Errors
/// [`Error::Refused`] when the lease's length or the worker's name cannot be used.
pub async fn claim_document(
    executor: impl PgExecutor<'_>,
    worker: &str,
    model: Option<&str>,
    lease_seconds: f64,
) -> Result<Option<Claimed>> {
    let row = sqlx::query!(
        r#"-- claim a retraining job with its document
        select job_id as "job_id!", attempt as "attempt!", lease_token as "token!",
            driftd.job_document(j) as "document!"
        from driftd.claim_job($1, $2, make_interval(secs => $3)) j"#,
        worker,
        model,
        lease_seconds,
    )
    .fetch_optional(executor)
    .await
    .map_err(Error::doing("claim a retraining job"))?;
    Ok(row.map(|row| Claimed {
        lease: Lease {
            job_id: row.job_id,
            attempt: row.attempt,
            token: row.token,
        },
        document: row.document,
    }))
}

/// Takes over what a worker of this name has left behind: a job whose lease still runs but was not
/// extended for half of its length, or one that was cancelled and not let go since. The lease stays
/// the same one; of several replicas one gets it.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn take_over(
    executor: impl PgExecutor<'_>,
    worker: &str,
    model: &str,
) -> Result<Option<Lease>> {
    sqlx::query_as!(
        Lease,
        r#"-- take over a job that was left behind
        update driftd.retraining_jobs j set lease_expires_at = now() + j.lease
        where j.job_id = (
            select c.job_id from driftd.retraining_jobs c
            where c.model = $2 and c.worker = $1 and c.lease_token is not null
              and c.lease_expires_at <= now() + c.lease / 2
              and (c.state = 'cancelled' or (c.state = 'running' and c.lease_expires_at > now()))
            order by c.job_id
            limit 1
            for update skip locked)
        returning j.job_id, j.attempt, j.lease_token as "token!""#,
        worker,
        model,
    )
    .fetch_optional(executor)
    .await
    .map_err(Error::doing("take over a job"))
}

/// Leaves a running job behind, to be taken over at once.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn leave(executor: impl PgExecutor<'_>, lease: &Lease) -> Result<()> {
    sqlx::query!(
        r#"-- leave a job behind
        update driftd.retraining_jobs set lease_expires_at = now() + lease / 2
        where job_id = $1 and attempt = $2 and lease_token = $3 and state = 'running'
          and lease_expires_at > now()"#,
        lease.job_id,
        lease.attempt,
        lease.token,
    )
    .execute(executor)
    .await
    .map_err(Error::doing("leave a job behind"))?;
    Ok(())
}

/// Lets a cancelled job go: its worker has done what there was to do.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn let_go(executor: impl PgExecutor<'_>, lease: &Lease) -> Result<()> {
    sqlx::query!(
        r#"-- let a cancelled job go
        update driftd.retraining_jobs set lease_expires_at = null
        where job_id = $1 and attempt = $2 and lease_token = $3 and state = 'cancelled'"#,
        lease.job_id,
        lease.attempt,
        lease.token,
    )
    .execute(executor)
    .await
    .map_err(Error::doing("let a cancelled job go"))?;
    Ok(())
}

/// What the trainer of a job is given, by `docs/schemas/job.v1.json`.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn document(executor: impl PgExecutor<'_>, job_id: i64) -> Result<Option<Value>> {
    sqlx::query_scalar!(
        r#"-- a job's document
        select driftd.job_document(j) as "document!" from driftd.retraining_jobs j where job_id = $1"#,
        job_id,
    )
    .fetch_optional(executor)
    .await
    .map_err(Error::doing("read a job's document"))
}

/// Extends a lease.
///
/// # Errors
/// [`Error::Refused`] when the lease is no longer the job's.
pub async fn heartbeat(
    executor: impl PgExecutor<'_>,
    lease: &Lease,
    progress: Option<&Value>,
) -> Result<Heartbeat> {
    let state = sqlx::query_scalar!(
        r#"-- extend a job's lease
        select driftd.heartbeat_job($1, $2, $3, $4) as "state!""#,
        lease.job_id,
        lease.attempt,
        lease.token,
        progress,
    )
    .fetch_one(executor)
    .await
    .map_err(Error::doing("extend a job's lease"))?;
    Ok(if state == "cancelled" {
        Heartbeat::Cancelled
    } else {
        Heartbeat::Running
    })
}

/// Ends a job well; registers the model version that the result names.
///
/// # Errors
/// [`Error::Refused`] when the lease is no longer the job's or the result cannot be used.
pub async fn complete(executor: impl PgExecutor<'_>, lease: &Lease, result: &Value) -> Result<()> {
    sqlx::query_scalar!(
        r#"-- complete a job
        select driftd.complete_job($1, $2, $3, $4) as "state!""#,
        lease.job_id,
        lease.attempt,
        lease.token,
        result,
    )
    .fetch_one(executor)
    .await
    .map_err(Error::doing("complete a job"))?;
    Ok(())
}

/// Ends an attempt badly. Answers whether the job will be tried again.
///
/// # Errors
/// [`Error::Refused`] when the lease is no longer the job's.
pub async fn fail(
    executor: impl PgExecutor<'_>,
    lease: &Lease,
    error: &str,
    retry: bool,
) -> Result<bool> {
    let state = sqlx::query_scalar!(
        r#"-- fail a job's attempt
        select driftd.fail_job($1, $2, $3, $4, $5) as "state!""#,
        lease.job_id,
        lease.attempt,
        lease.token,
        error,
        retry,
    )
    .fetch_one(executor)
    .await
    .map_err(Error::doing("fail a job's attempt"))?;
    Ok(state == "queued")
}

/// Takes an open job back; cancelling a cancelled job is no error.
///
/// # Errors
/// [`Error::Refused`] when there is no such job or it has ended.
pub async fn cancel(executor: impl PgExecutor<'_>, job_id: i64, by: &str) -> Result<()> {
    sqlx::query_scalar!(
        r#"-- cancel a job
        select driftd.cancel_job($1, $2) as "state!""#,
        job_id,
        by,
    )
    .fetch_one(executor)
    .await
    .map_err(Error::doing("cancel a job"))?;
    Ok(())
}

/// Lets a job that waits for an approval into the queue; answers its state then.
///
/// # Errors
/// [`Error::Refused`] when there is no such job or it has ended.
pub async fn approve(executor: impl PgExecutor<'_>, job_id: i64, by: &str) -> Result<String> {
    sqlx::query_scalar!(
        r#"-- approve a job
        select driftd.approve_job($1, $2) as "state!""#,
        job_id,
        by,
    )
    .fetch_one(executor)
    .await
    .map_err(Error::doing("approve a job"))
}

/// Puts a job that failed or was cancelled into the queue again.
///
/// # Errors
/// [`Error::Refused`] when there is no such job, it is in another state, or its model has an open one.
pub async fn retry(executor: impl PgExecutor<'_>, job_id: i64, by: &str) -> Result<String> {
    sqlx::query_scalar!(
        r#"-- try a job again
        select driftd.retry_job($1, $2) as "state!""#,
        job_id,
        by,
    )
    .fetch_one(executor)
    .await
    .map_err(Error::doing("try a job again"))
}

/// Says what a trial's objective is worth at a step; answers `continue`, `prune` or `cancelled`.
///
/// # Errors
/// [`Error::Refused`] when the lease is no longer the job's, or it is no trial.
pub async fn report_trial(
    executor: impl PgExecutor<'_>,
    lease: &Lease,
    step: i64,
    value: f64,
) -> Result<String> {
    sqlx::query_scalar!(
        r#"-- what a trial is worth at a step
        select driftd.report_trial($1, $2, $3, $4, $5) as "answer!""#,
        lease.job_id,
        lease.attempt,
        lease.token,
        step,
        value,
    )
    .fetch_one(executor)
    .await
    .map_err(Error::doing("say what a trial is worth"))
}

/// Keeps lines that a trainer printed.
///
/// # Errors
/// [`Error::Refused`] when the lease is no longer the job's.
pub async fn log(executor: impl PgExecutor<'_>, lease: &Lease, lines: &[String]) -> Result<()> {
    sqlx::query_scalar!(
        r#"-- keep a trainer's lines
        select driftd.log_job($1, $2, $3, $4) as "lines!""#,
        lease.job_id,
        lease.attempt,
        lease.token,
        lines,
    )
    .fetch_one(executor)
    .await
    .map_err(Error::doing("keep a trainer's lines"))?;
    Ok(())
}

/// The last lines that trainers of a job printed, oldest first.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn last_lines(
    executor: impl PgExecutor<'_>,
    job_id: i64,
    limit: i64,
) -> Result<Vec<LogLine>> {
    sqlx::query_as!(
        LogLine,
        r#"-- the last lines of a job
        select attempt as "attempt!", line as "line!", created_at as "created_at!" from (
            select log_id, attempt, line, created_at from driftd.retraining_job_logs
            where job_id = $1 order by log_id desc limit $2) l
        order by log_id"#,
        job_id,
        limit,
    )
    .fetch_all(executor)
    .await
    .map_err(Error::doing("read a job's lines"))
}

/// Says how many jobs may run at a time; `None`: as many as there are workers.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn set_limits(
    executor: impl PgExecutor<'_>,
    max_running: Option<i32>,
    max_running_per_model: Option<i32>,
) -> Result<()> {
    sqlx::query!(
        r#"-- say how many jobs may run
        update driftd.retraining_limits set max_running = $1, max_running_per_model = $2
        where (max_running, max_running_per_model) is distinct from ($1, $2)"#,
        max_running,
        max_running_per_model,
    )
    .execute(executor)
    .await
    .map_err(Error::doing("say how many jobs may run"))?;
    Ok(())
}

/// Returns jobs whose lease ran out to the queue, or fails them for good. Answers how many.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn return_expired_leases(executor: impl PgExecutor<'_>) -> Result<i32> {
    sqlx::query_scalar!(
        r#"-- return expired leases
        select driftd.return_expired_leases() as "returned!""#,
    )
    .fetch_one(executor)
    .await
    .map_err(Error::doing("return expired leases"))
}

/// One job.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn get(executor: impl PgExecutor<'_>, job_id: i64) -> Result<Option<Job>> {
    sqlx::query_as!(
        Job,
        r#"-- read one job
        select job_id, model, version, monitor, reasons, state as "state: JobState", priority,
               run_after, attempt, max_attempts, worker, lease_expires_at, baseline_id,
               training_data, parameters, search, parent_job_id, trial, promotion, progress,
               result, error, created_at, started_at, finished_at
        from driftd.retraining_jobs where job_id = $1"#,
        job_id,
    )
    .fetch_optional(executor)
    .await
    .map_err(Error::doing("read a job"))
}

/// Jobs of any or one model in any or some states: open ones first as they will be claimed, then
/// the others, newest first.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn list(
    executor: impl PgExecutor<'_>,
    model: Option<&str>,
    states: &[JobState],
    limit: i64,
) -> Result<Vec<Job>> {
    let states: Vec<String> = states
        .iter()
        .map(|state| state.as_str().to_owned())
        .collect();
    sqlx::query_as!(
        Job,
        r#"-- list jobs
        select job_id, model, version, monitor, reasons, state as "state: JobState", priority,
               run_after, attempt, max_attempts, worker, lease_expires_at, baseline_id,
               training_data, parameters, search, parent_job_id, trial, promotion, progress,
               result, error, created_at, started_at, finished_at
        from driftd.retraining_jobs
        where ($1::text is null or model = $1)
          and (cardinality($2::text[]) = 0 or state::text = any($2))
        order by finished_at is null desc, state = 'running' desc,
                 case when finished_at is null then priority end desc,
                 case when finished_at is null then run_after end, finished_at desc, job_id
        limit $3"#,
        model,
        &states,
        limit,
    )
    .fetch_all(executor)
    .await
    .map_err(Error::doing("list jobs"))
}

/// The transitions of a job, first to last.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn events(executor: impl PgExecutor<'_>, job_id: i64) -> Result<Vec<JobEvent>> {
    sqlx::query_as!(
        JobEvent,
        r#"-- read a job's transitions
        select from_state as "from_state: JobState", to_state as "to_state: JobState", attempt,
               actor, error, created_at
        from driftd.retraining_job_events where job_id = $1 order by event_id"#,
        job_id,
    )
    .fetch_all(executor)
    .await
    .map_err(Error::doing("read a job's transitions"))
}

/// How many jobs are in each state that has any: for metrics.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn count_by_state(executor: impl PgExecutor<'_>) -> Result<Vec<(JobState, i64)>> {
    let rows = sqlx::query!(
        r#"-- count jobs by state
        select s.state as "state!: JobState", count(j.job_id) as "jobs!"
        from unnest(enum_range(null::driftd.job_state)) as s (state)
            left join driftd.retraining_jobs j on j.state = s.state
        group by s.state order by s.state"#,
    )
    .fetch_all(executor)
    .await
    .map_err(Error::doing("count jobs"))?;
    Ok(rows.into_iter().map(|row| (row.state, row.jobs)).collect())
}
