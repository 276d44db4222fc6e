//! `topics`: how many partitions each has, and which topic of that name it is.

use sqlx::{PgConnection, PgExecutor};

pub use crate::collect::partition::log::Count;

use super::gaps::Gap;
use super::resets::{self, Reset};
use super::{Error, Result};

/// Notes how many partitions a topic has. As long as it is the same topic it never loses any, so the
/// greater number is the newer one. What is said of another topic than the one that is stored is left
/// to [`made_anew`], and the answer is false.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn note(executor: impl PgExecutor<'_>, count: &Count) -> Result<bool> {
    let done = sqlx::query!(
        r#"-- note a topic's partitions
        insert into driftd.topics as t (topic, partitions, first_partitions, topic_id)
        values ($1, $2, $2, $3)
        on conflict (topic) do update
            set partitions = greatest(t.partitions, excluded.partitions), seen_at = now(),
                first_partitions = coalesce(t.first_partitions, excluded.first_partitions),
                topic_id = coalesce(t.topic_id, excluded.topic_id)
            where (t.topic_id = excluded.topic_id) is not false"#,
        count.topic,
        count.partitions,
        count.topic_id,
    )
    .execute(executor)
    .await
    .map_err(Error::doing("note a topic's partitions"))?;
    Ok(done.rows_affected() == 1)
}

/// Notes that a topic has these partitions, and perhaps more. Those that were taken over before were
/// counted then; where one is not counted any more, it went with an earlier topic of that name.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn note_partitions(
    executor: impl PgExecutor<'_>,
    topic: &str,
    partitions: &[i32],
) -> Result<()> {
    sqlx::query!(
        r#"-- note partitions of a topic
        insert into driftd.topics as t (topic, partitions)
        select $1::text, max(u.partition) + 1 from unnest($2::int[]) as u (partition)
        where not exists (select from driftd.partition_progress p
            where p.topic = $1 and p.partition = u.partition)
        having count(*) > 0
        on conflict (topic) do update set partitions = excluded.partitions, seen_at = now()
            where t.partitions < excluded.partitions"#,
        topic,
        partitions,
    )
    .execute(executor)
    .await
    .map_err(Error::doing("note partitions of a topic"))?;
    Ok(())
}

/// Stores that a topic was made anew, if it is stored as another one: with so many partitions, which
/// may be fewer. Those that are no more are not waited for from now on; what of them was not read is
/// recorded, as a gap that ends with the first message of the new topic. Should the new one get so
/// many partitions later, they are read from their first message. A topic that is no more is not made
/// anew: whoever says so has heard it before another replica knew better.
///
/// Answers the partitions that were read and are no more, each with its gap. Locks the topic's row,
/// then those of these partitions: whoever locks one of each keeps to that order.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn made_anew(
    connection: &mut PgConnection,
    count: &Count,
    policy: &'static str,
) -> Result<Vec<(i32, Gap)>> {
    let done = sqlx::query!(
        r#"-- note that a topic was made anew
        update driftd.topics
        set topic_id = $2, partitions = $3, seen_at = now(),
            first_partitions = least(first_partitions, $3),
            past_topic_ids = array_append(past_topic_ids, topic_id)
        where topic = $1 and topic_id <> $2 and $2 <> all(past_topic_ids)"#,
        count.topic,
        count.topic_id,
        count.partitions,
    )
    .execute(&mut *connection)
    .await
    .map_err(Error::doing("note that a topic was made anew"))?;
    if done.rows_affected() == 0 {
        return Ok(Vec::new());
    }
    let lost = sqlx::query_scalar!(
        r#"-- partitions that are no more
        select partition from driftd.partition_progress
        where topic = $1 and partition >= $2 and next_offset >= 0 order by partition"#,
        count.topic,
        count.partitions,
    )
    .fetch_all(&mut *connection)
    .await
    .map_err(Error::doing("read which partitions are no more"))?;
    let mut gaps = Vec::new();
    for partition in lost {
        let Some(standing) = resets::lock(connection, &count.topic, partition).await? else {
            continue;
        };
        let gap = Gap {
            generation: standing.generation,
            from_offset: standing.next_offset,
            to_offset: None,
            reason: "recreated",
        };
        let reset = Reset {
            topic: count.topic.clone(),
            partition,
            next_offset: 0,
            generation: standing.generation + 1,
            topic_id: count.topic_id.clone(),
            gaps: vec![gap.clone()],
            policy,
        };
        let readers = resets::readers(&mut *connection, &count.topic, partition).await?;
        resets::reset(connection, &reset, &readers).await?;
        gaps.push((partition, gap));
    }
    Ok(gaps)
}

/// Lets a topic that was taken for one that is no more be the one that is there, by a person's word.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn believe(executor: impl PgExecutor<'_>, count: &Count) -> Result<()> {
    sqlx::query!(
        r#"-- believe a topic's id again
        update driftd.topics set past_topic_ids = array_remove(past_topic_ids, $2)
        where topic = $1 and $2 = any(past_topic_ids)"#,
        count.topic,
        count.topic_id,
    )
    .execute(executor)
    .await
    .map_err(Error::doing("believe a topic's id again"))?;
    Ok(())
}
