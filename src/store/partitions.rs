//! `partition_progress` and `watermarks`: how far the log was read, by whom.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgExecutor, PgPool};

use super::gaps::{self, Gap, OpenGap};
use super::topics::{self, Count};
use super::{Error, Result};
use crate::collect::partition::log::LogId;
pub use crate::collect::partition::log::{Settlement, Takeover};
use crate::failpoint::{Failpoint, reached};

/// Takes partitions of a topic over, in the order in which they are named: whoever held them before is
/// fenced from now on.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn take_over(
    pool: &PgPool,
    topic: &str,
    partitions: &[i32],
    owner: &str,
) -> Result<Vec<Takeover>> {
    let begun = pool.begin().await;
    let mut transaction = begun.map_err(Error::doing("begin to take partitions over"))?;
    // Windows wait for these partitions before anything of them can be read; for one that was read of
    // an earlier topic, from when the brokers count it: it is not read before.
    topics::note_partitions(&mut *transaction, topic, partitions).await?;
    let mut taken = fence(&mut transaction, topic, partitions, owner).await?;
    for (partition, monitor_id, max_ms) in watermarks(&mut *transaction, topic, partitions).await? {
        if let Some(one) = taken.get_mut(&partition) {
            one.max_event_ms.push((monitor_id, max_ms));
        }
    }
    for (partition, gap) in gaps::open(&mut *transaction, topic, partitions).await? {
        if let Some(one) = taken.get_mut(&partition) {
            one.open_gaps.push(gap);
        }
    }
    let done = transaction.commit().await;
    done.map_err(Error::doing("take partitions over"))?;
    let mut named = partitions.iter().map(|partition| taken.remove(partition));
    let all: Option<Vec<Takeover>> = named.by_ref().collect();
    all.ok_or(Error::Query {
        doing: "take partitions over",
        source: sqlx::Error::RowNotFound,
    })
}

/// The fence. A partition that was never read has `next_offset` -1 until it is settled where reading
/// begins, so that the fence stands from the first moment.
async fn fence(
    connection: &mut PgConnection,
    topic: &str,
    partitions: &[i32],
    owner: &str,
) -> Result<HashMap<i32, Takeover>> {
    let rows = sqlx::query!(
        r#"-- take partitions over
        insert into driftd.partition_progress as p
            (topic, partition, epoch, first_offset, next_offset, owner)
        select $1::text, u.partition, 1, -1, -1, $3::text
        from unnest($2::int[]) as u (partition) order by u.partition
        on conflict (topic, partition) do update
            set epoch = p.epoch + 1, owner = excluded.owner, idle_since = null,
                idle_confirmed_at = null, updated_at = now()
        returning partition, epoch, next_offset, generation, topic_id, leader_epoch,
            exists (select from driftd.topics t
                where t.topic = $1 and t.first_partitions <= p.partition) as "added!",
            (select t.past_topic_ids from driftd.topics t where t.topic = $1) as "past_topic_ids?""#,
        topic,
        partitions,
        owner,
    )
    .fetch_all(connection)
    .await
    .map_err(Error::doing("take partitions over"))?;
    let taken = rows.into_iter().map(|row| {
        let takeover = Takeover {
            epoch: row.epoch,
            next_offset: Some(row.next_offset).filter(|offset| *offset >= 0),
            log: LogId {
                generation: row.generation,
                topic_id: row.topic_id,
            },
            leader_epoch: row.leader_epoch,
            past_topic_ids: row.past_topic_ids.unwrap_or_default(),
            added: row.added,
            open_gaps: Vec::new(),
            max_event_ms: Vec::new(),
        };
        (row.partition, takeover)
    });
    Ok(taken.collect())
}

