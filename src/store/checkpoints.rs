//! `checkpoints` and `profile_deltas`: what a stretch of a partition added, saved in one fenced
//! transaction with the offset up to which it reaches.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgPool};

use super::{Error, Result, gaps, rejected, topics};
use crate::collect::partition::log;
use crate::failpoint::{Failpoint, reached};

/// A stretch of a partition with all that it added.
pub type Checkpoint = log::Checkpoint<Delta>;

/// What a stretch adds to one window.
#[derive(Debug, Clone)]
pub struct Delta {
    /// The monitor's revision.
    pub monitor_id: i64,
    /// Model version.
    pub version: String,
    /// Window start.
    pub window_start: DateTime<Utc>,
    /// Window end.
    pub window_end: DateTime<Utc>,
    /// What its rows will be compared with.
    pub baseline_id: Option<String>,
    /// Offset of its first row.
    pub first_offset: i64,
    /// The offset behind its last row.
    pub next_offset: i64,
    /// Rows that count.
    pub rows: i64,
    /// Rows that came too late.
    pub late: i64,
    /// Its rows were read before the clock would have judged the window.
    pub keeps_up: bool,
    /// The stored profile; `None` where only late rows came.
    pub delta: Option<Vec<u8>>,
}

/// What became of a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is durable.
    Saved,
    /// Another replica has the partition: nothing was saved.
    Fenced,
}

/// Saves one checkpoint: [`save_all`].
///
/// # Errors
/// When Postgres cannot be asked; nothing was saved then, or everything.
pub async fn save(pool: &PgPool, checkpoint: &Checkpoint) -> Result<Outcome> {
    let outcomes = save_all(pool, std::slice::from_ref(checkpoint)).await?;
    Ok(outcomes.first().copied().unwrap_or(Outcome::Fenced))
}

/// Saves checkpoints of partitions of one topic in one transaction, those whose epoch and offset are
/// still the stored ones. A fenced one drops out of it alone.
///
/// A commit whose answer was lost may have happened all the same: then the stored offset is the
/// checkpoint's own end, under its own epoch, and trying again answers [`Outcome::Saved`].
///
/// # Errors
/// When Postgres cannot be asked; nothing was saved then, or everything.
pub async fn save_all(pool: &PgPool, checkpoints: &[Checkpoint]) -> Result<Vec<Outcome>> {
    let Some(first) = checkpoints.first() else {
        return Ok(Vec::new());
    };
    let topic = first.topic.as_str();
    let begun = pool.begin().await;
    let mut transaction = begun.map_err(Error::doing("begin checkpoints"))?;
    passed(checkpoints.len(), Failpoint::CheckpointBegun);
    // In front of the partitions' rows, as everybody locks these two.
    let news = checkpoints.iter().filter_map(|one| one.count.as_ref());
    if let Some(count) = news.max_by_key(|count| count.partitions) {
        topics::note(&mut *transaction, count).await?;
    }
    let advanced = advance(&mut transaction, topic, checkpoints).await?;
    let mut outcomes = Vec::with_capacity(checkpoints.len());
    for checkpoint in checkpoints {
        let saved = advanced.contains(&checkpoint.partition)
            || is_saved(&mut transaction, checkpoint).await?;
        outcomes.push(match saved {
            true => Outcome::Saved,
            false => Outcome::Fenced,
        });
    }
    passed(checkpoints.len(), Failpoint::CheckpointAdvanced);
    let ours = checkpoints.iter();
    let ours = ours.filter(|one| advanced.contains(&one.partition));
    insert_all(&mut transaction, topic, &ours.collect::<Vec<_>>()).await?;
    passed(checkpoints.len(), Failpoint::BeforeCheckpointCommit);
    let done = transaction.commit().await;
    done.map_err(Error::doing("commit checkpoints"))?;
    passed(checkpoints.len(), Failpoint::CheckpointCommitted);
    Ok(outcomes)
}

/// Each checkpoint passes a failpoint, however many of them share the transaction.
fn passed(checkpoints: usize, point: Failpoint) {
    (0..checkpoints).for_each(|_| reached(point));
}

