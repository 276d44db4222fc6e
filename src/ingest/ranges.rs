//! Exact parts of a log, read once, outside the group: what a model is trained on.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::{Offset, TopicPartitionList};
use serde::Deserialize;

use super::consumer::{self, Context, TopicPartition};
use crate::settings::Kafka;

/// How long to wait for a message that has to come.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long one look for a message may take.
const POLL: Duration = Duration::from_millis(500);

/// A part of a partition's log: from an offset to before another. As JSON it is what jobs and sources of
/// baselines have in their `offsets`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Range {
    /// Partition.
    pub partition: i32,
    /// The first offset.
    #[serde(rename = "first_offset")]
    pub first: i64,
    /// The offset behind the last one.
    #[serde(rename = "next_offset")]
    pub next: i64,
}

/// Why a part of a log is not read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The client.
    #[error("cannot read topic {topic}")]
    Kafka {
        /// The topic.
        topic: String,
        /// Why.
        source: KafkaError,
    },
    /// The log does not hold it any more.
    #[error(
        "partition {partition} of topic {topic} no longer holds offset {first}, which was asked for: \
         the first that is still there is {low}"
    )]
    Gone {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// The first offset that is wanted.
        first: i64,
        /// The first that is there.
        low: i64,
    },
    /// The log does not hold it yet.
    #[error(
        "partition {partition} of topic {topic} ends before offset {high}; those before {next} were \
         asked for"
    )]
    Beyond {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// Behind what is wanted.
        next: i64,
        /// Behind what there is.
        high: i64,
    },
    /// Nothing came.
    #[error("no message of topic {topic} came within {} s, {missing} partitions are not read to their end", PATIENCE.as_secs())]
    Silent {
        /// The topic.
        topic: String,
        /// Partitions that are not read to the end.
        missing: usize,
    },
    /// What takes the messages refuses.
    #[error(transparent)]
    Sink(#[from] std::io::Error),
}

/// Reads parts of a log, of each partition one, and hands on every committed message in them. Blocks;
/// messages of one partition come in their order.
///
/// # Errors
/// When a part is not there, the brokers cannot be reached, or `each` refuses.
pub fn read(
    kafka: &Kafka,
    topic: &str,
    ranges: &[Range],
    mut each: impl FnMut(&BorrowedMessage<'_>) -> std::io::Result<()>,
) -> Result<(), Error> {
    let failed = |source| Error::Kafka {
        topic: topic.to_owned(),
        source,
    };
    let client = consumer::of_ranges(kafka).map_err(failed)?;
    let mut wanted: BTreeMap<i32, i64> = BTreeMap::new();
    let mut list = TopicPartitionList::new();
    for range in ranges.iter().filter(|range| range.first < range.next) {
        check(&client, topic, range)?;
        let start = Offset::Offset(range.first);
        list.add_partition_offset(topic, range.partition, start)
            .map_err(failed)?;
        wanted.insert(range.partition, range.next);
    }
    client.assign(&list).map_err(failed)?;
    let mut heard = Instant::now();
    while !wanted.is_empty() {
        match client.poll(POLL) {
            Some(Ok(message)) => {
                heard = Instant::now();
                let (partition, offset) = (message.partition(), message.offset());
                let next = wanted.get(&partition).copied().unwrap_or_default();
                if offset < next {
                    each(&message)?;
                }
                if offset + 1 >= next {
                    wanted.remove(&partition);
                }
                continue;
            }
            Some(Err(error)) => {
                tracing::debug!(%topic, %error, "reading a part of a log");
                // Retention may have overtaken the reader.
                if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AutoOffsetReset) {
                    let pending = |range: &&Range| wanted.contains_key(&range.partition);
                    for range in ranges.iter().filter(pending) {
                        check(&client, topic, range)?;
                    }
                }
            }
            None if heard.elapsed() > PATIENCE => {
                return Err(Error::Silent {
                    topic: topic.to_owned(),
                    missing: wanted.len(),
                });
            }
            None => {}
        }
        // A range may end with what no reader is given: markers and aborted messages. The client's own
        // position counts them.
        let keys = wanted.keys().map(|partition| TopicPartition {
            topic: topic.into(),
            partition: *partition,
        });
        let positions = consumer::positions(&client, &keys.collect::<Vec<_>>());
        let reached = |partition: i32| {
            let mut positions = positions.iter();
            let found = positions.find(|(key, _)| key.partition == partition);
            found.map(|(_, (position, _))| *position)
        };
        wanted.retain(|partition, next| reached(*partition).is_none_or(|at| at < *next));
    }
    Ok(())
}

fn check(client: &BaseConsumer<Context>, topic: &str, range: &Range) -> Result<(), Error> {
    let key = TopicPartition {
        topic: topic.into(),
        partition: range.partition,
    };
    let log = consumer::log_of(client, &key, None, PATIENCE).map_err(|source| Error::Kafka {
        topic: topic.to_owned(),
        source,
    })?;
    let (topic, partition) = (topic.to_owned(), range.partition);
    if range.first < log.low {
        return Err(Error::Gone {
            topic,
            partition,
            first: range.first,
            low: log.low,
        });
    }
    if log.high < range.next {
        return Err(Error::Beyond {
            topic,
            partition,
            next: range.next,
            high: log.high,
        });
    }
    Ok(())
}
