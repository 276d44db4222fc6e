//! Time partitions: made ahead, and dropped as wholes. The migration that makes them says which table
//! goes by which time.
//!
//! Whatever makes or drops a partition is a short transaction of its own that waits for no lock for
//! long; what cannot be done now is done a minute later.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgPool, Postgres, Transaction};

use super::{Error, Result};

/// What is said of windows, in the order in which it is written, which is the order of locks.
pub(super) const HISTORY: [&str; 4] = [
    "windows",
    "drift_scores",
    "drift_contributions",
    "window_profiles",
];
/// Months that windows of old data have partitions of their own for; more fall into the default
/// one. A query that names no time looks into all of them.
const MONTHS: i64 = 120;

/// A partition of one of the tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimePartition {
    /// Its name.
    pub partition: String,
    /// Its first moment.
    pub from_time: DateTime<Utc>,
    /// The first moment after it.
    pub until_time: DateTime<Utc>,
}

/// Begins a transaction that makes or drops partitions, one at a time over all replicas.
///
/// Everybody who needs the table waits behind a lock that is waited for here, so that wait is short.
/// It is shorter than the second after which Postgres looks for a deadlock: where two are in each
/// other's way, it is this one that gives up, never a checkpoint, a judge or a user's query.
pub(super) async fn begin(pool: &PgPool) -> Result<Transaction<'static, Postgres>> {
    let mut transaction = pool
        .begin()
        .await
        .map_err(Error::doing("begin the upkeep of partitions"))?;
    sqlx::query_scalar!(
        r#"-- wait for locks not for long
        select set_config('lock_timeout', '300ms', true)"#
    )
    .fetch_one(&mut *transaction)
    .await
    .map_err(Error::doing("limit the wait for locks"))?;
    sqlx::query!(
        r#"-- one replica at a time makes and drops partitions
        select pg_advisory_xact_lock(hashtextextended('driftd.upkeep', 0))"#
    )
    .execute(&mut *transaction)
    .await
    .map_err(Error::doing("lock the upkeep of partitions"))?;
    Ok(transaction)
}

pub(super) async fn commit(transaction: Transaction<'static, Postgres>) -> Result<()> {
    let committed = transaction.commit().await;
    committed.map_err(Error::doing("commit the upkeep of partitions"))
}

/// Makes the partitions of the present and the near future.
///
/// # Errors
/// When Postgres cannot be asked, or somebody holds a table.
pub async fn make_ahead(pool: &PgPool, now: DateTime<Utc>) -> Result<()> {
    let missing = sqlx::query!(
        r#"-- which partitions are missing
        select table_name as "table_name!", at as "at!" from (
            select 'profile_deltas' as table_name,
                generate_series($1::timestamptz, $1 + interval '3 hours', interval '1 hour') as at
            union all
            select t, generate_series($1::timestamptz, $1 + interval '2 days', interval '1 day')
            from unnest(array['checkpoints', 'rejected_messages']) t
            union all
            select 'windows', generate_series($1::timestamptz, $1 + interval '1 month', interval '1 month')
        ) wanted
        where not exists (select from driftd.time_partitions p
            where p.table_name = wanted.table_name and p.from_time <= at and at < p.until_time)"#,
        now,
    )
    .fetch_all(pool)
    .await
    .map_err(Error::doing("look for missing partitions"))?;
    for row in missing {
        let mut transaction = begin(pool).await?;
        match row.table_name.as_str() {
            "windows" => make_history(&mut transaction, row.at).await?,
            table => {
                make_partition(&mut transaction, table, row.at).await?;
            }
        }
        commit(transaction).await?;
    }
    Ok(())
}

/// Makes the month that windows of old or odd event times fall into, before one is judged.
///
/// # Errors
/// When Postgres cannot be asked, or somebody holds a table.
pub async fn make_month(pool: &PgPool, at: DateTime<Utc>) -> Result<()> {
    let mut transaction = begin(pool).await?;
    let months = sqlx::query_scalar!(
        r#"-- how many months have partitions
        select count(*) as "months!" from driftd.time_partitions where table_name = 'windows'"#
    )
    .fetch_one(&mut *transaction)
    .await
    .map_err(Error::doing("count partitions"))?;
    if months < MONTHS {
        make_history(&mut transaction, at).await?;
    }
    commit(transaction).await
}

/// All four or none, so that what is said of a window stands in partitions of one kind.
async fn make_history(connection: &mut PgConnection, at: DateTime<Utc>) -> Result<()> {
    for table in HISTORY {
        if !make_partition(connection, table, at).await? {
            break; // it is there, or the default partitions hold this month
        }
    }
    Ok(())
}

async fn make_partition(
    connection: &mut PgConnection,
    table: &str,
    at: DateTime<Utc>,
) -> Result<bool> {
    sqlx::query_scalar!(
        r#"-- make a time partition
        select driftd.make_partition($1, $2) as "made!""#,
        table,
        at,
    )
    .fetch_one(connection)
    .await
    .map_err(Error::doing("make a time partition"))
}

/// The partitions of a table that were over by then, oldest first.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn over_by(pool: &PgPool, table: &str, by: DateTime<Utc>) -> Result<Vec<TimePartition>> {
    sqlx::query_as!(
        TimePartition,
        r#"-- partitions that are over
        select partition as "partition!", from_time as "from_time!", until_time as "until_time!"
        from driftd.time_partitions where table_name = $1 and until_time <= $2 order by until_time"#,
        table,
        by,
    )
    .fetch_all(pool)
    .await
    .map_err(Error::doing("look for partitions that are over"))
}

/// Drops a partition, rows and all.
pub(super) async fn drop_partition(connection: &mut PgConnection, partition: &str) -> Result<()> {
    sqlx::query!(
        r#"-- drop a time partition
        select driftd.drop_partition($1)"#,
        partition,
    )
    .execute(connection)
    .await
    .map_err(Error::doing("drop a time partition"))?;
    tracing::info!(partition, "dropped a time partition");
    Ok(())
}

/// The same, in a transaction of its own.
pub(super) async fn drop_alone(pool: &PgPool, partition: &str) -> Result<()> {
    let mut transaction = begin(pool).await?;
    drop_partition(&mut transaction, partition).await?;
    commit(transaction).await
}

/// Drops partitions of `checkpoints` or `rejected_messages` that were over by then.
///
/// # Errors
/// When Postgres cannot be asked, or somebody holds the table.
pub async fn drop_over(pool: &PgPool, table: &str, by: DateTime<Utc>) -> Result<()> {
    for old in over_by(pool, table, by).await? {
        drop_alone(pool, &old.partition).await?;
    }
    Ok(())
}

/// Whether there is such a partition.
pub(super) async fn is_there(connection: &mut PgConnection, partition: &str) -> Result<bool> {
    sqlx::query_scalar!(
        r#"-- is this partition there
        select exists (select from driftd.time_partitions where partition = $1) as "there!""#,
        partition,
    )
    .fetch_one(connection)
    .await
    .map_err(Error::doing("look for a partition"))
}
