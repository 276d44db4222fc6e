//! `outbox`: messages written in the transaction that caused them, delivered at least once.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgExecutor;

use super::{Error, Result};

/// A message that is to be delivered.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// Its row.
    pub outbox_id: i64,
    /// Receivers drop the second copy by it.
    pub key: String,
    /// `alert_fired`, `alert_resolved`, `job_enqueued`, ...
    pub kind: String,
    /// What it says.
    pub payload: Value,
    /// When it was caused.
    pub created_at: DateTime<Utc>,
    /// Which attempt this is, from 1.
    pub attempts: i32,
}

/// Writes a message. The same key again changes nothing; answers whether it was new.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn insert(
    executor: impl PgExecutor<'_>,
    key: &str,
    kind: &str,
    payload: &Value,
) -> Result<bool> {
    let done = sqlx::query!(
        r#"-- write a message
        insert into driftd.outbox (key, kind, payload) values ($1, $2, $3)
        on conflict (key) do nothing"#,
        key,
        kind,
        payload,
    )
    .execute(executor)
    .await
    .map_err(Error::doing("write a message to the outbox"))?;
    Ok(done.rows_affected() == 1)
}

/// Takes messages that are due, oldest first, in one statement: another replica skips them. Each
/// comes back after a while that doubles from 5 s up to an hour, unless it is marked delivered:
/// so a crash between taking and delivering costs a second copy, never the message.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn claim(executor: impl PgExecutor<'_>, limit: i64) -> Result<Vec<Message>> {
    let mut messages = sqlx::query_as!(
        Message,
        r#"-- take messages that are due
        update driftd.outbox o set
            attempts = o.attempts + 1,
            next_attempt_at = now() + least(
                interval '1 hour', interval '5 s' * power(2, least(o.attempts, 12)))
        where o.outbox_id in (
            select d.outbox_id from driftd.outbox d
            where d.delivered_at is null and d.next_attempt_at <= now()
            order by d.next_attempt_at, d.outbox_id
            limit $1
            for update skip locked)
        returning o.outbox_id, o.key, o.kind, o.payload, o.created_at, o.attempts"#,
        limit,
    )
    .fetch_all(executor)
    .await
    .map_err(Error::doing("take messages from the outbox"))?;
    messages.sort_by_key(|message| message.outbox_id); // returning keeps no order
    Ok(messages)
}

/// Publishes a message to the sessions that listen on `channel`.
///
/// # Errors
/// When Postgres cannot be asked; a payload has to be shorter than 8000 bytes.
pub async fn publish(executor: impl PgExecutor<'_>, channel: &str, payload: &str) -> Result<()> {
    sqlx::query!(
        r#"-- publish a message
        select pg_notify($1, $2)"#,
        channel,
        payload,
    )
    .execute(executor)
    .await
    .map_err(Error::doing("publish a message"))?;
    Ok(())
}

/// Marks a message as delivered.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn mark_delivered(
    executor: impl PgExecutor<'_>,
    outbox_id: i64,
    at: DateTime<Utc>,
) -> Result<()> {
    sqlx::query!(
        r#"-- mark a message as delivered
        update driftd.outbox set delivered_at = $2 where outbox_id = $1"#,
        outbox_id,
        at,
    )
    .execute(executor)
    .await
    .map_err(Error::doing("mark a message as delivered"))?;
    Ok(())
}
