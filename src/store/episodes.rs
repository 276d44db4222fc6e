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
    /// drift, silence or volume.
    pub kind: &'a str,
    /// The window that changes it.
    pub window_start: DateTime<Utc>,
    /// That window was judged by the clock.
    pub by_clock: bool,
    /// How bad it is.
    pub severity: Severity,
    /// The features behind it, worst first.
    pub top_features: &'a Value,
}

/// Opens an episode that holds so many windows from `first` on; it waits for more of them, or fires
/// at once.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn open(
    connection: &mut PgConnection,
    subject: &Subject<'_>,
    first: DateTime<Utc>,
    windows: i32,
    fires: bool,
) -> Result<i64> {
    sqlx::query_scalar!(
        r#"-- open an episode
        insert into driftd.alert_episodes (monitor_id, monitor, model, version, state, severity,
            first_window, fired_window, last_window, drifted_windows, top_features, kind, by_clock)
        values ($1, $2, $3, $4, (case when $5 then 'firing' else 'pending' end)::driftd.episode_state,
            $6, $9, case when $5 then $7::timestamptz end, $7, $10, $8, $11, $12)
        returning episode_id"#,
        subject.monitor_id,
        subject.monitor,
        subject.model,
        subject.version,
        fires,
        subject.severity.as_str(),
        subject.window_start,
        subject.top_features,
        first,
        windows,
        subject.kind,
        subject.by_clock,
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
            top_features = case when $5 then $4 else top_features end,
            by_clock = by_clock or $6
        where episode_id = $1
        returning drifted_windows"#,
        episode_id,
        subject.window_start,
        subject.severity.as_str(),
        subject.top_features,
        fires,
        subject.by_clock,
    )
    .fetch_one(connection)
    .await
    .map_err(Error::doing("extend an episode"))
}

/// How an episode ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It is over.
    Resolved,
    /// Nobody knows whether it is over.
    Unknown,
}

impl End {
    /// The name in SQL and messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Resolved => "resolved",
            Self::Unknown => "unknown",
        }
    }
}

/// Ends an episode.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn end(
    connection: &mut PgConnection,
    episode_id: i64,
    end: End,
    by_clock: bool,
) -> Result<()> {
    sqlx::query!(
        r#"-- end an episode
        update driftd.alert_episodes
        set state = $2::text::driftd.episode_state, resolved_at = now(),
            by_clock = by_clock or $3,
            silent_since = case when $2 = 'unknown' then silent_since end
        where episode_id = $1"#,
        episode_id,
        end.as_str(),
        by_clock,
    )
    .execute(connection)
    .await
    .map_err(Error::doing("end an episode"))?;
    Ok(())
}

/// Notes on an open episode since when no rows come; `None`: they come again.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn set_silent(
    connection: &mut PgConnection,
    episode_id: i64,
    since: Option<DateTime<Utc>>,
) -> Result<()> {
    sqlx::query!(
        r#"-- note that an episode's line is silent
        update driftd.alert_episodes set silent_since = $2 where episode_id = $1"#,
        episode_id,
        since,
    )
    .execute(connection)
    .await
    .map_err(Error::doing("note that an episode's line is silent"))?;
    Ok(())
}

/// Notes what happened to an episode, once per window.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn note(
    connection: &mut PgConnection,
    episode_id: i64,
    event: &str,
    window_start: DateTime<Utc>,
    detail: &Value,
) -> Result<()> {
    sqlx::query!(
        r#"-- note what happened to an episode
        insert into driftd.alert_events (episode_id, episode_kind, kind, window_start, detail)
        select $1, kind, $2, $3, $4 from driftd.alert_episodes where episode_id = $1
        on conflict (episode_id, kind, window_start) do nothing"#,
        episode_id,
        event,
        window_start,
        detail,
    )
    .execute(connection)
    .await
    .map_err(Error::doing("note what happened to an episode"))?;
    Ok(())
}

/// How many episodes of each kind fire, for every monitor, also where none does.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn count_firing(executor: impl PgExecutor<'_>) -> Result<Vec<(String, String, i64)>> {
    let rows = sqlx::query!(
        r#"-- count firing episodes by monitor and kind
        select m.monitor, k.kind as "kind!", count(e.episode_id) as "firing!"
        from driftd.monitors m
            cross join unnest(array['drift', 'silence', 'volume']) as k (kind)
            left join driftd.alert_episodes e on e.monitor_id = m.monitor_id
                and e.kind = k.kind and e.state = 'firing'
        group by m.monitor, k.kind"#
    )
    .fetch_all(executor)
    .await
    .map_err(Error::doing("count firing episodes"))?;
    Ok(rows
        .into_iter()
        .map(|row| (row.monitor, row.kind, row.firing))
        .collect())
}
