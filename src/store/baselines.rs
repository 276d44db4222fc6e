//! `baselines` and `baseline_calibrations`: training distributions, immutable.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::{PgConnection, PgExecutor};

use super::{Error, Result};

/// A baseline with its stored form.
#[derive(Debug, Clone)]
pub struct Stored {
    /// Digest of its content.
    pub baseline_id: String,
    /// The model.
    pub model: String,
    /// Its version.
    pub version: String,
    /// SHA-256 over the training files.
    pub training_data_digest: String,
    /// Their names.
    pub training_data_files: Vec<String>,
    /// Rows of training data.
    pub rows: i64,
    /// The column with the event time.
    pub time_column: Option<String>,
    /// Least event time.
    pub time_from: Option<DateTime<Utc>>,
    /// Greatest event time.
    pub time_to: Option<DateTime<Utc>>,
    /// What the features are, for people and SQL.
    pub features: Value,
    /// Layout and profile, see [`crate::baseline::Baseline::decode`].
    pub profile: Vec<u8>,
    /// When it was imported.
    pub created_at: DateTime<Utc>,
}

/// One line of the list of baselines.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Listed {
    /// Digest of its content.
    pub baseline_id: String,
    /// The model.
    pub model: String,
    /// Its version.
    pub version: String,
    /// Rows of training data.
    pub rows: i64,
    /// How many features.
    pub features: i32,
    /// Least event time.
    pub time_from: Option<DateTime<Utc>>,
    /// Greatest event time.
    pub time_to: Option<DateTime<Utc>>,
    /// Window sizes in milliseconds for which it is calibrated.
    pub calibrated_ms: Vec<i64>,
    /// When it was imported.
    pub created_at: DateTime<Utc>,
}

/// Stores a baseline; answers whether it is new. The same content is found by its id.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn insert(executor: impl PgExecutor<'_>, baseline: &Stored) -> Result<bool> {
    let done = sqlx::query!(
        r#"-- store a baseline
        insert into driftd.baselines (baseline_id, model, version, training_data_digest,
            training_data_files, rows, time_column, time_from, time_to, features, profile)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
        on conflict (baseline_id) do nothing"#,
        baseline.baseline_id,
        baseline.model,
        baseline.version,
        baseline.training_data_digest,
        &baseline.training_data_files,
        baseline.rows,
        baseline.time_column,
        baseline.time_from,
        baseline.time_to,
        baseline.features,
        baseline.profile,
    )
    .execute(executor)
    .await
    .map_err(Error::doing("store a baseline"))?;
    Ok(done.rows_affected() > 0)
}

/// Names the baseline that rows of a model version are compared with. Answers the one that was
/// named before, if it is another one; then nothing is changed: a baseline is immutable.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn assign(
    connection: &mut PgConnection,
    model: &str,
    version: &str,
    baseline_id: &str,
    training_data_digest: &str,
) -> Result<Option<String>> {
    let kept = sqlx::query_scalar!(
        r#"-- name a version's baseline
        insert into driftd.model_versions as v
            (model, version, baseline_id, training_data_digest, stage, stage_reason)
        select $1, $2, $3, $4, case when is_first then 'promoted' else 'candidate' end,
            case when is_first then 'the first version of the model' end
        from (select not exists (select from driftd.model_versions o where o.model = $1)) f (is_first)
        on conflict (model, version) do update
            set baseline_id = coalesce(v.baseline_id, excluded.baseline_id),
                training_data_digest = coalesce(v.training_data_digest, excluded.training_data_digest)
        returning baseline_id"#,
        model,
        version,
        baseline_id,
        training_data_digest,
    )
    .fetch_one(connection)
    .await
    .map_err(Error::doing("name a version's baseline"))?;
    Ok(kept.filter(|kept| kept != baseline_id))
}

