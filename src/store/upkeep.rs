//! What is old: deltas that no window waits for, and what retention takes. Nothing here changes a
//! result.

use chrono::{DateTime, Duration, Utc};
use sqlx::postgres::PgQueryResult;
use sqlx::{Connection as _, PgConnection, PgExecutor, PgPool};

use super::time_partitions::{self, HISTORY, TimePartition, begin, commit, over_by};
use super::{Error, Result};

/// Rows that are deleted or carried over in one transaction, at most.
const BATCH: i64 = 5000;
/// Bytes of deltas that are carried over in one transaction, but for the last one.
const CARRIED_BYTES: i64 = 16 << 20;

/// Transactions that begin in the time of a partition write into it a little longer.
pub const WRITTEN_FOR: Duration = Duration::minutes(15);
/// Deltas that wait longer than this are carried over: so windows of days or weeks do not keep the
/// deltas of all others in place. Windows of a day, the usual ones, are judged before.
pub const DELTAS_STAY: Duration = Duration::hours(26);

/// The database's own time: what defaults of columns say.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn now(pool: &PgPool) -> Result<DateTime<Utc>> {
    sqlx::query_scalar!(
        r#"-- what time it is
        select now() as "now!""#
    )
    .fetch_one(pool)
    .await
    .map_err(Error::doing("ask what time it is"))
}

/// The session in which this replica was elected: nobody else does the upkeep while it lasts.
#[derive(Debug)]
pub struct Elected(PgConnection);

/// Whether this replica does the upkeep, as it did `before`; `None`: another one does.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn elect(pool: &PgPool, before: Option<Elected>) -> Result<Option<Elected>> {
    const DOING: &str = "elect who does the upkeep";
    let mut session = match before {
        Some(Elected(session)) => session,
        // A session that is not given back: it ends with whoever holds it, and the lock with it.
        None => pool.acquire().await.map_err(Error::doing(DOING))?.detach(),
    };
    // The session that holds the lock already gets it once more, which lasts as long as the first.
    let elected = sqlx::query_scalar!(
        r#"-- does nobody else do the upkeep
        select pg_try_advisory_lock(hashtextextended('driftd.upkeep.elected', 0)) as "elected!""#
    )
    .fetch_one(&mut session)
    .await
    .map_err(Error::doing(DOING))?;
    if elected {
        return Ok(Some(Elected(session)));
    }
    // Where it cannot be closed it is gone already.
    let _ = session.close().await;
    Ok(None)
}

// --- deltas ----------------------------------------------------------------------------------------

/// Drops partitions of deltas that no window needs any more. What waits for long is carried over to
/// the newest partition first.
///
/// # Errors
/// When Postgres cannot be asked, or somebody holds the table.
pub async fn drop_passed_deltas(pool: &PgPool, now: DateTime<Utc>) -> Result<()> {
    for old in over_by(pool, "profile_deltas", now - WRITTEN_FOR).await? {
        if old.until_time <= now - DELTAS_STAY {
            while carry_over(pool, &old).await? > 0 {}
            time_partitions::drop_alone(pool, &old.partition).await?;
        } else if !is_waiting(pool, &old).await? {
            drop_unless_waiting(pool, &old).await?;
        }
    }
    delete_passed_deltas(pool).await
}

/// A line of windows never goes back, so what nobody waits for stays so; only a checkpoint that began
/// long ago might have come meanwhile.
async fn drop_unless_waiting(pool: &PgPool, old: &TimePartition) -> Result<()> {
    let mut transaction = begin(pool).await?;
    sqlx::query!(
        r#"-- nobody writes deltas
        lock table driftd.profile_deltas in access exclusive mode"#
    )
    .execute(&mut *transaction)
    .await
    .map_err(Error::doing("lock deltas"))?;
    if is_waiting(&mut *transaction, old).await? {
        return Ok(());
    }
    time_partitions::drop_partition(&mut transaction, &old.partition).await?;
    commit(transaction).await
}

