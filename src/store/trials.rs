//! Trials of a search for hyperparameters: rows of `retraining_jobs` that have a parent.

use serde::Serialize;
use serde_json::Value;
use sqlx::{PgConnection, PgExecutor};

use super::jobs::JobState;
use super::{Error, Result};

/// A job whose search is under way.
#[derive(Debug, Clone, PartialEq)]
pub struct Searching {
    /// Key.
    pub job_id: i64,
    /// The search, as in the settings.
    pub search: Value,
    /// What every trial is given beside what it tries; an object.
    pub parameters: Value,
}

/// A trial as far as the search has to know it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TrialRow {
    /// Its number, from 0.
    pub trial: i32,
    /// What it tries, with what all are given.
    pub parameters: Value,
    /// Where it stands.
    pub state: JobState,
    /// It was given up early.
    pub pruned: bool,
    /// What came of it.
    pub objective: Option<f64>,
    /// What it reported last.
    pub last_value: Option<f64>,
}

/// The jobs whose searches are under way and have room for another trial, or nothing more to wait for.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn searching(executor: impl PgExecutor<'_>) -> Result<Vec<i64>> {
    sqlx::query_scalar!(
        r#"-- searches under way
        select j.job_id from driftd.retraining_jobs j
        where j.state = 'searching'
            and (select count(*) from driftd.retraining_jobs t
                 where t.parent_job_id = j.job_id and t.state in ('queued', 'running'))
                < case when jsonb_typeof(j.search -> 'parallel') = 'number'
                    then greatest((j.search ->> 'parallel')::numeric, 1) else 4 end
        order by j.job_id"#
    )
    .fetch_all(executor)
    .await
    .map_err(Error::doing("look for searches"))
}

/// Locks a search until the transaction ends; `None`: another replica plans it, or it is over.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn lock(connection: &mut PgConnection, job_id: i64) -> Result<Option<Searching>> {
    sqlx::query_as!(
        Searching,
        r#"-- lock a search
        select job_id, coalesce(search, '{}') as "search!", parameters
        from driftd.retraining_jobs
        where job_id = $1 and state = 'searching' for update skip locked"#,
        job_id,
    )
    .fetch_optional(connection)
    .await
    .map_err(Error::doing("lock a search"))
}

/// The trials of a search, by number.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn of(connection: &mut PgConnection, job_id: i64) -> Result<Vec<TrialRow>> {
    sqlx::query_as!(
        TrialRow,
        r#"-- the trials of a search
        select t.trial as "trial!", t.parameters, t.state as "state: JobState",
            coalesce((t.result ->> 'pruned')::boolean, false) as "pruned!",
            (t.result ->> 'objective')::float8 as objective,
            (select v.value from driftd.trial_values v
             where v.job_id = t.job_id and v.attempt = t.attempt order by v.step desc limit 1)
                as last_value
        from driftd.retraining_jobs t where t.parent_job_id = $1 order by t.trial"#,
        job_id,
    )
    .fetch_all(connection)
    .await
    .map_err(Error::doing("read the trials of a search"))
}

/// Enqueues a trial: like its parent, but for its parameters.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn enqueue(
    connection: &mut PgConnection,
    parent_job_id: i64,
    trial: u32,
    parameters: &Value,
) -> Result<()> {
    sqlx::query!(
        r#"-- enqueue a trial
        insert into driftd.retraining_jobs (model, version, monitor, reasons, priority, max_attempts,
            baseline_id, training_data, parameters, parent_job_id, trial)
        select model, version, monitor, reasons, priority, max_attempts, baseline_id, training_data,
            $3, job_id, $2
        from driftd.retraining_jobs where job_id = $1"#,
        parent_job_id,
        i32::try_from(trial).unwrap_or(i32::MAX),
        parameters,
    )
    .execute(connection)
    .await
    .map_err(Error::doing("enqueue a trial"))?;
    Ok(())
}

/// Ends a search well: the job is queued with the best parameters.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn finish(
    connection: &mut PgConnection,
    job_id: i64,
    parameters: &Value,
    found: &Value,
) -> Result<()> {
    sqlx::query!(
        r#"-- end a search
        update driftd.retraining_jobs
        set state = 'queued', parameters = $2, run_after = now(),
            reasons = reasons || jsonb_build_array(jsonb_build_object('kind', 'search', 'at', now()) || $3)
        where job_id = $1"#,
        job_id,
        parameters,
        found,
    )
    .execute(connection)
    .await
    .map_err(Error::doing("end a search"))?;
    Ok(())
}

/// Ends a search that found nothing: the job has failed.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn fail(connection: &mut PgConnection, job_id: i64, error: &str) -> Result<()> {
    sqlx::query!(
        r#"-- fail a search
        update driftd.retraining_jobs set state = 'failed', error = $2, finished_at = now()
        where job_id = $1"#,
        job_id,
        error,
    )
    .execute(connection)
    .await
    .map_err(Error::doing("fail a search"))?;
    Ok(())
}
