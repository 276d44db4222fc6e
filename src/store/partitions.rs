//! `topics`, `partition_progress`, `watermarks` and `gaps`: how far the log was read, by whom.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgExecutor};

use super::{Error, Result};

/// What a partition is taken over with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// The fence: checkpoints of an earlier epoch are refused from now on.
    pub epoch: i64,
    /// Where reading goes on; `None`: the partition was never read.
    pub next_offset: Option<i64>,
    /// Greatest event time stored per monitor, in milliseconds.
    pub max_event_ms: Vec<(i64, i64)>,
}

/// Notes how many partitions a topic has. A topic never loses partitions, so the greater number
/// is the newer one.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn note_topic(executor: impl PgExecutor<'_>, topic: &str, partitions: i32) -> Result<()> {
    sqlx::query!(
        r#"-- note a topic's partitions
        insert into driftd.topics as t (topic, partitions) values ($1, $2)
        on conflict (topic) do update
            set partitions = greatest(t.partitions, excluded.partitions), seen_at = now()"#,
        topic,
        partitions,
    )
    .execute(executor)
    .await
    .map_err(Error::doing("note a topic's partitions"))?;
    Ok(())
}

/// Takes a partition over: whoever held it before is fenced from now on.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn take_over(
    connection: &mut PgConnection,
    topic: &str,
    partition: i32,
    owner: &str,
) -> Result<Taken> {
    // Windows wait for this partition before anything of it can be read.
    note_topic(&mut *connection, topic, partition.saturating_add(1)).await?;
    // A partition that was never read has next_offset -1 until its first checkpoint, so that the
    // fence stands from the first moment.
    let row = sqlx::query!(
        r#"-- take a partition over
        insert into driftd.partition_progress as p
            (topic, partition, epoch, first_offset, next_offset, owner)
        values ($1, $2, 1, -1, -1, $3)
        on conflict (topic, partition) do update
            set epoch = p.epoch + 1, owner = excluded.owner, idle_since = null, updated_at = now()
        returning epoch, next_offset"#,
        topic,
        partition,
        owner,
    )
    .fetch_one(&mut *connection)
    .await
    .map_err(Error::doing("take a partition over"))?;
    let watermarks = sqlx::query!(
        r#"-- how far event time was read
        select monitor_id, max_event_time from driftd.watermarks
        where topic = $1 and partition = $2"#,
        topic,
        partition,
    )
    .fetch_all(connection)
    .await
    .map_err(Error::doing("read a partition's watermarks"))?;
    Ok(Taken {
        epoch: row.epoch,
        next_offset: Some(row.next_offset).filter(|offset| *offset >= 0),
        max_event_ms: watermarks
            .into_iter()
            .map(|row| (row.monitor_id, row.max_event_time.timestamp_millis()))
            .collect(),
    })
}

/// Whether a partition stands where its owner believes it to stand.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn stands_at(
    executor: impl PgExecutor<'_>,
    topic: &str,
    partition: i32,
    epoch: i64,
    next_offset: i64,
) -> Result<bool> {
    sqlx::query_scalar!(
        r#"-- confirm an offset
        select exists (select from driftd.partition_progress
            where topic = $1 and partition = $2 and epoch = $3 and next_offset = $4) as "stands!""#,
        topic,
        partition,
        epoch,
        next_offset,
    )
    .fetch_one(executor)
    .await
    .map_err(Error::doing("confirm an offset"))
}

/// A stretch of the log that was gone before it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap<'a> {
    /// Topic.
    pub topic: &'a str,
    /// Partition.
    pub partition: i32,
    /// The first offset that is missing.
    pub from_offset: i64,
    /// The first that is there again.
    pub to_offset: i64,
    /// Why, in a few words.
    pub reason: &'a str,
    /// What the monitor's policy says: `stop` or `continue`.
    pub policy: &'a str,
}

/// Records a gap, once.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn record_gap(executor: impl PgExecutor<'_>, gap: &Gap<'_>) -> Result<()> {
    sqlx::query!(
        r#"-- record a gap
        insert into driftd.gaps (topic, partition, from_offset, to_offset, reason, policy)
        values ($1, $2, $3, $4, $5, $6)
        on conflict do nothing"#,
        gap.topic,
        gap.partition,
        gap.from_offset,
        gap.to_offset,
        gap.reason,
        gap.policy,
    )
    .execute(executor)
    .await
    .map_err(Error::doing("record a gap"))?;
    Ok(())
}

/// How far a partition was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// Topic.
    pub topic: String,
    /// Partition.
    pub partition: i32,
    /// The next offset to read; -1 before the first checkpoint.
    pub next_offset: i64,
    /// Since when it is caught up and quiet.
    pub idle_since: Option<DateTime<Utc>>,
}

/// How far the partitions were read.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn progress(executor: impl PgExecutor<'_>) -> Result<Vec<Progress>> {
    sqlx::query_as!(
        Progress,
        r#"-- how far the log was read
        select topic, partition, next_offset, idle_since from driftd.partition_progress
        order by topic, partition"#
    )
    .fetch_all(executor)
    .await
    .map_err(Error::doing("read how far the log was read"))
}
