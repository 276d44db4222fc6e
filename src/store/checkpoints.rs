//! `checkpoints` and `profile_deltas`: what a stretch of a partition added, saved in one fenced
//! transaction with the offset up to which it reaches.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgPool};

use super::gaps::{self, OpenGap};
use super::topics::{self, Count};
use super::{Error, Result, rejected};
use crate::failpoint::{Failpoint, reached};

/// A stretch of a partition with all that it added.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    /// Topic.
    pub topic: String,
    /// Partition.
    pub partition: i32,
    /// The epoch the partition was taken over with.
    pub epoch: i64,
    /// The offset that Postgres has to have, -1 for a partition that was never read.
    pub expected_offset: i64,
    /// The first offset of the stretch.
    pub first_offset: i64,
    /// The offset after it.
    pub next_offset: i64,
    /// The leader epoch of the last message before that, where it is known.
    pub leader_epoch: Option<i32>,
    /// Which log under the partition's name it was read from.
    pub generation: i64,
    /// How many partitions the topic has, where that is news: no window ripens without the new
    /// ones once what was read here is saved.
    pub count: Option<Count>,
    /// Gaps behind which it has the first message, with the first window that is whole again.
    pub closed_gaps: Vec<(OpenGap, DateTime<Utc>)>,
    /// Messages in it.
    pub messages: i64,
    /// Messages that no monitor could use.
    pub rejected_messages: i64,
    /// Tombstones.
    pub skipped: i64,
    /// What was set aside.
    pub rejected: Vec<rejected::Rejected>,
    /// Greatest event time per monitor.
    pub max_event_times: Vec<(i64, DateTime<Utc>)>,
    /// What it adds to windows.
    pub deltas: Vec<Delta>,
    /// Since when the partition is caught up and quiet.
    pub idle_since: Option<DateTime<Utc>>,
    /// When the brokers were asked whose answer has confirmed that last.
    pub idle_confirmed_at: Option<DateTime<Utc>>,
    /// The partition was idle at the last checkpoint: windows may have been judged without it.
    pub was_idle: bool,
}

impl Checkpoint {
    /// Windows of its rows may be in the judge's hands: the rows are late, or the judge did not wait
    /// for this partition, because it was idle or was not there.
    fn may_be_behind_the_judge(&self) -> bool {
        let is_still_idle = self.idle_since.is_some() && !self.has_stretch();
        (self.does_not_hold_back() && !is_still_idle)
            || self.deltas.iter().any(|delta| delta.late > 0)
    }

    fn has_stretch(&self) -> bool {
        self.first_offset < self.next_offset
    }

    /// Up to now the judge did not wait for this partition.
    fn does_not_hold_back(&self) -> bool {
        self.was_idle || self.expected_offset < 0
    }
}

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

/// Saves a checkpoint in one transaction, if its epoch and offset are still the stored ones.
///
/// A commit whose answer was lost may have happened all the same: then the stored offset is the
/// checkpoint's own end, under its own epoch, and trying again answers [`Outcome::Saved`].
///
/// # Errors
/// When Postgres cannot be asked; nothing was saved then, or everything.
pub async fn save(pool: &PgPool, checkpoint: &Checkpoint) -> Result<Outcome> {
    let mut transaction = pool
        .begin()
        .await
        .map_err(Error::doing("begin a checkpoint"))?;
    reached(Failpoint::CheckpointBegun);
    // In front of the partition's row, as everybody locks these two.
    if let Some(count) = &checkpoint.count {
        topics::note(&mut *transaction, count).await?;
    }
    if !advance(&mut transaction, checkpoint).await? {
        let done = is_saved(&mut transaction, checkpoint).await?;
        return Ok(if done {
            Outcome::Saved
        } else {
            Outcome::Fenced
        });
    }
    reached(Failpoint::CheckpointAdvanced);
    gaps::close_windows(&mut transaction, &checkpoint.closed_gaps).await?;
    let maybe_judged = checkpoint.may_be_behind_the_judge();
    if maybe_judged {
        lock_cursors(&mut transaction, checkpoint).await?;
        reached(Failpoint::CheckpointLocked);
    }
    // One without a stretch tells only that the partition is idle, or is no more.
    if checkpoint.has_stretch() {
        insert_stretch(&mut transaction, checkpoint, maybe_judged).await?;
    }
    reached(Failpoint::BeforeCheckpointCommit);
    transaction
        .commit()
        .await
        .map_err(Error::doing("commit a checkpoint"))?;
    reached(Failpoint::CheckpointCommitted);
    Ok(Outcome::Saved)
}

