//! `rejected_messages`: what could not be read, kept.

use sqlx::PgExecutor;

use super::checkpoints::Checkpoint;
use super::{Error, Result};

/// A message that could not be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// Kafka topic.
    pub topic: String,
    /// Its partition.
    pub partition: i32,
    /// Which log under the partition's name.
    pub generation: i64,
    /// Its offset.
    pub offset: i64,
    /// The monitor that could not use it; empty where no monitor could.
    pub monitor: String,
    /// One of few words: a metric's label.
    pub reason: String,
    /// For people.
    pub detail: String,
    /// SHA-256 of the payload.
    pub digest: Vec<u8>,
    /// Length of the payload.
    pub payload_bytes: i64,
    /// The payload, where the operator asks for it.
    pub payload: Option<Vec<u8>>,
}

/// Keeps the rejected messages of a stretch.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn insert_of(executor: impl PgExecutor<'_>, checkpoint: &Checkpoint) -> Result<u64> {
    let rejected = checkpoint.rejected.iter().map(|one| Rejected {
        topic: checkpoint.topic.clone(),
        partition: checkpoint.partition,
        generation: checkpoint.generation,
        offset: one.offset,
        monitor: one.monitor.clone(),
        reason: one.reason.as_str().to_owned(),
        detail: one.detail.clone(),
        digest: one.digest.to_vec(),
        payload_bytes: i64::try_from(one.payload_bytes).unwrap_or(i64::MAX),
        payload: one.payload.clone(),
    });
    insert(executor, &rejected.collect::<Vec<_>>()).await
}

/// Keeps rejected messages, in one statement. A message that is read a second time is kept once;
/// answers how many were new.
///
/// # Errors
/// When Postgres cannot be asked.
pub async fn insert(executor: impl PgExecutor<'_>, rejected: &[Rejected]) -> Result<u64> {
    if rejected.is_empty() {
        return Ok(0);
    }
    let topics = column(rejected, |r| r.topic.clone());
    let partitions = column(rejected, |r| r.partition);
    let offsets = column(rejected, |r| r.offset);
    let monitors = column(rejected, |r| r.monitor.clone());
    let reasons = column(rejected, |r| storable(&r.reason));
    let details = column(rejected, |r| storable(&r.detail));
    let digests = column(rejected, |r| r.digest.clone());
    let lengths = column(rejected, |r| r.payload_bytes);
    let generations = column(rejected, |r| r.generation);
    let payloads = column(rejected, |r| r.payload.clone());
    let done = sqlx::query!(
        r#"-- keep rejected messages
        insert into driftd.rejected_messages
            (topic, partition, message_offset, monitor, reason, detail, digest, payload_bytes,
            payload, generation)
        select * from unnest($1::text[], $2::int[], $3::bigint[], $4::text[], $5::text[],
                             $6::text[], $7::bytea[], $8::bigint[], $9::bytea[], $10::bigint[])
        on conflict do nothing"#,
        &topics,
        &partitions,
        &offsets,
        &monitors,
        &reasons,
        &details,
        &digests,
        &lengths,
        &payloads as &[Option<Vec<u8>>],
        &generations,
    )
    .execute(executor)
    .await
    .map_err(Error::doing("keep rejected messages"))?;
    Ok(done.rows_affected())
}

fn column<T>(rejected: &[Rejected], value: impl Fn(&Rejected) -> T) -> Vec<T> {
    rejected.iter().map(value).collect()
}

/// A detail may quote what the message held, and Postgres stores no NUL in a text: one such
/// message must not stop its whole partition.
fn storable(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}
