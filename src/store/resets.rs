//! Where reading a partition goes on, against what is stored: by a person's word, or because the
//! partition went with an earlier topic of that name.

use chrono::{DateTime, Utc};
use sqlx::types::Json;
use sqlx::{PgConnection, PgExecutor};

use super::gaps::{self, Gap};
use super::{Error, Result};
use crate::window::{Progress, Spec};

/// How far a partition was read, and by whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The next offset to read; -1: nothing was read yet.
    pub next_offset: i64,
    /// Which log under the partition's name that offset is in.
    pub generation: i64,
    /// Kafka's id of the topic that was read; `None`: not known.
    pub topic_id: Option<String>,
    /// Which replica, for people.
    pub owner: String,
    /// When that was last told.
    pub updated_at: DateTime<Utc>,
}

/// A monitor that reads a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reader {
    /// The monitor's revision.
    pub monitor_id: i64,
    /// Its name.
    pub monitor: String,
    /// The first window for which the partition may still bring rows; `None`: the first there is.
    pub first_open: Option<DateTime<Utc>>,
}

/// Where reading goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reset {
    /// Topic.
    pub topic: String,
    /// Partition.
    pub partition: i32,
    /// At this offset ...
    pub next_offset: i64,
    /// ... of this log.
    pub generation: i64,
    /// Kafka's id of the topic; `None`: not known, what is stored stays.
    pub topic_id: Option<String>,
    /// What is not read for it.
    pub gaps: Vec<Gap>,
    /// What would have been done about gaps: `stop` or `continue`.
    pub policy: &'static str,
}

/// How far a partition was read; locked until the transaction ends, so that nobody reads on
/// meanwhile. `None`: driftd does not know the partition.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn lock(
    connection: &mut PgConnection,
    topic: &str,
    partition: i32,
) -> Result<Option<Standing>> {
    sqlx::query_as!(
        Standing,
        r#"-- lock a partition
        select next_offset, generation, topic_id, owner, updated_at
        from driftd.partition_progress where topic = $1 and partition = $2 for update"#,
        topic,
        partition,
    )
    .fetch_optional(connection)
    .await
    .map_err(Error::doing("lock a partition"))
}

/// The monitors of a topic, in their newest revision, with how far each has come in a partition.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn readers(
    executor: impl PgExecutor<'_>,
    topic: &str,
    partition: i32,
) -> Result<Vec<Reader>> {
    let rows = sqlx::query!(
        r#"-- who reads a partition
        select distinct on (m.monitor) m.monitor, m.monitor_id, w.max_event_time as "max?",
            m.settings #> '{input,window}' as "window!: Json<Spec>"
        from driftd.monitors m
            left join driftd.watermarks w on w.monitor_id = m.monitor_id and w.topic = m.topic
                and w.partition = $2
        where m.topic = $1
        order by m.monitor, m.revision desc"#,
        topic,
        partition,
    )
    .fetch_all(executor)
    .await
    .map_err(Error::doing("read who reads a partition"))?;
    let reader = rows.into_iter().map(|row| {
        let progress = Progress {
            max_event_ms: row.max.map(|max| max.timestamp_millis()),
        };
        Reader {
            monitor_id: row.monitor_id,
            monitor: row.monitor,
            first_open: progress
                .first_open(&row.window)
                .and_then(DateTime::from_timestamp_millis),
        }
    });
    Ok(reader.collect())
}

/// Lets reading go on elsewhere: whoever reads the partition is fenced, what is not read for it is
/// recorded, and the windows that may lack rows. To be called with the partition locked.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn reset(connection: &mut PgConnection, reset: &Reset, readers: &[Reader]) -> Result<()> {
    let Reset {
        topic, partition, ..
    } = reset;
    sqlx::query!(
        r#"-- let reading go on elsewhere
        update driftd.partition_progress
        set epoch = epoch + 1, next_offset = $3, generation = $4, leader_epoch = null,
            topic_id = coalesce($5, topic_id), idle_since = null,
            idle_confirmed_at = null, updated_at = now(),
            first_offset = case when generation <> $4 then $3 else first_offset end
        where topic = $1 and partition = $2"#,
        topic,
        partition,
        reset.next_offset,
        reset.generation,
        reset.topic_id,
    )
    .execute(&mut *connection)
    .await
    .map_err(Error::doing("let reading go on elsewhere"))?;
    // What was found before, and waited for a person, waits no longer.
    sqlx::query!(
        r#"-- pass the gaps of a partition
        update driftd.gaps set passed_at = now()
        where topic = $1 and partition = $2 and passed_at is null"#,
        topic,
        partition,
    )
    .execute(&mut *connection)
    .await
    .map_err(Error::doing("pass the gaps of a partition"))?;
    let place = (topic.as_str(), *partition);
    let recorded = gaps::record(&mut *connection, place, &reset.gaps, reset.policy, true).await?;
    let from_starts: Vec<_> = readers
        .iter()
        .map(|r| (r.monitor_id, r.first_open))
        .collect();
    gaps::open_windows(connection, &recorded, &from_starts).await
}
