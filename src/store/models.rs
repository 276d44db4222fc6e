//! `models` and `model_versions`.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use sqlx::PgExecutor;

use super::{Error, Result};

/// One version of a model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModelVersion {
    /// The model.
    pub model: String,
    /// The version.
    pub version: String,
    /// `candidate`, `promoted`, `superseded` or `retired`.
    pub stage: String,
    /// Why it is in that stage.
    pub stage_reason: Option<String>,
    /// What its rows are compared with.
    pub baseline_id: Option<String>,
    /// The version it was retrained from.
    pub parent_version: Option<String>,
    /// The job that made it.
    pub job_id: Option<i64>,
    /// SHA-256 of what it was trained on.
    pub training_data_digest: Option<String>,
    /// The same in full: URIs, offset ranges, rows, time range.
    pub training_data: Value,
    /// Where the trainer put it.
    pub artifact_uri: Option<String>,
    /// What the trainer measured, name to number.
    pub metrics: Value,
    /// The hyperparameters it was trained with.
    pub parameters: Value,
    /// What trained it.
    pub code: Option<String>,
    /// When it was registered.
    pub created_at: DateTime<Utc>,
}

/// A change of a version's stage.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StageEvent {
    /// `None`: it was registered.
    pub from_stage: Option<String>,
    /// Where it went.
    pub to_stage: String,
    /// Who said so.
    pub actor: String,
    /// Why.
    pub reason: Option<String>,
    /// When.
    pub created_at: DateTime<Utc>,
}

/// Rows of versions that have no baseline, or that nobody registered.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Unknown {
    /// The model.
    pub model: String,
    /// Rows judged.
    pub rows: i64,
    /// Start of the first window with some.
    pub first_window: DateTime<Utc>,
    /// Start of the last one.
    pub last_window: DateTime<Utc>,
}

/// Where a version comes from: a row of the view `model_lineage`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[expect(
    missing_docs,
    reason = "the view's columns are described where it is made"
)]
pub struct Lineage {
    pub model: String,
    pub version: String,
    pub stage: String,
    pub parent_version: Option<String>,
    pub created_at: DateTime<Utc>,
    pub artifact_uri: Option<String>,
    pub metrics: Value,
    pub training_data_digest: Option<String>,
    pub training_data: Value,
    pub baseline_id: Option<String>,
    pub baseline_rows: Option<i64>,
    pub baseline_from: Option<DateTime<Utc>>,
    pub baseline_to: Option<DateTime<Utc>>,
    pub job_id: Option<i64>,
    pub reasons: Option<Value>,
    pub worker: Option<String>,
    pub attempt: Option<i32>,
    pub suggested_data: Option<Value>,
    pub parent_baseline_id: Option<String>,
    pub parent_digest: Option<String>,
    pub drift: Option<Value>,
    pub extends_baseline_id: Option<String>,
    pub added_windows: Option<Value>,
}

/// Makes a model known; known already is fine.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn register(executor: impl PgExecutor<'_>, model: &str) -> Result<()> {
    sqlx::query!(
        r#"-- make a model known
        insert into driftd.models (model) values ($1) on conflict do nothing"#,
        model,
    )
    .execute(executor)
    .await
    .map_err(Error::doing("register a model"))?;
    Ok(())
}

/// Makes a version known and, when a baseline is given, says that its rows are compared with
/// that one from now on. The model has to be known; its first version is the one in service.
///
/// # Errors
/// When Postgres cannot be asked, or there is no such model or baseline.
pub async fn register_version(
    executor: impl PgExecutor<'_>,
    model: &str,
    version: &str,
    baseline_id: Option<&str>,
) -> Result<()> {
    sqlx::query!(
        r#"-- make a model version known
        insert into driftd.model_versions as v (model, version, baseline_id, stage, stage_reason)
        select $1, $2, $3, case when is_first then 'promoted' else 'candidate' end,
            case when is_first then 'the first version of the model' end
        from (select not exists (select from driftd.model_versions o where o.model = $1)) f (is_first)
        on conflict (model, version) do update set baseline_id = excluded.baseline_id
        where excluded.baseline_id is not null
          and v.baseline_id is distinct from excluded.baseline_id"#,
        model,
        version,
        baseline_id,
    )
    .execute(executor)
    .await
    .map_err(Error::doing("register a model version"))?;
    Ok(())
}

