//! `retraining_schedules`: since when a monitor's schedule is as it is.

use chrono::{DateTime, Utc};
use sqlx::PgExecutor;

use super::{Error, Result};

/// Stores a schedule and answers since when it is as it is: `at`, when it is new or was another.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn register(
    executor: impl PgExecutor<'_>,
    monitor: &str,
    cron: &str,
    time_zone: &str,
    at: DateTime<Utc>,
) -> Result<DateTime<Utc>> {
    sqlx::query_scalar!(
        r#"-- store a schedule
        insert into driftd.retraining_schedules as s (monitor, cron, time_zone, since)
        values ($1, $2, $3, $4)
        on conflict (monitor) do update set
            cron = excluded.cron, time_zone = excluded.time_zone,
            since = case when (s.cron, s.time_zone) = (excluded.cron, excluded.time_zone)
                         then s.since else excluded.since end
        returning since"#,
        monitor,
        cron,
        time_zone,
        at,
    )
    .fetch_one(executor)
    .await
    .map_err(Error::doing("store a schedule"))
}

/// Forgets a monitor's schedule, if it had one.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn forget(executor: impl PgExecutor<'_>, monitor: &str) -> Result<()> {
    sqlx::query!(
        r#"-- forget a schedule
        delete from driftd.retraining_schedules where monitor = $1"#,
        monitor,
    )
    .execute(executor)
    .await
    .map_err(Error::doing("forget a schedule"))?;
    Ok(())
}

/// Says when a schedule is due next.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn set_next(
    executor: impl PgExecutor<'_>,
    monitor: &str,
    next: Option<DateTime<Utc>>,
) -> Result<()> {
    sqlx::query!(
        r#"-- store when a schedule is due next
        update driftd.retraining_schedules set next_slot = $2
        where monitor = $1 and next_slot is distinct from $2"#,
        monitor,
        next,
    )
    .execute(executor)
    .await
    .map_err(Error::doing("store when a schedule is due next"))?;
    Ok(())
}
