//! `alert_episodes` and `alert_events`: alerts from their start to their end.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::{PgConnection, PgExecutor};

use super::{Error, Result};
use crate::monitor::retraining::Severity;

/// What an alert is about.
#[derive(Debug, Clone, PartialEq)]
pub struct Subject<'a> {
    /// The monitor's revision.
    pub monitor_id: i64,
    /// Its name.
    pub monitor: &'a str,
    /// The model.
    pub model: &'a str,
    /// Its version.
    pub version: &'a str,
    /// The window that changes it.
    pub window_start: DateTime<Utc>,
    /// How bad it is.
    pub severity: Severity,
    /// The features behind it, worst first.
    pub top_features: &'a Value,
}

/// Opens an episode; it waits for more drifted windows, or fires at once.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn open(
    connection: &mut PgConnection,
    subject: &Subject<'_>,
    fires: bool,
) -> Result<i64> {
    sqlx::query_scalar!(
        r#"-- open an episode
        insert into driftd.alert_episodes (monitor_id, monitor, model, version, state, severity,
            first_window, fired_window, last_window, drifted_windows, top_features)
        values ($1, $2, $3, $4, (case when $5 then 'firing' else 'pending' end)::driftd.episode_state,
            $6, $7, case when $5 then $7::timestamptz end, $7, 1, $8)
        returning episode_id"#,
        subject.monitor_id,
        subject.monitor,
        subject.model,
        subject.version,
        fires,
        subject.severity.as_str(),
        subject.window_start,
        subject.top_features,
    )
    .fetch_one(connection)
    .await
    .map_err(Error::doing("open an episode"))
}

/// Adds a drifted window to an open episode; `fires` if it is the one that makes it fire. Answers how
/// many it holds.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn extend(
    connection: &mut PgConnection,
    episode_id: i64,
    subject: &Subject<'_>,
    fires: bool,
) -> Result<i32> {
    sqlx::query_scalar!(
        r#"-- extend an episode
        update driftd.alert_episodes
        set last_window = $2, drifted_windows = drifted_windows + 1,
            severity = case when severity = 'critical' then severity else $3 end,
            state = case when $5 then 'firing'::driftd.episode_state else state end,
            fired_window = case when $5 then $2 else fired_window end,
            top_features = case when $5 then $4 else top_features end
        where episode_id = $1
        returning drifted_windows"#,
        episode_id,
        subject.window_start,
        subject.severity.as_str(),
        subject.top_features,
        fires,
    )
    .fetch_one(connection)
    .await
    .map_err(Error::doing("extend an episode"))
}

/// Ends an episode.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn resolve(connection: &mut PgConnection, episode_id: i64) -> Result<()> {
    sqlx::query!(
        r#"-- resolve an episode
        update driftd.alert_episodes set state = 'resolved', resolved_at = now()
        where episode_id = $1"#,
        episode_id,
    )
    .execute(connection)
    .await
    .map_err(Error::doing("resolve an episode"))?;
    Ok(())
}

/// Notes what happened to an episode, once per window.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn note(
    connection: &mut PgConnection,
    episode_id: i64,
    kind: &str,
    window_start: DateTime<Utc>,
    detail: &Value,
) -> Result<()> {
    sqlx::query!(
        r#"-- note what happened to an episode
        insert into driftd.alert_events (episode_id, kind, window_start, detail)
        values ($1, $2, $3, $4)
        on conflict (episode_id, kind, window_start) do nothing"#,
        episode_id,
        kind,
        window_start,
        detail,
    )
    .execute(connection)
    .await
    .map_err(Error::doing("note what happened to an episode"))?;
    Ok(())
}

/// How many episodes fire, for every monitor, those with none included.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn count_firing(executor: impl PgExecutor<'_>) -> Result<Vec<(String, i64)>> {
    let rows = sqlx::query!(
        r#"-- count firing episodes by monitor
        select m.monitor, count(e.episode_id) as "firing!"
        from driftd.monitors m
            left join driftd.alert_episodes e
                on e.monitor_id = m.monitor_id and e.state = 'firing'
        group by m.monitor"#
    )
    .fetch_all(executor)
    .await
    .map_err(Error::doing("count firing episodes"))?;
    Ok(rows
        .into_iter()
        .map(|row| (row.monitor, row.firing))
        .collect())
}
