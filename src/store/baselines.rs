//! `baselines` and `baseline_windows`: training distributions, immutable.

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

/// What it takes to read rows by the bins of a version's baseline.
#[derive(Debug, Clone)]
pub struct Outline {
    /// The model.
    pub model: String,
    /// Its version.
    pub version: String,
    /// Digest of the baseline's content.
    pub baseline_id: String,
    /// Its layout; `None`: what is stored is cut short.
    pub layout: Option<Vec<u8>>,
    /// The ids of the baselines that it extends.
    pub extends: Vec<String>,
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
    /// Length of the slots of time that its windows come from; `None` without a time column.
    pub slot_ms: Option<i64>,
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
/// named before, if it is another one; then nothing is changed: a baseline is immutable. The digest is
/// that of the data which the version was trained on, where the baseline is of the same.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn assign(
    connection: &mut PgConnection,
    model: &str,
    version: &str,
    baseline_id: &str,
    training_data_digest: Option<&str>,
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

/// Which baselines some models have, and in which slots of time, in one text: another text, other
/// baselines.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn named(executor: impl PgExecutor<'_>, models: &[String]) -> Result<String> {
    sqlx::query_scalar!(
        r#"-- which baselines models have
        select coalesce(string_agg(concat_ws(' ', v.model, v.version, v.baseline_id, s.slot_ms),
            e'\n' order by v.model, v.version), '') as "named!"
        from driftd.model_versions v left join driftd.baseline_windows s using (baseline_id)
        where v.model = any ($1) and v.baseline_id is not null"#,
        models,
    )
    .fetch_one(executor)
    .await
    .map_err(Error::doing("look for baselines"))
}

/// Stores the rows of a baseline by time. The same content is found by its id.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn store_windows(
    executor: impl PgExecutor<'_>,
    baseline_id: &str,
    slot_ms: i64,
    slots: &[u8],
) -> Result<()> {
    sqlx::query!(
        r#"-- store the rows of a baseline by time
        insert into driftd.baseline_windows (baseline_id, slot_ms, slots) values ($1, $2, $3)
        on conflict (baseline_id) do update set slot_ms = excluded.slot_ms, slots = excluded.slots
        where baseline_windows.slot_ms > excluded.slot_ms"#,
        baseline_id,
        slot_ms,
        slots,
    )
    .execute(executor)
    .await
    .map_err(Error::doing("store the rows of a baseline by time"))?;
    Ok(())
}

/// The rows of a baseline by time; see [`crate::baseline::windows::Slots`].
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn windows(executor: impl PgExecutor<'_>, baseline_id: &str) -> Result<Option<Vec<u8>>> {
    sqlx::query_scalar!(
        r#"-- read the rows of a baseline by time
        select slots from driftd.baseline_windows where baseline_id = $1"#,
        baseline_id,
    )
    .fetch_optional(executor)
    .await
    .map_err(Error::doing("read the rows of a baseline by time"))
}

/// Gives a version the baseline that it has with so many windows of a monitor more, if it is due: see
/// `driftd.extend_baseline`. Answers its id.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn extend(
    executor: impl PgExecutor<'_>,
    monitor_id: i64,
    version: &str,
    missing: i32,
) -> Result<Option<String>> {
    sqlx::query_scalar!(
        r#"-- extend a baseline
        select driftd.extend_baseline($1, $2, $3)"#,
        monitor_id,
        version,
        missing,
    )
    .fetch_one(executor)
    .await
    .map_err(Error::doing("extend a baseline"))
}

/// What was added to a baseline: what windows of a monitor answered, in order.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn added(
    executor: impl PgExecutor<'_>,
    baseline_id: &str,
    monitor_id: i64,
) -> Result<Vec<Vec<u8>>> {
    sqlx::query_scalar!(
        r#"-- read what was added to a baseline
        select answers from driftd.baseline_added_windows
        where baseline_id = $1 and monitor_id = $2 order by window_start"#,
        baseline_id,
        monitor_id,
    )
    .fetch_all(executor)
    .await
    .map_err(Error::doing("read what was added to a baseline"))
}

/// The outlines of the baselines of some models. The layout stands before the profile, behind its length
/// in eight bytes, least first; only so much of a baseline is read.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn outlines(executor: impl PgExecutor<'_>, models: &[String]) -> Result<Vec<Outline>> {
    sqlx::query_as!(
        Outline,
        r#"-- the outlines of baselines
        select v.model, v.version, b.baseline_id,
            case when length(b.profile) > 8 then substring(b.profile from 9 for
                get_byte(b.profile, 0) + 256 * (get_byte(b.profile, 1)
                + 256 * (get_byte(b.profile, 2) + 256 * (get_byte(b.profile, 3) & 127)))) end as layout,
            array(select driftd.extended_baselines(b.baseline_id)) as "extends!"
        from driftd.model_versions v join driftd.baselines b using (baseline_id)
        where v.model = any ($1) order by v.model, v.version"#,
        models,
    )
    .fetch_all(executor)
    .await
    .map_err(Error::doing("read the outlines of baselines"))
}

/// Layout and profile of a baseline; see [`crate::baseline::Baseline::decode`].
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn profile(executor: impl PgExecutor<'_>, baseline_id: &str) -> Result<Option<Vec<u8>>> {
    sqlx::query_scalar!(
        r#"-- read a baseline
        select profile from driftd.baselines where baseline_id = $1"#,
        baseline_id,
    )
    .fetch_optional(executor)
    .await
    .map_err(Error::doing("read a baseline"))
}

/// The baseline's own id, and those of the baselines that it extends: with the same profile and bins.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn chain(executor: impl PgExecutor<'_>, baseline_id: &str) -> Result<Vec<String>> {
    sqlx::query_scalar!(
        r#"-- the baselines that a baseline extends
        select driftd.extended_baselines($1) as "baseline_id!""#,
        baseline_id,
    )
    .fetch_all(executor)
    .await
    .map_err(Error::doing("read which baselines a baseline extends"))
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
            (select s.slot_ms from driftd.baseline_windows s
                where s.baseline_id = b.baseline_id) as slot_ms
        from driftd.baselines b
        where $1::text is null or model = $1
        order by created_at desc, baseline_id"#,
        model,
    )
    .fetch_all(executor)
    .await
    .map_err(Error::doing("list baselines"))
}