/// Windows of a checkpoint's rows may be in the judge's hands: the rows are late, or the judge did not
/// wait for this partition, because it was idle or was not there.
fn may_be_behind_the_judge(checkpoint: &Checkpoint) -> bool {
    let is_still_idle = checkpoint.idle_since.is_some() && !checkpoint.has_stretch();
    (checkpoint.was_idle && !is_still_idle) || checkpoint.deltas.iter().any(|delta| delta.late > 0)
}

/// What the checkpoints that are ours add.
async fn insert_all(
    connection: &mut PgConnection,
    topic: &str,
    ours: &[&Checkpoint],
) -> Result<()> {
    let closed: Vec<_> = ours
        .iter()
        .flat_map(|one| &one.closed_gaps)
        .copied()
        .collect();
    gaps::close_windows(connection, &closed).await?;
    let behind = ours.iter().copied();
    let behind: Vec<&Checkpoint> = behind.filter(|one| may_be_behind_the_judge(one)).collect();
    if !behind.is_empty() {
        lock_cursors(connection, topic, &behind).await?;
        passed(behind.len(), Failpoint::CheckpointLocked);
    }
    // One without a stretch tells only whether the partition is idle.
    let stretches = ours.iter().copied().filter(|one| one.has_stretch());
    let stretches: Vec<&Checkpoint> = stretches.collect();
    if stretches.is_empty() {
        return Ok(());
    }
    let ids = insert(connection, topic, &stretches).await?;
    passed(stretches.len(), Failpoint::CheckpointInserted);
    for checkpoint in &stretches {
        rejected::insert_of(&mut *connection, checkpoint).await?;
    }
    passed(stretches.len(), Failpoint::CheckpointRejected);
    advance_watermarks(connection, topic, &stretches).await?;
    passed(stretches.len(), Failpoint::CheckpointWatermarks);
    let added = Deltas::of(&stretches, &ids);
    advance_cursors(connection, &added).await?;
    passed(stretches.len(), Failpoint::CheckpointLines);
    let waiting = insert_deltas(connection, &added).await?;
    passed(stretches.len(), Failpoint::CheckpointDeltas);
    // A partition that was idle may bring rows for judged windows for more than one checkpoint.
    if !behind.is_empty() || waiting < added.starts.len() as u64 {
        count_late(connection, &added).await?;
    }
    Ok(())
}

/// The fence: compare and set. Answers the partitions that are still ours.
async fn advance(
    connection: &mut PgConnection,
    topic: &str,
    checkpoints: &[Checkpoint],
) -> Result<Vec<i32>> {
    let column = |value: fn(&Checkpoint) -> i64| checkpoints.iter().map(value).collect::<Vec<_>>();
    let partitions: Vec<i32> = checkpoints.iter().map(|one| one.partition).collect();
    let leader_epochs: Vec<Option<i32>> = checkpoints.iter().map(|one| one.leader_epoch).collect();
    let idle: Vec<Option<DateTime<Utc>>> = checkpoints.iter().map(|one| one.idle_since).collect();
    let confirmed = checkpoints.iter().map(|one| one.idle_confirmed_at);
    let confirmed: Vec<Option<DateTime<Utc>>> = confirmed.collect();
    sqlx::query_scalar!(
        r#"-- advance partitions that are still ours
        with stretches as (
            select * from unnest($2::int[], $3::bigint[], $4::bigint[], $5::bigint[], $6::int[],
                $7::timestamptz[], $8::timestamptz[])
                as u (partition, epoch, first, next, leader_epoch, idle, confirmed)
        ), ours as (
            select p.partition from driftd.partition_progress p join stretches s using (partition)
            where p.topic = $1 and p.epoch = s.epoch and p.next_offset = s.first
            order by p.partition for update of p
        )
        update driftd.partition_progress p
        set next_offset = s.next, leader_epoch = s.leader_epoch, idle_since = s.idle,
            idle_confirmed_at = s.confirmed, updated_at = now()
        from stretches s
        where p.topic = $1 and p.partition = s.partition and p.epoch = s.epoch
            and p.next_offset = s.first and p.partition in (select partition from ours)
        returning p.partition"#,
        topic,
        &partitions,
        &column(|one| one.epoch),
        &column(|one| one.first_offset),
        &column(|one| one.next_offset),
        &leader_epochs as &[Option<i32>],
        &idle as &[Option<DateTime<Utc>>],
        &confirmed as &[Option<DateTime<Utc>>],
    )
    .fetch_all(connection)
    .await
    .map_err(Error::doing("advance partitions"))
}