/// The stretch and what it adds.
async fn insert_stretch(
    transaction: &mut PgConnection,
    checkpoint: &Checkpoint,
    maybe_judged: bool,
) -> Result<()> {
    let checkpoint_id = insert(transaction, checkpoint).await?;
    reached(Failpoint::CheckpointInserted);
    rejected::insert(&mut *transaction, &checkpoint.rejected).await?;
    reached(Failpoint::CheckpointRejected);
    advance_watermarks(transaction, checkpoint).await?;
    reached(Failpoint::CheckpointWatermarks);
    advance_cursors(transaction, checkpoint).await?;
    reached(Failpoint::CheckpointLines);
    let waiting = insert_deltas(transaction, checkpoint_id, checkpoint).await?;
    reached(Failpoint::CheckpointDeltas);
    // A partition that was idle may bring rows for judged windows for more than one checkpoint.
    if maybe_judged || waiting < checkpoint.deltas.len() as u64 {
        count_late(transaction, checkpoint).await?;
    }
    Ok(())
}

/// The fence: compare and set.
async fn advance(connection: &mut PgConnection, checkpoint: &Checkpoint) -> Result<bool> {
    let done = sqlx::query!(
        r#"-- advance a partition, if it is still ours
        update driftd.partition_progress
        set next_offset = $5, leader_epoch = $8, idle_since = $6, idle_confirmed_at = $9,
            updated_at = now(),
            first_offset = case when first_offset < 0 then $7 else first_offset end
        where topic = $1 and partition = $2 and epoch = $3 and next_offset = $4"#,
        checkpoint.topic,
        checkpoint.partition,
        checkpoint.epoch,
        checkpoint.expected_offset,
        checkpoint.next_offset,
        checkpoint.idle_since,
        checkpoint.first_offset,
        checkpoint.leader_epoch,
        checkpoint.idle_confirmed_at,
    )
    .execute(connection)
    .await
    .map_err(Error::doing("advance a partition"))?;
    Ok(done.rows_affected() == 1)
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

async fn insert(connection: &mut PgConnection, checkpoint: &Checkpoint) -> Result<i64> {
    sqlx::query_scalar!(
        r#"-- insert a checkpoint
        insert into driftd.checkpoints
            (topic, partition, epoch, first_offset, next_offset, messages, rejected, skipped,
            generation)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9) returning checkpoint_id"#,
        checkpoint.topic,
        checkpoint.partition,
        checkpoint.epoch,
        checkpoint.first_offset,
        checkpoint.next_offset,
        checkpoint.messages,
        checkpoint.rejected_messages,
        checkpoint.skipped,
        checkpoint.generation,
    )
    .fetch_one(connection)
    .await
    .map_err(Error::doing("insert a checkpoint"))
}

