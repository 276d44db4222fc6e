//! The suggested parts of the log as a file, for commands that read no Kafka.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use rdkafka::Message;
use serde::Deserialize;
use serde_json::Value;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use super::{Held, Options, Outcome, STOPPED, process};
use crate::ingest::ranges::{self, Range};
use crate::settings::Kafka;
use crate::store::jobs::Claimed;

/// Reads the suggested parts of the log into a file, where that is wanted, and extends the lease
/// meanwhile; `None`: all is well.
pub(super) async fn fetched(
    pool: &PgPool,
    options: &Options,
    claimed: &Claimed,
    directory: &Path,
    stop: &CancellationToken,
) -> Option<Outcome> {
    let kafka = options.fetch.clone()?;
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
                    return Some(Outcome::GivenUp(why));
                }
            }
            () = stop.cancelled() => return Some(Outcome::failed(STOPPED, true)),
        }
    };
    match read {
        Ok(Ok(messages)) => {
            tracing::info!(
                job.id = lease.job_id,
                messages,
                "fetched the suggested data"
            );
            None
        }
        Ok(Err(error)) => {
            let error = anyhow::Error::from(error);
            let error = format!("the suggested data cannot be fetched: {error:#}");
            Some(Outcome::failed(error, true))
        }
        Err(panic) => {
            let error = format!("fetching the suggested data: {panic}");
            Some(Outcome::failed(error, false))
        }
    }
}

/// Writes the payloads of the suggested offset ranges, one a line; answers how many. The ranges may hold
/// messages of other times, as the log is not in order: `from` and `to` of the job say which are meant.
/// A payload with a line break in it is written without.
fn fetch(kafka: &Kafka, data: &Value, path: &Path) -> Result<u64, ranges::Error> {
    let ranges: Vec<Range> = data["offsets"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|range| Range::deserialize(range).ok())
        .collect();
    let mut file = BufWriter::new(File::create(path)?);
    let mut messages = 0_u64;
    let topic = data["topic"].as_str().unwrap_or_default();
    ranges::read(kafka, topic, &ranges, |message| {
        let Some(payload) = message.payload() else {
            return Ok(());
        };
        let line: Vec<u8> = payload
            .iter()
            .copied()
            .filter(|byte| !matches!(byte, b'\n' | b'\r'))
            .collect();
        file.write_all(&line)?;
        file.write_all(b"\n")?;
        messages += 1;
        Ok(())
    })?;
    file.flush()?;
    Ok(messages)
}
