//! The Kafka client: its settings, its rebalances, its offsets.
//!
//! Offsets live in Postgres, beside the results they belong to. So an assignment starts paused: a
//! partition is read only after it was taken over there and sought to the stored offset.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, RebalanceProtocol};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::{BorrowedMessage, Headers, Message as _};
use rdkafka::statistics::Statistics;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::RDKafkaRespErr;

use crate::settings::{Kafka, StartAt};
use crate::telemetry::metrics;

/// One partition of one topic.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicPartition {
    /// Partition. It comes first, so that a search compares few texts.
    pub partition: i32,
    /// Topic.
    pub topic: Arc<str>,
}

/// What the group has decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Assignment {
    /// These are ours from now on; they are paused.
    Assigned(Vec<(String, i32)>),
    /// These are not ours any more.
    Revoked(Vec<(String, i32)>),
}

/// Notes what the group decides. The callbacks run inside of `poll`, on the same thread; acting on
/// a decision waits until `poll` has returned.
#[derive(Debug, Default)]
pub struct Context {
    decisions: Mutex<VecDeque<Assignment>>,
}

impl Context {
    /// The next decision that was not acted on yet.
    pub fn next_decision(&self) -> Option<Assignment> {
        self.decisions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop_front()
    }

    fn note(&self, decision: Assignment) {
        self.decisions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push_back(decision);
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        match level {
            RDKafkaLogLevel::Emerg
            | RDKafkaLogLevel::Alert
            | RDKafkaLogLevel::Critical
            | RDKafkaLogLevel::Error => tracing::error!(kafka.facility = facility, "{message}"),
            RDKafkaLogLevel::Warning => tracing::warn!(kafka.facility = facility, "{message}"),
            _ => tracing::debug!(kafka.facility = facility, "{message}"),
        }
    }

    fn stats(&self, statistics: Statistics) {
        for (name, topic) in &statistics.topics {
            for (partition, state) in &topic.partitions {
                // Offsets below 0 say that something is not known yet.
                if *partition >= 0 && state.app_offset >= 0 && state.hi_offset >= 0 {
                    let lag = (state.hi_offset - state.app_offset).max(0);
                    metrics::consumer_lag_records(name, &partition.to_string(), lag as f64);
                }
            }
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::warn!(%error, reason, "Kafka client error");
    }
}

impl ConsumerContext for Context {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        event: RDKafkaRespErr,
        partitions: &mut TopicPartitionList,
    ) {
        let cooperative = matches!(
            consumer.rebalance_protocol(),
            RebalanceProtocol::Cooperative
        );
        let names: Vec<(String, i32)> = partitions
            .elements()
            .iter()
            .map(|element| (element.topic().to_owned(), element.partition()))
            .collect();
        let done = if event == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            self.note(Assignment::Assigned(names));
            assign_paused(consumer, partitions, cooperative)
        } else {
            self.note(Assignment::Revoked(names));
            if cooperative {
                consumer.incremental_unassign(partitions)
            } else {
                consumer.unassign()
            }
        };
        if let Err(error) = done {
            tracing::error!(%error, "cannot follow the group's assignment");
        }
    }
}

/// The offset to start at comes from Postgres later, by a seek; until then a pause keeps anything
/// else from being fetched.
///
/// The pause comes first, and the position is a number rather than the log's end: the client looks
/// up an end in the background, and an answer that comes after the seek moves the partition there,
/// past everything that was not read yet.
fn assign_paused(
    consumer: &BaseConsumer<Context>,
    partitions: &mut TopicPartitionList,
    cooperative: bool,
) -> KafkaResult<()> {
    partitions.set_all_offsets(Offset::Offset(0))?;
    consumer.pause(partitions)?;
    if cooperative {
        consumer.incremental_assign(partitions)?;
    } else {
        consumer.assign(partitions)?;
    }
    consumer.pause(partitions)
}

/// A consumer of these topics, as driftd needs it.
///
/// # Errors
/// A property is unknown to librdkafka or has a wrong value.
pub fn subscribe(kafka: &Kafka, topics: &[&str]) -> KafkaResult<BaseConsumer<Context>> {
    let mut config = ClientConfig::new();
    config
        .set("client.id", "driftd")
        // A fast consumer that empties its queue would otherwise wait a second for more.
        .set("fetch.queue.backoff.ms", "10")
        // A broker answers one request of a connection after the other: other questions wait for
        // so long behind a fetch that finds nothing.
        .set("fetch.wait.max.ms", "100")
        .set("queued.max.messages.kbytes", "65536")
        .set("statistics.interval.ms", "5000");
    if !kafka.brokers_assign() {
        config.set("partition.assignment.strategy", "cooperative-sticky");
    }
    for (name, value) in kafka.properties() {
        config.set(name, value);
    }
    config
        .set("bootstrap.servers", &kafka.brokers)
        .set("group.id", &kafka.group)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "error")
        .set("isolation.level", "read_committed")
        .set("check.crcs", "true");
    let consumer: BaseConsumer<Context> = config.create_with_context(Context::default())?;
    consumer.subscribe(topics)?;
    Ok(consumer)
}

