//! Delivery of the outbox, at least once: `notify` to the sessions that listen on
//! `CHANNEL`, and a line in the log.
//!
//! A message is written in the transaction that caused it (an alert, a job), so it exists exactly
//! if its cause does. Here it is taken, delivered and marked, in that order: a crash in between
//! costs a second copy, which receivers tell by its `key`. Several replicas share the work.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::failpoint::{Failpoint, reached};
use crate::store::outbox::{self, Message};
use crate::store::{self, Error};
use crate::telemetry::metrics;

/// What listeners listen on: `listen driftd_alerts`.
pub const CHANNEL: &str = "driftd_alerts";

/// How often new messages are looked for.
const TICK: Duration = Duration::from_secs(1);
/// Taken at a time.
const BATCH: i64 = 100;
/// Postgres refuses a payload of 8000 bytes.
const PAYLOAD_MAX: usize = 7999;
/// The longest wait while Postgres cannot be reached.
const PATIENCE: Duration = Duration::from_secs(30);

/// Delivers messages until `stop`. While Postgres cannot be reached it waits and tries again.
///
/// # Errors
/// When the database refuses for good.
pub async fn run(pool: PgPool, clock: Arc<Clock>, stop: CancellationToken) -> Result<(), Error> {
    let mut failures = 0_u32;
    while !stop.is_cancelled() {
        let pause = match deliver(&pool, &clock).await {
            Ok(_) => {
                failures = 0;
                TICK
            }
            Err(error) if error.is_transient() => {
                failures += 1;
                let pause = PATIENCE.min(TICK * 2_u32.saturating_pow(failures.min(5)));
                tracing::warn!(error = %error.chain(), retry_in = ?pause, "the outbox waits for Postgres");
                pause
            }
            Err(error) => return Err(error),
        };
        let _ = tokio::time::timeout(pause, stop.cancelled()).await;
    }
    Ok(())
}

/// Delivers all messages that are due; answers how many.
///
/// # Errors
/// When the database cannot be asked. Messages taken but not marked come back later.
pub async fn deliver(pool: &PgPool, clock: &Clock) -> store::Result<usize> {
    let mut delivered = 0;
    loop {
        let limit = store::patience(pool, 0);
        let claim = outbox::claim(pool, BATCH);
        let messages = store::within(limit, "take messages from the outbox", claim).await?;
        if messages.is_empty() {
            return Ok(delivered);
        }
        for message in &messages {
            reached(Failpoint::BeforeDelivery);
            let payload = payload(message);
            let publish = outbox::publish(pool, CHANNEL, &payload);
            let published = store::within(limit, "publish a message", publish).await;
            let outcome = if published.is_ok() { "sent" } else { "failed" };
            metrics::notifications(outcome, 1);
            published?;
            reached(Failpoint::Delivered);
            tracing::info!(
                message.key = message.key,
                message.kind = message.kind,
                message.attempt = message.attempts,
                message.payload = %message.payload,
                "told the outside"
            );
            let mark = outbox::mark_delivered(pool, message.outbox_id, clock.now());
            store::within(limit, "mark a message as delivered", mark).await?;
            reached(Failpoint::DeliveryMarked);
            delivered += 1;
        }
    }
}

/// What listeners are sent. One that is too long for Postgres says where the rest is.
fn payload(message: &Message) -> String {
    let Message {
        outbox_id,
        key,
        kind,
        payload,
        created_at,
        ..
    } = message;
    let whole = json!({"key": key, "kind": kind, "created_at": created_at, "payload": payload});
    let whole = whole.to_string();
    if whole.len() <= PAYLOAD_MAX {
        return whole;
    }
    json!({"key": key, "kind": kind, "created_at": created_at, "outbox_id": outbox_id}).to_string()
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;

    #[test]
    fn a_message_too_long_for_postgres_says_where_the_rest_is() {
        let message = |text: String| Message {
            outbox_id: 7,
            key: "job:1".to_owned(),
            kind: "job_enqueued".to_owned(),
            payload: json!({ "text": text }),
            created_at: DateTime::UNIX_EPOCH,
            attempts: 1,
        };
        assert!(payload(&message("short".to_owned())).contains("short"));
        let long = payload(&message("x".repeat(8000)));
        assert!(
            long.len() <= PAYLOAD_MAX && long.contains("\"outbox_id\":7"),
            "{long}"
        );
    }
}
