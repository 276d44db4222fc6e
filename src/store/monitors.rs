//! `monitors`: one row per revision of a monitor.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};
use sqlx::{PgConnection, PgExecutor};

use super::{Error, Result, gaps, models};
use crate::monitor::{Features, Monitor, Timestamp, VersionSource};
use crate::window;

/// The settings that shape windows and features: when one of them changes, what was stored can
/// not be merged with what is to come, and the monitor starts a new revision.
#[derive(Debug, Serialize)]
struct Definition<'a> {
    model: &'a str,
    topic: Option<&'a str>,
    version: Option<&'a VersionSource>,
    timestamp: Option<&'a Timestamp>,
    features: Option<&'a Features>,
    window: Option<&'a window::Spec>,
    sample_rows: Option<usize>,
}

impl<'a> Definition<'a> {
    fn of(monitor: &'a Monitor) -> Self {
        let input = monitor.input.as_ref();
        Self {
            model: &monitor.model,
            topic: input.map(|input| input.topic.as_str()),
            version: input.map(|input| &input.version),
            timestamp: input.map(|input| &input.timestamp),
            features: input.map(|input| &input.features),
            window: input.map(|input| &input.window),
            sample_rows: input.map(|input| input.sample_rows),
        }
    }

    /// Of the fields in the order above, which no dependency's map can change.
    fn digest(&self) -> Result<String> {
        Ok(hex::encode(Sha256::digest(
            serde_json::to_vec(self).map_err(encode)?,
        )))
    }
}

fn encode(error: serde_json::Error) -> Error {
    Error::Query {
        doing: "write a monitor as JSON",
        source: sqlx::Error::Encode(error.into()),
    }
}

/// As it is stored.
pub(super) fn json(part: &impl Serialize) -> Result<Value> {
    serde_json::to_value(part).map_err(encode)
}

/// A monitor's newest revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registered {
    /// Key of the revision.
    pub monitor_id: i64,
    /// From 1.
    pub revision: i32,
    /// Windows that start before this belong to an earlier revision; `None`: no limit.
    pub starts_at: Option<DateTime<Utc>>,
}

/// Finds the monitor's revision or starts a new one; its other settings are stored either way.
///
/// To be called in a transaction: a lock on the monitor's name, held to its end, lets replicas
/// that start together agree on one revision. A new revision starts at the first window after the
/// greatest event time stored for the one before.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn register(connection: &mut PgConnection, monitor: &Monitor) -> Result<Registered> {
    lock(&mut *connection, &monitor.name).await?;
    models::register(&mut *connection, &monitor.model).await?;
    let definition = Definition::of(monitor);
    let digest = definition.digest()?;
    let settings = json(monitor)?;
    let newest = newest(&mut *connection, &monitor.name).await?;
    match newest {
        Some(newest) if newest.definition_digest == digest => {
            update_settings(&mut *connection, newest.monitor_id, &settings).await?;
            let Newest {
                monitor_id,
                revision,
                starts_at,
                ..
            } = newest;
            Ok(Registered {
                monitor_id,
                revision,
                starts_at,
            })
        }
        before => {
            let window = monitor.input.as_ref().map(|input| &input.window);
            let earlier = before.as_ref().map(|before| before.monitor_id);
            let starts_at = before
                .as_ref()
                .and_then(|before| first_start(before, window));
            let new = New {
                revision: before.map_or(1, |before| before.revision + 1),
                definition: json(&definition)?,
                digest,
                settings,
                starts_at,
            };
            let registered = insert(&mut *connection, monitor, new).await?;
            if let (Some(earlier), Some(window)) = (earlier, window) {
                let next = registered.monitor_id;
                gaps::hand_on(&mut *connection, earlier, next, window.longest_ms()).await?;
            }
            Ok(registered)
        }
    }
}

/// The first window of the new revision that holds no row already stored for the one before.
fn first_start(before: &Newest, window: Option<&window::Spec>) -> Option<DateTime<Utc>> {
    let Some(greatest) = before.greatest_event_time else {
        return before.starts_at; // it never saw a row: whatever held for it holds on
    };
    let behind = greatest.timestamp_millis().saturating_add(1);
    DateTime::from_timestamp_millis(window?.next_start(behind))
}

async fn lock(executor: impl PgExecutor<'_>, name: &str) -> Result<()> {
    sqlx::query!(
        r#"-- one replica at a time registers a monitor
        select pg_advisory_xact_lock(hashtextextended('driftd.monitor ' || $1::text, 0))"#,
        name,
    )
    .execute(executor)
    .await
    .map_err(Error::doing("lock a monitor"))?;
    Ok(())
}

struct Newest {
    monitor_id: i64,
    revision: i32,
    definition_digest: String,
    starts_at: Option<DateTime<Utc>>,
    greatest_event_time: Option<DateTime<Utc>>,
}

async fn newest(executor: impl PgExecutor<'_>, name: &str) -> Result<Option<Newest>> {
    sqlx::query_as!(
        Newest,
        r#"-- a monitor's newest revision and how far it has seen
        select m.monitor_id, m.revision, m.definition_digest, m.starts_at,
               (select max(k.max_event_time) from driftd.watermarks k
                where k.monitor_id = m.monitor_id) as greatest_event_time
        from driftd.monitors m where m.monitor = $1 order by m.revision desc limit 1"#,
        name,
    )
    .fetch_optional(executor)
    .await
    .map_err(Error::doing("read a monitor"))
}

