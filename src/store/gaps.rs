//! `gaps` and `gap_windows`: messages that were gone from the log before they were read, and the
//! windows that may lack rows for it.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgExecutor};

use super::{Error, Result};
pub use crate::collect::partition::log::{Gap, OpenGap};

/// Records gaps of a partition, once. `passed`: reading goes on behind them now; else it stands
/// before them and waits for a person.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn record(
    executor: impl PgExecutor<'_>,
    (topic, partition): (&str, i32),
    gaps: &[Gap],
    policy: &str,
    passed: bool,
) -> Result<Vec<i64>> {
    let generations: Vec<i64> = gaps.iter().map(|gap| gap.generation).collect();
    let from: Vec<i64> = gaps.iter().map(|gap| gap.from_offset).collect();
    let to: Vec<Option<i64>> = gaps.iter().map(|gap| gap.to_offset).collect();
    let reasons: Vec<String> = gaps.iter().map(|gap| gap.reason.to_owned()).collect();
    sqlx::query_scalar!(
        r#"-- record gaps
        insert into driftd.gaps
            (topic, partition, generation, from_offset, to_offset, reason, policy, passed_at)
        select $1, $2, g, f, t, r, $7, case when $8 then now() end
        from unnest($3::bigint[], $4::bigint[], $5::bigint[], $6::text[]) as u (g, f, t, r)
        on conflict (topic, partition, generation, from_offset) do update
            set to_offset = excluded.to_offset, reason = excluded.reason,
                policy = excluded.policy, passed_at = excluded.passed_at
        returning gap_id"#,
        topic,
        partition,
        &generations,
        &from,
        &to as &[Option<i64>],
        &reasons,
        policy,
        passed,
    )
    .fetch_all(executor)
    .await
    .map_err(Error::doing("record gaps"))
}

/// Notes from which window on each monitor may lack rows; `None`: from the first there is.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn open_windows(
    executor: impl PgExecutor<'_>,
    gap_ids: &[i64],
    from_starts: &[(i64, Option<DateTime<Utc>>)],
) -> Result<()> {
    let (monitors, starts): (Vec<i64>, Vec<Option<DateTime<Utc>>>) =
        from_starts.iter().copied().unzip();
    sqlx::query!(
        r#"-- note which windows may lack rows
        insert into driftd.gap_windows (gap_id, monitor_id, from_start)
        select g, m, coalesce(s, '-infinity')
        from unnest($1::bigint[]) as x (g),
            unnest($2::bigint[], $3::timestamptz[]) as y (m, s)
        on conflict do nothing"#,
        gap_ids,
        &monitors,
        &starts as &[Option<DateTime<Utc>>],
    )
    .execute(executor)
    .await
    .map_err(Error::doing("note which windows may lack rows"))?;
    Ok(())
}

/// What a gap may have taken from windows of a monitor it may have taken from those of its next
/// revision too, which begin earlier by as much as the longest of them is long.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn hand_on(
    executor: impl PgExecutor<'_>,
    before: i64,
    next: i64,
    longest_ms: i64,
) -> Result<()> {
    sqlx::query!(
        r#"-- gaps of a monitor reach into its next revision
        insert into driftd.gap_windows (gap_id, monitor_id, from_start, until_start)
        select w.gap_id, m.monitor_id, w.from_start - $3::bigint * interval '1 millisecond',
            w.until_start
        from driftd.gap_windows w join driftd.gaps g using (gap_id)
            join driftd.monitors m on m.monitor_id = $2 and m.topic = g.topic
        where w.monitor_id = $1
            and (w.until_start is null or m.starts_at is null or w.until_start > m.starts_at)"#,
        before,
        next,
        longest_ms,
    )
    .execute(executor)
    .await
    .map_err(Error::doing("hand gaps on to a new revision"))?;
    Ok(())
}

/// The gaps of partitions behind which no message was read yet; and those of partitions that went with
/// an earlier topic of that name, where they have no end yet, or nothing of a partition's log was read.
/// Its first message ends them too: no message of the old topic can be younger than that.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn open(
    executor: impl PgExecutor<'_>,
    topic: &str,
    partitions: &[i32],
) -> Result<Vec<(i32, OpenGap)>> {
    let rows = sqlx::query!(
        r#"-- gaps without an end
        select p.partition, w.gap_id, w.monitor_id
        from driftd.gap_windows w join driftd.gaps g using (gap_id)
            join driftd.topics t using (topic)
            join driftd.partition_progress p on p.topic = t.topic and p.partition = any($2)
        where g.topic = $1 and g.passed_at is not null
            and ((g.partition = p.partition and w.until_start is null)
                or (g.partition >= t.partitions and p.topic_id = t.topic_id
                    and (w.until_start is null or p.next_offset = p.first_offset)))
        order by p.partition, w.gap_id, w.monitor_id"#,
        topic,
        partitions,
    )
    .fetch_all(executor)
    .await
    .map_err(Error::doing("read the gaps without an end"))?;
    let gaps = rows.into_iter().map(|row| {
        let (gap_id, monitor_id) = (row.gap_id, row.monitor_id);
        (row.partition, OpenGap { gap_id, monitor_id })
    });
    Ok(gaps.collect())
}

/// Notes from which window on nothing is missing any more. Where several partitions say so of a gap,
/// the first of these windows counts, in whatever order they say it.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn close_windows(
    connection: &mut PgConnection,
    closed: &[(OpenGap, DateTime<Utc>)],
) -> Result<()> {
    if closed.is_empty() {
        return Ok(());
    }
    let gap_ids: Vec<i64> = closed.iter().map(|(gap, _)| gap.gap_id).collect();
    let monitors: Vec<i64> = closed.iter().map(|(gap, _)| gap.monitor_id).collect();
    let until: Vec<DateTime<Utc>> = closed.iter().map(|(_, until)| *until).collect();
    sqlx::query!(
        r#"-- note from which window on nothing is missing
        update driftd.gap_windows w set until_start = least(w.until_start, u.s)
        from (select g, m, min(s) as s
            from unnest($1::bigint[], $2::bigint[], $3::timestamptz[]) as x (g, m, s)
            group by g, m) as u
        where w.gap_id = u.g and w.monitor_id = u.m
            and (w.until_start is null or u.s < w.until_start)"#,
        &gap_ids,
        &monitors,
        &until,
    )
    .execute(connection)
    .await
    .map_err(Error::doing("note from which window on nothing is missing"))?;
    Ok(())
}
