//! `failures`: what has stopped and cannot go on alone, while everything else runs.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgExecutor;

use super::{Error, Result};

/// What has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A topic: it is not read.
    Topic,
    /// A monitor: it is not judged.
    Monitor,
    /// The windows of one model version of a monitor: they are not judged.
    Windows,
}

impl Kind {
    /// As the table has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Topic => "topic",
            Self::Monitor => "monitor",
            Self::Windows => "windows",
        }
    }
}

/// A failure as it is reported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What has failed.
    pub kind: Kind,
    /// The topic, or the monitor.
    pub name: String,
    /// Of [`Kind::Windows`]: the model version. Otherwise empty.
    pub version: String,
    /// Who reports it.
    pub replica: String,
    /// What is wrong, where, and what would be right.
    pub reason: String,
    /// When it is tried again; `None`: not without a person.
    pub retry_in: Option<Duration>,
}

/// A failure as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Stored {
    /// `topic`, `monitor` or `windows`.
    pub kind: String,
    /// The topic, or the monitor.
    pub name: String,
    /// Of windows: the model version. Otherwise empty.
    pub version: String,
    /// The replica that reported it last.
    pub replica: String,
    /// What is wrong, where, and what would be right.
    pub reason: String,
    /// When it was reported first.
    pub since: DateTime<Utc>,
    /// How often it was reported since.
    pub attempts: i32,
    /// When it is tried again; `None`: not without a person.
    pub retry_at: Option<DateTime<Utc>>,
    /// When it was reported last.
    pub told_at: DateTime<Utc>,
}

/// The pause after so many attempts that failed: a minute, twice as long each time, an hour at most.
pub fn backoff(attempts: i32) -> Duration {
    let doubled = u32::try_from(attempts.clamp(1, 7) - 1).unwrap_or(0);
    Duration::from_secs(3600.min(60 << doubled))
}

/// Stores a failure. True: it is new, or has another reason than before, and should be logged.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn report(executor: impl PgExecutor<'_>, failure: &Failure) -> Result<bool> {
    sqlx::query_scalar!(
        r#"-- report a failure
        with before as (
            select reason from driftd.failures where kind = $1 and name = $2 and version = $3
        )
        insert into driftd.failures as f (kind, name, version, replica, reason, retry_at)
        values ($1, $2, $3, $4, $5, now() + $6::float8 * interval '1 second')
        on conflict (kind, name, version) do update
            set replica = excluded.replica, reason = excluded.reason,
                retry_at = excluded.retry_at, told_at = now(), attempts = f.attempts + 1
        returning reason is distinct from (select reason from before) as "news!""#,
        failure.kind.as_str(),
        failure.name,
        failure.version,
        failure.replica,
        // One line, and nothing that Postgres cannot store.
        failure.reason.replace(['\0', '\n', '\r'], " "),
        failure.retry_in.map(|pause| pause.as_secs_f64()),
    )
    .fetch_one(executor)
    .await
    .map_err(Error::doing("report a failure"))
}

/// Removes a failure: it works again. True: there was one.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn clear(
    executor: impl PgExecutor<'_>,
    kind: Kind,
    name: &str,
    version: &str,
) -> Result<bool> {
    let done = sqlx::query!(
        r#"-- clear a failure
        delete from driftd.failures where kind = $1 and name = $2 and version = $3"#,
        kind.as_str(),
        name,
        version,
    )
    .execute(executor)
    .await
    .map_err(Error::doing("clear a failure"))?;
    Ok(done.rows_affected() > 0)
}

/// Removes a topic's failure, if this replica has reported it last: another one may still have it. True:
/// there was one.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn clear_topic(
    executor: impl PgExecutor<'_>,
    topic: &str,
    replica: &str,
) -> Result<bool> {
    let done = sqlx::query!(
        r#"-- clear the failure of a topic
        delete from driftd.failures where kind = 'topic' and name = $1 and replica = $2"#,
        topic,
        replica,
    )
    .execute(executor)
    .await
    .map_err(Error::doing("clear the failure of a topic"))?;
    Ok(done.rows_affected() > 0)
}

/// Removes failures of topics that were due to be tried again a while ago: who still has one reports it
/// at each attempt, so these are of replicas that have ended since.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn drop_stale(executor: impl PgExecutor<'_>) -> Result<u64> {
    let done = sqlx::query!(
        r#"-- drop failures of topics that nobody reports any more
        delete from driftd.failures
        where kind = 'topic' and retry_at < now() - interval '2 minutes'"#,
    )
    .execute(executor)
    .await
    .map_err(Error::doing("drop failures that nobody reports"))?;
    Ok(done.rows_affected())
}

/// All failures, the oldest first.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn list(executor: impl PgExecutor<'_>) -> Result<Vec<Stored>> {
    sqlx::query_as!(
        Stored,
        r#"-- list failures
        select kind, name, version, replica, reason, since, attempts, retry_at, told_at
        from driftd.failures order by since, kind, name, version"#,
    )
    .fetch_all(executor)
    .await
    .map_err(Error::doing("list failures"))
}

/// How many there are of each kind, of every kind.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn count_by_kind(executor: impl PgExecutor<'_>) -> Result<Vec<(String, i64)>> {
    let counted = sqlx::query!(
        r#"-- count failures
        select k.kind as "kind!", count(f.kind) as "failures!"
        from unnest(array['topic', 'monitor', 'windows']) as k (kind)
            left join driftd.failures f using (kind)
        group by k.kind"#,
    )
    .fetch_all(executor)
    .await
    .map_err(Error::doing("count failures"))?;
    let counted = counted.into_iter().map(|row| (row.kind, row.failures));
    Ok(counted.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_an_hour() {
        let seconds = [0, 1, 2, 3, 6, 7, 8, i32::MAX].map(|n| backoff(n).as_secs());
        assert_eq!(seconds, [60, 60, 120, 240, 1920, 3600, 3600, 3600]);
    }
}
