//! `models` and `model_versions`.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::PgExecutor;

use super::{Error, Result};

/// One version of a model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModelVersion {
    /// The model.
    pub model: String,
    /// The version.
    pub version: String,
    /// What its rows are compared with.
    pub baseline_id: Option<String>,
    /// The version it was retrained from.
    pub parent_version: Option<String>,
    /// The job that made it.
    pub job_id: Option<i64>,
    /// Digest of what it was trained on.
    pub training_data_digest: Option<String>,
    /// Where the trainer put it.
    pub artifact_uri: Option<String>,
    /// When it was registered.
    pub created_at: DateTime<Utc>,
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
/// that one from now on. The model has to be known.
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
        insert into driftd.model_versions as v (model, version, baseline_id) values ($1, $2, $3)
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

/// All versions of a model, oldest first.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn versions(executor: impl PgExecutor<'_>, model: &str) -> Result<Vec<ModelVersion>> {
    sqlx::query_as!(
        ModelVersion,
        r#"-- the versions of a model
        select model, version, baseline_id, parent_version, job_id, training_data_digest,
               artifact_uri, created_at
        from driftd.model_versions where model = $1 order by created_at, version"#,
        model,
    )
    .fetch_all(executor)
    .await
    .map_err(Error::doing("read the versions of a model"))
}