/// The baseline that rows of a version are compared with, if there is one.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn baseline_id(
    executor: impl PgExecutor<'_>,
    model: &str,
    version: &str,
) -> Result<Option<String>> {
    let row = sqlx::query_scalar!(
        r#"-- the baseline of a model version
        select baseline_id from driftd.model_versions where model = $1 and version = $2"#,
        model,
        version,
    )
    .fetch_optional(executor)
    .await
    .map_err(Error::doing("read the baseline of a model version"))?;
    Ok(row.flatten())
}

/// Versions of any or one model, newest first.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn list(executor: impl PgExecutor<'_>, model: Option<&str>) -> Result<Vec<ModelVersion>> {
    sqlx::query_as!(
        ModelVersion,
        r#"-- the versions of models
        select model, version, stage, stage_reason, baseline_id, parent_version, job_id,
               training_data_digest, training_data, artifact_uri, metrics, parameters, code, created_at
        from driftd.model_versions where $1::text is null or model = $1
        order by model, created_at desc, version desc"#,
        model,
    )
    .fetch_all(executor)
    .await
    .map_err(Error::doing("read the versions of models"))
}

/// Every stage that a version has been in, first to last.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn events(
    executor: impl PgExecutor<'_>,
    model: &str,
    version: &str,
) -> Result<Vec<StageEvent>> {
    sqlx::query_as!(
        StageEvent,
        r#"-- the stages of a version
        select from_stage, to_stage, actor, reason, created_at
        from driftd.model_version_events where model = $1 and version = $2 order by event_id"#,
        model,
        version,
    )
    .fetch_all(executor)
    .await
    .map_err(Error::doing("read the stages of a version"))
}

/// Rows that were compared with nothing, per model: those whose version has no baseline.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn unknown(executor: impl PgExecutor<'_>, model: Option<&str>) -> Result<Vec<Unknown>> {
    sqlx::query_as!(
        Unknown,
        r#"-- rows of unknown versions
        select m.model, sum(w.rows)::bigint as "rows!", min(w.window_start) as "first_window!",
            max(w.window_start) as "last_window!"
        from driftd.windows w join driftd.monitors m using (monitor_id)
        where w.baseline_id is null and w.rows > 0 and ($1::text is null or m.model = $1)
        group by m.model order by m.model"#,
        model,
    )
    .fetch_all(executor)
    .await
    .map_err(Error::doing("count rows of unknown versions"))
}

/// Puts a version into service; the one before is superseded.
///
/// # Errors
/// [`Error::Refused`] when there is no such version, or it is retired.
pub async fn promote(
    executor: impl PgExecutor<'_>,
    model: &str,
    version: &str,
    by: &str,
    reason: Option<&str>,
) -> Result<()> {
    sqlx::query_scalar!(
        r#"-- promote a version
        select driftd.promote_version($1, $2, $3, $4) as "stage!""#,
        model,
        version,
        by,
        reason,
    )
    .fetch_one(executor)
    .await
    .map_err(Error::doing("promote a version"))?;
    Ok(())
}

/// Says that a version is not to be used any more.
///
/// # Errors
/// [`Error::Refused`] when there is no such version, or it is in service.
pub async fn retire(
    executor: impl PgExecutor<'_>,
    model: &str,
    version: &str,
    by: &str,
    reason: Option<&str>,
) -> Result<()> {
    sqlx::query_scalar!(
        r#"-- retire a version
        select driftd.retire_version($1, $2, $3, $4) as "stage!""#,
        model,
        version,
        by,
        reason,
    )
    .fetch_one(executor)
    .await
    .map_err(Error::doing("retire a version"))?;
    Ok(())
}

/// Where a version comes from.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn lineage(
    executor: impl PgExecutor<'_>,
    model: &str,
    version: &str,
) -> Result<Option<Lineage>> {
    sqlx::query_as!(
        Lineage,
        r#"-- where a version comes from
        select model as "model!", version as "version!", stage as "stage!", parent_version,
            created_at as "created_at!", artifact_uri, metrics as "metrics!", training_data_digest,
            training_data as "training_data!", baseline_id, baseline_rows as "baseline_rows?",
            baseline_from, baseline_to, job_id, reasons as "reasons?", worker, attempt as "attempt?",
            suggested_data as "suggested_data?", parent_baseline_id, parent_digest as "parent_digest?",
            drift, extends_baseline_id, added_windows
        from driftd.model_lineage where model = $1 and version = $2"#,
        model,
        version,
    )
    .fetch_optional(executor)
    .await
    .map_err(Error::doing("trace a version"))
}
