//! `partition_progress` and `watermarks`: how far the log was read, by whom.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgExecutor, PgPool};

use super::gaps::{self, Gap, OpenGap};
use super::topics::{self, Count};
use super::{Error, Result};
use crate::failpoint::{Failpoint, reached};

/// What a partition is taken over with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// The fence: checkpoints of an earlier epoch are refused from now on.
    pub epoch: i64,
    /// Where reading goes on; `None`: the partition was never read.
    pub next_offset: Option<i64>,
    /// Which log under the partition's name that offset is in.
    pub generation: i64,
    /// Kafka's id of the topic that was read; `None`: not known.
    pub topic_id: Option<String>,
    /// The leader epoch of the last message before the offset; `None`: not known.
    pub leader_epoch: Option<i32>,
    /// Ids of topics of that name that are no more.
    pub past_topic_ids: Vec<String>,
    /// It was added to a topic that driftd had seen before.
    pub added: bool,
    /// Gaps behind which no message was read yet.
    pub open_gaps: Vec<OpenGap>,
    /// Greatest event time stored per monitor, in milliseconds.
    pub max_event_ms: Vec<(i64, i64)>,
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
    // Windows wait for this partition before anything of it can be read; for one that was read of an
    // earlier topic, from when the brokers count it: it is not read before.
    topics::note_partition(&mut *connection, topic, partition).await?;
    // A partition that was never read has next_offset -1 until its first checkpoint, so that the
    // fence stands from the first moment.
    let row = sqlx::query!(
        r#"-- take a partition over
        insert into driftd.partition_progress as p
            (topic, partition, epoch, first_offset, next_offset, owner)
        values ($1, $2, 1, -1, -1, $3)
        on conflict (topic, partition) do update
            set epoch = p.epoch + 1, owner = excluded.owner, idle_since = null,
                idle_confirmed_at = null, updated_at = now()
        returning epoch, next_offset, generation, topic_id, leader_epoch,
            exists (select from driftd.topics t
                where t.topic = $1 and t.first_partitions <= $2) as "added!",
            (select t.past_topic_ids from driftd.topics t where t.topic = $1) as "past_topic_ids?""#,
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
    .fetch_all(&mut *connection)
    .await
    .map_err(Error::doing("read a partition's watermarks"))?;
    Ok(Taken {
        epoch: row.epoch,
        next_offset: Some(row.next_offset).filter(|offset| *offset >= 0),
        generation: row.generation,
        topic_id: row.topic_id,
        leader_epoch: row.leader_epoch,
        past_topic_ids: row.past_topic_ids.unwrap_or_default(),
        added: row.added,
        open_gaps: gaps::open(&mut *connection, topic, partition).await?,
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

/// Where reading a partition goes on, as it is settled before the first message is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settlement {
    /// Topic.
    pub topic: String,
    /// Partition.
    pub partition: i32,
    /// The epoch the partition was taken over with.
    pub epoch: i64,
    /// The offset that Postgres has to have, -1 for a partition that was never read.
    pub expected_offset: i64,
    /// Where reading goes on ...
    pub next_offset: i64,
    /// ... in this log.
    pub generation: i64,
    /// Kafka's id of the topic; `None`: not known, what is stored stays.
    pub topic_id: Option<String>,
    /// How many partitions it has.
    pub partitions: i32,
    /// What could not be read before that.
    pub gaps: Vec<Gap>,
    /// What is to be done about gaps: `stop` or `continue`.
    pub policy: &'static str,
    /// Per monitor, the first window that may lack rows for them; `None`: the first there is.
    pub from_starts: Vec<(i64, Option<DateTime<Utc>>)>,
}

/// What is stored of where reading goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    /// Gaps that have no end yet.
    pub open_gaps: Vec<OpenGap>,
    /// Partitions that went with an earlier topic of that name, as was found now.
    pub lost: Vec<(i32, Gap)>,
}

/// Stores where reading goes on, with the gaps before that, in one transaction. `None`: another
/// replica has the partition, and nothing was stored.
///
/// A commit whose answer was lost looks like another replica's: then the partition is taken over
/// again, and goes on from what is stored.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn settle(pool: &PgPool, settlement: &Settlement) -> Result<Option<Settled>> {
    let Settlement {
        topic, partition, ..
    } = settlement;
    let mut transaction = pool
        .begin()
        .await
        .map_err(Error::doing("begin to settle where reading goes on"))?;
    let count = Count {
        topic: topic.clone(),
        topic_id: settlement.topic_id.clone(),
        partitions: settlement.partitions,
    };
    let lost = topics::made_anew(&mut transaction, &count, settlement.policy).await?;
    if !go_on(&mut transaction, settlement).await? {
        return Ok(None);
    }
    if !settlement.gaps.is_empty() {
        let (gaps, policy) = (&settlement.gaps, settlement.policy);
        let place = (topic.as_str(), *partition);
        let recorded = gaps::record(&mut *transaction, place, gaps, policy, true).await?;
        gaps::open_windows(&mut *transaction, &recorded, &settlement.from_starts).await?;
        reached(Failpoint::GapsRecorded);
    }
    let open_gaps = gaps::open(&mut *transaction, topic, *partition).await?;
    reached(Failpoint::BeforeSettleCommit);
    transaction
        .commit()
        .await
        .map_err(Error::doing("settle where reading goes on"))?;
    Ok(Some(Settled { open_gaps, lost }))
}

/// The fence: compare and set.
async fn go_on(connection: &mut PgConnection, settlement: &Settlement) -> Result<bool> {
    let done = sqlx::query!(
        r#"-- settle where reading goes on, if the partition is still ours
        update driftd.partition_progress
        set next_offset = $5, generation = $6, topic_id = coalesce($7, topic_id),
            leader_epoch = case when next_offset = $5 and generation = $6 then leader_epoch end,
            first_offset = case when first_offset < 0 or generation <> $6
                then $5 else first_offset end,
            updated_at = now()
        where topic = $1 and partition = $2 and epoch = $3 and next_offset = $4"#,
        settlement.topic,
        settlement.partition,
        settlement.epoch,
        settlement.expected_offset,
        settlement.next_offset,
        settlement.generation,
        settlement.topic_id,
    )
    .execute(connection)
    .await
    .map_err(Error::doing("settle where reading goes on"))?;
    Ok(done.rows_affected() == 1)
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