/// Whether a window that is not judged yet has deltas in it: by a step into the index for each line.
async fn is_waiting(executor: impl PgExecutor<'_>, old: &TimePartition) -> Result<bool> {
    sqlx::query_scalar!(
        r#"-- does a window wait with deltas of this partition
        select exists (select from driftd.window_cursors c
            cross join lateral (select from driftd.profile_deltas d
                where d.monitor_id = c.monitor_id and d.version = c.version
                    and d.segment = c.segment
                    and d.window_start >= case when c.judged > 0 then c.next_start else '-infinity' end
                    and d.saved_at >= $1 and d.saved_at < $2
                limit 1) waiting) as "waits!""#,
        old.from_time,
        old.until_time,
    )
    .fetch_one(executor)
    .await
    .map_err(Error::doing("look for deltas that wait"))
}

/// Moves some of the deltas that wait in a partition to the newest one, as many as are written in short
/// time; answers how many. A reader sees each once, before or after. Those of an old revision of a
/// monitor stay and go: nobody judges its windows.
async fn carry_over(pool: &PgPool, old: &TimePartition) -> Result<u64> {
    let mut transaction = begin(pool).await?;
    let done = sqlx::query!(
        r#"-- carry deltas over
        with batch as (
            select d.monitor_id, d.version, d.segment, d.window_start, d.checkpoint_id,
                coalesce(octet_length(d.delta), 0) as bytes
            from driftd.profile_deltas d
                join driftd.window_cursors c using (monitor_id, version, segment)
                join driftd.monitors m using (monitor_id)
            where d.saved_at >= $1 and d.saved_at < $2
                and (c.judged = 0 or d.window_start >= c.next_start)
                and not exists (select from driftd.monitors newer
                    where newer.monitor = m.monitor and newer.revision > m.revision)
            limit $3
        ), summed as (
            select batch.*, sum(bytes) over (
                order by monitor_id, version, segment, window_start, checkpoint_id
                rows between unbounded preceding and 1 preceding) as bytes_before
            from batch
        ), waiting as (
            select * from summed where coalesce(bytes_before, 0) < $4
        ), carried as (
            delete from driftd.profile_deltas d using waiting w
            where d.saved_at >= $1 and d.saved_at < $2
                and d.monitor_id = w.monitor_id and d.version = w.version
                and d.segment = w.segment and d.window_start = w.window_start
                and d.checkpoint_id = w.checkpoint_id
            returning d.*
        )
        insert into driftd.profile_deltas (checkpoint_id, monitor_id, version, segment, window_start,
            baseline_id, partition, generation, first_offset, next_offset, rows, late, delta)
        select checkpoint_id, monitor_id, version, segment, window_start, baseline_id, partition,
            generation, first_offset, next_offset, carried.rows, late, delta
        from carried"#,
        old.from_time,
        old.until_time,
        BATCH,
        CARRIED_BYTES,
    )
    .execute(&mut *transaction)
    .await
    .map_err(Error::doing("carry deltas over"))?;
    commit(transaction).await?;
    Ok(done.rows_affected())
}

/// What fell into the default partition, as while no daemon ran that makes others.
async fn delete_passed_deltas(pool: &PgPool) -> Result<()> {
    in_batches("delete deltas", || {
        sqlx::query!(
            r#"-- delete deltas of judged windows
            delete from driftd.profile_deltas_default where ctid = any (array(
                select d.ctid from driftd.profile_deltas_default d
                    left join driftd.window_cursors c using (monitor_id, version, segment)
                where c.judged is null or (c.judged > 0 and d.window_start < c.next_start)
                limit $1))"#,
            BATCH,
        )
        .execute(pool)
    })
    .await
}

// --- history ---------------------------------------------------------------------------------------