/// Partition, monitor and greatest event time stored, in milliseconds.
async fn watermarks(
    executor: impl PgExecutor<'_>,
    topic: &str,
    partitions: &[i32],
) -> Result<Vec<(i32, i64, i64)>> {
    let rows = sqlx::query!(
        r#"-- how far event time was read
        select partition, monitor_id, max_event_time from driftd.watermarks
        where topic = $1 and partition = any($2)"#,
        topic,
        partitions,
    )
    .fetch_all(executor)
    .await
    .map_err(Error::doing("read the watermarks of partitions"))?;
    let times = rows.into_iter().map(|row| {
        let max_ms = row.max_event_time.timestamp_millis();
        (row.partition, row.monitor_id, max_ms)
    });
    Ok(times.collect())
}

/// Those of the partitions of a topic that stand where their owner believes them to stand, each with
/// its epoch and its next offset.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn stand_at(
    executor: impl PgExecutor<'_>,
    topic: &str,
    places: &[(i32, i64, i64)],
) -> Result<HashSet<i32>> {
    let partitions: Vec<i32> = places.iter().map(|(partition, ..)| *partition).collect();
    let epochs: Vec<i64> = places.iter().map(|(_, epoch, _)| *epoch).collect();
    let offsets: Vec<i64> = places.iter().map(|(.., offset)| *offset).collect();
    let standing = sqlx::query_scalar!(
        r#"-- confirm offsets
        select p.partition
        from driftd.partition_progress p
            join unnest($2::int[], $3::bigint[], $4::bigint[]) as u (partition, epoch, next_offset)
                using (partition, epoch, next_offset)
        where p.topic = $1"#,
        topic,
        &partitions,
        &epochs,
        &offsets,
    )
    .fetch_all(executor)
    .await
    .map_err(Error::doing("confirm offsets"))?;
    Ok(standing.into_iter().collect())
}

/// What became of a settlement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is stored; with gaps that have no end yet.
    Settled(Vec<OpenGap>),
    /// The gaps are stored, and reading stands before them.
    Recorded,
    /// Another replica has the partition: nothing was stored.
    Fenced,
}

/// What is stored of where reading goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    /// Per settlement.
    pub outcomes: Vec<Outcome>,
    /// Partitions that went with an earlier topic of that name, as was found now.
    pub lost: Vec<(i32, Gap)>,
}

/// Stores where reading partitions of a topic goes on, with the gaps before that, in one transaction.
///
/// A commit whose answer was lost looks like another replica's work: then the partition is taken over
/// again, and goes on from what is stored.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn settle(pool: &PgPool, topic: &str, settlements: &[Settlement]) -> Result<Settled> {
    let begun = pool.begin().await;
    let mut transaction = begun.map_err(Error::doing("begin to settle where reading goes on"))?;
    let mut lost = Vec::new();
    let going_on = settlements.iter().filter(|settlement| !settlement.stops());
    for count in counts(topic, going_on.clone()) {
        lost.extend(topics::made_anew(&mut transaction, &count.0, count.1).await?);
    }
    let going_on: Vec<&Settlement> = going_on.collect();
    let ours = go_on(&mut transaction, topic, &going_on).await?;
    for settlement in settlements.iter().filter(|one| !one.gaps.is_empty()) {
        if settlement.stops() {
            stop(&mut transaction, settlement).await?;
        } else if ours.contains(&settlement.partition) {
            pass(&mut transaction, settlement).await?;
        }
    }
    let partitions: Vec<i32> = ours.iter().copied().collect();
    let mut open: HashMap<i32, Vec<OpenGap>> = HashMap::new();
    for (partition, gap) in gaps::open(&mut *transaction, topic, &partitions).await? {
        open.entry(partition).or_default().push(gap);
    }
    reached(Failpoint::BeforeSettleCommit);
    let done = transaction.commit().await;
    done.map_err(Error::doing("settle where reading goes on"))?;
    let outcome = |one: &Settlement| match ours.contains(&one.partition) {
        _ if one.stops() => Outcome::Recorded,
        true => Outcome::Settled(open.remove(&one.partition).unwrap_or_default()),
        false => Outcome::Fenced,
    };
    let outcomes = settlements.iter().map(outcome).collect();
    Ok(Settled { outcomes, lost })
}