/// How many partitions a topic has; `None` where there is no such topic.
///
/// # Errors
/// The brokers cannot be reached in time.
pub fn partitions_of(
    consumer: &BaseConsumer<Context>,
    topic: &str,
    timeout: Duration,
) -> KafkaResult<Option<i32>> {
    let metadata = consumer.fetch_metadata(Some(topic), timeout)?;
    let found = metadata.topics().iter().find(|found| found.name() == topic);
    let count = found
        .filter(|found| found.error().is_none())
        .map(|found| found.partitions().len());
    Ok(count
        .filter(|count| *count > 0)
        .and_then(|count| i32::try_from(count).ok()))
}

/// Where reading a partition goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// At this offset.
    At(i64),
    /// Messages from `stored` up to `available` are gone.
    Gap {
        /// The offset that should be read next.
        stored: i64,
        /// The first that is there.
        available: i64,
    },
    /// The log ends before the stored offset: it was cut, or the topic was created anew.
    Truncated {
        /// The offset that should be read next.
        stored: i64,
        /// Where the log ends.
        end: i64,
    },
}

/// Finds where to go on, and whether what should be read next is still there.
///
/// # Errors
/// The brokers cannot be reached in time.
pub fn start_of(
    consumer: &BaseConsumer<Context>,
    partition: &TopicPartition,
    stored: Option<i64>,
    start_at: StartAt,
    timeout: Duration,
) -> KafkaResult<Start> {
    let (low, high) = consumer.fetch_watermarks(&partition.topic, partition.partition, timeout)?;
    Ok(match stored {
        Some(stored) if stored < low => Start::Gap {
            stored,
            available: low,
        },
        Some(stored) if stored > high => Start::Truncated { stored, end: high },
        Some(stored) => Start::At(stored),
        None => Start::At(match start_at {
            StartAt::Earliest => low,
            StartAt::Latest => high,
            StartAt::Timestamp(time) => {
                let mut wanted = TopicPartitionList::new();
                let offset = Offset::Offset(time.timestamp_millis());
                wanted.add_partition_offset(&partition.topic, partition.partition, offset)?;
                let found = consumer.offsets_for_times(wanted, timeout)?;
                match found.elements().first().map(|element| element.offset()) {
                    Some(Offset::Offset(offset)) => offset,
                    _ => high, // nothing as young as that: begin with what comes next
                }
            }
        }),
    })
}

/// Seeks a paused partition. The client starts a new assignment in the
/// background and refuses to seek until then, so a refusal is asked again for a while.
///
/// # Errors
/// It is refused all the time.
pub fn seek(
    consumer: &BaseConsumer<Context>,
    partition: &TopicPartition,
    offset: i64,
) -> KafkaResult<()> {
    let TopicPartition { topic, partition } = partition;
    let mut attempts = 0;
    loop {
        match consumer.seek(
            topic,
            *partition,
            Offset::Offset(offset),
            Duration::from_secs(10),
        ) {
            Ok(()) => return Ok(()),
            Err(KafkaError::Seek(_)) if attempts < 200 => {
                attempts += 1;
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(error) => return Err(error),
        }
    }
}

/// Tells the group how far a partition was read: for tools that show lag, never read back.
pub fn commit_for_lag_tools(
    consumer: &BaseConsumer<Context>,
    partition: &TopicPartition,
    next: i64,
) {
    let mut list = TopicPartitionList::new();
    let added =
        list.add_partition_offset(&partition.topic, partition.partition, Offset::Offset(next));
    let done = added.and_then(|()| consumer.commit(&list, rdkafka::consumer::CommitMode::Async));
    if let Err(error) = done {
        tracing::debug!(%error, "cannot commit an offset for lag tools");
    }
}

/// The values of the headers that a plan reads; the last one wins where a name comes twice.
pub fn header_values(
    message: &BorrowedMessage<'_>,
    names: &[(String, usize)],
) -> Vec<Option<String>> {
    let Some(headers) = message.headers() else {
        return vec![None; names.len()];
    };
    let value = |name: &str| {
        let found = headers.iter().filter(|header| header.key == name).last()?;
        Some(String::from_utf8_lossy(found.value?).into_owned())
    };
    names.iter().map(|(name, _)| value(name)).collect()
}