/// Drops the months of windows, scores and contributions of which every window was judged before
/// `judged_before`, and of stored profiles those before `profiles_before`, which is not earlier.
///
/// # Errors
/// When Postgres cannot be asked, or somebody holds a table.
pub async fn drop_history(
    pool: &PgPool,
    judged_before: DateTime<Utc>,
    profiles_before: DateTime<Utc>,
) -> Result<()> {
    // A month that is not over by then holds windows judged since: few are judged ahead of time,
    // and those are looked for.
    for month in over_by(pool, "windows", judged_before).await? {
        drop_month(pool, &month, judged_before, &HISTORY).await?;
    }
    for month in over_by(pool, "window_profiles", profiles_before).await? {
        drop_month(pool, &month, profiles_before, &["window_profiles"]).await?;
    }
    delete_history(pool, judged_before).await?;
    delete_profiles(pool, profiles_before).await
}

/// Drops the partitions of a month if all of its windows were judged before a moment.
async fn drop_month(
    pool: &PgPool,
    month: &TimePartition,
    judged_before: DateTime<Utc>,
    tables: &[&str],
) -> Result<()> {
    if is_judged_since(pool, month, judged_before).await? {
        return Ok(());
    }
    let mut transaction = begin(pool).await?;
    // From here on no judge writes there: what one has written meanwhile is seen by the second look.
    if tables.contains(&"windows") {
        sqlx::query!(
            r#"-- nobody writes windows
            lock table driftd.windows in access exclusive mode"#
        )
        .execute(&mut *transaction)
        .await
        .map_err(Error::doing("lock windows"))?;
    } else {
        sqlx::query!(
            r#"-- nobody writes profiles
            lock table driftd.window_profiles in access exclusive mode"#
        )
        .execute(&mut *transaction)
        .await
        .map_err(Error::doing("lock profiles"))?;
    }
    if is_judged_since(&mut *transaction, month, judged_before).await? {
        return Ok(());
    }
    if tables.contains(&"windows") {
        delete_profiles_of(&mut transaction, month).await?;
    }
    let suffix = month
        .partition
        .trim_start_matches(|c: char| !c.is_ascii_digit());
    for table in tables {
        let partition = format!("{table}_{suffix}");
        if time_partitions::is_there(&mut transaction, &partition).await? {
            time_partitions::drop_partition(&mut transaction, &partition).await?;
        }
    }
    commit(transaction).await
}

async fn is_judged_since(
    executor: impl PgExecutor<'_>,
    month: &TimePartition,
    judged_before: DateTime<Utc>,
) -> Result<bool> {
    sqlx::query_scalar!(
        r#"-- was a window of this month judged since
        select exists (select from driftd.windows
            where window_start >= $1 and window_start < $2 and judged_at >= $3) as "judged!""#,
        month.from_time,
        month.until_time,
        judged_before,
    )
    .fetch_one(executor)
    .await
    .map_err(Error::doing("look for windows judged since"))
}

/// Profiles may outlive their month's partition in the default one, where a month of theirs was
/// dropped and old data was judged again after that.
async fn delete_profiles_of(connection: &mut PgConnection, month: &TimePartition) -> Result<()> {
    sqlx::query!(
        r#"-- delete stray profiles of a month
        delete from driftd.window_profiles_default where window_start >= $1 and window_start < $2"#,
        month.from_time,
        month.until_time,
    )
    .execute(connection)
    .await
    .map_err(Error::doing("delete stray profiles"))?;
    Ok(())
}

