//! The suggested parts of the log as a file, for commands that read no Kafka: what is to be trained on,
//! without what is held out for the baseline.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use rdkafka::Message;
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use super::{Held, Options, Outcome, STOPPED, process};
use crate::ingest::ranges::{self, Range};
use crate::retrain::split::Split;
use crate::settings::Kafka;
use crate::store::jobs::Claimed;

/// What was written.
struct Fetched {
    messages: u64,
    /// SHA-256 of the file, in hex.
    digest: String,
}

/// Reads the suggested parts of the log into a file, where that is wanted, and extends the lease
/// meanwhile. Answers the file's digest.
///
/// # Errors
/// With what becomes of the attempt.
pub(super) async fn fetched(
    pool: &PgPool,
    options: &Options,
    claimed: &Claimed,
    directory: &Path,
    stop: &CancellationToken,
) -> Result<Option<String>, Outcome> {
    let Some(kafka) = options.fetch.clone() else {
        return Ok(None);
    };
    let (lease, data) = (&claimed.lease, claimed.document["training_data"].clone());
    let path = directory.join(process::DATA);
    let mut reading = tokio::task::spawn_blocking(move || fetch(&kafka, &data, &path));
    let mut beat = tokio::time::interval(options.lease / 3);
    let mut held = Held::new(options.lease);
    let read = loop {
        tokio::select! {
            read = &mut reading => break read,
            _ = beat.tick() => {
                if let Some(why) = held.beat(pool, lease).await {
                    return Err(Outcome::GivenUp(why));
                }
            }
            () = stop.cancelled() => return Err(Outcome::failed(STOPPED, true)),
        }
    };
    match read {
        Ok(Ok(Fetched { messages, digest })) => {
            tracing::info!(
                job.id = lease.job_id,
                messages,
                "fetched the suggested data"
            );
            Ok(Some(digest))
        }
        Ok(Err(error)) => {
            let retry = !matches!(error, ranges::Error::Gone { .. }); // it does not come back
            let error = anyhow::Error::from(error);
            let error = format!("the suggested data cannot be fetched: {error:#}");
            Err(Outcome::failed(error, retry))
        }
        Err(panic) => {
            let error = format!("fetching the suggested data: {panic}");
            Err(Outcome::failed(error, false))
        }
    }
}

/// Writes the payloads of the suggested offset ranges, one a line, but those that are held out. The ranges
/// may hold messages of other times, as the log is not in order: `from` and `to` of the job say which are
/// meant. A payload with a line break in it is written without.
fn fetch(kafka: &Kafka, data: &Value, path: &Path) -> Result<Fetched, ranges::Error> {
    let split = Option::<Split>::deserialize(&data["split"]).map_err(std::io::Error::from)?;
    let ranges: Vec<Range> = data["offsets"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|range| Range::deserialize(range).ok())
        .collect();
    let mut file = BufWriter::new(File::create(path)?);
    let (mut messages, mut digest) = (0_u64, Sha256::new());
    let topic = data["topic"].as_str().unwrap_or_default();
    ranges::read(kafka, topic, &ranges, |message| {
        let (partition, offset) = (message.partition(), message.offset());
        let is_held_out = |split: &Split| split.is_baseline(topic, partition, offset);
        let Some(payload) = message.payload() else {
            return Ok(());
        };
        if split.as_ref().is_some_and(is_held_out) {
            return Ok(());
        }
        let mut line = payload.to_vec();
        line.retain(|byte| !matches!(byte, b'\n' | b'\r'));
        line.push(b'\n');
        digest.update(&line);
        file.write_all(&line)?;
        messages += 1;
        Ok(())
    })?;
    file.flush()?;
    let digest = hex::encode(digest.finalize());
    Ok(Fetched { messages, digest })
}
