//! The suggested parts of the log as a file, for commands that read no Kafka.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use rdkafka::Message;
use serde_json::Value;

use crate::ingest::ranges::{self, Range};
use crate::settings::Kafka;

/// Writes the payloads of the suggested offset ranges, one a line; answers how many. The ranges may hold
/// messages of other times, as the log is not in order: `from` and `to` of the job say which are meant.
/// A payload with a line break in it is written without.
pub(super) fn fetch(kafka: &Kafka, data: &Value, path: &Path) -> Result<u64, ranges::Error> {
    let ranges: Vec<Range> = data["offsets"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(range)
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

fn range(offsets: &Value) -> Option<Range> {
    Some(Range {
        partition: offsets["partition"].as_i64()?.try_into().ok()?,
        first: offsets["first_offset"].as_i64()?,
        next: offsets["next_offset"].as_i64()?,
    })
}