/// Old windows that fell into the default partitions, with all that is said of them.
async fn delete_history(pool: &PgPool, judged_before: DateTime<Utc>) -> Result<()> {
    in_batches("delete old windows", || {
        sqlx::query!(
            r#"-- delete old windows
            with old as (
                delete from driftd.windows_default where ctid = any (array(
                    select ctid from driftd.windows_default where judged_at < $1 limit $2))
                returning monitor_id, version, segment, window_start
            ), scores as (
                delete from driftd.drift_scores_default s using old
                where (s.monitor_id, s.version, s.segment, s.window_start)
                    = (old.monitor_id, old.version, old.segment, old.window_start)
            ), contributions as (
                delete from driftd.drift_contributions_default c using old
                where (c.monitor_id, c.version, c.segment, c.window_start)
                    = (old.monitor_id, old.version, old.segment, old.window_start)
            ), profiles as (
                delete from driftd.window_profiles_default p using old
                where (p.monitor_id, p.version, p.segment, p.window_start)
                    = (old.monitor_id, old.version, old.segment, old.window_start)
            )
            select from old"#,
            judged_before,
            BATCH,
        )
        .execute(pool)
    })
    .await
}

async fn delete_profiles(pool: &PgPool, judged_before: DateTime<Utc>) -> Result<()> {
    in_batches("delete old profiles", || {
        sqlx::query!(
            r#"-- delete old profiles
            delete from driftd.window_profiles_default where ctid = any (array(
                select p.ctid from driftd.window_profiles_default p
                    join driftd.windows w using (monitor_id, version, segment, window_start)
                where w.judged_at < $1
                limit $2))"#,
            judged_before,
            BATCH,
        )
        .execute(pool)
    })
    .await
}

// --- what is deleted row by row ----------------------------------------------------------------------

/// Drops days of checkpoints, and deletes those that fell into the default partition.
///
/// # Errors
/// When Postgres cannot be asked, or somebody holds the table.
pub async fn drop_checkpoints(pool: &PgPool, before: DateTime<Utc>) -> Result<()> {
    time_partitions::drop_over(pool, "checkpoints", before).await?;
    in_batches("delete old checkpoints", || {
        sqlx::query!(
            r#"-- delete old checkpoints
            delete from driftd.checkpoints_default where ctid = any (array(
                select ctid from driftd.checkpoints_default where committed_at < $1 limit $2))"#,
            before,
            BATCH,
        )
        .execute(pool)
    })
    .await
}

/// Drops days of rejected messages, and deletes those that fell into the default partition.
///
/// # Errors
/// When Postgres cannot be asked, or somebody holds the table.
pub async fn drop_rejected_messages(pool: &PgPool, before: DateTime<Utc>) -> Result<()> {
    time_partitions::drop_over(pool, "rejected_messages", before).await?;
    in_batches("delete old rejected messages", || {
        sqlx::query!(
            r#"-- delete old rejected messages
            delete from driftd.rejected_messages_default where ctid = any (array(
                select ctid from driftd.rejected_messages_default where rejected_at < $1 limit $2))"#,
            before,
            BATCH,
        )
        .execute(pool)
    })
    .await
}

/// Messages of the outbox that were delivered before.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn delete_delivered(pool: &PgPool, before: DateTime<Utc>) -> Result<()> {
    in_batches("delete delivered messages", || {
        sqlx::query!(
            r#"-- delete delivered messages
            delete from driftd.outbox where outbox_id in (
                select outbox_id from driftd.outbox where delivered_at < $1 limit $2)"#,
            before,
            BATCH,
        )
        .execute(pool)
    })
    .await
}

/// What trainers printed long ago.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn delete_job_lines(pool: &PgPool, before: DateTime<Utc>) -> Result<()> {
    in_batches("delete old lines of jobs", || {
        sqlx::query!(
            r#"-- delete old lines of jobs
            delete from driftd.retraining_job_logs where log_id in (
                select log_id from driftd.retraining_job_logs where created_at < $1 limit $2)"#,
            before,
            BATCH,
        )
        .execute(pool)
    })
    .await
}

/// Each batch is a transaction of its own.
async fn in_batches<F>(doing: &'static str, mut batch: impl FnMut() -> F) -> Result<()>
where
    F: Future<Output = sqlx::Result<PgQueryResult>>,
{
    while batch().await.map_err(Error::doing(doing))?.rows_affected() >= BATCH.unsigned_abs() {}
    Ok(())
}
