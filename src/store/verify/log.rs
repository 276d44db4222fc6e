//! How far the log was read: checkpoints, offsets, gaps.

use sqlx::PgExecutor;

use super::{Found, found};
use crate::store::Result;

/// Retention may have dropped the oldest checkpoints: then the chain begins later, and gaps before
/// it say nothing.
pub(super) async fn checkpoint_ranges(
    executor: impl PgExecutor<'_>,
    limit: i64,
) -> Result<Vec<Found>> {
    found!(
        "verify checkpoint ranges",
        r#"-- verify: checkpoints follow one another
        with logs as (
            select topic, partition, generation, min(first_offset) as begins
            from driftd.checkpoints group by topic, partition, generation
        ), pieces as (
            select topic, partition, generation, first_offset, next_offset, checkpoint_id
            from driftd.checkpoints
            union all
            select topic, partition, generation, g.from_offset, g.to_offset, null
            from driftd.gaps g join logs using (topic, partition, generation)
            where g.passed_at is not null and g.to_offset is not null
                and g.from_offset >= logs.begins
        ), following as (
            select *, max(next_offset) over (partition by topic, partition, generation
                order by first_offset, next_offset, checkpoint_id
                rows between unbounded preceding and 1 preceding) as expected_offset
            from pieces
        )
        select to_jsonb(f) as "row!", count(*) over () as "total!" from (
            select topic, partition, generation, first_offset, next_offset, checkpoint_id,
                expected_offset,
                case when first_offset > expected_offset then 'hole' else 'overlap' end as problem
            from following where first_offset <> expected_offset
            order by topic, partition, generation, first_offset) f
        limit $1"#,
        executor,
        limit
    )
}

/// Behind a gap that was just passed the offset moves with the first checkpoint.
pub(super) async fn stored_offsets(
    executor: impl PgExecutor<'_>,
    limit: i64,
) -> Result<Vec<Found>> {
    found!(
        "verify stored offsets",
        r#"-- verify: reading goes on where the last checkpoint ends
        with logs as (
            select topic, partition, generation, max(next_offset) as ends
            from driftd.checkpoints group by topic, partition, generation
        )
        select to_jsonb(f) as "row!", count(*) over () as "total!" from (
            select l.topic, l.partition, l.generation, l.ends as last_checkpoint_ends,
                p.next_offset as stored_offset, p.generation as stored_generation
            from logs l left join driftd.partition_progress p using (topic, partition)
            where p.next_offset is null or p.generation < l.generation
                or (p.generation = l.generation and p.next_offset <> l.ends
                    and not exists (select from driftd.gaps g
                        where g.topic = l.topic and g.partition = l.partition
                            and g.generation = l.generation and g.passed_at is not null
                            and g.from_offset >= l.ends and g.to_offset = p.next_offset))
            order by 1, 2, 3) f
        limit $1"#,
        executor,
        limit
    )
}

/// Checkpoints of a partition are numbered under the lock of its row, so in the order in which they
/// were saved.
pub(super) async fn epochs(executor: impl PgExecutor<'_>, limit: i64) -> Result<Vec<Found>> {
    found!(
        "verify epochs",
        r#"-- verify: epochs and offsets never go back
        with ordered as (
            select c.topic, c.partition, c.checkpoint_id, c.generation, c.epoch, c.first_offset,
                lag(c.generation) over w as generation_before, lag(c.epoch) over w as epoch_before,
                lag(c.first_offset) over w as offset_before, p.epoch as stored_epoch
            from driftd.checkpoints c left join driftd.partition_progress p using (topic, partition)
            window w as (partition by c.topic, c.partition order by c.checkpoint_id)
        )
        select to_jsonb(f) as "row!", count(*) over () as "total!" from (
            select * from ordered
            where epoch < epoch_before or generation < generation_before or epoch > stored_epoch
                or (generation = generation_before and first_offset < offset_before)
            order by topic, partition, checkpoint_id) f
        limit $1"#,
        executor,
        limit
    )
}

/// Compacted topics and the markers of transactions leave offsets without messages.
pub(super) async fn messages(executor: impl PgExecutor<'_>, limit: i64) -> Result<Vec<Found>> {
    found!(
        "verify messages",
        r#"-- verify: every message is accounted for
        select to_jsonb(f) as "row!", count(*) over () as "total!" from (
            select topic, partition, generation, first_offset, next_offset, checkpoint_id, messages,
                rejected, skipped
            from driftd.checkpoints
            where messages > next_offset - first_offset or messages < rejected + skipped
                or least(rejected, skipped) < 0
            order by topic, partition, generation, first_offset) f
        limit $1"#,
        executor,
        limit
    )
}

/// How many are kept may be bounded; a checkpoint counts them all.
pub(super) async fn rejected_messages(
    executor: impl PgExecutor<'_>,
    limit: i64,
) -> Result<Vec<Found>> {
    found!(
        "verify rejected messages",
        r#"-- verify: what was set aside was read
        with logs as (
            select topic, partition, generation, min(first_offset) as begins
            from driftd.checkpoints group by topic, partition, generation
        ), placed as (
            select r.topic, r.partition, r.generation, r.message_offset, r.monitor, r.reason,
                c.checkpoint_id, c.rejected,
                count(*) filter (where r.monitor = '') over (partition by c.checkpoint_id) as kept
            from driftd.rejected_messages r join logs l using (topic, partition, generation)
                left join driftd.checkpoints c on c.topic = r.topic and c.partition = r.partition
                    and c.generation = r.generation and r.message_offset >= c.first_offset
                    and r.message_offset < c.next_offset
            where r.message_offset >= l.begins
        )
        select to_jsonb(f) as "row!", count(*) over () as "total!" from (
            select * from placed
            where checkpoint_id is null or (monitor = '' and kept > rejected)
            order by topic, partition, generation, message_offset, monitor) f
        limit $1"#,
        executor,
        limit
    )
}

pub(super) async fn gaps(executor: impl PgExecutor<'_>, limit: i64) -> Result<Vec<Found>> {
    found!(
        "verify gaps",
        r#"-- verify: gaps hold reading back, or were passed
        select to_jsonb(f) as "row!", count(*) over () as "total!" from (
            select g.gap_id, g.topic, g.partition, g.generation, g.from_offset, g.to_offset,
                g.reason, g.found_at, g.passed_at, p.next_offset as stored_offset,
                p.generation as stored_generation
            from driftd.gaps g left join driftd.partition_progress p using (topic, partition)
            where g.to_offset <= g.from_offset or p.next_offset is null
                or (g.passed_at is null
                    and (p.generation, p.next_offset) <> (g.generation, g.from_offset))
            order by g.gap_id) f
        limit $1"#,
        executor,
        limit
    )
}