async fn is_saved(connection: &mut PgConnection, checkpoint: &Checkpoint) -> Result<bool> {
    let saved = sqlx::query_scalar!(
        r#"-- was this checkpoint saved before its answer was lost
        select exists (select from driftd.partition_progress p join driftd.checkpoints c
                using (topic, partition, epoch, next_offset)
            where topic = $1 and partition = $2 and epoch = $3 and next_offset = $4
                and c.first_offset = $5) as "saved!""#,
        checkpoint.topic,
        checkpoint.partition,
        checkpoint.epoch,
        checkpoint.next_offset,
        checkpoint.first_offset,
    )
    .fetch_one(connection)
    .await
    .map_err(Error::doing("look for a checkpoint"))?;
    Ok(saved)
}

/// Inserts the stretches; answers the id of each.
async fn insert(
    connection: &mut PgConnection,
    topic: &str,
    stretches: &[&Checkpoint],
) -> Result<HashMap<i32, i64>> {
    let column = |value: fn(&Checkpoint) -> i64| {
        let values = stretches.iter().map(|one| value(one));
        values.collect::<Vec<_>>()
    };
    let partitions: Vec<i32> = stretches.iter().map(|one| one.partition).collect();
    let rows = sqlx::query!(
        r#"-- insert checkpoints
        insert into driftd.checkpoints (topic, partition, epoch, first_offset, next_offset, messages,
            rejected, skipped, generation)
        select $1::text, * from unnest($2::int[], $3::bigint[], $4::bigint[], $5::bigint[],
            $6::bigint[], $7::bigint[], $8::bigint[], $9::bigint[])
        returning partition, checkpoint_id"#,
        topic,
        &partitions,
        &column(|one| one.epoch),
        &column(|one| one.first_offset),
        &column(|one| one.next_offset),
        &column(|one| one.messages),
        &column(|one| one.rejected_messages),
        &column(|one| one.skipped),
        &column(|one| one.generation),
    )
    .fetch_all(connection)
    .await
    .map_err(Error::doing("insert checkpoints"))?;
    let ids = rows
        .into_iter()
        .map(|row| (row.partition, row.checkpoint_id));
    Ok(ids.collect())
}

/// Every monitor for which a row was read has a greatest event time.
async fn advance_watermarks(
    connection: &mut PgConnection,
    topic: &str,
    stretches: &[&Checkpoint],
) -> Result<()> {
    let (mut monitors, mut partitions, mut times, mut rows) = (vec![], vec![], vec![], vec![]);
    for checkpoint in stretches {
        for (monitor, time) in &checkpoint.max_event_times {
            let own = checkpoint.deltas.iter();
            let own = own.filter(|delta| delta.monitor_id == *monitor);
            monitors.push(*monitor);
            partitions.push(checkpoint.partition);
            times.push(*time);
            rows.push(own.map(|delta| delta.rows + delta.late).sum::<i64>());
        }
    }
    sqlx::query!(
        r#"-- advance the watermarks of partitions
        insert into driftd.watermarks as w (monitor_id, topic, partition, max_event_time, rows)
        select m, $3::text, p, t, r
        from unnest($1::bigint[], $2::int[], $4::timestamptz[], $5::bigint[]) as u (m, p, t, r)
        order by m, p
        on conflict (monitor_id, topic, partition) do update
            set max_event_time = greatest(w.max_event_time, excluded.max_event_time),
                rows = w.rows + excluded.rows"#,
        &monitors,
        &partitions,
        topic,
        &times,
        &rows,
    )
    .execute(connection)
    .await
    .map_err(Error::doing("advance watermarks"))?;
    Ok(())
}