/// Every monitor for which a row was read has a greatest event time.
async fn advance_watermarks(connection: &mut PgConnection, checkpoint: &Checkpoint) -> Result<()> {
    let (monitors, times): (Vec<i64>, Vec<DateTime<Utc>>) =
        checkpoint.max_event_times.iter().copied().unzip();
    let rows_of = |monitor: &i64| {
        let deltas = checkpoint.deltas.iter();
        let own = deltas.filter(|delta| delta.monitor_id == *monitor);
        own.map(|delta| delta.rows + delta.late).sum()
    };
    let rows: Vec<i64> = monitors.iter().map(rows_of).collect();
    sqlx::query!(
        r#"-- advance a partition's watermarks
        insert into driftd.watermarks as w (monitor_id, topic, partition, max_event_time, rows)
        select m, $3, $4, t, r from unnest($1::bigint[], $2::timestamptz[], $5::bigint[])
            as u (m, t, r)
        on conflict (monitor_id, topic, partition) do update
            set max_event_time = greatest(w.max_event_time, excluded.max_event_time),
                rows = w.rows + excluded.rows"#,
        &monitors,
        &times,
        checkpoint.topic,
        checkpoint.partition,
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
async fn lock_cursors(connection: &mut PgConnection, checkpoint: &Checkpoint) -> Result<()> {
    let late = checkpoint.deltas.iter().filter(|delta| delta.late > 0);
    let monitors: Vec<i64> = late.map(|delta| delta.monitor_id).collect();
    sqlx::query!(
        r#"-- wait for the judge
        select judged from driftd.window_cursors where monitor_id = any($1)
            or ($2 and monitor_id in (select monitor_id from driftd.monitors where topic = $3))
        order by monitor_id, version, segment for update"#,
        &monitors,
        checkpoint.does_not_hold_back(),
        checkpoint.topic,
    )
    .fetch_all(connection)
    .await
    .map_err(Error::doing("wait for the judge"))?;
    Ok(())
}

/// Starts the lines of windows that are new, and tells them how far rows that count reach. Most checkpoints
/// change nothing here; those leave the line alone before `on conflict` would lock it, or they would
/// wait for the judge and for each other. Rows of a window that the clock has judged do not count.
async fn advance_cursors(connection: &mut PgConnection, checkpoint: &Checkpoint) -> Result<()> {
    let deltas = &checkpoint.deltas;
    let monitors: Vec<i64> = deltas.iter().map(|delta| delta.monitor_id).collect();
    let versions: Vec<String> = deltas.iter().map(|delta| delta.version.clone()).collect();
    let counted = |delta: &Delta, at: DateTime<Utc>| (delta.rows > 0).then_some(at);
    let starts = deltas
        .iter()
        .map(|delta| counted(delta, delta.window_start));
    let starts: Vec<Option<DateTime<Utc>>> = starts.collect();
    let ends = deltas.iter().map(|delta| counted(delta, delta.window_end));
    let ends: Vec<Option<DateTime<Utc>>> = ends.collect();
    let keep_up: Vec<bool> = deltas.iter().map(|delta| delta.keeps_up).collect();
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
        &monitors,
        &versions,
        &starts as &[Option<DateTime<Utc>>],
        &keep_up,
        &ends as &[Option<DateTime<Utc>>],
    )
    .execute(connection)
    .await
    .map_err(Error::doing("advance lines of windows"))?;
    Ok(())
}

/// What waits for the judge; answers how many deltas do. Rows for windows that their line has passed
/// do not: [`count_late`] counts them. A line that has judged nothing has passed nothing, since its
/// first window may still turn out to be an earlier one.
async fn insert_deltas(
    connection: &mut PgConnection,
    checkpoint_id: i64,
    checkpoint: &Checkpoint,
) -> Result<u64> {
    let deltas = &checkpoint.deltas;
    let monitors: Vec<i64> = deltas.iter().map(|delta| delta.monitor_id).collect();
    let versions: Vec<String> = deltas.iter().map(|delta| delta.version.clone()).collect();
    let starts: Vec<DateTime<Utc>> = deltas.iter().map(|delta| delta.window_start).collect();
    let baselines: Vec<Option<String>> = deltas.iter().map(|d| d.baseline_id.clone()).collect();
    let rows: Vec<i64> = deltas.iter().map(|delta| delta.rows).collect();
    let late: Vec<i64> = deltas.iter().map(|delta| delta.late).collect();
    let first_offsets: Vec<i64> = deltas.iter().map(|delta| delta.first_offset).collect();
    let next_offsets: Vec<i64> = deltas.iter().map(|delta| delta.next_offset).collect();
    let stored: Vec<Option<Vec<u8>>> = deltas.iter().map(|delta| delta.delta.clone()).collect();
    let done = sqlx::query!(
        r#"-- insert deltas
        insert into driftd.profile_deltas (checkpoint_id, monitor_id, version, window_start,
            baseline_id, partition, first_offset, next_offset, rows, late, delta, generation)
        select $1, m, v, s, b, $8, f, n, r, l, d, $12
        from unnest($2::bigint[], $3::text[], $4::timestamptz[], $5::text[], $6::bigint[],
                $7::bigint[], $9::bigint[], $10::bigint[], $11::bytea[]) as u (m, v, s, b, r, l, f, n, d)
            join driftd.window_cursors c on c.monitor_id = m and c.version = v and c.segment = 'all'
                and (c.judged = 0 or c.next_start <= s)"#,
        checkpoint_id,
        &monitors,
        &versions,
        &starts,
        &baselines as &[Option<String>],
        &rows,
        &late,
        checkpoint.partition,
        &first_offsets,
        &next_offsets,
        &stored as &[Option<Vec<u8>>],
        checkpoint.generation,
    )
    .execute(connection)
    .await
    .map_err(Error::doing("insert deltas"))?;
    Ok(done.rows_affected())
}

/// Rows for windows that are judged already: late ones, and those that only the idleness of their
/// partition has made late. They change the window's counts and nothing else. Those of windows that
/// nobody judged, or that retention has dropped, are counted by their line.
async fn count_late(connection: &mut PgConnection, checkpoint: &Checkpoint) -> Result<()> {
    let deltas = &checkpoint.deltas;
    let monitors: Vec<i64> = deltas.iter().map(|delta| delta.monitor_id).collect();
    let versions: Vec<String> = deltas.iter().map(|delta| delta.version.clone()).collect();
    let starts: Vec<DateTime<Utc>> = deltas.iter().map(|delta| delta.window_start).collect();
    let late: Vec<i64> = deltas.iter().map(|delta| delta.late).collect();
    let rows: Vec<i64> = deltas.iter().map(|delta| delta.rows).collect();
    // `any ($3)` tells the planner which time partitions to look into.
    sqlx::query!(
        r#"-- count late rows of judged windows
        with passed as (
            select m, v, s, l, r
            from unnest($1::bigint[], $2::text[], $3::timestamptz[], $4::bigint[], $5::bigint[])
                    as u (m, v, s, l, r)
                join driftd.window_cursors c
                    on c.monitor_id = m and c.version = v and c.segment = 'all'
            where c.judged > 0 and s < c.next_start
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
        &monitors,
        &versions,
        &starts,
        &late,
        &rows,
    )
    .execute(connection)
    .await
    .map_err(Error::doing("count late rows"))?;
    Ok(())
}
