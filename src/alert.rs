//! What a judged window does to alerts, in the transaction of its verdict: episodes, their events, and
//! the messages about them.

use chrono::DateTime;
use serde_json::{Value, json};
use sqlx::PgConnection;

use crate::decide::episode::Change;
use crate::decide::line::{DriftInSilence, Kind, State, Step};
use crate::decide::verdict::ROWS;
use crate::failpoint::{Failpoint, reached};
use crate::monitor::Monitor;
use crate::monitor::retraining::Severity;
use crate::store::episodes::{self, End, Subject};
use crate::store::windows::Window;
use crate::store::{self, outbox};

/// A change of one alert.
#[derive(Debug)]
pub struct Alert<'a> {
    /// What it is about.
    pub kind: Kind,
    /// What the window does to it.
    pub change: Change,
    /// How bad it is.
    pub severity: Severity,
    /// Start of its first window in milliseconds and how many it has, where it opens.
    pub opens: (i64, i32),
    /// The features behind it.
    pub top_features: &'a Value,
    /// What people are told.
    pub detail: &'a Value,
}

/// Applies a change, and moves on the number of the open episode. Returns that of the episode that
/// changed and how many windows it holds; `None` where nothing changed.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn apply(
    connection: &mut PgConnection,
    monitor: &Monitor,
    window: &Window,
    alert: &Alert<'_>,
    open: &mut Option<i64>,
) -> store::Result<Option<(i64, i32)>> {
    let known = open.unwrap_or_default();
    let changed = change_episode(connection, monitor, window, alert, known).await?;
    let Some((episode_id, event, windows)) = changed else {
        return Ok(None);
    };
    reached(Failpoint::EpisodeChanged);
    *open = (alert.change != Change::Resolves).then_some(episode_id);
    let (start, detail) = (window.window_start, alert.detail);
    episodes::note(connection, episode_id, event, start, detail).await?;
    reached(Failpoint::EpisodeNoted);
    if matches!(alert.change, Change::Fires { .. } | Change::Resolves) {
        let about = (alert.kind, episode_id);
        send(connection, monitor, window, about, event, detail).await?;
        reached(Failpoint::MessageWritten);
    }
    Ok(Some((episode_id, windows)))
}

/// What the change does to the episode: its number, what happened to it, and how many windows it holds
/// then.
async fn change_episode(
    connection: &mut PgConnection,
    monitor: &Monitor,
    window: &Window,
    alert: &Alert<'_>,
    known: i64,
) -> store::Result<Option<(i64, &'static str, i32)>> {
    let subject = Subject {
        monitor_id: window.monitor_id,
        monitor: &monitor.name,
        model: &monitor.model,
        version: &window.version,
        kind: alert.kind.as_str(),
        window_start: window.window_start,
        by_clock: window.by_clock,
        severity: alert.severity,
        top_features: alert.top_features,
    };
    let (first_ms, windows) = alert.opens;
    let first = DateTime::from_timestamp_millis(first_ms).unwrap_or(window.window_start);
    let (event, fires, opens) = match alert.change {
        Change::None => return Ok(None),
        Change::Opens => ("opened", false, true),
        Change::Fires { opens } => ("fired", true, opens),
        Change::Continues => ("continued", false, false),
        Change::Resolves => {
            episodes::end(connection, known, End::Resolved, window.by_clock).await?;
            return Ok(Some((known, "resolved", 0)));
        }
    };
    if opens {
        let episode_id = episodes::open(connection, &subject, first, windows, fires).await?;
        return Ok(Some((episode_id, event, windows)));
    }
    let windows = episodes::extend(connection, known, &subject, fires).await?;
    Ok(Some((known, event, windows)))
}

async fn send(
    connection: &mut PgConnection,
    monitor: &Monitor,
    window: &Window,
    (kind, episode_id): (Kind, i64),
    event: &str,
    detail: &Value,
) -> store::Result<()> {
    let payload = json!({
        "episode_id": episode_id,
        "kind": kind.as_str(),
        "event": event,
        "monitor": monitor.name,
        "model": monitor.model,
        "version": window.version,
        "window_start": window.window_start,
        "window_end": window.window_end,
        "by_clock": window.by_clock,
        "detail": detail,
    });
    let key = format!("episode:{episode_id}:{event}");
    outbox::insert(&mut *connection, &key, &format!("alert_{event}"), &payload).await?;
    Ok(())
}

/// Applies what a window does to the alerts but for its verdict: those of silence and volume, and that
/// of drift where its line is silent. None of it asks for retraining.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn follow(
    connection: &mut PgConnection,
    monitor: &Monitor,
    window: &Window,
    step: Step,
    volume: &Value,
    state: &mut State,
) -> store::Result<()> {
    let silence = state.silence.silence;
    let start_ms = window.window_start.timestamp_millis();
    let at = |ms: Option<i64>| ms.and_then(DateTime::from_timestamp_millis);
    let detail = json!({
        "windows_without_rows": silence.empty,
        "silent_since": at(silence.since_ms),
        "rows_until": at(silence.heard_ms),
    });
    let alert = Alert {
        kind: Kind::Silence,
        change: step.silence,
        severity: Severity::Critical,
        opens: (
            silence.since_ms.unwrap_or(start_ms),
            i32::try_from(silence.empty).unwrap_or(i32::MAX),
        ),
        top_features: &json!([]),
        detail: &detail,
    };
    let open = &mut state.silence.episode_id;
    apply(connection, monitor, window, &alert, open).await?;
    if let Some(episode_id) = state.drift.episode_id {
        let silent_since = at(silence.since_ms);
        match step.drift {
            DriftInSilence::None => {}
            DriftInSilence::IsHeard => episodes::set_silent(connection, episode_id, None).await?,
            DriftInSilence::FallsSilent => {
                episodes::set_silent(connection, episode_id, silent_since).await?;
                let start = window.window_start;
                episodes::note(connection, episode_id, "silent", start, &detail).await?;
            }
            DriftInSilence::EndsUnknown => {
                end_unknown(connection, monitor, window, episode_id, &detail).await?;
                state.drift.episode_id = None;
            }
        }
    }
    let alert = Alert {
        kind: Kind::Volume,
        change: step.volume,
        severity: Severity::Warning,
        opens: (start_ms, 1),
        top_features: &json!([{"feature": ROWS, "score": volume["effect"]}]),
        detail: volume,
    };
    let open = &mut state.volume.episode_id;
    apply(connection, monitor, window, &alert, open).await?;
    Ok(())
}

async fn end_unknown(
    connection: &mut PgConnection,
    monitor: &Monitor,
    window: &Window,
    episode_id: i64,
    detail: &Value,
) -> store::Result<()> {
    let (end, start) = (End::Unknown, window.window_start);
    episodes::end(connection, episode_id, end, window.by_clock).await?;
    episodes::note(connection, episode_id, end.as_str(), start, detail).await?;
    let about = (Kind::Drift, episode_id);
    send(connection, monitor, window, about, end.as_str(), detail).await
}