/// Rows that come too late, or from a partition that was idle, may be for a window that the judge
/// is at work on. Waiting for the judge's locks makes each of them count in one place: with the
/// deltas that the judge sums up, or on the judged window. A partition that was idle waits for all
/// lines of its topic, also those of which it brings no row yet: from now on the judge waits for it.
async fn lock_cursors(
    connection: &mut PgConnection,
    topic: &str,
    behind: &[&Checkpoint],
) -> Result<()> {
    let deltas = behind.iter().flat_map(|one| &one.deltas);
    let late = deltas.filter(|delta| delta.late > 0);
    let monitors: Vec<i64> = late.map(|delta| delta.monitor_id).collect();
    sqlx::query!(
        r#"-- wait for the judge
        select judged from driftd.window_cursors where monitor_id = any($1)
            or ($2 and monitor_id in (select monitor_id from driftd.monitors where topic = $3))
        order by monitor_id, version, segment for update"#,
        &monitors,
        behind.iter().any(|one| one.was_idle),
        topic,
    )
    .fetch_all(connection)
    .await
    .map_err(Error::doing("wait for the judge"))?;
    Ok(())
}

/// What stretches add to windows, in columns.
#[derive(Default)]
struct Deltas<'a> {
    checkpoints: Vec<i64>,
    partitions: Vec<i32>,
    generations: Vec<i64>,
    monitors: Vec<i64>,
    versions: Vec<&'a str>,
    starts: Vec<DateTime<Utc>>,
    /// Of the windows with rows that count.
    counted_starts: Vec<Option<DateTime<Utc>>>,
    counted_ends: Vec<Option<DateTime<Utc>>>,
    baselines: Vec<Option<&'a str>>,
    first_offsets: Vec<i64>,
    next_offsets: Vec<i64>,
    rows: Vec<i64>,
    late: Vec<i64>,
    keep_up: Vec<bool>,
    stored: Vec<Option<&'a [u8]>>,
}

