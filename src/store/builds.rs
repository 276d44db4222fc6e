//! `baseline_builds`: baselines that trainers ask for, for the versions they make.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgExecutor;
use uuid::Uuid;

use super::jobs::Lease;
use super::{Error, Result};

/// A baseline to build.
#[derive(Debug, Clone, PartialEq)]
pub struct Build {
    /// Key.
    pub build_id: i64,
    /// The job that asks.
    pub job_id: i64,
    /// The model.
    pub model: String,
    /// The version that it will belong to.
    pub version: String,
    /// The baseline of the version that is retrained: whose features are wanted.
    pub parent_baseline_id: Option<String>,
    /// `{"files": ...}` or `{"topic", "offsets", ...}`.
    pub source: Value,
    /// When the builder was last heard of, which tells it from one that takes over.
    pub heard_at: DateTime<Utc>,
}

/// Asks for a baseline, as a trainer does; answers its number.
///
/// # Errors
/// [`Error::Refused`] when the lease is no longer the job's, or the source cannot be used.
pub async fn request(
    executor: impl PgExecutor<'_>,
    lease: &Lease,
    version: &str,
    source: &Value,
) -> Result<i64> {
    sqlx::query_scalar!(
        r#"-- ask for a baseline
        select driftd.request_baseline($1, $2, $3, $4, $5) as "build_id!""#,
        lease.job_id,
        lease.attempt,
        lease.token,
        version,
        source,
    )
    .fetch_one(executor)
    .await
    .map_err(Error::doing("ask for a baseline"))
}

/// How far a baseline is: `{"state": ...}`.
///
/// # Errors
/// [`Error::Refused`] when the lease is no longer the job's, or it has asked for no such baseline.
pub async fn state(executor: impl PgExecutor<'_>, lease: &Lease, build_id: i64) -> Result<Value> {
    let token: Uuid = lease.token;
    sqlx::query_scalar!(
        r#"-- how far a baseline is
        select driftd.baseline_build($1, $2, $3, $4) as "state!""#,
        lease.job_id,
        lease.attempt,
        token,
        build_id,
    )
    .fetch_one(executor)
    .await
    .map_err(Error::doing("ask how far a baseline is"))
}

/// Takes the next baseline to build; one whose builder was last heard of `stale_seconds` ago is taken
/// again.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn take(executor: impl PgExecutor<'_>, stale_seconds: f64) -> Result<Option<Build>> {
    sqlx::query_as!(
        Build,
        r#"-- take a baseline to build
        with taken as (
            update driftd.baseline_builds set state = 'building', taken_at = clock_timestamp()
            where build_id = (
                select build_id from driftd.baseline_builds
                where state = 'wanted'
                    or (state = 'building' and taken_at < now() - make_interval(secs => $1))
                order by build_id limit 1 for update skip locked)
            returning build_id, job_id, model, version, source, taken_at
        )
        select t.build_id, t.job_id, t.model, t.version, t.source,
            j.baseline_id as parent_baseline_id, t.taken_at as "heard_at!"
        from taken t join driftd.retraining_jobs j using (job_id)"#,
        stale_seconds,
    )
    .fetch_optional(executor)
    .await
    .map_err(Error::doing("take a baseline to build"))
}

/// Says that the builder still works; answers when it was heard, or `None` where another has taken over.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn still_building(
    executor: impl PgExecutor<'_>,
    build_id: i64,
    heard_at: DateTime<Utc>,
) -> Result<Option<DateTime<Utc>>> {
    sqlx::query_scalar!(
        r#"-- say that a baseline is still being built
        update driftd.baseline_builds set taken_at = clock_timestamp()
        where build_id = $1 and state = 'building' and taken_at = $2
        returning taken_at as "heard_at!""#,
        build_id,
        heard_at,
    )
    .fetch_optional(executor)
    .await
    .map_err(Error::doing("say that a baseline is still being built"))
}

/// Says what came of it: the baseline's id, or why there is none. Answers whether the build was still
/// the builder's that was last heard at `heard_at`; nothing changes if not.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn end(
    executor: impl PgExecutor<'_>,
    build_id: i64,
    heard_at: DateTime<Utc>,
    made: std::result::Result<&str, &str>,
) -> Result<bool> {
    let ended = sqlx::query!(
        r#"-- end the building of a baseline
        update driftd.baseline_builds
        set state = case when $2::text is null then 'failed' else 'ready' end, baseline_id = $2,
            error = $3, finished_at = now()
        where build_id = $1 and state = 'building' and taken_at = $4"#,
        build_id,
        made.ok(),
        made.err(),
        heard_at,
    )
    .execute(executor)
    .await
    .map_err(Error::doing("end the building of a baseline"))?;
    Ok(ended.rows_affected() > 0)
}