async fn update_settings(
    executor: impl PgExecutor<'_>,
    monitor_id: i64,
    settings: &Value,
) -> Result<()> {
    sqlx::query!(
        r#"-- store a monitor's settings
        update driftd.monitors set settings = $2 where monitor_id = $1 and settings <> $2"#,
        monitor_id,
        settings,
    )
    .execute(executor)
    .await
    .map_err(Error::doing("store a monitor's settings"))?;
    Ok(())
}

struct New {
    revision: i32,
    definition: Value,
    digest: String,
    settings: Value,
    starts_at: Option<DateTime<Utc>>,
}

async fn insert(executor: impl PgExecutor<'_>, monitor: &Monitor, new: New) -> Result<Registered> {
    sqlx::query_as!(
        Registered,
        r#"-- start a revision of a monitor
        insert into driftd.monitors
            (monitor, revision, model, topic, definition, definition_digest, settings, starts_at)
        values ($1, $2, $3, $4, $5, $6, $7, $8)
        returning monitor_id, revision, starts_at"#,
        monitor.name,
        new.revision,
        monitor.model,
        monitor.input.as_ref().map(|input| input.topic.as_str()),
        new.definition,
        new.digest,
        new.settings,
        new.starts_at,
    )
    .fetch_one(executor)
    .await
    .map_err(Error::doing("start a revision of a monitor"))
}

/// How a monitor is, for people.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Status {
    /// Its name.
    pub monitor: String,
    /// The model.
    pub model: String,
    /// `running` or `failed`.
    pub state: String,
    /// Why it has failed.
    pub failure: Option<String>,
    /// Model version of the last judged window.
    pub version: Option<String>,
    /// Start of the last judged window.
    pub last_window_start: Option<DateTime<Utc>>,
    /// Its verdict.
    pub last_verdict: Option<String>,
    /// Event time that every partition has passed.
    pub watermark: Option<DateTime<Utc>>,
    /// How long ago that is.
    pub watermark_age_seconds: Option<f64>,
    /// Rows stored for windows that are not judged yet.
    pub rows_waiting: i64,
    /// By the last day of windows.
    pub rows_per_day: Option<f64>,
}

/// How all monitors are: the failed ones first, then by name.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn status(executor: impl PgExecutor<'_>) -> Result<Vec<Status>> {
    sqlx::query_as!(
        Status,
        r#"-- how monitors are
        select h.monitor as "monitor!", h.model as "model!", h.state as "state!", h.failure,
            recent.version, h.last_window_start, h.last_verdict::text as last_verdict, h.watermark,
            extract(epoch from now() - h.watermark)::float8 as watermark_age_seconds,
            h.rows_waiting as "rows_waiting!", recent.rows_per_day
        from driftd.monitor_health h
            left join lateral (
                select (array_agg(w.version order by w.window_start desc, w.judged_at desc))[1]
                        as version,
                    avg(w.rows * 86400.0 / extract(epoch from w.window_end - w.window_start))::float8
                        as rows_per_day
                from driftd.windows w join driftd.monitors any_revision using (monitor_id)
                where any_revision.monitor = h.monitor
                    and w.window_start > h.last_window_start - interval '1 day') recent on true
        order by h.state, h.monitor"#,
    )
    .fetch_all(executor)
    .await
    .map_err(Error::doing("read how monitors are"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn before(seen: Option<&str>) -> Newest {
        Newest {
            monitor_id: 1,
            revision: 1,
            definition_digest: String::new(),
            starts_at: DateTime::from_timestamp_millis(5),
            greatest_event_time: seen.map(|time| time.parse().unwrap()),
        }
    }

    fn start(seen: &str, every_ms: i64) -> String {
        let window = window::Spec::tumbling(every_ms, chrono_tz::Tz::UTC);
        first_start(&before(Some(seen)), Some(&window))
            .unwrap()
            .to_rfc3339()
    }

    #[test]
    fn a_revision_starts_at_the_first_window_without_a_stored_row() {
        let day = 86_400_000;
        assert_eq!(
            start("2013-04-01T13:00:00Z", day),
            "2013-04-02T00:00:00+00:00"
        );
        assert_eq!(
            start("2013-04-01T00:00:00Z", day),
            "2013-04-02T00:00:00+00:00"
        );
        assert_eq!(
            start("1969-12-31T13:00:00Z", day),
            "1970-01-01T00:00:00+00:00"
        );
        assert_eq!(
            start("2013-04-01T13:07:00Z", 300_000),
            "2013-04-01T13:10:00+00:00"
        );
    }

    #[test]
    fn a_revision_that_saw_no_row_hands_its_start_on() {
        assert_eq!(
            first_start(
                &before(None),
                Some(&window::Spec::tumbling(60_000, chrono_tz::Tz::UTC))
            ),
            DateTime::from_timestamp_millis(5)
        );
        assert_eq!(
            first_start(&before(Some("2013-04-01T13:00:00Z")), None),
            None
        );
    }
}