impl<'a> Deltas<'a> {
    fn of(stretches: &[&'a Checkpoint], ids: &HashMap<i32, i64>) -> Self {
        let mut columns = Self::default();
        for checkpoint in stretches {
            let id = ids.get(&checkpoint.partition).copied().unwrap_or_default();
            for delta in &checkpoint.deltas {
                let counted = |at: DateTime<Utc>| (delta.rows > 0).then_some(at);
                columns.checkpoints.push(id);
                columns.partitions.push(checkpoint.partition);
                columns.generations.push(checkpoint.generation);
                columns.monitors.push(delta.monitor_id);
                columns.versions.push(&delta.version);
                columns.starts.push(delta.window_start);
                columns.counted_starts.push(counted(delta.window_start));
                columns.counted_ends.push(counted(delta.window_end));
                columns.baselines.push(delta.baseline_id.as_deref());
                columns.first_offsets.push(delta.first_offset);
                columns.next_offsets.push(delta.next_offset);
                columns.rows.push(delta.rows);
                columns.late.push(delta.late);
                columns.keep_up.push(delta.keeps_up);
                columns.stored.push(delta.delta.as_deref());
            }
        }
        columns
    }
}

/// Starts the lines of windows that are new, and tells them how far rows that count reach. Most checkpoints
/// change nothing here; those leave the line alone before `on conflict` would lock it, or they would
/// wait for the judge and for each other. Rows of a window that the clock has judged do not count.
async fn advance_cursors(connection: &mut PgConnection, added: &Deltas<'_>) -> Result<()> {
    sqlx::query!(
        r#"-- advance lines of windows
        with lines as (
            select m, v, min(s) as first, min(e) as first_end, max(s) as last,
                bool_or(k) as keeps_up
            from unnest($1::bigint[], $2::text[], $3::timestamptz[], $4::bool[],
                $5::timestamptz[]) as u (m, v, s, k, e)
            group by m, v
        )
        insert into driftd.window_cursors as c
            (monitor_id, version, next_start, next_end, last_start, keeps_up)
        select m, v, first, first_end, last, keeps_up from lines
        where not exists (select from driftd.window_cursors c
            where c.monitor_id = m and c.version = v and c.segment = 'all'
                and (c.keeps_up or not lines.keeps_up)
                and (last is null or (c.judged > 0 and last < c.next_start)
                    or (c.last_start >= last and (c.judged > 0 or c.next_start <= first))))
        order by m, v
        on conflict (monitor_id, version, segment) do update
            set keeps_up = c.keeps_up or excluded.keeps_up,
                next_start = case when c.judged = 0
                    then least(c.next_start, excluded.next_start) else c.next_start end,
                next_end = case when c.judged = 0
                    then least(c.next_end, excluded.next_end) else c.next_end end,
                last_start = case when c.judged = 0 or excluded.last_start >= c.next_start
                    then greatest(c.last_start, excluded.last_start) else c.last_start end
            where excluded.last_start is not null
                and (c.last_start is null or c.last_start < excluded.last_start
                    or (excluded.keeps_up and not c.keeps_up)
                    or (c.judged = 0 and excluded.next_start < c.next_start))"#,
        &added.monitors,
        &added.versions as &[&str],
        &added.counted_starts as &[Option<DateTime<Utc>>],
        &added.keep_up,
        &added.counted_ends as &[Option<DateTime<Utc>>],
    )
    .execute(connection)
    .await
    .map_err(Error::doing("advance lines of windows"))?;
    Ok(())
}

/// What waits for the judge; answers how many deltas do. Rows for windows that their line has passed
/// do not: [`count_late`] counts them. A line that has judged nothing has passed nothing, since its
/// first window may still turn out to be an earlier one.
async fn insert_deltas(connection: &mut PgConnection, added: &Deltas<'_>) -> Result<u64> {
    let done = sqlx::query!(
        r#"-- insert deltas
        insert into driftd.profile_deltas (checkpoint_id, monitor_id, version, window_start,
            baseline_id, partition, first_offset, next_offset, rows, late, delta, generation)
        select i, m, v, s, b, p, f, n, r, l, d, g
        from unnest($1::bigint[], $2::bigint[], $3::text[], $4::timestamptz[], $5::text[], $6::int[],
                $7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[], $11::bytea[], $12::bigint[])
                as u (i, m, v, s, b, p, f, n, r, l, d, g)
            join driftd.window_cursors c on c.monitor_id = m and c.version = v and c.segment = 'all'
                and (c.judged = 0 or c.next_start <= s)"#,
        &added.checkpoints,
        &added.monitors,
        &added.versions as &[&str],
        &added.starts,
        &added.baselines as &[Option<&str>],
        &added.partitions,
        &added.first_offsets,
        &added.next_offsets,
        &added.rows,
        &added.late,
        &added.stored as &[Option<&[u8]>],
        &added.generations,
    )
    .execute(connection)
    .await
    .map_err(Error::doing("insert deltas"))?;
    Ok(done.rows_affected())
}

/// Rows for windows that are judged already: late ones, and those that only the idleness of their
/// partition has made late. They change the window's counts and nothing else. Those of windows that
/// nobody judged, or that retention has dropped, are counted by their line.
async fn count_late(connection: &mut PgConnection, added: &Deltas<'_>) -> Result<()> {
    // `any ($3)` tells the planner which time partitions to look into.
    sqlx::query!(
        r#"-- count late rows of judged windows
        with passed as (
            select m, v, s, sum(l)::bigint as l, sum(r)::bigint as r
            from unnest($1::bigint[], $2::text[], $3::timestamptz[], $4::bigint[], $5::bigint[])
                    as u (m, v, s, l, r)
                join driftd.window_cursors c
                    on c.monitor_id = m and c.version = v and c.segment = 'all'
            where c.judged > 0 and s < c.next_start
            group by m, v, s
        ), counted as (
            update driftd.windows w
            set late = w.late + p.l, late_after_idle = w.late_after_idle + p.r
            from passed p
            where w.monitor_id = p.m and w.version = p.v and w.segment = 'all'
                and w.window_start = p.s and w.window_start = any ($3)
            returning p.m, p.v, p.s
        )
        insert into driftd.rows_without_window as o (monitor_id, version, late, late_after_idle)
        select m, v, sum(l), sum(r) from passed
        where (m, v, s) not in (select m, v, s from counted)
        group by m, v order by m, v
        on conflict (monitor_id, version, segment) do update
            set late = o.late + excluded.late,
                late_after_idle = o.late_after_idle + excluded.late_after_idle"#,
        &added.monitors,
        &added.versions as &[&str],
        &added.starts,
        &added.late,
        &added.rows,
    )
    .execute(connection)
    .await
    .map_err(Error::doing("count late rows"))?;
    Ok(())
}