/// Which baselines some models have, and how they are calibrated, in one text: another text, other
/// baselines.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn named(executor: impl PgExecutor<'_>, models: &[String]) -> Result<String> {
    sqlx::query_scalar!(
        r#"-- which baselines models have
        select coalesce(string_agg(concat_ws(' ', v.model, v.version, v.baseline_id, c.calibrated),
            e'\n' order by v.model, v.version), '') as "named!"
        from driftd.model_versions v
            left join lateral (
                select string_agg(c.window_ms::text || '@' || c.created_at::text, ',' order by c.window_ms)
                    as calibrated
                from driftd.baseline_calibrations c where c.baseline_id = v.baseline_id) c on true
        where v.model = any ($1) and v.baseline_id is not null"#,
        models,
    )
    .fetch_one(executor)
    .await
    .map_err(Error::doing("look for baselines"))
}

/// Stores what was learned from a baseline's windows of a size; it replaces what was there, since
/// a later driftd may learn better from the same windows.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn store_calibration(
    executor: impl PgExecutor<'_>,
    baseline_id: &str,
    window_ms: i64,
    windows: i32,
    calibration: &Value,
) -> Result<()> {
    sqlx::query!(
        r#"-- store a calibration
        insert into driftd.baseline_calibrations (baseline_id, window_ms, every_ms, windows, calibration)
        values ($1, $2, $2, $3, $4)
        on conflict (baseline_id, window_ms, every_ms) do update
            set windows = excluded.windows, calibration = excluded.calibration"#,
        baseline_id,
        window_ms,
        windows,
        calibration,
    )
    .execute(executor)
    .await
    .map_err(Error::doing("store a calibration"))?;
    Ok(())
}

/// What was learned from a baseline's windows of a size.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn calibration(
    executor: impl PgExecutor<'_>,
    baseline_id: &str,
    window_ms: i64,
) -> Result<Option<Value>> {
    sqlx::query_scalar!(
        r#"-- read a calibration
        select calibration from driftd.baseline_calibrations
        where baseline_id = $1 and window_ms = $2"#,
        baseline_id,
        window_ms,
    )
    .fetch_optional(executor)
    .await
    .map_err(Error::doing("read a calibration"))
}

/// The baselines of a model's versions.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn of_model(executor: impl PgExecutor<'_>, model: &str) -> Result<Vec<Stored>> {
    sqlx::query_as!(
        Stored,
        r#"-- the baselines of a model's versions
        select b.baseline_id, b.model, v.version, b.training_data_digest, b.training_data_files,
            b.rows, b.time_column, b.time_from, b.time_to, b.features, b.profile, b.created_at
        from driftd.model_versions v join driftd.baselines b using (baseline_id)
        where v.model = $1 order by v.version"#,
        model,
    )
    .fetch_all(executor)
    .await
    .map_err(Error::doing("read the baselines of a model"))
}

/// The baselines whose id starts so.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn find(executor: impl PgExecutor<'_>, prefix: &str) -> Result<Vec<Stored>> {
    sqlx::query_as!(
        Stored,
        r#"-- baselines by the start of their id
        select baseline_id, model, version, training_data_digest, training_data_files, rows,
            time_column, time_from, time_to, features, profile, created_at
        from driftd.baselines where starts_with(baseline_id, $1) order by baseline_id limit 3"#,
        prefix,
    )
    .fetch_all(executor)
    .await
    .map_err(Error::doing("look for a baseline"))
}

/// All baselines, newest first.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn list(executor: impl PgExecutor<'_>, model: Option<&str>) -> Result<Vec<Listed>> {
    sqlx::query_as!(
        Listed,
        r#"-- list baselines
        select baseline_id, model, version, rows, jsonb_array_length(features) as "features!",
            time_from, time_to, created_at,
            array(select c.window_ms from driftd.baseline_calibrations c
                where c.baseline_id = b.baseline_id order by 1) as "calibrated_ms!"
        from driftd.baselines b
        where $1::text is null or model = $1
        order by created_at desc, baseline_id"#,
        model,
    )
    .fetch_all(executor)
    .await
    .map_err(Error::doing("list baselines"))
}