/// The topics that settlements are about: one, unless it was created again between two of them.
fn counts<'a>(
    topic: &str,
    settlements: impl Iterator<Item = &'a Settlement>,
) -> Vec<(Count, &'static str)> {
    let mut counts: Vec<(Count, &'static str)> = Vec::new();
    for settlement in settlements {
        let same = |(count, _): &&mut (Count, _)| count.topic_id == settlement.topic_id;
        match counts.iter_mut().find(same) {
            Some((count, _)) => count.partitions = count.partitions.max(settlement.partitions),
            None => counts.push((
                Count {
                    topic: topic.to_owned(),
                    topic_id: settlement.topic_id.clone(),
                    partitions: settlement.partitions,
                },
                settlement.policy,
            )),
        }
    }
    counts
}

/// Records the gaps that a partition stands before, if it is still ours.
async fn stop(connection: &mut PgConnection, settlement: &Settlement) -> Result<()> {
    let (topic, partition) = (settlement.topic.as_str(), settlement.partition);
    let place = (partition, settlement.epoch, settlement.expected_offset);
    let ours = stand_at(&mut *connection, topic, &[place]).await?;
    if ours.contains(&partition) {
        let (gaps, policy) = (&settlement.gaps, settlement.policy);
        gaps::record(connection, (topic, partition), gaps, policy, false).await?;
    }
    Ok(())
}

/// Records the gaps that a partition goes on behind, and the windows that may lack rows.
async fn pass(connection: &mut PgConnection, settlement: &Settlement) -> Result<()> {
    let (gaps, policy) = (&settlement.gaps, settlement.policy);
    let place = (settlement.topic.as_str(), settlement.partition);
    let recorded = gaps::record(&mut *connection, place, gaps, policy, true).await?;
    gaps::open_windows(connection, &recorded, &settlement.from_starts).await?;
    reached(Failpoint::GapsRecorded);
    Ok(())
}

/// The fence: compare and set. Answers the partitions that are still ours.
async fn go_on(
    connection: &mut PgConnection,
    topic: &str,
    settlements: &[&Settlement],
) -> Result<HashSet<i32>> {
    let partitions = column(settlements, |one| one.partition);
    let ours = sqlx::query_scalar!(
        r#"-- settle where reading goes on, of the partitions that are still ours
        with settled as (
            select * from unnest($2::int[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[],
                $7::text[]) as u (partition, epoch, expected, next, generation, topic_id)
        ), ours as (
            select p.partition from driftd.partition_progress p join settled s using (partition)
            where p.topic = $1 and p.epoch = s.epoch and p.next_offset = s.expected
            order by p.partition for update of p
        )
        update driftd.partition_progress p
        set next_offset = s.next, generation = s.generation,
            topic_id = coalesce(s.topic_id, p.topic_id),
            leader_epoch = case when p.next_offset = s.next and p.generation = s.generation
                then p.leader_epoch end,
            first_offset = case when p.first_offset < 0 or p.generation <> s.generation
                then s.next else p.first_offset end,
            updated_at = now()
        from settled s
        where p.topic = $1 and p.partition = s.partition and p.epoch = s.epoch
            and p.next_offset = s.expected and p.partition in (select partition from ours)
        returning p.partition"#,
        topic,
        &partitions,
        &column(settlements, |one| one.epoch),
        &column(settlements, |one| one.expected_offset),
        &column(settlements, |one| one.next_offset),
        &column(settlements, |one| one.generation),
        &column(settlements, |one| one.topic_id.clone()) as &[Option<String>],
    )
    .fetch_all(connection)
    .await
    .map_err(Error::doing("settle where reading goes on"))?;
    Ok(ours.into_iter().collect())
}

fn column<T>(settlements: &[&Settlement], value: impl Fn(&Settlement) -> T) -> Vec<T> {
    settlements.iter().map(|one| value(one)).collect()
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
